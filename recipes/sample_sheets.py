"""Draw the sheets of docs/degradations.md: what the profile `calibrated` does, a row for each kind.

    python recipes/sample_sheets.py docs/sheets

The scenes are the photographs that come with scikit-image and scikit-learn. Logos are left out: their
drawings are free, but they are trademarks. Each row's severities rise from left to right; the number
below a sample is its label. The same code draws the same sheets, in some ten minutes:
rare severities take many draws.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from quality_model.core.decoding import Pixels
from quality_model.core.views import resized
from quality_model.data.sample_photos import PHOTOGRAPHS, load_photograph
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.degrade.calibrated import clean_variation, lettering
from quality_model.evaluate.whole_images import central_square
from quality_model.params import WITHOUT_PROJECT
from quality_model.records import HEADS, Head

SIDE_PX: Final = 176
SCENES: Final = ("astronaut", "chelsea", "china", "coffee", "flower", "motorcycle", "rocket")
COLUMNS: Final = 8
LABEL_PX: Final = 14
TITLE_PX: Final = 96
MOST_DRAWS: Final = 40_000
SEED: Final = 2026
PROFILE: Final = PROFILES["calibrated"]

Row = list[tuple[Pixels, str]]
"""Samples, and what stands below each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    lettering.logo = lettering.emblem
    scenes = [
        resized(central_square(photo), SIDE_PX, SIDE_PX)
        for one in PHOTOGRAPHS
        if one.group in SCENES
        for photo in [load_photograph(one.package, one.files[0], WITHOUT_PROJECT.limits)]
    ]
    rows = _rows_of_kinds(scenes)
    for head in HEADS:
        _save(_sheet({kind: rows[head, kind] for kind in PROFILE.kinds[head]}), output / f"{head}.jpg")
    _save(_sheet(dict(_clean_rows(scenes))), output / "clean.jpg")


def _rows_of_kinds(scenes: list[Pixels]) -> dict[tuple[Head, str], Row]:
    """For each kind, the samples that have it alone, one for each part of the range of severities."""
    found: dict[tuple[Head, str], dict[int, tuple[Pixels, str]]] = {}
    wanted = sum(map(len, PROFILE.kinds.values())) * COLUMNS
    for number in range(MOST_DRAWS):
        sample = PROFILE.degrade(
            scenes[number % len(scenes)], SampleRandomness(SEED, f"sheet {number}"), scale=1.0
        )
        if len(sample.applied) != 1 or {"scene", "frame"} & {*sample.delivery}:
            continue
        (done,) = sample.applied
        place = min(COLUMNS - 1, int(done.label * COLUMNS))
        found.setdefault((done.head, done.kind), {}).setdefault(place, (sample.image, f"{done.label:.2f}"))
        if sum(map(len, found.values())) == wanted:
            break
    return {kind: [row[place] for place in sorted(row)] for kind, row in found.items()}


def _clean_rows(scenes: list[Pixels]) -> Iterator[tuple[str, Row]]:
    """Variations that are no degradation: all labels are 0."""
    for kind, (_, vary) in clean_variation.SCENES.items():
        streams = [SampleRandomness(SEED, f"{kind} {n}").stream("scene") for n in range(COLUMNS)]
        yield kind, [(vary(scenes[n % len(scenes)], stream), "") for n, stream in enumerate(streams)]
    for kind, (_, draw) in clean_variation.FRAMES.items():
        row: Row = []
        for n in range(COLUMNS):
            covered, ink = draw(SIDE_PX, SampleRandomness(SEED, f"{kind} {n}").stream("frame"))
            scene = scenes[n % len(scenes)]
            row.append((np.rint(scene + (ink - scene) * covered[..., None]).astype(np.uint8), ""))
        yield kind, row


def _sheet(rows: dict[str, Row]) -> Image.Image:
    height = SIDE_PX + LABEL_PX + 4
    sheet = Image.new("RGB", (TITLE_PX + COLUMNS * (SIDE_PX + 4), height * len(rows)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for line, (kind, row) in enumerate(rows.items()):
        top = line * height
        pen.text((4, top + SIDE_PX // 2), kind.replace("_", "\n"), font=font, fill="black")
        for column, (pixels, label) in enumerate(row):
            left = TITLE_PX + column * (SIDE_PX + 4)
            sheet.paste(Image.fromarray(pixels), (left, top))
            pen.text((left + 2, top + SIDE_PX), label, font=font, fill="black")
    return sheet


def _save(sheet: Image.Image, path: Path) -> None:
    sheet.save(path, quality=82, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
