"""Input that means harm, through the command line: each a row with scores or an error code; no code runs."""

import io
import os
import pickle
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from quality_model.core import decoding
from quality_model.core.decoding import Pixels
from quality_model.errors import ImageError
from quality_model.params import LimitsParams
from tests.hostile import Canary

from .conftest import Job
from .processes import run_command, start


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def project(jobs: Callable[[str], Job], tmp_path: Path) -> Path:
    return jobs("score").project(tmp_path)


def score(project: Path, inputs: str) -> pd.DataFrame:
    """Rows of the job by the name of the input."""
    ended = run_command(project, ["score", inputs, "--output", "scores"])
    assert ended.code == 0, ended.output
    assert "Traceback" not in ended.output
    return pd.read_parquet(project / "scores" / "data").set_index("key")


def test_every_kind_of_bad_file_is_a_row_and_none_costs_the_job(project: Path, photo: Pixels) -> None:
    folder = project / "hostile"
    folder.mkdir()
    image = Image.fromarray(photo[:64, :64])
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [image.rotate(90)]
    grey16 = Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16)
    png = encode(image, "PNG")
    good = {
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "grey16.png": encode(grey16, "PNG"),
        "palette.png": encode(image.convert("P"), "PNG"),
        "la.png": encode(image.convert("LA"), "PNG"),
        "animated.gif": encode(image, "GIF", save_all=True, append_images=frames),
        "rotated.jpg": encode(image, "JPEG", exif=exif),
        "dot.png": encode(image.resize((1, 1)), "PNG"),
    }
    bad = {
        "zero.jpg": (b"", "empty"),
        "cut.jpg": (encode(image, "JPEG")[:900], "truncated"),
        "crc.png": (png[:60] + bytes([png[60] ^ 255]) + png[61:], "broken"),
        "page.jpg": (b"<html>not found</html>", "not_an_image"),
        "code.jpg": (pickle.dumps(Canary(project / "canary")), "not_an_image"),
        "bomb.png": (encode(Image.new("1", (20_000, 20_000)), "PNG"), "too_many_pixels"),
    }
    for name, data in {**good, **{name: data for name, (data, _) in bad.items()}}.items():
        (folder / name).write_bytes(data)
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "round").symlink_to(".")
    os.mkfifo(folder / "pipe.jpg")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(png)

    rows = score(project, "hostile")
    assert rows["error_code"].dropna().to_dict() == {
        **{name: code for name, (_, code) in bad.items()},
        "self.jpg": "unreadable",
        "pipe.jpg": "not_a_file",
    }
    assert rows.index.is_unique
    scored = rows[rows["error_code"].isna()]
    assert len(scored) == len(good) + 1
    assert scored["overall"].between(0, 1).all()
    assert not (project / "canary").exists()


def test_hostile_archives_give_rows_and_write_nothing_outside_the_scores(
    project: Path, photo: Pixels
) -> None:
    jpeg = encode(Image.fromarray(photo[:64, :64]), "JPEG", quality=95)
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        add(archive, "inner.jpg", jpeg)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("../up.jpg", "/etc/root.jpg", "good.jpg"):
            add(archive, name, jpeg)
        add(archive, "nested.tar", inner.getvalue())
        add(archive, "nested.jpg", inner.getvalue())
    data = buffer.getvalue()
    (project / "archives").mkdir()
    (project / "archives" / "a.tar").write_bytes(data)
    (project / "archives" / "b.tar").write_bytes(claims_less(data, by_bytes=1000))
    (project / "archives" / "c.tar").write_bytes(data[: len(data) // 3])
    before = {path for path in project.rglob("*") if "scores" not in path.parts}

    rows = score(project, "archives")
    codes = rows["error_code"].dropna().to_dict()
    assert {"a.tar#../up.jpg", "a.tar#/etc/root.jpg", "a.tar#good.jpg"} <= set(rows.index) - set(codes)
    assert codes["a.tar#nested.jpg"] == "not_an_image"
    assert not [key for key in rows.index if "inner" in key]
    assert (codes["b.tar#../up.jpg"], codes["b.tar"]) == ("truncated", "broken_archive")
    assert codes["c.tar"] == "truncated_archive"
    assert {path for path in project.rglob("*") if "scores" not in path.parts} == before


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def claims_less(archive: bytes, *, by_bytes: int) -> bytes:
    """The archive with a first header, its checksum right, that says its member is shorter than it is."""
    header = tarfile.TarInfo.frombuf(archive[:512], "utf-8", "strict")
    header.size -= by_bytes
    return header.tobuf(tarfile.USTAR_FORMAT) + archive[512:]


def decode_in_little_memory(data: bytes, limits: LimitsParams) -> None:
    decoding.decode(small_png(), limits)  # everything is imported before memory is short
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 40 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        decoding.decode(data, limits)
    except ImageError as error:
        assert error.reason == "too_many_pixels", error
    else:
        raise AssertionError("there was memory enough")


def small_png() -> bytes:
    return encode(Image.new("RGB", (8, 8)), "PNG")


def test_an_image_too_large_for_the_memory_has_an_error_code(limits: LimitsParams) -> None:
    data = encode(Image.new("RGB", (6000, 6000)), "PNG", compress_level=1)
    process = start(decode_in_little_memory, data, limits)
    process.join(120)
    assert process.exitcode == 0
