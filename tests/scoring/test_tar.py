import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from quality_model.errors import UsageError
from quality_model.scoring import ScoreSummary

from .conftest import shards_of
from .test_resume import Interrupted

Run = Callable[..., ScoreSummary]


def archive(members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if not isinstance(name, tarfile.TarInfo):
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 1) if path.suffix in (".gz", ".tgz") else data)
    return path


def outcome(output: Path) -> dict[str, str]:
    """sha256 or reason by key."""
    rows = shards_of(output)
    return dict(zip(rows["key"], rows["error_code"].fillna(rows["sha256"]), strict=True))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_a_shard_is_scored_member_by_member(
    run: Run, tmp_path: Path, crops: list[bytes], suffix: str
) -> None:
    members: list[tuple[str | tarfile.TarInfo, bytes]] = []
    for number, data in enumerate(crops[:9]):
        members += [(f"{number:03d}.jpg", data), (f"{number:03d}.json", b"{}")]
    path = put(tmp_path / "in" / f"train{suffix}", archive(members))
    summary = run(path)
    assert (summary.scored, summary.skipped) == (9, {"members of tar shards": 9})
    expected = {f"train{suffix}#{number:03d}.jpg": sha256(data) for number, data in enumerate(crops[:9])}
    assert outcome(tmp_path / "scores") == expected


def test_an_interrupted_job_over_shards_ends_with_the_same_rows(
    run: Run, tmp_path: Path, crops: list[bytes]
) -> None:
    for part in range(2):
        data = archive((f"{number}.jpg", crops[10 * part + number]) for number in range(10))
        put(tmp_path / "in" / f"{part}.tgz", data)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", scorer=Interrupted(3))
    assert run(tmp_path / "in").shards_before == 1
    assert list(outcome(tmp_path / "scores").values()) == [sha256(data) for data in crops[:20]]


def test_names_that_lead_elsewhere_are_only_keys(run: Run, tmp_path: Path, crops: list[bytes]) -> None:
    names = ["../up.jpg", "/etc/root.jpg", "a/../../b.jpg", "same.jpg", "same.jpg"]
    put(tmp_path / "in" / "t.tar", archive(zip(names, crops, strict=False)))
    before = set(tmp_path.rglob("*"))
    run(tmp_path / "in")
    keys = ["t.tar#../up.jpg", "t.tar#/etc/root.jpg", "t.tar#a/../../b.jpg", "t.tar#same.jpg"]
    assert list(outcome(tmp_path / "scores")) == [*keys, "t.tar#same.jpg#2"]
    scores = tmp_path / "scores"
    assert not [path for path in set(tmp_path.rglob("*")) - before if scores not in (path, *path.parents)]


def test_members_that_are_no_pictures_to_read_have_reasons(
    run: Run, tmp_path: Path, crops: list[bytes]
) -> None:
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    pipe = tarfile.TarInfo("pipe.jpg")
    pipe.type = tarfile.FIFOTYPE
    nested = archive([("inner.jpg", crops[0])])
    data = archive(
        [
            ("good.jpg", crops[0]),
            (link, b""),
            (pipe, b""),
            ("empty.jpg", b""),
            ("heavy.jpg", bytes(50_000)),
            ("nested.tar", nested),
        ]
    )
    put(tmp_path / "in" / "t.tar", data)
    summary = run(tmp_path / "in", limits={"max_bytes": 40_000})
    assert outcome(tmp_path / "scores") == {
        "t.tar#good.jpg": sha256(crops[0]),
        "t.tar#link.jpg": "link_in_archive",
        "t.tar#pipe.jpg": "not_a_file",
        "t.tar#empty.jpg": "empty",
        "t.tar#heavy.jpg": "too_many_bytes",
    }
    assert summary.skipped == {"members of tar shards": 1}


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_a_truncated_shard_gives_what_was_readable_and_a_reason(
    run: Run, tmp_path: Path, crops: list[bytes], suffix: str
) -> None:
    whole = archive((f"{number}.jpg", crops[number]) for number in range(6))
    third = whole.index(crops[3])
    if suffix == ".tgz":
        stream = gzip.compress(whole[: third + 100], 0)
        path = put(tmp_path / "in" / "t.tgz", b"")
        path.write_bytes(stream[:-8])  # without its own end
    else:
        put(tmp_path / "in" / "t.tar", whole[: third + 100])
    put(tmp_path / "in" / f"whole{suffix}", archive([("x.jpg", crops[9])]))
    run(tmp_path / "in")
    found = outcome(tmp_path / "scores")
    shard = f"t{suffix}"
    assert [found[f"{shard}#{number}.jpg"] for number in range(3)] == [sha256(data) for data in crops[:3]]
    assert found[f"{shard}#3.jpg"] in ("truncated", "truncated_archive")
    assert found[shard] == "truncated_archive"
    assert found[f"whole{suffix}#x.jpg"] == sha256(crops[9])
    assert len(found) == 6


