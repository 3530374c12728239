"""An image that ends or hangs what decodes it costs its own row, in a small folder too."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quality_model.score import ScoreSummary
from tests.hostile import decoders_obey_images, hostile

from .conftest import MeanScorer, PerCoreScorer, rows_of

Run = Callable[..., ScoreSummary]


@pytest.fixture(autouse=True)
def obeying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoders_obey_images(tmp_path / "site", monkeypatch)


@pytest.fixture
def forty(tmp_path: Path, crops: list[bytes]) -> Path:
    """Forty images: fewer than pay off for a second process."""
    folder = tmp_path / "forty"
    folder.mkdir()
    for number, data in enumerate(crops):
        (folder / f"{number:02d}.jpg").write_bytes(data)
    return folder


def error_of(output: Path, key: str) -> set[object]:
    """What the row of an input holds."""
    return set(rows_of(output).set_index("key").astype(object).loc[key].map(str))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("scorer", [MeanScorer, PerCoreScorer])
def test_an_image_that_crashes_its_decoder_is_a_row_in_a_small_folder_too(
    forty: Path, crops: list[bytes], run: Run, tmp_path: Path, workers: int, scorer: type[MeanScorer]
) -> None:
    (forty / "07.jpg").write_bytes(hostile(crops[7], "crash"))
    summary = run(forty, workers=workers, scorer=scorer())
    assert (summary.inputs, summary.scored) == (40, 39)
    assert "worker_died" in error_of(tmp_path / "scores", "07.jpg")


def test_an_image_that_ends_its_process_quietly_is_a_row_too(
    forty: Path, crops: list[bytes], run: Run, tmp_path: Path
) -> None:
    (forty / "39.jpg").write_bytes(hostile(crops[39], "exit"))
    assert run(forty, workers=0).scored == 39
    assert "worker_died" in error_of(tmp_path / "scores", "39.jpg")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_hangs_its_decoder_is_a_row_in_a_small_folder_too(
    forty: Path, crops: list[bytes], run: Run, tmp_path: Path, workers: int
) -> None:
    (forty / "00.jpg").write_bytes(hostile(crops[0], "hang"))
    assert run(forty, workers=workers, limits={"max_seconds": 2.0}).scored == 39
    assert "too_slow" in error_of(tmp_path / "scores", "00.jpg")


def test_one_image_alone_is_read_in_a_worker_process(crops: list[bytes], run: Run, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jpg").write_bytes(hostile(crops[0], "crash"))
    (tmp_path / "one" / "b.jpg").write_bytes(crops[1])
    assert run(tmp_path / "one", workers=0).scored == 1
    assert "worker_died" in error_of(tmp_path / "scores", "a.jpg")


def test_what_a_decoder_raises_that_nobody_thought_of_is_a_row(
    forty: Path, crops: list[bytes], run: Run, tmp_path: Path
) -> None:
    (forty / "01.jpg").write_bytes(hostile(crops[1], "raise"))
    (forty / "02.jpg").write_bytes(hostile(crops[2], "no memory"))
    assert run(forty, workers=0).scored == 38
    assert "broken" in error_of(tmp_path / "scores", "01.jpg")
