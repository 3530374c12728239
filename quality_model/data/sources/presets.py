"""Datasets that have a name of their own."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Preset:
    """A dataset under a short name.

    ``repository``, ``image_column`` and ``split`` are those of the Hugging Face hub, None for
    images that are already on this machine.
    """

    name: str
    description: str
    repository: str | None = None
    image_column: str | None = None
    split: str | None = None


SAMPLE_PHOTOS: Final = "sample-photos"

_PRESETS: Final = (
    Preset(SAMPLE_PHOTOS, "crops of the photographs in scikit-image and scikit-learn; no network needed"),
    Preset(
        "tiny-imagenet",
        "photographs of 200 kinds of thing, 64 px",
        "zh-plus/tiny-imagenet",
        "image",
        "train",
    ),
    Preset("cifar10", "photographs of 10 kinds of thing, 32 px", "cifar10", "img", "train"),
    Preset("cifar100", "photographs of 100 kinds of thing, 32 px", "uoft-cs/cifar100", "img", "train"),
    Preset("food101", "photographs of 101 dishes, up to 512 px", "ethz/food101", "image", "train"),
    Preset("flowers", "photographs of 102 kinds of flower", "nelorth/oxford-flowers", "image", "train"),
    Preset("cats-dogs", "photographs of cats and dogs", "microsoft/cats_vs_dogs", "image", "train"),
)

PRESETS: Final[dict[str, Preset]] = {preset.name: preset for preset in _PRESETS}
