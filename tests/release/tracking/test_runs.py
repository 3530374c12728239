"""What somebody who opens MLflow finds after a training."""

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from quality_model.errors import CorruptError, ModelNotFoundError, UsageError
from quality_model.params import flatten, values_sha256
from quality_model.release.tracking import DataFacts, resume_run, run_exists

EPOCH = {
    "epoch": 1,
    "epochs": 8,
    "train_loss": 0.05,
    "validation_loss": 0.06,
    "train_mse": {"color_cast": 0.01, "blurriness": 0.02, "watermark": 0.03, "noise": 0.04},
    "validation_mse": {"color_cast": 0.02, "blurriness": 0.03, "watermark": 0.04, "noise": 0.05},
    "validation_r2": {"color_cast": 0.1, "blurriness": 0.2, "watermark": -0.3, "noise": 0.4},
    "learning_rate": 0.001,
    "images_per_s": 21.5,
}


@pytest.fixture
def client(project):
    return MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")


def test_two_runs_show_at_once_what_differed_in_data_and_parameters(start, client, params):
    changed = params.train.model_copy(update={"learning_rate": 0.01})
    with start() as first:
        pass
    with start(
        params=flatten(changed),
        params_sha256=values_sha256(flatten(changed)),
        data=DataFacts("my-images", "7" * 64, 90, "images/mine"),
    ) as second:
        pass
    one, other = client.get_run(first.run_id), client.get_run(second.run_id)
    differing = {key for key in one.data.params if one.data.params[key] != other.data.params[key]}
    assert differing == {"learning_rate"}
    assert one.data.params["loss_weights.watermark"] == "1.3"
    for tag in ("params_sha256", "data_sha256", "data_name"):
        assert one.data.tags[tag] != other.data.tags[tag]
    assert one.data.tags["data_sha256"] == "5" * 64


def test_the_data_set_is_an_input_of_the_run_with_our_own_digest(start, client):
    with start() as run:
        pass
    (entry,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("sample-photos", "5" * 36)
    assert '"num_rows": 720' in entry.dataset.profile
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]


