"""Zero-training baselines: what one classical measure of an image reaches on the test samples.

Every ``calc_*`` takes uint8 (side, side, 3) RGB and returns a number in a unit of its own, NaN where it is
not defined. Lengths are in pixels of a 224 px image and scale with the side. The number becomes a label by a
monotone curve that is fitted on samples of the training groups, and is then measured on the split like a
head of the model. A network that is not clearly better has learned only what was known before.

Measuring takes some milliseconds per image. So a split that is larger than ``max_samples`` is represented by
that many samples of it (`baseline_rows`), one from each of as many equal stretches.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from quality_model.core.decoding import Pixels
from quality_model.data.dataset import TrainingSet, stratified_subset
from quality_model.degrade.severity import to_lab
from quality_model.errors import UsageError
from quality_model.evaluate import metrics
from quality_model.records import HEADS, REFERENCE_SIDE_PX, Head, Split

Floats = npt.NDArray[np.float64]

WHITE_SHARE: Final = 0.05
"""Share of the pixels, the lightest, that count as the white patch; one pixel alone may be noise."""

STROKE_PX: Final = 15
"""Width below which something bright or dark counts as a stroke: letters 60 px high have stems of about 9."""

STROKE_CONTRAST: Final = 20
"""Grey levels by which a stroke stands out: a watermark of opacity .2 on ground that is 100 levels away."""

_MEDIAN_PX: Final = 5
"""Side of the median filter that removes noise and fine texture and leaves strokes."""

_DB2_HIGH_PASS: Final = np.array(
    [np.sqrt(3.0) - 1.0, 3.0 - np.sqrt(3.0), -3.0 - np.sqrt(3.0), 1.0 + np.sqrt(3.0)]
) / (4.0 * np.sqrt(2.0))
"""Wavelet of two vanishing moments (Daubechies, Ten Lectures on Wavelets, 1992, table 6.1)."""

_MAD_OF_NORMAL: Final = 0.6744897501960817
"""Median of the absolute value of a standard normal deviate: its quantile at 3/4."""

_NOTHING: Final = 1e-6
"""Wavelet coefficients of whole grey levels that are smaller than this are rounding around 0."""

_FEWEST: Final = 2
"""Samples that a curve needs."""


def calc_blur_effect(pixels: Pixels) -> float:
    """How little a second blur removes: 0 sharp to 1 blurred.

    Source: Crete et al., The blur effect, SPIE 6492, 2007, in scikit-image's implementation.
    """
    from skimage import measure

    blur_effect: Any = measure.blur_effect  # has no types
    return float(blur_effect(pixels, channel_axis=-1))


def calc_log_laplacian_variance(pixels: Pixels) -> float:
    """Natural logarithm of 1 + the variance of the Laplacian of the grey image; falls with blur.

    Source: Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000.
    """
    return float(np.log1p(cv2.Laplacian(_grey(pixels), cv2.CV_32F).var()))


def calc_wavelet_sigma(pixels: Pixels) -> float:
    """Standard deviation of noise in grey levels, mean of the channels.

    Source: Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 81,
    1994, section 4.2: the median of the absolute diagonal coefficients of the finest scale.
    This is scikit-image's `estimate_sigma` without PyWavelets. Coefficients that are 0 are left out
    here even where rounding has made them something else.
    """
    border = len(_DB2_HIGH_PASS) - 1
    mirrored = cv2.copyMakeBorder(
        pixels.astype(np.float64), border, border, border, border, cv2.BORDER_REFLECT
    )
    filtered = cv2.sepFilter2D(mirrored, cv2.CV_64F, _DB2_HIGH_PASS, _DB2_HIGH_PASS, anchor=(0, 0))
    details = np.abs(filtered[1:-border:2, 1:-border:2])
    sigmas = []
    for channel in range(details.shape[2]):
        seen = details[..., channel]
        seen = seen[seen > _NOTHING]  # areas of one colour, clipped ones too, show no noise
        sigmas.append(np.median(seen) / _MAD_OF_NORMAL if seen.size else 0.0)
    return float(np.mean(sigmas))


def calc_grey_world_cast(pixels: Pixels) -> float:
    """Distance of the mean colour from neutral in CIELAB's a*b* plane, 0 neutral.

    Source: Buchsbaum, A spatial processor model for object colour perception, Journal of the
    Franklin Institute 310, 1980: the mean of a scene is assumed to be grey.
    """
    lab = to_lab(pixels)
    return float(np.hypot(lab[..., 1].mean(), lab[..., 2].mean()))


def calc_white_patch_cast(pixels: Pixels) -> float:
    """Distance from neutral in CIELAB's a*b* plane of the mean of the lightest pixels, 0 neutral.

    Source: Land and McCann, Lightness and retinex theory, JOSA 61, 1971: the lightest part of
    a scene is assumed to be white. Here it is the lightest 5 % by L*.
    """
    lab = to_lab(pixels).reshape(-1, 3)
    count = max(1, round(WHITE_SHARE * len(lab)))
    lightest = lab[np.argpartition(lab[:, 0], -count)[-count:]]
    return float(np.hypot(lightest[:, 1].mean(), lightest[:, 2].mean()))


def calc_stroke_density(pixels: Pixels) -> float:
    """Share of pixels in thin strokes that are brighter or darker than what is around them, 0 to 1.

    The larger of the white and the black top-hat transform of the grey image behind a median
    filter, above a contrast. Source: top-hat, Meyer, Contrast feature extraction, 1979; for text
    in images, Wu, Manmatha and Riseman, TextFinder, IEEE TPAMI 21, 1999, look for the same.
    """
    grey = cv2.medianBlur(_grey(pixels), _MEDIAN_PX)
    element = _square(pixels)
    bright = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, element)
    dark = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, element)
    return float(np.mean(np.maximum(bright, dark) > STROKE_CONTRAST))


def calc_pale_strokes(pixels: Pixels) -> float:
    """Mean strength of thin strokes that are lighter and paler than what is around them, in CIELAB units.

    A half-transparent white or grey text lifts L* and lowers the chroma in the same place,
    which texture seldom does: the geometric mean of the white top-hat of L* and the black
    top-hat of the chroma (see `calc_stroke_density`), both lightly smoothed first.
    """
    lab = cv2.GaussianBlur(to_lab(pixels), (0, 0), 0.8)
    lightness = np.ascontiguousarray(lab[..., 0])
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    element = _square(pixels)
    lighter = cv2.morphologyEx(lightness, cv2.MORPH_TOPHAT, element)
    paler = cv2.morphologyEx(chroma, cv2.MORPH_BLACKHAT, element)
    return float(np.sqrt(lighter * paler).mean())


CLASSICAL: Final[Mapping[Head, Mapping[str, Callable[[Pixels], float]]]] = {
    "color_cast": {"grey_world": calc_grey_world_cast, "white_patch": calc_white_patch_cast},
    "blurriness": {"blur_effect": calc_blur_effect, "laplacian_variance": calc_log_laplacian_variance},
    "watermark": {"stroke_density": calc_stroke_density, "pale_strokes": calc_pale_strokes},
    "noise": {"estimate_sigma": calc_wavelet_sigma},
}
"""The measures of each head by the name under which they are reported."""


def predict_baselines(
    training_set: TrainingSet, known: npt.NDArray[np.int64], asked: npt.NDArray[np.int64]
) -> dict[Head, dict[str, Floats]]:
    """Calibrate each baseline on some samples and apply it to others.

    Args:
        training_set: Holds pixels and labels.
        known: (k,) rows that they are calibrated on, those of the train split (`baseline_rows`).
        asked: (n,) rows that they are applied to.

    Returns:
        By head and baseline the scores of the asked rows, (n,) in [0, 1].
    """
    scores: dict[Head, dict[str, Floats]] = {}
    for position, head in enumerate(HEADS):
        labels = np.asarray(training_set.labels[known, position], dtype=np.float64)
        scores[head] = {}
        for name, calc in CLASSICAL[head].items():
            measured = np.array([calc(np.array(training_set.images[row])) for row in (*known, *asked)])
            scores[head][name] = calibrate(measured[: len(known)], labels, measured[len(known) :])
    return scores


def baseline_rows(
    training_set: TrainingSet,
    split: Split,
    *,
    max_samples: int,
    seed: int,
    excluded_groups: Collection[str] = (),
) -> npt.NDArray[np.int64]:
    """The rows of a split, int64 (n,), on which baselines are measured.

    Raises:
        UsageError: The split has no samples.
    """
    rows = training_set.counted(split, excluded_groups)
    if len(rows) == 0:
        raise UsageError(
            f"The split {split} has no samples, so there is no baseline.", "Generate from more groups."
        )
    return stratified_subset(rows, max_samples, seed)


def calibrate(known: Floats, labels: Floats, asked: Floats) -> Floats:
    """Labels of measures, by the monotone curve of least squares (isotonic regression).

    Args:
        known: (k,) measures of training samples; those that are not finite are left out.
        labels: (k,) of the same samples, in [0, 1], k >= 1.
        asked: (n,) measures.

    Returns:
        (n,) in [0, 1]: on a curve that rises where the rank correlation is positive and falls where it is
        negative, straight between the known measures and constant beyond them. The mean label for a measure
        that is not finite, and always where fewer than two are known.
    """
    from sklearn.isotonic import IsotonicRegression

    finite, defined = np.isfinite(known), np.isfinite(asked)
    answers = np.full(len(asked), labels.mean())
    if finite.sum() >= _FEWEST and defined.any():
        correlation = metrics.measure(labels[finite], known[finite])["spearman"]
        curve = IsotonicRegression(increasing=(correlation or 0.0) >= 0.0, out_of_bounds="clip")
        answers[defined] = curve.fit(known[finite], labels[finite]).predict(asked[defined])
    return answers


def _grey(pixels: Pixels) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _square(pixels: Pixels) -> Any:
    side_px = max(3, round(STROKE_PX * pixels.shape[0] / REFERENCE_SIDE_PX) | 1)
    return cv2.getStructuringElement(cv2.MORPH_RECT, (side_px, side_px))
