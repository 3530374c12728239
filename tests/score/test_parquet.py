import base64
import hashlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.errors import CorruptError, InputErrorsAboveLimit, UsageError

from .conftest import Interrupted, outcome, rows_of


def write(path: Path, /, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=4)
    return path


RECORD = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def value_of(kind: pa.DataType, data: bytes) -> Any:
    """The bytes as a value of a type: in a record of bytes and path, in a list, or both."""
    record = {"bytes": data, "path": "x.jpg"} if "struct" in str(kind) else data
    return [record] if "list" in str(kind) else record


def hashes(crops: list[bytes]) -> list[str]:
    return [hashlib.sha256(data).hexdigest() for data in crops]


def test_records_of_bytes_and_path_are_read_as_the_hub_writes_them(run, tmp_path, crops):
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


def test_paths_are_relative_to_the_folder_of_the_file(run, tmp_path, crops):
    (tmp_path / "in" / "day").mkdir(parents=True)
    (tmp_path / "in" / "day" / "1.jpg").write_bytes(crops[0])
    names = ["day/1.jpg", "day/2.jpg", None]
    run(write(tmp_path / "in" / "a.parquet", path=names))
    assert outcome(tmp_path / "scores") == {
        "day/1.jpg": hashes(crops)[0],
        "day/2.jpg": "missing",
        "a.parquet#2": "missing",
    }


def test_several_files_are_one_collection_cut_into_shards_across_them(run, tmp_path, crops):
    for part in range(3):
        write(tmp_path / "in" / f"part-{part}.parquet", image=crops[part * 10 : part * 10 + 10])
    summary = run(tmp_path / "in")
    assert (summary.scored, summary.parts) == (30, 5)
    assert list(outcome(tmp_path / "scores").values()) == hashes(crops[:30])


def test_a_cut_footer_names_the_file(run, tmp_path, crops):
    for name in ("a", "b"):
        bad = write(tmp_path / "in" / f"{name}.parquet", image=crops[3:6])
        bad.write_bytes(bad.read_bytes()[:-20])
    with pytest.raises(CorruptError, match=r"b\.parquet cannot be read as Parquet"):
        run(tmp_path / "in")


@pytest.mark.parametrize("content", [b"", b"junk", b"PAR1" + bytes(40) + b"PAR1", None])
def test_a_file_that_cannot_be_read_beside_good_ones_is_a_row_with_its_error_code(
    run, tmp_path, crops, content
):
    write(tmp_path / "in" / "good.parquet", image=crops[:3])
    bad = write(tmp_path / "in" / "bad.parquet", image=crops[3:6])
    bad.write_bytes(bad.read_bytes()[:-20] if content is None else content)
    assert run(tmp_path / "in").scored == 3
    rows = rows_of(tmp_path / "scores").set_index("key")
    assert list(rows.index) == ["bad.parquet", *(f"good.parquet#{row}" for row in range(3))]
    assert rows["error_code"]["bad.parquet"] == "unreadable_rows"
    assert "bad.parquet cannot be read as Parquet" in rows["error_detail"]["bad.parquet"]


def test_keys_that_cannot_be_read_are_row_numbers_and_their_images_have_scores(run, tmp_path, crops):
    path = write(tmp_path / "in" / "a.parquet", id=[f"k{n}" for n in range(12)], image=crops[:12])
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(1).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 20] = bytes(20)
    path.write_bytes(data)
    run(path)
    keys = [f"a.parquet#{n}" if 4 <= n < 8 else f"k{n}" for n in range(12)]
    assert outcome(tmp_path / "scores") == dict(zip(keys, hashes(crops[:12]), strict=True))


def test_a_foreign_schema_names_the_file_and_its_columns(run, tmp_path):
    write(tmp_path / "in" / "people.parquet", name=["a"], age=[1])
    with pytest.raises(UsageError, match=r"people\.parquet has no column of images.*name, age(.|\n)*--image"):
        run(tmp_path / "in")


def test_a_file_without_images_beside_files_that_have_them_is_skipped_and_counted(run, tmp_path, crops):
    write(tmp_path / "in" / "good.parquet", image=crops[:3])
    write(tmp_path / "in" / "people.parquet", name=["a"], path=["b.jpg"])
    summary = run(tmp_path / "in")
    assert (summary.inputs, summary.skipped) == (3, {"Parquet files without images": 1})


def test_keys_that_begin_anew_in_each_file_get_its_name_in_front(run, tmp_path, crops):
    for part in range(2):
        write(tmp_path / "in" / f"{part}.parquet", id=[0, part + 1], image=crops[2 * part : 2 * part + 2])
    run(tmp_path / "in")
    keys = ["0.parquet#0", "0.parquet#1", "1.parquet#0", "1.parquet#2"]
    assert outcome(tmp_path / "scores") == dict(zip(keys, hashes(crops[:4]), strict=True))


