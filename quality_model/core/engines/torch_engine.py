"""The network run by PyTorch, in float32 or bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from quality_model.core.device import Precision, choose_memory_format
from quality_model.networks.model import MultiHeadQualityAssessmentModel, to_model_input
from quality_model.params import EngineName
from quality_model.records import HEADS

_ON_CPU_AT_ONCE = 1
"""Images in a forward pass on a CPU: larger batches leave its caches and gain nothing."""


class TorchEngine:
    """A network on a device of PyTorch.

    Args:
        model: In evaluation mode, folded or not (`folding.folded`), on ``device``; it is
            this engine's from now on.
        device: Where it runs.
        precision: Number format of the backbone; attention and heads are float32 always.
    """

    def __init__(
        self, model: MultiHeadQualityAssessmentModel, device: torch.device, precision: Precision
    ) -> None:
        self._device = device
        self._precision: Precision = precision
        # Where nothing is trained, channels_last pays on every CPU: a quarter more images/s with AVX2.
        plain = device.type != "cpu" and choose_memory_format(device, precision) == "contiguous"
        self._memory_format = torch.contiguous_format if plain else torch.channels_last
        self._model = model.to(memory_format=self._memory_format)
        if precision == "bfloat16":
            self._model.backbone = _InBfloat16(self._model.backbone)

    @property
    def name(self) -> EngineName:
        return "torch-float32" if self._precision == "float32" else "torch-bfloat16"

    @property
    def is_portable(self) -> bool:
        return self._device.type == "cpu"

    def scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `engines.Engine.scores`."""
        if len(pixels) == 0:
            return np.empty((0, len(HEADS)), dtype=np.float32)
        if self._device.type != "cpu":
            return self._forward(pixels)
        with _one_thread():
            parts = [self._forward(pixels[n : n + _ON_CPU_AT_ONCE]) for n in range(len(pixels))]
        return np.concatenate(parts)

    def _forward(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        x = to_model_input(pixels, self._device).contiguous(memory_format=self._memory_format)
        with torch.inference_mode():
            output = self._model(x)["all_scores"]
        scores: npt.NDArray[np.float32] = output.float().cpu().numpy()
        return scores


class _InBfloat16(nn.Sequential):
    """Layers that compute in bfloat16 between a float32 input and a float32 output."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__(layers.bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self[0](x.bfloat16())
        return result.float()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
