"""`generate --on ray` and `evaluate --on ray`: what they write is what one process writes, byte for byte."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from quality_model.cli import run
from quality_model.core.decoding import Pixels
from tests.data.conftest import write_table

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: the extra `ray`"),
]

PROJECT = Path(__file__).resolve().parents[2]
QUICK = ["--set", "evaluate.sweep_images=1", "--set", "evaluate.bootstrap_samples=20"]


def contents(folder: str) -> dict[str, bytes]:
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_dataset_and_its_evaluation_do_not_depend_on_where_they_are_made(
    tmp_path, photo: Pixels, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # as an actor has; more of them round in another order
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=":")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    corners = [(40 * (number // 5), 50 * (number % 5)) for number in range(20)]
    write_table(tmp_path / "data/images", [photo[y : y + 230, x : x + 260] for y, x in corners])
    for on in ("local", "ray"):
        settings = ["--set", "generate.samples_per_image=2", "--set", "generate.test_share=0.4"]
        assert run(["generate", "--output", f"data/{on}", "--on", on, *settings]) == 0
    assert contents("data/ray") == contents("data/local")
    model = PROJECT / "quality_model/pretrained/small/model.safetensors"
    for on in ("local", "ray"):
        where = ["--data-dir", "data/local", "--model", str(model), "--output", f"reports/{on}"]
        assert run(["evaluate", *where, "--on", on, *QUICK]) == 0
    assert contents("reports/ray") == contents("reports/local")
    assert "evaluation.json" in contents("reports/ray")
