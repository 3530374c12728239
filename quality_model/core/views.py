"""What the network looks at: the whole image and tiles of it, and how their scores become the image's.

Shrinking an image hides blur and noise that people see at its full size, and a part of it hides the colours
of the scene. So an image is scored from several views, and every score means the severity in its view:

- the whole view: the image shrunk to the area of a square of the model's image size, its aspect ratio kept;
  never enlarged;
- tiles: squares at the size of use, which is the image's own resolution, or shrunk until its short side is
  ``max_short_side_px``. Half of them are where the image has most detail, the others spread evenly.

Borders of one colour, as of frames and letterboxes, are trimmed before views are cut (`without_borders`):
they are not the scene.

An image's score is the aggregate that `HeadRule` describes: per head, a quantile of the tiles' scores, mixed
with the score of the whole view. Which, is decided by measurement and stored with the model. A model may also
have a map from aggregates to the scale of an earlier one (`core.scale`). Training, evaluation, thresholds,
gate and scoring all cut views here.

The original design has one view: the image squeezed to a square (`SQUEEZED`).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from quality_model.core.pixels import Pixels
from quality_model.core.scale import ScaleMap
from quality_model.records import HEADS, REFERENCE_SIDE_PX, Head

MULTIPLE_PX: Final = 16
"""Of what the sides of a whole view are multiples: the network halves them four times."""

SMALLEST_PX: Final = 32
"""Shortest side of a view: smaller images are enlarged to it."""

LONGEST_RATIO: Final = 8.0
"""An image that is longer is squeezed to this aspect ratio in its whole view; its tiles are as they are."""

_UNCOVERED: Final = 0.3
"""Of a tile's side: how much of a length tiles may leave out, rather than overlap nearly wholly."""

_ENOUGH: Final = 1.25
"""A tile must show the image this much larger than the whole view does; else the whole view shows it all."""

_BORDER_TOLERANCE: Final = 8
"""Levels of 255 by which a border's pixels may differ from its colour: JPEG's ringing is within."""

_SAMPLED: Final = 16
"""Of an outermost line every so many pixels are compared first: most lines are no border."""

_LEAST_LEFT: Final = 0.3
"""Share of a side that a trimmed image keeps; else what is plain is taken for the scene, and kept."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class HeadRule(BaseModel):
    """How a head's scores of the views become the image's: ``whole * w + q * (1 - w)``.

    Attributes:
        tiles: Which quantile q of the tiles' scores counts: 0 the lowest, .5 the median, 1 the highest;
            between two tiles it is interpolated.
        whole: Share w of the whole view's score; 1 where there is no tile.
        highest: The larger of the two counts instead of their mean.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    tiles: Share = 0.5
    whole: Share = 0.5
    highest: bool = False


