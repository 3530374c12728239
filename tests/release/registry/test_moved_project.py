"""A project folder that was moved or copied: its records name its own files."""

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from quality_model.errors import RegistryError
from quality_model.params import RegistryParams
from quality_model.params_file import load_params
from quality_model.release.decisions import Decision, now, write_record
from quality_model.release.decisions import project as show
from quality_model.release.mlflow_connection import connect
from quality_model.release.publish import publish
from quality_model.release.registry import Registry, ResolvedModel
from tests.conftest import PROJECT
from tests.release.registry.conftest import write_model
from tests.users import ordinary_user


@pytest.fixture
def original(tmp_path: Path, three_versions: Path, section: RegistryParams) -> Path:
    """A project with three versions and a champion, whose name a URI has to escape."""
    root = tmp_path / "my projects" / "original"
    shutil.copytree(three_versions, root)
    shutil.copyfile(PROJECT / "params.yaml", root / "params.yaml")
    registry = Registry(root, section)
    registry.move_alias("champion", registry.find("2"))
    return root


def copy_of(original: Path) -> Path:
    return Path(shutil.copytree(original, original.parent / "the copy"))


def locations(root: Path) -> list[str]:
    with sqlite3.connect(root / "mlflow.db") as database:
        return [
            str(location)
            for table, column in (
                ("runs", "artifact_uri"),
                ("logged_models", "artifact_location"),
                ("model_versions", "storage_location"),
                ("experiments", "artifact_location"),
            )
            for (location,) in database.execute(f"SELECT {column} FROM {table}")
            if location and not location.endswith("mlruns/0")
        ]


def files_of(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def champion_in(root: Path) -> ResolvedModel:
    return Registry(root, load_params(root / "params.yaml").registry).resolve("champion")


def weights(root: Path) -> bytes:
    return (champion_in(root).path / "model.safetensors").read_bytes()


def test_a_moved_project_finds_its_champion_and_what_is_elsewhere_stays_there(original: Path) -> None:
    with sqlite3.connect(original / "mlflow.db") as database:
        database.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
            "VALUES (77, 'far', 's3://bucket/mlartifacts', 'active', 'default')"
        )
    before = weights(original)
    moved = original.rename(original.parent / "moved")
    assert champion_in(moved).path.is_relative_to(moved)
    assert weights(moved) == before
    assert "s3://bucket/mlartifacts" in locations(moved)


def test_a_copy_whose_original_is_gone_finds_its_champion(original: Path) -> None:
    before = weights(original)
    copy = copy_of(original)
    shutil.rmtree(original)
    assert weights(copy) == before


def test_a_copy_and_its_original_read_their_own_files(original: Path) -> None:
    copy = copy_of(original)
    assert champion_in(copy).path.is_relative_to(copy)
    assert all(location.startswith(copy.as_uri()) for location in locations(copy))
    assert champion_in(original).path.is_relative_to(original)


def test_a_copy_writes_nothing_into_the_original(original: Path, section: RegistryParams) -> None:
    before = files_of(original)
    copy = copy_of(original)
    num_models = len(list((copy / "mlartifacts").rglob("model.safetensors")))
    registry = Registry(copy, section)
    decision = Decision("promoted", now(), champion_in(copy).ref, registry.find("2").model_sha256)
    show(write_record(copy, decision, card="# A card"), registry)
    registry.register(publish(write_model(copy / "models" / "new", 9, {}), root=copy, registry=section))
    assert files_of(original) == before
    assert len(list((copy / "mlartifacts").rglob("model.safetensors"))) == num_models + 1


def test_a_copied_database_without_its_files_says_where_they_are_missing(original: Path) -> None:
    bare = original.parent / "bare"
    bare.mkdir()
    for name in ("mlflow.db", "params.yaml"):
        shutil.copyfile(original / name, bare / name)
    with pytest.raises(RegistryError, match=f"files of version 2 .* are not at {bare}/mlartifacts/"):
        champion_in(bare)


@pytest.mark.parametrize("has_its_own", [False, True], ids=["no other database", "a database of its own"])
def test_files_of_a_project_that_uses_this_ones_database_stay_its_own(
    original: Path,
    section: RegistryParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_its_own: bool,
) -> None:
    guest = tmp_path / "guest"
    guest.mkdir()
    if has_its_own:
        connect(guest)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{original}/mlflow.db")
    theirs = section.model_copy(update={"experiment": "guest"})
    run_id = publish(write_model(guest / "models" / "new", 9, {}), root=guest, registry=theirs)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    champion_in(original)
    found = MlflowClient(tracking_uri=f"sqlite:///{original}/mlflow.db").get_run(run_id)
    assert found.info.artifact_uri.startswith(guest.as_uri())
    assert [str(guest)] == [
        location.partition("/mlartifacts/models/")[0].removeprefix("file://")
        for location in locations(original)
        if location.startswith(guest.as_uri()) and "/models/" in location
    ]
    Registry(original, theirs).register(run_id)
    assert len([at for at in locations(original) if at.startswith(guest.as_uri())]) == 3


def test_several_processes_may_open_a_moved_project_at_once(original: Path) -> None:
    moved = original.rename(original.parent / "moved")
    threads = [threading.Thread(target=connect, args=(moved,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(location.startswith(moved.as_uri()) for location in locations(moved))


def test_a_moved_database_that_cannot_be_written_is_not_read_from_elsewhere(original: Path) -> None:
    copy = copy_of(original)
    for folder in copy.parents:
        if any(part.startswith("pytest-") for part in folder.parts):
            folder.chmod(0o755)
    (copy / "mlflow.db").chmod(0o444)
    for folder in (copy, copy / "state", copy / "state" / "locks"):
        folder.chmod(0o777)
    for lock in (copy / "state" / "locks").iterdir():
        lock.chmod(0o666)
    with ordinary_user(), pytest.raises(RegistryError, match="readonly database"):
        champion_in(copy)
