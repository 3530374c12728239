"""The comparison of two models: two scoring jobs, joined by their inputs."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.compute as pc

from quality_model.core import processes, storage
from quality_model.core.decoding import Pixels
from quality_model.core.figures import image_grid, new_figure, save_figure
from quality_model.core.folders import input_path
from quality_model.core.predict import MultiHeadQualityInference
from quality_model.core.processes import Failure, WorkerProcesses, num_workers
from quality_model.errors import InputErrorsAboveLimit, StorageError, UsageError
from quality_model.params import EngineName, LimitsParams, RegistryParams, ScoreParams
from quality_model.records import HEADS, SHORT_NAMES
from quality_model.score.comparison import SIDES, Comparison
from quality_model.score.inputs import Kind
from quality_model.score.job import score
from quality_model.score.plan import find_inputs, foreign_files
from quality_model.score.reading import read_thumbnail, sources_of
from quality_model.score.rows import ScoringModel, read_rows
from quality_model.score.summary import nothing_scored

JSON_NAME: Final = "comparison.json"
MARKDOWN_NAME: Final = "comparison.md"
TABLE_NAME: Final = "comparison.csv"
FIGURE_NAME: Final = "largest_changes.png"
FILES: Final = (JSON_NAME, MARKDOWN_NAME, TABLE_NAME, FIGURE_NAME)

_THUMBNAIL_PX: Final = 192
_COLUMNS: Final = 4
_NAME_LENGTH: Final = 30


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
    kind: Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> Comparison:
    """Score a folder with two models and keep what would change if one took the other's place.

    Each model scores as `score` does, into a folder of its own below ``output``; an interrupted comparison
    resumes there.

    Args:
        section: Workers, device and engine, which is the same for both.
        limits: What an image may be.
        registry: Names the registered model.
        root: The project folder, whose registry a reference means.
        folder: What `score` would take.
        model: The new model: a registry reference, or a folder or file of weights.
        against: The old one.
        output: Folder for `FILES` and the two results.
        num_thumbnails: Images that are shown.
        kind, image_column, key_column: What to score, if the folder leaves a choice (see `inputs.survey`).

    Raises:
        UsageError: It holds nothing to score, or ``output`` holds other files.
        InputErrorsAboveLimit: No image could be scored: the comparison is written.
        CorruptError: A Parquet file cannot be read.
        ModelNotFoundError, CheckpointError: A model is not available.
        RegistryError: The registry does not answer.
        StorageError: The result could not be written, or the inputs changed between the two jobs.
    """
    processes.end_if_imported_again()
    folder = input_path(folder)
    if folder.resolve() == output.resolve():
        raise UsageError(f"{folder} is both input and output.", "Choose another output folder.")
    if others := foreign_files(output, known=(*FILES, *SIDES, storage.MARKER_NAME)):
        raise UsageError(
            f"{output} is not empty and holds no comparison: {', '.join(others[:3])}.",
            "Choose another output folder.",
        )

    def load(reference: str, engine: EngineName | None) -> MultiHeadQualityInference:
        return MultiHeadQualityInference(
            reference,
            section.device,
            limits,
            root=root,
            registry=registry,
            engine=engine,
        )

    new = load(model, None if section.engine == "auto" else section.engine)
    old = load(against, new.engine_name)  # so that no flag changes by what two engines differ by
    storage.unseal(output)
    (output / FIGURE_NAME).unlink(missing_ok=True)  # it is no input, should the output be in the folder
    for name, scorer in zip(SIDES, (old, new), strict=True):
        try:
            score(
                section.model_copy(update={"max_error_share": 1.0}),
                limits,
                inputs=folder,
                output=output / name,
                scorer=scorer,
                model=ScoringModel.of(scorer),
                overwrite=True,
                kind=kind,
                image_column=image_column,
                key_column=key_column,
            )
        except InputErrorsAboveLimit:  # nothing was scored, which the comparison says too
            continue
    comparison = join(folder.name or str(folder), output, ScoringModel.of(old), ScoringModel.of(new))
    _write(comparison, output, _read_thumbnails(comparison, output, folder, section, limits, num_thumbnails))
    if not comparison.keys:
        raise nothing_scored(
            comparison.summary()["errors"], f"The column error_detail in {output / TABLE_NAME}"
        )
    return comparison


def join(folder: str, output: Path, old: ScoringModel, new: ScoringModel) -> Comparison:
    """Join the two scoring results in ``output`` by their inputs.

    Raises:
        StorageError: They are not of the same inputs.
    """
    tables = [read_rows(output / name, ["key", *HEADS, "error_code", "error_detail"]) for name in SIDES]
    keys = tables[0]["key"]
    if keys != tables[1]["key"]:
        raise StorageError(f"{folder} changed while it was scored.", "Run the same command again.")
    errors: dict[str, tuple[str, str]] = {}
    for table in tables:
        bad = table.filter(pc.is_valid(table["error_code"])).select(["key", "error_code", "error_detail"])
        for row in bad.to_pylist():
            errors.setdefault(row["key"], (row["error_code"], row["error_detail"] or ""))
    is_scored = np.array([key not in errors for key in keys.to_pylist()], dtype=bool)
    scores = np.stack([np.stack([table[head].to_numpy() for head in HEADS], axis=1) for table in tables])
    scored = keys.filter(is_scored).to_pylist()
    return Comparison(folder, old, new, scored, scores[:, is_scored].astype(np.float32), errors)


def draw_largest(comparison: Comparison, thumbnails: dict[int, Pixels | None], path: Path) -> None:
    """Draw the largest changes, each with the old and the new score of every head, as a PNG file.

    Args:
        thumbnails: uint8 (height, width, 3) by the image's number in ``keys``, in the order to show.
        path: The file. A star marks a score that its model flags.
    """
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
        axes.set_title(_shortened(comparison.keys[number]), fontsize=8)
        star = np.where(flags[:, number], "*", " ")
        lines = [
            f"{SHORT_NAMES[head]:5} {was[number, i]:.2f}{star[0, i]} -> {now[number, i]:.2f}{star[1, i]}"
            for i, head in enumerate(HEADS)
        ]
        axes.set_xlabel("\n".join(lines), fontsize=8.5, family="monospace")
    save_figure(figure, path)


def _read_thumbnails(
    comparison: Comparison,
    output: Path,
    folder: Path,
    section: ScoreParams,
    limits: LimitsParams,
    count: int,
) -> dict[int, Pixels | None]:
    """Small images of the largest changes, read again in worker processes."""
    numbers = comparison.largest(count)
    rows = {key: row for row, key in enumerate(read_rows(output / "new", ["key"])["key"].to_pylist())}
    inputs = find_inputs(output / "new", [rows[comparison.keys[number]] for number in numbers])
    base = folder if folder.is_dir() else folder.parent
    workers = num_workers(section.workers, len(inputs))
    pool = WorkerProcesses(workers, window=2 * workers, timeout_s=limits.max_seconds)
    read = partial(read_thumbnail, side_px=_THUMBNAIL_PX, limits=limits)
    with closing(sources_of(inputs, base)) as sources, closing(pool.run(read, sources)) as outcomes:
        return {
            number: None if isinstance(outcome, Failure) else outcome
            for number, outcome in zip(numbers, outcomes, strict=True)
        }


def _write(comparison: Comparison, output: Path, thumbnails: dict[int, Pixels | None]) -> None:
    storage.write_json(output / JSON_NAME, comparison.to_json(len(thumbnails)))
    storage.write_text(output / MARKDOWN_NAME, comparison.markdown(FIGURE_NAME))
    storage.write_text(output / TABLE_NAME, comparison.csv())
    draw_largest(comparison, thumbnails, output / FIGURE_NAME)
    results = [f"{name}/job.json" for name in SIDES]
    storage.seal(output, [*FILES, *results], rows=comparison.num_inputs, kind="comparison")


def _shortened(key: str) -> str:
    """The end of a name; without ``$``, which would begin a formula."""
    shown = key if len(key) <= _NAME_LENGTH else "..." + key[3 - _NAME_LENGTH :]
    return shown.replace("$", r"\$")
