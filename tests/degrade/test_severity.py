"""A severity is a function of one measure: 0 at nothing, 1 at the worst, and rising between."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quality_model.core.decoding import Pixels
from quality_model.core.views import squeezed as resize
from quality_model.degrade import severity
from quality_model.degrade.calibrated.point_spread import blur, edge_sigma, gaussian_kernel, source_softness
from quality_model.degrade.severity import SCALES
from quality_model.records import HEADS, Head

heads = st.sampled_from(HEADS)


@given(heads, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_severity_rises_with_its_measure_from_0_to_1(head: Head, one: float, other: float) -> None:
    scale = SCALES[head]
    low, high = sorted((one, other))

    assert scale.severity(0.0) == 0.0
    assert scale.severity(scale.worst) == pytest.approx(1.0)
    assert scale.severity(scale.worst * (1.0 + 9.0 * other)) == pytest.approx(1.0)
    assert scale.severity(scale.measure_at(one)) == pytest.approx(one, abs=1e-9)
    assert scale.measure_at(low) <= scale.measure_at(high)
    assert scale.severity(low * scale.worst) <= scale.severity(high * scale.worst)


@pytest.mark.parametrize("head", HEADS)
def test_the_table_of_the_docstring_is_true(head: Head) -> None:
    (row,) = re.findall(rf"^\| {head} \|.*$", severity.__doc__ or "", flags=re.MULTILINE)
    *_, knee, worst, quarter, half, three_quarters = (cell.strip() for cell in row.strip("|").split("|"))

    scale = SCALES[head]
    assert (scale.knee, scale.worst) == (float(knee), float(worst))
    for written, wanted in ((quarter, 0.25), (half, 0.5), (three_quarters, 0.75)):
        assert float(written) == pytest.approx(scale.measure_at(wanted), rel=0.04)


def sharp(photo: Pixels) -> Pixels:
    return photo[0:448:2, 30:478:2]


def test_a_sharp_photograph_is_not_soft_and_a_blurred_one_is_by_about_its_blur(photo: Pixels) -> None:
    assert source_softness(sharp(photo), enlarged_by=0.5) == 0.0
    for sigma_px in (1.5, 3.0):
        blurred = blur(sharp(photo), gaussian_kernel(sigma_px))
        assert source_softness(blurred, enlarged_by=0.5) == pytest.approx(sigma_px, rel=0.4)


def test_an_enlarged_image_is_soft_however_sharp_its_edges_look(photo: Pixels) -> None:
    enlarged = resize(resize(photo, 56), 112)

    assert source_softness(enlarged, enlarged_by=2.0) > 0.6
    assert source_softness(enlarged, enlarged_by=4.0) > source_softness(enlarged, enlarged_by=2.0)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_image_has_no_edges_that_could_be_soft(level: int) -> None:
    plain = np.full((32, 32, 3), level, dtype=np.uint8)

    assert edge_sigma(plain) == 0.0
    assert source_softness(plain, enlarged_by=1.0) == 0.0
