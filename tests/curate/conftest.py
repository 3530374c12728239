"""Results of small collections whose scores are those of their pixels, and what a filter of them writes."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from quality_model.cli import run
from quality_model.core import storage
from quality_model.params import Params
from quality_model.score.inputs import named_inputs
from tests.score.conftest import encode, runner


def image(noise: int, blue: int = 0) -> bytes:
    """A PNG file whose scores are those of its channels: with red = green = blue = n all are n / 255."""
    return encode(np.full((8, 8, 3), (noise, noise, noise - blue), np.uint8), "PNG")


def rows_of(path: Path) -> dict[str, Any]:
    return {row["key"]: row for row in pq.read_table(path).to_pylist()}


def tree(folder: Path) -> dict[str, bytes]:
    """The bytes of the files of a folder by name, without its lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def names_in(folder: Path) -> set[str]:
    """The files in a folder of copies, without those of the filter."""
    return {name for name in tree(folder) if name not in ("filter.json", "filter.parquet", "_complete.json")}


def not_written(folder: Path) -> dict[str, list[str]]:
    marker = storage.require_sealed(folder, verify=True)
    return {code: lost["keys"] for code, lost in marker["not_written"].items()}


@pytest.fixture(scope="module")
def score_into(params: Params) -> Callable[[str, Path], None]:
    def score(inputs: str, output: Path) -> None:
        named, choice = named_inputs([inputs])
        del choice
        runner(params, output)(named, max_error_share=1.0)

    return score


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score_into: Callable[[str, Path], None]) -> Path:
    """The current folder: ``images`` with n00.png to n09.png in two folders and one damaged file; ``out``.

    nXX.png has XX * 20 / 255 for every score; the thresholds are color_cast .5, blurriness .4, watermark .3.
    """
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        path = tmp_path / "images" / ("even" if number % 2 == 0 else "odd") / f"n{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(20 * number))
    (tmp_path / "images" / "odd" / "damaged.png").write_bytes(b"nothing")
    score_into("images", tmp_path / "out")
    return tmp_path


def key(number: int) -> str:
    return f"{'odd' if number % 2 else 'even'}/n{number:02}.png"


def keys(*numbers: int) -> set[str]:
    return {key(number) for number in numbers}


def filtered(*arguments: str) -> int:
    return run(["filter", "out", *arguments])


def members_of(folder: Path) -> dict[str, bytes]:
    """The members of all tar shards."""
    found: dict[str, bytes] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            found |= {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    return found
