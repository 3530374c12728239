"""Real defects that nobody here made: how well models and classical measures find them, as a table.

    python -m benchmarks.real FOLDER [--model bundled] [--earlier FOLDER ...]

or `make real REAL=FOLDER`. `quality_model.evaluate.real_defects` describes the layout of the folder, which is
for measuring only. Anyone who looks at the table notes it: how often is not counted here.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from quality_model.core import storage, system
from quality_model.core.decoding import decode, read_bytes
from quality_model.core.figures import markdown_table
from quality_model.core.views import squeezed
from quality_model.errors import ImageError, QualityModelError
from quality_model.evaluate import metrics
from quality_model.evaluate.baselines import CLASSICAL
from quality_model.evaluate.metrics import Bootstrap
from quality_model.evaluate.real_defects import read_sets
from quality_model.params import WITHOUT_PROJECT, ScoreParams
from quality_model.records import FLAG_COLUMNS, HEADS, REFERENCE_SIDE_PX
from quality_model.score.inputs import InputChoice
from quality_model.score.job import score
from quality_model.score.result import read_rows

VIEWS: Final[Mapping[str, Mapping[str, Any]]] = {"all views": {}, "whole view": {"views": "whole"}}
"""Ways to score with the model under test: settings of `ScoreParams` by title, a line each."""

FALLING: Final = frozenset({"laplacian_variance"})
"""The classical measures that fall where the defect grows: they are compared with their sign changed."""

CONFIDENCE: Final = 0.95
BOOTSTRAP: Final = Bootstrap(1000, CONFIDENCE, seed=42)


def score_by_model(
    label: str, model: str, settings: Mapping[str, Any], folder: Path, output: Path
) -> tuple[pd.DataFrame, list[str]]:
    """Scores and flags by file, and the cells that say which model it was."""
    section = ScoreParams(**{**WITHOUT_PROJECT.score.model_dump(), **settings, "model": model})
    images = InputChoice("images")
    used = score(section, WITHOUT_PROJECT.limits, inputs=folder, output=output, choice=images).model
    rows = read_rows(output, ["key", *HEADS, *FLAG_COLUMNS.values()]).to_pandas().set_index("key")
    thresholds = [f"{used.thresholds[head]:.3f}" if used.thresholds else "-" for head in HEADS]
    unscored = str(rows[HEADS[0]].isna().sum())
    return rows, [label, used.title, used.sha256[:12], f"{used.image_size_px} px", unscored, *thresholds]


def classical_scores(folder: Path, files: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The measures without training, each by file for its head alone, of the image shrunk to a square.

    Each rises with the defect, in a unit of its own. NaN where it is not defined or the image is not read.
    """
    measures = [(head, name, calc) for head in HEADS for name, calc in CLASSICAL[head].items()]
    values = np.full((len(files), len(measures)), np.nan)
    limits = WITHOUT_PROJECT.limits
    for row, file in enumerate(files):
        try:
            square = squeezed(decode(read_bytes(folder / file, limits), limits), REFERENCE_SIDE_PX)
        except ImageError:
            continue
        values[row] = [(-1 if name in FALLING else 1) * calc(square) for _, name, calc in measures]
    return {
        name: pd.DataFrame({head: column}, index=[*files])
        for (head, name, _), column in zip(measures, values.T, strict=True)
    }


