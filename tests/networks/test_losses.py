import pytest
import torch

from quality_model.networks.losses import weighted_mse

WEIGHTS = torch.tensor([1.0, 1.0, 1.5, 1.0])


def test_the_loss_is_the_mean_over_heads_of_weight_times_mse() -> None:
    scores = torch.tensor([[0.5, 0.0, 0.0, 1.0], [0.5, 0.0, 0.4, 1.0]])
    labels = torch.tensor([[0.0, 0.0, 0.2, 1.0], [0.5, 0.0, 0.0, 0.0]])
    loss, per_head = weighted_mse(scores, labels, WEIGHTS)
    assert per_head.tolist() == pytest.approx([0.125, 0.0, 0.1, 0.5])
    assert loss.item() == pytest.approx((0.125 + 0.0 + 1.5 * 0.1 + 0.5) / 4)


def test_perfect_scores_cost_nothing() -> None:
    labels = torch.rand(5, 4)
    loss, per_head = weighted_mse(labels, labels, WEIGHTS)
    assert loss.item() == 0.0
    assert per_head.tolist() == [0.0] * 4


def test_the_worst_scores_cost_the_mean_weight() -> None:
    loss, _ = weighted_mse(torch.ones(3, 4), torch.zeros(3, 4), WEIGHTS)
    assert loss.item() == pytest.approx(4.5 / 4)


def test_a_head_of_weight_zero_gets_no_gradient() -> None:
    scores = torch.full((2, 4), 0.5, requires_grad=True)
    loss, _ = weighted_mse(scores, torch.zeros(2, 4), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    torch.autograd.backward(loss)
    assert scores.grad is not None
    assert scores.grad[:, 1].tolist() == [0.0, 0.0]
    assert (scores.grad[:, 0] > 0).all()


def test_scores_in_bfloat16_are_compared_in_float32() -> None:
    scores = torch.full((1000, 4), 0.5, dtype=torch.bfloat16)
    loss, per_head = weighted_mse(scores, torch.full((1000, 4), 0.499), torch.ones(4))
    assert loss.dtype == per_head.dtype == torch.float32
    assert loss.item() == pytest.approx(1e-6, rel=1e-3)


def test_a_label_that_is_not_a_number_shows_in_the_loss() -> None:
    labels = torch.zeros(2, 4)
    labels[1, 2] = float("nan")
    loss, per_head = weighted_mse(torch.zeros(2, 4), labels, WEIGHTS)
    assert loss.isnan()
    assert per_head.isnan().tolist() == [False, False, True, False]
