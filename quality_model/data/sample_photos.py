"""Clean images without a network: the photographs that come with scikit-image and scikit-learn.

A photograph is cut into square crops at several scales. A crop larger than `CROP_SIDE_PX`
is shrunk to it, and nothing is ever enlarged, so that no crop is softer than its photograph.

The same photographs at their own size are examples to score, some with a visible fault. A file's name says
which fault was added, so that a person can find the images in a table of scores. The faults are made with
Pillow and NumPy alone, not with the degradations that the models are trained on.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from quality_model.core import decoding, storage, views
from quality_model.core.decoding import Pixels
from quality_model.data.sources import SAMPLE_PHOTOS
from quality_model.errors import ImageError, SourceError
from quality_model.params import LimitsParams, SourceParams
from quality_model.records import CleanImage

CROP_SIDE_PX: Final = 256
"""Side of a crop: a little above the 224 px that the model is made for."""

_MAX_ATTEMPTS: Final = 1000
_DISTRIBUTIONS: Final = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


@dataclass(frozen=True, slots=True)
class Photograph:
    """A scene in an installed package.

    ``files`` are views of one scene, hence one group. ``shortest_px`` is the smallest side
    that is cut out: larger where the full-size photograph is soft or shows JPEG blocks, so
    that shrinking removes them.
    """

    group: str
    package: str
    files: tuple[str, ...]
    shortest_px: int = CROP_SIDE_PX


PHOTOGRAPHS: Final = (
    Photograph("astronaut", "skimage", ("data/astronaut.png",)),
    Photograph("chelsea", "skimage", ("data/chelsea.png",)),
    Photograph("china", "sklearn", ("datasets/images/china.jpg",), shortest_px=320),
    Photograph("coffee", "skimage", ("data/coffee.png",)),
    Photograph("flower", "sklearn", ("datasets/images/flower.jpg",), shortest_px=320),
    Photograph("hubble_deep_field", "skimage", ("data/hubble_deep_field.jpg",), shortest_px=320),
    Photograph("ihc", "skimage", ("data/ihc.png",)),
    Photograph("motorcycle", "skimage", ("data/motorcycle_left.png", "data/motorcycle_right.png")),
    Photograph("retina", "skimage", ("data/retina.jpg",), shortest_px=768),
    Photograph("rocket", "skimage", ("data/rocket.jpg",), shortest_px=320),
)
"""Colour photographs only, no drawings, logos, charts and grey images."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of a photograph: file, left, top and side in pixels."""

    file: str
    left: int
    top: int
    side: int


class SamplePhotos:
    """``num_images`` crops, spread evenly over the photographs; the seed decides them."""

    name = SAMPLE_PHOTOS
    not_read: Mapping[str, int] = MappingProxyType({})

    def __init__(self, section: SourceParams, limits: LimitsParams) -> None:
        self._section = section
        self._limits = limits
        names = sorted(_DISTRIBUTIONS.values())
        self.revision: str | None = ", ".join(f"{name} {version(name)}" for name in names)

    def images(self) -> Iterator[CleanImage]:
        """Cut the crops, one photograph after the other.

        Raises:
            SourceError: A photograph is missing from its package, or is not readable.
        """
        share, left_over = divmod(self._section.num_images, len(PHOTOGRAPHS))
        for number, photograph in enumerate(PHOTOGRAPHS):
            yield from self._crops_of(photograph, share + (number < left_over))

    def _crops_of(self, photograph: Photograph, count: int) -> Iterator[CleanImage]:
        if not count:
            return
        views = {file: load_photograph(photograph.package, file, self._limits) for file in photograph.files}
        sizes = {file: (pixels.shape[1], pixels.shape[0]) for file, pixels in views.items()}
        distribution = _DISTRIBUTIONS[photograph.package]
        for index, crop in enumerate(choose_crops(photograph, sizes, count, self._section.seed)):
            box = f"{crop.left},{crop.top},{crop.left + crop.side},{crop.top + crop.side}"
            place = f"{photograph.package}/{crop.file}, box {box}"
            origin = f"{distribution} {version(distribution)}: {place}"
            data, side = _encode(views[crop.file], crop), min(crop.side, CROP_SIDE_PX)
            sha256, image_id = hashlib.sha256(data).hexdigest(), f"{photograph.group}/{index:04d}"
            yield CleanImage(image_id, photograph.group, origin, sha256, data, side, side, None)


