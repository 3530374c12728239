"""`export`: one ONNX file that gives the scores of the whole image without this package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from PIL import Image

from quality_model import Scorer, pretrained
from quality_model.cli import cli
from quality_model.core.decoding import Pixels
from quality_model.core.views import squeezed
from quality_model.records import HEADS, overall_score

PROJECT = Path(__file__).resolve().parents[2]
MODELS = ("bundled", "bundled-standard")
CLOSE = 0.01


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("exported") / "quality.onnx"
    result = CliRunner().invoke(cli, ["export", "--onnx", str(path), "--model", request.param])
    assert result.exit_code == 0, result.output
    return request.param, path


@pytest.fixture(scope="module")
def images(photo: Pixels) -> list[Pixels]:
    noise = np.random.default_rng(0).integers(0, 256, (150, 260, 3), dtype=np.uint8)
    return [photo, photo[100:140, 200:260], noise, np.full((300, 224, 3), 128, np.uint8)]


def test_a_batch_gives_the_scores_of_the_whole_view_and_their_overall_one(
    exported: tuple[str, Path], images: list[Pixels]
) -> None:
    name, path = exported
    expected = Scorer(name, "cpu", views="whole").predict_batch(images)
    batch = np.stack([squeezed(image, 224) for image in images]).transpose(0, 3, 1, 2) / np.float32(255)
    scores, overall = onnxruntime.InferenceSession(str(path)).run(["scores", "overall"], {"pixels": batch})
    assert (scores.shape, overall.shape) == ((4, 4), (4, 1))
    for row, (whole,), score in zip(scores, overall, expected, strict=True):
        np.testing.assert_allclose(row, [getattr(score, head) for head in HEADS], atol=CLOSE)
        assert whole == pytest.approx(overall_score(dict(zip(HEADS, map(float, row), strict=True))), abs=1e-5)


def test_the_example_of_the_docs_runs_without_this_package(
    exported: tuple[str, Path], images: list[Pixels], tmp_path: Path
) -> None:
    name, path = exported
    (example,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "onnx.md").read_text(), re.DOTALL)
    assert sum(bool(line) for line in example.splitlines()) <= 20
    assert "quality_model" not in example
    (tmp_path / "quality.onnx").write_bytes(path.read_bytes())
    (tmp_path / "example.py").write_text(example)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png", exif=exif)
    names = [f"{number}.png" for number in range(len(images))]
    done = subprocess.run(
        [sys.executable, "example.py", *names], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = Scorer(name, "cpu", views="whole").predict_batch([tmp_path / name for name in names])
    for line, score in zip(done.stdout.splitlines(), expected, strict=True):
        row = json.loads(line)
        for head in (*HEADS, "overall"):
            assert row[head] == pytest.approx(getattr(score, head), abs=CLOSE)
        assert row["flags"] == list(score.flags)


def test_the_file_says_what_it_takes_and_gives_and_which_model_it_is(exported: tuple[str, Path]) -> None:
    name, path = exported
    model = onnx.load(path)
    shapes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"pixels": ["N", 3, 224, 224], "scores": ["N", 4], "overall": ["N", 1]}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    scorer = Scorer(name, "cpu", views="whole")
    assert json.loads(metadata["model"]) == {
        "name": name,
        "version": scorer.source.version,
        "run_id": scorer.source.run_id,
        "sha256": scorer.source.sha256,
    }
    assert json.loads(metadata["heads"]) == list(HEADS)
    assert json.loads(metadata["thresholds"]) == scorer.thresholds
    assert json.loads(metadata["views_of_training"]) == Scorer(name, "cpu").views.model_dump(mode="json")
    assert metadata["card"] == (pretrained.FOLDERS[name] / "MODEL_CARD.md").read_text()


def test_the_same_model_gives_the_same_bytes_and_replaces_an_earlier_file(
    exported: tuple[str, Path], tmp_path: Path
) -> None:
    name, path = exported
    again = tmp_path / "quality.onnx"
    again.write_bytes(b"earlier")
    assert CliRunner().invoke(cli, ["export", "--onnx", str(again), "--model", name]).exit_code == 0
    assert again.read_bytes() == path.read_bytes()
