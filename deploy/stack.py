"""The servers of a project on this machine: ``make stack`` and ``make stack-down``.

``python -m deploy.stack up [NAME=PORT ...]`` starts what does not run: PostgreSQL, an S3 server, MLflow,
Prefect and a worker. ``python -m deploy.stack down`` ends them. All state is in one folder that others cannot
enter, ``state/stack`` or STACK_FOLDER.
"""

import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from deploy.daemons import PRIVATE
from deploy.services import GROUPS, PORT_NAMES, SERVICES, Service
from deploy.settings import SETTINGS_NAME, USER, ServerError, Stack, is_free
from quality_model.core import storage, system
from quality_model.errors import QualityModelError, UsageError, missing_extra

_STARTS_WITHIN_S: Final = 180.0
_ENDS_WITHIN_S: Final = 45.0
_POLL_S: Final = 0.2


def up(folder: Path, project: Path, ports: Mapping[str, int]) -> None:
    """Start what does not run, in the order of need, and wait until each serves.

    Args:
        folder: Of all state.
        project: Whose prefect.yaml is deployed, and whose DVC remote is set.
        ports: By name; others are kept, or chosen the first time.

    Raises:
        UsageError: A program is not installed, another program has a port, or a port is to change while
            servers run.
        ServerError: A server did not start; the last lines of its log are in the message.
    """
    kept = Stack.open(folder, project, PORT_NAMES, {})
    changed = [name for name, port in ports.items() if kept.ports.get(name, port) != port]
    if changed and any(kind(kept).daemon.is_running for kind in SERVICES):
        raise UsageError(
            f"Servers run; {changed[0]} has port {kept.ports[changed[0]]}.", "First: make stack-down"
        )
    stack = Stack.open(folder, project, PORT_NAMES, ports)
    for group in GROUPS:
        services = [kind(stack) for kind in group]
        started = [service for service in services if _start(service)]
        for service in services:
            _wait_for(service)
            if service in started:
                service.settle()
            click.echo(f"{service.title:12}{service.address:30}{'started' if service in started else 'runs'}")
    lines = [f"export {name}={shlex.quote(value)}" for name, value in stack.client.items()]
    storage.write_text(stack.folder / "env.sh", "\n".join(lines) + "\n")


def down(folder: Path) -> None:
    """End what runs, the users of a server before it."""
    if not (folder / SETTINGS_NAME).exists():
        return
    stack = Stack.open(folder, Path(), PORT_NAMES, {})
    for service in reversed([kind(stack) for kind in SERVICES]):
        was_running = service.daemon.is_running
        service.daemon.end(service.ends_by, within_s=_ENDS_WITHIN_S)
        if was_running:
            click.echo(f"{service.title:12}ended")


def _start(service: Service) -> bool:
    """Start a service, unless it runs; returns whether it was started."""
    if service.daemon.is_running:
        return False
    service.daemon.end()  # what it left when it was killed
    for name in service.ports:
        port = service.stack.ports[name]
        if not is_free(port):
            raise UsageError(
                f"Another program has port {port}, of {name}.",
                f"End it, or choose another port: make stack PORTS={name}=N",
            )
    service.prepare()
    environment = service.stack.clean_environment() | service.environment()
    service.daemon.start(
        service.command(), cwd=service.cwd, env=environment, umask=service.umask, folder=service.folder
    )
    return True


def _wait_for(service: Service) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while True:
        try:
            return service.require_answer()
        except ModuleNotFoundError:
            raise
        except Exception as error:  # each client has errors of its own for "not yet"
            if not service.daemon.is_running:
                raise ServerError(f"{service.title} ended.", service.daemon.last_words()) from error
            if time.monotonic() > deadline:
                problem = f"{service.title} does not answer: {type(error).__name__}: {error}"
                raise ServerError(problem, service.daemon.last_words()) from error
        time.sleep(_POLL_S)


def main() -> int:
    """``up [NAME=PORT ...]`` or ``down``."""
    system.prepare()
    command, *words = sys.argv[1:]
    os.umask(PRIVATE)
    folder = Path(os.environ.get("STACK_FOLDER") or "state/stack")
    try:
        with storage.locked(folder.with_name(f".{folder.name}.lock"), timeout_s=_STARTS_WITHIN_S):
            if command == "down":
                down(folder)
                return 0
            up(folder, Path(), dict(map(_port, words)))
        click.echo(f"User {USER}; the password is in {folder}/env.sh.")
        click.echo(f"Point this shell at them:  . {folder}/env.sh")
    except ModuleNotFoundError as error:
        system.say(f"Error: {missing_extra(error) or error}")
        return 2
    except QualityModelError as error:
        system.say(f"Error: {error}")
        return error.exit_code
    return 0


def _port(word: str) -> tuple[str, int]:
    name, _, number = word.partition("=")
    if not (number.isdecimal() and 0 < int(number) < 2**16):
        raise UsageError(f"{word!r} is not NAME=PORT.", "For example: make stack PORTS=mlflow=5000")
    return name, int(number)


if __name__ == "__main__":
    sys.exit(main())
