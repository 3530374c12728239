"""The state of an unfinished run on disk: one complete folder per epoch, the last two kept.

    checkpoints/run-<fingerprint>/plan.json                 how the run computes (chosen once)
    checkpoints/run-<fingerprint>/epoch-000007/state.pt     tensors and plain values
    checkpoints/run-<fingerprint>/epoch-000007/_complete.json

A run is identified by its fingerprint: everything that its result depends on. State of another run
is never used. It stays, so that the other run can resume; the newest `KEPT_RUNS` of them do.
"""

import hashlib
import io
import json
import logging
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from quality_model.core import storage
from quality_model.core.provenance import code_sha256
from quality_model.core.torch_engine import (
    MemoryFormat,
    Precision,
    can_compile,
    choose_memory_format,
    choose_precision,
)
from quality_model.data.dataset import TrainingSet
from quality_model.errors import StorageError
from quality_model.networks.model import LoadedModel
from quality_model.params import TrainParams

log = logging.getLogger(__name__)

STATE_VERSION: Final = 1
KEPT_EPOCHS: Final = 2
"""The newest checkpoint, and the one before it in case the newest is damaged."""

KEPT_RUNS: Final = 3
"""Other runs whose state stays when a new one begins, so that abandoned runs do not fill the disk."""

_STATE_NAME: Final = "state.pt"
_PLAN_NAME: Final = "plan.json"

_CODE: Final = ("core", "data", "degrade", "networks", "train")
"""Whole wings: a list of modules would miss one some day, and epochs of two versions are nobody's result."""

_PACKAGES: Final = ("numpy", "opencv-python-headless", "pillow", "torch")


def run_identity(
    section: TrainParams, training_set: TrainingSet, start: LoadedModel | None
) -> dict[str, Any]:
    """What a run's result depends on, as plain values.

    The device is left out: a run may resume elsewhere. ``epochs`` is in, because it sets the cosine.
    Start weights count by their hash, not by their path. The code counts too.
    """
    return {
        **section.model_dump(mode="json", exclude={"device", "start_from"}),
        "start_sha256": start.sha256 if start else None,
        "data_sha256": training_set.data_sha256,
        "image_size_px": training_set.image_size_px,
        "code_sha256": code_sha256(_CODE, _PACKAGES),
        "state_version": STATE_VERSION,
    }


class ExecutionPlan(BaseModel):
    """How forward and backward passes run: device, precision, memory format, compiled or not.

    The last bits of the weights depend on it. So a run chooses it before its first step and stores it
    beside its checkpoints: a resumed run computes as it did before.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    device: str
    precision: Precision
    memory_format: MemoryFormat
    compiled: bool


class RunState:
    """The checkpoints of one run.

    Args:
        folder: The folder of all checkpoints.
        identity: Which run, see `run_identity`. Its hash is the ``fingerprint``, 64 hex digits.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._identity = dict(identity)
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
        self.folder = folder / f"run-{self.fingerprint[:16]}"

    def plan(self, section: TrainParams, device: torch.device) -> ExecutionPlan:
        """How the run computes: as stored, if that is whole and for this kind of device.

        Else it is chosen and stored, and of the other runs all but the newest are removed.
        """
        path = self.folder / _PLAN_NAME
        try:
            stored = ExecutionPlan.model_validate(storage.read_json(path)["plan"])
            if stored.device == device.type:
                return stored
        except (StorageError, LookupError, TypeError, ValidationError):
            pass
        precision = choose_precision(section.precision, device)
        chosen = ExecutionPlan(
            device=device.type,
            precision=precision,
            memory_format=choose_memory_format(device, precision),
            compiled=section.compile and can_compile(device),
        )
        storage.write_json(path, {"plan": chosen.model_dump(), "identity": self._identity})
        newest_first = sorted(self._others(), key=lambda run: run.stat().st_mtime_ns, reverse=True)
        for old in newest_first[KEPT_RUNS:]:
            log.info("The checkpoints in %s are removed: %d newer runs are unfinished", old, KEPT_RUNS)
            _remove_run(old)
        return chosen

    def save(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Make the state after ``epoch`` durable, then remove older ones.

        Raises:
            StorageError: It could not be written.
        """
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        folder = self.folder / f"epoch-{epoch:06d}"
        storage.unseal(folder)
        storage.write_bytes(folder / _STATE_NAME, buffer.getvalue())
        storage.seal(folder, [_STATE_NAME], rows=1, epoch=epoch, fingerprint=self.fingerprint)
        storage.flush_folder(self.folder)
        for old in self._epochs()[KEPT_EPOCHS:]:
            _remove(old)

    def load_latest(self) -> dict[str, Any] | None:
        """The newest state that is whole; None if this run has none. The log names what is skipped."""
        for folder in self._epochs():
            try:
                marker = storage.require_sealed(folder, verify=True)
                if marker.get("fingerprint") != self.fingerprint:
                    raise StorageError(f"{folder} belongs to another run.")
                state: dict[str, Any] = torch.load(
                    folder / _STATE_NAME, map_location="cpu", weights_only=True
                )
            except (StorageError, RuntimeError, pickle.UnpicklingError) as error:
                log.warning("Checkpoint %s is skipped: %s", folder, error)
                continue
            return state
        self._explain_fresh_start()
        return None

    def clear(self) -> None:
        """Remove all of it, once the trained model is safe elsewhere."""
        _remove_run(self.folder)

    def _epochs(self) -> list[Path]:
        """Folders of epochs, newest first."""
        return sorted(self.folder.glob("epoch-*"), reverse=True)

    def _others(self) -> list[Path]:
        """Folders of other runs."""
        return sorted(run for run in self.folder.parent.glob("run-*") if run != self.folder)

    def _explain_fresh_start(self) -> None:
        ours = self._identity
        for other in self._others():
            try:
                theirs = storage.read_json(other / _PLAN_NAME)["identity"]
            except (StorageError, KeyError, TypeError):
                continue
            changed = [
                f"{key} {theirs.get(key)!r} there, {ours.get(key)!r} now"
                for key in sorted(ours.keys() | theirs.keys())
                if theirs.get(key) != ours.get(key)
            ]
            log.info("The checkpoints in %s are of another run (%s): not used", other, "; ".join(changed))


def _remove_run(run: Path) -> None:
    for epoch in run.glob("epoch-*"):
        _remove(epoch)
    shutil.rmtree(run, ignore_errors=True)


def _remove(folder: Path) -> None:
    storage.unseal(folder)
    shutil.rmtree(folder, ignore_errors=True)
