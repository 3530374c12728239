"""Variation that is no degradation: what looks like one, and must be labelled 0.

`scene` changes the scene before a camera sees it: text and logos on its surfaces, plain and gradient grounds
with cut-out objects, silhouettes, graphic patterns, black and white, other tone curves. `frame` adds what
editors put around an image: frames, letterbox bars, rounded corners.
"""

from collections.abc import Callable, Mapping
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from quality_model.core.pixels import Pixels
from quality_model.degrade.calibrated import lettering
from quality_model.degrade.randomness import Stream

Floats = npt.NDArray[np.float32]

Frame = Callable[[Pixels], Pixels]
"""Lays a frame over an image of the side that it was drawn for."""

SCENE_SHARE: Final = 0.45
FRAME_SHARE: Final = 0.12


def scene(clean: Pixels, stream: Stream, *, share: float = SCENE_SHARE) -> tuple[Pixels, str]:
    """Vary a share of scenes: uint8 (side, side, 3) in and out, and the kind of variation or ``''``."""
    if not stream.chance(share):
        return clean, ""
    kind = _pick(SCENES, stream)
    return np.ascontiguousarray(SCENES[kind][1](clean, stream)), kind


def frame(stream: Stream, side_px: int, *, share: float = FRAME_SHARE) -> tuple[Frame | None, str]:
    """Draw a frame for images of a side: lays it over any of them; None for no frame."""
    if not stream.chance(share):
        return None, ""
    kind = _pick(FRAMES, stream)
    covered, ink = FRAMES[kind][1](side_px, stream)
    weight = covered[..., None].astype(np.float32)

    def lay(pixels: Pixels) -> Pixels:
        return np.asarray(np.rint(pixels + (ink - pixels) * weight), dtype=np.uint8)

    return lay, kind


def _pick(kinds: Mapping[str, tuple[float, Callable[..., object]]], stream: Stream) -> str:
    """A kind, by its weight."""
    weights = [weight for weight, _ in kinds.values()]
    drawn = stream.uniform(0.0, sum(weights))
    return [*kinds][min(int(np.searchsorted(np.cumsum(weights), drawn, side="right")), len(kinds) - 1)]


# -- scenes


