"""Cross-talk: how far the other heads move when one degradation goes from nothing to severe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quality_model.evaluation.ladders import ScoredLadder
from quality_model.records import HEADS


def cross_talk(scored: Sequence[ScoredLadder]) -> dict[str, dict[str, float | None]]:
    """Mean movement of each head between the clean picture and the severest level.

    Args:
        scored: Ladders that were scored; those of one head count the same.

    Returns:
        By degraded head, then by moved head: mean over pictures of score (severe) - score
        (clean), signed, in [-1, 1]. A degraded head's own entry is how far it rises itself.
        None where there is no ladder or no picture.
    """
    matrix: dict[str, dict[str, float | None]] = {}
    for degraded in HEADS:
        movements = [
            (one.scores[:, -1] - one.scores[:, 0]).mean(axis=0)  # (4,)
            for one in scored
            if one.ladder.head == degraded and len(one.scores)
        ]
        mean = np.mean(movements, axis=0) if movements else None
        matrix[degraded] = {
            moved: None if mean is None else float(mean[position]) for position, moved in enumerate(HEADS)
        }
    return matrix


def largest_movement(matrix: Mapping[str, Mapping[str, Any]], head: str) -> float | None:
    """The largest absolute movement of a head while another degradation becomes severe; None if unknown."""
    movements = [matrix[degraded][head] for degraded in HEADS if degraded != head]
    return None if None in movements else max(abs(movement) for movement in movements)
