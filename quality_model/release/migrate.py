"""Moves a project's own registry, ``mlflow.db`` and ``mlartifacts``, to an MLflow server, with its history.

It reads a copy of the database, so that the source stays as it is, and adds what the server lacks; nothing
that is there is overwritten. So it may be interrupted at any call and repeated at any time. Both sides are
read and compared, value by value. First come empty runs, logged models and versions, because they name one
another; then what they hold; aliases last, so that nobody finds a champion that is not complete.

A server gives runs and logged models ids of their own. The earlier ids stay as tags (`EARLIER_ID`,
`EARLIER_RUN`), by which `Registry.find_run` and `trace` find what records and scores name.

MLflow 3.17 has `mlflow migrate-filestore` (a file store to SQLite) and `mlflow db` (schemas) alone. The
package mlflow-export-import keeps neither times nor numbers of versions, makes everything anew at each
repetition, and compares nothing.
"""

import logging
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quality_model.core import storage
from quality_model.core.figures import text_table
from quality_model.errors import RegistryError, UsageError
from quality_model.paths import DATABASE_NAME, ProjectPaths
from quality_model.release.decisions import finished_records
from quality_model.release.migration_fill import Filler
from quality_model.release.mlflow_connection import connect, mlflow_errors, server_uri
from quality_model.release.registry_facts import (
    EARLIER_ID,
    EARLIER_RUN,
    HIGHEST,
    MODEL_VERSIONS,
    Fact,
    Facts,
    Side,
)

if TYPE_CHECKING:
    from mlflow.entities import Experiment, LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

log = logging.getLogger(__name__)

REPORT_NAME: Final = "migration.json"

_LEFT: Final = {
    "traces": "SELECT count(*) FROM trace_info",
    "logged models in the trash": "SELECT count(*) FROM logged_models WHERE lifecycle_stage <> 'active'",
    "webhooks": "SELECT count(*) FROM webhooks",
}
"""What is not moved, with the query that counts it."""

_HIGHEST: Final = "SELECT max(version) FROM model_versions WHERE name = ?"
_AWAIT_S: Final = 60
_LOCK_WAIT_S: Final = 5.0


@dataclass(slots=True)
class Migration:
    """What was moved, as both sides hold it afterwards.

    Attributes:
        source: The database.
        target: The server, without credentials.
        here: How many facts of each kind the source has.
        there: The same of the target, read after the last change.
        added: Facts that the target lacked; 0 if everything was there.
        left: What the source has that is not moved, with its number.
        differences: Facts that differ in the end; none, unless something else writes to the server.
        ids: The source's ids of runs and logged models with those of the target.
    """

    source: str
    target: str
    here: dict[str, int] = field(default_factory=dict)
    there: dict[str, int] = field(default_factory=dict)
    added: int = 0
    left: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """The counts of both sides, for a terminal."""
        rows = [(kind, f"{count:,}", f"{self.there.get(kind, 0):,}") for kind, count in self.here.items()]
        return text_table(("what", "here", "there"), rows, right=("here", "there"))

    def headline(self) -> str:
        """The outcome in one line."""
        if not self.added:
            return f"Nothing to do: {self.target} has everything that is in {self.source}."
        return f"Moved {self.source} to {self.target}: {self.added:,} values added; both sides are equal."