@pytest.mark.parametrize("damage", ["no end mark", "damaged header", "member longer than it says"])
def test_a_shard_whose_rest_is_lost_says_so(
    run: Run, tmp_path: Path, crops: list[bytes], damage: str
) -> None:
    data = bytearray(archive((f"{number}.jpg", crops[number]) for number in range(4)))
    second = data.index(b"2.jpg")
    if damage == "no end mark":
        data = data[:second]
    elif damage == "damaged header":
        data[second + 20] ^= 0xFF
    else:
        data[second:second] = bytes(range(1, 200)) * 20
        del data[second + 3584 :]
    put(tmp_path / "in" / "t.tar", bytes(data))
    run(tmp_path / "in")
    found = outcome(tmp_path / "scores")
    assert [found[f"t.tar#{number}.jpg"] for number in range(2)] == [sha256(data) for data in crops[:2]]
    assert found["t.tar"] in ("broken_archive", "truncated_archive")


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.tar", b""), ("t.tar", b"<html>not found</html>" * 100), ("t.tgz", b""), ("t.tgz", b"\x1f\x8b no")],
)
def test_what_is_no_archive_is_a_row_with_a_reason(
    run: Run, tmp_path: Path, crops: list[bytes], name: str, content: bytes
) -> None:
    path = put(tmp_path / "in" / name, b"")
    path.write_bytes(content)
    put(tmp_path / "in" / "good.tar", archive([("x.jpg", crops[0])]))
    run(tmp_path / "in")
    found = outcome(tmp_path / "scores")
    assert found["good.tar#x.jpg"] == sha256(crops[0])
    assert found[name] in ("broken_archive", "truncated_archive")


def test_a_header_that_claims_gigabytes_is_not_read(run: Run, tmp_path: Path, crops: list[bytes]) -> None:
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    info.size = 8 << 30
    path = put(tmp_path / "in" / "t.tar", archive([("a.jpg", crops[0])])[: 512 * (2 + len(crops[0]) // 512)])
    with path.open("ab") as handle:
        handle.truncate(-(-path.stat().st_size // 512) * 512)
        handle.seek(0, io.SEEK_END)
        handle.write(info.tobuf(format=tarfile.GNU_FORMAT))
        handle.truncate(handle.tell() + (9 << 30))
    run(tmp_path / "in")
    found = outcome(tmp_path / "scores")
    assert found == {"t.tar#a.jpg": sha256(crops[0]), "t.tar": "broken_archive"}


@pytest.mark.parametrize("size", [-1, -1536])
def test_a_header_that_claims_less_than_nothing_ends_its_shard(
    run: Run, tmp_path: Path, crops: list[bytes], size: int
) -> None:
    backwards = tarfile.TarInfo("b.jpg")
    backwards.pax_headers = {"size": str(size)}
    put(
        tmp_path / "in" / "t.tar.gz",
        archive([("a.jpg", crops[0]), (backwards, b""), ("c.jpg", bytes(10**6))]),
    )
    run(tmp_path / "in")
    found = outcome(tmp_path / "scores")
    assert found == {"t.tar.gz#a.jpg": sha256(crops[0]), "t.tar.gz": "broken_archive"}


def test_a_shard_without_pictures_holds_nothing_to_score(run: Run, tmp_path: Path) -> None:
    put(tmp_path / "in" / "t.tar", archive([("a.txt", b"x")]))
    with pytest.raises(UsageError, match="nothing to score"):
        run(tmp_path / "in")
