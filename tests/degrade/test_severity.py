"""A severity is a function of one measure: 0 at nothing, 1 at the worst, and rising between."""

import re

import numpy as np
import pytest

from quality_model.degrade import severity
from quality_model.degrade.severity import SCALES, SeverityScale
from quality_model.records import HEADS

ALL = [pytest.param(SCALES[head], id=head) for head in HEADS]


@pytest.mark.parametrize("scale", ALL)
def test_nothing_has_severity_0_and_the_worst_and_worse_have_1(scale: SeverityScale) -> None:
    assert scale.severity(0.0) == 0.0
    assert scale.severity(scale.worst) == pytest.approx(1.0)
    assert scale.severity(10 * scale.worst) == 1.0


@pytest.mark.parametrize("scale", ALL)
def test_a_larger_measure_is_more_severe_up_to_the_worst(scale: SeverityScale) -> None:
    severities = [scale.severity(measure) for measure in np.linspace(0.0, scale.worst, 200)]

    assert np.all(np.diff(severities) > 0)


@pytest.mark.parametrize("scale", ALL)
@pytest.mark.parametrize("wanted", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_measure_of_a_severity_has_that_severity(scale: SeverityScale, wanted: float) -> None:
    assert scale.severity(scale.measure_at(wanted)) == pytest.approx(wanted)


@pytest.mark.parametrize("head", HEADS)
def test_the_table_of_the_docstring_is_true(head) -> None:
    (row,) = re.findall(rf"^\| {head} \|.*$", severity.__doc__ or "", flags=re.MULTILINE)
    *_, knee, worst, quarter, half, three_quarters = (cell.strip() for cell in row.strip("|").split("|"))

    scale = SCALES[head]
    assert (scale.knee, scale.worst) == (float(knee), float(worst))
    for told, wanted in ((quarter, 0.25), (half, 0.5), (three_quarters, 0.75)):
        assert float(told) == pytest.approx(scale.measure_at(wanted), rel=0.04)
