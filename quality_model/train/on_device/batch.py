"""A batch of samples of profile `calibrated`, made on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.degrade import point_spread as psf
from quality_model.degrade.calibrated_plan import Blur, Cast, Marking, Plan, draw_plan
from quality_model.degrade.delivery import Delivery, draw_delivery, rescaled_side
from quality_model.degrade.severity import SCALES
from quality_model.records import HEADS, Head
from quality_model.train.on_device import colours, noises
from quality_model.train.on_device.blurs import convolve, resample
from quality_model.train.on_device.jpeg import recompress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """All that happens to one sample."""

    degradations: Plan
    delivery: Delivery


class BatchDegrader:
    """Makes samples of clean images on a device, on a CUDA stream of its own beside the training.

    The plans are drawn on the CPU meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._generator = torch.Generator(device)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(
        self, clean: npt.NDArray[np.uint8], randomness: Sequence[SampleRandomness], scale: float
    ) -> tuple[Tensor, npt.NDArray[np.float32]]:
        """Samples and labels (see `degrade`); the noise hangs on the randomness of the first of them."""
        plans = [draw_sample_plan(one, side_px=clean.shape[1], scale=scale) for one in randomness]
        self._generator.manual_seed(randomness[0].stream("noise of the batch").integer(0, 2**63 - 1))
        if self._stream is None:
            return degrade(torch.from_numpy(clean).to(self._device), plans, self._generator)
        with torch.cuda.stream(self._stream):
            samples, labels = degrade(torch.from_numpy(clean).to(self._device), plans, self._generator)
            samples.record_stream(torch.cuda.default_stream(self._device))  # where they are trained on
            self._stream.synchronize()
        return samples, labels


def draw_sample_plan(randomness: SampleRandomness, *, side_px: int, scale: float) -> SamplePlan:
    """The plan that `CalibratedProfile.degrade` would carry out (see `calibrated_plan.draw_plan`)."""
    kinds = PROFILES["calibrated"].kinds
    return SamplePlan(
        draw_plan(randomness, kinds, side_px=side_px, scale=scale),
        draw_delivery(randomness.stream("delivery")),
    )


def degrade(
    clean: Tensor, plans: Sequence[SamplePlan], generator: torch.Generator
) -> tuple[Tensor, npt.NDArray[np.float32]]:
    """Carry out a plan on each of some sharp images.

    Args:
        clean: uint8 (n, S, S, 3), on the device.
        plans: One for each.
        generator: Of the device; where the noise comes from.

    Returns:
        Samples, uint8 (n, S, S, 3) on the device, and labels, float32 (n, 4) in [0, 1].
    """
    measures = torch.zeros(len(plans), len(HEADS), device=clean.device)

    def measured(head: Head, rows: list[int], values: Tensor) -> None:
        measures[rows, HEADS.index(head)] = values

    levels = clean.permute(0, 3, 1, 2).float()
    rows, blurs = _chosen([plan.degradations.blur for plan in plans])
    if rows:
        levels = _with(levels, rows, _blurred(levels[rows], blurs))
        measured("blurriness", rows, _floats([float(blur.facts["sigma_px"]) for blur in blurs], levels))
    quiet = levels
    noisy, noise_plans = _chosen([plan.degradations.noise for plan in plans])
    if noisy:
        levels = _with(levels, noisy, noises.add(levels[noisy], noise_plans, generator))
    neutral = levels
    shifted, casts = _chosen([plan.degradations.cast for plan in plans])
    if shifted:
        tables = _tables(casts, levels)
        levels, quiet = (
            _with(one, shifted, colours.recolour(one[shifted], tables)) for one in (levels, quiet)
        )
    rows, markings = _chosen([plan.degradations.marking for plan in plans])
    if rows:
        before, mark = levels[rows], _marks(levels[rows], markings)
        levels, quiet, neutral = (
            _with(one, rows, colours.stamp(one[rows], *mark)) for one in (levels, quiet, neutral)
        )
        measured("watermark", rows, colours.rms_difference(before, levels[rows]))
    if shifted:
        measured("color_cast", shifted, colours.mean_shift_ab(neutral[shifted], levels[shifted]))
    if noisy:
        measured("noise", noisy, (levels[noisy] - quiet[noisy]).square().mean(dim=(1, 2, 3)).sqrt())
    levels = _delivered(levels, [plan.delivery for plan in plans])
    return levels.permute(0, 2, 3, 1).to(torch.uint8).contiguous(), _labels(measures)


def _labels(measures: Tensor) -> npt.NDArray[np.float32]:
    labels = [
        [SCALES[head].severity(measure) for head, measure in zip(HEADS, row, strict=True)]
        for row in measures.tolist()
    ]
    return np.array(labels, dtype=np.float32).reshape(-1, len(HEADS))


def _blurred(levels: Tensor, blurs: Sequence[Blur]) -> Tensor:
    done = levels
    rows, kernels = _chosen([blur.kernel for blur in blurs])
    if rows:
        done = _with(done, rows, convolve(levels[rows], kernels).round().clamp(0, 255))
    rows, resampled = _chosen([blur if blur.kernel is None else None for blur in blurs])
    if rows:
        sides_px = [psf.reduced_side(levels.shape[-1], blur.factor) for blur in resampled]
        up = [psf.INTERPOLATIONS[blur.interpolation] for blur in resampled]
        done = _with(done, rows, resample(levels[rows], sides_px, [cv2.INTER_AREA] * len(rows), up))
    return done


def _tables(casts: Sequence[Cast], levels: Tensor) -> Tensor:
    return torch.from_numpy(np.stack([cast.table for cast in casts])).to(levels.device)


def _marks(levels: Tensor, markings: Sequence[Marking]) -> tuple[Tensor, Tensor, Tensor]:
    """Colour, coverage and opacity of marks (see `colours.stamp`)."""
    colour, coverage = (
        torch.from_numpy(np.stack(parts)).to(levels.device)
        for parts in zip(*((one.mark.colour, one.mark.coverage) for one in markings), strict=True)
    )
    opaque = torch.ones(len(markings), device=levels.device)
    full = colours.rms_difference(levels, colours.stamp(levels, colour, coverage, opaque))
    opacities = [one.opacity(difference) for one, difference in zip(markings, full.tolist(), strict=True)]
    return colour, coverage, _floats(opacities, levels)


def _delivered(levels: Tensor, deliveries: Sequence[Delivery]) -> Tensor:
    rows, rescaled = _chosen([one if one.factor is not None else None for one in deliveries])
    if rows:
        sides_px = [rescaled_side(levels.shape[-1], one.factor or 1.0) for one in rescaled]
        there, back = [one.down for one in rescaled], [one.up for one in rescaled]
        levels = _with(levels, rows, resample(levels[rows], sides_px, there, back))
    for sampling in dict.fromkeys(one.sampling for one in deliveries):
        rows, qualities = _chosen([one.quality if one.sampling == sampling else None for one in deliveries])
        if rows:
            levels = _with(levels, rows, recompress(levels[rows], qualities, sampling))
    return levels


def _chosen(parts: Sequence[T | None]) -> tuple[list[int], list[T]]:
    """Rows that have this part, and the parts."""
    found = [(row, part) for row, part in enumerate(parts) if part is not None]
    return [row for row, _ in found], [part for _, part in found]


def _with(levels: Tensor, rows: list[int], replaced: Tensor) -> Tensor:
    return levels.index_copy(0, torch.tensor(rows, device=levels.device), replaced)


def _floats(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)
