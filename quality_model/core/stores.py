"""Object stores: an object of s3://, gs://, az:// or hf:// is a path that has the methods of `pathlib.Path`.

Such a path is one of universal-pathlib, over fsspec; obstore does the transfers of S3, Google Cloud Storage
and Azure, with retries and backoff. Both come with the extra ``stores``, hf:// with ``train``. Credentials
are found where each store's own tools look for them; none is an argument of ours.
"""

import errno
import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final, cast

from quality_model.errors import StorageError, UsageError
from quality_model.paths import user_path

if TYPE_CHECKING:
    from quality_model.core.object_path import ObjectPath

OBJECT_STORES: Final = ("s3", "gs", "az")
"""The schemes that can be written to."""

_SCHEMES: Final = "|".join((*OBJECT_STORES, "hf"))
_ADDRESS = re.compile(rf"({_SCHEMES})://+", re.IGNORECASE)
_LOST_SLASH = re.compile(rf"({_SCHEMES}):/(?!/)", re.IGNORECASE)
_OTHER_NAMES: Final = {
    "gcs": "gs", "azure": "az", "abfs": "az", "abfss": "az", "adl": "az", "s3a": "s3", "s3n": "s3",
}  # fmt: skip
_REMEDIES: Final = {
    errno.EPERM: "Get credentials, and run the same command again: it resumes.",
    errno.EACCES: "Check the credentials, and what they may do there.",
    errno.ENODEV: "Check the name: no command makes a bucket.",
    errno.EINVAL: "Check the address.",
    errno.ENOENT: "Something else has removed it.",
}


def is_store_address(text: str) -> bool:
    """Whether a text names a place in an object store."""
    return _ADDRESS.match(text) is not None


def is_in_store(path: Path) -> bool:
    """Whether a path is of an object store; any other is of this machine."""
    return not isinstance(path, Path)


def typed_path(text: str | Path) -> Path:
    """The place that a person named: an address of a store, or a path of this machine as `user_path`.

    Raises:
        UsageError: It is an address, and a wrong one.
    """
    if not isinstance(text, str):
        return user_path(text) if isinstance(text, Path) else text
    if is_store_address(text):
        return store_path(text)
    path = user_path(text)
    scheme, colon, rest = text.partition(":")
    if colon and not path.exists():
        if _LOST_SLASH.match(text):
            raise UsageError(f"{text} has one slash.", f"Did you mean {scheme}://{rest.lstrip('/')}?")
        if rest.startswith("//") and (known := _OTHER_NAMES.get(scheme.lower())):
            raise UsageError(f"{text}: stores of this kind are named {known}://.", "Change the address.")
    return path


def store_path(address: str) -> Path:
    """The place that an address names, such as ``s3://bucket/folder``.

    It is typed as the Path whose methods it has, but is no instance of it, and nothing that needs a file of
    the system (`os`, PyArrow by name, renames) takes it.

    Raises:
        MissingExtraError: The extra is not installed.
        UsageError: The address has no bucket, or holds credentials, or leaves its folder.
    """
    found = _ADDRESS.match(address)
    assert found is not None
    scheme, rest = found[1].lower(), address[found.end() :].rstrip("/")
    if not rest:
        raise UsageError(f"{address} names no bucket.", f"For example {scheme}://bucket/folder.")
    if "@" in (bucket := rest.partition("/")[0]):
        raise UsageError(
            f"The address {scheme}://***@{bucket.rpartition('@')[2]} holds credentials.",
            "Leave them out: they are found where the store's own tools look for them.",
        )
    if has_odd_parts(address):
        raise UsageError(f"{address} has an empty part, or one of dots.", "Write the address without.")
    if scheme in OBJECT_STORES:
        from quality_model.core.object_path import ObjectPath

        return cast(Path, ObjectPath(f"{scheme}://{rest}"))
    from upath import UPath

    return cast(Path, UPath(f"{scheme}://{rest}"))


def has_odd_parts(address: str) -> bool:
    """Whether an address has an empty part, or one of dots: no client takes it for what it says."""
    parts = address.partition("://")[2].strip("/").split("/")
    return any(part in ("", ".", "..") for part in parts)


def writable(path: Path) -> "ObjectPath":
    """A path of a store as one that can be written.

    Raises:
        UsageError: It is of hf://, which is read alone.
    """
    from quality_model.core.object_path import ObjectPath

    if not isinstance(path, ObjectPath):
        schemes = ", ".join(f"{scheme}://" for scheme in OBJECT_STORES)
        raise UsageError(f"{path} cannot be written to.", f"Name a folder, or an address of {schemes}.")
    return path


def explain(error: OSError, path: object) -> StorageError:
    """Turn an error of the operating system about ``path`` into a StorageError with a remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(
            f"No space is left for {path}.", "Free some space and run the same command again: it resumes."
        )
    is_here = isinstance(path, str | PurePath)
    return StorageError(
        f"{path} cannot be used: {error.strerror or error}.",
        "Check the path and its permissions." if is_here else remedy(error),
    )


def remedy(error: OSError) -> str:
    """What to do about what a store refuses."""
    return _REMEDIES.get(error.errno or 0, "Run the same command again later: it resumes.")


def require_local(path: Path, what: str) -> Path:
    """Refuse a place in a store for what has to be a file of this machine.

    Args:
        what: Begins the line, such as "Copies of originals".

    Raises:
        UsageError: It is in a store.
    """
    if is_in_store(path):
        raise UsageError(
            f"{what} are not written to an object store, such as {path}.", "Name a folder of this machine."
        )
    return path
