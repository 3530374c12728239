"""Small images tables, training datasets made of them, and a stand-in for the hub."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.core.processes import InThisProcess
from quality_model.data import images_table
from quality_model.data.generate import GenerateSummary, generate
from quality_model.data.images_table import SCHEMA, TABLE_NAME
from quality_model.params import GenerateParams, LimitsParams, Params, SourceParams
from quality_model.records import CleanImage

from .stand_in_hub import HubClient, StandInHub


def _encode(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def image_rows(
    images: Sequence[Pixels | bytes], *, per_group: int = 2, error_codes: dict[int, str] | None = None
) -> list[CleanImage]:
    """Rows of an images table; ``error_codes`` makes those of unreadable images."""
    rows = []
    for number, image in enumerate(images):
        data = image if isinstance(image, bytes) else _encode(image)
        height, width = (48, 64) if isinstance(image, bytes) else image.shape[:2]
        name, group, origin = f"image/{number:04d}", f"group {number // per_group}", f"test, image {number}"
        row = CleanImage(name, group, origin, hashlib.sha256(data).hexdigest(), data, width, height, None)
        if error_code := (error_codes or {}).get(number):
            row = replace(row, width=None, height=None, error_code=error_code)
        rows.append(row)
    return rows


def write_table(folder: Path, images: Sequence[Pixels | bytes], **how: Any) -> Path:
    """A complete images table of `image_rows`."""
    return write_rows(folder, image_rows(images, **how))


def write_rows(folder: Path, rows: Sequence[CleanImage]) -> Path:
    """A complete images table of some rows, in row groups of 4."""
    folder.mkdir(parents=True)
    with pq.ParquetWriter(folder / TABLE_NAME, SCHEMA) as writer:
        for first in range(0, len(rows), 4):
            some = [asdict(row) for row in rows[first : first + 4]]
            writer.write_table(pa.Table.from_pylist(some, schema=SCHEMA))
    storage.seal(folder, [TABLE_NAME], rows=len(rows))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by name."""
    return {path.name: storage.file_sha256(path) for path in sorted(folder.iterdir())}


def unfinished(output: Path) -> Path:
    """Where a dataset is made until it is complete."""
    return output.with_name(f".unfinished-{output.name}")


@pytest.fixture(scope="session")
def crops(photo: Pixels) -> list[Pixels]:
    """24 different crops, uint8 (48, 64, 3)."""
    return [photo[16 * n : 16 * n + 48, 14 * n : 14 * n + 64] for n in range(24)]


@pytest.fixture(scope="session")
def table(crops: list[Pixels], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An images table of 24 images in 12 groups."""
    return write_table(tmp_path_factory.mktemp("table") / "images", crops)


@pytest.fixture(scope="session")
def section(params: Params) -> Callable[..., GenerateParams]:
    """A section that makes 5 samples of 32 x 32 pixels in one process, with some fields changed."""
    base = params.generate.model_dump() | {
        "profile": "seed",
        "image_size": 32,
        "samples_per_image": 5,
        "workers": 1,
        "seed": 42,
    }
    return lambda **changes: GenerateParams(**{**base, **changes})


@pytest.fixture(scope="session")
def made(
    table: Path,
    section: Callable[..., GenerateParams],
    limits: LimitsParams,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, GenerateSummary]:
    """A training dataset of those images, not to be changed, and its summary."""
    folder = tmp_path_factory.mktemp("made") / "training"
    return folder, generate(section(), limits, table, folder)


@pytest.fixture(scope="session")
def encoded(photo: Pixels) -> list[bytes]:
    """48 different 32 x 32 PNG images."""
    return [_encode(photo[8 * n : 8 * n + 32, 9 * n : 9 * n + 32]) for n in range(48)]


@pytest.fixture
def source(params: Params) -> Callable[..., SourceParams]:
    """The committed source section with some fields changed."""
    return lambda **changes: SourceParams(**{**params.source.model_dump(), **changes})


@pytest.fixture
def decoded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of a download are decoded in this process: a worker process takes a second to start."""
    monkeypatch.setattr(images_table, "WorkerProcesses", lambda **options: InThisProcess())


@pytest.fixture(scope="module")
def _running_hub() -> Iterator[StandInHub]:
    hub = StandInHub()
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def hub(_running_hub: StandInHub) -> StandInHub:
    _running_hub.behave()
    return _running_hub


@pytest.fixture(scope="module")
def client(_running_hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    client = HubClient(_running_hub, tmp_path_factory.mktemp("hub-home"))
    yield client
    client.close()
