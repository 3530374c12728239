"""The project's own database after its folder was moved or copied.

MLflow stores absolute paths. Opened in another folder than before, the database gets the paths of this
folder: a moved project finds its models, and a copy neither reads nor writes the files of the original.
"""

import logging
import os
import sqlite3
from contextlib import closing
from functools import partial
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

    Another project may use this database through MLFLOW_TRACKING_URI. While that project has files, a
    record is renamed only if its file is here, or if that project's own database has the record too: then
    this database is a copy.

    Args:
        database: SQLite file with MLflow's tables, in the project folder.
        artifacts: Folder of that project for the files of runs and models, absolute.

    Raises:
        sqlite3.Error: The database cannot be read or written.
    """
    with closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection:
        for old in _other_artifacts(connection, artifacts):
            copied = _locations(old.parent / database.name)
            connection.create_function("is_ours", 1, partial(_is_ours, old, artifacts, copied))
            with connection:  # one transaction
                connection.execute("BEGIN IMMEDIATE")
                _rename(connection, *_FUTURE, old.parent, artifacts.parent)
                for table, column in _STORED:
                    where = f"is_ours({column})"
                    _rename(connection, table, column, old.parent, artifacts.parent, where)
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


def _is_ours(old: Path, artifacts: Path, copied: set[str], location: str) -> bool:
    """Whether a stored location in the project of ``old`` has to name this project."""
    if location in copied or not os.path.exists(old):  # noqa: PTH110 - False where it may not be read
        return True
    path = _local(location) or Path(location)
    return (artifacts.parent / path.relative_to(old.parent)).exists()


def _rename(
    connection: sqlite3.Connection, table: str, column: str, old: Path, new: Path, where: str = "1"
) -> None:
    """Exchange the beginning of the locations in a column, be they URIs or paths."""
    for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
            f"WHERE substr({column}, 1, ?) = ? AND {where}",
            (after, len(before) + 1, len(before) + 1, f"{before}/"),
        )
