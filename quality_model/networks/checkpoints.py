"""Trained models as files: weights as safetensors, and a JSON that says how to rebuild the network.

Loading a model never runs code from its files. Weights of the original design (.pt, .pth)
are read by PyTorch's restricted unpickler, which knows tensors and plain values only.
"""

import hashlib
import io
import json
import logging
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from quality_model.core import storage
from quality_model.errors import CheckpointError, StorageError
from quality_model.networks.model import ARCHITECTURES, DESIGN_DROPOUT, MultiHeadQualityAssessmentModel
from quality_model.params import ArchitectureName
from quality_model.paths import DESCRIPTION_NAME, user_path
from quality_model.records import HEADS, Head

FORMAT_VERSION: Final = 1
WEIGHTS_NAME: Final = "model.safetensors"
MODEL_FILES: Final = (WEIGHTS_NAME, DESCRIPTION_NAME, storage.MARKER_NAME)

DESIGN_IMAGE_SIZE_PX: Final = 224
"""The side of images that the original design's weights were trained on."""

MAX_BYTES: Final = 2**30
"""No file of this network's weights, optimiser state included, comes near this."""

_NAMED: Final[dict[str, ArchitectureName]] = {
    **{name: name for name in ARCHITECTURES},
    "MultiHeadQualityAssessmentModel": "standard",  # what descriptions said while there was one
}

_METADATA_KEY: Final = "quality_model"
"""In the weights' own metadata: what the file alone needs. One key, as safetensors does not keep an order."""

_NESTED_KEYS: Final = ("model_state_dict", "state_dict")
_REMEDY: Final = "Use another checkpoint, or train the model again."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that was read and checked, in evaluation mode.

    ``sha256`` is the hash of the file of weights, ``folder_sha256`` the one that the folder is known
    by (`storage.sealed_sha256`), None for a bare file of weights; ``facts`` are those given to
    `save_model`, empty for a bare file.
    """

    model: MultiHeadQualityAssessmentModel
    image_size_px: int
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)
    folder_sha256: str | None = None

    @property
    def thresholds(self) -> dict[Head, float] | None:
        """The score above which a head flags an image; None if the model came without."""
        kept = self.facts.get("thresholds")
        return None if kept is None else {head: float(kept[head]) for head in HEADS if head in kept}


def save_model(
    folder: Path,
    model: MultiHeadQualityAssessmentModel,
    *,
    image_size_px: int,
    facts: Mapping[str, Any],
    half_precision: bool = False,
) -> dict[str, Any]:
    """Write model.safetensors, model.json and, last, the marker that vouches for both.

    Args:
        folder: Made if missing; a model that it holds is replaced.
        model: On any device.
        image_size_px: Side of the images the model is meant for.
        facts: JSON values to keep beside the weights; ``thresholds``, if there, maps heads to
            the scores above which they flag an image.
        half_precision: Keep floats in 16 bits: half the bytes, and scores that differ by less
            than 0.01. Loading gives float32 either way.

    Returns:
        The marker (see `storage.seal`).

    Raises:
        CheckpointError: A weight is not finite, or too large for 16 bits; or a threshold is
            not a number for a head.
        StorageError: The files could not be written.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half_precision:
        state = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()
        }
    _require_sound(state, folder / WEIGHTS_NAME)
    _require_thresholds(facts, folder / DESCRIPTION_NAME)
    network = {
        "format_version": FORMAT_VERSION,
        "architecture": model.architecture,
        "dropout": model.dropout,
        "image_size_px": image_size_px,
        "heads": list(HEADS),
    }
    storage.unseal(folder)
    metadata = {_METADATA_KEY: json.dumps(network, sort_keys=True)}
    storage.write_bytes(folder / WEIGHTS_NAME, save(state, metadata))
    storage.write_json(folder / DESCRIPTION_NAME, {**network, "facts": dict(facts)})
    return storage.seal(folder, [WEIGHTS_NAME, DESCRIPTION_NAME], rows=1, kind="model")


def load_model(path: Path, device: torch.device) -> LoadedModel:
    """Read a model written by `save_model`, or a bare file of weights.

    Args:
        path: A folder, or its model.safetensors; another .safetensors file; or a .pt or .pth
            state dict of the original design, bare or under ``model_state_dict`` or
            ``state_dict``. A file alone, without model.json beside it, has the architecture and
            the image size that its metadata states. One without metadata is taken to be of the
            standard architecture and for 224 px, and a warning says so.
        device: Where the model goes.

    Raises:
        CheckpointError: The files are missing, cut short or altered, hold code, another
            architecture or weights that are not finite. The message names the file.
    """
    path = user_path(path)
    if path.is_dir():
        return _load_folder(path, device)
    beside = [path.with_name(name) for name in (storage.MARKER_NAME, DESCRIPTION_NAME)]
    if path.name == WEIGHTS_NAME and any(file.exists() for file in beside):
        return _load_folder(path.parent, device)
    data = _read(path)
    stated = None
    if path.suffix == ".safetensors":
        state = _parse_safetensors(data, path)
        stated = _stated(data, path)
    elif path.suffix in (".pt", ".pth"):
        state = _parse_pickle(data, path)
    else:
        raise CheckpointError(
            f"{path} is not a checkpoint by its name.",
            f"Give a folder with {WEIGHTS_NAME}, or a .safetensors, .pt or .pth file.",
        )
    if stated is None:
        logger.warning(
            "%s does not state its image size: %d px is assumed, as for weights of the original design.",
            path.name,
            DESIGN_IMAGE_SIZE_PX,
        )
        stated = _Description("standard", DESIGN_DROPOUT, DESIGN_IMAGE_SIZE_PX, {})
    empty = MultiHeadQualityAssessmentModel(stated.dropout, stated.architecture)
    model = _build(state, empty, path).to(device)
    return LoadedModel(model, stated.image_size_px, hashlib.sha256(data).hexdigest())


