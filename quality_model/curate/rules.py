"""What is dropped from a result: rules, each of which marks rows, and what they mark together.

Every rule looks at the rows with scores alone. A value that is null is dropped by no bound, and kept by no
condition that needs it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.curate.duplicates import COLUMNS, MAX_DISTANCE, find_groups
from quality_model.curate.expressions import keeps, parse_condition, require_column
from quality_model.curate.finished import read_keys, read_with_key
from quality_model.curate.originals import Mask, Rows
from quality_model.errors import UsageError
from quality_model.records import FLAG_COLUMNS, HEADS, SCORE_COLUMNS, Head


class Rule(Protocol):
    """Marks rows to drop; ``title`` is what to call it in a table and in a record."""

    @property
    def title(self) -> str: ...

    def drops(self, rows: Rows, strata: npt.NDArray[np.int64] | None) -> Mask:
        """bool (N,). With ``strata``, the number of each row's stratum, each loses the same share.

        Raises:
            UsageError: The rule does not fit the result, or has no order by which to take a share.
        """
        ...


@dataclass(frozen=True, slots=True)
class Bound:
    """Drops rows whose value is above ``limit``, or below it.

    With strata it is the share of all rows that it drops, of which each stratum loses its own worst.
    """

    column: str
    limit: float
    is_lowest: bool = False

    @property
    def title(self) -> str:
        return f"{self.column} {'<' if self.is_lowest else '>'} {self.limit:.15g}"

    def drops(self, rows: Rows, strata: npt.NDArray[np.int64] | None) -> Mask:
        self._require_reachable()
        values = rows.numbers(self.column)
        badness = -values if self.is_lowest else values
        return _balanced(badness, badness > (-self.limit if self.is_lowest else self.limit), rows, strata)

    def _require_reachable(self) -> None:
        if self.column in SCORE_COLUMNS and not 0.0 <= self.limit <= 1.0:
            given = f"--{'min' if self.is_lowest else 'max'} {self.column}="
            guess = f" {given}{self.limit / 100:.15g}?" if 1.0 < self.limit <= 100.0 else ""
            end = "end at 1" if self.limit > 1.0 else "begin at 0"
            raise UsageError(f"{given}{self.limit:.15g}: scores {end}.{guess}", "Give a score from 0 to 1.")


@dataclass(frozen=True, slots=True)
class Flag:
    """Drops what a head flags: by the threshold that the result stores, or by another one."""

    head: Head
    threshold: float | None = None

    @property
    def title(self) -> str:
        return f"flagged {self.head}" + ("" if self.threshold is None else f" (> {self.threshold:.4g})")

    def drops(self, rows: Rows, strata: npt.NDArray[np.int64] | None) -> Mask:
        if self.threshold is not None:
            return Bound(self.head, self.threshold).drops(rows, strata)
        if self.head not in rows.thresholds:
            raise UsageError(
                f"The result has no threshold for {self.head}, so that nothing is flagged.",
                f"Give one: --max {self.head}=SCORE, or --thresholds FILE.",
            )
        column = FLAG_COLUMNS[self.head]
        flags = [batch.column(0).fill_null(False) for batch in rows.batches([column])]
        flagged: Mask = pa.chunked_array(flags, pa.bool_()).to_numpy()
        return flagged if strata is None else _balanced(rows.numbers(self.head), flagged, rows, strata)


@dataclass(frozen=True, slots=True)
class Worst:
    """Drops a share of the rows with scores, those with the worst score: the nearest whole number of them.

    Of equal scores those with the smallest hash of the key go first, which is the same everywhere. With
    strata each loses this share.
    """

    share: Fraction
    column: str = "worst_score"

    @property
    def title(self) -> str:
        return f"worst {float(self.share * 100):.15g}% by {self.column}"

    def drops(self, rows: Rows, strata: npt.NDArray[np.int64] | None) -> Mask:
        if self.column not in SCORE_COLUMNS:
            raise UsageError(
                f"{self.column} is no score, so that neither its low nor its high values are the worst.",
                f"Scores are {', '.join(SCORE_COLUMNS)}; for others there are --min and --max.",
            )
        values = rows.numbers(self.column)
        badness = -values if self.column == "overall" else values
        strata = np.zeros(len(values), np.int64) if strata is None else strata
        return _worst_of_each(badness, self.share, rows, strata)


@dataclass(frozen=True, slots=True)
class Where:
    """Drops rows for which a condition over the columns is not true (`expressions`)."""

    condition: str

    @property
    def title(self) -> str:
        return f"not ({self.condition.strip()})"

    def drops(self, rows: Rows, strata: npt.NDArray[np.int64] | None) -> Mask:
        if strata is not None:
            raise UsageError(
                "A condition has no order by which each value of a column could lose the same share.",
                "Balance with --max, --min, --flagged or --drop-worst, or leave --where out.",
            )
        expression, names = parse_condition(self.condition, {each.name: each.type for each in rows.schema})
        kept = [keeps(expression, batch, self.condition) for batch in rows.batches(names)]
        return ~np.concatenate(kept) & rows.scored


@dataclass(frozen=True, slots=True)
class Only:
    """Drops rows whose key is not in a file: CSV or Parquet with a column ``key``, else a key a line."""

    file: Path

    @property
    def title(self) -> str:
        return f"not in {self.file.name}"

    def drops(self, rows: Rows, strata: npt.NDArray[np.int64] | None) -> Mask:
        is_named, keys = self._named(rows)
        if len(keys) and not is_named.any():
            raise UsageError(
                f"{self.file} has not one key of the result: {keys[0]} is none,"
                f" {rows.column('key')[0]} is one.",
                "Write the keys as the result has them.",
            )
        drops: Mask = rows.scored & ~is_named
        return drops

    def note(self, rows: Rows) -> str:
        """How many of the keys in the file the result does not have; empty if it has all."""
        is_named, keys = self._named(rows)
        missing = len(keys) - int(is_named.sum())
        return f"{missing} of {len(keys)} keys in {self.file} are not in the result." if missing > 0 else ""

    def _named(self, rows: Rows) -> tuple[Mask, pa.Array]:
        """Which rows the file names, and its keys, each once."""
        keys = pc.unique(read_keys(self.file)).drop_null()
        keys = keys.filter(pc.not_equal(keys, ""))
        return pc.is_in(rows.column("key"), keys).to_numpy(), keys


@dataclass(frozen=True, slots=True)
class BestOfDuplicates:
    """Drops all but the best of each group of near duplicates (`duplicates`) among what other rules keep.

    So an image whose better copy is dropped by another rule stays. Strata change nothing.
    """

    max_distance: int = MAX_DISTANCE

    @property
    def title(self) -> str:
        return f"near duplicates (within {self.max_distance} bits)"

    def drops(self, rows: Rows, strata: npt.NDArray[np.int64] | None) -> Mask:
        return self.find(rows).best >= 0

    def find(self, rows: Rows) -> "Copies":
        """Of which image each row is dropped as a copy.

        Raises:
            UsageError: The result has no hashes.
        """
        for column in COLUMNS:
            require_column(column, rows.columns)
        table = pa.Table.from_batches(rows.batches(COLUMNS)).filter(pa.array(rows.scored))
        groups, (numbers,) = find_groups(table, self.max_distance), np.nonzero(rows.scored)
        found = Copies.none(len(rows.scored))
        dropped = numbers[~groups.is_best]
        found.best[dropped] = numbers[groups.best[~groups.is_best]]
        found.distance[dropped] = groups.distance[~groups.is_best]
        return found


@dataclass(frozen=True, slots=True)
class Copies:
    """Rows that are dropped because a better copy is kept.

    Attributes:
        best: int64 (N,): the number of the row that is kept; -1 for all that are no copies.
        distance: uint8 (N,): bits in which their hashes differ.
    """

    best: npt.NDArray[np.int64] = field(repr=False)
    distance: npt.NDArray[np.uint8] = field(repr=False)

    @classmethod
    def none(cls, num_rows: int) -> "Copies":
        return cls(np.full(num_rows, -1), np.zeros(num_rows, np.uint8))


@dataclass(frozen=True, slots=True)
class Balance:
    """Every value of ``column`` loses the same share to a rule; null is one of the values.

    Attributes:
        column: Of the result, or of ``file``.
        file: CSV or Parquet with the columns ``key`` and ``column``.
    """

    column: str
    file: Path | None = None

    def strata(self, rows: Rows) -> npt.NDArray[np.int64]:
        """The number of each row's value, (N,).

        Raises:
            UsageError: There is no such column, or the file has no key of the result, or one twice.
        """
        if self.file is None:
            require_column(self.column, rows.columns)
            values = rows.column(self.column)
        else:
            known = read_with_key(self.file, self.column)
            keys = known["key"].combine_chunks()
            if len(keys) != pc.count_distinct(keys, mode="all").as_py():
                raise UsageError(f"{self.file} has a key twice.", "A key has one value.")
            places = pc.index_in(rows.column("key"), keys)
            if places.null_count == len(places):
                raise UsageError(
                    f"{self.file} has not one key of the result.", "Its column key holds those of the result."
                )
            values = known[self.column].take(places)
        codes = values.combine_chunks().dictionary_encode(null_encoding="encode").indices
        return np.asarray(codes.to_numpy(zero_copy_only=False), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class RuleCount:
    """What a rule drops, and what it alone drops."""

    title: str
    drops: int
    alone: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What rules decide about the rows of a result.

    Attributes:
        kept: bool (N,): rows with scores that no rule drops.
        rules: In the order in which they were applied.
        masks: bool (N,) for each rule: what it drops.
        counts: One for each rule.
        copies: What `BestOfDuplicates` drops.
        notes: What else there is to say of them.
    """

    kept: Mask = field(repr=False)
    rules: tuple[Rule, ...]
    masks: tuple[Mask, ...] = field(repr=False)
    counts: tuple[RuleCount, ...]
    copies: Copies
    notes: tuple[str, ...] = ()


