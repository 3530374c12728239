"""Real defects that nobody here made: how well models and classical measures find them, as a table.

    python -m benchmarks.real FOLDER [--model bundled] [--earlier FOLDER ...]

or `make real REAL=FOLDER`. FOLDER holds a folder for each set, SET, with SET/SET.csv: a row per image with
``file`` (below FOLDER), ``group`` (images of one scene, in any set), ``head`` (or all), ``role`` (degraded,
reference, clean, graded), ``value`` (0 clean; else bad, by level or by difference) and ``kind``:

- paired: degraded images beside the reference of their group; binary, known_bad: no pairs;
- graded: levels of the distortion that ``group`` names, of one scene a set;
- hard_clean: clean images that look defective, each a scene, whose ``group`` says in which way.

FOLDER/audit.csv names (``file``, ``head``) what is called clean and is not: it does not count as clean.
The folder is for measuring only. Whoever looks at the table notes it: how often is not counted here.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from quality_model.core import storage, system
from quality_model.core.decoding import decode, read_bytes
from quality_model.core.figures import markdown_table
from quality_model.core.views import squeezed
from quality_model.errors import ImageError, QualityModelError, UsageError
from quality_model.evaluate import metrics
from quality_model.evaluate.baselines import CLASSICAL
from quality_model.evaluate.evidence import Estimate
from quality_model.params import WITHOUT_PROJECT, ScoreParams
from quality_model.records import FLAG_COLUMNS, HEADS, REFERENCE_SIDE_PX
from quality_model.score.inputs import InputChoice
from quality_model.score.job import score
from quality_model.score.result import read_rows

VIEWS: Final[Mapping[str, Mapping[str, Any]]] = {"all views": {}, "whole view": {"views": "whole"}}
"""Ways to score with the model under test: settings of `ScoreParams` by title, a line each."""

COLUMNS: Final = ("file", "group", "head", "role", "value", "kind")
KINDS: Final = ("paired", "binary", "known_bad", "graded", "hard_clean")
"""What is measured here; rows of other kinds are left out."""

FALLING: Final = frozenset({"laplacian_variance"})
"""The classical measures that fall where the defect grows: they are compared with their sign changed."""

SAMPLES: Final = 1000
CONFIDENCE: Final = 0.95
SEED: Final = 42


def read_sets(folder: Path) -> pd.DataFrame:
    """What is known of the images, a row for each image and head.

    Returns:
        `COLUMNS`, ``set``, ``scene`` (what the bootstrap draws), ``bad``, and ``clean``: neither is true of
        an image that audit.csv names.

    Raises:
        UsageError: There is no set, a column is missing, or an image is.
    """
    paths = [path for path in sorted(folder.glob("*/*.csv")) if path.stem == path.parent.name]
    if not paths:
        problem = "holds no set (SET/SET.csv)" if folder.is_dir() else "is not there"
        raise UsageError(f"{folder} {problem}: make real REAL=FOLDER names another folder.")
    known = pd.concat([pd.read_csv(path, dtype={"group": str}).assign(set=path.stem) for path in paths])
    if lacking := [name for name in COLUMNS if name not in known or known[name].isna().any()]:
        raise UsageError(f"A set in {folder} lacks {', '.join(lacking)} for some image.")
    known = known.loc[known["kind"].isin(KINDS), [*COLUMNS, "set"]].reset_index(drop=True)
    if missing := [name for name in known["file"] if not (folder / name).is_file()]:
        raise UsageError(f"{len(missing)} images of the sets are not in {folder}, such as {missing[0]}.")
    scenes = known["group"].mask(known["kind"] == "hard_clean", known["file"])
    known["scene"] = scenes.mask(known["kind"] == "graded", known["set"])
    known["head"] = [HEADS if head == "all" else (head,) for head in known["head"]]
    known = known.explode("head", ignore_index=True)
    audit = folder / "audit.csv"
    audited = pd.read_csv(audit) if audit.is_file() else pd.DataFrame(columns=["file", "head"])
    named, asked = (pd.MultiIndex.from_frame(table[["file", "head"]]) for table in (audited, known))
    return known.assign(bad=known["value"] > 0, clean=(known["value"] == 0) & ~asked.isin(named))


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


def auc(
    scores: npt.NDArray[np.float64], bad: npt.NDArray[np.bool_], scenes: npt.NDArray[np.object_]
) -> Estimate:
    """The area under the ROC curve: the share of (bad, clean) pairs in order, a tie being half a pair.

    Source: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982. The
    interval is a percentile bootstrap that draws whole scenes, see `metrics`; around 1 it has no width.

    Args:
        scores: (n,), of any unit, higher where worse.
        bad: (n,).
        scenes: (n,) names.
    """
    names, index = np.unique(scenes.astype(str), return_inverse=True)
    first, second = scores[bad][:, None], scores[~bad]
    wins = (first > second) + 0.5 * (first == second)
    low = high = None
    if wins.size and len(names) > 1:
        counts = metrics.resample_counts(len(names), SAMPLES, SEED)[:, index]
        pairs = counts[:, bad].sum(axis=1) * counts[:, ~bad].sum(axis=1)
        drawn = ((counts[:, bad] @ wins) * counts[:, ~bad]).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
        if len(drawn) >= metrics.SMALLEST_DEFINED_SHARE * SAMPLES:
            low, high = map(float, np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    value = float(wins.mean()) if wins.size else None
    return Estimate(value=value, low=low, high=high, num_groups=len(names))


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
    found = auc(*(counted[name].to_numpy() for name in ("score", "bad", "scene")))
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
    try:
        known = read_sets(given.folder)
        scored, models = {}, []
        with tempfile.TemporaryDirectory() as work:
            for number, way in enumerate(ways):
                scored[way[0]], cells = score_by_model(*way, given.folder, Path(work, str(number)))
                models.append(cells)
        text = report(known, scored | classical_scores(given.folder, [*known["file"].unique()]), models)
        storage.write_text(given.output, text)
    except QualityModelError as error:
        system.say(f"Error: {error}")
        return error.exit_code
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    system.silence_telemetry()
    sys.exit(main())
