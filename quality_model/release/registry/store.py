"""The registered model: versions, the aliases ``candidate`` and ``champion``, and who moved them when.

MLflow's aliases are last-writer-wins. Every change here is made under a lock between
processes, on what is read inside it, and read again afterwards. The alias moves first and
its event is written second; whoever comes next finds a missing event and adds it, so a
process killed in between leaves neither a wrong champion nor a gap.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from quality_model.core.storage import locked
from quality_model.errors import (
    ChampionChangedError,
    ModelNotFoundError,
    NoEarlierChampionError,
    RegistryError,
)
from quality_model.params import RegistryParams
from quality_model.paths import ProjectPaths
from quality_model.release.registry import attachments
from quality_model.release.registry.connection import Connection, as_current, connect, speaking_to
from quality_model.release.registry.files import ResolvedModel, fetch
from quality_model.release.registry.history import (
    Action,
    AliasEvent,
    last_version,
    next_event,
    read_events,
    succession,
)
from quality_model.release.registry.references import parse_reference

Alias = Literal["candidate", "champion"]

ANY: Final = "any"
"""`Registry.promote` whoever the champion is."""

COPIED_TAGS: Final = (
    *("data_sha256", "data_name", "params_sha256"),
    *("package_version", "code_sha256", "git_commit", "git_dirty", "project_commit"),
)
"""Tags of the run that its version carries too."""

_AWAIT_S: Final = 60


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of the registered model, as it was when it was read."""

    name: str
    version: str
    run_id: str | None
    model_id: str | None
    created: str
    aliases: tuple[str, ...]
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class _State:
    """Aliases and events, read in one call."""

    aliases: dict[str, str] = field(default_factory=dict)
    events: list[AliasEvent] = field(default_factory=list)


