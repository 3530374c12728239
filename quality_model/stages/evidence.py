"""What the gate reads: both models measured on one test set in one call, and head to head."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from quality_model import metrics, storage
from quality_model.errors import StorageError
from quality_model.evaluation import Evaluation, evaluate
from quality_model.evaluation.measures import DETAILS_NAME
from quality_model.params import EvaluateParams, PerHead
from quality_model.records import HEADS

if TYPE_CHECKING:
    import pandas as pd

    from quality_model.checkpoints import LoadedModel
    from quality_model.training_set.store import TrainingSet

_log = logging.getLogger(__name__)

_SUMMARY: Final = ("mse", "r2")
"""The measures of each head that the ledger keeps."""


class Evidence(NamedTuple):
    """See `quality_model.gates.Evidence`; ``champion`` and ``paired`` are None where none reigns."""

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
    loss_weights: PerHead,
    evaluation: Path,
) -> Evidence:
    """Measure candidate and champion on the test split.

    Args:
        section: How.
        samples: Holds the test split.
        candidate: Of this picture size, and so is the champion.
        champion: None if there is none.
        loss_weights: Weight of each head in the loss.
        evaluation: Folder of the evaluation's report, whose baselines serve if they are of these data.

    Raises:
        UsageError: The test split has no samples.
    """
    baselines = known_baselines(evaluation, samples.data_sha256)
    if baselines is None:
        from quality_model.evaluation.baselines import measure_baselines

        baselines = measure_baselines(
            samples, split="test", max_samples=section.baseline_samples, seed=section.seed
        )

    def measure(loaded: LoadedModel, of_data: Mapping[str, Any] | None) -> Evaluation:
        return evaluate(
            section,
            loaded.model,
            samples,
            loss_weights=loss_weights.as_dict(),
            thresholds=loaded.thresholds,
            baselines=of_data,
        )

    first = measure(candidate, baselines)
    if champion is None:
        return Evidence(_with_origin(first, candidate), None, None)
    second = measure(champion, None)
    return Evidence(
        _with_origin(first, candidate),
        _with_origin(second, champion),
        compare_scores(section, first.predictions, second.predictions),
    )


def known_baselines(folder: Path, data_sha256: str) -> dict[str, Any] | None:
    """The baselines of an earlier evaluation on the test split of the same data, or None.

    They hang on the data and not on the model, so they need not be measured again.
    """
    path = folder / DETAILS_NAME
    if not path.exists():
        return None
    try:
        earlier = storage.read_json(path)
    except StorageError as error:
        _log.warning("The baselines are measured again: %s", error.problem)
        return None
    match earlier:
        case {"split": "test", "data_sha256": str(digest), "baselines": dict(found)}:
            complete = digest == data_sha256 and all(found.get(head) for head in HEADS)
            return found if complete else None
    return None


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


def _with_origin(evaluation: Evaluation, loaded: LoadedModel) -> dict[str, Any]:
    return {**evaluation.metrics, "trained_on_sha256": loaded.facts.get("data_sha256")}
