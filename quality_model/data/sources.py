"""Where clean images come from: the interface of all sources, their names, and several of them joined."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from quality_model.core.folders import is_folder, is_there
from quality_model.core.stores import is_store_address, store_path
from quality_model.errors import UsageError
from quality_model.paths import user_path
from quality_model.records import JOINT, REPOSITORY, CleanImage, split_expression

if TYPE_CHECKING:  # the command line lists the presets before it needs the parameters
    from quality_model.params import LimitsParams, SourceParams


@dataclass(frozen=True, slots=True)
class Preset:
    """A dataset under a short name.

    ``repository`` and ``image_column`` are those of the Hugging Face hub, None for images that are
    already on this machine.
    """

    name: str
    description: str
    repository: str | None = None
    image_column: str | None = None


SAMPLE_PHOTOS: Final = "sample-photos"

PRESETS: Final[dict[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset(SAMPLE_PHOTOS, "crops of the photographs in scikit-image and scikit-learn; no network needed"),
        Preset("tiny-imagenet", "photographs of 200 classes, 64 px", "zh-plus/tiny-imagenet", "image"),
        Preset("cifar10", "photographs of 10 classes, 32 px", "cifar10", "img"),
        Preset("cifar100", "photographs of 100 classes, 32 px", "uoft-cs/cifar100", "img"),
        Preset("food101", "photographs of 101 dishes, up to 512 px", "ethz/food101", "image"),
        Preset("flowers", "photographs of 102 flower species", "nelorth/oxford-flowers", "image"),
        Preset("cats-dogs", "photographs of cats and dogs", "microsoft/cats_vs_dogs", "image"),
    )
}


class Source(Protocol):
    """Clean images in an order that the section's seed fixes.

    ``name`` and ``revision`` go into the completion marker of the images table; ``revision`` pins
    the content if the source has versions. ``images`` may yield more images than were asked for:
    the caller stops. It yields unreadable images as rows with an error code. After that,
    ``not_read`` counts, by suffix, the files in formats that are not supported.
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

    An existing folder, also of an object store, comes first if the value looks like a path (it has a slash,
    or starts with a dot or a tilde); then presets, then ``owner/name`` of the Hugging Face hub. Several,
    joined by `` + ``, form one source (see `Combined`). A relative folder is below ``root``.

    Raises:
        UsageError: The value names nothing.
        SourceError: The source cannot be used (see `HuggingFace`).
        NetworkUnavailableError: The hub does not answer.
    """
    value = section.dataset
    if JOINT in value and not (root / user_path(value)).is_dir():
        return Combined([(open_source(part, limits, root=root), part.num_images) for part in _parts(section)])
    path_like = "/" in value or os.sep in value or value.startswith((".", "~"))
    if path_like:
        folder = store_path(value) if is_store_address(value) else root / user_path(value)
        if is_folder(folder):
            from quality_model.data.download import LocalFolder

            return LocalFolder(section, limits, folder)
        if is_there(folder):
            raise UsageError(f"{value} is a file, not a folder of images.", "Name its folder.")
    if value == SAMPLE_PHOTOS:
        from quality_model.data.sample_photos import SamplePhotos

        return SamplePhotos(section, limits)
    preset = PRESETS.get(value)
    if preset or REPOSITORY.fullmatch(value):
        from quality_model.data.hugging_face import HuggingFace

        return HuggingFace(section, limits, preset)
    if path_like:
        raise UsageError(f"There is no folder {value}.", "Check the path.")
    close = get_close_matches(value, [*PRESETS], n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    is_here = bool(value) and Path(value).is_dir()
    here = f" (there is a folder of that name here: write ./{value})" if is_here else ""
    raise UsageError(
        f"There is no dataset {value!r}{here}.",
        f"{guess}Presets: {', '.join(PRESETS)}. Or name a Hugging Face dataset as owner/name, "
        "or a folder as ./folder or /path/of/folder.",
    )


class Combined:
    """The images of several sources, one source after the other, each with its own number of images.

    Names and groups begin with the source's name and a slash, so that those of different
    sources stay different; a repeated name gets its number. A source with fewer images
    than asked for yields those it has.
    """

    def __init__(self, sources: Sequence[tuple[Source, int]]) -> None:
        self.sources = sources
        self._names: list[str] = []
        seen: Counter[str] = Counter()
        for source, _ in sources:
            seen[source.name] += 1
            number = seen[source.name]
            self._names.append(source.name if number == 1 else f"{source.name} ({number})")
        self.name = JOINT.join(self._names)
        revisions = [source.revision for source, _ in sources]
        self.revision = JOINT.join(str(one) for one in revisions) if any(revisions) else None

    @property
    def not_read(self) -> Mapping[str, int]:
        return sum((Counter(source.not_read) for source, _ in self.sources), Counter[str]())

    def images(self) -> Iterator[CleanImage]:
        """Yield the images; equal bytes count once.

        Raises:
            SourceError, NetworkUnavailableError: As those of the sources.
        """
        seen: set[str] = set()
        for name, (source, wanted) in zip(self._names, self.sources, strict=True):
            taken = 0
            for image in source.images():
                yield replace(image, image_id=f"{name}/{image.image_id}", group=f"{name}/{image.group}")
                if image.error_code is None and image.sha256 in seen:
                    continue  # the caller drops it, so it does not count
                seen.add(image.sha256)
                taken += 1
                if taken >= wanted:
                    break


def _parts(section: "SourceParams") -> "list[SourceParams]":
    """The section of each source: those without a number of their own share the rest equally."""
    parts = split_expression(section.dataset)
    asked = [count for _, count in parts]
    sharing = asked.count(None)
    rest = section.num_images - sum(count or 0 for count in asked)
    if 0 in asked or rest < sharing or (sharing == 0 and rest != 0):
        raise UsageError(
            f"The sources of {section.dataset!r} do not make up {section.num_images} images.",
            "Let the numbers behind * add up to num_images, or leave one source without a number.",
        )
    shares = iter([rest // sharing + (number < rest % sharing) for number in range(sharing)])
    return [
        section.model_copy(update={"dataset": name, "num_images": next(shares) if count is None else count})
        for name, count in parts
    ]
