"""Collections as people have them, through the command line: what is scored, skipped and refused."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from quality_model.cli import run
from quality_model.core.decoding import Pixels

QUICK = ["--model", "pretrained-compact", "--engine", "torch-float32", "--workers", "1"]

Score = Callable[..., int]


@pytest.fixture
def d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder ``d`` in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    return tmp_path / "d"


@pytest.fixture
def images(photo: Pixels) -> list[bytes]:
    encoded = []
    for number in range(2):
        buffer = io.BytesIO()
        Image.fromarray(photo[:64, 64 * number : 64 * number + 64]).save(buffer, "JPEG")
        encoded.append(buffer.getvalue())
    return encoded


def score(*arguments: str) -> int:
    return run(["score", *arguments, *QUICK])


def scored(output: str = "out") -> list[str]:
    """Keys of the inputs that have scores."""
    folder = Path(output)
    shards = sorted([*folder.glob("shard-*.parquet"), *folder.glob("data/part-*.parquet")])
    rows = pd.concat([pd.read_parquet(shard) for shard in shards])
    return list(rows[rows["overall"].notna()]["key"])


def tar(images: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, data in enumerate(images, start=1):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def table(path: Path, /, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path)


def test_a_folder_of_img2dataset_is_its_tar_shards(
    d: Path, images: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    (d / "00000.tar").write_bytes(tar(images))
    (d / "00000_stats.json").write_text("{}")
    table(d / "00000.parquet", url=["u1", "u2"], key=["1", "2"], status=["success"] * 2)
    assert score("d", "--output", "out") == 0
    assert scored() == ["00000.tar#1.jpg", "00000.tar#2.jpg"]
    assert "1 x Parquet files without images" in capsys.readouterr().out


def test_concatenated_tars_are_read_whole(d: Path, images: list[bytes]) -> None:
    (d / "both.tar").write_bytes(tar(images[:1]) + tar(images[1:]))
    assert score("d", "--output", "out") == 0
    assert scored() == ["both.tar#1.jpg", "both.tar#1.jpg#2"]


@pytest.mark.parametrize("kind", ["images", "tar", "parquet"])
def test_earlier_results_below_the_inputs_change_neither_this_job_nor_theirs(
    d: Path, images: list[bytes], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "images":
        for number, data in enumerate(images):
            (d / f"{number}.jpg").write_bytes(data)
    elif kind == "tar":
        (d / "0.tar").write_bytes(tar(images))
    else:
        table(d / "0.parquet", jpg=images, key=["1", "2"])
    assert score("d", "--output", "d/scores/one") == 0
    assert score("d", "--output", "d/scores/two") == 0
    assert len(scored("d/scores/one")) == 2
    assert scored("d/scores/two") == scored("d/scores/one")
    assert "1 x earlier results" in capsys.readouterr().out
    assert score("d", "--output", "d/scores/one") == 0
    for place in ("d/scores/one", "d/scores/one/summary.png", "d/scores/one/report"):
        if Path(place).exists():
            capsys.readouterr()
            assert score(place, "--output", "again") == 2
            assert "is an earlier result" in capsys.readouterr().err


def test_columns_are_named_by_flags(d: Path, images: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    table(d / "0.parquet", image=["?"] * 2, sample=[{"pixels": i} for i in images], name=["x", "y"])
    flags = ["--image-column", "sample.pixels", "--key-column", "name"]
    assert score("d", "--output", "out", *flags) == 0
    assert scored() == ["x", "y"]
    assert score("d", "--output", "out", *flags[:3], "image") == 2
    assert "key_columns was ('name',) and is ('image',)" in capsys.readouterr().err
    assert score("d", "--output", "other", "--image-column", "pixels") == 2
    assert "its columns are image, sample, name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "columns", [{"path": ["s3://b/1.jpg"], "content": ...}, {"image": ["1.jpg"], "bytes": ...}]
)
def test_bytes_that_are_there_are_scored(d: Path, images: list[bytes], columns: dict[str, Any]) -> None:
    table(d / "0.parquet", **{k: images[:1] if v is ... else v for k, v in columns.items()})
    assert score("d", "--output", "out") == 0
    assert len(scored()) == 1


def test_ids_that_begin_anew_in_each_file_are_told_apart_by_the_file(d: Path, images: list[bytes]) -> None:
    for number, data in enumerate(images):
        table(d / f"{number}.parquet", id=[0], image=[data])
    assert score("d", "--output", "out") == 0
    assert scored() == ["0.parquet#0", "1.parquet#0"]


def test_one_image_beside_shards_is_a_choice_to_make(
    d: Path, images: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    (d / "preview.jpg").write_bytes(images[0])
    (d / "0.tar").write_bytes(tar(images))
    assert score("d", "--output", "out") == 2
    told = capsys.readouterr().err
    assert "1 image (such as preview.jpg), 1 tar shard (such as 0.tar)" in told
    assert "--kind images or --kind tar" in told
    assert not Path("out").exists()
    assert score("d", "--output", "out", "--kind", "tar") == 0
    assert scored() == ["0.tar#1.jpg", "0.tar#2.jpg"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("s3://bucket/a//b/", "s3://bucket/a//b/"),
        ("https://example.com/a.tar", "https://example.com/a.tar"),
        ("file:///tmp/x", "file:///tmp/x is a URL"),
        ("d/a.zip", "d/a.zip is no image, tar shard or Parquet file"),
        ("d/list.txt", "lists of files are not read"),
        ("nowhere", "nowhere is not there"),
        ("", "The path is empty"),
    ],
)
def test_what_cannot_be_an_input_is_refused_in_a_line_or_two(
    d: Path, capsys: pytest.CaptureFixture[str], given: str, shown: str
) -> None:
    for name in ("a.zip", "list.txt"):
        (d / name).write_bytes(b"x")
    assert score(given, "--output", "out") == 2
    told = capsys.readouterr().err
    assert shown in told
    assert told.count("\n") == 2
    assert not Path("out").exists()
    assert score("d", "--output", "s3://bucket/out") == 2
    assert "s3://bucket/out is a URL" in capsys.readouterr().err
