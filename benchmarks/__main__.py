"""`python -m benchmarks`, or `make bench`: the library and the obvious implementation in one table."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks import comparison, machine, worker_memory
from benchmarks.jobs import JOBS
from benchmarks.start_up import measure as measure_start_up
from quality_model.core import system

_GROWTH = (1000, 10_000, 100_000)
_SAMPLES = (2000, 20_000)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--jobs", default=",".join(JOBS), show_default=True, help="Names, joined by commas; or none.")
@click.option("--repetitions", default=5, show_default=True, type=click.IntRange(min=1), help="Of each side.")
@click.option("--images", type=click.IntRange(min=8), help="Clean images; the default depends on the job.")
@click.option("--photographs", type=click.Path(path_type=Path, exists=True), help="Folder to cut them from.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True),
    help="Model to score with; by default the bundled one.",
)
@click.option(
    "--cleanvision",
    type=click.Path(path_type=Path, exists=True),
    help="A Python that has CleanVision, for score-whole.",
)
@click.option("--workers", default=0, show_default=True, help="Processes of ours; 0: one per core.")
@click.option("--compare/--no-compare", default=True, show_default=True, help="Compare the two sides.")
@click.option(
    "--start-up/--no-start-up", default=True, show_default=True, help="Time commands from the shell."
)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Of a scoring worker.")
@click.option("--growth", "growing", is_flag=True, help="Also measure 1,000 to 100,000 images; slow.")
@click.option("--growth-most", default=_GROWTH[-1], show_default=True, help="Stop growing there.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for every figure.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder for temporary files.")
def main(
    jobs: str,
    repetitions: int,
    images: int | None,
    photographs: Path | None,
    model: Path | None,
    cleanvision: Path | None,
    memory: bool,
    workers: int,
    compare: bool,
    start_up: bool,
    growing: bool,
    growth_most: int,
    json_file: Path | None,
    work: Path | None,
) -> None:
    """Compare the library with the obvious implementation of the same work."""
    system.silence_telemetry()
    chosen = [name for name in jobs.split(",") if name not in ("", "none")]
    if unknown := sorted(set(chosen) - set(JOBS)):
        raise click.BadParameter(f"no job is called {', '.join(unknown)}", param_hint="--jobs")
    facts = machine.describe()
    click.echo(", ".join(f"{name} {value}" for name, value in facts.items()) + "\n")
    kept: dict[str, object] = {"machine": facts}
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        folder = Path(temporary)
        found = []
        for job in chosen if compare else ():
            if job == "score-whole" and not cleanvision:
                click.echo("score-whole is left out: --cleanvision names no Python.\n")
                continue
            task = comparison.prepare(
                job,
                folder / job,
                count=images or comparison.NUM_IMAGES[job],
                photographs=photographs,
                model=model,
                cleanvision=cleanvision,
            )
            found.append(comparison.compare(job, comparison.with_workers(task, workers), repetitions))
        if found:
            _say(comparison.table(found))
            _say(comparison.facts(found))
            kept["jobs"] = [one.to_dict() for one in found]
        if memory:
            _say(worker_memory.table(folder / "memory", photographs, model))
        if start_up:
            kept["start_up"] = _start_up(folder / "start-up", model, repetitions)
        if growing:
            kept["growth"] = _growth(folder / "growth", model, workers, chosen, growth_most)
    if json_file:
        json_file.write_text(json.dumps(kept, indent=2, default=str) + "\n", encoding="utf-8")


def _start_up(folder: Path, model: Path | None, repetitions: int) -> object:
    task = comparison.prepare("score", folder, count=8, photographs=None, model=model)
    image = next(iter(sorted(task.images.glob("*.jpg"))))
    timed = measure_start_up(folder, image, repetitions)
    _say(
        ["| from the shell | median | from, to | at most |", "|---|---|---|---|", *(t.line() for t in timed)]
    )
    return [asdict(one) for one in timed]


def _growth(folder: Path, model: Path | None, workers: int, jobs: list[str], most: int) -> object:
    task = comparison.prepare("score", folder, count=64, photographs=None, model=model)
    task = comparison.with_workers(task, workers)
    counts = [count for count in _GROWTH if count <= most]
    grown = [*comparison.grow(task, [job for job in jobs if job in ("generate-seed", "score")], counts)]
    if "generate-seed" in jobs:
        grown += comparison.grow_generation(task, [count for count in _SAMPLES if count <= most])
    _say(["| ours | images | each | peak memory |", "|---|---|---|---|", *(one.line() for one in grown)])
    return [{"job": one.job, "images": one.num_images, "seconds": one.repetition.elapsed_s} for one in grown]


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
    click.echo("")


if __name__ == "__main__":
    main()
