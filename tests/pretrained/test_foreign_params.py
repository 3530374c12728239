"""params.yaml is the name that every DVC project uses: one of another project is not ours."""

import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from quality_model import MultiHeadQualityInference
from quality_model.cli import cli, run
from quality_model.core.decoding import Pixels
from quality_model.errors import ParameterError
from quality_model.params_file import is_own_file, load_params, parse_yaml

COMMITTED = (Path(__file__).resolve().parents[2] / "params.yaml").read_text()

FOREIGN = {
    "another project": "lr: 0.1\n",
    "sections of the same names": (
        "source:\n  dataset: cats\n  split: train\n  seed: 1\n"
        "train:\n  epochs: 5\n  batch_size: 32\n  learning_rate: 0.1\n  weight_decay: 0\n  seed: 1\n"
        "  device: cpu\n  dropout: 0.1\n  patience: 3\n"
        "evaluate:\n  batch_size: 8\n  seed: 1\n"
        "score:\n  model: best.pt\n  batch_size: 3\n"
        "registry:\n  model_name: cats\n  experiment: cats\n"
    ),
    "empty": "",
    "a list": "- 1\n- 2\n",
    "a string": "hello",
    "not YAML": "{{ cookiecutter.name }}: [\n",
    "bytes": "\x00\x01\x02",
}

TYPOS = {
    "a key": ("shard_size:", "shard_sise:", "unknown key 'score.shard_sise' (did you mean 'shard_size'?)"),
    "a section": ("\nlimits:", "\nlimit:", "unknown key 'limit' (did you mean 'limits'?)"),
    "a value": ("max_bytes: 100000000", "max_bytes: many", "limits.max_bytes = 'many'"),
    "a colon": ("\nscore:", "\nscore", "not YAML"),
    "a bracket": ("formats: [", "formats: ", "limits.formats = 'JPEG, PNG"),
    "a tab": ("  shard_size:", "\tshard_size:", "not YAML"),
    "a section that is gone": ("registry:", "#registry:", "registry"),
}


@pytest.fixture
def image(elsewhere: Path, photo: Pixels) -> str:
    (elsewhere / "photos").mkdir()
    Image.fromarray(photo[:64, :64]).save(elsewhere / "photos" / "photo.png")
    return "photos/photo.png"


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


def foreign_database(folder: Path) -> None:
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("create table x(y int)")


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_project_is_not_ours(tmp_path: Path, kind: str) -> None:
    (tmp_path / "params.yaml").write_text(FOREIGN[kind])
    assert not is_own_file(tmp_path / "params.yaml")


def test_commands_and_python_work_beside_the_params_of_another_project_and_without_ours(
    bundled: Path, elsewhere: Path, image: str, photo: Pixels
) -> None:
    (elsewhere / "params.yaml").mkdir()
    assert command("predict", image).exit_code == 0
    (elsewhere / "params.yaml").rmdir()
    (elsewhere / "params.yaml").write_text(FOREIGN["sections of the same names"])
    foreign_database(elsewhere)
    result = command("predict", image)
    assert result.exit_code == 0
    assert "params.yaml is not a file of this tool: ignored." in result.stderr
    assert "photo.png" in result.stdout and "params.yaml" not in result.stdout
    assert command("score", "photos", "--workers", "1").exit_code == 0
    assert command("trace", "scores/photos").exit_code == 0
    model = MultiHeadQualityInference(device="cpu")
    assert model.source.name == "bundled"
    assert 0 <= model.predict(photo).overall <= 1

    # --no-project does without the params and the champion of a project of ours
    (elsewhere / "params.yaml").write_text(COMMITTED.replace("max_pixels: 100000000", "max_pixels: 10"))
    for arguments in (["predict", image], ["score", "photos", "--workers", "1"], ["trace", "scores/photos"]):
        assert command(*arguments, "--no-project").exit_code == 0
    (elsewhere / "mlflow.db").unlink()
    with pytest.raises(Exception, match="could not be scored"):
        command("predict", image)


@pytest.mark.parametrize("kind", TYPOS)
def test_our_own_file_with_a_typo_is_an_error_that_names_it(
    elsewhere: Path, image: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong, message = TYPOS[kind]
    assert right in COMMITTED
    (elsewhere / "params.yaml").write_text(COMMITTED.replace(right, wrong, 1))
    assert run(["predict", image]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_named_is_meant_whatever_is_in_it(
    bundled: Path, elsewhere: Path, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "theirs.yaml").write_text("lr: 0.1\n")
    assert run(["predict", image, "--params", "theirs.yaml"]) == 2
    assert "theirs.yaml is not a parameter file of this tool" in capsys.readouterr().err
    (elsewhere / "ours.yaml").write_text(COMMITTED.replace("max_pixels: 100000000", "max_pixels: 10"))
    assert run(["predict", image, "--params", "ours.yaml"]) == 4
    assert run(["predict", image, "--params", "ours.yaml", "--no-project"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_commands_that_need_a_project_say_that_the_file_is_not_ours_in_one_line(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "params.yaml").write_text(FOREIGN["sections of the same names"])
    for arguments in (["train"], ["download"], ["history"], ["compare", "x"]):
        assert run(arguments) == 2
        said = capsys.readouterr().err
        assert "params.yaml is not a parameter file of this tool" in said and "missing key" not in said
    with pytest.raises(ParameterError, match="not a parameter file of this tool"):
        load_params(Path("params.yaml"))


def test_the_order_and_the_style_of_our_file_do_not_matter(elsewhere: Path) -> None:
    (elsewhere / "params.yaml").write_text(json.dumps(parse_yaml(COMMITTED)))
    assert is_own_file(elsewhere / "params.yaml")
    assert load_params(elsewhere / "params.yaml").train.epochs >= 1


def test_a_tilde_in_quotes_is_the_home_folder_for_images_models_and_inputs(
    trained: Path, elsewhere: Path, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(elsewhere))
    (elsewhere / "model").symlink_to(trained)
    result = command("predict", "~/photos/photo.png", "--model", "~/model")
    assert result.exit_code == 0 and "photo.png" in result.stdout
    result = command(
        "score", "~/photos", "--output", "~/out", "--set", "score.model=~/model", "--workers", "1"
    )
    assert result.exit_code == 0 and (elsewhere / "out" / "job.json").exists()
    model = MultiHeadQualityInference("~/model", device="cpu")
    assert 0 <= model.predict("~/photos/photo.png").overall <= 1
