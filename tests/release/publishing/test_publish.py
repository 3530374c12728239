"""What MLflow shows of a finished training, and that it can be made again at any time."""

import shutil
import time
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from quality_model import pretrained
from quality_model.cli import cli
from quality_model.core import storage
from quality_model.core.provenance import ModelFacts
from quality_model.errors import CorruptError, RegistryError, UsageError
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params import values_sha256
from quality_model.paths import ProjectPaths
from quality_model.release.champion import make_champion
from quality_model.release.publish import publish, try_publish
from quality_model.release.registry import Registry

from .conftest import Gateway, finish_training, misbehaving_server

NAME = "small, 120 images of sample-photos, 2 epochs from champion"

IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}


_OF_THE_SERVER = {"mlflow.user", "mlflow.parentRunId"}


def client_of(project: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")


def shown(client: MlflowClient) -> dict[str, object]:
    """What MLflow holds of the project's runs, without ids and times of its own."""
    experiment = client.get_experiment_by_name("quality-model")
    runs = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.run_name not in runs
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        outputs = run.outputs.model_outputs if run.outputs else []
        runs[run.info.run_name] = {
            "status": run.info.status,
            "params": run.data.params,
            "tags": {key: value for key, value in run.data.tags.items() if key not in _OF_THE_SERVER},
            "curves": {name: [(p.step, p.value) for p in points] for name, points in histories.items()},
            "data": [(entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs],
            "models": [client.get_logged_model(output.model_id).tags["model_sha256"] for output in outputs],
            "files": [
                file.path
                for folder in ("training", "evaluation", "evaluation/figures")
                for file in client.list_artifacts(run.info.run_id, folder)
            ],
        }
    return runs


def test_a_finished_training_is_one_run_with_everything_that_it_left(project, section, finished, origin):
    run_id = publish(finished, root=project, registry=section)
    client = client_of(project)
    run = shown(client)[NAME]
    assert run["status"] == "FINISHED"
    assert run["params"] == {key: str(value) for key, value in origin.settings.items()}
    expected = {
        "quality_model.training": "f" * 64,
        "params_sha256": values_sha256(origin.settings),
        "data_sha256": "5" * 64,
        "data_name": "sample-photos",
        "data_rows": "720",
        "dvc_data_hash": "abc.dir",
        "package_version": "0.1.0",
        "code_sha256": "c" * 64,
        "git_commit": "9" * 40,
        "git_dirty": "false",
        "project_commit": "8" * 40,
        "test_data_sha256": "5" * 64,
    }
    assert expected.items() <= run["tags"].items()
    assert run["curves"]["train_loss"] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert run["curves"]["validation_mse.noise"] == [(1, 0.1), (2, 0.1), (3, 0.1)]
    assert "validation_r2.noise" not in run["curves"]  # undefined
    assert run["curves"]["best.validation_loss"] == [(0, 1 / 3)]
    assert run["curves"]["test.noise.mse"] == [(0, 0.03)]
    assert run["data"] == [("sample-photos", "5" * 36)]
    assert run["models"] == [storage.sealed_sha256(finished)]
    assert {"training/history.json", "evaluation/figures/severity_sweeps.png"} < set(run["files"])
    (output,) = client.get_run(run_id).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (str(logged.status), output.step) == ("READY", 3)
    assert logged.params["train.learning_rate"] == "6e-05"
    written = Path(logged.artifact_location.removeprefix("file://"))
    assert '"type": "binary", "name": "image"' in (written / "MLmodel").read_text()
    assert not {path.suffix for path in written.rglob("*")} & {".pkl", ".pickle", ".pt", ".pth", ".py"}
    assert_names_no_path_of_this_machine(project, client.get_run(run_id))


def assert_names_no_path_of_this_machine(project, run):
    texts = [*run.data.tags.values(), *run.data.params.values()]
    texts += [entry.dataset.source + entry.dataset.profile for entry in run.inputs.dataset_inputs]
    files = [path for path in (project / "mlartifacts").rglob("*") if path.is_file()]
    texts += [path.read_text() for path in files if path.suffix in (".json", ".yaml", "") and path.name]
    assert len(texts) > 20
    assert not [text for text in texts if str(project) in text or str(Path.home()) in text]


def test_a_baseline_is_a_child_of_its_training_measured_beside_it_and_made_anew_when_deleted(
    project, section, finished
):
    run_id = publish(finished, root=project, registry=section)
    client = client_of(project)
    experiment = client.get_experiment_by_name("quality-model").experiment_id
    before = shown(client)
    assert before["noise: simple"]["tags"]["kind"] == "baseline"
    assert before["noise: simple"]["curves"] == {
        "baseline_samples.noise.mse": [(0, 0.06)],
        "baseline_samples.noise.r2": [(0, -0.5)],
        "baseline_samples.noise.spearman": [(0, 0.4)],
    }
    assert before[NAME]["curves"]["baseline_samples.noise.r2"] == [(0, 0.5)]  # on the same samples
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'")
    assert {run.info.run_name for run in children} == set(before) - {NAME}
    for run in client.search_runs([experiment]):
        client.delete_run(run.info.run_id)
    assert publish(finished, root=project, registry=section) != run_id
    assert shown(client) == before


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"train.start_from": "champion@0123abcd", "train.epochs": 1}, "1 epoch from champion"),
        ({"train.start_from": "scratch"}, "2 epochs from scratch"),
        ({"source.dataset": "a" * 30 + " + " + "b" * 50}, f"of {'a' * 30} +..., 2 epochs from champion"),
    ],
)
def test_the_name_of_a_run_says_what_was_trained(origin, changes, name):
    facts = origin.model_copy(update={"settings": {**origin.settings, **changes}})
    assert facts.title().startswith("small, 120 images of ")
    assert facts.title().endswith(name)


