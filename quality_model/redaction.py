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

_NAMES: Final = r"token|passw(?:or)?d|pwd|secret|api_?key|access_?key|auth_string|signature|credential"
_WORD: Final = r"[^\s'\"<>]"
_PATTERNS: Final = (
    # user:password@ of an address; three slashes begin a path, and hf:// has a revision behind its @.
    (re.compile(rf"(?<!hf:)(?<!/)//(?!/){_WORD}*@"), "//"),
    # The same without a scheme; models:/name@alias is no address.
    (re.compile(rf"(?<![^\s'\"<>(=])[^\s'\"<>/@:=(]+:(?!/){_WORD}+@"), ""),
    (re.compile(rf"([\w.%-]*(?:{_NAMES})[\w.%-]*=){_WORD}+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (
        re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer |basic )?)[^\s'\"]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
)


def redacted(text: str) -> str:
    """The text without credentials; what has none stays as it is."""
    for known, shown in _known(*map(os.environ.get, (*_SECRETS, *_ADDRESSES))):
        text = text.replace(known, shown)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


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


@functools.cache
def _known(*values: str | None) -> tuple[tuple[str, str], ...]:
    """What the environment makes known, and what is shown instead; the longest first."""
    secrets = {value.strip() for value in values[: len(_SECRETS)] if value}
    found: dict[str, str] = {}
    for address in filter(None, values[len(_SECRETS) :]):
        user = _user_info(address)
        if user:
            secrets |= {user, user.partition(":")[2]}
        for value in re.findall(rf"(?:{_NAMES})[\w.%-]*=(.+)", address, re.IGNORECASE | re.DOTALL):
            secrets |= {value, value.partition("&")[0]}
        shown = address.replace(f"{user}@", "", 1) if user else address
        for pattern, instead in _PATTERNS:
            shown = pattern.sub(instead, shown)
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
