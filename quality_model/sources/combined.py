"""Clean pictures from several sources, taken together."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from quality_model.records import CleanPicture
from quality_model.sources import Source


class Combined:
    """The pictures of one source after the other, each as many as its own section asks for.

    Names and groups begin with the source's name and a slash, so that those of different
    sources never meet. A source that holds fewer pictures than asked for gives those it has.
    """

    def __init__(self, sources: Sequence[tuple[Source, int]]) -> None:
        self.sources = sources
        self.name = " + ".join(source.name for source, _ in sources)
        revisions = [source.revision for source, _ in sources]
        self.revision = " + ".join(str(one) for one in revisions) if any(revisions) else None

    @property
    def not_read(self) -> Mapping[str, int]:
        return sum((Counter(source.not_read) for source, _ in self.sources), Counter[str]())

    def pictures(self) -> Iterator[CleanPicture]:
        """Take the pictures; equal bytes count once.

        Raises:
            SourceError, NetworkUnavailableError: As those of the sources.
        """
        seen: set[str] = set()
        for source, wanted in self.sources:
            taken = 0
            for picture in source.pictures():
                named = replace(
                    picture,
                    picture_id=f"{source.name}/{picture.picture_id}",
                    group=f"{source.name}/{picture.group}",
                )
                yield named
                if picture.reason is None and picture.sha256 in seen:
                    continue  # the caller drops it, so it does not count
                seen.add(picture.sha256)
                taken += 1
                if taken >= wanted:
                    break
