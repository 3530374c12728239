"""Every command that reads a result refuses in the same words what is no finished result of this release."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from quality_model.cli import run
from quality_model.curate.finished import open_finished
from quality_model.score.thumbnails import read_thumbnails

COMMANDS = (
    ("gallery",),
    ("filter", "--dry-run"),
    ("duplicates",),
    ("thresholds", "--target-flag-rate", "0.1"),
    ("calibrate", "--labels", "labels.csv"),
)


def change(**facts: object) -> Callable[[Path], Path]:
    def changed(output: Path) -> Path:
        marker = output / "job.json"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | facts))
        return output

    return changed


def unfinished(output: Path) -> Path:
    (output / "job.json").unlink()
    return output


def cut(output: Path) -> Path:
    part = next((output / "data").glob("part-*"))
    part.write_bytes(part.read_bytes()[:-10])
    return output


@pytest.mark.parametrize(
    ("harmed", "code", "words"),
    [
        (lambda output: output.parent / "images", 2, "images is no result of `score`"),
        (lambda output: output.parent / "none", 2, "none is not there"),
        (lambda output: output.parent / "owt", 2, "Results beside it: out."),
        (lambda output: output.parent, 2, "Results in it: "),
        (lambda output: output.rename(os.fsdecode(b"out\xff")), 2, r"out\xff is not UTF-8"),
        (unfinished, 10, "out is not finished"),
        (change(schema_version=99), 2, "has version 99 of the columns"),
        (change(schema_version=0), 2, "has version 0 of the columns"),
        (change(model=None), 10, "does not say what made it"),
        (change(files=None), 10, "is not a completion marker"),
        (cut, 10, "is not the file that job.json describes"),
    ],
)
def test_what_is_no_finished_result_is_refused_by_all_commands(
    place: Path, harmed: Callable[[Path], Path], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = harmed(place / "out")
    said = set()
    for name, *options in COMMANDS:
        assert run([name, os.path.relpath(output), *options]) == code
        said.add(capsys.readouterr().err)
    (message,) = said
    assert words in message and len(message.splitlines()) == 2


def test_a_result_says_what_it_is_of(place: Path) -> None:
    result = open_finished(Path("out"))
    assert result.root == result.base == place / "images"
    assert result.is_tree and result.kind == "images"
    assert result.rows(["key"]).num_rows == sum(result.files.values()) == 11
    assert result.thresholds["blurriness"] == 0.4


@pytest.mark.parametrize("name", ["noise=1", "key=a", "a:b"])
def test_the_name_of_a_folder_is_neither_a_column_nor_an_address(place: Path, score_into, name: str) -> None:
    score_into("images", Path(name) / "out")
    output = str(Path(name) / "out")
    assert read_thumbnails(Path(output))
    assert run(["gallery", output]) == 0
    assert run(["filter", output, "--max", "noise=.3", "--to", f"{name}.parquet"]) == 0
    assert pq.read_schema(f"{name}.parquet").names[0] == "key"
