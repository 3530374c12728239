"""A result filtered: rules decide what is kept, and that is written. Originals and the result stay."""

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np

from quality_model.core import storage
from quality_model.core.figures import text_table
from quality_model.core.folders import is_inside
from quality_model.curate import dropped, outputs, shards
from quality_model.curate.finished import FinishedResult, open_finished
from quality_model.curate.originals import Losses, Mask, Rows, moved_to
from quality_model.curate.outputs import How
from quality_model.curate.rules import Balance, Flag, Rule, Verdict, flag_rules, judge
from quality_model.curate.thresholds import read_thresholds
from quality_model.errors import InputErrorsAboveLimit, UsageError
from quality_model.records import Head
from quality_model.score.reading import DownloadRules

RECORD_SUFFIX: Final = ".filter.json"
"""Of the record beside a list or a table."""

_OFTEN: Final = 0.05
"""A model's threshold that flags more than this share of the images is to be looked at."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where what is kept is written.

    Attributes:
        lists: Files: ``.parquet`` gets the rows, any other name the keys.
        dropped: A file, ``.csv`` or ``.parquet``, of what is dropped and why (`dropped`).
        files: A folder of copies or links, and which.
        shards: A folder of tar shards, or of Parquet shards if tables were scored.
        shard_size: Images a shard.
        null: Keys end in NUL bytes, not in line breaks.
        keep_errors: Lists also have the rows with an error code.
        originals: Where the originals are now, if they were moved.
        download: How URLs are fetched; without it they are losses.
    """

    lists: tuple[Path, ...] = ()
    dropped: Path | None = None
    files: tuple[Path, How] | None = None
    shards: Path | None = None
    shard_size: int = 10_000
    null: bool = False
    keep_errors: bool = False
    originals: Path | None = None
    download: DownloadRules | None = None

    @property
    def folders(self) -> list[Path]:
        return [*([self.files[0]] if self.files else []), *([self.shards] if self.shards else [])]

    @property
    def tables(self) -> list[Path]:
        """Every file."""
        return [*self.lists, *([self.dropped] if self.dropped else [])]


