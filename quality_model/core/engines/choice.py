"""Which engine scores: the fastest that gives the scores of the network in float32."""

import copy
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from quality_model.core.device import choose_precision, fastest
from quality_model.core.engines.engine import Engine
from quality_model.core.engines.folding import folded
from quality_model.core.engines.ncnn_engine import NcnnEngine
from quality_model.core.engines.ncnn_network import to_ncnn
from quality_model.core.engines.torch_engine import TorchEngine
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.params import WITHOUT_PROJECT, EngineName

LARGEST_DIFFERENCE: Final = 0.01
"""Per score, between an engine and the network in float32."""

_CHECK_SIDE_PX: Final = 96
_CHECK_MODULUS_PX: Final = 32
_MOST_TIMED_PX: Final = 256
_BUDGET_S: Final = 0.5


log = logging.getLogger(__name__)


def choose_engine(
    model: MultiHeadQualityAssessmentModel,
    device: torch.device,
    image_size_px: int,
    asked: EngineName | None = None,
    *,
    batch_size: int = WITHOUT_PROJECT.score.batch_size,
) -> Engine:
    """Prepare the model for scoring by the fastest engine that agrees with it, or by the one asked for.

    What is timed is what will be scored: on an accelerator a batch of images of the model's
    size, on a CPU one such image, for it takes one at a time. Above `_MOST_TIMED_PX` a side a
    CPU is given a smaller one, which tells as much and takes tenths of a second.

    An engine that does not agree within `LARGEST_DIFFERENCE` on the check images is not used,
    asked for or not; the log says so.

    Args:
        model: In evaluation mode, on ``device``; it is not changed.
        device: Where to score.
        image_size_px: Side of the images.
        asked: Use this one if it agrees; by default the fastest.
        batch_size: Images that will be scored at once on an accelerator.
    """
    plain = TorchEngine(copy.deepcopy(model), device, "float32")
    # Smaller ones tell as much, in a fifth of the time; the remainder decides where pools cut a border off.
    checked = check_images(min(image_size_px, _CHECK_SIDE_PX + image_size_px % _CHECK_MODULUS_PX))
    expected = plain.scores(checked)
    if not np.isfinite(expected).all():
        return plain  # whoever scores will say that the weights are damaged
    engines: dict[str, Engine] = {}
    for name, make in _candidates(model, device, asked).items():
        engine = make()
        difference = float(np.abs(engine.scores(checked) - expected).max())
        if difference <= LARGEST_DIFFERENCE:
            engines[name] = engine
        else:
            log.warning("%s differs by up to %.3f from the network in float32: not used.", name, difference)
    if not engines:
        return plain
    chosen = next(iter(engines))
    if len(engines) > 1:
        load = timed_load(device, image_size_px, batch_size)
        timed = {name: partial(_score, engine, load) for name, engine in engines.items()}
        chosen = fastest(timed, device, budget_s=_BUDGET_S)
    log.debug("Scoring by %s", chosen)
    return engines[chosen]


def check_images(size_px: int) -> npt.NDArray[np.uint8]:
    """Images that excite a network in different ways: a gradient, noise, and edges; (3, S, S, 3)."""
    ramp = np.linspace(0.0, 255.0, size_px)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 255.0 - ramp[:, None]), axis=-1)
    noise = np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3))
    edges = np.where((np.indices((size_px, size_px)).sum(axis=0) // 8 % 2 == 0)[..., None], 230, [60, 30, 20])
    return np.stack([gradient, noise, edges]).astype(np.uint8)


def _candidates(
    model: MultiHeadQualityAssessmentModel, device: torch.device, asked: EngineName | None
) -> dict[str, Callable[[], Engine]]:
    """Engines that the device can run, the plainest first."""
    makers: dict[str, Callable[[], Engine]] = {
        "torch-float32": lambda: TorchEngine(folded(model), device, "float32"),
        "torch-bfloat16": lambda: TorchEngine(folded(model), device, "bfloat16"),
        "ncnn-float32": lambda: NcnnEngine(to_ncnn(folded(model).cpu())),
    }
    if asked is not None:
        return {asked: makers[asked]}
    if choose_precision("auto", device, is_faster=lambda device: True) == "float32":
        del makers["torch-bfloat16"]
    if device.type != "cpu":
        del makers["ncnn-float32"]
    return makers


def timed_load(device: torch.device, image_size_px: int, batch_size: int) -> npt.NDArray[np.uint8]:
    """What a device scores at once, uint8 (N, S, S, 3): images as of `check_images`."""
    if device.type == "cpu":
        return check_images(min(image_size_px, _MOST_TIMED_PX))[:1]
    images = check_images(image_size_px)
    return images[np.arange(batch_size) % len(images)]


def _score(engine: Engine, pixels: npt.NDArray[np.uint8]) -> None:
    engine.scores(pixels)
