"""Requests to object stores: waited for so that Ctrl-C ends them, and repeated while a store does not answer.

obstore repeats each, with growing pauses, for up to three minutes. What fails then is an `OSError` with one
line, without an address that a credential may be part of.
"""

import atexit
import errno
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url
from upath import UPath

from quality_model.errors import MissingExtraError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SAY_AFTER_S: Final = 10.0
_RETRY_FOR: Final = timedelta(minutes=3)
_FIRST_RETRY_FOR: Final = timedelta(seconds=5)
_MAX_RETRIES: Final = 50
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
_REFUSED: Final = frozenset(
    {
        "AuthenticationFailed", "AuthorizationHeaderMalformed", "InvalidAccessKeyId",
        "InvalidAuthenticationInfo", "InvalidSecurity", "InvalidToken", "RequestTimeTooSkewed",
        "SignatureDoesNotMatch", "UnrecognizedClientException",
    }
)  # fmt: skip
"""Codes of answers that no other object would change."""

_NO_CREDENTIALS: Final = {
    "s3": "no credentials were found (AWS_PROFILE, or AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY; for a"
    " public bucket set AWS_SKIP_SIGNATURE to true)",
    **dict.fromkeys(("gs", "az"), "no credentials were found"),
}


def ask(path: UPath, request: Callable[[], T], *, quick: bool = False) -> T:
    """The answer of a store to a request about a path.

    Args:
        quick: Say nothing if it takes long.

    Raises:
        OSError: There is none, or it is a refusal; FileExistsError if a condition is not met.
    """
    future: Future[T] = Future()
    _asking.add(future)
    threading.Thread(target=_answer, args=(future, request), daemon=True).start()
    try:
        try:
            return future.result(None if quick else _SAY_AFTER_S)
        except TimeoutError:
            if future.done():
                raise
            logger.warning("%s: no answer for %.0f s; trying for up to 3 minutes.", path, _SAY_AFTER_S)
            return future.result()
    except (AlreadyExistsError, PreconditionError):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
    except (BaseError, FileNotFoundError, ValueError, NotImplementedError) as error:
        raise _translated(error, path) from None


def ask_again(path: UPath, request: Callable[[], T], *, quick: bool = False) -> T:
    """As `ask`, for what changes nothing: asked again where an answer breaks off, which obstore does not do.

    Raises:
        OSError: See `ask`.
    """
    deadline, pause_s = time.monotonic() + _RETRY_FOR.total_seconds(), _FIRST_PAUSE_S
    while True:
        try:
            return ask(path, request, quick=quick)
        except OSError as error:
            if error.errno != errno.ECONNABORTED or time.monotonic() > deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _answer(future: "Future[T]", request: Callable[[], T]) -> None:
    """Ask in a thread of its own: obstore's calls do not end by Ctrl-C, waiting for them does."""
    try:
        found = request()
    except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
        _asking.discard(future)
        future.set_exception(error)
    else:
        _asking.discard(future)
        future.set_result(found)


_asking: "set[Future[Any]]" = set()

exit_code = 130
"""Of a process that ends while a request has no answer; 130: it was interrupted."""


