"""Batch scoring as a Prefect task, and the artifact that shows what it flagged."""

import re
from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from quality_model.core.decoding import Pixels
from quality_model.core.figures import markdown_table
from quality_model.curate.finished import open_finished
from quality_model.data.checks.score_checks import validate_scores
from quality_model.errors import redacted
from quality_model.params import LimitsParams, ScoreParams
from quality_model.records import FLAG_COLUMNS, HEADS
from quality_model.release.pages import jpeg_url
from quality_model.score import job
from quality_model.score.compare import read_again
from quality_model.score.inputs import InputChoice
from quality_model.score.selection import Kind
from quality_model.score.summary import ScoreSummary
from tasks.failures import can_heal
from tasks.naming import name_run

_SHOWN: Final = 12
_COLUMNS: Final = 4
"""Of the sheet, which has up to so many thumbnails."""


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=can_heal)
def score(
    section: ScoreParams,
    limits: LimitsParams,
    root: Path,
    inputs: Path,
    output: Path,
    *,
    kind: Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> ScoreSummary:
    """Score a collection; asked again for the same output, it resumes."""
    summary = job.score(
        section,
        limits,
        root=root,
        inputs=inputs,
        output=output,
        choice=InputChoice(kind, image_column, key_column),
        check=validate_scores,
    )
    lines = "\n".join(summary.lines())
    get_run_logger().info(lines)
    name_run(f"{inputs.name} by {summary.model.title}")
    sheet = flagged_sheet(summary, inputs, section, limits)
    markdown = f"## {_escaped(inputs.name)} by {summary.model.title}\n\n```\n{lines}\n```\n\n{sheet}"
    create_markdown_artifact(markdown, key="scores", description=f"Scores of {inputs}")
    return summary


def flagged_sheet(summary: ScoreSummary, inputs: Path, section: ScoreParams, limits: LimitsParams) -> str:
    """Thumbnails of the flagged images, the worst first, as a table in Markdown.

    The images are in the text: both user interfaces of Prefect show them, and nothing has to be served.
    """
    flagged = reduce(or_, map(pc.field, FLAG_COLUMNS.values()))
    columns = ["key", *HEADS, "worst_score", *FLAG_COLUMNS.values()]
    batches = open_finished(summary.output).batches(columns)
    worst, order = pa.table({}), [("worst_score", "descending"), ("key", "ascending")]
    for batch in batches:  # so that memory does not grow with the result
        found = pa.Table.from_batches([batch]).filter(flagged)
        both = [worst, found] if worst.num_rows else [found]
        worst = pa.concat_tables(both).sort_by(order).slice(0, _SHOWN)
    rows = worst.to_pylist()
    if not rows:
        return "No image is flagged."
    thumbnails = read_again(summary.output, inputs, [row["key"] for row in rows], section, limits)
    cells = [_cell(row, pixels) for row, pixels in zip(rows, thumbnails, strict=True)]
    cells += [""] * (-len(cells) % _COLUMNS)
    lines = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    return f"### Flagged, the worst first\n\n{markdown_table([' '] * _COLUMNS, lines)}\n"


def _cell(row: Mapping[str, Any], pixels: Pixels | None) -> str:
    shown = "(not readable any more)" if pixels is None else f"![]({jpeg_url(pixels)})"
    flags = ", ".join(f"{head} {row[head]:.2f}" for head, name in FLAG_COLUMNS.items() if row[name])
    return f"{shown}<br>{_escaped(row['key'])}<br>{flags}"


def _escaped(name: str) -> str:
    """A name as text in Markdown and HTML, without credentials."""
    return re.sub(r"[^A-Za-z0-9./ -]", lambda found: f"&#{ord(found[0])};", redacted(name))
