"""Load of the machine during a run: processor, memory, disk, network and, where there is one, GPU."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

log = logging.getLogger(__name__)

_INTERVAL_S: Final = 5.0
"""Short enough that a run of a minute shows a curve."""

_PATIENCE_S: Final = 5.0


class SystemMetrics:
    """Samples in a thread until `stop`; names are those that MLflow's UI shows under System metrics.

    Args:
        report: Takes a sample and its step, seconds since ``start_ms``.
        start_ms: Start of the run, milliseconds since 1970; a resumed run goes on from there.
    """

    def __init__(self, report: Callable[[Mapping[str, float], int], None], start_ms: int) -> None:
        self._report = report
        self._start_ms = start_ms
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="system-metrics", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has no more threads
            log.warning("No system metrics: %s", error)

    def stop(self) -> None:
        """Take a last sample and end the thread."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE_S)

    def _watch(self) -> None:
        try:
            interval_s = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or _INTERVAL_S)
            monitors = _monitors()
            while True:
                ended = self._ended.wait(interval_s)
                self._report(_sample(monitors), max(0, int(time.time() - self._start_ms / 1000)))
                if ended:
                    return
        except Exception as error:
            log.warning("System metrics end here: %s: %s", type(error).__name__, error)
            log.debug("What led to it:", exc_info=error)


def _sample(monitors: list[Any]) -> dict[str, float]:
    sample: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        sample |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return sample


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    kinds: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor]
    monitors = [kind() for kind in kinds]
    gpu: Any = GPUMonitor
    try:
        monitors.append(gpu())
    except Exception as error:  # noqa: BLE001 - no NVIDIA card, no driver, or no library for it
        log.debug("No GPU metrics: %s", error)
    return monitors
