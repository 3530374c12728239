"""Each property of the two tables: sound ones have it, a planted defect is found and named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.data.checks import validate_images, validate_training_set
from quality_model.data.checks.dataset_checks import clean_share_limits, samples_for_certainty
from quality_model.data.dataset import IMAGES_NAME, LABELS_NAME, MANIFEST_NAME, SCHEMA
from quality_model.data.generate import generate
from quality_model.degrade import PROFILES
from quality_model.errors import IncompleteError, ValidationError
from quality_model.params import GenerateParams, Params
from quality_model.records import HEADS, CleanImage

from .conftest import image_rows, write_rows

Spoil = Callable[[pd.DataFrame], pd.DataFrame]
Failed = tuple[str, str, str]
"""Where a defect is, the expectation, and what the message mentions."""


def failures(validate: Callable[[], object]) -> list[str]:
    """The lines of the validation error that is raised, one per failed expectation."""
    with pytest.raises(ValidationError) as caught:
        validate()
    return [line.removeprefix("  - ") for line in caught.value.problem.splitlines()[1:]]


def assert_named(lines: list[str], expected: list[Failed]) -> None:
    for where, expectation, mentioned in expected:
        found = [line for line in lines if line.startswith(f"{where}: {expectation}")]
        assert any(mentioned in line for line in found), (where, expectation, mentioned, lines)


@pytest.fixture(scope="module")
def rows(photo: Pixels) -> list[CleanImage]:
    """24 crops of a photograph in eight groups."""
    corners = [(70 * (number // 6), 70 * (number % 6)) for number in range(24)]
    return image_rows([photo[top : top + 64, left : left + 80] for top, left in corners], per_group=3)


def unreadable(image: CleanImage, number: int) -> CleanImage:
    name = f"broken {number}"
    return replace(image, image_id=name, width=None, height=None, error_code="truncated", data=b"")


def test_a_sound_images_table_passes_with_as_many_unreadable_images_as_are_allowed(
    params: Params, rows: list[CleanImage], tmp_path: Path
) -> None:
    table = write_rows(tmp_path / "t", [*rows, unreadable(rows[0], 1)])
    limits = params.validation.model_copy(update={"min_images": 24, "max_unreadable_share": 0.04})
    assert all(outcome.passed for outcome in validate_images(limits, table, tmp_path / "r"))


def test_each_defect_of_an_images_table_is_named(
    params: Params, rows: list[CleanImage], tmp_path: Path
) -> None:
    spoilt = [*rows, *(unreadable(rows[0], number) for number in range(5))]
    spoilt[1] = replace(spoilt[1], sha256=spoilt[0].sha256)
    spoilt[2] = replace(spoilt[2], image_id="image/0003")
    spoilt[4] = replace(spoilt[4], width=12)
    spoilt[5] = replace(spoilt[5], height=None)
    spoilt[6] = replace(spoilt[6], group=" ")
    spoilt[7] = replace(spoilt[7], origin="")
    spoilt[-1] = replace(spoilt[-1], width=80)
    limits = params.validation.model_copy(update={"min_images": 25})
    table = write_rows(tmp_path / "t", spoilt)
    lines = failures(lambda: validate_images(limits, table, tmp_path / "r"))
    assert_named(
        lines,
        [
            ("readable_images", "expect_table_row_count_to_be_between (min_value 25)", "found 24"),
            ("readable_images.sha256", "expect_column_values_to_be_unique", "image_id image/0000"),
            ("all_images.image_id", "expect_column_values_to_be_unique", "origin test, image 3"),
            ("readable_images.width", "expect_column_values_to_be_between (min_value 64)", "width 12"),
            ("readable_images.height", "expect_column_values_to_not_be_null", "image_id image/0005"),
            ("all_images.group", "expect_column_values_to_match_regex", "image_id image/0006"),
            ("all_images.origin", "expect_column_values_to_match_regex", "image_id image/0007"),
            ("all_images.error_code", "expect_column_values_to_be_null (mostly 0.95)", "5 of 29 fail"),
            ("unreadable_images.width", "expect_column_values_to_be_null", "width 80, image_id broken 4"),
        ],
    )
    assert len(lines) == 9


def test_an_images_table_without_images_fails(params: Params, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="There are images"):
        validate_images(params.validation, write_rows(tmp_path / "t", []), tmp_path / "r")


@pytest.fixture(scope="module")
def sections(params: Params) -> dict[str, GenerateParams]:
    """By profile: enough small samples for every kind to be certain to occur."""
    small = {"image_size": 32, "workers": 1}
    return {
        "seed": params.generate.model_copy(update={**small, "profile": "seed", "samples_per_image": 30}),
        "calibrated": params.generate.model_copy(
            update={**small, "profile": "calibrated", "samples_per_image": 40}
        ),
    }


@pytest.fixture(scope="module")
def sound(sections, params: Params, rows: list[CleanImage], tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("sound")
    table = write_rows(place / "images", rows)
    for profile, section in sections.items():
        generate(section, params.limits, table, place / profile)
    return {profile: place / profile for profile in sections}


def planted(sound: Path, folder: Path, spoil: Spoil) -> Path:
    """A complete copy of a dataset whose manifest was changed: a defect that hashes do not show."""
    folder.mkdir()
    for name in (IMAGES_NAME, LABELS_NAME):
        shutil.copy(sound / name, folder)
    marker = storage.read_json(sound / storage.MARKER_NAME)
    fields = [field.with_nullable(True) for field in SCHEMA]
    manifest = spoil(pd.read_parquet(sound / MANIFEST_NAME))
    table = pa.Table.from_pandas(manifest, schema=pa.schema(fields), preserve_index=False)
    pq.write_table(table, folder / MANIFEST_NAME)
    facts = {name: value for name, value in marker.items() if name not in ("files", "sha256")}
    storage.seal(folder, [LABELS_NAME, MANIFEST_NAME], **facts)
    return folder


@pytest.mark.parametrize("profile", ["seed", "calibrated"])
def test_a_sound_dataset_meets_every_expectation(
    profile: str, params: Params, sections, sound, tmp_path: Path
) -> None:
    outcomes = validate_training_set(params.validation, sections[profile], sound[profile], tmp_path)
    assert all(outcome.passed for outcome in outcomes)
    kinds = next(outcome for outcome in outcomes if outcome.table == "kinds")
    assert kinds.checked == sum(len(kinds) for kinds in PROFILES[profile].kinds.values())


def test_a_sound_dataset_for_fresh_samples_meets_every_expectation_and_a_missing_sample_is_named(
    params: Params, sections, rows: list[CleanImage], tmp_path: Path
) -> None:
    section = sections["calibrated"]
    table = write_rows(tmp_path / "images", rows)
    generate(section, params.limits, table, tmp_path / "fresh", train_samples="fresh")
    outcomes = validate_training_set(params.validation, section, tmp_path / "fresh", tmp_path / "r")
    assert all(outcome.passed for outcome in outcomes)

    def lose_the_last(manifest: pd.DataFrame) -> pd.DataFrame:
        tested = manifest.index[manifest["split"] == "test"]
        manifest.loc[tested[-1], ["image_id", "group"]] = manifest.loc[tested[0], ["image_id", "group"]]
        return manifest

    folder = planted(tmp_path / "fresh", tmp_path / "planted", lose_the_last)
    lines = failures(lambda: validate_training_set(params.validation, section, folder, tmp_path / "r"))
    assert_named(lines, [("images.missing_samples", "expect_column_values_to_be_in_set", "2 of 24 fail")])


def with_head(manifest: pd.DataFrame, *heads: str) -> list[int]:
    return manifest.index[manifest[[f"{head}_kind" for head in heads]].notna().all(axis=1)].tolist()


def spoil_samples(manifest: pd.DataFrame) -> pd.DataFrame:
    """One defect per row, each in a row of its own."""
    free = iter(with_head(manifest, "color_cast"))
    noisy = with_head(manifest, "noise")[-2:]
    manifest.loc[next(free), "color_cast_label"] = 1.7
    manifest.loc[next(free), "color_cast_label"] = np.nan
    manifest.loc[next(free), "color_cast_label"] = 0.9  # in [0, 1], not in the profile's range
    manifest.loc[next(free), "color_cast_kind"] = "sepia"
    manifest.loc[next(free), "color_cast_position"] = 7
    manifest.loc[next(free), "profile"] = "other"
    manifest.loc[next(free), "split"] = "dev"
    manifest.loc[next(free), "is_clean"] = True
    manifest.loc[next(free), "mean_brightness"] = 1.5
    manifest.loc[next(free), "mean_brightness"] = np.nan
    manifest.loc[next(free), "sample_id"] = manifest.loc[0, "sample_id"]
    manifest.loc[next(free), "group"] = "stranger"
    manifest.loc[noisy[1], "pixels_sha256"] = manifest.loc[noisy[0], "pixels_sha256"]
    manifest.loc[manifest.index[manifest["blurriness_kind"].isna()][-1], "blurriness_label"] = 0.25
    one, two = next(free), next(free)
    parts = [f"{head}_{part}" for head in HEADS for part in ("kind", "parameters", "position", "label")]
    for column in ["image_id", "group", "split", *parts]:
        manifest.loc[two, column] = manifest.loc[one, column]
    return manifest


SAMPLES: list[Failed] = [
    ("samples.color_cast_label", "expect_column_values_to_be_between", "color_cast_label 1.7"),
    ("samples.color_cast_label", "expect_column_values_to_not_be_null", "None"),
    ("samples.color_cast_severity", "expect_column_values_to_be_between", "color_cast_severity 0.9"),
    ("samples.color_cast_kind", "expect_column_values_to_be_in_set", "color_cast_kind sepia"),
    ("samples.in_order", "expect_column_values_to_be_in_set", "in_order False"),
    ("samples.profile", "expect_column_values_to_be_in_set", "profile other"),
    ("samples.split", "expect_column_values_to_be_in_set", "split dev"),
    ("samples.is_clean_right", "expect_column_values_to_be_in_set", "is_clean_right False"),
    ("samples.mean_brightness", "expect_column_values_to_be_between", "mean_brightness 1.5"),
    ("samples.mean_brightness", "expect_column_values_to_not_be_null", "sample_id"),
    ("samples.sample_id", "expect_column_values_to_be_unique", "sample_id"),
    ("samples.recipe", "expect_column_values_to_be_unique", "recipe image/"),
    ("samples.noisy_pixels", "expect_column_values_to_be_unique", "noisy_pixels"),
    ("samples.blurriness_absent", "expect_column_values_to_be_between", "blurriness_absent 0.25"),
    ("groups.splits", "expect_column_values_to_be_in_set", "splits 2, group g"),
    ("images.groups", "expect_column_values_to_be_in_set", "groups 2, image_id image/"),
]


def spoil_whole(manifest: pd.DataFrame) -> pd.DataFrame:
    """Defects of the dataset as a whole."""
    manifest.loc[manifest["color_cast_kind"] == "warm", "color_cast_kind"] = "cool"
    manifest.loc[manifest["noise_kind"] == "poisson", "noise_kind"] = "gaussian"
    manifest.loc[manifest["split"] == "test", "split"] = "train"
    manifest["mean_brightness"] = np.float32(0.005)
    manifest["brightness_std"] = np.float32(0.0)
    return manifest


WHOLE: list[Failed] = [
    ("kinds.samples", "expect_column_values_to_be_between", "samples 0, head color_cast, kind warm"),
    ("kinds.samples", "expect_column_values_to_be_between", "samples 0, head noise, kind poisson"),
    ("samples.split", "expect_column_distinct_values_to_contain_set", "for example test"),
    ("groups", "expect_table_row_count_to_be_between", "found 8"),
    ("samples.mean_brightness", "expect_column_mean_to_be_between", "found 0.005"),
    ("samples.untouched", "expect_column_mean_to_be_between (min_value 0.5, max_value 0.7)", "found"),
    ("samples.mean_brightness", "expect_column_values_to_be_between", "mostly 0.95"),
    ("samples.brightness_std", "expect_column_values_to_be_between", "brightness_std 0"),
]


def spoil_formula(manifest: pd.DataFrame) -> pd.DataFrame:
    """Labels that do not follow from their measure, and a kind that is never severe."""
    row = next(row for row in with_head(manifest, "noise") if manifest.loc[row, "noise_kind"] != "camera")
    manifest.loc[row, "noise_label"] = 0.123
    row = with_head(manifest, "color_cast")[0]
    facts = json.loads(manifest.loc[row, "color_cast_parameters"])
    del facts["shift_ab"]
    manifest.loc[row, "color_cast_parameters"] = json.dumps(facts)
    row = with_head(manifest, "blurriness", "watermark")[0]
    columns = ["blurriness_position", "watermark_position"]
    manifest.loc[row, columns] = manifest.loc[row, columns[::-1]].tolist()
    row = manifest.index[manifest["blurriness_kind"].isna() & manifest["noise_kind"].notna()][-1]
    manifest.loc[row, "softness_px"] = 2.0  # soft, and not labelled so
    scale = PROFILES["calibrated"].scales["noise"]
    for number, row in enumerate(manifest.index[manifest["noise_kind"] == "camera"]):
        measure = 1.0 + number / 100
        manifest.loc[row, "noise_parameters"] = json.dumps({"rms_levels": measure})
        manifest.loc[row, "noise_label"] = scale.severity(measure)
    return manifest


FORMULA: list[Failed] = [
    ("samples.noise_off_formula", "expect_column_values_to_be_between", "noise_off_formula"),
    ("samples.color_cast_off_formula", "expect_column_values_to_not_be_null", "sample_id"),
    ("samples.in_profile_order", "expect_column_values_to_be_in_set", "in_profile_order False"),
    ("samples.softness_unlabelled", "expect_column_values_to_be_between", "softness_unlabelled 0.5"),
    ("kinds.high_label", "expect_column_values_to_be_between", "kind camera"),
]


@pytest.mark.parametrize(
    ("profile", "spoil", "expected", "nothing_else"),
    [
        ("seed", spoil_samples, SAMPLES, False),
        ("seed", spoil_whole, WHOLE, False),
        ("calibrated", spoil_formula, FORMULA, True),
    ],
    ids=["samples", "whole", "formula"],
)
def test_each_defect_of_a_dataset_is_named(
    profile: str, spoil: Spoil, expected: list[Failed], nothing_else: bool,
    params: Params, sections, sound, tmp_path: Path,
) -> None:  # fmt: skip
    limits, section = params.validation, sections[profile]
    if spoil is spoil_whole:  # with one degraded sample per image, 0.6 of the samples would be untouched
        limits = limits.model_copy(update={"min_groups": 9})
        section = section.model_copy(update={"samples_per_image": 1})
    folder = planted(sound[profile], tmp_path / "planted", spoil)
    lines = failures(lambda: validate_training_set(limits, section, folder, tmp_path / "r"))
    assert_named(lines, expected)
    assert not nothing_else or len(lines) == len(expected), lines


def test_a_small_dataset_is_not_refused_by_chance(params: Params, sections) -> None:
    section = params.validation.model_copy(update={"clean_share_tolerance": 0.01})
    low, high = clean_share_limits(section, sections["seed"], PROFILES["seed"], 62)
    assert high - low > 0.3
    low, high = clean_share_limits(section, sections["seed"], PROFILES["seed"], 10**8)
    assert (low + high) / 2 == pytest.approx((1 + 30 * 0.2) / 31)
    assert high - low == pytest.approx(0.02)
    number = samples_for_certainty(1 / 8)
    assert (7 / 8) ** number < 1e-6 < (7 / 8) ** (number - 1)
    assert samples_for_certainty(1.0) == 1


def test_an_incomplete_dataset_is_not_validated(params: Params, sections, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError):
        validate_training_set(params.validation, sections["seed"], tmp_path / "nothing", tmp_path)
