"""Clean images from several sources, taken together."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from quality_model.data.sources import Source
from quality_model.records import CleanImage


class Combined:
    """The images of one source after the other, each as many as its own section asks for.

    Names and groups begin with the source's name and a slash, so that those of different
    sources never meet; a name that came before gets its number. A source that holds fewer images
    than asked for gives those it has.
    """

    def __init__(self, sources: Sequence[tuple[Source, int]]) -> None:
        self.sources = sources
        self._names = _told_apart([source.name for source, _ in sources])
        self.name = " + ".join(self._names)
        revisions = [source.revision for source, _ in sources]
        self.revision = " + ".join(str(one) for one in revisions) if any(revisions) else None

    @property
    def not_read(self) -> Mapping[str, int]:
        return sum((Counter(source.not_read) for source, _ in self.sources), Counter[str]())

    def images(self) -> Iterator[CleanImage]:
        """Take the images; equal bytes count once.

        Raises:
            SourceError, NetworkUnavailableError: As those of the sources.
        """
        seen: set[str] = set()
        for name, (source, wanted) in zip(self._names, self.sources, strict=True):
            taken = 0
            for image in source.images():
                named = replace(
                    image,
                    image_id=f"{name}/{image.image_id}",
                    group=f"{name}/{image.group}",
                )
                yield named
                if image.reason is None and image.sha256 in seen:
                    continue  # the caller drops it, so it does not count
                seen.add(image.sha256)
                taken += 1
                if taken >= wanted:
                    break


def _told_apart(names: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    told = []
    for name in names:
        seen[name] += 1
        told.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return told
