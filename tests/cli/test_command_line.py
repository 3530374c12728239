"""The command line as a user meets it: flags, help, errors and exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from quality_model.cli import GROUPS, cli, run
from quality_model.cli.flags import command, with_params
from quality_model.errors import ParameterError, UsageError
from quality_model.params import Params
from quality_model.paths import user_path

PROJECT = Path(__file__).resolve().parents[2]


def params_of(*arguments: str) -> Params:
    """The parameters that a command with the flags of three sections gets."""
    seen: list[Params] = []

    @command()
    @with_params("source", "generate", "train")
    def shown(params: Params) -> None:
        seen.append(params)

    result = CliRunner().invoke(
        shown, ["--params", str(PROJECT / "params.yaml"), *arguments], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return seen[0]


def test_a_flag_overrides_its_parameter_in_every_section_that_has_it_and_nothing_else(params):
    changed = params_of("--num-images", "7", "--samples-per-image", "2", "--epochs", "3", "--seed", "9")
    assert (changed.source.num_images, changed.generate.samples_per_image) == (7, 2)
    assert (changed.source.seed, changed.generate.seed, changed.train.seed) == (9, 9, 9)
    assert changed.train.epochs == 3
    assert changed.evaluate == params.evaluate
    assert params_of() == params


def test_flags_and_set_read_values_as_params_yaml_does():
    assert params_of("--set", "train.loss_weights.noise=2").train.loss_weights.noise == 2.0
    assert params_of("--learning-rate", "1e-3").train.learning_rate == 0.001
    assert params_of("--set", "train.learning_rate=1e-3").train.learning_rate == 0.001
    assert params_of("--epochs", "0o17").train.epochs == 15
    assert params_of("--dataset", "123").source.dataset == "123"
    for arguments in (["--epochs", "yes"], ["--epochs", "true"], ["--set", "train.epochs=yes"]):
        with pytest.raises(ParameterError, match=r"train\.epochs"):
            params_of(*arguments)


def test_a_tilde_that_the_shell_did_not_expand_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    assert params_of("--params", "~/mine.yaml", "--seed", "5").train.seed == 5
    assert user_path("~/a") == tmp_path / "a"
    assert user_path("~nobody-of-nowhere/a") == Path("~nobody-of-nowhere/a")
    assert user_path("a/~/b") == Path("a/~/b")


def test_the_help_lists_each_command_once_in_the_order_of_use_and_briefly() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    listed = [name for names in GROUPS.values() for name in names]
    assert sorted(listed) == sorted(name for name, command in cli.commands.items() if not command.hidden)
    places = [shown.index(f"\n{title}:") for title in GROUPS]
    assert places == sorted(places)
    for name in listed:
        brief = cli.commands[name].get_short_help_str(1000)
        assert len(brief) < 60
        assert f"{name} " in shown
        assert brief in shown
    assert "ship" not in shown


def test_a_shell_can_complete_commands_and_options() -> None:
    def completed(line: str) -> str:
        asked = {"_QUALITY_MODEL_COMPLETE": "bash_complete", "COMP_WORDS": line}
        asked["COMP_CWORD"] = str(len(line.split()) - 1)
        code = "from quality_model.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True
        ).stdout

    assert completed("quality-model sc").split() == ["plain,score"]
    assert "plain,--views" in completed("quality-model score --v").split()


def test_every_command_has_a_help_text() -> None:
    for name in cli.commands:
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0 and "Usage:" in result.output, name


def test_help_and_the_list_of_datasets_import_no_heavy_package():
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
        (["train", "--set", "nonsense"], 2, "SECTION.KEY=VALUE"),
        (["trian"], 2, "No such command"),
        (["train", "--epoch", "3"], 2, "--epochs"),
        (["train", "--params", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["train", "--data-dir", "nowhere"], 10, "nowhere"),
        (["download", "--dataset", "tiny-imagnet"], 2, "tiny-imagenet"),
        (["predict", "--model", "nowhere.pt", "x.jpg"], 8, "nowhere.pt"),
    ],
)
def test_a_mistake_of_the_user_ends_with_its_exit_code_and_a_message(
    tmp_path, monkeypatch, capsys, arguments, code, words
):
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_own_labels_and_the_folder_of_their_images_belong_together() -> None:
    for lonely in (["--own-labels", "labels.csv"], ["--own-images", "my-images"]):
        with pytest.raises(UsageError, match="--own-labels and --own-images belong together"):
            cli.main(["train", *lonely], standalone_mode=False)
