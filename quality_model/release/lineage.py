"""From scores back to what made them: model, run, data, commit, verdict and decisions."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from quality_model import pretrained
from quality_model.core import storage
from quality_model.core.folders import JOB_NAME, PLAN_NAME
from quality_model.core.jobs import DATA_FOLDER, MARKERS_FOLDER
from quality_model.errors import CorruptError, ModelNotFoundError, RegistryError, UsageError
from quality_model.params import RegistryParams
from quality_model.paths import DESCRIPTION_NAME
from quality_model.release.registry import ModelVersion, Registry, decision_line, read_decisions
from quality_model.release.registry.connection import database_exists
from quality_model.score.rows import METADATA_PREFIX

_REGISTERED: Final = re.compile(r"[1-9][0-9]{0,9}")
"""A version of the registry is a number; that of a file is the beginning of a hash."""

_COLUMNS: Final = ("model_name", "model_version", "model_run_id")
_EARLIER_COLUMNS: Final = ("model_name", "model_version", "run_id")
_MODEL_KEY: Final = f"{METADATA_PREFIX}model".encode()
_FILES: Final = (f"{DATA_FOLDER}/part-*.parquet", "part-*.parquet", "shard-*.parquet")
"""In a result, in its folder of rows, and in a result of the earlier layout."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """What is known of the model behind some scores; None where nothing is.

    Attributes:
        shards: The files that were read.
        model_name: As the rows give it.
        model_version: In the registry; None for a checkpoint file.
        run_id: MLflow run that trained it.
        weights_sha256: Of the file of weights, as the scoring job recorded it.
        model_sha256: Of the model's folder, as registered.
        data_name: Dataset of the training.
        data_sha256: Of the training dataset.
        params_sha256: Of the parameters that the weights hang on.
        package_version: Of the code of the training.
        code_sha256: Of that code.
        git_commit: Of the checkout that it was run from, if it was.
        git_dirty: ``true`` where it had uncommitted changes.
        aliases: That name the version now.
        verdict: ``passed`` or ``refused``, by the gate.
        decisions: The ledger's records about this model, oldest first.
        notes: What could not be known, and why.
    """

    shards: tuple[str, ...]
    model_name: str
    model_version: str | None = None
    run_id: str | None = None
    weights_sha256: str | None = None
    model_sha256: str | None = None
    data_name: str | None = None
    data_sha256: str | None = None
    params_sha256: str | None = None
    package_version: str | None = None
    code_sha256: str | None = None
    git_commit: str | None = None
    git_dirty: str | None = None
    aliases: tuple[str, ...] = ()
    verdict: str | None = None
    decisions: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """A short table for a terminal."""
        dirty = " (with uncommitted changes)" if self.git_dirty == "true" else ""
        version = " ".join(filter(None, (self.model_version, *(f"({name})" for name in self.aliases))))
        told = [
            ("scores", self.shards[0] + (f" and {len(self.shards) - 1} more" if self.shards[1:] else "")),
            ("model", self.model_name),
            ("version", version),
            ("run", self.run_id),
            ("weights sha256", self.weights_sha256),
            ("model sha256", self.model_sha256),
            ("data", self.data_name),
            ("data sha256", self.data_sha256),
            ("commit", f"{self.git_commit}{dirty}" if self.git_commit else None),
            ("package", f"quality-model {self.package_version}" if self.package_version else None),
            ("code sha256", self.code_sha256),
            ("verdict", self.verdict),
            *(
                ("decision", f"{decision['time']} {decision_line(decision)}")
                for decision in self.decisions
                if decision.get("outcome") != "no-op"  # one for each scheduled look that found nothing new
            ),
            *(("note", note) for note in self.notes),
        ]
        return [f"{name:14}  {value or '-'}" for name, value in told]


class _Scorer(NamedTuple):
    """The model as the rows name it."""

    name: str
    version: str | None
    run_id: str | None


def trace(registry: RegistryParams | None, *, root: Path, path: Path) -> Lineage:
    """Find out what made some scores.

    Args:
        registry: Names the registered model; None outside a project, where shipped models and files of
            weights are known all the same.
        root: The project folder, with registry and ledger.
        path: A Parquet file of scores, the folder of a scoring result or its folder of rows; of the
            earlier layout too.

    Raises:
        UsageError: It holds no scores, or those of several models.
        CorruptError: A file is not the one that its completion marker describes.
        ModelNotFoundError: There is no registry, or it no longer has the version.
        RegistryError: The version here came from another run than the scores: another registry.
    """
    shards = _shards(path)
    scorer = _one_scorer(shards)
    weights_sha256 = _weights_sha256(shards[0], scorer)
    known = Lineage(
        shards=tuple(map(str, shards)),
        model_name=scorer.name,
        model_version=scorer.version,
        run_id=scorer.run_id,
        weights_sha256=weights_sha256,
    )
    if (bundled := pretrained.bundled_name(scorer.name)) is not None:
        return _bundled(known, bundled, root)
    if scorer.version is None or not _REGISTERED.fullmatch(scorer.version):
        return replace(known, decisions=_decisions(root, scorer.run_id, None), notes=(_NO_REGISTRY,))
    version = _version(registry, root, scorer)
    tags = version.tags
    return replace(
        known,
        model_sha256=tags.get("model_sha256"),
        data_name=tags.get("data_name"),
        data_sha256=tags.get("data_sha256"),
        params_sha256=tags.get("params_sha256"),
        package_version=tags.get("package_version"),
        code_sha256=tags.get("code_sha256"),
        git_commit=tags.get("git_commit"),
        git_dirty=tags.get("git_dirty"),
        aliases=version.aliases,
        verdict=tags.get("verdict"),
        decisions=_decisions(root, version.run_id, tags.get("model_sha256")),
        notes=() if "verdict" in tags else ("The gate's verdict on this version is not on record.",),
    )


_NO_REGISTRY: Final = "No registry knows this model: the scores were made with a file of weights."
_NOT_SHIPPED: Final = "The model that scored shipped with another release of this package."


def _shards(path: Path) -> list[Path]:
    if not path.exists():
        raise UsageError(f"{path} is not there.", "Name the output folder of `score`, or a part in it.")
    groups = (sorted(path.glob(pattern)) for pattern in _FILES) if path.is_dir() else iter([[path]])
    shards = next(filter(None, groups), [])
    if not shards:
        raise UsageError(f"{path} holds no scores.", "Name the output folder of `score`.")
    for shard in shards:
        _require_vouched(shard)
    return shards


def _require_vouched(shard: Path) -> None:
    """A file with a completion marker must be what that says; one that was moved elsewhere has none."""
    result = _result_of(shard)
    folder = shard.parent if result == shard.parent else result / MARKERS_FOLDER
    marker = folder / f"{shard.stem}.json"
    if not marker.exists():
        return
    facts = storage.read_json(marker)
    if not isinstance(facts, dict) or facts.get("sha256") != storage.file_sha256(shard):
        raise CorruptError(
            f"{shard} is not the file that {marker.name} describes.", "Score the collection again."
        )


def _one_scorer(shards: Sequence[Path]) -> _Scorer:
    found: dict[_Scorer, Path] = {}
    for shard in shards:
        for scorer in _scorers(shard):
            found.setdefault(scorer, shard)
    if not found:
        raise UsageError(f"{shards[0]} has no rows.", "Name a file with scores.")
    if len(found) > 1:
        models = ", ".join(sorted(f"{scorer.name} version {scorer.version or '-'}" for scorer in found))
        raise UsageError(f"These are scores of several models: {models}.", "Trace them one by one.")
    return next(iter(found))


def _scorers(shard: Path) -> set[_Scorer]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        present = set(pq.read_schema(shard).names)
        columns = list(_EARLIER_COLUMNS if present.issuperset(_EARLIER_COLUMNS) else _COLUMNS)
        if missing := [name for name in columns if name not in present]:
            raise UsageError(
                f"{shard} holds no scores: it has no column {', '.join(missing)}.",
                "Name a part-NNNNN.parquet that `score` wrote.",
            )
        with pq.ParquetFile(shard) as file:
            rows = file.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(
            f"{shard} holds no scores: it cannot be read as Parquet ({str(error).splitlines()[0]}).",
            "Name a part-NNNNN.parquet that `score` wrote, or the folder of a scoring result.",
        ) from None
    distinct = rows.group_by(columns).aggregate([]).select(columns)
    return {_Scorer(*row) for row in zip(*(column.to_pylist() for column in distinct.columns), strict=True)}


def _result_of(shard: Path) -> Path:
    """The folder of the result that a file of scores is in."""
    folder = shard.absolute().parent
    return folder.parent if folder.name == DATA_FOLDER and shard.name.startswith("part-") else shard.parent


def _weights_sha256(shard: Path, scorer: _Scorer) -> str | None:
    """What the file itself, or the job beside it, says of the weights, if it is about this model."""
    models = [_model_in_metadata(shard)]
    for path in (_result_of(shard) / name for name in (JOB_NAME, PLAN_NAME)):
        facts = storage.read_json(path) if path.exists() else None
        models.append(facts.get("model") if isinstance(facts, dict) else None)
    for model in models:
        if isinstance(model, dict) and (model.get("name"), model.get("version")) == scorer[:2]:
            return model.get("sha256")
    return None


def _model_in_metadata(shard: Path) -> Any:
    import pyarrow.parquet as pq

    with suppress(ValueError):
        return json.loads((pq.read_schema(shard).metadata or {}).get(_MODEL_KEY, b"null"))
    return None


def _bundled(known: Lineage, name: str, root: Path) -> Lineage:
    """What model.json says of the bundled model, if it still is the one that scored."""
    folder = pretrained.pretrained_folder(name)
    facts = storage.read_json(folder / DESCRIPTION_NAME)["facts"] if folder else {}
    if facts.get("version") != known.model_version:
        return replace(known, notes=(_NOT_SHIPPED,))
    return replace(
        known,
        model_sha256=facts.get("model_sha256"),
        data_name=facts.get("settings", {}).get("source.dataset"),
        data_sha256=facts.get("data_sha256"),
        params_sha256=facts.get("params_sha256"),
        package_version=facts.get("package_version"),
        code_sha256=facts.get("code_sha256"),
        git_commit=facts.get("git_commit"),
        git_dirty=facts.get("git_dirty"),
        decisions=_decisions(root, known.run_id, facts.get("model_sha256")),
        notes=("No registry knows this model: it ships with the package; see its model card.",),
    )


def _version(registry: RegistryParams | None, root: Path, scorer: _Scorer) -> ModelVersion:
    shown = f"Version {scorer.version} of {scorer.name}, which made these scores,"
    if registry is None or not database_exists(root):
        raise ModelNotFoundError(
            f"{shown} cannot be looked up: there is no registry in {root.resolve()}.",
            "Run this in the project that scored, or set MLFLOW_TRACKING_URI.",
        )
    catalogue = Registry(root, registry.model_copy(update={"model_name": scorer.name}))
    try:
        version = catalogue.find(scorer.version or "")
    except ModelNotFoundError as error:
        kept = _decisions(root, scorer.run_id, None)
        ledger = f" The ledger still has: {'; '.join(map(decision_line, kept))}." if kept else ""
        raise ModelNotFoundError(
            f"{shown} is no longer in the registry; its run was {scorer.run_id or 'not recorded'}.",
            f"{error.remedy}{ledger}",
        ) from None
    if scorer.run_id is not None and version.run_id != scorer.run_id:
        raise RegistryError(
            f"{shown} came from run {scorer.run_id}; here that version came from run {version.run_id}.",
            "The scores were made with another registry: set MLFLOW_TRACKING_URI to it.",
        )
    return version


def _decisions(root: Path, run_id: str | None, model_sha256: str | None) -> tuple[Mapping[str, Any], ...]:
    """The ledger's records of this run or of these files."""
    return tuple(
        decision
        for decision in read_decisions(root)
        if (run_id is not None and decision.get("run_id") == run_id)
        or (model_sha256 is not None and decision.get("model_sha256") == model_sha256)
    )
