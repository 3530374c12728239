"""Tables of text cells: aligned for a terminal, and as Markdown."""

from collections.abc import Collection, Iterable, Sequence


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
