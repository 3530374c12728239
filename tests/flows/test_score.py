"""The flow that scores: a run that scored nothing is red, and is not tried again."""

import json
import sys
from pathlib import Path

from .conftest import Run, make_project

SCRIPT = """
import sys
from pathlib import Path
from flows.score import score
score(Path(sys.argv[1]), Path("out"))
"""


def test_a_run_that_scored_nothing_or_has_no_inputs_fails_at_once(tmp_path: Path, run: Run) -> None:
    project = make_project(tmp_path / "project")
    (project / "broken").mkdir()
    (project / "broken" / "a.jpg").write_bytes(b"no")
    for inputs, words in (("broken", "None of the 1 inputs could be scored"), ("nowhere", "nowhere")):
        done = run(project, sys.executable, "-c", SCRIPT, inputs, check=False)
        told = done.stdout + done.stderr
        assert done.returncode != 0
        assert words in told
        assert "Finished in state Failed" in told
        assert "AwaitingRetry" not in told and "Retry" not in told
    assert json.loads((project / "out" / "job.json").read_text())["errors"] == {"not_an_image": 1}
