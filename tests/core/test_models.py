"""What a model's name means, and that the alias in the registry alone says which version is champion."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from mlflow import MlflowClient

from quality_model import MultiHeadQualityInference, pretrained
from quality_model.core import storage
from quality_model.core.model_files import WEIGHTS_NAME, read_model
from quality_model.core.models import find_model, is_reference, parse_reference, read_version, version_folder
from quality_model.errors import CheckpointError, CorruptError, ModelNotFoundError, RegistryError
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params import Params, RegistryParams
from quality_model.records import ModelRef
from tests.core.bare import bare_python

NAME = "quality-model"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of versions 1 and 2."""
    found = {}
    for number in ("1", "2"):
        torch.manual_seed(int(number))
        found[number] = tmp_path_factory.mktemp("versions") / number
        save_model(found[number], MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})
    return found


def register(client: MlflowClient, folders: dict[str, Path], artifacts: str | None, scratch: Path) -> None:
    """Make versions 1 and 2, with their files, and no alias."""
    client.create_registered_model(NAME)
    experiment = client.create_experiment("models", artifacts)
    for folder in folders.values():
        logged = client.create_logged_model(experiment)
        shutil.copytree(folder, scratch / folder.name / "data" / "model")
        client.log_model_artifacts(logged.model_id, str(scratch / folder.name))
        tags = {"model_sha256": storage.sealed_sha256(folder)}
        client.create_model_version(
            NAME, f"models:/{logged.model_id}", model_id=logged.model_id, run_id=None, tags=tags
        )


@pytest.fixture
def client(project: Path) -> MlflowClient:
    """MLflow's own client of the project's database."""
    return MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")


