"""The contract of profile `calibrated`: labels follow their measure, in one order, for every kind alike."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from quality_model.data.checks import validate_training_set
from quality_model.data.training_set.generate import generate
from quality_model.degrade import PROFILES
from quality_model.errors import ValidationError
from quality_model.params import GenerateParams, Params
from quality_model.records import CleanImage

from .conftest import failures, plant_in, write_table

Labels = npt.NDArray[np.float32]
Plant = Callable[[Callable[[pd.DataFrame, Labels], pd.DataFrame]], Path]


@pytest.fixture(scope="module")
def calibrated(generating: GenerateParams) -> GenerateParams:
    return generating.model_copy(update={"profile": "calibrated", "samples_per_image": 40})


@pytest.fixture(scope="module")
def calibrated_set(
    tmp_path_factory: pytest.TempPathFactory,
    params: Params,
    calibrated: GenerateParams,
    images: list[CleanImage],
) -> Path:
    place = tmp_path_factory.mktemp("calibrated")
    generate(calibrated, params.limits, write_table(place / "images", images), place / "training")
    return place / "training"


def test_a_calibrated_set_meets_every_expectation(
    params: Params, calibrated: GenerateParams, calibrated_set: Path, tmp_path: Path
) -> None:
    result = validate_training_set(params.validation, calibrated, calibrated_set, tmp_path)

    assert (result["passed"], result["failed"]) == (True, 0)
    ranges = [entry for entry in result["expectations"] if entry["column"] == "high_label"]
    assert ranges[0]["checked"] == sum(len(kinds) for kinds in PROFILES["calibrated"].kinds.values())


def _with(manifest: pd.DataFrame, *heads: str) -> list[int]:
    return manifest.index[manifest[[f"{head}_kind" for head in heads]].notna().all(axis=1)].tolist()


def spoil(manifest: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Each defect in rows of its own."""
    row = next(row for row in _with(manifest, "noise") if manifest.loc[row, "noise_kind"] != "speckle")
    manifest.loc[row, "noise_label"] = labels[row, 3] = 0.123  # off the formula
    row = _with(manifest, "color_cast")[0]
    facts = json.loads(manifest.loc[row, "color_cast_parameters"])
    del facts["shift_ab"]
    manifest.loc[row, "color_cast_parameters"] = json.dumps(facts)
    row = _with(manifest, "blurriness", "watermark")[0]
    columns = ["blurriness_position", "watermark_position"]
    manifest.loc[row, columns] = manifest.loc[row, columns[::-1]].tolist()  # the mark before the blur
    row = manifest.index[manifest["blurriness_kind"].isna() & manifest["noise_kind"].notna()][-1]
    manifest.loc[row, "softness_px"] = 2.0  # soft, and not labelled so
    return manifest


@pytest.fixture(scope="module")
def told(
    params: Params,
    calibrated: GenerateParams,
    calibrated_set: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[str]:
    """What is told about a set with these defects, and with one kind that is only mild."""

    def spoil_all(manifest: pd.DataFrame, labels: Labels) -> pd.DataFrame:
        manifest = spoil(manifest, labels)
        speckled = manifest.index[manifest["noise_kind"] == "speckle"]
        scale = PROFILES["calibrated"].scales["noise"]
        for number, row in enumerate(speckled):  # true to the formula, but never severe
            measure = 1.0 + number / 100
            manifest.loc[row, "noise_parameters"] = json.dumps({"rms_levels": measure})
            manifest.loc[row, "noise_label"] = labels[row, 3] = scale.severity(measure)
        return manifest

    folder = plant_in(calibrated_set, tmp_path_factory.mktemp("spoilt"), spoil_all)
    with pytest.raises(ValidationError) as caught:
        validate_training_set(params.validation, calibrated, folder, tmp_path_factory.mktemp("report"))
    return failures(caught.value)


@pytest.mark.parametrize(
    ("where", "expectation", "example"),
    [
        ("samples.noise_off_formula", "values_to_be_between", "noise_off_formula"),
        ("samples.color_cast_off_formula", "values_to_not_be_null", "sample_id"),
        ("samples.in_profile_order", "values_to_be_in_set", "in_profile_order False"),
        ("samples.softness_unlabelled", "values_to_be_between", "softness_unlabelled 0.5"),
        ("kinds.high_label", "values_to_be_between", "kind speckle"),
    ],
)
def test_a_defect_is_named_with_an_example(
    told: list[str], where: str, expectation: str, example: str
) -> None:
    lines = [line for line in told if line.startswith(f"{where}: expect_column_{expectation}")]
    assert len(lines) == 1, told
    assert example in lines[0]
    assert "1 of" in lines[0]


def test_nothing_else_is_told(told: list[str]) -> None:
    assert len(told) == 5, told
