"""`predict` as a user meets it: a row for every image, whatever it does to its decoder."""

import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from PIL import Image

from quality_model.cli import run
from quality_model.core.decoding import Pixels
from quality_model.core.predict import Scorer
from quality_model.records import SCALE_VERSION
from tests.hostile import decoders_obey_images, hostile

PROJECT = Path(__file__).resolve().parents[2]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Predict = Callable[..., Done]


@pytest.fixture
def place(tmp_path: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with images, in a world whose decoder images can harm."""
    decoders_obey_images(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = tmp_path / "place"
    place.mkdir()
    for number in range(3):
        Image.fromarray(photo[50 * number : 50 * number + 90, :120]).save(place / f"{number}.png")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def predict(capfd: pytest.CaptureFixture[str]) -> Predict:
    def predict(*arguments: str) -> Done:
        code = run(["predict", "--model", "bundled", *arguments])
        return Done(code, *capfd.readouterr())

    return predict


def test_every_image_that_cannot_be_scored_is_a_row_in_its_place_and_the_others_have_scores(place, predict):
    image = (place / "0.png").read_bytes()
    for behaviour in ("crash", "hang", "raise", "no memory", "exit"):
        (place / f"{behaviour}.png").write_bytes(hostile(image, behaviour))
    (place / "folder").mkdir()
    (place / "page.jpg").write_text("<html>")
    expected = {
        "0.png": None,
        "crash.png": "worker_died",
        "hang.png": "too_slow",
        "raise.png": "broken",
        "1.png": None,
        "no memory.png": "too_many_pixels",
        "exit.png": "worker_died",
        "folder": "not_a_file",
        "nowhere.jpg": "missing",
        "": "missing",
        "x" * 300: "unreadable",
        "page.jpg": "not_an_image",
        "2.png": None,
    }
    done = predict("--json", "--set", "limits.max_seconds=3", *expected)
    rows = json.loads(done.stdout)["images"]
    assert {row["path"]: row["error_code"] for row in rows} == expected
    assert [row["path"] for row in rows] == list(expected)
    assert all((row["overall"] is None) == (row["error_code"] is not None) for row in rows)
    assert all((row["error_detail"] is None) == (row["error_code"] is None) for row in rows)
    assert done.returncode == 4
    assert "10 of 13 images could not be scored" in done.stderr
    assert "quality-model score folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_table_has_its_lines_in_the_order_of_the_arguments(place, predict):
    (place / "crash.png").write_bytes(hostile((place / "0.png").read_bytes(), "crash"))
    done = predict("2.png", "crash.png", "0.png", "1.png", "0.png")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["color_cast", "blurriness", "watermark", "noise", "overall", "flags"]
    assert [line.split()[0] for line in lines] == ["2.png", "crash.png", "0.png", "1.png", "0.png"]
    assert lines[1].split()[1] == "worker_died:"
    assert lines[2] == lines[4]
    assert done.returncode == 4


def test_good_images_end_with_success(place, predict):
    done = predict("--json", "0.png")
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["images"][0]["overall"] <= 1


def keys_in_the_document_of_json(heading: str) -> list[str]:
    """The first cells of a table of docs/results-format.md."""
    text = (PROJECT / "docs" / "results-format.md").read_text().split("## JSON of `predict`")[1]
    lines = text.split(heading)[1].split("\n\n")[0].splitlines()[2:]
    return [name for line in lines for name in re.findall(r"`(\w+)`", line.split("|")[1])]


def test_the_json_document_says_which_model_judged_and_what_each_file_was(place, predict):
    data = (place / "0.png").read_bytes()
    (place / "page.jpg").write_text("<html>")
    done = predict("--json", "--measures", "none", "nowhere.jpg", "0.png", "page.jpg")
    document = json.loads(done.stdout)
    scorer = Scorer("bundled", "cpu")
    assert list(document) == keys_in_the_document_of_json("| key | content |")
    assert document["model"] == {**asdict(scorer.source), "scale_version": SCALE_VERSION}
    assert list(document["model"]) == ["name", "version", "run_id", "sha256", "scale_version"]
    assert document["thresholds"] == scorer.thresholds
    missing, scored, unreadable = document["images"]
    keys = keys_in_the_document_of_json("| key of an image | content |")
    assert [list(row) for row in (missing, scored, unreadable)] == [keys] * 3
    assert (scored["path"], scored["error_code"], scored["error_detail"]) == ("0.png", None, None)
    assert (scored["sha256"], scored["size_bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (scored["width"], scored["height"], scored["format"]) == (120, 90, "PNG")
    assert scored["flags"] == list(scorer.predict(data).flags)
    assert {name for name, value in missing.items() if value is not None} == {
        "path",
        "error_code",
        "error_detail",
    }
    assert (missing["error_code"], unreadable["error_code"]) == ("missing", "not_an_image")
    assert (unreadable["size_bytes"], unreadable["width"], unreadable["flags"]) == (6, None, None)
    assert done.returncode == 4


def test_the_json_document_is_whole_where_nothing_can_be_read(place, predict):
    done = predict("--json", "nowhere.jpg", "https://host/a.jpg")
    rows = json.loads(done.stdout)["images"]
    (good,) = json.loads(predict("--json", "0.png").stdout)["images"]
    assert [list(row) for row in rows] == [list(good)] * 2
    assert [row["error_code"] for row in rows] == ["missing", "url"]
    assert done.returncode == 4


def test_the_json_document_of_a_list_from_standard_input_has_its_paths(place, predict, monkeypatch):
    for text, code, paths in (
        (b"1.png\nnowhere.jpg\n", 4, ["1.png", "nowhere.jpg"]),
        (b"2.png\0", 0, ["2.png"]),
    ):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        done = predict("--json", "-")
        assert [row["path"] for row in json.loads(done.stdout)["images"]] == paths
        assert done.returncode == code
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    done = predict("--json", "-")
    assert (done.returncode, done.stdout) == (2, "")


def test_the_json_document_has_the_measures_that_were_asked_for_as_columns_of_a_result_have_them(
    place, predict
):
    done = predict("--json", "--measures", "file, hash", "0.png")
    (row,) = json.loads(done.stdout)["images"]
    width, height = Image.open(place / "0.png").size
    assert row["aspect_ratio"] == width / height
    assert row["bits_per_pixel"] == 8 * (place / "0.png").stat().st_size / (width * height)
    assert row["jpeg_quality"] is None
    assert isinstance(row["phash"], int) and "entropy" not in row
    assert "phash" not in json.loads(predict("--json", "--measures", "none", "0.png").stdout)["images"][0]


def test_a_measure_that_there_is_not_is_refused_with_those_that_there_are(place, predict):
    done = predict("--measures", "sharpness", "0.png")
    assert done.returncode == 2
    assert "score.measures" in done.stderr and "sharpness" in done.stderr and "'hash'" in done.stderr


def test_folders_and_urls_are_rows_without_credentials_and_a_folder_says_how_to_score_it(place, predict):
    done = predict("https://bob:hunter2@host/a.jpg?token=s3cret", "https:/bob:hunter2@host/b.jpg", ".")
    _, *lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["https://host/a.jpg?token=***", "url:"],
        ["https://host/b.jpg", "url:"],
        [".", "not_a_file:"],
    ]
    assert "hunter2" not in done.stdout + done.stderr and "s3cret" not in done.stdout + done.stderr
    assert done.returncode == 4
    assert "3 of 3 images could not be scored" in done.stderr
    assert "quality-model score ." in done.stderr
    assert "it is a folder" in done.stdout


def test_a_model_that_does_not_load_ends_the_command(place, predict):
    (place / "bad.safetensors").write_bytes(b"no weights")
    done = predict("--model", "bad.safetensors", "0.png")
    assert done.returncode == 8
    assert "Traceback" not in done.stderr


def test_the_process_that_reads_imports_neither_torch_nor_mlflow():
    code = (
        "import sys\n"
        "import quality_model.__main__, quality_model.score.reading\n"
        "print('HEAVY', sorted({'torch', 'mlflow', 'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stdout


def test_thresholds_of_ones_own_take_the_place_of_the_models_for_their_heads_alone(
    place: Path, predict: Predict
) -> None:
    models_own = json.loads(predict("0.png", "--json").stdout)["thresholds"]
    found = json.loads(predict("0.png", "--json", "--flag", "noise=0", "--flag", "blurriness=1").stdout)
    assert found["thresholds"] == {**models_own, "noise": 0.0, "blurriness": 1.0}
    assert "noise" in found["images"][0]["flags"] and "blurriness" not in found["images"][0]["flags"]


@pytest.mark.parametrize(
    "wrong", ["nois=.1", "noise", "noise=loud", "noise=1.1", "noise=nan", "overall=.5", "=.1"]
)
def test_a_flag_that_is_no_head_with_a_score_is_refused_with_an_example(
    place: Path, predict: Predict, wrong: str
) -> None:
    done = predict("0.png", "--flag", wrong)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"--flag '{wrong}' is not HEAD=SCORE" in done.stderr and "--flag noise=0.1" in done.stderr


def test_predict_lists_no_option_that_it_does_not_use(predict: Predict) -> None:
    listed = predict("--help").stdout
    assert "--flag" in listed and "--workers" in listed
    assert not {"--shard-size", "--max-error-share", "--batch-size"} & {*listed.split()}
