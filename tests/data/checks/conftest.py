"""Sound tables, and copies of them with planted defects."""

import hashlib
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.data.sources.table import TABLE_NAME, ImagesWriter
from quality_model.data.training_set.generate import generate
from quality_model.data.training_set.manifest import SCHEMA
from quality_model.data.training_set.store import IMAGES_NAME, LABELS_NAME, MANIFEST_NAME
from quality_model.errors import ValidationError
from quality_model.params import GenerateParams, Params
from quality_model.records import CleanImage

NUM_IMAGES = 24


def failures(error: ValidationError) -> list[str]:
    """The lines of a validation error, one per failed expectation."""
    return [line.removeprefix("  - ") for line in error.problem.splitlines()[1:]]


def write_table(folder: Path, images: Sequence[CleanImage]) -> Path:
    folder.mkdir(parents=True)
    with ImagesWriter(folder / TABLE_NAME) as writer:
        for image in images:
            writer.write(image)
    storage.seal(folder, [TABLE_NAME], rows=len(images))
    return folder


def reseal(folder: Path, **facts: Any) -> None:
    """Vouch for changed files with the facts of the old marker: a defect that hashes do not show."""
    marker = storage.read_json(folder / storage.MARKER_NAME)
    names = [entry["name"] for entry in marker["files"]]
    kept = {name: value for name, value in marker.items() if name not in ("files", "sha256")}
    storage.seal(folder, names, **{**kept, **facts})


@pytest.fixture(scope="session")
def images(photo: Pixels) -> list[CleanImage]:
    """Twenty-four crops of a photograph in eight groups."""
    made = []
    for number in range(NUM_IMAGES):
        top, left = 70 * (number // 6), 70 * (number % 6)
        buffer = io.BytesIO()
        Image.fromarray(photo[top : top + 64, left : left + 80]).save(buffer, "PNG")
        data = buffer.getvalue()
        made.append(
            CleanImage(
                image_id=f"p{number:02d}",
                group=f"g{number // 3}",
                origin=f"photo, crop {number}",
                sha256=hashlib.sha256(data).hexdigest(),
                data=data,
                width=80,
                height=64,
                reason=None,
            )
        )
    return made


@pytest.fixture(scope="session")
def generating(params: Params) -> GenerateParams:
    """Enough small samples for every kind to be certain to occur."""
    return params.generate.model_copy(
        update={"profile": "seed", "samples_per_image": 30, "image_size": 32, "workers": 1}
    )


@pytest.fixture(scope="session")
def sound_set(
    tmp_path_factory: pytest.TempPathFactory,
    params: Params,
    generating: GenerateParams,
    images: list[CleanImage],
) -> Path:
    place = tmp_path_factory.mktemp("sound")
    table = write_table(place / "images", images)
    generate(generating, params.limits, table, place / "training")
    return place / "training"


Change = Callable[[pd.DataFrame, npt.NDArray[np.float32]], pd.DataFrame]


def plant_in(sound: Path, folder: Path, change: Change) -> Path:
    """A copy of a set in the empty ``folder``, its manifest and labels changed by a function, sealed."""
    shutil.copy(sound / IMAGES_NAME, folder)
    shutil.copy(sound / storage.MARKER_NAME, folder)
    labels = np.load(sound / LABELS_NAME)
    manifest = change(pd.read_parquet(sound / MANIFEST_NAME), labels)
    np.save(folder / LABELS_NAME, labels)
    fields = [field.with_nullable(True) for field in SCHEMA]
    table = pa.Table.from_pandas(manifest, schema=pa.schema(fields), preserve_index=False)
    pq.write_table(table, folder / MANIFEST_NAME)
    reseal(folder)
    return folder


@pytest.fixture(scope="session")
def plant(sound_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Change], Path]:
    """`plant_in` a new folder, of the sound set."""
    return lambda change: plant_in(sound_set, tmp_path_factory.mktemp("planted"), change)
