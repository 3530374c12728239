"""The command line as a user meets it: flags, help, errors and exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from quality_model.cli import cli, run
from quality_model.cli.flags import with_params
from quality_model.errors import ParameterError
from quality_model.params import Params
from quality_model.paths import user_path

PROJECT = Path(__file__).resolve().parents[2]


def params_of(*arguments: str) -> Params:
    """What a command with the flags of two sections would be called with."""
    import click

    seen: list[Params] = []

    @click.command()
    @with_params("source", "generate", "train")
    def command(params: Params) -> None:
        seen.append(params)

    result = CliRunner().invoke(
        command, ["--params", str(PROJECT / "params.yaml"), *arguments], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return seen[0]


def test_flags_override_their_parameter_and_nothing_else(params: Params) -> None:
    changed = params_of("--num-images", "7", "--samples-per-image", "2", "--epochs", "3", "--batch-size", "4")
    assert (changed.source.num_images, changed.generate.samples_per_image) == (7, 2)
    assert (changed.train.epochs, changed.train.batch_size) == (3, 4)
    assert changed.evaluate == params.evaluate
    assert params_of() == params


def test_one_flag_sets_a_parameter_that_several_sections_have() -> None:
    changed = params_of("--seed", "9")
    assert (changed.source.seed, changed.generate.seed, changed.train.seed) == (9, 9, 9)


def test_set_reaches_what_has_no_flag() -> None:
    assert params_of("--set", "train.loss_weights.noise=2").train.loss_weights.noise == 2.0


def test_a_flag_and_set_read_numbers_as_the_file_does() -> None:
    assert params_of("--learning-rate", "1e-3").train.learning_rate == 0.001
    assert params_of("--set", "train.learning_rate=1e-3").train.learning_rate == 0.001
    assert params_of("--epochs", "0o17").train.epochs == 15
    assert params_of("--dataset", "123").source.dataset == "123"
    for arguments in (["--epochs", "yes"], ["--epochs", "true"], ["--set", "train.epochs=yes"]):
        with pytest.raises(ParameterError, match=r"train\.epochs"):
            params_of(*arguments)


def test_a_tilde_that_the_shell_left_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    assert params_of("--params", "~/mine.yaml", "--seed", "5").train.seed == 5
    assert user_path("~/a") == tmp_path / "a"
    assert user_path(f"~{Path('/nobody').name}-of-nowhere/a") == Path("~nobody-of-nowhere/a")
    assert user_path("a/~/b") == Path("a/~/b")


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_help_and_the_list_of_data_sets_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from quality_model.cli import cli\n"
        "cli.main(['list-datasets'], standalone_mode=False)\n"
        "cli.main(['train', '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'numpy', 'datasets', 'great_expectations', 'PIL'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "HEAVY []" in done.stdout
    assert "zh-plus/tiny-imagenet" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--epochs", "lots"], 2, "train.epochs = 'lots'"),
        (["train", "--set", "train.epoch=3"], 2, "did you mean 'epochs'"),
        (["train", "--set", "nonsense"], 2, "SECTION.KEY=VALUE"),
        (["trian"], 2, "No such command"),
        (["train", "--epoch", "3"], 2, "--epochs"),
        (["train", "--params", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["train", "--data-dir", "nowhere"], 10, "nowhere"),
        (["download", "--dataset", "tiny-imagnet"], 2, "tiny-imagenet"),
        (["download", "--dataset", "./nowhere"], 2, "nowhere"),
        (["predict", "--model", "nowhere.pt", "x.jpg"], 8, "nowhere.pt"),
        (["predict"], 2, "IMAGES"),
    ],
)
def test_a_mistake_ends_with_its_exit_code_and_says_what_was_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
