"""Typefaces, lettering and logos that watermarks are drawn with, from the pack beside this module.

The pack is built by recipes/watermark_assets.py; WATERMARK_ASSETS.md lists what is in it, with licences.
Everything is loaded when it is first asked for, once per process. The arrays are read-only.
"""

import hashlib
import io
import json
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFont

from quality_model.errors import CorruptError

Masks = npt.NDArray[np.uint8]

PACK: Final = Path(__file__).with_name("watermark_assets.zip")
PACK_SHA256: Final = "c43a53948cdfd14c34a23d75da0e9752ffa3f643e93816ebed310f70dd9e9f1c"

CYRILLIC: Final = "-cyrillic-"
"""In the name of a typeface: it has the Russian alphabet and the space alone. Others have the Latin one."""

_TYPEFACES: Final = "typefaces/"
_LOGO_PX: Final = 96


@lru_cache(maxsize=1)
def open_pack(path: Path = PACK) -> zipfile.ZipFile:
    """The pack, held in memory, its hash checked.

    Raises:
        CorruptError: It is missing, or not the pack of this version.
    """
    remedy = "Install quality-model again; in a clone, run `git checkout -- " + path.name + "` in its folder."
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptError(
            f"{path}: the typefaces of the watermarks cannot be read: {error}", remedy
        ) from error
    if (found := hashlib.sha256(content).hexdigest()) != PACK_SHA256:
        raise CorruptError(f"{path}: its SHA-256 is {found}, not {PACK_SHA256}", remedy)
    return zipfile.ZipFile(io.BytesIO(content))


@lru_cache(maxsize=1)
def typefaces() -> tuple[str, ...]:
    """Sorted names ``family-subset-weight-style``, such as ``lato-latin-700-normal``.

    The subset is ``latin`` or ``cyrillic``. A Latin typeface has A-Z, a-z, 0-9, the space and
    ``.,:-/@#&'()!©``; a Cyrillic one has the Russian alphabet and the space, but no digits.
    """
    names = (Path(name) for name in open_pack().namelist() if name.startswith(_TYPEFACES))
    return tuple(sorted(name.stem for name in names))


@lru_cache(maxsize=64)
def typeface(name: str, size_px: int) -> ImageFont.FreeTypeFont:
    """A typeface of `typefaces` at a size, in the basic layout: the same pixels on every machine."""
    file = io.BytesIO(open_pack().read(f"{_TYPEFACES}{name}.woff"))
    return ImageFont.truetype(file, size_px, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1)
def logos() -> Masks:
    """Coverage of every logo, uint8 (n, 96, 96), 0 none to 255 full."""
    return _sheet("logos.png").reshape(-1, _LOGO_PX, _LOGO_PX)


@lru_cache(maxsize=1)
def lettering() -> tuple[Masks, ...]:
    """Coverage of phrases in scripts that need shaping, uint8 (64, width) each, 0 none to 255 full."""
    widths = json.loads(open_pack().read("lettering.json"))
    return tuple(np.split(_sheet("lettering.png"), np.cumsum(widths)[:-1], axis=1))


def _sheet(name: str) -> Masks:
    """A grey image of the pack, uint8 (height, width)."""
    with Image.open(io.BytesIO(open_pack().read(name))) as image:
        return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width)
