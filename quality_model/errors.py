"""Every error a user can meet.

    QualityModelError            exit code 1
    |-- UsageError               2   a flag, a parameter, a name
    |   |-- ParameterError           params.yaml or an override
    |   |-- MissingExtraError        a package that an extra brings
    |   `-- DeviceUnavailableError   a device that is not here
    |-- GateRefusedError         3   the candidate may not become champion
    |-- InputErrorsAboveLimit    4   more unreadable inputs than the job allows
    |-- SourceError              5   clean images could not be fetched
    |   `-- NetworkUnavailableError
    |-- ValidationError          6   a table broke its contract
    |-- TrainingError            7   training cannot continue
    |-- CheckpointError          8   weights that do not load
    |-- RegistryError            9   tracking server or model registry
    |   |-- ModelNotFoundError
    |   |-- ChampionChangedError     another promotion was faster
    |   `-- NoEarlierChampionError   a rollback has nowhere to go
    |-- StorageError            10   bytes that could not become, or are not, durable
    |   |-- IncompleteError          they have no completion marker
    |   `-- CorruptError             they are not what the completion marker says
    |-- ImageError            11   one image; batch work turns it into a row's error code
    |-- MemoryExhaustedError    12   the system has no memory to give
    |-- FlowServerError         13   the server of the flows does not answer
    `-- DriftError              14   a collection has moved since its reference

Each says what was wrong, the value, and the remedy. None shows a credential: `redacted` is the one function
that takes credentials out of a text that is shown, logged or stored. It does not parse addresses, because
what is wrongly encoded does not parse: it replaces the values that the environment holds, then whatever
looks like a credential.
"""

import functools
import json
import logging
import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote

_LONG_WORD: Final = re.compile(r"(\S{400})(\S{200,})(\S{400})")
"""A name or a value of an input that is longer than anyone reads."""


class QualityModelError(Exception):
    """What a user is shown: the problem, the value, and how to fix it; never a credential.

    Args:
        problem: What was wrong, with the offending value.
        remedy: What to do about it; empty where the problem says it all.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem, self.remedy = _shortened(redacted(problem)), _shortened(redacted(remedy))
        super().__init__(self.problem, self.remedy)

    def __str__(self) -> str:
        return f"{self.problem}\n  {self.remedy}" if self.remedy else self.problem


def _shortened(text: str) -> str:
    """The text, each very long word cut in its middle; the rest stays whole."""
    return _LONG_WORD.sub(lambda word: f"{word[1]} [... {len(word[2])} characters ...] {word[3]}", text)


class UsageError(QualityModelError):
    """A flag, argument or name that cannot be used."""

    exit_code = 2


class ParameterError(UsageError):
    """A key or value of params.yaml, or of an override, that is not allowed."""


class MissingExtraError(UsageError):
    """A package is not installed; the message names the extra that brings it."""


class DeviceUnavailableError(UsageError):
    """The requested device is not on this machine."""


class GateRefusedError(QualityModelError):
    """The gate refused the candidate."""

    exit_code = 3


class InputErrorsAboveLimit(QualityModelError):
    """More inputs were unreadable than the job allows; what was scored is kept."""

    exit_code = 4


class SourceError(QualityModelError):
    """Could not fetch clean images."""

    exit_code = 5


class NetworkUnavailableError(SourceError):
    """A source needs a network that does not answer."""


class ValidationError(QualityModelError):
    """A table does not meet its expectations."""

    exit_code = 6


class TrainingError(QualityModelError):
    """Training cannot continue: the loss is not finite, or there is too little data."""

    exit_code = 7


class CheckpointError(QualityModelError):
    """A file of weights does not load."""

    exit_code = 8


class RegistryError(QualityModelError):
    """The tracking server or the model registry cannot do what was asked."""

    exit_code = 9


class ModelNotFoundError(RegistryError):
    """A reference names no version of the registry."""


class ChampionChangedError(RegistryError):
    """The champion is no longer the one that the candidate was compared with."""


class NoEarlierChampionError(RegistryError):
    """No earlier version was champion."""


class StorageError(QualityModelError):
    """Bytes could not be made durable."""

    exit_code = 10


class IncompleteError(StorageError):
    """A result without its completion marker."""


class CorruptError(StorageError):
    """A result whose bytes are not those that its completion marker says."""


class ImageError(QualityModelError):
    """One image cannot be read.

    Args:
        reason: A short stable code for tables, such as ``truncated`` or ``too_many_pixels``.
        detail: What was found, for people.
    """

    exit_code = 11

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class MemoryExhaustedError(QualityModelError):
    """The system has no memory to give."""

    exit_code = 12


class FlowServerError(QualityModelError):
    """Prefect's server does not answer, or is of another version."""

    exit_code = 13


class DriftError(QualityModelError):
    """A collection has moved since its reference, and the user asked to fail then."""

    exit_code = 14


EXTRAS: Final = {
    "train": (
        *(
            "cv2",
            "datasets",
            "fsspec",
            "huggingface_hub",
            "matplotlib",
            "pandas",
            "scipy",
            "skimage",
            "sklearn",
        ),
        *("torch", "torchvision", "scikit-image", "scikit-learn"),
    ),
    "workflow": (
        *("dvc", "fastapi", "great_expectations", "jinja2", "mlflow", "prefect", "psutil", "sqlalchemy"),
    ),
    "formats": ("pi_heif",),
    "onnx": ("onnx",),
    "stores": ("obstore", "upath", "fsspec"),
    "ray": ("ray",),
    "serve": ("prometheus_client", "starlette", "uvicorn"),
    "servers": ("boto3", "dvc_s3", "flask_wtf", "psycopg2"),
}
"""By extra of the package, the names by which what it brings is imported, or its distribution looked up.

Scoring needs none of them. Where an import fails, `missing_extra` makes one line that names the extra.
"""


