"""A result as one HTML file to look at: no network, no server, at most 20 MB.

The page is gallery.html with gallery.css, gallery.js and its data within. A content security policy forbids
the browser to fetch anything or to run another script. Keys and details are data, which the script shows as
text.
"""

import base64
import hashlib
import html
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from quality_model.core import storage
from quality_model.core.folders import is_inside, is_there
from quality_model.curate.finished import FinishedResult, open_finished, read_keys
from quality_model.curate.originals import moved_to
from quality_model.curate.overview import Overview, Row, overview
from quality_model.errors import UsageError
from quality_model.params import WITHOUT_PROJECT
from quality_model.records import HEADS, MEANINGS, Head
from quality_model.score.compare import read_again
from quality_model.score.sketches import jpeg_of
from quality_model.score.summary import REPORT_NAME
from quality_model.score.thumbnails import Thumbnail, read_thumbnails

GALLERY_NAME: Final = f"{REPORT_NAME}/gallery.html"
"""Where the gallery of a result is, in its folder."""
CHOSEN_NAME: Final = f"{REPORT_NAME}/chosen.html"
"""Where a gallery of images that a user chose is."""

_MAX_BYTES: Final = 20_000_000
_MOST: Final = 240
"""Images of a section."""
_LARGEST_DETAIL: Final = 500
_GENERATOR: Final = b'<meta name="generator" content="quality-model gallery">'
_HEAD_BYTES: Final = 2000
"""In which a page has that line."""
TITLES: Final[dict[Head, tuple[str, str]]] = {
    "color_cast": ("Colour cast", "cast"),
    "blurriness": ("Blur", "blur"),
    "watermark": ("Watermark", "mark"),
    "noise": ("Noise", "noise"),
}
"""What a head is called, and where there is little room."""


@dataclass(frozen=True, slots=True)
class Section:
    """Images to show under a title, in this order; those without scores are left out.

    Of a ``head`` it stands below that head's histogram, else by itself.

    Attributes:
        tab: It has a tab of this title, which opens with the scores of ``head``, or the worst of each image.
        count: On the tab.
    """

    title: str
    keys: Sequence[str]
    note: str = ""
    head: Head | None = None
    tab: str = ""
    count: int | None = None


def write_gallery(
    output: Path,
    to: Path | None = None,
    sections: Sequence[Section] | None = None,
    *,
    heading: str = "",
    about: str = "",
    notes: Mapping[str, str] | None = None,
    thresholds: Mapping[Head, float] | None = None,
    originals: Path | None = None,
) -> Path:
    """Write the gallery of a complete result, and give its path.

    Args:
        output: Folder of the result.
        to: The file; by default `GALLERY_NAME` of the result.
        sections: What to show, the first 240 images of each; by default the worst of each head, those around
            its threshold, and a sample. From their ends is left out what does not fit into 20 MB.
        heading: Beside the name of the result.
        about: A line below the heading.
        notes: What to say of an image on its card, by key.
        thresholds: Flag by these; a head without one has that of the result.
        originals: Where the images are now, if they were moved.

    Raises:
        UsageError: The folder is no result, one of another release, or one whose images are neither kept nor
            where they were; ``to`` is no place for a page, or no image of the sections has scores.
        IncompleteError, CorruptError, StorageError: As of `open_finished` and `storage.write_text`.
    """
    result = open_finished(output)
    to = output / GALLERY_NAME if to is None else to
    require_place(to, output)
    own = {**result.thresholds, **(thresholds or {})}
    result = replace(result, model=replace(result.model, thresholds=own))
    if originals is not None:
        result = moved_to(result, originals)
    kept = read_thumbnails(output)
    if sections is None:
        found = overview(result, shown=list(kept) if kept else None)
        rows, sections = _standard(found, result)
    else:
        found = overview(result, keys={key for section in sections for key in section.keys[:_MOST]})
        rows = found.chosen
        if not rows and any(section.keys for section in sections):
            raise UsageError(
                f"No image of {sections[0].title} has scores in {output}.",
                "Name keys as the result has them.",
            )
    if missing := [key for key in rows if key not in kept]:
        kept = kept | _read(result, missing, required=not kept)
    images = {
        key: _image(row, kept.get(key), result.thresholds, (notes or {}).get(key, ""))
        for key, row in rows.items()
    }
    storage.write_text(to, _page(result, found, images, sections, heading, about))
    return to


def write_chosen(output: Path, to: Path | None, only: Path, head: Head | None = None) -> Path:
    """Write a gallery of the images that a file names, and give its path.

    Args:
        output: Folder of the result.
        to: The file; by default `CHOSEN_NAME` of the result.
        only: Keys, as of `read_keys`; the first 240 are shown.
        head: Show its scores first; None: the worst of each image.

    Raises:
        UsageError: ``only`` cannot be read, or has no key of an image with scores; and as of `write_gallery`.
    """
    keys = [key for key in dict.fromkeys(read_keys(only).to_pylist()) if key]
    if not keys:
        raise UsageError(f"{only} has no keys.", "It has a key a line.")
    section = Section(f"Chosen by {only.name}", keys, head=head, tab="Chosen", count=len(keys))
    return write_gallery(output, output / CHOSEN_NAME if to is None else to, [section])


def require_place(to: Path, output: Path) -> None:
    """Refuse a file that is no place for the gallery of the result in ``output``.

    Raises:
        UsageError: By its name it is no page, it is among the files of the result, or a file that is none.
    """
    place, own = to.resolve(), output.resolve()
    if to.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{to} is not the name of an HTML file.", "Name one, such as gallery.html.")
    if is_inside(to, output) and place.parent != own / REPORT_NAME:
        raise UsageError(f"{to} is among the files of the result.", f"Write to {output / GALLERY_NAME}.")
    if place != own / GALLERY_NAME and to.exists() and not _is_gallery(to):
        raise UsageError(f"{to} is there and is no gallery.", "Choose another name, or move it away.")


