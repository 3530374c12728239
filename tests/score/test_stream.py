"""Scores of a collection in a loop: every input in order, read when its turn comes, nothing left behind."""

import doctest
import hashlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import quality_model
from quality_model import Scorer, iter_scores
from quality_model.errors import UsageError
from quality_model.score import stream

from .conftest import rows_of

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer("bundled", "cpu")


def no_processes_within(seconds: float) -> bool:
    """Whether worker processes and download threads end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        threads = [one for one in threading.enumerate() if one.name.startswith(("worker", "download"))]
        if not multiprocessing.active_children() and not threads:
            return True
        time.sleep(0.05)
    return False


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def inputs(tmp_path: Path, crops: list[bytes], monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The same three images and a file that is none, in every container, by what names them."""
    monkeypatch.chdir(tmp_path)
    files = {"a.jpg": crops[0], "b.jpg": b"no image", "c.jpg": crops[1], "d.jpg": crops[2]}
    Path("folder").mkdir()
    for name, data in files.items():
        Path("folder", name).write_bytes(data)
    Path("shard.tar").write_bytes(tar_of(files))
    with zipfile.ZipFile("archive.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    pq.write_table(pa.table({"id": list(files), "image": list(files.values())}), "table.parquet")
    Path("list.txt").write_text("".join(f"folder/{name}\n" for name in files))
    return {
        "folder": Path("folder"),
        "tar": "shard.tar",
        "zip": Path("archive.zip"),
        "parquet": "table.parquet",
        "list": "@list.txt",
        "glob": "folder/*.jpg",
        "paths": [Path("folder", name) for name in files],
    }


@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "parquet", "list", "glob", "paths"])
def test_every_input_of_a_collection_is_an_item_with_scores_or_an_error(inputs, scorer, crops, kind):
    items = list(iter_scores(inputs[kind], scorer))
    assert [item.key[-5:] for item in items] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    expected = [scorer.predict(crop) for crop in crops[:3]]
    assert [items[at].scores.to_dict() for at in (0, 2, 3)] == [
        {
            **one.to_dict(),
            **{name: pytest.approx(getattr(one, name), abs=1e-6) for name in ("overall", "noise")},
        }
        for one in expected
    ]
    assert (items[1].scores, items[1].error.reason) == (None, "not_an_image")
    assert items[0].sha256 == hashlib.sha256(crops[0]).hexdigest()
    assert (items[0].size_bytes, items[0].width, items[0].height, items[0].format, items[0].measures) == (
        len(crops[0]), 64, 48, "JPEG", {},
    )  # fmt: skip
    assert no_processes_within(10)


def test_the_items_are_the_rows_of_a_result(folder, run, tmp_path, params):
    model = Scorer("bundled", "cpu")
    from quality_model.score.result import ScoringModel

    run(folder, scorer=model, model=ScoringModel.of(model), measures=("file",))
    rows = rows_of(tmp_path / "scores")
    items = list(iter_scores(folder, model, measures=("file",)))
    assert [item.key for item in items] == list(rows["key"])
    assert [item.scores.noise for item in items] == pytest.approx(list(rows["noise"]), abs=1e-6)
    assert [item.scores.overall for item in items] == pytest.approx(list(rows["overall"]), abs=1e-6)
    assert [item.measures["bits_per_pixel"] for item in items] == pytest.approx(list(rows["bits_per_pixel"]))


def test_an_image_is_read_when_its_turn_comes_and_a_closed_iterator_leaves_no_process(
    tmp_path, scorer, crops
):
    many = tmp_path / "many"
    many.mkdir()
    for number in range(300):
        (many / f"{number:03d}.jpg").write_bytes(crops[0])
    items = iter_scores(many, scorer, workers=2)
    assert next(items).key == "000.jpg"
    (many / "200.jpg").write_bytes(crops[1])
    (many / "299.jpg").write_bytes(b"")
    assert multiprocessing.active_children()
    assert (
        next(item for item in items if item.key == "200.jpg").sha256 == hashlib.sha256(crops[1]).hexdigest()
    )
    items.close()
    assert no_processes_within(10)
    for number, _ in enumerate(iter_scores(many, scorer, workers=2)):
        if number == 3:
            break  # nothing refers to the iterator any more
    assert no_processes_within(10)


def test_what_cannot_be_a_collection_is_refused_before_the_loop_begins(inputs, scorer, tmp_path):
    for bad, match in (
        (tmp_path / "nowhere", "is not there"),
        ("", "empty"),
        ([], "nothing"),
        ("*.gif", "Nothing"),
    ):
        with pytest.raises(UsageError, match=match):
            iter_scores(bad, scorer)
    with pytest.raises(UsageError, match="several kinds"):
        iter_scores(tmp_path, scorer)
    assert len(list(iter_scores(tmp_path, scorer, kind="tar"))) == 4
    with pytest.raises(UsageError, match="workers is -1"):
        iter_scores("folder", scorer, workers=-1)


def test_urls_in_a_list_are_errors_where_nobody_allowed_to_fetch_them(tmp_path, scorer):
    (tmp_path / "list.txt").write_text("http://127.0.0.1:9/x.jpg\n")
    (item,) = iter_scores(f"@{tmp_path / 'list.txt'}", scorer)
    assert (item.key, item.error.reason) == ("http://127.0.0.1:9/x.jpg", "url")


def test_ctrl_c_ends_the_loop_and_its_processes(tmp_path, crops):
    many = tmp_path / "many"
    many.mkdir()
    for number in range(2000):
        (many / f"{number:04d}.jpg").write_bytes(crops[0])
    script = tmp_path / "loop.py"
    script.write_text(
        "import multiprocessing\n"
        "from quality_model import Scorer, iter_scores\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        f"        for item in iter_scores({str(many)!r}, Scorer('bundled', 'cpu'), workers=2):\n"
        "            print(item.key, flush=True)\n"
        "    except KeyboardInterrupt:\n"
        "        print('left', len(multiprocessing.active_children()), flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline() == "0000.jpg\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    # Ctrl-C may fall between the text of a line and its end.
    assert (process.returncode, output.endswith("left 0\n")) == (0, True), errors
    assert len(output.splitlines()) < 2000


def test_the_example_of_the_documentation_runs():
    assert quality_model.iter_scores is stream.iter_scores
    done = doctest.testmod(stream)
    assert (done.failed, done.attempted) == (0, 5)
