"""What is expected of the scores of a job, as a whole: one row for the job, one for each column of scores."""

from quality_model.data.checks.expectations import Table, among, between, validate
from quality_model.score.result import REPORT_NAME, ScoreSummary


def validate_scores(summary: ScoreSummary) -> None:
    """Validate the aggregates of a scoring job; the report goes to its folder (see `expectations.validate`).

    The job itself has compared every row with its plan.

    Raises:
        ValidationError: Names each failed expectation.
    """
    import pandas as pd

    num_errors = sum(summary.errors.values())
    job = pd.DataFrame(
        {
            "output": ["scores"],
            "inputs": [summary.inputs],
            "unaccounted": [summary.inputs - summary.scored - num_errors],
        }
    )
    columns = pd.DataFrame(
        [
            {
                "column": name,
                "lowest": found.low,
                "highest": found.high,
                "misplaced_nulls": found.nulls - num_errors,
            }
            for name, found in summary.ranges.items()
        ]
    ).astype({"lowest": "float64", "highest": "float64"})
    tables = [
        Table(
            "job",
            job,
            ("output",),
            [
                between("inputs", 1, None, "There is a row for at least one input."),
                among("unaccounted", [0], "Every input has either scores or an error code."),
            ],
        ),
        Table(
            "columns",
            columns,
            ("column",),
            [
                between("lowest", 0.0, 1.0, "No score is below 0."),
                between("highest", 0.0, 1.0, "No score is above 1."),
                among("misplaced_nulls", [0], "A score is null exactly where there is an error code."),
            ],
        ),
    ]
    validate("scores", tables, summary.output / REPORT_NAME)
