"""Measures beside the four heads: of the file and of its pixels, as plain functions, and what each one means.

Arrow schema, checks and the table in docs/results-format.md follow from `MEASURES`. Pixels are those of the
image upright at its own size; where its short side is 1536 px or more, at a half, a quarter or an eighth, so
that 768 px or more are left (`at_measured_size`). That is the size at which large JPEG files are decoded
anyway, whatever the model looks at: a value does not depend on the model, its views or the other measures.

"The paper" is arXiv 2511.22699, section 2.1 (data profiling). It counts bytes per pixel, these measures bits:
eight times as many.
"""

import io
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from quality_model.core.decoding import DecodedImage
from quality_model.core.pixels import Pixels
from quality_model.core.views import num_uniform_lines
from quality_model.params import MeasureChoice, MeasureSet

MEASURED_PX: Final = 768
"""Short side that is enough to decode at; at twice this the image is halved."""

Values = Mapping[str, float | int | None]
"""Values by the name of the measure; None where an image has none."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One column.

    Attributes:
        name: Of the column.
        set: Which function measures it, and what chooses it.
        dtype: As Arrow names it.
        unit: Empty for a number without one.
        low, high: The range, both included; None: no limit.
        meaning: One line.
        source: Whose definition it is.
    """

    name: str
    set: MeasureSet
    dtype: Literal["float32", "int32", "int64"]
    unit: str
    low: float | int
    high: float | int | None
    meaning: str
    source: str


_PAPER: Final = "the paper"

MEASURES: Final = (
    Measure("aspect_ratio", "file", "float32", "", 0, None, "width / height, of the image upright", _PAPER),
    Measure(
        *("bits_per_pixel", "file", "float32", "bit/px", 0, None),
        "8 * size_bytes / (width * height); 24 / this is the paper's ratio of uncompressed to actual size",
        _PAPER,
    ),
    Measure(
        *("jpeg_quality", "file", "int32", "", 1, 100),
        "libjpeg's quality whose luminance table is nearest to the file's by mean absolute difference;"
        " null without such a table",
        "ITU-T T.81, table K.1; scaling of IJG libjpeg",
    ),
    Measure(
        *("entropy", "exposure", "float32", "bit", 0, 8),
        "Shannon entropy of the histogram of luma in 256 levels",
        "Shannon 1948",
    ),
    Measure(
        *("clipped_dark", "exposure", "float32", "", 0, 1),
        "share of pixels of luma 2 or less, of 255",
        "this project",
    ),
    Measure(
        *("clipped_bright", "exposure", "float32", "", 0, 1),
        "share of pixels of luma 253 or more, of 255",
        "this project",
    ),
    Measure(
        *("median_luminance", "exposure", "float32", "", 0, 1),
        "lower median of luma / 255 (gamma-encoded, ITU-R BT.601 as in JPEG)",
        "this project",
    ),
    Measure(
        *("border_variance", "borders", "float32", "", 0, 0.25),
        "variance of luma / 255 in the frame along the sides, 1/50 of the short side wide, at least 1 px",
        _PAPER,
    ),
    *(
        Measure(
            *(f"border_{side}_px", "borders", "int32", "px", 0, None),
            f"width of the uniform border on the {side}: columns from the outside in, of which 98 % of the"
            " pixels are within 8 levels of luma of the outermost one's median; the whole width where all are"
            if side in ("left", "right")
            else f"the same at the {side}, of rows",
            "this project",
        )
        for side in ("left", "right", "top", "bottom")
    ),
    Measure(
        *("blocking", "blocking", "float32", "", 0, 1),
        "(b - a) / (b + a), the mean of both directions: b the median step of luma across a grid of 8 px,"
        " at the offset where it is largest, a the mean of those of the other seven; 0 without a grid; null"
        " below 64 px a side, and from a short side of 1536 px",
        "after Wang, Bovik & Evans 2000",
    ),
    Measure(
        *("phash", "hash", "int64", "64 bits", -(2**63), 2**63 - 1),
        "pHash: luma shrunk to 32 x 32 by the LANCZOS filter, its DCT-II, the 8 x 8 lowest frequencies, a bit"
        " each: above their median or not; row by row, the first bit is the sign",
        "Zauner 2010; order of the bits as in ImageHash",
    ),
    Measure(
        *("reencoded_bits_per_pixel", "reencoding", "float32", "bit/px", 0, None),
        "8 * bytes / pixels of a JPEG file of the image, quality 75, chroma 4:2:0, standard Huffman tables",
        "the paper, which names neither quality nor size",
    ),
)
"""Every measure, in the order of the columns."""

