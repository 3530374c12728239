"""Plates: the lettering, logos and both together that watermarks, and clean scenes, have.

A plate is an RGBA image cut close. Typefaces, logos, and lettering in scripts that need shaping, are in a
pack beside this module. recipes/watermark_assets.py builds it; WATERMARK_ASSETS.md lists what is in it, with
licences. Everything is loaded when it is first asked for, once per process. The arrays are read-only.
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
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from quality_model.degrade.casts import Colour
from quality_model.degrade.randomness import Stream
from quality_model.errors import CorruptError

Masks = npt.NDArray[np.uint8]

PACK: Final = Path(__file__).with_name("watermark_assets.zip")
PACK_SHA256: Final = "c43a53948cdfd14c34a23d75da0e9752ffa3f643e93816ebed310f70dd9e9f1c"

CYRILLIC: Final = "-cyrillic-"
"""In the name of a typeface: it has the Russian alphabet and the space alone. Others have the Latin one."""

_TYPEFACES: Final = "typefaces/"
_LOGO_PX: Final = 96
_NOUNS: Final = (
    "Photo", "Photos", "Images", "Stock", "Studio", "Gallery", "Press", "Media", "Agency", "Archive", "Art",
    "Pixel", "Light", "Vista", "Market", "News", "Travel", "Realty", "Motors", "Wedding", "Portrait", "View",
    "Nature", "Design", "Bank", "Shop", "Store", "Works", "Express", "Daily", "World", "Home", "Film", "Lens",
)  # fmt: skip
_NOTICES: Final = (
    *("SAMPLE", "PREVIEW", "DRAFT", "DEMO", "PROOF", "COPY", "WATERMARK", "CONFIDENTIAL", "DO NOT COPY"),
    *("All rights reserved", "for review only", "TRIAL", "Sold", "Copyright", "Not for sale", "Evaluation"),
)
_NAMES: Final = (
    "Anna", "Mark", "Lena", "Jonas", "Maria", "Ivan", "Chloe", "Omar", "Nora", "Paul", "Ella", "Hugo", "Kim",
    "Weber", "Moreau", "Novak", "Rossi", "Larsen", "Silva", "Tanaka", "Olsen", "Haddad", "Costa", "Berg",
)  # fmt: skip
_CYRILLIC: Final = (
    *("Фото", "Образец", "Студия", "Галерея", "Новости", "Копия", "Архив", "Только просмотр", "Агентство"),
    *("Свадебный фотограф", "Пример", "Снимок", "Каталог", "Природа", "Реклама", "Мастерская"),
)
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_ENDINGS: Final = (".com", ".net", ".org", ".de", ".ru", ".cn", ".fr", ".co.uk", ".info", "")

_FOREIGN_SHARE: Final = 0.12
"""Of words: those in other scripts, whose lettering the pack holds as it is."""


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
def phrases() -> tuple[Masks, ...]:
    """Coverage of phrases in scripts that need shaping, uint8 (64, width) each, 0 none to 255 full."""
    widths = json.loads(open_pack().read("lettering.json"))
    return tuple(np.split(_sheet("lettering.png"), np.cumsum(widths)[:-1], axis=1))


def _sheet(name: str) -> Masks:
    """A grey image of the pack, uint8 (height, width)."""
    with Image.open(io.BytesIO(open_pack().read(name))) as image:
        return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width)


def words(stream: Stream) -> str:
    """What a watermark says: a name, a site, a notice, a number."""
    pick = stream.integer(0, 9)
    if pick <= 2:
        text = " ".join(stream.sample(_NOUNS, stream.integer(1, 2)))
    elif pick == 3:
        text = stream.choice(_NOTICES)
    elif pick <= 5:
        name = " ".join(stream.sample(_NAMES, stream.integer(1, 2)))
        text = f"{name} {stream.choice(('Photography', 'Photo', 'Studio', ''))}".strip()
    elif pick <= 7:
        site = "".join(stream.choice(_LETTERS) for _ in range(stream.integer(3, 12)))
        text = stream.choice(("www.", "@", "", "#")) + site + stream.choice(_ENDINGS)
    elif pick == 8:
        text = "".join(stream.choice("0123456789") for _ in range(stream.integer(4, 10)))
    else:
        text = f"{stream.integer(1990, 2030)} {stream.choice(_NOUNS)}"
    if stream.chance(0.25):
        text = stream.choice(("© ", "(c) ", "© ")) + text
    return stream.choice((text, text, text.upper(), text.lower(), text.title()))


def date(stream: Stream) -> str:
    """A date as cameras print it, sometimes with the time."""
    day, month = stream.integer(1, 28), stream.integer(1, 12)
    year = stream.choice((f"{stream.integer(1995, 2030)}", f"'{stream.integer(0, 30):02d}"))
    between = stream.choice(("/", ".", "-", " "))
    orders = ((day, month, year), (month, day, year), (year, month, day))
    text = between.join(part if isinstance(part, str) else f"{part:02d}" for part in stream.choice(orders))
    return text + (f" {stream.integer(0, 23):02d}:{stream.integer(0, 59):02d}" if stream.chance(0.4) else "")


def colour(stream: Stream) -> Colour:
    """White most often, then black, any grey, any colour."""
    pick, grey = stream.uniform(0.0, 1.0), stream.integer(0, 255)
    if pick < 0.5:
        return (255, 255, 255)
    if pick < 0.62:
        return (0, 0, 0)
    return (grey, grey, grey) if pick < 0.75 else (grey, stream.integer(0, 255), stream.integer(0, 255))


def lettering(text: str, size_px: float, ink: Colour, stream: Stream) -> Image.Image:
    """Text in a random typeface; now and then words of another script instead, or an outline alone."""
    name = stream.choice(typefaces())
    if CYRILLIC in name:  # it has no other letters, and no digits
        text = stream.choice(_CYRILLIC)
        text = stream.choice((text, text.upper(), text.lower()))
    foreign, hollow = stream.chance(_FOREIGN_SHARE), stream.chance(0.06)
    other = stream.choice(phrases())
    if foreign:
        height = max(6, round(size_px))
        width = max(1, round(other.shape[1] * height / other.shape[0]))
        return plate_of(Image.fromarray(other).resize((width, height), Image.Resampling.BILINEAR), ink)
    face = typeface(name, max(6, round(size_px)))
    stroke = max(1, round(size_px / 18)) if hollow else 0
    left, top, right, bottom = (round(edge) for edge in face.getbbox(text, stroke_width=stroke))
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    pen = ImageDraw.Draw(mask)
    if hollow:
        pen.text((-left, -top), text, fill=0, font=face, stroke_width=stroke, stroke_fill=255)
    else:
        pen.text((-left, -top), text, fill=255, font=face)
    return plate_of(mask, ink)


def logo(size_px: float, ink: Colour, stream: Stream) -> Image.Image:
    """A logo in one colour."""
    side = max(6, round(size_px))
    mask = Image.fromarray(logos()[stream.integer(0, len(logos()) - 1)])
    return plate_of(
        mask.resize((side, side), Image.Resampling.BOX if side < 96 else Image.Resampling.BILINEAR), ink
    )


def emblem(size_px: float, ink: Colour, stream: Stream) -> Image.Image:
    """A ring, a disc, a frame or a shield with initials in it."""
    side = max(12, round(size_px))
    mask, line = Image.new("L", (side, side)), max(1, round(side * stream.uniform(0.03, 0.12)))
    pen, box = ImageDraw.Draw(mask), (0, 0, side - 1, side - 1)
    shape = stream.choice(("ring", "ring", "disc", "frame", "diamond"))
    if shape == "ring":
        pen.ellipse(box, outline=255, width=line)
    elif shape == "disc":
        pen.ellipse(box, fill=255)
    elif shape == "frame":
        pen.rounded_rectangle(box, round(side * stream.uniform(0.0, 0.3)), outline=255, width=line)
    else:
        half = side / 2
        pen.polygon([(half, 0), (side - 1, half), (half, side - 1), (0, half)], outline=255, width=line)
    initials = "".join(stream.choice(_LETTERS) for _ in range(stream.integer(1, 3))).upper()
    letters = fitted(lettering(initials, 0.5 * side, ink, stream), 0.62 * side).getchannel("A")
    place = (side - letters.width) // 2, (side - letters.height) // 2
    inside = Image.new("L", (side, side))
    inside.paste(letters, place)
    combine = ImageChops.subtract if shape == "disc" else ImageChops.lighter
    return plate_of(combine(mask, inside), ink)


def plate(size_px: float, stream: Stream, text: str | None = None) -> Image.Image:
    """Lettering of this size, with or without a logo, or a logo; with or without shadow, outline or a box.

    Args:
        size_px: Height of the letters.
        stream: Every choice is drawn from it.
        text: What it says; by default `words`.
    """
    ink, pick = colour(stream), stream.uniform(0.0, 1.0)
    drawn = words(stream) if text is None else text
    parts = []
    if pick < 0.4 and text is None:
        parts.append(logo(size_px * stream.uniform(0.9, 3.0), ink, stream))
    if pick > 0.2 or text is not None:
        parts.append(lettering(drawn, size_px, ink, stream))
    stacked = stream.chance(0.3)
    result = _joined(parts, max(2, round(0.25 * size_px)), below=stacked)
    effect, dark = stream.uniform(0.0, 1.0), sum(ink) < 3 * 128
    other: Colour = (255, 255, 255) if dark else (0, 0, 0)
    if effect < 0.16:
        return _shadowed(result, max(1, round(size_px / 16)), other, stream.uniform(0.3, 0.9))
    if effect < 0.3:
        return _outlined(result, max(1, round(size_px / 22)), other)
    if effect < 0.4:
        box = stream.choice(
            (other, other, (stream.integer(0, 255), stream.integer(0, 255), stream.integer(0, 255)))
        )
        return _boxed(result, round(size_px * stream.uniform(0.15, 0.5)), box, stream)
    if effect < 0.47:
        return _embossed(result, max(1, round(size_px / 24)))
    return result


def plate_of(mask: Image.Image, ink: Colour) -> Image.Image:
    """A coverage mask in one colour."""
    filled = Image.new("RGBA", mask.size, (*ink, 0))
    filled.putalpha(mask)
    return filled


def _joined(parts: list[Image.Image], gap: int, *, below: bool) -> Image.Image:
    """One plate of one or two, side by side or one below the other, centred."""
    if len(parts) == 1:
        return parts[0]
    widths, heights = [part.width for part in parts], [part.height for part in parts]
    size = (max(widths), sum(heights) + gap) if below else (sum(widths) + gap, max(heights))
    result, at = Image.new("RGBA", size), 0
    for part in parts:
        middle = (size[0] - part.width) // 2, (size[1] - part.height) // 2
        result.paste(part, (middle[0], at) if below else (at, middle[1]))
        at += (part.height if below else part.width) + gap
    return result


def _shadowed(image: Image.Image, offset: int, ink: Colour, strength: float) -> Image.Image:
    result = Image.new("RGBA", (image.width + offset, image.height + offset))
    faded = image.getchannel("A").point([round(value * strength) for value in range(256)])
    result.paste(plate_of(faded, ink), (offset, offset))
    result.alpha_composite(image)
    return result


def _outlined(image: Image.Image, width: int, ink: Colour) -> Image.Image:
    grown = Image.new("L", (image.width + 2 * width, image.height + 2 * width))
    grown.paste(image.getchannel("A"), (width, width))
    result = plate_of(grown.filter(ImageFilter.MaxFilter(2 * width + 1)), ink)
    result.alpha_composite(image, (width, width))
    return result


def _boxed(image: Image.Image, margin: int, ink: Colour, stream: Stream) -> Image.Image:
    size = (image.width + 2 * margin, image.height + 2 * margin)
    mask = Image.new("L", size)
    radius = round(min(size) * stream.choice((0.0, 0.0, 0.15, 0.5)))
    box = (0, 0, size[0] - 1, size[1] - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius, fill=stream.integer(60, 255))
    result = plate_of(mask, ink)
    result.alpha_composite(image, (margin, margin))
    return result


def _embossed(image: Image.Image, offset: int) -> Image.Image:
    """A lit and a dark edge, and next to nothing between them."""
    size = (image.width + 2 * offset, image.height + 2 * offset)

    def shifted(by: int) -> Image.Image:
        mask = Image.new("L", size)
        mask.paste(image.getchannel("A"), (offset + by, offset + by))
        return mask

    light, dark, body = shifted(-offset), shifted(offset), shifted(0)
    result = plate_of(ImageChops.subtract(dark, body), (0, 0, 0))
    result.alpha_composite(plate_of(ImageChops.subtract(light, body), (255, 255, 255)))
    faint = body.point([round(0.25 * value) for value in range(256)])
    result.alpha_composite(plate_of(faint, (255, 255, 255)))
    return result


def fitted(image: Image.Image, longest_px: float) -> Image.Image:
    """Shrunk, if necessary, so that no side is longer."""
    factor = min(1.0, longest_px / max(image.size))
    if factor >= 1.0:
        return image
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.BOX)


def turned(image: Image.Image, angle_deg: float) -> Image.Image:
    """Turned, in a plate as large as that needs."""
    if abs(angle_deg) < 0.5:
        return image
    return image.rotate(angle_deg, Image.Resampling.BILINEAR, expand=True)
