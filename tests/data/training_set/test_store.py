"""Opening a training dataset: what is whole opens, what is not is told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from quality_model.core import storage
from quality_model.core.storage import MARKER_NAME
from quality_model.data.training_set.export import export_samples
from quality_model.data.training_set.store import TrainingSet
from quality_model.errors import CorruptError, IncompleteError, UsageError
from quality_model.records import SPLITS


@pytest.fixture
def copy(made, tmp_path: Path) -> Path:
    """A training dataset that a test may damage."""
    return Path(shutil.copytree(made[0], tmp_path / "training"))


def test_pixels_and_labels_are_read_through_memory_maps_and_cannot_be_changed(copy: Path) -> None:
    training_set = TrainingSet.open(copy)

    assert isinstance(training_set.images, np.memmap)
    assert isinstance(training_set.labels, np.memmap)
    assert training_set.images.dtype == np.uint8
    assert training_set.images.shape == (144, 32, 32, 3)
    assert training_set.labels.dtype == np.float32
    assert training_set.labels.shape == (144, 4)
    assert training_set.image_size_px == 32
    with pytest.raises(ValueError, match="read-only"):
        training_set.images[0] = 0


def test_the_splits_are_disjoint_and_together_everything(copy: Path) -> None:
    training_set = TrainingSet.open(copy)
    indices = [training_set.indices(split) for split in SPLITS]

    assert all(part.dtype == np.int64 for part in indices)
    assert np.array_equal(np.sort(np.concatenate(indices)), np.arange(144))
    groups = [set(training_set.manifest["group"].iloc[part]) for part in indices]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_plain_numpy_reads_the_files(copy: Path) -> None:
    assert np.load(copy / "images.npy").shape == (144, 32, 32, 3)
    assert np.load(copy / "labels.npy").max() <= 1.0


def test_a_folder_without_a_marker_is_incomplete(copy: Path, tmp_path: Path) -> None:
    (copy / MARKER_NAME).unlink()
    for folder in (copy, tmp_path / "nowhere"):
        with pytest.raises(IncompleteError, match="not complete"):
            TrainingSet.open(folder)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "manifest.parquet"])
def test_a_missing_or_shortened_file_is_told_by_name(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1])
    with pytest.raises(CorruptError, match=name):
        TrainingSet.open(copy)
    (copy / name).unlink()
    with pytest.raises(IncompleteError, match=name):
        TrainingSet.open(copy)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "manifest.parquet"])
def test_one_flipped_bit_is_found_when_asked_to_verify(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)

    with pytest.raises(CorruptError, match=name):
        TrainingSet.open(copy, verify=True)


def reseal(folder: Path) -> None:
    """Vouch for the files as they are now, with the earlier facts."""
    marker = storage.require_sealed(folder) if (folder / MARKER_NAME).exists() else {}
    facts = {key: value for key, value in marker.items() if key not in ("files", "sha256", "rows")}
    names = ["images.npy", "labels.npy", "manifest.parquet"]
    storage.seal(folder, names, rows=144, **{"image_size_px": 32, **facts})


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((143, 32, 32, 3), dtype=np.uint8),
        np.zeros((144, 32, 32, 3), dtype=np.float32),
        np.zeros((144, 3, 32, 32), dtype=np.uint8),
    ],
    ids=["a sample too few", "floats", "channels first"],
)
def test_images_of_another_shape_or_type_are_refused(copy: Path, array: np.ndarray) -> None:
    (copy / MARKER_NAME).unlink()
    np.save(copy / "images.npy", array)
    reseal(copy)

    with pytest.raises(CorruptError, match=r"images\.npy .* marker says uint8 \(144, 32, 32, 3\)"):
        TrainingSet.open(copy)


@pytest.mark.parametrize("data", [b"", b"not an array", b"\x93NUMPY\x01\x00"], ids=["empty", "text", "cut"])
def test_a_file_that_is_no_array_is_refused(copy: Path, data: bytes) -> None:
    (copy / MARKER_NAME).unlink()
    (copy / "labels.npy").write_bytes(data)
    reseal(copy)

    with pytest.raises(CorruptError, match=r"labels\.npy"):
        TrainingSet.open(copy)


def test_an_array_of_pickled_objects_is_refused_and_not_loaded(copy: Path) -> None:
    (copy / MARKER_NAME).unlink()
    np.save(copy / "labels.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    reseal(copy)

    with pytest.raises(CorruptError, match=r"labels\.npy"):
        TrainingSet.open(copy)


def test_a_manifest_that_cannot_be_read_or_has_other_rows_is_refused(copy: Path) -> None:
    manifest = TrainingSet.open(copy).manifest
    (copy / MARKER_NAME).unlink()
    manifest.head(100).to_parquet(copy / "manifest.parquet")
    reseal(copy)
    with pytest.raises(CorruptError, match="100 rows for 144 samples"):
        TrainingSet.open(copy).indices("train")

    (copy / MARKER_NAME).unlink()
    (copy / "manifest.parquet").write_bytes(b"PAR1 and nothing more")
    reseal(copy)
    with pytest.raises(CorruptError, match=r"manifest\.parquet"):
        TrainingSet.open(copy).indices("train")


@pytest.mark.parametrize("kind", ["samples", "comparison"])
def test_an_export_removes_no_file_but_those_of_an_earlier_export(
    copy: Path, tmp_path: Path, kind: str
) -> None:
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
    with pytest.raises(UsageError, match="something else than exported samples"):
        export_samples(copy, split="train", count=1, output=output)
    assert kept.exists()
    assert (output / "kept.png").exists()
