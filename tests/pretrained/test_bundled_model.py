"""Which model scores when none is named, where there is no registry."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from quality_model import MultiHeadQualityInference, pretrained
from quality_model.cli import cli
from quality_model.core.decoding import Pixels
from quality_model.core.storage import file_sha256
from quality_model.errors import CheckpointError, ModelNotFoundError
from quality_model.records import FLAG_COLUMNS, HEADS
from tests.core.bare import ABSENT, bare_python

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def image(elsewhere: Path, photo: Pixels) -> Path:
    Image.fromarray(photo[:64, :64]).save(elsewhere / "photo.png")
    return Path("photo.png")


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


@pytest.mark.parametrize("named", ["auto", "bundled", "pretrained"])
def test_without_a_registry_the_bundled_model_scores_and_says_which_it_is(
    bundled: Path, trained: Path, elsewhere: Path, photo: Pixels, named: str
) -> None:
    model = MultiHeadQualityInference(named, device="cpu")
    assert model.source.name == "bundled"
    assert model.source.version == file_sha256(trained / "model.safetensors")[:12]
    assert model.source.run_id == "0123abcd"
    assert model.source.sha256 == file_sha256(bundled / "model.safetensors")
    assert 0 <= model.predict(photo).overall <= 1
    assert list(elsewhere.iterdir()) == []


def test_auto_is_the_default_and_its_choice_is_logged(
    bundled: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert MultiHeadQualityInference(device="cpu").source.name == "bundled"
    assert "No champion is registered: the bundled model scores" in caplog.text


def test_a_folder_of_that_name_is_not_taken_for_the_bundled_model(
    bundled: Path, trained: Path, elsewhere: Path
) -> None:
    for name in ("auto", "bundled", "pretrained"):
        (elsewhere / name).symlink_to(trained)
        assert MultiHeadQualityInference(name, device="cpu").path == bundled
        assert MultiHeadQualityInference(f"./{name}", device="cpu").path == Path(name)


@pytest.mark.parametrize("named", ["auto", "bundled", "pretrained"])
def test_an_installation_without_weights_says_so(no_weights: None, elsewhere: Path, named: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no bundled weights") as caught:
        MultiHeadQualityInference(named, device="cpu")
    assert ("champion" in caught.value.problem) == (named == "auto")


def test_damaged_weights_of_the_package_are_an_error(
    bundled: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in bundled.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    (damaged / "model.safetensors").write_bytes(b"cut")
    monkeypatch.setitem(pretrained.FOLDERS, "bundled", damaged)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        MultiHeadQualityInference(device="cpu")


def test_scoring_works_where_nothing_but_its_own_packages_is_installed(
    elsewhere: Path, photo: Pixels, tmp_path: Path
) -> None:
    """Neither PyTorch nor pandas, MLflow, Prefect, DVC, Great Expectations or matplotlib (`bare.ABSENT`)."""
    (elsewhere / "images").mkdir()
    Image.fromarray(photo[:200, :200]).save(elsewhere / "images" / "a.png")
    (elsewhere / "original.pt").write_bytes(b"PK")
    predict = ["predict", "images/a.png", "--json"]
    needing_torch = [["--device", "cuda"], ["--engine", "torch-float32"], ["--model", "original.pt"]]
    code = (
        "from quality_model.cli import run\n"
        "if __name__ == '__main__':\n"
        f"    for command in {[*([*predict, *flags] for flags in needing_torch), predict]}:\n"
        "        print(run(command))\n"
        "    raise SystemExit(run(['score', 'images', '--output', 'out']))\n"
    )
    (elsewhere / "commands.py").write_text(code)
    done = bare_python(tmp_path, "commands.py", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    *refusals, printed, code_of_predict = done.stdout.splitlines()[:5]
    assert (refusals, code_of_predict) == (["2", "2", "8"], "0")
    assert done.stderr.count("quality-model[train]") == 3
    expected = MultiHeadQualityInference("bundled", "cpu").predict(photo[:200, :200])
    row = json.loads(printed)
    assert list(row)[:7] == ["path", *HEADS, "overall", "flags"]
    (scored,) = pd.read_parquet(elsewhere / "out" / "data").to_dict("records")
    for head in HEADS:
        assert row[head] == scored[head] == getattr(expected, head)


def test_starting_imports_little(elsewhere: Path) -> None:
    """`--help` and the package itself stay fast: nothing heavy is imported for them."""
    heavy = {*ABSENT, "numpy", "PIL", "pydantic"}
    for code, absent in (
        ("import quality_model", heavy | {"click"}),
        (
            "from quality_model.cli import cli; cli.main(['--help'], standalone_mode=False)",
            heavy | {"pydantic"},
        ),
        ("import quality_model.core.predict", heavy - {"numpy", "PIL", "pydantic"}),
    ):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
            env={"PYTHONPATH": str(PROJECT), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        assert absent & set(done.stdout.splitlines()[-1].split()) == set(), code


def test_the_table_of_predict_has_a_column_of_flags(bundled: Path, image: Path) -> None:
    heading, row = command("predict", str(image), "--device", "cpu").stdout.splitlines()
    assert heading.split() == [*HEADS, "overall", "flags"]
    values = [float(cell) for cell in row.split()[1:5]]
    flags = [head for head, value in zip(HEADS, values, strict=True) if value > 0.25]
    assert row.split(maxsplit=6)[6] == (", ".join(flags) or "-")


def test_predict_says_when_a_model_has_no_thresholds(image: Path, tmp_path: Path) -> None:
    import torch

    from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model

    torch.manual_seed(1)
    save_model(tmp_path / "bare", MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})
    result = command("predict", str(image), "--model", str(tmp_path / "bare"))
    assert result.stdout.splitlines()[1].split()[-1] == "-"
    assert "no thresholds" in result.stderr


def test_a_new_user_scores_a_folder_outside_any_project_and_traces_its_scores(
    bundled: Path, trained: Path, image: Path
) -> None:
    folder = Path("2024.05.01")
    folder.mkdir()
    (folder / "b.png").write_bytes(b"no")
    odd = image.rename(folder / os.fsdecode(b"caf\xe9.png"))
    result = command("score", str(folder), "--device", "cpu")
    version = file_sha256(trained / "model.safetensors")[:12]
    assert f"Model: bundled version {version}." in result.stdout
    out = Path("scores") / folder
    bad, good = pd.read_parquet(out / "data").itertuples()
    assert good.key == json.loads(command("predict", str(odd), "--json").stdout)["path"].split("/")[-1]
    assert good.key == "caf\\xe9.png"
    assert (good.model_name, good.model_version, good.model_run_id) == ("bundled", version, "0123abcd")
    flagged = {head: getattr(good, column) for head, column in FLAG_COLUMNS.items()}
    assert flagged == {head: getattr(good, head) > 0.25 for head in HEADS}
    assert (bad.is_noisy, bad.error_code) == (None, "not_an_image")
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert summary["flagged"] == {head: int(flagged[head]) for head in HEADS}
    assert summary["thresholds"] == dict.fromkeys(HEADS, 0.25)
    assert json.loads((out / "report" / "validation.json").read_text())["passed"]
    shown = json.loads(command("trace", str(out), "--json").stdout)
    assert (shown["model_name"], shown["data_sha256"], shown["run_id"]) == ("bundled", "e" * 64, "0123abcd")
