"""A flow that was started by hand leaves nothing running behind it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.flows.conftest import PROJECT, environment

FLOW = """
import time
from pathlib import Path
from prefect import flow
from tasks.ending import leave_in_order_on_sigterm

@flow
def waiting():
    Path("started").write_text("yes")
    time.sleep(300)

leave_in_order_on_sigterm()
waiting()
"""


def test_a_flow_that_is_terminated_takes_prefects_temporary_server_with_it(tmp_path: Path) -> None:
    (tmp_path / "state" / "prefect").mkdir(parents=True)
    (tmp_path / "waiting.py").write_text(FLOW)
    flow = subprocess.Popen(
        [sys.executable, "waiting.py"],
        cwd=tmp_path,
        env=environment(tmp_path) | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 240
        while not (tmp_path / "started").exists():
            assert flow.poll() is None, "the flow ended before it began"
            assert time.monotonic() < deadline, "the flow did not begin"
            time.sleep(0.2)
        family = psutil.Process(flow.pid).children(recursive=True)
        assert family, "there is no temporary server to look after"
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(timeout=120) == 128 + signal.SIGTERM
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive
    finally:
        for process in family:
            if process.is_running():
                process.kill()
        if flow.poll() is None:
            flow.kill()
            flow.wait()


MISTAKEN = """
from prefect import flow
from quality_model.errors import UsageError
from tasks.ending import run_by_hand

@flow
def mistaken():
    raise UsageError("There is no /nowhere.", "Name a folder.")

run_by_hand(mistaken)
"""


def test_a_users_mistake_in_a_flow_ends_with_its_code_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "state" / "prefect").mkdir(parents=True)
    (tmp_path / "mistaken.py").write_text(MISTAKEN)
    ended = subprocess.run(
        [sys.executable, "mistaken.py"],
        cwd=tmp_path,
        env=environment(tmp_path) | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "Error: There is no /nowhere.\n  Name a folder.\n" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