def judge(rows: Rows, rules: Sequence[Rule], balance: Balance | None = None) -> Verdict:
    """Apply rules to the rows of a result, `BestOfDuplicates` last.

    Memory holds a byte a row for each rule, and a column at a time.

    Raises:
        UsageError: A rule does not fit the result.
    """
    strata = None if balance is None else balance.strata(rows)
    times = np.zeros(len(rows.scored), np.uint16)
    masks, copies = [], Copies.none(len(rows.scored))
    rules = sorted(rules, key=lambda rule: isinstance(rule, BestOfDuplicates))
    for rule in rules:
        if isinstance(rule, BestOfDuplicates):  # the best is chosen of what the others keep
            copies = rule.find(replace(rows, scored=rows.scored & (times == 0)))
            masks.append(copies.best >= 0)
        else:
            masks.append(rule.drops(rows, strata))
        times += masks[-1]
    counts = [
        RuleCount(rule.title, int(mask.sum()), int((mask & (times == 1)).sum()))
        for rule, mask in zip(rules, masks, strict=True)
    ]
    notes = filter(None, [rule.note(rows) for rule in rules if isinstance(rule, Only)])
    return Verdict(
        rows.scored & (times == 0), tuple(rules), tuple(masks), tuple(counts), copies, tuple(notes)
    )


