"""Commands in processes of their own, with a fault at a chosen moment.

The processes are forked from a server that has everything heavy imported already, so that a
command starts at once. What happens in them is what happens to a user: the same entry point,
real signals, real limits of the system.
"""

import atexit
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

STEPS: Final = ("written", "flushed", "renamed", "sealing")
"""What `quality_model.core.storage` announces, in its order."""

_PRELOADED: Final = [
    "pytest",
    "great_expectations",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "quality_model.cli",
    "quality_model.data.download",
    "quality_model.core.predict",
    "quality_model.score.job",
    "quality_model.train.training_step",
    "quality_model.data.generate",
    "tests.faults.packages_known",
    "torch._dynamo",  # the first optimiser imports it, which takes longer than the training
]
SECRETS: Final = {
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-object-store",
    "HF_TOKEN": "hf_canary_of_the_hub",
    "MLFLOW_TRACKING_PASSWORD": "canary-of-the-tracking-server",
}
"""In the environment of every command; none may turn up anywhere."""

_ENDS_WITHIN_S: Final = 240.0

Fault = Callable[[], None]
"""Called in the process before its command begins."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code (less than 0: the signal that killed it) and what it wrote."""

    code: int
    output: str


def signal_at(step: str, number: int, which: int = signal.SIGKILL) -> Fault:
    """Send this process a signal when storage reaches ``step`` for the ``number``-th time, from 1."""
    return partial(_send_at, step, number, which)


def files_at_most(num_bytes: int) -> Fault:
    """Let no file grow beyond so many bytes: what a full disk looks like to whoever writes."""
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def recorded(path: Path) -> Fault:
    """Write the steps that storage reaches to a file, one a line: name of the step, name of the file."""
    return partial(_record, str(path))


def forking() -> Any:
    """The context of the server that forks: there is one for all tests, and who asks first starts it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def start(function: Callable[..., Any], *arguments: Any) -> Any:
    """Begin ``function`` in a forked process; it must be importable."""
    process = forking().Process(target=function, args=arguments)
    process.start()
    atexit.register(process.kill)  # a test that failed may have left it, and Python would wait for it
    return process


def start_command(project: Path, arguments: list[str], fault: Fault | None = None, **environment: str) -> Any:
    """Begin a command in a project folder; what it prints goes to ``output.txt`` beside that."""
    return start(_command, str(project), arguments, str(_output_of(project)), fault, environment)


def run_command(
    project: Path,
    arguments: list[str],
    fault: Fault | None = None,
    *,
    killed_after_s: float | None = None,
    **environment: str,
) -> Ended:
    """Run a command to its end, or kill it after a while."""
    process = start_command(project, arguments, fault, **environment)
    try:
        if killed_after_s is not None:
            process.join(killed_after_s)
            process.kill()
        process.join(_ENDS_WITHIN_S)
        assert process.exitcode is not None, f"it did not end:\n{_output_of(project).read_text()}"
        return Ended(process.exitcode, _output_of(project).read_text())
    finally:
        process.kill()  # whatever ended the test, its limit of time too


def tree(*folders: Path) -> dict[str, bytes]:
    """The bytes of all files below some folders, by path; locks and files still being written left out."""
    return {
        f"{folder.name}/{path.relative_to(folder)}": path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lock" not in path.suffix and path.name != ".lock"
    }


def _output_of(project: Path) -> Path:
    return project.parent / "output.txt"


def _command(
    project: str, arguments: list[str], output: str, fault: Fault | None, environment: dict[str, str]
) -> None:
    from quality_model.cli import main

    os.chdir(project)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.update(SECRETS | environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(descriptor, number)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if fault is not None:
        fault()
    main(arguments)


def _send_at(step: str, number: int, which: int) -> None:
    reached = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal reached
        if event == f"quality_model.core.storage.{step}":
            reached += 1
            if reached == number:
                os.kill(os.getpid(), which)

    sys.addaudithook(hook)


def _record(path: str) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    prefix = "quality_model.core.storage."

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(prefix):
            os.write(target, f"{event.removeprefix(prefix)} {Path(arguments[0]).name}\n".encode())

    sys.addaudithook(hook)
