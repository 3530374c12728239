"""Results in Azure's emulator (Azurite, of npm): the same code with the other protocol."""

import base64
import hashlib
import hmac
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from quality_model.core import storage
from quality_model.core.stores import store_path
from quality_model.curate.finished import open_finished
from quality_model.errors import StorageError
from quality_model.score.summary import ScoreSummary
from tests.servers import free_port, started, wait_for

from .conftest import Interrupted

AZURITE = os.environ.get("AZURITE") or shutil.which("azurite-blob")
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Those that Microsoft documents for every installation of its emulator."""

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(AZURITE is None, reason="azurite-blob is not installed: npm install azurite"),
]


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place of an empty container."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    words = [str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    words += ["--location", str(tmp_path / "blobs"), "--skipApiVersionCheck", "--disableTelemetry"]
    log = tmp_path / "azurite.log"
    with started(*words, cwd=tmp_path, env=os.environ, log=log, end=signal.SIGKILL) as process:
        wait_for("Azurite", lambda: _answers(port), process=process, log=log, within_s=60)
        headers = {
            "x-ms-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "x-ms-version": "2021-08-06",
        }
        said = "".join(f"{name}:{value}\n" for name, value in headers.items())
        signed = "PUT" + "\n" * 12 + said + f"/{ACCOUNT}/{ACCOUNT}/box\nrestype:container"
        digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
        httpx.put(f"{endpoint}/box?restype=container", headers=headers).raise_for_status()
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
        yield store_path("az://box")


def _answers(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
    except httpx.HTTPError:
        return False
    return True


def test_a_result_in_azure_has_the_bytes_of_a_local_one(
    container: Path, run: Callable[..., ScoreSummary], folder: Path, undisturbed: dict[str, bytes]
) -> None:
    output = container / "a" / "scores"
    with pytest.raises(KeyboardInterrupt):
        run(folder, output, scorer=Interrupted(1))
    run(folder, output)
    for name, data in undisturbed.items():
        if name != "job.json":  # which says where the inputs are
            assert (output / name).read_bytes() == data, name
    assert open_finished(output).rows(["key"]).num_rows == 20
    large = os.urandom(20_000_000)
    storage.write_bytes(container / "large", large)
    assert (container / "large").read_bytes() == large
    with pytest.raises(StorageError, match="no bucket"):
        storage.write_bytes(store_path("az://absent/x"), b"1")
