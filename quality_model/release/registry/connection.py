"""The one way to MLflow: which server or database, with bounded waits, and errors that a user understands."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from quality_model.core.redaction import redacted
from quality_model.core.storage import locked
from quality_model.errors import ModelNotFoundError, RegistryError, UsageError
from quality_model.paths import ProjectPaths
from quality_model.release.registry.relocation import relocate

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE_NAME: Final = "mlflow.db"
ARTIFACTS_NAME: Final = "mlartifacts"

_SCHEMES: Final = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
_SETTINGS: Final = {
    # MLflow's own 7 retries of 120 s keep a caller waiting for minutes when the server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_CAUSE: Final = re.compile(
    r"Connection refused|Connection reset by peer|[Tt]imed out|too many \d+ error responses"
    r"|Name or service not known|Temporary failure in name resolution|file is not a database"
    r"|database is locked|unable to open database file|attempt to write a readonly database"
)
"""The words that say why, in the middle of what the layers below wrap around them."""

_DISTRIBUTIONS: Final = {
    "MySQLdb": "mysqlclient",
    "azure": "azure-storage-blob azure-identity",
    "google": "google-cloud-storage",
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
}
"""What to install for a module of a database's driver or an artifact store, where it has another name."""

_MIGRATION_WAIT_S: Final = 120.0
_MESSAGE_LENGTH: Final = 300


class RequestRefusedError(RegistryError):
    """The server understood a request and will never grant it; another attempt changes nothing."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A client of one tracking server or database.

    ``shown`` is the URI without credentials, for messages. ``artifacts`` is where a new
    experiment keeps its files, or None where the server decides.
    """

    root: Path
    uri: str
    shown: str
    artifacts: str | None
    client: "MlflowClient"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the project's own SQLite file.

    Raises:
        UsageError: A scheme that MLflow 3 cannot track with, or an address that it would misread.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return f"sqlite:///{root.resolve() / DATABASE_NAME}"
    kind = uri.partition(":")[0].partition("+")[0]
    if kind not in _SCHEMES or (kind != "databricks" and "://" not in uri):
        raise UsageError(
            f"MLFLOW_TRACKING_URI = {redacted(uri)!r} is not an address of a tracking server.",
            "Use http://host:port or a database such as sqlite:///mlflow.db; unset: the project's own file.",
        )
    if kind != "sqlite":
        _require_readable(uri, is_server=kind in ("http", "https"))
    return uri


def server_name(root: Path) -> str:
    """Names the tracking server or database of a project, without credentials and wherever the project is."""
    uri = tracking_uri(root)
    is_own = not os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return f"the project's own {DATABASE_NAME}" if is_own else redacted(uri).rstrip("/")


def _require_readable(uri: str, *, is_server: bool) -> None:
    """Refuse what MLflow or a driver would take for another address, and name in its errors."""
    shown = f"MLFLOW_TRACKING_URI = {redacted(uri)!r}"
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


def database_exists(root: Path) -> bool:
    """False where the project's own SQLite file is meant and has not been made yet; needs no MLflow."""
    uri = tracking_uri(root)
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()


def connect(root: Path) -> Connection:
    """Open the tracking server or database of a project; a new SQLite file is made, which takes seconds.

    Args:
        root: The project folder, holder of ``mlflow.db`` and ``mlartifacts`` by default.

    Raises:
        UsageError: MLFLOW_TRACKING_URI is not usable.
        RegistryError: The database cannot be opened. A server that is down shows at the first call.
    """
    uri = tracking_uri(root)
    for name, value in _SETTINGS.items():
        given = os.environ.setdefault(name, value)
        is_whole = value.isdigit()
        if value[0].isdigit() and not re.fullmatch(r"\d+" if is_whole else r"\d+(\.\d+)?", given):
            raise UsageError(f"{name} = {given!r} is not a number.", f"Unset it, or use one such as {value}.")

    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    shown = redacted(uri)
    if uri.startswith(("http://", "https://", "databricks")):
        return Connection(root, uri, shown, None, MlflowClient(tracking_uri=uri, registry_uri=uri))
    artifacts = root.resolve() / ARTIFACTS_NAME
    # Two processes that make the tables of a new database at the same time would break it.
    with (
        locked(ProjectPaths(root).state / "locks" / "mlflow-tables.lock", timeout_s=_MIGRATION_WAIT_S),
        speaking_to(shown, "Opening the tracking database"),
    ):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_registered_models(max_results=1)
        database = root.resolve() / DATABASE_NAME
        if uri.startswith("sqlite:///") and Path(uri.removeprefix("sqlite:///")).resolve() == database:
            relocate(database, artifacts)
    return Connection(root, uri, shown, artifacts.as_uri(), client)


@contextmanager
def speaking_to(shown: str, doing: str) -> Iterator[None]:
    """Turn what MLflow raises into errors of ours.

    Args:
        shown: The URI without credentials.
        doing: What is being done, as the beginning of a sentence.

    Raises:
        ModelNotFoundError: The server answered that there is no such thing.
        RequestRefusedError: It refused what it was asked.
        RegistryError: It did not answer, or cannot for now.
    """
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        problem = f"{doing} failed at {shown}: {_first_words(error)}"
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise ModelNotFoundError(
                problem, "Check that MLFLOW_TRACKING_URI names the server on which it was made."
            ) from error
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise RequestRefusedError(problem) from error
        raise RegistryError(problem, _remedy(shown)) from error
    except NoSuchModuleError as error:
        raise RegistryError(
            f"{doing} failed at {shown}: {_first_words(error)}.",
            "Correct what is before :// in MLFLOW_TRACKING_URI, or install the driver that it names.",
        ) from error
    except (SQLAlchemyError, sqlite3.Error, requests.RequestException, OSError) as error:
        raise RegistryError(f"{doing} failed at {shown}: {_first_words(error)}", _remedy(shown)) from error
    except ImportError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "quality_model"):
            raise
        raise RegistryError(
            f"{doing} failed at {shown}: it needs the Python package {module!r} ({error}).",
            f"Install it: pip install {_DISTRIBUTIONS.get(module, module)}",
        ) from error


@contextmanager
def as_current(connection: Connection) -> Iterator[None]:
    """Name this connection in MLFLOW_TRACKING_URI meanwhile.

    MLflow's database store looks a model's id up there when it makes a version of it,
    whatever the URI of the client it was called through.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = connection.uri
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _first_words(error: Exception) -> str:
    cause = _CAUSE.search(str(error))
    if cause:
        return f"{cause[0]}."
    lines = str(error).strip().splitlines() or [type(error).__name__]
    words = redacted(lines[0])
    return words if len(words) <= _MESSAGE_LENGTH else words[:_MESSAGE_LENGTH] + "..."


def _remedy(shown: str) -> str:
    if shown.startswith(("http", "databricks")):
        return "Check that the server runs and MLFLOW_TRACKING_URI names it; then run the same command again."
    return "Check that the database can be read and written and that its disk has space."