def flag_rules(rows: Rows, heads: Sequence[Head] = (), own: Mapping[Head, float] | None = None) -> list[Flag]:
    """A rule for each head (by default every one with a threshold), by thresholds of one's own if there are.

    Raises:
        UsageError: No head has a threshold.
    """
    own = own or {}
    chosen = heads or [head for head in HEADS if head in own or head in rows.thresholds]
    if not chosen:
        raise UsageError(
            "Nothing is flagged: the model of the result has no thresholds.",
            "Say what to drop, such as --max noise=.3 or --drop-worst 10%.",
        )
    return [Flag(head, own.get(head)) for head in chosen]


def _balanced(
    badness: npt.NDArray[np.float64], drops: Mask, rows: Rows, strata: npt.NDArray[np.int64] | None
) -> Mask:
    """What is dropped, or as large a share of each stratum."""
    num_known = int((~np.isnan(badness)).sum())
    if strata is None or not num_known:
        return drops
    return _worst_of_each(badness, Fraction(int(drops.sum()), num_known), rows, strata)


def _worst_of_each(
    badness: npt.NDArray[np.float64], share: Fraction, rows: Rows, strata: npt.NDArray[np.int64]
) -> Mask:
    """The share of each stratum with the highest badness; NaN is no part of a stratum."""
    (known,) = np.nonzero(~np.isnan(badness))
    bad, stratum = badness[known], strata[known]
    sizes = np.bincount(stratum)
    quotas = np.array([int(share * int(size) + Fraction(1, 2)) for size in sizes], dtype=np.int64)
    order = np.lexsort((-bad, stratum))
    ends = np.cumsum(sizes)
    # What is worse than the last of the quota goes, and of what equals it as many as the quota needs.
    last = (
        np.where(quotas > 0, bad[order[np.maximum(ends - sizes + quotas - 1, 0)]], np.inf)
        if len(bad)
        else bad
    )
    goes = bad > last[stratum]
    ties = bad == last[stratum]
    missing = quotas - np.bincount(stratum[goes], minlength=len(sizes))
    is_partial = missing < np.bincount(stratum[ties], minlength=len(sizes))
    goes |= ties & ~is_partial[stratum]
    (tied,) = np.nonzero(ties & is_partial[stratum])
    if len(tied):
        chosen = np.zeros(len(badness), np.bool_)
        chosen[known[tied]] = True
        by_hash = tied[np.lexsort((rows.key_hashes(chosen), stratum[tied]))]
        starts = np.concatenate([[0], np.cumsum(np.bincount(stratum[tied], minlength=len(sizes)))[:-1]])
        rank = np.arange(len(by_hash)) - starts[stratum[by_hash]]
        goes[by_hash[rank < missing[stratum[by_hash]]]] = True
    drops = np.zeros(len(badness), np.bool_)
    drops[known[goes]] = True
    return drops
