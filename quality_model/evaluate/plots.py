"""Figures of training and evaluation.

Each function returns a `matplotlib.figure.Figure`; see `core.figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from quality_model.core.figures import image_grid, new_figure, tidy
from quality_model.evaluate import metrics
from quality_model.evaluate.evidence import Evaluated
from quality_model.records import HEADS, Head

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from quality_model.evaluate.measure import Evaluation

_TITLES: Final = dict(zip(HEADS, ("Colour cast", "Blurriness", "Watermark", "Noise"), strict=True))
_COLOURS: Final = dict(zip(HEADS, ("#c0562f", "#2c6fb0", "#7d4fb0", "#2f8159"), strict=True))
_ALL_HEADS: Final = "#3d3d3d"
_FEW_EPOCHS: Final = 20
"""Up to so many epochs, each is marked."""

_LABEL_STEPS: Final = 10
"""Ranges of the label over which the mean score is drawn."""

_FEWEST_PER_STEP: Final = 5
"""Samples that such a range needs to have its mean drawn."""

_SCORE_BINS: Final = 40
_LOWEST_R2: Final = -1.0
"""R2 below this is not shown: a first epoch far below 0 would flatten the rest."""


def evaluation_figures(evaluation: Evaluation, images: npt.NDArray[np.uint8]) -> dict[str, Figure]:
    """The figures of an evaluation by file name; ``images`` are those of the training dataset."""
    measured, predictions = evaluation.measured, evaluation.predictions
    return {
        "predicted_against_true": predicted_against_true(predictions),
        "severity_sweeps": sweeps_figure(measured),
        "cross_talk": cross_talk_figure(measured),
        **{f"worst_{head}": worst_errors(predictions, images, head) for head in HEADS},
    }


def learning_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, and MSE and R2 of each head, over the epochs.

    Args:
        history: For each epoch ``epoch``, ``train_loss``, ``validation_loss`` and, by head,
            ``train_mse``, ``validation_mse`` and ``validation_r2``. What is None is not drawn.
    """
    per_head = [
        f"{name}.{head}" for name in ("train_mse", "validation_mse", "validation_r2") for head in HEADS
    ]
    names = ["epoch", "train_loss", "validation_loss", *per_head]
    table = pd.json_normalize([dict(entry) for entry in history]).reindex(columns=names).astype(np.float64)
    marker = "o" if len(table) <= _FEW_EPOCHS else ""

    def curve(axes: Axes, name: str, colour: str, label: str | None) -> None:
        style, alpha = ("--", 0.6) if name.startswith("train") else ("-", 1.0)
        axes.plot(
            table["epoch"].astype(int), table[name], style, color=colour, label=label, marker=marker,
            markersize=3.5, linewidth=1.5, alpha=alpha,
        )  # fmt: skip

    figure = new_figure(14.0, 4.8)
    loss, mse, r2 = figure.subplots(1, 3)
    curve(loss, "train_loss", _ALL_HEADS, "training")
    curve(loss, "validation_loss", _ALL_HEADS, "validation")
    if table["validation_loss"].notna().any():
        best = int(table["epoch"].iloc[int(np.nanargmin(table["validation_loss"]))])
        loss.axvline(best, color="#999999", linewidth=1.0, linestyle=":", label=f"best: epoch {best}")
    for head in HEADS:
        curve(mse, f"train_mse.{head}", _COLOURS[head], None)
        curve(mse, f"validation_mse.{head}", _COLOURS[head], _TITLES[head])
        curve(r2, f"validation_r2.{head}", _COLOURS[head], _TITLES[head])
    lowest = np.nanmin(table[[f"validation_r2.{head}" for head in HEADS]].to_numpy(), initial=0.0)
    r2.axhline(0.0, color="#555555", linewidth=1.0)
    r2.set_ylim(bottom=max(_LOWEST_R2, lowest - 0.05), top=1.0)
    loss.set_title("Loss (lower is better)\nmean of weighted MSE over the heads")
    mse.set_title("MSE per head (lower is better)\nsolid validation, dashed training")
    r2.set_title("R² per head in validation (1 is best)\n0 is no better than the labels' mean")
    for axes in (loss, mse, r2):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=9, frameon=False)
        tidy(axes)
    for axes in (loss, mse):
        axes.set_ylim(bottom=0.0)
    return figure


