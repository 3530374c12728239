"""Reading a training dataset: pixels and labels through memory maps, and the manifest."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from quality_model.core import storage
from quality_model.errors import CorruptError
from quality_model.records import HEADS, Split

if TYPE_CHECKING:
    import pandas as pd

IMAGES_NAME: Final = "images.npy"
LABELS_NAME: Final = "labels.npy"
MANIFEST_NAME: Final = "manifest.parquet"


class TrainingSet:
    """A complete training dataset of N samples of S x S pixels.

    Attributes:
        folder: Where it lies.
        marker: What vouches for it: ``rows``, ``sha256``, ``params``, ``profile``,
            ``image_size_px``, ``source``, ``images_sha256``, ``expected_clean_share`` and ``files``.
        images: uint8 (N, S, S, 3), RGB, a read-only memory map.
        labels: float32 (N, 4) in the order of `HEADS`, each in [0, 1], a read-only memory map.
    """

    def __init__(
        self,
        folder: Path,
        marker: dict[str, Any],
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.float32],
    ) -> None:
        self.folder = folder
        self.marker = marker
        self.images = images
        self.labels = labels

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Self:
        """Open the training dataset in ``folder``.

        Args:
            folder: Output of `generate`.
            verify: Hash every file first; without it only lengths and shapes are compared.

        Raises:
            IncompleteError: No marker vouches for it, or a file is missing.
            CorruptError: A file is not what the marker vouches for, or not of a training dataset.
        """
        marker = storage.require_sealed(folder, verify=verify)
        rows, size = marker.get("rows"), marker.get("image_size_px")
        images = _load(folder / IMAGES_NAME, np.dtype(np.uint8), (rows, size, size, 3))
        labels = _load(folder / LABELS_NAME, np.dtype(np.float32), (rows, len(HEADS)))
        return cls(folder, marker, images, labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def data_sha256(self) -> str:
        """One hash over all files."""
        return str(self.marker["sha256"])

    @property
    def source(self) -> str:
        """Name of the source of its clean images; empty in datasets that do not say."""
        return str(self.marker.get("source", ""))

    @property
    def image_size_px(self) -> int:
        return int(self.marker["image_size_px"])

    @cached_property
    def manifest(self) -> "pd.DataFrame":
        """A row per sample, in the order of ``images`` (columns: `manifest.SCHEMA`).

        Raises:
            CorruptError: It cannot be read, or has another number of rows.
        """
        import pandas as pd

        path = self.folder / MANIFEST_NAME
        try:
            manifest = pd.read_parquet(path)
        except (OSError, ValueError, ImportError) as error:
            raise _corrupt(path, str(error)) from None
        if len(manifest) != len(self):
            raise _corrupt(path, f"it has {len(manifest)} rows for {len(self)} samples")
        return manifest

    def indices(self, split: Split) -> npt.NDArray[np.int64]:
        """Rows of one split, ascending, int64 (n,)."""
        return np.flatnonzero((self.manifest["split"] == split).to_numpy()).astype(np.int64)

    def counted(self, split: Split, excluded_groups: Collection[str]) -> npt.NDArray[np.int64]:
        """Rows of one split without those of some groups, ascending, int64 (n,); all if none is left."""
        rows = self.indices(split)
        if not excluded_groups:
            return rows
        kept = ~self.manifest["group"].iloc[rows].isin(list(excluded_groups)).to_numpy(dtype=bool)
        return rows[kept] if kept.any() else rows


def _load(path: Path, dtype: np.dtype[Any], shape: tuple[Any, ...]) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _corrupt(path, str(error)) from None
    if array.dtype != dtype or array.shape != shape:
        raise _corrupt(path, f"it holds {array.dtype} {array.shape}, the marker says {dtype} {shape}")
    return array


def _corrupt(path: Path, problem: str) -> CorruptError:
    return CorruptError(
        f"{path} is not part of a training dataset: {problem}.", "Delete the folder and generate it again."
    )
