"""Whether scoring lost speed since a release: `make bench-check`, or `python -m benchmarks.regression`.

Both sides run `quality-model score` and `predict` from source: the working tree, and the tree of a git tag or
commit. They take turns, in an order that alternates, so that what else the machine does meets both. It fails
where a loss of more than 10 % is certain: where the one-sided 95 % bound of the ratio lies beyond it.
"""

import itertools
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import click
import numpy as np

from benchmarks.images import find_photographs, write_images
from quality_model.errors import UsageError

CONFIDENCE: Final = 0.95
MOST_LOSS: Final = 0.1
FEWEST_ROUNDS: Final = 5
"""With fewer, the most extreme order of the ratios has a probability above .05: nothing would be certain."""


class Quantity(NamedTuple):
    """What is compared."""

    name: str
    unit: str
    more_is_better: bool


SPEED: Final = Quantity("score, start included", "images/s", True)
CORES: Final = Quantity("core time of score", "s", False)
MEMORY: Final = Quantity("largest process of score", "MB", False)
START: Final = Quantity("predict of one image", "s", False)
QUANTITIES: Final = (SPEED, CORES, MEMORY, START)

Sample = dict[Quantity, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A quantity on both sides.

    Attributes:
        quantity: Which.
        before, after: Medians.
        ratio: Of after to before, the median of the rounds.
        low, high: One-sided bounds of the ratio, each at `CONFIDENCE`.
    """

    quantity: Quantity
    before: float
    after: float
    ratio: float
    low: float
    high: float

    @property
    def is_lost(self) -> bool:
        """Whether a loss of more than `MOST_LOSS` is certain."""
        if self.quantity.more_is_better:
            return self.high < 1 - MOST_LOSS
        return self.low > 1 + MOST_LOSS

    def line(self) -> str:
        """A row of the table."""
        unit = self.quantity.unit
        sides = f"{self.before:.3g} {unit} | {self.after:.3g} {unit}"
        ratio = f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"
        return f"| {self.quantity.name} | {sides} | {ratio} | {'LOST' if self.is_lost else 'kept'} |"


def judge(quantity: Quantity, before: Sequence[float], after: Sequence[float]) -> Verdict:
    """Compare rounds in each of which both sides ran one after the other.

    The bounds are those of the sign test for the median of the ratios (Hollander, Wolfe and Chicken,
    Nonparametric Statistical Methods, 2014, section 3.6): exact whatever the noise is like, and of eight
    rounds one may be disturbed.

    Args:
        quantity: Which.
        before, after: Its values, above 0, one of each side for a round.
    """
    ratios = np.sort(np.asarray(after, np.float64) / np.asarray(before, np.float64))
    depth = _depth(len(ratios))
    low, high = (float(ratios[depth - 1]), float(ratios[-depth])) if depth else (0.0, math.inf)
    was, now, ratio = (float(np.median(values)) for values in (before, after, ratios))
    return Verdict(quantity, was, now, ratio, low, high)


def _depth(count: int) -> int:
    """The place of a bound among sorted ratios: the deepest that the confidence allows; 0 if none does."""
    allowed = (1 - CONFIDENCE) * 2**count
    ways = itertools.accumulate(math.comb(count, place) for place in range(count))
    return sum(1 for way in ways if way <= allowed)


def run_side(tree: Path, images: Path, scratch: Path) -> Sample:
    """Score a folder, and predict one image, with the code of a tree.

    Raises:
        RuntimeError: A command failed.
    """
    output = scratch / "scores"
    shutil.rmtree(output, ignore_errors=True)
    num_images = len([*images.iterdir()])
    score_s, cores_s, memory_mb = _timed(tree, scratch, "score", str(images), "--output", str(output))
    start_s, *_ = _timed(tree, scratch, "predict", str(next(images.iterdir())))
    return {SPEED: num_images / score_s, CORES: cores_s, MEMORY: memory_mb, START: start_s}


def _timed(tree: Path, folder: Path, *arguments: str) -> tuple[float, float, float]:
    """Seconds, core seconds, and MB of the largest process of a command."""
    command = [sys.executable, "-m", "quality_model", *arguments, "--model", "bundled", "--no-project"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    os.sync()
    start = time.monotonic()
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
    elapsed_s = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} in {tree}: {(folder / 'said').read_text()}")
    return elapsed_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _require_own_code(tree: Path, folder: Path) -> None:
    """Make sure that what is installed does not run in the place of a tree."""
    command = [sys.executable, "-c", "import quality_model; print(quality_model.__file__)"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).resolve().is_relative_to(tree.resolve()), done.stdout


def measure(before: Path, after: Path, images: Path, scratch: Path, rounds: int) -> Iterator[Verdict]:
    """Let two trees take turns, and compare them; a first round fills caches and does not count."""
    for tree in (before, after):
        _require_own_code(tree, scratch)
    samples: dict[Path, list[Sample]] = {before: [], after: []}
    for number in range(rounds + 1):
        for tree in (before, after) if number % 2 else (after, before):
            samples[tree].append(run_side(tree, images, scratch))
    for quantity in QUANTITIES:
        yield judge(quantity, *([one[quantity] for one in samples[side][1:]] for side in (before, after)))


@contextmanager
def tree_of(reference: str | None, project: Path) -> Iterator[Path]:
    """The library as a tag or commit has it, in a folder that ends with the context.

    Args:
        reference: The latest tag that leads to the working tree, if None.
        project: The repository.

    Raises:
        UsageError: There is no such commit, or no tag.
    """
    if reference is None:
        reference = _git(project, "describe", "--tags", "--abbrev=0").decode().strip()
    with tempfile.TemporaryDirectory() as scratch:
        with tempfile.TemporaryFile() as packed:
            packed.write(_git(project, "archive", "--format=tar", reference, "quality_model"))
            packed.seek(0)
            with tarfile.open(fileobj=packed) as archive:
                archive.extractall(scratch, filter="data")
        yield Path(scratch)


def _git(project: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=project, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise UsageError(
            f"There is nothing to compare with: {said}.",
            "Name a tag or commit with --against; fetch its history.",
        )
    return done.stdout


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--against", metavar="REF", help="Tag or commit to compare with.  [default: the latest tag]")
@click.option(
    "--rounds", default=8, show_default=True, type=click.IntRange(min=FEWEST_ROUNDS), help="Of both sides."
)
@click.option("--images", default=200, show_default=True, type=click.IntRange(min=1), help="To score.")
def main(against: str | None, rounds: int, images: int) -> None:
    """Fail if scoring certainly lost more than a tenth of its speed, memory or start."""
    project = Path(__file__).resolve().parents[1]
    try:
        with tree_of(against, project) as before, tempfile.TemporaryDirectory() as scratch:
            write_images(Path(scratch) / "images", images, find_photographs(None))
            verdicts = [*measure(before, project, Path(scratch) / "images", Path(scratch), rounds)]
    except UsageError as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"| what | before | now | ratio, and its bounds at {CONFIDENCE:.0%} | a loss above {MOST_LOSS:.0%} |"
    )
    click.echo("|---|---|---|---|---|")
    for verdict in verdicts:
        click.echo(verdict.line())
    if lost := [verdict.quantity.name for verdict in verdicts if verdict.is_lost]:
        raise click.ClickException(f"Lost more than {MOST_LOSS:.0%}: {', '.join(lost)}.")


if __name__ == "__main__":
    main()
