"""How a run computes: device, number format and memory format.

The last bits of the weights hang on it, so a run settles it before its first step and keeps
it beside its checkpoints: a resumed run computes as it did before.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

import torch

from quality_model.device import Precision, autocast, choose_precision, fastest
from quality_model.losses import weighted_mse
from quality_model.model import MultiHeadQualityAssessmentModel
from quality_model.params import TrainParams
from quality_model.records import HEADS

log = logging.getLogger(__name__)

MemoryFormat = Literal["contiguous", "channels_last"]

_CHECK_PIXELS: Final = 4 * 224 * 224
"""Pixels of the self-check's batch: a step of a second where training is slowest."""
_CHECK_BUDGET_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How forward and backward passes run."""

    device: str
    precision: Precision
    memory_format: MemoryFormat

    @property
    def torch_memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any] | None, device: torch.device) -> "Plan | None":
        """A kept plan, if it is whole and made for this kind of device; else None."""
        match plain:
            case {"device": device.type, "precision": precision, "memory_format": memory_format} if (
                precision in get_args(Precision) and memory_format in get_args(MemoryFormat)
            ):
                return cls(device.type, precision, memory_format)
        return None


def choose_plan(section: TrainParams, device: torch.device, image_size_px: int) -> Plan:
    """Settle what ``section`` leaves open.

    channels_last goes with bfloat16 on CUDA, whose tensor cores want it. On a CPU it gains or
    loses with the size of the pictures, so a few steps of both are timed, on random pixels.
    """
    precision = choose_precision(section.precision, device)
    if device.type == "cpu":
        memory_format = _time_memory_formats(section, device, precision, image_size_px)
    else:
        memory_format = "channels_last" if precision == "bfloat16" else "contiguous"
    return Plan(device.type, precision, memory_format)


def _time_memory_formats(
    section: TrainParams, device: torch.device, precision: Precision, image_size_px: int
) -> MemoryFormat:
    num_images = max(2, min(section.batch_size, _CHECK_PIXELS // image_size_px**2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pictures = torch.rand(num_images, 3, image_size_px, image_size_px, device=device)
        steps = {name: _step(pictures, device, precision, name) for name in get_args(MemoryFormat)}
        name = fastest(steps, device, budget_s=_CHECK_BUDGET_S)
    return "channels_last" if name == "channels_last" else "contiguous"


def _step(
    pictures: torch.Tensor, device: torch.device, precision: Precision, memory_format: MemoryFormat
) -> Callable[[], None]:
    plan = Plan(device.type, precision, memory_format)
    model = MultiHeadQualityAssessmentModel().to(device).to(memory_format=plan.torch_memory_format)
    x = pictures.contiguous(memory_format=plan.torch_memory_format)
    labels = torch.zeros(len(x), len(HEADS), device=device)
    weights = torch.ones(len(HEADS), device=device)

    def step() -> None:
        with autocast(device, precision):
            scores = model(x)["all_scores"]
        loss, _ = weighted_mse(scores, labels, weights)
        torch.autograd.backward(loss)
        model.zero_grad(set_to_none=True)

    return step
