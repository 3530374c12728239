"""The folder of a job that can be stopped at any moment and resumed: plan, parts, completion markers.

| file | content |
|---|---|
| ``plan.json`` | what decides about every byte of the result; written before the first part |
| ``data/part-00000.parquet``, ... | whole parts alone: each is moved there when it is written |
| ``parts/part-00000.json``, ... | the completion marker of each part |
| ``job.json`` | the completion marker of the job, written last |
| ``update/`` | parts that an update has made, until it is complete and they are moved to ``data`` |
| ``thumbnails/`` | what is kept beside the parts until the job is complete |
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from quality_model.core import storage
from quality_model.core.folders import JOB_NAME, PLAN_NAME
from quality_model.core.stores import is_in_store
from quality_model.errors import CorruptError, IncompleteError, UsageError

LOCK_NAME: Final = ".lock"
PLANNING_NAME: Final = ".planning.lock"
SHARES_NAME: Final = ".shares.json"
DATA_FOLDER: Final = "data"
MARKERS_FOLDER: Final = "parts"
UPDATE_FOLDER: Final = "update"
THUMBNAILS_FOLDER: Final = "thumbnails"
_PART_FOLDERS: Final = {
    **dict.fromkeys((UPDATE_FOLDER, DATA_FOLDER, THUMBNAILS_FOLDER), "parquet"),
    MARKERS_FOLDER: "json",
}
_BUSY_AFTER_S: Final = 1.0
_THREADS: Final = 16


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part, as its completion marker describes it.

    Attributes:
        file: Its path in the job's folder.
        rows: Rows in it.
        bytes: Its length.
        sha256: Of its bytes.
        errors: How many of its rows have each error code.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_errors(self) -> int:
        return sum(self.errors.values())


class JobFolder:
    """Reads and writes the files of one job.

    Args:
        folder: The job's folder. It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that works in the folder, and remove what a killed one left half written.

        Raises:
            StorageError: Another process works there, or one of several on its share.
        """
        with storage.locked(self.folder / LOCK_NAME, timeout_s=_BUSY_AFTER_S):
            with ThreadPoolExecutor(_THREADS) as threads:
                for _ in threads.map(_require_free, self._locks_of_shares()):
                    pass  # from now on nobody else gets it
            for name in ("", MARKERS_FOLDER, UPDATE_FOLDER, THUMBNAILS_FOLDER):
                storage.sweep(self.folder / name)
            yield
            if (self.folder / JOB_NAME).exists():
                for path in (self.folder / SHARES_NAME, *self._locks_of_shares()):
                    storage.remove(path)

    @contextmanager
    def shared(self, number: int, count: int, plan: Callable[[], object]) -> Iterator[None]:
        """Be one of ``count`` processes that work in the folder at once, each on its share of the parts.

        The locks of shares are taken under the lock of the folder alone: who has that, and finds them free,
        has the folder.

        Args:
            number: Of the share, from 1.
            count: Of all shares.
            plan: Writes the plan. The first process calls it; the others wait.

        Raises:
            StorageError: Another process works on this share, or on the whole.
            UsageError: The shares are of another count.
        """
        with ExitStack() as held:
            with (
                storage.locked(self.folder / PLANNING_NAME, timeout_s=-1),
                storage.locked(self.folder / LOCK_NAME, timeout_s=_BUSY_AFTER_S),
            ):
                if (before := self.num_shares()) not in (None, count):
                    raise UsageError(
                        f"The parts of {self.folder} are shared by {before} processes, not by {count}.",
                        f"Give --part I/{before}, or run `score` without --part: it does all that is left.",
                    )
                lock = self._lock_of_share(number, count)
                held.enter_context(storage.locked(lock, timeout_s=_BUSY_AFTER_S))
                if not (self.folder / PLAN_NAME).exists():
                    plan()
                if before is None and not (self.folder / JOB_NAME).exists():
                    storage.write_json(self.folder / SHARES_NAME, {"count": count})
            yield

    def num_shares(self) -> int | None:
        """By how many processes the parts are shared; None if the job is one process's, or complete."""
        with suppress(IncompleteError, CorruptError, TypeError, KeyError, ValueError):
            return int(storage.read_json(self.folder / SHARES_NAME)["count"])
        return None

    def _locks_of_shares(self) -> list[Path]:
        if (count := self.num_shares()) is None:
            return [*self.folder.glob(".share-*.lock")]
        return [self._lock_of_share(number, count) for number in range(1, count + 1)]

    def _lock_of_share(self, number: int, count: int) -> Path:
        return self.folder / f".share-{number}-of-{count}.lock"

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write plan.json: JSON values."""
        storage.write_json(self.folder / PLAN_NAME, plan)

    def read_plan(self) -> dict[str, Any] | None:
        """Read plan.json; None if there is none.

        Raises:
            CorruptError: It is no plan.
        """
        try:
            plan = storage.read_json(self.folder / PLAN_NAME)
        except IncompleteError:
            return None
        if not isinstance(plan, dict):
            raise CorruptError(f"{self.folder / PLAN_NAME} is not the plan of a job.", "Start the job anew.")
        return plan

    def write_part(
        self,
        number: int,
        data: bytes,
        *,
        rows: int,
        errors: Mapping[str, int] | None = None,
        for_update: bool = False,
    ) -> Part:
        """Write a part, then its completion marker.

        Args:
            number: From 0.
            data: The part's file.
            rows: Rows in it.
            errors: How many of its rows have each error code.
            for_update: It is moved to the others by `publish_parts`.
        """
        name = part_name(number)
        path = self._update_path(number) if for_update else self.folder / name
        if is_in_store(path):
            storage.write_bytes(path, data)
        else:
            with storage.staged(path, beside=self.folder / path.name) as temporary:
                temporary.write_bytes(data)
        part = Part(
            name, rows, len(data), hashlib.sha256(data).hexdigest(), dict(sorted((errors or {}).items()))
        )
        storage.write_json(self.folder / _marker_name(number), asdict(part))
        return part

    def read_part(self, number: int, *, rows: int) -> tuple[Part, bytes] | None:
        """Read a finished part; None if it is not there, or is not what its completion marker verifies.

        Args:
            number: From 0.
            rows: Rows that it must have.

        Raises:
            StorageError: The system cannot read it.
        """
        path = self._update_path(number)
        try:
            part = Part(**storage.read_json(self.folder / _marker_name(number)))
            path = path if path.is_file() else self.folder / part_name(number)
            data = path.read_bytes()
        except (CorruptError, IncompleteError, TypeError, FileNotFoundError):
            return None
        except OSError as error:
            raise storage.explain(error, path) from error
        is_whole = (part.rows, part.bytes) == (rows, len(data)) and isinstance(part.errors, dict)
        return (part, data) if is_whole and part.sha256 == hashlib.sha256(data).hexdigest() else None

    def publish_parts(self, numbers: Iterable[int]) -> None:
        """Move parts of an update to the others; those that are there already stay."""
        for number in numbers:
            if self._update_path(number).is_file():
                storage.move(self._update_path(number), self.folder / part_name(number))

    def release_other_files(self) -> None:
        """Let the completion marker verify the parts alone, so that files beside them can be replaced."""
        facts = self.completion()
        if facts is None:
            return
        parts = [entry for entry in facts.pop("files") if entry["name"].startswith(f"{DATA_FOLDER}/")]
        rows = facts.pop("rows")
        facts.pop("sha256")
        hashed = {entry["name"]: entry["sha256"] for entry in parts}
        storage.seal(self.folder, list(hashed), rows=rows, hashed=hashed, marker_name=JOB_NAME, **facts)

    def keep_parts(self, numbers: Collection[int]) -> None:
        """Remove all parts but these, their completion markers, and folders that are empty then."""
        kept = {Path(part_name(number)).stem for number in numbers}
        for path in self._files_of_parts():
            if path.stem not in kept:
                path.unlink()
        for folder in _PART_FOLDERS:
            with suppress(OSError):  # what a user put there stays
                (self.folder / folder).rmdir()

    def next_number(self) -> int:
        """A number above that of each part there is."""
        return max((int(path.stem.removeprefix("part-")) for path in self._files_of_parts()), default=-1) + 1

    def _files_of_parts(self) -> list[Path]:
        return [
            path
            for folder, suffix in _PART_FOLDERS.items()
            for path in (self.folder / folder).glob(f"part-*.{suffix}")
        ]

    def _update_path(self, number: int) -> Path:
        return self.folder / UPDATE_FOLDER / Path(part_name(number)).name

    def reopen(self) -> None:
        """Remove the completion marker of the job before its files change."""
        storage.unseal(self.folder, JOB_NAME)

    def complete(self, parts: Sequence[Part], other_files: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Write the completion marker of the job. Call it last.

        Args:
            parts: All parts. Their bytes are not hashed again.
            other_files: Further files that the completion marker verifies.
            facts: JSON values to keep in it.
        """
        storage.seal(
            self.folder,
            [*(part.file for part in parts), *other_files],
            rows=sum(part.rows for part in parts),
            hashed={part.file: part.sha256 for part in parts},
            marker_name=JOB_NAME,
            **facts,
        )

    def completion(self) -> dict[str, Any] | None:
        """The content of the completion marker; None if the job is not complete."""
        with suppress(IncompleteError, CorruptError):
            return storage.require_sealed(self.folder, marker_name=JOB_NAME)
        return None


def _require_free(lock: Path) -> None:
    """Refuse the lock of a share that another process holds."""
    if lock.is_file():
        with storage.locked(lock, timeout_s=0):
            pass


def part_name(number: int) -> str:
    """The path of a part in the job's folder."""
    return f"{DATA_FOLDER}/part-{number:05d}.parquet"


def _marker_name(number: int) -> str:
    return f"{MARKERS_FOLDER}/part-{number:05d}.json"
