"""What the run of a model says of its origin, for a model that is no version."""

from pathlib import Path
from typing import Final

from quality_model.release.registry.connection import connect, speaking_to

ORIGIN: Final = ("data_sha256", "params_sha256", "git_commit")
"""Tags of a run that a decision about its model repeats; a version carries them too."""


def run_origin(root: Path, run_id: str) -> dict[str, str]:
    """Those of the tags `ORIGIN` that a run has.

    Raises:
        ModelNotFoundError: No such run.
        RegistryError: MLflow does not answer.
    """
    connection = connect(root)
    with speaking_to(connection.shown, f"Reading run {run_id}"):
        tags = connection.client.get_run(run_id).data.tags
    return {key: str(tags[key]) for key in ORIGIN if key in tags}
