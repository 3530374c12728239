"""The result is a dataset: documented columns, nothing else in its folder, opened by any reader."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from quality_model.core import storage
from quality_model.core.measures import MEASURES
from quality_model.errors import UsageError
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params import Params
from quality_model.records import FLAG_COLUMNS, HEADS, MEANINGS, SCALE_VERSION, SCHEMA_VERSION, ModelRef
from quality_model.release.decisions import Decision, write_record
from quality_model.score.job import score
from quality_model.score.result import SCHEMA, read_rows
from quality_model.score.summary import ScoreSummary

from .conftest import IDENTITY, THRESHOLDS, MeanScorer, PerCoreScorer, encode, fill, rows_of, runner

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "results-format.md"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, params: Params, crops: list[bytes]) -> Path:
    """Scores of twenty images, and of seven broken ones, which have a part of their own; read only."""
    place = tmp_path_factory.mktemp("result")
    folder = fill(place / "images", crops)
    for number in range(7):
        (folder / f"a{number}.jpg").write_bytes(b"no")
    runner(params, place / "OUT")(folder)
    return place / "OUT"


def test_the_completion_marker_names_the_record_of_the_last_decision_about_the_model(
    params: Params, crops: list[bytes], tmp_path: Path
) -> None:
    folder, run = fill(tmp_path / "images", crops[:1]), runner(params, tmp_path / "none")
    run(folder, root=tmp_path)
    assert json.loads((tmp_path / "none" / "job.json").read_text())["decision"] is None
    records = [
        write_record(tmp_path, Decision("promoted", f"2026-01-0{day}", ModelRef("m", None, None, sha256), ""))
        for day, sha256 in ((2, "c" * 64), (1, "c" * 64), (3, "d" * 64))
    ]
    (records[1] / "decision.json").write_text("no decision")
    run(folder, tmp_path / "some", root=tmp_path)
    assert json.loads((tmp_path / "some" / "job.json").read_text())["decision"] == records[0].name


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "pandas": lambda folder: pd.read_parquet(folder).to_dict("records"),
    "pyarrow": lambda folder: pa.dataset.dataset(folder).to_table().to_pylist(),
    "polars": lambda folder: polars.read_parquet(folder).to_dicts(),
    "duckdb": lambda folder: duckdb.sql(f"from read_parquet('{folder}')").to_arrow_table().to_pylist(),
    "datasets": lambda folder: datasets.load_dataset(str(folder), split="train").to_list(),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_opens_the_result_by_its_folder(result, reader):
    rows = sorted(READERS[reader](result / "data"), key=lambda row: row["key"])
    assert [row["key"] for row in rows] == sorted(rows_of(result)["key"])
    assert list(rows[0]) == SCHEMA.names
    scored = [row for row in rows if pd.isna(row["error_code"])]
    assert len(scored) == 20
    assert all(row["is_blurry"] is (row["blurriness"] > THRESHOLDS["blurriness"]) for row in scored)
    assert all(pd.isna(row["overall"]) for row in rows if row["error_code"] == "not_an_image")


def documented(header: str) -> list[list[str]]:
    """The cells of the rows of a table of the document."""
    lines = DOCUMENT.read_text().split(header)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_documented_columns_are_those_of_the_schema_with_their_types_and_meanings():
    rows = documented("| column | type | meaning |")
    fields = [[f"`{field.name}`", str(field.type)] for field in SCHEMA]
    assert [row[:2] for row in rows] == fields
    described = {row[0].strip("`"): row[2] for row in rows}
    assert all(described[name].startswith(meaning) for name, meaning in MEANINGS.items())


def test_every_part_has_the_same_schema_whatever_it_holds(result):
    schemas = [pq.read_schema(path) for path in sorted((result / "data").iterdir())]
    assert len(schemas) == 4
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert pq.read_table(result / "data" / "part-00000.parquet")["noise"].null_count == 7


def test_the_metadata_of_a_part_are_the_documented_ones(result):
    raw = pq.read_schema(result / "data" / "part-00001.parquet").metadata
    metadata = {name.decode(): json.loads(value) for name, value in raw.items()}
    assert {f"`{name}`" for name in metadata} == {row[0] for row in documented("| key | value |")}
    assert metadata["quality_model.thresholds"] == THRESHOLDS
    assert metadata["quality_model.schema_version"] == SCHEMA_VERSION
    assert metadata["quality_model.plan_sha256"] == storage.file_sha256(result / "plan.parquet")
    model = metadata["quality_model.model"]
    assert (model["name"], model["version"], model["run_id"]) == ("grey", "3", "a1b2")
    assert (model["sha256"], model["scale_version"]) == (IDENTITY.sha256, SCALE_VERSION)


def test_a_row_names_its_worst_head_model_and_versions(result):
    rows = rows_of(result)
    scored = rows[rows["error_code"].isna()]
    assert scored["worst_score"].equals(scored[list(HEADS)].max(axis=1))
    assert scored["worst_head"].tolist() == scored[list(HEADS)].idxmax(axis=1).tolist()
    assert set(rows["model_scale_version"]) == {SCALE_VERSION}
    assert set(rows["schema_version"]) == {SCHEMA_VERSION}
    failed = rows[rows["error_code"].notna()]
    scores = [*HEADS, "overall", "worst_head", "worst_score", *FLAG_COLUMNS.values(), "width", "format"]
    assert failed[scores].isna().all(axis=None)
    assert set(failed["size_bytes"]) == {2} and failed["sha256"].notna().all()


def test_a_head_without_a_threshold_has_nulls_where_the_others_have_flags(folder, run, tmp_path):
    run(folder, model=replace(IDENTITY, thresholds={"noise": 0.5}))
    rows = rows_of(tmp_path / "scores")
    assert rows["is_noisy"].dtype == np.bool_
    assert rows[["is_color_cast", "is_blurry", "is_watermarked"]].isna().all(axis=None)


def test_the_format_is_that_of_the_bytes_whatever_the_file_is_called(run, tmp_path, photo):
    (tmp_path / "in").mkdir()
    for name, kind in (("a.jpg", "PNG"), ("b.png", "WEBP"), ("c.jpeg", "JPEG"), ("d.gif", "TIFF")):
        (tmp_path / "in" / name).write_bytes(encode(photo[:48, :48], kind))
    run(tmp_path / "in")
    assert rows_of(tmp_path / "scores")["format"].tolist() == ["PNG", "WEBP", "JPEG", "TIFF"]


def test_everything_but_the_rows_is_beside_the_data(result):
    names = {path.name for path in result.iterdir()} - {".lock"}
    assert names == {"data", "job.json", "parts", "plan.json", "plan.parquet", "report"}
    numbers = [f"part-{number:05d}" for number in range(4)]
    assert sorted(path.name for path in (result / "data").iterdir()) == [f"{n}.parquet" for n in numbers]
    assert sorted(path.name for path in (result / "parts").iterdir()) == [f"{n}.json" for n in numbers]


def test_the_completion_marker_records_model_inputs_settings_thresholds_and_parts(result):
    job = storage.require_sealed(result, verify=True, marker_name="job.json")
    assert job["schema_version"] == SCHEMA_VERSION
    assert (job["model"]["name"], job["model"]["version"], job["model"]["run_id"]) == ("grey", "3", "a1b2")
    assert job["thresholds"] == THRESHOLDS
    inputs = job["inputs"]
    assert (inputs["kind"], inputs["num_inputs"]) == ("images", 27)
    assert (job["scored"], job["errors"]) == (20, {"not_an_image": 7})
    assert job["settings"]["shard_size"] == 7
    assert [(part["file"], part["rows"]) for part in job["parts"]] == [
        (f"data/part-0000{number}.parquet", rows) for number, rows in enumerate((7, 7, 7, 6))
    ]
    assert all(storage.file_sha256(result / part["file"]) == part["sha256"] for part in job["parts"])
    assert job["plan_sha256"] == json.loads((result / "plan.json").read_text())["plan_sha256"]


def test_the_examples_of_the_document_run(result, monkeypatch):
    monkeypatch.chdir(result.parent)
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    made: dict[str, Any] = {}
    for example in examples:
        exec(example, made)
    assert len(made["worst"]) == 27
    assert made["thresholds"] == THRESHOLDS


def test_the_root_as_given_is_recorded_beside_the_absolute_one(folder, run, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    run(Path(folder.name))
    inputs = json.loads((tmp_path / "scores" / "job.json").read_text())["inputs"]
    assert (inputs["root"], inputs["absolute_root"]) == (folder.name, str(folder.resolve()))


def test_a_result_that_breaks_its_contract_gets_no_completion_marker(folder, run, tmp_path):
    def refuse(summary: ScoreSummary) -> None:
        assert summary.inputs == 20
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run(folder, check=refuse)
    assert not (tmp_path / "scores" / "job.json").exists()
    assert run(folder).parts_before == 3
    assert (tmp_path / "scores" / "job.json").exists()


def test_a_row_has_the_measures_that_were_asked_for_and_null_for_the_others_and_for_errors(
    folder, run, tmp_path
):
    (folder / "z.jpg").write_bytes(b"no")
    run(folder, measures=("file", "hash"))
    output = tmp_path / "scores"
    rows = rows_of(output)
    read = rows[rows["error_code"].isna()]
    assert set(read["jpeg_quality"]) == {75}
    assert read["bits_per_pixel"].tolist() == pytest.approx(8 * read["size_bytes"] / (64 * 48))
    assert read["phash"].nunique() > 10
    asked = ["aspect_ratio", "bits_per_pixel", "jpeg_quality", "phash"]
    assert rows[[each.name for each in MEASURES if each.name not in asked]].isna().all(axis=None)
    assert rows[rows["error_code"].notna()][asked].isna().all(axis=None)
    settings = json.loads((output / "job.json").read_text())["settings"]
    assert settings["measures"] == ["file", "hash"]


def test_measures_are_the_same_whoever_scores(folder, run, tmp_path):
    for name, scorer in (("here", MeanScorer()), ("per core", PerCoreScorer())):
        run(folder, tmp_path / name, scorer=scorer, measures=("all",))
    names = [each.name for each in MEASURES]
    here = rows_of(tmp_path / "here")[names]
    assert here.equals(rows_of(tmp_path / "per core")[names])
    assert here.drop(columns="blocking").notna().all(axis=None)


def test_near_duplicates_are_found_in_a_result_by_the_distance_that_the_document_names(photo, run, tmp_path):
    (tmp_path / "in").mkdir()
    for name, data in {
        "a.jpg": encode(photo),
        "b.webp": encode(photo[::2, ::2], "WEBP"),
        "c.png": encode(photo[:256, 256:], "PNG"),
    }.items():
        (tmp_path / "in" / name).write_bytes(data)
    run(tmp_path / "in")
    query = """
        select a.key, b.key from rows a join rows b
        on a.key < b.key and bit_count(xor(a.phash, b.phash)) <= 6
    """
    source = f"with rows as (from read_parquet('{tmp_path / 'scores' / 'data'}/*.parquet'))"
    assert duckdb.sql(source + query).fetchall() == [("a.jpg", "b.webp")]


def test_rows_of_the_first_version_are_read_with_those_of_this_one(result, tmp_path):
    table = pq.read_table(result / "data" / "part-00003.parquet")
    measures = [each.name for each in MEASURES]
    (tmp_path / "data").mkdir()
    pq.write_table(table.drop_columns(measures), tmp_path / "data" / "part-00000.parquet")
    (tmp_path / "job.json").write_text('{"parts": [{"file": "data/part-00000.parquet"}]}')
    assert read_rows(tmp_path, ["key", "noise", "is_noisy"]).num_rows == table.num_rows
    both = pa.dataset.dataset([pa.dataset.dataset(result / "data"), pa.dataset.dataset(tmp_path / "data")])
    assert both.to_table()["phash"].null_count >= table.num_rows


def test_intervals_are_columns_behind_the_others_as_wide_as_the_bin_of_a_score_is_uncertain(
    params, crops, tmp_path
):
    widths = {"edges": [0.4], "half_widths": [0.1, 0.7]}
    known = {"confidence": 0.9, "num_images": 40, "heads": dict.fromkeys(HEADS, widths)}
    folder = fill(tmp_path / "images", crops)
    (folder / "broken.jpg").write_bytes(b"no")
    run = runner(params, tmp_path / "OUT")
    run(folder, model=replace(IDENTITY, intervals=known))
    run(folder, model=replace(IDENTITY, intervals=known))  # resumes: its parts are of this schema
    rows = rows_of(tmp_path / "OUT")
    ends = [f"{head}_{end}" for head in HEADS for end in ("lower", "upper")]
    assert list(rows) == [*SCHEMA.names, *ends]
    assert rows.loc[rows["error_code"].notna(), ends].isna().all(axis=None)
    scored = rows[rows["error_code"].isna()]
    for head in HEADS:
        width = np.where(scored[head] < 0.4, 0.1, 0.7)
        for end, sign in (("lower", -1), ("upper", 1)):
            expected = np.clip(scored[head] + sign * width, 0, 1)
            assert scored[f"{head}_{end}"].to_numpy() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UsageError, match="the model intervals differ"):
        run(folder)


def test_intervals_of_a_model_without_are_an_error_that_says_what_to_do(params, tmp_path):
    save_model(tmp_path / "bare", MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})
    section = params.score.model_copy(update={"model": str(tmp_path / "bare"), "intervals": True})
    with pytest.raises(UsageError, match="has no intervals for these views") as caught:
        score(section, params.limits, inputs=tmp_path, output=tmp_path / "OUT")
    assert "score.intervals false" in caught.value.remedy
    assert not (tmp_path / "OUT").exists()
