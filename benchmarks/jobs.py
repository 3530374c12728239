"""The jobs, both ways. A repetition runs one of these functions in a process of its own:

python -m benchmarks.jobs JOB SIDE TASK, TASK being JSON
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from quality_model.core.system import num_cores
from quality_model.params import Params
from quality_model.params_file import load_params

Side = Literal["obvious", "ours"]
SIDES: Final[tuple[Side, ...]] = ("obvious", "ours")


@dataclass(frozen=True, slots=True)
class Task:
    """The input of both sides.

    ``images`` is a folder of JPEG files, ``table`` the same images as an images table,
    ``training_set`` a training dataset made of some, ``model`` a model's folder, ``output`` a
    folder that is not there yet, ``overrides`` change params.yaml, ``cleanvision`` is a Python that has it.
    """

    params_file: Path
    images: Path
    table: Path
    training_set: Path
    model: Path
    output: Path
    overrides: dict[str, Any]
    cleanvision: Path | None = None

    @property
    def params(self) -> Params:
        return load_params(self.params_file, self.overrides)


@dataclass(frozen=True)
class Outcome:
    """Number of images, the seconds that they took (without imports), and other figures.

    ``cpu_s`` are the seconds of all cores, worker processes included from their start: they hardly depend
    on what else the machine does.
    """

    num_images: int
    elapsed_s: float
    cpu_s: float
    facts: dict[str, float]

    @property
    def images_per_s(self) -> float:
        return self.num_images / self.elapsed_s


class Clock:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), self._cpu_s()

    def outcome(self, count: int, **facts: float) -> Outcome:
        elapsed_s, cpu_s = time.perf_counter() - self._start[0], self._cpu_s() - self._start[1]
        return Outcome(count, elapsed_s, cpu_s, facts)

    @staticmethod
    def _cpu_s() -> float:
        return sum(os.times()[:4])


def generate_obvious(task: Task) -> Outcome:
    from benchmarks.obvious import calibrated, generation

    section = task.params.generate
    make = generation.generate if section.profile == "seed" else calibrated.generate
    clock = Clock()
    count = make(
        task.images,
        task.output,
        samples_per_image=section.samples_per_image,
        side_px=section.image_size,
        seed=section.seed,
    )
    return clock.outcome(count)


def generate_ours(task: Task) -> Outcome:
    from quality_model.data import dataset  # noqa: F401  (imports do not count)
    from quality_model.data.generate import generate

    params = task.params
    clock = Clock()
    summary = generate(params.generate, params.limits, task.table, task.output)
    return clock.outcome(summary.samples)


def train_obvious(task: Task) -> Outcome:
    import torch

    from benchmarks.obvious.network import Network, SmallNetwork
    from benchmarks.obvious.training import FreshSamples, train_epoch, train_fresh
    from quality_model.data.dataset import TrainingSet
    from quality_model.train.samples import shuffled, sizes_of_batches

    section = task.params.train
    if section.samples == "fresh":
        fresh = FreshSamples(task.images, section.samples_per_epoch, section.crops_px[0])
        small = SmallNetwork(section.dropout)
        clock = Clock()
        rate = section.learning_rate
        loss = train_fresh(small, fresh, batch_size=section.batch_size, learning_rate=rate)
        return clock.outcome(len(fresh), train_loss=loss)
    samples = TrainingSet.open(task.training_set).indices("train")
    # The batches of ours: of its first epoch, without a lone last sample.
    count = sum(sizes_of_batches(len(samples), section.batch_size))
    rows = shuffled(samples, section.seed, 1)[:count].tolist()
    network = Network(section.dropout)
    clock = Clock()
    loss = train_epoch(
        network,
        task.training_set,
        rows,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        gradient_clip_norm=section.gradient_clip_norm,
        loss_weights=torch.tensor([*section.loss_weights.as_dict().values()]),
    )
    return clock.outcome(count, train_loss=loss)


def train_ours(task: Task) -> Outcome:
    """The time is the epoch's own: validation and checkpoint are left out on both sides."""
    import torch

    from quality_model import pretrained
    from quality_model.core.models import CHAMPION
    from quality_model.data.dataset import TrainingSet
    from quality_model.networks.model import load_model
    from quality_model.train import train
    from quality_model.train.samples import sizes_of_batches
    from quality_model.train.training_step import SCRATCH

    section = task.params.train
    named = section.start_from
    # A benchmark needs no registry: it starts from a file of weights, else from random ones.
    is_file = named not in (SCRATCH, CHAMPION) and pretrained.bundled_name(named) is None
    start = load_model(Path(named), torch.device("cpu")) if is_file else None
    clock = Clock()
    trained = train(
        section,
        TrainingSet.open(task.training_set),
        task.output,
        images=task.table,
        limits=task.params.limits,
        start=start,
    )
    report = trained.history[0]
    assert report.images_per_s is not None
    samples = section.samples_per_epoch if section.samples == "fresh" else trained.num_train
    count = sum(sizes_of_batches(samples, section.batch_size))
    cpu_s = clock.outcome(count).cpu_s
    return Outcome(count, count / report.images_per_s, cpu_s, {"train_loss": report.train_loss})


