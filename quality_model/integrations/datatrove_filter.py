"""A filter for datatrove: documents whose images are good enough.

from quality_model.integrations.datatrove_filter import ImageQualityFilter

pipeline = [reader, ImageQualityFilter(Limits(limits={"watermark": 0.4})), writer]
"""

from datatrove.data import Document, Media
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from quality_model.core.predict import ImageInput
from quality_model.integrations import Limits, scores_of


class ImageQualityFilter(BaseFilter):
    """Drops a document if one of its images is dropped; one without images stays.

    Each image's ``metadata["quality"]`` gets its scores.

    Args:
        limits: What is kept.
        exclusion_writer: Saves the dropped documents.
        batch_size: Documents that are scored at a time.
    """

    name = "🖼 Image quality"

    def __init__(
        self,
        limits: Limits | None = None,
        exclusion_writer: DiskWriter | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__(exclusion_writer, batch_size)
        self.limits = limits or Limits()

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        return [self._judged(doc) for doc in batch]

    def _judged(self, doc: Document) -> bool | tuple[bool, str]:
        faults: list[str] = []
        results = self.limits.score([_image(media) for media in doc.media])
        for media, result in zip(doc.media, results, strict=True):
            media.metadata["quality"] = scores_of(result)
            faults += self.limits.faults(result)
        return (False, faults[0]) if faults else True


def _image(media: Media) -> ImageInput:
    data: bytes | None = media.media_bytes
    return str(media.path or media.url) if data is None else data
