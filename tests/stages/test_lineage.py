"""From a scored shard back to what made it."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from quality_model import pretrained
from quality_model.cli import cli
from quality_model.errors import CorruptError, ModelNotFoundError, RegistryError, UsageError
from quality_model.params import Params
from quality_model.release.lineage import trace
from quality_model.release.registry import record_decision
from quality_model.score import ModelIdentity, score
from tests.score.conftest import MeanScorer
from tests.score.earlier import write_earlier_result


@pytest.fixture
def scored(project: Path, registry, params: Params, images: Path):
    """Score the images as the champion does, or under another identity; the folder of the job."""

    def scored(
        name: str = "quality-model", version: str | None = "1", run_id: str | None = "its own"
    ) -> Path:
        own = registry.find("1").run_id if run_id == "its own" else run_id
        output = project / "scores" / f"{name}-{version}"
        score(
            params.score.model_copy(update={"shard_size": 4, "workers": 1}),
            params.limits,
            inputs=images,
            output=output,
            scorer=MeanScorer(),
            model=ModelIdentity(name, version, own, "c" * 64, 32, None),
        )
        return output

    return scored


@pytest.fixture
def traced(project: Path, params: Params):
    return lambda path: trace(params.registry, root=project, path=path)


def test_a_shard_leads_to_version_run_data_commit_verdict_and_decision(
    scored, traced, project: Path, registry
) -> None:
    version = registry.find("1")
    registry.attach_verdict({"passed": True}, run_id=version.run_id, version="1")
    record_decision(project, "refused", {"run_id": "another", "model_sha256": "f" * 64})
    record_decision(project, "promoted", {"run_id": version.run_id, "reasons": ["passed the gate"]})
    record_decision(project, "rolled back", {"model_sha256": version.tags["model_sha256"], "reasons": []})

    job = scored()
    found = traced(job / "data" / "part-00001.parquet")
    assert (found.model_name, found.model_version, found.run_id) == ("quality-model", "1", version.run_id)
    assert (found.data_name, found.data_sha256) == ("sample-photos", "1" * 64)
    assert (found.weights_sha256, found.model_sha256) == ("c" * 64, version.tags["model_sha256"])
    assert found.git_commit == version.tags["git_commit"]
    assert (found.verdict, found.aliases, found.notes) == ("passed", ("champion",), ())
    assert [decision["outcome"] for decision in found.decisions] == ["promoted", "rolled back"]

    whole = traced(job)
    assert len(whole.shards) == 2
    assert {**whole.to_dict(), "shards": None} == {**found.to_dict(), "shards": None}
    text = "\n".join(whole.lines())
    for words in (
        "and 1 more",
        "1 (champion)",
        "1" * 64,
        "promoted: version -, data -, commit - (passed the gate)",
    ):
        assert words in text


def test_the_command_prints_a_table_or_json(scored, project: Path, monkeypatch) -> None:
    scored()
    monkeypatch.chdir(project)
    done = CliRunner().invoke(cli, ["trace", "--json", "scores/quality-model-1"], catch_exceptions=False)
    assert json.loads(done.stdout)["data_sha256"] == "1" * 64
    done = CliRunner().invoke(cli, ["trace", "scores/quality-model-1"], catch_exceptions=False)
    assert "quality-model" in done.stdout
    assert "verdict on this version is not on record" in done.stdout


def test_scores_of_a_file_of_weights_tell_what_is_known(scored, traced) -> None:
    found = traced(scored("weights.pt", None, None))
    assert (found.model_name, found.model_version, found.data_sha256) == ("weights.pt", None, None)
    assert found.weights_sha256 == "c" * 64
    assert "file of weights" in found.notes[0]


def test_scores_of_the_shipped_model_lead_to_its_training_and_decision(
    scored, traced, project: Path, monkeypatch, tmp_path: Path
) -> None:
    facts = {
        "version": "c0ffee123456",
        "data_sha256": "5" * 64,
        "model_sha256": "6" * 64,
        "git_commit": "7" * 40,
        "settings": {"source.dataset": "photos"},
    }
    record_decision(project, "refused", {"model_sha256": "6" * 64, "reasons": ["not yet"]})
    (tmp_path / "model.json").write_text(json.dumps({"facts": facts}))
    (tmp_path / "_complete.json").touch()
    monkeypatch.setitem(pretrained.FOLDERS, "bundled", tmp_path)
    found = traced(scored("pretrained", "c0ffee123456", "r1"))
    assert (found.data_name, found.data_sha256, found.run_id) == ("photos", "5" * 64, "r1")
    assert found.git_commit == "7" * 40
    assert [decision["reasons"] for decision in found.decisions] == [["not yet"]]
    assert "another release" in traced(scored("pretrained", "0ther", None)).notes[0]


def test_a_shard_that_was_copied_elsewhere_is_traced_by_its_rows(scored, traced, tmp_path) -> None:
    copy = tmp_path / "copy.parquet"
    shutil.copyfile(scored() / "data" / "part-00000.parquet", copy)
    found = traced(copy)
    assert (found.data_sha256, found.weights_sha256) == ("1" * 64, "c" * 64)


def test_a_result_of_the_earlier_layout_leads_to_what_the_new_one_does(
    scored, traced, registry, tmp_path: Path
) -> None:
    model = ModelIdentity("quality-model", "1", registry.find("1").run_id, "c" * 64, 32, None)
    earlier = write_earlier_result(tmp_path / "earlier", model)
    expected = {**traced(scored()).to_dict(), "shards": None}
    for path in (earlier, earlier / "shard-00001.parquet"):
        assert {**traced(path).to_dict(), "shards": None} == expected
    assert len(traced(earlier).shards) == 2
    shutil.copyfile(earlier / "shard-00000.parquet", earlier / "shard-00001.parquet")
    with pytest.raises(CorruptError, match="shard-00001"):
        traced(earlier)


@pytest.mark.parametrize("working_folder", [".", "data"])
@pytest.mark.parametrize("place", [".", "data", "data/part-00001.parquet"])
def test_a_result_is_traced_by_its_folder_its_rows_or_a_part(
    scored, traced, project: Path, monkeypatch: pytest.MonkeyPatch, place: str, working_folder: str
) -> None:
    job = scored()
    part = job / "data" / "part-00001.parquet"
    monkeypatch.chdir(job / working_folder)
    path = Path(os.path.relpath(job / place))
    found = traced(path)
    assert (found.data_sha256, found.weights_sha256) == ("1" * 64, "c" * 64)
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(CorruptError, match="part-00001"):
        traced(path)


def test_a_shard_that_was_altered_is_not_trusted(scored, traced) -> None:
    shard = scored() / "data" / "part-00000.parquet"
    table = pd.read_parquet(shard)
    table.assign(model_version="2").to_parquet(shard)
    with pytest.raises(CorruptError, match="part-00000"):
        traced(shard)


def test_a_version_that_no_longer_exists_is_named_with_what_the_ledger_keeps(
    scored, traced, project: Path, registry
) -> None:
    job = scored()
    record_decision(project, "promoted", {"run_id": registry.find("1").run_id, "reasons": ["the best yet"]})
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    client.delete_model_version("quality-model", "1")
    with pytest.raises(ModelNotFoundError, match=r"no longer in the registry(.|\n)*the best yet"):
        traced(job)


def test_scores_of_another_registry_are_not_taken_for_those_of_this_one(scored, traced) -> None:
    with pytest.raises(RegistryError, match="another registry"):
        traced(scored(run_id="b" * 32))


def test_scores_outside_their_project_say_that_there_is_no_registry(scored, params, tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match="no registry"):
        trace(params.registry, root=tmp_path, path=scored())


def test_what_is_no_shard_is_named(traced, tmp_path, images) -> None:
    with pytest.raises(UsageError, match="is not there"):
        traced(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no scores"):
        traced(images)
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        traced(images / "notes.txt")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="no column model_name"):
        traced(tmp_path / "a.parquet")
    mixed = {"model_name": ["m", "m"], "model_version": ["1", "2"], "model_run_id": ["x", "y"]}
    pd.DataFrame(mixed).to_parquet(tmp_path / "mixed.parquet")
    with pytest.raises(UsageError, match="several models: m version 1, m version 2"):
        traced(tmp_path / "mixed.parquet")
    pd.DataFrame({key: pd.Series([], dtype=str) for key in mixed}).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(UsageError, match="has no rows"):
        traced(tmp_path / "none.parquet")
