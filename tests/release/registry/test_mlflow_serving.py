"""A registered model in MLflow's own hands: loaded, and served, it gives the scores of `predict`."""

import base64
import io
import json
import os
import sys
from pathlib import Path

import httpx
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from quality_model.core.predict import Scorer
from quality_model.records import HEADS
from quality_model.release.flavor import PyfuncModel
from tests.servers import free_port, page, started, wait_for

SCORES = (*HEADS, "overall")


@pytest.fixture
def images(photo) -> list[bytes]:
    encoded = []
    for number, format in enumerate(("PNG", "JPEG", "WEBP")):
        file = io.BytesIO()
        Image.fromarray(photo[50 * number :][:150, :190]).save(file, format)
        encoded.append(file.getvalue())
    return encoded


@pytest.fixture
def expected(registry, images) -> list[dict]:
    """The scores of version 2 by `Scorer`."""
    scorer = Scorer(registry.resolve("2").path, "cpu")
    return [{name: getattr(scores, name) for name in SCORES} for scores in scorer.predict_batch(images)]


def test_mlflow_loads_the_model_and_scores_encoded_images_in_batches_of_any_size(
    registry, project, monkeypatch, images, expected, photo
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/quality-model/2")
    for count in (1, 3):
        scores = model.predict(pd.DataFrame({"image": images[:count]}))
        assert scores[list(SCORES)].to_dict("records") == expected[:count]
        assert scores["error_code"].isna().all()
    broken = model.predict(pd.DataFrame({"image": [images[0], b"<html>", b""]}))
    assert [*broken["error_code"]] == [None, "not_an_image", "empty"]
    assert broken["noise"].isna().tolist() == [False, True, True]
    assert not model.predict(model.input_example)["overall"].isna().any()
    other_columns, numbers = pd.DataFrame({"picture": images}), pd.DataFrame({"image": [1.5]})
    for wrong in (other_columns, numbers, np.zeros((2, 48, 48, 3))):
        with pytest.raises(mlflow.MlflowException):
            model.predict(wrong)
    # Models that were logged with a signature of arrays have this behind it.
    folder = registry.resolve("2").path
    of_arrays = PyfuncModel(folder).predict(np.stack([photo[:90, :120], photo[90:180, :120]]))
    scorer = Scorer(folder, "cpu")
    assert [*of_arrays["overall"]] == [
        scorer.predict(photo[:90, :120]).overall,
        scorer.predict(photo[90:180, :120]).overall,
    ]


def test_mlflow_serves_the_champion_with_the_scores_of_predict(
    registry, client, project, images, expected, tmp_path
):
    client.set_registered_model_alias("quality-model", "champion", "2")
    port, log = free_port(), tmp_path / "serve.log"
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db", "PYTHONPATH": paths}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
        *("--model-uri", "models:/quality-model@champion", "--host", "127.0.0.1", "--port", str(port)),
    ]
    with started(*command, cwd=tmp_path, env=environment, log=log) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for("mlflow models serve", lambda: page(f"{url}/ping"), process=process, log=log)
        encoded = [[base64.b64encode(data).decode()] for data in [*images, b"<html>"]]
        for body in (
            {"dataframe_split": {"columns": ["image"], "data": encoded}},
            {"dataframe_records": [{"image": row[0]} for row in encoded]},
        ):
            answer = httpx.post(f"{url}/invocations", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            *rows, broken = json.loads(answer.text)["predictions"]
            assert [{name: row[name] for name in SCORES} for row in rows] == expected
            assert broken["error_code"] == "not_an_image"
        assert httpx.post(f"{url}/invocations", json={"inputs": {"no": []}}, timeout=60).status_code == 400
