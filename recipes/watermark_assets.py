"""Build the typefaces, lettering and logos that synthetic watermarks are drawn with.

    /tmp/assets/bin/python recipes/watermark_assets.py

It writes `watermark_assets.zip` and `WATERMARK_ASSETS.md` to quality_model/degrade/calibrated, and prints
the hash that `lettering.PACK_SHA256` has to hold. The same inputs give the same bytes.

Not part of the project's own environment. It needs the npm client, which takes its registry from its own
configuration (`npm_config_registry`), libcairo 1.16, libfribidi, and the packages of `RENDERERS`:

    python -m venv /tmp/assets
    /tmp/assets/bin/pip install cairosvg==2.9.1 fonttools==4.68.0 numpy==2.4.6 pillow==13.0.0

watermark_packages.json names each package, its version, the hash that npm verifies and the typefaces
taken from it, unmodified; watermark_lettering.json has the phrases of each language and their typefaces.
"""

import argparse
import hashlib
import html
import io
import json
import re
import subprocess
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import cairosvg
import numpy as np
import numpy.typing as npt
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont, features

Mask = npt.NDArray[np.uint8]

HERE: Final = Path(__file__).resolve().parent
TARGET: Final = HERE.parent / "quality_model" / "degrade" / "calibrated"
RENDERERS: Final = {"cairosvg": "2.9.1", "fonttools": "4.68.0", "numpy": "2.4.6", "pillow": "13.0.0"}
LICENCES: Final = ("Apache-2.0", "CC0-1.0", "OFL-1.1", "UFL-1.0")

NUM_LOGOS: Final = 700
LOGO_PX: Final = 96
LOGO_COVERAGE: Final = (0.08, 0.75)
"""Mean coverage of a logo that is neither a hairline nor a plain tile."""

STRIP_PX: Final = 64
INK_PX: Final = 60
"""Height of the ink within a strip of lettering."""
LONGEST_PX: Final = 640
SECOND_RENDERING: Final = 3
"""Typefaces of a language from which on each phrase is drawn in two of them."""

