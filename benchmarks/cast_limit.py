"""How much of the colour cast's error is the colour that a scene has of its own, which no single image tells.

    python -m benchmarks.cast_limit SCENES [--audit CSV] [--train DATA] [--model bundled]

SCENES holds clean images. Rows of the audit whose defect is clear or strong are left out, and so are scenes
of the train split of DATA, a training dataset. Each scene is scored as it is; degraded, as samples of profile
`calibrated` are; with the same draws, but without the cast; and in the severity sweeps of the cast. What
knows the scene without its cast is an oracle: it shows what a scorer of single images cannot reach.
"""

import argparse
import csv
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.invariance import scores_of
from quality_model import Scorer
from quality_model.core import decoding, system, views
from quality_model.core.decoding import Pixels
from quality_model.core.figures import markdown_table
from quality_model.core.views import MULTIPLE_PX
from quality_model.data.dataset import TrainingSet
from quality_model.degrade import PROFILES, DegradedSample, SampleRandomness
from quality_model.degrade.calibrated.calibrated_plan import Plan
from quality_model.degrade.calibrated.calibrated_profile import CalibratedProfile
from quality_model.degrade.calibrated.clean_variation import Frame
from quality_model.errors import QualityModelError, UsageError
from quality_model.evaluate import metrics
from quality_model.evaluate.sweeps import SWEEPS
from quality_model.evaluate.whole_images import central_square, degrade_image
from quality_model.params import WITHOUT_PROJECT
from quality_model.records import HEADS

DRAWS: Final = 3
SEED: Final = 2026
OWN_SCORES: Final = (0.0, 0.1, 0.25, np.inf)
"""Edges of the scores of clean scenes by which they are told apart."""

LARGE_DEFECTS: Final = frozenset({"clear", "strong"})
_CAST: Final = HEADS.index("color_cast")
_SWEEPS: Final = tuple(sweep for sweep in SWEEPS if sweep.head == "color_cast")

Floats = npt.NDArray[np.float64]


class WithoutCast(CalibratedProfile):
    """The same draws, save for the cast."""

    def _carry_out(
        self,
        plan: Plan,
        clean: Pixels,
        randomness: SampleRandomness,
        softness_px: float,
        frame: Frame | None,
    ) -> DegradedSample:
        return super()._carry_out(replace(plan, cast=None), clean, randomness, softness_px, frame)


@dataclass(frozen=True)
class Casts:
    """Scores of the cast of n scenes: ``clean`` (n,), of samples ``degraded`` and ``without`` their cast
    (n, DRAWS), with the ``labels`` of the degraded ones; and of sweeps (n, sweeps, levels)."""

    clean: Floats
    degraded: Floats
    without: Floats
    labels: Floats
    sweeps: Floats


def measure(scorer: Scorer, scenes: Sequence[tuple[str, Pixels]]) -> Casts:
    """Score every scene; names seed the degradations."""
    drawn, rest = [], []
    for name, pixels in scenes:
        samples = [
            degrade_image(
                pixels,
                profile,
                SampleRandomness(SEED, f"{name} {number}"),
                scorer.image_size_px,
                scorer.views,
            )
            for profile in (PROFILES["calibrated"], WithoutCast())
            for number in range(DRAWS)
        ]
        square = central_square(
            views.at_size_of_use(pixels, 2 * scorer.image_size_px), multiple_px=MULTIPLE_PX
        )
        levels = [
            sweep.degrade(square, level, zlib.crc32(name.encode())) if level else square
            for sweep in _SWEEPS
            for level in sweep.levels
        ]
        scores = scores_of(scorer, [*(sample.image for sample in samples), *levels])[:, _CAST]
        drawn.append([scores[:DRAWS], scores[DRAWS : 2 * DRAWS], [s.labels[_CAST] for s in samples[:DRAWS]]])
        rest.append(scores[2 * DRAWS :])
    degraded, without, labels = np.moveaxis(np.array(drawn, dtype=np.float64), 1, 0)
    sweeps = np.array(rest).reshape(len(scenes), len(_SWEEPS), -1)
    return Casts(sweeps[:, 0, 0], degraded, without, labels, sweeps)


def table(casts: Casts) -> list[list[str]]:
    """Rows: what is done with the score, R2 and Spearman of what it gives."""
    labels, scores = casts.labels.ravel(), casts.degraded.ravel()
    clean, without = np.repeat(casts.clean, DRAWS), casts.without.ravel()
    rows = {
        "as it is": scores,
        "less the mean error": scores - (scores - labels).mean(),
        "straight line through it": _fitted(labels, scores),
        "less the score of the clean scene (oracle)": scores - clean,
        "less the score of the same sample without its cast (oracle)": scores - without,
        "plane through the last two scores (oracle)": _fitted(labels, scores, without),
    }
    return [[name, *_cells(labels, values)] for name, values in rows.items()]