def predicted_against_true(predictions: pd.DataFrame) -> Figure:
    """For each head, how many samples have which label and which score.

    Args:
        predictions: ``{head}_label`` and ``{head}_score``, each in [0, 1].
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    # without its palest quarter, in which a single sample would not be seen
    colours = LinearSegmentedColormap.from_list("density", colormaps["YlGnBu"](np.linspace(0.25, 1.0, 256)))
    figure = new_figure(10.4, 9.6)
    figure.suptitle(f"Predicted against true severity, {len(predictions)} samples (0 absent, 1 severe)")
    norm, most = LogNorm(vmin=0.8), 2.0
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, head in zip(grid.flat, HEADS, strict=True):
        labels, scores = _pair(predictions, head)
        edges = np.linspace(0.0, 1.0, _SCORE_BINS + 1)
        cells, *_ = axes.hist2d(labels, scores, bins=edges, cmap=colours, norm=norm, cmin=1)
        most = max(most, float(np.nanmax(cells, initial=0.0)))
        axes.plot([0, 1], [0, 1], color="#222222", linewidth=1.0, linestyle="--", label="perfect")
        axes.plot(
            *_mean_score_by_label(labels, scores), "o-", color="#d1495b", markersize=4, linewidth=1.4,
            label="mean score", clip_on=False,
        )  # fmt: skip
        measured = metrics.measure(labels, scores)
        r2, mse = _text(measured["r2"], 2), _text(measured["mse"], 4)
        axes.set_title(f"{_TITLES[head]}: R² {r2}, MSE {mse}")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.label_outer()
        tidy(axes)
    norm.vmax = most
    for axes in grid[-1]:
        axes.set_xlabel("label (true severity)")
    for axes in grid[:, 0]:
        axes.set_ylabel("score (predicted severity)")
    grid[0, 0].legend(fontsize=9, frameon=False, loc="upper left")
    figure.colorbar(
        ScalarMappable(norm, colours), ax=grid, label="samples per cell", shrink=0.75, format="%d"
    )
    return figure


def worst_errors(predictions: pd.DataFrame, images: npt.NDArray[np.uint8], head: Head) -> Figure:
    """The ten samples on which a head errs most, the worst first.

    Args:
        predictions: ``row``, and ``{head}_kind``, ``{head}_label``, ``{head}_score``.
        images: uint8 (N, S, S, 3) RGB, such as a memory map; only what is shown is read.
        head: Which head.
    """
    rows, columns = 2, 5
    figure = new_figure(8.75, 4.6)
    figure.suptitle(f"{_TITLES[head]}: largest errors (0 absent, 1 severe), with the kind")
    panels = image_grid(figure, rows, columns)
    labels, scores = _pair(predictions, head)
    order = np.argsort(-np.abs(scores - labels), kind="stable")[: rows * columns]
    for axes, position in zip(panels, order, strict=False):
        sample = predictions.iloc[position]
        axes.imshow(np.asarray(images[int(sample["row"])]), interpolation="nearest")
        kind = sample[f"{head}_kind"]
        axes.set_title(
            f"score {scores[position]:.2f}, label {labels[position]:.2f}\n"
            f"{kind if isinstance(kind, str) else 'absent'}",
            fontsize=8,
        )
    return figure


def sweeps_figure(measured: Evaluated) -> Figure:
    """How the score of its own head rises along each severity sweep: a row per head, a panel per sweep."""
    by_head = {
        head: {name: one for name, one in measured.sweeps.items() if one.head == head} for head in HEADS
    }
    columns = max(1, *(len(found) for found in by_head.values()))
    figure = new_figure(3.6 * columns + 0.4, 2.9 * len(HEADS))
    figure.suptitle("Severity sweeps made by other software: mean score, and its middle half (shaded)")
    for head, row in zip(HEADS, figure.subplots(len(HEADS), columns, squeeze=False), strict=True):
        for axes in row[len(by_head[head]) :]:
            axes.set_axis_off()
        for axes, (name, sweep) in zip(row, by_head[head].items(), strict=False):
            if sweep.num_images:
                ends = (sweep.low_scores, sweep.high_scores)
                axes.fill_between(sweep.levels, *ends, color=_COLOURS[head], alpha=0.2, lw=0)
                axes.plot(sweep.levels, sweep.mean_scores, "o-", color=_COLOURS[head], markersize=4)
            axes.set_ylim(0.0, 1.0)
            axes.set_xlim(left=0.0)
            axes.set_xlabel(sweep.unit)
            spearman, rising = _text(sweep.spearman.value, 2), _text(sweep.monotone_share, 2)
            axes.set_title(f"{name.replace('_', ' ')}\nSpearman {spearman}, rising on {rising}", fontsize=10)
            tidy(axes)
        row[0].set_ylabel(f"{_TITLES[head]} score", color=_COLOURS[head], fontweight="bold")
    return figure


def cross_talk_figure(measured: Evaluated) -> Figure:
    """How far each head moves when each degradation becomes severe, as an annotated heat map."""
    rows = [
        [measured.heads[moved].cross_talk.get(degraded, measured.heads[moved].rise).value for moved in HEADS]
        for degraded in HEADS
    ]
    values = np.array(rows, dtype=np.float64)
    figure = new_figure(6.6, 5.4)
    axes = figure.subplots()
    shown = axes.imshow(values, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
    names = [_TITLES[head] for head in HEADS]
    axes.set_xticks(range(len(HEADS)), names)
    axes.set_yticks(range(len(HEADS)), names)
    axes.set_xlabel("whose score moves")
    axes.set_ylabel("what becomes severe")
    axes.set_title(
        "Cross-talk: from clean to severest, on the worst sweep\n"
        "(own score: rise of its mean; others: mean movement, 0 is best)"
    )
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.2f}" if np.isfinite(value) else "-"
        colour = "white" if abs(value) > 0.6 else "#111111"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=11)
    axes.spines[:].set_visible(False)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="movement of the score")
    return figure


def _pair(predictions: pd.DataFrame, head: str) -> tuple[metrics.Floats, metrics.Floats]:
    labels, scores = predictions[f"{head}_label"], predictions[f"{head}_score"]
    return labels.to_numpy(dtype=np.float64), scores.to_numpy(dtype=np.float64)


def _mean_score_by_label(
    labels: metrics.Floats, scores: metrics.Floats
) -> tuple[metrics.Floats, metrics.Floats]:
    """Mean label and mean score of the samples without the degradation, and of each range of labels."""
    steps = np.ceil(np.clip(labels, 0.0, 1.0) * _LABEL_STEPS).astype(np.int64)  # 0 is a label of exactly 0
    sizes = np.bincount(steps, minlength=_LABEL_STEPS + 1)
    enough = sizes >= _FEWEST_PER_STEP
    sums = [np.bincount(steps, weights=values, minlength=_LABEL_STEPS + 1) for values in (labels, scores)]
    return sums[0][enough] / sizes[enough], sums[1][enough] / sizes[enough]


def _text(value: float | None, digits: int) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"
