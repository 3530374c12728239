"""Trained models as files: what they say, and the one reader of it, which fails closed.

A model folder holds model.safetensors (weights), model.json (how to rebuild the network, and facts about
the training) and the completion marker. Reading runs no code from the files and needs no PyTorch, except
for weights of the original design (.pt, .pth).
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quality_model.core import storage
from quality_model.core.network import ARCHITECTURES, Weights, weight_shapes
from quality_model.core.provenance import ModelFacts
from quality_model.core.store_cache import fetched
from quality_model.core.stores import typed_path
from quality_model.core.views import SQUEEZED, ViewRecipe
from quality_model.errors import CheckpointError, StorageError, install_command
from quality_model.params import ArchitectureName
from quality_model.paths import DESCRIPTION_NAME
from quality_model.records import HEADS, OVERALL_WEIGHTS

FORMAT_VERSION: Final = 1
WEIGHTS_NAME: Final = "model.safetensors"
MODEL_FILES: Final = (WEIGHTS_NAME, DESCRIPTION_NAME, storage.MARKER_NAME)

DESIGN_IMAGE_SIZE_PX: Final = 224
"""The side of images that the original design's weights were trained on."""

DESIGN_DROPOUT: Final = 0.3

MAX_BYTES: Final = 2**30
"""No file of this network's weights, optimiser state included, comes near this."""

METADATA_KEY: Final = "quality_model"
"""In the weights' own metadata: what the file alone needs. One key, as safetensors does not keep an order."""

_FORMER_ARCHITECTURES: Final[dict[str, ArchitectureName]] = {"MultiHeadQualityAssessmentModel": "standard"}
"""What descriptions said while there was one architecture."""

_DTYPES: Final = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "<i1", "U8": "<u1", "BOOL": "?",
}  # fmt: skip
"""By the name that safetensors has for it. NumPy lacks bfloat16: the upper half of a float32."""

_REMEDY: Final = "Use another checkpoint, or train the model again."

logger = logging.getLogger(__name__)


class Description(BaseModel):
    """What model.json says: which network, for which images, and the facts of its training."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    architecture: ArchitectureName
    dropout: Annotated[float, Field(ge=0, lt=1)]
    image_size_px: Annotated[int, Field(ge=16, le=4096)]
    views: ViewRecipe = SQUEEZED
    facts: ModelFacts = ModelFacts()

    def network(self) -> dict[str, Any]:
        """JSON values of all but the facts, as model.json and the metadata of the weights hold them.

        The views of the original design are not stated.
        """
        views = {} if self.views == SQUEEZED else {"views": self.views.model_dump(mode="json")}
        return {
            "format_version": FORMAT_VERSION,
            "architecture": self.architecture,
            "dropout": self.dropout,
            "image_size_px": self.image_size_px,
            "heads": list(HEADS),
            **views,
        }

    def to_json(self) -> dict[str, Any]:
        """What model.json holds."""
        return {**self.network(), "facts": self.facts.to_json()}

    @classmethod
    def read(cls, content: Any, path: Path) -> "Description":
        """The one reader of a description.

        Args:
            content: JSON value.
            path: Where it is from, for messages.

        Raises:
            CheckpointError: It is of another format version or architecture, or has a value that is
                missing or not allowed.
        """
        match content:
            case {"format_version": int(version)} if version != FORMAT_VERSION:
                raise CheckpointError(
                    f"{path} has format version {version}; this program reads {FORMAT_VERSION}.",
                    "Use the program's version that wrote it, or train the model again.",
                )
            case {"format_version": int(), "architecture": str(name), "heads": list(heads)}:
                pass
            case _:
                raise CheckpointError(f"{path} does not describe a model.", _REMEDY)
        name = _FORMER_ARCHITECTURES.get(name, name)
        if name not in ARCHITECTURES:
            known = " or ".join(ARCHITECTURES)
            raise CheckpointError(f"{path} describes architecture {name}, not {known}.", _REMEDY)
        if heads != list(HEADS):
            raise CheckpointError(f"{path} has heads {heads}, not {list(HEADS)}.", _REMEDY)
        try:
            return cls.model_validate({**content, "architecture": name})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise CheckpointError(
                f"{path} does not describe a model: {key} is {first['input']!r}. {first['msg']}.", _REMEDY
            ) from None


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that was read and checked.

    ``weights`` are float32 but for counters. ``sha256`` is the hash of their file, ``folder_sha256`` that
    of the folder (`storage.sealed_sha256`), None for a bare file, whose ``facts`` are empty.
    """

    weights: Weights
    architecture: ArchitectureName
    dropout: float
    image_size_px: int
    views: ViewRecipe
    facts: ModelFacts
    sha256: str
    folder_sha256: str | None


def read_model(path: Path) -> StoredModel:
    """Read a model folder, or a bare file of weights.

    Args:
        path: A folder, or its model.safetensors; another .safetensors file; or a .pt or .pth
            state dict of the original design, bare or under ``model_state_dict`` or
            ``state_dict``. A file alone, without model.json beside it, has the architecture and
            the image size that its metadata states. One without metadata is taken to be of the
            standard architecture and for 224 px, and a warning says so.

    Raises:
        CheckpointError: The files are missing, cut short or altered, hold code, another
            architecture or weights that are not finite. The message names the file.
    """
    path = fetched(typed_path(path))
    if path.is_dir():
        return _read_folder(path)
    beside = [path.with_name(name) for name in (storage.MARKER_NAME, DESCRIPTION_NAME)]
    if path.name == WEIGHTS_NAME and any(file.exists() for file in beside):
        return _read_folder(path.parent)
    data = _read(path)
    stated = None
    if path.suffix == ".safetensors":
        weights = _parse_safetensors(data, path)
        stated = _stated(data, path)
    elif path.suffix in (".pt", ".pth"):
        weights = _parse_pickle(data, path)
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
        stated = Description(
            architecture="standard", dropout=DESIGN_DROPOUT, image_size_px=DESIGN_IMAGE_SIZE_PX
        )
    return _checked(weights, stated, path, data, None)


