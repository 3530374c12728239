"""Labels of a person through the command line: from images and a CSV file to thresholds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from quality_model.cli import run
from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.curate.labels import choose_next, read_labels
from quality_model.curate.thresholds import read_own_thresholds, read_thresholds
from quality_model.errors import UsageError

QUICK = ["--model", "bundled", "--workers", "1"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> Path:
    """Six good and six noisy images, one file that is none, and the result of them all, ``out``."""
    place = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    for number in range(6):
        part = photo[64 * number : 64 * number + 96, 64 * number : 64 * number + 96].astype(float)
        for folder, sigma in (("good", 0.0), ("bad", 40.0)):
            (place / "images" / folder).mkdir(parents=True, exist_ok=True)
            pixels = (part + sigma * generator.normal(size=part.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / "images" / folder / f"{number}.png")
    (place / "images" / "torn.png").write_bytes(b"no image")
    assert run(["score", str(place / "images"), "--output", str(place / "out"), *QUICK]) == 0
    return place


@pytest.fixture
def place(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the images and their result, for files of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "out"):
        (tmp_path / name).symlink_to(scored / name)
    return tmp_path


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Exit code, output and error messages of a command."""

    def done(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        return code, *capsys.readouterr()

    return done


def write_labels(path: Path, head: str = "noise", more: str = "") -> None:
    lines = [f"{label}/{number}.png,{head},{label}\n" for label in ("good", "bad") for number in range(6)]
    path.write_text("key,head,label\n" + "".join(lines) + more)


def test_labels_of_a_result_give_a_threshold_that_parts_them_and_can_be_used(place: Path, said: Said) -> None:
    write_labels(place / "labels.csv", more="torn.png,noise,bad\n")
    code, out, err = said("calibrate", "out", "--labels", "labels.csv", "--to", "t.json")
    assert code == 0
    assert "noise: 6 good and 6 bad images" in out
    assert "area under the ROC curve  1.000" in out
    assert "Not scored: torn.png: " in err
    threshold = read_thresholds(place / "t.json")["noise"]
    assert f"--flag noise={threshold:g}" in out
    assert "Thresholds: t.json\n" in out and "filter out --thresholds t.json --flagged noise\n" in out
    write_labels(place / "labels.csv", head="watermark")
    assert said("calibrate", "out", "--labels", "labels.csv", "--head", "noise")[0] == 2
    code, out, _ = said("thresholds", "out", "--target-flag-rate", "0.5", "--head", "noise", "--to", "r.json")
    assert code == 0 and "50.00%" in out and "Of 12 scored images" in out
    assert (
        said("thresholds", "out", "--target-flag-rate", "50%", "--head", "noise", "--to", "r.json")[1] == out
    )
    found = read_own_thresholds(place / "r.json")
    assert found.model.name == "bundled" and len(found.model.sha256) == 64


def test_two_folders_are_scored_and_calibrated_as_a_result_is(place: Path, said: Said) -> None:
    folders = ["images/good", "images/bad"]
    code, _, err = said("calibrate", "--head", "noise", *folders, "--to", "a.json", *QUICK)
    assert code == 0, err
    write_labels(place / "labels.csv")
    assert said("calibrate", "out", "--labels", "labels.csv", "--to", "b.json")[0] == 0
    assert read_own_thresholds(place / "a.json") == read_own_thresholds(place / "b.json")
    (place / "also-bad.png").write_bytes((place / "images/good/0.png").read_bytes())
    code, _, err = said("calibrate", "--head", "noise", "images/good", "also-bad.png", *QUICK)
    assert code == 2 and "also-bad.png in also-bad.png is the same image as 0.png in images/good" in err
    code, _, err = said("calibrate", "--head", "noise", "images/good", "images/bad/0.png", *QUICK)
    assert code == 2 and "noise: 6 good and 1 bad images are too few" in err


def test_the_images_to_label_next_are_printed_and_written(place: Path, said: Said) -> None:
    lines = [f"{label}/{number}.png,noise,{label}\n" for label in ("good", "bad") for number in range(5)]
    (place / "labels.csv").write_text("key,head,label\n" + "".join(lines))
    code, out, _ = said("calibrate", "out", "--labels", "labels.csv", "--next", "next.txt", "--count", "5")
    assert code == 0
    keys = (place / "next.txt").read_text().splitlines()
    assert keys and set(keys) <= {"good/5.png", "bad/5.png"}
    assert all(f"  {key}\n" in out for key in keys)
    assert "To label them: quality-model gallery out --only next.txt --head noise\n" in out


def test_a_result_of_an_earlier_release_is_calibrated_though_it_has_no_hashes(
    place: Path, said: Said
) -> None:
    write_labels(place / "labels.csv")
    lines = (place / "labels.csv").read_text().splitlines()
    (place / "labels.csv").write_text("\n".join(lines[:-1]))
    shutil.copytree(place / "out", place / "earlier")
    job = storage.read_json(place / "earlier" / "job.json")
    for entry in job["files"]:
        if (path := place / "earlier" / entry["name"]).suffix == ".parquet" and path.parent.name == "data":
            pq.write_table(pq.read_table(path).drop_columns(["phash"]), path)
            entry["bytes"] = path.stat().st_size
    storage.write_json(place / "earlier" / "job.json", {**job, "schema_version": 1})
    code, out, err = said("calibrate", "earlier", "--labels", "labels.csv", "--to", "own.json")
    assert (code, err) == (0, "")
    assert "Label next for noise, near the threshold:\n  bad/5.png\n" in out
    assert list(read_thresholds(place / "own.json")) == ["noise"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out"], "Give --head HEAD GOOD BAD, or OUT and --labels FILE"),
        (["images/good", "images/bad"], "Give --head HEAD GOOD BAD"),
        (["images/good", "images/good/../good", "--head", "noise"], "are both images/good"),
        (["images/good", "images/none", "--head", "noise", *QUICK], "images/none"),
        (
            ["images/good", "images/bad", "--head", "noise", "--next", "n.txt"],
            "--next names images of a result",
        ),
        (["out", "--labels", "labels.csv", "--next", "./labels.csv"], "is another file of this command"),
        (["out", "out", "--labels", "labels.csv"], "--labels are of the images of one result"),
        (["out", "--labels", "none.csv"], "none.csv cannot be read"),
        (["out", "--labels", "labels.csv", "--head", "sharpness"], "'sharpness' is not one of"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_with_what_to_give(
    place: Path, said: Said, arguments: list[str], message: str
) -> None:
    write_labels(place / "labels.csv")
    code, _, err = said("calibrate", *arguments)
    assert code == 2
    assert message in err and "Traceback" not in err


def test_labels_of_images_that_the_result_lacks_are_refused_by_name(place: Path, said: Said) -> None:
    write_labels(place / "labels.csv", more="elsewhere.png,noise,bad\n")
    code, _, err = said("calibrate", "out", "--labels", "labels.csv")
    assert code == 2 and "1 of 13 labelled images are not in" in err
    assert "elsewhere.png" in err and "Its keys are such as bad/0.png" in err


def test_thresholds_of_another_model_stay_as_they_are(place: Path, said: Said) -> None:
    assert said("thresholds", "out", "--target-flag-rate", "0.1", "--to", "t.json")[0] == 0
    other = storage.read_json(place / "t.json")
    other["model"]["sha256"] = "0" * 64
    storage.write_json(place / "t.json", other)
    code, _, err = said("thresholds", "out", "--target-flag-rate", "0.2", "--to", "t.json")
    assert code == 2 and "Write to another file" in err
    assert storage.read_json(place / "t.json") == other


@pytest.mark.parametrize("rate", ["1", "-0.1", "105%", "nan", "five"])
def test_a_rate_that_is_no_share_is_refused(place: Path, said: Said, rate: str) -> None:
    code, _, err = said("thresholds", "out", "--target-flag-rate", rate)
    assert code == 2 and "--target-flag-rate" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("a.png;noise;bad\n", "has no header: its first line is a label"),
        ("a.png,Noise,Good\n", "has no header"),
        ("key,label\na,good\n", "has no column head"),
        ("key,head,label\n", "has no labels"),
        ("key,head,label\na,sharp,good\n", "line 2: the head is 'sharp'"),
        ("key,head,label\na,noise,good\nb,noise,fine\n", "line 3: the label is 'fine'"),
        ("key,head,label\na,noise\n", "line 2: the label is ''"),
        ("key,head,label\na,noise,good\na,noise,bad\n", "says of a both good and bad for noise"),
        (b"key,head,label\n\xff,noise,good\n", "cannot be read"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        read_labels(path)
    assert message in caught.value.problem


def test_labels_are_read_by_head_with_a_byte_order_mark_other_columns_and_repetitions(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        'when,key,head,label\n1,"a,b",noise,bad\n2,"a,b",noise,bad\n3,é,blurriness,good\n4,é,noise,good\n',
        encoding="utf-8-sig",
    )
    assert read_labels(path) == {"blurriness": {"é": False}, "noise": {"a,b": True, "é": False}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", " ; "])
def test_labels_are_read_as_spreadsheets_and_people_write_them(
    tmp_path: Path, encoding: str, delimiter: str
) -> None:
    rows = [("KEY", "Head", "Label"), ("A é.png", "Noise", "BAD"), (" b.png", "noise ", " Good"), ()]
    path = tmp_path / "labels.csv"
    path.write_bytes("\r\n".join(delimiter.join(row) for row in rows).encode(encoding))
    assert read_labels(path) == {"noise": {"A é.png": True, "b.png": False}}


def rows(
    scores: list[float | None], hashes: list[int | None] | None = None, files: list[str] | None = None
) -> pa.Table:
    unlike = [int(each) for each in np.random.default_rng(0).integers(-(2**63), 2**63 - 1, len(scores))]
    return pa.table(
        {
            "key": pa.array([f"{number}.jpg" for number in range(len(scores))], pa.string()),
            "sha256": pa.array(files or map(str, range(len(scores))), pa.string()),
            "noise": pa.array(scores, pa.float32()),
            "phash": pa.array(hashes or unlike, pa.int64()),
        }
    )


def test_images_near_the_threshold_come_on_both_sides_and_the_nearest_first():
    found = choose_next(rows([number / 100 for number in range(100)]), "noise", 0.5, [], 6)
    scores = [int(key.removesuffix(".jpg")) / 100 for key in found]
    assert len(set(found)) == 6
    assert scores == sorted(scores, key=lambda score: abs(score - 0.5))
    assert all(abs(score - 0.5) <= 0.16 for score in scores)
    assert sum(score > 0.5 for score in scores) in (2, 3, 4)
    assert max(scores) - min(scores) > 0.1


def test_labelled_and_unscored_images_are_left_out():
    found = choose_next(rows([0.5, 0.49, None, 0.1]), "noise", 0.5, ["0.jpg"], 10)
    assert found == ["1.jpg", "3.jpg"]
    assert choose_next(rows([0.5]), "noise", 0.5, ["0.jpg"], 3) == []
    assert choose_next(rows([]), "noise", 0.5, [], 3) == []


def test_of_near_duplicates_one_is_chosen_and_none_of_what_is_labelled():
    first = 2**32 - 1
    copies = [first, first ^ 0b1, first ^ 0b11, -1, -2]
    assert choose_next(rows([0.5, 0.51, 0.52, 0.3, 0.1], copies), "noise", 0.5, [], 5) == ["0.jpg", "3.jpg"]
    assert choose_next(rows([0.5, 0.51, 0.52, 0.3, 0.1], copies), "noise", 0.5, ["4.jpg"], 5) == ["0.jpg"]


def test_images_without_a_hash_are_like_no_other():
    found = choose_next(rows([0.5, 0.51, 0.52], [None, None, None]), "noise", 0.5, [], 3)
    assert found == ["0.jpg", "1.jpg", "2.jpg"]


def test_plain_images_are_alike_only_if_they_are_one_file_and_an_earlier_result_has_no_hashes():
    plain = rows([0.5, 0.51, 0.52, 0.53], [0, 0, 1, 3], ["a", "b", "a", "c"])
    assert choose_next(plain, "noise", 0.5, [], 4) == ["0.jpg", "1.jpg", "3.jpg"]
    assert choose_next(plain.drop_columns(["phash"]), "noise", 0.5, [], 4) == ["0.jpg", "1.jpg", "3.jpg"]
    assert choose_next(plain, "noise", 0.5, ["0.jpg"], 4) == ["1.jpg", "3.jpg"]
