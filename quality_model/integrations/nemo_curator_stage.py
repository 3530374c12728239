"""A stage for NeMo Curator: images whose scores are within the limits.

pipeline.add_stage(ImageReaderStage())
pipeline.add_stage(ImageQualityFilterStage(limits=Limits(limits={"noise": 0.5})))
"""

from dataclasses import dataclass, field
from typing import Any

from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.resources import Resources
from nemo_curator.tasks import ImageBatch

from quality_model.core.predict import ImageInput
from quality_model.integrations import Limits, scores_of


@dataclass
class ImageQualityFilterStage(ProcessingStage[ImageBatch, ImageBatch]):
    """Leaves out the images that are not kept; the others get their scores as ``metadata["quality"]``."""

    limits: Limits = field(default_factory=Limits)
    name: str = "image_quality_filter"
    resources: Resources = field(default_factory=lambda: Resources(cpus=1.0))

    def inputs(self) -> tuple[list[str], list[str]]:
        return ["data"], []

    def outputs(self) -> tuple[list[str], list[str]]:
        return ["data"], []

    def setup(self, _worker_metadata: Any = None) -> None:
        _ = self.limits.scorer

    def process(self, task: ImageBatch) -> ImageBatch:
        images: list[ImageInput] = [
            one.image_path if one.image_data is None else one.image_data for one in task.data
        ]
        kept = []
        for one, result in zip(task.data, self.limits.score(images), strict=True):
            one.metadata["quality"] = scores_of(result)
            if not self.limits.faults(result):
                kept.append(one)
        task.data = kept
        return task