def read_description(folder: Path) -> Description:
    """What the model.json of a folder says, without a look at its weights.

    Raises:
        CheckpointError: See `Description.read`.
        IncompleteError, CorruptError: There is no model.json, or it is not JSON.
    """
    path = folder / DESCRIPTION_NAME
    return Description.read(storage.read_json(path), path)


def require_sound(weights: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Refuse weights that no training gives.

    Raises:
        CheckpointError: One is not finite, or a variance below zero.
    """
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity.", _REMEDY)
        if name.endswith("running_var") and (array < 0).any():
            raise CheckpointError(f"{path}: {name} is a variance below zero.", _REMEDY)


def _read_folder(folder: Path) -> StoredModel:
    try:
        marker = storage.require_sealed(folder, verify=True)
        content = storage.read_json(folder / DESCRIPTION_NAME)
    except StorageError as error:
        raise CheckpointError(f"No model loads from {folder}: {error.problem}", _REMEDY) from error
    hashes = {entry["name"]: entry["sha256"] for entry in marker["files"]}
    path = folder / WEIGHTS_NAME
    data = _read(path)
    if hashes.get(WEIGHTS_NAME) != hashlib.sha256(data).hexdigest() or DESCRIPTION_NAME not in hashes:
        raise CheckpointError(f"{folder / storage.MARKER_NAME} does not verify {path}.", _REMEDY)
    described = Description.read(content, folder / DESCRIPTION_NAME)
    model = _checked(_parse_safetensors(data, path), described, path, data, marker["sha256"])
    stated = _stated(data, path)
    if stated is not None and stated.network() != described.network():
        raise CheckpointError(
            f"{path} states architecture {stated.architecture} for {stated.image_size_px} px, but "
            f"{DESCRIPTION_NAME} {described.architecture} for {described.image_size_px} px, or other views.",
            _REMEDY,
        )
    return model


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


def _parse_safetensors(data: bytes, path: Path) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError, deserialize

    weights = {}
    try:
        for name, tensor in deserialize(data):  # type: ignore[no-untyped-call]
            array = np.frombuffer(tensor["data"], dtype=_DTYPES[tensor["dtype"]])
            if tensor["dtype"] == "BF16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            weights[name] = array.reshape(tensor["shape"])
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}.", _REMEDY) from None
    return weights


def _stated(data: bytes, path: Path) -> Description | None:
    """What a whole safetensors file says about its network in its metadata; None if it says nothing."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    stated = header.get("__metadata__", {}).get(METADATA_KEY)
    if stated is None:
        return None
    try:
        network = json.loads(stated)
    except (json.JSONDecodeError, RecursionError):
        network = None
    if not isinstance(network, dict):
        raise CheckpointError(f"The metadata of {path} does not describe a model.", _REMEDY)
    return Description.read({**network, "facts": {}}, path)


def _parse_pickle(data: bytes, path: Path) -> dict[str, npt.NDArray[Any]]:
    if find_spec("torch") is None:
        raise CheckpointError(
            f"{path} is read by PyTorch, which is not installed.",
            f"Install it ({install_command('train')}), or convert the file to safetensors where it is.",
        )
    from quality_model.core.torch_engine import read_pickle

    try:
        return read_pickle(data)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is no state dict: {error}.", "A file that needs code to load is refused. " + _REMEDY
        ) from None


def _checked(
    weights: Mapping[str, npt.NDArray[Any]],
    described: Description,
    path: Path,
    data: bytes,
    folder_sha256: str | None,
) -> StoredModel:
    """The model, if names, shapes and values of its weights are right."""
    expected = weight_shapes(described.architecture)
    problems = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unknown": sorted(weights.keys() - expected.keys()),
        "of another shape": [
            f"{name} {weights[name].shape}, not {shape}"
            for name, shape in expected.items()
            if name in weights and weights[name].shape != shape
        ],
    }
    if any(problems.values()):
        listed = [
            f"{what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for what, names in problems.items()
            if names
        ]
        raise CheckpointError(
            f"{path} is of another architecture than {described.architecture}: {'; '.join(listed)}.", _REMEDY
        )
    require_sound(weights, path)
    overall = np.array([OVERALL_WEIGHTS[head] for head in HEADS], np.float32)
    if not np.allclose(weights["degradation_weights"], overall, rtol=0, atol=1e-3):
        raise CheckpointError(f"{path} weighs the heads of the overall score differently.", _REMEDY)
    return StoredModel(
        {
            **{n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in weights.items()},
            "degradation_weights": overall,  # exact again where they were kept in half precision
        },
        described.architecture,
        described.dropout,
        described.image_size_px,
        described.views,
        described.facts,
        hashlib.sha256(data).hexdigest(),
        folder_sha256,
    )
