"""What is expected of a training dataset: its samples, its split, and the labels of its profile."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quality_model.data.checks.expectations import (
    Expectation,
    Outcome,
    Table,
    among,
    at_least_rows,
    between,
    contains,
    mean_between,
    not_null,
    unique,
    validate,
)
from quality_model.data.dataset import TrainingSet
from quality_model.degrade import PROFILES, Profile
from quality_model.params import GenerateParams, ValidationParams
from quality_model.records import HEADS, SPLITS, Head

if TYPE_CHECKING:
    import pandas as pd

SURPRISING: Final = 1e-6
"""A sound dataset fails an expectation that depends on chance with less than this probability."""

MILD: Final = 0.6
SEVERE: Final = 0.2
"""A tenth of the labels of every kind is at most, and a tenth at least, this severe. Some kinds are weak by
nature, as a badge in a corner, and some never faint, as a bar with text."""

_ENOUGH_FOR_A_RANGE: Final = 60
"""Samples of a kind for a meaningful tenth."""

_STANDARD_ERRORS: Final = 5.0
_ROUNDING: Final = 1e-6


def validate_training_set(
    section: ValidationParams, generate: GenerateParams, training_set: Path, report: Path
) -> list[Outcome]:
    """Validate the training dataset in the folder ``training_set`` (see `expectations.validate`).

    The share of samples without degradation is expected to be (1 + n u) / (1 + n) for n
    samples per image of which the profile leaves a share u untouched, times the share of the
    images that are not soft. It may differ by the tolerance of ``section`` or by five standard
    errors of a small dataset, whichever is more. If the degraded samples of the train split were
    not all made (see `generate`), it is the share among the images that have all their samples.

    If the profile's labels are functions of a measure, every label is compared with the formula,
    and no kind may be severe only, or faint only.

    Args:
        section: Limits.
        generate: The parameters that the dataset was made with.
        training_set: Output of `generate.generate`.
        report: Folder of the report.

    Raises:
        ValidationError: Names each failed expectation, its column and examples.
        IncompleteError, CorruptError: There is no sound dataset to validate.
    """
    dataset = TrainingSet.open(training_set)
    manifest, profile = dataset.manifest, PROFILES[generate.profile]
    images = _per("image_id", manifest, groups=("group", "nunique"), samples=("sample_id", "size"))
    images["missing_samples"] = generate.samples_per_image + 1 - images["samples"]
    is_complete = manifest["image_id"].notna()
    if dataset.train_samples == "fresh":
        left_out = (images["samples"] == 1) & (images["split"] == "train")
        images["missing_samples"] = images["missing_samples"].where(~left_out, 0)
        is_complete = ~manifest["image_id"].isin(images["image_id"][left_out])
    complete = manifest[is_complete]
    samples = _with_derived(manifest, profile)
    samples["untouched"] = samples["untouched"].where(is_complete)
    soft_share = float((complete.groupby("image_id")["softness_px"].max() > 0).mean())
    clean_share = clean_share_limits(section, generate, profile, len(complete), soft_share)
    of_groups = [
        at_least_rows(section.min_groups, "There are enough groups to learn and to test from."),
        among("splits", [1], "All samples of a group are in the same split."),
    ]
    of_images = [
        among("groups", [1], "All samples of an image are in one group."),
        among("missing_samples", [0], "Every image has its degraded samples and itself."),
    ]
    of_kinds = [
        between("samples", 1, None, "Every kind of degradation occurs, as it must in so large a set."),
        between("low_label", None, MILD, "Every kind is sometimes mild: its lowest labels are low."),
        between("high_label", SEVERE, None, "Every kind is sometimes severe: some labels are high."),
    ]
    groups = _per("group", manifest, splits=("split", "nunique"), samples=("sample_id", "size"))
    kinds = _kinds(complete, profile, generate)
    tables = [
        Table("samples", samples, ("sample_id",), _of_samples(generate, profile, clean_share)),
        Table("groups", groups, ("group",), of_groups),
        Table("images", images, ("image_id",), of_images),
        Table("kinds", kinds, ("head", "kind"), of_kinds),
    ]
    return validate("training dataset", tables, report)


def _of_samples(
    generate: GenerateParams, profile: Profile, clean_share: tuple[float, float]
) -> list[Expectation]:
    splits = [split for split in SPLITS if split == "train" or getattr(generate, f"{split}_share") > 0]
    return [
        unique("sample_id", "No two samples have the same name."),
        unique("recipe", "No degraded sample was made twice: same image, kinds, parameters and order."),
        unique("noisy_pixels", "No two noisy samples have the same pixels: noise is drawn for each."),
        among("profile", [generate.profile], "All samples were made with the profile of the parameters."),
        among("split", SPLITS, "Every sample is in an existing split."),
        contains("split", splits, "No split is empty."),
        mean_between("untouched", *clean_share, "The share of samples without degradation is as expected."),
        among("is_clean_right", [True], "Clean samples are the images themselves, without degradation."),
        among("in_order", [True], "The positions of a sample's degradations count from 0 without gaps."),
        among("in_profile_order", [True], "Degradations are in the profile's order."),
        *[expectation for head in HEADS for expectation in _of_head(head, profile)],
        between(
            "softness_unlabelled",
            0.0,
            _ROUNDING,
            "All samples of a soft image are labelled with at least its own blur.",
        ),
        not_null("mean_brightness", "The brightness is a number."),
        between("mean_brightness", 0.0, 1.0, "The brightness is in [0, 1]."),
        between("mean_brightness", 0.01, 0.99, "Few samples are all black or all white.", mostly=0.95),
        between("brightness_std", 0.01, 0.5, "Few samples are a plain area.", mostly=0.95),
        mean_between("mean_brightness", 0.1, 0.9, "The dataset as a whole is neither dark nor overexposed."),
    ]


def _of_head(head: Head, profile: Profile) -> list[Expectation]:
    label, severity = f"{head}_label", f"{head}_severity"
    low, high = profile.label_ranges[head]
    kinds = (*profile.kinds[head], *profile.source_kinds.get(head, ()))
    in_range = "The label of an applied degradation is in the profile's range."
    expectations = [
        not_null(label, "The label is a number."),
        between(label, 0.0, 1.0, "The label is in [0, 1]."),
        between(severity, low - _ROUNDING, high + _ROUNDING, in_range),
        between(f"{head}_absent", 0.0, 0.0, "The label of a degradation that was not applied is 0."),
        among(f"{head}_kind", kinds, "The profile has this kind."),
    ]
    if head in profile.scales:
        measure, off_formula = profile.scales[head].measure, f"{head}_off_formula"
        expectations += [
            between(f"{head}_measure", 0.0, None, f"The measure of the label, {measure}, is 0 or more."),
            not_null(off_formula, f"Every label has its measure, {measure}."),
            between(off_formula, 0.0, _ROUNDING, f"The label is the severity of {measure}."),
        ]
    return expectations


def clean_share_limits(
    section: ValidationParams,
    generate: GenerateParams,
    profile: Profile,
    num_samples: int,
    soft_share: float = 0.0,
) -> tuple[float, float]:
    """Lowest and highest share of samples without degradation (see `validate_training_set`)."""
    drawn, untouched = generate.samples_per_image, profile.untouched_share
    share = (1 - soft_share) * (1 + drawn * untouched) / (1 + drawn)
    num_drawn = max(1.0, num_samples * drawn / (1 + drawn))
    error = math.sqrt(untouched * (1 - untouched) / num_drawn) * drawn / (1 + drawn)
    tolerance = max(section.clean_share_tolerance, _STANDARD_ERRORS * error)
    return max(0.0, share - tolerance), min(1.0, share + tolerance)


def _kinds(manifest: "pd.DataFrame", profile: Profile, generate: GenerateParams) -> "pd.DataFrame":
    """Samples per kind, for the kinds that chance alone cannot leave out, and the range of their labels.

    Of n samples with a head, a kind of share s is absent with probability (1 - s)^n. A drawn sample
    has the head with a probability of at least (1 - u) / 4,
    because the profile leaves only a share u untouched.
    """
    import pandas as pd

    num_drawn = len(manifest) * generate.samples_per_image / (1 + generate.samples_per_image)
    least_share = (1 - profile.untouched_share) / len(HEADS)
    rows = []
    for head, kinds in profile.kinds.items():
        labels = manifest.groupby(f"{head}_kind")[f"{head}_label"]
        counts = labels.size()
        rarest = 1 / sum(profile.shares.get(kind, 1) for kind in kinds)
        by_head = int(counts.sum()) >= samples_for_certainty(rarest)
        by_dataset = num_drawn >= samples_for_certainty(least_share * rarest)
        if by_head or by_dataset:
            for kind in kinds:
                samples = int(counts.get(kind, 0))
                known = samples >= _ENOUGH_FOR_A_RANGE and head in profile.scales
                ends = labels.get_group(kind).quantile([0.1, 0.9]).tolist() if known else [None, None]
                rows.append((head, kind, samples, *ends))
    return pd.DataFrame(rows, columns=["head", "kind", "samples", "low_label", "high_label"])


def samples_for_certainty(share: float) -> int:
    """How many samples make it certain that something with probability ``share`` in each occurs."""
    return 1 if share >= 1 else math.ceil(math.log(SURPRISING) / math.log1p(-share))


def _with_derived(manifest: "pd.DataFrame", profile: Profile) -> "pd.DataFrame":
    """The manifest with the columns that expectations look at; null where one does not apply."""
    import numpy as np
    import pandas as pd

    frame = manifest[
        [name for name in manifest.columns if not name.endswith(("_parameters", "_position"))]
    ].copy()
    applied = pd.DataFrame({head: manifest[f"{head}_kind"].notna() for head in HEADS})
    touched = applied.any(axis=1)
    frame["untouched"] = (~touched).astype(float)
    is_original = ~manifest["image_id"].duplicated()  # the first sample of an image is the image itself
    frame["is_clean_right"] = manifest["is_clean"] == (is_original & ~touched)
    order = profile.order or HEADS
    positions = manifest[[f"{head}_position" for head in order]].to_numpy(dtype=np.float64, na_value=np.nan)
    # Only the positions 0 to k - 1 of k degradations add up so as powers of two.
    counted = np.nansum(2.0**positions, axis=1) == 2.0 ** applied.sum(axis=1) - 1
    frame["in_order"] = (np.isnan(positions) == ~applied[[*order]]).all(axis=1) & counted
    is_latest = (positions == np.fmax.accumulate(positions, axis=1)) | np.isnan(positions)
    frame["in_profile_order"] = is_latest.all(axis=1) if profile.order else True
    for head in HEADS:
        frame[f"{head}_severity"] = manifest[f"{head}_label"].where(applied[head])
        frame[f"{head}_absent"] = manifest[f"{head}_label"].where(~applied[head])
    for head, scale in profile.scales.items():
        facts = manifest[f"{head}_parameters"].map(json.loads, na_action="ignore")
        measures = facts.map(lambda found, name=scale.measure: found.get(name, math.nan), na_action="ignore")
        frame[f"{head}_measure"] = measures.astype(float)
        severities = frame[f"{head}_measure"].map(scale.severity, na_action="ignore")
        off_formula = (severities - manifest[f"{head}_label"]).abs()
        frame[f"{head}_off_formula"] = off_formula.where(applied[head], 0.0)
    frame["softness_unlabelled"] = 0.0
    if profile.measures_softness:
        brought = manifest["softness_px"].map(profile.scales["blurriness"].severity)
        frame["softness_unlabelled"] = (brought - manifest["blurriness_label"]).clip(lower=0.0)
    parts = [f"{head}_{part}" for head in HEADS for part in ("kind", "parameters", "position", "label")]
    recipe = manifest[["image_id", *parts]].astype("string").fillna("").agg("|".join, axis=1)
    brought_kinds = [kind for kinds in profile.source_kinds.values() for kind in kinds]
    ours = manifest[[f"{head}_kind" for head in HEADS]]
    frame["recipe"] = recipe.where((ours.notna() & ~ours.isin(brought_kinds)).any(axis=1))
    # Noise that changed nothing (of black, or too rare) has a label of 0; such samples may be equal.
    frame["noisy_pixels"] = manifest["pixels_sha256"].where(manifest["noise_label"] > 0)
    return frame


def _per(column: str, manifest: "pd.DataFrame", **aggregates: tuple[str, str]) -> "pd.DataFrame":
    """A row per value of a column, with the first split of its samples."""
    frame: pd.DataFrame = manifest.groupby(column, sort=True).agg(split=("split", "first"), **aggregates)
    return frame.reset_index()
