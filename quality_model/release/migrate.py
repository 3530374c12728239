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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quality_model.core import storage
from quality_model.core.figures import text_table
from quality_model.errors import RegistryError, UsageError
from quality_model.paths import DATABASE_NAME, ProjectPaths
from quality_model.release.decisions import finished_records
from quality_model.release.migration_fill import Filler
from quality_model.release.mlflow_connection import connect, mlflow_errors, server_uri
from quality_model.release.registry_facts import (
    EARLIER_ID,
    HIGHEST,
    KINDS,
    MODEL_VERSIONS,
    REPEATED,
    Content,
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
        rows = [(kind, *(f"{side.get(kind, 0):,}" for side in (self.here, self.there))) for kind in KINDS]
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
    """One migration. The target's ids: ``new`` of runs and models, ``places`` of experiments."""

    def __init__(self, source: Side, target: Side, copy: Path, moved: Migration) -> None:
        self.source, self.target, self.copy, self.moved = source, target, copy, moved
        self.client, self.new = target.connection.client, moved.ids
        self.shown = target.connection.shown
        self.fill = Filler(source, self.client, self.new)
        self.places: dict[str, str] = {}

    def run(self) -> None:
        here = self.source.content()
        self._require_whole(here)
        self._require_free(here)
        self._count_left()
        for name in here.experiments:
            self._make_runs_and_models(here, name)
        for name in here.registered:
            self._make_versions(name, here.versions[name])
        for name, experiment in here.experiments.items():
            log.info("Experiment %s: %d runs.", name, len(here.runs[name]))
            for model in here.models[name]:
                self._model(model, name)
            for run in here.runs[name]:  # in the trash, it takes no metrics of its models any more
                self._run(run)
            self._experiment(experiment)
        for name, registered in here.registered.items():
            log.info("Registered model %s: %d versions.", name, len(here.versions[name]))
            for version in here.versions[name].values():
                self._version(version)
            self._registered(registered)

    # -- what speaks against it

    def _require_whole(self, here: Content) -> None:
        """All decisions of this machine are in its registry, and all versions have files in it."""
        shown = {(name, tag) for name, one in here.registered.items() for tag in one.tags}
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
        for version in (one for versions in here.versions.values() for one in versions.values()):
            kind, _, place = (source := self.source.source(version)).partition(":/")
            if kind not in ("models", "runs") or place.partition("/")[0] not in self.source.ids:
                raise UsageError(
                    f"The files of version {version.version} of {version.name} are at {source}, which is no"
                    f" model or run in {self.moved.source}.",
                    "Delete that version in MLflow first, if it is not needed.",
                )

    def _require_free(self, here: Content) -> None:
        """The server has nothing under these names but what an earlier migration of this project made."""
        for name in here.experiments:
            if there := self.client.get_experiment_by_name(name):
                self._take_runs(here, name, there.experiment_id)
                self._take_models(here, name, there.experiment_id)
        for name, registered in here.registered.items():
            if not (found := self.client.search_registered_models(f"name='{name}'")):
                continue
            for number, version in self.target.versions(name).items():
                if version.tags.get(EARLIER_ID) not in {*map(str, here.versions[name])}:
                    raise self._other(f"version {number} of {name}")
            self._require_same(self.source.of_registered(registered), self.target.of_registered(found[0]))

    def _take_runs(self, here: Content, name: str, place: str) -> None:
        """Learn the ids of the runs that are there; of two of one run the second goes."""
        known = {run.info.run_id for run in here.runs[name]}
        for run in self.target.runs(place):
            own, earlier = run.info.run_id, run.data.tags.get(EARLIER_ID)
            if earlier != REPEATED and self._take(earlier, own, known, name):
                continue
            if run.info.lifecycle_stage == "active":
                self.client.set_tag(own, EARLIER_ID, REPEATED)
                self.client.delete_run(own)

    def _take_models(self, here: Content, name: str, place: str) -> None:
        """As `_take_runs`, of logged models."""
        known = {model.model_id for model in here.models[name]}
        for model in self.target.models(place):
            if not self._take(model.tags.get(EARLIER_ID), model.model_id, known, name):
                self.client.delete_logged_model(model.model_id)

    def _take(self, earlier: str | None, own: str, known: set[str], name: str) -> bool:
        """Whether ``own`` is the one that was made for ``earlier``."""
        if earlier not in known:
            raise self._other(f"{own} in experiment {name}")
        self.target.ids[self.new.setdefault(earlier, own)] = earlier
        return self.new[earlier] == own

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

    def _make_runs_and_models(self, here: Content, name: str) -> None:
        there = self.client.get_experiment_by_name(name)
        place = self.places[name] = there.experiment_id if there else str(self.client.create_experiment(name))
        for run in here.runs[name]:
            if run.info.run_id not in self.new:
                self.new[run.info.run_id] = self.fill.make_run(run, place)
        self._take_runs(here, name, place)
        for model in here.models[name]:
            if model.model_id not in self.new:
                self.new[model.model_id] = self.fill.make_model(model, place)
        self._take_models(here, name, place)

    def _make_versions(self, name: str, versions: "dict[int, ModelVersion]") -> None:
        """Make the versions in order; for each number without one, a version is made and deleted."""
        if not self.client.search_registered_models(f"name='{name}'"):
            self.client.create_registered_model(name)
        self._delete_others(name)
        there = self.target.versions(name)
        for number, version in versions.items():
            made = number if number in there else 0
            while made < number:
                made = self.fill.make_version(version)
            self._delete_others(name)
            if made > number and number not in self.target.versions(name):
                raise self._other(f"had {made - 1} versions of {name}")
        with closing(sqlite3.connect(self.copy)) as database:
            highest = database.execute(_HIGHEST, (name,)).fetchone()[0] or 0
        last = max(versions, default=0)
        if last and highest > last and HIGHEST not in self.client.get_registered_model(name).tags:
            while self.fill.make_version(versions[last]) < highest:
                pass
            self._delete_others(name)
            self.client.set_registered_model_tag(name, HIGHEST, str(highest))

    def _delete_others(self, name: str) -> None:
        """Delete the versions that only keep a number from being given to another one."""
        for number, version in self.target.versions(name).items():
            if version.tags[EARLIER_ID] != str(number):
                self.client.delete_model_version(name, str(number))

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
            counted.update(Counter(counted) + Counter(fact.kind for fact in side))
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

    def _experiment(self, one: "Experiment") -> None:
        place = self.places[one.name]
        self._settle(
            self.source.of_experiment(one),
            lambda: self.target.of_experiment(self.client.get_experiment(place)),
            lambda lacking: self.fill.experiment(one, place, lacking),
        )

    def _version(self, version: "ModelVersion") -> None:
        name, number = version.name, str(version.version)
        self._settle(
            self.source.of_version(version),
            lambda: self.target.of_version(self.client.get_model_version(name, number)),
            lambda lacking: self.fill.version(version, lacking),
        )

    def _registered(self, one: "RegisteredModel") -> None:
        self._settle(
            self.source.of_registered(one),
            lambda: self.target.of_registered(self.client.get_registered_model(one.name)),
            lambda lacking: self.fill.registered(one, lacking),
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
