"""`python -m benchmarks.drift OUT`: how often `drift` cries wolf, and what share of bad images it finds.

False alarms: random halves of the rows of OUT, a finished result, are compared. Power: images of OUT are cut
to squares, as they are and with one degradation each that profile `calibrated` draws for severity .5, stored
as JPEG of quality 95, and scored by the bundled model. Clean rows are compared with rows of which a share is
degraded; all are drawn with replacement, as from a large collection.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from quality_model.core.decoding import decode, read_bytes
from quality_model.core.figures import markdown_table
from quality_model.core.pixels import Pixels
from quality_model.core.predict import Scorer
from quality_model.curate.finished import FinishedResult, open_finished
from quality_model.degrade import DegradedSample, SampleRandomness
from quality_model.degrade.calibrated import calibrated_plan
from quality_model.degrade.calibrated.calibrated_plan import Plan, draw_plan
from quality_model.degrade.calibrated.calibrated_profile import CalibratedProfile, carry_out
from quality_model.evaluate.whole_images import degrade_image
from quality_model.params import WITHOUT_PROJECT
from quality_model.records import FLAG_COLUMNS, HEADS, REFERENCE_SIDE_PX, Head
from quality_model.score.distributions import BINS, NUM_BINS, ROW_COLUMNS, Distributions, Places, values_of
from quality_model.score.job import score
from quality_model.watch.drift import ALPHA, shifts

SHARES = (0.02, 0.05, 0.10, 0.20)
FIRST_LOOK = ALPHA / 2
SEVERITY = 0.5


@dataclass(frozen=True)
class OneDegradation(CalibratedProfile):
    """Degrades by one head alone, without anything else; None: the clean image."""

    head: Head | None = None

    def degrade(
        self,
        clean: Pixels,
        randomness: SampleRandomness,
        *,
        softness_px: float = 0.0,
        scale: float | None = None,
    ) -> DegradedSample:
        """See `Profile.degrade`."""
        side_px = clean.shape[0]
        plan = draw_plan(randomness, self.kinds, side_px=side_px, scale=scale or side_px / REFERENCE_SIDE_PX)
        only = Plan(
            blur=plan.blur if self.head == "blurriness" else None,
            noise=plan.noise if self.head == "noise" else None,
            cast=plan.cast if self.head == "color_cast" else None,
            watermark=plan.watermark if self.head == "watermark" else None,
        )
        return carry_out(only, clean, softness_px=softness_px)


@dataclass(frozen=True)
class Rows:
    """The scored rows of a result.

    ``places`` has the bin of each row's value, int64 (n,) from 0 to 999, by column, and 1 or 0 by flag.
    """

    places: dict[str, Places]

    @classmethod
    def of(cls, result: FinishedResult) -> "Rows":
        table = result.rows(["key", *ROW_COLUMNS])
        table = table.filter(table["error_code"].is_null())
        flags = {name: table[name].to_numpy().astype(np.int64) for name in FLAG_COLUMNS.values()}
        return cls({name: bins.places(values_of(table, name)) for name, bins in BINS.items()} | flags)

    def __len__(self) -> int:
        return len(self.places["overall"])

    def drawn(self, random: np.random.Generator, count: int) -> dict[str, Places]:
        """Rows with replacement."""
        return self.at(random.integers(0, len(self), count))

    def at(self, rows: npt.NDArray[np.int64]) -> dict[str, Places]:
        return {name: places[rows] for name, places in self.places.items()}


def counted(*drawn: dict[str, Places]) -> Distributions:
    found = Distributions(inputs=sum(len(rows["overall"]) for rows in drawn))
    for name in BINS:
        found.counts[name] = np.bincount(np.concatenate([rows[name] for rows in drawn]), minlength=NUM_BINS)
    for head, flag in FLAG_COLUMNS.items():
        found.flagged[head] = sum(int(rows[flag].sum()) for rows in drawn)
    return found


def moved(before: Distributions, now: Distributions) -> set[str]:
    """The columns that move at the first look."""
    return {
        column.name for column in shifts(before, now, alpha=FIRST_LOOK, heads=HEADS)[0] if column.has_moved
    }


def false_alarms(rows: Rows, repetitions: int, random: np.random.Generator) -> int:
    """How many comparisons of random halves say that anything moved."""
    alarms = 0
    for _ in range(repetitions):
        first, second = np.array_split(random.permutation(len(rows)), 2)
        alarms += bool(moved(counted(rows.at(first)), counted(rows.at(second))))
    return alarms


def power(
    clean: Rows,
    degraded: Rows,
    head: Head,
    share: float,
    count: int,
    reference: int,
    repetitions: int,
    random: np.random.Generator,
) -> tuple[float, float]:
    """The share of comparisons in which anything moved, and in which the head did."""
    num = round(share * count)
    found = [
        moved(
            counted(clean.drawn(random, reference)),
            counted(clean.drawn(random, count - num), degraded.drawn(random, num)),
        )
        for _ in range(repetitions)
    ]
    return float(np.mean([bool(names) for names in found])), float(
        np.mean([head in names for names in found])
    )


def write_squares(result: FinishedResult, count: int, scorer: Scorer, to: Path) -> None:
    """Clean and degraded squares of the first images of a result, as JPEG files in a folder for each."""
    limits = WITHOUT_PROJECT.limits
    keys = result.rows(["key", "error_code"])
    keys = keys.filter(keys["error_code"].is_null())["key"].to_pylist()[:count]
    fixed: dict[str, Any] = {"DRAWN_SEVERITIES": (SEVERITY, SEVERITY), "COUNTS": (len(HEADS),)}
    for number, key in enumerate(keys):
        pixels = decode(read_bytes(result.base / key, limits), limits)
        for head in (None, *HEADS):
            with mock.patch.multiple(calibrated_plan, **fixed):
                randomness = SampleRandomness(1, f"{number}")
                profile = OneDegradation(head=head)
                sample = degrade_image(pixels, profile, randomness, scorer.image_size_px, scorer.views)
            path = to / str(head) / f"{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.image).save(path, quality=95)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(path_type=Path, exists=True))
@click.option("--images", default=671, show_default=True, help="Of OUT, to degrade.")
@click.option("--count", default=2000, show_default=True, help="Rows of the result.")
@click.option(
    "--reference", default=[2000, 10_000], multiple=True, show_default=True, help="Of its reference."
)
@click.option("--repetitions", default=200, show_default=True, help="Of halves five times as many.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder that keeps images and results.")
def main(
    out: Path, images: int, count: int, reference: tuple[int, ...], repetitions: int, work: Path | None
) -> None:
    """Print the rate of false alarms and the table of power."""
    random = np.random.default_rng(0)
    result = open_finished(out)
    rows = Rows.of(result)
    alarms = false_alarms(rows, 5 * repetitions, random)
    click.echo(
        f"Halves of {len(rows)} rows: {alarms} of {5 * repetitions} comparisons say that anything moved."
    )
    with tempfile.TemporaryDirectory() as temporary:
        place = work or Path(temporary)
        if not (place / "squares").exists():
            write_squares(result, images, Scorer("bundled"), place / "squares")
        section = WITHOUT_PROJECT.score.model_copy(update={"model": "bundled", "thumbnails": False})
        scored = {}
        for head in (None, *HEADS):
            output = place / f"scores-{head}"
            score(section, WITHOUT_PROJECT.limits, inputs=place / "squares" / str(head), output=output)
            scored[head] = Rows.of(open_finished(output))
    clean = scored[None]
    alarms = false_alarms(clean, 5 * repetitions, random)
    click.echo(f"Halves of {len(clean)} squares: {alarms} of {5 * repetitions}.")
    for size in reference:
        table = []
        for head in HEADS:
            found = [
                power(clean, scored[head], head, share, count, size, repetitions, random) for share in SHARES
            ]
            table.append([head, *(f"{anything:.1%} ({itself:.1%})" for anything, itself in found)])
        click.echo(f"\n{count} rows against {size}: anything (the head itself) moved, of {repetitions}:\n")
        click.echo(markdown_table(["degraded share", *(f"{share:.0%}" for share in SHARES)], table))


if __name__ == "__main__":
    main()
