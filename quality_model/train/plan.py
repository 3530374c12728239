"""How a run computes: device, number format, memory format, compiled or not.

The last bits of the weights hang on it, so a run settles it before its first step and keeps
it beside its checkpoints: a resumed run computes as it did before.
"""

from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch

from quality_model.networks.device import (
    MemoryFormat,
    Precision,
    can_compile,
    choose_memory_format,
    choose_precision,
)
from quality_model.params import TrainParams


@dataclass(frozen=True, slots=True)
class Plan:
    """How forward and backward passes run."""

    device: str
    precision: Precision
    memory_format: MemoryFormat
    compiled: bool

    @property
    def torch_memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any] | None, device: torch.device) -> "Plan | None":
        """A kept plan, if it is whole and made for this kind of device; else None."""
        match plain:
            case {
                "device": device.type,
                "precision": precision,
                "memory_format": memory_format,
                "compiled": bool(compiled),
            } if precision in get_args(Precision) and memory_format in get_args(MemoryFormat):
                return cls(device.type, precision, memory_format, compiled)
        return None


def choose_plan(section: TrainParams, device: torch.device) -> Plan:
    """Settle what ``section`` leaves open."""
    precision = choose_precision(section.precision, device)
    compiled = section.compile and can_compile(device)
    return Plan(device.type, precision, choose_memory_format(device, precision), compiled)
