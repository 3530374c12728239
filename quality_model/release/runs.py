"""The tracked run of a model folder."""

from pathlib import Path
from typing import Any, Final

from quality_model import pretrained
from quality_model.core import storage
from quality_model.errors import RegistryError
from quality_model.params import RegistryParams
from quality_model.paths import DESCRIPTION_NAME, RUN_NAME
from quality_model.release.tracking import resume_run, start_run

_KEY_DIGITS: Final = 16


def run_of(model: Path, *, root: Path, registry: RegistryParams) -> str:
    """MLflow's id of the run that made a model, once everything of it is delivered.

    Raises:
        RegistryError: The model has no run here, or the server does not answer.
    """
    note = model / RUN_NAME
    if not note.exists():
        raise RegistryError(
            f"{model} has no {RUN_NAME}: no run made it.", "Register a model that `train` made."
        )
    with resume_run(root, registry, storage.read_json(note)["run_key"]) as run:
        return run.require_delivered()


def run_of_bundled(folder: Path, attempt: int, *, root: Path, registry: RegistryParams) -> str:
    """MLflow's id of the bundled model's run, which is made if there is none."""
    facts: dict[str, Any] = storage.read_json(folder / DESCRIPTION_NAME)["facts"]
    known = {"data_sha256", "params_sha256", "git_commit", "git_dirty"} & facts.keys()
    sha256 = storage.sealed_sha256(folder)
    with start_run(
        root,
        registry,
        name=pretrained.NAME,
        params={},
        params_sha256=str(facts.get("params_sha256")),
        tags={
            **{key: facts[key] for key in known if facts[key] is not None},
            "data_name": facts.get("settings", {}).get("source.dataset", "unknown"),
            "kind": pretrained.NAME,
        },
        system_metrics=False,
        key=f"{pretrained.NAME}-{sha256[:_KEY_DIGITS]}" + (f"-{attempt}" if attempt else ""),
    ) as run:
        run.log_model(folder)
        return run.require_delivered()