def rises(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """(pairs,) scores of the degraded images of a set less those of the references of their groups."""
    references = rows[rows["role"] == "reference"].drop_duplicates("group").set_index("group")["score"]
    degraded = rows[rows["role"] == "degraded"]
    return (degraded["score"] - degraded["group"].map(references).astype(float)).dropna().to_numpy()


def set_lines(known: pd.DataFrame, scored: Mapping[str, pd.DataFrame]) -> Iterator[list[str]]:
    """Cells of each set and head by each way of scoring."""
    measured = known.loc[known["kind"] != "hard_clean", ["set", "head"]].drop_duplicates()
    for name, head in measured.itertuples(index=False):
        for label, rows in _by_way(known, scored, head):
            own, hard = rows[rows["set"] == name], rows[(rows["kind"] == "hard_clean") & rows["clean"]]
            counts = f"{own['bad'].sum()} + {own['clean'].sum()}"
            areas = [_auc_cell(own), _auc_cell(pd.concat([own[own["bad"]], hard]))]
            gains = rises(own)
            pairs = [f"{(gains > 0).sum()} of {len(gains)}", f"{gains.mean():+.3g}"] if len(gains) else "--"
            levels = []
            for group, each in own[own["kind"] == "graded"].groupby("group"):
                correlation = metrics.measure(each["value"], each["score"])["spearman"]
                levels.append(f"{group} {'-' if correlation is None else f'{correlation:+.2f}'}")
            yield [name, head, label, counts, *areas, *pairs, ", ".join(levels) or "-"]


def pooled_lines(known: pd.DataFrame, scored: Mapping[str, pd.DataFrame]) -> Iterator[list[str]]:
    """Cells of each head over all sets, hard clean images included, by each way of scoring."""
    for head in HEADS:
        for label, rows in _by_way(known, scored, head):
            yield [head, label, str(rows["bad"].sum()), str(rows["clean"].sum()), _auc_cell(rows)]


def flag_lines(known: pd.DataFrame, scored: Mapping[str, pd.DataFrame]) -> Iterator[list[str]]:
    """Cells of the hard clean images that a model flags at its own thresholds: all, and by group."""
    for head in HEADS:
        for label, rows in _by_way(known, scored, head):
            if (column := FLAG_COLUMNS[head]) in scored[label]:
                hard = rows[(rows["kind"] == "hard_clean") & rows["clean"]]
                hard = hard.assign(flag=hard["file"].map(scored[label][column])).dropna(subset="flag")
                parts = [hard, *(hard[hard["group"] == group] for group in _hard_groups(known))]
                yield [head, label, *(f"{part['flag'].sum()} of {len(part)}" for part in parts)]


def report(known: pd.DataFrame, scored: Mapping[str, pd.DataFrame], models: Sequence[Sequence[str]]) -> str:
    """The tables in Markdown; ``models`` are the cells of `score_by_model`."""
    area = f"AUC [{CONFIDENCE:.0%}]"
    about = ["scored by", "model", "weights", "side", "not scored", *(f"{head} above" for head in HEADS)]
    by_set = ["set", "head", "scored by", "bad + clean", area, f"{area} against hard clean"]
    by_set += ["pairs that rise", "mean rise", "Spearman with the level"]
    flags = ["head", "scored by", "all", *_hard_groups(known)]
    parts = [
        "# Real defects",
        f"{known['file'].nunique()} images of {known['set'].nunique()} sets: bad against clean, without what"
        " audit.csv names as not clean.\nIntervals: bootstrap over scenes. A classical measure has a unit"
        " of its own.",
        markdown_table(about, models),
        "## All sets, hard clean images among the clean ones",
        markdown_table(["head", "scored by", "bad", "clean", area], pooled_lines(known, scored)),
        "## By set",
        markdown_table(by_set, set_lines(known, scored)),
        "## Hard clean images flagged, at the thresholds above",
        markdown_table(flags, flag_lines(known, scored)),
    ]
    return "\n\n".join(parts) + "\n"


def _by_way(
    known: pd.DataFrame, scored: Mapping[str, pd.DataFrame], head: str
) -> Iterator[tuple[str, pd.DataFrame]]:
    """By each way that scores a head: what is known for the head, with the column ``score``."""
    rows = known[known["head"] == head]
    for label, table in scored.items():
        if head in table:
            yield label, rows.assign(score=rows["file"].map(table[head]).astype(float)).dropna(subset="score")


def _hard_groups(known: pd.DataFrame) -> list[str]:
    return sorted(known.loc[known["kind"] == "hard_clean", "group"].unique())


def _auc_cell(rows: pd.DataFrame) -> str:
    counted = rows[rows["bad"] | rows["clean"]]
    found = BOOTSTRAP.auc(counted["score"], counted["bad"], counted["scene"].to_numpy(str))
    interval = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return "-" if found.value is None else f"{found.value:.3f}{interval}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the table; give the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the sets")
    parser.add_argument("--model", default="bundled", help="model under test, as `score --model` takes it")
    parser.add_argument("--earlier", nargs="*", default=[], help="models to compare with, such as folders")
    parser.add_argument("--output", type=Path, default=Path("reports/real.md"), help="file of the table")
    given = parser.parse_args(arguments)
    ways = [(f"{given.model}, {title}", given.model, settings) for title, settings in VIEWS.items()]
    ways += [(name, name, {}) for name in given.earlier]

    def tables() -> str:
        known = read_sets(given.folder)
        scored, models = {}, []
        with tempfile.TemporaryDirectory() as work:
            for number, way in enumerate(ways):
                scored[way[0]], cells = score_by_model(*way, given.folder, Path(work, str(number)))
                models.append(cells)
        return report(known, scored | classical_scores(given.folder, [*known["file"].unique()]), models)

    return print_tables(tables, given.output)


def print_tables(tables: Callable[[], str], output: Path) -> int:
    """Print what ``tables`` gives and write it to a file; give the exit code, its error's if there is one."""
    try:
        text = tables()
        storage.write_text(output, text)
    except QualityModelError as error:
        system.say(f"Error: {error}")
        return error.exit_code
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    system.silence_telemetry()
    sys.exit(main())
