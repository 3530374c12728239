"""Object stores: an object of s3://, gs://, az:// or hf:// is a path that has the methods of `pathlib.Path`.

Such a path is one of universal-pathlib, over fsspec; obstore does the transfers of S3, Google Cloud Storage
and Azure, with retries and backoff. Both come with the extra ``stores``, hf:// with ``train``. Credentials are
found where each store's own tools look for them; none is an argument of ours.
"""

import re
from functools import cache
from pathlib import Path
from typing import Final, cast

_OBJECT_STORES: Final = ("s3", "gs", "az")
_ADDRESS = re.compile(rf"({'|'.join((*_OBJECT_STORES, 'hf'))}):/+", re.IGNORECASE)


def is_store_address(text: str) -> bool:
    """Whether a text names a place in an object store."""
    return _ADDRESS.match(text) is not None


def is_in_store(path: Path) -> bool:
    """Whether a path is of an object store; any other is of this machine."""
    return not isinstance(path, Path)


def store_path(address: str) -> Path:
    """The place that an address names, such as ``s3://bucket/folder``.

    It is typed as the Path whose methods it has, but is no instance of it, and nothing that needs a file of
    the system (`os`, PyArrow by name, locks, renames) takes it.

    Raises:
        MissingExtraError: The extra is not installed.
    """
    found = _ADDRESS.match(address)
    assert found is not None
    scheme = found[1].lower()
    if scheme in _OBJECT_STORES:
        _register()
    from upath import UPath

    path = UPath(f"{scheme}://{address[found.end() :].rstrip('/')}")
    return cast(Path, path)


@cache
def _register() -> None:
    """Let fsspec use obstore."""
    from obstore.fsspec import register

    register(_OBJECT_STORES)