def test_keys_that_occur_twice_in_one_file_are_numbered(run, tmp_path, crops):
    """An id for each of several captions; the numbered keys are not those of other rows either."""
    path = write(tmp_path / "in" / "a.parquet", caption=["x", "x", "x#2", "x", None, "5"], image=crops[:6])
    run(path, key_column="caption")
    keys = ["x", "x#3", "x#2", "x#4", "4", "5"]
    assert list(outcome(tmp_path / "scores")) == [f"a.parquet#{key}" for key in keys]


def test_an_interrupted_job_with_repeated_keys_resumes(run, tmp_path, crops):
    for part in range(2):
        write(tmp_path / "in" / f"{part}.parquet", id=[0] * 10, image=crops[10 * part : 10 * part + 10])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", scorer=Interrupted(3))
    assert run(tmp_path / "in").parts_before == 1
    assert list(outcome(tmp_path / "scores").values()) == hashes(crops[:20])


def test_no_file_outside_the_folder_of_a_table_is_read_or_hashed(run, tmp_path, crops):
    (tmp_path / "secret.jpg").write_bytes(crops[0])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(crops[1])
    (tmp_path / "in" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    names = ["../secret.jpg", str(tmp_path / "secret.jpg"), "/etc/passwd", "out.jpg", "1.jpg"]
    write(tmp_path / "in" / "a.parquet", path=names)
    write(tmp_path / "in" / "b.parquet", path=[{"bytes": None, "path": "../secret.jpg"}], key=["record"])
    run(tmp_path / "in" / "a.parquet", tmp_path / "a")
    with pytest.raises(InputErrorsAboveLimit, match="None of the 1 inputs"):
        run(tmp_path / "in" / "b.parquet", tmp_path / "b")
    rows = rows_of(tmp_path / "a")
    assert list(rows["error_code"][:4]) == ["outside_folder"] * 4
    assert rows["sha256"].isna().tolist() == [True] * 4 + [False]
    assert outcome(tmp_path / "b") == {"record": "outside_folder"}


def test_a_file_whose_name_is_not_utf8_is_read(run, tmp_path, crops):
    path = write(tmp_path / "in" / "a.parquet", image=crops[:2])
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.parquet"))
    run(tmp_path / "in")
    keys = ["caf\\xe9.parquet#0", "caf\\xe9.parquet#1"]
    assert outcome(tmp_path / "scores") == dict(zip(keys, hashes(crops[:2]), strict=True))


def test_no_file_stays_open_after_its_columns_were_refused(run, tmp_path, crops):
    path = write(tmp_path / "a.parquet", left=crops[:1], right=crops[1:2])
    with pytest.raises(UsageError) as refused:
        run(path)
    opened = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert path not in opened, refused


def test_urls_are_not_fetched_and_say_so(run, tmp_path):
    urls = ["https://example.com/1.jpg?token=abc", "s3://b/2.jpg"]
    with pytest.raises(InputErrorsAboveLimit, match="the commonest error code is url"):
        run(write(tmp_path / "a.parquet", url=urls, id=[1, 2]))
    assert outcome(tmp_path / "scores") == {"1": "url", "2": "url"}
    assert "token" not in "".join(rows_of(tmp_path / "scores")["error_detail"])


def test_rows_of_a_damaged_row_group_have_an_error_code_and_the_others_scores(run, tmp_path, crops):
    path = write(tmp_path / "in" / "a.parquet", id=list(range(12)), image=crops[:12])
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(1).column(1)
        start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    summary = run(path)
    assert summary.errors == {"unreadable_rows": 4}
    found = list(outcome(tmp_path / "scores").values())
    assert found[:4] + found[8:] == hashes(crops[:4] + crops[8:12])
    assert found[4:8] == ["unreadable_rows"] * 4


def test_a_file_without_rows_holds_nothing_to_score_and_says_what_was_skipped(run, tmp_path):
    write(tmp_path / "in" / "a.parquet", image=pa.array([], pa.binary()))
    with pytest.raises(UsageError, match="nothing to score: its files are empty"):
        run(tmp_path / "in")
    write(tmp_path / "in" / "people.parquet", name=["a"])
    with pytest.raises(UsageError, match=r"no image \(skipped: 1 x Parquet files without images\)"):
        run(tmp_path / "in")


def test_empty_bytes_are_rows_with_an_error_code_and_no_hash(run, tmp_path, crops):
    for number, kind in enumerate((pa.binary(), RECORD, pa.list_(RECORD))):
        values = [value_of(kind, data) for data in (crops[number], b"")]
        ids = [f"{number}", f"{number} empty"]
        write(tmp_path / "in" / f"{number}.parquet", id=ids, image=pa.array(values, kind))
    run(tmp_path / "in", max_error_share=1.0)
    rows = rows_of(tmp_path / "scores").set_index("key")
    assert rows["sha256"].dropna().to_dict() == {f"{n}": sha256 for n, sha256 in enumerate(hashes(crops[:3]))}
    assert rows["error_code"].dropna().to_dict() == {f"{n} empty": "empty" for n in range(3)}
    assert rows["size_bytes"].isna().equals(rows["error_code"].notna())


def not_utf8(*values: bytes) -> pa.Array:
    """A column of text as a writer leaves it that does not check its bytes."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


def test_a_path_that_is_not_utf8_has_an_error_code(run, tmp_path, crops):
    (tmp_path / "1.jpg").write_bytes(crops[0])
    path = write(tmp_path / "a.parquet", id=[1, 2], path=not_utf8(b"1.jpg", b"caf\xe9.jpg"))
    run(path)
    assert outcome(tmp_path / "scores") == {"1": hashes(crops)[0], "2": "unreadable_rows"}


def test_a_key_that_is_not_utf8_is_shown_with_its_bytes(run, tmp_path, crops):
    run(write(tmp_path / "a.parquet", id=not_utf8(b"one", b"caf\xe9"), image=crops[:2]))
    assert outcome(tmp_path / "scores") == dict(zip(["one", "caf\\xe9"], hashes(crops[:2]), strict=True))


def test_fields_beside_the_bytes_of_an_image_may_hold_anything(run, tmp_path, crops):
    late = pa.array([2**62, 0], pa.int64()).cast(pa.timestamp("us"))
    records = pa.StructArray.from_arrays(
        [pa.array([crops[0], b""], pa.binary()), not_utf8(b"\xff", b"\xff"), late], ["bytes", "path", "taken"]
    )
    run(write(tmp_path / "a.parquet", image=records))
    assert list(outcome(tmp_path / "scores").values()) == [hashes(crops)[0], "empty"]


def test_a_key_that_python_cannot_hold_is_the_row_number(run, tmp_path, crops):
    late = pa.array([2**62, 0], pa.int64()).cast(pa.timestamp("us"))
    run(write(tmp_path / "a.parquet", taken=late, image=crops[:2]), key_column="taken")
    assert list(outcome(tmp_path / "scores")) == ["a.parquet#0", "1970-01-01 00:00:00"]


def test_where_a_column_of_images_is_null_the_next_one_has_the_image(run, tmp_path, crops):
    """As writers of WebDataset leave rows of several formats."""
    late = [None] * 20 + [crops[2]]
    columns = {"jpg": [crops[0], None, None], "png": [None, crops[1], None], "webp": [None] * 3}
    padded = {name: values + [crops[0]] * 17 + [None] for name, values in columns.items()}
    padded["webp"] = late
    run(write(tmp_path / "a.parquet", __key__=[str(n) for n in range(21)], **padded))
    found = list(outcome(tmp_path / "scores").values())
    assert (found[:3], found[20]) == ([*hashes(crops[:2]), "missing"], hashes(crops)[2])


def test_a_column_of_images_that_is_named_is_the_only_one(run, tmp_path, crops):
    path = write(tmp_path / "a.parquet", jpg=[crops[0], None], png=[None, crops[1]])
    run(path, image_column="jpg")
    assert list(outcome(tmp_path / "scores").values()) == [hashes(crops)[0], "missing"]


def test_keys_in_a_list_of_one_record_are_read(run, tmp_path, crops):
    samples = [[{"id": f"n{n}", "image": {"bytes": crops[n]}}] for n in range(2)]
    run(write(tmp_path / "a.parquet", s=samples), image_column="s.image", key_column="s.id")
    assert outcome(tmp_path / "scores") == {"n0": hashes(crops)[0], "n1": hashes(crops)[1]}


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_images_as_base64_text_say_so_and_are_no_keys(run, tmp_path, crops, prefix):
    texts = [prefix + base64.b64encode(data).decode() for data in (crops[0], b"\x89PNG\r\n\x1a\n" + bytes(9))]
    with pytest.raises(InputErrorsAboveLimit, match=r"error code is base64_text(.|\n)*Decode the text"):
        run(write(tmp_path / "a.parquet", image=texts))
    assert outcome(tmp_path / "scores") == {"a.parquet#0": "base64_text", "a.parquet#1": "base64_text"}
