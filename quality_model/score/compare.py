"""What would change if a new model took an old one's place: two scoring jobs, joined by their inputs."""

import csv
import io
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from quality_model.core import processes, storage
from quality_model.core.decoding import Pixels
from quality_model.core.figures import image_grid, markdown_table, new_figure, save_figure, text_table
from quality_model.core.folders import input_path
from quality_model.core.predict import Scorer
from quality_model.core.processes import Failure, WorkerProcesses, num_workers
from quality_model.errors import InputErrorsAboveLimit, StorageError, UsageError
from quality_model.params import LimitsParams, RegistryParams, ScoreParams
from quality_model.records import HEADS, SHORT_NAMES, Head
from quality_model.score.inputs import NO_CHOICE, InputChoice, sources_of
from quality_model.score.job import score
from quality_model.score.plan import find_inputs, open_plan, require_own
from quality_model.score.reading import fetched, read_thumbnail
from quality_model.score.result import ScoringModel, read_rows
from quality_model.score.sketches import SIDE_PX
from quality_model.score.summary import nothing_scored

FILES: Final = ("comparison.json", "comparison.md", "comparison.csv", "largest_changes.png")
JSON_NAME, MARKDOWN_NAME, TABLE_NAME, FIGURE_NAME = FILES
SIDES: Final = ("old", "new")
_THRESHOLDS: Final = np.arange(1, 7) / 10
"""At which the shares of flagged images of two models on one scale are compared."""
_COLUMNS: Final = 4
_NAME_LENGTH: Final = 30
_SHOWN: Final = 10
"""Inputs without scores that the Markdown names; the table has them all."""

_CELLS: Final = {
    "mean old": ("mean_old", ".3f"),
    "mean new": ("mean_new", ".3f"),
    "mean change": ("mean_change", "+.3f"),
    "largest": ("largest_change", "+.3f"),
    "flagged old": ("flagged_old", "d"),
    "flagged new": ("flagged_new", "d"),
    "newly": ("newly_flagged", "d"),
    "no longer": ("no_longer_flagged", "d"),
    "rate moves": ("largest_rate_change", "+.1%"),
}
"""The columns of the table for people: field of `HeadChange` and format."""


