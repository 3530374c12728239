"""The first step of the pipeline: from a source to the images table."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from quality_model.core import processes, storage
from quality_model.data.sources import Source, open_source
from quality_model.data.sources.table import TABLE_NAME, ImagesWriter
from quality_model.params import LimitsParams, SourceParams
from quality_model.records import CleanImage

_logger = logging.getLogger(__name__)


def download(source: SourceParams, limits: LimitsParams, output: Path) -> dict[str, Any]:
    """Take ``num_images`` different images from a source into ``output``.

    Exact duplicates (equal bytes) of a readable image are dropped and counted, and do not
    count towards ``num_images``; unreadable images are kept as rows with a reason, and do.
    An earlier table stays as it was until the new one is whole.

    Args:
        source: What to take.
        limits: What an image may be.
        output: Folder for images.parquet and its marker.

    Returns:
        The marker: ``rows``, ``requested``, ``readable``, ``unreadable`` (count by reason),
        ``duplicates``, ``not_read`` (files in other formats), ``groups``,
        ``source``, ``revision``, ``request``, ``files``, ``sha256``.

    Raises:
        UsageError: The dataset's name is none.
        SourceError: The images cannot be had.
        NetworkUnavailableError: They are on a network that does not answer.
        StorageError: The output cannot be written, or another process takes images into it.
    """
    processes.end_if_imported_again()
    opened = open_source(source, limits)
    with storage.only_maker(output):
        storage.sweep(output)
        return _take(opened, source, output)


def _take(opened: Source, source: SourceParams, output: Path) -> dict[str, Any]:
    """Take the images, write their table and seal it; returns the marker."""
    counts: Counter[str] = Counter()
    groups: set[str] = set()
    with storage.staged(output / TABLE_NAME) as temporary:
        with ImagesWriter(temporary) as writer:
            for image in _different(opened, source.num_images, counts):
                writer.write(image)
                groups.add(image.group)
        storage.unseal(output)
    rows = counts["readable"] + sum(_reasons(counts).values())
    if rows < source.num_images:
        _logger.warning(
            "%s holds %d different images; %d were asked for", opened.name, rows, source.num_images
        )
    return storage.seal(
        output,
        [TABLE_NAME],
        rows=rows,
        requested=source.num_images,
        readable=counts["readable"],
        unreadable=_reasons(counts),
        duplicates=counts["duplicates"],
        not_read=sum(opened.not_read.values()),
        groups=len(groups),
        source=opened.name,
        revision=opened.revision,
        # A path names a user and a machine; the folder's own name is enough to know it by.
        request={**source.model_dump(mode="json"), "dataset": opened.name},
    )


def _different(source: Source, wanted: int, counts: Counter[str]) -> Iterator[CleanImage]:
    seen: set[bytes] = set()
    taken = 0
    with tqdm(total=wanted, desc="download", unit="image", disable=None) as bar:
        for image in source.images():
            if image.reason is None:
                key = bytes.fromhex(image.sha256)
                if key in seen:
                    counts["duplicates"] += 1
                    continue
                seen.add(key)
                counts["readable"] += 1
            else:
                counts[f"reason {image.reason}"] += 1
            yield image
            bar.update()
            taken += 1
            if taken >= wanted:
                return


def _reasons(counts: Counter[str]) -> dict[str, int]:
    return {
        key.removeprefix("reason "): count
        for key, count in sorted(counts.items())
        if key.startswith("reason ")
    }
