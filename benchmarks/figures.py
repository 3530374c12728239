"""The README's block of figures: quality from the model cards, speed and size measured here.

    python -m benchmarks.figures [--images 300]

Rewrites the lines of README.md between the two markers.
"""

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.images import find_photographs, write_images
from benchmarks.machine import describe
from quality_model import pretrained
from quality_model.params import WITHOUT_PROJECT
from quality_model.paths import CARD_NAME
from quality_model.records import HEADS
from quality_model.score.job import score

README: Final = Path(__file__).resolve().parent.parent / "README.md"
BEGIN: Final = "<!-- figures: written by `python -m benchmarks.figures` -->"
END: Final = "<!-- end of figures -->"

_TITLES: Final = (
    "model",
    "R2 on scenes it was not trained on",
    "clean images flagged",
    "images/s",
    "weights",
)
_R2: Final = r"^\| `{}` \| (-?[\d.]+) \["
_FLAGGED: Final = r"^\| `{}` \| .* \| ([\d.]+)% of \d+ \|"


def quality(card: str) -> tuple[str, str]:
    """R2 and the share of clean images flagged, for every head in order, as a model card says."""

    def by_head(pattern: str) -> list[float]:
        found = (re.search(pattern.format(head), card, re.MULTILINE) for head in HEADS)
        return [float(match[1]) for match in found if match is not None]

    r2, flagged = by_head(_R2), by_head(_FLAGGED)
    assert len(r2) == len(flagged) == len(HEADS), "the card lacks figures"
    return ", ".join(f"{value:.2f}" for value in r2), ", ".join(f"{value:.0f} %" for value in flagged)


def block(speeds: dict[str, float], num_images: int) -> list[str]:
    """The lines between the markers, given the images per second of each bundled model."""
    lines = ["", f"| {' | '.join(_TITLES)} |", "|---|---|---|---|---|"]
    for name, folder in pretrained.FOLDERS.items():
        cells = quality((folder / CARD_NAME).read_text(encoding="utf-8"))
        size_mb = (folder / "model.safetensors").stat().st_size / 1e6
        lines.append(f"| `{name}` | {' | '.join(cells)} | {speeds[name]:.0f} | {size_mb:.1f} MB |")
    machine = describe()
    installed_gb = sum(path.stat().st_size for path in Path(sys.prefix).rglob("*") if path.is_file()) / 1e9
    return [
        *lines,
        "",
        "Per head in the order colour cast, blur, watermark, noise. Quality: from the model cards, whose",
        "test sets differ: `bundled` on 527 scenes of other origins with mostly faint degradations,",
        "`bundled-standard` on ten scenes with stronger ones ([docs/results.md](docs/results.md) compares",
        "both on the same images with real defects). Speed:",
        f"{num_images} images of 500 x 375 px, start and checks included, {machine['cores']} cores of an",
        f"{machine['processor']}. Installed: {installed_gb:.1f} GB, most of it PyTorch.",
        "",
    ]


def measure_speed(name: str, images: Path, output: Path, count: int) -> float:
    """Images per second of a bundled model, from the start of the job to its end."""
    section = WITHOUT_PROJECT.score.model_copy(update={"model": name})
    start = time.perf_counter()
    score(section, WITHOUT_PROJECT.limits, root=output.parent, inputs=images, output=output)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300, help="images that each model scores")
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        write_images(images, count, find_photographs(None))
        speeds = {
            name: measure_speed(name, images, Path(scratch) / name, count) for name in pretrained.FOLDERS
        }
    text = README.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text("\n".join([before + BEGIN, *block(speeds, count), END + after]), encoding="utf-8")


if __name__ == "__main__":
    main()
