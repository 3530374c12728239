"""dvc.yaml, prefect.yaml, params.yaml and the README against the code they describe."""

import ast
import importlib
import re
import shlex
import subprocess
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from quality_model.cli import cli
from quality_model.params import Params
from quality_model.paths import ProjectPaths

PROJECT = Path(__file__).resolve().parents[1]
STAGES = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]

# What a stage imports without its result depending on it: values reach a stage through DVC's params;
# the command line, messages, places, the allocator, processes and the way to the disk change no value;
# tracking and registry keep a record beside it; the weights a training begins with are named in the model.
NOT_DEPENDENCIES = {
    "cli", "errors", "jobs", "model_source", "params", "paths", "pretrained", "processes", "registry",
    "storage", "system", "telemetry", "tracking", "__init__", "__main__",
}  # fmt: skip

# Packages that change no value: a progress bar and a lock between processes.
NOT_COMPUTING = {"filelock", "tqdm"}

# The module that a stage's command calls.
ENTRY = {
    "download": "data/download.py",
    "validate_images": "data/checks/image_checks.py",
    "generate": "data/generate.py",
    "validate_training_set": "data/checks/dataset_checks.py",
    "train": "stages/training.py",
    "evaluate": "stages/evaluation.py",
}


def paths_of(entries: list) -> set[str]:
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def imported_modules(path: Path) -> set[Path]:
    """Files of the library that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("quality_model"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("quality_model")]
        for name in names:
            base = PROJECT / Path(*name.split("."))
            for candidate in (base.with_suffix(".py"), base / "__init__.py"):
                if candidate.exists():
                    found.add(candidate)
    return found


def closure(entry: Path) -> set[str]:
    """Every file of the library that running ``entry`` can execute, relative to the project."""
    todo, seen = [entry], set()
    while todo:
        path = todo.pop()
        relative = path.relative_to(PROJECT / "quality_model")
        is_package = relative.name == "__init__.py" and len(relative.parts) > 1
        names = {part.removesuffix(".py") for part in relative.parts} - (
            {"__init__"} if is_package else set()
        )
        is_empty = is_package and len(ast.parse(path.read_text()).body) == 1
        if path in seen or is_empty or names & NOT_DEPENDENCIES:
            continue
        seen.add(path)
        todo.extend(imported_modules(path))
    return {str(path.relative_to(PROJECT)) for path in seen}


def is_covered(path: str, deps: set[str]) -> bool:
    return any(path == dep or path.startswith(f"{dep}/") for dep in deps)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_the_code_that_does_its_work(stage: str) -> None:
    deps = paths_of(STAGES[stage]["deps"])
    needed = closure(PROJECT / "quality_model" / ENTRY[stage])
    missing = {path for path in needed if not is_covered(path, deps)}
    assert not missing, f"dvc.yaml: stage {stage} lacks deps {sorted(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_run(stage: str) -> None:
    needed = closure(PROJECT / "quality_model" / ENTRY[stage])
    code = {dep for dep in paths_of(STAGES[stage]["deps"]) if dep.startswith("quality_model")}
    idle = {dep for dep in code if not any(is_covered(path, {dep}) for path in needed)}
    assert not idle, f"dvc.yaml: stage {stage} has idle deps {sorted(idle)}"


def imported_packages(path: Path) -> set[str]:
    """Distributions whose modules a file imports, or finds by their names without importing them."""
    tree = ast.parse(path.read_text())
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and "find_spec" in path.read_text():
            modules.add(str(node.value))
    distributions = packages_distributions()
    named = {name for module in modules for name in distributions.get(module.split(".")[0], [])}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in named} - {"quality-model"}


def packages_of(stage: str) -> set[str]:
    (entry,) = (entry for entry in STAGES[stage]["params"] if isinstance(entry, dict))
    return set(entry["packages.yaml"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_a_folder_only_if_it_runs_most_of_its_code(stage: str) -> None:
    needed = closure(PROJECT / "quality_model" / ENTRY[stage])
    for dep in paths_of(STAGES[stage]["deps"]):
        if (PROJECT / dep).is_dir() and dep.startswith("quality_model/"):
            files = {str(path.relative_to(PROJECT)) for path in (PROJECT / dep).rglob("*.py")}
            assert len(files & needed) > len(files) / 2, dep


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_versions_of_the_packages_that_it_computes_with(stage: str) -> None:
    code = closure(PROJECT / "quality_model" / ENTRY[stage])
    computes_with = {name for path in code for name in imported_packages(PROJECT / path)} - NOT_COMPUTING
    assert packages_of(stage) == computes_with
    assert computes_with <= set(yaml.safe_load((PROJECT / "packages.yaml").read_text()))


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_runs_again_for_a_tool_that_computes_nothing(stage: str) -> None:
    assert not [dep for dep in paths_of(STAGES[stage]["deps"]) if "requirements" in dep]
    assert not packages_of(stage) & {"dvc", "mlflow", "prefect", "mypy", "pytest", "ruff"}
    assert "great-expectations" not in packages_of(stage) or stage.startswith("validate_")
    assert not is_covered("quality_model/core/storage.py", paths_of(STAGES[stage]["deps"]))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_command_without_values(stage: str) -> None:
    words = shlex.split(STAGES[stage]["cmd"])
    assert words[:3] == ["python", "-m", "quality_model"]
    assert len(words) == 4
    assert words[3] in cli.commands


@pytest.mark.parametrize("stage", STAGES)
def test_the_parameters_of_a_stage_are_sections_of_params_yaml(stage: str) -> None:
    for dotted in STAGES[stage]["params"]:
        if isinstance(dotted, dict):
            assert set(dotted) == {"packages.yaml"}
            continue
        section = Params
        for key in dotted.split("."):
            assert key in section.model_fields, dotted
            section = section.model_fields[key].annotation


def test_the_outputs_lie_where_the_commands_put_them_by_default() -> None:
    outputs = {
        Path(path)
        for stage in STAGES.values()
        for kind in ("outs", "metrics", "plots")
        for path in paths_of(stage.get(kind, []))
    }
    paths = ProjectPaths()
    places = {
        paths.images,
        paths.images_report,
        paths.training_set,
        paths.training_set_report,
        paths.model,
        paths.training_report,
        paths.evaluation_report,
    }
    assert all(any(output == place or place in output.parents for place in places) for output in outputs)
    assert all(any(output == place or place in output.parents for output in outputs) for place in places)


def test_git_knows_no_output_of_a_stage() -> None:
    outputs = [
        path
        for stage in STAGES.values()
        for kind in ("outs", "metrics", "plots")
        for entry in stage.get(kind, [])
        for path in paths_of([entry])
        if isinstance(entry, str) or entry[path].get("cache", True)
    ]
    assert len(outputs) == sum(
        len(s.get(k, [])) for s in STAGES.values() for k in ("outs", "metrics", "plots")
    )
    ignored = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        cwd=PROJECT,
        input="\n".join(outputs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ignored.stdout.split() == outputs
    known = subprocess.run(["git", "ls-files", *outputs], cwd=PROJECT, capture_output=True, check=True)
    assert not known.stdout


def test_the_entry_points_of_prefect_yaml_are_flows() -> None:
    from prefect import Flow

    for deployment in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]:
        file, _, name = deployment["entrypoint"].partition(":")
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        assert isinstance(getattr(module, name), Flow)


def test_retraining_is_weekly_and_never_twice_at_once_and_scoring_is_daily() -> None:
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    retraining, scoring = deployments
    minute, hour, day, month, weekday = retraining["schedules"][0]["cron"].split()
    assert (minute.isdigit(), hour.isdigit(), day, month, weekday.isdigit()) == (True, True, "*", "*", True)
    assert retraining["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    minute, hour, *days = scoring["schedules"][0]["cron"].split()
    assert (minute.isdigit(), hour.isdigit(), days) == (True, True, ["*", "*", "*"])


def test_the_event_that_a_promotion_emits_is_the_one_that_scoring_waits_for() -> None:
    from tasks.release import CHAMPION_PROMOTED

    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    expected = [e for d in deployments for trigger in d.get("triggers", []) for e in trigger["expect"]]
    assert expected == [CHAMPION_PROMOTED]


def test_the_makefile_silences_what_the_library_silences() -> None:
    from quality_model.release.telemetry import QUIET

    exported = dict(re.findall(r"^export (\w+) := (\w+)$", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert exported == QUIET
