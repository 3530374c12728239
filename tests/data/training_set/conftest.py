"""Small images tables, and training datasets made of them."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.data.sources.table import TABLE_NAME, ImagesWriter
from quality_model.data.training_set.generate import generate
from quality_model.params import GenerateParams, LimitsParams, Params
from quality_model.records import CleanImage


def _encode(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_table(
    folder: Path,
    images: Sequence[Pixels | bytes],
    *,
    per_group: int = 2,
    reasons: dict[int, str] | None = None,
) -> Path:
    """A sealed images table; ``reasons`` makes rows of images that cannot be read."""
    folder.mkdir(parents=True)
    with ImagesWriter(folder / TABLE_NAME) as writer:
        for number, image in enumerate(images):
            data = image if isinstance(image, bytes) else _encode(image)
            readable = number not in (reasons or {})
            writer.write(
                CleanImage(
                    image_id=f"image/{number:04d}",
                    group=f"group {number // per_group}",
                    origin="made in a test",
                    sha256=hashlib.sha256(data).hexdigest(),
                    data=data,
                    width=64 if readable else None,
                    height=48 if readable else None,
                    reason=None if readable else (reasons or {})[number],
                )
            )
    storage.seal(folder, [TABLE_NAME], rows=len(images))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by name."""
    return {path.name: storage.file_sha256(path) for path in sorted(folder.iterdir())}


def unfinished(output: Path) -> Path:
    """Where a set is made until it is whole."""
    return output.with_name(f".unfinished-{output.name}")


@pytest.fixture(scope="session")
def write_images() -> Callable[..., Path]:
    """`write_table`, for tests that need a table of their own."""
    return write_table


@pytest.fixture(scope="session")
def crops(photo: Pixels) -> list[Pixels]:
    """24 different crops, uint8 (48, 64, 3)."""
    return [photo[16 * n : 16 * n + 48, 14 * n : 14 * n + 64] for n in range(24)]


@pytest.fixture(scope="session")
def images(crops: list[Pixels], tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    images: Path,
    section: Callable[..., GenerateParams],
    limits: LimitsParams,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any]]:
    """A training dataset of those images, not to be changed, and what `generate` said of it."""
    folder = tmp_path_factory.mktemp("made") / "training"
    return folder, generate(section(), limits, images, folder)
