"""Bring a result up to date with its inputs: score what is new or changed, drop what is gone.

An update has a plan of its own, update.json and update.parquet, and makes its parts in a folder of its own:
the earlier result stays. Then come, in this order, the move of parts to ``data``, the completion marker,
the removal of the parts that were replaced, and the plan's move. The completion marker decides: before it the
earlier result is the result, after it the new one, and `finish` ends what was interrupted.

Memory holds some 60 bytes for each input, and the planned inputs of the parts that lose rows.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quality_model.core import decoding, storage
from quality_model.core.folders import JOB_NAME, PLAN_NAME
from quality_model.core.jobs import JobFolder, part_name
from quality_model.core.parquet import open_parquet
from quality_model.errors import CorruptError, ImageError, IncompleteError, UsageError
from quality_model.params import LimitsParams
from quality_model.score import result
from quality_model.score.inputs import Survey, list_inputs, nothing_to_score, sources_of
from quality_model.score.plan import (
    SCHEMA,
    TABLE_NAME,
    UPDATE_NAME,
    UPDATE_TABLE_NAME,
    Plan,
    inputs_from,
    plan_from,
    write_inputs,
)
from quality_model.score.reading import Source, fetched

_LISTING_NAME = "listing.parquet"
_KEPT_FROM = 0.5
"""A part with fewer rows, as a share of a whole one, is merged with others, lest small parts pile up."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """int64 (N,) hashes: of the keys, and of all else that a plan says of the inputs."""

    keys: npt.NDArray[np.int64]
    facts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, path: Path) -> "_Rows":
        keys, facts = array("q"), array("q")
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                columns = file.read_row_group(group).to_pydict()
                keys.extend(map(hash, columns.pop("key")))
                columns["columns"] = map(tuple, columns["columns"])
                facts.extend(map(hash, zip(*columns.values(), strict=True)))
        return cls(np.frombuffer(keys, np.int64), np.frombuffer(facts, np.int64))

    def places_of(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The row of each key, or -1."""
        order = np.argsort(self.keys, kind="stable")
        places = np.searchsorted(self.keys[order], keys).clip(max=len(order) - 1)
        rows = order[places]
        return np.where(self.keys[rows] == keys, rows, -1)


def open_pending(output: Path) -> Plan | None:
    """The plan of an update that is not complete; None without one, and for one that is damaged."""
    facts = _facts(output / UPDATE_NAME)
    table = output / UPDATE_TABLE_NAME
    if not facts or not table.is_file() or storage.file_sha256(table) != facts.get("plan_sha256"):
        return None
    try:
        return plan_from(facts, is_update=True)
    except (TypeError, KeyError, ValueError):
        return None


def finish(job: JobFolder) -> None:
    """End an update whose completion marker is written."""
    output = job.folder
    facts = _facts(output / UPDATE_NAME)
    if not facts or _facts(output / JOB_NAME).get("plan_sha256") != facts.get("plan_sha256"):
        return
    if (output / UPDATE_TABLE_NAME).is_file():
        storage.move(output / UPDATE_TABLE_NAME, output / TABLE_NAME)
    job.keep_parts(plan_from(facts).rows_of_parts)
    storage.move(output / UPDATE_NAME, output / PLAN_NAME)


def discard(job: JobFolder, plan: Plan) -> None:
    """Drop an update that is not complete."""
    for name in (UPDATE_NAME, UPDATE_TABLE_NAME):
        storage.remove(job.folder / name)
    job.keep_parts(plan.rows_of_parts)


def make(job: JobFolder, plan: Plan, found: Survey, limits: LimitsParams, *, verify: bool) -> Plan:
    """Plan the update of a result, complete or not, and write the parts that need no scoring.

    An input is scored again if its length, its time of change or its place in its file differ, or if its
    error code is not final.

    Args:
        plan: Of the result.
        found: The inputs as they are.
        verify: Compare the SHA-256 of each input with that of its row, in place of length and time.

    Returns:
        The plan of the update; ``plan`` itself, if only ``verify`` asked for one and nothing has changed.

    Raises:
        UsageError: There is no input any more, none of the result is among them, or two have the same key.
    """
    job.keep_parts(plan.rows_of_parts)  # what a killed planning left
    with storage.scratch(job.folder / _LISTING_NAME) as listing:
        return _make(job, plan, found, limits, listing, verify=verify)


