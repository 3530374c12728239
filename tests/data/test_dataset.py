"""A training dataset on disk: a complete one opens, a damaged one is refused, samples are exported."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quality_model.core import storage
from quality_model.core.storage import MARKER_NAME
from quality_model.data.dataset import TrainingSet, export_samples
from quality_model.errors import CorruptError, UsageError


@pytest.fixture
def copy(made, tmp_path: Path) -> Path:
    """A training dataset that a test may damage."""
    return Path(shutil.copytree(made[0], tmp_path / "training"))


def test_pixels_and_labels_are_read_only_memory_maps_of_plain_numpy_files(copy: Path) -> None:
    dataset = TrainingSet.open(copy)
    assert isinstance(dataset.images, np.memmap)
    assert isinstance(dataset.labels, np.memmap)
    assert (dataset.images.dtype, dataset.images.shape) == (np.uint8, (144, 32, 32, 3))
    assert (dataset.labels.dtype, dataset.labels.shape) == (np.float32, (144, 4))
    assert dataset.image_size_px == 32
    with pytest.raises(ValueError, match="read-only"):
        dataset.images[0] = 0
    assert np.array_equal(np.load(copy / "images.npy"), dataset.images)
    assert np.load(copy / "labels.npy").max() <= 1.0


def test_one_hash_covers_labels_and_manifest_and_the_manifest_covers_the_pixels(copy: Path) -> None:
    storage.require_sealed(copy, verify=True)
    dataset = TrainingSet.open(copy)
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in dataset.images]
    assert dataset.manifest["pixels_sha256"].tolist() == digests
    for name in ("labels.npy", "manifest.parquet"):
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(CorruptError, match=name):
            storage.require_sealed(copy, verify=True)
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)


def reseal(folder: Path) -> None:
    """Write a completion marker for the present files, with the earlier facts."""
    marker = storage.read_json(folder / MARKER_NAME)
    facts = {key: value for key, value in marker.items() if key not in ("files", "sha256")}
    storage.seal(folder, ["labels.npy", "manifest.parquet"], **facts)


def an_array(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("images.npy", an_array(np.zeros((143, 32, 32, 3), dtype=np.uint8))),
        ("images.npy", an_array(np.zeros((144, 32, 32, 3), dtype=np.float32))),
        ("images.npy", an_array(np.zeros((144, 3, 32, 32), dtype=np.uint8))),
        ("labels.npy", an_array(np.array([{"pickled": 1}], dtype=object))),
        ("labels.npy", lambda path: path.write_bytes(b"\x93NUMPY\x01\x00")),
        ("labels.npy", lambda path: path.write_bytes(b"")),
    ],
    ids=["a sample too few", "floats", "channels first", "pickled objects", "cut header", "empty"],
)
def test_a_file_that_is_not_the_array_of_the_completion_marker_is_refused(
    copy: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(copy / name)
    reseal(copy)
    with pytest.raises(CorruptError, match=name):
        TrainingSet.open(copy)


def test_a_manifest_that_cannot_be_read_or_has_other_rows_is_refused(copy: Path) -> None:
    TrainingSet.open(copy).manifest.head(100).to_parquet(copy / "manifest.parquet")
    reseal(copy)
    with pytest.raises(CorruptError, match="100 rows for 144 samples"):
        TrainingSet.open(copy).indices("train")
    (copy / "manifest.parquet").write_bytes(b"PAR1 and nothing more")
    reseal(copy)
    with pytest.raises(CorruptError, match=r"manifest\.parquet"):
        TrainingSet.open(copy).indices("train")


def test_exported_samples_are_png_files_named_after_their_degradations(copy: Path, tmp_path: Path) -> None:
    dataset = TrainingSet.open(copy)
    for count in (9, 5):
        assert export_samples(copy, split="train", count=count, output=tmp_path / "out") == count
        names = {path.name for path in (tmp_path / "out").glob("*.png")}
        assert len(names) == count  # those of an earlier export are gone
    by_id = {
        row["sample_id"].replace("/", "-").replace("#", "-"): i for i, row in dataset.manifest.iterrows()
    }
    for name in names:
        sample_id, *degradations = name.removesuffix(".png").split("_", 1)
        assert np.array_equal(Image.open(tmp_path / "out" / name), dataset.images[by_id[sample_id]])
        assert (degradations == ["clean"]) == (not dataset.labels[by_id[sample_id]].any())


@pytest.mark.parametrize("kind", ["samples", "comparison"])
def test_an_export_removes_only_the_files_of_an_earlier_export(copy: Path, tmp_path: Path, kind: str) -> None:
    """Neither what a foreign marker names outside the folder nor another output of ours."""
    kept = tmp_path / "kept.png"
    output = tmp_path / "samples"
    output.mkdir()
    for path in (kept, output / "kept.png"):
        path.write_bytes(b"x")
    name = "../kept.png" if kind == "samples" else "kept.png"
    files = [{"name": name, "bytes": 1, "sha256": "0" * 64}]
    marker = {"rows": 1, "sha256": "0" * 64, "files": files, "kind": kind}
    (output / storage.MARKER_NAME).write_text(json.dumps(marker))
    with pytest.raises(UsageError, match="does not contain exported samples"):
        export_samples(copy, split="train", count=1, output=output)
    assert kept.exists()
    assert (output / "kept.png").exists()
