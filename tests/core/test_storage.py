import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quality_model.core import storage
from quality_model.errors import CorruptError, IncompleteError, StorageError


def run_killed(script: str, *arguments: str) -> None:
    """Run Python code that ends by killing itself."""
    done = subprocess.run(
        [sys.executable, "-c", f"import os, signal, sys\nfrom pathlib import Path\n{script}", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    storage.write_bytes(tmp_path / "a.bin", b"first")
    storage.write_bytes(tmp_path / "b.bin", b"second")
    storage.seal(tmp_path, ["a.bin", "b.bin"], rows=2, seed=7)
    return tmp_path


def test_an_error_while_writing_keeps_the_earlier_file_and_leaves_no_other(tmp_path):
    storage.write_text(tmp_path / "a.txt", "before")
    with pytest.raises(ZeroDivisionError), storage.staged(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "new" / "deep" / "a.txt"
    storage.write_text(path, "old")
    with storage.staged(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(StorageError), storage.staged(tmp_path / "a.txt"):
        pass


def test_a_killed_writer_leaves_the_old_file_and_leftovers_that_can_be_swept(tmp_path):
    storage.write_text(tmp_path / "a.txt", "old")
    run_killed(
        "from quality_model.core import storage\n"
        "with storage.staged(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n",
        str(tmp_path / "a.txt"),
    )
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    storage.sweep(tmp_path)
    storage.sweep(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_said_and_costs_nothing_that_was_there(sealed):
    with limited_file_size(1000), pytest.raises(StorageError, match="No space is left"):
        storage.write_bytes(sealed / "a.bin", bytes(5000))
    assert storage.require_sealed(sealed, verify=True)["rows"] == 2
    assert {path.name for path in sealed.iterdir()} == {"a.bin", "b.bin", "_complete.json"}


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        storage.write_text(tmp_path / "file" / "a.txt", "x")


def test_a_disk_that_is_full_while_the_completion_marker_is_written_leaves_the_folder_unsealed(tmp_path):
    storage.write_bytes(tmp_path / "a.bin", b"x")
    with limited_file_size(20), pytest.raises(StorageError, match="No space is left"):
        storage.seal(tmp_path, ["a.bin"], rows=1)
    with pytest.raises(IncompleteError):
        storage.require_sealed(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": float("-inf")}])
def test_json_without_a_word_for_it_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json(tmp_path / "a.json", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "bytes", "deep"]
)
def test_what_is_not_json_is_corrupt_and_named(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(CorruptError, match=r"a\.json"):
        storage.read_json(tmp_path / "a.json")


def test_json_comes_back_as_it_was_written_and_what_is_not_there_is_incomplete(tmp_path):
    with pytest.raises(IncompleteError, match=r"a\.json"):
        storage.read_json(tmp_path / "a.json")
    storage.write_json(tmp_path / "a.json", {"key": [1, "ü", None]})
    assert storage.read_json(tmp_path / "a.json") == {"key": [1, "ü", None]}


def test_a_sealed_folder_is_accepted_with_its_facts(sealed):
    marker = storage.require_sealed(sealed, verify=True)
    assert (marker["rows"], marker["seed"]) == (2, 7)
    assert [entry["name"] for entry in marker["files"]] == ["a.bin", "b.bin"]


def test_the_hash_of_a_folder_changes_with_any_file_and_with_nothing_else(sealed, tmp_path):
    before = storage.require_sealed(sealed)["sha256"]
    assert storage.seal(sealed, ["a.bin", "b.bin"], rows=2, seed=8)["sha256"] == before
    storage.write_bytes(sealed / "b.bin", b"other")
    assert storage.seal(sealed, ["a.bin", "b.bin"], rows=2)["sha256"] != before


def test_an_unsealed_folder_one_that_is_not_there_and_one_without_a_file_are_incomplete(sealed):
    (sealed / "b.bin").rename(sealed / "c.bin")
    with pytest.raises(IncompleteError, match=r"b\.bin"):
        storage.require_sealed(sealed)
    for _ in range(2):
        storage.unseal(sealed)
        with pytest.raises(IncompleteError, match=r"_complete\.json"):
            storage.require_sealed(sealed)
    with pytest.raises(IncompleteError):
        storage.require_sealed(sealed / "none")


def test_another_length_is_found_at_once_and_a_flipped_bit_by_hashing(sealed):
    (sealed / "b.bin").write_bytes(b"seconf")
    storage.require_sealed(sealed)
    with pytest.raises(CorruptError, match=r"b\.bin"):
        storage.require_sealed(sealed, verify=True)
    (sealed / "b.bin").write_bytes(b"sho")
    with pytest.raises(CorruptError, match=r"b\.bin"):
        storage.require_sealed(sealed)


@pytest.mark.parametrize(
    "marker",
    [
        [],
        {},
        {"files": []},
        {"rows": 1, "sha256": "", "files": "a"},
        {"rows": 1, "sha256": "", "files": [{}]},
        {"rows": 1, "sha256": "", "files": [{"name": 1, "bytes": 1, "sha256": ""}]},
        {"rows": "many", "sha256": "", "files": []},
        {"rows": 1, "sha256": "", "files": [{"name": "../x", "bytes": 1, "sha256": ""}]},
        {"rows": 1, "sha256": "", "files": [{"name": "/etc/passwd", "bytes": 1, "sha256": ""}]},
    ],
)
def test_a_completion_marker_of_another_shape_is_corrupt(sealed, marker):
    (sealed / "_complete.json").write_text(json.dumps(marker))
    with pytest.raises(CorruptError, match="not a completion marker"):
        storage.require_sealed(sealed)


@pytest.mark.parametrize("rest", [b"", b'{"n": 2, "te', b'{"n"', b"\xc3", b"5"])
def test_lines_come_back_in_their_order_without_one_that_a_crash_cut_short(tmp_path, rest):
    assert storage.read_lines(tmp_path / "none.jsonl") == []
    (tmp_path / "ledger.jsonl").write_bytes(b'{"n": 1}\n{"n": 3, "text": "a"}\n' + rest)
    assert [record["n"] for record in storage.read_lines(tmp_path / "ledger.jsonl")] == [1, 3]


@pytest.mark.parametrize("line", [b"garbage\n", b"5\n", b"[1]\n"])
def test_a_line_in_the_middle_that_is_no_record_is_corrupt_and_numbered(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"n": 1}\n' + line + b'{"n": 3}\n')
    with pytest.raises(CorruptError, match="line 2"):
        storage.read_lines(path)


def test_a_lock_is_refused_while_another_process_holds_it_and_free_when_that_is_killed_or_fails(tmp_path):
    path = tmp_path / "a.lock"
    process = hold_lock(path)
    try:
        with pytest.raises(StorageError, match=r"a\.lock"), storage.locked(path, timeout_s=0.05):
            pass
    finally:
        process.kill()
        process.wait()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), storage.locked(path, timeout_s=5):
            raise ZeroDivisionError


def test_files_are_readable_for_others_as_the_umask_says(tmp_path):
    earlier = os.umask(0o022)
    try:
        storage.write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(earlier)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def hold_lock(path: Path) -> "subprocess.Popen[bytes]":
    script = (
        "import sys, time; from pathlib import Path; from quality_model.core.storage import locked\n"
        "with locked(Path(sys.argv[1]), timeout_s=5): Path(sys.argv[1] + '.held').touch(); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)])
    while not path.with_name(path.name + ".held").exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: what a full disk is to a writer."""
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, earlier[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)
        signal.signal(signal.SIGXFSZ, handler)