@atexit.register
def _leave() -> None:
    """End at once while a request has no answer: it would come to an interpreter that is gone, and abort."""
    if _asking:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _translated(error: Exception, path: UPath) -> OSError:
    """What obstore says, as an error of the system with one line."""
    text = str(error)
    code = _found(r"<Code>(\w+)</Code>", text)
    status = int(_found(r"status code: (\d{3})", text) or 0)
    said = code or (str(status) if status else "")
    if code in ("NoSuchBucket", "ContainerNotFound") or "bucket does not exist" in text:
        return OSError(errno.ENODEV, f"there is no bucket {path.path.partition('/')[0]}", str(path))
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if "Expired" in code or code == "TokenRefreshRequired":
        return PermissionError(errno.EPERM, f"the credentials have expired ({code})", str(path))
    if code in _REFUSED or status == 401:
        return PermissionError(errno.EPERM, f"the credentials are refused ({said})", str(path))
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        return PermissionError(errno.EPERM, _NO_CREDENTIALS[path.protocol], str(path))
    if status == 301 or "redirect without LOCATION" in text:
        return OSError(errno.ENODEV, "the bucket is in another region: set AWS_REGION", str(path))
    if status == 403:
        return PermissionError(errno.EACCES, f"access is denied ({said})", str(path))
    if status in (429, 503):
        return OSError(errno.EBUSY, f"the store is overloaded ({said})", str(path))
    if status:
        return OSError(errno.EIO, f"the store answered {said}", str(path))
    if "HTTP error" in text:
        host = _found(r"://(?:[^/@\s]*@)?([^/\s,]+)", text) or "the store"
        what = "no connection to" if "kind: Connect" in text else "the connection broke or timed out:"
        return ConnectionError(errno.ECONNABORTED, f"{what} {host}", str(path))
    if name := re.search(r'Error parsing Path "(.*?)": ', text, re.DOTALL):
        return OSError(errno.EINVAL, f"a name that no client takes: {name[1][-200:]!r}", str(path))
    line = re.sub(r"\S*://\S+", "...", text.partition("\n")[0])[:200]
    return OSError(errno.EINVAL, line or type(error).__name__, str(path))


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def environment_of(protocol: str) -> tuple[tuple[str, str], ...]:
    """The variables of the environment that decide how a store is reached: a change of them is seen."""
    prefixes = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}[protocol]
    return tuple((name, value) for name, value in sorted(os.environ.items()) if name.startswith(prefixes))


@lru_cache(maxsize=64)
def connected(
    protocol: str, bucket: str, *environment: tuple[str, str], is_quick: bool = False
) -> "ObjectStore":
    """The client of a bucket or container.

    Args:
        environment: As of `environment_of`.
        is_quick: It gives up after a few seconds.
    """
    known = dict(environment)
    connect: Any = from_url
    client: dict[str, Any] = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(seconds=120)}
    client["allow_http"] = any(known.get(name, "").startswith("http://") for name in _ENDPOINTS)
    config: dict[str, Any] = {}
    provider = None
    if protocol == "s3":
        endpoint = known.get("AWS_ENDPOINT_URL_S3") or known.get("AWS_ENDPOINT_URL") or ""
        if endpoint:
            config["endpoint"] = endpoint
        if not known.keys() & {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"} and _has_profiles(known):
            provider = _profile(known.get("AWS_PROFILE"))
    return connect(  # type: ignore[no-any-return]
        f"{protocol}://{bucket}",
        config=config or None,
        client_options=client,
        retry_config={
            "max_retries": _MAX_RETRIES,
            "retry_timeout": _FIRST_RETRY_FOR if is_quick else _RETRY_FOR,
        },
        credential_provider=provider,
    )


def _has_profiles(known: dict[str, str]) -> bool:
    """Whether this user has keys or a sign-in in the files of AWS's own tools."""
    folder = Path("~/.aws").expanduser()
    files = [
        Path(known.get("AWS_SHARED_CREDENTIALS_FILE") or folder / "credentials"),
        Path(known.get("AWS_CONFIG_FILE") or folder / "config"),
    ]
    roles = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    return "AWS_PROFILE" in known or (not known.keys() & {*roles} and any(map(Path.exists, files)))


def _profile(name: str | None) -> Any:
    """Keys of a profile of AWS's own tools; None if their files have none.

    Raises:
        PermissionError: They cannot be read, or a sign-in has ended.
        MissingExtraError: boto3 reads them.
    """
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise MissingExtraError(
            "The keys of ~/.aws are read by boto3, which is not installed.",
            'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or: pip install "quality-model[servers]"',
        ) from None
    try:
        return Boto3CredentialProvider()
    except ValueError:
        return None
    except Exception as error:  # noqa: BLE001 - the errors of botocore need no import of it
        said = f"the profile {name or 'default'} of AWS has no credentials ({type(error).__name__})"
        raise PermissionError(errno.EPERM, said) from None
