"""What the gate reads: the candidate's evidence, and both models head to head on one test split.

Where a champion reigns, both are scored in one call: theirs is a paired comparison. The rest of the
candidate's evidence (ladders, cross-talk, clean flags, slices, baselines) takes most of the time. It
is taken over from the evaluation's report if that is about the same model, by its hash, on the same
data and groups, measured alike, and is measured here if not. Of the champion nothing else is asked.
Test groups that either model, or the weights it began with, has seen in training count in no figure.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from quality_model.core import storage
from quality_model.data.split import seen_by, seen_test_groups
from quality_model.errors import StorageError
from quality_model.evaluate import evaluate, metrics
from quality_model.evaluate.baselines import measure_baselines
from quality_model.evaluate.measures import DETAILS_NAME, measuring, score_split
from quality_model.params import EvaluateParams, PerHead
from quality_model.records import HEADS

if TYPE_CHECKING:
    import pandas as pd

    from quality_model.data.dataset import TrainingSet
    from quality_model.networks.checkpoints import LoadedModel

_log = logging.getLogger(__name__)

_SUMMARY: Final = ("mse", "r2")
"""The measures of each head that the ledger keeps."""

_OF_BASELINES: Final = ("baseline_samples", "seed", "baseline_version")
"""What of `measuring` decides about the baselines."""


class Evidence(NamedTuple):
    """See `quality_model.release.gate.Evidence`; ``champion`` and ``paired`` are None where none reigns."""

    candidate: dict[str, Any]
    champion: dict[str, Any] | None
    paired: dict[str, Any] | None

    def summary(self) -> dict[str, Any]:
        """MSE and R2 of each head of both, and their difference with its interval."""
        sides = {"candidate": self.candidate, "champion": self.champion}
        return {
            **{
                name: side and {head: {key: side["heads"][head][key] for key in _SUMMARY} for head in HEADS}
                for name, side in sides.items()
            },
            "paired": self.paired,
        }


def gather_evidence(
    section: EvaluateParams,
    samples: TrainingSet,
    candidate: LoadedModel,
    champion: LoadedModel | None,
    *,
    model_sha256: str,
    loss_weights: PerHead,
    evaluation: Path,
) -> Evidence:
    """Measure candidate and champion on the test split.

    Args:
        section: How.
        samples: Holds the test split.
        candidate: Of this image size, and so is the champion.
        champion: None if there is none.
        model_sha256: Of the candidate's folder.
        loss_weights: Weight of each head in the loss.
        evaluation: Folder of the evaluation's report, which serves as far as it is about the same.

    Raises:
        UsageError: The test split has no samples.
    """
    ours = None
    excluded = seen_test_groups([model.facts for model in (candidate, champion) if model], samples)
    measured = known_evaluation(section, evaluation, samples.data_sha256, model_sha256, excluded)
    if measured is None:
        baselines = known_baselines(section, evaluation, samples.data_sha256, excluded) or measure_baselines(
            samples, max_samples=section.baseline_samples, seed=section.seed, excluded_groups=excluded
        )
        evaluated = evaluate(
            section,
            candidate.model,
            samples,
            loss_weights=loss_weights.as_dict(),
            thresholds=candidate.thresholds,
            baselines=baselines,
            model_sha256=model_sha256,
            excluded_groups=excluded,
        )
        measured, ours = evaluated.metrics, evaluated.predictions
    sides = {"candidate": candidate, "champion": champion}
    silent = [name for name, side in sides.items() if side and seen_by(side.facts, samples) is None]
    measured = {**measured, "silent_models": silent}
    if champion is None:
        return Evidence(measured, None, None)
    if ours is None:
        ours = score_split(section, candidate.model, samples, excluded_groups=excluded)
    theirs = score_split(section, champion.model, samples, excluded_groups=excluded)
    reigning = {
        "split": "test",
        "data_sha256": samples.data_sha256,
        "heads": _in_short(theirs),
    }
    return Evidence(measured, reigning, compare_scores(section, ours, theirs))


def known_evaluation(
    section: EvaluateParams,
    folder: Path,
    data_sha256: str,
    model_sha256: str,
    excluded_groups: Sequence[str] = (),
) -> dict[str, Any] | None:
    """An earlier evaluation of the same model on the same test groups, measured alike; or None."""
    earlier = _earlier(folder, data_sha256, excluded_groups)
    same = earlier.get("model_sha256") == model_sha256 and earlier.get("measuring") == measuring(section)
    return earlier if same and _complete(earlier) else None


def known_baselines(
    section: EvaluateParams, folder: Path, data_sha256: str, excluded_groups: Sequence[str] = ()
) -> dict[str, Any] | None:
    """The baselines of an earlier evaluation on the same test groups, measured alike; or None."""
    earlier = _earlier(folder, data_sha256, excluded_groups)
    was, now = earlier.get("measuring", {}), measuring(section)
    same = all(was.get(key) == now[key] for key in _OF_BASELINES)
    return earlier["baselines"] if same and _complete(earlier) else None


def _earlier(folder: Path, data_sha256: str, excluded_groups: Sequence[str]) -> dict[str, Any]:
    """What an earlier evaluation on the same test groups of these data found; empty if there is none."""
    path = folder / DETAILS_NAME
    if not path.exists():
        return {}
    try:
        found = storage.read_json(path)
    except StorageError as error:
        _log.warning("The gate measures again: %s", error.problem)
        return {}
    match found:
        case {"split": "test", "data_sha256": str(digest), "measuring": dict()} if digest == data_sha256:
            return dict(found) if found.get("excluded_groups") == list(excluded_groups) else {}
    return {}


def _complete(evaluation: Mapping[str, Any]) -> bool:
    """Whether the baselines of every head were measured."""
    baselines = evaluation.get("baselines")
    return isinstance(baselines, dict) and all(baselines.get(head) for head in HEADS)


def compare_scores(section: EvaluateParams, first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    """How much worse the first model's MSE is than the second's, for each head.

    Args:
        section: Bootstrap.
        first: Predictions, see `predictions_table`.
        second: Of the same samples in the same order.

    Returns:
        By head ``difference``, ``low`` and ``high`` (see `metrics.paired_bootstrap`), None where
        they are not defined, and ``num_groups``.
    """
    assert list(first["sample_id"]) == list(second["sample_id"])
    groups = first["group"].to_numpy()
    compared: dict[str, Any] = {}
    for head in HEADS:
        labels = first[f"{head}_label"].to_numpy()
        ours, theirs = (table[f"{head}_score"].to_numpy() for table in (first, second))
        ends = metrics.paired_bootstrap(
            labels,
            ours,
            theirs,
            groups,
            samples=section.bootstrap_samples,
            confidence=section.confidence,
            seed=section.seed,
        )
        error, other = metrics.mse(labels, ours), metrics.mse(labels, theirs)
        compared[head] = {
            "difference": None if error is None or other is None else error - other,
            "low": ends.low if ends else None,
            "high": ends.high if ends else None,
            "num_groups": len(set(groups)),
        }
    return compared


def _in_short(predictions: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """MSE and R2 of each head."""
    pairs = {
        head: (predictions[f"{head}_label"].to_numpy(), predictions[f"{head}_score"].to_numpy())
        for head in HEADS
    }
    return {head: {"mse": metrics.mse(*pair), "r2": metrics.r2(*pair)} for head, pair in pairs.items()}
