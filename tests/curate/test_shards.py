"""What is kept as new shards of tar archives and tables."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.cli import run
from quality_model.core import storage

from .conftest import filtered, image, key, keys, members_of, names_in


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tar_shards_keep_captions_and_no_sample_is_in_a_shard_twice(
    tmp_path: Path, monkeypatch, score_into, mode: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t").mkdir()
    suffix = ".tar" if mode == "w" else ".tar.gz"
    for shard in range(2):
        with tarfile.open(f"t/{shard}{suffix}", mode) as tar:  # type: ignore[call-overload]
            for number in range(4):
                stem = f"s/{number}" if number else f"s/first-{shard}"
                for name, data in (
                    (f"{stem}.json", f"{shard} {number}".encode()),
                    (f"{stem}.png", image(200 if number == 2 else 10 * shard + number)),
                    (f"{stem}.txt", b"words"),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    score_into("t", Path("out"))
    assert filtered("--max", "noise=.5", "--shards", "kept", "--shard-size", "4") == 0
    names = []
    for path in sorted(Path("kept").glob("*.tar")):
        with tarfile.open(path) as tar:
            names.append(tar.getnames())
    endings = (".png", ".json", ".txt")
    assert [sorted(shard) for shard in names] == [
        sorted(f"s/{stem}{ending}" for stem in stems for ending in endings)
        for stems in (["first-0", "1", "3", "first-1"], ["1", "3"])
    ]
    assert members_of(Path("kept"))["s/3.json"] == b"1 3"
    assert storage.require_sealed(Path("kept"), verify=True)["rows"] == 6
    assert run(["filter", "out", "--link", "links"]) == 2


def test_images_of_one_name_or_of_one_name_before_a_dot_are_samples_of_their_own(
    tmp_path: Path, monkeypatch, score_into
) -> None:
    monkeypatch.chdir(tmp_path)
    with tarfile.open("t.tar", "w") as tar:
        for data in (image(1), image(2)):
            info = tarfile.TarInfo("x.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    score_into("t.tar", Path("out"))
    assert filtered("--max", "noise=.5", "--shards", "twice") == 0
    found = []
    for path in sorted(Path("twice").glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    assert found == [("x.png", image(1)), ("x.png", image(2))]
    Path("images").mkdir()
    for number in (1, 2):
        Path(f"images/x.{number}.png").write_bytes(image(number))
    Path("images/x.2.txt").write_text("two")
    score_into("images", Path("dots"))
    assert run(["filter", "dots", "--max", "noise=.5", "--shards", "parted"]) == 0
    assert members_of(Path("parted")) == {"x_1.png": image(1), "x_2.png": image(2), "x_2.txt": b"two"}


def test_files_that_differ_in_their_suffixes_are_samples_whose_names_do_not_depend_on_what_is_kept(
    place: Path, score_into
) -> None:
    for name, level in {"a.png": 5, "a.bmp": 250, "a.1.png": 6, "b.png": 7, "c/a.png": 8}.items():
        path = place / "twins" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(level))
    (place / "twins" / "a.txt").write_text("caption")
    score_into("twins", place / "twice")
    shown = {"a_png.png", "a_png.txt", "a_1.png", "b.png", "c/a.png"}
    assert run(["filter", "twice", "--min", "noise=0", "--shards", "all"]) == 0
    assert set(members_of(place / "all")) == {*shown, "a_bmp.bmp", "a_bmp.txt"}
    assert len([*(place / "all").glob("*.tar")]) == 1
    assert run(["filter", "twice", "--max", "noise=.5", "--shards", "some"]) == 0
    assert set(members_of(place / "some")) == shown


def test_shards_of_a_folder_take_the_captions_beside_the_images(place: Path) -> None:
    (place / "images" / "even" / "n00.txt").write_text("black")
    assert filtered("--max", "noise=.3", "--shards", "kept") == 0
    members = members_of(place / "kept")
    assert set(members) == {*keys(0, 1, 2, 3), "even/n00.txt"}
    assert members[key(3)] == (place / "images" / key(3)).read_bytes()


def test_parquet_shards_have_all_columns_of_the_tables_and_only_rows_that_are_kept(
    tmp_path: Path, monkeypatch, score_into
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t").mkdir()
    for number, extra in enumerate(("label", "label", "other")):
        levels = [10, 200, 20, 30, 40]
        table = pa.table(
            {
                "id": [f"{number}-{level}" for level in levels],
                "image": [{"bytes": image(level + number), "path": None} for level in levels],
                extra: levels,
            },
            schema=None,
        )
        pq.write_table(
            table.replace_schema_metadata({"huggingface": "{}"}), f"t/{number}.parquet", row_group_size=2
        )
    score_into("t", Path("out"))
    assert filtered("--max", "noise=.5", "--shards", "kept", "--shard-size", "5") == 0
    shards = [pq.read_table(path) for path in sorted(Path("kept").glob("*.parquet"))]
    assert [shard.num_rows for shard in shards] == [5, 3, 4]
    assert [shard.column_names[-1] for shard in shards] == ["label", "label", "other"]
    assert all(shard.schema.metadata == {b"huggingface": b"{}"} for shard in shards)
    labels = {row["id"]: row["label"] for shard in shards[:2] for row in shard.to_pylist()}
    assert labels == {f"{n}-{level}": level for n in (0, 1) for level in (10, 20, 30, 40)}
    assert shards[0]["image"][0].as_py()["bytes"] == image(10)


def test_tables_that_name_their_images_have_no_shards_of_images(
    tmp_path: Path, monkeypatch, score_into, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t").mkdir()
    Path("t/a.png").write_bytes(image(7))
    pq.write_table(pa.table({"id": ["a"], "path": ["a.png"]}), "t/t.parquet")
    score_into("t/t.parquet", Path("out"))
    assert filtered("--max", "noise=.5", "--shards", "kept") == 2
    assert "do not hold them" in capsys.readouterr().err
    assert filtered("--max", "noise=.5", "--copy", "copies") == 0
    assert names_in(Path("copies")) == {"a.png"}
