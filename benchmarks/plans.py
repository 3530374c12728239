"""What a plan of very many inputs costs: `python -m benchmarks.plans COUNT...`.

The inputs are synthetic, and nothing is scored: one process plans a job, another reads all parts of the plan.
"""

import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click
import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core.jobs import JobFolder
from quality_model.params import WITHOUT_PROJECT
from quality_model.score.inputs import named_inputs, survey
from quality_model.score.plan import Settings, begin, open_plan
from quality_model.score.result import ScoringModel

_PER_FILE: Final = 10_000
_MODEL: Final = ScoringModel("none", "0", None, "0" * 64, image_size_px=32)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one step: inputs, time on a core, the most memory (of the whole process), and the bytes it read."""

    num_inputs: int
    core_s: float
    peak_mb: float
    read_bytes: int


def _urls(folder: Path, count: int) -> str:
    with (folder / "list.txt").open("w") as lines:
        lines.writelines(
            f"https://images.example/{number // 1000:06d}/{number:010d}.jpg\n" for number in range(count)
        )
    return f"@{folder / 'list.txt'}"


def _files(folder: Path, count: int) -> str:
    for number in range(count):
        path = folder / "images" / f"{number // 1000:06d}" / f"{number:010d}.jpg"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.touch()
    return str(folder / "images")


def _one_folder(folder: Path, count: int) -> str:
    (folder / "images").mkdir()
    for number in range(count):
        (folder / "images" / f"{number:010d}.jpg").touch()
    return str(folder / "images")


def _rows(folder: Path, count: int) -> str:
    schema = pa.schema({"id": pa.string(), "image": pa.string()})
    with pq.ParquetWriter(folder / "rows.parquet", schema) as writer:
        for first in range(0, count, _PER_FILE):
            names = [f"{number:010d}" for number in range(first, min(count, first + _PER_FILE))]
            writer.write_table(pa.table({"id": names, "image": [f"{name}.jpg" for name in names]}, schema))
    return str(folder / "rows.parquet")


def _tar(folder: Path, count: int) -> str:
    (folder / "shards").mkdir()
    for first in range(0, count, _PER_FILE):
        with tarfile.open(folder / "shards" / f"{first // _PER_FILE:06d}.tar", "w") as tar:
            for number in range(first, min(count, first + _PER_FILE)):
                tar.addfile(tarfile.TarInfo(f"{number:010d}.jpg"))
    return str(folder / "shards")


KINDS: Final[dict[str, Callable[[Path, int], str]]] = {
    "urls": _urls, "files": _files, "one-folder": _one_folder, "rows": _rows, "tar": _tar,
}  # fmt: skip
"""What makes so many inputs in a folder, and gives the argument that names them."""


def measure(kind: str, count: int, folder: Path) -> tuple[Cost, Cost]:
    """Make inputs and plan a job of them in an empty folder; the cost of the plan, and of reading its parts.

    Raises:
        subprocess.CalledProcessError: It failed; its message is on stderr.
    """
    named = KINDS[kind](folder, count)
    plan, read = (_cost(step, named, str(folder / "result")) for step in ("plan", "read"))
    return plan, read


def _cost(*arguments: str) -> Cost:
    command = [sys.executable, "-m", "benchmarks.plans", "--step", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout))


def _plan(named: str, output: Path) -> int:
    inputs, choice = named_inputs([named])
    found = survey(inputs, output, choice)
    limits = WITHOUT_PROJECT.limits
    settings = Settings(
        shard_size=WITHOUT_PROJECT.score.shard_size,
        max_pixels=limits.max_pixels,
        max_bytes=limits.max_bytes,
        formats=limits.formats,
    )
    return begin(JobFolder(output), found, limits, _MODEL, settings, overwrite=False).num_inputs


def _read(output: Path) -> int:
    plan = open_plan(output)
    assert plan is not None
    return sum(len(plan.inputs_of(output, part)) for part in plan.rows_of_parts)


def _step(name: str, named: str, output: Path) -> Cost:
    started = time.process_time()
    num_inputs = _plan(named, output) if name == "plan" else _read(output)
    core_s = time.process_time() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return Cost(num_inputs, core_s, peak_mb, int(counters["rchar"]))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("counts", nargs=-1, type=int)
@click.option("--kinds", default=",".join(KINDS), show_default=True, help="Of inputs, joined by commas.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder for temporary files.")
@click.option("--step", type=(str, str, click.Path(path_type=Path)), hidden=True)
def main(counts: tuple[int, ...], kinds: str, work: Path | None, step: tuple[str, str, Path] | None) -> None:
    """Plan jobs of COUNTS inputs and read the plans: time and memory."""
    if step:
        click.echo(json.dumps(asdict(_step(*step))))
        return
    click.echo("| inputs | | plan: each | all | peak memory | read: each | all | peak memory |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for kind in kinds.split(","):
        for count in counts:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                costs = measure(kind, count, Path(folder))
            shown = [
                f"{1e6 * c.core_s / count:.1f} us | {c.core_s:.1f} s | {c.peak_mb:.0f} MB" for c in costs
            ]
            click.echo(f"| {kind} | {count:,} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
