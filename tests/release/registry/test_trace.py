"""From scores back to what made them."""

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from PIL import Image

from quality_model import pretrained
from quality_model.cli import cli
from quality_model.errors import CorruptError, UsageError
from quality_model.params import Params, RegistryParams
from quality_model.records import ModelRef
from quality_model.release.decisions import Decision, write_record
from quality_model.release.decisions import project as show
from quality_model.release.registry import Registry
from quality_model.release.trace import Trace, trace
from quality_model.score.job import score
from quality_model.score.result import ScoringModel
from tests.release.registry.conftest import SIZE_PX
from tests.score.conftest import MeanScorer
from tests.score.earlier import write_earlier_result

Scored = Callable[..., Path]
Traced = Callable[[Path], Trace]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(5):
        Image.new("RGB", (SIZE_PX, SIZE_PX), (40 * number, 90, 90)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def scored_once(
    tmp_path_factory: pytest.TempPathFactory, params: Params, images: Path
) -> Callable[..., Path]:
    """The images scored under an identity; a folder that is not to be changed."""

    @functools.cache
    def scored_once(name: str, version: str | None, run_id: str | None) -> Path:
        output = tmp_path_factory.mktemp("scored") / "scores"
        score(
            params.score.model_copy(update={"shard_size": 4, "workers": 1}),
            params.limits,
            inputs=images,
            output=output,
            scorer=MeanScorer(),
            model=ScoringModel(name, version, run_id, "c" * 64, SIZE_PX, data_sha256="1" * 64),
        )
        return output

    return scored_once


@pytest.fixture
def scored(project: Path, registry: Registry, scored_once: Callable[..., Path]) -> Scored:
    """Score the images as version 1 does, or under another identity; the folder of the job, of two parts."""

    def scored(
        name: str = "quality-model", version: str | None = "1", run_id: str | None = "its own"
    ) -> Path:
        own = registry.find("1").run_id if run_id == "its own" else run_id
        output = project / "scores" / f"{name}-{version}"
        return Path(shutil.copytree(scored_once(name, version, own), output, dirs_exist_ok=True))

    return scored


@pytest.fixture
def traced(project: Path, section: RegistryParams) -> Traced:
    return lambda path: trace(section, root=project, path=path)


def decided(project: Path, model: ModelRef, model_sha256: str, reason: str) -> Path:
    time = f"2026-01-0{len(reason)}T00:00:00.000+00:00"
    return write_record(
        project, Decision("promoted", time, model, model_sha256, gate_sha256="g", reason=reason)
    )


def test_a_result_its_rows_or_a_part_lead_to_version_run_data_commit_verdict_and_decisions(
    scored: Scored, traced: Traced, project: Path, section: RegistryParams, registry: Registry
) -> None:
    version = registry.find("1")
    registry.move_alias("champion", version)
    unknown = ModelRef("quality-model", None, None, "")
    decided(project, ModelRef("quality-model", None, "another", ""), "f" * 64, "a")
    decided(project, ModelRef("quality-model", None, version.run_id, ""), "", "by")
    decided(project, ModelRef("quality-model", None, None, "c" * 64), "", "its")
    about = decided(project, ModelRef("quality-model", "1", None, ""), version.model_sha256, "name")
    show(about, registry)
    decided(project, unknown, "e" * 64, "never")

    job = scored()
    found = traced(job)
    assert found.model == ModelRef("quality-model", "1", version.run_id, "c" * 64)
    assert found.model_sha256 == version.model_sha256
    assert (found.origin["data_name"], found.origin["data_sha256"]) == ("sample-photos", "1" * 64)
    assert found.origin["git_commit"] == version.tags["git_commit"]
    assert (found.verdict, found.aliases, found.notes) == ("passed", ("champion",), [])
    assert [decision.reason for decision in found.decisions] == ["by", "its", "name"]
    assert len(found.files) == 2
    for words in ("and 1 more", "1 (champion)", "1" * 64, "promoted: version 1, data -, commit - (name)"):
        assert words in found.table()
    for place in ("data", "data/part-00001.parquet"):
        assert {**traced(job / place).to_dict(), "shards": None} == {**found.to_dict(), "shards": None}


def test_paths_are_relative_to_the_current_folder(
    scored: Scored, project: Path, section: RegistryParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = scored()
    monkeypatch.chdir(job / "data")
    for place in (".", "part-00001.parquet"):
        path = Path(os.path.relpath(job / "data" / place))
        assert trace(section, root=project, path=path).model.sha256 == "c" * 64


def test_the_command_prints_a_table_or_json(
    scored: Scored, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored()
    monkeypatch.chdir(project)
    done = CliRunner().invoke(cli, ["trace", "--json", "scores/quality-model-1"], catch_exceptions=False)
    assert json.loads(done.stdout)["data_sha256"] == "1" * 64
    done = CliRunner().invoke(cli, ["trace", "scores/quality-model-1"], catch_exceptions=False)
    assert "quality-model" in done.stdout
    assert "verdict on this version is not on record" in done.stdout


def test_a_file_of_weights_and_the_bundled_model_are_traced_by_what_the_scores_say(
    scored: Scored, traced: Traced, project: Path, bundled: Path
) -> None:
    found = traced(scored("weights.pt", None, None))
    assert found.model == ModelRef("weights.pt", None, None, "c" * 64)
    assert found.origin == {"data_sha256": "1" * 64}
    assert "file of weights" in found.notes[0]

    decided(project, ModelRef("quality-model", None, "r1", ""), "6" * 64, "not yet")
    found = traced(scored("pretrained", "s1", "r1"))
    assert (found.origin["data_sha256"], found.origin["git_commit"]) == ("e" * 64, "c" * 40)
    assert [decision.reason for decision in found.decisions] == ["not yet"]
    assert "another release" in traced(scored("pretrained", "0ther", None)).notes[0]
    assert pretrained.bundled_name("pretrained") == "bundled"


def test_a_part_that_was_copied_is_traced_by_its_rows_and_one_that_was_altered_is_not(
    scored: Scored, traced: Traced, tmp_path: Path
) -> None:
    part = scored() / "data" / "part-00000.parquet"
    shutil.copyfile(part, tmp_path / "copy.parquet")
    assert traced(tmp_path / "copy.parquet").model.sha256 == "c" * 64
    part.write_bytes(part.read_bytes()[:-1])
    for path in (part, part.parents[1]):
        with pytest.raises(CorruptError, match="part-00000"):
            traced(path)


def test_a_result_of_the_earlier_layout_leads_to_what_the_new_one_does(
    scored: Scored, traced: Traced, registry: Registry, tmp_path: Path
) -> None:
    model = ScoringModel("quality-model", "1", registry.find("1").run_id, "c" * 64, SIZE_PX)
    earlier = write_earlier_result(tmp_path / "earlier", model)
    expected = {**traced(scored()).to_dict(), "shards": None}
    for path in (earlier, earlier / "shard-00001.parquet"):
        assert {**traced(path).to_dict(), "shards": None} == expected
    shutil.copyfile(earlier / "shard-00000.parquet", earlier / "shard-00001.parquet")
    with pytest.raises(CorruptError, match="shard-00001"):
        traced(earlier)


def test_what_the_registry_does_not_know_any_more_is_a_note_beside_what_the_scores_say(
    scored: Scored,
    traced: Traced,
    project: Path,
    section: RegistryParams,
    client: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = scored()
    other = traced(scored(version="2", run_id="b" * 32))
    assert "another registry" in other.notes[0]
    decided(project, ModelRef("quality-model", "1", None, "c" * 64), "", "the best")
    client.delete_model_version("quality-model", "1")
    gone = traced(job)
    assert "no longer in the registry" in gone.notes[0]
    assert [decision.reason for decision in gone.decisions] == ["the best"]
    outside = trace(section, root=tmp_path, path=job)
    assert "no registry" in outside.notes[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    down = traced(job)
    assert "Connection refused" in down.notes[0]
    for found in (other, gone, outside, down):
        assert (found.model.sha256, found.origin["data_sha256"]) == ("c" * 64, "1" * 64)


def test_what_holds_no_scores_is_named(traced: Traced, tmp_path: Path, images: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scores")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    mixed = {"model_name": ["m", "m"], "model_version": ["1", "2"], "model_run_id": ["x", "y"]}
    pd.DataFrame(mixed).to_parquet(tmp_path / "mixed.parquet")
    pd.DataFrame({key: pd.Series([], dtype=str) for key in mixed}).to_parquet(tmp_path / "none.parquet")
    for path, problem in (
        (tmp_path / "nowhere", "is not there"),
        (images, "holds no scores"),
        (tmp_path / "notes.txt", "holds no scores: no model_name"),
        (tmp_path / "a.parquet", "holds no scores: no model_name"),
        (tmp_path / "mixed.parquet", "several models: m version 1, m version 2"),
        (tmp_path / "none.parquet", "has no rows"),
    ):
        with pytest.raises(UsageError, match=problem):
            traced(path)
