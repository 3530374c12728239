"""The value of each part of the recipe: leave it out, train again, measure on the same test split.

    python -m benchmarks.ablations --images data/images --work ABLATIONS

Every run trains about as many samples (``num_samples`` of its result; whole images: as many
pixels), of the small network, from the same first weights. On test groups that no run
but the leaking one has seen: R2 and Spearman on calibrated labels (R2 means nothing for a head that
was trained on others), AUC (severity from .15 against none), and the worst severity sweep (other software, no
labels of ours). A finished run is not repeated, and an interrupted one resumes; two processes with
OMP_NUM_THREADS=1 and different ablations (--only) get twice as far on two cores as one.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.defects import Defective, vary_enlarging
from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.core.processes import InThisProcess
from quality_model.data.dataset import TrainingSet
from quality_model.data.generate import generate
from quality_model.data.images_table import TABLE_NAME, ImagesTable, ImagesWriter
from quality_model.degrade import PROFILES
from quality_model.degrade.randomness import Stream
from quality_model.degrade.severity import Profile
from quality_model.evaluate.measure import evaluate
from quality_model.networks.model import LoadedModel
from quality_model.params import Params, PerHead, TrainParams
from quality_model.params_file import load_params
from quality_model.records import HEADS, Head, Split
from quality_model.train import TrainedModel, train
from quality_model.train.samples import sizes_of_batches

IMAGE_SIZE_PX: Final = 96
CROP_PX: Final = 64
SAMPLES_PER_EPOCH: Final = 3200
FEW_SCENES: Final = 58
"""As the earlier bundled model had."""

MEASURES: Final = ("r2", "spearman", "auc", "sweep")
LEAST_LABEL: Final = 0.15
"""Severity from which a degradation should be found."""

RECIPE: Final[Mapping[str, Any]] = {
    "architecture": "small",
    "samples": "fresh",
    "samples_per_epoch": SAMPLES_PER_EPOCH,
    "crops_px": (CROP_PX,),
    "batch_size": 16,
    "learning_rate": 0.0012,
    "dropout": 0.1,
    "warmup_epochs": 0.5,
    "weight_average": 0.998,
    "max_validation_samples": 256,
}
INVERSE_VARIANCE: Final = {"color_cast": 1.1, "blurriness": 0.85, "watermark": 1.3, "noise": 0.95}
DESIGN_WEIGHTS: Final = {"color_cast": 1.0, "blurriness": 1.0, "watermark": 1.5, "noise": 1.0}


def _plain_crop(clean: Pixels, side_px: int, size_px: int, stream: Stream) -> Pixels:
    """A square at its own scale, and nothing else."""
    top, left = (stream.integer(0, length - side_px) for length in clean.shape[:2])
    return np.ascontiguousarray(clean[top : top + side_px, left : left + side_px])


def _varied_by(
    vary: Callable[[Pixels, int, int, Stream], Pixels],
) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mock.patch("quality_model.train.samples.vary", vary)


def _degraded_by(profile: Profile) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mock.patch.dict(PROFILES, {"calibrated": profile})


def _seeing(whole_share: float) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mock.patch("quality_model.train.variation.WHOLE_SHARE", whole_share)


@contextmanager
def _few_scenes() -> Iterator[None]:
    """A few scenes of the train split, spread over their names."""
    every = TrainingSet.indices

    def indices(self: TrainingSet, split: Split) -> npt.NDArray[np.int64]:
        rows = every(self, split)
        groups = self.manifest["group"].iloc[rows].to_numpy(dtype=str)
        names = np.unique(groups)
        few = names[:: max(1, len(names) // FEW_SCENES)][:FEW_SCENES]
        return rows[np.isin(groups, few)] if split == "train" else rows

    with mock.patch.object(TrainingSet, "indices", indices):
        yield


@contextmanager
def _plain_scenes() -> Iterator[None]:
    """No frame, text of the scene, graphic pattern or other variation that the profile makes of scenes."""
    module = "quality_model.degrade.calibrated.clean_variation."
    with ExitStack() as stack:
        stack.enter_context(mock.patch(module + "scene", lambda clean, stream: (clean, "")))
        stack.enter_context(mock.patch(module + "frame", lambda stream, side_px: (None, "")))
        yield


@dataclass(frozen=True)
class Ablation:
    """The recipe with one part taken away."""

    what: str
    train: Mapping[str, Any] = field(default_factory=dict)
    loss_weights: Mapping[str, float] = field(default_factory=lambda: INVERSE_VARIANCE)
    profile: str = "calibrated"
    leaks: bool = False
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


ABLATIONS: Final[Mapping[str, Ablation]] = {
    "recipe": Ablation("nothing"),
    "recipe-again": Ablation("nothing, another seed", {"seed": 8}),
    "seed-labels": Ablation("calibrated labels and their order: profile seed", profile="seed"),
    "random-order": Ablation(
        "the order of life: random, labelled at once",
        around=_degraded_by(Defective(random_order=True)),
    ),
    **{
        f"seed-{head}": Ablation(
            f"calibrated {head}: profile seed's", around=_degraded_by(Defective(seed_head=head))
        )
        for head in HEADS
    },
    "soft-sources": Ablation(
        "refusal of soft sources: half enlarged from 64 px", around=_varied_by(vary_enlarging)
    ),
    "leaking-split": Ablation("the split by group: crops of an image on both sides", leaks=True),
    "design-weights": Ablation("loss weights by variance: the design's", loss_weights=DESIGN_WEIGHTS),
    "stored": Ablation("fresh samples: the stored ones", {"samples": "stored"}),
    "no-variation": Ablation("variation of clean images", around=_varied_by(_plain_crop)),
    "whole": Ablation("crops: whole images, as many pixels in all", {"crops_px": ()}),
    "few-scenes": Ablation(f"scenes: {FEW_SCENES} of them", around=_few_scenes),
    "whole-views": Ablation("tiles: whole views alone", around=_seeing(1.0)),
    "tiles": Ablation("whole views: tiles alone", around=_seeing(0.0)),
    "plain-scenes": Ablation("clean variation: scenes as they are", around=_plain_scenes),
    "standard": Ablation("network small: standard", {"architecture": "standard"}),
    "no-average": Ablation("averaged weights", {"weight_average": 0.0}),
    "no-warmup": Ablation("warm-up", {"warmup_epochs": 0.0}),
    "dropout-.3": Ablation("dropout .1: the design's .3", {"dropout": 0.3}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, required=True, help="folder of an images table")
    parser.add_argument("--work", type=Path, required=True, help="folder for sets and results")
    parser.add_argument("--epochs", type=int, default=6, help=f"of {SAMPLES_PER_EPOCH} crops")
    parser.add_argument("--only", nargs="*", choices=ABLATIONS, help="these ablations")
    arguments = parser.parse_args()
    params = load_params(Path("params.yaml"))
    for name in arguments.only or ABLATIONS:
        result = arguments.work / f"{name}-{arguments.epochs}.json"
        if not result.exists():
            storage.write_json(result, _measure(name, params, arguments))
    sys.stdout.write(_table(arguments.work, arguments.epochs))


def _measure(name: str, params: Params, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure on the calibrated test split; the leaking run also on its own."""
    ablation = ABLATIONS[name]
    reference = _training_set(params, arguments, "calibrated", leaks=False)
    samples = _training_set(params, arguments, ablation.profile, leaks=ablation.leaks)
    whole = ablation.train.get("crops_px") == ()
    smaller = (CROP_PX / IMAGE_SIZE_PX) ** 2 if whole else 1.0
    settings = {**RECIPE, **ablation.train, "epochs": arguments.epochs, "patience": arguments.epochs}
    settings["samples_per_epoch"] = round(SAMPLES_PER_EPOCH * smaller)
    settings["loss_weights"] = PerHead(**ablation.loss_weights)
    section = params.train.model_copy(update=settings)
    if section.samples == "stored":  # an epoch is the whole set: fewer of them, as many samples
        epochs = max(1, round(arguments.epochs * SAMPLES_PER_EPOCH / len(samples.indices("train"))))
        section = section.model_copy(update={"epochs": epochs, "patience": epochs})
    started = time.process_time()
    in_this_process = mock.patch("quality_model.train.epochs.choose_executor", lambda device: InThisProcess())
    with ablation.around(), in_this_process:  # where what is around it holds
        trained = train(
            section,
            samples,
            arguments.work / "checkpoints" / name,
            images=arguments.images,
            limits=params.limits,
        )
    minutes = (time.process_time() - started) / 60
    measured = {}
    for which, on in {"test": reference, **({"own_test": samples} if ablation.leaks else {})}.items():
        evaluation = evaluate(
            params.evaluate.model_copy(update={"baseline_samples": 1}),  # nobody asks for baselines
            LoadedModel(trained.model, samples.image_size_px, sha256=""),
            on,
            loss_weights=PerHead(**INVERSE_VARIANCE),
        )
        summary = evaluation.measured.summary()
        measured[which] = {
            head: {
                "r2": summary[head]["r2"],
                "spearman": summary[head]["spearman"],
                "auc": auc(evaluation.predictions, head),
                "sweep": summary[head]["worst_sweep_spearman"],
                "cross_talk": summary[head]["largest_cross_talk"],
            }
            for head in HEADS
        }
    return {
        "what": ablation.what,
        "num_samples": num_trained(section, trained),
        "minutes_of_one_core": minutes,
        **measured,
    }


