"""From scores back to what made them: model, run, data, commit, verdict and decisions.

A scoring result says itself which model made it, on which data that was trained and by which code. Only
what is missing there is looked up in the registry; what cannot be looked up is a note, not an error.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from quality_model import pretrained
from quality_model.core import storage
from quality_model.core.figures import text_table
from quality_model.core.folders import JOB_NAME, PLAN_NAME, result_facts
from quality_model.core.jobs import DATA_FOLDER, MARKERS_FOLDER
from quality_model.core.model_files import read_description
from quality_model.core.models import database_exists
from quality_model.core.provenance import ModelFacts
from quality_model.core.stores import is_in_store
from quality_model.errors import CorruptError, RegistryError, UsageError
from quality_model.params import RegistryParams
from quality_model.records import ModelRef
from quality_model.release.decisions import Decision, read_decisions
from quality_model.release.registry import Registry
from quality_model.score.result import METADATA_PREFIX

_REGISTERED: Final = re.compile(r"[1-9][0-9]{0,9}")
"""A version of the registry is a number; that of a file is the beginning of a hash."""

_COLUMNS: Final = ("model_name", "model_version", "model_run_id")
_EARLIER_COLUMNS: Final = ("model_name", "model_version", "run_id")
_MODEL_KEY: Final = f"{METADATA_PREFIX}model".encode()
_FILES: Final = (f"{DATA_FOLDER}/part-*.parquet", "part-*.parquet", "shard-*.parquet")
"""In a result, in its folder of rows, and in a result of the earlier layout."""

_ORIGIN: Final = (
    *("data_name", "data_sha256", "params_sha256", "package_version"),
    *("code_sha256", "git_commit", "git_dirty"),
)


@dataclass(slots=True)
class Trace:
    """What is known of the model behind some scores; None where nothing is.

    Attributes:
        files: The files that were read.
        model: As the scores name it.
        origin: What it is made of: ``data_name``, ``data_sha256``, ``params_sha256``, ``package_version``,
            ``code_sha256``, ``git_commit`` and ``git_dirty`` (``true``: with uncommitted changes).
        model_sha256: Of the model's folder, as registered.
        aliases: That name the version now.
        verdict: ``passed`` or ``refused`` by the gate, or ``baseline``.
        decisions: About this model, oldest first.
        notes: What is not known, and why.
    """

    files: list[Path]
    model: ModelRef
    origin: dict[str, str]
    model_sha256: str | None = None
    aliases: tuple[str, ...] = ()
    verdict: str | None = None
    decisions: list[Decision] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON values in one level, under the names that scripts know."""
        return {
            "shards": [str(file) for file in self.files],
            "model_name": self.model.name,
            "model_version": self.model.version,
            "run_id": self.model.run_id,
            "weights_sha256": self.model.sha256 or None,
            "model_sha256": self.model_sha256,
            **{key: self.origin.get(key) for key in _ORIGIN},
            "aliases": list(self.aliases),
            "verdict": self.verdict,
            "decisions": [asdict(decision) for decision in self.decisions],
            "notes": self.notes,
        }

    def table(self) -> str:
        """A short table for a terminal."""
        known, files = self.origin, self.files
        dirty = " (with uncommitted changes)" if known.get("git_dirty") == "true" else ""
        package, commit = known.get("package_version"), known.get("git_commit")
        aliases = (f"({name})" for name in self.aliases)
        rows: list[tuple[str, str | None]] = [
            ("scores", str(files[0]) + (f" and {len(files) - 1} more" if files[1:] else "")),
            ("model", self.model.name),
            ("version", " ".join(filter(None, (self.model.version, *aliases)))),
            ("run", self.model.run_id),
            ("weights sha256", self.model.sha256),
            ("model sha256", self.model_sha256),
            ("data", known.get("data_name")),
            ("data sha256", known.get("data_sha256")),
            ("commit", commit and f"{commit}{dirty}"),
            ("package", package and f"quality-model {package}"),
            ("code sha256", known.get("code_sha256")),
            ("verdict", self.verdict),
            *(("decision", f"{decision.time} {decision.line()}") for decision in self.decisions),
            *(("note", note) for note in self.notes),
        ]
        first, *others = [(name, value or "-") for name, value in rows]
        return text_table(first, others)


def trace(registry: RegistryParams | None, *, root: Path, path: Path) -> Trace:
    """Find out what made some scores.

    Args:
        registry: Names the registered model; None outside a project.
        root: The project folder, with registry and records.
        path: A Parquet file of scores, the folder of a scoring result or its folder of rows; of the
            earlier layout too.

    Raises:
        UsageError: It holds no scores, or those of several models.
        CorruptError: A file is not the one that its completion marker describes.
    """
    files = _files_of(path)
    name, version, run_id = _model_in_rows(files)
    stated = _stated(files[0], name, version)
    found = Trace(files, ModelRef(name, version, run_id, stated.get("sha256") or ""), _known(stated))
    if (bundled := pretrained.bundled_name(name)) is not None:
        _add_from_package(found, bundled)
    elif version is None or not _REGISTERED.fullmatch(version):
        found.notes.append("No registry knows this model: the scores were made with a file of weights.")
    elif registry is None or not database_exists(root):
        found.notes.append(f"There is no registry in {root.resolve()} to look up more.")
    else:
        registry = registry.model_copy(update={"model_name": name})
        _add_from_registry(found, version, Registry(root, registry))
    found.decisions = [
        decision
        for decision in (read_decisions(root, registry) if registry else ())
        if (found.model.run_id is not None and decision.model.run_id == found.model.run_id)
        or (found.model_sha256 and decision.model_sha256 == found.model_sha256)
        or (found.model.sha256 and decision.model.sha256 == found.model.sha256)
    ]
    return found


