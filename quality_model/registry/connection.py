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

from quality_model.errors import ModelNotFoundError, RegistryError, UsageError
from quality_model.paths import ProjectPaths
from quality_model.registry.relocation import relocate
from quality_model.storage import locked
from quality_model.telemetry import silence

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
        UsageError: A scheme that MLflow 3 cannot track with.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return f"sqlite:///{root.resolve() / DATABASE_NAME}"
    if uri.split(":", 1)[0].split("+", 1)[0] not in _SCHEMES:
        raise UsageError(
            f"MLFLOW_TRACKING_URI = {without_credentials(uri)!r} is not an address of a tracking server.",
            "Use http://host:port or a database such as sqlite:///mlflow.db; unset: the project's own file.",
        )
    return uri


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
    silence()
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)

    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    shown = without_credentials(uri)
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
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        problem = f"{doing} failed at {shown}: {_first_words(error)}"
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise ModelNotFoundError(problem) from error
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise RequestRefusedError(problem) from error
        raise RegistryError(problem, _remedy(shown)) from error
    except (SQLAlchemyError, sqlite3.Error, requests.RequestException, OSError) as error:
        raise RegistryError(f"{doing} failed at {shown}: {_first_words(error)}", _remedy(shown)) from error


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


def without_credentials(uri: str) -> str:
    """The URI without user and password."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.rpartition("@")[2]
    return uri.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1) if "@" in parts.netloc else uri


def _first_words(error: Exception) -> str:
    cause = _CAUSE.search(str(error))
    if cause:
        return f"{cause[0]}."
    lines = str(error).strip().splitlines() or [type(error).__name__]
    words = re.sub(r"//[^/@\s]+@", "//", lines[0])
    return words if len(words) <= _MESSAGE_LENGTH else words[:_MESSAGE_LENGTH] + "..."


def _remedy(shown: str) -> str:
    if shown.startswith("http"):
        return "Check that the server runs and MLFLOW_TRACKING_URI names it; then run the same command again."
    return "Check that the database can be read and written and that its disk has space."
