"""Several sources taken together."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quality_model.data.sources import open_source
from quality_model.data.sources.download import download
from quality_model.data.sources.freshness import source_sha256
from quality_model.data.sources.table import ImagesTable
from quality_model.errors import UsageError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of six images each; the second's first image is also in the first."""
    made = []
    rng = np.random.default_rng(5)
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(6):
            pixels = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
        made.append(folder)
    (made[1] / "0.png").write_bytes((made[0] / "0.png").read_bytes())
    return made[0], made[1]


def groups(folder: Path) -> list[str]:
    return list(ImagesTable.open(folder).frame(["group"])["group"])


def test_sources_without_numbers_share_the_images(source, limits, folders, tmp_path):
    both = source(dataset=f"{folders[0]} + {folders[1]}", num_images=7)
    marker = download(both, limits, tmp_path / "out")
    found = Counter(group.split("/")[0] for group in groups(tmp_path / "out"))
    assert found == {"folder first": 4, "folder second": 3}
    assert marker["source"] == "folder first + folder second"


def test_a_number_behind_a_source_is_its_share(source, limits, folders, tmp_path):
    both = source(dataset=f"{folders[0]}*1 + {folders[1]}", num_images=5)
    download(both, limits, tmp_path / "out")
    found = Counter(group.split("/")[0] for group in groups(tmp_path / "out"))
    assert found == {"folder first": 1, "folder second": 4}


def test_an_image_that_two_sources_hold_is_taken_once(source, limits, folders, tmp_path):
    both = source(dataset=f"{folders[0]} + {folders[1]}", num_images=12)
    marker = download(both, limits, tmp_path / "out")
    assert (marker["rows"], marker["duplicates"]) == (11, 1)


def test_folders_of_the_same_name_are_told_apart(source, limits, folders, tmp_path):
    for folder in folders:
        folder.rename(folder.with_name(f"of {folder.name}"))
        folder.mkdir()
        folder.with_name(f"of {folder.name}").rename(folder / "photos")
    both = source(dataset=f"{folders[0] / 'photos'} + {folders[1] / 'photos'}", num_images=11)
    marker = download(both, limits, tmp_path / "out")
    assert marker["source"] == "folder photos + folder photos (2)"
    assert len(set(ImagesTable.open(tmp_path / "out").frame(["image_id"])["image_id"])) == 11
    assert Counter(group.split("/")[0] for group in groups(tmp_path / "out")) == {
        "folder photos": 6,
        "folder photos (2)": 5,
    }


@pytest.mark.parametrize("dataset", ["{0}*9 + {1}", "{0}*2 + {1}*2", "{0}*0 + {1}"])
def test_numbers_that_do_not_add_up_are_refused(source, limits, folders, dataset):
    with pytest.raises(UsageError, match="do not make up 5 images"):
        open_source(source(dataset=dataset.format(*folders), num_images=5), limits)


def test_a_new_image_in_any_of_the_folders_is_noticed(source, limits, folders):
    both = source(dataset=f"{folders[0]} + {folders[1]}", num_images=7)
    before = source_sha256(both, limits)
    assert source_sha256(both, limits) == before
    Image.new("RGB", (16, 16)).save(folders[1] / "new.png")
    assert source_sha256(both, limits) != before
