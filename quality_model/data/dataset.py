"""The training dataset on disk: pixels and labels as memory maps, the manifest, and samples as PNG files."""

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from quality_model.core import storage
from quality_model.errors import CorruptError, IncompleteError, UsageError
from quality_model.records import HEADS, Split

if TYPE_CHECKING:
    import pandas as pd

IMAGES_NAME: Final = "images.npy"
LABELS_NAME: Final = "labels.npy"
MANIFEST_NAME: Final = "manifest.parquet"

TrainSamples = Literal["stored", "fresh"]
"""Whether training uses the stored samples, or degrades the clean images of the train split anew."""

ViewKind = Literal["whole", "tile"]
"""What a sample shows of its image."""


def _fields(kind: pa.DataType, *names: str) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name in names]


def _head_fields() -> Iterable[pa.Field]:
    for head in HEADS:
        yield pa.field(f"{head}_kind", pa.string())
        yield pa.field(f"{head}_parameters", pa.string())
        yield pa.field(f"{head}_position", pa.int8())
        yield pa.field(f"{head}_label", pa.float32(), nullable=False)


SCHEMA: Final = pa.schema(
    [
        *_fields(pa.string(), "sample_id", "image_id", "image_sha256", "group", "split"),
        *_fields(pa.bool_(), "is_clean"),
        *_fields(pa.string(), "profile", "view"),
        *_head_fields(),
        *_fields(pa.string(), "delivery"),
        *_fields(pa.float32(), "softness_px", "mean_brightness", "brightness_std"),
        *_fields(pa.string(), "pixels_sha256"),
    ]
)
"""Columns of the manifest, a row per sample in the order of images.npy.

``view``: what the sample shows of the image (`ViewKind`). ``is_clean``: the sample is a clean image as it
is, and the image was not soft already. Per head: kind, parameters (JSON) and position (from 0) of the
degradation, null without one, and its label, 0 without one.
``delivery``: resizing and compression that change no label (JSON). ``softness_px``: sigma at 224 px of the
blur that the image had before. The hash of the manifest identifies the dataset: ``pixels_sha256`` covers
images.npy, and labels.npy is made from the label columns.
"""


