"""Fine-tuning on images that a person called good or bad."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.core.views import SQUEEZED, ViewRecipe
from quality_model.data.dataset import TrainingSet
from quality_model.errors import UsageError
from quality_model.networks.model import LoadedModel, load_model, save_model
from quality_model.params import Params, TrainParams
from quality_model.train import train
from quality_model.train.own_labels import OwnLabels, near_duplicates, open_own_labels, split_labels

from .conftest import SIZE_PX, FinishedRun, assert_same_bits, interrupt, with_values

CPU = torch.device("cpu")
Open = Callable[..., OwnLabels]


def unlike(count: int) -> list[int]:
    """Hashes of images that are no near duplicates."""
    return [int(one) for one in np.random.default_rng(4).integers(-(2**63), 2**63 - 1, count)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images that are bad where they are green, which no head looks at, and labels.csv."""
    folder = tmp_path_factory.mktemp("labelled")
    generator = np.random.default_rng(1)
    lines = ["key,head,label"]
    for number in range(24):
        is_bad = number % 2
        pixels = generator.integers(60, 120, (4, 4, 3))
        pixels[..., 1] += 100 * is_bad
        large = Image.fromarray(pixels.astype(np.uint8)).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
        large.save(folder / f"{number}.png")
        lines.append(f"{number}.png,noise,{'bad' if is_bad else 'good'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def own(labelled: Path, params: Params) -> Open:
    def opened(labels: Path = labelled / "labels.csv", recipe: ViewRecipe = SQUEEZED) -> OwnLabels:
        return open_own_labels(labels, labelled, params.limits, size_px=SIZE_PX, recipe=recipe)

    return opened


@pytest.fixture(scope="module")
def start(undisturbed: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("start")
    save_model(folder, undisturbed.trained.model, image_size_px=SIZE_PX, views=SQUEEZED, facts={})
    return load_model(folder, CPU)


@pytest.mark.parametrize("is_inverted", [False, True])
def test_a_fine_tuning_learns_either_order_and_says_how_well_before_and_after(
    own: Open,
    labelled: Path,
    start: LoadedModel,
    training_set: TrainingSet,
    section: TrainParams,
    tmp_path: Path,
    is_inverted: bool,
) -> None:
    text = (labelled / "labels.csv").read_text()
    if is_inverted:
        text = text.replace("bad", "?").replace("good", "bad").replace("?", "good")
    (tmp_path / "labels.csv").write_text(text)
    labels = own(tmp_path / "labels.csv")
    longer = with_values(section, epochs=20, patience=20, dropout=0.0)
    tuned = train(longer, training_set, tmp_path / "tuned", start=start, own=labels).model
    found = labels.compare(start, tuned, CPU)["noise"]
    assert found.after >= 0.9
    assert (found.num_train, found.num_good, found.num_bad) == (14, 5, 5)
    assert found.low <= found.after <= found.high
    assert "before, on 5 good and 5 bad images held out" in found.line()


def test_an_interrupted_fine_tuning_ends_with_the_weights_of_an_undisturbed_one(
    own: Open, start: LoadedModel, training_set: TrainingSet, section: TrainParams, tmp_path: Path
) -> None:
    labels = own()
    whole = train(section, training_set, tmp_path / "whole", start=start, own=labels)
    interrupt(section, training_set, tmp_path / "halves", after=1, start=start, own=labels)
    resumed = train(section, training_set, tmp_path / "halves", start=start, own=labels)
    assert resumed.resumed_from_epoch == 1
    assert_same_bits(whole, resumed)
    without = train(section, training_set, tmp_path / "halves", start=start)
    assert without.resumed_from_epoch == 0 and without.fingerprint != whole.fingerprint


def test_a_third_of_each_side_is_held_out_at_least_five_and_the_same_each_time() -> None:
    keys = [f"{number}.jpg" for number in range(90)]
    labels = {"noise": {key: place < 60 for place, key in enumerate(keys)}}
    hashes = dict(zip(keys, unlike(90), strict=True))
    train_on, held_out = split_labels(labels, hashes)
    assert [len(side) for side in held_out["noise"]] == [10, 20]
    assert [len(side) for side in train_on["noise"]] == [20, 40]
    assert not {*chain(*train_on["noise"])} & {*chain(*held_out["noise"])}
    few = {"noise": {key: place < 10 for place, key in enumerate(keys[:20])}}
    assert [len(side) for side in split_labels(few, hashes)[1]["noise"]] == [5, 5]
    assert split_labels(labels, hashes) == (train_on, held_out)


def test_an_image_is_on_one_side_for_all_its_heads_and_near_duplicates_stay_together() -> None:
    keys = [f"{number}.jpg" for number in range(60)]
    hashes = dict(zip(keys, [one ^ twin for one in unlike(30) for twin in (0, 3)], strict=True))
    labels = {
        "noise": {key: number % 4 < 2 for number, key in enumerate(keys)},
        "watermark": {key: number % 4 >= 2 for number, key in enumerate(keys)},
    }
    train_on, held_out = split_labels(labels, hashes)
    held = {*chain(*held_out["noise"])}
    assert held == {*chain(*held_out["watermark"])}
    assert all(
        (first in held) == (second in held) for first, second in zip(keys[::2], keys[1::2], strict=True)
    )
    assert train_on["noise"][0] == train_on["watermark"][1]


def test_near_duplicates_form_chains() -> None:
    first = 2**32 - 1
    hashes = {"a": first, "b": first ^ (2**8 - 1), "c": first ^ (2**16 - 1), "d": -1}
    assert near_duplicates(hashes) == [["a", "b", "c"], ["d"]]
    assert near_duplicates({}) == []


def test_plain_images_are_near_duplicates_only_if_they_are_one_file() -> None:
    hashes = {"a": 0, "b": 0, "c": 1, "d": 2**15 - 1}
    assert near_duplicates(hashes) == [["a"], ["b"], ["c"], ["d"]]
    files = {"a": b"1", "b": b"2", "c": b"1", "d": b"3"}
    assert near_duplicates(hashes, files) == [["a", "c"], ["b"], ["d"]]


def test_labels_that_cannot_be_trained_on_are_refused(own: Open, labelled: Path, tmp_path: Path) -> None:
    text = (labelled / "labels.csv").read_text()
    (labelled / "torn.png").write_bytes(b"no image")
    for more, message in (
        ("\nabsent.png,noise,bad", "absent.png"),
        ("\ntorn.png,noise,bad", "torn.png"),
        ("\n../up.png,noise,bad", "outside_folder"),
        ("\n0.png,watermark,bad", "watermark: 0 good and 1 bad images are too few"),
    ):
        (tmp_path / "labels.csv").write_text(text + more)
        with pytest.raises(UsageError, match=message):
            own(tmp_path / "labels.csv")
    same = {"noise": {f"{number}.png": number % 2 == 1 for number in range(24)}}
    with pytest.raises(UsageError, match="near duplicates leave too few"):
        split_labels(same, dict.fromkeys(same["noise"], 2**20 - 1))


def test_a_pair_is_the_same_each_time_and_changes_no_statistics_of_the_network(
    own: Open, start: LoadedModel, photo: Pixels
) -> None:
    labels = own()
    head, images = labels.pair(seed=1, epoch=1, step=1)
    assert head == "noise" and [len(shown) for shown in images] == [1, 1]
    assert labels.pair(1, 1, 1)[1][0][0].tobytes() == images[0][0].tobytes()
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    loss = labels.loss(start.model, CPU, 1, 1, 1)
    assert loss.requires_grad and start.model.training
    start.model.eval()
    assert all(torch.equal(value, before[name]) for name, value in start.model.state_dict().items())