class ViewRecipe(BaseModel):
    """Which views of an image are scored, and how their scores are aggregated.

    Attributes:
        squeezed: The one view is the image squeezed to a square; the rest then says nothing.
        max_tiles: Most tiles of an image.
        tile_px: Side of a tile.
        max_short_side_px: Images with a longer short side are shrunk to it before tiles are cut.
        trims_borders: Borders of one colour are left out of all views.
        heads: The aggregate of each head.
        scale: From the aggregates to the scale of an earlier model, which image scores are then on; None:
            they are the network's own. JSON leaves it out where there is none.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    squeezed: bool = False
    max_tiles: Annotated[int, Field(ge=0, le=64)] = 4
    tile_px: Annotated[int, Field(ge=SMALLEST_PX, le=1024, multiple_of=MULTIPLE_PX)] = REFERENCE_SIDE_PX
    max_short_side_px: Annotated[int, Field(ge=SMALLEST_PX)] = 768
    trims_borders: bool = True
    heads: dict[Head, HeadRule] = dict.fromkeys(HEADS, HeadRule())
    scale: ScaleMap | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        return {name: value for name, value in values.items() if value is not None}

    def with_scale(self, scale: ScaleMap | None) -> "ViewRecipe":
        """The same views on another scale; None: on the network's own."""
        return self.model_copy(update={"scale": scale})

    def on_scale(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Aggregated scores, float32 (n, 4) or (4,), as the image's scores."""
        return scores if self.scale is None else self.scale.of(scores)

    @property
    def decoded_px(self) -> int | None:
        """Short side that is enough to decode at; None for an image's own."""
        return None if self.squeezed else self.max_short_side_px


SQUEEZED: Final = ViewRecipe(squeezed=True, max_tiles=0)
"""The original design's view."""


class Box(NamedTuple):
    """Where a tile is, in pixels of the image at the size of use."""

    left: int
    top: int
    side: int


Area = tuple[float, float, float, float]
"""Left, top, right and bottom of a part of an image, as fractions of its width and height in [0, 1]."""

WHOLE_AREA: Final[Area] = (0.0, 0.0, 1.0, 1.0)


class Views(NamedTuple):
    """The views of one image: uint8 (height, width, 3) each.

    ``tiles`` are squares of it; none where the whole view shows it all. ``areas`` say what of the image each
    view shows, in the order of `all`; that of the whole view is smaller where borders were trimmed.
    """

    whole: Pixels
    tiles: list[Pixels]
    areas: list[Area]

    @property
    def all(self) -> list[Pixels]:
        return [self.whole, *self.tiles]


def cut(pixels: Pixels, size_px: int, recipe: ViewRecipe) -> Views:
    """Cut the views of an image.

    Args:
        pixels: uint8 (height, width, 3).
        size_px: The model's image size.
        recipe: Which views.
    """
    if recipe.squeezed:
        return Views(squeezed(pixels, size_px), [], [WHOLE_AREA])
    rows, columns = _scene(pixels) if recipe.trims_borders else (slice(None), slice(None))
    scene = np.ascontiguousarray(pixels[rows, columns])
    seen = at_size_of_use(scene, recipe.max_short_side_px)
    boxes = tile_boxes(seen, size_px, recipe)
    tiles = [np.ascontiguousarray(seen[top : top + side, left : left + side]) for left, top, side in boxes]
    height, width = seen.shape[:2]
    spans = [(0, 0, width, height)] + [(left, top, left + side, top + side) for left, top, side in boxes]
    first = np.array([columns.start or 0, rows.start or 0] * 2)
    in_scene = np.array(spans) * (scene.shape[1::-1] * 2) / ((width, height) * 2)
    areas = (first + in_scene) / (pixels.shape[1::-1] * 2)
    whole = resized(seen, *whole_size(width, height, size_px))
    return Views(whole, tiles, [(one[0], one[1], one[2], one[3]) for one in areas.tolist()])


def without_borders(pixels: Pixels) -> Pixels:
    """An image, uint8 (height, width, 3), without borders of one colour: bars and frames.

    Lines belong to a border from outside in, as long as all of their pixels are near the median of the
    outermost one: lettering on a bar ends it. An image of which too little would be left stays whole.
    """
    return np.ascontiguousarray(pixels[_scene(pixels)])


def _scene(pixels: Pixels) -> tuple[slice, slice]:
    """The rows and the columns of an image that are within its borders."""
    spans = []
    for lines in (pixels, pixels.transpose(1, 0, 2)):
        start, end = _border_width(lines), _border_width(lines[::-1])
        enough = len(lines) - start - end >= _LEAST_LEFT * len(lines)
        spans.append(slice(start, len(lines) - end) if enough else slice(None))
    return spans[0], spans[1]


def _border_width(lines: Pixels) -> int:
    """How many of the first lines are a border; most images show at a sample of one line that none is."""
    is_uneven = np.ptp(lines[0, ::_SAMPLED], axis=0).max() > 2 * _BORDER_TOLERANCE
    return 0 if is_uneven else num_uniform_lines(lines)


def num_uniform_lines(lines: npt.NDArray[np.uint8], share: float = 1.0) -> int:
    """How many of the first lines of uint8 (n, m, channels) are like the first one's median.

    Args:
        lines: From the outside in.
        share: Of a line's pixels that are within 8 levels of that median in all channels.
    """
    level = np.median(lines[0], axis=0)
    for number, line in enumerate(lines):
        if (np.abs(line - level) <= _BORDER_TOLERANCE).all(axis=1).mean() < share:
            return number
    return len(lines)


def aggregate(scores: npt.NDArray[np.float32], recipe: ViewRecipe) -> npt.NDArray[np.float32]:
    """The scores of an image, float32 (4,), from those of its views, float32 (n, 4), the whole one first."""
    image = np.array(scores[0])
    for at, head in enumerate(HEADS if len(scores) > 1 else ()):
        rule = recipe.heads[head]
        whole, tiles = scores[0, at], np.quantile(scores[1:, at], rule.tiles)
        image[at] = max(whole, tiles) if rule.highest else rule.whole * whole + (1.0 - rule.whole) * tiles
    return recipe.on_scale(image)


def deciding(scores: npt.NDArray[np.float32], recipe: ViewRecipe) -> list[int]:
    """Which view of an image decided each head's score, given those of its views, float32 (n, 4).

    Where the tiles weigh more than the whole view, it is the tile whose score is nearest to their quantile,
    else the whole view: 0. Heads are in the order of `records.HEADS`.
    """
    if len(scores) == 1:
        return [0] * len(HEADS)
    found = []
    for at, head in enumerate(HEADS):
        rule = recipe.heads[head]
        whole, tiles = scores[0, at], np.quantile(scores[1:, at], rule.tiles)
        is_tile = tiles > whole if rule.highest else rule.whole < 0.5
        found.append(1 + int(np.abs(scores[1:, at] - tiles).argmin()) if is_tile else 0)
    return found


def score_images(
    score: Callable[[Pixels], npt.NDArray[np.float32]], images: Sequence[Sequence[Pixels]], recipe: ViewRecipe
) -> npt.NDArray[np.float32]:
    """Score images by their views, those of one shape in one call.

    Args:
        score: uint8 (n, height, width, 3) to float32 (n, 4).
        images: The views of each image, the whole one first (`Views.all`).
        recipe: Of the views.

    Returns:
        float32 (N, 4) in [0, 1], in the order of `records.HEADS`.
    """
    return np.stack([aggregate(part, recipe) for part in score_views(score, images)])


def score_views(
    score: Callable[[Pixels], npt.NDArray[np.float32]], images: Sequence[Sequence[Pixels]]
) -> list[npt.NDArray[np.float32]]:
    """As `score_images`, but of each image the scores of its views, float32 (n, 4)."""
    every = [view for image in images for view in image]
    scores = np.empty((len(every), len(HEADS)), np.float32)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for place, view in enumerate(every):
        shapes.setdefault(view.shape, []).append(place)
    for places in shapes.values():
        scores[places] = score(np.stack([every[place] for place in places]))
    ends = np.cumsum([len(image) for image in images])[:-1]
    return np.split(scores, ends)


def squeezed(pixels: Pixels, size_px: int) -> Pixels:
    """Resize to uint8 (size_px, size_px, 3) with the LANCZOS filter, as the original design does."""
    if pixels.shape[:2] == (size_px, size_px):
        return pixels
    return np.array(Image.fromarray(pixels).resize((size_px, size_px), Image.Resampling.LANCZOS))


def at_size_of_use(pixels: Pixels, max_short_side_px: int) -> Pixels:
    """The image, shrunk if its short side is longer, or enlarged if a side is below `SMALLEST_PX`."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short > max_short_side_px:
        return resized(pixels, *(round(side * max_short_side_px / short) for side in (width, height)))
    if short < SMALLEST_PX:
        return resized(pixels, max(width, SMALLEST_PX), max(height, SMALLEST_PX))
    return pixels


def whole_size(width: int, height: int, size_px: int) -> tuple[int, int]:
    """Width and height of the whole view of an image of `SMALLEST_PX` a side or more.

    They are the multiples of 16 px that keep the image's ratio and the area of a square of ``size_px`` best.
    """
    ratio = float(np.clip(width / height, 1 / LONGEST_RATIO, LONGEST_RATIO))
    area = min(size_px**2, width * height)
    ideal = (area * ratio) ** 0.5, (area / ratio) ** 0.5
    best, least = (SMALLEST_PX, SMALLEST_PX), float("inf")
    for wide in _multiples(ideal[0], width):
        for high in _multiples(ideal[1], height):
            # An error of the ratio is a distortion, one of the area only another scale.
            error = 4.0 * abs(np.log(wide / high / ratio)) + abs(np.log(wide * high / area))
            if error < least:
                best, least = (wide, high), error
    return best


def _multiples(ideal_px: float, most_px: int) -> list[int]:
    """Sides near an ideal one; none longer than the image's, so that nothing is enlarged."""
    below = int(ideal_px) // MULTIPLE_PX * MULTIPLE_PX
    near = [below + step * MULTIPLE_PX for step in (-2, -1, 0, 1, 2, 3)]
    return [side for side in near if SMALLEST_PX <= side <= most_px] or [SMALLEST_PX]


def tile_boxes(pixels: Pixels, size_px: int, recipe: ViewRecipe) -> list[Box]:
    """Where the tiles of an image at the size of use are: an even spread, or the best of it.

    Tiles that cover the image but for a narrow border, evenly spaced, are the candidates. Of more than
    ``max_tiles`` those with most detail are half, the rest are spread over the others. An image that is no
    larger than the whole view shows has none.
    """
    height, width = pixels.shape[:2]
    shown = whole_size(width, height, size_px)
    side = min(recipe.tile_px, min(height, width) // MULTIPLE_PX * MULTIPLE_PX)
    if recipe.max_tiles == 0 or width * height < _ENOUGH**2 * shown[0] * shown[1]:
        return []
    lefts, tops = _spread(width, side), _spread(height, side)
    boxes = [Box(left, top, side) for top in tops for left in lefts]
    if len(boxes) <= recipe.max_tiles:
        return boxes
    detail = _detail(pixels)
    order = sorted(range(len(boxes)), key=lambda at: -_mean_within(detail, boxes[at]))
    sharpest = order[: (recipe.max_tiles + 1) // 2]
    others = sorted(set(range(len(boxes))) - {*sharpest})
    count = recipe.max_tiles - len(sharpest)
    spread = [others[(2 * n + 1) * len(others) // (2 * count)] for n in range(count)]
    return [boxes[at] for at in sorted([*sharpest, *spread])]


def _spread(length: int, side: int) -> list[int]:
    """Starts of stretches that cover a length but for a narrow border; one is in the middle."""
    count = max(1, int(np.ceil(length / side - _UNCOVERED)))
    room = length - side
    return [round(room * n / (count - 1)) for n in range(count)] if count > 1 else [room // 2]


_DETAIL_STEP: Final = 4


def _detail(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Mean absolute difference of neighbours in green, in cells of 4 rows: (height / 4, width / 4)."""
    rows = pixels[::_DETAIL_STEP, :, 1].astype(np.int16)
    steps = np.abs(np.diff(rows, axis=1))[:, : (rows.shape[1] - 1) // _DETAIL_STEP * _DETAIL_STEP]
    return np.asarray(steps.reshape(len(rows), -1, _DETAIL_STEP).mean(axis=2), dtype=np.float32)


def _mean_within(detail: npt.NDArray[np.float32], box: Box) -> float:
    left, top, side = (length // _DETAIL_STEP for length in box)
    return float(detail[top : top + side, left : left + side].mean())


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize by the one filter that training and scoring use; uint8 (height, width, 3)."""
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels)
    return np.array(image.resize((width, height), Image.Resampling.HAMMING, reducing_gap=3.0))
