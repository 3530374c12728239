"""A deployment's parameters are text that no shell has expanded."""

from pathlib import Path

import pytest

from flows.retrain import retrain
from flows.score import score


def test_a_tilde_in_the_paths_of_a_flow_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    scoring = score.validate_parameters({"inputs": "~/photos", "output": "~/scores", "project": "~"})
    paths = {"inputs": tmp_path / "photos", "output": tmp_path / "scores", "project": tmp_path}
    assert paths.items() <= scoring.items()
    training = retrain.validate_parameters({"project": Path(), "compare_on": "~/photos"})
    assert training == {"project": Path(), "compare_on": tmp_path / "photos"}
    assert score.validate_parameters({"inputs": "a", "output": None, "project": "."})["output"] is None