def migrate(*, root: Path, to: str, report: Path) -> Migration:
    """Move the project's own registry to a server, and compare both.

    Args:
        root: The project folder, with ``mlflow.db`` and ``mlartifacts``; MLFLOW_TRACKING_URI is not asked.
        to: Address of the server, http or https.
        report: Folder for migration.json: counts of both sides, and the ids.

    Raises:
        UsageError: There is no registry; or a decision is not in it yet.
        RegistryError: The server does not answer, or holds something else under the same names; or the sides
            differ in the end.
        StorageError: Another process migrates this project.
    """
    uri, database = server_uri("--to", to), root / DATABASE_NAME
    if not database.is_file():
        raise UsageError(
            f"{database} is not there: this project has no registry of its own.", "Run it in the project."
        )
    lock = ProjectPaths(root).state / "locks" / "migrate.lock"
    with storage.locked(lock, timeout_s=_LOCK_WAIT_S), _copy_of(database) as copy:
        source = Side(connect(copy.parent, f"sqlite:///{copy}"), root)
        target = Side(connect(root, uri), root)
        moved = Migration(str(database), target.connection.shown)
        with mlflow_errors(moved.target, "Migrating", "--to"):
            _Move(source, target, copy, moved).run()
    storage.write_json(report / REPORT_NAME, {key: getattr(moved, key) for key in moved.__slots__})
    if moved.differences:
        raise RegistryError(
            f"{moved.target} differs in {len(moved.differences)} values, first: {moved.differences[0]}.",
            f"All are in {report / REPORT_NAME}. See that nothing else writes there, and run it again.",
        )
    return moved


