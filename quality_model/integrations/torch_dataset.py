"""A PyTorch dataset whose bad images are left out.

from quality_model.integrations.torch_dataset import GoodOnly

good = GoodOnly(torchvision.datasets.ImageFolder("photos"))
"""

from typing import Any

from torch.utils.data import Dataset

from quality_model.core.predict import ImageInput
from quality_model.errors import ImageError
from quality_model.integrations import Limits
from quality_model.records import QualityScores


class GoodOnly(Dataset[Any]):
    """The items of a map-style dataset whose images are kept.

    All are scored once, when it is made.

    Args:
        dataset: Of items, or of tuples and dicts with the image at ``image``.
        limits: What is kept; by default what the bundled model or the champion does not flag.
        image: Place or key of the image in an item; None if the item is the image.
        batch_size: Images in memory at a time.

    Attributes:
        results: The scores of every item of ``dataset``, or why there are none.
        indices: The items that are kept, as places in ``dataset``.
    """

    def __init__(
        self, dataset: Any, limits: Limits | None = None, *, image: int | str | None = 0, batch_size: int = 16
    ) -> None:
        limits = limits or Limits()
        self.dataset = dataset
        self.results: list[QualityScores | ImageError] = []
        for start in range(0, len(dataset), batch_size):
            items = [dataset[at] for at in range(start, min(start + batch_size, len(dataset)))]
            images: list[ImageInput] = [item if image is None else item[image] for item in items]
            self.results += limits.score(images)
        self.indices = [at for at, result in enumerate(self.results) if not limits.faults(result)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]
