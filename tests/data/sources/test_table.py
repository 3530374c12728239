from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.core import storage
from quality_model.data.sources.table import ImagesTable, ImagesWriter
from quality_model.errors import CorruptError, IncompleteError
from quality_model.records import CleanImage


@pytest.fixture
def rows(images):
    """150 rows, every tenth unreadable."""
    return [
        CleanImage(f"p/{n:03d}", f"g{n % 7}", "here", f"{n:064x}", images[n % 48], None, None, "broken")
        if n % 10 == 9
        else CleanImage(f"p/{n:03d}", f"g{n % 7}", "here", f"{n:064x}", images[n % 48], 32, 32, None)
        for n in range(150)
    ]


@pytest.fixture
def folder(rows, tmp_path):
    with ImagesWriter(tmp_path / "images.parquet") as writer:
        for row in rows:
            writer.write(row)
    storage.seal(tmp_path, ["images.parquet"], rows=len(rows))
    return tmp_path


def test_rows_come_back_as_they_were_written(folder, rows):
    assert list(ImagesTable.open(folder).iter_images()) == rows


def test_the_readable_rows_can_be_had_alone(folder, rows):
    table = ImagesTable.open(folder)
    readable = [row for row in rows if row.reason is None]
    assert list(table.iter_images(readable_only=True)) == readable


def test_the_frame_holds_everything_but_the_bytes(folder, rows):
    frame = ImagesTable.open(folder).frame()
    assert list(frame.columns) == ["image_id", "group", "origin", "sha256", "width", "height", "reason"]
    assert list(frame["image_id"]) == [row.image_id for row in rows]
    assert list(ImagesTable.open(folder).frame(["group"]).columns) == ["group"]


def test_a_large_image_ends_its_row_group_early(tmp_path):
    with ImagesWriter(tmp_path / "images.parquet") as writer:
        for size in (40_000_000, 1, 1):
            writer.write(CleanImage("p", "g", "o", "", bytes(size), 1, 1, None))
    metadata = pq.ParquetFile(tmp_path / "images.parquet").metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [1, 2]


def test_an_empty_table_is_a_table(tmp_path):
    with ImagesWriter(tmp_path / "images.parquet"):
        pass
    storage.seal(tmp_path, ["images.parquet"], rows=0)
    table = ImagesTable.open(tmp_path)
    assert len(table) == 0
    assert list(table.iter_images()) == []


def test_a_table_without_a_marker_is_incomplete(folder):
    storage.unseal(folder)
    with pytest.raises(IncompleteError, match=r"_complete\.json"):
        ImagesTable.open(folder)


def test_a_cut_footer_is_found(folder):
    path = folder / "images.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptError, match=r"images\.parquet"):
        ImagesTable.open(folder)
    storage.seal(folder, ["images.parquet"], rows=150)
    with pytest.raises(CorruptError, match=r"images\.parquet is not an images table"):
        ImagesTable.open(folder)


def test_no_file_stays_open_after_the_table_or_after_a_refusal(folder):
    place = Path("/proc/self/fd")

    def opened():
        return [str(link.readlink()) for link in place.iterdir() if link.is_symlink()]

    with ImagesTable.open(folder) as table:
        table.frame()
        assert str(folder / "images.parquet") in opened()
    assert str(folder / "images.parquet") not in opened()
    assert len(list(table.iter_images())) == 150  # it can be read again
    table.close()
    storage.seal(folder, ["images.parquet"], rows=149)
    with pytest.raises(CorruptError) as refused:
        ImagesTable.open(folder)
    assert str(folder / "images.parquet") not in opened(), refused


def test_a_changed_byte_is_found_when_asked_to_verify(folder):
    path = folder / "images.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError):
        ImagesTable.open(folder, verify=True)


def test_a_table_with_other_columns_is_refused_with_their_names(tmp_path):
    pq.write_table(pa.table({"image": [1], "label": [2]}), tmp_path / "images.parquet")
    storage.seal(tmp_path, ["images.parquet"], rows=1)
    with pytest.raises(CorruptError, match="image, label"):
        ImagesTable.open(tmp_path)


def test_a_marker_that_counts_other_rows_is_refused(folder):
    storage.seal(folder, ["images.parquet"], rows=149)
    with pytest.raises(CorruptError, match="150 rows, the marker says 149"):
        ImagesTable.open(folder)
