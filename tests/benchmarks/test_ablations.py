"""An ablation is what it says: its defect is there wherever it trains, and its samples are counted."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.ablations import num_trained
from benchmarks.defects import Defective
from quality_model.params import Params
from quality_model.train.samples import can_degrade_in_batches


def test_a_profile_with_a_defect_is_not_taken_for_the_sound_one_on_an_accelerator() -> None:
    assert not can_degrade_in_batches(Defective(random_order=True), torch.device("cuda"))


@pytest.mark.parametrize(("samples", "expected"), [("fresh", 6 * 1422), ("stored", 6 * 80)])
def test_the_samples_that_a_run_was_trained_on_are_counted(
    params: Params, samples: str, expected: int
) -> None:
    values = {"samples": samples, "samples_per_epoch": 1422, "batch_size": 16}
    # 81 stored samples: the last is alone in its batch, and sits out.
    trained = SimpleNamespace(history=[None] * 6, num_train=81)
    assert num_trained(params.train.model_copy(update=values), trained) == expected
