"""What is expected of a training dataset: its manifest against its labels, its split and its profile."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quality_model.data.checks.expectations import (
    Expectation,
    Table,
    among,
    at_least_rows,
    between,
    contains,
    exactly_rows,
    mean_between,
    not_null,
    unique,
)
from quality_model.data.checks.report import validate
from quality_model.data.training_set.store import MANIFEST_NAME, TrainingSet
from quality_model.degrade import PROFILES, Profile
from quality_model.errors import CorruptError
from quality_model.params import GenerateParams, ValidationParams
from quality_model.records import HEADS, SPLITS, Head

if TYPE_CHECKING:
    import pandas as pd

SURPRISING: Final = 1e-6
"""A chance below this does not happen: a sound set fails a random expectation this rarely."""

MILD: Final = 0.4
SEVERE: Final = 0.4
"""A tenth of the labels of every kind is at most, and a tenth at least, this severe."""

_ENOUGH_FOR_A_RANGE: Final = 60
"""Samples of a kind from which on tenths say something."""

_STANDARD_ERRORS: Final = 5.0
_ROUNDING: Final = 1e-6


def validate_training_set(
    section: ValidationParams, generate: GenerateParams, training_set: Path, report: Path
) -> dict[str, Any]:
    """Validate the training dataset in the folder ``training_set`` (see `report.validate`).

    The share of clean samples may differ from its expectation, (1 + n u) / (1 + n) for n
    samples per image of which the profile leaves a share u untouched, less the share of the
    images that were soft already, by the tolerance of ``section`` or by five standard errors
    of a small set, whichever is more.

    Where the profile's labels are functions of a measure, every label is held to the formula,
    and every kind to the same range of labels: one meaning, whatever the kind.

    Args:
        section: Limits.
        generate: The parameters that the set was made with.
        training_set: Output of `training_set.generate`.
        report: Folder of the report.

    Raises:
        ValidationError: Names each failed expectation, its column and examples.
        IncompleteError, CorruptError: There is no sound set to validate.
    """
    opened = TrainingSet.open(training_set)
    manifest = _read_manifest(training_set)
    profile = PROFILES[generate.profile]
    samples = _with_derived(manifest, opened, profile)
    soft_share = float((manifest.groupby("image_id")["softness_px"].max() > 0).mean())
    tables = [
        Table(
            "samples",
            [samples],
            ("sample_id",),
            _of_samples(section, generate, profile, len(opened), len(manifest), soft_share),
        ),
        Table(
            "groups",
            [_per("group", manifest, splits=("split", "nunique"), samples=("sample_id", "size"))],
            ("group",),
            [
                at_least_rows(section.min_groups, "There are enough groups to learn and to test from."),
                among("splits", [1], "All samples of a group are on the same side of the split."),
            ],
        ),
        Table(
            "images",
            [_per("image_id", manifest, groups=("group", "nunique"), samples=("sample_id", "size"))],
            ("image_id",),
            [
                among("groups", [1], "All samples of an image are in one group."),
                among(
                    "samples",
                    [generate.samples_per_image + 1],
                    "Every image gave its degraded samples and itself.",
                ),
            ],
        ),
        Table(
            "kinds",
            [_kinds(manifest, profile, generate)],
            ("head", "kind"),
            _of_kinds(),
        ),
    ]
    return validate("training dataset", tables, report)


def _of_kinds() -> list[Expectation]:
    return [
        between("samples", 1, None, "Every kind of degradation occurs, as in so large a set it must."),
        between("low_label", None, MILD, "Every kind is mild at times: its labels begin low."),
        between("high_label", SEVERE, None, "Every kind is severe at times: its labels go high."),
    ]


def _of_samples(
    section: ValidationParams,
    generate: GenerateParams,
    profile: Profile,
    rows: int,
    num_samples: int,
    soft_share: float,
) -> list[Expectation]:
    low, high = clean_share_limits(section, generate, profile, num_samples, soft_share)
    splits = [split for split in SPLITS if split == "train" or getattr(generate, f"{split}_share") > 0]
    return [
        exactly_rows(rows, "The manifest has a row for every sample of labels.npy and images.npy."),
        unique("sample_id", "No sample has the name of another."),
        unique("recipe", "No degraded sample was made twice: same image, kinds, parameters and order."),
        unique("noisy_pixels", "No two noisy samples have the same pixels: noise is drawn for each."),
        among("profile", [generate.profile], "All samples were made with the profile of the parameters."),
        among("split", SPLITS, "Every sample is in a split that there is."),
        contains("split", splits, "No split is empty."),
        mean_between("clean", low, high, "The share of samples without degradation is as expected."),
        among("clean_as_told", [True], "A sample is called clean exactly if nothing was applied to it."),
        among("in_order", [True], "The positions of a sample's degradations count from 0 without gaps."),
        among("in_profile_order", [True], "Degradations come in the profile's order."),
        between("label_difference", 0.0, 0.0, "The manifest's labels are those of labels.npy."),
        not_null("label_difference", "Labels are numbers, and every row has its row in labels.npy."),
        *[expectation for head in HEADS for expectation in _of_head(head, profile)],
        between(
            "softness_unlabelled",
            0.0,
            _ROUNDING,
            "All samples of an image that was soft already are labelled with that blur at least.",
        ),
        not_null("mean_brightness", "The brightness is a number."),
        between("mean_brightness", 0.0, 1.0, "The brightness lies in [0, 1]."),
        between("mean_brightness", 0.01, 0.99, "Hardly a sample is all black or all white.", mostly=0.95),
        between("brightness_std", 0.01, 0.5, "Hardly a sample is a plain area.", mostly=0.95),
        mean_between("mean_brightness", 0.1, 0.9, "The set as a whole is neither dark nor blown out."),
    ]


def _of_head(head: Head, profile: Profile) -> list[Expectation]:
    low, high = profile.label_ranges[head]
    return [
        not_null(f"{head}_label", "The label is a number."),
        between(f"{head}_label", 0.0, 1.0, "The label lies in [0, 1]."),
        between(
            f"{head}_severity",
            low - _ROUNDING,
            high + _ROUNDING,
            "Where the degradation was applied, the label lies in the profile's range.",
        ),
        between(f"{head}_absent", 0.0, 0.0, "Where the degradation was not applied, the label is 0."),
        among(
            f"{head}_kind",
            (*profile.kinds[head], *profile.source_kinds.get(head, ())),
            "The kind is one that the profile makes.",
        ),
        *_of_formula(head, profile),
    ]


def _of_formula(head: Head, profile: Profile) -> list[Expectation]:
    if head not in profile.scales:
        return []
    measure = profile.scales[head].measure
    return [
        between(f"{head}_measure", 0.0, None, f"The measure of the label, {measure}, is 0 or more."),
        not_null(f"{head}_off_formula", f"Every label has its measure, {measure}."),
        between(f"{head}_off_formula", 0.0, _ROUNDING, f"The label is the severity of {measure}."),
    ]


def clean_share_limits(
    section: ValidationParams,
    generate: GenerateParams,
    profile: Profile,
    num_samples: int,
    soft_share: float = 0.0,
) -> tuple[float, float]:
    """Lowest and highest share of samples without degradation (see `validate_training_set`)."""
    drawn = generate.samples_per_image
    share = (1 - soft_share) * (1 + drawn * profile.untouched_share) / (1 + drawn)
    num_drawn = max(1.0, num_samples * drawn / (1 + drawn))
    error = (
        math.sqrt(profile.untouched_share * (1 - profile.untouched_share) / num_drawn) * drawn / (1 + drawn)
    )
    tolerance = max(section.clean_share_tolerance, _STANDARD_ERRORS * error)
    return max(0.0, share - tolerance), min(1.0, share + tolerance)


def _kinds(manifest: "pd.DataFrame", profile: Profile, generate: GenerateParams) -> "pd.DataFrame":
    """Samples per kind, for the kinds whose absence would be a surprise, and the range of their labels.

    Of n samples with a head, one of k equally frequent kinds is absent with probability
    (1 - 1/k)^n. The head itself is on a drawn sample with probability (1 - u) / 4 at least,
    for the profile leaves only a share u untouched.
    """
    import pandas as pd

    num_drawn = len(manifest) * generate.samples_per_image / (1 + generate.samples_per_image)
    least_share = (1 - profile.untouched_share) / len(HEADS)
    rows = []
    for head, kinds in profile.kinds.items():
        labels = manifest.groupby(f"{head}_kind")[f"{head}_label"]
        counts = labels.size()
        by_head = int(counts.sum()) >= samples_for_certainty(1 / len(kinds))
        by_set = num_drawn >= samples_for_certainty(least_share / len(kinds))
        if by_head or by_set:
            for kind in kinds:
                samples = int(counts.get(kind, 0))
                known = samples >= _ENOUGH_FOR_A_RANGE and head in profile.scales
                ends = labels.get_group(kind).quantile([0.1, 0.9]).tolist() if known else [None, None]
                rows.append((head, kind, samples, *ends))
    return pd.DataFrame(rows, columns=["head", "kind", "samples", "low_label", "high_label"])


def samples_for_certainty(share: float) -> int:
    """Samples above which something that each has with probability ``share`` is never absent."""
    return 1 if share >= 1 else math.ceil(math.log(SURPRISING) / math.log1p(-share))


def _with_derived(manifest: "pd.DataFrame", opened: TrainingSet, profile: Profile) -> "pd.DataFrame":
    """The manifest with the columns that expectations look at; null where one does not apply."""
    import numpy as np
    import pandas as pd

    derived: dict[str, Any] = {}
    applied = pd.DataFrame({head: manifest[f"{head}_kind"].notna() for head in HEADS})
    touched = applied.any(axis=1)
    for head in HEADS:
        derived[f"{head}_severity"] = manifest[f"{head}_label"].where(applied[head])
        derived[f"{head}_absent"] = manifest[f"{head}_label"].where(~applied[head])
    labels = manifest[[f"{head}_label" for head in HEADS]].to_numpy(dtype=np.float64)
    difference = np.full(len(manifest), np.nan)
    shared = min(len(manifest), len(opened))
    difference[:shared] = np.abs(labels[:shared] - opened.labels[:shared]).max(axis=1, initial=0.0)
    derived["label_difference"] = difference
    derived["clean"] = (~touched).astype(float)
    derived["clean_as_told"] = manifest["is_clean"] == ~touched
    positions = manifest[[f"{head}_position" for head in HEADS]].to_numpy(dtype=np.float64, na_value=np.nan)
    count = applied.sum(axis=1).to_numpy()
    expected = np.where(np.arange(len(HEADS)) < count[:, None], np.arange(len(HEADS)), np.nan)
    derived["in_order"] = (np.isnan(positions) == ~applied.to_numpy()).all(axis=1) & (
        np.nan_to_num(np.sort(positions, axis=1), nan=-1.0) == np.nan_to_num(expected, nan=-1.0)
    ).all(axis=1)
    derived["in_profile_order"] = True
    if profile.order is not None:
        ranked = manifest[[f"{head}_position" for head in profile.order]].to_numpy(
            np.float64, na_value=np.nan
        )
        latest = np.fmax.accumulate(ranked, axis=1)
        derived["in_profile_order"] = ((ranked == latest) | np.isnan(ranked)).all(axis=1)
    for head, scale in profile.scales.items():
        measures = manifest[f"{head}_parameters"].map(
            lambda text, name=scale.measure: json.loads(text).get(name, math.nan), na_action="ignore"
        )
        derived[f"{head}_measure"] = measures.astype(float)
        severities = derived[f"{head}_measure"].map(scale.severity, na_action="ignore")
        derived[f"{head}_off_formula"] = (
            (severities - manifest[f"{head}_label"]).abs().where(applied[head], 0.0)
        )
    derived["softness_unlabelled"] = 0.0
    if profile.measures_softness:
        brought = manifest["softness_px"].map(profile.scales["blurriness"].severity)
        derived["softness_unlabelled"] = (brought - manifest["blurriness_label"]).clip(lower=0.0)
    parts = [
        "image_id",
        *[f"{head}_{part}" for head in HEADS for part in ("kind", "parameters", "position", "label")],
    ]
    recipe = manifest[parts].astype("string").fillna("").agg("|".join, axis=1)
    ours = pd.DataFrame(
        {
            head: applied[head] & ~manifest[f"{head}_kind"].isin(profile.source_kinds.get(head, ()))
            for head in HEADS
        }
    )
    derived["recipe"] = recipe.where(ours.any(axis=1))
    # Noise that changed nothing (of black, or too rare) has a label of 0, and proves nothing.
    derived["noisy_pixels"] = manifest["pixels_sha256"].where(manifest["noise_label"] > 0)
    columns = [name for name in manifest.columns if not name.endswith(("_parameters", "_position"))]
    return pd.concat([manifest[columns], pd.DataFrame(derived, index=manifest.index)], axis=1)


def _per(column: str, manifest: "pd.DataFrame", **aggregates: tuple[str, str]) -> "pd.DataFrame":
    frame: pd.DataFrame = manifest.groupby(column, sort=True).agg(**aggregates).reset_index()
    return frame


def _read_manifest(training_set: Path) -> "pd.DataFrame":
    import pandas as pd

    path = training_set / MANIFEST_NAME
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise CorruptError(f"{path} cannot be read: {error}.", "Run generate again.") from None
