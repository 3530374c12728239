"""The three jobs, both ways. A repetition runs one of these functions in a process of its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from quality_model.params import Params
from quality_model.params_file import load_params

Side = Literal["obvious", "ours"]
SIDES: Final[tuple[Side, ...]] = ("obvious", "ours")


@dataclass(frozen=True, slots=True)
class Task:
    """The input of both sides.

    ``images`` is a folder of JPEG files, ``table`` the same images as an images table,
    ``training_set`` a training dataset made of some, ``model`` a model's folder, ``output`` a
    folder that is not there yet, ``overrides`` change params.yaml.
    """

    params_file: Path
    images: Path
    table: Path
    training_set: Path
    model: Path
    output: Path
    overrides: dict[str, Any]

    @property
    def params(self) -> Params:
        return load_params(self.params_file, self.overrides)


@dataclass(frozen=True)
class Outcome:
    """Number of images, the seconds that they took (without imports), and other figures."""

    num_images: int
    elapsed_s: float
    facts: dict[str, float]

    @property
    def images_per_s(self) -> float:
        return self.num_images / self.elapsed_s


def generate_obvious(task: Task) -> Outcome:
    from benchmarks.obvious.generation import generate

    section = task.params.generate
    start = time.perf_counter()
    count = generate(
        task.images,
        task.output,
        samples_per_image=section.samples_per_image,
        side_px=section.image_size,
        seed=section.seed,
    )
    return Outcome(count, time.perf_counter() - start, {})


def generate_ours(task: Task) -> Outcome:
    from quality_model.data import dataset  # noqa: F401  (imports do not count)
    from quality_model.data.generate import generate

    params = task.params
    start = time.perf_counter()
    summary = generate(params.generate, params.limits, task.table, task.output)
    return Outcome(summary.samples, time.perf_counter() - start, {})


def train_obvious(task: Task) -> Outcome:
    import torch

    from benchmarks.obvious.network import Network
    from benchmarks.obvious.training import train_epoch
    from quality_model.data.dataset import TrainingSet
    from quality_model.train.samples import shuffled, sizes_of_batches

    section = task.params.train
    samples = TrainingSet.open(task.training_set).indices("train")
    # The batches of ours: of its first epoch, without a lone last sample.
    count = sum(sizes_of_batches(len(samples), section.batch_size))
    rows = shuffled(samples, section.seed, 1)[:count].tolist()
    network = Network(section.dropout)
    start = time.perf_counter()
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
    return Outcome(count, time.perf_counter() - start, {"train_loss": loss})


def train_ours(task: Task) -> Outcome:
    """The time is the epoch's own: validation and checkpoint are left out on both sides."""
    import torch

    from quality_model import pretrained
    from quality_model.data.dataset import TrainingSet
    from quality_model.networks.checkpoints import load_model
    from quality_model.train import train
    from quality_model.train.samples import sizes_of_batches
    from quality_model.train.training_step import CHAMPION, SCRATCH

    section = task.params.train
    named = section.start_from
    # A benchmark needs no registry: it starts from a file of weights, else from random ones.
    is_file = named not in (SCRATCH, CHAMPION) and pretrained.bundled_name(named) is None
    start = load_model(Path(named), torch.device("cpu")) if is_file else None
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
    count = sum(sizes_of_batches(trained.num_train, section.batch_size))
    return Outcome(count, count / report.images_per_s, {"train_loss": report.train_loss})


def score_obvious(task: Task) -> Outcome:
    import torch

    from benchmarks.obvious.network import Network
    from benchmarks.obvious.scoring import score
    from quality_model.networks.checkpoints import load_model

    loaded = load_model(task.model, torch.device("cpu"))
    network = Network(loaded.model.dropout)
    network.load(loaded.model.state_dict())
    start = time.perf_counter()
    count = score(network, task.images, task.output, side_px=loaded.image_size_px)
    return Outcome(count, time.perf_counter() - start, {})


def score_ours(task: Task) -> Outcome:
    """All that the command does, the check of the result included.

    Imports, loading the model and checking the engine against float32 are not counted; starting workers is.
    """
    from quality_model.core.predict import Scorer
    from quality_model.data.checks.score_checks import check_scores
    from quality_model.score.job import score
    from quality_model.score.result import ScoringModel

    params = task.params
    scorer = Scorer(task.model, params.score.device, params.limits)
    model = ScoringModel.of(scorer)
    start = time.perf_counter()
    summary = score(
        params.score,
        params.limits,
        inputs=task.images,
        output=task.output,
        scorer=scorer,
        model=model,
        check=check_scores,
    )
    return Outcome(summary.scored, time.perf_counter() - start, {})


JOBS: Final[dict[str, dict[Side, Callable[[Task], Outcome]]]] = {
    "generate": {"obvious": generate_obvious, "ours": generate_ours},
    "train": {"obvious": train_obvious, "ours": train_ours},
    "score": {"obvious": score_obvious, "ours": score_ours},
}
