"""Degradations in batches agree with those image by image: pixels, distributions and labels."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from quality_model.core.decoding import Pixels, resize
from quality_model.degrade import PROFILES, DegradedSample, SampleRandomness, delivery, marks, noise
from quality_model.degrade import point_spread as psf
from quality_model.degrade.calibrated_plan import Noise
from quality_model.degrade.randomness import Stream
from quality_model.records import HEADS
from quality_model.train.on_device import (
    BatchDegrader,
    SamplePlan,
    blurs,
    colours,
    degrade,
    draw_sample_plan,
    jpeg,
    noises,
)

CPU = torch.device("cpu")
CALIBRATED = PROFILES["calibrated"]
SIDE_PX = 64
NUM_SAMPLES = 120
MOST_LEVELS = 2
"""By how much kinds without randomness may differ."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clean(photo: Pixels) -> Pixels:
    return resize(photo, SIDE_PX)


@pytest.fixture(scope="module")
def plans() -> list[SamplePlan]:
    scale = SIDE_PX / 224
    return [draw_sample_plan(one, side_px=SIDE_PX, scale=scale) for one in randomness()]


@pytest.fixture(scope="module")
def one_by_one(clean: Pixels) -> list[DegradedSample]:
    return [CALIBRATED.degrade(clean, one) for one in randomness()]


@pytest.fixture(scope="module")
def together(clean: Pixels, plans: list[SamplePlan]) -> tuple[np.ndarray, np.ndarray]:
    batch = torch.from_numpy(np.stack([clean] * NUM_SAMPLES))
    samples, labels = degrade(batch, plans, torch.Generator().manual_seed(3))
    return samples.numpy(), labels


def randomness() -> list[SampleRandomness]:
    return [SampleRandomness(5, f"{number}") for number in range(NUM_SAMPLES)]


def levels(*images: Pixels) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()


def pixels(batch: Tensor) -> np.ndarray:
    return batch.permute(0, 2, 3, 1).numpy().astype(int)


def test_blurs_of_all_shapes_in_one_batch_agree(clean: Pixels) -> None:
    kernels = [
        kernel
        for sigma_px in (0.3, 1.0, 2.4, 8.0)
        for kernel in (
            psf.gaussian_kernel(sigma_px),
            psf.box_kernel(3 * sigma_px + 1),
            psf.disc_kernel(2 * sigma_px),
            psf.motion_kernel(5 * sigma_px, 33.0),
        )
    ]
    blurred = pixels(blurs.convolve(levels(*[clean] * len(kernels)), kernels).round().clamp(0, 255))
    for kernel, found in zip(kernels, blurred, strict=True):
        assert np.abs(found - psf.blur(clean, kernel)).max() <= MOST_LEVELS


def test_a_kernel_wider_than_the_image_agrees(clean: Pixels) -> None:
    small, kernel = clean[:20, :20], psf.gaussian_kernel(8.0)
    found = pixels(blurs.convolve(levels(small), [kernel]).round())[0]
    assert np.abs(found - psf.blur(small, kernel)).max() <= MOST_LEVELS


@pytest.mark.parametrize("side_px", [SIDE_PX, 41])
def test_low_resolutions_agree(photo: Pixels, side_px: int) -> None:
    clean = resize(photo, side_px)
    ways = [(factor, way) for factor in (1.3, 2.0, 5.7) for way in psf.INTERPOLATIONS]
    found = blurs.resample(
        levels(*[clean] * len(ways)),
        [psf.reduced_side(side_px, factor) for factor, _ in ways],
        [cv2.INTER_AREA] * len(ways),
        [psf.INTERPOLATIONS[way] for _, way in ways],
    )
    for one, (factor, way) in zip(pixels(found), ways, strict=True):
        assert np.abs(one - psf.low_resolution(clean, factor, way)).max() <= MOST_LEVELS


