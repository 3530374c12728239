"""What an installation without extras says where one is needed."""

import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from quality_model.cli import cli
from quality_model.errors import EXTRAS, install_command, missing_extra
from tests.core.bare import bare_python

PROJECT = Path(__file__).resolve().parents[1]
DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
WORKS_BARE = {
    *("predict", "score", "gallery", "filter", "duplicates", "thresholds", "calibrate", "drift"),
    *("trace", "history", "list-datasets", "publish", "migrate"),
}


def distributions(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def test_every_module_is_of_the_extra_that_declares_its_package_and_all_is_all_of_them() -> None:
    known = packages_distributions()
    for extra, modules in EXTRAS.items():
        names = [{canonicalize_name(name) for name in known.get(module, [module])} for module in modules]
        assert all(found & distributions(DECLARED[extra]) for found in names), extra
        assert distributions(DECLARED[extra]) <= set().union(*names), extra
    (everything,) = map(Requirement, DECLARED["all"])
    assert everything.extras == set(EXTRAS)


def test_a_module_that_no_extra_brings_stays_a_bug() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'nothing'", name="nothing")) is None
    nested = missing_extra(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert nested is not None and nested.exit_code == 2
    assert str(nested) == 'This needs torch, which is not installed: pip install "quality-model[train]"'


@pytest.fixture(scope="module")
def bare_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and errors of each command, on a bare installation in a folder with a project and no data."""
    scratch = tmp_path_factory.mktemp("bare-commands")
    (scratch / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    (scratch / "images").mkdir()
    arguments = {
        "compare": ["images"],
        "trace": ["images"],
        **{name: ["images"] for name in ("gallery", "filter", "duplicates", "thresholds")},
        "calibrate": ["images", "--labels", "labels.csv"],
        "drift": ["images", "--against", "images"],
        "agree": ["--koniq", "images"],
        "ship": ["--output", "shipped"],
        "predict": ["none.jpg"],
        "score": ["images"],
        "export": ["--onnx", "model.onnx"],
        "migrate": ["--to", "http://127.0.0.1:1"],
    }
    code = (
        "import contextlib, io\n"
        "from quality_model.cli import run\n"
        "if __name__ == '__main__':\n"
        f"    for command in {[[name, *arguments.get(name, [])] for name in sorted(cli.commands)]}:\n"
        "        with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "            print(repr((command[0], run(command), said.getvalue())))\n"
    )
    done = bare_python(scratch, "-c", code, cwd=scratch)
    assert done.returncode == 0, done.stderr
    results = [eval(line) for line in done.stdout.splitlines() if line.startswith("('")]
    return {name: (code, said) for name, code, said in results}


def test_a_command_that_needs_an_extra_names_it_in_one_line(bare_runs: dict[str, tuple[int, str]]) -> None:
    lines = {f"is not installed: {install_command(extra)}\n" for extra in EXTRAS}
    assert set(bare_runs) == set(cli.commands)
    for name in set(cli.commands) - WORKS_BARE - {"export-samples"}:
        code, said = bare_runs[name]
        assert code == 2 and said.count("\n") == 1, (name, said)
        assert said.startswith("Error: This needs ") and any(said.endswith(line) for line in lines), (
            name,
            said,
        )


def test_scoring_and_looking_at_scores_ask_for_no_extra(bare_runs: dict[str, tuple[int, str]]) -> None:
    for name in WORKS_BARE:
        assert "quality-model[" not in bare_runs[name][1], name
