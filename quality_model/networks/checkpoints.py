"""The network as a PyTorch module from and to the files of a trained model (see `core.model_files`)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from quality_model.core import storage
from quality_model.core.model_facts import ModelFacts
from quality_model.core.model_files import (
    FORMAT_VERSION,
    METADATA_KEY,
    WEIGHTS_NAME,
    Description,
    read_model,
    require_sound,
)
from quality_model.core.views import SQUEEZED, ViewRecipe
from quality_model.networks.model import MultiHeadQualityAssessmentModel
from quality_model.paths import DESCRIPTION_NAME
from quality_model.records import HEADS, Head


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
        return self.facts.thresholds if self.views == SQUEEZED else self.facts.thresholds_whole


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
