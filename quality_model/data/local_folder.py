"""Clean images from a folder of the user's own."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from quality_model.core import decoding, folders
from quality_model.core.folders import printable
from quality_model.data.images_table import decoded, fetch_image
from quality_model.errors import ImageError, SourceError
from quality_model.params import LimitsParams, SourceParams
from quality_model.records import CleanImage

_logger = logging.getLogger(__name__)

SUFFIXES_NOT_READ: Final = frozenset(
    {".jxl", ".jpx", ".jxr", ".svg", ".psd", ".raw", ".cr2", ".nef", ".arw", ".dng"}
)
"""Names of images in formats that `images` does not decode: they are reported."""


class Listing(NamedTuple):
    """The content of a folder and its sub-folders, in paths relative to it, with slashes.

    ``images`` are files with the suffix of an image (`decoding.SUFFIXES`), ``problems``
    the sub-folders that cannot be listed, and ``not_read`` counts the files with one of
    `SUFFIXES_NOT_READ`, by suffix. ``skipped`` counts what a walk skips (see `folders.walk`).
    """

    images: set[str]
    problems: dict[str, ImageError]
    not_read: Counter[str]
    skipped: Counter[str]


class LocalFolder:
    """The images in a folder and its sub-folders.

    Hidden and system files and earlier results are skipped, links are followed, and a folder that
    is reached twice is read once (see `folders.walk`). Images of one sub-folder form a group. An
    image at the top is a group of its own; so is every image if all are in the same folder.
    With more images than ``num_images``, the seed and the names decide which come first.
    """

    revision: str | None = None

    def __init__(self, section: SourceParams, limits: LimitsParams, root: Path) -> None:
        self._section = section
        self._limits = limits
        self.root = root
        self.not_read: dict[str, int] = {}
        self.name = f"folder {printable(root.resolve().name) or 'root'}"

    def images(self) -> Iterator[CleanImage]:
        """Read the images.

        Raises:
            SourceError: The folder cannot be listed or holds no image.
        """
        return decoded(self._fetched(), self._limits)

    def _fetched(self) -> Iterator[CleanImage]:
        paths, problems, not_read, skipped = list_images(self.root)
        self.not_read = dict(sorted(not_read.items()))
        others = ", ".join(f"{count} x {suffix}" for suffix, count in self.not_read.items())
        if not paths and not problems:
            raise SourceError(
                f"{self.root} holds no images" + (f" that can be read ({others})." if others else "."),
                f"Put images there ({', '.join(sorted(decoding.SUFFIXES))}), or name another folder.",
            )
        if others:
            _logger.warning("%s: unsupported formats: %s", self.name, others)
        if skipped:
            counts = ", ".join(f"{count} x {name}" for name, count in sorted(skipped.items()))
            _logger.info("%s: skipped: %s", self.name, counts)
        candidates = sorted(paths | problems.keys())
        if len(candidates) > self._section.num_images:
            candidates.sort(key=self._rank)
        parents = {PurePosixPath(name).parent for name in candidates}
        _logger.info("%s: %d images in %d folders", self.name, len(candidates), len(parents))
        for name in candidates:
            parent = PurePosixPath(name).parent.as_posix()
            yield fetch_image(
                printable(name),
                printable(parent if len(parents) > 1 and parent != "." else name),
                printable(name),
                partial(self._read, name, problems.get(name)),
                self._limits,
            )

    def _read(self, name: str, problem: ImageError | None) -> bytes:
        if problem:
            raise problem
        return decoding.read_bytes(self.root / name, self._limits)

    def _rank(self, name: str) -> bytes:
        return hashlib.sha256(f"{self._section.seed}\0".encode() + os.fsencode(name)).digest()


def list_images(root: Path) -> Listing:
    """Find the images below a folder, by the walk that scoring uses too.

    Raises:
        SourceError: ``root`` itself cannot be listed, or is an earlier result.
    """
    if (result := folders.result_of(root)) is not None:
        raise SourceError(
            f"{root} is an earlier result of this tool, or a part of one ({result}).",
            "Name the folder of the images that were scored.",
        )
    found: set[str] = set()
    problems: dict[str, ImageError] = {}
    not_read: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    try:
        for file in folders.walk(root, skipped=skipped):
            if file.problem is not None:
                problems[file.name] = file.problem
            elif (suffix := folders.suffix(file.name)) in decoding.SUFFIXES:
                found.add(file.name)
            elif suffix in SUFFIXES_NOT_READ:
                not_read[suffix] += 1
    except OSError as error:
        raise SourceError(
            f"{root} cannot be listed: {error.strerror}.", "Check the path and its permissions."
        ) from None
    return Listing(found, problems, not_read, skipped)
