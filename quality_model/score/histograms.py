"""The figure of a scoring result."""

from pathlib import Path
from typing import Final

import numpy as np

from quality_model.core.figures import new_figure, save_figure
from quality_model.records import MEANINGS
from quality_model.score.result import ScoreSummary

_BARS: Final = 50
_CODES: Final = 10


def draw(summary: ScoreSummary, path: Path) -> None:
    """Draw the histogram of each score, on a logarithmic axis of counts, and its threshold as a PNG file."""
    figure = new_figure(12, 6.4)
    figure.suptitle(f"{summary.scored} images scored by {summary.model.title}")
    axes = figure.subplots(2, 3)
    edges = np.linspace(0.0, 1.0, _BARS + 1)
    lines: dict[str, float] = dict((summary.model.thresholds or {}).items())
    for axis, (name, counts) in zip(axes.flat, summary.histograms.items(), strict=False):
        axis.stairs(counts.reshape(_BARS, -1).sum(axis=1), edges, fill=True)
        axis.set_title(name)
        if name in lines:
            axis.axvline(lines[name], color="firebrick", linestyle="--", label=f"threshold {lines[name]:.3g}")
            axis.legend(fontsize="small")
        axis.set_xlabel(MEANINGS[name])
        axis.set_ylabel("images")
        axis.set_xlim(0, 1)
        axis.set_xticks((0.0, 0.5, 1.0))
        axis.set_yscale("symlog", linthresh=1)  # logarithmic from 1 on, and 0 has a place
        axis.set_ylim(bottom=0)
    errors = list(summary.errors.items())[:_CODES]
    last = axes.flat[-1]
    last.set_title("not scored, by error code" if errors else "every input was scored")
    if errors:
        last.barh(range(len(errors)), [count for _, count in errors], color="lightsteelblue")
        for place, (code, count) in enumerate(errors):
            last.annotate(f" {code}: {count}", (0, place), va="center")
        last.set_yticks([])
        last.invert_yaxis()
        last.set_xlabel("inputs")
        last.locator_params(axis="x", nbins=4, integer=True)
    else:
        last.set_axis_off()
    save_figure(figure, path)
