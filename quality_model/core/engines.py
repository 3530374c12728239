"""The ways to run a trained network on images, and the choice among them.

A rule chooses, not a clock: the same machine always computes the same bits. On a CPU ncnn scores; on an
accelerator PyTorch does, in bfloat16 where the device has it. Whatever is chosen must agree with the
network's definition.
"""

import ctypes
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from quality_model.core.network import fold, reference_scores
from quality_model.errors import CheckpointError, DeviceUnavailableError, UsageError
from quality_model.params import EngineName

if TYPE_CHECKING:
    from quality_model.core.model_files import StoredModel

LARGEST_DIFFERENCE: Final = 0.01
"""Per score, between an engine and the network's definition in float32."""

_CHECK_SIDE_PX: Final = 96
_CHECK_MODULUS_PX: Final = 32

log = logging.getLogger(__name__)


class Engine(Protocol):
    """A network that is ready to score.

    Attributes:
        name: Library and dtype.
        is_portable: Whether it can be pickled into a worker process, one core each; engines on
            an accelerator cannot.
    """

    @property
    def name(self) -> EngineName: ...

    @property
    def is_portable(self) -> bool: ...

    def scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Score images.

        On a CPU each is scored by itself on one thread, so that its scores depend neither on
        its neighbours nor on the number of cores.

        Args:
            pixels: uint8 (N, S, S, 3) RGB.

        Returns:
            float32 (N, 4), 0 absent to 1 severe, in the order of `records.HEADS`.
        """
        ...


def choose_device(name: str) -> str:
    """The kind of device that ``auto``, ``cpu``, ``cuda`` or ``mps`` means: one of the last three.

    PyTorch, which takes seconds to import, is asked only where there may be an accelerator.

    Raises:
        DeviceUnavailableError: It is not on this machine, or PyTorch is not installed.
        UsageError: There is no device of that name.
    """
    has_torch = find_spec("torch") is not None
    if name == "cpu" or (name == "auto" and not (has_torch and _may_have_accelerator())):
        return "cpu"
    if not has_torch and name in ("cuda", "mps"):
        raise DeviceUnavailableError(
            f"Device {name!r} needs PyTorch, which is not installed.",
            "Install it (pip install torch), or use cpu.",
        )
    if name not in ("auto", "cuda", "mps"):
        raise UsageError(f"There is no device {name!r}.", "Use auto, cpu, cuda or mps.")
    from quality_model.core.torch_engine import choose_device

    return choose_device(name).type


def choose_engine(model: "StoredModel", device: str, asked: EngineName | None = None) -> Engine:
    """Prepare a model for scoring.

    Each engine scores three check images and must give what `network.reference_scores` gives, within
    `LARGEST_DIFFERENCE`. The reference is computed here from the weights, by the definition of the
    network in NumPy: it needs neither PyTorch nor scores stored with the model, so it holds for
    every model folder and finds a fault of the folding, of the writer, or of the library.

    Args:
        model: As it was read; it is not changed.
        device: ``cpu``, ``cuda`` or ``mps``.
        asked: Use this one if it agrees; by default the rule decides.

    Raises:
        CheckpointError: Scores of the check images are not finite, or no engine agrees.
        UsageError: The one that was asked for needs PyTorch, which is not installed.
    """
    side_px = model.image_size_px
    # The remainder decides where pools cut a border off.
    images = check_images(min(side_px, _CHECK_SIDE_PX + side_px % _CHECK_MODULUS_PX))
    expected = reference_scores(model.weights, model.architecture, images)
    if not np.isfinite(expected).all():  # ncnn would hide it: its ReLU makes 0 of NaN
        raise CheckpointError(
            "The model gives scores that are not finite numbers.",
            "Use another checkpoint, or train the model again.",
        )
    for name in _candidates(device, asked):
        engine = _make(name, model, device)
        difference = float(np.abs(engine.scores(images) - expected).max())
        if difference <= LARGEST_DIFFERENCE:
            log.debug("Scoring by %s", name)
            return engine
        log.warning("%s differs by up to %.3f from the network in float32: not used.", name, difference)
    raise CheckpointError(
        "No engine gives this model's scores on this machine.", "Name another one with score.engine."
    )


def check_images(size_px: int) -> npt.NDArray[np.uint8]:
    """Images that excite a network in different ways: a gradient, noise, and edges; (3, S, S, 3)."""
    ramp = np.linspace(0.0, 255.0, size_px)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], 255.0 - ramp[:, None]), axis=-1)
    noise = np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3))
    edges = np.where((np.indices((size_px, size_px)).sum(axis=0) // 8 % 2 == 0)[..., None], 230, [60, 30, 20])
    return np.stack([gradient, noise, edges]).astype(np.uint8)


def _candidates(device: str, asked: EngineName | None) -> list[EngineName]:
    """Engines to try, the first one first."""
    if asked is None and device == "cpu":
        first: list[EngineName] = ["ncnn-float32"]
    elif asked is None and device == "cuda":
        from quality_model.core.torch_engine import cuda_has_bfloat16

        first = ["torch-bfloat16"] if cuda_has_bfloat16() else []
    else:
        first = [] if asked is None else [asked]
    if find_spec("torch") is None:
        if asked is not None and asked != "ncnn-float32":
            raise UsageError(
                f"Engine {asked} needs PyTorch, which is not installed.",
                "Install it (pip install torch), or use score.engine: auto.",
            )
        return first
    return list(dict.fromkeys([*first, "torch-float32"]))


def _make(name: EngineName, model: "StoredModel", device: str) -> Engine:
    weights = fold(model.weights)
    if name == "ncnn-float32":
        from quality_model.core.ncnn_engine import NcnnEngine, NcnnNetwork

        return NcnnEngine(NcnnNetwork.of(weights, model.architecture))
    from quality_model.core.torch_engine import TorchEngine

    return TorchEngine(
        weights, model.architecture, device, "bfloat16" if name == "torch-bfloat16" else "float32"
    )


def _may_have_accelerator() -> bool:
    """Whether a driver of NVIDIA or AMD, or a system with one built in, is here; PyTorch decides then."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
