"""The check of a job's scores: what is out of place is named, and a sound job needs no Great Expectations."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quality_model.data.checks.score_checks import check_scores, validate_scores
from quality_model.errors import ValidationError
from quality_model.score.summary import Range, ScoreSummary


@pytest.fixture
def summary(tmp_path: Path) -> ScoreSummary:
    """A sound job of five inputs, of which one has an error code."""
    return ScoreSummary(
        tmp_path,
        SimpleNamespace(),  # type: ignore[arg-type]
        skipped={},
        planned=5,
        parts=1,
        inputs=5,
        ranges={"blurriness": Range(0.0, 0.7, 1), "noise": Range(0.25, 1.0, 1)},
        measured={"entropy": Range(0.0, 8.0, 1), "phash": Range(-(2**63), 7, 1), "blocking": Range(nulls=5)},
        _errors=Counter(empty=1),
    )


def report(summary: ScoreSummary) -> bytes:
    return (summary.output / "report" / "validation.json").read_bytes()


@pytest.mark.parametrize("nothing_scored", [False, True])
def test_a_sound_job_has_the_same_outcomes_with_and_without_great_expectations(
    summary: ScoreSummary, nothing_scored: bool
) -> None:
    if nothing_scored:
        ranges = {"noise": Range(None, None, 5)}
        measured = {"entropy": Range(None, None, 5)}
        summary = replace(summary, _errors=Counter(empty=5), ranges=ranges, measured=measured)
    validate_scores(summary)
    validated = report(summary)
    check_scores(summary)
    assert report(summary) == validated
    assert json.loads(validated)["passed"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"planned": 6}, "Every input has either scores or an error code."),
        ({"inputs": 0}, "There is a row for at least one input."),
        ({"ranges": {"noise": Range(-0.1, 0.5, 1)}}, "No score is below 0."),
        ({"ranges": {"noise": Range(0.1, 1.5, 1)}}, "No score is above 1."),
        ({"ranges": {"noise": Range(0.1, 0.5, 2)}}, "null exactly where there is an error code"),
        ({"measured": {"entropy": Range(0.0, 8.5, 1)}}, "Every measure is within its range."),
        ({"measured": {"jpeg_quality": Range(0, 90, 1)}}, "Every measure is within its range."),
        ({"measured": {"entropy": Range(1.0, 2.0, 0)}}, "A measure is null where there is an error code."),
    ],
)
def test_what_is_out_of_place_is_named(summary: ScoreSummary, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        check_scores(replace(summary, **change))
    assert not json.loads(report(summary))["passed"]
    assert [path.name for path in (summary.output / "report").iterdir()] == ["validation.json"]
