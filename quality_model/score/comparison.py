"""What would change if one model took another's place: the figures of a comparison, and how they are shown.

The model in place is called old, the one that would come new, and a change is new - old.
"""

import csv
import io
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quality_model.core.figures import markdown_table, text_table
from quality_model.records import HEADS, Head
from quality_model.score.rows import ScoringModel

SIDES: Final = ("old", "new")
_SHOWN: Final = 10
"""Inputs without scores that the Markdown names; the table has them all."""

_TITLES: Final = (
    "head", "mean old", "mean new", "mean change", "largest", "flagged old", "flagged new", "newly",
    "no longer",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeadChange:
    """How one head's scores and flags change; None where nothing was scored.

    ``largest_change`` is signed. The counts of flags are None where a model has no threshold for the head.
    """

    mean_old: float | None = None
    mean_new: float | None = None
    mean_change: float | None = None
    mean_absolute_change: float | None = None
    largest_change: float | None = None
    largest_change_key: str | None = None
    flagged_old: int | None = None
    flagged_new: int | None = None
    newly_flagged: int | None = None
    no_longer_flagged: int | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the images of one folder.

    Attributes:
        folder: Its name.
        old, new: The models.
        keys: Of the inputs that both models scored.
        scores: float32 (2, N, 4): those of the old model, then of the new one, in the order of ``keys``.
        errors: Error code and detail of each other input, by key.
    """

    folder: str
    old: ScoringModel
    new: ScoringModel
    keys: list[str]
    scores: npt.NDArray[np.float32]
    errors: dict[str, tuple[str, str]]

    @property
    def num_inputs(self) -> int:
        return len(self.keys) + len(self.errors)

    @property
    def is_of_one_model(self) -> bool:
        """Whether both have the same weights and image size, so that no score can differ."""
        old, new = self.old, self.new
        return (old.ref.sha256, old.image_size_px) == (new.ref.sha256, new.image_size_px)

    @property
    def flags(self) -> npt.NDArray[np.bool_]:
        """bool (2, N, 4): what each model flags; nothing where it has no threshold."""
        limits = [
            [(model.thresholds or {}).get(head, np.inf) for head in HEADS] for model in (self.old, self.new)
        ]
        flagged: npt.NDArray[np.bool_] = self.scores.astype(np.float64) > np.array(limits)[:, None, :]
        return flagged

    @property
    def num_changed_flags(self) -> int | None:
        """Images whose flags change; None if that is not known for every head."""
        if not self.keys or any(self.change(head).newly_flagged is None for head in HEADS):
            return None
        old, new = self.flags
        return int((old != new).any(axis=1).sum())

    def change(self, head: Head) -> HeadChange:
        """How the scores and flags of a head change."""
        if not self.keys:
            return HeadChange()
        number = HEADS.index(head)
        old, new = self.scores[:, :, number].astype(np.float64)
        change = new - old
        most = int(np.argmax(np.abs(change)))
        counts: dict[str, int] = {}
        if all(head in (model.thresholds or {}) for model in (self.old, self.new)):
            was, now = self.flags[:, :, number]
            counts = {
                "flagged_old": int(was.sum()),
                "flagged_new": int(now.sum()),
                "newly_flagged": int((now & ~was).sum()),
                "no_longer_flagged": int((was & ~now).sum()),
            }
        return HeadChange(
            mean_old=float(old.mean()),
            mean_new=float(new.mean()),
            mean_change=float(change.mean()),
            mean_absolute_change=float(np.abs(change).mean()),
            largest_change=float(change[most]),
            largest_change_key=self.keys[most],
            **counts,
        )

    def largest(self, count: int) -> list[int]:
        """Numbers in ``keys`` of the images whose scores change most, the most changed first."""
        changes = np.abs(self.scores[1] - self.scores[0]).max(axis=1, initial=0.0)
        return [int(number) for number in np.argsort(-changes, kind="stable")[:count]]

    def summary(self) -> dict[str, Any]:
        """JSON values, without rows."""
        errors = Counter(code for code, _ in self.errors.values())
        return {
            "folder": self.folder,
            "old": _model_facts(self.old),
            "new": _model_facts(self.new),
            "same_model": self.is_of_one_model,
            "num_images": self.num_inputs,
            "num_scored": len(self.keys),
            "errors": dict(sorted(errors.items())),
            "num_changed_flags": self.num_changed_flags,
            "heads": {head: asdict(self.change(head)) for head in HEADS},
        }

    def to_json(self, count: int) -> dict[str, Any]:
        """The summary with the inputs without scores and the ``count`` largest changes."""
        return {
            **self.summary(),
            "not_scored": [
                {"key": key, "error_code": code, "error_detail": detail}
                for key, (code, detail) in self.errors.items()
            ],
            "largest_changes": [
                {
                    "key": self.keys[number],
                    "change": float(np.abs(self.scores[1, number] - self.scores[0, number]).max()),
                    **{
                        side: dict(zip(HEADS, map(float, scores[number]), strict=True))
                        for side, scores in zip(SIDES, self.scores, strict=True)
                    },
                }
                for number in self.largest(count)
            ],
        }

    def headline(self) -> str:
        """How many images would change their flags, and whether the two models are one."""
        changed = self.num_changed_flags
        if changed is not None:
            changes = f"{changed} of them would change their flags"
        elif not self.keys:
            changes = "Nothing can be said"
        else:
            changes = (
                "Changes of flags are not known, because not both models have a threshold for every head"
            )
        weights = self.new.ref.sha256[:12]
        same = f"A model is compared with itself: both have the weights with sha256 {weights}.\n"
        return (same if self.is_of_one_model else "") + (
            f"{self.new.title} in place of {self.old.title}: {len(self.keys)} of {self.num_inputs}"
            f" images could be scored. {changes}."
        )

    def table(self) -> str:
        """Aligned text for a terminal: a line per head."""
        return text_table(_TITLES, self._cells(), right=_TITLES[1:])

    def markdown(self, figure_name: str) -> str:
        """The whole comparison for people, with a link to the figure of the largest changes."""
        named = [f"- {key}: {code} ({detail})" for key, (code, detail) in self.errors.items()]
        if len(named) > _SHOWN:
            named[_SHOWN:] = [f"- and {len(named) - _SHOWN} more, in the table."]
        parts = [
            f"# {self.new.title} in place of {self.old.title}",
            self.headline(),
            markdown_table(_TITLES, self._cells(), right=_TITLES[1:]),
            "Scores are 0 (absent) to 1 (severe); a change is that of the new model from the old one.",
            f"![The largest changes]({figure_name})",
            *(["## Not scored", "\n".join(named)] if named else []),
        ]
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """A row per input: key, both models' scores and flags, or error code and detail."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        pairs = [f"{head}_{side}" for head in HEADS for side in SIDES]
        writer.writerow(["key", *pairs, "flags_old", "flags_new", "error_code", "error_detail"])
        for number, key in enumerate(self.keys):
            scores = [f"{score:.6f}" for score in self.scores[:, number].T.flat]
            flags = [
                " ".join(head for head, is_flagged in zip(HEADS, side[number], strict=True) if is_flagged)
                for side in self.flags
            ]
            writer.writerow([key, *scores, *flags, "", ""])
        for key, error in self.errors.items():
            writer.writerow([key, *[""] * (len(pairs) + 2), *error])
        return text.getvalue()

    def _cells(self) -> list[list[str]]:
        def decimal(value: float | None, sign: str = "") -> str:
            return "-" if value is None else f"{value:{sign}.3f}"

        def count(value: int | None) -> str:
            return "-" if value is None else str(value)

        changes = {head: self.change(head) for head in HEADS}
        return [
            [
                head,
                *(decimal(value) for value in (change.mean_old, change.mean_new)),
                *(decimal(value, "+") for value in (change.mean_change, change.largest_change)),
                *(count(value) for value in (change.flagged_old, change.flagged_new)),
                *(count(value) for value in (change.newly_flagged, change.no_longer_flagged)),
            ]
            for head, change in changes.items()
        ]


def _model_facts(model: ScoringModel) -> dict[str, Any]:
    thresholds = None if model.thresholds is None else dict(model.thresholds)
    return {**model.to_json(), "thresholds": thresholds}
