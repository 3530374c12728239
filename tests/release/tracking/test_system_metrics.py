"""A sampler of the machine's load that fails says so once and ends; the training goes on."""

import logging
import sys
from collections.abc import Callable

import psutil
import pytest

from quality_model.release.tracking.system_metrics import SystemMetrics


def unreadable(*_: object, **__: object) -> None:
    raise psutil.AccessDenied(msg="/proc is not mounted")


def no_interval(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "often")


def no_processor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(psutil, "cpu_percent", unreadable)


def other_mlflow(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "mlflow.system_metrics.metrics.cpu_monitor", None)


@pytest.mark.parametrize("fault", [no_interval, no_processor, other_mlflow])
def test_a_sampler_that_fails_logs_one_line_and_ends(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    fault: Callable[[pytest.MonkeyPatch], None],
) -> None:
    fault(monkeypatch)
    with caplog.at_level(logging.INFO):
        SystemMetrics(lambda sample, step: None, 0).stop()
    (record,) = [record for record in caplog.records if record.name.startswith("quality_model")]
    assert record.getMessage().startswith("System metrics end here: ")
    assert "Traceback" not in capfd.readouterr().err