def _load_folder(folder: Path, device: torch.device) -> LoadedModel:
    try:
        marker = storage.require_sealed(folder, verify=True)
        description = storage.read_json(folder / DESCRIPTION_NAME)
    except StorageError as error:
        raise CheckpointError(f"No model loads from {folder}: {error.problem}", _REMEDY) from error
    vouched = {entry["name"]: entry["sha256"] for entry in marker["files"]}
    path = folder / WEIGHTS_NAME
    data = _read(path)
    sha256 = hashlib.sha256(data).hexdigest()
    if vouched.get(WEIGHTS_NAME) != sha256 or DESCRIPTION_NAME not in vouched:
        raise CheckpointError(f"{folder / storage.MARKER_NAME} does not vouch for {path}.", _REMEDY)
    described = _check_description(description, folder / DESCRIPTION_NAME)
    empty = MultiHeadQualityAssessmentModel(described.dropout, described.architecture)
    model = _build(_parse_safetensors(data, path), empty, path).to(device)
    stated = _stated(data, path)
    if stated is not None and stated[:3] != described[:3]:
        raise CheckpointError(
            f"{path} states architecture {stated.architecture} for {stated.image_size_px} px, but "
            f"{DESCRIPTION_NAME} {described.architecture} for {described.image_size_px} px.",
            _REMEDY,
        )
    return LoadedModel(model, described.image_size_px, sha256, described.facts, marker["sha256"])


class _Description(NamedTuple):
    architecture: ArchitectureName
    dropout: float
    image_size_px: int
    facts: dict[str, Any]


def _check_description(description: Any, path: Path) -> _Description:
    match description:
        case {"format_version": int(version)} if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {version}; this program reads {FORMAT_VERSION}.",
                "Use the program's version that wrote it, or train the model again.",
            )
        case {"architecture": str(name)} if name not in _NAMED:
            known = " or ".join(ARCHITECTURES)
            raise CheckpointError(f"{path} describes architecture {name}, not {known}.", _REMEDY)
        case {"heads": list(heads)} if heads != list(HEADS):
            raise CheckpointError(f"{path} has heads {heads}, not {list(HEADS)}.", _REMEDY)
        case {
            "format_version": int(),
            "architecture": str(name),
            "heads": list(),
            "dropout": float(dropout),
            "image_size_px": int(image_size_px),
            "facts": dict(facts),
        } if 0 <= dropout < 1 and 16 <= image_size_px <= 4096:
            _require_thresholds(facts, path)
            return _Description(_NAMED[name], dropout, image_size_px, facts)
    raise CheckpointError(f"{path} does not describe a model.", _REMEDY)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} is larger than any weights of this network.", _REMEDY)
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}.",
            "Check the path, or name a model of the registry, such as champion.",
        ) from None


def _parse_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}.", _REMEDY) from None


def _stated(data: bytes, path: Path) -> _Description | None:
    """What a whole safetensors file says about its network in its metadata; None if it says nothing."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    stated = header.get("__metadata__", {}).get(_METADATA_KEY)
    if stated is None:
        return None
    try:
        network = json.loads(stated)
    except (json.JSONDecodeError, RecursionError):
        network = None
    if not isinstance(network, dict):
        raise CheckpointError(f"The metadata of {path} does not describe a model.", _REMEDY)
    return _check_description({**network, "facts": {}}, path)


def _parse_pickle(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):  # PyTorch itself passes over wrong checksums
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (unpickling hostile bytes raises nearly anything)
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path} does not load as tensors and plain values: {first_line[:200]}",
            "A file that needs code to load is refused. " + _REMEDY,
        ) from None
    for key in _NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{path} holds no state dict of tensors.", _REMEDY)
    return dict(content)


def _build(
    state: Mapping[str, Tensor], model: MultiHeadQualityAssessmentModel, path: Path
) -> MultiHeadQualityAssessmentModel:
    """The model in evaluation mode with these weights, once names, shapes and values are right."""
    expected = model.state_dict()
    missing = sorted(expected.keys() - state.keys())
    foreign = sorted(state.keys() - expected.keys())
    other_shape = [
        f"{name} {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        f"{what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("unknown", foreign), ("of another shape", other_shape))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{path} is of another architecture than {model.architecture}: {'; '.join(problems)}.", _REMEDY
        )
    _require_sound(state, path)
    weights = model.degradation_weights.clone()
    if not torch.allclose(state["degradation_weights"].float().cpu(), weights, atol=1e-3):
        raise CheckpointError(f"{path} weighs the heads of the overall score differently.", _REMEDY)
    model.load_state_dict(dict(state))
    model.degradation_weights.copy_(weights)  # exact again where they were kept in half precision
    return model.eval()


def _require_sound(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity.", _REMEDY)
        if name.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{path}: {name} is a variance below zero.", _REMEDY)


def _require_thresholds(facts: Mapping[str, Any], path: Path) -> None:
    """A threshold that is not understood would silently flag nothing, or everything."""
    kept = facts.get("thresholds")
    if kept is None:
        return
    if not isinstance(kept, Mapping):
        raise CheckpointError(f"{path}: the thresholds are {kept!r}, not a number for each head.", _REMEDY)
    for head, threshold in kept.items():
        if head not in HEADS:
            raise CheckpointError(f"{path} has a threshold for {head!r}, which is no head.", _REMEDY)
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not (is_number and math.isfinite(threshold)):
            raise CheckpointError(f"{path}: the threshold of {head} is {threshold!r}, not a number.", _REMEDY)
