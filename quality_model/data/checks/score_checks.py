"""What is expected of the scores of a job, as a whole: one row for the job, one for each column of scores."""

from quality_model.data.checks.expectations import Table, among, between, validate
from quality_model.score.summary import REPORT_NAME, ScoreSummary


def validate_scores(summary: ScoreSummary) -> None:
    """Validate the aggregates of a scoring job; the report goes to its folder (see `expectations.validate`).

    The job itself has compared every row with its plan.

    Raises:
        ValidationError: Names each failed expectation.
    """
    import pandas as pd

    num_errors = sum(summary.errors.values())
    unaccounted = summary.inputs - summary.scored - num_errors
    job = pd.DataFrame({"output": ["scores"], "inputs": [summary.inputs], "unaccounted": [unaccounted]})
    ranges = [(name, one.low, one.high, one.nulls - num_errors) for name, one in summary.ranges.items()]
    columns = pd.DataFrame(ranges, columns=["column", "lowest", "highest", "misplaced_nulls"])
    of_job = [
        between("inputs", 1, None, "There is a row for at least one input."),
        among("unaccounted", [0], "Every input has either scores or an error code."),
    ]
    of_columns = [
        between("lowest", 0.0, 1.0, "No score is below 0."),
        between("highest", 0.0, 1.0, "No score is above 1."),
        among("misplaced_nulls", [0], "A score is null exactly where there is an error code."),
    ]
    tables = [
        Table("job", job, ("output",), of_job),
        Table("columns", columns.astype({"lowest": float, "highest": float}), ("column",), of_columns),
    ]
    validate("scores", tables, summary.output / REPORT_NAME)
