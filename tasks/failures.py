"""Which failures of a task a retry can heal, and how a failure is logged."""

import logging
import subprocess
from concurrent.futures import BrokenExecutor
from typing import Any, Final

from prefect import State, Task
from prefect.client.schemas.objects import TaskRun

from quality_model.errors import (
    ChampionChangedError,
    CorruptError,
    IncompleteError,
    MemoryExhaustedError,
    ModelNotFoundError,
    NetworkUnavailableError,
    QualityModelError,
    RegistryError,
    StorageError,
)
from quality_model.release.mlflow_connection import RequestRefusedError

_HEALS: Final = (
    *(OSError, MemoryError, BrokenExecutor),
    *(RegistryError, NetworkUnavailableError, StorageError, MemoryExhaustedError),
)
"""A server that is down, a disk that is full, memory that others use."""

_STAYS: Final = (
    *(FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError),
    *(ChampionChangedError, ModelNotFoundError, RequestRefusedError, CorruptError, IncompleteError),
)
"""Of the same classes, but the request or the data has to change first."""


def can_heal(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may succeed: Prefect's ``retry_condition_fn`` of every task.

    It cannot if a user has to correct something (a path, a parameter, a table that broke its contract, the
    name of a model), nor after a bug. Of a stage that failed only the exit status is known.
    """
    error = state.result(raise_on_failure=False)
    if isinstance(error, subprocess.CalledProcessError):
        return error.returncode not in _refusals()
    cause = error.__cause__ if isinstance(error, QualityModelError) else None
    return isinstance(error, _HEALS) and not isinstance(error, _STAYS) and not isinstance(cause, _STAYS)


def _refusals() -> set[int]:
    """Exit statuses of a stage that no retry can heal."""
    kinds, known = [QualityModelError], set[type[QualityModelError]]()
    while kinds:
        known.add(kind := kinds.pop())
        kinds.extend(kind.__subclasses__())
    healing = {kind.exit_code for kind in known if issubclass(kind, _HEALS)}
    return {kind.exit_code for kind in known} - healing - {QualityModelError.exit_code}


class _WithoutTraceback(logging.Filter):
    """Logs an error for users as its message, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, QualityModelError | subprocess.CalledProcessError):
            record.exc_info, record.exc_text = None, None
            record.msg, record.args = "%s", (error,)
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_WithoutTraceback())
