"""Images by URL, fetched only when a user asked: with limits, politely, and never from a private address.

Threads fetch some addresses ahead of the inputs that are read. Whatever goes wrong is an error code:
``download_refused`` for what the other side or a rule here denies, ``download_failed`` for what may work at
another time, which the same command tries again.
"""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from quality_model.errors import ImageError
from quality_model.params import LimitsParams
from quality_model.score.reading import Source, Url

THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class DownloadRules:
    """How a user allows addresses to be fetched.

    Attributes:
        allow_private: Also from this machine and its network.
        per_host: Most requests to one host at a time.
        pause_s: Least seconds between the starts of two requests to one host.
    """

    allow_private: bool = False
    per_host: int = 4
    pause_s: float = 0.05


def fetched(
    sources: Iterable[Source | Url], rules: DownloadRules | None, limits: LimitsParams
) -> Generator[Source, None, None]:
    """Put what was fetched in the place of each URL, in order; without rules, an error code."""
    if rules is None:
        for source in sources:
            refused = ImageError("url", "URLs are fetched with --allow-download alone")
            yield refused if isinstance(source, Url) else source
        return
    from quality_model.score.downloads import Downloads  # requests takes a tenth of a second to import

    pending: deque[Source | Future[Source]] = deque()
    with closing(Downloads(rules, limits)) as downloads:
        for source in sources:
            pending.append(downloads.start(source.address) if isinstance(source, Url) else source)
            while pending and (len(pending) >= 2 * THREADS or not isinstance(pending[0], Future)):
                yield _done(pending.popleft())
        while pending:
            yield _done(pending.popleft())


def _done(source: "Source | Future[Source]") -> Source:
    return source.result() if isinstance(source, Future) else source