@dataclass(frozen=True, slots=True)
class HeadChange:
    """How one head's scores and flags change (``largest_change`` is signed).

    ``largest_rate_change`` is how far the share of images above a score moves, signed, at that of .1, .2, ...
    .6 where it moves most. None where nothing was scored, a model has no threshold for the head, or, of
    a rate, their scores are of different scale versions.
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
    largest_rate_change: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the images of one folder.

    Attributes:
        keys: Of the inputs that both models scored.
        scores: float32 (2, N, 4): of the old model, then of the new one, in the order of ``keys``.
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
        return all(getattr(self.old, name) == getattr(self.new, name) for name in ("sha256", "image_size_px"))

    @property
    def is_of_one_scale(self) -> bool:
        """Whether a score means the same of both, so that they can be compared."""
        return self.old.scale_version == self.new.scale_version

    @property
    def flags(self) -> npt.NDArray[np.bool_]:
        """bool (2, N, 4): what each model flags; nothing where it has no threshold."""
        models = (self.old.thresholds or {}, self.new.thresholds or {})
        limits = np.array([[limit.get(head, np.inf) for head in HEADS] for limit in models])
        flagged: npt.NDArray[np.bool_] = self.scores.astype(np.float64) > limits[:, None, :]
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
            by_name = {"flagged_old": was, "flagged_new": now}
            by_name |= {"newly_flagged": now & ~was, "no_longer_flagged": was & ~now}
            counts = {name: int(flagged.sum()) for name, flagged in by_name.items()}
        moves = np.subtract(*((side[:, None] > _THRESHOLDS).mean(axis=0) for side in (new, old)))
        return HeadChange(
            mean_old=float(old.mean()),
            mean_new=float(new.mean()),
            mean_change=float(change.mean()),
            mean_absolute_change=float(np.abs(change).mean()),
            largest_change=float(change[most]),
            largest_change_key=self.keys[most],
            largest_rate_change=float(moves[np.argmax(np.abs(moves))]) if self.is_of_one_scale else None,
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
            "old": asdict(self.old),
            "new": asdict(self.new),
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
                dict(zip(("key", "error_code", "error_detail"), (key, *error), strict=True))
                for key, error in self.errors.items()
            ],
            "largest_changes": [
                {
                    "key": self.keys[number],
                    "change": float(np.abs(self.scores[1, number] - self.scores[0, number]).max()),
                    **{
                        side: dict(zip(HEADS, scores[number].tolist(), strict=True))
                        for side, scores in zip(SIDES, self.scores, strict=True)
                    },
                }
                for number in self.largest(count)
            ],
        }

    def headline(self) -> str:
        """How many images would change their flags, and whether the two models are one."""
        changes = "Changes of flags are not known, because not both models have a threshold for every head"
        if not self.keys:
            changes = "Nothing can be said"
        elif self.num_changed_flags is not None:
            changes = f"{self.num_changed_flags} of them would change their flags"
        weights = self.new.sha256[:12]
        same = f"A model is compared with itself: both have the weights with sha256 {weights}.\n"
        return (
            (same if self.is_of_one_model else "")
            + (
                f"{self.new.title} in place of {self.old.title}: {len(self.keys)} of {self.num_inputs}"
                f" images could be scored. {changes}."
            )
            + self._scales()
        )

    def _scales(self) -> str:
        """What a difference of the scales means; nothing without one."""
        if self.is_of_one_scale:
            return ""
        versions = f"{self.old.scale_version} and {self.new.scale_version}"
        return (
            f"\nTheir scores are of scale versions {versions}, so they mean different things: compare flags"
            " by each model's own thresholds, and set your own anew."
        )

    def table(self) -> str:
        """Aligned text for a terminal: a line per head."""
        return text_table(("head", *_CELLS), self._cells(), right=_CELLS)

    def markdown(self) -> str:
        """The whole comparison for people, with a link to the figure of the largest changes."""
        named = [f"- {key}: {code} ({detail})" for key, (code, detail) in self.errors.items()]
        if len(named) > _SHOWN:
            named[_SHOWN:] = [f"- and {len(named) - _SHOWN} more, in the table."]
        parts = [
            f"# {self.new.title} in place of {self.old.title}",
            self.headline(),
            markdown_table(("head", *_CELLS), self._cells(), right=_CELLS),
            "Scores are 0 (absent) to 1 (severe); a change is that of the new model from the old one. A rate"
            " is the share of images above a score: of .1, .2, ... .6 the one where it moves most.",
            f"![The largest changes]({FIGURE_NAME})",
            *(["## Not scored", "\n".join(named)] if named else []),
        ]
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """A row per input: key, both models' scores and flags, or error code and detail."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        pairs = [f"{head}_{side}" for head in HEADS for side in SIDES]
        writer.writerow(["key", *pairs, "flags_old", "flags_new", "error_code", "error_detail"])
        heads, flagged = np.array(HEADS), self.flags
        for number, key in enumerate(self.keys):
            scores = [f"{score:.6f}" for score in self.scores[:, number].T.flat]
            flags = [" ".join(heads[side[number]]) for side in flagged]
            writer.writerow([key, *scores, *flags, "", ""])
        for key, error in self.errors.items():
            writer.writerow([key, *[""] * (len(pairs) + 2), *error])
        return text.getvalue()

    def _cells(self) -> list[list[str]]:
        rows: dict[str, dict[str, Any]] = {head: asdict(self.change(head)) for head in HEADS}
        formats = _CELLS.values()
        return [
            [head, *("-" if row[name] is None else f"{row[name]:{how}}" for name, how in formats)]
            for head, row in rows.items()
        ]


def compare_models(
    section: ScoreParams,
    limits: LimitsParams,
    registry: RegistryParams,
    *,
    root: Path,
    folder: Path,
    model: str,
    against: str,
    output: Path,
    num_thumbnails: int = 12,
    choice: InputChoice = NO_CHOICE,
) -> Comparison:
    """Score a folder with two models and keep what would change if one took the other's place.

    Each model scores as `score` does, with the same engine, into a folder of its own below ``output``; an
    interrupted comparison resumes there.

    Args:
        section, limits, registry, root, choice: As of `score`.
        folder: What `score` would take.
        model, against: The new and the old one (`predict.Scorer`).
        output: Folder for `FILES` and the two results.
        num_thumbnails: Images that are shown.

    Raises:
        InputErrorsAboveLimit: No image could be scored: the comparison is written.
        StorageError: The result could not be written, or the inputs changed between the two jobs.
        UsageError, CorruptError, ModelNotFoundError, CheckpointError, RegistryError: As of `score`.
    """
    processes.end_if_imported_again()
    folder = input_path(folder)
    if folder.resolve() == output.resolve():
        raise UsageError(f"{folder} is both input and output.", "Choose another output folder.")
    require_own(output, (*FILES, *SIDES, storage.MARKER_NAME), "comparison")
    load = partial(Scorer, device=section.device, limits=limits, root=root, registry=registry)
    new = load(model, engine=None if section.engine == "auto" else section.engine)
    old = load(against, engine=new.engine_name)  # so that no flag changes by what two engines differ by
    storage.unseal(output)
    (output / FIGURE_NAME).unlink(missing_ok=True)  # it is no input, should the output be in the folder
    for name, scorer in zip(SIDES, (old, new), strict=True):
        with suppress(InputErrorsAboveLimit):  # nothing was scored, which the comparison says too
            score(
                section.model_copy(update={"max_error_share": 1.0, "measures": ("none",)}),
                limits,
                inputs=folder,
                output=output / name,
                choice=choice,
                overwrite=True,
                scorer=scorer,
                model=ScoringModel.of(scorer),
            )
    comparison = _join(folder.name or str(folder), output, ScoringModel.of(old), ScoringModel.of(new))
    numbers = comparison.largest(num_thumbnails)
    keys = [comparison.keys[number] for number in numbers]
    images = read_again(output / "new", folder, keys, section, limits)
    thumbnails = dict(zip(numbers, images, strict=True))
    storage.write_json(output / JSON_NAME, comparison.to_json(len(thumbnails)))
    storage.write_text(output / MARKDOWN_NAME, comparison.markdown())
    storage.write_text(output / TABLE_NAME, comparison.csv())
    draw_largest(comparison, thumbnails, output / FIGURE_NAME)
    results = [f"{name}/job.json" for name in SIDES]
    storage.seal(output, [*FILES, *results], rows=comparison.num_inputs, kind="comparison")
    if not comparison.keys:
        raise nothing_scored(
            comparison.summary()["errors"], f"The column error_detail in {output / TABLE_NAME}"
        )
    return comparison


