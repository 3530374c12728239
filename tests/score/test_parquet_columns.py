"""Which columns of Parquet files hold the images and the keys."""

import pyarrow as pa
import pytest

from quality_model.errors import InputErrorsAboveLimit, UsageError

from .conftest import outcome
from .test_parquet import RECORD, hashes, value_of, write


def test_images_are_found_under_many_names_or_by_their_first_bytes(run, tmp_path, crops):
    names = ["image", "photo", "bytes", "jpg", "image_bytes", "Image", "content", "frame"]
    for name, data in zip(names, crops, strict=False):
        columns = {"key": [name], "embedding": [b"\0" * 9], name: [data]}
        write(tmp_path / "in" / f"{name}.parquet", **columns)
    run(tmp_path / "in")
    assert outcome(tmp_path / "scores") == dict(zip(names, hashes(crops[:8]), strict=True))


def test_rows_are_called_by_their_key_column_or_by_file_and_number(run, tmp_path, crops):
    """The last one is a table of clean images as this project writes it."""
    for number, (column, value) in enumerate({"id": 7, "key": "x", "path": "y", "label": 1}.items()):
        write(tmp_path / "in" / f"{number}.parquet", **{column: [value], "image": [crops[number]]})
    write(tmp_path / "in" / "4.parquet", image_id=["p1"], group=["g"], data=[crops[4]])
    run(tmp_path / "in")
    expected = dict(zip(["7", "x", "y", "3.parquet#0", "p1"], hashes(crops[:5]), strict=True))
    assert outcome(tmp_path / "scores") == expected


def test_several_columns_of_images_without_a_usual_name_have_to_be_chosen_from(run, tmp_path, crops):
    path = write(tmp_path / "a.parquet", left=crops[:2], right=crops[2:4])
    with pytest.raises(UsageError, match=r"several columns of images: left, right(.|\n)*--image-column"):
        run(path)
    run(path, image_column="right")
    assert list(outcome(tmp_path / "scores").values()) == hashes(crops[2:4])


@pytest.mark.parametrize(
    "columns",
    [
        {"path": ["s3://b/1.jpg"], "content": "bytes"},
        {"image": ["1.jpg"], "bytes": "bytes"},
        {"image": ["1.jpg"], "frame": "bytes"},
    ],
    ids=["spark", "name beside bytes", "by the first bytes"],
)
def test_bytes_win_over_names_and_paths(run, tmp_path, crops, columns):
    path = write(tmp_path / "a.parquet", **{k: crops[:1] if v == "bytes" else v for k, v in columns.items()})
    run(path)
    assert list(outcome(tmp_path / "scores").values()) == hashes(crops[:1])


def test_every_type_of_column_that_can_hold_bytes_is_read(run, tmp_path, crops):
    size = max(map(len, crops))
    padded = [data.ljust(size, b"\0") for data in crops]
    kinds = [
        pa.binary(size), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary()),
        pa.list_(pa.binary()), pa.large_list(pa.binary()), RECORD, pa.list_(RECORD),
        pa.dictionary(pa.int8(), pa.large_binary()),
    ]  # fmt: skip
    for number, kind in enumerate(kinds):
        values = [value_of(kind, padded[2 * number]), None, value_of(kind, padded[2 * number + 1])]
        if pa.types.is_dictionary(kind):
            column = pa.array(values, kind.value_type).dictionary_encode().cast(kind)
        else:
            column = pa.array(values, kind)
        write(tmp_path / "in" / f"{number}.parquet", image=column)
    run(tmp_path / "in", max_error_share=1.0)
    found = outcome(tmp_path / "scores")
    for number, kind in enumerate(kinds):
        first, second = hashes(padded[2 * number : 2 * number + 2])
        rows = [found[f"{number}.parquet#{row}"] for row in range(3)]
        assert rows == [first, "missing", second], kind


def test_a_list_of_one_image_is_that_image_and_of_several_has_an_error_code(run, tmp_path, crops):
    records = [[{"bytes": data, "path": None} for data in crops[:count]] for count in (1, 2, 0)]
    run(write(tmp_path / "a.parquet", images=pa.array(records, pa.list_(RECORD))))
    found = list(outcome(tmp_path / "scores").values())
    assert found == [hashes(crops)[0], "several_images", "missing"]


def test_a_file_whose_images_are_all_null_is_judged_by_the_others(run, tmp_path, crops):
    write(tmp_path / "in" / "0.parquet", image=pa.nulls(2), path=["a", "b"])
    write(tmp_path / "in" / "1.parquet", image=crops[:2], path=["c", "d"])
    run(tmp_path / "in")
    found = outcome(tmp_path / "scores")
    assert found == {"a": "missing", "b": "missing", "c": hashes(crops)[0], "d": hashes(crops)[1]}


def test_images_that_are_all_null_have_an_error_code(run, tmp_path):
    with pytest.raises(InputErrorsAboveLimit, match="None of the 2 inputs"):
        run(write(tmp_path / "a.parquet", image=pa.nulls(2), id=[1, 2]))
    assert outcome(tmp_path / "scores") == {"1": "missing", "2": "missing"}


@pytest.mark.parametrize("column", ["thumb", "sample.image.bytes", "sample.image"])
def test_the_column_of_images_can_be_named_with_dots_into_records(run, tmp_path, crops, column):
    samples = [{"name": f"n{n}", "image": {"bytes": crops[n]}} for n in range(2)]
    path = write(tmp_path / "a.parquet", image=crops[2:4], thumb=crops[:2], sample=samples)
    run(path, image_column=column, key_column="sample.name")
    assert outcome(tmp_path / "scores") == {"n0": hashes(crops)[0], "n1": hashes(crops)[1]}


@pytest.mark.parametrize("flag", ["image_column", "key_column"])
@pytest.mark.parametrize("column", ["nowhere", "image.nowhere", "label"])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(run, tmp_path, crops, flag, column):
    path = write(tmp_path / "a.parquet", image=crops[:2], label=[[1], [2]])
    with pytest.raises(UsageError, match=rf"(image, label|'label')(.|\n)*--{flag.replace('_', '-')}"):
        run(path, **{flag: column})


@pytest.mark.parametrize("flag", ["image_column", "key_column"])
def test_a_job_is_not_resumed_with_other_columns(run, tmp_path, crops, flag):
    path = write(tmp_path / "a.parquet", id=list("abc"), name=list("xyz"), image=crops[:3], jpg=crops[3:6])
    run(path, image_column="image")
    run(path, image_column="image", key_column="id")
    with pytest.raises(UsageError, match=f"{flag}s was"):
        run(path, **{"image_column": "image", flag: "jpg" if flag == "image_column" else "name"})
