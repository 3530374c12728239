"""What a relative path means to a flow, wherever its process was started."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

from benchmarks.project import environment, make_project
from quality_model.core.decoding import Pixels

SCORE = """
from pathlib import Path
from flows.score import score

score(Path("mine"), Path("scored"), project=Path("../project"), kind="images")
"""


def test_relative_inputs_and_outputs_of_a_flow_are_below_its_project(tmp_path: Path, photo: Pixels) -> None:
    quick = {"workers": 1, "model": "pretrained-compact", "engine": "torch-float32"}
    project = make_project(tmp_path / "project", {"score": quick})
    elsewhere = tmp_path / "elsewhere"
    for folder, name in ((project, "right"), (elsewhere, "wrong")):
        (folder / "mine").mkdir(parents=True)
        Image.fromarray(photo[:64, :64]).save(folder / "mine" / f"{name}.png")
    done = subprocess.run(
        [sys.executable, "-c", SCORE],
        cwd=elsewhere,
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (shard,) = [path for path in (project / "scored").rglob("*.parquet") if path.name != "plan.parquet"]
    assert pd.read_parquet(shard)["key"].tolist() == ["right.png"]
    assert not (elsewhere / "scored").exists()
