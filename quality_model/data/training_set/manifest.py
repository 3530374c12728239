"""The manifest: a row per sample, in the order of images.npy."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa

from quality_model.data.training_set.samples import Sample
from quality_model.records import HEADS, Split


def _head_fields() -> Iterable[pa.Field]:
    for head in HEADS:
        yield pa.field(f"{head}_kind", pa.string())
        yield pa.field(f"{head}_parameters", pa.string())
        yield pa.field(f"{head}_position", pa.int8())
        yield pa.field(f"{head}_label", pa.float32(), nullable=False)


SCHEMA: Final = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("is_clean", pa.bool_(), nullable=False),
        pa.field("profile", pa.string(), nullable=False),
        *_head_fields(),
        pa.field("delivery", pa.string(), nullable=False),
        pa.field("softness_px", pa.float32(), nullable=False),
        pa.field("mean_brightness", pa.float32(), nullable=False),
        pa.field("brightness_std", pa.float32(), nullable=False),
        pa.field("pixels_sha256", pa.string(), nullable=False),
    ]
)
"""``is_clean``: nothing was applied. Per head: kind, parameters (JSON) and position (from 0) of
the degradation, null where there was none, and its label, 0 where there was none. ``delivery``:
what changed no label (JSON). ``softness_px``: sigma at 224 px of the blur that the image had before."""


def manifest_row(sample: Sample, split: Split, profile: str) -> dict[str, Any]:
    """A sample's values by column; those of degradations that it does not have are left out."""
    row: dict[str, Any] = {
        "sample_id": sample.sample_id,
        "image_id": sample.image_id,
        "image_sha256": sample.image_sha256,
        "group": sample.group,
        "split": split,
        "is_clean": not sample.applied,
        "profile": profile,
        "delivery": _to_json(sample.delivery),
        "softness_px": sample.softness_px,
        "mean_brightness": sample.mean_brightness,
        "brightness_std": sample.brightness_std,
        "pixels_sha256": sample.pixels_sha256,
    }
    row |= {f"{head}_label": label for head, label in zip(HEADS, sample.labels, strict=True)}
    for degradation in sample.applied:
        row[f"{degradation.head}_kind"] = degradation.kind
        row[f"{degradation.head}_parameters"] = _to_json(degradation.parameters)
        row[f"{degradation.head}_position"] = degradation.position
    return row


def _to_json(facts: Mapping[str, Any]) -> str:
    return json.dumps(dict(facts), sort_keys=True, ensure_ascii=False, allow_nan=False)