@pytest.fixture
def registered(
    client: MlflowClient,
    project: Path,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    """By version in the project's database, the hash of its weights; reading them asks no MLflow."""
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
        register(client, folders, (project / "mlartifacts").as_uri(), tmp_path)
    monkeypatch.setattr("quality_model.release.registry.Registry", None)
    return {number: storage.file_sha256(folder / WEIGHTS_NAME) for number, folder in folders.items()}


def weights(reference: str, project: Path) -> str:
    found = find_model(reference, project)
    assert found.path.is_relative_to(project)
    return read_model(found.path).sha256


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
    for name, meant in {
        "bundeld": "bundled",
        "Bundled": "bundled",
        "bundled-standart": "bundled-standard",
    }.items():
        with pytest.raises(ModelNotFoundError, match=f"'{name}' names no model.\n  Did you mean {meant}\\?"):
            MultiHeadQualityInference(name, device="cpu")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "champion").symlink_to(folders["1"])
    assert MultiHeadQualityInference("champion", device="cpu").source.version is None
    for name in ("models/none", "gone.safetensors", "gone.pt", "./no"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            MultiHeadQualityInference(name, device="cpu")


def test_the_champion_is_the_one_that_the_alias_names_whoever_moved_it(
    project: Path, client: MlflowClient, registered: dict[str, str], params: Params
) -> None:
    assert find_model("auto", project).ref.name == "bundled"
    for number in ("1", "2", "1"):
        client.set_registered_model_alias(NAME, "champion", number)
        for reference in ("auto", "champion", f"models:/{NAME}@champion"):
            found = find_model(reference, project)
            assert (found.ref.name, found.ref.version) == (NAME, number)
            assert (found.decided != "") == (reference == "auto")
            assert weights(reference, project) == registered[number]
    for reference in ("2", f"models:/{NAME}/2"):
        assert weights(reference, project) == registered["2"]
    other = params.registry.model_copy(update={"model_name": "another"})
    client.delete_registered_model_alias(NAME, "champion")
    for name, section in (("auto", None), ("auto", other), ("bundled", None), ("pretrained", None)):
        assert find_model(name, project, section).path == pretrained.FOLDERS["bundled"]


def test_a_moved_and_a_copied_project_take_their_own_files(
    project: Path, client: MlflowClient, registered: dict[str, str], tmp_path: Path
) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    shutil.copytree(project, tmp_path / "copied")
    assert weights("champion", tmp_path / "copied") == registered["1"]
    assert weights("champion", project.rename(tmp_path / "moved")) == registered["1"]


def test_files_that_are_not_those_that_were_registered_do_not_score(
    project: Path, client: MlflowClient, registered: dict[str, str]
) -> None:
    client.set_registered_model_alias(NAME, "champion", "1")
    client.set_model_version_tag(NAME, "1", "model_sha256", "0" * 64)
    with pytest.raises(CorruptError, match="not those that were registered"):
        find_model("auto", project)
    version = read_version(project, NAME, None, "2")
    assert version is not None
    shutil.rmtree(project / "mlartifacts")
    with pytest.raises(RegistryError, match="The files of version 2 of quality-model are not at"):
        version_folder(project, version)


def test_what_cannot_be_read_without_mlflow_is_what_mlflow_answers(
    project: Path, client: MlflowClient, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Registry:
        def __init__(self, root: Path, section: RegistryParams) -> None:
            self.name = section.model_name

        def champion(self) -> object | None:
            return client.get_registered_model(NAME).aliases.get("champion")

        def resolve(self, reference: str) -> SimpleNamespace:
            number = parse_reference(reference)[2] or "1"
            return SimpleNamespace(name=NAME, version=number, run_id="abc", path=folders[number])

    monkeypatch.setattr("quality_model.release.registry.Registry", Registry)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, source="file:///elsewhere", run_id=None)
    assert find_model("auto", project).ref.name == "bundled"
    client.set_registered_model_alias(NAME, "champion", "1")
    assert find_model("auto", project).ref == ModelRef(NAME, "1", "abc", "")
    assert find_model("2", project).path == folders["2"]


def test_a_registry_that_cannot_be_read_is_an_error_and_says_who_could(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "mlflow.db").write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(RegistryError):
        find_model("auto", project)
    with pytest.raises(RegistryError, match=r"(?s)cannot be read as a registry.*Install MLflow"):
        read_version(project, NAME, "champion", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://host/db")
    with pytest.raises(RegistryError, match="Only MLflow reads this registry"):
        read_version(project, NAME, "champion", None)


def test_without_mlflow_a_local_champion_scores(
    project: Path, client: MlflowClient, registered: dict[str, str], tmp_path: Path
) -> None:
    client.set_registered_model_alias(NAME, "champion", "2")
    code = (
        "from pathlib import Path; from quality_model import MultiHeadQualityInference as M;"
        f"m = M(root=Path({str(project)!r})); print(m.source.version, m.source.sha256, m.engine_name);"
        f"M('3', root=Path({str(project)!r}))"
    )
    done = bare_python(tmp_path, "-c", code)
    assert done.stdout.split() == ["2", registered["2"], "ncnn-float32"], done.stderr
    assert done.returncode != 0 and "The registry has no such model or version: '3'" in done.stderr


@pytest.fixture
def server(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of MLflow's server in a thread of this process; it keeps the files of models itself."""
    from mlflow.server import app, constants
    from mlflow.tracking._tracking_service import utils
    from werkzeug.serving import make_server

    monkeypatch.setattr(utils, "_tracking_uri", None)  # which the server sets for the whole process
    monkeypatch.setenv(constants.BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{project / 'mlflow.db'}")
    monkeypatch.setenv(constants.ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/")
    monkeypatch.setenv(constants.ARTIFACTS_DESTINATION_ENV_VAR, str(project / "mlartifacts"))
    monkeypatch.setenv(constants.SERVE_ARTIFACTS_ENV_VAR, "true")
    listener = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=listener.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{listener.port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    yield address
    listener.shutdown()
    thread.join()


def test_without_mlflow_a_server_is_asked_over_rest_and_the_files_are_fetched_once(
    server: str, project: Path, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    register(client, folders, None, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)  # which the server itself has changed
    hashes = {number: storage.file_sha256(folder / WEIGHTS_NAME) for number, folder in folders.items()}
    monkeypatch.setattr("quality_model.release.registry.Registry", None)
    client.set_registered_model_alias(NAME, "champion", "1")
    for reference, number in (("champion", "1"), ("auto", "1"), ("2", "2"), (f"models:/{NAME}/1", "1")):
        assert weights(reference, project) == hashes[number]
    fetched = project / "state" / "models" / NAME
    assert sorted(path.name for path in fetched.iterdir()) == ["1", "2"]
    client.set_registered_model_alias(NAME, "champion", "2")
    assert weights("champion", project) == hashes["2"]

    client.set_model_version_tag(NAME, "1", "model_sha256", "0" * 64)
    (fetched / "2" / "model.json").write_text("{}")  # as after a damage: fetched again
    assert weights("2", project) == hashes["2"]
    client.delete_registered_model_alias(NAME, "champion")
    assert find_model("auto", project).ref.name == "bundled"
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom quality_model.core.models import find_model\n"
        "for reference in sys.argv[1:]:\n"
        "    if reference == 'silent':\n"
        "        reference, os.environ['MLFLOW_TRACKING_URI'] = 'champion', 'http://127.0.0.1:9'\n"
        "    try:\n"
        f"        find_model(reference, Path({str(project)!r}))\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, str(error).replace('\\n', ' '))\n"
    )
    done = bare_python(tmp_path, "-c", code, "champion", "7", "1", "silent", MLFLOW_TRACKING_URI=server)
    champion, missing, changed, silent = done.stdout.splitlines()
    for line in (champion, missing):
        assert "ModelNotFoundError" in line and "no such model or version" in line
    assert "CorruptError" in changed and "not those that were registered" in changed
    assert "RegistryError" in silent and "does not answer" in silent