def _make(
    job: JobFolder, plan: Plan, found: Survey, limits: LimitsParams, listing: Path, *, verify: bool
) -> Plan:
    output = job.folder
    skipped = Counter(found.skipped)
    if not write_inputs(listing, list_inputs(found, limits, skipped), plan.settings.shard_size):
        raise nothing_to_score(found, skipped)
    new, old = _Rows.of(listing), _Rows.of(output / TABLE_NAME)
    places = new.places_of(old.keys)
    is_known = places >= 0
    if not is_known.any():
        raise UsageError(
            f"{output} has scores of {len(old.keys)} other inputs: none of them is in {found.inputs.title}.",
            "Choose another output folder, or replace this result with --overwrite.",
        )
    has_same_facts = is_known & (new.facts[places] == old.facts)
    scored = _Scored.of(job, plan)
    is_same = has_same_facts
    if verify:
        is_same = is_known & (_hash_inputs(listing, found, limits)[places] == scored.hashes)
    counts = {
        "new": int(len(new.keys) - is_known.sum()),
        "changed": int((is_known & ~is_same & scored.is_final).sum()),
        "removed": int((~is_known).sum()),
        "unchanged": int((is_same & scored.is_final).sum()),
    }
    if verify and plan.has_same_inputs(found) and bool(is_same[scored.is_final].all()):
        return plan
    stays = is_same & scored.is_final
    parts = _Parts(job, plan, listing)
    start = 0
    for number, rows in plan.rows_of_parts.items():
        span = slice(start, start + rows)
        start += rows
        is_whole = bool((stays & has_same_facts)[span].all())
        if is_whole and rows >= _KEPT_FROM * plan.settings.shard_size:
            parts.kept.append(number)
        else:
            parts.carry(number, stays[span], places[span])
    is_fresh = np.ones(len(new.keys), dtype=bool)
    is_fresh[places[stays]] = False
    with storage.staged(output / UPDATE_TABLE_NAME) as temporary:
        rows_of_parts = parts.write(temporary, is_fresh)
        plan_sha256 = storage.file_sha256(temporary)
    made = replace(
        plan,
        num_inputs=len(new.keys),
        num_files=found.num_files,
        fingerprint=found.fingerprint,
        skipped=dict(sorted(skipped.items())),
        plan_sha256=plan_sha256,
        parts={str(number): rows for number, rows in rows_of_parts.items()},
        counts=counts,
        is_update=True,
    )
    made.write(output)
    return made


@dataclass(frozen=True, slots=True)
class _Scored:
    """bool (N,): rows of a result that are not to be read again; int64 (N,): hashes of their SHA-256."""

    is_final: npt.NDArray[np.bool_]
    hashes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, job: JobFolder, plan: Plan) -> "_Scored":
        is_final, hashes = [], array("q")
        for number, rows in plan.rows_of_parts.items():
            table = _read(job, plan, number)
            if table is None:
                is_final.append(np.zeros(rows, dtype=bool))
                hashes.extend([0] * rows)
                continue
            not_final = pc.is_in(table["error_code"], pa.array(sorted(result.NOT_FINAL)))
            is_final.append(~not_final.to_numpy())
            hashes.extend(map(hash, table["sha256"].to_pylist()))
        return cls(np.concatenate(is_final), np.frombuffer(hashes, np.int64))


