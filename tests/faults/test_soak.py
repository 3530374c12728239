"""A long job holds as much memory and as many open files at its end as at its beginning."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

import psutil
import pytest

from .conftest import Job
from .processes import start_command

NUM_INPUTS = int(os.environ.get("SOAK_INPUTS", "50000"))
SHARD_SIZE = 500
LINKS_PER_FOLDER = 1000
SAMPLE_EVERY_S = 0.5
SLACK_BYTES = 30 * 2**20
CHECK_BYTES = 80 * 2**20
"""What the libraries of the figure and of the check of the result take, whatever the number of inputs."""


@pytest.mark.torture
def test_scoring_many_links_in_one_run_keeps_memory_and_descriptors_flat(
    jobs: Callable[[str], Job], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    project = jobs("score").project(tmp_path)
    photos = sorted((project / "photos").iterdir())
    for number in range(NUM_INPUTS):
        link = project / "links" / f"{number // LINKS_PER_FOLDER:03d}" / f"{number:06d}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(photos[number % len(photos)])
    options = ["--output", "scores", "--shard-size", str(SHARD_SIZE), "--workers", "2"]
    memory, descriptors, scoring, checking = [], [], [], []
    process = start_command(project, ["score", "links", *options])
    try:
        while process.exitcode is None:
            parts = len(list((project / "scores" / "parts").glob("*.json")))
            with suppress(psutil.NoSuchProcess):  # the workers end with the last shard
                if 2 <= parts < NUM_INPUTS // SHARD_SIZE:  # after the start, before the check of the result
                    memory.append(family_memory(process.pid))
                    descriptors.append(num_descriptors(process.pid))
                    scoring.append(own_memory(process.pid))
                elif parts >= NUM_INPUTS // SHARD_SIZE:
                    checking.append(own_memory(process.pid))
            process.join(SAMPLE_EVERY_S)
    finally:
        process.kill()
    assert process.exitcode == 0, (project.parent / "output.txt").read_text()
    quarter = len(descriptors) // 4
    first, last = memory[:quarter], memory[-quarter:]
    record_property(
        "said",
        f"{NUM_INPUTS} inputs; memory {median(first) / 2**20:.0f} MiB in the first quarter, "
        f"{median(last) / 2**20:.0f} MiB in the last; descriptors {max(descriptors[:quarter])} and "
        f"{max(descriptors[-quarter:])}; the main process {median(scoring) / 2**20:.0f} MiB while it scores, "
        f"at most {max(checking) / 2**20:.0f} MiB while the result is checked",
    )
    assert median(last) <= median(first) + SLACK_BYTES
    assert max(descriptors[-quarter:]) <= max(descriptors[:quarter])
    assert max(checking) <= median(scoring) + CHECK_BYTES


def family_memory(pid: int) -> int:
    """Bytes that a process and its children hold alone."""
    return sum(process.memory_full_info().uss for process in family(pid))


def own_memory(pid: int) -> int:
    """Bytes that a process holds alone."""
    return int(psutil.Process(pid).memory_full_info().uss)


def num_descriptors(pid: int) -> int:
    return sum(process.num_fds() for process in family(pid))


def family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]
