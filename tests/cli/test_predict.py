"""`predict` as a user meets it: a row for every image, whatever it does to its decoder."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from quality_model.cli import run
from quality_model.core.decoding import Pixels
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
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["path"]: row.get("error_code") for row in rows} == expected
    assert [row["path"] for row in rows] == list(expected)
    assert all(("overall" in row) == ("error_code" not in row) for row in rows)
    assert all(row["error_detail"] for row in rows if "error_code" in row)
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
    assert 0 <= json.loads(done.stdout)["overall"] <= 1


def test_json_lines_have_the_measures_that_were_asked_for_as_columns_of_a_result_have_them(place, predict):
    done = predict("--json", "--measures", "file, hash", "0.png")
    row = json.loads(done.stdout)
    width, height = Image.open(place / "0.png").size
    assert row["aspect_ratio"] == width / height
    assert row["bits_per_pixel"] == 8 * (place / "0.png").stat().st_size / (width * height)
    assert row["jpeg_quality"] is None
    assert isinstance(row["phash"], int) and "entropy" not in row
    assert "phash" not in json.loads(predict("--json", "--measures", "none", "0.png").stdout)


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
