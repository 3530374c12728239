"""The training loss."""

from torch import Tensor


def weighted_mse(scores: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over heads of weight x mean squared error, as the original design has it.

    Args:
        scores: float (N, heads) in [0, 1], any float format; computed on in float32.
        labels: float32 (N, heads) in [0, 1].
        weights: float32 (heads,), one weight per head.

    Returns:
        The loss, float32 (), and each head's unweighted MSE, float32 (heads,), both with
        their gradient.
    """
    per_head = (scores.float() - labels).square().mean(dim=0)
    return (weights * per_head).mean(), per_head