@pytest.mark.parametrize("sampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("side_px", [SIDE_PX, 41])
def test_recompression_agrees_but_for_coefficients_in_the_middle_of_two_steps(
    photo: Pixels, sampling: str, side_px: int
) -> None:
    clean, qualities = resize(photo, side_px), (60, 75, 96)
    found = pixels(jpeg.recompress(levels(*[clean] * 3), qualities, sampling))
    for one, quality in zip(found, qualities, strict=True):
        difference = np.abs(one - delivery.recompress(clean, quality, sampling))
        done = np.abs(one - clean.astype(int))
        assert difference.mean() < min(1.0, done.mean() / 2)
        assert (difference > MOST_LEVELS).mean() < 0.08


def test_casts_are_the_same(clean: Pixels, plans: list[SamplePlan]) -> None:
    tables = [plan.degradations.cast.table for plan in plans if plan.degradations.cast is not None]
    found = colours.recolour(levels(*[clean] * len(tables)), torch.from_numpy(np.stack(tables)))
    for one, table in zip(pixels(found), tables, strict=True):
        assert np.array_equal(one, cv2.LUT(clean, table[None]))


@pytest.mark.parametrize("kind", marks.KINDS)
def test_marks_agree(clean: Pixels, kind: str) -> None:
    mark = marks.draw(kind, SIDE_PX, 1.0, Stream("mark"))
    colour, coverage = (torch.from_numpy(part[None]) for part in (mark.colour, mark.coverage))
    for opacity in (0.06, 0.5, 1.0):
        found = pixels(colours.stamp(levels(clean), colour, coverage, torch.tensor([opacity])))[0]
        assert np.abs(found - marks.stamp(clean, mark, opacity)).max() <= 1


def test_colours_are_those_of_another_library_in_lab(clean: Pixels) -> None:
    from skimage.color import rgb2lab

    found = colours.to_lab(levels(clean)).permute(0, 2, 3, 1).numpy()[0]
    np.testing.assert_allclose(found, rgb2lab(clean), atol=0.02)


def test_samples_without_noise_agree_from_end_to_end(
    plans: list[SamplePlan], one_by_one: list[DegradedSample], together: tuple[np.ndarray, np.ndarray]
) -> None:
    samples, labels = together
    quiet = [row for row, plan in enumerate(plans) if plan.degradations.noise is None]
    for row in quiet:
        difference = np.abs(samples[row].astype(int) - one_by_one[row].image)
        if plans[row].delivery.quality is None:
            assert difference.max() <= MOST_LEVELS
        else:
            assert difference.mean() < 2
    np.testing.assert_allclose(labels[quiet], [one_by_one[row].labels for row in quiet], atol=0.005)
    assert len(quiet) > NUM_SAMPLES / 3


def test_samples_with_noise_have_the_labels_of_the_same_plan(
    plans: list[SamplePlan], one_by_one: list[DegradedSample], together: tuple[np.ndarray, np.ndarray]
) -> None:
    noisy = [row for row, plan in enumerate(plans) if plan.degradations.noise is not None]
    difference = together[1][noisy] - np.array([one_by_one[row].labels for row in noisy])
    assert together[0].dtype == np.uint8
    assert together[1].dtype == np.float32
    assert np.abs(difference.mean(axis=0)).max() < 0.01
    assert difference.std(axis=0).max() < 0.04


def noise_by_image(kind: str, grain_px: float) -> Callable[[Pixels], Pixels]:
    """The noise that `noise_in_batches` makes, by the code that works image by image."""

    def make(flat: Pixels) -> Pixels:
        plan = Noise(kind, 20.0, grain_px, Stream("noise"))
        amount = plan.amount(float(flat.mean()), float(np.square(flat.astype(float)).mean()))
        if kind == "salt_and_pepper":
            return noise.salt_and_pepper(flat, float(amount["share"]), plan.stream)
        if kind == "poisson":
            return noise.poisson(flat, int(amount["peak"]), plan.stream)
        if kind == "speckle":
            return noise.speckle(flat, float(amount["relative_std"]), plan.stream)
        return noise.grainy(flat, 20.0, plan.stream, coloured=kind == "gaussian", grain_sigma_px=grain_px)

    return make


def noise_in_batches(kind: str, grain_px: float, flat: Pixels) -> np.ndarray:
    plan = Noise(kind, 20.0, grain_px, Stream("noise"))
    return pixels(noises.add(levels(flat), [plan], torch.Generator().manual_seed(1)))[0]


def channels(field: np.ndarray) -> float:
    return float(np.corrcoef(field[..., 0].ravel(), field[..., 1].ravel())[0, 1])


def neighbours(field: np.ndarray) -> float:
    return float(np.corrcoef(field[:, 1:].ravel(), field[:, :-1].ravel())[0, 1])


@pytest.mark.parametrize("level", [0, 30, 128, 250])
@pytest.mark.parametrize(
    ("kind", "grain_px"),
    [*((kind, 0.0) for kind in CALIBRATED.kinds["noise"]), ("gaussian", 0.7), ("luminance", 1.0)],
)
def test_noise_has_the_same_distribution(kind: str, grain_px: float, level: int) -> None:
    flat = np.full((192, 192, 3), level, dtype=np.uint8)
    expected = noise_by_image(kind, grain_px)(flat).astype(int)
    found = noise_in_batches(kind, grain_px, flat)

    assert found.mean() == pytest.approx(expected.mean(), abs=1.0)
    few = kind == "salt_and_pepper"  # hundreds of pixels of the tens of thousands
    assert found.std() == pytest.approx(expected.std(), rel=0.15 if few else 0.05, abs=0.05)
    np.testing.assert_allclose(
        np.quantile(found, (0.02, 0.25, 0.5, 0.75, 0.98)),
        np.quantile(expected, (0.02, 0.25, 0.5, 0.75, 0.98)),
        atol=0.03 * 255 if kind == "poisson" else 3,  # counts of few photons lie far apart
    )
    if expected.std() > 1:
        assert channels(found) == pytest.approx(channels(expected), abs=0.05)
        assert neighbours(found[..., 0]) == pytest.approx(neighbours(expected[..., 0]), abs=0.05)


def test_the_same_batch_comes_out_the_same_and_another_one_otherwise(clean: Pixels) -> None:
    batch, degrader = np.stack([clean] * 12), BatchDegrader(CPU)
    first, labels = degrader(batch, randomness()[:12], 0.3)
    degrader(batch, randomness()[12:24], 0.3)
    again, labels_again = degrader(batch, randomness()[:12], 0.3)
    other, _ = degrader(batch, randomness()[1:13], 0.3)

    assert torch.equal(first, again)
    assert np.array_equal(labels, labels_again)
    assert not torch.equal(first, other)
    assert np.array_equal(batch, np.stack([clean] * 12))


@pytest.mark.parametrize("level", [0, 255])
def test_plain_images_can_be_degraded(level: int, plans: list[SamplePlan]) -> None:
    flat = torch.full((NUM_SAMPLES, SIDE_PX, SIDE_PX, 3), level, dtype=torch.uint8)
    samples, labels = degrade(flat, plans, torch.Generator())
    assert samples.shape == flat.shape
    assert labels.shape == (NUM_SAMPLES, len(HEADS))
    assert ((labels >= 0) & (labels <= 1)).all()
