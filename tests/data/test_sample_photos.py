"""The embedded photographs: crops that the seed decides, for ever the same."""

import io
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from quality_model.core.decoding import decode
from quality_model.data.sample_photos import CROP_SIDE_PX, PHOTOGRAPHS, choose_crops
from quality_model.data.sources import open_source


@pytest.fixture(scope="module")
def crops(params):
    section = params.source.model_copy(update={"num_images": 27})
    return list(open_source(section, params.limits).images())


def test_crops_are_spread_evenly_over_the_photographs(crops):
    counts = Counter(image.group for image in crops)
    assert len(crops) == 27
    assert set(counts) == {photograph.group for photograph in PHOTOGRAPHS}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_every_crop_is_readable_square_and_never_enlarged(crops, limits):
    for image in crops:
        left, top, right, bottom = (int(n) for n in re.search(r"box (.*)", image.origin)[1].split(","))
        assert right - left == bottom - top >= CROP_SIDE_PX
        assert image.error_code is None
        assert (image.width, image.height) == (CROP_SIDE_PX, CROP_SIDE_PX)
        assert decode(image.data, limits).shape == (CROP_SIDE_PX, CROP_SIDE_PX, 3)
        assert Image.open(io.BytesIO(image.data)).format == "PNG"


def test_a_crop_is_where_its_origin_says(crops, photo):
    image = next(p for p in crops if p.group == "astronaut")
    assert image.origin.startswith("scikit-image 0.") and "skimage/data/astronaut.png" in image.origin
    left, top, right, bottom = (int(n) for n in re.search(r"box (.*)", image.origin)[1].split(","))
    expected = (
        Image.fromarray(photo).crop((left, top, right, bottom)).resize((256, 256), Image.Resampling.LANCZOS)
    )
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image.data))), np.asarray(expected))


def test_images_have_names_of_their_own(crops):
    assert crops[0].image_id == "astronaut/0000"
    assert len({image.image_id for image in crops}) == len(crops)
    assert len({image.sha256 for image in crops}) == len(crops)


def test_crops_have_several_scales(params):
    photograph = next(p for p in PHOTOGRAPHS if p.group == "astronaut")
    sides = {crop.side for crop in choose_crops(photograph, {"data/astronaut.png": (512, 512)}, 50, 1)}
    assert len(sides) > 20
    assert min(sides) < 300 and max(sides) > 450


def test_both_views_of_the_motorcycle_are_one_group():
    photograph = next(p for p in PHOTOGRAPHS if p.group == "motorcycle")
    sizes = dict.fromkeys(photograph.files, (741, 500))
    assert {crop.file for crop in choose_crops(photograph, sizes, 30, 1)} == set(photograph.files)


def test_the_seed_decides_the_crops_and_they_stay_the_same():
    photograph, sizes = PHOTOGRAPHS[0], {PHOTOGRAPHS[0].files[0]: (512, 512)}
    found = [(c.left, c.top, c.side) for c in choose_crops(photograph, sizes, 4, 42)]
    assert found == [(123, 73, 290), (46, 70, 410), (26, 5, 424), (16, 76, 282)]
    assert set(choose_crops(photograph, sizes, 9, 42)).isdisjoint(choose_crops(photograph, sizes, 9, 43))


def test_more_crops_are_a_continuation_of_fewer():
    photograph, sizes = PHOTOGRAPHS[0], {PHOTOGRAPHS[0].files[0]: (512, 512)}
    many = list(choose_crops(photograph, sizes, 20, 42))
    assert many[:5] == list(choose_crops(photograph, sizes, 5, 42))


def test_a_small_photograph_is_not_cut_twice_in_the_same_place():
    photograph = PHOTOGRAPHS[0]
    crops = list(choose_crops(photograph, {photograph.files[0]: (257, 257)}, 1000, 0))
    assert len(crops) == len(set(crops)) == 5


def test_the_heavy_packages_are_not_imported():
    script = (
        "import sys; from pathlib import Path; from quality_model.params_file import load_params;"
        "from quality_model.data.sources import open_source; p = load_params(Path('params.yaml'));"
        "next(open_source(p.source, p.limits).images()); import quality_model.data.checks;"
        "heavy = {'skimage', 'sklearn', 'scipy', 'torch', 'pandas', 'datasets', 'great_expectations'};"
        "heavy &= set(sys.modules);"
        "sys.exit(', '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
