"""Zero-training baselines as runs of their own, so that they stand beside the models in the UI.

A baseline hangs on the data and on nothing that is trained, so there is one run for each data
set, baseline and way to measure. Its key is a hash of these: whoever reports it again, here or
on another machine, before or after a pause of the server, means the same run.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from quality_model.errors import RegistryError, StorageError
from quality_model.params import RegistryParams, values_sha256
from quality_model.release.mlflow_connection import connect, mlflow_errors
from quality_model.release.tracking.mlflow_calls import KEY_TAG
from quality_model.release.tracking.run import DataFacts, is_waiting, start_run

log = logging.getLogger(__name__)

KIND: Final = "baseline"
_KEY_LENGTH: Final = 16
_MOST_FOUND: Final = 1000


def log_baselines(
    root: Path,
    section: RegistryParams,
    measured: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    *,
    data: DataFacts,
    settings: Mapping[str, object],
    tags: Mapping[str, object] | None = None,
) -> list[str]:
    """Report each baseline that has no finished run for these data and settings yet.

    Runs are called ``baseline/<head>/<name>`` and tagged ``kind=baseline``; their metrics have the
    names of the model's own, such as ``test.noise.r2``. A server that is down is no error: what
    it does not take waits on disk like any run's reports.

    Args:
        root: The project folder.
        section: Names the experiment.
        measured: By head, baseline and measure; None is left out.
        data: What they were calibrated and measured on.
        settings: How, by name: the version, the samples used; they become parameters of the run.
        tags: More tags.

    Returns:
        The names of the runs that were reported now.

    Raises:
        UsageError: MLFLOW_TRACKING_URI is not an address.
    """
    finished = _finished_keys(root, section, data.sha256)
    reported = []
    for head, baselines in measured.items():
        for name, measures in baselines.items():
            params = {"baseline.head": head, "baseline.name": name, **_dotted(settings)}
            identity = [section.experiment, data.sha256, params]
            key = f"{KIND}-{values_sha256(identity)[:_KEY_LENGTH]}"
            if key in (finished or ()) or is_waiting(root, key):
                continue
            run_name = f"{KIND}/{head}/{name}"
            with start_run(
                root,
                section,
                name=run_name,
                params=params,
                params_sha256=values_sha256(params),
                data=data,
                tags={"kind": KIND, **(tags or {})},
                system_metrics=False,
                key=key,
                keep=finished is None,
            ) as run:
                run.log_metrics({head: measures}, "test")
            reported.append(run_name)
    return reported


def _dotted(settings: Mapping[str, object]) -> dict[str, Any]:
    return {f"{KIND}.{name}": value for name, value in settings.items()}


def _finished_keys(root: Path, section: RegistryParams, data_sha256: str) -> set[str] | None:
    """Keys of the baselines of a dataset whose runs are finished; None if the server does not answer."""
    try:
        connection = connect(root)
        with mlflow_errors(connection.shown, "Looking for baselines"):
            experiment = connection.client.get_experiment_by_name(section.experiment)
            if experiment is None:
                return set()
            runs = connection.client.search_runs(
                [experiment.experiment_id],
                filter_string=f"tags.kind = '{KIND}' and tags.data_sha256 = '{data_sha256}' "
                "and attributes.status = 'FINISHED'",
                max_results=_MOST_FOUND,
            )
    except (RegistryError, StorageError) as error:
        log.warning("%s The baselines wait on disk.", error.problem)
        return None
    return {run.data.tags[KEY_TAG] for run in runs if KEY_TAG in run.data.tags}
