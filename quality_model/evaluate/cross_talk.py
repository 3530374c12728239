"""Cross-talk: how far the other heads move when one degradation goes from nothing to severe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quality_model.evaluate.ladders import ScoredLadder
from quality_model.records import HEADS


def cross_talk(scored: Sequence[ScoredLadder]) -> dict[str, dict[str, float | None]]:
    """Movement of each head between the clean image and the severest level, on the worst ladder.

    Args:
        scored: Ladders that were scored.

    Returns:
        By degraded head, then by moved head. Of another head: the mean over images of the
        absolute difference of its scores, in [0, 1], so that images that move up do not make
        up for those that move down; the ladder on which that is largest counts. Of the degraded
        head itself: how far its mean score rises, in [-1, 1], on the ladder on which it rises
        least. None where there is no ladder or no image.
    """
    matrix: dict[str, dict[str, float | None]] = {}
    for degraded in HEADS:
        movements = [
            one.scores[:, -1] - one.scores[:, 0]  # (images, 4)
            for one in scored
            if one.ladder.head == degraded and len(one.scores)
        ]
        matrix[degraded] = dict.fromkeys(HEADS)
        for position, moved in enumerate(HEADS):
            if movements and moved == degraded:
                matrix[degraded][moved] = min(float(one[:, position].mean()) for one in movements)
            elif movements:
                matrix[degraded][moved] = max(float(np.abs(one[:, position]).mean()) for one in movements)
    return matrix


def largest_movement(matrix: Mapping[str, Mapping[str, Any]], head: str) -> float | None:
    """The largest movement of a head while another degradation becomes severe; None if unknown."""
    movements = [matrix[degraded][head] for degraded in HEADS if degraded != head]
    return None if None in movements else max(movements)
