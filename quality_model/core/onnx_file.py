"""A trained model as one ONNX file: another writer of `core.network.Operations`.

The file scores the whole image, squeezed to a square: the one view that needs no code beside the file. What
else a user needs is in its metadata, JSON but for the card, which is Markdown: name, version, run and sha256
of the model; the heads in the order of ``scores``; thresholds of the scores that the file gives, or null; how
to make its input; the recipe of views that the model itself is used with.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from quality_model.core import storage
from quality_model.core.model_files import StoredModel
from quality_model.core.network import (
    ARCHITECTURES,
    VARIANCE_FLOOR,
    Activation,
    Convolution,
    FoldedWeights,
    fold,
    forward,
)
from quality_model.core.scale import ScaleMap
from quality_model.errors import UsageError
from quality_model.params import ArchitectureName
from quality_model.records import HEADS, OVERALL_WEIGHTS, ModelRef

if TYPE_CHECKING:
    import onnx

INPUT_NAME: Final = "pixels"
SCORES_NAME: Final = "scores"
OVERALL_NAME: Final = "overall"

_OPSET: Final = 18
_IR_VERSION: Final = 10
"""The oldest that have every operator here; runtimes since 2023 read them."""

_ACTIVATIONS: Final[dict[Activation, str]] = {"relu": "Relu", "sigmoid": "Sigmoid"}


def write_onnx(model: StoredModel, ref: ModelRef, path: Path, *, card: str | None = None) -> None:
    """Write a model as one ONNX file.

    Its input ``pixels`` is float32 (N, 3, S, S), RGB in [0, 1], S the model's image size. Its outputs are
    ``scores``, float32 (N, 4), 0 absent to 1 severe, in the order of `records.HEADS`, and ``overall``,
    float32 (N, 1), 1 for an image without a fault.

    Args:
        model: As it was read.
        ref: Which one it is.
        path: The file; one that exists is replaced.
        card: Its model card.

    Raises:
        ModuleNotFoundError: The package ``onnx`` is not installed.
        UsageError: The model's image size is not a multiple of its network's stride.
    """
    import onnx

    size_px, stride_px = model.image_size_px, ARCHITECTURES[model.architecture].stride_px
    if size_px % stride_px:
        raise UsageError(
            f"The model's image size is {size_px} px, and its network needs a multiple of {stride_px}.",
            "Export a model of another image size.",
        )
    made = _onnx_model(fold(model.weights), model.architecture, size_px, model.views.scale)
    metadata: dict[str, Any] = {
        "model": {"name": ref.name, "version": ref.version, "run_id": ref.run_id, "sha256": model.sha256},
        "heads": HEADS,
        "overall_weights": OVERALL_WEIGHTS,
        "thresholds": model.facts.thresholds if model.views.squeezed else model.facts.thresholds_whole,
        "view": {"resize": [size_px, size_px], "filter": "LANCZOS", "divide_by": 255, "layout": "NCHW, RGB"},
        "views_of_training": model.views.model_dump(mode="json"),
    }
    texts = {key: json.dumps(value) for key, value in metadata.items()} | {"card": card or ""}
    onnx.helper.set_model_props(made, texts)
    onnx.checker.check_model(made, full_check=True)
    storage.write_bytes(path, made.SerializeToString())


def _onnx_model(
    weights: FoldedWeights, architecture: ArchitectureName, size_px: int, scale: ScaleMap | None
) -> "onnx.ModelProto":
    from onnx import TensorProto, helper

    writer = _OnnxWriter(weights)
    scores, _ = forward(architecture, _Blob(INPUT_NAME, 3), writer)
    writer.add(
        "Identity",
        [scores.name if scale is None else writer.on_scale(scores, scale).name],
        4,
        output=SCORES_NAME,
    )
    faults = writer.add("MatMul", [SCORES_NAME, writer.keep([[OVERALL_WEIGHTS[head]] for head in HEADS])], 1)
    writer.add("Sub", [writer.keep([1.0]), faults.name], 1, output=OVERALL_NAME)

    def described(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])

    graph = helper.make_graph(
        writer.nodes,
        "quality-model",
        [described(INPUT_NAME, 3, size_px, size_px)],
        [described(SCORES_NAME, len(HEADS)), described(OVERALL_NAME, 1)],
        writer.initializers,
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="quality-model",
    )


class _Blob(NamedTuple):
    name: str
    channels: int


class _OnnxWriter:
    """Operations on named blobs, (N, C, H, W) and (N, C): each adds nodes.

    Operators are those of ONNX's Operators.md, opset 18.
    """

    def __init__(self, weights: FoldedWeights) -> None:
        self._weights = weights
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def scale(self, x: _Blob, factor: float, offset: float) -> _Blob:
        scaled = self.add("Mul", [x.name, self.keep(factor)], x.channels)
        return self.add("Add", [scaled.name, self.keep(offset)], x.channels)

    def space_to_depth(self, x: _Blob, patch_px: int) -> _Blob:
        deep = self.add("SpaceToDepth", [x.name], x.channels * patch_px**2, blocksize=patch_px)
        # ONNX counts channels within positions of a patch; the network positions within channels.
        order = np.arange(deep.channels).reshape(patch_px**2, x.channels).T.ravel()
        return self.add("Gather", [deep.name, self.keep(order, np.int64)], deep.channels, axis=1)

    def convolution(self, x: _Blob, conv: Convolution) -> _Blob:
        weight, bias = self._weights[conv.name]
        pads, strides = [conv.side // 2] * 4, [conv.stride] * 2
        inputs = [x.name, self.keep(weight), self.keep(bias)]
        y = self.add("Conv", inputs, conv.channels, pads=pads, strides=strides)
        return self._activated(y, conv.activation)

    def add_relu(self, x: _Blob, y: _Blob) -> _Blob:
        return self._activated(self.add("Add", [x.name, y.name], x.channels), "relu")

    def max_pool(self, x: _Blob) -> _Blob:
        return self.add("MaxPool", [x.name], x.channels, kernel_shape=[2, 2], strides=[2, 2])

    def mean(self, x: _Blob) -> _Blob:
        return self._reduced("ReduceMean", x)

    def deviation(self, x: _Blob) -> _Blob:
        centred = self.add("Sub", [x.name, self._reduced("ReduceMean", x, keepdims=1).name], x.channels)
        variance = self._reduced("ReduceMean", self.multiply(centred, centred))
        return self.add("Sqrt", [self.scale(variance, 1.0, VARIANCE_FLOOR).name], x.channels)

    def maximum(self, x: _Blob) -> _Blob:
        return self._reduced("ReduceMax", x)

    def linear(self, x: _Blob, name: str, features: int, activation: Activation) -> _Blob:
        weight, bias = self._weights[name]
        y = self.add("Gemm", [x.name, self.keep(weight), self.keep(bias)], features, transB=1)
        return self._activated(y, activation)

    def drop(self, x: _Blob) -> _Blob:
        return x

    def on_scale(self, scores: _Blob, scale: ScaleMap) -> _Blob:
        """The sum over knots of (score - knot, at least 0) times the change of slope there."""
        most = max(len(head.scores) for head in scale.heads.values()) - 1
        knots, bends = np.full((len(HEADS), most), 2.0), np.zeros((len(HEADS), most))  # 2: above any score
        for at, found in enumerate(scale.heads[head] for head in HEADS):
            slopes = np.diff(found.to) / np.diff(found.scores)
            knots[at, : len(slopes)], bends[at, : len(slopes)] = found.scores[:-1], np.diff(slopes, prepend=0)
        deep = self.add("Unsqueeze", [scores.name, self.keep([2], np.int64)], len(HEADS))
        above = self.add(
            "Relu", [self.add("Sub", [deep.name, self.keep(knots)], len(HEADS)).name], len(HEADS)
        )
        bent = self.add("Mul", [above.name, self.keep(bends)], len(HEADS))
        return self.add("ReduceSum", [bent.name, self.keep([2], np.int64)], len(HEADS), keepdims=0)

    def multiply(self, x: _Blob, y: _Blob) -> _Blob:
        return self.add("Mul", [x.name, y.name], x.channels)

    def concatenate(self, parts: Sequence[_Blob]) -> _Blob:
        return self.add("Concat", [part.name for part in parts], sum(part.channels for part in parts), axis=1)

    def add(
        self, kind: str, inputs: Sequence[str], channels: int, *, output: str = "", **attributes: Any
    ) -> _Blob:
        """Add a node; its output is named by its number unless a name is given."""
        from onnx import helper

        name = output or f"b{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return _Blob(name, channels)

    def keep(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Store a constant, and return its name."""
        from onnx import numpy_helper

        name = f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def _activated(self, x: _Blob, activation: Activation) -> _Blob:
        return x if activation == "none" else self.add(_ACTIVATIONS[activation], [x.name], x.channels)

    def _reduced(self, kind: str, x: _Blob, keepdims: int = 0) -> _Blob:
        return self.add(kind, [x.name, self.keep([2, 3], np.int64)], x.channels, keepdims=keepdims)
