"""The only way to MLflow: which server or database, bounded waits, and errors that a user understands.

MLflow reads its settings from the environment. They are set while one of our calls runs, and restored
afterwards: a program that imports this library keeps its own.
"""

import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from quality_model.core.models import registry_address
from quality_model.core.storage import locked
from quality_model.errors import ModelNotFoundError, RegistryError, UsageError, redacted
from quality_model.paths import ARTIFACTS_NAME, DATABASE_NAME, ProjectPaths

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_SCHEMES: Final = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
_QUIET: Final = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_BOUNDS: Final = {
    # MLflow's own 7 retries of 120 s keep a caller waiting for minutes when the server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Numbers that a user may set to others."""

_CAUSE: Final = re.compile(
    r"Connection refused|Connection reset by peer|[Tt]imed out|too many \d+ error responses"
    r"|Name or service not known|Temporary failure in name resolution|file is not a database"
    r"|database is locked|unable to open database file|attempt to write a readonly database"
)
"""The words that name the cause, in the middle of what the layers below wrap around them."""

_DISTRIBUTIONS: Final = {
    "MySQLdb": "mysqlclient",
    "azure": "azure-storage-blob azure-identity",
    "google": "google-cloud-storage",
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
}
"""What to install for a module of a database's driver or an artifact store, where it has another name."""

_WAIT_S: Final = 120.0
_MESSAGE_LENGTH: Final = 300


class RequestRefusedError(RegistryError):
    """The server understood a request and will never grant it; another attempt changes nothing."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A client of one tracking server or database.

    ``shown`` is the URI without credentials, for messages. ``artifacts`` is where a new
    experiment keeps its files, or None where the server decides.
    """

    uri: str
    shown: str
    artifacts: str | None
    client: "MlflowClient"


def tracking_uri(root: Path) -> str:
    """Return MLFLOW_TRACKING_URI, or the address of the project's own SQLite file.

    Raises:
        UsageError: A scheme that MLflow 3 cannot track with, or an address that it would misread.
    """
    uri = registry_address(root)
    kind = uri.partition(":")[0].partition("+")[0]
    if kind not in _SCHEMES or (kind != "databricks" and "://" not in uri):
        raise UsageError(
            f"MLFLOW_TRACKING_URI = {redacted(uri)!r} is not an address of a tracking server.",
            "Use http://host:port or a database such as sqlite:///mlflow.db; unset: the project's own file.",
        )
    if kind != "sqlite":
        _require_readable("MLFLOW_TRACKING_URI", uri, is_server=kind in ("http", "https"))
    return uri


def server_uri(name: str, uri: str) -> str:
    """Return the address of a tracking server, given as the option or variable ``name``.

    Raises:
        UsageError: It is that of a database, or none at all.
    """
    if not uri.startswith(("http://", "https://")):
        raise UsageError(f"{name} = {redacted(uri)!r} is no address of a server.", "Use http://host:port.")
    _require_readable(name, uri, is_server=True)
    return uri.rstrip("/")


def _require_readable(name: str, uri: str, *, is_server: bool) -> None:
    """Refuse what MLflow or a driver would take for another address, and name in its errors."""
    shown = f"{name} = {redacted(uri)!r}"
    place = uri.partition("://")[2]
    authority = re.split("[/?#]", place, maxsplit=1)[0]
    rest = place.removeprefix(authority)
    if ("@" in rest if is_server else authority.count("@") > 1) or re.search(r"\s", uri):
        raise UsageError(
            f"{shown}: a character of its user or password ends the address.",
            "Write /, ?, #, @, % and spaces in them as %2F, %3F, %23, %40, %25 and %20.",
        )
    if not is_server:
        return
    try:
        parts = urlsplit(uri)
        is_address = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address:
        raise UsageError(f"{shown} is not an address.", "Use http://host:port.")
    if parts.query or parts.fragment:
        raise UsageError(
            f"{shown}: MLflow reads no ? or # of a server's address.",
            "Leave them out. A token belongs in MLFLOW_TRACKING_TOKEN.",
        )


def connect(root: Path, uri: str | None = None) -> Connection:
    """Open the tracking server or database of a project; a new SQLite file is made, which takes seconds.

    Args:
        root: The project folder, which holds ``mlflow.db`` and ``mlartifacts`` by default.
        uri: Another server or database than `tracking_uri`.

    Raises:
        UsageError: MLFLOW_TRACKING_URI, or a setting of MLflow's waits, is not usable.
        RegistryError: The database cannot be opened. A server that is down shows at the first call.
    """
    uri = uri or tracking_uri(root)
    for name, value in _BOUNDS.items():
        given = os.environ.get(name, value)
        if not re.fullmatch(r"\d+" if value.isdigit() else r"\d+(\.\d+)?", given):
            raise UsageError(f"{name} = {given!r} is not a number.", f"Unset it, or use one such as {value}.")
    shown = redacted(uri)
    is_database = not uri.startswith(("http://", "https://", "databricks"))
    artifacts = root.resolve() / ARTIFACTS_NAME if is_database else None
    with mlflow_errors(shown, "Opening the tracking database"):
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if artifacts is not None:
            _open_database(client, root, uri, artifacts)
    return Connection(uri, shown, artifacts.as_uri() if artifacts else None, client)


def _open_database(client: "MlflowClient", root: Path, uri: str, artifacts: Path) -> None:
    # Two processes that make the tables of a new database at the same time would break it.
    with locked(ProjectPaths(root).state / "locks" / "mlflow-tables.lock", timeout_s=_WAIT_S):
        client.search_registered_models(max_results=1)
        database = root.resolve() / DATABASE_NAME
        if uri.startswith("sqlite:///") and Path(uri.removeprefix("sqlite:///")).resolve() == database:
            _relocate(database, artifacts)


@contextmanager
def mlflow_errors(shown: str, doing: str, setting: str = "MLFLOW_TRACKING_URI") -> Iterator[None]:
    """Call MLflow with bounded waits, and turn what it raises into errors of ours.

    Args:
        shown: The URI without credentials.
        doing: What is being done, as the beginning of a sentence.
        setting: The variable or option that names the server.

    Raises:
        ModelNotFoundError: The server answered that there is no such thing.
        RequestRefusedError: It refused what it was asked.
        RegistryError: It did not answer, or cannot for now.
    """
    with _our_environment():
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
            problem = f"{doing} failed at {shown}: {_first_words(error)}"
            code = getattr(error, "error_code", None)
            if code == "RESOURCE_DOES_NOT_EXIST":
                remedy = f"Check that {setting} names the server on which it was made."
                raise ModelNotFoundError(problem, remedy) from error
            if code == "INVALID_PARAMETER_VALUE":
                raise RequestRefusedError(problem) from error
            remedy = _remedy(shown, setting)
            if isinstance(error, NoSuchModuleError):
                remedy = "Correct what is before :// in MLFLOW_TRACKING_URI, or install the driver it names."
            elif isinstance(error, ImportError):
                module = (error.name or "").partition(".")[0]
                if module in ("", "quality_model"):
                    raise
                problem = f"{doing} failed at {shown}: it needs the Python package {module!r} ({error})."
                remedy = f"Install it: pip install {_DISTRIBUTIONS.get(module, module)}"
            raise RegistryError(problem, remedy) from error


_environment_lock: Final = threading.Lock()
_environments: Final[list[dict[str, str | None]]] = []
"""For each of our calls that runs, in whatever thread: the host's settings, if it was the first."""


@contextmanager
def _our_environment() -> Iterator[None]:
    """MLflow's settings in the environment while at least one of our calls runs."""
    with _environment_lock:
        wanted = {**_QUIET, **{name: os.environ.get(name, value) for name, value in _BOUNDS.items()}}
        _environments.append({} if _environments else {name: os.environ.get(name) for name in wanted})
        os.environ.update(wanted)
    try:
        yield
    finally:
        with _environment_lock:
            before = _environments.pop()
            for name, value in before.items():  # the last to end restores what the first one found
                _set(name, value)


@contextmanager
def as_current(connection: Connection) -> Iterator[None]:
    """Name this connection in MLFLOW_TRACKING_URI for the duration of a call.

    MLflow's database store looks a model's id up there when it makes a version of it,
    whatever the URI of the client it was called through.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = connection.uri
    try:
        yield
    finally:
        _set("MLFLOW_TRACKING_URI", before)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _first_words(error: Exception) -> str:
    cause = _CAUSE.search(str(error))
    if cause:
        return f"{cause[0]}."
    lines = str(error).strip().splitlines() or [type(error).__name__]
    words = redacted(lines[0])
    return words if len(words) <= _MESSAGE_LENGTH else words[:_MESSAGE_LENGTH] + "..."


def _remedy(shown: str, setting: str) -> str:
    if shown.startswith(("http", "databricks")):
        return f"Check that the server runs and {setting} names it; then run the same command again."
    return "Check that the database can be read and written and that its disk has space."


# -- the project's own database after its folder was moved or copied

_STORED: Final = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where files were stored. Those of later runs are stored where the experiment says."""


def _relocate(database: Path, artifacts: Path) -> None:
    """Let the records of a database name the files in ``artifacts`` where they name another project's.

    MLflow stores absolute paths. Opened in another folder than before, the database gets the paths of
    this folder: a moved project finds its models, and a copy neither reads nor writes the files of the
    original. Another project may use this database through MLFLOW_TRACKING_URI. While that project has
    files, a record is renamed only if its file is here, or if that project's own database has the record
    too: then this database is a copy.

    Args:
        database: SQLite file with MLflow's tables, in the project folder.
        artifacts: Folder of that project for the files of runs and models, absolute.

    Raises:
        sqlite3.Error: The database cannot be read or written.
    """
    new = artifacts.parent
    with closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection:
        rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments")
        places = {place for (location,) in rows if (place := stored_path(location)).is_absolute()}
        for place in sorted(path for path in places if path.name == artifacts.name and path != artifacts):
            old, copied = place.parent, _locations(place.with_name(database.name))
            is_gone = not os.path.exists(place)  # noqa: PTH110 - False where it may not be read
            with connection:  # one transaction
                connection.execute("BEGIN IMMEDIATE")
                for table, column in (("experiments", "artifact_location"), *_STORED):
                    for row, location in connection.execute(
                        f"SELECT rowid, {column} FROM {table}"
                    ).fetchall():
                        if not (path := stored_path(location)).is_relative_to(old):
                            continue
                        path = new / path.relative_to(old)
                        if table == "experiments" or is_gone or location in copied or path.exists():
                            renamed = path.as_uri() if location.startswith("file:") else str(path)
                            change = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"
                            connection.execute(change, (renamed, row))
            log.warning("%s is from %s; its records now name %s.", database.name, old, new)


def stored_path(location: str | None) -> Path:
    """The path of a stored location, be it a URI or a path; of one elsewhere, it is not absolute."""
    parts = urlsplit(location or "")
    return Path(url2pathname(parts.path) if parts.scheme == "file" else location or "")


def _locations(database: Path) -> set[str]:
    """What another project's database names as stored files; nothing where there is none to read."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return {
                str(location)
                for table, column in _STORED
                for (location,) in connection.execute(f"SELECT {column} FROM {table}")
            }
    except sqlite3.Error:
        return set()
