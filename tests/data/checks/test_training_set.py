"""Each property of a training dataset: a sound set has it, a planted defect is caught and named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from quality_model.data.checks import validate_training_set
from quality_model.data.checks.training_set import clean_share_limits, samples_for_certainty
from quality_model.degrade import PROFILES
from quality_model.errors import IncompleteError, ValidationError
from quality_model.params import GenerateParams, Params
from quality_model.records import HEADS

from .conftest import NUM_IMAGES, failures

Labels = npt.NDArray[np.float32]
Plant = Callable[[Callable[[pd.DataFrame, Labels], pd.DataFrame]], Path]


def check(
    params: Params, generating: GenerateParams, folder: Path, report: Path, **limits: Any
) -> dict[str, Any]:
    return validate_training_set(
        params.validation.model_copy(update=limits), generating, folder, report / "report"
    )


def test_a_sound_set_meets_every_expectation(
    params: Params, generating: GenerateParams, sound_set: Path, tmp_path: Path
) -> None:
    result = check(params, generating, sound_set, tmp_path)
    assert (result["passed"], result["failed"]) == (True, 0)
    kinds = next(entry for entry in result["expectations"] if entry["table"] == "kinds")
    assert kinds["checked"] == sum(len(kinds) for kinds in PROFILES["seed"].kinds.values())


def _rows_with(manifest: pd.DataFrame, head: str) -> list[int]:
    return manifest.index[manifest[f"{head}_kind"].notna()].tolist()


def spoil_rows(manifest: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """One defect per row, each in rows of its own."""
    free = iter(_rows_with(manifest, "color_cast"))
    noisy = iter(_rows_with(manifest, "noise")[-2:])
    row = next(free)
    manifest.loc[row, "color_cast_label"] = labels[row, 0] = 1.7
    row = next(free)
    manifest.loc[row, "color_cast_label"] = labels[row, 0] = np.nan
    row = next(free)
    manifest.loc[row, "color_cast_label"] = labels[row, 0] = 0.9  # in [0, 1], not in the profile's range
    manifest.loc[next(free), "color_cast_kind"] = "sepia"
    manifest.loc[next(free), "color_cast_position"] = 7
    labels[next(free), 1] += 0.01
    manifest.loc[next(free), "profile"] = "other"
    manifest.loc[next(free), "split"] = "dev"
    manifest.loc[next(free), "is_clean"] = True
    manifest.loc[next(free), "mean_brightness"] = 1.5
    manifest.loc[next(free), "mean_brightness"] = np.nan
    manifest.loc[next(free), "sample_id"] = manifest.loc[0, "sample_id"]
    manifest.loc[next(free), "group"] = "stranger"
    first = next(noisy)
    manifest.loc[next(noisy), "pixels_sha256"] = manifest.loc[first, "pixels_sha256"]
    quiet = manifest.index[manifest["blurriness_kind"].isna()][-1]
    manifest.loc[quiet, "blurriness_label"] = labels[quiet, 1] = 0.25
    one, two = next(free), next(free)
    columns = [f"{head}_{part}" for head in HEADS for part in ("kind", "parameters", "position", "label")]
    for column in ["image_id", "group", "split", *columns]:
        manifest.loc[two, column] = manifest.loc[one, column]
    labels[two] = labels[one]
    return manifest


@pytest.fixture(scope="module")
def spoiled_rows(
    params: Params, generating: GenerateParams, plant: Plant, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """What is told about a set with many defects."""
    with pytest.raises(ValidationError) as caught:
        check(params, generating, plant(spoil_rows), tmp_path_factory.mktemp("rows"))
    return failures(caught.value)


@pytest.mark.parametrize(
    ("where", "expectation", "example"),
    [
        ("samples.color_cast_label", "values_to_be_between", "color_cast_label 1.7"),
        ("samples.color_cast_label", "values_to_not_be_null", "None"),
        ("samples.color_cast_severity", "values_to_be_between", "color_cast_severity 0.9"),
        ("samples.color_cast_kind", "values_to_be_in_set", "color_cast_kind sepia"),
        ("samples.in_order", "values_to_be_in_set", "in_order False"),
        ("samples.label_difference", "values_to_be_between", "label_difference 0.01"),
        ("samples.label_difference", "values_to_not_be_null", "sample_id"),
        ("samples.profile", "values_to_be_in_set", "profile other"),
        ("samples.split", "values_to_be_in_set", "split dev"),
        ("samples.clean_as_told", "values_to_be_in_set", "clean_as_told False"),
        ("samples.mean_brightness", "values_to_be_between (min_value 0, max_value 1)", "mean_brightness 1.5"),
        ("samples.mean_brightness", "values_to_not_be_null", "sample_id"),
        ("samples.sample_id", "values_to_be_unique", "sample_id"),
        ("samples.recipe", "values_to_be_unique", "recipe p"),
        ("samples.noisy_pixels", "values_to_be_unique", "noisy_pixels"),
        ("samples.blurriness_absent", "values_to_be_between", "blurriness_absent 0.25"),
        ("groups.splits", "values_to_be_in_set", "splits 2, group g"),
        ("images.groups", "values_to_be_in_set", "groups 2, image_id p"),
    ],
)
def test_a_defect_in_one_sample_is_named_with_an_example(
    spoiled_rows: list[str], where: str, expectation: str, example: str
) -> None:
    lines = [line for line in spoiled_rows if line.startswith(f"{where}: expect_column_{expectation}")]
    assert len(lines) == 1, spoiled_rows
    assert example in lines[0]
    assert " fail" in lines[0]


def spoil_whole(manifest: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Defects of the set as a whole."""
    manifest.loc[manifest["color_cast_kind"] == "warm", "color_cast_kind"] = "cool"
    manifest.loc[manifest["noise_kind"] == "poisson", "noise_kind"] = "gaussian"
    manifest.loc[manifest["split"] == "test", "split"] = "train"
    manifest["mean_brightness"] = np.float32(0.005)
    manifest["brightness_std"] = np.float32(0.0)
    return manifest.iloc[:-1]


