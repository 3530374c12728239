"""The state of an unfinished run on disk: one sealed folder per epoch, the last two kept.

    checkpoints/run-<fingerprint>/plan.json            how the run computes (chosen once)
    checkpoints/run-<fingerprint>/epoch-000007/state.pt  tensors and plain values
                                  epoch-000007/_complete.json

A run is known by its fingerprint: everything that its result hangs on. State of another run
is never used, and stays for that run to go on from; of those, the newest `KEPT_RUNS` do.
"""

import hashlib
import io
import json
import logging
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from quality_model.core import storage
from quality_model.core.code_hash import code_sha256
from quality_model.errors import StorageError
from quality_model.params import TrainParams

log = logging.getLogger(__name__)

STATE_VERSION: Final = 1
KEPT_EPOCHS: Final = 2
"""The newest checkpoint, and the one before it in case the newest is damaged."""

KEPT_RUNS: Final = 3
"""Other runs whose state stays when a new one begins: who never goes on from them fills no disk."""

_STATE_NAME: Final = "state.pt"
_PLAN_NAME: Final = "plan.json"


_CODE: Final = ("core", "data", "degrade", "networks", "train")
"""Whole wings: a list of modules would miss one some day, and epochs of two versions are nobody's result."""

_PACKAGES: Final = ("numpy", "opencv-python-headless", "pillow", "torch")


def training_code_sha256() -> str:
    """Hash of what turns data and parameters into weights: our code, and the libraries under it."""
    return code_sha256(_CODE, _PACKAGES)


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What a run's result hangs on, as plain values, and their hash."""

    content: dict[str, Any]

    @classmethod
    def of(
        cls,
        section: TrainParams,
        *,
        data_sha256: str,
        image_size_px: int,
        start_sha256: str | None = None,
    ) -> "RunIdentity":
        """The device is left out: a run may go on elsewhere. ``epochs`` is in, for it sets the cosine.

        Weights to begin with count by their hash, not by where they lie. Code counts too: epochs of
        two versions of it are nobody's result.
        """
        return cls(
            {
                **section.model_dump(mode="json", exclude={"device", "start_from"}),
                "start_sha256": start_sha256,
                "data_sha256": data_sha256,
                "image_size_px": image_size_px,
                "code_sha256": training_code_sha256(),
                "state_version": STATE_VERSION,
            }
        )

    @property
    def fingerprint(self) -> str:
        canonical = json.dumps(self.content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class RunState:
    """The checkpoints of one run.

    Args:
        folder: The folder of all checkpoints.
        identity: Which run.
    """

    def __init__(self, folder: Path, identity: RunIdentity) -> None:
        self._all = folder
        self._identity = identity
        self.folder = _run_folder(folder, identity.fingerprint)

    def plan(self) -> dict[str, Any] | None:
        """How the run computes, as kept by `save_plan`; None before that."""
        try:
            plan = storage.read_json(self.folder / _PLAN_NAME)
        except StorageError:
            return None
        return plan.get("plan") if isinstance(plan, dict) else None

    def save_plan(self, plan: Mapping[str, Any]) -> None:
        """Keep how the run computes, before its first step; let go of all but the newest of other runs."""
        storage.write_json(self.folder / _PLAN_NAME, {"plan": dict(plan), "identity": self._identity.content})
        others = [run for run in self._all.glob("run-*") if run != self.folder]
        for old in sorted(others, key=lambda run: run.stat().st_mtime_ns, reverse=True)[KEPT_RUNS:]:
            log.info("The checkpoints in %s are removed: %d newer runs are unfinished", old, KEPT_RUNS)
            _remove_run(old)

    def save(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Make the state after ``epoch`` durable, then let go of older ones.

        Raises:
            StorageError: It could not be written.
        """
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        folder = self.folder / f"epoch-{epoch:06d}"
        storage.unseal(folder)
        storage.write_bytes(folder / _STATE_NAME, buffer.getvalue())
        storage.seal(folder, [_STATE_NAME], rows=1, epoch=epoch, fingerprint=self._identity.fingerprint)
        storage.flush_folder(self.folder)
        for old in self._epochs()[KEPT_EPOCHS:]:
            _remove(old)

    def load_latest(self) -> dict[str, Any] | None:
        """The newest state that is whole; None if this run has none. Says in the log what it passes over."""
        for folder in self._epochs():
            try:
                marker = storage.require_sealed(folder, verify=True)
                if marker.get("fingerprint") != self._identity.fingerprint:
                    raise StorageError(f"{folder} belongs to another run.")
                state: dict[str, Any] = torch.load(
                    folder / _STATE_NAME, map_location="cpu", weights_only=True
                )
            except (StorageError, RuntimeError, pickle.UnpicklingError) as error:
                log.warning("Checkpoint %s is passed over: %s", folder, error)
                continue
            return state
        self._explain_fresh_start()
        return None

    def _epochs(self) -> list[Path]:
        """Folders of epochs, newest first."""
        return sorted(self.folder.glob("epoch-*"), reverse=True)

    def _explain_fresh_start(self) -> None:
        for other in sorted(self._all.glob("run-*")):
            if other == self.folder:
                continue
            try:
                theirs = storage.read_json(other / _PLAN_NAME)["identity"]
            except (StorageError, KeyError, TypeError):
                continue
            ours = self._identity.content
            changed = [
                f"{key} {theirs.get(key)!r} there, {ours.get(key)!r} now"
                for key in sorted(ours.keys() | theirs.keys())
                if theirs.get(key) != ours.get(key)
            ]
            log.info("The checkpoints in %s are of another run (%s): not used", other, "; ".join(changed))


def clear_checkpoints(folder: Path, fingerprint: str) -> None:
    """Remove the checkpoints of one run from ``folder``, once its trained model is safe elsewhere."""
    _remove_run(_run_folder(folder, fingerprint))


def _run_folder(folder: Path, fingerprint: str) -> Path:
    return folder / f"run-{fingerprint[:16]}"


def _remove_run(run: Path) -> None:
    for epoch in run.glob("epoch-*"):
        _remove(epoch)
    shutil.rmtree(run, ignore_errors=True)


def _remove(folder: Path) -> None:
    storage.unseal(folder)
    shutil.rmtree(folder, ignore_errors=True)
