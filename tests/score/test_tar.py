import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from quality_model.errors import InputErrorsAboveLimit, UsageError
from quality_model.score import ScoreSummary

from .conftest import rows_of
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
    rows = rows_of(output)
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
    assert run(tmp_path / "in").parts_before == 1
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


def test_members_that_are_no_images_to_read_have_reasons(
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


def compressed(data: bytes, by: str) -> bytes:
    if by == "zstd":
        return pa.Codec("zstd").compress(data).to_pybytes()
    return {"plain": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}[by](data)


COMPRESSIONS = ["plain", "gzip", "bzip2", "xz", "zstd"]


@pytest.mark.parametrize("by", COMPRESSIONS)
@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".tar.zst"])
def test_the_first_bytes_of_a_shard_tell_how_it_is_compressed_and_not_its_name(
    run: Run, tmp_path: Path, crops: list[bytes], by: str, suffix: str
) -> None:
    path = tmp_path / "in" / os.fsdecode(b"t\xe9" + suffix.encode())
    path.parent.mkdir()
    members = [(f"{number}.jpg", crops[number]) for number in range(9)]
    path.write_bytes(compressed(archive(members), by))
    with pytest.raises(KeyboardInterrupt):
        run(path, scorer=Interrupted(2))
    run(path)
    assert outcome(tmp_path / "scores") == {f"t\\xe9{suffix}#{name}": sha256(data) for name, data in members}


@pytest.mark.parametrize("by", COMPRESSIONS)
@pytest.mark.parametrize("joined", ["before it is compressed", "after it is compressed"])
@pytest.mark.parametrize("between", [0, 3 << 20])
def test_archives_that_follow_one_another_are_one(
    run: Run, tmp_path: Path, crops: list[bytes], by: str, joined: str, between: int
) -> None:
    """As `cat a.tar b.tar` makes them, with zeros in between."""
    parts = [archive([(f"{number}.jpg", crops[number]), ("same.jpg", crops[9])]) for number in range(3)]
    parts = [part + bytes(between) for part in parts]
    whole = b"".join(parts)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "t.tar").write_bytes(
        compressed(whole, by) if joined.startswith("before") else b"".join(compressed(p, by) for p in parts)
    )
    run(tmp_path / "in")
    names = ["0.jpg", "same.jpg", "1.jpg", "same.jpg#2", "2.jpg", "same.jpg#3"]
    expected = [sha256(crops[number]) for number in (0, 9, 1, 9, 2, 9)]
    assert outcome(tmp_path / "scores") == {
        f"t.tar#{name}": found for name, found in zip(names, expected, strict=True)
    }


@pytest.mark.parametrize("zeros", [512, 1024, 1536, 100_000])
def test_zero_blocks_in_the_middle_and_at_the_end_are_passed_over(
    run: Run, tmp_path: Path, crops: list[bytes], zeros: int
) -> None:
    members = [archive([(f"{number}.jpg", crops[number])]).rstrip(b"\0") for number in range(2)]
    blocks = [data + bytes(-len(data) % 512) for data in members]
    aligned = bytes(zeros // 512 * 512)
    put(tmp_path / "in" / "t.tar", aligned + blocks[0] + aligned + blocks[1] + bytes(zeros))
    run(tmp_path / "in")
    assert outcome(tmp_path / "scores") == {f"t.tar#{n}.jpg": sha256(crops[n]) for n in range(2)}


@pytest.mark.parametrize("by", COMPRESSIONS)
@pytest.mark.parametrize("where", ["inside", "behind"])
def test_what_follows_the_end_mark_and_is_no_archive_is_a_row_with_an_error_code(
    run: Run, tmp_path: Path, crops: list[bytes], by: str, where: str
) -> None:
    rubbish = b"rubbish " * 200
    whole = archive([("1.jpg", crops[0])])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "t.tar").write_bytes(
        compressed(whole + rubbish, by) if where == "inside" else compressed(whole, by) + rubbish
    )
    run(tmp_path / "in")
    assert outcome(tmp_path / "scores") == {"t.tar#1.jpg": sha256(crops[0]), "t.tar": "broken_archive"}