INTRODUCTION: Final = """\
# Typefaces, lettering and logos of the synthetic watermarks

`recipes/watermark_assets.py` builds `watermark_assets.zip` from pinned packages. The pack contains:

- `typefaces/*.woff`: files of the `@fontsource` packages, byte for byte, under the licences below.
- `lettering.png`: phrases of this project, drawn with typefaces below; `lettering.json`: their widths
  in pixels.
- `logos.png`: {logos} logos of `simple-icons` {icons} (CC0-1.0). Drawings with a licence of their own
  are left out.
  **The logos are trademarks of their owners.** They are training data for realistic watermarks, imply no
  endorsement by anyone, and are shown in no documentation of this project.
- `LICENSES.md`: this text.

| family | package (release) | licence | copyright | files |
|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to install the packages; default: a temporary one")
    parser.add_argument("--target", type=Path, default=TARGET, help="where to write the pack")
    arguments = parser.parse_args()
    check_renderers()
    packages = json.loads((HERE / "watermark_packages.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        modules = install(packages, arguments.folder or Path(temporary))
        documents = licences(packages, modules)
        members = {"LICENSES.md": documents.encode(), **typefaces(packages, modules)}
        strips = lettering(modules)
        members["lettering.json"] = json.dumps([strip.shape[1] for strip in strips]).encode()
        members["lettering.png"] = png(np.concatenate(strips, axis=1))
        members["logos.png"] = png(np.concatenate(logos(modules)))
    pack = zipped(members)
    (arguments.target / "watermark_assets.zip").write_bytes(pack)
    (arguments.target / "WATERMARK_ASSETS.md").write_text(documents, encoding="utf-8")
    for name in ("lettering.png", "logos.png"):
        print(f"{name}: {len(members[name]):,} bytes")
    print(
        f"{len(members) - 4} typefaces, {len(pack):,} bytes, PACK_SHA256 {hashlib.sha256(pack).hexdigest()}"
    )


def check_renderers() -> None:
    """Other versions draw other pixels, and the pack would not be the committed one."""
    for name, wanted in RENDERERS.items():
        if (found := version(name)) != wanted:
            raise SystemExit(
                f"{name} is {found}; the pack is built with {wanted}.\n  pip install {name}=={wanted}"
            )
    if not features.check("raqm") or not features.check("fribidi"):
        raise SystemExit("Pillow has no complex text layout.\n  Install libfribidi0.")


def install(packages: dict[str, Any], folder: Path) -> Path:
    """Install the pinned packages with npm, which verifies their hashes.

    Returns:
        The folder of the packages.
    """
    pins = {name: pin["version"] for name, pin in packages.items()}
    entries: dict[str, Any] = {"": {"dependencies": pins}}
    for name, pin in packages.items():
        entries[f"node_modules/{name}"] = {"version": pin["version"], "integrity": pin["integrity"]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": pins}))
    (folder / "package-lock.json").write_text(json.dumps({"lockfileVersion": 3, "packages": entries}))
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder / "node_modules"


def typefaces(packages: dict[str, Any], modules: Path) -> dict[str, bytes]:
    """The files of the typefaces, as their packages hold them."""
    return {
        f"typefaces/{path.name}": path.read_bytes()
        for name, pin in packages.items()
        for style in pin.get("typefaces", ())
        for path in [woff(modules, name.removeprefix("@fontsource/"), style)]
    }


def woff(modules: Path, family: str, style: str) -> Path:
    return modules / "@fontsource" / family / "files" / f"{family}-{style}.woff"


def lettering(modules: Path) -> list[Mask]:
    """Coverage of each phrase, (64, width) with no empty column at either side."""
    languages = json.loads((HERE / "watermark_lettering.json").read_text(encoding="utf-8"))
    strips = []
    for language, choice in languages.items():
        faces = [woff(modules, *face.split("/")) for face in choice["faces"]]
        for index, phrase in enumerate(choice["words"]):
            chosen = [faces[index % len(faces)]]
            if len(faces) >= SECOND_RENDERING:
                chosen.append(faces[(index + 1 + index // len(faces)) % len(faces)])
            strips += [strip(phrase, face, language) for face in dict.fromkeys(chosen)]
    return strips


def strip(phrase: str, face: Path, language: str) -> Mask:
    """A phrase as wide as it is with ink of `INK_PX`, or smaller where that is too wide."""
    size_px = float(INK_PX)
    missing = glyph(ImageFont.truetype(face, size_px), "\uffff")
    if any(
        glyph(ImageFont.truetype(face, size_px), character) == missing
        for character in phrase.replace(" ", "")
    ):
        raise SystemExit(f"{phrase!r} has a character that {face.name} lacks")
    for _ in range(4):
        font = ImageFont.truetype(face, size_px, layout_engine=ImageFont.Layout.RAQM)
        left, top, right, bottom = font.getbbox(phrase, language=language)
        size_px *= min(INK_PX / (bottom - top), (LONGEST_PX - 4) / (right - left))
    canvas = Image.new("L", (LONGEST_PX, STRIP_PX))
    origin = (2 - left, (STRIP_PX - (bottom - top)) / 2 - top)
    ImageDraw.Draw(canvas).text(origin, phrase, fill=255, font=font, language=language)
    drawn = np.asarray(canvas)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    if len(rows) < INK_PX // 4 or columns[-1] >= LONGEST_PX - 1:
        raise SystemExit(f"{phrase!r} does not fit its strip, or is empty, in {face.name}")
    return drawn[:, columns[0] : columns[-1] + 1]


def glyph(font: ImageFont.FreeTypeFont, character: str) -> bytes:
    return bytes(font.getmask(character))


def logos(modules: Path) -> list[Mask]:
    """Every n-th logo whose drawing is under the licence of the collection, (96, 96) each."""
    package = modules / "simple-icons"
    own_licence = {
        entry["title"]
        for entry in json.loads((package / "data" / "simple-icons.json").read_text(encoding="utf-8"))
        if entry.get("license", {}).get("type", "CC0-1.0") != "CC0-1.0"
    }
    fit = []
    for path in sorted((package / "icons").glob("*.svg")):
        drawing = path.read_text(encoding="utf-8")
        title = re.search("<title>(.*?)</title>", drawing)
        if title is None or html.unescape(title[1]) in own_licence:
            continue
        mask = logo(drawing)
        if LOGO_COVERAGE[0] <= mask.mean() / 255.0 <= LOGO_COVERAGE[1]:
            fit.append(mask)
    return [fit[index * len(fit) // NUM_LOGOS] for index in range(NUM_LOGOS)]


def logo(drawing: str) -> Mask:
    """The coverage of a black drawing, in steps of 17: they halve the file, and nobody sees them."""
    image = Image.open(
        io.BytesIO(cairosvg.svg2png(drawing.encode(), output_width=LOGO_PX, output_height=LOGO_PX))
    )
    coverage = np.asarray(image.convert("RGBA"))[..., 3]
    return (np.rint(coverage / 17.0) * 17).astype(np.uint8)


def png(sheet: Mask) -> bytes:
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG", compress_level=9)
    return file.getvalue()


def licences(packages: dict[str, Any], modules: Path) -> str:
    """Each package with its version, licence, copyright and files; then the texts of the licences."""
    rows: list[str] = []
    texts: dict[str, str] = {}
    for name, pin in packages.items():
        folder = modules / name
        kind = json.loads((folder / "package.json").read_text(encoding="utf-8"))["license"]
        if kind not in LICENCES:
            raise SystemExit(f"{name} is under {kind}; only {', '.join(LICENCES)} are used")
        if name == "simple-icons":
            continue
        family = name.removeprefix("@fontsource/")
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        files = [f"`typefaces/{family}-{style}.woff`" for style in pin["typefaces"]] or ["lettering only"]
        holder = copyright_line(folder, metadata)
        rows.append(
            f"| {metadata['family']} | {pin['version']} ({metadata['version']}) | {kind} | {holder} | "
            f"{', '.join(files)} |"
        )
        texts.setdefault(kind, licence_text(folder / "LICENSE"))
    icons = packages["simple-icons"]["version"]
    texts_of_licences = [f"\n## {kind}\n\n```text\n{text}\n```" for kind, text in sorted(texts.items())]
    return "\n".join([INTRODUCTION.format(logos=NUM_LOGOS, icons=icons), *rows, *texts_of_licences, ""])


def copyright_line(folder: Path, metadata: dict[str, Any]) -> str:
    """The statements of all files of a family, each once, on one line of a table.

    Where the package names a publisher only, the statement in the file's own name table.
    """
    stated = metadata["license"]["attribution"]
    if "copyright" not in stated.lower():
        first = sorted((folder / "files").glob(f"{metadata['id']}-latin-*.woff"))[0]
        stated = TTFont(first)["name"].getDebugName(0)
    statements = re.split(r"\s+[\w\[\],-]+\.ttf:\s*", " " + " ".join(stated.split()))
    return "; ".join(dict.fromkeys(filter(None, map(str.strip, statements)))).replace("|", "\\|")


def licence_text(path: Path) -> str:
    """The text of a licence, without the copyright of the family that stands before it."""
    lines = [line.rstrip() for line in path.read_text(encoding="utf-8").splitlines()]
    starts = [
        n
        for n, line in enumerate(lines)
        if re.search(r"OPEN FONT LICENSE Version|FONT LICENCE Version|Apache License", line)
    ]
    return "\n".join(lines[starts[0] :]).strip("\n")


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip file without times, in the order of names; fonts and images are compressed already."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as pack:
        for name, content in sorted(members.items()):
            kind = zipfile.ZIP_DEFLATED if name.endswith(".md") else zipfile.ZIP_STORED
            pack.writestr(zipfile.ZipInfo(name), content, kind, 9)
    return file.getvalue()


if __name__ == "__main__":
    main()
