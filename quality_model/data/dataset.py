"""The training dataset on disk: pixels and labels as memory maps, the manifest, and samples as PNG files.

It is split into train, validation and test by groups. A model keeps digests of the images that it was
trained on or selected by, including those of the weights it started from. A test group among them is no
evidence about the model. A digest does not reveal a user's folder. There are two kinds. An image is
identified by its encoded bytes, wherever it is. A group of several images is also identified by the names of
its source and of itself, because other crops of a photograph have other bytes.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from quality_model.core import storage
from quality_model.core.provenance import ModelFacts
from quality_model.errors import CorruptError, IncompleteError, SourceError, UsageError
from quality_model.records import HEADS, JOINT, OVERALL_WEIGHTS, Split

if TYPE_CHECKING:
    import pandas as pd

IMAGES_NAME: Final = "images.npy"
LABELS_NAME: Final = "labels.npy"
MANIFEST_NAME: Final = "manifest.parquet"

TrainSamples = Literal["stored", "fresh"]
"""Whether training uses the stored samples, or degrades the clean images of the train split anew."""

ViewKind = Literal["whole", "tile"]
"""What a sample shows of its image."""

SEEN_GROUPS: Final = "seen_groups"
"""Key of a model's facts: sorted digests."""

_DIGITS: Final = 12


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

    def scored(self, indices: npt.ArrayLike, scores: npt.NDArray[np.float32]) -> "pd.DataFrame":
        """A model's scores beside the labels, a row per sample.

        Args:
            indices: (n,) rows.
            scores: float32 (n, 4), of the same rows.

        Returns:
            ``sample_id``, ``group``, ``row``, ``is_clean``; for each head ``{head}_kind`` (None where the
            degradation is absent), ``{head}_label``, ``{head}_score``; ``overall_label``, ``overall_score``
            (1 best); and ``mean_brightness`` and ``brightness_std`` where the manifest has them.
        """
        import pandas as pd

        rows = np.asarray(indices, dtype=np.int64)
        manifest = self.manifest.iloc[rows]
        labels = np.asarray(self.labels[rows], dtype=np.float64)
        weights = np.array([OVERALL_WEIGHTS[head] for head in HEADS])
        columns: dict[str, object] = {
            "sample_id": manifest["sample_id"].to_numpy(),
            "group": manifest["group"].to_numpy(),
            "row": rows,
            "is_clean": self.is_untouched[rows],
        }
        for position, head in enumerate(HEADS):
            kinds = manifest[f"{head}_kind"]
            columns[f"{head}_kind"] = kinds.astype(object).where(kinds.notna(), None).to_numpy()
            columns[f"{head}_label"] = labels[:, position]
            columns[f"{head}_score"] = scores[:, position].astype(np.float64)
        columns["overall_label"] = 1.0 - labels @ weights
        columns["overall_score"] = 1.0 - scores.astype(np.float64) @ weights
        for name in ("mean_brightness", "brightness_std"):
            if name in manifest:
                columns[name] = manifest[name].to_numpy(np.float64)
        return pd.DataFrame(columns)


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


def split_by_group(
    groups: Iterable[str], *, validation_share: float, test_share: float, seed: int
) -> dict[str, Split]:
    """Assign every group to one split.

    Groups are ranked by a hash of seed and name; the first become the test split, the next
    validation. So the assignment does not depend on the order of the groups, and adding or removing
    a group moves few others. Shares count groups, not images. They are rounded to whole groups; a
    split with a share above 0 gets at least one group, and so does train.

    Raises:
        SourceError: There are fewer groups than splits.
    """
    ranked = sorted(set(groups), key=lambda group: rank(seed, "split", group))
    wanted = 1 + (validation_share > 0) + (test_share > 0)
    if len(ranked) < wanted:
        raise SourceError(
            f"The clean images come from {len(ranked)} group(s), but {wanted} splits need one each.",
            "Take more images, or a folder with more images or sub-folders; "
            "or set validation_share or test_share to 0.",
        )
    num_test, num_validation = (
        max(1, int(share * len(ranked) + 0.5)) if share > 0 else 0 for share in (test_share, validation_share)
    )
    while num_test + num_validation >= len(ranked):
        if num_test >= num_validation:
            num_test -= 1
        else:
            num_validation -= 1
    held_out = num_test + num_validation
    return {
        group: "test" if rank < num_test else "validation" if rank < held_out else "train"
        for rank, group in enumerate(ranked)
    }