def install_command(extra: str) -> str:
    """What a user types to install an extra."""
    return f'pip install "quality-model[{extra}]"'


def missing_extra(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The error to show for a failed import; None if no extra brings the module."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return MissingExtraError(f"This needs {module}, which is not installed: {install_command(extra)}")
    return None


HIDDEN: Final = "***"

_SECRETS: Final = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET"),
    *(
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
    ),
    *("DATABRICKS_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "PREFECT_SERVER_API_AUTH_STRING"),
)
_ADDRESSES: Final = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_ENDPOINT"),
    *("HF_ENDPOINT", "MLFLOW_REGISTRY_URI", "MLFLOW_S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI"),
    *("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_API_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"),
    *("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy"),
)
_SHORTEST: Final = 4
"""Characters: a shorter secret is replaced only within its address, or it would be found in any text."""

_NAMES: Final = r"token|passw(?:or)?d|pwd|secret|api_?key|access_?key|auth_string|signature|credential|^sig=$"
_SECRET: Final = re.compile(_NAMES, re.IGNORECASE)

# Each takes a time linear in the text: none looks for its end from more than one of its beginnings.
_WORD: Final = re.compile(r"[^\s'\"<>]+")
_KEY: Final = re.compile(r"(?<![\w.%-])[\w.%-]++=(?=.)", re.DOTALL)
# user:password@ of an address; three slashes begin a path, and hf:// has a revision behind its @.
_SCHEME: Final = re.compile(r"(?<!hf:)(?<!/)//(?!/)")
# The same without a scheme; models:/name@alias is no address.
_USER: Final = re.compile(r"(?<![^(=])[^/@:=(]++:[^/]")
_AUTHORIZATION: Final = re.compile(
    r"(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer |basic )?)[^\s'\"]+", re.IGNORECASE
)


def redacted(text: str) -> str:
    """The text without credentials; what has none stays as it is."""
    for known, shown in _known(*map(os.environ.get, (*_SECRETS, *_ADDRESSES))):
        text = text.replace(known, shown)
    return _without_credentials(text)


def guard_logs() -> None:
    """Redact every record that anything in this process logs from now on, tracebacks included."""
    make = logging.getLogRecordFactory()
    if getattr(make, "guards", False):
        return

    def guarded(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        try:
            said = record.getMessage()
        except Exception:  # noqa: BLE001 - `logging` itself reports a record that cannot be formatted
            return record
        if (shown := redacted(said)) != said:
            record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[0]:
            trace = "".join(traceback.format_exception(*record.exc_info))
            if (shown := redacted(trace)) != trace:
                record.exc_info, record.exc_text = None, shown.rstrip("\n")
        return record

    guarded.guards = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(guarded)


def show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback without credentials: a `sys.excepthook`."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))


def _without_credentials(text: str) -> str:
    """The text without what looks like a credential."""
    return _AUTHORIZATION.sub(rf"\1{HIDDEN}", _WORD.sub(lambda word: _shown(word[0]), text))


def _shown(word: str) -> str:
    if (at := word.rfind("@")) >= 0 and (scheme := _SCHEME.search(word, 0, at)):
        word = word[: scheme.end()] + word[at + 1 :]
    if (at := word.rfind("@")) >= 0 and (user := _USER.search(word, 0, at)):
        word = word[: user.start()] + word[at + 1 :]
    key = _secret_key(word)
    return word[: key.end()] + HIDDEN if key else word


def _secret_key(text: str) -> re.Match[str] | None:
    """The first ``key=`` that names a secret and has a value."""
    return next((key for key in _KEY.finditer(text) if _SECRET.search(key[0])), None)


@functools.cache
def _known(*values: str | None) -> tuple[tuple[str, str], ...]:
    """What the environment makes known, and what is shown instead; the longest first."""
    secrets = {value.strip() for value in values[: len(_SECRETS)] if value}
    found: dict[str, str] = {}
    for address in filter(None, values[len(_SECRETS) :]):
        user = _user_info(address)
        if user:
            secrets |= {user, user.partition(":")[2]}
        if key := _secret_key(address):
            value = address[key.end() :]
            secrets |= {value, value.partition("&")[0]}
        shown = _without_credentials(address.replace(f"{user}@", "", 1) if user else address)
        for form in _forms(address):
            found[form] = shown
    for secret in secrets:
        found |= {form: HIDDEN for form in _forms(secret) if len(form) >= _SHORTEST}
    return tuple(sorted(found.items(), key=lambda item: -len(item[0])))


def _user_info(address: str) -> str:
    """What is before the last @ of an address, its scheme left out; empty where that is a path."""
    _, slashes, rest = address.partition("//")
    if not slashes:
        rest = address if re.match(r"[^/@]+:[^/].*@", address) else ""
    return "" if rest.startswith("/") else rest.rpartition("@")[0]


def _forms(text: str) -> set[str]:
    """The ways in which programs write a text."""
    plain = {text, unquote(text)}
    plain |= {quote(form, safe=safe) for form in plain for safe in ("", "/", "/:@")}
    return plain | {repr(form)[1:-1] for form in plain} | {json.dumps(form)[1:-1] for form in plain}