def _is_gallery(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return _GENERATOR in file.read(_HEAD_BYTES)
    return False


def _standard(found: Overview, result: FinishedResult) -> tuple[dict[str, Row], list[Section]]:
    """What a gallery shows of its own accord."""
    rows = {row.key: row for row in found.sample}
    sections = []
    for head in HEADS:
        for title, note, chosen in (
            ("The worst", "highest score first", found.worst[head]),
            ("Around the threshold", "where a limit decides", found.near.get(head, ())),
        ):
            rows |= {row.key: row for row in chosen}
            if chosen:
                sections.append(Section(title, [row.key for row in chosen], note, head))
    if found.sample:
        note = "the same images on every machine, whatever their scores"
        sections.append(Section("A random sample", [row.key for row in found.sample], note))
    return rows, sections


def _read(result: FinishedResult, keys: list[str], *, required: bool) -> dict[str, Thumbnail]:
    """Thumbnails of images that are read again; which view decided is not known of them."""
    remedy = "Put them back there, or score again with this release, which keeps thumbnails."
    if not is_there(result.root):
        if not required:
            return {}
        raise UsageError(
            f"{result.folder} has no thumbnails, and its images are not at {result.root}.", remedy
        )
    images = read_again(result.folder, result.root, keys, WITHOUT_PROJECT.score, result.limits)
    read = {
        key: Thumbnail(key, jpeg_of(pixels), {})
        for key, pixels in zip(keys, images, strict=True)
        if pixels is not None
    }
    if required and not read:
        raise UsageError(
            f"{result.folder} has no thumbnails, and no image at {result.root} can be read.", remedy
        )
    return read


def _page(
    result: FinishedResult,
    found: Overview,
    images: Mapping[str, dict[str, Any]],
    sections: Sequence[Section],
    heading: str,
    about: str,
) -> str:
    name = result.folder.resolve().name
    data = {
        "name": f"{name}: {heading}" if heading else name,
        "about": about,
        "id": result.plan_sha256,
        "model": result.model.title,
        "inputs": found.inputs,
        "scored": found.scored,
        "command": f"quality-model filter {shlex.quote(str(result.folder))}",
        "heads": [
            {
                "name": head,
                "title": TITLES[head][0],
                "short": TITLES[head][1],
                "meaning": MEANINGS[head],
                "threshold": result.thresholds.get(head),
                "flagged": found.flagged[head],
                "histogram": found.histograms[head].tolist(),
            }
            for head in HEADS
        ],
        "errors": [
            {
                "code": code,
                "count": error.count,
                "examples": [[_short(key), _short(detail)] for key, detail in error.examples],
            }
            for code, error in sorted(found.errors.items(), key=lambda one: (-one[1].count, one[0]))
        ],
    }
    parts = {
        "title": html.escape(f"Gallery of {name}"),
        "style": _text("gallery.css"),
        "script": _text("gallery.js"),
    }
    parts |= {f"{part}_hash": _csp_hash(parts[part]) for part in ("style", "script")}
    template = _text("gallery.html")
    used = len(_json(data)) + sum(map(len, parts.values())) + len(template)
    data |= _images(images, sections, _MAX_BYTES - used - 10_000)
    parts["data"] = _json(data)
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)
    return page.encode("utf-8", "backslashreplace").decode()  # the name of a folder may not be Unicode


def _images(made: Mapping[str, dict[str, Any]], sections: Sequence[Section], room: int) -> dict[str, Any]:
    """The images of the sections as JSON values: each once, as many as there is room for."""
    images: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    shown: list[list[int]] = [[] for _ in sections]
    for rank in zip_longest(*(section.keys[:_MOST] for section in sections)):
        for place, key in enumerate(rank):
            if key is None or key not in made:
                continue
            if key not in places:
                if (room := room - len(_json(made[key])) - 16) < 0:
                    break
                places[key] = len(images)
                images.append(made[key])
            shown[place].append(places[key])
        if room < 0:
            break
    about = [
        {
            "title": section.title,
            "note": section.note,
            "head": None if section.head is None else HEADS.index(section.head),
            "tab": section.tab or None,
            "count": section.count,
            "images": numbers,
            "of": len(section.keys),
        }
        for section, numbers in zip(sections, shown, strict=True)
    ]
    return {"images": images, "sections": about}


def _image(
    row: Row, thumbnail: Thumbnail | None, thresholds: Mapping[Head, float], note: str
) -> dict[str, Any]:
    known = thumbnail.boxes if thumbnail else {}
    boxes = [known[head] for head in HEADS] if known else None
    judged = zip(HEADS, row.scores, strict=True)
    return {
        "key": row.key,
        "scores": [round(score, 9) for score in row.scores],
        "overall": round(row.overall, 4),
        "flags": [HEADS.index(head) for head, score in judged if score > thresholds.get(head, 1)],
        "note": note,
        "jpeg": base64.b64encode(thumbnail.jpeg).decode() if thumbnail else None,
        "boxes": boxes and [box and [round(end, 4) for end in box] for box in boxes],
    }


def _json(value: Any) -> str:
    """JSON in ASCII, in which nothing can end the element that holds it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _short(text: str) -> str:
    return text if len(text) <= _LARGEST_DETAIL else text[: _LARGEST_DETAIL - 1] + "…"


def _text(name: str) -> str:
    return files("quality_model.curate").joinpath(name).read_text("utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