def test_the_name_of_a_run_leaves_out_what_a_model_does_not_say():
    assert ModelFacts(data_rows=5).title() == "model, 5 samples of training dataset"
    assert ModelFacts().title() == "model"


def test_where_the_database_was_replaced_everything_is_made_anew(
    project, section, finished, mlflow_database, tmp_path, monkeypatch
):
    """B7: nothing local says which run it is."""
    publish(finished, root=project, registry=section)
    before = shown(client_of(project))
    shutil.rmtree(project / "mlartifacts")
    (tmp_path / "other").mkdir()
    shutil.copyfile(mlflow_database, tmp_path / "other" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other/mlflow.db")
    publish(finished, root=project, registry=section)
    assert shown(client_of(tmp_path / "other")) == before


def test_after_an_outage_a_long_training_arrives_in_a_few_calls_each_step_once(
    project, section, origin, server, unused_port, monkeypatch, caplog
):
    """B4."""
    folder = finish_training(project, origin, epochs=300)
    for name, value in IMPATIENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    assert try_publish(folder, root=project, registry=section) is None
    assert "quality-model publish" in caplog.text
    gateway = Gateway(server.uri, allowed=150)
    section = section.model_copy(update={"experiment": "after an outage"})
    with misbehaving_server(gateway.answer, unused_port):
        run_id = publish(folder, root=project, registry=section)
        points = MlflowClient(tracking_uri=server.uri).get_metric_history(run_id, "train_loss")
    assert [point.step for point in points] == list(range(1, 301))


def test_a_publication_that_was_interrupted_at_any_call_is_completed_by_the_next(
    project, section, finished, server, mlflow_database, monkeypatch
):
    publish(finished, root=project, registry=section)
    expected = shown(client_of(project))
    for name, value in IMPATIENT.items():
        monkeypatch.setenv(name, value)
    gateway, interruptions = Gateway(server.uri), 0
    with misbehaving_server(gateway.answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for gateway.allowed in range(1, 100, 2):
            try:
                publish(finished, root=project, registry=section)
                break
            except RegistryError:
                interruptions += 1
    assert interruptions > 10
    assert shown(MlflowClient(tracking_uri=server.uri)) == expected


def test_two_publishers_at_once_make_one_run_and_publishing_again_adds_nothing(project, section, finished):
    ids: list[str] = []
    threads = [
        Thread(target=lambda: ids.append(publish(finished, root=project, registry=section))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = shown(client_of(project))
    assert before[NAME]["curves"]["train_loss"] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    ids.append(publish(finished, root=project, registry=section))
    assert len(ids) == 4 and len(set(ids)) == 1
    assert shown(client_of(project)) == before


def test_reports_about_another_model_are_not_mirrored(project, section, finished, origin):
    paths = ProjectPaths(project)
    reports = project / "kept"
    shutil.copytree(paths.reports, reports)
    other = origin.model_copy(update={"training_fingerprint": "e" * 64, "settings": {"train.epochs": 5}})
    finish_training(project, other, epochs=5, seed=1)
    shutil.rmtree(paths.reports)
    reports.rename(paths.reports)
    publish(paths.model, root=project, registry=section)
    run = shown(client_of(project))["model, 120 images of training dataset, 5 epochs"]
    assert (run["curves"], run["files"]) == ({}, [])
    assert run["models"] == [storage.sealed_sha256(paths.model)]


def test_a_model_of_the_same_training_that_is_other_bytes_becomes_the_runs_model(
    project, section, finished, origin
):
    first = publish(finished, root=project, registry=section)
    finish_training(project, origin, seed=1)
    assert publish(finished, root=project, registry=section) == first
    assert Registry(project, section).register(first).tags["model_sha256"] == storage.sealed_sha256(finished)


def test_a_model_of_an_earlier_release_becomes_a_run_too(project, section):
    network = MultiHeadQualityAssessmentModel(architecture="small")
    for number, facts in enumerate(({}, {"settings": {}, "data_sha256": "5" * 64}), start=1):
        folder = project / f"old {number}"
        save_model(folder, network, image_size_px=32, facts=facts)
        run_id = publish(folder, root=project, registry=section)
        assert Registry(project, section).register(run_id).version == str(number)


def test_the_bundled_model_is_a_run_of_its_own_kind(project, section):
    publish(pretrained.FOLDERS[pretrained.NAME], root=project, registry=section)
    ((name, run),) = shown(client_of(project)).items()
    assert name.startswith("bundled small ")
    assert run["tags"]["kind"] == "bundled"
    assert run["params"]["source.dataset"]


def test_a_damaged_model_is_refused_before_anything_is_made(project, section, finished):
    weights = finished / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CorruptError):
        publish(finished, root=project, registry=section)
    assert client_of(project).get_experiment_by_name("quality-model") is None


def test_an_address_that_is_none_is_refused(project, section, finished, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://me:secret@example.com")
    with pytest.raises(UsageError, match=r"htp://example\.com") as refusal:
        publish(finished, root=project, registry=section)
    assert "secret" not in str(refusal.value)


def unavailable(request):
    request.send_response(503)
    request.end_headers()


def not_mlflow(request):
    request.send_response(200)
    request.end_headers()
    request.wfile.write(b"<html>Welcome to nginx</html>")


def hanging(request):
    time.sleep(3)


@pytest.mark.parametrize("answer", [unavailable, not_mlflow, hanging])
def test_a_server_that_does_not_do_its_work_is_an_error_in_our_words(
    project, section, finished, monkeypatch, answer
):
    for name, value in (IMPATIENT | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}).items():
        monkeypatch.setenv(name, value)
    with misbehaving_server(answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for attempt in (
            lambda: publish(finished, root=project, registry=section),
            lambda: Registry(project, section).register("0" * 32),
        ):
            with pytest.raises(RegistryError, match=uri) as refused:
                attempt()
            assert "MLFLOW_TRACKING_URI" in refused.value.remedy


def test_a_model_that_one_machine_promotes_is_what_another_scores_with(
    project, section, finished, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    section = section.model_copy(update={"model_name": "shared", "experiment": "shared"})
    there = tmp_path / "other machine"
    registry = Registry(project, section)
    version = registry.register(publish(finished, root=project, registry=section))
    assert make_champion(registry, version, "promoted", "passed the gate")

    found = Registry(there, section).resolve("champion")
    assert found.path == there / "state" / "models" / "shared" / version.version
    assert (found.version, found.model_sha256) == (version.version, storage.sealed_sha256(finished))
    weights = found.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    again = Registry(there, section).resolve("champion").path
    assert storage.require_sealed(again, verify=True)["sha256"] == found.model_sha256
    assert not [path.name for path in again.parent.iterdir() if path.name.startswith(".partial")]


def test_the_command_publishes_what_is_finished_and_says_so(project, section, finished, monkeypatch):
    monkeypatch.chdir(project)
    told = CliRunner().invoke(cli, ["publish"], catch_exceptions=False)
    assert told.exit_code == 0 and "models/candidate: run " in told.output
    assert shown(client_of(project))[NAME]["models"] == [storage.sealed_sha256(finished)]
    storage.unseal(finished)
    assert "Nothing is finished" in CliRunner().invoke(cli, ["publish"]).output