def rank(seed: int, purpose: str, name: str) -> bytes:
    """Sorts names in an order that seed and purpose decide, whatever other names there are."""
    return hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode("utf-8", "surrogatepass")).digest()


def stratified_subset(indices: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """At most ``count`` of ``indices`` (n,), in their order.

    One is drawn from each of ``count`` equal ranges. Every n-th would not do: the samples
    of an image follow each other, so it could be the same variant of each image.
    """
    if len(indices) <= count:
        return indices
    edges = np.arange(count + 1) * len(indices) // count
    return indices[np.random.default_rng(seed).integers(edges[:-1], edges[1:])]


def group_digest(source: str, group: str) -> str:
    """The first 12 hexadecimal digits of SHA-256 over ``source/group``.

    Groups of joined sources already begin with their source's name.
    """
    name = group if JOINT in source else f"{source}/{group}"
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def seen_in_training(training_set: TrainingSet) -> frozenset[str]:
    """Digests of the train and validation splits."""
    rows = training_set.manifest
    return frozenset().union(*_digests(training_set, rows[rows["split"] != "test"]).values())


def seen_by(facts: ModelFacts, training_set: TrainingSet) -> frozenset[str] | None:
    """Digests of what a model has seen, by its facts; None if that is unknown.

    A model without digests that was trained on this same training dataset from random
    weights has seen its train and validation splits.
    """
    if facts.seen_groups is not None:
        return frozenset(facts.seen_groups)
    settings = facts.settings
    began_at_random = settings is not None and settings.get("train.start_from") in (None, "scratch")
    is_of_this_set = facts.data_sha256 == training_set.data_sha256
    return seen_in_training(training_set) if began_at_random and is_of_this_set else None


def seen_groups(models: Iterable[ModelFacts], training_set: TrainingSet, split: Split) -> tuple[str, ...]:
    """The groups of a split that at least one of the models has seen, by their facts; sorted.

    A model with unknown digests may have seen everything.
    """
    manifest = training_set.manifest
    groups = _digests(training_set, manifest[manifest["split"] == split])
    seen: set[str] = set()
    for facts in models:
        known = seen_by(facts, training_set)
        if known is None:
            return tuple(sorted(groups))
        seen |= known
    return tuple(sorted(group for group, digests in groups.items() if not digests.isdisjoint(seen)))


def split_digests(training_set: TrainingSet, split: Split) -> frozenset[str]:
    """Digests of the images and groups of a split: another split with one of them shares a scene with it."""
    manifest = training_set.manifest
    return frozenset().union(*_digests(training_set, manifest[manifest["split"] == split]).values())


def _digests(training_set: TrainingSet, rows: "pd.DataFrame") -> dict[str, set[str]]:
    """The digests of each group among some rows of the manifest.

    A group of one image is named after its place in a folder or a shuffle, which another image
    may have next time: its bytes identify it better. Older datasets do not record them.
    """
    by_image = "image_sha256" in rows
    found: dict[str, set[str]] = {}
    for group, images in rows.groupby("group", sort=False):
        own = {str(sha256)[:_DIGITS] for sha256 in images["image_sha256"].unique()} if by_image else set()
        alone = by_image and len(own) == 1 and bool((images["image_id"] == group).all())
        found[str(group)] = own if alone else {*own, group_digest(training_set.source, str(group))}
    return found
