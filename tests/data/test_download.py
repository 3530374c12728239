"""A download: every image is counted, an earlier table stays until the new one is complete."""

import logging
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from quality_model.core import storage
from quality_model.data.download import download
from quality_model.data.images_table import ImagesTable
from quality_model.errors import SourceError, StorageError, UsageError

pytestmark = pytest.mark.usefixtures("decoded_here")


@pytest.fixture
def folder(tmp_path, encoded):
    """12 different images, a copy of one of them, and three that cannot be read."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, data in enumerate(encoded[:12]):
        (folder / f"{number:02d}.png").write_bytes(data)
    (folder / "copy.png").write_bytes(encoded[3])
    (folder / "cut.png").write_bytes(encoded[0][:300])
    (folder / "empty1.png").touch()
    (folder / "empty2.png").touch()
    return folder


def num_rows(output: Path) -> int:
    storage.require_sealed(output, verify=True)
    with ImagesTable(output) as table:
        return table.num_rows


def test_every_file_is_a_row_or_a_counted_duplicate(folder, source, limits, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        summary = download(source(dataset=str(folder), num_images=100), limits, tmp_path / "out")
    assert (summary.rows, summary.readable, summary.duplicates, summary.requested) == (15, 12, 1, 100)
    assert summary.unreadable == {"empty": 2, "truncated": 1}
    assert num_rows(tmp_path / "out") == 15
    assert "only 15 different images; 100 were requested" in caplog.text


def test_unsupported_formats_are_counted_and_named(folder, source, limits, tmp_path, encoded, caplog):
    for name in ("a.jxl", "b.JXL", "c.dng", "notes.txt"):
        (folder / name).write_bytes(encoded[0])
    with caplog.at_level(logging.WARNING):
        summary = download(source(dataset=str(folder), num_images=10), limits, tmp_path / "out")
    assert summary.not_read == 3
    assert "unsupported formats: 1 x .dng, 2 x .jxl" in caplog.text


def test_the_completion_marker_has_the_summary_and_the_request(folder, source, limits, tmp_path):
    summary = download(source(dataset=str(folder), num_images=100), limits, tmp_path / "out")
    marker = storage.require_sealed(tmp_path / "out")
    assert marker.items() >= asdict(summary).items()
    assert marker["request"]["seed"] == 42


def test_a_duplicate_is_replaced_by_another_image(source, limits, tmp_path, encoded, caplog):
    for number in range(20):
        path = tmp_path / f"in/{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded[number // 2])
    with caplog.at_level(logging.WARNING):
        summary = download(source(dataset=str(tmp_path / "in"), num_images=10), limits, tmp_path / "out")
    assert (summary.rows, summary.readable) == (10, 10)
    assert not caplog.text


def test_the_same_request_gives_the_same_bytes_without_a_path_of_this_machine(
    folder, source, limits, tmp_path
):
    section = source(dataset=f"{folder} + sample-photos*10", num_images=22)
    assert download(section, limits, tmp_path / "a") == download(section, limits, tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert os.fsencode(tmp_path) not in path.read_bytes()


@pytest.mark.parametrize(("dataset", "error"), [("tiny-imagnet", UsageError), ("{empty}", SourceError)])
def test_a_refused_source_leaves_an_earlier_download_unchanged(
    folder, source, limits, tmp_path, dataset, error
):
    (tmp_path / "empty").mkdir()
    download(source(dataset=str(folder), num_images=5), limits, tmp_path / "out")
    with pytest.raises(error):
        download(source(dataset=dataset.format(empty=tmp_path / "empty")), limits, tmp_path / "out")
    assert num_rows(tmp_path / "out") == 5
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_an_output_that_is_a_file_is_refused(folder, source, limits, tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(StorageError, match="out"):
        download(source(dataset=str(folder), num_images=5), limits, tmp_path / "out")


def test_a_second_download_at_the_same_time_is_refused_and_does_not_disturb_the_first(
    folder, source, limits, tmp_path
):
    theirs = tmp_path / "out" / ".partial-0123-images.parquet"
    theirs.parent.mkdir()
    theirs.touch()
    with storage.only_maker(tmp_path / "out"), pytest.raises(StorageError, match="Another process"):
        download(source(dataset=str(folder)), limits, tmp_path / "out")
    assert theirs.exists()


def test_no_progress_is_drawn_without_a_terminal(folder, source, limits, tmp_path, capfd):
    download(source(dataset=str(folder), num_images=5), limits, tmp_path / "out")
    captured = capfd.readouterr()
    assert captured.out == "" and "download" not in captured.err