def _files_of(path: Path) -> list[Path]:
    files = next(filter(None, _groups_of(path)), [])
    if not path.exists() or not files:
        problem = "holds no scores" if path.exists() else "is not there"
        raise UsageError(f"{path} {problem}.", "Name the output folder of `score`, or a part in it.")
    for file in files:
        for marker in (_result_of(file) / MARKERS_FOLDER / f"{file.stem}.json", file.with_suffix(".json")):
            if marker.exists() and storage.read_json(marker).get("sha256") != storage.file_sha256(file):
                raise CorruptError(
                    f"{file} is not the file that {marker.name} describes.", "Score the collection again."
                )
    return files


def _groups_of(path: Path) -> Iterator[list[Path]]:
    """Files of scores by what ``path`` may be. In a store a finished result names its own."""
    if not path.is_dir():
        yield [path]
    elif is_in_store(path):
        yield [path / part["file"] for part in result_facts(path / JOB_NAME).get("parts", ())]
    for pattern in _FILES:
        folder, _, name = pattern.rpartition("/")
        yield sorted((path / folder if folder else path).glob(name))


def _result_of(file: Path) -> Path:
    """The folder of the result that a file of scores is in."""
    folder = file.absolute().parent
    return folder.parent if folder.name == DATA_FOLDER and file.name.startswith("part-") else folder


def _model_in_rows(files: Sequence[Path]) -> tuple[str, str | None, str | None]:
    """Name, version and run of the model that all rows name."""
    found = {model for file in files for model in _models_in(file)}
    if not found:
        raise UsageError(f"{files[0]} has no rows.", "Name a file with scores.")
    if len(found) > 1:
        models = ", ".join(sorted(f"{name} version {version or '-'}" for name, version, _ in found))
        raise UsageError(f"These are scores of several models: {models}.", "Trace them one by one.")
    return found.pop()


def _models_in(file: Path) -> set[tuple[str, str | None, str | None]]:
    import pyarrow as pa

    from quality_model.core.parquet import open_parquet

    try:
        with open_parquet(file) as opened:
            present = set(opened.schema_arrow.names)
            columns = list(_EARLIER_COLUMNS if present.issuperset(_EARLIER_COLUMNS) else _COLUMNS)
            rows = opened.read(columns=[name for name in columns if name in present])
        distinct = rows.group_by(columns).aggregate([])
    except (pa.ArrowException, OSError) as error:
        raise UsageError(
            f"{file} holds no scores: no {', '.join(_COLUMNS)} in it ({str(error).splitlines()[0]}).",
            "Name a part-NNNNN.parquet that `score` wrote, or the folder of a scoring result.",
        ) from None
    return set(zip(*(distinct[name].to_pylist() for name in columns), strict=True))


def _stated(file: Path, name: str, version: str | None) -> Mapping[str, Any]:
    """What the file itself, or the job beside it, states of this model."""
    from quality_model.core.parquet import open_parquet

    models: list[Any] = []
    with suppress(ValueError), open_parquet(file) as opened:
        models.append(json.loads((opened.schema_arrow.metadata or {}).get(_MODEL_KEY, b"null")))
    jobs = [_result_of(file) / job for job in (JOB_NAME, PLAN_NAME)]
    models += [storage.read_json(job).get("model") for job in jobs if job.exists()]
    for model in models:
        if isinstance(model, dict) and (model.get("name"), model.get("version")) == (name, version):
            return model
    return {}


def _known(facts: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(facts[key]) for key in _ORIGIN if facts.get(key)}


def _add_from_package(found: Trace, name: str) -> None:
    """Add what model.json says of the bundled model, if it still is the one that scored."""
    folder = pretrained.pretrained_folder(name)
    facts = read_description(folder).facts if folder else ModelFacts()
    if facts.version != found.model.version:
        found.notes.append("The model that scored was bundled with another release of this package.")
        return
    found.model_sha256 = facts.model_sha256
    found.origin = _known({**facts.to_json(), "data_name": (facts.settings or {}).get("source.dataset")})
    found.notes.append("No registry knows this model: it is bundled with the package; see its model card.")


def _add_from_registry(found: Trace, number: str, catalogue: Registry) -> None:
    """Add what the registry says of the version, if that is the one that scored."""
    shown, run_id = f"Version {number} of {found.model.name}", found.model.run_id
    try:
        version = catalogue.look_up(number=number)
    except RegistryError as error:
        found.notes.append(error.problem)
        return
    if version is None:
        found.notes.append(f"{shown} is no longer in the registry.")
    elif run_id not in (None, *version.run_ids):
        found.notes.append(
            f"{shown} came from run {run_id}; here that version came from run {version.run_id}."
            " The scores were made with another registry: set MLFLOW_TRACKING_URI."
        )
    else:
        found.model_sha256, found.aliases = version.model_sha256, version.aliases
        if run_id not in (None, version.run_id):
            found.notes.append(f"The registry was migrated: the run is {version.run_id} here.")
        found.origin |= _known(version.tags)
        found.verdict = version.tags.get("verdict")
        if found.verdict is None:
            found.notes.append("The gate's verdict on this version is not on record.")
