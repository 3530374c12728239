"""Where things lie below the project folder. dvc.yaml names the same paths (a test holds them together)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator

DESCRIPTION_NAME: Final = "model.json"
"""In a model's folder: how to rebuild the network, the image size, and facts about the training."""

HISTORY_NAME: Final = "history.json"
"""In a training's report: the measures of each epoch."""

VERDICT_NAME: Final = "verdict.json"
"""In the gate's report: what it decided, about which model, and why."""

EVIDENCE_NAME: Final = "evidence.json"
"""In the gate's report: the candidate's evaluation that it decided on."""


def user_path(path: str | Path) -> Path:
    """A path that a person wrote: `~` and `~user` at its beginning are home folders, as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user
        return Path(path)


UserPath = Annotated[Path, BeforeValidator(user_path)]
"""A path among the parameters of a flow."""


@dataclass(frozen=True, slots=True)
class ProjectPaths:
    """The default place of every artifact, relative to ``root``."""

    root: Path = Path()

    def place(self, path: Path) -> Path:
        """What a path means that a flow was given: a relative one is below the project folder."""
        return self.root / user_path(path)

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def images(self) -> Path:
        """Folder of the images table, with its marker."""
        return self.root / "data" / "images"

    @property
    def training_set(self) -> Path:
        """Folder of images.npy, labels.npy, manifest.parquet and their marker."""
        return self.root / "data" / "training"

    @property
    def model(self) -> Path:
        """Folder of the trained candidate: model.safetensors and model.json."""
        return self.root / "models" / "candidate"

    @property
    def checkpoints(self) -> Path:
        """Per-epoch training state; outside DVC, so that an interrupted run can resume."""
        return self.root / "state" / "checkpoints"

    @property
    def state(self) -> Path:
        """Locks, checkpoints and the records of decisions."""
        return self.root / "state"

    @property
    def records(self) -> Path:
        """A folder for each decision; no DVC stage deletes it."""
        return self.state / "records"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def images_report(self) -> Path:
        return self.reports / "images"

    @property
    def training_set_report(self) -> Path:
        return self.reports / "training_set"

    @property
    def training_report(self) -> Path:
        """metrics.json, history.json and history.csv of the training run."""
        return self.reports / "training"

    @property
    def evaluation_report(self) -> Path:
        """metrics.json, evaluation.json, predictions.csv and images of the evaluation."""
        return self.reports / "evaluation"

    @property
    def gate_report(self) -> Path:
        return self.reports / "gate"

    @property
    def comparison_report(self) -> Path:
        """Two models on the same images."""
        return self.reports / "comparison"

    @property
    def examples(self) -> Path:
        """Ordinary images to score, some with a visible fault."""
        return self.root / "examples"

    @property
    def samples(self) -> Path:
        """PNG files of some samples, to look at or to score."""
        return self.root / "samples"

    @property
    def scores(self) -> Path:
        """Batch scoring's output, a folder for each job."""
        return self.root / "scores"
