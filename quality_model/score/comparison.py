"""What would change if one model took another's place: scores and flags of the same images.

The one in place is called old, the one that would come new, and a change is new - old.
"""

from __future__ import annotations

import csv
import heapq
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from quality_model.records import HEADS, SHORT_NAMES, Head, flagged_heads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from quality_model.core.decoding import Pixels

Scores = Mapping[Head, float]
Thresholds = Mapping[Head, float] | None

_COLUMNS: Final = 4
_NAME_LENGTH: Final = 30
_SHOWN: Final = 10
"""Unreadable images that the Markdown names; the table has them all."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models. ``version`` and ``run_id`` are None for a file that no registry knows."""

    name: str
    version: str | None
    run_id: str | None
    sha256: str
    image_size_px: int
    thresholds: Thresholds

    @property
    def title(self) -> str:
        return f"{self.name} version {self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class Row:
    """One image: the scores of both models, or the reason why there are none."""

    key: str
    old: Scores | None = None
    new: Scores | None = None
    reason: str | None = None
    detail: str | None = None

    @property
    def largest_change(self) -> float:
        """The largest change of a head, in [0, 1], whatever its sign; 0 without scores."""
        if self.old is None or self.new is None:
            return 0.0
        return max(abs(self.new[head] - self.old[head]) for head in HEADS)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the images of one folder."""

    folder: str
    old: Side
    new: Side
    rows: Sequence[Row]

    @property
    def is_of_one_model(self) -> bool:
        """Whether both have the same weights and image size, so that no score can differ."""
        return (self.old.sha256, self.old.image_size_px) == (self.new.sha256, self.new.image_size_px)

    @property
    def scored(self) -> list[Row]:
        return [row for row in self.rows if row.reason is None]

    def flags(self, row: Row) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
        """The heads that each model flags, the old one's first."""
        assert row.old is not None
        assert row.new is not None
        return flagged_heads(row.old, self.old.thresholds), flagged_heads(row.new, self.new.thresholds)

    def largest(self, count: int) -> list[Row]:
        """The images whose scores change most, the most changed first; of equals the first."""
        return sorted(self.scored, key=lambda row: -row.largest_change)[:count]

    def summary(self) -> dict[str, Any]:
        """JSON-able numbers, without rows.

        ``same_model`` says whether a model was compared with itself. ``heads`` holds for each head
        the mean scores, ``mean_change``, ``mean_absolute_change``, ``largest_change`` (signed) and
        its image, and how many images each model flags, how many become flagged and how many no
        longer are: None where a model has no threshold for the head, or nothing could be scored.
        """
        scored = self.scored
        reasons = Counter(row.reason for row in self.rows if row.reason is not None)
        heads = {head: self._head(head, scored) for head in HEADS}
        comparable = scored and all(heads[head]["newly_flagged"] is not None for head in HEADS)
        changed = sum(old != new for old, new in map(self.flags, scored))
        return {
            "folder": self.folder,
            "old": _side_facts(self.old),
            "new": _side_facts(self.new),
            "same_model": self.is_of_one_model,
            "num_images": len(self.rows),
            "num_scored": len(scored),
            "reasons": dict(sorted(reasons.items())),
            "num_changed_flags": changed if comparable else None,
            "heads": heads,
        }

    def to_dict(self, count: int) -> dict[str, Any]:
        """The summary with the unreadable images and the ``count`` largest changes."""
        return {
            **self.summary(),
            "unreadable": [
                {"key": row.key, "reason": row.reason, "detail": row.detail}
                for row in self.rows
                if row.reason is not None
            ],
            "largest_changes": [
                {"key": row.key, "change": row.largest_change, "old": dict(row.old), "new": dict(row.new)}
                for row in self.largest(count)
                if row.old is not None and row.new is not None
            ],
        }

    def table(self) -> str:
        """Aligned text for a terminal: a line per head."""
        lines = [_TITLES, *_cells(self.summary())]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if number == 0 else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )

    def headline(self) -> str:
        """How many images would change their flags, and whether the two models are one."""
        told = self.summary()
        if told["num_changed_flags"] is None:
            changes = (
                "Changes of flags are not known, because not both models have a threshold for every head"
            )
            if not told["num_scored"]:
                changes = "Nothing can be said"
        else:
            changes = f"{told['num_changed_flags']} of them would change their flags"
        weights = self.new.sha256[:12]
        same = f"A model is compared with itself: both have the weights with sha256 {weights}.\n"
        return (same if self.is_of_one_model else "") + (
            f"{self.new.title} in place of {self.old.title}: {told['num_scored']} of {told['num_images']}"
            f" images could be scored. {changes}."
        )

    def markdown(self, figure_name: str) -> str:
        """The whole comparison for people, with a link to the image of the largest changes."""
        bars = ["---", *["---:"] * (len(_TITLES) - 1)]
        lines = [_TITLES, bars, *_cells(self.summary())]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        bad = [row for row in self.rows if row.reason is not None]
        named = [f"- {row.key}: {row.reason} ({row.detail})" for row in bad[:_SHOWN]]
        if len(bad) > _SHOWN:
            named.append(f"- and {len(bad) - _SHOWN} more, in the table.")
        unreadable = ["## Not scored", "\n".join(named)] if bad else []
        parts = [
            f"# {self.new.title} in place of {self.old.title}",
            self.headline(),
            table,
            "Scores are 0 (absent) to 1 (severe); a change is that of the new model from the old one.",
            f"![The largest changes]({figure_name})",
            *unreadable,
        ]
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """A row per image: key, both models' scores and flags, or reason and detail."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        pairs = [f"{head}_{side}" for head in HEADS for side in ("old", "new")]
        writer.writerow(["key", *pairs, "flags_old", "flags_new", "reason", "detail"])
        for row in self.rows:
            if row.old is None or row.new is None:
                writer.writerow([row.key, *[""] * (len(pairs) + 2), row.reason, row.detail])
                continue
            scores = [f"{side[head]:.6f}" for head in HEADS for side in (row.old, row.new)]
            writer.writerow([row.key, *scores, *map(" ".join, self.flags(row)), "", ""])
        return text.getvalue()

    def _head(self, head: Head, scored: Sequence[Row]) -> dict[str, Any]:
        names = ("mean_old", "mean_new", "mean_change", "mean_absolute_change", "largest_change")
        counts = ("flagged_old", "flagged_new", "newly_flagged", "no_longer_flagged")
        if not scored:
            return dict.fromkeys((*names, "largest_change_key", *counts))
        old, new = (
            np.array([side[head] for side in sides if side is not None], dtype=np.float64)
            for sides in zip(*((row.old, row.new) for row in scored), strict=True)
        )
        change = new - old
        most = int(np.argmax(np.abs(change)))
        means = (old.mean(), new.mean(), change.mean(), np.abs(change).mean(), change[most])
        measured: dict[str, Any] = dict(zip(names, map(float, means), strict=True))
        measured["largest_change_key"] = scored[most].key
        limits = [(side.thresholds or {}).get(head) for side in (self.old, self.new)]
        if limits[0] is None or limits[1] is None:
            return {**measured, **dict.fromkeys(counts)}
        was, now = old > limits[0], new > limits[1]
        found = (was.sum(), now.sum(), (now & ~was).sum(), (was & ~now).sum())
        return {**measured, **dict(zip(counts, map(int, found), strict=True))}


@dataclass(slots=True)
class Thumbnails:
    """Keeps small images of the ``count`` rows that change most, in memory that does not grow."""

    count: int
    _heap: list[tuple[float, int, str, Pixels]] = field(default_factory=list)
    _offered: int = 0

    def offer(self, row: Row, pixels: Pixels) -> None:
        """Keep this one if it belongs to the largest so far; ``pixels`` are uint8 (h, w, 3)."""
        self._offered += 1
        entry = (row.largest_change, -self._offered, row.key, pixels)
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, entry)
        elif self._heap:
            heapq.heappushpop(self._heap, entry)

    def of(self, row: Row) -> Pixels | None:
        return next((pixels for _, _, key, pixels in self._heap if key == row.key), None)


def draw_largest(comparison: Comparison, thumbnails: Thumbnails) -> Figure:
    """The largest changes as thumbnails, each with the old and the new score of every head.

    A star marks a score that its model flags.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = comparison.largest(thumbnails.count)
    num_rows = max(1, -(-len(shown) // _COLUMNS))
    figure = Figure(figsize=(3.0 * _COLUMNS, 0.8 + 3.5 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"Largest changes, {comparison.old.title} (old) -> {comparison.new.title} (new)\n"
        "0 absent, 1 severe; * flagged"
        if shown
        else "No image could be scored by both models"
    )
    grid = list(figure.subplots(num_rows, _COLUMNS, squeeze=False).flat)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, row in zip(grid, shown, strict=False):
        pixels = thumbnails.of(row)
        if pixels is not None:
            axes.imshow(pixels)
        axes.set_anchor("S")
        axes.set_title(_shortened(row.key), fontsize=8)
        axes.set_xlabel(_caption(comparison, row), fontsize=8.5, family="monospace")
    return figure


def _caption(comparison: Comparison, row: Row) -> str:
    assert row.old is not None
    assert row.new is not None
    was, now = comparison.flags(row)
    return "\n".join(
        f"{SHORT_NAMES[head]:5} {row.old[head]:.2f}{'*' if head in was else ' '}"
        f" -> {row.new[head]:.2f}{'*' if head in now else ' '}"
        for head in HEADS
    )


def _shortened(key: str) -> str:
    """The end of a name; without ``$``, which would begin a formula."""
    shown = key if len(key) <= _NAME_LENGTH else "..." + key[3 - _NAME_LENGTH :]
    return shown.replace("$", r"\$")


def _side_facts(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "version": side.version,
        "run_id": side.run_id,
        "sha256": side.sha256,
        "image_size_px": side.image_size_px,
        "thresholds": None if side.thresholds is None else dict(side.thresholds),
    }


_TITLES: Final = (
    "head", "mean old", "mean new", "mean change", "largest", "flagged old", "flagged new", "newly",
    "no longer",
)  # fmt: skip


def _cells(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            head,
            _decimal(told["mean_old"]),
            _decimal(told["mean_new"]),
            _decimal(told["mean_change"], sign="+"),
            _decimal(told["largest_change"], sign="+"),
            *(
                "-" if told[name] is None else str(told[name])
                for name in ("flagged_old", "flagged_new", "newly_flagged", "no_longer_flagged")
            ),
        )
        for head, told in summary["heads"].items()
    ]


def _decimal(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"