COSTLY: Final[frozenset[MeasureSet]] = frozenset({"reencoding", "blocking"})
"""Sets that are measured only when they are asked for; `benchmarks.measures` has the cost of each."""


@dataclass(frozen=True)
class MeasuredImage:
    """What measures look at.

    Attributes:
        size_bytes: Length of the encoded bytes.
        width, height: Of the image upright, in pixels.
        luminance_table: Quantisation table of a JPEG file's first component, (64,) row by row; else None.
        pixels: uint8 (h, w, 3), of the size that the module describes.
    """

    size_bytes: int
    width: int
    height: int
    luminance_table: tuple[int, ...] | None
    pixels: Pixels

    @classmethod
    def of(cls, decoded: DecodedImage, size_bytes: int) -> "MeasuredImage":
        """An image that was decoded with ``shortest_px`` of `MEASURED_PX`."""
        pixels = at_measured_size(decoded.pixels)
        return cls(size_bytes, decoded.width, decoded.height, decoded.luminance_table, pixels)

    @cached_property
    def luma_image(self) -> Image.Image:
        return Image.fromarray(self.pixels).convert("L")

    @cached_property
    def luma(self) -> npt.NDArray[np.uint8]:
        """uint8 (h, w)."""
        return np.asarray(self.luma_image)


def chosen_sets(choices: Iterable[MeasureChoice]) -> tuple[MeasureSet, ...]:
    """The sets that some choices name, in the order of `MEASURES`: ``cheap`` all but `COSTLY`."""
    every = tuple(_BY_SET)
    names: set[str] = set()
    for choice in choices:
        groups = {"none": (), "all": every, "cheap": tuple(name for name in every if name not in COSTLY)}
        names.update(groups.get(choice, (choice,)))
    return tuple(name for name in every if name in names)


def measures_of(sets: Collection[MeasureSet]) -> list[Measure]:
    """The measures of some sets, in the order of the columns."""
    return [measure for measure in MEASURES if measure.set in sets]


def measure(image: MeasuredImage, sets: Iterable[MeasureSet]) -> Values:
    """The measures of some sets, each as its record says."""
    return {name: value for chosen in sets for name, value in _BY_SET[chosen](image).items()}


def at_measured_size(pixels: Pixels) -> Pixels:
    """The mean of squares of 2, 4 or 8 px where the short side leaves at least `MEASURED_PX` of them."""
    factor = next((n for n in (8, 4, 2) if min(pixels.shape[:2]) >= n * MEASURED_PX), 1)
    return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(factor))


def of_file(image: MeasuredImage) -> Values:
    return {
        "aspect_ratio": image.width / image.height,
        "bits_per_pixel": 8 * image.size_bytes / (image.width * image.height),
        "jpeg_quality": None if image.luminance_table is None else nearest_quality(image.luminance_table),
    }


