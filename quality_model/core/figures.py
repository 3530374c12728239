"""Figures: their size, their style and how they are saved, without a display and without global state.

matplotlib is imported when a figure is drawn, not with this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from quality_model.core import storage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI: Final = 110


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure of this size in inches, whose parts are laid out without overlap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """Leave out the frame's top and right, and draw a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def image_grid(figure: Figure, rows: int, columns: int) -> list[Axes]:
    """Panels for images, row by row, without ticks and frames."""
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return panels


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, durably; the same figure gives the same bytes."""
    with storage.staged(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
