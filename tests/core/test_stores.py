"""Places in object stores: paths, staged files, markers, leases and errors, on a real S3 server."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from quality_model.core import locks, storage, store_requests
from quality_model.core.folders import input_path
from quality_model.core.stores import is_in_store, is_store_address, require_local, store_path, typed_path
from quality_model.errors import CorruptError, IncompleteError, StorageError, UsageError
from tests.s3_server import READER, Fault, FaultProxy, S3Server, use_environment

servers = pytest.mark.servers


@pytest.fixture
def place(proxy: FaultProxy, request: pytest.FixtureRequest) -> Path:
    """A folder of its own in the bucket, behind the proxy."""
    return store_path(f"s3://bucket/{hashlib.md5(request.node.nodeid.encode()).hexdigest()}")


def test_a_path_of_a_store_has_the_names_of_a_path_and_survives_a_process() -> None:
    path = store_path("S3://bucket/a/b c?#%.tar.gz/")
    assert str(path) == "s3://bucket/a/b c?#%.tar.gz"
    assert (path.name, path.suffix, path.stem) == ("b c?#%.tar.gz", ".gz", "b c?#%.tar")
    assert path.parent / "b c?#%.tar.gz" == path
    assert str(path.relative_to(path.parent.parent)) == "a/b c?#%.tar.gz"
    assert pickle.loads(pickle.dumps(path)) == path
    assert is_in_store(path) and not is_in_store(Path("s3"))


@pytest.mark.parametrize("address", ["s3://", "s3://bucket/../x", "s3://bucket//x", "s3://bucket/./x"])
def test_an_address_that_names_no_place_is_refused(address: str) -> None:
    assert is_store_address(address)
    with pytest.raises(UsageError):
        store_path(address)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("s3:/bucket/x", "s3://bucket/x"), ("gcs://bucket/x", "gs://"), ("abfss://a/b", "az://")],
)
def test_an_address_that_is_slightly_wrong_is_refused_with_the_right_one(text: str, hint: str) -> None:
    for read in (typed_path, input_path):
        with pytest.raises(UsageError) as refused:
            read(text)
        assert hint in str(refused.value)


def test_what_is_typed_is_a_place_of_this_machine_unless_it_is_an_address(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "x").touch()
    assert typed_path("s3:/x") == Path("s3:/x")  # it is there
    assert typed_path("~/x") == Path.home() / "x"
    assert typed_path("ftp://x") == Path("ftp://x")
    for read in (typed_path, input_path):  # a Path has lost a slash
        assert str(read(Path("s3://bucket/x"))) == "s3://bucket/x"
    with pytest.raises(UsageError):
        require_local(store_path("s3://bucket/x"), "Copies")


def test_a_file_that_is_staged_for_a_store_appears_whole_and_an_error_leaves_the_earlier(place: Path) -> None:
    """The one test of the ordinary run: it starts the server."""
    path = place / "new" / "a.bin"
    storage.write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), storage.staged(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    data = os.urandom(20_000_000)  # more than one part of a multipart upload
    with storage.staged(path) as temporary:
        temporary.write_bytes(data)
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == data
    assert storage.file_sha256(path) == hashlib.sha256(data).hexdigest()
    with path.open("rb") as file:
        file.seek(-10, os.SEEK_END)
        assert file.read(100) == data[-10:]
    assert [found.name for found in place.glob("*")] == ["new"]
    assert [found.name for found in path.parent.iterdir()] == ["a.bin"]


@servers
def test_markers_verify_the_files_of_a_folder_in_a_store(place: Path) -> None:
    storage.write_bytes(place / "a.bin", b"first")
    storage.write_bytes(place / "sub" / "b.bin", b"second")
    with pytest.raises(IncompleteError):
        storage.require_sealed(place)
    made = storage.seal(place, ["a.bin", "sub/b.bin"], rows=2, seed=7)
    assert storage.require_sealed(place, verify=True) == made
    assert storage.sealed_sha256(place) == made["sha256"]
    storage.write_bytes(place / "a.bin", b"FIRST")
    assert storage.require_sealed(place) == made
    with pytest.raises(CorruptError):
        storage.require_sealed(place, verify=True)
    storage.move(place / "a.bin", place / "c.bin")
    assert (place / "c.bin").read_bytes() == b"FIRST"
    with pytest.raises(IncompleteError):
        storage.require_sealed(place)
    storage.remove(place / "c.bin")
    storage.remove(place / "c.bin")
    storage.unseal(place)
    assert [path.name for path in place.iterdir()] == ["sub"]


@servers
def test_removing_a_folder_of_a_store_removes_no_object(place: Path) -> None:
    storage.write_bytes(place / "a.bin", b"1")
    with pytest.raises(OSError):
        place.rmdir()
    assert (place / "a.bin").is_file() and place.is_dir() and not (place / "a").exists()


@servers
def test_a_writer_that_is_killed_leaves_no_object(s3: S3Server, proxy: FaultProxy, place: Path) -> None:
    """Killed while the second of three parts is on its way."""
    script = (
        "import os, sys\nfrom quality_model.core import storage, stores\n"
        "storage.write_bytes(stores.store_path(sys.argv[1]), os.urandom(24_000_000))"
    )
    proxy.fail(Fault.SLOW, where="PUT .*partNumber=2", delay_s=5)
    process = subprocess.Popen([sys.executable, "-c", script, str(place / "a.bin")])
    while not any("partNumber=2" in request for request in proxy.requests):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (place / "a.bin").exists()
    assert [*place.iterdir()] == []


@servers
@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.CUT, Fault.LOST])
def test_requests_that_fail_for_a_while_are_repeated(proxy: FaultProxy, place: Path, fault: Fault) -> None:
    for what in ("PUT", "GET", "HEAD", "DELETE"):
        proxy.fail(fault, times=2, where=f"^{what}")
    storage.write_json(place / "a.json", {"a": 1})
    assert (place / "a.json").is_file()
    assert storage.read_json(place / "a.json") == {"a": 1}
    storage.remove(place / "a.json")
    assert not (place / "a.json").is_file()


@servers
def test_what_a_store_refuses_is_one_line_without_secrets(
    s3: S3Server, proxy: FaultProxy, place: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(path: Path = place / "a.json") -> str:
        with pytest.raises(StorageError) as refused:
            storage.write_json(path, {})
        text = str(refused.value)
        assert len(text.splitlines()) == 2 and refused.value.exit_code == 10
        assert "secret" not in text and "Signature=" not in text and "http" not in text
        return text

    proxy.fail(Fault.EXPIRED)
    assert "expired" in refusal()
    with pytest.raises(StorageError, match="expired"), storage.locked(place / ".lock", timeout_s=0):
        pass
    proxy.heal()
    proxy.fail(Fault.THROTTLED)
    assert "overloaded (SlowDown)" in refusal()
    proxy.heal()
    use_environment(monkeypatch, s3.environment(READER))
    assert "access is denied (AccessDenied)" in refusal()
    use_environment(monkeypatch, s3.environment(("writer-key", "another-secret-0123456789")))
    assert "SignatureDoesNotMatch" in refusal()
    use_environment(monkeypatch, s3.environment() | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    assert "no connection to 127.0.0.1:9" in refusal()
    use_environment(monkeypatch, proxy.environment())
    proxy.fail(Fault.VANISHED)
    with pytest.raises(IncompleteError):
        storage.read_json(place / "a.json")


@servers
def test_a_request_that_takes_long_is_reported_and_ends_by_ctrl_c(
    proxy: FaultProxy, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_requests, "_SAY_AFTER_S", 0.5)
    proxy.fail(Fault.SLOW, delay_s=40)
    timer = threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        (place / "a.json").read_bytes()
    assert time.monotonic() - started < 30
    assert "no answer" in caplog.text


HOLDER = """
import sys, time
from quality_model.core import locks, storage
from quality_model.core.stores import store_path
for name in ("RENEWED_EACH_S", "TAKEN_AFTER_S", "_LOOKS_EACH_S", "_SURE_FOR_S"):
    setattr(locks, name, getattr(locks, name) / 5)
