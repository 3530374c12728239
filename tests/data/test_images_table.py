"""The images table: what was written is read, and what does not match its completion marker is refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.core import storage
from quality_model.data.images_table import ImagesTable, ImagesWriter, decoded, fetch_image
from quality_model.errors import CorruptError
from quality_model.records import CleanImage
from tests.hostile import decoders_obey_images, hostile


@pytest.fixture
def rows(encoded):
    """150 rows, every tenth unreadable."""
    return [
        CleanImage(f"p/{n:03d}", f"g{n % 7}", "here", f"{n:064x}", encoded[n % 48], None, None, "broken")
        if n % 10 == 9
        else CleanImage(f"p/{n:03d}", f"g{n % 7}", "here", f"{n:064x}", encoded[n % 48], 32, 32, None)
        for n in range(150)
    ]


@pytest.fixture
def folder(rows, tmp_path):
    with ImagesWriter(tmp_path / "images.parquet") as writer:
        for row in rows:
            writer.write(row)
    storage.seal(tmp_path, ["images.parquet"], rows=len(rows))
    return tmp_path


def test_rows_are_read_as_they_were_written_in_small_groups(folder, rows):
    with ImagesTable(folder) as table:
        assert list(table.images()) == rows
        assert table.row_group_sizes == [64, 64, 22]
        assert table.row_group(1) == rows[64:128]


def test_the_frame_has_all_columns_but_the_bytes(folder, rows):
    with ImagesTable(folder) as table:
        frame = table.frame()
        assert list(frame.columns) == [
            "image_id", "group", "origin", "sha256", "width", "height", "error_code",
        ]  # fmt: skip
        assert list(frame["image_id"]) == [row.image_id for row in rows]
        assert list(table.frame(["group"]).columns) == ["group"]


def test_a_large_image_ends_its_row_group_early(tmp_path):
    with ImagesWriter(tmp_path / "images.parquet") as writer:
        for size in (40_000_000, 1, 1):
            writer.write(CleanImage("p", "g", "o", "", bytes(size), 1, 1, None))
    storage.seal(tmp_path, ["images.parquet"], rows=3)
    with ImagesTable(tmp_path) as table:
        assert table.row_group_sizes == [1, 2]


def test_a_cut_footer_is_found(folder):
    path = folder / "images.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptError, match=r"images\.parquet"):
        ImagesTable(folder)
    storage.seal(folder, ["images.parquet"], rows=150)
    with pytest.raises(CorruptError, match=r"images\.parquet is not an images table"):
        ImagesTable(folder)


def test_a_table_with_other_columns_is_refused_with_their_names(tmp_path):
    pq.write_table(pa.table({"image": [1], "label": [2]}), tmp_path / "images.parquet")
    storage.seal(tmp_path, ["images.parquet"], rows=1)
    with pytest.raises(CorruptError, match="image, label"):
        ImagesTable(tmp_path)


def test_no_file_stays_open_after_the_table_or_after_a_refusal(folder):
    def is_open():
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return str(folder / "images.parquet") in [str(link.readlink()) for link in links]

    with ImagesTable(folder):
        assert is_open()
    assert not is_open()
    storage.seal(folder, ["images.parquet"], rows=149)
    with pytest.raises(CorruptError, match="150 rows, the completion marker says 149") as refused:
        ImagesTable(folder)
    assert not is_open(), refused


def test_an_image_that_crashes_or_hangs_its_decoder_has_an_error_code(limits, encoded, tmp_path, monkeypatch):
    decoders_obey_images(tmp_path / "site", monkeypatch)
    files = [encoded[0], hostile(encoded[1], "crash"), b"", hostile(encoded[2], "hang"), encoded[3]]
    hasty = limits.model_copy(update={"max_seconds": 2.0})
    fetched = [fetch_image(f"{n}", "g", "here", lambda d=data: d, hasty) for n, data in enumerate(files)]
    found = [(row.error_code, row.width) for row in decoded(iter(fetched), hasty)]
    assert found == [(None, 32), ("worker_died", None), ("empty", None), ("too_slow", None), (None, 32)]
