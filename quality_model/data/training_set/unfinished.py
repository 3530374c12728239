"""A partial training dataset: after a kill, generation resumes behind the last complete part."""

import hashlib
import io
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import storage
from quality_model.data.training_set.manifest import SCHEMA
from quality_model.data.training_set.store import IMAGES_NAME
from quality_model.errors import StorageError

_log = logging.getLogger(__name__)

_PLAN_NAME: Final = "plan.json"


class Unfinished:
    """The pixels and the finished parts of a set, in a folder beside the one that it will have.

    ``plan.json`` says what is made, ``images.npy`` has room for every pixel, and ``part-00000.parquet`` and
    those after it hold the rows of the manifest, each written when the pixels of its samples are on the disk.
    One process at a time works in the folder. It is a context; without a finished part nothing of it stays.

    Args:
        output: The folder that the set will have.
        plan: What decides about every byte, JSON; work on another plan is thrown away.
        shape: Of images.npy, (N, S, S, 3), uint8.
        part_samples: Samples of a part; the last one may have fewer.

    Attributes:
        images: The file that pixels go to.
        offset: Where in it they begin, bytes.
        num_done: Samples in finished parts whose pixels are those that were written.
    """

    def __init__(
        self, output: Path, plan: Mapping[str, Any], shape: tuple[int, ...], part_samples: int
    ) -> None:
        self._output = output
        self._plan = dict(plan)
        self._shape = shape
        self._part_samples = part_samples
        self._folder = output.with_name(f".unfinished-{output.name}")
        self._lock = ExitStack()
        self._header = npy_header(np.dtype(np.uint8), shape)
        self.images = self._folder / IMAGES_NAME
        self.offset = len(self._header)
        self.num_done = 0

    def __enter__(self) -> Self:
        with ExitStack() as held:
            held.enter_context(storage.only_maker(self._output))
            try:
                self._folder.mkdir(exist_ok=True)
                self._take_back_images()
                if self._is_of_this_plan():
                    storage.sweep(self._folder)
                    self.num_done = self._count_sound_samples()
                else:
                    self._begin()
            except OSError as error:
                shutil.rmtree(self._folder, ignore_errors=True)
                raise storage.explain(error, self.images) from error
            self._lock = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None or not self._part(0).exists():
            shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()

    @property
    def num_samples(self) -> int:
        return self._shape[0]

    def ends_a_part(self, num_samples: int) -> bool:
        """Whether the first so many samples are whole parts."""
        return num_samples % self._part_samples == 0 or num_samples == self.num_samples

    def end_of(self, num_samples: int) -> int:
        """Bytes of images.npy up to the end of the first so many samples."""
        return self.offset + num_samples * int(np.prod(self._shape[1:], dtype=np.int64))

    def write_part(self, first_sample: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows of a part whose pixels are on the disk (see `manifest.manifest_row`)."""
        with storage.staged(self._part(first_sample // self._part_samples)) as path:
            pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path, compression="zstd")

    def parts(self) -> Iterator[pa.Table]:
        """The rows of all parts in order, one part in memory at a time."""
        for number in range(-(-self.num_samples // self._part_samples)):
            yield pq.read_table(self._part(number))

    def publish_images(self) -> None:
        """Move images.npy to the set's folder; while no marker vouches for it there, it is taken back."""
        storage.move(self.images, self._output / IMAGES_NAME)

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:05d}.parquet"

    def _take_back_images(self) -> None:
        published = self._output / IMAGES_NAME
        sealed = (self._output / storage.MARKER_NAME).exists()
        if published.exists() and not sealed and not self.images.exists() and self._part(0).exists():
            storage.move(published, self.images)

    def _is_of_this_plan(self) -> bool:
        """Whether the folder holds work on the same plan."""
        try:
            if storage.read_json(self._folder / _PLAN_NAME) != self._plan:
                return False
            with self.images.open("rb") as handle:
                is_headed = handle.read(self.offset) == self._header
            return is_headed and self.images.stat().st_size == self.end_of(self.num_samples)
        except (StorageError, OSError):
            return False

    def _begin(self) -> None:
        """Empty the folder, make room for the pixels and note down the plan.

        Where the system can promise the room, a full disk is found before any work is done.
        """
        for path in self._folder.iterdir():
            path.unlink()
        length = self.end_of(self.num_samples)
        with self.images.open("wb") as handle:
            handle.write(self._header)
            handle.truncate(length)
            handle.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle.fileno(), 0, length)
        storage.write_json(self._folder / _PLAN_NAME, self._plan)

    def _count_sound_samples(self) -> int:
        """Samples of the parts from the first to the last before one that is missing or not sound."""
        done = 0
        with self.images.open("rb") as images:
            images.seek(self.offset)
            for first in range(0, self.num_samples, self._part_samples):
                length = min(self._part_samples, self.num_samples - first)
                path = self._part(first // self._part_samples)
                if not path.exists() or not self._is_sound(path, length, images):
                    break
                done += length
        return done

    def _is_sound(self, path: Path, num_samples: int, images: BinaryIO) -> bool:
        """Whether a part is whole and describes the pixels that come next in the file."""
        try:
            expected = pq.read_table(path, schema=SCHEMA, columns=["pixels_sha256"]).column(0).to_pylist()
        except (OSError, pa.ArrowException) as error:
            _log.warning("%s is made again: %s", path, error)
            return False
        size = int(np.prod(self._shape[1:], dtype=np.int64))
        found = [hashlib.sha256(images.read(size)).hexdigest() for _ in range(num_samples)]
        if found != expected:
            _log.warning("%s is made again: it does not describe its pixels", path)
        return bool(found == expected)


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What stands before the values of an .npy file, version 1.0, C order."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()