def test_each_epoch_is_a_step_of_every_curve(start, client):
    with start() as run:
        for number in (1, 2, 3):
            run.log_epoch({**EPOCH, "epoch": number, "train_loss": 0.1 / number})
    metrics = client.get_run(run.run_id).data.metrics
    assert metrics["validation_mse.noise"] == 0.05
    assert metrics["validation_r2.watermark"] == -0.3
    assert metrics["learning_rate"] == 0.001
    assert metrics["images_per_s"] == 21.5
    curve = client.get_metric_history(run.run_id, "train_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 0.1), (2, 0.05), (3, 0.1 / 3)]


def test_a_loss_that_is_not_a_number_is_kept_as_such(start, client):
    with start() as run:
        run.log_epoch({**EPOCH, "validation_loss": float("nan")})
    assert math.isnan(client.get_run(run.run_id).data.metrics["validation_loss"])


def test_nested_measures_become_dotted_names_and_words_are_left_out(start, client):
    with start() as run:
        run.log_metrics({"noise": {"mse": 0.2, "kinds": {"gaussian": {"r2": 0.5}}, "note": "x"}}, "test")
    assert client.get_run(run.run_id).data.metrics == {
        "test.noise.mse": 0.2,
        "test.noise.kinds.gaussian.r2": 0.5,
    }


def test_files_folders_and_images_are_artifacts(start, client, tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "curve.png").write_bytes(b"curve")
    (tmp_path / "errors.png").write_bytes(b"errors")
    with start() as run:
        run.log_files(tmp_path / "plots", "evaluation")
        run.log_files(tmp_path / "errors.png", "images")
    listed = [
        item.path for folder in ("evaluation", "images") for item in client.list_artifacts(run.run_id, folder)
    ]
    assert listed == ["evaluation/curve.png", "images/errors.png"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_how_a_training_ended_is_the_status_of_its_run(start, client, error, status):
    run = start()
    if error is None:
        with run:
            pass
    else:
        with pytest.raises(error), run:
            raise error
    assert client.get_run(run.run_id).info.status == status


def test_a_crashed_training_goes_on_in_the_same_run(start, client, project, section):
    crashed = start()
    crashed.log_epoch(EPOCH)
    with resume_run(project, section, crashed.key) as run:
        run.log_epoch({**EPOCH, "epoch": 2})
    assert [p.step for p in client.get_metric_history(crashed.run_id, "train_loss")] == [1, 2]
    found = client.get_run(crashed.run_id).info
    assert found.status == "FINISHED"
    assert len(client.search_runs([found.experiment_id])) == 1


def test_a_run_that_ended_can_be_added_to_and_is_running_meanwhile(start, client, project, section):
    with start() as trained:
        pass
    with resume_run(project, section, trained.key) as run:
        assert client.get_run(trained.run_id).info.status == "RUNNING"
        run.log_metrics({"mse": 0.1}, "test")
    assert client.get_run(trained.run_id).info.status == "FINISHED"


def test_a_run_is_found_by_key_or_id_after_the_local_state_is_gone(start, project, section):
    with start() as run:
        run_id = run.run_id
    (project / "state").rename(project / "gone")
    by_key = resume_run(project, section, run.key)
    by_id = resume_run(project, section, run_id)
    assert by_key.run_id == by_id.run_id == run_id


@pytest.mark.parametrize("reference", ["0" * 32, "run-0000000000000000", "../escape", ""])
def test_a_run_that_nobody_knows_is_an_error(project, section, reference):
    assert not run_exists(project, section, reference)
    with pytest.raises(ModelNotFoundError):
        resume_run(project, section, reference)


def test_the_load_of_the_machine_is_recorded(start, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with start(system_metrics=True) as run:
        pass
    metrics = client.get_run(run.run_id).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 0


def test_the_model_is_a_logged_model_with_signature_and_free_batch_size(start, client, model_folder):
    with start() as run:
        sha256 = run.log_model(model_folder, step=3)
    (output,) = client.get_run(run.run_id).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (str(logged.status), logged.tags["model_sha256"], output.step) == ("READY", sha256, 3)
    assert logged.params["learning_rate"] == "6e-05"
    written = Path(logged.artifact_location.removeprefix("file://"))
    text = (written / "MLmodel").read_text()
    assert '"shape": [-1, -1,' in text
    assert not {path.suffix for path in written.rglob("*")} & {".pkl", ".pickle", ".pt", ".pth", ".py"}


def test_logging_the_same_model_again_adds_none(start, client, model_folder):
    with start() as run:
        run.log_model(model_folder)
        run.log_model(model_folder)
    assert len(client.get_run(run.run_id).outputs.model_outputs) == 1


def test_a_damaged_model_is_refused_before_anything_is_logged(start, client, model_folder, tmp_path):
    damaged = tmp_path / "model"
    damaged.mkdir()
    for path in model_folder.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    with start() as run, pytest.raises(CorruptError):
        run.log_model(damaged)
    assert not client.get_run(run.run_id).outputs.model_outputs


def test_no_path_of_this_machine_is_in_tags_parameters_inputs_or_model(start, client, project, model_folder):
    with start() as run:
        run.log_model(model_folder)
    found = client.get_run(run.run_id)
    said = [*found.data.tags.values(), *found.data.params.values()]
    said += [entry.dataset.source + entry.dataset.profile for entry in found.inputs.dataset_inputs]
    said += [
        p.read_text()
        for p in (project / "mlartifacts").rglob("*")
        if p.name != "model.safetensors" and p.is_file()
    ]
    assert len(said) > 20
    assert not [text for text in said if str(project) in text or str(Path.home()) in text]


def test_a_tracking_address_of_the_wrong_kind_is_refused_at_the_start(start, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://me:secret@example.com")
    with pytest.raises(UsageError, match=r"htp://example\.com") as refusal:
        start()
    assert "secret" not in str(refusal.value)
