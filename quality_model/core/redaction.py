"""Credentials never appear: the one function that takes them out of a text that is shown, logged or stored.

It does not parse addresses, because what is wrongly encoded does not parse: the values that the
environment holds are replaced where they stand, then whatever looks like a credential is.
"""

import functools
import json
import logging
import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, unquote

HIDDEN: Final = "***"

_SECRETS: Final = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "DATABRICKS_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
    "PREFECT_SERVER_API_AUTH_STRING",
)
_ADDRESSES: Final = (
    "HF_ENDPOINT",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_TRACKING_URI",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_API_URL",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    *(f"{kind}_PROXY" for kind in ("ALL", "HTTP", "HTTPS")),
    *(f"{kind}_proxy" for kind in ("all", "http", "https")),
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
