"""The worst images of a scoring result as text for a terminal."""

from collections.abc import Iterator
from pathlib import Path

from quality_model.records import FLAG_COLUMNS, HEADS
from quality_model.score.parts import DATA_FOLDER


def worst_first(output: Path, count: int = 20) -> Iterator[str]:
    """A heading, and a line for each of the images with the highest score of any head.

    A score above its head's threshold is followed by ``*``; an input without scores shows its error code.

    Args:
        output: Folder of a complete result.
        count: Most images.
    """
    import pyarrow.dataset as ds

    columns = ["key", *HEADS, "overall", "worst_score", "error_code", *FLAG_COLUMNS.values()]
    table = ds.dataset(output / DATA_FOLDER, format="parquet").to_table(columns=columns)
    rows = table.sort_by([("worst_score", "descending"), ("key", "ascending")]).slice(0, count).to_pylist()
    width = max((len(row["key"]) for row in rows), default=0)
    yield "  ".join([f"{'image':{width}}", *(f"{head:>10}" for head in HEADS), f"{'overall':>7}"])
    for row in rows:
        if row["error_code"] is not None:
            yield f"{row['key']:{width}}  {row['error_code']}"
            continue
        cells = (f"{row[head]:9.2f}{'*' if row[flag] else ' '}" for head, flag in FLAG_COLUMNS.items())
        yield "  ".join([f"{row['key']:{width}}", *cells, f"{row['overall']:7.2f}"])
