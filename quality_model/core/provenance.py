"""Where a result comes from: the code that made it, the project around it, and the data of a training."""

import hashlib
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from quality_model.errors import CorruptError, ParameterError
from quality_model.params import parse_yaml

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_TIMEOUT_S: Final = 10.0
_GIT_HOOK_VARIABLES: Final = ("GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_WORK_TREE")
"""Set by git in its hooks: with them every question is about the repository of the hook."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeOrigin:
    """The code that ran, and the project that it ran in; None where it is not known.

    ``package_version`` and ``code_sha256`` identify the package wherever it is installed. ``git_commit``
    and ``git_dirty`` ("true" or "false") are those of the checkout that tracks the package. An environment
    inside the checkout of something else is not part of that checkout. ``project_commit`` and
    ``project_dirty`` are those of the project folder; dvc.lock and reports do not count as a change,
    because the pipeline rewrites them.
    """

    package_version: str | None = None
    code_sha256: str | None = None
    git_commit: str | None = None
    git_dirty: str | None = None
    project_commit: str | None = None
    project_dirty: str | None = None


def code_origin(root: Path, package: Path = _PACKAGE) -> CodeOrigin:
    """The origin of the code in ``package``, run in the project folder ``root``."""
    is_tracked = _git(package, "ls-files", "--error-unmatch", "--", "__init__.py") is not None
    commit, dirty = _state(package) if is_tracked else (None, None)
    project_commit, project_dirty = _state(root, ":(exclude)dvc.lock", ":(exclude)reports")
    return CodeOrigin(
        package_version=_installed_version(),
        code_sha256=code_sha256(["."], []),
        git_commit=commit,
        git_dirty=dirty,
        project_commit=project_commit,
        project_dirty=project_dirty,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOrigin(CodeOrigin):
    """What a training is made of. It is known before the first epoch; model.json has it among its facts.

    Attributes:
        training_fingerprint: Hash of data, recipe, start weights and code: the identity of the training.
        settings: The parameters that the weights depend on, by dotted key; JSON values.
        data_sha256: Of the training dataset.
        data_rows: Its samples; None if not known (models of earlier releases).
        data_groups: Its groups; None if not known.
        dvc_data_hash: The hash by which dvc.lock knows the training dataset; None outside a DVC stage.
    """

    training_fingerprint: str
    settings: dict[str, Any] = field(default_factory=dict)
    data_sha256: str = "unknown"
    data_rows: int | None = None
    data_groups: int | None = None
    dvc_data_hash: str | None = None

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], *, identity: str) -> "TrainingOrigin":
        """Read the facts of a model.json; what an earlier release did not store keeps its default.

        Args:
            facts: The facts.
            identity: Stands for the fingerprint if the facts have none.

        Raises:
            CorruptError: A fact is of another type.
        """
        known = {"training_fingerprint": identity, **facts}
        try:
            names = [known_field.name for known_field in fields(cls)]
            return _ORIGIN.validate_python({name: known[name] for name in names if name in known})
        except ValidationError as error:
            wrong = error.errors()[0]
            raise CorruptError(
                f"The fact {wrong['loc'][0]} of the model is {wrong['input']!r}.", "Train the model again."
            ) from None


_ORIGIN: Final = TypeAdapter(TrainingOrigin)


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
