"""Batch scoring as a step: the model that a reference names, its scores, and the check of them."""

from pathlib import Path

from quality_model.core import processes
from quality_model.core.inference import MultiHeadQualityInference
from quality_model.data.checks import validate_scores
from quality_model.params import LimitsParams, RegistryParams, ScoreParams
from quality_model.score import Kind, ModelIdentity, ScoreSummary, planned_engine, score
from quality_model.score.summary import REPORT_NAME


def score_collection(
    section: ScoreParams,
    limits: LimitsParams,
    *,
    root: Path,
    inputs: Path,
    output: Path,
    overwrite: bool = False,
    registry: RegistryParams | None = None,
    kind: Kind | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> ScoreSummary:
    """Score a collection with the model that ``section.model`` names, and check the scores.

    Args:
        section: Model, shards, workers, device, and the share of errors that is allowed.
        limits: What an image may be.
        root: The project folder, whose registry a reference means.
        inputs: A folder of images, Parquet files or tar shards.
        output: Folder of the result; the expectations' results go to ``output/report``.
        overwrite: Throw away another job's result in ``output``.
        registry: Registry parameters; by default those of the project's params.yaml.
        kind: ``images``, ``tar`` or ``parquet``: what to score where ``inputs`` has several kinds.
        image_column: The column of images of Parquet files; by default it is found.
        key_column: The column of keys of Parquet files; by default it is found.

    Raises:
        UsageError, InputErrorsAboveLimit, StorageError: See `quality_model.score.score`.
        ModelNotFoundError, CheckpointError: The model cannot be had.
        ValidationError: The scores break their contract; the result has no completion marker.
    """
    processes.end_if_imported_again()  # before the model is loaded
    engine = planned_engine(output) if section.engine == "auto" else section.engine
    scorer = MultiHeadQualityInference(
        section.model,
        section.device,
        limits,
        root=root,
        registry=registry,
        engine=engine,
        batch_size=section.batch_size,
    )
    return score(
        section,
        limits,
        inputs=inputs,
        output=output,
        scorer=scorer,
        model=ModelIdentity.of(scorer),
        overwrite=overwrite,
        check=lambda job: validate_scores(output, job, output / REPORT_NAME),
        kind=kind,
        image_column=image_column,
        key_column=key_column,
    )
