"""Whether a source holds other images than last time."""

from pathlib import Path

import pytest
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.data.sources.freshness import is_known, remember, source_sha256
from quality_model.errors import SourceError, UsageError
from quality_model.params import LimitsParams, SourceParams


@pytest.fixture
def folder(tmp_path: Path, photo: Pixels) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(photo[:64, number * 64 : number * 64 + 64]).save(folder / f"{number}.png")
    return folder


def of(folder: Path | str, params: SourceParams, limits: LimitsParams) -> str:
    return source_sha256(params.model_copy(update={"dataset": str(folder)}), limits)


def test_a_folder_is_the_same_until_an_image_comes_goes_or_changes(
    folder: Path, params, limits: LimitsParams, photo: Pixels
) -> None:
    seen = [of(folder, params.source, limits)]
    assert of(folder, params.source, limits) == seen[0]
    Image.fromarray(photo[64:128, :64]).save(folder / "new.png")
    seen.append(of(folder, params.source, limits))
    (folder / "0.png").unlink()
    seen.append(of(folder, params.source, limits))
    Image.fromarray(photo[128:192, :64]).save(folder / "1.png")
    seen.append(of(folder, params.source, limits))
    assert len(set(seen)) == 4


def test_a_relative_folder_is_below_the_root_that_is_given(
    folder: Path, params, limits: LimitsParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = params.source.model_copy(update={"dataset": f"./{folder.name}"})
    monkeypatch.chdir(folder.parent)
    here = source_sha256(section, limits)
    monkeypatch.chdir("/")
    assert source_sha256(section, limits, root=folder.parent) == here


def test_other_files_of_a_folder_do_not_count(folder: Path, params, limits: LimitsParams) -> None:
    before = of(folder, params.source, limits)
    (folder / "notes.txt").write_text("x")
    assert of(folder, params.source, limits) == before


def test_another_request_of_the_same_source_is_another_source(params, limits: LimitsParams) -> None:
    source = params.source
    assert source_sha256(source, limits) == source_sha256(source, limits)
    more = source.model_copy(update={"num_images": source.num_images + 1})
    assert source_sha256(more, limits) != source_sha256(source, limits)


def test_what_was_remembered_is_known_and_nothing_else(tmp_path: Path) -> None:
    assert not is_known(tmp_path, "a")
    remember(tmp_path, "a")
    assert is_known(tmp_path, "a")
    assert not is_known(tmp_path, "b")


def test_a_source_that_is_not_there_is_an_error(params, limits: LimitsParams) -> None:
    with pytest.raises((SourceError, UsageError)):
        of("./nowhere", params.source, limits)