class Registry:
    """The versions of one registered model.

    Args:
        root: The project folder: locks, downloaded models and, by default, the database.
        section: Name of the model and the longest wait for the lock.

    Raises:
        UsageError: MLFLOW_TRACKING_URI is not usable.
        RegistryError: The database cannot be opened. So do all methods when MLflow does not answer.
    """

    def __init__(self, root: Path, section: RegistryParams) -> None:
        self.root = root
        self.name = section.model_name
        self._lock_timeout_s = section.lock_timeout_s
        self._connection: Connection = connect(root)
        self._client = self._connection.client

    # -- reading

    def versions(self) -> list[ModelVersion]:
        """Every version, oldest first; none if nothing was ever registered."""
        aliases = self._read().aliases
        with self._speaking("Listing the model's versions"):
            found: list[Any] = []
            token = None
            while True:
                page = self._client.search_model_versions(f"name='{self.name}'", page_token=token)
                found += page
                token = page.token
                if not token:
                    break
        return sorted((self._version(mv, aliases) for mv in found), key=lambda v: int(v.version))

    def find(self, reference: str) -> ModelVersion:
        """The version that a reference names: an alias, a number, ``models:/name@alias``, ``models:/name/3``.

        Raises:
            ModelNotFoundError: It names nothing here; the message lists what there is.
        """
        name, alias, version = parse_reference(reference)
        if name not in (None, self.name):
            raise ModelNotFoundError(
                f"{reference!r} names the model {name!r}; this project's is {self.name!r}.",
                "Set registry.model_name in params.yaml, or use a reference without a name.",
            )
        aliases = self._read().aliases
        number = version or aliases.get(alias or "")
        if number is not None:
            try:
                with self._speaking(f"Reading version {number}"):
                    return self._version(self._client.get_model_version(self.name, number), aliases)
            except ModelNotFoundError:
                pass
        raise ModelNotFoundError(f"{reference!r} names no version of {self.name}.", self._what_there_is())

    def champion(self) -> ModelVersion | None:
        """The version that scoring uses, or None."""
        return self.find("champion") if "champion" in self._read().aliases else None

    def history(self) -> list[AliasEvent]:
        """Every recorded change of an alias, oldest first."""
        return self._read().events

    def resolve(self, reference: str) -> ResolvedModel:
        """The version that a reference names, with its files on this machine, their hash checked.

        Raises:
            ModelNotFoundError: See `find`.
            RegistryError: Its files cannot be had.
            CorruptError, IncompleteError: They are not those that were registered.
        """
        return self._fetch(self.find(reference), reference)

    # -- writing

    def register(self, run_id: str) -> ModelVersion:
        """Make a version of the model that a run logged last; a second call returns the same version.

        Its tags are those of `COPIED_TAGS`, and the model's id and hash.

        Args:
            run_id: MLflow run.

        Raises:
            ModelNotFoundError: No such run, or it logged no model.
        """
        with self._locked():
            with self._speaking(f"Reading run {run_id}"):
                run = self._client.get_run(run_id)
                outputs = run.outputs.model_outputs if run.outputs else []
            if not outputs:
                raise ModelNotFoundError(
                    f"Run {run_id} holds no model.", "Run `quality-model publish`, or train again."
                )
            with self._speaking(f"Reading the models of run {run_id}"):  # MLflow returns them in no order
                models = [self._client.get_logged_model(output.model_id) for output in outputs]
            model_id = max(models, key=lambda model: int(model.creation_timestamp)).model_id
            existing = [v for v in self.versions() if v.model_id == model_id]
            with self._speaking("Registering the model"), as_current(self._connection):
                logged = self._client.get_logged_model(model_id)
                all_tags: dict[str, str] = {
                    **{key: run.data.tags[key] for key in COPIED_TAGS if key in run.data.tags},
                    "model_id": model_id,
                    "model_sha256": logged.tags.get("model_sha256", ""),
                }
                if existing:
                    number = existing[-1].version
                    for key, value in all_tags.items():
                        self._client.set_model_version_tag(self.name, number, key, value)
                else:
                    self._ensure_registered_model()
                    number = str(
                        self._client.create_model_version(
                            self.name,
                            f"models:/{model_id}",
                            run_id,
                            tags=all_tags,
                            model_id=model_id,
                            await_creation_for=_AWAIT_S,
                        ).version
                    )
                link = json.dumps([{"name": self.name, "version": number}])
                self._client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
        return self.find(number)

    def set_candidate(self, version: str, reason: str) -> bool:
        """Let ``candidate`` name a version; False if it did already.

        Raises:
            ModelNotFoundError: No such version.
        """
        with self._locked():
            target = self.find(version)
            state = self._reconciled("candidate")
            if state.aliases.get("candidate") == target.version:
                return False
            self._move("candidate", target, "set", reason, state)
            return True

    def promote(
        self,
        version: str,
        reason: str,
        *,
        compared_with: str | None = ANY,
        action: Action = "promoted",
    ) -> bool:
        """Let ``champion`` name a version; False if it did already.

        Args:
            version: Version number or other reference.
            reason: Kept in the history.
            compared_with: The champion that the gate compared the candidate with (None: there
                was none); if another one reigns by now, nothing changes.
            action: What the history calls it.

        Raises:
            ModelNotFoundError: No such version.
            ChampionChangedError: Another champion than ``compared_with`` reigns by now.
            RegistryError, IncompleteError, CorruptError: The version's files are not there or
                are not those that were registered. The old champion stays.
        """
        with self._locked():
            target = self.find(version)
            state = self._reconciled("champion", finishing=(action, target.version, reason))
            current = state.aliases.get("champion")
            if current == target.version:
                return False
            if compared_with != ANY and current != compared_with:
                raise ChampionChangedError(
                    f"The champion is version {current}; version {target.version} was compared with "
                    f"{compared_with or 'none'}.",
                    "Run the gate again.",
                )
            self._fetch(target, version)
            self._move("champion", target, action, reason, state)
            return True

    def rollback(self, reason: str) -> ModelVersion:
        """Put the champion before this one back, and return it.

        Raises:
            NoEarlierChampionError: There is none before this one; nothing changes.
            RegistryError: Its files are gone; nothing changes.
        """
        with self._locked():
            state = self._read()
            current = state.aliases.get("champion")
            line = succession(state.events, "champion")
            if len(line) > 1 and current == line[-2]:
                # The alias moved, its event did not: a rollback was killed in between.
                self._record("champion", "rolled back", line[-1], current, reason, state)
                return self.find(current)
            state = self._reconciled("champion")
            line = succession(state.events, "champion")
            kept = {version.version for version in self.versions()}
            before = [number for number in (line[:-1] if current is not None else line) if number in kept]
            if not before:
                raise NoEarlierChampionError(
                    f"{self.name} has no earlier champion to go back to.",
                    "See the history; `promote bundled` leads back to the bundled model.",
                )
            target = self.find(before[-1])
            self._fetch(target, target.version)
            self._move("champion", target, "rolled back", reason, state)
            return target

    def attach_verdict(self, verdict: Mapping[str, Any], *, run_id: str, version: str | None = None) -> None:
        """Keep the gate's verdict with the run and, if there is one, with the version.

        Args:
            verdict: JSON values, ``passed`` among them; NaN is kept as its name.
            run_id: MLflow run: gets a tag and the file gate/verdict.json.
            version: Gets tags ``verdict`` (passed or refused) and ``verdict_json``.
        """
        attachments.attach_verdict(self._connection, self.name, verdict, run_id=run_id, version=version)

    def tag(self, version: ModelVersion, key: str, value: str) -> None:
        """Set a tag of a version; an earlier value is replaced."""
        with self._speaking(f"Tagging version {version.version}"):
            self._client.set_model_version_tag(self.name, version.version, key, value)

    def attach_card(self, version: ModelVersion, text: str) -> None:
        """Make a model card the version's description, and the file MODEL_CARD.md of its run."""
        attachments.attach_card(
            self._connection, self.name, text, run_id=version.run_id, version=version.version
        )

    def attach_comparison(
        self, version: ModelVersion, summary: Mapping[str, Any], files: Iterable[Path]
    ) -> None:
        """Keep a comparison: its summary as the version's tag ``comparison_json``, its files with the run."""
        attachments.attach_comparison(
            self._connection, self.name, summary, files, run_id=version.run_id, version=version.version
        )

    # -- inside

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = ProjectPaths(self.root).state / "locks" / f"registry-{self.name}.lock"
        with locked(path, timeout_s=self._lock_timeout_s):
            yield

    @contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        with speaking_to(self._connection.shown, doing):
            yield

    def _read(self) -> _State:
        try:
            with self._speaking("Reading the registered model"):
                model = self._client.get_registered_model(self.name)
        except ModelNotFoundError:
            return _State()
        aliases = {alias: str(number) for alias, number in model.aliases.items()}
        return _State(aliases, read_events(model.tags))

    def _reconciled(self, alias: Alias, finishing: tuple[Action, str, str] | None = None) -> _State:
        """The state, after adding the event that is missing if the alias moved without one.

        ``finishing`` is the change being asked for: if it is the one whose event is missing,
        its own words are recorded.
        """
        state = self._read()
        recorded, actual = last_version(state.events, alias), state.aliases.get(alias)
        if recorded == actual:
            return state
        if finishing and finishing[1] == actual:
            self._record(alias, finishing[0], recorded, actual, finishing[2], state)
        else:
            self._record(alias, "found", recorded, actual, "moved without an event", state)
        return self._read()

    def _move(self, alias: Alias, target: ModelVersion, action: Action, reason: str, state: _State) -> None:
        with self._speaking(f"Setting {alias}"):
            self._client.set_registered_model_alias(self.name, alias, target.version)
        sys.audit("quality_model.release.registry.moved", alias, target.version)
        now = self._read().aliases.get(alias)
        if now != target.version:
            raise RegistryError(
                f"{alias} names version {now} after it was set to {target.version}.",
                "Something outside this project moves it too; look at the history and try again.",
            )
        self._record(alias, action, state.aliases.get(alias), target.version, reason, state)

    def _record(
        self,
        alias: Alias,
        action: Action,
        before: str | None,
        after: str | None,
        reason: str,
        state: _State,
    ) -> None:
        key, value = next_event(state.events, alias, action, before, after, reason).to_tag()
        with self._speaking("Recording the change"):
            self._client.set_registered_model_tag(self.name, key, value)

    def _ensure_registered_model(self) -> None:
        try:
            with self._speaking("Reading the registered model"):
                self._client.get_registered_model(self.name)
        except ModelNotFoundError:
            with self._speaking("Making the registered model"):
                self._client.create_registered_model(
                    self.name, description="Scores colour cast, blur, watermark and noise of images."
                )

    def _fetch(self, version: ModelVersion, reference: str) -> ResolvedModel:
        return fetch(
            self._connection,
            name=version.name,
            version=version.version,
            run_id=version.run_id,
            model_id=version.model_id,
            tags=version.tags,
            reference=reference,
        )

    def _version(self, found: Any, aliases: Mapping[str, str]) -> ModelVersion:
        number = str(found.version)
        return ModelVersion(
            name=found.name,
            version=number,
            run_id=found.run_id or None,
            model_id=found.model_id or found.tags.get("model_id"),
            created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(
                timespec="seconds"
            ),
            aliases=tuple(sorted(alias for alias, of in aliases.items() if of == number)),
            tags=dict(found.tags),
        )

    def _what_there_is(self) -> str:
        versions = self.versions()
        if not versions:
            return "Nothing is registered yet: run the retraining. `bundled` names the bundled model."
        listed = ", ".join(
            version.version + "".join(f" ({alias})" for alias in version.aliases)
            for version in versions[-20:]
        )
        return f"There are versions {listed}."
