"""A disk that is full: a typed error, no marker, nothing lost, and the same command goes on later.

The limit is the system's own, on the size of a file: writing beyond it fails as on a full disk.
"""

import sqlite3
from multiprocessing.connection import Connection
from pathlib import Path

from quality_model.errors import QualityModelError, StorageError
from quality_model.params import Params
from quality_model.release.registry import Registry
from tests.release.registry.conftest import promote

from .conftest import Job
from .processes import files_at_most, forking, start


def test_a_full_disk_is_an_error_with_its_code_and_the_job_goes_on_when_there_is_space(
    job: Job, tmp_path: Path
) -> None:
    project = job.project(tmp_path)
    largest = max(len(data) for data in job.result.values())
    ended = job.run(project, files_at_most(largest // 2))
    assert ended.code == StorageError.exit_code, ended.output
    assert "No space is left" in ended.output and "run the same command again" in ended.output
    assert "Traceback" not in ended.output
    assert not job.is_sealed(project)
    assert not list(project.rglob(".partial-*"))
    job.assert_completes(project, "a full disk")


def promote_on_a_full_disk(root: str, params: Params, told: Connection) -> None:
    """Tell through a pipe how it ended: what is printed may go to a file, and no file may grow."""
    Registry(Path(root), params.registry)
    files_at_most(0)()
    try:
        promote(Path(root), params.registry, "2")
        told.send("it was promoted")
    except (QualityModelError, OSError) as error:
        told.send(repr(error))


def test_a_full_disk_leaves_the_champion_as_it_was(registered: Path, params: Params) -> None:
    registry = Registry(registered, params.registry)
    promote(registered, params.registry, "1")
    answer, told = forking().Pipe(duplex=False)
    process = start(promote_on_a_full_disk, str(registered), params, told)
    process.join(120)
    assert answer.poll(), process.exitcode
    error = answer.recv()
    assert error.startswith("RegistryError(") and "has space" in error, error
    assert registry.champion().version == "1"
    with sqlite3.connect(registered / "mlflow.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    assert promote(registered, params.registry, "2")
    assert registry.champion().version == "2"
