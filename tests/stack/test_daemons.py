"""A process that outlives its starter: recognised by its record, and ended with what it left."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deploy.daemons import Daemon
from tests.server_stack import is_alive

FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def family(tmp_path: Path) -> tuple[Daemon, int, int]:
    """A daemon with a child, and the ids of both."""
    daemon = Daemon(tmp_path, "family")
    daemon.start([sys.executable, "-c", FAMILY], cwd=tmp_path, env=dict(os.environ))
    while not (said := daemon.log.read_text().strip()):
        time.sleep(0.05)
    return daemon, json.loads(daemon.record.read_text())["pid"], int(said)


def test_it_ends_with_its_child_and_its_record(family: tuple[Daemon, int, int], tmp_path: Path) -> None:
    daemon, leader, child = family
    assert Daemon(tmp_path, "family").is_running  # for any later command, too
    daemon.end()
    assert not daemon.is_running and not daemon.record.exists()
    assert not is_alive(leader) and not is_alive(child)
    daemon.end()


def test_what_a_killed_one_left_behind_ends_before_the_next_start(family: tuple[Daemon, int, int]) -> None:
    daemon, leader, child = family
    psutil.Process(leader).kill()
    while is_alive(leader):
        time.sleep(0.05)
    assert not daemon.is_running and is_alive(child)
    daemon.start(["sleep", "600"], cwd=Path("/"), env={"PATH": os.environ["PATH"]})
    assert daemon.is_running and not is_alive(child)
    daemon.end()


def test_another_process_that_was_given_the_id_is_not_taken_for_it(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "old")
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:
        daemon.record.parent.mkdir()
        a_day_ago_s = time.time() - 86_400
        daemon.record.write_text(json.dumps({"pid": other.pid, "started_s": a_day_ago_s}))
        assert not daemon.is_running
        daemon.end()
        assert other.poll() is None
        other.kill()
