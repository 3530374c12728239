"""dvc.yaml, prefect.yaml and the Makefile against the code that they describe."""

import ast
import importlib
import inspect
import re
import shlex
import subprocess
import textwrap
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from quality_model.cli import cli
from quality_model.params import Params
from quality_model.paths import ProjectPaths

PROJECT = Path(__file__).resolve().parents[1]
LIBRARY = PROJECT / "quality_model"
STAGES = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
DEPLOYMENTS = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]

# What a stage imports without its result depending on it: values reach a stage through DVC's params;
# the command line, messages, places, processes, types of facts, the way to disks and stores change no value;
# the release keeps a record beside it; the weights that a training starts from are named in the model.
CHANGES_NO_VALUE = (
    *("__init__.py", "__main__.py", "cli/", "release/", "pretrained/"),
    *("errors.py", "params.py", "params_file.py", "paths.py"),
    *("core/__init__.py", "core/jobs.py", "core/models.py", "core/processes.py"),
    *("core/ray_cluster.py", "core/ray_nodes.py"),
    *(
        "core/stores.py",
        "core/store_requests.py",
        "core/store_cache.py",
        "core/objects.py",
        "core/object_path.py",
    ),
    *("core/storage.py", "core/system.py"),
)

DISTRIBUTIONS = packages_distributions()

# Packages that change no value: a lock between processes, the types of facts and a progress bar.
NOT_COMPUTING = {"filelock", "pi-heif", "pydantic", "tqdm"}

DISTRIBUTIONS = packages_distributions()


def paths_of(entries: list) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def outputs_of(stage: dict) -> list[str]:
    return [path for kind in ("outs", "metrics", "plots") for path in paths_of(stage.get(kind, []))]


def entries_of(stage: str) -> set[Path]:
    """The files that define the functions which the stage's command imports, also through its helpers."""
    callback = cli.commands[shlex.split(STAGES[stage]["cmd"])[3]].callback
    assert callback is not None
    functions = [inspect.unwrap(callback)]
    files = set()
    for function in functions:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        named = [getattr(importlib.import_module(str(i.module)), a.name) for i in imports for a in i.names]
        files |= {Path(inspect.getfile(each)) for each in named}
        used = [
            vars(inspect.getmodule(function)).get(n.id) for n in ast.walk(tree) if isinstance(n, ast.Name)
        ]
        helpers = [
            each for each in used if inspect.isfunction(each) and each.__module__ == function.__module__
        ]
        functions += [each for each in helpers if each not in functions]
    return files


@cache
def imported_modules(path: Path) -> set[Path]:
    """Files of the library that a file imports anywhere, also inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    bases = [PROJECT / Path(*name.split(".")) for name in names if name.startswith("quality_model")]
    files = [file for base in bases for file in (base.with_suffix(".py"), base / "__init__.py")]
    return {file for file in files if file.exists()}


def code_of(stage: str) -> set[str]:
    """Every file of the library that computes the stage's outputs, relative to the project."""
    todo, seen = [*entries_of(stage)], set[Path]()
    while todo:
        path = todo.pop()
        if path not in seen and not str(path.relative_to(LIBRARY)).startswith(CHANGES_NO_VALUE):
            seen.add(path)
            todo.extend(imported_modules(path))
    return {str(path.relative_to(PROJECT)) for path in seen}


def is_covered(path: str, deps: set[str]) -> bool:
    return any(path == dep or path.startswith(f"{dep}/") for dep in deps)


