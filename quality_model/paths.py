"""Where things lie below the project folder. dvc.yaml names the same paths (a test holds them together)."""

from pathlib import Path
from typing import Final

DESCRIPTION_NAME: Final = "model.json"
"""In a model's folder: how to rebuild the network, the image size, and facts about the training."""

CARD_NAME: Final = "MODEL_CARD.md"
"""In the folder of a bundled model, and in the gate's report: the model's card."""

HISTORY_NAME: Final = "history.json"
"""In a training's report: the measures of each epoch."""

VERDICT_NAME: Final = "verdict.json"
"""In the gate's report: what it decided, about which model, and why."""

EVIDENCE_NAME: Final = "evidence.json"
"""In the gate's report: the candidate's evaluation that it decided on."""

BESIDE_CHAMPION_NAME: Final = "beside_champion.html"
"""In the gate's report: how candidate and champion score the same samples."""

DECISION_NAME: Final = "decision.json"
"""In the record of a decision: what was decided, about which model."""

DATABASE_NAME: Final = "mlflow.db"
ARTIFACTS_NAME: Final = "mlartifacts"
"""Of a project without MLFLOW_TRACKING_URI: MLflow's database, and its folder for files."""

MODEL_FOLDER: Final = "data/model"
"""In the artifacts of a logged model: the folder of its files."""


def user_path(path: str | Path) -> Path:
    """A path that a person wrote: `~` and `~user` at its beginning are home folders, as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user
        return Path(path)


class ProjectPaths:
    """The default place of every artifact, relative to ``root``."""

    def __init__(self, root: Path = Path()) -> None:
        self.root: Final = root
        self.params: Final = root / "params.yaml"
        self.images: Final = root / "data" / "images"  # the images table, with its completion marker
        self.training_set: Final = root / "data" / "training"  # images.npy, labels.npy, manifest.parquet
        self.model: Final = root / "models" / "candidate"  # model.safetensors and model.json
        self.state: Final = root / "state"  # locks, checkpoints and the records of decisions
        self.checkpoints: Final = self.state / "checkpoints"  # outside DVC: an interrupted run can resume
        self.records: Final = self.state / "records"  # a folder for each decision; no DVC stage deletes it
        self.reports: Final = root / "reports"
        self.images_report: Final = self.reports / "images"
        self.training_set_report: Final = self.reports / "training_set"
        self.training_report: Final = self.reports / "training"  # metrics.json, history.json, history.csv
        self.evaluation_report: Final = self.reports / "evaluation"
        self.gate_report: Final = self.reports / "gate"
        self.comparison_report: Final = self.reports / "comparison"  # two models on the same images
        self.migration_report: Final = self.reports / "migration"
        self.examples: Final = root / "examples"  # ordinary images to score, some with a visible fault
        self.samples: Final = root / "samples"  # PNG files of some samples, to look at or to score
        self.scores: Final = root / "scores"  # batch scoring's output, a folder for each job

    def place(self, path: Path) -> Path:
        """What a path means that a flow was given: a relative one is below the project folder."""
        return self.root / user_path(path)
