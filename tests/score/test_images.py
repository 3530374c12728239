"""Scoring a folder: a row for every input, whatever it is."""

import hashlib
import json
import os
import threading
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import psutil
import pytest
from PIL import Image

from quality_model.core import storage
from quality_model.core.decoding import decode
from quality_model.core.folders import JOB_NAME
from quality_model.core.views import squeezed as resize
from quality_model.errors import CheckpointError, InputErrorsAboveLimit, StorageError, UsageError
from quality_model.records import FLAG_COLUMNS, HEADS, overall_score
from quality_model.score.plan import planned_engine

from .conftest import IDENTITY, THRESHOLDS, MeanScorer, PerCoreScorer, bytes_of, encode, rows_of


def test_every_image_has_a_row_with_its_own_scores(folder, run, tmp_path, limits):
    summary = run(folder)
    rows = rows_of(tmp_path / "scores")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
    assert rows["key"].tolist() == files
    assert (summary.inputs, summary.scored, summary.errors, summary.parts) == (20, 20, {}, 3)
    for row in rows.itertuples():
        data = (folder / row.key).read_bytes()
        pixels = resize(decode(data, limits), IDENTITY.image_size_px)
        expected = MeanScorer().score_pixels(pixels[None])[0]
        got = {head: getattr(row, head) for head in HEADS}
        assert list(got.values()) == pytest.approx(expected.tolist())
        assert row.overall == pytest.approx(overall_score(got), abs=1e-6)
        assert row.sha256 == hashlib.sha256(data).hexdigest()
        assert (row.width, row.height, row.format, row.size_bytes) == (64, 48, "JPEG", len(data))
    assert rows["model_name"].unique().tolist() == ["grey"]
    assert rows["model_version"].unique().tolist() == ["3"]
    assert rows["model_run_id"].unique().tolist() == ["a1b2"]


def test_images_whose_score_is_above_a_threshold_are_flagged(folder, run, tmp_path):
    (folder / "broken.jpg").write_bytes(b"no")
    summary = run(folder)
    rows = rows_of(tmp_path / "scores").set_index("key")
    assert rows.loc["broken.jpg", list(FLAG_COLUMNS.values())].isna().all()
    rows = rows.drop("broken.jpg")
    for head, column in FLAG_COLUMNS.items():
        assert rows[column].tolist() == (rows[head] > THRESHOLDS[head]).tolist()
    expected = {head: int((rows[head] > threshold).sum()) for head, threshold in THRESHOLDS.items()}
    assert any(0 < count < 20 for count in expected.values())
    assert summary.flagged == expected
    assert json.loads((tmp_path / "scores" / "report" / "summary.json").read_text())["flagged"] == expected
    assert f"{expected['blurriness']} x blurriness" in "\n".join(summary.lines())
    assert f"in {summary.parts} parts (" in "\n".join(summary.lines())
    assert "in 1 part (" in "\n".join(replace(summary, parts=1).lines())


def test_a_score_equal_to_its_threshold_is_not_flagged(run, tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (9, 9), "white").save(tmp_path / "one" / "white.png")
    run(tmp_path / "one")
    (row,) = rows_of(tmp_path / "scores")[list(FLAG_COLUMNS.values())].to_numpy().tolist()
    assert row == [True, True, True, False]


def test_a_model_without_thresholds_flags_nothing_and_the_summary_says_so(folder, run, tmp_path):
    summary = run(folder, model=replace(IDENTITY, thresholds=None))
    assert rows_of(tmp_path / "scores")[list(FLAG_COLUMNS.values())].isna().all(axis=None)
    assert summary.flagged == {}
    assert "the model has no thresholds" in "\n".join(summary.lines())


def test_shards_and_batches_have_the_sizes_of_the_parameters(folder, run, tmp_path):
    scorer = MeanScorer()
    run(folder, scorer=scorer)
    lengths = [len(pd.read_parquet(path)) for path in sorted((tmp_path / "scores" / "data").iterdir())]
    assert lengths == [7, 7, 6]
    assert scorer.batches == [4, 3, 4, 3, 4, 2]