def imported_packages(path: Path) -> set[str]:
    """Distributions whose modules a file imports, or finds by their names without importing them."""
    modules, text = set(), path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and "find_spec" in text:
            modules.add(str(node.value))
    named = {name for module in modules for name in DISTRIBUTIONS.get(module.split(".")[0], [])}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in named} - {"quality-model"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_computes_its_outputs_and_on_no_other(stage: str) -> None:
    needed = code_of(stage)
    deps = {dep for dep in paths_of(STAGES[stage]["deps"]) if dep.startswith("quality_model")}
    assert sorted(path for path in needed if not is_covered(path, deps)) == [], "missing in dvc.yaml"
    assert sorted(dep for dep in deps if not any(is_covered(path, {dep}) for path in needed)) == [], "idle"
    for folder in (PROJECT / dep for dep in deps if (PROJECT / dep).is_dir()):
        files = {str(path.relative_to(PROJECT)) for path in folder.rglob("*.py")}
        assert len(files & needed) > len(files) / 2, folder


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_versions_of_the_packages_that_it_computes_with_alone(stage: str) -> None:
    (versions,) = (entry["packages.yaml"] for entry in STAGES[stage]["params"] if isinstance(entry, dict))
    computes_with = {name for path in code_of(stage) for name in imported_packages(PROJECT / path)}
    assert set(versions) == computes_with - NOT_COMPUTING
    assert set(versions) <= set(yaml.safe_load((PROJECT / "packages.yaml").read_text()))
    assert not set(versions) & {"dvc", "mlflow", "prefect", "mypy", "pytest", "ruff"}
    assert "great-expectations" not in versions or stage.startswith("validate_")
    assert not [dep for dep in paths_of(STAGES[stage]["deps"]) if "requirements" in dep]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_command_without_values_and_its_parameters_are_in_params_yaml(stage: str) -> None:
    words = shlex.split(STAGES[stage]["cmd"])
    assert words[:3] == ["python", "-m", "quality_model"] and len(words) == 4
    for dotted in (entry for entry in STAGES[stage]["params"] if isinstance(entry, str)):
        section = Params
        for key in dotted.split("."):
            assert key in section.model_fields, dotted
            section = section.model_fields[key].annotation


def test_the_outputs_are_where_the_commands_write_them_by_default_and_in_dvcs_cache_alone() -> None:
    outputs = [path for stage in STAGES.values() for path in outputs_of(stage)]
    paths = ProjectPaths()
    places = {
        *(paths.images, paths.images_report, paths.training_set, paths.training_set_report),
        *(paths.model, paths.training_report, paths.evaluation_report),
    }
    homes = [{place for place in places if Path(o) == place or place in Path(o).parents} for o in outputs]
    assert all(homes) and set.union(*homes) == places
    assert "cache: false" not in (PROJECT / "dvc.yaml").read_text()
    check = ["git", "check-ignore", "--stdin"]
    done = subprocess.run(
        check, cwd=PROJECT, input="\n".join(outputs), capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == outputs
    known = subprocess.run(["git", "ls-files", *outputs], cwd=PROJECT, capture_output=True, check=True)
    assert not known.stdout


def test_retraining_is_weekly_and_never_twice_at_once_and_scoring_is_daily() -> None:
    from prefect import Flow

    for deployment in DEPLOYMENTS:
        file, _, name = deployment["entrypoint"].partition(":")
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        assert isinstance(getattr(module, name), Flow)
    retraining, scoring = DEPLOYMENTS
    assert re.fullmatch(r"\d+ \d+ \* \* \d", retraining["schedules"][0]["cron"])
    assert retraining["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert re.fullmatch(r"\d+ \d+ \* \* \*", scoring["schedules"][0]["cron"])


def test_the_event_that_a_promotion_emits_is_the_one_that_scoring_waits_for() -> None:
    from tasks.release import CHAMPION_PROMOTED

    expected = [e for d in DEPLOYMENTS for trigger in d.get("triggers", []) for e in trigger["expect"]]
    assert expected == [CHAMPION_PROMOTED]


def test_the_makefile_turns_off_the_telemetry_that_the_library_turns_off() -> None:
    from quality_model.core.system import NO_TELEMETRY

    exported = dict(re.findall(r"^export (\w+) := (\w+)$", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert exported == NO_TELEMETRY
