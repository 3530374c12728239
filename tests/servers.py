"""Servers and flows that a test starts as processes of their own; each ends with the test."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

WITHIN_S = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_command(target: str, **variables: object) -> list[str]:
    """`make TARGET` with this project's Makefile and the environment that the tests run in."""
    venv = Path(sys.prefix)
    makefile = Path(__file__).resolve().parents[1] / "Makefile"
    words = [f"{name}={value}" for name, value in {"VENV": venv, **variables}.items()]
    return ["make", "-f", str(makefile), target, *words, "-o", f"{venv}/.installed"]


@contextmanager
def started(
    *command: str, cwd: Path, env: Mapping[str, str], log: Path, end: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a session of its own; its output goes to ``log``, and ``end`` ends the session."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number in (end, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
            try:
                process.wait(timeout=60)
                break
            except subprocess.TimeoutExpired:
                continue


def wait_for(
    what: str,
    check: Callable[[], Any],
    *,
    process: subprocess.Popen[bytes] | None = None,
    log: Path | None = None,
    within_s: float = WITHIN_S,
) -> Any:
    """The first true answer of ``check``; fails if the process or the time ends before there is one."""
    end = time.monotonic() + within_s
    while not (found := check()):
        said = log.read_text()[-6000:] if log else ""
        assert process is None or process.poll() is None, f"{what}: the process ended\n{said}"
        assert time.monotonic() < end, f"{what}: not within {within_s:.0f} s\n{said}"
        time.sleep(0.3)
    return found


def page(url: str) -> httpx.Response | None:
    """What a server answers at an address; None if it does not answer yet."""
    try:
        return httpx.get(url, timeout=10, follow_redirects=True).raise_for_status()
    except httpx.HTTPError:
        return None
