"""Profile `calibrated`: what is done, in which order, and that a label means the same whatever was done."""

import hashlib
import json

import numpy as np
import pytest

from quality_model.core.decoding import Pixels, resize
from quality_model.degrade import (
    PROFILES,
    AppliedDegradation,
    DegradedSample,
    SampleRandomness,
    calibrated_profile,
    noise,
    white_balance,
)
from quality_model.degrade.randomness import Stream
from quality_model.degrade.severity import SCALES
from quality_model.records import HEADS, Head

CALIBRATED = PROFILES["calibrated"]
ORDER = ("blurriness", "noise", "color_cast", "watermark")
SIDE_PX = 64
NUM_SAMPLES = 400


@pytest.fixture(scope="module")
def clean(photo: Pixels) -> Pixels:
    image = resize(photo, SIDE_PX)
    image.setflags(write=False)  # whoever writes to it fails
    return image


@pytest.fixture(scope="module")
def drawn(clean: Pixels) -> list[DegradedSample]:
    return [CALIBRATED.degrade(clean, SampleRandomness(7, f"{number}#01")) for number in range(NUM_SAMPLES)]


@pytest.fixture
def undelivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images as they are right after the last degradation."""
    monkeypatch.setattr(calibrated_profile, "deliver", lambda image, stream: (image, {}))


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, undelivered: None):
    """Makes the profile apply these heads and no other, each with one kind; its seed stays."""

    def _only(**kinds: str) -> None:
        monkeypatch.setattr(
            type(CALIBRATED), "kinds", {**CALIBRATED.kinds, **{head: (kind,) for head, kind in kinds.items()}}
        )
        stream = SampleRandomness.stream

        def planned(self: SampleRandomness, operation: str) -> Stream:
            found = stream(self, operation)
            return Planned(list(kinds)) if operation == "plan" else found

        monkeypatch.setattr(SampleRandomness, "stream", planned)

    return _only


class Planned(Stream):
    """A plan that is not drawn."""

    __slots__ = ("_heads",)

    def __init__(self, heads: list[str]) -> None:
        super().__init__("planned")
        self._heads = heads

    def integer(self, low: int, high: int) -> int:
        return len(self._heads)

    def sample(self, items, count: int):
        return self._heads


def of(sample: DegradedSample, head: Head) -> AppliedDegradation:
    (found,) = (one for one in sample.applied if one.head == head)
    return found


def all_of(drawn: list[DegradedSample], head: Head) -> list[AppliedDegradation]:
    return [one for sample in drawn for one in sample.applied if one.head == head]


def test_labels_are_finite_and_between_0_and_1(drawn: list[DegradedSample]) -> None:
    labels = np.array([sample.labels for sample in drawn])

    assert np.isfinite(labels).all()
    assert labels.min() >= 0
    assert labels.max() <= 1


def test_degradations_come_in_the_order_of_life(drawn: list[DegradedSample]) -> None:
    for sample in drawn:
        heads = [one.head for one in sample.applied]
        assert heads == [head for head in ORDER if head in heads]
        assert [one.position for one in sample.applied] == list(range(len(heads)))


def test_every_count_of_degradations_and_every_head_is_as_frequent_as_any_other(
    drawn: list[DegradedSample],
) -> None:
    counts = np.bincount([len(sample.applied) for sample in drawn], minlength=5)
    heads = [len(all_of(drawn, head)) for head in HEADS]

    assert np.abs(counts / NUM_SAMPLES - 0.2).max() < 4.5 * np.sqrt(0.16 / NUM_SAMPLES)
    assert np.abs(np.array(heads) / NUM_SAMPLES - 0.5).max() < 4.5 * np.sqrt(0.25 / NUM_SAMPLES)


def test_a_share_of_the_samples_is_left_untouched_as_the_profile_says(drawn: list[DegradedSample]) -> None:
    untouched = np.mean([not sample.applied for sample in drawn])

    assert untouched == pytest.approx(CALIBRATED.untouched_share, abs=4.5 * np.sqrt(0.16 / NUM_SAMPLES))


@pytest.mark.parametrize("head", HEADS)
def test_every_kind_occurs_mild_and_severe(drawn: list[DegradedSample], head: Head) -> None:
    for kind in CALIBRATED.kinds[head]:
        labels = [one.label for one in all_of(drawn, head) if one.kind == kind]
        assert len(labels) > 10, kind
        assert min(labels) < 0.3, kind
        assert max(labels) > 0.5, kind


@pytest.mark.parametrize("head", HEADS)
def test_a_label_is_the_severity_of_the_measure_that_is_recorded(
    drawn: list[DegradedSample], head: Head
) -> None:
    for one in all_of(drawn, head):
        assert one.label == SCALES[head].severity(float(one.parameters[SCALES[head].measure]))


def test_parameters_and_delivery_are_plain_json(drawn: list[DegradedSample]) -> None:
    for sample in drawn:
        for facts in (sample.delivery, *(one.parameters for one in sample.applied)):
            assert json.loads(json.dumps(dict(facts), allow_nan=False)) == facts


def test_the_same_seed_and_name_give_the_same_bytes_and_others_others(
    clean: Pixels, drawn: list[DegradedSample]
) -> None:
    for number in (12, 3, 8):  # whatever was made before
        again = CALIBRATED.degrade(clean, SampleRandomness(7, f"{number}#01"))
        assert np.array_equal(again.image, drawn[number].image)
        assert again.applied == drawn[number].applied
    other = [CALIBRATED.degrade(clean, SampleRandomness(8, f"{number}#01")).labels for number in range(5)]
    assert other != [sample.labels for sample in drawn[:5]]


def test_the_clean_sample_is_the_image_itself_with_labels_of_0(clean: Pixels) -> None:
    sample = CALIBRATED.keep(clean, SampleRandomness(1, "a#00"))

    assert np.array_equal(sample.image, clean)
    assert sample.labels == (0.0, 0.0, 0.0, 0.0)


def test_a_soft_image_is_labelled_so_when_kept_and_when_degraded(clean: Pixels) -> None:
    expected = SCALES["blurriness"].severity(2.0)
    kept = CALIBRATED.keep(clean, SampleRandomness(1, "a#00"), softness_px=2.0)
    assert np.array_equal(kept.image, clean)
    assert kept.labels == (0.0, expected, 0.0, 0.0)

    for number in range(60):
        randomness = SampleRandomness(7, f"{number}#01")
        sharp = CALIBRATED.degrade(clean, randomness)
        soft = CALIBRATED.degrade(clean, randomness, softness_px=2.0)
        blurred = [one for one in sharp.applied if one.head == "blurriness"]
        if not blurred:
            assert of(soft, "blurriness").kind == "soft_source"
            assert of(soft, "blurriness").label == expected
        else:
            both_px = np.hypot(blurred[0].parameters["sigma_px"], 2.0)
            assert of(soft, "blurriness").parameters["sigma_px"] == pytest.approx(both_px)
        assert np.array_equal(soft.image, sharp.image)


def test_lengths_follow_the_scale_and_severities_do_not(clean: Pixels) -> None:
    """A crop of a large image is blurred by as many pixels as the whole would be."""
    for number in range(60):
        randomness = SampleRandomness(7, f"{number}#01")
        small, large = (CALIBRATED.degrade(clean, randomness, scale=scale) for scale in (0.5, 1.0))
        for one, other in zip(small.applied, large.applied, strict=True):
            assert (one.head, one.kind) == (other.head, other.kind)
            if "width_px" in one.parameters and one.parameters["width_px"] > 3.0:
                assert other.parameters["width_px"] == pytest.approx(2 * one.parameters["width_px"], rel=0.2)
                assert other.label == pytest.approx(one.label, abs=0.1)


NOISES = CALIBRATED.kinds["noise"]


@pytest.mark.parametrize("kind", NOISES)
def test_noise_of_equal_labels_changes_pixels_by_as_much_whatever_its_kind(
    clean: Pixels, only, kind: str
) -> None:
    only(noise=kind)
    for number in range(12):
        sample = CALIBRATED.degrade(clean, SampleRandomness(5, f"{number}"))
        rms = np.sqrt(np.mean((sample.image.astype(np.float64) - clean) ** 2))  # noise came alone
        assert of(sample, "noise").label == pytest.approx(
            min(1.0, np.log(1 + rms / 5) / np.log(1 + 60 / 5)), abs=1e-4
        )


def test_a_mark_over_noise_hides_some_of_it_and_the_label_of_the_noise_says_so(clean: Pixels, only) -> None:
    only(noise="gaussian")
    bare = [CALIBRATED.degrade(clean, SampleRandomness(5, f"{number}")) for number in range(12)]
    only(noise="gaussian", watermark="box")
    marked = [CALIBRATED.degrade(clean, SampleRandomness(5, f"{number}")) for number in range(12)]

    falls = [
        of(one, "noise").label - of(other, "noise").label for one, other in zip(bare, marked, strict=True)
    ]
    assert min(falls) >= 0
    assert max(falls) > 0.02


@pytest.mark.parametrize("kind", CALIBRATED.kinds["color_cast"])
def test_a_cast_is_labelled_by_its_shift_in_lab_by_another_library_too(
    photo: Pixels, only, kind: str
) -> None:
    from skimage.color import rgb2lab

    only(color_cast=kind)
    image = photo[:96, 150:246]
    for number in range(6):
        sample = CALIBRATED.degrade(image, SampleRandomness(5, f"{number}"))
        moved = (rgb2lab(sample.image) - rgb2lab(image))[..., 1:].reshape(-1, 2).mean(axis=0)
        measured = of(sample, "color_cast").parameters["shift_ab"]
        assert measured == pytest.approx(float(np.hypot(*moved)), rel=0.05, abs=0.1)


def test_a_mark_hides_a_part_of_the_cast_under_it(photo: Pixels, only) -> None:
    image = photo[:96, 150:246]
    shifts = []
    for heads in ({"color_cast": "daylight"}, {"color_cast": "daylight", "watermark": "box"}):
        only(**heads)
        samples = [CALIBRATED.degrade(image, SampleRandomness(5, f"{number}")) for number in range(6)]
        shifts.append([of(sample, "color_cast").parameters["shift_ab"] for sample in samples])
    alone, below_a_mark = np.array(shifts)
    assert (below_a_mark < alone).all()
    assert (below_a_mark > 0.3 * alone).all()


@pytest.mark.parametrize("kind", CALIBRATED.kinds["watermark"])
def test_a_mark_is_labelled_by_its_colour_difference_by_another_library_too(
    clean: Pixels, only, kind: str
) -> None:
    from skimage.color import deltaE_cie76, rgb2lab

    only(watermark=kind)
    for number in range(6):
        sample = CALIBRATED.degrade(clean, SampleRandomness(5, f"{number}"))
        difference = deltaE_cie76(rgb2lab(sample.image), rgb2lab(clean))
        measured = of(sample, "watermark").parameters["rms_difference"]
        assert measured == pytest.approx(np.sqrt(np.square(difference).mean()), rel=0.02, abs=0.05)


def test_blurs_of_equal_labels_leave_as_much_detail_whatever_their_kind(photo: Pixels, only) -> None:
    image = photo[20:116, 150:246]
    left = []
    for kind in CALIBRATED.kinds["blurriness"]:
        only(blurriness=kind)
        samples = [CALIBRATED.degrade(image, SampleRandomness(5, f"{number}")) for number in range(40)]
        near = [sample for sample in samples if 0.5 < of(sample, "blurriness").label < 0.7]
        assert near, kind
        left.append(np.mean([np.abs(np.diff(sample.image.astype(int), axis=1)).mean() for sample in near]))
    assert max(left) < 1.5 * min(left)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_image_can_be_degraded(level: int) -> None:
    flat = np.full((32, 32, 3), level, dtype=np.uint8)
    for number in range(60):
        sample = CALIBRATED.degrade(flat, SampleRandomness(1, f"{number}"))
        assert sample.image.shape == flat.shape
        assert np.isfinite(sample.labels).all()
    assert np.all(flat == level)


def test_noise_with_grain_keeps_its_standard_deviation_and_its_neighbours_are_alike() -> None:
    flat = np.full((128, 128, 3), 128, dtype=np.uint8)
    fine, grained = (
        noise.grainy(flat, 20.0, Stream("n"), coloured=True, grain_sigma_px=grain).astype(int) - 128
        for grain in (0.0, 1.0)
    )

    assert fine.std() == pytest.approx(20.0, rel=0.03)
    assert grained.std() == pytest.approx(20.0, rel=0.03)
    alike = [np.corrcoef(field[:, 1:].ravel(), field[:, :-1].ravel())[0, 1] for field in (fine, grained)]
    assert abs(alike[0]) < 0.03
    assert alike[1] > 0.5


def test_noise_of_brightness_alone_moves_all_channels_alike() -> None:
    flat = np.full((64, 64, 3), 128, dtype=np.uint8)
    noisy = noise.grainy(flat, 20.0, Stream("n"), coloured=False, grain_sigma_px=0.0)

    assert np.array_equal(noisy, np.repeat(noisy[..., :1], 3, axis=2))
    assert noisy.std() == pytest.approx(20.0, rel=0.05)


@pytest.mark.parametrize("level", [0, 40, 160])
def test_speckle_grows_with_the_brightness(level: int) -> None:
    flat = np.full((96, 96, 3), level, dtype=np.uint8)
    noisy = noise.speckle(flat, 0.15, Stream("n"))

    assert noisy.std() == pytest.approx(0.15 * level, rel=0.04, abs=0.3)
    assert noisy.mean() == pytest.approx(level, abs=0.5)


def test_what_a_seed_makes_stays_the_same_for_ever(photo: Pixels) -> None:
    """If this fails, datasets made before can no longer be made again: bump the profile's name.

    What is drawn is the same everywhere. Pixels and labels are the same bytes on one machine; another
    one's vector instructions may round the last digit otherwise, which the tolerances allow for.
    """
    clean = resize(photo, 96)
    samples = [CALIBRATED.degrade(clean, SampleRandomness(42, f"astronaut#{n:02d}")) for n in range(40)]
    done = "|".join(f"{one.head} {one.kind}" for sample in samples for one in sample.applied)
    labels = np.array([sample.labels for sample in samples]).sum(axis=0)
    levels = np.array([sample.image for sample in samples], dtype=np.float64).mean(axis=(1, 2, 3))

    assert hashlib.sha256(done.encode()).hexdigest() == (
        "6f0470a97fe1df27e21cd6c2db4d974c2e5b1f40f7f016b06e31f9d8cf440768"
    )
    assert labels == pytest.approx([6.895155, 7.328621, 9.177092, 10.408930], abs=2e-4)
    assert levels.mean() == pytest.approx(118.67981, abs=2e-3)
    assert (levels * np.arange(1, 41)).sum() == pytest.approx(96635.170, abs=2.0)


def test_a_cast_applies_to_what_the_noise_left_of_the_image(clean: Pixels, only) -> None:
    """The measured shift is that of the noisy image, the last one before the cast."""
    only(noise="gaussian", color_cast="daylight")
    sample = CALIBRATED.degrade(clean, SampleRandomness(5, "1"))
    facts = of(sample, "color_cast").parameters
    gains = np.array([facts[f"gain_{name}"] for name in "rgb"])
    only(noise="gaussian")
    noisy = CALIBRATED.degrade(clean, SampleRandomness(5, "1")).image

    assert np.array_equal(white_balance.apply_gains(noisy, gains), sample.image)
