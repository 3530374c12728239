import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from quality_model.data.sources.download import download
from quality_model.data.sources.table import ImagesTable
from quality_model.errors import SourceError, StorageError, UsageError


@pytest.fixture
def folder(tmp_path, images):
    """12 different images, a copy of one of them, and three that cannot be read."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, data in enumerate(images[:12]):
        (folder / f"{number:02d}.png").write_bytes(data)
    (folder / "copy.png").write_bytes(images[3])
    (folder / "cut.png").write_bytes(images[0][:300])
    (folder / "empty1.png").touch()
    (folder / "empty2.png").touch()
    return folder


def test_every_file_is_a_row_or_a_counted_duplicate(folder, source, limits, tmp_path):
    summary = download(source(dataset=str(folder), num_images=100), limits, tmp_path / "out")
    assert summary["rows"] == 15
    assert summary["readable"] == 12
    assert summary["unreadable"] == {"empty": 2, "truncated": 1}
    assert summary["duplicates"] == 1
    assert summary["rows"] + summary["duplicates"] == len(list(folder.iterdir()))
    assert len(ImagesTable.open(tmp_path / "out", verify=True)) == 15


def test_images_in_formats_that_are_not_read_are_counted_and_named(
    folder, source, limits, tmp_path, images, caplog
):
    for name in ("a.heic", "b.HEIC", "c.dng", "notes.txt"):
        (folder / name).write_bytes(images[0])
    with caplog.at_level(logging.WARNING):
        summary = download(source(dataset=str(folder), num_images=10), limits, tmp_path / "out")
    assert summary["not_read"] == 3
    assert "formats that are not read: 1 x .dng, 2 x .heic" in caplog.text


def test_the_summary_is_what_the_marker_holds(folder, source, limits, tmp_path):
    summary = download(source(dataset=str(folder), num_images=100), limits, tmp_path / "out")
    assert ImagesTable.open(tmp_path / "out").marker == summary
    assert summary["request"]["seed"] == 42


def test_fewer_images_than_asked_for_is_said(folder, source, limits, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        summary = download(source(dataset=str(folder), num_images=100), limits, tmp_path / "out")
    assert summary["requested"] == 100
    assert "15 different images; 100 were asked for" in caplog.text


def test_as_many_images_as_asked_for_are_taken(folder, source, limits, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        summary = download(source(dataset=str(folder), num_images=7), limits, tmp_path / "out")
    assert summary["rows"] == 7
    assert not caplog.text


def test_a_duplicate_is_replaced_by_another_image(source, limits, tmp_path, images):
    for number in range(20):
        path = tmp_path / f"in/{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(images[number // 2])
    summary = download(source(dataset=str(tmp_path / "in"), num_images=10), limits, tmp_path / "out")
    assert summary["readable"] == 10


def test_the_same_request_gives_the_same_bytes(source, limits, tmp_path):
    section = source(num_images=12)
    assert download(section, limits, tmp_path / "a") == download(section, limits, tmp_path / "b")
    assert (tmp_path / "a/images.parquet").read_bytes() == (tmp_path / "b/images.parquet").read_bytes()


def test_no_path_of_this_machine_is_written(folder, source, limits, tmp_path):
    download(source(dataset=str(folder), num_images=100), limits, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert os.fsencode(tmp_path) not in path.read_bytes()


def test_a_new_download_replaces_an_earlier_one(folder, source, limits, tmp_path):
    for num_images in (5, 9):
        download(source(dataset=str(folder), num_images=num_images), limits, tmp_path / "out")
        assert len(ImagesTable.open(tmp_path / "out", verify=True)) == num_images


@pytest.mark.parametrize(("dataset", "error"), [("tiny-imagnet", UsageError), ("{empty}", SourceError)])
def test_a_refused_source_leaves_an_earlier_download_as_it_was(
    folder, source, limits, tmp_path, dataset, error
):
    (tmp_path / "empty").mkdir()
    before = download(source(dataset=str(folder), num_images=5), limits, tmp_path / "out")
    with pytest.raises(error):
        download(source(dataset=dataset.format(empty=tmp_path / "empty")), limits, tmp_path / "out")
    assert ImagesTable.open(tmp_path / "out", verify=True).marker == before
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_an_output_that_is_a_file_is_refused(folder, source, limits, tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(StorageError, match="out"):
        download(source(dataset=str(folder), num_images=5), limits, tmp_path / "out")


def begin_download(section, out):
    """`download` in a process of its own, once it writes its table."""
    script = (
        "import sys, json; from pathlib import Path;"
        "from quality_model.data.sources.download import download;"
        "from quality_model.params import SourceParams; from quality_model.params_file import load_params;"
        "section = SourceParams(**json.loads(sys.argv[1]));"
        "download(section, load_params(Path('params.yaml')).limits, Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, json.dumps(section.model_dump()), str(out)])
    while process.poll() is None and not list(out.glob(".partial-*")):
        time.sleep(0.01)
    return process


def test_a_killed_download_leaves_no_marker_and_the_next_one_ends_as_if_undisturbed(source, limits, tmp_path):
    section = source(num_images=20)
    out = tmp_path / "out"
    process = begin_download(section, out)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "_complete.json").exists()
    summary = download(section, limits, out)
    assert summary == download(section, limits, tmp_path / "undisturbed")
    assert {path.name for path in out.iterdir()} == {"images.parquet", "_complete.json"}


def test_a_second_download_is_refused_and_costs_the_first_nothing(source, limits, tmp_path):
    out = tmp_path / "out"
    process = begin_download(source(num_images=20), out)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(StorageError, match="Another process has held"):
        download(source(num_images=9), limits, out)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0
    assert len(ImagesTable.open(out, verify=True)) == 20


def test_rows_are_written_in_small_groups_so_that_few_images_wait_in_memory(source, limits, tmp_path, images):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03d}.png").write_bytes(images[number % 48] + bytes([number]))
    download(source(dataset=str(folder), num_images=200), limits, tmp_path / "out")
    metadata = pq.ParquetFile(tmp_path / "out" / "images.parquet").metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [64, 64, 64, 8]


def test_no_progress_is_drawn_where_there_is_no_terminal(folder, source, limits, tmp_path, capfd):
    download(source(dataset=str(folder), num_images=5), limits, tmp_path / "out")
    captured = capfd.readouterr()
    assert captured.out == "" and "download" not in captured.err


def test_a_full_disk_is_said_and_leaves_nothing_that_looks_complete(source, limits, tmp_path):
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, earlier[1]))
    try:
        with pytest.raises(StorageError, match="No space is left"):
            download(source(num_images=10), limits, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
    assert download(source(num_images=10), limits, tmp_path)["rows"] == 10
