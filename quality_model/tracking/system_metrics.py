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
        self._interval_s = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or _INTERVAL_S)
        self._thread = threading.Thread(target=self._watch, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end the thread."""
        self._ended.set()
        self._thread.join(_PATIENCE_S)

    def _watch(self) -> None:
        monitors = _monitors()
        while True:
            ended = self._ended.wait(self._interval_s)
            sample: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                sample |= {
                    f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()
                }
                monitor.clear_metrics()
            try:
                self._report(sample, max(0, int(time.time() - self._start_ms / 1000)))
            except Exception as error:  # noqa: BLE001 - a missing sample must not end a training
                log.warning("System metrics end here: %s", error)
                return
            if ended:
                return


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
