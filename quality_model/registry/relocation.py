"""The project's own database after its folder was moved or copied.

MLflow stores absolute paths. Opened in another folder than before, the database gets the paths of this
folder: a moved project finds its models, and a copy neither reads nor writes the files of the original.
"""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

log = logging.getLogger(__name__)

_FUTURE: Final = ("experiments", "artifact_location")
"""Where the files of runs to come go."""

_STORED: Final = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where files were stored."""

_WAIT_S: Final = 60.0


def relocate(database: Path, artifacts: Path) -> None:
    """Let the records of a database name the files in ``artifacts`` where they name another project's.

    Stored files of another project that has no database of its own stay that project's: it uses this one.

    Args:
        database: SQLite file with MLflow's tables, in the project folder.
        artifacts: Folder of that project for the files of runs and models, absolute.

    Raises:
        sqlite3.Error: The database cannot be read or written.
    """
    with closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection:
        for old in _other_artifacts(connection, artifacts):
            with connection:  # one transaction
                connection.execute("BEGIN IMMEDIATE")
                _rename(connection, *_FUTURE, old.parent, artifacts.parent)
                if _belongs_here(connection, old, artifacts, database.name):
                    for table, column in _STORED:
                        _rename(connection, table, column, old.parent, artifacts.parent)
            log.warning(
                "%s is from %s; its records now name %s.", database.name, old.parent, artifacts.parent
            )


def _other_artifacts(connection: sqlite3.Connection, artifacts: Path) -> list[Path]:
    """Folders of other projects to which records lead."""
    locations = connection.execute(f"SELECT DISTINCT {_FUTURE[1]} FROM {_FUTURE[0]}")
    local = {_local(str(location)) for (location,) in locations}
    return sorted(p for p in local if p is not None and p.name == artifacts.name and p != artifacts)


def _local(location: str) -> Path | None:
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _belongs_here(connection: sqlite3.Connection, old: Path, artifacts: Path, database_name: str) -> bool:
    """Whether the files below ``old`` are, or should be, in ``artifacts``."""
    if (old.parent / database_name).exists() or not old.exists():
        return True
    prefix = f"{old.as_uri()}/"
    for table, column in _STORED:
        for (location,) in connection.execute(f"SELECT {column} FROM {table}"):
            path = _local(location) if location and location.startswith(prefix) else None
            if path is not None and (artifacts / path.relative_to(old)).exists():
                return True
    return False


def _rename(connection: sqlite3.Connection, table: str, column: str, old: Path, new: Path) -> None:
    """Exchange the beginning of the locations in a column, be they URIs or paths."""
    for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (after, len(before) + 1, len(before) + 1, f"{before}/"),
        )
