"""`make run`: the whole pipeline once, on embedded photographs, and where its results are."""

import sys
import time
from pathlib import Path

from prefect import flow

from flows.retrain import Ending, retrain
from flows.score import score
from quality_model.params_file import load_params
from quality_model.paths import ProjectPaths
from quality_model.score.summary import ScoreSummary, worst_first
from tasks import examples
from tasks.ending import run_by_hand
from tasks.naming import run_name


@flow(name="first-run", flow_run_name=run_name)
def first_run(project: Path = Path()) -> tuple[Ending, ScoreSummary]:
    """Retrain, then score a folder of ordinary images, some of them with a visible fault."""
    paths = ProjectPaths(project)
    ending = retrain(project)
    folder = examples.write(paths.examples, load_params(paths.params).limits)
    return ending, score(folder.absolute(), project=project)


CLOSING_WORDS = """
{table}

Retraining: {ending}
Scoring: {num_scored} of {num_inputs} images in examples/ by {scorer}, worst first above. 0 is good, 1 is bad;
for overall 1 is good. All of it took {minutes:.1f} minutes.

  examples                      the images: photographs, some with the fault that their name says
  {scores}    their scores (data/*.parquet) and report/summary.png
  reports/index.html            decision, checks, and how well the retrained model does, on one page
  reports/gate                  the decision, and candidate beside champion on the same samples
  models/candidate              the retrained model (safetensors)

Your own images:           .venv/bin/quality-model predict FILE...   or   score FOLDER
Runs, metrics and models:  make mlflow-ui    then open http://127.0.0.1:5000
Flows and schedules:       make prefect-ui   then open http://127.0.0.1:4200
"""


def main() -> None:
    started = time.monotonic()
    ending, summary = first_run()
    words = CLOSING_WORDS.format(
        table="\n".join(worst_first(summary.output)),
        ending=" ".join(filter(None, (ending.summary, ending.next_step))),
        scorer=summary.model.title,
        num_inputs=summary.inputs,
        num_scored=summary.scored,
        scores=summary.output,
        minutes=(time.monotonic() - started) / 60,
    )
    sys.stdout.write(words)


if __name__ == "__main__":
    run_by_hand(main)
