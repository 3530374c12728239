"""An operator for Data-Juicer: `image_technical_quality_filter`.

Import this module before the recipe is read, or name it in the recipe's `custom_operator_paths`:

    process:
      - image_technical_quality_filter:
          limits: {watermark: 0.4, noise: 0.5}
          any_or_all: all
"""

from collections.abc import Iterator, Mapping
from typing import Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

from quality_model.errors import UsageError
from quality_model.integrations import Limits, scores_of
from quality_model.records import SCORE_COLUMNS

KEYS = {name: f"quality_{name}" for name in SCORE_COLUMNS}
"""In a sample's statistics: the scores of its images, in their order."""


@OPERATORS.register_module("image_technical_quality_filter")
class ImageTechnicalQualityFilter(Filter):
    """Keeps samples whose images have scores up to the limits; a sample without images stays.

    Args:
        limits: By head, or ``worst_score``, the highest score that is kept; by default the model's
            thresholds.
        any_or_all: ``all``: every image must be kept; ``any``: one.
        model: See `quality_model.Scorer`.
    """

    _batched_op = True

    def __init__(
        self,
        limits: Mapping[str, float] | None = None,
        any_or_all: str = "all",
        model: str = "auto",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if any_or_all not in ("any", "all"):
            raise UsageError(f"any_or_all is {any_or_all!r}.", "Give 'any' or 'all'.")
        self.limits, self.any_or_all = Limits(model, limits), any_or_all

    def compute_stats_batched(self, samples: dict[str, Any], context: bool = False) -> dict[str, Any]:
        encoded = samples.get(self.image_bytes_key) or [None] * len(samples[Fields.stats])
        for paths, data, stats in zip(samples[self.image_key], encoded, samples[Fields.stats], strict=True):
            if KEYS["overall"] not in stats:
                results = self.limits.score([*(data or paths or [])])
                rows = [scores_of(result) for result in results]
                stats |= {key: [row[name] for row in rows] for name, key in KEYS.items()}
                stats["quality_faults"] = [", ".join(self.limits.faults(result)) for result in results]
        return samples

    def process_batched(self, samples: dict[str, Any]) -> Iterator[bool]:
        judge = all if self.any_or_all == "all" else any
        for stats in samples[Fields.stats]:
            faults = stats["quality_faults"]
            yield not len(faults) or judge(not fault for fault in faults)