def grey(pixels: Pixels) -> Pixels:
    """Black and white (ITU-R BT.601)."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)


def _black_and_white(clean: Pixels, stream: Stream) -> Pixels:
    """Black and white, with a tone curve of its own."""
    weights = np.array([[stream.uniform(0.1, 1.0) for _ in range(3)]], np.float32)
    one = cv2.transform(clean, weights / weights.sum())
    return _toned(np.asarray(cv2.cvtColor(one, cv2.COLOR_GRAY2RGB)), stream)


def _toned(clean: Pixels, stream: Stream) -> Pixels:
    """An S-shaped tone curve or a lifted one, the same for all channels, as films and presets have it."""
    value = np.arange(256) / 255.0
    bend = stream.uniform(-0.25, 0.9)
    curve = value + bend * np.sin(2.0 * np.pi * value) / -(2.0 * np.pi)
    low, high = stream.uniform(0.0, 0.08), 1.0 - stream.uniform(0.0, 0.08)
    lifted = low + (high - low) * curve if stream.chance(0.4) else curve
    return np.asarray(cv2.LUT(clean, np.clip(np.rint(255.0 * lifted), 0, 255).astype(np.uint8)))


def _sign(clean: Pixels, stream: Stream) -> Pixels:
    """Text and logos that belong to the scene: on surfaces of it, in perspective, under its light."""
    side = clean.shape[0]
    image: Floats = clean.astype(np.float32)
    light = np.clip(_light(clean, np.float32, side / 12.0) / 140.0, 0.2, 1.4)
    for _ in range(stream.integer(1, 3)):
        size_px = stream.log_uniform(10.0, side / 3.0)
        board = np.asarray(lettering.plate(size_px, stream)).astype(np.float32)
        if stream.chance(0.92):  # without one it would look like a watermark
            board = _on_board(board, stream)
        height, width = board.shape[:2]
        zoom = stream.log_uniform(0.2, 1.3) * side / max(height, width)
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        shift = np.array([stream.uniform(-0.15, 0.8) * side, stream.uniform(-0.15, 0.85) * side])
        bent = np.array([[stream.uniform(-0.22, 0.22) for _ in range(2)] for _ in range(4)])
        placed = corners * zoom + shift + bent * zoom * min(height, width)
        angle = np.radians(stream.uniform(-25.0, 25.0) if stream.chance(0.5) else 0.0)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        placed = ((placed - shift) @ turn.T + shift).astype(np.float32)
        board[..., :3] *= board[..., 3:] / 255.0
        warp = cv2.getPerspectiveTransform(corners, placed)
        seen = np.asarray(cv2.warpPerspective(board, warp, (side, side), flags=cv2.INTER_AREA))
        cover = seen[..., 3:] / 255.0
        image = np.asarray(image * (1.0 - cover) + seen[..., :3] * light, np.float32)
    soft = np.asarray(cv2.GaussianBlur(np.clip(image, 0, 255), (0, 0), stream.uniform(0.25, 0.5)))
    return np.asarray(np.rint(soft), dtype=np.uint8)


def _light(clean: Pixels, dtype: npt.DTypeLike, sigma_px: float) -> npt.NDArray[np.floating]:
    """The scene's light where it falls, in levels: the smoothed mean of the channels, (side, side, 1)."""
    red, green, blue = cv2.split(clean)
    mean = (red.astype(np.uint16) + green + blue).astype(dtype) / np.asarray(3, dtype)
    return np.asarray(cv2.GaussianBlur(mean, (0, 0), sigma_px))[..., None]


def _on_board(letters: Floats, stream: Stream) -> Floats:
    """Lettering on a board of one colour."""
    height, width = letters.shape[:2]
    margin = max(2, round(height * stream.uniform(0.1, 0.6)))
    board = np.empty((height + 2 * margin, width + 2 * margin, 4), np.float32)
    board[:] = (*(stream.integer(0, 255) for _ in range(3)), 255)
    cover = letters[..., 3:] / 255.0
    inner = board[margin : margin + height, margin : margin + width, :3]
    inner[:] = inner * (1.0 - cover) + letters[..., :3] * cover
    return board


def _ground(side: int, stream: Stream) -> Floats:
    """A plain ground, mostly white, black or grey, or a gradient; float32 (side, side, 3)."""
    pick, level = stream.uniform(0.0, 1.0), stream.uniform(0.0, 255.0)
    grey_level = 255.0 if pick < 0.4 else 0.0 if pick < 0.5 else level
    first = np.full(3, grey_level)
    if pick > 0.75:
        first = np.array([stream.uniform(0.0, 255.0) for _ in range(3)])
    second = np.clip(first + np.array([stream.uniform(-90.0, 90.0)] * 3), 0, 255)
    if not stream.chance(0.4):
        second = first
    angle = stream.uniform(0.0, 2.0 * np.pi)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    along = np.clip(0.5 + np.cos(angle) * x + np.sin(angle) * y, 0.0, 1.0)[..., None]
    if stream.chance(0.3):
        along = np.clip(np.hypot(x, y) * 1.4, 0.0, 1.0)[..., None]
    return np.asarray(first * (1.0 - along) + second * along, dtype=np.float32)


def _shape(side: int, stream: Stream) -> Floats:
    """A blob or a polygon with a sharp edge, float32 (side, side), 0 or 1 but for the edge."""
    count = stream.integer(5, 26)
    angles = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
    radii = np.array([stream.uniform(0.3, 1.0) for _ in range(count)])
    if stream.chance(0.6):
        radii = (radii + np.roll(radii, 1) + np.roll(radii, -1)) / 3.0
    radii *= side * stream.uniform(0.2, 0.5) / radii.mean()
    middle = side * np.array([stream.uniform(0.3, 0.7), stream.uniform(0.3, 0.7)])
    points = middle + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return mask.astype(np.float32) / 255.0


