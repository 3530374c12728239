"""The network run by ncnn, whose Winograd convolutions need fewer multiplications.

For 3 x 3 convolutions F(4 x 4, 3 x 3) needs 36 multiplications where 144 stand in the definition
(Lavin and Gray, arXiv 1509.09308). It stays in float32: scores differ by rounding alone.

Nothing here needs PyTorch, so a worker process starts in a fraction of a second.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quality_model.params import EngineName
from quality_model.records import HEADS

INPUT: Final = "pixels"
OUTPUT: Final = "scores"
"""Names of a network's first and last blob."""


@dataclass(frozen=True, slots=True)
class NcnnNetwork:
    """Layers and weights; takes float32 (3, S, S) RGB in [0, 1], gives the four scores."""

    layers: str
    weights: bytes


class NcnnEngine:
    """A network in ncnn's form, on one thread of the CPU; pickles as that form.

    Args:
        network: Its layers and weights.
    """

    name: Final[EngineName] = "ncnn-float32"
    is_portable: Final = True

    def __init__(self, network: NcnnNetwork) -> None:
        self._network = network
        self._net = _load(network)

    def __reduce__(self) -> tuple[type["NcnnEngine"], tuple[NcnnNetwork]]:
        return type(self), (self._network,)

    def scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `engines.Engine.scores`."""
        import ncnn

        scores = np.empty((len(pixels), len(HEADS)), dtype=np.float32)
        for number, image in enumerate(pixels):
            planes = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255.0)
            extractor = self._net.create_extractor()
            extractor.input(INPUT, ncnn.Mat(planes))
            status, output = extractor.extract(OUTPUT)
            if status != 0:
                raise MemoryError(f"ncnn gave status {status}: no memory for a forward pass")
            scores[number] = np.array(output).reshape(len(HEADS))
        return scores


def _load(network: NcnnNetwork) -> Any:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    # Float32 throughout, and F(4, 3) alone: F(6, 3) is slower here and rounds more.
    net.opt.use_winograd63_convolution = False
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    with tempfile.TemporaryDirectory() as folder:  # ncnn's Python has no reading from memory
        weights = Path(folder) / "weights.bin"
        weights.write_bytes(network.weights)
        if net.load_param_mem(network.layers) != 0 or net.load_model(str(weights)) != 0:
            raise ValueError("ncnn does not take the network")
    return net