def sweeps_table(casts: Casts) -> list[list[str]]:
    """Rows: sweep, Spearman over all scenes, less each clean score, within one, and how often it falls."""
    rows = []
    for place, sweep in enumerate(_SWEEPS):
        scores = casts.sweeps[:, place]
        levels = np.tile(np.arange(scores.shape[1], dtype=np.float64), len(scores))
        within = _within(scores)
        less_own = _spearman(levels, (scores - scores[:, :1]).ravel())
        cells = (_spearman(levels, scores.ravel()), less_own, within.mean(), (within < 0).mean())
        rows.append([sweep.name, *(f"{cell:.2f}" for cell in cells)])
    return rows


def colours_table(casts: Casts) -> list[list[str]]:
    """Rows: score of the clean scene, how many, R2, Spearman; in the first sweep, within one."""
    rows = []
    for low, high in pairwise(OWN_SCORES):
        own = (low <= casts.clean) & (casts.clean < high)
        cells = ["-"] * 4
        if own.any():
            within = _within(casts.sweeps[own, 0])
            cells = _cells(casts.labels[own].ravel(), casts.degraded[own].ravel())
            cells += [f"{within.mean():.2f}", f"{(within < 0).mean():.2f}"]
        rows.append([f"{low:g} to {high:g}", str(own.sum()), *cells])
    return rows


def _within(scores: Floats) -> Floats:
    """Spearman of level and score of each scene, (n,), of (n, levels)."""
    levels = np.arange(scores.shape[1], dtype=np.float64)
    return np.array([_spearman(levels, one) for one in scores])


def _fitted(labels: Floats, *scores: Floats) -> Floats:
    columns = np.stack([np.ones_like(labels), *scores], axis=1)
    return np.asarray(columns @ np.linalg.lstsq(columns, labels)[0])


def _cells(labels: Floats, values: Floats) -> list[str]:
    found = metrics.measure(labels, values)
    return [f"{found[name]:.2f}" for name in ("r2", "spearman")]


def _spearman(first: Floats, second: Floats) -> float:
    found = metrics.measure(first, second)["spearman"]
    return 0.0 if found is None else found


def _scenes(arguments: argparse.Namespace) -> Iterator[tuple[str, Pixels]]:
    left_out = set()
    if arguments.audit:
        with arguments.audit.open() as file:
            rows = [row for row in csv.DictReader(file) if row["defect"] != "none"]
        left_out = {Path(row["file"]).name for row in rows if row["severity"] in LARGE_DEFECTS}
    if arguments.train:
        training_set = TrainingSet.open(arguments.train)
        left_out |= {*training_set.manifest["image_id"].iloc[training_set.indices("train")]}
    limits = WITHOUT_PROJECT.limits
    for path in sorted(arguments.scenes.iterdir()):
        if path.name not in left_out:
            yield path.name, decoding.decode(decoding.read_bytes(path, limits), limits)


def main(given: Sequence[str] | None = None) -> int:
    """Print the tables; give the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("scenes", type=Path, help="folder of clean images")
    parser.add_argument("--audit", type=Path, help="table of defects: file, defect, severity")
    parser.add_argument("--train", type=Path, help="training dataset whose train split is left out")
    parser.add_argument("--model", default="bundled", help="as `score --model` takes it")
    arguments = parser.parse_args(given)
    try:
        scenes = [*_scenes(arguments)]
        if not scenes:
            raise UsageError(f"{arguments.scenes} holds no other images.", "Name a folder of clean images.")
        casts = measure(Scorer(arguments.model), scenes)
    except QualityModelError as error:
        system.say(f"Error: {error}")
        return error.exit_code
    means = ", ".join(
        f"{name} {values.mean():.3f}"
        for name, values in (
            ("label", casts.labels),
            ("score", casts.degraded),
            ("without the cast", casts.without),
            ("clean", casts.clean),
        )
    )
    sys.stdout.write(f"{len(scenes)} scenes, {casts.labels.size} samples; means: {means}.\n\n")
    sys.stdout.write(markdown_table(["score", "R2", "Spearman"], table(casts)) + "\n\n")
    titles = ["sweep", "Spearman over all", "less each clean score", "within a scene", "falling"]
    sys.stdout.write(markdown_table(titles, sweeps_table(casts)) + "\n\n")
    titles = ["score of the clean scene", "scenes", "R2", "Spearman", f"{_SWEEPS[0].name} within", "falling"]
    sys.stdout.write(markdown_table(titles, colours_table(casts)) + "\n")
    return 0


if __name__ == "__main__":
    system.silence_telemetry()
    sys.exit(main())