@pytest.fixture(scope="module")
def spoiled_whole(
    params: Params, generating: GenerateParams, plant: Plant, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        check(params, generating, plant(spoil_whole), tmp_path_factory.mktemp("whole"), min_groups=9)
    return failures(caught.value)


@pytest.mark.parametrize(
    ("where", "expectation", "told"),
    [
        ("kinds.samples", "expect_column_values_to_be_between", "samples 0, head color_cast, kind warm"),
        ("kinds.samples", "expect_column_values_to_be_between", "samples 0, head noise, kind poisson"),
        ("samples.split", "expect_column_distinct_values_to_contain_set", "for example test"),
        ("samples", "expect_table_row_count_to_equal", f"found {NUM_IMAGES * 31 - 1}"),
        ("groups", "expect_table_row_count_to_be_between", "found 8"),
        ("samples.mean_brightness", "expect_column_mean_to_be_between", "found 0.005"),
        ("samples.mean_brightness", "expect_column_values_to_be_between", "mostly 0.95"),
        ("samples.brightness_std", "expect_column_values_to_be_between", "brightness_std 0"),
        ("images.samples", "expect_column_values_to_be_in_set", "samples 30, image_id p23"),
    ],
)
def test_a_defect_of_the_whole_set_is_named(
    spoiled_whole: list[str], where: str, expectation: str, told: str
) -> None:
    lines = [line for line in spoiled_whole if line.startswith(f"{where}: {expectation} ")]
    assert any(told in line for line in lines), spoiled_whole


def test_a_share_of_clean_samples_that_the_profile_cannot_give_is_named(
    params: Params, generating: GenerateParams, sound_set: Path, tmp_path: Path
) -> None:
    """Told that each image gave one degraded sample, 0.6 of the samples would be clean."""
    one = generating.model_copy(update={"samples_per_image": 1})
    with pytest.raises(ValidationError) as caught:
        check(params, one, sound_set, tmp_path)
    assert any(
        line.startswith("samples.clean: expect_column_mean_to_be_between (min_value 0.5, max_value 0.7)")
        for line in failures(caught.value)
    )


def test_a_small_set_is_not_held_to_what_chance_decides(params: Params, generating: GenerateParams) -> None:
    section = params.validation.model_copy(update={"clean_share_tolerance": 0.01})
    profile = PROFILES["seed"]
    low, high = clean_share_limits(section, generating, profile, 62)
    assert high - low > 0.3
    low, high = clean_share_limits(section, generating, profile, 10**8)
    assert (low + high) / 2 == pytest.approx((1 + 30 * 0.2) / 31)
    assert high - low == pytest.approx(0.02)


def test_a_kind_must_occur_once_its_absence_is_less_likely_than_one_in_a_million() -> None:
    number = samples_for_certainty(1 / 8)
    assert (7 / 8) ** number < 1e-6 < (7 / 8) ** (number - 1)
    assert samples_for_certainty(1.0) == 1


def test_a_set_that_is_not_complete_is_not_validated(
    params: Params, generating: GenerateParams, tmp_path: Path
) -> None:
    with pytest.raises(IncompleteError):
        check(params, generating, tmp_path / "nothing", tmp_path)
