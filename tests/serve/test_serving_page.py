"""The commands of docs/serving.md work as they stand there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quality_model.cli import cli

from .conftest import encoded, serving

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL)
LINES = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]


def test_the_page_names_options_addresses_and_metrics_that_there_are(server):
    options = {option for parameter in cli.commands["serve"].params for option in parameter.opts}
    commands = [shlex.split(line) for line in LINES if "quality-model serve" in line]
    used = {word for words in commands for word in words if word.startswith("--")}
    used |= {word for text in re.findall(r"`(--[^`]+)`", PAGE) for word in text.split() if word[:2] == "--"}
    assert len(commands) >= 3 and used <= options
    for method, path in re.findall(r"\| `(GET|POST) (/\w+)` \|", PAGE):
        assert server.get(path).status_code == (405 if method == "POST" else 200)
    page = server.get("/metrics").text
    names = re.findall(r"`(quality_model_\w+)", PAGE)
    assert len(set(names)) >= 12
    assert not [name for name in names if f"TYPE {name.removesuffix('_info')}" not in page]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_requests_of_the_page_get_scores(tmp_path, photo):
    (tmp_path / "photo.jpg").write_bytes(encoded(photo, "JPEG"))
    (tmp_path / "broken.png").write_bytes(encoded(photo)[:999])
    (tmp_path / "batch.py").write_text(next(block for language, block in BLOCKS if language == "python"))
    with serving(tmp_path, "--model", "bundled", "--workers", "1") as server:

        def said(command: list[str]) -> str:
            done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout

        curls = [line for line in LINES if line.startswith("curl ")]
        answers = [said(shlex.split(line.replace("http://127.0.0.1:8000", server.url))) for line in curls]
        assert len(answers) == 4
        assert '"path": "photo.jpg"' in answers[0] and '"error_code": null' in answers[0]
        rows = said([sys.executable, "batch.py", server.url, "photo.jpg", "broken.png"]).splitlines()
        assert re.fullmatch(r"photo.jpg 0\.\d+ \[\] None", rows[0])
        assert rows[1] == "broken.png None None truncated"
