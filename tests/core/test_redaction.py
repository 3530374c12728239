"""No credential is in a text that is shown, logged or stored, whether or not its address can be parsed."""

import io
import json
import logging
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from quality_model import errors
from quality_model.errors import RegistryError, UsageError, redacted
from quality_model.release.mlflow_connection import mlflow_errors, tracking_uri

SPECIAL = "/#?@:%&=+ '\"\\<>[]{}|^`~!$*(),;"
PASSWORDS = st.text(SPECIAL + "abcXYZ019é日", min_size=1, max_size=20).map(lambda text: f"S3{text}cr3t")
FORMS = (
    "http://user:{}@127.0.0.1:9",
    "https://{}@host/path",
    "http://:{}@host",
    "user:{}@host:5000",
    "postgresql://user:{}@host/db",
    "mysql+pymysql://user:{}@host/db?charset=utf8",
    "http://host:9?token={}",
    "http://host/api?a=b&password={}",
    "postgresql://host/db?user=me&password={}",
    "https://host/?X-Api-Key=1&api_key={}",
)
# How a library embeds what it was given.
WORDS = (
    "Failed to parse: {}",
    "HTTPConnectionPool(host='h'): Max retries exceeded with url: {}/api (Caused by X)",
    '(psycopg2.OperationalError) could not connect to "{}"',
    "Invalid URL {!r}: no host",
)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PASSWORDS, st.sampled_from(FORMS), st.sampled_from(WORDS), st.booleans())
def test_no_password_of_the_tracking_address_is_in_any_message(
    password: str, form: str, words: str, encoded: bool
) -> None:
    given_as = quote(password, safe="") if encoded else password
    uri = form.format(given_as)
    with environment(MLFLOW_TRACKING_URI=uri):
        for text in (words.format(uri), words.format(given_as), json.dumps({"uri": uri})):
            assert_hidden(password, redacted(text))
            assert_hidden(given_as, redacted(text))
        assert_hidden(password, str(UsageError(words.format(uri), uri)))
        try:
            tracking_uri(Path())
        except UsageError as error:
            assert_hidden(given_as, "".join(traceback.format_exception(error)))


@settings(max_examples=100, deadline=None)
@given(PASSWORDS, st.sampled_from(["MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "PREFECT_API_KEY"]))
def test_no_secret_of_the_environment_is_in_any_message(password: str, name: str) -> None:
    assume(password == password.strip())
    with environment(**{name: password}):
        for text in (f"header {password}", f"{password!r}", json.dumps([password]), quote(password, safe="")):
            assert_hidden(password, redacted(text))


def assert_hidden(secret: str, shown: str) -> None:
    core = secret.strip()
    for form in (core, quote(core, safe=""), quote(core), repr(core)[1:-1], json.dumps(core)[1:-1]):
        assert form not in shown, shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pa/ss@host:9 fails", "http://host:9 fails"),
        ("git and user:ss@host:5000", "git and host:5000"),
        ("'http://h?token=abc'", "'http://h?token=***'"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("dsn host=h password=abc user=me", "dsn host=h password=*** user=me"),
    ],
)
def test_what_looks_like_a_credential_is_hidden_though_nobody_named_it(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "models:/quality-model@champion names no model.",
        "hf://datasets/owner/name@0123abc/train?shuffle=42#7",
        "sqlite:////home/me@work/mlflow.db cannot be opened",
        "/data/a@b/c.jpg: truncated",
        "http://127.0.0.1:5000/api/2.0/mlflow does not answer.",
        "train.start_from: 'first@0123456789ab'",
        "12:30 me@example.com",
        "a.tar#img/1.jpg",
    ],
)
def test_what_is_no_credential_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_long_texts_are_redacted_in_a_time_that_grows_with_their_length() -> None:
    ends = {
        "x": "token", "token": "password", "token=": "&password", "//a": "?token", "(a:b": "&token",
        "//a@": "?token", "a:": "?token", "a=": "&token", " ": "password", "authorization ": "password",
    }  # fmt: skip
    program = (
        "from quality_model.errors import redacted\n"
        f"for repeated, name in {ends}.items():\n"
        "    for end in ('', f'{name}=canary', '//me:canary@host'):\n"
        "        text = repeated * (200_000 // len(repeated)) + end\n"
        "        assert 'canary' not in redacted(text)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_message_shows_the_beginning_and_the_end_of_a_value_that_is_too_long_to_read() -> None:
    error = UsageError(f"There is no column {'x' * 100_000}.", "Choose another one.")
    assert len(str(error)) < 1_000
    assert error.problem.startswith("There is no column xxx") and error.problem.endswith("xxx.")
    assert " characters ...]" in error.problem
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_short_password_hides_no_other_text() -> None:
    with environment(MLFLOW_TRACKING_URI="http://me:a@host", MLFLOW_TRACKING_PASSWORD="1"):
        assert redacted("http://me:a@host has 11 names") == "http://host has 11 names"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a handler of any library writes while the records are guarded."""
    before, stream = logging.getLogRecordFactory(), io.StringIO()
    errors.guard_logs()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("some.library")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logging.setLogRecordFactory(before)


def test_records_of_every_library_and_their_tracebacks_are_redacted(logged: io.StringIO) -> None:
    logger = logging.getLogger("some.library")
    try:
        raise ConnectionError("http://user:canary@host is down")
    except ConnectionError:
        logger.exception("Retrying %s after %d s", "http://user:canary@host", 3)
    said = logged.getvalue()
    assert "Retrying http://host after 3 s" in said and "ConnectionError: http://host is down" in said
    assert "canary" not in said
    record = logging.getLogger("some.library").makeRecord(
        "some.library", logging.INFO, "file", 1, "%s plain %d", ("is", 2), None
    )
    assert record.args == ("is", 2)  # some formatters read them


def test_errors_of_the_tracking_server_carry_no_credential_of_another_address() -> None:
    refused = pytest.raises(RegistryError, match="failed at http://shown")
    with refused as error, mlflow_errors("http://shown", "Asking"):
        raise ConnectionError("proxy http://me:canary@proxy:3128 refused")
    assert "canary" not in str(error.value)
