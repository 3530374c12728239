import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.errors import CorruptError, UsageError
from quality_model.scoring import ScoreSummary

from .conftest import shards_of
from .test_resume import Interrupted

Run = Callable[..., ScoreSummary]


def write(path: Path, /, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=4)
    return path


def outcome(output: Path) -> dict[str, str]:
    """sha256 or reason by key."""
    rows = shards_of(output)
    return dict(zip(rows["key"], rows["error_code"].fillna(rows["sha256"]), strict=True))


def hashes(crops: list[bytes]) -> list[str]:
    return [hashlib.sha256(data).hexdigest() for data in crops]


@pytest.mark.parametrize("column", ["image", "photo", "bytes"])
def test_bytes_are_found_under_the_usual_names(
    run: Run, tmp_path: Path, crops: list[bytes], column: str
) -> None:
    path = write(tmp_path / "in" / "a.parquet", **{"label": [1, 2, 3], column: crops[:3]})
    assert run(path).scored == 3
    keys = ["a.parquet#0", "a.parquet#1", "a.parquet#2"]
    assert outcome(tmp_path / "scores") == dict(zip(keys, hashes(crops[:3]), strict=True))


@pytest.mark.parametrize(
    ("column", "values"), [("id", [7, 8, 9]), ("key", ["x", "y", "z"]), ("path", ["x", "y", "z"])]
)
def test_rows_are_called_by_their_key_column(
    run: Run, tmp_path: Path, crops: list[bytes], column: str, values: list[Any]
) -> None:
    path = write(tmp_path / "in" / "a.parquet", **{column: values, "image": crops[:3]})
    run(path)
    assert list(outcome(tmp_path / "scores")) == [str(value) for value in values]


def test_records_of_bytes_and_path_are_read_as_the_hub_writes_them(
    run: Run, tmp_path: Path, crops: list[bytes]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "beside.jpg").write_bytes(crops[1])
    records = [
        {"bytes": crops[0], "path": "anything.jpg"},
        {"bytes": None, "path": "beside.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    run(write(tmp_path / "in" / "a.parquet", image=records))
    assert list(outcome(tmp_path / "scores").values()) == [*hashes(crops[:2]), "missing", "missing"]


def test_paths_are_relative_to_the_folder_of_the_file(run: Run, tmp_path: Path, crops: list[bytes]) -> None:
    (tmp_path / "in" / "day").mkdir(parents=True)
    (tmp_path / "in" / "day" / "1.jpg").write_bytes(crops[0])
    names = ["day/1.jpg", "day/2.jpg", None]
    run(write(tmp_path / "in" / "a.parquet", path=names))
    assert outcome(tmp_path / "scores") == {
        "day/1.jpg": hashes(crops)[0],
        "day/2.jpg": "missing",
        "a.parquet#2": "missing",
    }


def test_several_files_are_one_collection_cut_into_shards_across_them(
    run: Run, tmp_path: Path, crops: list[bytes]
) -> None:
    for part in range(3):
        write(tmp_path / "in" / f"part-{part}.parquet", image=crops[part * 10 : part * 10 + 10])
    summary = run(tmp_path / "in")
    assert (summary.scored, summary.shards) == (30, 5)
    assert list(outcome(tmp_path / "scores").values()) == hashes(crops[:30])


def test_an_interrupted_job_over_parquet_ends_with_the_same_rows(
    run: Run, tmp_path: Path, crops: list[bytes]
) -> None:
    for part in range(2):
        write(tmp_path / "in" / f"part-{part}.parquet", image=crops[part * 10 : part * 10 + 10])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", scorer=Interrupted(3))
    summary = run(tmp_path / "in")
    assert summary.shards_before == 1
    assert list(outcome(tmp_path / "scores").values()) == hashes(crops[:20])


def test_a_table_of_this_project_can_be_scored(run: Run, tmp_path: Path, crops: list[bytes]) -> None:
    path = write(tmp_path / "in" / "a.parquet", picture_id=["p1", "p2"], group=["g", "g"], data=crops[:2])
    run(path)
    assert list(outcome(tmp_path / "scores")) == ["p1", "p2"]


def test_a_cut_footer_names_the_file(run: Run, tmp_path: Path, crops: list[bytes]) -> None:
    write(tmp_path / "in" / "good.parquet", image=crops[:3])
    bad = write(tmp_path / "in" / "cut.parquet", image=crops[3:6])
    bad.write_bytes(bad.read_bytes()[:-20])
    with pytest.raises(CorruptError, match=r"cut\.parquet cannot be read as Parquet"):
        run(tmp_path / "in")


def test_a_foreign_schema_names_the_file_and_its_columns(
    run: Run, tmp_path: Path, crops: list[bytes]
) -> None:
    write(tmp_path / "in" / "good.parquet", image=crops[:3])
    write(tmp_path / "in" / "people.parquet", name=["a"], age=[1])
    with pytest.raises(UsageError, match=r"people\.parquet has no column of pictures.*name, age"):
        run(tmp_path / "in")


def test_a_duplicated_file_is_refused_by_its_keys(run: Run, tmp_path: Path, crops: list[bytes]) -> None:
    for name in ("a", "b", "copy of a"):
        first = "xyz" if name == "b" else "abc"
        write(tmp_path / "in" / f"{name}.parquet", id=list(first), image=crops[:3])
    with pytest.raises(UsageError, match=r"'a': one in a\.parquet, one in copy of a\.parquet"):
        run(tmp_path / "in")


def test_rows_of_a_damaged_row_group_have_a_reason_and_the_others_scores(
    run: Run, tmp_path: Path, crops: list[bytes]
) -> None:
    path = write(tmp_path / "in" / "a.parquet", id=list(range(12)), image=crops[:12])
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(1).column(1)
        start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    summary = run(path)
    assert summary.reasons == {"unreadable_rows": 4}
    found = list(outcome(tmp_path / "scores").values())
    assert found[:4] + found[8:] == hashes(crops[:4] + crops[8:12])
    assert found[4:8] == ["unreadable_rows"] * 4


def test_a_file_without_rows_holds_nothing_to_score(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "a.parquet", image=pa.array([], pa.binary()))
    with pytest.raises(UsageError, match="nothing to score"):
        run(path)
