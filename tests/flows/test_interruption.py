"""A retraining that is ended in the middle of a stage, with real processes and real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tasks.dvc_process import repro
from tests.flows.conftest import PROJECT, environment

# A stage with a process of its own, as workers are. They write their ids, and sleep.
STAGE = """
import os, signal, subprocess, sys, time
from pathlib import Path
if Path("stubborn").exists():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
if not Path("quick").exists():
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path("ids.part").write_text(f"{os.getpid()} {worker.pid}")
    Path("ids.part").rename("ids")
    time.sleep(600)
Path("out").write_text("made")
"""

PIPELINE = """
stages:
  slow:
    cmd: python stage.py
    outs: [out]
  failing:
    cmd: python -c "raise SystemExit(3)"
"""

FLOW = """
import os, sys
from pathlib import Path
from tasks.dvc_process import repro
repro(Path(), "slow", environment=os.environ, log=print, grace_s=float(sys.argv[1]))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "stage.py").write_text(STAGE)
    return tmp_path


@pytest.fixture
def reproduce(project: Path) -> Callable[[str], list[str]]:
    """Reproduce a stage; the lines of its log, also if it fails."""

    def reproduce(stage: str) -> list[str]:
        lines: list[str] = []
        env = environment(project) | {"PYTHONPATH": str(PROJECT)}
        try:
            repro(project, stage, environment=env, log=lines.append, grace_s=20)
        except subprocess.CalledProcessError:
            lines.append("failed")
        return lines

    return reproduce


@pytest.fixture
def interrupt(project: Path) -> Iterator[Callable[..., list[int]]]:
    """Reproduce in a process and end it by a signal in mid-stage; gives the ids of the stage's processes."""
    flows: list[subprocess.Popen[bytes]] = []

    def interrupt(number: signal.Signals, *, grace_s: float = 20) -> list[int]:
        flow = subprocess.Popen(
            [sys.executable, "-c", FLOW, str(grace_s)],
            cwd=project,
            env=environment(project) | {"PYTHONPATH": str(PROJECT)},
            stderr=subprocess.DEVNULL,
        )
        flows.append(flow)
        wait_until((project / "ids").exists)
        flow.send_signal(number)
        assert flow.wait(timeout=60) != 0
        return [int(word) for word in (project / "ids").read_text().split()]

    yield interrupt
    for flow in flows:
        flow.kill()
        flow.wait()


def wait_until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_next_reproduction_succeeds_and_nothing_of_the_interrupted_one_runs_on(
    project: Path,
    interrupt: Callable[..., list[int]],
    reproduce: Callable[[str], list[str]],
    number: signal.Signals,
) -> None:
    ids = interrupt(number)
    (project / "quick").touch()
    assert "failed" not in reproduce("slow")
    assert (project / "out").read_text() == "made"
    assert not any(is_running(process_id) for process_id in ids)


def test_a_stage_that_ignores_the_interruption_is_killed_and_its_locks_are_dropped(
    project: Path, interrupt: Callable[..., list[int]], reproduce: Callable[[str], list[str]]
) -> None:
    (project / "stubborn").touch()
    ids = interrupt(signal.SIGINT, grace_s=0.5)
    assert not any(is_running(process_id) for process_id in ids)
    assert "out" in (project / ".dvc" / "tmp" / "rwlock").read_text()
    (project / "quick").touch()
    assert "failed" not in reproduce("slow")


def hold_lock(project: Path, content: str, *, age_s: float = 0) -> None:
    """Write what DVC writes while a process makes ``out``."""
    path = project / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir()
    path.write_text(content)
    os.utime(path, (time.time() - age_s, time.time() - age_s))


def entry(project: Path, process_id: int) -> str:
    return json.dumps({"write": {str(project / "out"): {"pid": process_id, "cmd": "dvc repro slow"}}})


def test_a_lock_of_a_process_that_nobody_reaped_blocks_nothing(
    project: Path, reproduce: Callable[[str], list[str]]
) -> None:
    (project / "quick").touch()
    dead = subprocess.Popen(["true"])
    wait_until(lambda: not is_running(dead.pid))
    hold_lock(project, entry(project, dead.pid))
    assert "failed" not in reproduce("slow")
    dead.wait()


def test_a_lock_of_a_process_whose_id_another_one_has_now_blocks_nothing(
    project: Path, reproduce: Callable[[str], list[str]]
) -> None:
    (project / "quick").touch()
    hold_lock(project, entry(project, os.getpid()), age_s=10**6)
    assert "failed" not in reproduce("slow")


def test_a_lock_file_cut_short_by_a_crash_blocks_nothing(
    project: Path, reproduce: Callable[[str], list[str]]
) -> None:
    (project / "quick").touch()
    hold_lock(project, '{"write": {')
    assert "failed" not in reproduce("slow")


def test_a_lock_of_a_living_process_is_respected_and_the_log_says_who_holds_it(
    project: Path, reproduce: Callable[[str], list[str]]
) -> None:
    hold_lock(project, entry(project, os.getpid()))
    lines = reproduce("slow")
    assert "failed" in lines
    assert any("is busy" in line for line in lines)
    assert any(f"PID {os.getpid()}" in line for line in lines)


def test_the_log_of_a_failing_stage_holds_the_message_of_dvc(reproduce: Callable[[str], list[str]]) -> None:
    lines = reproduce("failing")
    assert "failed" in lines
    assert any("failed to reproduce 'failing'" in line and "exited with 3" in line for line in lines)


@pytest.mark.parametrize(("stage", "status"), [("failing", 3), ("unknown", 255)])
def test_a_failed_reproduction_ends_with_the_status_of_its_stage_or_else_dvcs(
    project: Path, stage: str, status: int
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        repro(project, stage, environment=environment(project) | {"PYTHONPATH": str(PROJECT)}, log=print)
    assert failure.value.returncode == status
