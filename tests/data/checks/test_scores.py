import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.core import storage
from quality_model.data.checks import validate_scores
from quality_model.errors import CorruptError, IncompleteError, ValidationError
from quality_model.params import Params
from quality_model.records import CleanImage
from quality_model.score import ModelIdentity, score

from .conftest import failures


class MeanScorer:
    engine = None

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        channels = pixels.mean(axis=(1, 2)) / 255.0
        return np.column_stack([channels, channels.mean(axis=1)]).astype(np.float32)


@pytest.fixture(scope="session", params=["3", None], ids=["registered model", "checkpoint file"])
def scores(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    params: Params,
    images: list[CleanImage],
) -> Path:
    """Twenty-four scored images and one unreadable one, in three parts."""
    place = tmp_path_factory.mktemp("scored")
    (place / "in").mkdir()
    for image in images:
        (place / "in" / f"{image.image_id}.png").write_bytes(image.data)
    (place / "in" / "z.png").write_bytes(b"no")
    score(
        params.score.model_copy(update={"shard_size": 10, "workers": 1}),
        params.limits,
        inputs=place / "in",
        output=place / "out",
        scorer=MeanScorer(),
        model=ModelIdentity("mean", request.param, request.param, "a" * 64, 32, {"noise": 0.3}),
    )
    return place / "out"


@pytest.fixture
def change(scores: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy in whose second part some values were changed."""

    def _change(*values: tuple[int, str, object]) -> Path:
        folder = Path(shutil.copytree(scores, tmp_path / "scores"))
        path = folder / "data" / "part-00001.parquet"
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row, column, value in values:
            rows[row][column] = value
        schema = pa.schema([field.with_nullable(True) for field in table.schema])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
        return folder

    return _change


def check(folder: Path, report: Path, **changes: object) -> dict[str, object]:
    """Validate a result as its completion marker, with some changes, describes it."""
    return validate_scores(folder, {**storage.read_json(folder / "job.json"), **changes}, report)


def test_what_a_job_writes_meets_every_expectation(scores: Path, tmp_path: Path) -> None:
    assert check(scores, tmp_path / "r")["passed"]


def test_each_defect_is_named_with_its_column_and_key(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change(
        (0, "noise", 1.5),
        (1, "overall", 0.123),
        (2, "error_code", "truncated"),
        (3, "watermark", None),
        (4, "key", "p00.png"),
        (5, "worst_score", 0.001),
        (6, "model_name", "other"),
        (7, "sha256", "beef"),
        (8, "width", 0),
        (9, "model_version", "9"),
        (9, "schema_version", 9),
        (9, "size_bytes", 0),
    )
    with pytest.raises(ValidationError) as caught:
        check(folder, tmp_path / "r")
    lines = failures(caught.value)
    for where, told in [
        ("scores.noise: expect_column_values_to_be_between", "noise 1.5, key p10.png"),
        ("scores.overall_error: expect_column_values_to_be_between", "key p11.png"),
        ("scores.holds: expect_column_values_to_be_in_set", "neither or both, key p12.png"),
        ("scores.holds: expect_column_values_to_be_in_set", "neither or both, key p13.png"),
        ("scores.key: expect_column_values_to_be_unique", "key p00.png"),
        ("scores.worst_is: expect_column_values_to_be_in_set", "worst_is wrong, key p15.png"),
        ("scores.model_name: expect_column_values_to_be_in_set", "model_name other, key p16.png"),
        ("scores.sha256: expect_column_values_to_match_regex", "sha256 beef, key p17.png"),
        ("scores.width: expect_column_values_to_be_between", "width 0, key p18.png"),
        ("scores.model_version: expect_column_values_to_be_", "model_version 9, key p19.png"),
        ("scores.schema_version: expect_column_values_to_be_in_set", "schema_version 9, key p19.png"),
        ("scores.size_bytes: expect_column_values_to_be_between", "size_bytes 0, key p19.png"),
    ]:
        assert [line for line in lines if line.startswith(where) and told in line], (where, lines)


def test_a_flag_that_the_thresholds_do_not_give_is_named(change: Callable[..., Path], tmp_path: Path) -> None:
    rows = pq.read_table(change() / "data" / "part-00001.parquet").to_pylist()
    flagged = next(number for number, row in enumerate(rows) if row["is_noisy"])
    others = [(flagged + step) % 10 for step in (1, 2)]
    shutil.rmtree(tmp_path / "scores")
    folder = change(
        (flagged, "is_noisy", False), (others[0], "is_noisy", None), (others[1], "is_blurry", False)
    )
    with pytest.raises(ValidationError) as caught:
        check(folder, tmp_path / "r")
    (line,) = failures(caught.value)
    assert "scores.flags_are" in line and "3 of " in line
    assert f"flags_are wrong, key {rows[flagged]['key']}" in line


def test_a_bad_row_is_found_in_whichever_batch_it_is(
    change: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten rows at a time, the bad ones among the second ten; then all at once: the same is told."""
    folder = change((0, "noise", 1.5), (3, "noise", -0.5), (4, "sha256", "beef"))
    reports = []
    for name, rows in (("batches", 10), ("whole", 10_000)):
        monkeypatch.setattr("quality_model.data.checks.scores.ROWS_AT_ONCE", rows)
        with pytest.raises(ValidationError) as caught:
            check(folder, tmp_path / name)
        assert "2 of 25 fail, for example noise 1.5, key p10.png" in "\n".join(failures(caught.value))
        reports.append(storage.read_json(tmp_path / name / "validation.json"))
        pages = list((tmp_path / name / "docs" / "validations").rglob("*.html"))
        assert len(pages) == 1
        assert {"1.5", "-0.5", "beef"} <= set(re.findall(r"[-.\w]+", pages[0].read_text()))
    assert reports[0] == reports[1]


def test_a_key_with_two_rows_is_noticed_where_they_are_read_together(
    change: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quality_model.data.checks.scores.ROWS_AT_ONCE", 10)
    with pytest.raises(ValidationError, match=r"scores\.key: .*unique.*2 of 25 fail.*key p14\.png"):
        check(change((3, "key", "p14.png")), tmp_path / "r")


def test_a_missing_part_is_named(change: Callable[..., Path], tmp_path: Path) -> None:
    folder = change()
    (folder / "data" / "part-00002.parquet").unlink()
    with pytest.raises(IncompleteError, match=r"part-00002\.parquet is missing"):
        check(folder, tmp_path / "r")


def test_a_marker_that_leaves_a_part_out_is_noticed_by_the_count(
    change: Callable[..., Path], tmp_path: Path
) -> None:
    folder = change()
    parts = storage.read_json(folder / "job.json")["parts"]
    with pytest.raises(ValidationError, match=r"expect_table_row_count_to_equal \(value 25\): found 20"):
        check(folder, tmp_path / "r", parts=parts[:-1])


@pytest.mark.parametrize("damage", ["cut footer", "foreign schema"])
def test_a_part_that_is_none_is_named(change: Callable[..., Path], tmp_path: Path, damage: str) -> None:
    folder = change()
    part = folder / "data" / "part-00001.parquet"
    if damage == "cut footer":
        part.write_bytes(part.read_bytes()[:-9])
    else:
        pq.write_table(pa.table({"name": ["x"]}), part)
    with pytest.raises(CorruptError, match=r"part-00001\.parquet is not a part of scores"):
        check(folder, tmp_path / "r")
