"""What a run is trained on: stored samples, mirrored and cropped, and fresh ones, the same everywhere."""

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quality_model.core.decoding import Pixels
from quality_model.core.processes import Executor, Failure, InThisProcess, WorkerProcesses
from quality_model.data.dataset import TrainingSet
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.degrade.calibrated.calibrated_plan import Plan, draw_plan
from quality_model.degrade.calibrated.calibrated_profile import carry_out
from quality_model.degrade.randomness import Stream
from quality_model.degrade.severity import SCALES, colour_differences, mean_shift_ab, rms_of, to_lab
from quality_model.errors import TrainingError
from quality_model.params import WITHOUT_PROJECT, TrainParams
from quality_model.records import HEADS
from quality_model.train.samples import Batch, StoredPixels, open_batches
from quality_model.train.variation import Crops, WatermarkBoxes, vary

from .conftest import ON_CUDA, PHOTO_PX, images_of, with_values, write_dataset, write_photographs

CPU = torch.device("cpu")
CROP_PX = 32
WATERMARK = HEADS.index("watermark")
NUMBERS = range(60)


@pytest.fixture(scope="module")
def stored(section: TrainParams) -> TrainParams:
    """Three epochs of stored samples, cropped."""
    return with_values(section, crops_px=(CROP_PX,))


@pytest.fixture(scope="module")
def fresh(stored: TrainParams) -> TrainParams:
    """Three epochs of three batches of fresh samples."""
    return with_values(stored, samples="fresh", samples_per_epoch=12, batch_size=4)


def opened(
    section: TrainParams, dataset: TrainingSet, executor: Executor | None = None, first_epoch: int = 1
) -> tuple[list[int], Generator[Batch, None, None]]:
    rows = dataset.indices("train")
    stored = StoredPixels(dataset, rows, CPU, 0)
    made = images_of(dataset.folder)
    where = executor or InThisProcess()
    return open_batches(
        section, dataset, rows, stored, where, first_epoch, images=made, limits=WITHOUT_PROJECT.limits
    )


