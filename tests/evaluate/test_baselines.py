"""What classical measures reach without training."""

from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from quality_model.data.dataset import TrainingSet
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.errors import UsageError
from quality_model.evaluate import metrics
from quality_model.evaluate.baselines import (
    CLASSICAL,
    baseline_rows,
    calc_grey_world_cast,
    calc_stroke_density,
    calc_wavelet_sigma,
    calc_white_patch_cast,
    calibrate,
    predict_baselines,
)
from quality_model.records import HEADS, Head, Split
from tests.train.conftest import write_dataset

SIZE_PX = 64
VARIANTS = 12
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")
SPLITS: tuple[Split, ...] = ("train", "test")


def predicted(samples: TrainingSet, max_samples: int = 60) -> dict[Head, dict[str, np.ndarray]]:
    """The baselines' scores of the rows that stand for the test split."""
    known, asked = (baseline_rows(samples, split, max_samples=max_samples, seed=1) for split in SPLITS)
    return predict_baselines(samples, known, asked)


def write_set(folder: Path, images: np.ndarray, labels: np.ndarray, splits: list[str]) -> TrainingSet:
    return write_dataset(folder, images, labels.astype(np.float32), {"split": splits})


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """Crops of four photographs, degraded by profile `seed`; every third crop is for the test."""
    images, labels, splits = [], [], []
    for number, name in enumerate(PHOTOS * 9):
        path = Path(skimage.__file__).parent / "data" / name
        with Image.open(path) as photo:
            y, x = divmod(number // len(PHOTOS), 3)
            box = (30 + 100 * x, 10 + 80 * y, 158 + 100 * x, 138 + 80 * y)
            clean = np.array(photo.convert("RGB").resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX, box))
        for variant in range(VARIANTS):
            made = PROFILES["seed"].degrade(clean, SampleRandomness(5, f"{number}#{variant}"))
            images.append(made.image)
            labels.append(made.labels)
            splits.append("test" if number % 3 == 0 else "train")
    return write_set(tmp_path_factory.mktemp("baselines") / "set", np.stack(images), np.array(labels), splits)


@pytest.mark.parametrize(
    ("head", "other", "name"),
    [("blurriness", "noise", "blur_effect"), ("noise", "blurriness", "estimate_sigma")],
)
def test_a_measure_made_for_a_degradation_is_well_correlated_with_it(samples, tmp_path, head, other, name):
    hidden_by = [HEADS.index(other), HEADS.index("watermark")]
    alone = np.flatnonzero((samples.labels[:, hidden_by] == 0).all(axis=1))
    splits = samples.manifest["split"].to_numpy()[alone].tolist()
    chosen = write_set(tmp_path / "alone", samples.images[alone], samples.labels[alone], splits)
    scores = predicted(chosen, 400)[head][name]
    labels = chosen.labels[chosen.indices("test"), HEADS.index(head)]
    assert metrics.measure(labels, scores)["spearman"] > 0.5
    assert metrics.measure(labels, scores)["r2"] > 0.3


def test_answers_are_labels_of_the_rows_that_stand_for_the_split_and_test_labels_change_none(
    samples, tmp_path
):
    splits = samples.manifest["split"].tolist()
    test, train = samples.indices("test"), samples.indices("train")
    other_test, other_train = np.array(samples.labels), np.array(samples.labels)
    other_test[test] = 1.0 - other_test[test]
    other_train[train] = 1.0 - other_train[train]
    first = predicted(samples)
    same = predicted(write_set(tmp_path / "a", samples.images, other_test, splits))
    other = predicted(write_set(tmp_path / "b", samples.images, other_train, splits))
    assert {head: set(found) for head, found in first.items()} == {
        head: set(CLASSICAL[head]) for head in HEADS
    }
    for head in HEADS:
        for name, scores in first[head].items():
            assert scores.shape == (60,)
            assert scores.min() >= 0.0 and scores.max() <= 1.0
            np.testing.assert_array_equal(scores, same[head][name])
            assert not np.array_equal(scores, other[head][name])


def test_a_split_without_samples_has_no_baseline(samples):
    with pytest.raises(UsageError, match="validation"):
        baseline_rows(samples, "validation", max_samples=60, seed=1)


def test_a_measure_that_falls_with_the_label_gets_a_falling_curve_that_ends_with_the_known_labels():
    labels = np.linspace(0.0, 1.0, 50)
    answers = calibrate(10.0 - labels, labels, np.array([10.0, 9.5, 9.0, 99.0, -99.0]))
    np.testing.assert_allclose(answers, [0.0, 0.5, 1.0, 0.0, 1.0], atol=0.02)


def test_a_measure_that_is_not_finite_gets_the_mean_label_and_spoils_no_other():
    labels, asked = np.array([0.0, 0.2, 0.4, 1.0]), np.array([1.0, np.nan, np.inf, 3.0])
    np.testing.assert_allclose(
        calibrate(np.array([1.0, 2.0, 3.0, np.nan]), labels, asked), [0.0, 0.4, 0.4, 0.4]
    )
    np.testing.assert_allclose(calibrate(np.full(4, np.nan), labels, asked), [0.4] * 4)


@pytest.mark.parametrize("std", [4.0, 20.0])
def test_the_wavelet_estimate_is_the_standard_deviation_of_the_noise_in_grey_levels(std):
    noise = np.random.default_rng(0).normal(128.0, std, (128, 128, 3))
    assert calc_wavelet_sigma(np.round(noise).astype(np.uint8)) == pytest.approx(std, rel=0.05)


def test_the_casts_are_distances_in_cielab():
    grey = np.full((32, 32, 3), 119, dtype=np.uint8)
    red = np.full((32, 32, 3), (255, 0, 0), dtype=np.uint8)
    for calc in (calc_grey_world_cast, calc_white_patch_cast):
        assert calc(grey) == pytest.approx(0.0, abs=0.05)
        assert calc(red) == pytest.approx(np.hypot(80.09, 67.2), abs=0.1)  # sRGB red in CIELAB, D65
    corner = red.copy()
    corner[:8, :8] = 255
    assert calc_white_patch_cast(corner) == pytest.approx(0.0, abs=0.05)


def test_text_on_a_plain_ground_is_strokes_and_a_broad_shape_is_not():
    from PIL import ImageDraw

    image = Image.new("RGB", (224, 224), (60, 90, 120))
    draw = ImageDraw.Draw(image)
    draw.rectangle((20, 20, 200, 100), fill=(200, 200, 200))
    assert calc_stroke_density(np.array(image)) < 0.001
    for x in range(20, 200, 12):
        draw.line((x, 130, x, 190), fill=(220, 220, 220), width=5)
    assert calc_stroke_density(np.array(image)) > 0.05
