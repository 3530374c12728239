"""Whatever a machine, a shell or an environment is like: a command works, or ends in one clear line."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from quality_model.cli import EXIT_READER_GONE, run
from quality_model.core.system import settle_home
from quality_model.errors import RegistryError
from quality_model.params import Params, flatten
from quality_model.release.tracking import deliver, start_run

from .conftest import PROJECT

MODEL = ("--model", "pretrained-compact", "--engine", "torch-float32")
COMMAND = (sys.executable, "-m", "quality_model")
NAME = "ü日.jpg"
ENDS_WITHIN_S = 240

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that is no project, with a folder of three images, one with a Japanese name."""
    (tmp_path / "images").mkdir()
    for number, name in enumerate(("1.jpg", "2.jpg", NAME)):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    return tmp_path


def environment(**changes: str | None) -> dict[str, str]:
    values = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    values |= {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    return {key: value for key, value in (values | changes).items() if value is not None}


def start(place: Path, *command: str, **changes: str | None) -> subprocess.CompletedProcess[bytes]:
    """Run a command line of a shell to its end."""
    return subprocess.run(
        command,
        cwd=place,
        env=environment(**changes),
        capture_output=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )


def in_shell(place: Path, line: str, **changes: str | None) -> subprocess.CompletedProcess[bytes]:
    return start(place, "sh", "-c", line.replace("quality-model", " ".join(COMMAND)), **changes)


# -- what is written to


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "ü\\u65e5.jpg".encode("latin-1")),
        ({"PYTHONIOENCODING": "ascii"}, b"\\xfc\\u65e5.jpg"),
        ({"PYTHONIOENCODING": "utf-8:strict"}, NAME.encode()),
        ({"LC_ALL": "C"}, NAME.encode()),
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, b"\\xfc\\u65e5.jpg"),
    ],
)
def test_a_name_that_the_output_cannot_write_is_escaped_and_the_rows_behind_it_follow(
    place: Path, changes: dict[str, str], expected: bytes
) -> None:
    names = (f"images/{NAME}", "images/1.jpg", f"nowhere/{NAME}")
    ended = start(place, *COMMAND, "predict", *names, *MODEL, **changes)
    assert ended.returncode == 4, ended.stderr
    rows = ended.stdout.splitlines()
    assert len(rows) == 4
    assert rows[1].startswith(b"images/" + expected) and rows[2].startswith(b"images/1.jpg")
    assert b"Traceback" not in ended.stderr


