"""What the value of source.dataset means, several sources joined, and whether a source has changed."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quality_model.data.download import download, is_known_source, remember_source, source_sha256
from quality_model.data.images_table import ImagesTable
from quality_model.data.sources import PRESETS, open_source
from quality_model.errors import UsageError
from quality_model.records import without_folders

pytestmark = pytest.mark.usefixtures("decoded_here")


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


def groups(folder: Path) -> Counter[str]:
    """Images by the first part of their group."""
    with ImagesTable(folder) as table:
        return Counter(group.split("/")[0] for group in table.frame(["group"])["group"])


def test_the_presets_are_those_of_the_design():
    found = {name: (preset.repository, preset.image_column) for name, preset in PRESETS.items()}
    assert found == {
        "sample-photos": (None, None),
        "tiny-imagenet": ("zh-plus/tiny-imagenet", "image"),
        "cifar10": ("cifar10", "img"),
        "cifar100": ("uoft-cs/cifar100", "img"),
        "food101": ("ethz/food101", "image"),
        "flowers": ("nelorth/oxford-flowers", "image"),
        "cats-dogs": ("microsoft/cats_vs_dogs", "image"),
    }
    assert all(preset.description for preset in PRESETS.values())


def test_the_committed_parameters_name_a_source_that_needs_no_network(params):
    assert open_source(params.source, params.limits).name == "sample-photos"


def test_a_misspelt_preset_is_answered_with_the_nearest_one(source, limits):
    with pytest.raises(UsageError) as caught:
        open_source(source(dataset="tiny-imagnet"), limits)
    assert "Did you mean 'tiny-imagenet'?" in str(caught.value)
    assert "sample-photos" in str(caught.value) and "./folder" in str(caught.value)


@pytest.mark.parametrize("name", ["", "nonsense", "a/b/c", "./missing", "~/missing", "..x"])
def test_a_value_that_names_nothing_is_refused_before_the_network_is_asked(source, limits, name):
    with pytest.raises(UsageError):
        open_source(source(dataset=name), limits)


def test_a_file_is_not_a_folder(source, limits, tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UsageError, match="is a file"):
        open_source(source(dataset=str(tmp_path / "a.jpg")), limits)


def test_a_folder_is_named_by_a_path_and_a_bare_word_gets_a_hint(source, limits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "holiday").mkdir()
    (tmp_path / "ethz" / "food101").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"\./holiday"):
        open_source(source(dataset="holiday"), limits)
    for path, name in (("./holiday", "holiday"), ("~/holiday", "holiday"), ("ethz/food101", "food101")):
        assert open_source(source(dataset=path), limits).name == f"folder {name}"


@pytest.mark.parametrize(
    ("dataset", "shown"),
    [
        ("sample-photos", "sample-photos"),
        ("owner/name", "owner/name"),
        ("/home/someone/images/", "images"),
        ("../someone/images", "images"),
        (r"C:\Users\someone\images", "images"),
        ("/home/someone/images*7 + owner/name*3", "images*7 + owner/name*3"),
    ],
)
def test_an_expression_loses_the_paths_of_this_machine_and_nothing_else(dataset: str, shown: str) -> None:
    assert without_folders(dataset) == shown


@pytest.mark.parametrize(
    ("dataset", "num_images", "expected"),
    [
        ("{0} + {1}", 7, {"folder first": 4, "folder second": 3}),
        ("{0}*1 + {1}", 5, {"folder first": 1, "folder second": 4}),
    ],
)
def test_joined_sources_give_their_own_number_or_an_equal_share(
    source, limits, folders, tmp_path, dataset, num_images, expected
):
    both = source(dataset=dataset.format(*folders), num_images=num_images)
    summary = download(both, limits, tmp_path / "out")
    assert groups(tmp_path / "out") == expected
    assert summary.source == "folder first + folder second"


def test_an_image_that_two_sources_contain_is_taken_once(source, limits, folders, tmp_path):
    both = source(dataset=f"{folders[0]} + {folders[1]}", num_images=12)
    summary = download(both, limits, tmp_path / "out")
    assert (summary.rows, summary.duplicates) == (11, 1)


def test_folders_of_the_same_name_get_numbers(source, limits, folders, tmp_path):
    for folder in folders:
        folder.rename(folder.with_name(f"of {folder.name}"))
        folder.mkdir()
        folder.with_name(f"of {folder.name}").rename(folder / "photos")
    both = source(dataset=f"{folders[0] / 'photos'} + {folders[1] / 'photos'}", num_images=11)
    assert download(both, limits, tmp_path / "out").source == "folder photos + folder photos (2)"
    assert groups(tmp_path / "out") == {"folder photos": 6, "folder photos (2)": 5}


@pytest.mark.parametrize("dataset", ["{0}*9 + {1}", "{0}*2 + {1}*2", "{0}*0 + {1}"])
def test_numbers_that_do_not_add_up_are_refused(source, limits, folders, dataset):
    with pytest.raises(UsageError, match="do not make up 5 images"):
        open_source(source(dataset=dataset.format(*folders), num_images=5), limits)


@pytest.mark.parametrize("joined", [False, True])
def test_a_source_changes_when_an_image_of_its_folders_comes_goes_or_changes(source, limits, folders, joined):
    section = source(dataset=f"{folders[0]} + {folders[1]}" if joined else str(folders[1]))
    seen = [source_sha256(section, limits)]
    (folders[1] / "notes.txt").write_text("no image")
    assert source_sha256(section, limits) == seen[0]
    Image.new("RGB", (16, 16)).save(folders[1] / "new.png")
    seen.append(source_sha256(section, limits))
    (folders[1] / "1.png").unlink()
    seen.append(source_sha256(section, limits))
    Image.new("RGB", (24, 16)).save(folders[1] / "2.png")
    seen.append(source_sha256(section, limits))
    assert len(set(seen)) == 4
    more = section.model_copy(update={"num_images": section.num_images + 1})
    assert source_sha256(more, limits) not in seen


def test_a_relative_folder_is_below_the_given_root(source, limits, folders, monkeypatch):
    section = source(dataset="./first")
    monkeypatch.chdir(folders[0].parent)
    here = source_sha256(section, limits)
    monkeypatch.chdir("/")
    assert source_sha256(section, limits, root=folders[0].parent) == here


def test_only_the_remembered_source_is_known(tmp_path: Path) -> None:
    assert not is_known_source(tmp_path, "a")
    remember_source(tmp_path, "a")
    assert is_known_source(tmp_path, "a")
    assert not is_known_source(tmp_path, "b")