class TrainingSet:
    """A complete training dataset of N samples of S x S pixels.

    Attributes:
        folder: Its folder.
        data_sha256: One hash for all samples and labels.
        source: Name of the source of the clean images; empty if unknown.
        image_size_px: S.
        train_samples: ``fresh`` if most degraded samples of the train split were not made (see `generate`).
        images: uint8 (N, S, S, 3), RGB, a read-only memory map.
        labels: float32 (N, 4) in the order of `HEADS`, each in [0, 1], a read-only memory map.
    """

    def __init__(self, folder: Path, marker: Mapping[str, Any]) -> None:
        rows, size = marker.get("rows"), marker.get("image_size_px")
        self.folder = folder
        self.data_sha256 = str(marker["sha256"])
        self.source = str(marker.get("source", ""))
        self.train_samples: TrainSamples = "fresh" if marker.get("train_samples") == "fresh" else "stored"
        self.images: npt.NDArray[np.uint8] = _load(folder / IMAGES_NAME, np.uint8, (rows, size, size, 3))
        self.labels: npt.NDArray[np.float32] = _load(folder / LABELS_NAME, np.float32, (rows, len(HEADS)))
        self.image_size_px: int = self.images.shape[1]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the training dataset in ``folder``, the output of `generate`.

        Raises:
            IncompleteError: It has no completion marker, or a file is missing.
            CorruptError: A file does not match the completion marker, or is not of a training dataset.
        """
        return cls(folder, storage.require_sealed(folder))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def manifest(self) -> "pd.DataFrame":
        """A row per sample, in the order of ``images`` (columns: `SCHEMA`).

        Raises:
            CorruptError: It cannot be read, or has another number of rows.
        """
        import pandas as pd

        path = self.folder / MANIFEST_NAME
        try:
            manifest = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise _corrupt(path, str(error)) from None
        if len(manifest) != len(self):
            raise _corrupt(path, f"it has {len(manifest)} rows for {len(self)} samples")
        return manifest

    @cached_property
    def is_untouched(self) -> npt.NDArray[np.bool_]:
        """Whether each sample has no degradation at all, bool (N,): clean images, and samples only resized
        or recompressed.
        """
        kinds = self.manifest[[f"{head}_kind" for head in HEADS]]
        return kinds.isna().all(axis=1).to_numpy(dtype=bool)

    def indices(self, split: Split) -> npt.NDArray[np.int64]:
        """Rows of one split, ascending, int64 (n,)."""
        return np.flatnonzero((self.manifest["split"] == split).to_numpy()).astype(np.int64)

    def representative(self, split: Split) -> npt.NDArray[np.int64]:
        """Rows of one split whose labels are distributed as `generate` draws them, ascending, int64 (n,).

        These are all rows, but for the train split of a dataset for ``fresh`` samples: there they
        are those of the images that have all their samples.
        """
        rows = self.indices(split)
        if self.train_samples == "stored" or split != "train":
            return rows
        images = self.manifest["image_id"].iloc[rows]
        return rows[(images.map(images.value_counts()) > 1).to_numpy(dtype=bool)]

    def counted(self, split: Split, excluded_groups: Collection[str]) -> npt.NDArray[np.int64]:
        """`representative` without the rows of some groups; with them if no others are left."""
        rows = self.representative(split)
        if not excluded_groups:
            return rows
        kept = ~self.manifest["group"].iloc[rows].isin(list(excluded_groups)).to_numpy(dtype=bool)
        return rows[kept] if kept.any() else rows


def _load(path: Path, dtype: type[np.generic], shape: tuple[Any, ...]) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise IncompleteError(f"{path} is missing.", "Generate the training dataset again.") from None
    except (OSError, ValueError, EOFError) as error:
        raise _corrupt(path, str(error)) from None
    if array.dtype != dtype or array.shape != shape:
        found = f"it contains {array.dtype} {array.shape}"
        raise _corrupt(path, f"{found}, the completion marker says {np.dtype(dtype)} {shape}")
    return array


def _corrupt(path: Path, problem: str) -> CorruptError:
    return CorruptError(
        f"{path} is not part of a training dataset: {problem}.", "Delete the folder and generate it again."
    )


def export_samples(training_set: Path, *, split: Split, count: int, output: Path) -> int:
    """Write samples, spread evenly over a split, as PNG files named after their degradations.

    Args:
        training_set: Folder of the training dataset.
        split: Which samples.
        count: Maximum number of files.
        output: Folder; the files of an earlier export are replaced.

    Returns:
        Number of files.

    Raises:
        UsageError: The split has no samples, or the folder contains something else.
    """
    samples = TrainingSet.open(training_set)
    indices = samples.indices(split)
    if len(indices) == 0:
        raise UsageError(f"The split {split} has no samples.", "Choose another split.")
    _remove_earlier_export(output)
    names = []
    for index in indices[np.unique(np.linspace(0, len(indices) - 1, count).round().astype(int))]:
        row, labels = samples.manifest.iloc[index], samples.labels[index]
        applied = [
            f"{head}-{row[f'{head}_kind']}-{label:.2f}"
            for head, label in zip(HEADS, labels, strict=True)
            if label > 0
        ]
        name = "_".join([row["sample_id"].replace("/", "-").replace("#", "-"), *(applied or ["clean"])])
        names.append(f"{name}.png")
        with storage.staged(output / names[-1]) as temporary:
            Image.fromarray(samples.images[index]).save(temporary, format="PNG")
    storage.seal(output, names, rows=len(names), kind="samples")
    return len(names)


def _remove_earlier_export(output: Path) -> None:
    marker = output / storage.MARKER_NAME
    if not marker.exists():
        return
    facts = storage.read_json(marker)
    if not storage.is_marker(facts) or facts.get("kind") != "samples":
        raise UsageError(f"{output} does not contain exported samples.", "Choose another folder.")
    for entry in facts["files"]:
        (output / entry["name"]).unlink(missing_ok=True)
    storage.unseal(output)
