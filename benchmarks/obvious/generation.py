"""A training dataset of label profile `seed`, made with Pillow and NumPy."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from quality_model.degrade.casts import TINTS
from quality_model.degrade.seed import (
    CORNER_MARGIN_PX,
    CORNERS,
    DIRECTIONS,
    LAYOUTS,
    STRENGTHS,
    TEXT_GREY,
    TEXT_SIZES_PX,
    TEXTS,
    TILE_GAP_PX,
    font_folder,
)
from quality_model.records import HEADS


def generate(folder: Path, output: Path, *, samples_per_image: int, side_px: int, seed: int) -> int:
    """Degrade the JPEG files of a folder into images.npy and labels.npy; returns the number of samples."""
    random = np.random.default_rng(seed)
    images, labels = [], []
    for path in sorted(folder.glob("*.jpg")):
        clean = Image.open(path).convert("RGB").resize((side_px, side_px), Image.Resampling.LANCZOS)
        images.append(np.array(clean))
        labels.append(np.zeros(len(HEADS)))
        for _ in range(samples_per_image):
            image, severities = degrade(clean, random)
            images.append(np.array(image))
            labels.append(severities)
    output.mkdir(parents=True)
    np.save(output / "images.npy", np.stack(images))
    np.save(output / "labels.npy", np.stack(labels).astype(np.float32))
    return len(images)


def degrade(image: Image.Image, random: np.random.Generator) -> tuple[Image.Image, npt.NDArray[np.float64]]:
    """Apply 0 to 4 degradations in random order; returns the labels in the order of `HEADS`, too."""
    labels = np.zeros(len(HEADS))
    count = random.integers(0, len(HEADS), endpoint=True)
    for head in random.permutation(len(HEADS))[:count]:
        strength = random.uniform(*STRENGTHS[HEADS[head]])
        image = _STEPS[head](image, strength, random)
        labels[head] = strength
    return image, labels


def _color_cast(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    tint = [*TINTS.values()][random.integers(len(TINTS))]
    return Image.blend(image, Image.new("RGB", image.size, tint), strength)


def _blurriness(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    kind = random.integers(3)
    if kind == 0:
        return image.filter(ImageFilter.GaussianBlur(int(1 + 9 * strength)))
    if kind == 1:
        return image.filter(ImageFilter.BoxBlur(int(1 + 9 * strength)))
    taps = int(5 + 15 * strength)
    kernel = np.zeros((taps, taps), dtype=np.float32)
    direction = DIRECTIONS[random.integers(len(DIRECTIONS))]
    if direction == "horizontal":
        kernel[taps // 2] = 1.0 / taps
    elif direction == "vertical":
        kernel[:, taps // 2] = 1.0 / taps
    else:
        np.fill_diagonal(kernel, 1.0 / taps)
    return Image.fromarray(cv2.filter2D(np.array(image), -1, kernel))


def _watermark(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    text = TEXTS[random.integers(len(TEXTS))]
    typeface = str(font_folder() / "DejaVuSans.ttf")
    font = ImageFont.truetype(typeface, int(random.integers(*TEXT_SIZES_PX, endpoint=True)))
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    fill = (TEXT_GREY, TEXT_GREY, TEXT_GREY, int(255 * strength))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = int(right - left), int(bottom - top)
    side = image.width
    layout = LAYOUTS[random.integers(len(LAYOUTS))]
    if layout == "tiled":
        for y in range(0, side, height + TILE_GAP_PX):
            for x in range(0, side, width + TILE_GAP_PX):
                pen.text((x, y), text, font=font, fill=fill)
    elif layout == "corner":
        corner = CORNERS[random.integers(len(CORNERS))]
        x = CORNER_MARGIN_PX if corner.endswith("left") else side - CORNER_MARGIN_PX - width
        y = CORNER_MARGIN_PX if corner.startswith("upper") else side - CORNER_MARGIN_PX - height
        pen.text((x, y), text, font=font, fill=fill)
    else:
        pen.text(((side - width) // 2, (side - height) // 2), text, font=font, fill=fill)
        if layout == "diagonal":
            layer = layer.rotate(45, Image.Resampling.BILINEAR)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _noise(image: Image.Image, strength: float, random: np.random.Generator) -> Image.Image:
    kind = random.integers(3)
    pixels = np.array(image)
    if kind == 0:
        noisy = pixels + random.normal(0.0, 10 + 40 * strength, pixels.shape)
    elif kind == 1:
        share = 0.01 + 0.09 * strength
        drawn = random.random(pixels.shape[:2])
        pixels[drawn < share / 2] = 255
        pixels[drawn > 1 - share / 2] = 0
        return Image.fromarray(pixels)
    else:
        peak = 255 * (1 - strength / 2)
        noisy = random.poisson(pixels / 255.0 * peak) / peak * 255.0
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


_STEPS = (_color_cast, _blurriness, _watermark, _noise)
"""In the order of `HEADS`."""