@pytest.mark.parametrize("by", COMPRESSIONS[1:])
def test_a_compressed_shard_that_is_cut_says_so(
    run: Run, tmp_path: Path, crops: list[bytes], by: str
) -> None:
    data = compressed(archive([(f"{n}.jpg", crops[n]) for n in range(20)]), by)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "t.tar").write_bytes(data[:-20])
    with suppress(InputErrorsAboveLimit):  # one block may hold all of them
        run(tmp_path / "in")
    found = outcome(tmp_path / "scores")
    assert found.pop("t.tar") == "truncated_archive"
    assert found.items() <= {f"t.tar#{n}.jpg": sha256(crops[n]) for n in range(20)}.items()


def test_zeros_without_end_are_not_read_to_their_end(run: Run, tmp_path: Path, crops: list[bytes]) -> None:
    path = put(tmp_path / "in" / "t.tar", archive([("1.jpg", crops[0])]))
    with path.open("ab") as handle:
        handle.truncate(1 << 43)
    run(tmp_path / "in")
    assert outcome(tmp_path / "scores") == {"t.tar#1.jpg": sha256(crops[0]), "t.tar": "broken_archive"}


def test_an_xz_shard_that_asks_for_gigabytes_of_memory_is_refused(
    run: Run, tmp_path: Path, crops: list[bytes]
) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]
    data = bytearray(lzma.compress(archive([("1.jpg", crops[0])]), filters=filters))
    data[12 + 4] = 40  # the dictionary of the block: 4 GiB
    data[12 + 8 : 12 + 12] = zlib.crc32(data[12 : 12 + 8]).to_bytes(4, "little")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "t.tar.xz").write_bytes(data)
    put(tmp_path / "in" / "good.tar", archive([("1.jpg", crops[0])]))
    run(tmp_path / "in")
    assert outcome(tmp_path / "scores")["t.tar.xz"] == "broken_archive"
    assert "emory" in rows_of(tmp_path / "scores")["error_detail"].dropna().item()


def test_hidden_and_system_files_of_a_shard_are_skipped_and_counted(
    run: Run, tmp_path: Path, crops: list[bytes]
) -> None:
    names = ["./1.jpg", "._1.jpg", "./._1.jpg", "__MACOSX/1.jpg", "@eaDir/1.jpg", ".trash/1.jpg"]
    put(tmp_path / "in" / "t.tar", archive((name, crops[0]) for name in names))
    assert run(tmp_path / "in").skipped == {"hidden and system files": 5}
    assert outcome(tmp_path / "scores") == {"t.tar#./1.jpg": sha256(crops[0])}


@pytest.mark.parametrize("order", [["a.jpg", "a.jpg#2", "a.jpg"], ["a.jpg", "a.jpg", "a.jpg#2"]])
def test_no_number_makes_two_members_the_same(
    run: Run, tmp_path: Path, crops: list[bytes], order: list[str]
) -> None:
    names = [name if name.endswith("jpg") else f"{name}.jpg" for name in order]
    put(tmp_path / "in" / "t.tar", archive(zip(names, crops, strict=False)))
    run(tmp_path / "in")
    assert len(outcome(tmp_path / "scores")) == 3


def test_a_pipe_that_is_called_a_shard_is_a_row_with_an_error_code(
    run: Run, tmp_path: Path, crops: list[bytes]
) -> None:
    put(tmp_path / "in" / "good.tar", archive([("1.jpg", crops[0])]))
    os.mkfifo(tmp_path / "in" / "pipe.tar")
    run(tmp_path / "in")
    assert outcome(tmp_path / "scores")["pipe.tar"] == "not_a_file"


def test_a_shard_without_images_holds_nothing_to_score(run: Run, tmp_path: Path) -> None:
    put(tmp_path / "in" / "t.tar", archive([("a.txt", b"x")]))
    with pytest.raises(UsageError, match="nothing to score"):
        run(tmp_path / "in")


def test_a_tar_of_tars_holds_nothing_to_score_and_says_what_it_holds(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(archive([("b.tar", archive([("1.jpg", b"x")]))]))
    with pytest.raises(UsageError, match=r"hold no image \(skipped: 1 x members of tar shards\)"):
        run(tmp_path / "in")