@contextmanager
def _copy_of(database: Path) -> Iterator[Path]:
    """A consistent copy, also while others write."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        with (
            closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as original,
            closing(sqlite3.connect(copy)) as copied,
        ):
            original.backup(copied)
        yield copy


class _Move:
    """One migration: ``new`` has the target's id of each run and logged model of the source."""

    def __init__(self, source: Side, target: Side, copy: Path, moved: Migration) -> None:
        self.source, self.target, self.copy, self.moved = source, target, copy, moved
        self.client, self.new = target.connection.client, moved.ids
        self.shown = target.connection.shown
        self.fill = Filler(source, self.client, self.new)

    def run(self) -> None:
        from mlflow.entities import ViewType

        here = self.source.connection.client
        experiments = here.search_experiments(ViewType.ALL, max_results=1000)
        found = {one.name: (one, self.source.runs(one.experiment_id)) for one in experiments}
        models = {one.name: self.source.models(one.experiment_id) for one in experiments}
        found = {name: pair for name, pair in found.items() if pair[1] or models[name]}
        registered = list(here.search_registered_models(max_results=1000))
        self._require_shown(registered)
        self._count_left()
        self._require_free(found, models, registered)

        places = {name: self._experiment(one) for name, (one, _) in found.items()}
        for name, (_, runs) in found.items():
            for run in runs:
                self._ensure_run(run, places[name])
            for model in models[name]:
                self._ensure_model(model, places[name])
        versions = {one.name: self.source.versions(one.name) for one in registered}
        for one in registered:
            self._ensure_versions(one, versions[one.name])

        for name, (experiment, runs) in found.items():
            log.info("Experiment %s: %d runs, %d logged models.", name, len(runs), len(models[name]))
            for model in models[name]:
                self._model(model, name)
            for run in runs:  # a deleted one takes no metrics of its models any more
                self._run(run)
            self._settle(
                self.source.of_experiment(experiment),
                lambda name=name: self.target.of_experiment(self.client.get_experiment(places[name])),  # type: ignore[misc]
                lambda lacking, one=experiment: self.fill.experiment(one, places[one.name], lacking),  # type: ignore[misc]
            )
        for one in registered:
            log.info("Registered model %s: %d versions.", one.name, len(versions[one.name]))
            for version in versions[one.name].values():
                self._version(version)
            self._settle(
                self.source.of_registered(one),
                lambda one=one: self.target.of_registered(self.client.get_registered_model(one.name)),  # type: ignore[misc]
                lambda lacking, one=one: self.fill.registered(one, lacking),  # type: ignore[misc]
            )

    # -- what speaks against it

    def _require_shown(self, registered: "list[RegisteredModel]") -> None:
        """All decisions of this machine are in the source's registry, or they would stay behind."""
        shown = {(one.name, tag) for one in registered for tag in one.tags}
        missing = [
            folder
            for folder, decision in finished_records(self.source.root).items()
            if (decision.model.name, f"decision.{folder.name}") not in shown
        ]
        if missing:
            raise UsageError(
                f"The decision in {missing[0]} is not in {self.moved.source} yet ({len(missing)} such).",
                "Run `quality-model publish` without MLFLOW_TRACKING_URI first.",
            )

    def _require_free(self, found: Any, models: Any, registered: "list[RegisteredModel]") -> None:
        """The server has nothing under these names but what an earlier migration of this project made."""
        for name, (_, runs) in found.items():
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None:
                continue
            known = {run.info.run_id for run in runs}
            for run in self.target.runs(experiment.experiment_id):
                self._know(run.data.tags.get(EARLIER_ID), run.info.run_id, known, f"experiment {name}")
            known = {model.model_id for model in models[name]}
            for model in self.target.models(experiment.experiment_id):
                self._know(model.tags.get(EARLIER_ID), model.model_id, known, f"experiment {name}")
        for one in registered:
            there = next(iter(self.client.search_registered_models(f"name='{one.name}'")), None)
            known = {str(number) for number in self.source.versions(one.name)}
            for number, version in self.target.versions(one.name).items() if there else ():
                earlier = version.tags.get(EARLIER_ID)
                if earlier not in known:
                    raise self._other(f"version {number} of {one.name}")
            if there:
                self._require_same(self.source.of_registered(one), self.target.of_registered(there))

    def _know(self, earlier: str | None, own: str, known: set[str], where: str) -> None:
        if earlier not in known:
            raise self._other(f"{own} in {where}")
        self.new[earlier], self.target.ids[own] = own, earlier

    def _other(self, what: str) -> RegistryError:
        return RegistryError(
            f"{self.shown} has {what}, which is not from {self.moved.source}.",
            "Migrate to a server that has nothing under these names.",
        )

    def _require_same(self, facts: Facts, there: Facts) -> None:
        """What is there has the same value here; what a killed upload left is replaced."""
        for fact, value in there.items():
            if facts.get(fact) != value and not _is_replaced(fact, facts):
                raise RegistryError(
                    f"{self.shown} has another value than {self.moved.source}: {_told(fact, facts, there)}.",
                    "One of them has changed, or it is other content. Nothing is overwritten: make them equal"
                    " in MLflow, or migrate to an empty server.",
                )

    # -- what others name, empty

    def _experiment(self, one: "Experiment") -> str:
        there = self.client.get_experiment_by_name(one.name)
        return there.experiment_id if there else str(self.client.create_experiment(one.name))

    def _ensure_run(self, run: "Run", experiment_id: str) -> None:
        old = run.info.run_id
        if old in self.new:
            return
        user = {key: run.data.tags[key] for key in ("mlflow.user",) if key in run.data.tags}
        tags = {EARLIER_ID: old, **user}
        made = self.client.create_run(experiment_id, run.info.start_time, tags, run.info.run_name)
        self.new[old], self.target.ids[made.info.run_id] = made.info.run_id, old

    def _ensure_model(self, model: "LoggedModel", experiment_id: str) -> None:
        old = model.model_id
        if old in self.new:
            return
        run_id = self.new.get(model.source_run_id or "")
        tags = {EARLIER_ID: old}
        made = self.client.create_logged_model(
            experiment_id, model.name, run_id, tags, model_type=model.model_type
        )
        self.new[old], self.target.ids[made.model_id] = made.model_id, old

    def _ensure_versions(self, one: "RegisteredModel", versions: "dict[int, ModelVersion]") -> None:
        """Make the versions in order; for each number without one, a version is made and deleted."""
        name = one.name
        if not self.client.search_registered_models(f"name='{name}'"):
            self.client.create_registered_model(name)
        there = self.target.versions(name)
        for number, version in list(there.items()):
            if version.tags[EARLIER_ID] != str(number):
                self.client.delete_model_version(name, str(number))
                del there[number]
        for number, version in versions.items():
            made = number if number in there else 0
            while made < number:
                made = self._make_version(version)
                if made > number:
                    self.client.delete_model_version(name, str(made))
                    raise self._other(f"had {made - 1} versions of {name}")
                if made < number:
                    self.client.delete_model_version(name, str(made))
        with closing(sqlite3.connect(self.copy)) as database:
            highest = database.execute(_HIGHEST, (name,)).fetchone()[0] or 0
        last = max(versions, default=0)
        tags = self.client.get_registered_model(name).tags
        if last and highest > last and HIGHEST not in tags:
            made = last
            while made < highest:
                made = self._make_version(versions[last])
                self.client.delete_model_version(name, str(made))
            self.client.set_registered_model_tag(name, HIGHEST, str(highest))

    def _make_version(self, version: "ModelVersion") -> int:
        run_id, source = version.run_id or None, self.source.source(version)
        tags = {EARLIER_ID: str(version.version), **({EARLIER_RUN: run_id} if run_id else {})}
        model_id = self.new.get(source.removeprefix("models:/"))
        if model_id:
            source = f"models:/{model_id}"
        elif source.startswith("runs:/"):
            old, _, path = source.removeprefix("runs:/").partition("/")
            source = f"{self.client.get_run(self.new[old]).info.artifact_uri}/{path}"
        else:
            raise RegistryError(
                f"The files of version {version.version} of {version.name} are at {source},"
                " which is no model or run of this registry.",
                "Delete that version in MLflow first, if it is not needed.",
            )
        made = self.client.create_model_version(
            version.name,
            source,
            self.new[run_id] if run_id else None,
            tags,
            model_id=model_id,
            await_creation_for=_AWAIT_S,
        )
        return int(made.version)

    # -- what they hold

    def _settle(self, facts: Facts, read: Callable[[], Facts], fill: Callable[[set[Fact]], None]) -> None:
        """Add what the target lacks of these facts, read it again, and count and compare."""
        there = read()
        self._require_same(facts, there)
        lacking = {fact for fact, value in facts.items() if there.get(fact) != value}
        if lacking:
            fill(lacking)
            there = read()
            self.moved.added += len(lacking)
        for counted, side in ((self.moved.here, facts), (self.moved.there, there)):
            for fact in side:
                counted[fact.kind] = counted.get(fact.kind, 0) + 1
        self.moved.differences += [
            _told(fact, facts, there)
            for fact in facts.keys() | there.keys()
            if facts.get(fact) != there.get(fact)
        ]

    def _run(self, run: "Run") -> None:
        new = self.new[run.info.run_id]
        self._settle(
            self.source.of_run(run),
            lambda: self.target.of_run(self.client.get_run(new)),
            lambda lacking: self.fill.run(run, new, lacking),
        )

    def _model(self, model: "LoggedModel", experiment: str) -> None:
        new = self.new[model.model_id]
        self._settle(
            self.source.of_model(model, experiment),
            lambda: self.target.of_model(self.client.get_logged_model(new), experiment),
            lambda lacking: self.fill.model(model, new, lacking),
        )

    def _version(self, version: "ModelVersion") -> None:
        name, number = version.name, str(version.version)
        self._settle(
            self.source.of_version(version),
            lambda: self.target.of_version(self.client.get_model_version(name, number)),
            lambda lacking: self.fill.version(version, lacking),
        )

    def _count_left(self) -> None:
        with closing(sqlite3.connect(self.copy)) as database:
            for words, query in _LEFT.items():
                if count := database.execute(query).fetchone()[0]:
                    self.moved.left[words] = count


def _is_replaced(fact: Fact, facts: Facts) -> bool:
    """Whether a value of the target may be replaced: a part of a file, and what a server adds by itself."""
    return fact in facts and (fact.kind == "files" or fact.name == MODEL_VERSIONS)


def _told(fact: Fact, here: Facts, there: Facts) -> str:
    about = " ".join(filter(None, (fact.owner, fact.kind, fact.name)))
    values = (repr(side.get(fact))[:80] if fact in side else "nothing" for side in (here, there))
    return "{}: {} here, {} there".format(about, *values)
