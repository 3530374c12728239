"""Collections through the command line: what is scored, skipped and refused (tests/score has every case)."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from quality_model.cli import run
from quality_model.core.decoding import Pixels
from quality_model.score.thumbnails import read_thumbnails

QUICK = ["--model", "bundled", "--workers", "1"]


@pytest.fixture
def d(tmp_path: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder ``d`` of two images in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for number in range(2):
        Image.fromarray(photo[:64, 64 * number : 64 * number + 64]).save(tmp_path / "d" / f"{number}.jpg")
    return tmp_path / "d"


def score(*arguments: str) -> int:
    return run(["score", *arguments, *QUICK])


def scored(output: str) -> list[str]:
    """Keys of the inputs that have scores."""
    rows = pd.read_parquet(Path(output) / "data")
    return list(rows[rows["overall"].notna()]["key"])


def test_earlier_results_below_the_inputs_change_neither_this_job_nor_theirs(d, capsys):
    assert score("d", "--output", "d/scores/one") == 0
    assert score("d", "--output", "d/scores/two") == 0
    assert scored("d/scores/two") == scored("d/scores/one") == ["0.jpg", "1.jpg"]
    assert "1 x earlier results" in capsys.readouterr().out
    assert score("d", "--output", "d/scores/one") == 0
    for place in ("d/scores/one", "d/scores/one/report"):
        capsys.readouterr()
        assert score(place, "--output", "again") == 2
        assert "is an earlier result" in capsys.readouterr().err


def test_a_result_is_flagged_by_thresholds_of_ones_own_and_says_so_and_others_make_another_job(d, capsys):
    assert score("d", "--output", "out", "--flag", "noise=0") == 0
    assert pd.read_parquet("out/data")["is_noisy"].all()
    assert json.loads(Path("out/job.json").read_text())["thresholds"]["noise"] == 0.0
    assert score("d", "--output", "out", "--flag", "noise=1") == 2
    assert (
        ": the threshold of noise was 0 and is 1." in (said := capsys.readouterr().err)
        and "--overwrite" in said
    )
    assert score("d", "--output", "out", "--flag", "noise=1", "--overwrite") == 0
    assert not pd.read_parquet("out/data")["is_noisy"].any()


def test_images_that_must_not_be_copied_leave_no_thumbnails(d):
    assert score("d", "--output", "out") == 0
    assert set(read_thumbnails(Path("out"))) == {"0.jpg", "1.jpg"}
    assert score("d", "--output", "out", "--no-thumbnails") == 0
    assert read_thumbnails(Path("out")) == {}
    assert score("d", "--output", "without", "--no-thumbnails") == 0
    assert not Path("without/report/thumbnails.parquet").exists()


def test_kind_and_columns_are_named_by_flags(d, capsys):
    images = [path.read_bytes() for path in sorted(d.iterdir())]
    columns = {"image": ["?"] * 2, "sample": [{"pixels": image} for image in images], "name": ["x", "y"]}
    pq.write_table(pa.table(columns), d / "0.parquet")
    flags = ["--kind", "parquet", "--image-column", "sample.pixels", "--key-column", "name"]
    assert score("d", "--output", "out", *flags) == 0
    assert scored("out") == ["x", "y"]
    assert score("d", "--output", "out", *flags[:5], "image") == 2
    assert "key_columns was ('name',) and is ('image',)" in capsys.readouterr().err
    assert score("d", "--output", "other", *flags[:3], "pixels") == 2
    assert "its columns are image, sample, name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("s3://bucket/a//b/", "s3://bucket/a//b/"),
        ("file:///tmp/x", "file:///tmp/x is a URL"),
        ("d/a.7z", "d/a.7z is no image, archive or table"),
        ("d/list.txt", "name a list as @list"),
        ("nowhere", "nowhere is not there"),
        ("d/*.gif", "Nothing matches d/*.gif"),
        ("", "The path is empty"),
    ],
)
def test_what_cannot_be_an_input_is_refused_in_a_line_or_two(d, capsys, given, shown):
    for name in ("a.7z", "list.txt"):
        (d / name).write_bytes(b"x")
    assert score(given, "--output", "out") == 2
    message = capsys.readouterr().err
    assert shown in message
    if "*" in given:
        assert score(given) == 2 and shown in capsys.readouterr().err
    assert message.count("\n") == 2
    assert not Path("out").exists()
    assert score("d", "--output", "ftp://host/out") == 2
    assert "ftp://host/out is a URL" in capsys.readouterr().err
