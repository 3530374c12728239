"""A folder of ordinary images to score: photographs at their own size, some with a visible fault.

The photographs come with scikit-image and scikit-learn. A file's name says which fault was added, so
that a person can find the images in a table of scores. The faults are made with Pillow and NumPy
alone, not with the degradations that the models are trained on.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.data.sample_photos import load_photograph
from quality_model.params import LimitsParams

_QUALITY: Final = 95
_SEED: Final = 7

_FILES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "astronaut": ("skimage", "data/astronaut.png"),
        "cat": ("skimage", "data/chelsea.png"),
        "china": ("sklearn", "datasets/images/china.jpg"),
        "coffee": ("skimage", "data/coffee.png"),
        "flower": ("sklearn", "datasets/images/flower.jpg"),
        "rocket": ("skimage", "data/rocket.jpg"),
    }
)
"""Package and file of each photograph."""


def _warm_cast(pixels: Pixels) -> Pixels:
    """A wrong white balance: red raised, blue lowered."""
    return _scaled(pixels, (1.3, 0.95, 0.5))


def _green_cast(pixels: Pixels) -> Pixels:
    return _scaled(pixels, (0.65, 1.15, 0.7))


def _scaled(pixels: Pixels, gains: tuple[float, float, float]) -> Pixels:
    scaled: Pixels = np.clip(pixels * np.array(gains), 0, 255).astype(np.uint8)
    return scaled


def _blur(pixels: Pixels) -> Pixels:
    """Out of focus, by a hundredth of the width."""
    image = Image.fromarray(pixels)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(image.width / 100)))


def _noise(pixels: Pixels) -> Pixels:
    """Gaussian noise, sigma 40 of 255."""
    noise = np.random.default_rng(_SEED).normal(0.0, 40.0, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def _tiled_watermark(pixels: Pixels) -> Pixels:
    """Half-transparent text all over, as on a preview of a stock agency."""
    image = Image.fromarray(pixels)
    veil = Image.new("RGBA", image.size)
    draw, font = ImageDraw.Draw(veil), ImageFont.load_default(image.height / 8)
    step = image.height // 3
    for row, top in enumerate(range(step // 4, image.height, step)):
        for left in range(-(row % 2) * step, image.width, 2 * step):
            draw.text((left, top), "PREVIEW", fill=(255, 255, 255, 150), font=font)
    return np.asarray(Image.alpha_composite(image.convert("RGBA"), veil).convert("RGB"))


EXAMPLES: Final[Mapping[str, Callable[[Pixels], Pixels] | None]] = MappingProxyType(
    {
        **dict.fromkeys(_FILES),
        "china with a warm cast": _warm_cast,
        "coffee with a green cast": _green_cast,
        "cat blurred": _blur,
        "rocket blurred": _blur,
        "astronaut with a watermark": _tiled_watermark,
        "flower with a watermark": _tiled_watermark,
        "china with noise": _noise,
        "coffee with noise": _noise,
    }
)
"""By file name without suffix, which begins with the photograph's name: what adds the fault, if any."""


def write_example_images(output: Path, limits: LimitsParams) -> int:
    """Write the examples as JPEG files, equal bytes each time; returns their number.

    Args:
        output: Folder; the files of an earlier call are replaced, others stay.
        limits: What a photograph may be.

    Raises:
        SourceError: A photograph is missing from its package.
        StorageError: A file could not be written.
    """
    originals = {name: load_photograph(*place, limits) for name, place in _FILES.items()}
    names = []
    for name, add_fault in EXAMPLES.items():
        pixels = originals[name.split()[0]]
        stream = io.BytesIO()
        Image.fromarray(pixels if add_fault is None else add_fault(pixels)).save(
            stream, "JPEG", quality=_QUALITY
        )
        names.append(f"{name.replace(' ', '-')}.jpg")
        storage.write_bytes(output / names[-1], stream.getvalue())
    storage.seal(output, names, rows=len(names), kind="example images")
    return len(names)