@dataclass(frozen=True, slots=True)
class Filtered:
    """What a filter decided, and what it wrote.

    Attributes:
        verdict: Of the rules.
        errors: Rows with each error code; they are dropped, and counted by no rule.
        written: The files and folders.
        losses: Kept originals that could not be written, by error code.
        thresholds: Those of one's own.
        notes: What to know of the rules before they are trusted.
    """

    title: str
    verdict: Verdict
    errors: dict[str, int]
    written: tuple[Path, ...] = ()
    losses: Losses = field(default_factory=Losses)
    thresholds: Mapping[Head, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """Of the result."""
        return len(self.verdict.kept)

    @property
    def num_kept(self) -> int:
        return int(self.verdict.kept.sum())

    def lines(self) -> list[str]:
        """The outcome for a console."""
        cells = [
            [dropped.in_line(count.title), str(count.drops), str(count.alone)]
            for count in self.verdict.counts
        ]
        cells += [[f"not scored: {code}", str(count), "-"] for code, count in self.errors.items()]
        table = text_table(("rule", "drops", "alone"), cells, right=("drops", "alone")) if cells else ""
        kept = f"Kept: {self.num_kept} of {self.num_rows}."
        if self.num_kept == self.num_rows:
            kept = f"Nothing is dropped: all {self.num_rows} are kept."
        elif not self.num_kept:
            kept = f"Nothing is kept: all {self.num_rows} are dropped."
        return [self.title, *table.splitlines(), *self.notes, kept, *map(self._written, self.written)]

    def _written(self, path: Path) -> str:
        if path.is_dir() and 0 < self.losses.total == self.num_kept:
            return f"No original is written to {path}: all that are kept are gone or changed."
        return f"Written: {path}"

    def require_complete(self) -> None:
        """Refuse losses.

        Raises:
            InputErrorsAboveLimit: Kept originals are gone or changed; everything else is written.
        """
        if self.losses.total:
            named = self.losses.keys
            codes = [f"{n} x {code} (such as {named[code][0]})" for code, n in self.losses.counts.items()]
            raise InputErrorsAboveLimit(
                f"{self.losses.total} kept originals could not be written: {', '.join(codes)}.",
                "The rest is. Name their folder with --originals if they moved; score again if they changed.",
            )


def filter_result(
    output: Path,
    rules: Sequence[Rule] = (),
    to: Outputs | None = None,
    *,
    flagged: Sequence[Head] = (),
    thresholds: Path | Mapping[Head, float] | None = None,
    balance: Balance | None = None,
) -> Filtered:
    """Decide by rules which rows of a result are kept, and write these.

    A row is kept if it has scores and no rule drops it. Without any rule what is flagged is dropped.

        filter_result(Path("scores/mine"), [Bound("noise", 0.3)], Outputs(lists=(Path("keys.txt"),)))

    Kept originals that are gone or changed are not written: see ``losses`` of the answer.

    Args:
        output: Folder of a finished result.
        rules: Of `rules`; each is applied to all rows.
        to: Where to write; None: nothing is written.
        flagged: Drop also what these heads flag.
        thresholds: Of one's own for flags, or a file of them (`read_thresholds`); a head without one has
            that of the result. Given, all heads flag unless ``flagged`` names some.
        balance: Each value of a column loses the same share.

    Raises:
        UsageError: ``output`` is no result, a rule or a file of thresholds does not fit it, nothing is kept,
            or a place to write is inside the originals or the result, or has other files.
        IncompleteError, CorruptError: The result is not finished, or is damaged.
        StorageError: The disk is full, another process writes there, or the result was updated meanwhile.
    """
    result = open_finished(output)
    if isinstance(thresholds, Path):
        thresholds = read_thresholds(thresholds, scale_version=result.model.scale_version)
    rules = list(rules)
    with result.unchanged():
        rows = Rows.of(result.files, result.thresholds)
        if flagged or thresholds or not rules:
            rules += flag_rules(rows, flagged, thresholds)
        verdict = judge(rows, rules, balance)
    title = f"{output}: {len(rows.scored)} rows, scored by {result.model.title}."
    outcome = Filtered(
        title,
        verdict,
        dict(rows.errors),
        thresholds=thresholds or {},
        notes=(*verdict.notes, *_often_flagged(output, verdict, int(rows.scored.sum()))),
    )
    if to is None:
        return outcome
    if to.originals is not None:
        result = moved_to(result, to.originals)
    listed = verdict.kept | ~rows.scored if to.keep_errors else verdict.kept
    if (to.lists or to.folders) and not (listed if to.lists else verdict.kept).any():
        drops = ", ".join(f"{count.title}: {count.drops}" for count in verdict.counts)
        raise UsageError(
            f"Nothing is kept, so nothing is written: all {outcome.num_rows} rows are dropped ({drops}).",
            "Loosen a rule; --dry-run says what each drops.",
        )
    _require_places(to, result)
    record = _record(result, {**rows.thresholds, **(thresholds or {})}, rows, verdict, balance)
    for folder, its_record in _records(to, record).items():
        outputs.require_free(folder, its_record)
    if to.dropped is not None:
        storage.write_json(_record_path(to.dropped), record)
        dropped.write_dropped(to.dropped, result, rows, verdict)
    for path in to.lists:
        _write_list(path, result, listed, to, record)
    losses = _write_folders(result, verdict.kept, to, record)
    return replace(outcome, written=(*to.tables, *to.folders), losses=losses)


def _often_flagged(output: Path, verdict: Verdict, num_scored: int) -> Iterator[str]:
    """A line if the model's own thresholds flag far more than they promise (docs/how-good.md)."""
    often = [
        f"{rule.head} {count.drops / num_scored:.0%}".replace("%", " %")
        for rule, count in zip(verdict.rules, verdict.counts, strict=True)
        if isinstance(rule, Flag) and rule.threshold is None and count.drops > _OFTEN * num_scored
    ]
    if often:
        yield (
            f"Flagged by {', '.join(often)} (the model's thresholds promise 2 % of clean images): look at"
            f" them first: quality-model gallery {shlex.quote(str(output))}"
        )


def _record(
    result: FinishedResult,
    thresholds: dict[Head, float],
    rows: Rows,
    verdict: Verdict,
    balance: Balance | None,
) -> dict[str, object]:
    """What was kept of what, and why: JSON values that depend on the result and the rules alone."""
    balanced = None
    if balance is not None:
        file = None if balance.file is None else storage.file_sha256(balance.file)
        balanced = {"column": balance.column, "file_sha256": file}
    return {
        "rules": [asdict(count) for count in verdict.counts],
        "balance": balanced,
        "model": result.model.described()["model"],
        "thresholds": thresholds,
        "result": {"sha256": result.sha256, "plan_sha256": result.plan_sha256},
        "counts": {
            "rows": len(rows.scored),
            "kept": int(verdict.kept.sum()),
            "errors": dict(sorted(rows.errors.items())),
        },
        "kept_sha256": hashlib.sha256(np.packbits(verdict.kept).tobytes()).hexdigest(),
    }


def _require_places(to: Outputs, result: FinishedResult) -> None:
    """Refuse, before anything is written, places inside the originals or the result, and those of others."""
    if to.dropped is not None:
        dropped.require_dropped_name(to.dropped)
    places = [*to.tables, *to.folders]
    for place, folder in product(places, to.folders):
        if place is not folder and is_inside(place, folder):
            raise UsageError(f"{place} is inside {folder}, another output.", "Choose another place.")
    if len({place.resolve() for place in places}) < len(places):
        raise UsageError("Two outputs are in one place.", "Name another for each.")
    for place in places:
        if is_inside(place, result.folder):
            raise UsageError(f"{place} is inside the result {result.folder}.", "Choose another place.")
        if is_inside(place, result.root) and (result.is_tree or place.resolve() == result.root):
            raise UsageError(f"{place} is inside what was scored, {result.root}.", "Choose another place.")
    for path in to.tables:
        if path.is_dir() or (path.exists() and not _record_path(path).exists()):
            raise UsageError(
                f"{path} is there and was not written by filter.", "Choose another name, or move it away."
            )
    if to.files and to.files[1] != "copy":
        outputs.require_linkable(result)


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + RECORD_SUFFIX)


