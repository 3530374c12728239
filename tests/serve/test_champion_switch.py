"""A server that follows the champion of a registry: no request is lost, and each names what scored it."""

import threading
import time
from pathlib import Path

import httpx
import pytest
import torch
from mlflow import MlflowClient

from quality_model.core import storage
from quality_model.core.model_files import WEIGHTS_NAME
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from tests.core.test_models import NAME, register
from tests.servers import wait_for

from .conftest import Serving, serving


@pytest.fixture
def hashes(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """By version in the project's registry, 1 and 2, the hash of its weights; version 1 is the champion."""
    folders = {}
    for number in ("1", "2"):
        torch.manual_seed(int(number))
        folders[number] = tmp_path / "versions" / number
        network = MultiHeadQualityAssessmentModel(architecture="small")
        save_model(folders[number], network, image_size_px=32, facts={})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    register(MlflowClient(), folders, (project / "mlartifacts").as_uri(), tmp_path)
    MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    return {number: storage.file_sha256(folder / WEIGHTS_NAME) for number, folder in folders.items()}


def version(server: Serving) -> str:
    return server.get("/model").json()["model"]["version"]


def test_a_new_champion_scores_without_a_lost_request_and_each_answer_names_its_version(
    project, hashes, images
):
    with serving(project, "--model", "champion", "--workers", "2", "--follow", "0.3") as server:
        answers: list[tuple[int, str, str, float]] = []
        is_over = threading.Event()

        def ask() -> None:
            with httpx.Client(timeout=60) as client:
                while not is_over.is_set():
                    answer = client.post(f"{server.url}/score", content=images[0])
                    model, row = answer.json()["model"], answer.json()["images"][0]
                    answers.append((answer.status_code, model["version"], model["sha256"], row["overall"]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in ("2", "1", "2"):
            MlflowClient().set_registered_model_alias(NAME, "champion", number)
            wait_for(f"version {number}", lambda: version(server) == number, log=server.log)  # noqa: B023
            time.sleep(0.3)
        is_over.set()
        for thread in threads:
            thread.join(60)
        assert {status for status, *_ in answers} == {200}
        assert {(number, sha256) for _, number, sha256, _ in answers} == set(hashes.items())
        assert len({found[1:] for found in answers}) == 2  # each version has its own scores
        assert server.metric("quality_model_model_switches_total") == 3
        assert f'version="{number}"' in server.get("/metrics").text


def test_where_the_registry_or_the_new_model_fails_the_old_one_scores_and_a_metric_says_so(
    project, hashes, images
):
    follow_ok, errors = "quality_model_follow_ok", "quality_model_follow_errors_total"
    with serving(project, "--model", "champion", "--workers", "1", "--follow", "0.3") as server:
        assert server.metric(follow_ok) == 1

        def fails_then_works(spoil, repair) -> None:
            spoil()
            wait_for("failure", lambda: server.metric(follow_ok) == 0, log=server.log)
            assert version(server) == "1" and server.score(images[0]).status_code == 200
            assert server.get("/healthz").status_code == 200
            repair()
            wait_for("repair", lambda: server.metric(follow_ok) == 1, log=server.log)

        database, hidden = project / "mlflow.db", project / "hidden.db"
        fails_then_works(lambda: database.rename(hidden), lambda: hidden.rename(database))
        client = MlflowClient()
        fails_then_works(
            lambda: client.delete_registered_model_alias(NAME, "champion"),
            lambda: client.set_registered_model_alias(NAME, "champion", "1"),
        )
        client.set_model_version_tag(NAME, "2", "model_sha256", "0" * 64)  # other files than were registered
        fails_then_works(
            lambda: client.set_registered_model_alias(NAME, "champion", "2"),
            lambda: client.set_registered_model_alias(NAME, "champion", "1"),
        )
        assert server.metric(errors) >= 3
        assert server.metric("quality_model_model_switches_total") == 0