def epoch_of(
    section: TrainParams, dataset: TrainingSet, epoch: int, executor: Executor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of an epoch, for a run that resumes there."""
    sizes, batches = opened(section, dataset, executor, epoch)
    images, labels, _ = zip(*islice(batches, len(sizes)), strict=True)
    batches.close()
    assert [len(batch) for batch in images] == [len(batch) for batch in labels] == sizes
    return np.concatenate(images), np.concatenate(labels)


class Recorder:
    """An executor that makes nothing, and remembers the images of each task."""

    def __init__(self, outcome: Any = None) -> None:
        self.image_ids: list[str] = []
        self._outcome = outcome

    def run(self, function: Callable[..., Any], tasks: Iterable[Any]) -> Generator[Any, None, None]:
        for task in tasks:
            self.image_ids += task.image_ids
            count, side_px = len(task.image_ids), task.side_px
            cells = np.zeros((count, side_px // 16, side_px // 16), np.float32)
            empty = np.zeros((count, side_px, side_px, 3), np.uint8), np.zeros((count, 4), np.float32), cells
            yield self._outcome or empty


@pytest.mark.parametrize("samples", ["stored", "fresh"])
def test_the_samples_depend_on_seed_and_epoch_alone(
    stored: TrainParams, fresh: TrainParams, photographs: TrainingSet, samples: str
) -> None:
    section = fresh if samples == "fresh" else stored
    whole_run = list(opened(section, photographs)[1])
    num_batches = len(whole_run) // 3
    for epoch in (1, 2, 3):  # a run that resumes at an epoch sees what an undisturbed one sees
        images, labels = epoch_of(section, photographs, epoch)
        part = whole_run[(epoch - 1) * num_batches : epoch * num_batches]
        assert np.array_equal(images, np.concatenate([batch for batch, _, _ in part]))
        assert np.array_equal(labels, np.concatenate([batch for _, batch, _ in part]))
    first = epoch_of(section, photographs, 1)[0]
    assert not np.array_equal(first, epoch_of(section, photographs, 2)[0])
    assert not np.array_equal(first, epoch_of(with_values(section, seed=43), photographs, 1)[0])


@pytest.mark.parametrize("samples", ["stored", "fresh"])
def test_crops_have_the_side_of_their_part_of_the_run_and_at_most_that_of_the_images(
    stored: TrainParams, fresh: TrainParams, photographs: TrainingSet, samples: str
) -> None:
    section = with_values(fresh if samples == "fresh" else stored, epochs=4)
    growing = with_values(section, crops_px=(32, 36, 64))
    assert [epoch_of(growing, photographs, epoch)[0].shape[1] for epoch in (1, 2, 3, 4)] == [32, 32, 36, 40]
    assert epoch_of(with_values(section, crops_px=()), photographs, 1)[0].shape[1:] == (PHOTO_PX, PHOTO_PX, 3)


def test_stored_samples_come_once_an_epoch_as_squares_of_themselves_some_mirrored(
    stored: TrainParams, photographs: TrainingSet
) -> None:
    squares: dict[bytes, tuple[int, bool]] = {}
    shifts = range(PHOTO_PX - CROP_PX + 1)
    rows = photographs.indices("train")
    for row, top, left in product(rows, shifts, shifts):
        square = photographs.images[row, top : top + CROP_PX, left : left + CROP_PX]
        squares[square.tobytes()] = (int(row), False)
        squares[np.ascontiguousarray(square[:, ::-1]).tobytes()] = (int(row), True)
    images, labels = epoch_of(stored, photographs, 1)
    found = [squares[image.tobytes()] for image in images]
    others = [column for column in range(4) if column != WATERMARK]

    # An untouched sample is the same image as its clean one.
    originals = {photographs.images[row].tobytes(): int(row) for row in rows}
    identity = {int(row): originals[photographs.images[row].tobytes()] for row in rows}
    assert Counter(identity[row] for row, _ in found) == Counter(identity[int(row)] for row in rows)
    assert 0.25 < np.mean([mirrored for _, mirrored in found]) < 0.75
    for (row, _), label in zip(found, labels, strict=True):
        assert np.array_equal(label[others], photographs.labels[row][others])


def degraded(photo: Pixels, head: str, count: int) -> list[tuple[Pixels, Pixels, dict[str, Any]]]:
    """Images before and after a degradation of one head, and its parameters."""
    clean, made = np.ascontiguousarray(photo[100:196, 150:246]), []
    for number in range(4 * count):
        randomness = SampleRandomness(5, f"{number}")
        plan = draw_plan(randomness, PROFILES["calibrated"].kinds, side_px=96, scale=96 / 224)
        parts = {"noise": plan.noise, "color_cast": plan.cast, "watermark": plan.watermark}
        if parts[head] is not None:
            only = {"noise": None, "color_cast": None, "watermark": None, head: parts[head]}
            sample = carry_out(Plan(None, only["noise"], only["color_cast"], only["watermark"]), clean)
            made.append((clean, sample.image, dict(sample.applied[0].parameters)))
    assert len(made) >= count
    return made[:count]


def windows(crops: Crops) -> list[tuple[slice, slice]]:
    corners = zip(crops.tops.tolist(), crops.lefts.tolist(), strict=True)
    return [np.s_[top : top + crops.side_px, left : left + crops.side_px] for top, left in corners]


def test_the_watermark_label_of_a_crop_is_that_of_what_the_crop_shows(photo: Pixels, tmp_path: Path) -> None:
    made = degraded(photo, "watermark", 60)
    labels = np.full((60, 4), 0.5, np.float32)
    parameters = [json.dumps(facts) for _, _, facts in made]
    columns = {"split": ["train"] * 60, "watermark_parameters": parameters}
    dataset = write_dataset(tmp_path, np.stack([image for _, image, _ in made]), labels, columns)
    rows = dataset.indices("train")
    boxes = WatermarkBoxes.of(dataset, rows)
    assert boxes is not None
    exact, errors = 0, []
    for seed in range(5):
        crops = Crops.draw(60, 96, 56, np.random.default_rng(seed))
        cut = zip(made, windows(crops), boxes.labels(rows, crops), strict=True)
        for (clean, image, _), window, found in cut:
            rms = rms_of(colour_differences(to_lab(clean[window]), image[window]))
            expected = SCALES["watermark"].severity(rms)
            errors.append(abs(found - expected))
            rest = np.ones((96, 96), bool)
            rest[window] = False
            if np.array_equal(image[rest], clean[rest]):  # all of the watermark is in the crop
                exact += found == pytest.approx(expected, abs=1e-5)
    assert exact > 20
    assert np.mean(errors) < 0.03
    expected = [SCALES["watermark"].severity(facts["rms_difference"]) for _, _, facts in made]
    assert boxes.labels(rows, Crops.whole(60, 96)) == pytest.approx(expected, abs=1e-6)


def test_labels_of_noise_and_colour_cast_hold_for_a_crop_on_average(photo: Pixels) -> None:
    def rms_levels(before: Pixels, after: Pixels) -> float:
        return float(np.sqrt(np.square(after.astype(float) - before).mean()))

    for head, measure, largest in (("noise", rms_levels, 0.05), ("color_cast", mean_shift_ab, 0.06)):
        made = degraded(photo, head, 40)
        crops = Crops.draw(40, 96, 56, np.random.default_rng(1))
        errors = [
            SCALES[head].severity(measure(clean[window], image[window]))
            - SCALES[head].severity(measure(clean, image))
            for (clean, image, _), window in zip(made, windows(crops), strict=True)
        ]
        assert np.mean(np.abs(errors)) < largest, head


def test_samples_of_profile_seed_stay_whole_and_keep_their_labels(
    stored: TrainParams, photo: Pixels, tmp_path: Path
) -> None:
    dataset = write_photographs(tmp_path, photo, "seed")
    images, labels = epoch_of(stored, dataset, 1)

    assert images.shape[1:] == (PHOTO_PX, PHOTO_PX, 3)
    expected = dataset.labels[dataset.indices("train")]
    assert sorted(map(tuple, labels)) == sorted(map(tuple, expected))


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=ON_CUDA)])
def test_pixels_kept_on_a_device_are_those_on_disk(photographs: TrainingSet, name: str) -> None:
    rows = np.array([20, 3, 7, 12, 25])
    size_bytes = 5 * PHOTO_PX**2 * 3
    budgets, device = (size_bytes, size_bytes - 1), torch.device(name)
    kept, on_disk = (StoredPixels(photographs, rows, device, budget) for budget in budgets)
    for some, crops in (
        (rows, None),
        (rows[1:3], None),
        (np.sort(rows), Crops.draw(5, PHOTO_PX, 17, np.random.default_rng(2))),
    ):
        images, labels, _ = kept.read(some, crops)
        expected_images, expected_labels, _ = on_disk.read(some, crops)
        assert isinstance(images, torch.Tensor)
        assert isinstance(expected_images, np.ndarray)
        assert (images.dtype, images.device.type) == (torch.uint8, name)
        assert np.array_equal(images.cpu().numpy(), expected_images)
        assert np.array_equal(labels, expected_labels)


def test_fresh_samples_are_the_same_bytes_from_any_number_of_processes(
    fresh: TrainParams, photographs: TrainingSet
) -> None:
    here = list(opened(fresh, photographs, first_epoch=3)[1])
    there = list(opened(fresh, photographs, WorkerProcesses(2, 3, 120.0), 3)[1])
    for batch, other in zip(here, there, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(batch, other, strict=True))


def test_an_epoch_has_as_many_fresh_samples_as_requested_each_made_once_of_clean_images_equally_often(
    fresh: TrainParams, photographs: TrainingSet
) -> None:
    images, labels = epoch_of(with_values(fresh, samples_per_epoch=30), photographs, 1)
    assert images.shape == (30, CROP_PX, CROP_PX, 3)
    assert (labels.shape, labels.dtype) == ((30, 4), np.float32)
    assert 0 <= labels.min() < labels.max() <= 1
    assert len({image.tobytes() for image in images}) == 30
    recorder = Recorder()
    epoch_of(with_values(fresh, samples_per_epoch=20), photographs, 1, recorder)
    counts = Counter(recorder.image_ids)
    assert set(counts) == {str(number) for number in range(8)}  # the images of the train split
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_sample_that_is_used_again_is_mirrored_or_not_and_keeps_its_labels_and_its_map(
    fresh: TrainParams, photographs: TrainingSet
) -> None:
    sizes, batches = opened(with_values(fresh, uses_per_sample=3), photographs)
    epoch = list(islice(batches, len(sizes)))
    batches.close()
    assert sizes == [4, 4, 4] * 3
    made: dict[bytes, tuple[bytes, bytes]] = {}
    for images, labels, maps in epoch[:3]:
        for image, label, cells in zip(images, labels, maps, strict=True):
            made[image.tobytes()] = label.tobytes(), cells.tobytes()
            turned = np.ascontiguousarray(image[:, ::-1])
            made[turned.tobytes()] = label.tobytes(), np.ascontiguousarray(cells[:, ::-1]).tobytes()
    for use in (epoch[3:6], epoch[6:]):
        found = [
            (made[image.tobytes()], (label.tobytes(), cells.tobytes()))
            for images, labels, maps in use
            for image, label, cells in zip(images, labels, maps, strict=True)
        ]
        assert all(expected == got for expected, got in found)
        assert len(found) == 12
    assert not np.array_equal(epoch[3][0], epoch[6][0])


def test_fresh_samples_need_the_images_table(fresh: TrainParams, photographs: TrainingSet) -> None:
    rows = photographs.indices("train")
    stored = StoredPixels(photographs, rows, CPU, 0)
    with pytest.raises(TrainingError, match="images table"):
        open_batches(fresh, photographs, rows, stored, InThisProcess(), 1, images=None, limits=None)


def test_a_batch_that_cannot_be_made_stops_training(fresh: TrainParams, photographs: TrainingSet) -> None:
    with pytest.raises(TrainingError, match="fresh samples") as caught:
        epoch_of(fresh, photographs, 1, Recorder(Failure("worker_died")))
    assert "memory" in caught.value.remedy


def test_samples_that_the_dataset_lacks_are_refused(
    stored: TrainParams, fresh: TrainParams, photographs: TrainingSet, tmp_path: Path
) -> None:
    columns = {"split": ["train"], "image_id": ["a"], "is_clean": [False], "profile": ["calibrated"]}
    soft = write_dataset(tmp_path, np.zeros((1, 40, 40, 3), np.uint8), np.ones((1, 4), np.float32), columns)
    with pytest.raises(TrainingError, match="No image of the train split is clean"):
        next(opened(fresh, soft)[1])
    soft.train_samples = "fresh"
    with pytest.raises(TrainingError, match="it lacks most samples"):
        next(opened(stored, soft)[1])


@pytest.mark.parametrize("side_px", [32, 64])
def test_a_variation_keeps_sharp_edges_sharp_greys_grey_and_its_input_as_it_is(side_px: int) -> None:
    """Shrunk, an edge has at most two pixels between black and white; enlarged, it would have more."""
    edge = np.zeros((64, 64, 3), dtype=np.uint8)
    edge[:, 31:] = 255
    edge.setflags(write=False)
    seen = 0
    for number in NUMBERS:
        image = vary(edge, side_px, 64, Stream(f"{number}"))
        assert image.shape == (side_px, side_px, 3)
        assert image.dtype == np.uint8
        assert np.array_equal(image, np.repeat(image[..., :1], 3, axis=2))
        for lines in (image[..., 1], image[..., 1].T):
            between = ((lines > 0) & (lines < 255)).sum(axis=1)
            if lines.min(axis=1).max() == 0 and lines.max(axis=1).min() == 255:  # lines across the edge
                seen += 1
                assert between.max() <= 2
    assert seen > len(NUMBERS) / 2


def test_variations_are_many_the_same_for_the_same_stream_and_seldom_black_and_white(photo: Pixels) -> None:
    clean = photo[:64, 200:264]
    varied = [vary(clean, 48, 64, Stream(f"{number}")) for number in range(300)]

    assert len({image.tobytes() for image in varied}) > 0.9 * len(varied)
    assert np.array_equal(vary(clean, 48, 64, Stream("7")), varied[7])
    grey = sum(bool(np.all(image == image[..., :1])) for image in varied)
    assert 0.04 * len(varied) < grey < 0.15 * len(varied)
