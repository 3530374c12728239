"""Where clean images come from: one interface over several kinds of source."""

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from quality_model.data.sources.expression import JOINT, REPOSITORY, parts
from quality_model.data.sources.presets import PRESETS, SAMPLE_PHOTOS, Preset
from quality_model.errors import UsageError
from quality_model.paths import user_path
from quality_model.records import CleanImage

if TYPE_CHECKING:  # the command line lists the presets before it needs the parameters
    from quality_model.params import LimitsParams, SourceParams

__all__ = ["PRESETS", "Preset", "Source", "open_source"]


class Source(Protocol):
    """Clean images in an order that the section's seed fixes.

    ``name`` and ``revision`` go into the marker of the images table; ``revision`` pins
    the content where the source has such a thing. ``images`` may give more images than
    were asked for (the caller stops), and gives unreadable ones as rows with a reason; then
    ``not_read`` counts, by suffix, the files in formats that are not read at all.
    """

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def not_read(self) -> Mapping[str, int]: ...
    def images(self) -> Iterator[CleanImage]: ...


def open_source(section: "SourceParams", limits: "LimitsParams", *, root: Path = Path()) -> Source:
    """Find the source that ``section.dataset`` names.

    An existing folder wins where the value looks like a path (it has a slash, or starts
    with a dot or a tilde); then presets, then ``owner/name`` of the Hugging Face hub. Several,
    joined by `` + ``, are taken together (see `Combined`). A relative folder is below ``root``.

    Raises:
        UsageError: The value names nothing.
        SourceError: The source cannot be used (see `HuggingFace`).
        NetworkUnavailableError: It is on the hub, which does not answer.
    """
    value = section.dataset
    if JOINT in value and not (root / user_path(value)).is_dir():
        from quality_model.data.sources.combined import Combined

        return Combined([(open_source(part, limits, root=root), part.num_images) for part in _parts(section)])
    path_like = "/" in value or os.sep in value or value.startswith((".", "~"))
    if path_like:
        folder = root / user_path(value)
        if folder.is_dir():
            from quality_model.data.sources.local_folder import LocalFolder

            return LocalFolder(section, limits, folder)
        if folder.exists():
            raise UsageError(f"{value} is a file, not a folder of images.", "Name the folder it lies in.")
    if value == SAMPLE_PHOTOS:
        from quality_model.data.sources.sample_photos import SamplePhotos

        return SamplePhotos(section, limits)
    preset = PRESETS.get(value)
    if preset or REPOSITORY.fullmatch(value):
        from quality_model.data.sources.hugging_face import HuggingFace

        return HuggingFace(section, limits, preset)
    if path_like:
        raise UsageError(f"There is no folder {value}.", "Check the path.")
    close = get_close_matches(value, [*PRESETS], n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    here = (
        f" (there is a folder of that name here: write ./{value})" if value and Path(value).is_dir() else ""
    )
    raise UsageError(
        f"There is no dataset {value!r}{here}.",
        f"{guess}Presets: {', '.join(PRESETS)}. Or name a Hugging Face dataset as owner/name, "
        "or a folder as ./folder or /path/of/folder.",
    )


def _parts(section: "SourceParams") -> "list[SourceParams]":
    """The section of each source: those without a number of their own share what the others leave."""
    named = parts(section.dataset)
    asked = [part.num_images for part in named]
    open_ends = asked.count(None)
    rest = section.num_images - sum(count or 0 for count in asked)
    if 0 in asked or rest < open_ends or (open_ends == 0 and rest != 0):
        raise UsageError(
            f"The sources of {section.dataset!r} do not make up {section.num_images} images.",
            "Let the numbers behind * add up to num_images, or leave one source without a number.",
        )
    shares = iter(divide(rest, open_ends))
    return [
        section.model_copy(
            update={"dataset": name, "num_images": count if count is not None else next(shares)}
        )
        for name, count in named
    ]


def divide(total: int, parts: int) -> list[int]:
    """Whole numbers that add up to ``total`` and differ by one at the most; none for no parts."""
    return [total // parts + (number < total % parts) for number in range(parts)]