def score_obvious(task: Task) -> Outcome:
    """The original's predictor: its network, the whole image squeezed, one after the other."""
    from benchmarks.obvious.network import Network
    from benchmarks.obvious.scoring import score

    network = Network(dropout=0.3)
    clock = Clock()
    return clock.outcome(score(network, task.images, task.output, side_px=224))


def decode_alone(task: Task) -> Outcome:
    """Pillow's decoding in as many threads as there are cores; it lets them run at a time."""
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    def decode(path: Path) -> None:
        Image.open(path).convert("RGB")

    paths = sorted(task.images.glob("*.jpg"))
    clock = Clock()
    with ThreadPoolExecutor(num_cores()) as threads:
        list(threads.map(decode, paths))
    return clock.outcome(len(paths))


_CLEANVISION: Final = """
import sys, time
from cleanvision import Imagelab
if __name__ == "__main__":
    start = time.perf_counter()
    lab = Imagelab(data_path=sys.argv[1])
    lab.find_issues(verbose=False)
    print(len(lab.issues), time.perf_counter() - start)
"""


def score_cleanvision(task: Task) -> Outcome:
    """All of CleanVision's default checks, in its own Python. Its CPU seconds include imports."""
    script = task.output.with_name("with_cleanvision.py")
    script.write_text(_CLEANVISION)
    clock = Clock()
    command = [str(task.cleanvision), str(script), str(task.images)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    count, elapsed_s = done.stdout.split()[-2:]
    return Outcome(int(count), float(elapsed_s), clock.outcome(0).cpu_s, {})


def score_ours(task: Task) -> Outcome:
    """All that the command does, the check of the result included.

    Imports, loading the model and checking the engine against float32 are not counted; starting workers is.
    """
    from quality_model.core.predict import Scorer
    from quality_model.data.checks.score_checks import check_scores
    from quality_model.score.job import score
    from quality_model.score.result import ScoringModel

    section, limits = task.params.score, task.params.limits
    scorer = Scorer(task.model, section.device, limits, views=section.views)
    model = ScoringModel.of(scorer)
    clock = Clock()
    summary = score(
        section,
        limits,
        inputs=task.images,
        output=task.output,
        scorer=scorer,
        model=model,
        check=check_scores,
    )
    return clock.outcome(summary.scored)


JOBS: Final[dict[str, dict[Side, Callable[[Task], Outcome]]]] = {
    "generate-seed": {"obvious": generate_obvious, "ours": generate_ours},
    "generate-calibrated": {"obvious": generate_obvious, "ours": generate_ours},
    "train": {"obvious": train_obvious, "ours": train_ours},
    "score": {"obvious": score_obvious, "ours": score_ours},
    "score-12mp": {"obvious": decode_alone, "ours": score_ours},
    "score-whole": {"obvious": score_cleanvision, "ours": score_ours},
}
"""What each is measured against: docs/performance.md."""


@dataclass(frozen=True)
class Repetition(Outcome):
    """An outcome in a process of its own: ``peak_memory_mb`` is of it and its workers together, at most."""

    peak_memory_mb: float


def repeat(job: str, side: Side, task: Task) -> Repetition:
    """Run one side once, after all writes have reached the disk.

    Raises:
        subprocess.CalledProcessError: It failed; its message is on stderr.
    """
    os.sync()
    command = [sys.executable, "-m", "benchmarks.jobs", job, side, json.dumps(asdict(task), default=str)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Repetition(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    job, side, text = sys.argv[1:]
    plain: dict[str, Any] = json.loads(text)
    values: dict[str, Any] = {name: Path(v) if isinstance(v, str) else v for name, v in plain.items()}
    task = Task(**values)
    outcome = JOBS[job][cast("Side", side)](task)
    workers = task.params.generate.workers or num_cores()
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The system keeps the largest of the children: an upper bound for all of them.
    peak_kb += workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    sys.stdout.write(f"\n{json.dumps({**asdict(outcome), 'peak_memory_mb': peak_kb / 1024})}\n")


if __name__ == "__main__":
    main()
