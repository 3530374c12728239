"""Models and datasets in an object store are fetched once, verified, and used from the cache."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quality_model import Scorer
from quality_model.cli import run as run_command
from quality_model.core import storage
from quality_model.core.store_cache import fetched
from quality_model.core.stores import store_path
from quality_model.errors import CorruptError, IncompleteError, UsageError
from quality_model.pretrained import pretrained_folder
from tests.s3_server import FaultProxy

pytestmark = pytest.mark.servers


@pytest.fixture
def place(
    proxy: FaultProxy, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """A folder of its own in the bucket; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return store_path(f"s3://bucket/{hashlib.md5(request.node.nodeid.encode()).hexdigest()}")


def upload(folder: Path, place: Path) -> Path:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.write_bytes(place / path.relative_to(folder).as_posix(), path.read_bytes())
    return place


def test_a_folder_is_fetched_once_until_it_is_replaced(proxy: FaultProxy, place: Path) -> None:
    storage.write_bytes(place / "data" / "a.npy", b"first")
    with pytest.raises(UsageError, match="has no _complete"):
        fetched(place)
    storage.seal(place, ["data/a.npy"], rows=1)
    copy = fetched(place)
    assert (copy / "data" / "a.npy").read_bytes() == b"first"
    assert copy.name == place.name and storage.require_sealed(copy, verify=True)
    seen = len(proxy.requests)
    assert fetched(place) == copy
    assert not [one for one in proxy.requests[seen:] if one.endswith("a.npy") and "GET" in one]
    storage.write_bytes(place / "data" / "a.npy", b"other")
    storage.seal(place, ["data/a.npy"], rows=1)
    assert (fetched(place) / "data" / "a.npy").read_bytes() == b"other"


def test_what_is_not_what_its_marker_describes_is_not_used(place: Path, tmp_path: Path) -> None:
    storage.write_bytes(place / "a.npy", b"first")
    storage.seal(place, ["a.npy"], rows=1)
    storage.write_bytes(place / "a.npy", b"FIRST")
    with pytest.raises(CorruptError):
        fetched(place)
    storage.remove(place / "a.npy")
    with pytest.raises(IncompleteError):
        fetched(place)
    with pytest.raises(UsageError, match="is not there"):
        fetched(place / "b")
    assert [*(tmp_path / "cache").rglob("*.npy")] == []


def test_a_model_in_a_store_scores_as_the_same_one_here(place: Path, tmp_path: Path, limits) -> None:
    local = tmp_path / "models" / "mine"
    bundled = pretrained_folder()
    assert bundled is not None
    shutil.copytree(bundled, local)
    stored = upload(local, place / "mine")
    image = tmp_path / "grey.png"
    Image.fromarray(np.full((300, 300, 3), 90, np.uint8)).save(image)
    one, other = Scorer(local), Scorer(str(stored))
    assert one.predict(image).to_dict() == other.predict(image).to_dict()
    assert other.source == one.source
    weights = next(local.glob("*.safetensors"))
    storage.write_bytes(place / weights.name, weights.read_bytes())
    assert Scorer(str(place / weights.name)).predict(image).to_dict() == one.predict(image).to_dict()


def test_a_dataset_is_read_from_a_store_and_other_folders_of_the_pipeline_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    storage.write_bytes(place / "images.npy", b"not an array")
    storage.seal(place, ["images.npy"], rows=1)
    assert run_command(["export-samples", "--data-dir", str(place), "--output", str(tmp_path / "x")]) != 0
    assert "cache" in capsys.readouterr().err  # it was fetched, and is no dataset
    for words in (["generate", "--output", str(place)], ["train", "--checkpoints", str(place)]):
        assert run_command(words) == 2
        said = capsys.readouterr().err
        assert words[1] in said and "object store" in said