with storage.locked(store_path(sys.argv[1]), timeout_s=0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(proxy: FaultProxy, place: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock; it lets go when its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@servers
def test_a_lock_in_a_store_is_refused_while_its_holder_lives_and_free_when_it_ends(
    place: Path, holder: subprocess.Popen[str], hasty: None
) -> None:
    with (
        pytest.raises(StorageError, match="Another process holds"),
        storage.locked(place / ".lock", timeout_s=0),
    ):
        pass
    assert holder.stdin is not None
    holder.stdin.close()
    assert holder.wait() == 0
    started = time.monotonic()
    with storage.locked(place / ".lock", timeout_s=0):
        assert time.monotonic() - started < locks.TAKEN_AFTER_S


@servers
def test_the_lock_of_a_killed_holder_is_taken_over(
    place: Path, holder: subprocess.Popen[str], hasty: None
) -> None:
    holder.kill()
    with storage.locked(place / ".lock", timeout_s=0):
        storage.write_bytes(place / "a", b"1")
    assert (place / "a").read_bytes() == b"1"


@servers
def test_a_holder_that_slept_while_another_took_its_lock_writes_nothing_more(
    place: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as held:
        monkeypatch.setattr(locks, "RENEWED_EACH_S", 3600.0)  # as if it slept
        held.enter_context(storage.locked(place / ".lock", timeout_s=0))
        with storage.locked(place / ".lock", timeout_s=0):
            pass
        time.sleep(locks._SURE_FOR_S)
        with pytest.raises(StorageError, match="has taken over"):
            storage.write_bytes(place / "a", b"1")
    assert not (place / "a").exists()


@servers
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.THROTTLED])
def test_a_lock_whose_answer_is_lost_is_held_all_the_same(
    proxy: FaultProxy, place: Path, hasty: None, fault: Fault
) -> None:
    proxy.fail(fault, times=3, where="PUT .*lock")
    with storage.locked(place / ".lock", timeout_s=0):
        time.sleep(3 * locks.RENEWED_EACH_S)
        storage.write_bytes(place / "a", b"1")
    with storage.locked(place / ".lock", timeout_s=0):
        pass


@servers
def test_of_many_processes_that_want_a_lock_one_at_a_time_has_it(place: Path) -> None:
    """Each adds one to a number, without any other care."""
    script = (
        "import sys\nfrom quality_model.core import storage, stores\n"
        "place = stores.store_path(sys.argv[1])\n"
        "with storage.locked(place / '.lock', timeout_s=-1):\n"
        "    number = int((place / 'n').read_text())\n"
        "    storage.write_text(place / 'n', str(number + 1))\n"
    )
    storage.write_text(place / "n", "0")
    processes = [subprocess.Popen([sys.executable, "-c", script, str(place)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (place / "n").read_text() == "4"