def _write_list(
    path: Path, result: FinishedResult, listed: Mask, to: Outputs, record: dict[str, object]
) -> None:
    storage.write_json(
        _record_path(path), {**record, "keep_errors": to.keep_errors}
    )  # first: it says the list is ours
    if path.suffix.lower() == ".parquet":
        outputs.write_rows(path, result, listed)
    else:
        outputs.write_keys(path, result, listed, null=to.null)


def _records(to: Outputs, record: dict[str, object]) -> dict[Path, dict[str, object]]:
    """The record of each folder."""
    records: dict[Path, dict[str, object]] = {}
    if to.files is not None:
        records[to.files[0]] = {**record, "output": to.files[1]}
    if to.shards is not None:
        records[to.shards] = {**record, "output": "shards", "shard_size": to.shard_size}
    return records


def _write_folders(result: FinishedResult, kept: Mask, to: Outputs, record: dict[str, object]) -> Losses:
    losses, records = Losses(), _records(to, record)
    if to.files is not None:
        folder, how = to.files
        with outputs.own_folder(folder, records[folder]):
            losses = outputs.place_files(folder, result, kept, how, to.download)
    if to.shards is not None:
        with outputs.own_folder(to.shards, records[to.shards]):
            losses |= shards.write_shards(to.shards, result, kept, to.shard_size, to.download)
    return losses