def test_whatever_cannot_be_scored_is_a_row_with_an_error_code(folder, run, tmp_path, photo):
    jpeg = encode(photo[:64, :64])
    (folder / "a-empty.jpg").write_bytes(b"")
    (folder / "b-cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "c-page.jpg").write_bytes(b"<html>not found</html>")
    (folder / "d-gone.jpg").symlink_to("nowhere.jpg")
    (folder / "e-self.jpg").symlink_to("e-self.jpg")
    os.mkfifo(folder / "f-pipe.jpg")
    (folder / "g-heavy.jpg").write_bytes(jpeg + bytes(70_000))
    Image.new("RGB", (3000, 400)).save(folder / "h-bomb.png")
    Image.new("RGB", (1, 1), "white").save(folder / "i-dot.png")
    summary = run(folder, limits={"max_bytes": 60_000, "max_pixels": 1_000_000})
    rows = rows_of(tmp_path / "scores").set_index("key")
    assert rows["error_code"].dropna().to_dict() == {
        "a-empty.jpg": "empty",
        "b-cut.jpg": "truncated",
        "c-page.jpg": "not_an_image",
        "d-gone.jpg": "missing",
        "e-self.jpg": "unreadable",
        "f-pipe.jpg": "not_a_file",
        "g-heavy.jpg": "too_many_bytes",
        "h-bomb.png": "too_many_pixels",
    }
    assert rows.loc["i-dot.png", ["width", "height", "overall"]].tolist() == [1, 1, 0.0]
    assert rows["overall"].isna().equals(rows["error_code"].notna())
    assert summary.inputs == 29 == summary.scored + sum(summary.errors.values())
    assert rows.loc["c-page.jpg", "sha256"] == hashlib.sha256(b"<html>not found</html>").hexdigest()


def test_an_image_that_vanishes_during_the_job_is_a_row_with_an_error_code(folder, run, tmp_path):
    class Remover(MeanScorer):
        def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            (folder / "night" / "018.jpg").unlink(missing_ok=True)
            return super().score_pixels(pixels)

    summary = run(folder, scorer=Remover())
    assert summary.errors == {"missing": 1}
    assert rows_of(tmp_path / "scores").set_index("key").loc["night/018.jpg", "error_code"] == "missing"


def test_a_name_that_is_not_utf8_keeps_its_image(run, tmp_path, crops):
    root = tmp_path / "odd"
    root.mkdir()
    (root / os.fsdecode(b"\xff\n.jpg")).write_bytes(crops[0])
    assert run(root).scored == 1
    assert rows_of(tmp_path / "scores")["key"].tolist() == ["\\xff\n.jpg"]


@pytest.mark.parametrize("scorer", [MeanScorer, PerCoreScorer])
def test_the_result_does_not_depend_on_processes_even_if_one_is_killed(
    folder, run, tmp_path, undisturbed, scorer
):
    killer = threading.Thread(target=kill_a_child)
    killer.start()
    run(folder, workers=2, scorer=scorer())
    killer.join()
    made = bytes_of(tmp_path / "scores")
    assert made.keys() == undisturbed.keys()
    names_batch_size = {"plan.json", "job.json"} if scorer is PerCoreScorer else set()
    assert [name for name in made if made[name] != undisturbed[name]] == sorted(names_batch_size)


def kill_a_child() -> None:
    """As soon as there is one, wherever it stands."""
    while not (
        found := [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    ):
        time.sleep(0.01)
    found[0].kill()


def test_a_job_resumes_with_the_engine_that_it_began_with(folder, run, tmp_path):
    run(folder, model=replace(IDENTITY, engine="torch-bfloat16"))
    assert planned_engine(tmp_path / "scores") == "torch-bfloat16"
    assert planned_engine(tmp_path / "none") is None
    with pytest.raises(UsageError, match="model engine was 'torch-bfloat16' and is 'ncnn-float32'"):
        run(folder, model=replace(IDENTITY, engine="ncnn-float32"))


def test_too_many_errors_fail_the_job_after_everything_is_written(folder, run, tmp_path):
    for number in range(5):
        (folder / f"broken-{number}.jpg").write_bytes(b"no")
    assert run(folder, tmp_path / "allowed", max_error_share=0.2).scored == 20
    with pytest.raises(InputErrorsAboveLimit, match=r"5 of 25 .*20.0%, allowed 19.0%.*5 x not_an_image"):
        run(folder, max_error_share=0.19)
    assert storage.require_sealed(tmp_path / "scores", verify=True, marker_name=JOB_NAME)["rows"] == 25


def test_an_error_share_of_exactly_the_limit_is_allowed(crops, run, tmp_path):
    (tmp_path / "ten").mkdir()
    for number in range(10):
        (tmp_path / "ten" / f"{number}.jpg").write_bytes(b"no" if number < 3 else crops[number])
    assert run(tmp_path / "ten", max_error_share=0.3).error_share == 0.3
    with pytest.raises(InputErrorsAboveLimit, match=r"3 of 10 .*30.0%, allowed 29.9%"):
        run(tmp_path / "ten", tmp_path / "less", max_error_share=0.299)


def test_a_job_that_scored_nothing_fails_whatever_is_allowed_after_everything_is_written(run, tmp_path):
    root = tmp_path / "broken"
    root.mkdir()
    for name in ("a", "b"):
        (root / f"{name}.jpg").write_bytes(b"no")
    (root / "c.jpg").write_bytes(b"")
    words = r"None of the 3 inputs could be scored.*not_an_image \(2 of 3\)(.|\n)*limits\.formats"
    for _ in range(2):  # the same command again says the same
        with pytest.raises(InputErrorsAboveLimit, match=words):
            run(root, max_error_share=1.0, figure=True)
    summary = json.loads((tmp_path / "scores" / "report" / "summary.json").read_text())
    assert (summary["scored"], summary["quantiles"]) == (0, {})
    assert summary["errors"] == {"not_an_image": 2, "empty": 1}
    assert (tmp_path / "scores" / "report" / "summary.png").stat().st_size > 0
    assert storage.require_sealed(tmp_path / "scores", verify=True, marker_name=JOB_NAME)["rows"] == 3


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_a_model_that_gives_no_scores_stops_the_job(folder, run, tmp_path, bad):
    class Damaged(MeanScorer):
        def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            return np.full((len(pixels), 4), bad, dtype=np.float32)

    with pytest.raises(CheckpointError, match="expected 4 each, in"):
        run(folder, scorer=Damaged())
    assert not list((tmp_path / "scores").rglob("part-*"))


def test_the_summary_counts_and_gives_quantiles(folder, run, tmp_path):
    (folder / "notes.txt").write_text("x")
    summary = run(folder, figure=True)
    rows = rows_of(tmp_path / "scores")
    kept = json.loads((tmp_path / "scores" / "report" / "summary.json").read_text())
    assert (kept["inputs"], kept["scored"], kept["skipped"]) == (20, 20, {".txt": 1})
    assert kept["quantiles"] == summary.quantiles
    for name in (*HEADS, "overall"):
        values = np.sort(rows[name].to_numpy())
        assert summary.quantiles[name]["0.5"] == pytest.approx(values[9], abs=1e-4)
        assert summary.quantiles[name]["0.95"] == pytest.approx(values[18], abs=1e-4)
    with Image.open(tmp_path / "scores" / "report" / "summary.png") as figure:
        assert figure.width > 600
    text = "\n".join(summary.lines())
    assert "Model: grey version 3." in text
    assert "20 inputs: 20 scored, 0 with an error code" in text
    assert "1 x .txt" in text
    assert summary.images_per_s > 0


def test_nothing_in_the_result_shows_where_it_was_made(folder, run, tmp_path):
    (folder / "broken.jpg").write_bytes(b"no")
    run(folder)
    for name, data in bytes_of(tmp_path / "scores").items():
        assert str(tmp_path).encode() not in data, name


def test_inputs_and_output_cannot_be_the_same_folder(folder, run):
    with pytest.raises(UsageError, match="both input and output"):
        run(folder, folder)


def test_an_output_that_is_a_file_is_refused(folder, run, tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(StorageError, match="taken"):
        run(folder, tmp_path / "taken")
