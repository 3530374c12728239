"""The network as a PyTorch module, its scores, its loss, and the files of a trained one (`core.model_files`).

It is `core.network` computed by PyTorch, with gradients and batch statistics.

Modules are made from the shapes that the definition asks for, so that layers are listed in one place.
Activations are overwritten in place where no gradient needs them: the same bits, a fifth more images/s
in training (standard, 224 px, two cores).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quality_model.core import storage
from quality_model.core.model_files import (
    DESIGN_DROPOUT,
    FORMAT_VERSION,
    METADATA_KEY,
    WEIGHTS_NAME,
    Description,
    read_model,
    require_sound,
)
from quality_model.core.network import ARCHITECTURES, Activation, Convolution, forward, norm_of, weight_shapes
from quality_model.core.provenance import ModelFacts
from quality_model.core.torch_engine import TorchOperations, activated, exact_float32
from quality_model.core.views import SQUEEZED, ViewRecipe
from quality_model.errors import CheckpointError
from quality_model.params import ArchitectureName
from quality_model.paths import DESCRIPTION_NAME
from quality_model.records import HEADS, OVERALL_WEIGHTS, Head

_LEAST_PROBABILITY: Final = 1e-7

_MAP_WEIGHT: Final = 0.1
"""Of the map's loss beside that of the scores."""


class MultiHeadQualityAssessmentModel(nn.Module, TorchOperations):
    """Scores four degradations of an image, each in [0, 1] (0 absent, 1 severe).

    It is its own set of `core.network.Operations`, on batches: feature maps are (N, C, H, W), vectors (N, C).

    Args:
        dropout: Share of head activations dropped in training; no parameters depend on it.
        architecture: The network's name in `core.network`.
    """

    degradation_weights: Tensor

    def __init__(self, dropout: float = DESIGN_DROPOUT, architecture: ArchitectureName = "standard") -> None:
        super().__init__()
        self.dropout = dropout
        self.architecture: ArchitectureName = architecture
        shapes = weight_shapes(architecture)
        self.register_buffer("degradation_weights", torch.tensor([OVERALL_WEIGHTS[head] for head in HEADS]))
        for name in (key.removesuffix(".weight") for key in shapes if key.endswith(".weight")):
            _add(self, name, _layer(name, shapes))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Score a batch.

        Args:
            x: float (N, 3, H, W), RGB in [0, 1]; 224 x 224 by default. H and W of at least 16 for
                standard, 32 for small, which leaves out what is over a multiple of 16.

        Returns:
            Float tensors in [0, 1]: each head's score and ``overall`` (1 best), (N, 1);
            ``all_scores``, (N, 4), in the order of `records.HEADS`; and, of a network that has it,
            ``watermark_map``, (N, H/16, W/16), the severity in each cell.
        """
        stride_px = ARCHITECTURES[self.architecture].stride_px
        height, width = (side // stride_px * stride_px for side in x.shape[2:])
        all_scores, watermarks = forward(self.architecture, x[..., :height, :width], self)
        overall = 1.0 - (all_scores * self.degradation_weights).sum(dim=1, keepdim=True)
        scores = {head: all_scores[:, at : at + 1] for at, head in enumerate(HEADS)}
        maps = {} if watermarks is None else {"watermark_map": watermarks[:, 0]}
        return {**scores, "overall": overall, "all_scores": all_scores, **maps}

    # -- what `core.network.Operations` asks besides

    def convolution(self, x: Tensor, conv: Convolution) -> Tensor:
        layer: Any = self.get_submodule(conv.name)
        y = F.conv2d(x, layer.weight, layer.bias, stride=conv.stride, padding=conv.side // 2)
        if conv.norm:
            y = self.get_submodule(norm_of(conv.name))(y)
        return activated(y, conv.activation)

    def linear(self, x: Tensor, name: str, features: int, activation: Activation) -> Tensor:
        return activated(self.get_submodule(name)(x), activation)

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def _layer(name: str, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """The module that holds the weights of this name."""
    shape, bias = shapes[f"{name}.weight"], f"{name}.bias" in shapes
    if len(shape) == 1:
        return nn.BatchNorm2d(shape[0])
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0])
    return nn.Conv2d(shape[1], shape[0], shape[2], bias=bias)


def _add(root: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in its place by its name, such as ``backbone.0.conv``: numbers are places in a sequence."""
    *path, last = name.split(".")
    for part, inner in zip(path, [*path[1:], last], strict=True):
        if part not in dict(root.named_children()):
            _place(root, part, nn.Sequential() if inner.isdigit() else nn.Module())
        root = root.get_submodule(part)
    _place(root, last, layer)