def draw_largest(comparison: Comparison, thumbnails: Mapping[int, Pixels | None], path: Path) -> None:
    """Draw the largest changes as a PNG file: ``thumbnails`` by the image's number in ``keys``, in order."""
    num_rows = max(1, -(-len(thumbnails) // _COLUMNS))
    figure = new_figure(3.0 * _COLUMNS, 0.8 + 3.5 * num_rows)
    figure.suptitle(
        f"Largest changes, {comparison.old.title} (old) -> {comparison.new.title} (new)\n"
        "0 absent, 1 severe; * flagged"
        if thumbnails
        else "No image could be scored by both models"
    )
    panels = image_grid(figure, num_rows, _COLUMNS)
    (was, now), flags = comparison.scores, comparison.flags
    for axes, (number, pixels) in zip(panels, thumbnails.items(), strict=False):
        if pixels is not None:
            axes.imshow(pixels)
        axes.set_anchor("S")
        key = comparison.keys[number]
        shown = key if len(key) <= _NAME_LENGTH else "..." + key[3 - _NAME_LENGTH :]
        axes.set_title(shown.replace("$", r"\$"), fontsize=8)  # which would begin a formula
        star = np.where(flags[:, number], "*", " ")
        lines = [
            f"{SHORT_NAMES[head]:5} {was[number, i]:.2f}{star[0, i]} -> {now[number, i]:.2f}{star[1, i]}"
            for i, head in enumerate(HEADS)
        ]
        axes.set_xlabel("\n".join(lines), fontsize=8.5, family="monospace")
    save_figure(figure, path)


def _join(folder: str, output: Path, old: ScoringModel, new: ScoringModel) -> Comparison:
    """Join the two scoring results in ``output`` by their inputs."""
    tables = [read_rows(output / name, ["key", *HEADS, "error_code", "error_detail"]) for name in SIDES]
    keys = tables[0]["key"]
    if keys != tables[1]["key"]:
        raise StorageError(f"{folder} changed while it was scored.", "Run the same command again.")
    errors: dict[str, tuple[str, str]] = {}
    for table in tables:
        for row in table.filter(pc.is_valid(table["error_code"])).to_pylist():
            errors.setdefault(row["key"], (row["error_code"], row["error_detail"] or ""))
    is_scored = np.array([key not in errors for key in keys.to_pylist()], dtype=bool)
    scores = np.stack([np.stack([table[head].to_numpy() for head in HEADS], axis=1) for table in tables])
    scored = keys.filter(is_scored).to_pylist()
    return Comparison(folder, old, new, scored, scores[:, is_scored].astype(np.float32), errors)


def read_again(
    output: Path,
    inputs: Path,
    keys: list[str],
    section: ScoreParams,
    limits: LimitsParams,
) -> list[Pixels | None]:
    """Small images of some inputs of a result, read again in worker processes; None where one cannot be.

    Args:
        output: Folder of the result of ``inputs``.
        keys: Of the inputs, in the order of the images.
    """
    found, plan = find_inputs(output, keys), open_plan(output)
    assert plan is not None
    workers = num_workers(section.workers, len(found))
    pool = WorkerProcesses(workers, window=2 * workers, timeout_s=limits.max_seconds)
    read = partial(read_thumbnail, side_px=SIDE_PX, limits=limits)
    sources = fetched(sources_of(found, inputs, plan.kind), None, limits)
    with closing(sources), closing(pool.run(read, sources)) as outcomes:
        return [None if isinstance(outcome, Failure) else outcome for outcome in outcomes]
