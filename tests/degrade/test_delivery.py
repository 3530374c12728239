"""What happens to images on their way, and how soft an image is before anything is done to it."""

import numpy as np
import pytest

from quality_model.core.decoding import Pixels, resize
from quality_model.degrade import calibrated_profile
from quality_model.degrade.calibrated_profile import CalibratedProfile
from quality_model.degrade.delivery import QUALITIES, SMALLEST_FACTOR, deliver
from quality_model.degrade.point_spread import blur, gaussian_kernel
from quality_model.degrade.randomness import SampleRandomness, Stream
from quality_model.degrade.softness import edge_sigma, source_softness


def sharp(photo: Pixels) -> Pixels:
    return photo[0:448:2, 30:478:2]


def test_images_are_recompressed_or_rescaled_or_both_or_neither_within_bounds(photo: Pixels) -> None:
    image = photo[:48, 200:248]
    before = image.copy()
    seen = set()
    for number in range(80):
        delivered, facts = deliver(image, Stream(f"{number}"))
        assert delivered.shape == image.shape
        assert delivered.dtype == np.uint8
        assert facts.keys() <= {"factor", "quality", "sampling"}
        assert SMALLEST_FACTOR <= facts.get("factor", 1.0) <= 1.0
        assert QUALITIES[0] <= facts.get("quality", QUALITIES[0]) <= QUALITIES[1]
        assert np.array_equal(delivered, image) or facts
        seen.add(("factor" in facts, "quality" in facts))
    assert seen == {(one, other) for one in (True, False) for other in (True, False)}
    assert np.array_equal(image, before)


def test_a_delivered_image_still_looks_like_itself(photo: Pixels) -> None:
    image = sharp(photo)[:96, 60:156]
    for number in range(20):
        delivered, _ = deliver(image, Stream(f"{number}"))
        assert np.abs(delivered.astype(int) - image).mean() < 12


def test_delivery_changes_no_label(photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, profile = resize(photo, 48), CalibratedProfile()
    names = [f"{number}#01" for number in range(30)]
    delivered = [profile.degrade(clean, SampleRandomness(3, name)) for name in names]
    monkeypatch.setattr(calibrated_profile, "deliver", lambda image, stream: (image, {}))
    kept = [profile.degrade(clean, SampleRandomness(3, name)) for name in names]

    assert any(sample.delivery for sample in delivered)
    for one, other in zip(delivered, kept, strict=True):
        assert one.applied == other.applied
        assert np.array_equal(one.image, other.image) or one.delivery


def test_a_sharp_photograph_is_not_soft(photo: Pixels) -> None:
    assert source_softness(sharp(photo), enlarged_by=0.5) == 0.0


def test_a_blurred_photograph_is_soft_by_about_its_blur(photo: Pixels) -> None:
    softness = [
        source_softness(blur(sharp(photo), gaussian_kernel(sigma_px)), enlarged_by=0.5)
        for sigma_px in (1.5, 3.0)
    ]

    assert softness[0] == pytest.approx(1.5, rel=0.4)
    assert softness[1] == pytest.approx(3.0, rel=0.4)


def test_an_enlarged_image_is_soft_however_sharp_its_edges_look(photo: Pixels) -> None:
    enlarged = resize(resize(photo, 56), 112)

    assert source_softness(enlarged, enlarged_by=2.0) > 0.6
    assert source_softness(enlarged, enlarged_by=4.0) > source_softness(enlarged, enlarged_by=2.0)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_image_has_no_edges_to_be_soft(level: int) -> None:
    flat = np.full((32, 32, 3), level, dtype=np.uint8)

    assert edge_sigma(flat) == 0.0
    assert source_softness(flat, enlarged_by=1.0) == 0.0
