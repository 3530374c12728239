"""Shows a training in MLflow while it runs. The training never waits for MLflow, and never fails by it."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from quality_model.errors import QualityModelError, missing_extra
from quality_model.params import RegistryParams
from quality_model.release.mlflow_connection import connect, tracking_uri
from quality_model.release.publish import publish_progress

if TYPE_CHECKING:
    from quality_model.train.training_step import TrainingProgress

log = logging.getLogger(__name__)

_RETRY_S: Final = 5.0
"""Pause after a failure, so that a server that is back shows the training within seconds."""

_END_WAIT_S: Final = 5.0
"""The longest that the end of a training waits for the thread."""

_SAMPLING_S: Final = 5.0
"""Between samples of the machine's load; short enough that a run of a minute shows a curve."""


class LiveMirror:
    """Publishes a training's progress from a thread of its own; use it as a context manager.

    Call it with each progress: it keeps the latest and returns at once. Leaving the context by an error
    marks the run as FAILED, by Ctrl-C or a termination as KILLED. A training that ended well is left
    running, because `publish` completes it.

    Args:
        root: The project folder.
        registry: Names the experiment.

    Raises:
        UsageError: MLFLOW_TRACKING_URI is not an address.
    """

    def __init__(self, root: Path, registry: RegistryParams) -> None:
        tracking_uri(root)
        self._root, self._registry = root, registry
        self._latest: TrainingProgress | None = None
        self._is_pending = False
        self._is_over = False
        self._status: str | None = None
        self._has_warned = False
        self._changed = threading.Condition()
        self._monitor: SystemMonitor | None = None
        self._thread = threading.Thread(target=self._work, name="live-mirror", daemon=True)

    def __call__(self, progress: "TrainingProgress") -> None:
        with self._changed:
            self._latest, self._is_pending = progress, True
            self._changed.notify()

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has no more threads
            log.warning("MLflow shows this training only at its end: %s.", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_over = True
            if kind is not None:
                self._status = "FAILED" if issubclass(kind, Exception) else "KILLED"
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(_END_WAIT_S)

    def _work(self) -> None:
        pause_s = 0.0
        while (progress := self._next(pause_s)) is not None:
            pause_s = 0.0 if self._show(progress) else _RETRY_S
        self._stop_monitor()
        if self._latest is not None and self._status is not None:
            self._show(self._latest, self._status)

    def _next(self, pause_s: float) -> "TrainingProgress | None":
        """The latest progress: when there is another one, or after a pause again; None at the end."""
        with self._changed:
            if pause_s:
                self._changed.wait_for(lambda: self._is_over, pause_s)
            else:
                self._changed.wait_for(lambda: self._is_over or self._is_pending)
            self._is_pending = False
            return None if self._is_over else self._latest

    def _show(self, progress: "TrainingProgress", status: str = "RUNNING") -> bool:
        """Whether MLflow took it; the first failure is a warning."""
        facts, root, registry = progress.facts, self._root, self._registry
        try:
            run_id = publish_progress(facts, progress.history, root=root, registry=registry, status=status)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError):
                error = missing_extra(error) or error
            said = error.problem if isinstance(error, QualityModelError) else repr(error)
            level = logging.DEBUG if self._has_warned else logging.WARNING
            log.log(level, "%s The training continues; MLflow shows it once it answers again.", said)
            log.debug("The cause:", exc_info=error)
            self._has_warned = True
            self._stop_monitor()
            return False
        if status == "RUNNING" and (self._monitor is None or self._monitor.is_over):
            self._monitor = SystemMonitor(run_id, root)
        return True

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
        self._monitor = None


class SystemMonitor:
    """MLflow's monitor of processor, memory, disk, network and GPU; no failure of it leaves this class.

    ``is_over`` says whether it stopped by itself, as it does when the server does not answer.

    Args:
        run_id: A run that is running.
        root: The project folder, for the address of the server.
    """

    def __init__(self, run_id: str, root: Path) -> None:
        self.is_over = False
        self._monitor: Any = None
        with self._no_failure():
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            kind: Any = SystemMetricsMonitor
            monitor = kind(run_id, _SAMPLING_S, resume_logging=True, tracking_uri=connect(root).uri)
            monitor.monitor = partial(self._watch, monitor.monitor)
            monitor.start()
            self._monitor = monitor

    def finish(self) -> None:
        """Stop it, and send what it has sampled; a server that hangs is waited for some seconds only."""
        if self._monitor is not None:
            thread = threading.Thread(target=self._finish, name="system-monitor-end", daemon=True)
            thread.start()
            thread.join(_END_WAIT_S)

    def _finish(self) -> None:
        with self._no_failure():
            self._monitor.finish()

    def _watch(self, monitor: Callable[[], None]) -> None:
        with self._no_failure():
            monitor()
            self.is_over = True

    @contextmanager
    def _no_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            log.warning("No system metrics from here on: %s: %s", type(error).__name__, error)
            log.debug("The cause:", exc_info=error)
