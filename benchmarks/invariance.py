"""What moves the scores of clean images and should not, and how near scores of degraded ones are to labels.

    python -m benchmarks.invariance [FOLDER] [--model bundled]

FOLDER holds clean images that the model was not trained on; by default the photographs of the packages.
"""

import argparse
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from quality_model import Scorer
from quality_model.core import decoding, system
from quality_model.core.decoding import Pixels
from quality_model.core.figures import markdown_table
from quality_model.data.sample_photos import PHOTOGRAPHS, load_photograph
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.errors import QualityModelError, UsageError
from quality_model.evaluate.whole_images import degrade_image
from quality_model.params import WITHOUT_PROJECT
from quality_model.records import HEADS

CLEAN_TOLERANCE: Final = 0.05
LABEL_TOLERANCE: Final = 0.07
"""By how much a score may move, and be off its label."""

SEED: Final = 42
SCIENTIFIC: Final = frozenset({"hubble_deep_field", "ihc", "retina"})
"""Groups of the packages' images that are no photographs of scenes."""

Change = Callable[[Image.Image], Image.Image]


def three_quarters(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)


def as_jpeg(image: Image.Image) -> Image.Image:
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=95)
    return Image.open(stored)


def framed(colour: str) -> Change:
    return lambda image: ImageOps.expand(image, image.width // 20, colour)


def letterboxed(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, (0, image.height // 8), "black")


def cropped_to(ratio: int) -> Change:
    """A middle strip of this aspect ratio, which shows a part of the scene."""

    def crop(image: Image.Image) -> Image.Image:
        height = min(image.height, round(image.width / ratio))
        top = (image.height - height) // 2
        return image.crop((0, top, image.width, top + height))

    return crop


CHANGES: Final[Mapping[str, Change]] = {
    "3/4 of the size": three_quarters,
    "JPEG 95": as_jpeg,
    "black frame": framed("black"),
    "white frame": framed("white"),
    "black bars": letterboxed,
    "strip 2:1": cropped_to(2),
    "strip 3:1": cropped_to(3),
    "strip 4:1": cropped_to(4),
}


def photographs() -> list[Pixels]:
    """Photographs of the packages, which no weights of the architecture `small` were trained on."""
    limits = WITHOUT_PROJECT.limits
    return [load_photograph(p.package, p.files[0], limits) for p in PHOTOGRAPHS if p.group not in SCIENTIFIC]


def scores_of(scorer: Scorer, images: Sequence[Image.Image | Pixels]) -> npt.NDArray[np.float64]:
    """(n, 4), in the order of `HEADS`."""
    found = scorer.predict_batch(images)
    return np.array([[getattr(one, head) for head in HEADS] for one in found])


def movements(scorer: Scorer, images: Sequence[Pixels], change: Change) -> npt.NDArray[np.float64]:
    """(n, 4): by how much a change of the image moves each score."""
    changed = [change(Image.fromarray(pixels)) for pixels in images]
    return np.abs(scores_of(scorer, changed) - scores_of(scorer, images))


def deviations(scorer: Scorer, images: Sequence[Pixels]) -> npt.NDArray[np.float64]:
    """(n, 4): how far the scores of degraded images are from their labels, NaN without the degradation."""
    drawn = [
        degrade_image(
            pixels,
            PROFILES["calibrated"],
            SampleRandomness(SEED, f"{number}"),
            scorer.image_size_px,
            scorer.views,
        )
        for number, pixels in enumerate(images)
    ]
    labels = np.array([sample.labels for sample in drawn])
    scores = scores_of(scorer, [sample.image for sample in drawn])
    return np.where(labels > 0, np.abs(scores - labels), np.nan)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; give the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder of clean images")
    parser.add_argument("--model", default="bundled", help="as `score --model` takes it")
    given = parser.parse_args(arguments)
    try:
        images = photographs()
        if given.folder:
            limits = WITHOUT_PROJECT.limits
            files = sorted(path for path in given.folder.glob("*") if path.is_file())
            images = [decoding.decode(decoding.read_bytes(path, limits), limits) for path in files]
        if not images:
            raise UsageError(f"{given.folder} holds no images.", "Name a folder of clean images.")
        scorer = Scorer(given.model)
        found = {name: (CLEAN_TOLERANCE, movements(scorer, images, one)) for name, one in CHANGES.items()}
        found["degraded, against the label"] = LABEL_TOLERANCE, deviations(scorer, images)
    except QualityModelError as error:
        system.say(f"Error: {error}")
        return error.exit_code
    rows = [
        [name, f"{limit:g}", *(_cell(column[~np.isnan(column)], limit) for column in moved.T)]
        for name, (limit, moved) in found.items()
    ]
    sys.stdout.write(f"{len(images)} images: share within the limit, and the largest.\n\n")
    sys.stdout.write(markdown_table(["change", "limit", *HEADS], rows) + "\n")
    return 0


def _cell(moved: npt.NDArray[np.float64], limit: float) -> str:
    return f"{(moved <= limit).mean():.2f}, {moved.max():.2f}" if len(moved) else "-"


if __name__ == "__main__":
    system.silence_telemetry()
    sys.exit(main())
