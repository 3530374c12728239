"""`make run`: the whole way once, on embedded photographs, and where to look afterwards."""

import sys
import time
from pathlib import Path

from prefect import flow

from flows.retrain import retrain
from flows.score import score
from quality_model.paths import ProjectPaths
from quality_model.pretrained import NAME
from quality_model.scoring import ScoreSummary
from tasks import samples
from tasks.ending import leave_in_order_on_sigterm


@flow(name="first-run")
def first_run(project: Path = Path()) -> tuple[str, ScoreSummary]:
    """Retrain, then score some samples of the test split with the champion, if there is one."""
    paths = ProjectPaths(project)
    outcome = retrain(project)
    folder = samples.export(paths.training_set, paths.samples)
    return outcome, score(folder.absolute(), project=project)


CLOSING_WORDS = """
Retraining: {outcome}. {scorer} scored {num_scored} of {num_inputs} pictures
({num_reasons} could not be read). All of it took {minutes:.1f} minutes.

  models/candidate              the trained model (safetensors)
  reports/evaluation/pictures   how well it does, as pictures
  reports/gate                  the gate's verdict with its reasons
  samples                       samples of the test split, to look at
  {scores}    their scores (Parquet, summary.json, summary.png)

Runs, metrics and models:  make mlflow-ui    then open http://127.0.0.1:5000
Flows and schedules:       make prefect-ui   then open http://127.0.0.1:4200
Your own pictures:         .venv/bin/quality-model predict FILE...   or   score FOLDER
"""


def main() -> None:
    leave_in_order_on_sigterm()
    started = time.monotonic()
    outcome, summary = first_run()
    words = CLOSING_WORDS.format(
        outcome=outcome,
        scorer="The model that ships with the package" if summary.model.name == NAME else "The champion",
        num_inputs=summary.inputs,
        num_scored=summary.scored,
        num_reasons=summary.inputs - summary.scored,
        scores=summary.output,
        minutes=(time.monotonic() - started) / 60,
    )
    sys.stdout.write(words)


if __name__ == "__main__":
    main()
