"""Flows that are ended, in the middle of a stage too: real processes, real signals, DVC's real locks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.dvc_process import repro
from tests.flows.conftest import PROJECT, environment
from tests.servers import started, wait_for

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


def env_of(project: Path) -> dict[str, str]:
    return environment(project) | {"PYTHONPATH": str(PROJECT)}


def reproduce(project: Path, stage: str) -> list[str]:
    """Reproduce a stage; the lines of its log, and the status it failed with."""
    lines: list[str] = []
    try:
        repro(project, stage, environment=env_of(project), log=lines.append, grace_s=20)
    except subprocess.CalledProcessError as error:
        lines.append(f"failed with {error.returncode}")
    return lines


def interrupt(project: Path, number: signal.Signals, *, grace_s: float = 20) -> list[int]:
    """Reproduce in a process and end it by a signal in mid-stage; the ids of the stage's processes."""
    command = (sys.executable, "-c", FLOW, str(grace_s))
    with started(*command, cwd=project, env=env_of(project), log=project / "flow.log") as flow:
        wait_for("the stage begins", (project / "ids").exists)
        flow.send_signal(number)
        assert flow.wait(timeout=60) != 0
    return [int(word) for word in (project / "ids").read_text().split()]


def is_running(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def completes(project: Path) -> bool:
    """Whether a reproduction of a stage that is quick succeeds now."""
    (project / "quick").touch()
    return "failed" not in " ".join(reproduce(project, "slow")) and (project / "out").read_text() == "made"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_next_reproduction_succeeds_and_no_process_of_the_interrupted_one_is_left(
    project: Path, number: signal.Signals
) -> None:
    ids = interrupt(project, number)
    assert completes(project)
    assert not any(is_running(process_id) for process_id in ids)


def test_a_stage_that_ignores_the_interruption_is_killed_and_its_locks_are_dropped(project: Path) -> None:
    (project / "stubborn").touch()
    ids = interrupt(project, signal.SIGINT, grace_s=0.5)
    assert not any(is_running(process_id) for process_id in ids)
    assert "out" in (project / ".dvc" / "tmp" / "rwlock").read_text()
    assert completes(project)


def hold_lock(project: Path, process_id: int, *, age_s: float = 0) -> Path:
    """Write what DVC writes while a process makes ``out``."""
    path = project / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"write": {str(project / "out"): {"pid": process_id, "cmd": "dvc repro"}}}))
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def test_a_lock_of_a_process_that_ended_or_a_damaged_lock_file_blocks_nothing(project: Path) -> None:
    dead = subprocess.Popen(["true"])
    wait_for("its end", lambda: not is_running(dead.pid))  # a zombie: nobody waited for it
    hold_lock(project, dead.pid)
    assert completes(project)
    dead.wait()
    hold_lock(project, os.getpid(), age_s=10**6)  # another process has the id now
    assert completes(project)
    hold_lock(project, os.getpid()).write_text('{"write": {')
    assert completes(project)


def test_a_lock_of_a_running_process_is_respected_and_the_log_names_its_holder(project: Path) -> None:
    hold_lock(project, os.getpid())
    log = "\n".join(reproduce(project, "slow"))
    assert "failed" in log and "is busy" in log and f"PID {os.getpid()}" in log


def test_a_failed_reproduction_ends_with_the_status_of_its_stage_or_else_dvcs_and_its_message(
    project: Path,
) -> None:
    *log, status = reproduce(project, "failing")
    assert status == "failed with 3"
    assert any("failed to reproduce 'failing'" in line and "exited with 3" in line for line in log)
    assert reproduce(project, "unknown")[-1] == "failed with 255"


WAITING = """
import time
from pathlib import Path
from prefect import flow
from tasks.ending import exit_on_sigterm

@flow
def waiting():
    Path("started").write_text("yes")
    time.sleep(300)

exit_on_sigterm()
waiting()
"""


def test_a_flow_that_is_terminated_ends_prefects_temporary_server_too(tmp_path: Path) -> None:
    (tmp_path / "state" / "prefect").mkdir(parents=True)
    command, log = (sys.executable, "-c", WAITING), tmp_path / "log"
    with started(*command, cwd=tmp_path, env=env_of(tmp_path), log=log) as flow:
        wait_for("the flow begins", (tmp_path / "started").exists, process=flow, log=log)
        children = psutil.Process(flow.pid).children(recursive=True)
        assert children, "there is no temporary server"
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(timeout=120) == 128 + signal.SIGTERM
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
