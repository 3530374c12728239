import pytest

from quality_model.data.sources import PRESETS, open_source
from quality_model.errors import UsageError


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


@pytest.mark.parametrize(
    "name", ["", " ", "nonsense", "a/b/c", "./missing", "/missing/folder", "~/missing", "..x"]
)
def test_a_value_that_names_nothing_is_refused_before_the_network_is_asked(source, limits, name):
    with pytest.raises(UsageError):
        open_source(source(dataset=name), limits)


def test_a_file_is_not_a_folder(source, limits, tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UsageError, match="is a file"):
        open_source(source(dataset=str(tmp_path / "a.jpg")), limits)


def test_a_folder_here_is_suggested_for_a_bare_word(source, limits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday").mkdir()
    with pytest.raises(UsageError, match=r"\./holiday"):
        open_source(source(dataset="holiday"), limits)
    assert open_source(source(dataset="./holiday"), limits).name == "folder holiday"


def test_an_existing_folder_wins_over_a_data_set_of_that_name(source, limits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ethz" / "food101").mkdir(parents=True)
    assert open_source(source(dataset="ethz/food101"), limits).name == "folder food101"


def test_a_folder_can_be_named_from_the_home_folder(source, limits, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert open_source(source(dataset="~/mine"), limits).name == "folder mine"
