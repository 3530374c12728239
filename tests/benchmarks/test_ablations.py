"""An ablation is what it says: its defect is there wherever it trains, and its samples are counted."""

from types import SimpleNamespace

import pytest

from benchmarks.ablations import num_trained
from quality_model.params import Params


@pytest.mark.parametrize(("samples", "expected"), [("fresh", 6 * 1422), ("stored", 6 * 80)])
def test_the_samples_that_a_run_was_trained_on_are_counted(
    params: Params, samples: str, expected: int
) -> None:
    values = {"samples": samples, "samples_per_epoch": 1422, "batch_size": 16}
    # 81 stored samples: the last is alone in its batch, and sits out.
    trained = SimpleNamespace(history=[None] * 6, num_train=81)
    assert num_trained(params.train.model_copy(update=values), trained) == expected
