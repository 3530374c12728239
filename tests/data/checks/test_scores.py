"""The scores of a job are validated once, from aggregates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quality_model.data.checks.score_checks import validate_scores
from quality_model.errors import ValidationError
from quality_model.records import HEADS, ModelRef
from quality_model.score import ScoreSummary, ScoringModel
from quality_model.score.summary import Range


@pytest.fixture
def summary(tmp_path: Path) -> ScoreSummary:
    """Of ten inputs, of which two have no scores."""
    return ScoreSummary(
        output=tmp_path,
        model=ScoringModel(ModelRef("m", None, None, "a" * 64), 32, None),
        inputs=10,
        scored=8,
        errors={"empty": 2},
        skipped={},
        parts=1,
        parts_before=0,
        elapsed_s=1.0,
        images_per_s=8.0,
        quantiles={},
        ranges=dict.fromkeys((*HEADS, "overall", "worst_score"), Range(0.0, 1.0, 2)),
        flagged={},
    )


def test_a_sound_job_passes_and_leaves_a_report(summary: ScoreSummary, tmp_path: Path) -> None:
    validate_scores(summary)
    assert json.loads((tmp_path / "report" / "validation.json").read_text())["passed"] is True


def test_a_job_without_one_score_passes(summary: ScoreSummary) -> None:
    nothing = dict.fromkeys(summary.ranges, Range(None, None, 10))
    validate_scores(replace(summary, scored=0, errors={"empty": 10}, ranges=nothing))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scored": 7}, "unaccounted"),
        ({"ranges": {"noise": Range(-0.1, 0.5, 2)}}, "lowest.*\n*.*noise"),
        ({"ranges": {"noise": Range(0.1, 1.5, 2)}}, "highest"),
        ({"ranges": {"noise": Range(0.1, 0.5, 1)}}, "misplaced_nulls"),
    ],
)
def test_each_defect_is_named(summary: ScoreSummary, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        validate_scores(replace(summary, **changes))
