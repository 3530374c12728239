"""What a model's name means, and that the alias in the registry alone says which version is champion."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from quality_model import MultiHeadQualityInference, pretrained
from quality_model.core import models, storage
from quality_model.core.models import find_model, is_reference, parse_reference
from quality_model.errors import CheckpointError, ModelNotFoundError, RegistryError
from quality_model.networks.checkpoints import save_model
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import Params, RegistryParams
from tests.core.bare import bare_python

NAME = "quality-model"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Version:
    """What the registry of `release` answers."""

    name: str
    version: str
    run_id: str | None
    path: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of versions 1 and 2."""
    found = {}
    for number in ("1", "2"):
        torch.manual_seed(int(number))
        found[number] = tmp_path_factory.mktemp("versions") / number
        save_model(found[number], MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})
    return found


@pytest.fixture
def client(project: Path) -> MlflowClient:
    """MLflow's own client of the project's database, which has versions 1 and 2, and no alias."""
    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    client.create_registered_model(NAME)
    for _ in range(2):
        client.create_model_version(NAME, source="file:///elsewhere", run_id=None)
    return client


@pytest.fixture
def asked(client: MlflowClient, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `release` was asked to resolve: the rest was known without MLflow."""
    asked: list[str] = []

    class Registry:
        def __init__(self, root: Path, section: RegistryParams) -> None:
            pass

        def champion(self) -> object | None:
            return client.get_registered_model(NAME).aliases.get("champion")

        def resolve(self, reference: str) -> Version:
            asked.append(reference)
            _, alias, number = parse_reference(reference)
            number = number or client.get_model_version_by_alias(NAME, alias or "").version
            return Version(NAME, str(number), "abc", folders[str(number)])

    monkeypatch.setattr("quality_model.release.registry.Registry", Registry)
    return asked


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("champion", (None, "champion", None)),
        ("3", (None, None, "3")),
        ("models:/a-model@champion", ("a-model", "champion", None)),
        ("models:/a-model/12", ("a-model", None, "12")),
        *((text, None) for text in ("models:/m", "models:/m/0", "a b", "", "m@x", "/m", "models:/m/latest")),
    ],
)
def test_a_reference_has_a_name_and_an_alias_or_a_number(text: str, parts: object) -> None:
    assert is_reference(text) == (parts is not None)
    if parts is None:
        with pytest.raises(ModelNotFoundError, match="not a registry reference"):
            parse_reference(text)
    else:
        assert parse_reference(text) == parts


def test_a_path_that_exists_wins_over_a_reference_and_a_missing_one_is_called_missing(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ModelNotFoundError, match="'champion' names no model: there is no registry"):
        MultiHeadQualityInference("champion", device="cpu")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "champion").symlink_to(folders["1"])
    assert MultiHeadQualityInference("champion", device="cpu").source.version is None
    for name in ("models/none", "gone.safetensors", "gone.pt", "./no"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            MultiHeadQualityInference(name, device="cpu")


def test_the_champion_is_the_one_that_the_alias_names_whoever_moved_it_and_mlflow_is_asked_once(
    project: Path, client: MlflowClient, asked: list[str], folders: dict[str, Path]
) -> None:
    for number, times in (("1", 1), ("2", 2), ("1", 3)):
        client.set_registered_model_alias(NAME, "champion", number)
        for reference in ("auto", "champion", f"models:/{NAME}@champion"):
            found = find_model(reference, project)
            assert (found.ref.version, found.ref.run_id) == (number, "abc")
            assert found.path == folders[number]
            assert (found.decided != "") == (reference == "auto")
        assert len(asked) == times
    client.delete_registered_model_alias(NAME, "champion")
    assert find_model("auto", project).ref.name == "bundled"
    assert len(asked) == 3


def test_without_a_champion_the_bundled_model_scores_and_mlflow_is_not_asked(
    project: Path, asked: list[str], params: Params
) -> None:
    for name in ("auto", "bundled", "pretrained"):
        assert find_model(name, project).path == pretrained.FOLDERS["bundled"]
    other = params.registry.model_copy(update={"model_name": "another"})
    assert find_model("auto", project, other).ref.name == "bundled"
    assert asked == []


def test_other_versions_are_what_the_registry_says(
    project: Path, client: MlflowClient, asked: list[str]
) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    find_model("auto", project)
    assert find_model("2", project).ref.version == "2"
    assert find_model(f"models:/{NAME}/1", project).ref.version == "1"
    assert find_model("champion", project).ref.version == "1"
    assert len(asked) == 3


@pytest.mark.parametrize("damage", ["cut", "other version", "other files", "files gone", "no json", "list"])
def test_a_memory_of_the_champion_that_does_not_fit_is_not_used(
    project: Path, client: MlflowClient, asked: list[str], damage: str
) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    find_model("auto", project)
    memory = project / "state" / "champion.json"
    known = json.loads(memory.read_text())
    changed: dict[str, object] = {
        "cut": {key: known[key] for key in list(known)[:3]},
        "other version": {**known, "version": "2"},
        "other files": {**known, "sha256": "0" * 64},
        "files gone": {**known, "path": "/nowhere"},
        "list": [known],
    }
    memory.write_text(json.dumps(changed[damage]) if damage in changed else "{")
    assert find_model("auto", project).ref.version == "1"
    assert asked == ["champion", "champion"]
    assert json.loads(memory.read_text()) == known


def test_a_database_that_counts_versions_anew_is_obeyed(
    project: Path, client: MlflowClient, asked: list[str], mlflow_database: Path
) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    find_model("auto", project)
    client.delete_registered_model(NAME)
    time.sleep(0.01)  # times are in milliseconds
    client.create_registered_model(NAME)
    client.create_model_version(NAME, source="file:///elsewhere", run_id=None)
    client.set_registered_model_alias(NAME, "champion", "1")
    find_model("auto", project)
    assert asked == ["champion", "champion"]


def test_a_moved_project_takes_its_own_files(
    project: Path, client: MlflowClient, asked: list[str], folders: dict[str, Path], params: Params
) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    inside = project / "mlartifacts" / "1"
    shutil.copytree(folders["1"], inside)
    models.write_champion(project, params.registry, find_model("1", project).ref, inside)
    assert find_model("champion", project).path == inside
    moved = project.rename(project.with_name("moved"))
    assert find_model("champion", moved).path == moved / "mlartifacts" / "1"


def test_a_registry_that_cannot_be_read_is_an_error(project: Path) -> None:
    (project / "mlflow.db").write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(RegistryError):
        find_model("auto", project)


def test_without_mlflow_a_local_champion_scores_while_it_is_known(
    project: Path, client: MlflowClient, asked: list[str], folders: dict[str, Path], tmp_path: Path
) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    find_model("auto", project)
    code = (
        "from pathlib import Path; from quality_model import MultiHeadQualityInference as M;"
        f"m = M(root=Path({str(project)!r})); print(m.source.version, m.path, m.engine_name)"
    )
    done = bare_python(tmp_path, "-c", code)
    assert done.stdout.split() == ["1", str(folders["1"]), "ncnn-float32"], done.stderr
    client.set_registered_model_alias(NAME, "champion", "2")
    done = bare_python(tmp_path, "-c", code)
    assert done.returncode != 0
    assert "only MLflow reads which files belong to a version" in done.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[str]:
    """The address of a real tracking server that keeps the files of models itself."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    shutil.copyfile(mlflow_database, folder / "mlflow.db")
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_without_mlflow_a_server_is_asked_over_rest_and_the_files_are_fetched_once(
    server: str, project: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    client.create_registered_model(NAME)
    experiment = client.create_experiment("models")
    for folder in folders.values():
        logged = client.create_logged_model(experiment)
        shutil.copytree(folder, tmp_path / folder.name / "data" / "model")
        client.log_model_artifacts(logged.model_id, str(tmp_path / folder.name))
        tags = {"model_sha256": storage.sealed_sha256(folder)}
        client.create_model_version(
            NAME, f"models:/{logged.model_id}", model_id=logged.model_id, run_id=None, tags=tags
        )
    code = (
        "import sys\nfrom pathlib import Path\nfrom quality_model.core.models import find_model\n"
        "from quality_model.core.model_files import read_model\n"
        "for reference in sys.argv[1:]:\n"
        "    try:\n"
        f"        found = find_model(reference, Path({str(project)!r}))\n"
        "        print(found.ref.name, found.ref.version, read_model(found.path).sha256)\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, str(error).replace('\\n', ' '))\n"
    )

    def found(*references: str, address: str = server) -> list[str]:
        done = bare_python(tmp_path, "-c", code, *references, MLFLOW_TRACKING_URI=address)
        return done.stdout.splitlines() or [done.stderr]

    lines = {
        number: f"{NAME} {number} {storage.file_sha256(folder / 'model.safetensors')}"
        for number, folder in folders.items()
    }
    client.set_registered_model_alias(NAME, "champion", "1")
    assert found("champion", "auto", "2", f"models:/{NAME}/1") == [lines["1"]] * 2 + [lines["2"], lines["1"]]
    fetched = project / "state" / "models" / NAME
    assert sorted(path.name for path in fetched.iterdir()) == ["1", "2"]
    client.set_registered_model_alias(NAME, "champion", "2")
    client.set_model_version_tag(NAME, "1", "model_sha256", "0" * 64)
    assert found("champion")[0] == lines["2"]
    (fetched / "2" / "model.json").write_text("{}")
    client.delete_registered_model_alias(NAME, "champion")
    champion, bundled, missing, changed, damaged = found("champion", "auto", "7", "1", "2")
    assert "ModelNotFoundError" in champion and "no such model or version" in champion
    assert bundled.startswith("bundled ")
    assert "ModelNotFoundError" in missing and "no such model or version" in missing
    assert "CorruptError" in changed and "not those that were registered" in changed
    assert "CorruptError" in damaged and "model.json" in damaged
    assert "does not answer" in found("champion", address="http://127.0.0.1:9")[0]
