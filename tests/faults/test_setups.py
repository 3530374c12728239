"""Unusual machines, shells and environments: a command works, or ends with one clear message."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from quality_model.cli import EXIT_READER_GONE, run
from quality_model.errors import RegistryError
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params import Params
from quality_model.release.publish import publish, try_publish

from .conftest import PROJECT

MODEL = ("--model", "bundled", "--engine", "torch-float32")
COMMAND = (sys.executable, "-m", "quality_model")
NAME = "ü日.jpg"
ENDS_WITHIN_S = 240


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
    """Run a command to its end."""
    env = environment(**changes)
    return subprocess.run(
        command, cwd=place, env=env, capture_output=True, timeout=ENDS_WITHIN_S, check=False
    )


def in_shell(place: Path, line: str, **changes: str | None) -> subprocess.CompletedProcess[bytes]:
    return start(place, "sh", "-c", line.replace("quality-model", " ".join(COMMAND)), **changes)


# -- where the output goes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "ü\\u65e5.jpg".encode("latin-1")),
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, b"\\xfc\\u65e5.jpg"),
    ],
)
def test_a_name_that_the_output_cannot_encode_is_escaped_and_the_rows_after_it_follow(
    place: Path, changes: dict[str, str], expected: bytes
) -> None:
    names = (f"images/{NAME}", "images/1.jpg", f"nowhere/{NAME}")
    ended = start(place, *COMMAND, "predict", *names, *MODEL, **changes)
    assert ended.returncode == 4, ended.stderr
    rows = ended.stdout.splitlines()
    assert len(rows) == 4
    assert rows[1].startswith(b"images/" + expected) and rows[2].startswith(b"images/1.jpg")
    assert b"Traceback" not in ended.stderr


def test_an_error_that_the_terminal_cannot_encode_is_escaped_and_has_a_traceback_with_verbose(
    place: Path,
) -> None:
    arguments = ("score", "日本", *MODEL)
    plain, verbose = (
        start(place, *COMMAND, *words, *arguments, PYTHONIOENCODING="ascii") for words in ((), ("-v",))
    )
    assert plain.returncode == verbose.returncode == 2
    assert b"Error: \\u65e5\\u672c" in plain.stderr and b"Traceback" not in plain.stderr
    assert b"Traceback" in verbose.stderr and verbose.stderr.endswith(plain.stderr)


@pytest.mark.parametrize(
    ("closed", "image", "code"),
    [
        ("2>&-", "nowhere.jpg", 4),
        (">&- <&-", "images/1.jpg", 0),
        ("<&- >&- 2>&-", "nowhere.jpg", 4),
    ],
)
def test_a_stream_that_is_closed_changes_no_exit_code(
    place: Path, closed: str, image: str, code: int
) -> None:
    ended = in_shell(place, f"quality-model predict {image} {' '.join(MODEL)} {closed}")
    assert ended.returncode == code, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert (b"overall" in ended.stdout) == (closed == "2>&-")


def test_with_closed_streams_no_printed_text_goes_into_a_result(place: Path) -> None:
    ended = in_shell(
        place, f"quality-model score images --output out {' '.join(MODEL)} --workers 1 >&- 2>&- <&-"
    )
    assert ended.returncode == 0
    texts = [path.read_bytes() for path in (place / "out").rglob("*") if path.is_file()]
    assert texts and not [text for text in texts if b"Scoring 3 inputs" in text]


@pytest.mark.parametrize("arguments", [("predict", *(["images/1.jpg"] * 20), *MODEL), ("--help",)])
def test_a_reader_that_goes_away_ends_a_command_silently(place: Path, arguments: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(ENDS_WITHIN_S) == EXIT_READER_GONE == 128 + signal.SIGPIPE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_an_output_without_space_is_an_error_of_the_disk(place: Path) -> None:
    ended = in_shell(place, "quality-model list-datasets >/dev/full")
    assert ended.returncode == 10
    assert b"Error: No space is left" in ended.stderr and b"Traceback" not in ended.stderr


# -- where it runs, and as whom


def test_a_current_folder_that_was_deleted_is_an_error(place: Path) -> None:
    ended = in_shell(place, "mkdir gone && cd gone && rmdir ../gone && quality-model list-datasets")
    assert ended.returncode == 10
    assert ended.stderr.startswith(b"Error: The current folder was deleted.")


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


def test_a_flow_whose_server_does_not_answer_ends_in_one_message_with_its_own_code(place: Path) -> None:
    address = "http://me:canary@127.0.0.1:9/api"
    ended = start(place, sys.executable, "-m", "flows.first_run", PREFECT_API_URL=address)
    assert ended.returncode == 13
    message = ended.stderr.decode()
    assert message.startswith("Error: Prefect's server at http://127.0.0.1:9/api does not answer: ")
    assert "PREFECT_API_URL" in message and len(message.splitlines()) == 2 and "canary" not in message


# -- which tracking server


@pytest.fixture
def rollback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `rollback` in a new project with an address; its exit code and its message."""
    shutil.copyfile(PROJECT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)

    def rollback(uri: str, **changes: str) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            retries = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
            for name, value in {"MLFLOW_TRACKING_URI": uri, **retries, **changes}.items():
                patch.setenv(name, value)
            code = run(["rollback"])
        printed = capsys.readouterr()
        assert "canary" not in printed.out + printed.err
        return code, printed.out + printed.err

    return rollback