def _place(parent: nn.Module, name: str, child: nn.Module) -> None:
    if isinstance(parent, nn.Sequential):
        for skipped in range(len(parent), int(name)):  # what has no weights: activations, pools
            parent.add_module(str(skipped), nn.Identity())
    parent.add_module(name, child)


def to_model_input(pixels: npt.NDArray[np.uint8] | Tensor, device: torch.device) -> Tensor:
    """uint8 (N, S, S, 3) RGB -> float32 (N, 3, S, S) in [0, 1] on ``device``, channels last."""
    batch = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.ascontiguousarray(pixels))
    return batch.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div(255.0)


def predict_scores(
    model: nn.Module,
    images: npt.NDArray[np.uint8],
    rows: npt.ArrayLike | None = None,
    *,
    device: torch.device,
    batch_size: int | None = None,
) -> npt.NDArray[np.float32]:
    """Score images in `exact_float32`, reading a memory map one batch at a time.

    Args:
        model: On ``device``; its forward returns ``all_scores``. It is put into evaluation mode.
        images: uint8 (N, S, S, 3), such as `TrainingSet.images`.
        rows: (n,) which of them, scored in this order; None: all.
        device: Where the model is.
        batch_size: Samples per forward pass; None: all at once.

    Returns:
        float32 (n, 4), each in [0, 1], columns in the order of `records.HEADS`.

    Raises:
        CheckpointError: A score is not finite: the weights are damaged.
    """
    chosen = np.arange(len(images)) if rows is None else np.asarray(rows, dtype=np.int64)
    batch_size = batch_size or max(1, len(chosen))
    scores = np.empty((len(chosen), len(HEADS)), dtype=np.float32)
    model.eval()
    with torch.inference_mode(), exact_float32():
        for start in range(0, len(chosen), batch_size):
            batch = to_model_input(images[chosen[start : start + batch_size]], device)
            scores[start : start + batch_size] = model(batch)["all_scores"].float().cpu().numpy()
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        raise CheckpointError(
            f"The model gives scores that are not finite for {bad} of {len(chosen)} samples.",
            "Its weights are damaged: use another checkpoint, or train again.",
        )
    return scores


