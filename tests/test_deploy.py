"""The examples in deploy/: what can be checked without containers and clusters."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from benchmarks import cost
from quality_model.cli import cli

from .test_pipeline_definition import PROJECT

DEPLOY = PROJECT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
PAGE = PROJECT / "docs" / "cluster.md"
COMMAND = re.compile(r"(?:^|[\s/])quality-model ((?:[a-z-]+)(?: [^\n#`]*)?)(?=$|#)", re.MULTILINE)
NOT_RUN = re.compile(r"\bnot (run|built)\b", re.IGNORECASE)


def commands(path: Path) -> list[list[str]]:
    """The command lines of quality-model in a file, comments left out."""
    text = re.sub(r"^#.*$", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [shlex.split(re.sub(r"\$\(\(.*?\)\)", "1", line)) for line in COMMAND.findall(text)]


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pods(found: Any) -> list[dict[str, Any]]:
    """Every pod's description in a document."""
    if isinstance(found, list):
        return [pod for value in found for pod in pods(value)]
    if not isinstance(found, dict):
        return []
    return [found] if "containers" in found else pods(list(found.values()))


def test_every_command_in_the_examples_exists_with_its_options() -> None:
    seen = {}
    for path in (*FILES, PAGE):
        for words in commands(path):
            command = cli.commands[words[0]]
            options = {opt for p in command.params if isinstance(p, click.Option) for opt in p.opts}
            assert {word for word in words[1:] if word.startswith("--")} <= options, (path, words)
            seen[path.name] = words
    assert {"slurm-array.sh", "ray-job.sh", "kuberay-job.yaml", "quality-model-score.service"} <= seen.keys()


def test_every_example_says_at_its_top_that_it_was_not_run() -> None:
    for path in FILES:
        top = path.read_text().split("\n\n")[0]
        comment = " ".join(line.strip("# ") for line in top.splitlines() if line.startswith("#"))
        assert NOT_RUN.search(comment), path


def test_scripts_are_bash_and_stop_at_the_first_failure() -> None:
    for path in DEPLOY.glob("*.sh"):
        subprocess.run(["bash", "-n", path], check=True)
        assert "set -euo pipefail" in path.read_text()
        if shellcheck := shutil.which("shellcheck"):
            subprocess.run([shellcheck, path], check=True)


def test_kubernetes_jobs_have_images_limits_volumes_that_exist_and_one_number_of_shares() -> None:
    for path in DEPLOY.glob("kube*.yaml"):
        for document in documents(path):
            assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
            for pod in pods(document):
                volumes = {volume["name"] for volume in pod.get("volumes", ())}
                for container in pod["containers"]:
                    assert container["image"].startswith("quality-model")
                    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
                    assert {mount["name"] for mount in container.get("volumeMounts", ())} == volumes
    job, merge = documents(DEPLOY / "kubernetes-indexed-job.yaml")
    (parts,) = pods(job)[0]["containers"][0]["env"]
    assert int(parts["value"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert merge["spec"]["suspend"] is True


def test_the_ray_version_is_that_of_the_lock() -> None:
    (job,) = documents(DEPLOY / "kuberay-job.yaml")
    version = job["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"\nray=={version} \\" in (PROJECT / "requirements.lock").read_text()


def test_the_stack_has_its_services_on_loopback_and_no_password_in_it() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    stack = yaml.safe_load(text)
    services = stack["services"]
    assert services.keys() == {"postgres", "s3", "buckets", "mlflow", "prefect", "worker"}
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    bare = re.sub(r"#.*|(?<=\$)\{[^}]*\}", "", text)
    secrets = re.findall(r"(?i)(?:password|secret\w*|key|auth_string)\"?\s*[:=]\s*\"?([^\s\",]+)", bare)
    assert len(secrets) > 5
    assert set(secrets) == {"$", "quality-model-stack", "quality:$"}
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= services.keys(), name
        assert {config["source"] for config in service.get("configs", ())} <= stack["configs"].keys()
        assert {volume.partition(":")[0] for volume in service.get("volumes", ())} <= {
            *stack["volumes"],
            "..",
        }
        targets = re.findall(r"^FROM .* AS (\w+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
        assert "build" not in service or service["build"]["target"] in targets
    made = services["buckets"]["command"][-1]
    compile(made, "buckets", "exec")
    assert "basic-auth" in services["mlflow"]["command"]


def test_the_page_has_the_table_of_costs_and_each_file_of_the_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cost.main([])
    assert capsys.readouterr().out in PAGE.read_text()
    for path in FILES:
        assert path.name in PAGE.read_text() or path.suffix == ".service"


def test_costs_are_products_of_the_prices_and_a_gpu_has_a_row_only_with_a_figure_of_yours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cost.main(["--images", "3.6e6", "--cores", "10", "--core-hour", "1", "--get", "1", "--put", "1000"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert rows[2][3:] == [
        "17.5",
        "105.0 min",
        "180 GB",
        "29",
        "403 MB",
        "3.6 M, 7.2 k",
        "17.50",
        "10.80",
        "7.86 |",
    ]
    assert not any("GPU" in row for row in rows)
    cost.main(["--images", "1e6", "--gpu-images-per-s", "500", "--gpu-hour", "3", "--gpus", "2"])
    (row, *_) = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "GPU" in line]
    assert (row[4], row[9]) == ("16.7 min", "1.67")
    with pytest.raises(SystemExit):
        cost.main(["--cores", "0"])


def test_the_servers_options_exist() -> None:
    from mlflow.cli import server
    from ray.dashboard.modules.job.cli import submit

    words = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["mlflow"]["command"].split()
    options = {opt for param in server.params for opt in param.opts}
    assert {word for word in words if word.startswith("--")} <= options
    assert {opt for param in submit.params for opt in param.opts} >= {"--address"}


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd here")
    for path in (DEPLOY / "systemd").iterdir():
        text = re.sub(r"/srv/quality-model/.venv/bin/[\w-]+", "/bin/true", path.read_text())
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        [analyze, "verify", *tmp_path.iterdir()], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_images_copy_what_is_there_and_install_what_the_lock_names() -> None:
    kept = re.findall(r"^!(.*)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE)
    assert all((PROJECT / name).exists() for name in kept)
    lock = (PROJECT / "requirements.lock").read_text()
    text = (DEPLOY / "Dockerfile").read_text()
    (setuptools,) = re.findall(r"setuptools==\S+", text)
    assert f"\n{setuptools} \\" in lock
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]

    def locked(*extras: str) -> set[str]:
        words = [sys.executable, str(DEPLOY / "images.py"), "lock", *extras]
        written = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert all(line in lock for line in written.splitlines())
        assert written.count("--hash=") >= written.count("==")
        return set(re.findall(r"^([a-z0-9._-]+)==", written, re.MULTILINE))

    scoring, on_ray, everything = locked(), locked("ray", "stores"), locked("all")
    assert {re.split(r"[\W]", entry)[0].replace("ruamel", "ruamel-yaml") for entry in declared} <= scoring
    assert not scoring & {"torch", "pandas", "mlflow", "prefect", "dvc", "scikit-learn"}
    assert {"ray", "obstore"} <= on_ray
    assert scoring < on_ray < everything
    assert {"torch", "mlflow", "psycopg2-binary", "boto3"} <= everything
