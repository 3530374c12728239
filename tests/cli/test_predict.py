"""`predict` as a user meets it: a row for every image, whatever it does to its decoder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from quality_model.core.decoding import Pixels
from tests.hostile import decoders_obey_images, hostile

PROJECT = Path(__file__).resolve().parents[2]
MODEL = ("--model", "pretrained-compact")


@pytest.fixture
def place(tmp_path: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, in a world whose decoder images can harm."""
    decoders_obey_images(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = tmp_path / "place"
    place.mkdir()
    for number in range(3):
        Image.fromarray(photo[50 * number : 50 * number + 90, :120]).save(place / f"{number}.png")
    return place


def predict(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quality_model", "predict", *MODEL, *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_every_image_that_cannot_be_scored_is_a_row_in_its_place_and_the_others_have_scores(
    place: Path,
) -> None:
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
        "page.jpg": "not_an_image",
        "2.png": None,
    }
    done = predict(place, "--json", "--set", "limits.max_seconds=3", *expected)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["path"]: row.get("error_code") for row in rows} == expected
    assert [row["path"] for row in rows] == list(expected)
    assert all(("overall" in row) == ("error_code" not in row) for row in rows)
    assert all(row["error_detail"] for row in rows if "error_code" in row)
    assert done.returncode == 4
    assert "8 of 11 images could not be scored" in done.stderr
    assert "quality-model score folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_table_has_its_lines_in_the_order_of_the_arguments(place: Path) -> None:
    (place / "crash.png").write_bytes(hostile((place / "0.png").read_bytes(), "crash"))
    done = predict(place, "2.png", "crash.png", "0.png", "1.png", "0.png")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["color_cast", "blurriness", "watermark", "noise", "overall", "flags"]
    assert [line.split()[0] for line in lines] == ["2.png", "crash.png", "0.png", "1.png", "0.png"]
    assert lines[1].split()[1] == "worker_died:"
    assert lines[2] == lines[4]
    assert done.returncode == 4


def test_good_images_end_with_success(place: Path) -> None:
    done = predict(place, "--json", "0.png")
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["overall"] <= 1


def test_a_folder_alone_says_how_to_score_it(place: Path) -> None:
    done = predict(place, ".")
    assert done.returncode == 4
    assert "quality-model score ." in done.stderr
    assert "it is a folder" in done.stdout


def test_a_url_an_empty_name_and_a_name_that_is_too_long_are_rows_and_the_others_have_scores(
    place: Path,
) -> None:
    arguments = [
        "https://bob:hunter2@host/a.jpg?token=s3cret",
        "https:/bob:hunter2@host/b.jpg",
        "",
        "x" * 300,
    ]
    done = predict(place, "--json", *arguments, "0.png")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["path"], row.get("error_code")) for row in rows] == [
        ("https://host/a.jpg?token=***", "url"),
        ("https://host/b.jpg", "url"),
        ("", "missing"),
        ("x" * 300, "unreadable"),
        ("0.png", None),
    ]
    assert "hunter2" not in done.stdout + done.stderr and "s3cret" not in done.stdout + done.stderr
    assert done.returncode == 4
    assert "4 of 5 images could not be scored" in done.stderr
    assert "quality-model score" not in done.stderr


def test_images_of_which_none_can_be_scored_are_rows_without_credentials_and_no_success(place: Path) -> None:
    (place / "album").mkdir()
    done = predict(place, "https://bob:hunter2@host/x.jpg", "album")
    _, *lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["https://host/x.jpg", "url:"], ["album", "not_a_file:"]]
    assert "hunter2" not in done.stdout + done.stderr
    assert done.returncode == 4
    assert "2 of 2 images could not be scored" in done.stderr
    assert "quality-model score album" in done.stderr


def test_a_model_that_does_not_load_ends_the_command_and_its_workers(place: Path) -> None:
    (place / "bad.safetensors").write_bytes(b"no weights")
    done = predict(place, "--model", "bad.safetensors", "0.png")
    assert done.returncode == 8
    assert "Traceback" not in done.stderr


def test_the_process_that_reads_imports_neither_torch_nor_mlflow(place: Path) -> None:
    code = (
        "import sys\n"
        "import quality_model.__main__, quality_model.score.reading\n"
        "print('HEAVY', sorted({'torch', 'mlflow', 'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stdout
