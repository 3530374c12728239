"""Samples of profile `calibrated`, made with NumPy, Pillow, OpenCV's filter and scikit-image.

What is drawn is the library's: plans, kernels, watermarks and the variation of scenes. Here are the pixels
and measures of everything after that.
"""

import io
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from skimage.color import rgb2lab

from quality_model.core.decoding import Pixels
from quality_model.degrade import SampleRandomness
from quality_model.degrade.calibrated import clean_variation, point_spread
from quality_model.degrade.calibrated.calibrated_plan import Blur, Noise, draw_plan
from quality_model.degrade.calibrated.calibrated_profile import CalibratedProfile
from quality_model.degrade.severity import SCALES
from quality_model.records import HEADS

Floats = npt.NDArray[np.float64]


def generate(folder: Path, output: Path, *, samples_per_image: int, side_px: int, seed: int) -> int:
    """Degrade the JPEG files of a folder into images.npy and labels.npy; returns the number of samples."""
    random = np.random.default_rng(seed)
    images, labels = [], []
    for path in sorted(folder.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        whole = np.array(image.resize((side_px, side_px), Image.Resampling.LANCZOS))
        images.append(whole)
        labels.append(np.zeros(len(HEADS)))
        for number in range(samples_per_image):
            view = whole if random.random() < 0.5 else tile(np.array(image), side_px, random)
            degraded, severities, _ = degrade(view, SampleRandomness(seed, f"{path.name} {number}"), 1.0)
            severities[HEADS.index("blurriness")] = max(
                severities[HEADS.index("blurriness")], SCALES["blurriness"].severity(softness_px(view))
            )
            images.append(degraded)
            labels.append(severities)
    output.mkdir(parents=True)
    np.save(output / "images.npy", np.stack(images))
    np.save(output / "labels.npy", np.stack(labels).astype(np.float32))
    return len(images)


def tile(pixels: Pixels, side_px: int, random: np.random.Generator) -> Pixels:
    """A random square of an image that is no smaller."""
    top, left = (random.integers(0, length - side_px, endpoint=True) for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side_px, left : left + side_px])


def softness_px(pixels: Pixels) -> float:
    """Sigma of the blur of the sharpest edges; see `point_spread.edge_sigma`, whose formula this is."""
    grey = np.array(Image.fromarray(pixels).convert("L")).astype(np.float64)
    share = 1.0 - point_spread.SHARPEST_SHARE
    slopes = np.concatenate([np.abs(np.gradient(grey, axis=axis)).ravel() for axis in (0, 1)])
    bends = np.concatenate([np.abs(np.diff(grey, 2, axis=axis)).ravel() for axis in (0, 1)])
    slope, bend = np.quantile(slopes, share), np.quantile(bends, share)
    sigma_px = 1.4 * np.sqrt(max(0.0, (slope / bend) ** 2 / np.e - 0.25)) if slope >= 2 and bend > 0 else 0.0
    return float(sigma_px) if sigma_px > point_spread.SOFT_SIGMA_PX else 0.0


