"""Figures, without a display and without global state; and tables of text cells.

matplotlib is imported when a figure is drawn, not with this module.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
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


def text_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()) -> str:
    """Align the cells of a table in columns, two spaces apart.

    Args:
        titles: One per column.
        rows: As many cells each.
        right: Titles of the columns that are aligned to the right.
    """
    lines = [titles, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if title in right else cell.ljust(width)
            for title, cell, width in zip(titles, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def markdown_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = ()
) -> str:
    """Write the table in Markdown, without a final newline; arguments as of `text_table`. `|` becomes `/`."""
    rules = ["---:" if title in right else "---" for title in titles]
    lines = [titles, rules, *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
