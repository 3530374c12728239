"""What Prometheus reads of a server."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from quality_model.core.predict import Scorer
from quality_model.records import HEADS
from quality_model.score.document import DocumentRow

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SCORES = tuple(step / 20 for step in range(1, 21))


class ServingMetrics:
    """Counts of one server; names begin with ``quality_model_``."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "quality_model_requests", "Requests by what they got.", ["endpoint", "status"], registry=registry
        )
        self.seconds = Histogram(
            "quality_model_request_seconds",
            "From the header of a request to the end of its answer.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.images = Counter(
            "quality_model_images",
            "Images by error code; none: they have scores.",
            ["error_code"],
            registry=registry,
        )
        self.scores = Histogram(
            "quality_model_score", "Scores.", ["head"], buckets=_SCORES, registry=registry
        )
        self.flagged = Counter(
            "quality_model_flagged", "Images above the threshold of a head.", ["head"], registry=registry
        )
        self.queue = Gauge(
            "quality_model_queue_images", "Images that wait or are scored now.", registry=registry
        )
        self.held = Gauge("quality_model_held_bytes", "Bytes of bodies in memory.", registry=registry)
        self.model = Info("quality_model_model", "The model that scores.", registry=registry)
        self.loaded = Gauge("quality_model_model_loaded_seconds", "When it was loaded.", registry=registry)
        self.switches = Counter("quality_model_model_switches", "Changes of the model.", registry=registry)
        self.follows = Gauge(
            "quality_model_follow_ok",
            "1: the last question to the registry was answered, and its model scores.",
            registry=registry,
        )
        self.follow_errors = Counter(
            "quality_model_follow_errors",
            "Questions to the registry without an answer, and models that do not load.",
            registry=registry,
        )
        for head in HEADS:
            self.scores.labels(head)
            self.flagged.labels(head)

    def count_image(self, row: DocumentRow) -> None:
        """Count an image that was scored, or could not be."""
        self.images.labels(row.error.reason if row.error else "none").inc()
        if row.error is not None:
            return
        for head, score in row.to_dict().items():
            if head in HEADS:
                self.scores.labels(head).observe(score)
        for head in row.to_dict()["flags"]:
            self.flagged.labels(head).inc()

    def name_model(self, scorer: Scorer) -> None:
        """Say which model scores from now on."""
        ref = scorer.source
        facts = {"name": ref.name, "version": ref.version or "", "sha256": ref.sha256}
        self.model.info({**facts, "scale_version": scorer.scale_version})
        self.loaded.set_to_current_time()

    def page(self) -> bytes:
        """The text that Prometheus reads, version 0.0.4 of its format."""
        return generate_latest(self._registry)
