"""Small collections, and a scorer whose scores can be worked out by hand."""

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.core.jobs import LOCK_NAME
from quality_model.core.processes import InThisProcess
from quality_model.core.stores import store_path
from quality_model.params import Params
from quality_model.records import Head
from quality_model.score import reading, summary
from quality_model.score.inputs import InputChoice
from quality_model.score.job import score
from quality_model.score.result import ScoringModel
from quality_model.score.selection import Kind, Selection
from quality_model.score.shares import Share
from quality_model.score.summary import ScoreSummary
from tests.s3_server import S3Server, use_environment

THRESHOLDS: dict[Head, float] = {"color_cast": 0.5, "blurriness": 0.4, "watermark": 0.3, "noise": 1.0}
IDENTITY = ScoringModel("grey", "3", "a1b2", "c" * 64, image_size_px=32, thresholds=THRESHOLDS)


class MeanScorer:
    """Scores by the mean of each channel and of all: a function of the pixels, as a model is."""

    engine: Any = None

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.batches.append(len(pixels))
        channels = pixels.mean(axis=(1, 2)) / 255.0
        return np.column_stack([channels, channels.mean(axis=1)]).astype(np.float32)


class MeanEngine:
    """The same scores, computed where the images are read."""

    name = "ncnn-float32"
    is_portable = True

    def scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return MeanScorer().score_pixels(pixels)


class PerCoreScorer(MeanScorer):
    """Leaves the scoring to the processes that read; that its own pixels are asked for is a defect."""

    engine = MeanEngine()

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        raise AssertionError("scored in the parent process")


class Interrupted(MeanScorer):
    """Ctrl-C in the middle of a batch."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if len(self.batches) == self.after:
            raise KeyboardInterrupt
        return super().score_pixels(pixels)


def encode(pixels: Pixels, suffix: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, suffix)
    return buffer.getvalue()


def rows_of(output: Path) -> pd.DataFrame:
    """All rows of a job's result."""
    return pd.read_parquet(output / "data")


def outcome(output: Path) -> dict[str, str]:
    """SHA-256 or error code by key."""
    rows = rows_of(output)
    return dict(zip(rows["key"], rows["error_code"].fillna(rows["sha256"]), strict=True))


def bytes_of(output: Path) -> dict[str, bytes]:
    """What a job leaves, by file; where its inputs are is left out of job.json."""
    files = {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != LOCK_NAME
    }
    if "job.json" in files:
        job = json.loads(files["job.json"])
        for name in ("root", "absolute_root"):
            job["inputs"].pop(name, None)
        files["job.json"] = json.dumps(job).encode()
    return files


def copy(files: dict[str, bytes], output: Path) -> Path:
    """Write files, such as those of `undisturbed`."""
    for name, data in files.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(data)
    return output


@pytest.fixture(scope="session")
def crops(photo: Pixels) -> list[bytes]:
    """Forty different crops of a photograph, encoded."""
    starts = [(40 * (number // 10), 40 * (number % 10)) for number in range(40)]
    return [encode(photo[top : top + 48, left : left + 64]) for top, left in starts]


def fill(root: Path, crops: list[bytes]) -> Path:
    """Write twenty images in two folders, with one time of change."""
    for number, data in enumerate(crops[:20]):
        path = root / ("day" if number % 2 else "night") / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return root


@pytest.fixture
def folder(tmp_path: Path, crops: list[bytes]) -> Path:
    """Twenty images in two folders, the same in every test."""
    return fill(tmp_path / "images", crops)


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, params: Params, crops: list[bytes]
) -> dict[str, bytes]:
    """What scoring `folder` leaves when nothing disturbs it, by file."""
    place = tmp_path_factory.mktemp("undisturbed")
    runner(params, place / "scores")(fill(place / "images", crops))
    return bytes_of(place / "scores")


@pytest.fixture
def run(params: Params, tmp_path: Path) -> Callable[..., ScoreSummary]:
    """Score into tmp_path/scores, seven inputs per shard, four per batch.

    Images are read in this process, unless the test says how many workers read them, and the histograms are
    drawn for the tests that look at them alone.
    """
    return runner(params, tmp_path / "scores")


def runner(params: Params, place: Path) -> Callable[..., ScoreSummary]:
    """See `run`."""

    def run(
        inputs: Path | Selection,
        output: Path = place,
        *,
        scorer: Any = None,
        model: ScoringModel = IDENTITY,
        overwrite: bool = False,
        verify: bool = False,
        limits: dict[str, Any] | None = None,
        check: Any = None,
        kind: Kind | None = None,
        image_column: str | None = None,
        key_column: str | None = None,
        workers: int | None = None,
        figure: bool = False,
        root: Path | None = None,
        share: Share | None = None,
        **changes: Any,
    ) -> ScoreSummary:
        settings = {"shard_size": 7, "batch_size": 4, "workers": workers or 0, **changes}
        with pytest.MonkeyPatch.context() as patch:
            if workers is None:
                patch.setattr(reading, "WorkerProcesses", lambda *_, **__: InThisProcess())
            if not figure:
                patch.setattr(summary, "find_spec", lambda _: None)
            return score(
                params.score.model_copy(update=settings),
                params.limits.model_copy(update=limits or {}),
                inputs=inputs,
                output=output,
                scorer=scorer or MeanScorer(),
                model=model,
                overwrite=overwrite,
                verify=verify,
                check=check,
                choice=InputChoice(kind, image_column, key_column),
                root=root,
                share=share,
            )

    return run


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The address of an empty folder of a bucket; the environment has its keys."""
    use_environment(monkeypatch, s3.environment())
    return f"s3://bucket/{hashlib.md5(request.node.nodeid.encode()).hexdigest()}"


def upload(folder: Path, address: str) -> Path:
    """Mirror a folder; gives the place."""
    for path in folder.rglob("*"):
        if path.is_file():
            store_path(f"{address}/{path.relative_to(folder).as_posix()}").write_bytes(path.read_bytes())
    return store_path(address)


def same_rows(one: Path, other: Path) -> bool:
    """All but the words of errors."""
    return bool(rows_of(one).drop(columns="error_detail").equals(rows_of(other).drop(columns="error_detail")))


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