def test_a_database_without_its_driver_says_what_to_install(
    rollback: Callable[..., tuple[int, str]],
) -> None:
    drivers = {
        "postgresql": ("psycopg2", "pip install psycopg2-binary"),
        "mysql+pymysql": ("pymysql", "pip install pymysql"),
        "postgresql+nodriver": ("nodriver", "what is before ://"),
    }
    for scheme, (module, words) in drivers.items():
        if find_spec(module) is None:
            code, message = rollback(f"{scheme}://me:canary@127.0.0.1:9/db")
            assert code == 9
            assert message.startswith("Error: Opening the tracking database failed at ")
            assert words in message


def test_an_address_that_cannot_be_used_is_refused_with_a_remedy_and_without_its_password(
    rollback: Callable[..., tuple[int, str]],
) -> None:
    for uri, words in (
        ("ftp://host", "'ftp://host' is not an address of a tracking server"),
        ("user:canary@host:5000", "'host:5000' is not an address"),
        ("http://[::1", "is not an address"),
        ("http://host:99999", "is not an address"),
        ("http://user:pa/canary@127.0.0.1:9", "%2F"),
        ("http://user:pa canary@127.0.0.1:9", "%20"),
        ("postgresql://user:p@canary@127.0.0.1:9/db", "%40"),
        ("http://127.0.0.1:9/#token=canary", "MLFLOW_TRACKING_TOKEN"),
    ):
        code, message = rollback(uri)
        assert code == 2, uri
        assert message.startswith("Error: MLFLOW_TRACKING_URI = ") and words in message


def test_a_server_that_cannot_be_reached_is_one_message_without_passwords(
    rollback: Callable[..., tuple[int, str]],
) -> None:
    away = "https://host.invalid"
    for uri, changes, code, words in (
        ("http://u:p@canary@127.0.0.1:9", {}, 9, "at http://127.0.0.1:9"),
        (away, {"HTTPS_PROXY": "http://me:canary@127.0.0.1:9"}, 9, f"at {away}"),
        (away, {"HTTPS_PROXY": "nonsense://me:canary@127.0.0.1:9"}, 9, f"at {away}"),
        (away, {"MLFLOW_TRACKING_PASSWORD": "canary", "MLFLOW_TRACKING_USERNAME": "me"}, 9, "failed at"),
        (away, {"MLFLOW_HTTP_REQUEST_TIMEOUT": "long"}, 2, "MLFLOW_HTTP_REQUEST_TIMEOUT = 'long'"),
    ):
        found, message = rollback(uri, **changes)
        assert found == code, message
        assert words in message and "Traceback" not in message


def test_files_for_a_store_without_its_package_wait_and_say_what_to_install(
    project: Path, params: Params, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)  # as where it is not installed
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    client.create_experiment(params.registry.experiment, artifact_location="s3://bucket/folder")
    save_model(project / "model", MultiHeadQualityAssessmentModel(), image_size_px=32, facts={})
    assert try_publish(project / "model", root=project, registry=params.registry) is None
    assert "needs the Python package 'boto3'" in caplog.text
    with pytest.raises(RegistryError, match="boto3") as refused:
        publish(project / "model", root=project, registry=params.registry)
    assert refused.value.remedy == "Install it: pip install boto3"
