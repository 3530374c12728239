"""Clean images from a dataset on the Hugging Face hub, streamed and pinned to one commit."""

import logging
import lzma
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from quality_model.data.images_table import decoded, fetch_image
from quality_model.data.sources import SAMPLE_PHOTOS, Preset
from quality_model.errors import ImageError, NetworkUnavailableError, QualityModelError, SourceError
from quality_model.params import LimitsParams, SourceParams
from quality_model.records import IMAGE_COLUMNS, CleanImage

_logger = logging.getLogger(__name__)

_SHUFFLE_BUFFER_ROWS: Final = 1000
_ENOUGH_SHARDS: Final = 16
"""A dataset of fewer Parquet files is split by row group, so that the shuffle mixes all of it."""
_ATTEMPTS: Final = 3
_TIMEOUT_S: Final = 20.0


class HuggingFace:
    """Rows of one split, shuffled with the section's seed, each image a group of its own.

    The constructor resolves the revision to a commit; everything is read from that commit.
    The selection is a function of commit, split and seed.

    Raises:
        SourceError: There is no such dataset or revision, or it needs a log-in.
        NetworkUnavailableError: The hub does not answer.
    """

    not_read: Mapping[str, int] = MappingProxyType({})

    def __init__(self, section: SourceParams, limits: LimitsParams, preset: Preset | None = None) -> None:
        self._section = section
        self._limits = limits
        self._preset = preset or Preset(section.dataset, "")
        requested = self._preset.repository or section.dataset
        info = _dataset_info(requested, section.revision)
        self.name: str = info.id
        self.revision: str | None = info.sha

    def images(self) -> Iterator[CleanImage]:
        """Stream the split.

        Raises:
            SourceError: There is no such split or column, or files cannot be read.
            NetworkUnavailableError: The connection broke, and retries failed.
        """
        return decoded(self._fetched(), self._limits)

    def _fetched(self) -> Iterator[CleanImage]:
        from datasets import Image

        with hub_errors(self.name), tempfile.TemporaryDirectory() as cache, _bounded_retries():
            split, stream = self._open_split(cache)
            column = self._choose_column(stream)
            origin = f"hf://datasets/{self.name}@{self.revision}/{split}?shuffle={self._section.seed}"
            if stream.num_shards < _ENOUGH_SHARDS:
                stream = stream.reshard()
            stream = stream.select_columns([column]).cast_column(column, Image(decode=False))
            stream = stream.shuffle(seed=self._section.seed, buffer_size=_SHUFFLE_BUFFER_ROWS)
            for position, row in enumerate(stream):
                cell = row[column] or {}
                path = cell.get("path")
                image_id = f"{split}/{position:06d}"
                yield fetch_image(
                    image_id,
                    image_id,
                    f"{origin}#{position}{f' {path}' if path else ''}",
                    partial(self._read, cell),
                    self._limits,
                )

    def _open_split(self, cache: str) -> tuple[str, Any]:
        from datasets import load_dataset

        # An empty cache: otherwise a cached copy of another commit may hide that the hub fails.
        splits = load_dataset(self.name, revision=self.revision, streaming=True, cache_dir=cache)
        wanted = self._section.split or "train"
        if wanted not in splits:
            raise SourceError(
                f"{self.name} has no split {wanted!r}.", f"It has: {', '.join(splits)}. Choose with --split."
            )
        return wanted, splits[wanted]

    def _choose_column(self, stream: Any) -> str:
        columns: list[str] = list(stream.column_names or next(iter(stream), {}))
        wanted = self._section.image_column
        candidates = [wanted] if wanted else [self._preset.image_column, *IMAGE_COLUMNS]
        features = stream.features or {}
        for column in candidates:
            is_text = getattr(features.get(column), "dtype", None) in ("string", "large_string")
            if column in columns and (wanted or not is_text):
                return str(column)
        problem = f"has no column {wanted!r}" if wanted else "has no column that usually holds images"
        raise SourceError(
            f"{self.name} {problem}.", f"It has: {', '.join(columns)}. Choose with --image-column."
        )

    def _read(self, cell: dict[str, Any]) -> bytes:
        data, path = cell.get("bytes"), cell.get("path")
        if data is not None:
            return bytes(data)
        if not path:
            raise ImageError("missing", "the row holds no image")
        # A row may name any file; only those of this dataset at this commit, or in its archives, are opened.
        *archive, file = path.split("::")
        inside = len(archive) <= 1 and all(hop.startswith(("zip://", "tar://")) for hop in archive)
        inside = inside and ".." not in file.split("/")
        if inside and file.startswith(f"hf://datasets/{self.name}@{self.revision}/"):
            import fsspec  # type: ignore[import-untyped]

            try:
                with fsspec.open(path, "rb") as handle:
                    return bytes(handle.read(self._limits.max_bytes + 1))
            except FileNotFoundError:
                raise ImageError("missing", "the row names a missing file") from None
        raise ImageError("outside_folder", "the row names a file outside the dataset")