def auc(predictions: pd.DataFrame, head: Head) -> float:
    """Whether a clear degradation scores higher than none, among samples with any other."""
    labels, scores = predictions[f"{head}_label"], predictions[f"{head}_score"]
    without, found = np.sort(scores[labels == 0]), scores[labels >= LEAST_LABEL]
    return float(np.mean(np.searchsorted(without, found)) / len(without))


def num_trained(section: TrainParams, trained: TrainedModel) -> int:
    """Samples that a run was trained on; a sample of several epochs counts in each."""
    an_epoch = trained.num_train if section.samples == "stored" else section.samples_per_epoch
    return len(trained.history) * sum(sizes_of_batches(an_epoch, section.batch_size))


def _training_set(params: Params, arguments: argparse.Namespace, profile: str, *, leaks: bool) -> TrainingSet:
    folder = arguments.work / f"{profile}{'-leaking' if leaks else ''}"
    if not (folder / storage.MARKER_NAME).exists():
        section = params.generate.model_copy(update={"profile": profile, "image_size": IMAGE_SIZE_PX})
        images = _each_its_own_group(arguments) if leaks else arguments.images
        generate(section, params.limits, images, folder)
    return TrainingSet.open(folder)


def _each_its_own_group(arguments: argparse.Namespace) -> Path:
    """The images table without its groups, which is split by image."""
    folder: Path = arguments.work / "images-leaking"
    with (
        ImagesTable(arguments.images) as table,
        storage.staged(folder / TABLE_NAME) as path,
        ImagesWriter(path) as writer,
    ):
        for image in table.images():
            writer.write(replace(image, group=image.image_id))
    storage.seal(folder, [TABLE_NAME], rows=table.num_rows)
    return folder


def _table(work: Path, epochs: int) -> str:
    lines = [
        "| without | " + " | ".join(f"{head} R2, Spearman, AUC, sweep" for head in HEADS) + " |",
        "|---" * 5 + "|",
    ]
    for name in ABLATIONS:
        path = work / f"{name}-{epochs}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        for which in ("test", "own_test") if ABLATIONS[name].leaks else ("test",):
            cells = [
                ", ".join(f"{result[which][head][measure]:.2f}" for measure in MEASURES) for head in HEADS
            ]
            where = " (measured on its own test)" if which == "own_test" else ""
            lines.append(f"| {result['what']}{where} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
