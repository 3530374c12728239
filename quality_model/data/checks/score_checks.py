"""What is expected of the scores of a job, as a whole: one row for the job, one for each column of scores."""

import math
from typing import Any

from quality_model.core.measures import MEASURES, Measure
from quality_model.data.checks.expectations import Expectation, Table, accept, among, between, validate
from quality_model.score.summary import REPORT_NAME, Range, ScoreSummary


def validate_scores(summary: ScoreSummary) -> None:
    """Validate the aggregates of a scoring job; the report goes to its folder (see `expectations.validate`).

    The job itself has compared every row with its plan.

    Raises:
        ValidationError: Names each failed expectation.
    """
    import pandas as pd

    tables = [
        Table(name, pd.DataFrame(columns), (next(iter(columns)),), expectations)
        for name, columns, expectations in _expected(summary)
    ]
    validate("scores", tables, summary.output / REPORT_NAME)


def check_scores(summary: ScoreSummary) -> None:
    """`validate_scores` for a command: Great Expectations takes longer to import than a small job takes.

    So it is asked for a failure alone (see `expectations.accept`).

    Raises:
        ValidationError: Names each failed expectation.
    """
    if not accept("scores", _expected(summary), summary.output / REPORT_NAME):
        validate_scores(summary)


def _expected(summary: ScoreSummary) -> list[tuple[str, dict[str, list[Any]], list[Expectation]]]:
    """Name, columns and expectations of each table; its first column identifies a row."""
    num_errors = sum(summary.errors.values())
    ranges = summary.ranges.values()
    job: dict[str, list[Any]] = {
        "output": ["scores"],
        "inputs": [summary.inputs],
        "unaccounted": [summary.planned - summary.inputs],
    }
    columns: dict[str, list[Any]] = {
        "column": [*summary.ranges],
        "lowest": [math.nan if one.low is None else one.low for one in ranges],
        "highest": [math.nan if one.high is None else one.high for one in ranges],
        "misplaced_nulls": [one.nulls - num_errors for one in ranges],
    }
    of_job = [
        between("inputs", 1, None, "There is a row for at least one input."),
        among("unaccounted", [0], "Every input has either scores or an error code."),
    ]
    of_columns = [
        between("lowest", 0.0, 1.0, "No score is below 0."),
        between("highest", 0.0, 1.0, "No score is above 1."),
        among("misplaced_nulls", [0], "A score is null exactly where there is an error code."),
    ]
    tables = [("job", job, of_job), ("columns", columns, of_columns)]
    if summary.measured:
        asked = [each for each in MEASURES if each.name in summary.measured]
        measured: dict[str, list[Any]] = {
            "measure": [each.name for each in asked],
            "out_of_range": [_is_outside(summary.measured[each.name], each) for each in asked],
            "missing_nulls": [max(0, num_errors - summary.measured[each.name].nulls) for each in asked],
        }
        of_measures = [
            among("out_of_range", [0], "Every measure is within its range."),
            among("missing_nulls", [0], "A measure is null where there is an error code."),
        ]
        tables.append(("measures", measured, of_measures))
    return tables


def _is_outside(found: Range, measure: Measure) -> int:
    """1 if a value is not in the range of its measure, or not a number; else 0."""
    if found.low is None or found.high is None:
        return 0
    high = math.inf if measure.high is None else measure.high
    return int(not measure.low <= found.low <= found.high <= high)