def load_photograph(package: str, file: str, limits: LimitsParams) -> Pixels:
    """Read a photograph that an installed package contains, uint8 (H, W, 3); the package is not imported.

    Raises:
        SourceError: The photograph is missing, or is not readable.
        ModuleNotFoundError: The package is not installed.
    """
    distribution = _DISTRIBUTIONS[package]
    remedy = f"Install {distribution} again, or use a local folder: --dataset ./images"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    path = Path(next(iter(spec.submodule_search_locations))) / file
    try:
        return decoding.decode(decoding.read_bytes(path, limits), limits)
    except ImageError as error:
        raise SourceError(f"{package}/{file} of {distribution} cannot be read ({error}).", remedy) from None


def choose_crops(
    photograph: Photograph, sizes: dict[str, tuple[int, int]], count: int, seed: int
) -> Iterator[Crop]:
    """Draw different crops of a photograph.

    The random numbers are words of SHA-256 over (seed, photograph, number), mapped to integers
    without floating point: the same on every machine and with every version of NumPy.

    Args:
        photograph: What to cut.
        sizes: Width and height of each file in pixels.
        count: Number of crops.
        seed: Seed of the source.

    Yields:
        Different crops; fewer than ``count`` if new ones are hard to find.
    """
    seen: set[Crop] = set()
    number = misses = 0
    while len(seen) < count and misses < _MAX_ATTEMPTS:
        digest = hashlib.sha256(f"{seed}\0{photograph.group}\0{number}".encode()).digest()
        which, scale, x, y = (int.from_bytes(digest[i : i + 8], "big") for i in range(0, 32, 8))
        file = photograph.files[_below(which, len(photograph.files))]
        width, height = sizes[file]
        longest = min(width, height)
        shortest = min(photograph.shortest_px, longest)
        side = shortest + _below(scale, longest - shortest + 1)
        crop = Crop(file, _below(x, width - side + 1), _below(y, height - side + 1), side)
        number += 1
        if crop in seen:
            misses += 1
            continue
        misses = 0
        seen.add(crop)
        yield crop


def _below(word: int, bound: int) -> int:
    """Map a 64-bit word to [0, bound)."""
    return (word * bound) >> 64


def _encode(pixels: Pixels, crop: Crop) -> bytes:
    square = pixels[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    if crop.side > CROP_SIDE_PX:
        square = views.squeezed(square, CROP_SIDE_PX)
    stream = io.BytesIO()
    Image.fromarray(square).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


_EXAMPLE_FILES: Final = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
"""Package and file of each photograph among the examples."""


def _cast(pixels: Pixels, *, gains: tuple[float, float, float]) -> Pixels:
    """A wrong white balance."""
    return np.asarray(np.clip(pixels * np.array(gains), 0, 255), dtype=np.uint8)


def _blur(pixels: Pixels) -> Pixels:
    """Out of focus, by a hundredth of the width."""
    image = Image.fromarray(pixels)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(image.width / 100)))


def _noise(pixels: Pixels) -> Pixels:
    """Gaussian noise, sigma 40 of 255."""
    noise = np.random.default_rng(7).normal(0.0, 40.0, pixels.shape)
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


EXAMPLES: Final[dict[str, Callable[[Pixels], Pixels] | None]] = {
    **dict.fromkeys(_EXAMPLE_FILES),
    "china with a warm cast": partial(_cast, gains=(1.3, 0.95, 0.5)),
    "coffee with a green cast": partial(_cast, gains=(0.65, 1.15, 0.7)),
    "cat blurred": _blur,
    "rocket blurred": _blur,
    "astronaut with a watermark": _tiled_watermark,
    "flower with a watermark": _tiled_watermark,
    "china with noise": _noise,
    "coffee with noise": _noise,
}
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
    originals = {name: load_photograph(*place, limits) for name, place in _EXAMPLE_FILES.items()}
    names = []
    for name, add_fault in EXAMPLES.items():
        pixels = originals[name.split()[0]]
        stream = io.BytesIO()
        Image.fromarray(pixels if add_fault is None else add_fault(pixels)).save(stream, "JPEG", quality=95)
        names.append(f"{name.replace(' ', '-')}.jpg")
        storage.write_bytes(output / names[-1], stream.getvalue())
    storage.seal(output, names, rows=len(names), kind="example images")
    return len(names)