def degrade(
    clean: Pixels, randomness: SampleRandomness, scale: float
) -> tuple[Pixels, Floats, npt.NDArray[np.float32]]:
    """Apply 0 to 4 degradations; returns the image, the labels and the watermark's severity by cell."""
    side = clean.shape[0]
    shares = CalibratedProfile.shares
    kinds = {
        head: tuple(kind for kind in kinds for _ in range(shares.get(kind, 1)))
        for head, kinds in CalibratedProfile.kinds.items()
    }
    plan = draw_plan(randomness, kinds, side_px=side, scale=scale)
    varied, _ = clean_variation.scene(clean, randomness.stream("scene"))
    frame, _ = clean_variation.frame(randomness.stream("frame"), side)
    random = np.random.default_rng(randomness.stream("noise").integer(0, 2**32 - 1))
    image = varied.astype(np.float64)
    measures, cells = dict.fromkeys(HEADS, 0.0), np.zeros((side // 16, side // 16), np.float32)
    noiseless = uncast = None
    if plan.blur is not None:
        image = blurred(image, plan.blur)
        measures["blurriness"] = float(plan.blur.facts["sigma_px"])
    if plan.noise is not None:
        noiseless, image = image, noisy(image, plan.noise, random)
    if plan.cast is not None:
        if plan.cast.toned:
            image, noiseless = grey(image), None if noiseless is None else grey(noiseless)
        uncast, image = image, recoloured(image, plan.cast.apply)
        noiseless = None if noiseless is None else recoloured(noiseless, plan.cast.apply)
    if frame is not None:
        image = recoloured(image, frame)
        noiseless, uncast = (None if one is None else recoloured(one, frame) for one in (noiseless, uncast))
    if plan.watermark is not None:
        overlay = plan.watermark.overlay
        cover = overlay.coverage[..., None] / 255.0

        def stamped(under: Floats, opacity: float) -> Floats:
            return under * (1.0 - opacity * cover) + overlay.colour * (opacity * cover)

        unmarked = image
        opaque = differences(unmarked, stamped(unmarked, 1.0))
        opacity = plan.watermark.opacity(float(np.sqrt(np.mean(opaque))))
        image = stamped(unmarked, opacity)
        noiseless, uncast = (None if one is None else stamped(one, opacity) for one in (noiseless, uncast))
        made = differences(unmarked, image)
        measures["watermark"] = float(np.sqrt(np.mean(made)))
        whole = made[: side // 16 * 16, : side // 16 * 16].reshape(side // 16, 16, side // 16, 16)
        of_cells = np.sqrt(whole.mean(axis=(1, 3)))
        cells = np.vectorize(SCALES["watermark"].severity, otypes=[np.float32])(of_cells)
    if uncast is not None:
        shift = (lab(image) - lab(uncast))[..., 1:].mean(axis=(0, 1))
        measures["color_cast"] = float(np.hypot(*shift))
    if noiseless is not None:
        measures["noise"] = float(np.sqrt(np.mean((image - noiseless) ** 2)))
    labels = np.array([SCALES[head].severity(measures[head]) for head in HEADS])
    return delivered(to_uint8(image), random), labels, cells


def to_uint8(image: Floats) -> Pixels:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def lab(image: Floats) -> Floats:
    """CIELAB of levels 0 to 255."""
    return np.asarray(rgb2lab(np.clip(image, 0, 255) / 255.0))


def differences(before: Floats, after: Floats) -> Floats:
    """Squared colour differences CIE 1976, (H, W)."""
    return np.asarray(((lab(after) - lab(before)) ** 2).sum(axis=2))


def grey(image: Floats) -> Floats:
    return np.repeat((image @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)


def recoloured(image: Floats, change: "clean_variation.Frame") -> Floats:
    return change(to_uint8(image)).astype(np.float64)


def blurred(image: Floats, blur: Blur) -> Floats:
    """By OpenCV's filter, which is hard to do without; by Pillow's resizing for a low resolution."""
    if blur.kernel is None:
        return blur.apply(to_uint8(image)).astype(np.float64)
    soft = cv2.filter2D(image, -1, blur.kernel, borderType=cv2.BORDER_REPLICATE).astype(np.float64)
    return soft if blur.depth is None else image + (soft - image) * blur.depth


def noisy(image: Floats, noise: Noise, random: np.random.Generator) -> Floats:
    """Noise of about this RMS; of a camera with a filter array, in linear light."""
    normal = random.standard_normal(image.shape)
    if noise.camera is not None:
        camera = noise.camera
        value = image / 255.0
        light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        sites = np.sqrt(camera.shot_share * light + 1.0 - camera.shot_share) * normal
        rows, columns = np.indices(image.shape[:2]) % 2
        planes = []
        weights = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4.0
        gains = camera.red_gain, 1.0, camera.blue_gain
        masks = (rows == 0) & (columns == 0), rows != columns, (rows == 1) & (columns == 1)
        for channel, (gain, mask) in enumerate(zip(gains, masks, strict=True)):
            kernel = weights if channel != 1 else np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4.0
            planes.append(cv2.filter2D(sites[..., channel] * mask * gain, -1, kernel))
        field = np.stack(planes, axis=2) * np.maximum(light, 0.004) ** (1 / 2.4 - 1.0)
        smooth = field if not camera.luma_sigma_px else cv2.GaussianBlur(field, (0, 0), camera.luma_sigma_px)
        return levels(image + noise.std * smooth / smooth.std())
    if noise.kind == "salt_and_pepper":
        drawn, share = random.random(image.shape[:2])[..., None], min(0.3, noise.std**2 / 1.6e4)
        return np.where(drawn < share / 2, 255.0, np.where(drawn > 1.0 - share / 2, 0.0, image))
    if noise.kind == "poisson":
        peak = max(1.0, 255.0 * image.mean()) / noise.std**2
        return levels(random.poisson(np.maximum(image, 0.0) / 255.0 * peak) / peak * 255.0)
    if noise.kind == "speckle":
        return levels(image * (1.0 + min(0.8, noise.std / max(1.0, image.mean())) * normal))
    field = normal if noise.kind == "gaussian" else np.repeat(normal[..., :1], 3, axis=2)
    if noise.grain_px > 0:
        grains = np.asarray(cv2.GaussianBlur(field, (0, 0), noise.grain_px), np.float64)
        field = grains / grains.std()
    return levels(image + noise.std * field)


def levels(image: Floats) -> Floats:
    """Cut to the range."""
    return np.asarray(np.clip(image, 0, 255), np.float64)


def delivered(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Rescaled, sharpened, recompressed, by Pillow, as often as the library does it."""
    image, size = Image.fromarray(pixels), pixels.shape[1::-1]
    rescaled, sharpened, recompressed = random.random(3)
    if rescaled < 0.2:
        smaller = tuple(round(side * random.uniform(0.85, 1.0)) for side in size)
        image = image.resize((smaller[0], smaller[1]), Image.Resampling.LANCZOS)
        image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    if sharpened < 0.12:
        image = image.filter(ImageFilter.UnsharpMask(random.uniform(0.5, 1.2), int(random.integers(15, 80))))
    if recompressed < 0.6:
        stream, kind = io.BytesIO(), "WEBP" if random.random() < 0.15 else "JPEG"
        image.save(stream, kind, quality=int(random.integers(60, 98, endpoint=True)))
        image = Image.open(stream).convert("RGB")
    return np.array(image)