def _cut_out(clean: Pixels, stream: Stream) -> Pixels:
    """An object on a plain or gradient ground, with or without a shadow."""
    side = clean.shape[0]
    ground, mask = _ground(side, stream), _shape(side, stream)[..., None]
    if stream.chance(0.4):
        moved = np.roll(mask[..., 0], (stream.integer(0, side // 12), stream.integer(0, side // 12)), (0, 1))
        shadow = np.asarray(cv2.GaussianBlur(moved, (0, 0), side * stream.uniform(0.01, 0.06)))
        ground = ground * (1.0 - stream.uniform(0.1, 0.5) * shadow[..., None])
    return np.asarray(np.rint(clean * mask + ground * (1.0 - mask)), dtype=np.uint8)


def _silhouette(clean: Pixels, stream: Stream) -> Pixels:
    """Dark shapes before a bright sky: shapes, bars, and the scene's own darker half."""
    side = clean.shape[0]
    sky = np.clip(_ground(side, stream), 90.0, 255.0) if stream.chance(0.6) else clean.astype(np.float32)
    mask = _shape(side, stream)
    if stream.chance(0.5):
        brightness = cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY)
        dark = cv2.GaussianBlur(brightness, (0, 0), 1.0) < np.quantile(brightness, stream.uniform(0.2, 0.6))
        mask = np.asarray(cv2.GaussianBlur(dark.astype(np.float32), (0, 0), 0.6))
    for _ in range(stream.integer(0, 5)):
        first, second = ([round(stream.uniform(0.0, side)) for _ in "xy"] for _ in range(2))
        line = cv2.line(mask.copy(), first, second, 1.0, stream.integer(1, 5), cv2.LINE_AA)
        mask = np.asarray(line, np.float32)
    ink = clean * np.float32(stream.uniform(0.0, 0.15))
    return np.asarray(np.rint(sky * (1.0 - mask[..., None]) + ink * mask[..., None]), dtype=np.uint8)


def _pattern(clean: Pixels, stream: Stream) -> Pixels:
    """A graphic pattern as a part of the scene: stripes, a grid, spokes, checks or dots, in two colours."""
    side = clean.shape[0]
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    angle, period = stream.uniform(0.0, np.pi), stream.log_uniform(4.0, side / 2.5)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    share = stream.uniform(0.15, 0.6)
    kind = stream.choice(("stripes", "grid", "spokes", "checks", "dots", "rings"))
    middle = side * np.array([stream.uniform(0.2, 0.8), stream.uniform(0.2, 0.8)])
    radius = np.hypot(x - middle[0], y - middle[1])
    if kind == "spokes":
        wave = np.arctan2(y - middle[1], x - middle[0]) * stream.integer(4, 20) / (2.0 * np.pi)
        wave, width = wave % 1.0, 1.0 / np.maximum(radius, 3.0)
    else:
        wave = (radius if kind == "rings" else u) / period % 1.0
        width = np.full_like(wave, 1.0 / period)
    inside = _band(wave, share, width)
    if kind in ("grid", "checks", "dots"):
        other = _band(v / period % 1.0, share, width)
        inside = {"grid": np.maximum(inside, other), "checks": abs(inside - other), "dots": inside * other}[
            kind
        ]
    both = (0.0, 255.0) if stream.chance(0.4) else (stream.uniform(0, 255), stream.uniform(0, 255))
    first = (
        np.full(3, both[0]) if stream.chance(0.6) else np.array([stream.uniform(0, 255) for _ in range(3)])
    )
    drawn = first * (1.0 - inside[..., None]) + both[1] * inside[..., None]
    if stream.chance(0.4):  # only one of the colours, over the scene
        drawn = clean * (1.0 - inside[..., None]) + first * inside[..., None]
    mask = _shape(side, stream)[..., None] if stream.chance(0.6) else np.ones((side, side, 1), np.float32)
    if stream.chance(0.6):
        drawn = drawn * np.clip(_light(clean, np.float64, side / 10.0) / 128.0, 0.4, 1.3)
    lit = np.clip(drawn, 0, 255)
    return np.asarray(np.rint(clean * (1.0 - mask) + lit * mask), dtype=np.uint8)


def _band(wave: Floats, share: float, width: Floats) -> Floats:
    """1 where a wave of period 1 is below ``share``, with a soft edge of ``width``; float32."""
    distance = np.minimum(np.minimum(wave, share - wave), 1.0)
    distance = np.maximum(distance, wave - 1.0)
    return np.asarray(np.clip(distance / np.maximum(width, 1e-3) + 0.5, 0.0, 1.0), dtype=np.float32)


def _one_colour(clean: Pixels, stream: Stream) -> Pixels:
    """A ground and nothing else, or nearly."""
    ground = _ground(clean.shape[0], stream)
    share = stream.choice((0.0, 0.0, stream.uniform(0.0, 0.1)))
    return np.asarray(np.rint(ground * (1.0 - share) + clean * share), dtype=np.uint8)


SCENES: Final[dict[str, tuple[float, Callable[[Pixels, Stream], Pixels]]]] = {
    "sign": (0.26, _sign),
    "black_and_white": (0.14, _black_and_white),
    "tone_curve": (0.14, _toned),
    "cut_out": (0.12, _cut_out),
    "pattern": (0.15, _pattern),
    "silhouette": (0.1, _silhouette),
    "one_colour": (0.03, _one_colour),
}
"""By kind, its weight and what it does to a clean image."""


# -- frames

Drawn = tuple[Floats, Floats]
"""Coverage, float32 (side, side) in [0, 1], and ink, float32 (3,)."""


def _ink(stream: Stream) -> Floats:
    pick = stream.uniform(0.0, 1.0)
    if pick < 0.8:
        return np.full(3, 0.0 if pick < 0.4 else 255.0, np.float32)
    return np.array([stream.uniform(0.0, 255.0) for _ in range(3)], np.float32)


def _border(side: int, stream: Stream) -> Drawn:
    """A frame of one colour on all sides."""
    width = max(1, round(side * stream.log_uniform(0.008, 0.15)))
    covered = np.ones((side, side), np.float32)
    covered[width:-width, width:-width] = 0.0
    return covered, _ink(stream)


def _bars(side: int, stream: Stream) -> Drawn:
    """Bars on two opposite sides, or on one."""
    width = max(1, round(side * stream.uniform(0.03, 0.25)))
    covered, which = np.zeros((side, side), np.float32), stream.integer(0, 2)
    if which != 1:
        covered[:width] = 1.0
    if which != 2:
        covered[-width:] = 1.0
    return (covered.T if stream.chance(0.35) else covered).copy(), _ink(stream)


def _rounded(side: int, stream: Stream) -> Drawn:
    """Rounded corners, or an ellipse."""
    inside = np.zeros((side, side), np.uint8)
    if stream.chance(0.25):
        centre, axes = (side // 2, side // 2), (side // 2, round(side * stream.uniform(0.35, 0.5)))
        cv2.ellipse(inside, centre, axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
    else:
        radius = max(2, round(side * stream.uniform(0.03, 0.25)))
        image = Image.fromarray(inside)
        ImageDraw.Draw(image).rounded_rectangle((0, 0, side - 1, side - 1), radius, fill=255)
        inside = np.array(image)
    return 1.0 - inside.astype(np.float32) / 255.0, _ink(stream)


FRAMES: Final[dict[str, tuple[float, Callable[[int, Stream], Drawn]]]] = {
    "border": (0.35, _border),
    "bars": (0.45, _bars),
    "rounded": (0.2, _rounded),
}
