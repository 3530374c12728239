"""A project's own registry, moved to a real server over HTTP with its history, and used there."""

import json
import shutil
from pathlib import Path

import mlflow.pyfunc
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from PIL import Image

from quality_model.params import Params, RegistryParams
from quality_model.release.registry import Registry
from quality_model.release.registry_facts import EARLIER_ID
from quality_model.score.job import score
from quality_model.score.result import ScoringModel
from tests.conftest import PROJECT
from tests.release.migration.conftest import ODD, Moved, client_of, command, rows_of
from tests.score.conftest import MeanScorer


def runs_of(client: MlflowClient) -> dict[str, Run]:
    """Every run by the id that it had here."""
    places = [one.experiment_id for one in client.search_experiments(ViewType.ALL)]
    runs = client.search_runs(places, run_view_type=ViewType.ALL)
    return {run.data.tags.get(EARLIER_ID, run.info.run_id): run for run in runs}


def test_runs_have_their_parameters_times_statuses_parents_and_every_point_of_every_metric(
    moved: Moved,
) -> None:
    here, there = client_of(moved.root), MlflowClient(moved.uri)
    old, new = runs_of(here), runs_of(there)
    assert old.keys() == new.keys()
    for run_id, one in old.items():
        two = new[run_id]
        for name in ("status", "start_time", "end_time", "lifecycle_stage", "run_name"):
            assert getattr(one.info, name) == getattr(two.info, name)
        assert one.data.params == two.data.params
        parent = one.data.tags.get("mlflow.parentRunId")
        assert two.data.tags.get("mlflow.parentRunId") == (new[parent].info.run_id if parent else None)
        for key in one.data.metrics:
            points = [
                {
                    (p.step, p.timestamp, repr(p.value))
                    for p in client.get_metric_history(run.info.run_id, key)
                }
                for client, run in ((here, one), (there, two))
            ]
            assert points[0] == points[1]
    assert max(len(here.get_metric_history(run.info.run_id, "loss")) for run in old.values()) == 1202
    assert {run.info.status for run in new.values()} == {"FINISHED", "FAILED", "RUNNING"}
    assert {one.name: one.lifecycle_stage for one in there.search_experiments(ViewType.ALL)} == {
        **{one.name: one.lifecycle_stage for one in here.search_experiments(ViewType.ALL)}
    }


@pytest.mark.usefixtures("put_back")
def test_versions_keep_numbers_tags_descriptions_aliases_and_links_and_the_next_one_is_new(
    moved: Moved, section: RegistryParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = client_of(moved.root), MlflowClient(moved.uri)
    old, new = here.get_registered_model("quality-model"), there.get_registered_model("quality-model")
    assert {name: str(number) for name, number in old.aliases.items()} == new.aliases
    assert new.aliases == {"champion": "4", "candidate": "3"}
    assert old.tags.items() <= new.tags.items()
    for number in ("1", "3", "4"):
        one, two = (client.get_model_version("quality-model", number) for client in (here, there))
        kept = {key: value for key, value in one.tags.items() if key != "model_id"}
        assert kept.items() <= two.tags.items()
        assert two.description == (one.description or "")
        model_id = two.tags["model_id"]
        assert two.source == f"models:/{model_id}"
        assert there.get_run(two.run_id).outputs.model_outputs[0].model_id == model_id
        assert two.tags["quality_model.earlier_run_id"] == one.run_id
    assert {one.version for one in there.search_model_versions("name='quality-model'")} == {"1", "3", "4"}
    made = there.create_model_version("quality-model", two.source, model_id=model_id)
    there.delete_model_version("quality-model", made.version)
    assert int(made.version) == 6  # 2 and 5 were deleted here, and no other model gets their numbers
    monkeypatch.setenv("MLFLOW_TRACKING_URI", moved.uri)
    loaded = mlflow.pyfunc.load_model("models:/quality-model@champion")
    assert len(loaded.predict(loaded.input_example)) == len(loaded.input_example)
    resolved = Registry(moved.root, section).resolve("champion")
    assert resolved.model_sha256 == Registry(moved.root, section).find("4").model_sha256


def test_files_are_equal_byte_for_byte(moved: Moved) -> None:
    there = MlflowClient(moved.uri)
    compared = set()
    for run_id, run in runs_of(client_of(moved.root)).items():
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        new = runs_of(there)[run_id].info.run_id
        for path in filter(Path.is_file, folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            assert Path(there.download_artifacts(new, name)).read_bytes() == path.read_bytes()
            compared.add(name)
    assert ODD in compared
    assert any(name.endswith("decision.json") for name in compared)


def test_a_second_run_changes_nothing_and_says_so(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(moved.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = rows_of(moved)
    said = command("migrate", "--to", f"{moved.uri}/")
    assert f"Nothing to do: {moved.uri} has everything that is in mlflow.db." in said
    assert "metric points      1,205  1,205" in said
    assert rows_of(moved) == before
    report = json.loads(Path("reports/migration/migration.json").read_text())
    assert (report["here"], report["added"], report["differences"]) == (report["there"], 0, [])
    assert report["left"] == {"logged models in the trash": 1}
    assert "Not moved: logged models in the trash (1)." in said


@pytest.mark.usefixtures("put_back")
def test_trace_history_publish_and_rollback_work_on_the_other_side_with_and_without_the_records(
    moved: Moved, section: RegistryParams, tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    version = Registry(moved.root, section).find("1")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    score(
        params.score.model_copy(update={"workers": 1}), params.limits,
        inputs=tmp_path / "a.png", output=tmp_path / "scores", scorer=MeanScorer(),
        model=ScoringModel("quality-model", "1", version.run_id, "c" * 64, 32),
    )  # fmt: skip
    monkeypatch.chdir(moved.root)
    here = command("history"), json.loads(command("trace", str(tmp_path / "scores"), "--json"))
    clone = tmp_path / "clone"
    clone.mkdir()
    shutil.copyfile(PROJECT / "params.yaml", clone / "params.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", moved.uri)
    for root in (moved.root, clone):
        monkeypatch.chdir(root)
        assert command("history") == here[0]
        there = json.loads(command("trace", str(tmp_path / "scores"), "--json"))
        for key in ("model_sha256", "data_sha256", "git_commit", "aliases", "verdict"):
            assert there.get(key) == here[1].get(key)
        assert [one["time"] for one in there["decisions"]] == [one["time"] for one in here[1]["decisions"]]
        assert len(there["notes"]) == len(here[1]["notes"]) + 1
        assert "The registry was migrated: the run is " in str(there["notes"])
    monkeypatch.chdir(moved.root)
    before = rows_of(moved)
    command("publish")
    assert "is not at" not in caplog.text
    assert rows_of(moved) == before, "records name runs by the ids that they had"
    monkeypatch.chdir(clone)
    assert "version 1 again" in command("rollback")
    registry = Registry(clone, section)
    assert (champion := registry.champion()) is not None
    assert champion.version == "1"
    (record,) = (clone / "state" / "records").iterdir()
    assert registry.client.list_artifacts(str(champion.run_id), f"decisions/{record.name}")
