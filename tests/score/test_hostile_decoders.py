"""An image that ends or hangs what decodes it costs its own row, in a small folder too."""

from pathlib import Path

import pytest

from tests.hostile import decoders_obey_images, hostile

from .conftest import MeanScorer, PerCoreScorer, rows_of

ERROR_CODES = {"crash": "worker_died", "exit": "worker_died", "hang": "too_slow", "raise": "broken"}
"""That of an image which asks for too much memory depends on who notices."""


@pytest.fixture(autouse=True)
def obeying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoders_obey_images(tmp_path / "site", monkeypatch)


@pytest.mark.parametrize(
    ("workers", "scorer", "behaviours"),
    [(0, MeanScorer, [*ERROR_CODES, "no memory"]), (2, PerCoreScorer, ["crash", "raise"])],
)
def test_what_an_image_does_to_its_decoder_is_a_row_with_an_error_code(
    crops, run, tmp_path, workers, scorer, behaviours
):
    """Forty images are fewer than pay off for a second process: another process decodes them all the same."""
    folder = tmp_path / "forty"
    folder.mkdir()
    for number, data in enumerate(crops):
        (folder / f"{number:02d}.jpg").write_bytes(data)
    for number, behaviour in enumerate(behaviours):
        (folder / f"{7 * number:02d}.jpg").write_bytes(hostile(crops[7 * number], behaviour))
    summary = run(folder, workers=workers, scorer=scorer(), limits={"max_seconds": 2.0}, max_error_share=1.0)
    assert (summary.inputs, summary.scored) == (40, 40 - len(behaviours))
    codes = rows_of(tmp_path / "scores").set_index("key")["error_code"].dropna()
    expected = [ERROR_CODES[behaviour] for behaviour in behaviours if behaviour in ERROR_CODES]
    assert codes[: len(expected)].to_list() == expected


def test_one_image_alone_is_read_in_a_worker_process(crops, run, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jpg").write_bytes(hostile(crops[0], "crash"))
    (tmp_path / "one" / "b.jpg").write_bytes(crops[1])
    assert run(tmp_path / "one", workers=0, max_error_share=1.0).scored == 1
    assert set(rows_of(tmp_path / "scores")["error_code"].dropna()) == {"worker_died"}
