"""Where a result comes from: facts of the training, the code, the project, the decision about the model."""

import hashlib
import os
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from quality_model.core import storage
from quality_model.errors import ParameterError, StorageError
from quality_model.params import Finite, Share
from quality_model.params_file import parse_yaml
from quality_model.paths import DECISION_NAME, ProjectPaths
from quality_model.records import HEADS, Head

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_TIMEOUT_S: Final = 10.0
_GIT_HOOK_VARIABLES: Final = ("GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_WORK_TREE")
"""Set by git in its hooks: with them every question is about the repository of the hook."""


_NAME_LENGTH: Final = 60
"""Characters of a dataset's name in a title."""


class HeadIntervals(BaseModel):
    """How far a head's score may be from the severity, by the bin that the score is in."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    edges: list[Finite]
    """where the next bin begins, rising"""
    half_widths: Annotated[list[Share], Field(min_length=1)]
    """of the interval around a score, one for each bin: one more than edges"""


class Intervals(BaseModel):
    """Prediction intervals around scores (`evaluate.predictions.calibrate_intervals`)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    confidence: Share
    """share of images of the calibration's kind whose severity is within"""
    num_images: int
    """that they are calibrated on"""
    heads: dict[Head, HeadIntervals]

    def of(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The ends of each score's interval, float32 (2, n, 4) in [0, 1], of scores float32 (n, 4)."""
        widths = np.empty_like(scores)
        for at, head in enumerate(HEADS):
            found = self.heads[head]
            places = np.searchsorted(found.edges, scores[:, at], side="right")
            widths[:, at] = np.array(found.half_widths)[places]
        return np.clip(np.stack([scores - widths, scores + widths]), 0.0, 1.0)


class OwnLabelFacts(BaseModel):
    """How a fine-tuning on a person's labels changed one head, on labels that it was not trained on.

    Attributes:
        num_train: Labels that it was trained on.
        num_good, num_bad: Labels held out.
        before, after: The area under the ROC curve on those, of the start weights and of the model.
        low, high: The 95 % interval of ``after`` (`curate.labels.auc_interval`).
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    num_train: int = Field(ge=1)
    num_good: int = Field(ge=1)
    num_bad: int = Field(ge=1)
    before: Finite = Field(ge=0.0, le=1.0)
    after: Finite = Field(ge=0.0, le=1.0)
    low: Finite
    high: Finite

    def line(self) -> str:
        """For people: the areas, and of how many images."""
        return (
            f"area under the ROC curve {self.after:.3f} ({self.low:.3f} to {self.high:.3f}) after,"
            f" {self.before:.3f} before, on {self.num_good} good and {self.num_bad} bad images held out"
        )


class ModelFacts(BaseModel):
    """What training kept beside the weights. What a model's files do not say is None.

    Keys that this version does not know are kept, and nothing reads them. A known key of another type is
    refused.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    thresholds: dict[Head, Finite] | None = None
    """scores above which a head flags an image"""
    thresholds_whole: dict[Head, Finite] | None = None
    """the same for scores of the image squeezed to a square alone, where the model has other views"""
    thresholds_clean_samples: int | None = None
    """clean images that they are calibrated on"""
    thresholds_of_images: bool | None = None
    """whether those are whole images and look-alikes, with all views; else clean samples of the dataset"""
    intervals: Intervals | None = None
    """around scores of all the model's views"""
    own_labels: dict[Head, OwnLabelFacts] | None = None
    """by head, where it was fine-tuned on a person's labels"""
    scale_version: str | None = None
    """what its scores mean (`records.SCALE_VERSION`); None of models older than the fact: the first"""
    scale_r2: dict[Head, list[Finite]] | None = None
    """R2 of degraded validation images by the network's own scores, and by those on the champion's scale"""
    seen_groups: list[str] | None = None
    """digests of the groups of images that the weights have seen (`data` has their definition), sorted"""
    settings: dict[str, Any] | None = None
    """the parameters that the weights depend on, by dotted key; plain JSON values"""
    data_sha256: str | None = None
    """of the training dataset"""
    data_rows: int | None = None
    """its samples"""
    data_images: int | None = None
    """its clean images"""
    data_groups: int | None = None
    """their groups"""
    dvc_data_hash: str | None = None
    """by which dvc.lock knows it"""
    params_sha256: str | None = None
    """of the settings"""
    version: str | None = None
    """of a bundled model: the first digits of the hash of the trained weights"""
    run_id: str | None = None
    """the MLflow run of the training"""
    trained_sha256: str | None = None
    """of a bundled model: hash of the trained weights, before half precision"""
    model_sha256: str | None = None
    """of a bundled model: hash of the trained model's folder"""
    package_version: str | None = None
    code_sha256: str | None = None
    git_commit: str | None = None
    git_dirty: str | None = None
    """``true`` or ``false``"""
    project_commit: str | None = None
    project_dirty: str | None = None
    image_licence: str | None = None
    training_fingerprint: str | None = None
    torch_version: str | None = None
    device: str | None = None
    precision: str | None = None
    memory_format: str | None = None
    compiled: bool | None = None
    best_epoch: int | None = None
    epochs_run: int | None = None
    stopped_early: bool | None = None
    num_train: int | None = None
    num_validation: int | None = None
    validation_loss: Finite | None = None
    validation_mse: dict[Head, Finite] | None = None

    @property
    def data_name(self) -> str:
        """What the images of the training dataset are of."""
        return str((self.settings or {}).get("source.dataset", "training dataset"))

    def title(self, kind: str = "train") -> str:
        """What was trained, in short: ``small, 120 images of sample-photos, 2 epochs from champion``.

        Args:
            kind: ``train``, or ``bundled``: then the network and the version say all.
        """
        settings = self.settings or {}
        network = str(settings.get("train.architecture", "model"))
        if kind == "bundled":
            return f"bundled {network} {self.version or ''}".strip()
        parts = [network]
        if self.data_images or self.data_rows:
            count = f"{self.data_images} images" if self.data_images else f"{self.data_rows} samples"
            parts.append(f"{count} of {shorten(self.data_name, _NAME_LENGTH, placeholder='...')}")
        if epochs := settings.get("train.epochs"):
            start = str(settings.get("train.start_from", "")).partition("@")[0]  # without its hash
            parts.append(f"{epochs} epoch{'s' if epochs != 1 else ''}{start and f' from {start}'}")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values of what is known."""
        return self.model_dump(mode="json", exclude_none=True)


def code_sha256(parts: Iterable[str], packages: Iterable[str]) -> str:
    """Hash parts of this library and the versions of the packages they use; 64 hex digits.

    Args:
        parts: Modules and folders, relative to ``quality_model``, such as ``core/pixels.py`` or ``degrade``.
        packages: Names of installed distributions. A local version (what follows a +) does not count.
    """
    places = [_PACKAGE / part for part in parts]
    files = [f for place in places for f in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    known = [f"{name} {version(name).partition('+')[0]}".encode() for name in packages]
    return hashlib.sha256(b"\n".join([*known, *(f.read_bytes() for f in files)])).hexdigest()


def code_facts(root: Path, package: Path = _PACKAGE) -> ModelFacts:
    """The facts about the code in ``package`` and the project folder ``root``; None where not known.

    ``package_version`` and ``code_sha256`` identify the package wherever it is installed. ``git_commit``
    and ``git_dirty`` ("true" or "false") are those of the checkout that tracks the package. An environment
    inside the checkout of something else is not part of that checkout. ``project_commit`` and
    ``project_dirty`` are those of the project folder; dvc.lock and reports do not count as a change,
    because the pipeline rewrites them.
    """
    is_tracked = _git(package, "ls-files", "--error-unmatch", "--", "__init__.py") is not None
    commit, dirty = _state(package) if is_tracked else (None, None)
    project_commit, project_dirty = _state(root, ":(exclude)dvc.lock", ":(exclude)reports")
    return ModelFacts(
        package_version=_installed_version(),
        code_sha256=code_sha256(["."], []),
        git_commit=commit,
        git_dirty=dirty,
        project_commit=project_commit,
        project_dirty=project_dirty,
    )


def dvc_data_hash(root: Path, folder: Path) -> str | None:
    """The hash by which the project's dvc.lock knows a folder.

    None outside a stage that DVC runs: only there the lock is known to be about this folder.
    """
    if "DVC_STAGE" not in os.environ:
        return None
    try:
        lock = parse_yaml((root / "dvc.lock").read_text(encoding="utf-8"))
        wanted = folder.resolve().relative_to(root.resolve()).as_posix()
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
        return next((str(out["md5"]) for out in outs if out["path"] == wanted), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ParameterError):
        return None


def deciding_record(root: Path, weights_sha256: str) -> str | None:
    """Name of the last record in ``state/records`` that is about a model with these weights.

    None if this machine has none. A record that cannot be read is skipped: it is no fault of the scores.
    """
    found = []
    for marker in ProjectPaths(root).records.glob(f"*/{storage.MARKER_NAME}"):
        with suppress(StorageError, KeyError, TypeError):
            decision: Any = storage.read_json(marker.with_name(DECISION_NAME))
            if decision["model"]["sha256"] == weights_sha256:
                found.append((str(decision["time"]), marker.parent.name))
    return max(found)[1] if found else None


def _state(folder: Path, *excluded: str) -> tuple[str | None, str | None]:
    """The commit checked out in a folder, and whether tracked files below it differ from that."""
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".", *excluded)
    if commit is None or changed is None:
        return None, None
    return commit, str(bool(changed)).lower()


def _installed_version() -> str | None:
    try:
        return version("quality-model")
    except PackageNotFoundError:  # imported from a folder, and not installed
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    environment = {key: value for key, value in os.environ.items() if key not in _GIT_HOOK_VARIABLES}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
