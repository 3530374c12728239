"""Images and containers in a real S3 server, and in a stand-in for the hub: as in a folder."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.cli import run as run_command
from quality_model.core import object_path
from quality_model.core.stores import store_path
from quality_model.data.sources import open_source
from quality_model.errors import InputErrorsAboveLimit, UsageError
from quality_model.score.selection import Selection
from tests.data.stand_in_hub import COMMIT, StandInHub

from .conftest import outcome, rows_of, same_rows, upload, write_containers

servers = pytest.mark.servers
PROJECT = Path(__file__).resolve().parents[2]
HOSTILE = [
    "a b.jpg", "a#b.jpg", "a%20b.jpg", "a%b.jpg", "a?b.jpg", "ü😀.jpg", "a.jpg", "a/b.jpg", "a[1]*.jpg",
    "a/~", "A+&=;.jpg",
]  # fmt: skip


def test_a_prefix_and_a_parquet_file_are_scored_by_the_command_which_ends_in_order(
    bucket: str, folder: Path, crops: list[bytes], tmp_path: Path
) -> None:
    upload(folder, f"{bucket}/images")
    pq.write_table(pa.table({"image": crops[:3]}), tmp_path / "x.parquet")
    store_path(f"{bucket}/x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes())
    for name, count in (("images", 20), ("x.parquet", 3)):
        command = [sys.executable, "-m", "quality_model", "score", f"{bucket}/{name}", "--model", "bundled"]
        output = tmp_path / f"of-{name}"
        ended = subprocess.run(
            [*command, "--output", str(output), "--workers", "1"],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        assert rows_of(output)["error_code"].isna().sum() == count


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
def test_a_folder_marker_is_no_file_and_a_name_with_a_line_break_is_refused(
    bucket, crops, run, tmp_path
) -> None:
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    name, prefix = bucket.removeprefix("s3://").split("/")
    for key, data in (("x.jpg", crops[0]), ("day/", b""), ("day/y.jpg", crops[1]), ("night/", b"")):
        client.put_object(Bucket=name, Key=f"{prefix}/{key}", Body=data)
    run(store_path(bucket))
    assert list(outcome(tmp_path / "scores")) == ["day/y.jpg", "x.jpg"]
    client.put_object(Bucket=name, Key=f"{prefix}/a\nb.jpg", Body=crops[0])
    with pytest.raises(
        UsageError, match=r"listed: a name that no client takes: .*/a.nb.jpg.*\n  Rename that object"
    ) as refused:
        run(store_path(bucket))
    assert "\n" not in refused.value.problem


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
    assert (found.planned, found.skipped) == (20, {"earlier results": 1})
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
    with pytest.raises(InputErrorsAboveLimit, match=r"too_many_bytes .4 of 4"):
        run(place, limits={"max_bytes": 1 << 20})
    assert sum(asked) < 4 << 20


@servers
def test_an_object_with_too_many_bytes_is_not_fetched(bucket, folder, crops, run, tmp_path) -> None:
    place = upload(folder, f"{bucket}/in")
    (place / "day" / "large.jpg").write_bytes(crops[0] + bytes(1 << 20))
    run(place, limits={"max_bytes": 1 << 19})
    assert outcome(tmp_path / "scores")["day/large.jpg"] == "too_many_bytes"


@servers
def test_the_gallery_and_copies_find_originals_in_the_store_again(bucket, folder, tmp_path, capsys) -> None:
    upload(folder, f"{bucket}/in")
    output = str(tmp_path / "out")
    assert run_command(["score", f"{bucket}/in", "--no-project", "--no-thumbnails", "--output", output]) == 0
    assert run_command(["gallery", output]) == 0
    assert run_command(["filter", output, "--where", "noise < 2", "--copy", str(tmp_path / "kept")]) == 0
    copied = {path.name: path.read_bytes() for path in (tmp_path / "kept").rglob("*.jpg")}
    assert copied == {path.name: path.read_bytes() for path in folder.rglob("*.jpg")}


@servers
def test_a_folder_of_clean_images_may_be_in_a_store(bucket, folder, params) -> None:
    upload(folder, f"{bucket}/in")
    found = {}
    for dataset in (f"{bucket}/in", str(folder)):
        section = params.source.model_copy(update={"dataset": dataset, "num_images": 9})
        found[dataset] = [
            (image.image_id, image.group, image.sha256)
            for image in open_source(section, params.limits).images()
        ]
    assert len(found[str(folder)]) == 20
    assert found[f"{bucket}/in"] == found[str(folder)]


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