def weighted_mse(scores: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over heads of weight x mean squared error, as the original design has it.

    Args:
        scores: float (N, heads) in [0, 1], of any float dtype; computed on in float32.
        labels: float32 (N, heads) in [0, 1].
        weights: float32 (heads,), one weight per head.

    Returns:
        The loss, float32 (), and each head's unweighted MSE, float32 (heads,), both with
        their gradient.
    """
    per_head = (scores.float() - labels).square().mean(dim=0)
    return (weights * per_head).mean(), per_head


def training_loss(
    kind: Literal["mse", "bce"],
    output: Mapping[str, Tensor],
    labels: Tensor,
    weights: Tensor,
    maps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What training minimises.

    The squared error is the original design's (`weighted_mse`). The cross-entropy of a score and a label,
    which is taken for a probability, has its minimum at the mean label too, but its slope does not vanish
    near 0: faint degradations count for more. A network with a map of watermarks also learns it, by
    cross-entropy.

    Args:
        kind: ``mse`` or ``bce``.
        output: Of the network.
        labels: float32 (N, heads) in [0, 1].
        weights: float32 (heads,), one weight per head.
        maps: float32 (N, H/16, W/16) in [0, 1], the watermark's severity in each cell; None if unknown.

    Returns:
        The loss, float32 (), with its gradient, and each head's MSE, float32 (heads,).
    """
    scores = output["all_scores"].float()
    loss, per_head = weighted_mse(scores, labels, weights)
    if kind == "bce":
        loss = (weights * _cross_entropy(scores, labels).mean(dim=0)).mean()
    if maps is not None and "watermark_map" in output:
        loss = loss + _MAP_WEIGHT * _cross_entropy(output["watermark_map"].float(), maps).mean()
    return loss, per_head.detach()


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Of each score; a label that is not a number shows in it, where PyTorch's function would stop."""
    present, absent = (p.clamp_min(_LEAST_PROBABILITY).log() for p in (scores, 1.0 - scores))
    return -(labels * present + (1.0 - labels) * absent)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode, and what its files say; see `core.model_files.StoredModel`."""

    model: MultiHeadQualityAssessmentModel
    image_size_px: int
    sha256: str
    facts: ModelFacts = field(default_factory=ModelFacts)
    folder_sha256: str | None = None
    views: ViewRecipe = SQUEEZED

    @property
    def thresholds(self) -> dict[Head, float] | None:
        """The score above which a head flags a whole image squeezed to a square, which samples are.

        None if the model came without.
        """
        return self.facts.thresholds if self.views.squeezed else self.facts.thresholds_whole


def save_model(
    folder: Path,
    model: MultiHeadQualityAssessmentModel,
    *,
    image_size_px: int,
    facts: ModelFacts | Mapping[str, Any],
    views: ViewRecipe = SQUEEZED,
    half_precision: bool = False,
) -> dict[str, Any]:
    """Write model.safetensors, model.json and, last, the completion marker.

    Args:
        folder: Made if missing; a model that it holds is replaced.
        model: On any device.
        image_size_px: Side of the images the model is meant for.
        facts: What to keep beside the weights, or JSON values that say it.
        views: Which views of an image it scores.
        half_precision: Keep floats in 16 bits: half the bytes, and scores that differ by less
            than 0.01. Loading gives float32 either way.

    Returns:
        The completion marker (see `storage.seal`).

    Raises:
        CheckpointError: A weight is not finite, or too large for 16 bits; or a fact is not allowed, such
            as a threshold that is not a number for a head.
        StorageError: The files could not be written.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half_precision:
        state = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()
        }
    require_sound({name: tensor.numpy() for name, tensor in state.items()}, folder / WEIGHTS_NAME)
    content = {
        "format_version": FORMAT_VERSION,
        "architecture": model.architecture,
        "dropout": model.dropout,
        "image_size_px": image_size_px,
        "heads": list(HEADS),
        "views": views.model_dump(mode="json"),
        "facts": facts.to_json() if isinstance(facts, ModelFacts) else dict(facts),
    }
    description = Description.read(content, folder / DESCRIPTION_NAME)
    metadata = {METADATA_KEY: json.dumps(description.network(), sort_keys=True)}
    storage.unseal(folder)
    storage.write_bytes(folder / WEIGHTS_NAME, save(state, metadata))
    storage.write_json(folder / DESCRIPTION_NAME, description.to_json())
    return storage.seal(folder, [WEIGHTS_NAME, DESCRIPTION_NAME], rows=1, kind="model")


def load_model(path: Path, device: torch.device) -> LoadedModel:
    """Read a model written by `save_model`, or a bare file of weights, as `core.model_files.read_model`.

    Args:
        path: See there.
        device: Where the model goes.

    Raises:
        CheckpointError: See there.
    """
    stored = read_model(path)
    model = MultiHeadQualityAssessmentModel(stored.dropout, stored.architecture)
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in stored.weights.items()})
    return LoadedModel(
        model.to(device).eval(),
        stored.image_size_px,
        stored.sha256,
        stored.facts,
        stored.folder_sha256,
        stored.views,
    )