def test_an_error_that_the_terminal_cannot_write_is_escaped(place: Path) -> None:
    ended = start(place, *COMMAND, "score", "日本", *MODEL, PYTHONIOENCODING="ascii")
    assert ended.returncode == 2
    assert b"Error: \\u65e5\\u672c" in ended.stderr


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("image", "code"), [("images/1.jpg", 0), ("nowhere.jpg", 4)])
def test_a_stream_that_is_closed_changes_no_exit_code(
    place: Path, closed: str, image: str, code: int
) -> None:
    ended = in_shell(place, f"quality-model predict {image} {' '.join(MODEL)} {closed}")
    assert ended.returncode == code, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert (b"overall" in ended.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_nothing_that_is_printed_goes_into_a_result_where_the_streams_are_closed(place: Path) -> None:
    ended = in_shell(
        place, f"quality-model score images --output out {' '.join(MODEL)} --workers 1 >&- 2>&- <&-"
    )
    assert ended.returncode == 0
    texts = [path.read_bytes() for path in (place / "out").rglob("*") if path.is_file()]
    assert texts and not [text for text in texts if b"Scoring 3 inputs" in text]


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", *(["images/1.jpg"] * 20), *MODEL),
        ("list-datasets",),
        ("--help",),
        ("predict", "--help"),
    ],
)
def test_a_reader_that_goes_away_ends_a_command_in_silence(place: Path, arguments: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(ENDS_WITHIN_S) == EXIT_READER_GONE == 128 + signal.SIGPIPE
    assert b"Traceback" not in said and b"BrokenPipe" not in said and b"Exception ignored" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_an_output_without_space_is_an_error_of_the_disk(place: Path) -> None:
    ended = in_shell(place, "quality-model list-datasets >/dev/full")
    assert ended.returncode == 10
    assert b"Error: No space is left" in ended.stderr and b"Traceback" not in ended.stderr


# -- where it runs


def test_a_current_folder_that_was_deleted_is_said(place: Path) -> None:
    ended = in_shell(place, "mkdir gone && cd gone && rmdir ../gone && quality-model list-datasets")
    assert ended.returncode == 10
    assert ended.stderr.startswith(b"Error: The current folder was deleted.")


def test_a_user_without_a_home_gets_a_temporary_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nonexistent"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    settle_home()
    assert Path.home().is_dir()
    kept = Path.home()
    settle_home()
    assert Path.home() == kept


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to be another user")
def test_a_user_id_without_an_entry_and_home_scores(place: Path) -> None:
    (place / "out").mkdir()
    for folder in (place, *place.parents[:2], place / "out"):
        folder.chmod(0o777)
    ended = start(
        place,
        *("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"),
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
        *(*COMMAND, "score", "images", "--output", "out/scores", *MODEL, "--workers", "1"),
        HOME=None,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("module", ["flows.retrain", "flows.first_run"])
def test_a_flow_whose_server_does_not_answer_ends_in_one_message_with_its_own_code(
    place: Path, module: str
) -> None:
    address = "http://me:canary@127.0.0.1:9/api"
    ended = start(place, sys.executable, "-m", module, PREFECT_API_URL=address)
    assert ended.returncode == 13
    said = ended.stderr.decode()
    assert said.startswith("Error: Prefect's server at http://127.0.0.1:9/api does not answer: ")
    assert "PREFECT_API_URL" in said and len(said.splitlines()) == 2 and "canary" not in said


def test_every_error_has_a_traceback_where_more_is_asked_for(place: Path) -> None:
    arguments = ("predict", "images/1.jpg", "--params", "nowhere.yaml")
    plain, verbose = start(place, *COMMAND, *arguments), start(place, *COMMAND, "-v", *arguments)
    assert plain.returncode == verbose.returncode == 2
    assert b"Traceback" not in plain.stderr
    assert b"Traceback" in verbose.stderr
    assert verbose.stderr.endswith(plain.stderr)


# -- which tracking server


@pytest.fixture
def ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `history` in a new project with an address; its exit code and what it said."""
    shutil.copyfile(PROJECT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def history(uri: str, **changes: str) -> tuple[int, str]:
        for name, value in {"MLFLOW_TRACKING_URI": uri, **changes}.items():
            monkeypatch.setenv(name, value)
        code = run(["history"])
        said = capsys.readouterr()
        return code, said.out + said.err

    return history


@pytest.mark.parametrize(
    ("uri", "module", "words"),
    [
        ("postgresql://me:canary@127.0.0.1:9/db", "psycopg2", "pip install psycopg2-binary"),
        ("postgresql+psycopg://me:canary@127.0.0.1:9/db", "psycopg", "pip install psycopg[binary]"),
        ("mysql://me:canary@127.0.0.1:9/db", "MySQLdb", "pip install mysqlclient"),
        ("mysql+pymysql://me:canary@127.0.0.1:9/db", "pymysql", "pip install pymysql"),
        ("mssql+pyodbc://me:canary@127.0.0.1:9/db", "pyodbc", "pip install pyodbc"),
        ("postgresql+nodriver://me:canary@127.0.0.1:9/db", "nodriver", "what is before ://"),
    ],
)
def test_a_database_without_its_driver_says_what_to_install(
    ended: Callable[..., tuple[int, str]], uri: str, module: str, words: str
) -> None:
    try:
        __import__(module)
    except ImportError:
        pass
    else:
        pytest.skip(f"{module} is installed")
    code, said = ended(uri)
    assert code == 9
    assert said.startswith("Error: Opening the tracking database failed at ")
    assert words in said and "canary" not in said


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ftp://host", "'ftp://host' is not an address of a tracking server"),
        ("host:5000", "is not an address of a tracking server"),
        ("HTTP//host", "is not an address of a tracking server"),
        ("http://", "is not an address"),
        ("http://[::1", "is not an address"),
        ("http://host:99999", "is not an address"),
        ("http://user:pa/canary@127.0.0.1:9", "%2F"),
        ("http://user:pa#canary@127.0.0.1:9", "%23"),
        ("http://user:pa?canary@127.0.0.1:9", "%3F"),
        ("http://user:pa canary@127.0.0.1:9", "%20"),
        ("postgresql://user:p@canary@127.0.0.1:9/db", "%40"),
        ("user:canary@host:5000", "'host:5000' is not an address"),
        ("http://127.0.0.1:9?token=canary", "MLFLOW_TRACKING_TOKEN"),
        ("http://127.0.0.1:9/#token=canary", "MLFLOW_TRACKING_TOKEN"),
    ],
)
def test_an_address_that_cannot_be_used_is_said_with_a_remedy_and_without_its_password(
    ended: Callable[..., tuple[int, str]], uri: str, words: str
) -> None:
    code, said = ended(uri)
    assert code == 2
    assert said.startswith("Error: MLFLOW_TRACKING_URI = ") and words in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"MLFLOW_TRACKING_URI": "http://u:p@canary@127.0.0.1:9"}, 9, "at http://127.0.0.1:9"),
        ({"MLFLOW_TRACKING_URI": "http://u:p%40canary@127.0.0.1:9"}, 9, "at http://127.0.0.1:9"),
        ({"HTTPS_PROXY": "http://me:canary@127.0.0.1:9"}, 9, "at https://host.invalid"),
        ({"HTTPS_PROXY": "nonsense://me:canary@127.0.0.1:9"}, 9, "at https://host.invalid"),
        ({"MLFLOW_TRACKING_PASSWORD": "canary", "MLFLOW_TRACKING_USERNAME": "me"}, 9, "failed at"),
        ({"MLFLOW_HTTP_REQUEST_TIMEOUT": "long"}, 2, "MLFLOW_HTTP_REQUEST_TIMEOUT = 'long' is not a number"),
    ],
)
def test_a_server_that_cannot_be_reached_is_one_message_without_passwords(
    ended: Callable[..., tuple[int, str]], changes: dict[str, str], code: int, words: str
) -> None:
    found, said = ended(**{"uri": "https://host.invalid", **changes})
    assert found == code
    assert words in said and "canary" not in said and "Traceback" not in said


def test_files_for_a_store_without_its_package_wait_and_say_what_to_install(
    project: Path, params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    if any((Path(place) / "boto3").is_dir() for place in sys.path):
        pytest.skip("boto3 is installed")
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    client.create_experiment(params.registry.experiment, artifact_location="s3://bucket/folder")
    (project / "note.txt").write_text("x")
    values: dict[str, Any] = flatten(params.train)
    with start_run(
        project, params.registry, name="train", params=values, params_sha256="8" * 64, system_metrics=False
    ) as tracked:
        tracked.log_files(project / "note.txt")
    assert tracked.waiting == 2
    assert "needs the Python package 'boto3'" in caplog.text
    with pytest.raises(RegistryError, match="boto3") as refused:
        deliver(project)
    assert refused.value.remedy == "Install it: pip install boto3"
