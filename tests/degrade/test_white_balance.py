"""Casts of a wrong white balance: their direction, their size, and what they leave alone."""

import numpy as np
import pytest

from quality_model.core.decoding import Pixels
from quality_model.degrade import white_balance as wb

PATHS = {
    "warm": wb.daylight_path("warm"),
    "cool": wb.daylight_path("cool"),
    "green": wb.tint_path("green"),
    "magenta": wb.tint_path("magenta"),
    "mixed": wb.mixed_path(120.0),
}
GREY = np.full((6, 6, 3), 128, dtype=np.uint8)


def lab(pixels: Pixels) -> np.ndarray:
    """CIELAB by another library."""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(pixels))


@pytest.mark.parametrize("name", PATHS)
def test_a_path_begins_with_no_cast_and_goes_on_to_ever_stronger_ones(name: str) -> None:
    path = PATHS[name]

    assert np.allclose(path[0], 1.0)
    assert path.min() > 0
    shifts = [wb.mean_shift_ab(GREY, wb.apply_gains(GREY, gains)) for gains in path[::4]]
    assert np.all(np.diff(shifts) > 0)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("level", [60, 128])
def test_a_cast_keeps_the_luminance_of_a_grey(name: str, level: int) -> None:
    grey = np.full((2, 2, 3), level, dtype=np.uint8)
    gains = wb.at_shift(PATHS[name], 15.0)

    lightness = lab(wb.apply_gains(grey, gains))[0, 0, 0]
    assert lightness == pytest.approx(lab(grey)[0, 0, 0], abs=0.6)


def test_warm_is_redder_than_blue_cool_the_reverse_and_a_tint_green_or_magenta() -> None:
    casts = {
        name: wb.apply_gains(GREY, wb.at_shift(path, 15.0))[0, 0].astype(int) for name, path in PATHS.items()
    }

    assert casts["warm"][0] > 128 > casts["warm"][2]
    assert casts["cool"][0] < 128 < casts["cool"][2]
    assert casts["green"][1] > max(casts["green"][0], casts["green"][2])
    assert casts["magenta"][1] < min(casts["magenta"][0], casts["magenta"][2])


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("shift_ab", [2.0, 5.0, 12.0, 23.0])
def test_a_mid_grey_is_shifted_by_what_was_asked_for(name: str, shift_ab: float) -> None:
    cast = wb.apply_gains(GREY, wb.at_shift(PATHS[name], shift_ab))

    tolerance = 0.9  # whole grey levels
    assert wb.mean_shift_ab(GREY, cast) == pytest.approx(shift_ab, abs=tolerance)
    moved = lab(cast)[0, 0, 1:] - lab(GREY)[0, 0, 1:]
    assert np.hypot(*moved) == pytest.approx(shift_ab, abs=tolerance)


@pytest.mark.parametrize("name", PATHS)
def test_a_shift_out_of_reach_is_the_strongest_cast_of_the_path(name: str) -> None:
    assert np.allclose(wb.at_shift(PATHS[name], 1000.0), PATHS[name][-1])


def test_gains_of_1_change_nothing(photo: Pixels) -> None:
    assert np.array_equal(wb.apply_gains(photo, np.ones(3)), photo)


def test_an_image_without_change_and_a_black_one_have_no_shift(photo: Pixels) -> None:
    black = np.zeros((8, 8, 3), dtype=np.uint8)

    assert wb.mean_shift_ab(photo, photo) == 0.0
    assert wb.mean_shift_ab(black, wb.apply_gains(black, wb.at_shift(PATHS["warm"], 30.0))) == 0.0


def test_the_measured_shift_is_that_of_another_library(photo: Pixels) -> None:
    image = photo[:96, 150:246]
    cast = wb.apply_gains(image, wb.at_shift(PATHS["warm"], 20.0))

    moved = (lab(cast) - lab(image))[..., 1:].reshape(-1, 2).mean(axis=0)
    assert wb.mean_shift_ab(image, cast) == pytest.approx(np.hypot(*moved), rel=0.03)