class _Parts:
    """The parts of an update: those that are kept, those of carried rows, and those to be scored."""

    def __init__(self, job: JobFolder, plan: Plan, listing: Path) -> None:
        self.kept: list[int] = []
        self._job, self._plan, self._listing = job, plan, listing
        self._next = max(job.next_number(), 1 + max(plan.rows_of_parts))
        self._tables: list[pa.Table] = []
        self._places: list[npt.NDArray[np.int64]] = []
        self._carried: dict[int, npt.NDArray[np.int64]] = {}

    def carry(self, number: int, stays: npt.NDArray[np.bool_], places: npt.NDArray[np.int64]) -> None:
        """Take the rows of a part that stay, which are at these places of the listing."""
        if not stays.any():
            return
        table = _read(self._job, self._plan, number)
        assert table is not None  # only rows that are scored stay
        self._tables.append(table.filter(pa.array(stays)))
        self._places.append(places[stays])
        if sum(map(len, self._tables)) >= self._plan.settings.shard_size:
            self._flush(self._plan.settings.shard_size)

    def write(self, path: Path, is_fresh: npt.NDArray[np.bool_]) -> dict[int, int]:
        """Write what is left, then the plan's table; give the rows of each part by its number."""
        self._flush(1)
        rows = {}
        carried = np.concatenate([*self._carried.values(), np.zeros(0, np.int64)])
        entries = _taken(self._listing, np.sort(carried))
        with (
            open_parquet(self._plan.table_path(self._job.folder)) as before,
            pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer,
        ):
            groups = {number: group for group, number in enumerate(self._plan.rows_of_parts)}
            for number in self.kept:
                table = before.read_row_group(groups[number])
                writer.write_table(table, row_group_size=len(table))
                rows[number] = len(table)
            for number, places in self._carried.items():
                table = entries.take(np.searchsorted(np.sort(carried), places))
                writer.write_table(table, row_group_size=len(table))
                rows[number] = len(table)
            for table in _filtered(self._listing, is_fresh, self._plan.settings.shard_size):
                writer.write_table(table, row_group_size=len(table))
                rows[self._next] = len(table)
                self._next += 1
        return rows

    def _flush(self, at_least: int) -> None:
        size = self._plan.settings.shard_size
        while sum(map(len, self._tables)) >= at_least:
            table, places = pa.concat_tables(self._tables).combine_chunks(), np.concatenate(self._places)
            part, self._carried[self._next] = table.slice(0, size).combine_chunks(), places[:size]
            errors = Counter(part["error_code"].drop_null().to_pylist())
            data = result.to_parquet(part)
            self._job.write_part(self._next, data, rows=len(part), errors=errors, for_update=True)
            self._next += 1
            self._tables, self._places = [table.slice(size)], [places[size:]]


def _read(job: JobFolder, plan: Plan, number: int) -> pa.Table | None:
    """A finished part of a result; None if it is not finished."""
    rows = plan.rows_of_parts[number]
    if (finished := job.read_part(number, rows=rows)) is None:
        return None
    keys = [planned.key for planned in plan.inputs_of(job.folder, number)]
    path = job.folder / part_name(number)
    return result.from_parquet(finished[1], path, keys=keys, schema=plan.model.schema)


def _hash_inputs(listing: Path, found: Survey, limits: LimitsParams) -> npt.NDArray[np.int64]:
    """int64 (N,): the hash of the SHA-256 of each input, as of a row without one where it cannot be read."""
    hashes = array("q")
    with pq.ParquetFile(listing) as file:
        planned = (
            one for group in range(file.num_row_groups) for one in inputs_from(file.read_row_group(group))
        )
        named = sources_of(planned, found.inputs, found.kind)
        with closing(named), closing(fetched(named, None, limits)) as sources:
            hashes.extend(hash(_sha256(source, limits)) for source in sources)
    return np.frombuffer(hashes, np.int64)


def _sha256(source: Source, limits: LimitsParams) -> str | None:
    if isinstance(source, ImageError):
        return None
    try:
        data = decoding.read_bytes(source, limits) if isinstance(source, Path) else source
        decoding.check_bytes(data, limits)
    except ImageError:
        return None
    return hashlib.sha256(data).hexdigest()


def _taken(listing: Path, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Rows of a listing by their numbers, which ascend."""
    is_taken = np.zeros(pq.read_metadata(listing).num_rows, dtype=bool)
    is_taken[rows] = True
    return pa.concat_tables([*_filtered(listing, is_taken, 1 << 16), SCHEMA.empty_table()]).combine_chunks()


def _filtered(listing: Path, mask: npt.NDArray[np.bool_], size: int) -> Iterator[pa.Table]:
    """The rows of a listing that a mask selects, so many at once."""
    rest, start = SCHEMA.empty_table(), 0
    with pq.ParquetFile(listing) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            chosen = table.filter(pa.array(mask[start : start + len(table)]))
            start += len(table)
            rest = pa.concat_tables([rest, chosen])
            while len(rest) >= size:
                yield rest.slice(0, size).combine_chunks()
                rest = rest.slice(size)
    if len(rest):
        yield rest.combine_chunks()


def _facts(path: Path) -> dict[str, Any]:
    """The JSON record in a file; empty where there is none."""
    try:
        facts = storage.read_json(path)
    except (IncompleteError, CorruptError):
        return {}
    return facts if isinstance(facts, dict) else {}
