"""Images that are soft already, mostly for being enlarged, do not count as clean."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from quality_model.core.decoding import Pixels, resize
from quality_model.data.training_set.generate import generate
from quality_model.data.training_set.store import TrainingSet
from quality_model.degrade.severity import SCALES


@pytest.fixture(scope="module")
def half_of_them_small(photo: Pixels) -> list[Pixels]:
    """Six images of 128 x 128 pixels, and six that are a fourth of that."""
    large = [resize(photo[30 * n : 30 * n + 256, 20 * n : 20 * n + 256], 128) for n in range(6)]
    return [*large, *(resize(image, 32) for image in large)]


def test_enlarged_images_are_labelled_counted_and_told_and_others_stay_clean(
    half_of_them_small: list[Pixels],
    write_images,
    section,
    limits,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = write_images(tmp_path / "images", half_of_them_small)
    made = section(profile="calibrated", image_size=64, samples_per_image=3)
    with caplog.at_level(logging.WARNING, logger="quality_model.data.training_set"):
        summary = generate(made, limits, table, tmp_path / "training")

    assert summary["soft_images"] == 6
    assert "6 of 12 images are soft already, mostly for being enlarged to 64 px" in caplog.text
    training_set = TrainingSet.open(tmp_path / "training")
    manifest = training_set.manifest
    kept = manifest[manifest["sample_id"].str.endswith("#00")]
    assert kept["is_clean"].tolist() == [True] * 6 + [False] * 6
    assert kept["blurriness_kind"].tolist()[6:] == ["soft_source"] * 6
    soft = manifest[manifest["image_id"] >= "image/0006"]
    assert not soft["is_clean"].any()
    at_least = SCALES["blurriness"].severity(float(soft["softness_px"].min()))
    assert at_least > 0.3
    assert training_set.labels[soft.index, 1].min() >= np.float32(at_least)
    assert training_set.marker["expected_clean_share"] == pytest.approx(0.5 * (1 + 3 * 0.2) / 4)


def test_profile_seed_calls_every_image_clean_as_the_original_did(
    half_of_them_small: list[Pixels], write_images, section, limits, tmp_path: Path
) -> None:
    table = write_images(tmp_path / "images", half_of_them_small)
    made = section(profile="seed", image_size=64, samples_per_image=1)
    summary = generate(made, limits, table, tmp_path / "training")

    training_set = TrainingSet.open(tmp_path / "training")
    assert summary["soft_images"] == 0
    assert not training_set.labels[::2].any()
    assert training_set.manifest["is_clean"][::2].all()


def test_some_samples_are_delivered_clean_ones_too_and_the_manifest_tells_how(
    crops: list[Pixels], write_images, section, limits, tmp_path: Path
) -> None:
    table = write_images(tmp_path / "images", crops)
    generate(section(profile="calibrated"), limits, table, tmp_path / "training")

    manifest = TrainingSet.open(tmp_path / "training").manifest
    delivered = manifest["delivery"].map(json.loads)
    assert any(delivered[manifest["is_clean"]])
    assert not any(delivered[::6])  # images as they are
    assert 0.5 < np.mean([bool(facts) for facts in delivered[1::6]]) < 0.8
    assert {name for facts in delivered for name in facts} == {"factor", "quality", "sampling"}


def test_calibrated_bytes_do_not_depend_on_the_number_of_workers(
    crops: list[Pixels], write_images, section, limits, tmp_path: Path
) -> None:
    table = write_images(tmp_path / "images", crops[:12])
    for workers in (1, 2):
        made = section(profile="calibrated", workers=workers, samples_per_image=2)
        generate(made, limits, table, tmp_path / f"{workers}")

    one, two = (TrainingSet.open(tmp_path / f"{workers}") for workers in (1, 2))
    assert one.data_sha256 == two.data_sha256
