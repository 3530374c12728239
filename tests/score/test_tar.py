import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from quality_model.errors import UsageError
from quality_model.score import archives

from .conftest import Interrupted, outcome, rows_of

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.Codec("zstd").compress(data).to_pybytes(),
}


def archive(members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if not isinstance(name, tarfile.TarInfo):
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """An empty folder for tar shards."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_a_shard_is_scored_member_by_member(run, shards, tmp_path, crops):
    members = [(f"{n}.jpg", data) for n, data in enumerate(crops[:9])]
    others = [(f"{n}.json", b"{}") for n in range(9)]
    (shards / "train.tar").write_bytes(archive([*members, *others]))
    summary = run(shards / "train.tar")
    assert (summary.scored, summary.skipped) == (9, {"members of tar shards": 9})
    assert outcome(tmp_path / "scores") == {f"train.tar#{name}": sha256(data) for name, data in members}


def test_an_interrupted_job_over_shards_ends_with_the_same_rows(run, shards, tmp_path, crops):
    """Whatever they are compressed with: their first bytes say it, not their names, which may be odd."""
    expected = {}
    for number, (by, compress) in enumerate(COMPRESSIONS.items()):
        name = os.fsdecode(b"t\xe9" + f"{by}{['.tar', '.tgz', '.tar.zst'][number % 3]}".encode())
        members = [(f"{n}.jpg", crops[5 * number + n]) for n in range(5)]
        (shards / name).write_bytes(compress(archive(members)))
        shown = name.replace("\udce9", "\\xe9")
        expected |= {f"{shown}#{member}": sha256(data) for member, data in members}
    with pytest.raises(KeyboardInterrupt):
        run(shards, scorer=Interrupted(3))
    assert run(shards).parts_before == 1
    assert outcome(tmp_path / "scores") == expected


def test_names_that_lead_elsewhere_are_only_keys(run, shards, tmp_path, crops):
    names = ["../up.jpg", "/etc/root.jpg", "a/../../b.jpg"]
    (shards / "t.tar").write_bytes(archive(zip(names, crops, strict=False)))
    before = set(tmp_path.rglob("*"))
    run(shards)
    assert list(outcome(tmp_path / "scores")) == [f"t.tar#{name}" for name in names]
    scores = tmp_path / "scores"
    assert not [path for path in set(tmp_path.rglob("*")) - before if scores not in (path, *path.parents)]


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["a.jpg", "a.jpg#2.jpg", "a.jpg"], ["a.jpg", "a.jpg#2.jpg", "a.jpg#2"]),
        (["a.jpg", "a.jpg", "a.jpg"], ["a.jpg", "a.jpg#2", "a.jpg#3"]),
    ],
)
def test_a_repeated_name_gets_a_number_that_makes_no_two_members_the_same(
    run, shards, tmp_path, crops, names, keys
):
    (shards / "t.tar").write_bytes(archive(zip(names, crops, strict=False)))
    run(shards)
    assert list(outcome(tmp_path / "scores")) == [f"t.tar#{key}" for key in keys]


def test_members_that_are_no_images_to_read_have_error_codes(run, shards, tmp_path, crops):
    link, pipe = tarfile.TarInfo("link.jpg"), tarfile.TarInfo("pipe.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    pipe.type = tarfile.FIFOTYPE
    members = [
        ("good.jpg", crops[0]),
        (link, b""),
        (pipe, b""),
        ("empty.jpg", b""),
        ("heavy.jpg", bytes(50_000)),
        ("nested.tar", archive([("inner.jpg", crops[0])])),
    ]
    (shards / "t.tar").write_bytes(archive(members))
    summary = run(shards, limits={"max_bytes": 40_000})
    assert outcome(tmp_path / "scores") == {
        "t.tar#good.jpg": sha256(crops[0]),
        "t.tar#link.jpg": "link_in_archive",
        "t.tar#pipe.jpg": "not_a_file",
        "t.tar#empty.jpg": "empty",
        "t.tar#heavy.jpg": "too_many_bytes",
    }
    assert summary.skipped == {"members of tar shards": 1}


def test_hidden_and_system_files_of_a_shard_are_skipped_and_counted(run, shards, tmp_path, crops):
    names = ["./1.jpg", "._1.jpg", "./._1.jpg", "__MACOSX/1.jpg", "@eaDir/1.jpg", ".trash/1.jpg"]
    (shards / "t.tar").write_bytes(archive((name, crops[0]) for name in names))
    assert run(shards).skipped == {"hidden and system files": 5}
    assert outcome(tmp_path / "scores") == {"t.tar#./1.jpg": sha256(crops[0])}


def test_archives_that_follow_one_another_are_one(run, shards, tmp_path, crops):
    """As `cat a.tar b.tar` makes them before or after they are compressed, with zeros in between."""
    expected = {}
    for by, compress in COMPRESSIONS.items():
        for between in (0, (1 << 20) + 512):
            parts = [archive([(f"{n}.jpg", crops[n]), ("same.jpg", crops[9])]) for n in range(3)]
            parts = [part + bytes(between) for part in parts]
            (shards / f"{by}-{between}-before.tar").write_bytes(compress(b"".join(parts)))
            (shards / f"{by}-{between}-after.tar").write_bytes(b"".join(map(compress, parts)))
        names = ["0.jpg", "same.jpg", "1.jpg", "same.jpg#2", "2.jpg", "same.jpg#3"]
        hashes = [sha256(crops[number]) for number in (0, 9, 1, 9, 2, 9)]
        for shard in shards.glob(f"{by}-*"):
            expected |= {f"{shard.name}#{name}": found for name, found in zip(names, hashes, strict=True)}
    run(shards)
    assert outcome(tmp_path / "scores") == expected


def test_zero_blocks_in_the_middle_and_at_the_end_are_skipped(run, shards, tmp_path, crops):
    members = [archive([(f"{number}.jpg", crops[number])]).rstrip(b"\0") for number in range(2)]
    first, second = (data + bytes(-len(data) % 512) for data in members)
    for zeros in (512, 1024, 1536, 100_000):
        aligned = bytes(zeros // 512 * 512)
        (shards / f"{zeros}.tar").write_bytes(aligned + first + aligned + second + bytes(zeros))
    run(shards)
    found = outcome(tmp_path / "scores")
    assert len(found) == 8
    assert all(value == sha256(crops[int(key[-5])]) for key, value in found.items())


def damaged_shards(crops: list[bytes]) -> dict[str, tuple[bytes, set[str]]]:
    """Shards by name, and the error codes that the rest of each may have. Image 0 is whole in each."""
    whole = archive((f"{number}.jpg", crops[number]) for number in range(4))
    second = whole.index(b"2.jpg")
    broken, truncated = {"broken_archive"}, {"truncated_archive"}
    longer = tarfile.TarInfo("x")
    longer.type, longer.size = tarfile.XHDTYPE, 8 << 30
    made = {
        "cut.tar": (whole[: whole.index(crops[3]) + 100], truncated),
        "cut.tgz": (gzip.compress(whole[: whole.index(crops[3]) + 100], 0)[:-8], truncated),
        "no-end.tar": (whole[:second], broken),
        "header.tar": (whole[: second + 20] + b"\xff" + whole[second + 21 :], broken),
        "shifted.tar": (whole[:second] + bytes(range(1, 200)) * 20 + whole[second:], broken | truncated),
        "huge-header.tar": (whole[:second] + longer.tobuf(format=tarfile.GNU_FORMAT), broken),
    }
    for size in (-1, -1536):
        backwards = tarfile.TarInfo("b.jpg")
        backwards.pax_headers = {"size": str(size)}
        members = [("0.jpg", crops[0]), (backwards, b""), ("c.jpg", bytes(10**6))]
        made[f"backwards{size}.tgz"] = (gzip.compress(archive(members)), broken)
    rubbish = b"rubbish " * 200
    for by, compress in COMPRESSIONS.items():
        one = archive([("0.jpg", crops[0])])
        made[f"{by}-inside.tar"] = (compress(one + rubbish), broken)
        made[f"{by}-behind.tar"] = (compress(one) + rubbish, broken)
    return made


def test_a_damaged_shard_gives_what_was_readable_and_a_row_with_an_error_code(
    run, shards, tmp_path, crops, monkeypatch
):
    monkeypatch.setattr(archives, "MAX_ZERO_BYTES", 16 << 20)
    expected = damaged_shards(crops)
    for name, (data, _) in expected.items():
        (shards / name).write_bytes(data)
    (shards / "zeros.tar").write_bytes(archive([("0.jpg", crops[0])]))
    os.truncate(shards / "zeros.tar", 1 << 43)
    os.truncate(shards / "huge-header.tar", 9 << 30)
    run(shards, max_error_share=1.0)
    found = outcome(tmp_path / "scores")
    for name, (_, codes) in {**expected, "zeros.tar": (b"", {"broken_archive"})}.items():
        assert found[f"{name}#0.jpg"] == sha256(crops[0]), name
        assert found[name] in codes, name
        rows = {key: value for key, value in found.items() if key.startswith(f"{name}#")}
        assert rows.items() <= {f"{name}#{n}.jpg": sha256(crops[n]) for n in range(3)}.items() | {
            (f"{name}#3.jpg", "truncated"), (f"{name}#3.jpg", "truncated_archive")
        }, name  # fmt: skip


@pytest.mark.parametrize("by", ["gzip", "bzip2", "xz", "zstd"])
def test_a_compressed_shard_that_is_cut_says_so(run, shards, tmp_path, crops, by):
    data = COMPRESSIONS[by](archive([(f"{n}.jpg", crops[n]) for n in range(20)]))
    (shards / "t.tar").write_bytes(data[:-20])
    (shards / "whole.tar").write_bytes(archive([("x.jpg", crops[0])]))
    run(shards, max_error_share=1.0)
    found = outcome(tmp_path / "scores")  # of the cut one nothing, where one block holds all of it
    assert (found.pop("t.tar"), found.pop("whole.tar#x.jpg")) == ("truncated_archive", sha256(crops[0]))
    assert found.items() <= {f"t.tar#{n}.jpg": sha256(crops[n]) for n in range(20)}.items()


def test_what_is_no_archive_is_a_row_with_an_error_code(run, shards, tmp_path, crops):
    (shards / "a.tar").write_bytes(b"")
    (shards / "b.tar").write_bytes(b"<html>not found</html>" * 100)
    (shards / "c.tgz").write_bytes(b"\x1f\x8b no")
    os.mkfifo(shards / "pipe.tar")
    (shards / "good.tar").write_bytes(archive([("x.jpg", crops[0])]))
    run(shards, max_error_share=1.0)
    found = outcome(tmp_path / "scores")
    assert (found["good.tar#x.jpg"], found["pipe.tar"]) == (sha256(crops[0]), "not_a_file")
    assert {found[name] for name in ("a.tar", "b.tar", "c.tgz")} <= {"broken_archive", "truncated_archive"}


def test_an_xz_shard_that_asks_for_gigabytes_of_memory_is_refused(run, shards, tmp_path, crops):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]
    data = bytearray(lzma.compress(archive([("1.jpg", crops[0])]), filters=filters))
    data[12 + 4] = 40  # the dictionary of the block: 4 GiB
    data[12 + 8 : 12 + 12] = zlib.crc32(data[12 : 12 + 8]).to_bytes(4, "little")
    (shards / "t.tar.xz").write_bytes(data)
    (shards / "good.tar").write_bytes(archive([("1.jpg", crops[0])]))
    run(shards)
    assert outcome(tmp_path / "scores")["t.tar.xz"] == "broken_archive"
    assert "emory" in rows_of(tmp_path / "scores")["error_detail"].dropna().item()


@pytest.mark.parametrize("name", ["a.txt", "b.tar"])
def test_a_shard_without_images_holds_nothing_to_score_and_says_what_it_holds(shards, run, name):
    (shards / "t.tar").write_bytes(archive([(name, archive([("1.jpg", b"x")]))]))
    with pytest.raises(UsageError, match=r"hold no image \(skipped: 1 x members of tar shards\)"):
        run(shards)