@lru_cache(maxsize=1)
def _standard_tables() -> npt.NDArray[np.int64]:
    """libjpeg's luminance tables of quality 1 to 100 (`jpeg_set_quality`), (100, 64) row by row."""
    base = np.array(
        (
            *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
            *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
            *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
            *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
        )
    )
    scales = np.array([5000 // quality if quality < 50 else 200 - 2 * quality for quality in range(1, 101)])
    return np.asarray(np.clip((base * scales[:, None] + 50) // 100, 1, 255), np.int64)


def nearest_quality(table: Iterable[int]) -> int:
    """The quality, 1 to 100, whose standard luminance table is nearest; of equal ones the lowest."""
    distances = np.abs(_standard_tables() - np.array([*table])).mean(axis=1)
    return 1 + int(distances.argmin())


def of_exposure(image: MeasuredImage) -> Values:
    counts = np.array(image.luma_image.histogram())
    shares = counts / counts.sum()
    found = shares[shares > 0]
    return {
        "entropy": abs(float(found @ np.log2(found))),
        "clipped_dark": float(shares[:3].sum()),
        "clipped_bright": min(1.0, float(shares[253:].sum())),
        "median_luminance": int(np.searchsorted(counts.cumsum(), counts.sum() / 2)) / 255,
    }


_FRAME_SHARE: Final = 50
_UNIFORM_SHARE: Final = 0.98


def of_borders(image: MeasuredImage) -> Values:
    luma = image.luma
    height, width = luma.shape
    wide = max(1, min(height, width) // _FRAME_SHARE)
    inner = luma[wide:-wide]
    frame = [luma[:wide], luma[-wide:], inner[:, :wide], inner[:, -wide:]] if height > 2 * wide else [luma]
    lines = {"left": luma.T, "right": luma.T[::-1], "top": luma, "bottom": luma[::-1]}
    scales = {"left": image.width / width, "right": image.width / width}
    down = image.height / height
    values = {
        f"border_{side}_px": round(
            num_uniform_lines(of_side[..., None], _UNIFORM_SHARE) * scales.get(side, down)
        )
        for side, of_side in lines.items()
    }
    every = np.concatenate([part.ravel() for part in frame]) / 255
    return {"border_variance": min(0.25, float(every.var())), **values}


_GRID_PX: Final = 8
_LEAST_PX: Final = 64


def of_blocking(image: MeasuredImage) -> Values:
    if image.pixels.shape[:2] != (image.height, image.width) or min(image.height, image.width) < _LEAST_PX:
        return {"blocking": None}
    return {"blocking": (_grid_contrast(image.luma) + _grid_contrast(image.luma.T)) / 2}


def _grid_contrast(luma: npt.NDArray[np.uint8]) -> float:
    """How much larger steps between columns are at one offset of eight than at the others, in [0, 1].

    The median over the columns of an offset is not moved by the few edges of the scene that fall on it.
    """
    steps = (np.maximum(luma[:, 1:], luma[:, :-1]) - np.minimum(luma[:, 1:], luma[:, :-1])).mean(axis=0)
    levels = np.array([np.median(steps[offset::_GRID_PX]) for offset in range(_GRID_PX)])
    at_grid = float(levels.max())
    elsewhere = float((levels.sum() - at_grid) / (_GRID_PX - 1))
    return max(0.0, at_grid - elsewhere) / (at_grid + elsewhere) if at_grid else 0.0


NEAR_DUPLICATE_BITS: Final = 10
"""Images whose hashes differ in more of 64 bits are no near duplicates (docs/results-format.md).

Within it labels are not given twice, nor parted into training and test. `curate.duplicates` drops images, so
that it takes fewer by default.
"""

FEWEST_BITS: Final = 16
"""Half of the bits of an image with detail are set, because they compare with the median. A hash with fewer
than these is that of a plain image, a gradient or stripes, and says nothing."""

Hashes = npt.NDArray[np.uint64]

_HASH_PX: Final = 32
_HASH_SIDE: Final = 8


@lru_cache(maxsize=1)
def _cosines() -> npt.NDArray[np.float64]:
    """The lowest rows of the DCT-II of 32 values, (8, 32)."""
    places = np.arange(_HASH_PX) + 0.5
    return np.asarray(np.cos(np.pi / _HASH_PX * np.outer(np.arange(_HASH_SIDE), places)))


def of_hash(image: MeasuredImage) -> Values:
    size = (_HASH_PX, _HASH_PX)
    shrunk = np.asarray(image.luma_image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0), np.float64)
    # Rounded: where a frequency is absent, the sign of what floating point leaves of it would be a bit.
    frequencies = (_cosines() @ shrunk @ _cosines().T).round(6)
    bits = np.packbits(frequencies > np.median(frequencies)).tobytes()
    return {"phash": int.from_bytes(bits, "big", signed=True)}


def is_comparable(hashes: Hashes) -> npt.NDArray[np.bool_]:
    """bool (N,): which hashes, uint64 (N,), say something of their images."""
    return np.asarray(np.bitwise_count(hashes) >= FEWEST_BITS)


def near(hashes: Hashes, one: np.uint64) -> npt.NDArray[np.bool_]:
    """bool (N,): which of the images with these hashes, uint64 (N,), are near duplicates of ``one``'s."""
    is_near = np.bitwise_count(hashes ^ one) <= NEAR_DUPLICATE_BITS
    return np.asarray(is_near & is_comparable(hashes) & (np.bitwise_count(one) >= FEWEST_BITS))


_QUALITY: Final = 75


def of_reencoding(image: MeasuredImage) -> Values:
    sink = io.BytesIO()
    Image.fromarray(image.pixels).save(sink, "JPEG", quality=_QUALITY, subsampling="4:2:0")
    height, width = image.pixels.shape[:2]
    return {"reencoded_bits_per_pixel": 8 * len(sink.getvalue()) / (width * height)}


_BY_SET: Final[dict[MeasureSet, Callable[[MeasuredImage], Values]]] = {
    "file": of_file,
    "exposure": of_exposure,
    "borders": of_borders,
    "blocking": of_blocking,
    "hash": of_hash,
    "reencoding": of_reencoding,
}