def _dataset_info(repository: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    for attempt in range(_ATTEMPTS):
        try:
            with hub_errors(repository):
                return HfApi().dataset_info(repository, revision=revision, timeout=_TIMEOUT_S)
        except NetworkUnavailableError as error:
            if attempt + 1 == _ATTEMPTS:
                raise
            _logger.warning("%s Trying again", error.problem)
            time.sleep(2.0**attempt)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def _bounded_retries() -> Iterator[None]:
    """Let the client give up after about a minute instead of more than ten.

    ``datasets`` has no argument for it, only settings of the process; they are restored at the end.
    """
    from datasets import config

    bounds = {
        "STREAMING_READ_MAX_RETRIES": 2,
        "STREAMING_READ_RETRY_INTERVAL": 1,
        "STREAMING_OPEN_MAX_RETRIES": 2,
        "STREAMING_OPEN_RETRY_INTERVAL": 1,
    }
    earlier = {name: getattr(config, name) for name in bounds}
    for name, value in bounds.items():
        setattr(config, name, value)
    try:
        yield
    finally:
        for name, value in earlier.items():
            setattr(config, name, value)


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Turn the errors of the hub's client, of Parquet and of archives into ours; others are bugs and stay."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors, utils
    from pyarrow import ArrowException

    network_errors = (ConnectionError, TimeoutError, utils.httpx.TransportError, errors.HfHubHTTPError)  # type: ignore[attr-defined]
    archive_errors = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
    value_errors = (OSError, EOFError, ValueError, NotImplementedError)
    try:
        yield
    except errors.GatedRepoError:
        raise SourceError(
            f"{repository} is gated.",
            f"Accept its terms at https://huggingface.co/datasets/{repository}, then log in: hf auth login",
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise SourceError(
            f"There is no dataset {repository} on the Hugging Face hub, nor a folder of that name.",
            "Check the name, list the presets with list-datasets; for a private one log in: hf auth login",
        ) from None
    except errors.RevisionNotFoundError as error:
        raise SourceError(
            f"{repository} has no such revision: {error.args[0].splitlines()[-1] if error.args else error}",
            "Name a branch, tag or commit of the dataset, or leave it empty for main.",
        ) from None
    except network_errors as error:
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
        if status is not None and status < 500 and status not in (408, 429):  # it will be refused again
            raise SourceError(
                f"The hub refused {repository}: {_short(error)}", "Try another dataset."
            ) from None
        raise NetworkUnavailableError(
            f"{repository} cannot be fetched: the Hugging Face hub does not answer ({_short(error)}).",
            f"Try again when the network is up, or work offline: --dataset {SAMPLE_PHOTOS}, "
            "or --dataset ./folder with images of your own.",
        ) from error
    except QualityModelError:
        raise
    except (DatasetsError, ArrowException, *archive_errors, *value_errors) as error:
        raise SourceError(
            f"{repository} cannot be read as a dataset of images: {_short(error)}", "Try another dataset."
        ) from error


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no details"
    return f"{type(error).__name__}: {text[:300]}"
