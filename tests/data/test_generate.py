"""The generation: what a dataset contains, and that its bytes do not depend on how it was made."""

import json
import logging
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from quality_model.core.views import squeezed as resize
from quality_model.data.dataset import TrainingSet
from quality_model.data.generate import CALIBRATION_SAMPLES, generate
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.degrade.severity import SCALES
from quality_model.errors import IncompleteError, SourceError
from quality_model.records import HEADS, SPLITS

from .conftest import hashes, unfinished, write_table


def test_every_image_gives_itself_and_its_degraded_samples(made, crops) -> None:
    dataset = TrainingSet.open(made[0])
    manifest = dataset.manifest

    assert manifest["sample_id"].tolist() == [
        f"image/{image:04d}#{number:02d}" for image in range(24) for number in range(6)
    ]
    assert manifest["is_clean"].tolist() == [number == 0 for _ in range(24) for number in range(6)]
    for image, crop in enumerate(crops):
        assert np.array_equal(dataset.images[6 * image], resize(crop, 32))
        assert not dataset.labels[6 * image].any()
    assert set(manifest["profile"]) == {"seed"}
    assert manifest.groupby("group")["split"].nunique().max() == 1
    assert manifest["group"].nunique() == 12
    assert set(manifest["split"]) == set(SPLITS)
    assert manifest.groupby("split")["group"].nunique().to_dict() == {"test": 2, "train": 8, "validation": 2}
    assert (made[1].samples, made[1].images, made[1].skipped_images) == (144, 24, 0)


def test_a_row_of_the_manifest_says_how_its_pixels_were_made(made, crops) -> None:
    dataset = TrainingSet.open(made[0])

    for index, row in dataset.manifest.iterrows():
        if index % 6 == 0:
            continue
        clean = resize(crops[index // 6], 32)
        sample = PROFILES["seed"].degrade(clean, SampleRandomness(42, row["sample_id"]))
        assert np.array_equal(dataset.images[index], sample.image)
        assert np.array_equal(dataset.labels[index], np.float32(sample.labels))
        assert dataset.is_untouched[index] == (not sample.applied)
        applied = {degradation.head: degradation for degradation in sample.applied}
        for head, label in zip(HEADS, sample.labels, strict=True):
            assert row[f"{head}_label"] == np.float32(label)
            if head in applied:
                assert row[f"{head}_kind"] == applied[head].kind
                assert json.loads(row[f"{head}_parameters"]) == applied[head].parameters
                assert row[f"{head}_position"] == applied[head].position
            else:
                assert row[[f"{head}_kind", f"{head}_parameters", f"{head}_position"]].isna().all()


def test_the_statistics_of_a_row_are_those_of_its_pixels(made) -> None:
    dataset = TrainingSet.open(made[0])
    grey = dataset.images[:] @ np.array([0.299, 0.587, 0.114]) / 255
    assert np.allclose(dataset.manifest["mean_brightness"], grey.mean(axis=(1, 2)), atol=2e-3)
    assert np.allclose(dataset.manifest["brightness_std"], grey.std(axis=(1, 2)), atol=2e-3)


def test_the_bytes_do_not_depend_on_the_number_of_workers(table, section, limits, tmp_path) -> None:
    for workers in (1, 2):
        made = section(profile="calibrated", workers=workers, samples_per_image=2)
        generate(made, limits, table, tmp_path / f"{workers}")
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")


def test_a_sample_does_not_depend_on_the_other_images_of_the_table(
    made, crops, section, limits, tmp_path
) -> None:
    generate(section(), limits, write_table(tmp_path / "images", crops[:6]), tmp_path / "training")
    few, many = TrainingSet.open(tmp_path / "training"), TrainingSet.open(made[0])
    assert np.array_equal(few.images, many.images[:36])
    assert np.array_equal(few.labels, many.labels[:36])


def test_for_fresh_samples_most_degraded_samples_of_the_train_split_are_left_out(
    crops, section, limits, tmp_path
) -> None:
    per_image = CALIBRATION_SAMPLES // 4  # whole images: four of the train split have their samples
    table = write_table(tmp_path / "images", crops[:12])
    asked = section(samples_per_image=per_image, image_size=32)
    generate(asked, limits, table, tmp_path / "stored")
    generate(asked, limits, table, tmp_path / "fresh", train_samples="fresh")
    stored, fresh = TrainingSet.open(tmp_path / "stored"), TrainingSet.open(tmp_path / "fresh")

    rows = stored.manifest.reset_index().set_index("sample_id").loc[fresh.manifest["sample_id"], "index"]
    assert np.array_equal(fresh.images, stored.images[rows])
    assert np.array_equal(fresh.labels, stored.labels[rows])
    for split in ("validation", "test"):
        assert len(fresh.indices(split)) == len(stored.indices(split))
    train = fresh.manifest.iloc[fresh.indices("train")]
    assert train["is_clean"].sum() == train["image_id"].nunique() == 8
    assert len(train) == 8 + CALIBRATION_SAMPLES
    assert len(fresh.representative("train")) == 4 + CALIBRATION_SAMPLES
    assert np.array_equal(stored.representative("train"), stored.indices("train"))


def test_unreadable_images_are_left_out_and_counted(crops, section, limits, tmp_path) -> None:
    codes = {2: "truncated", **dict.fromkeys(range(4, 8), "empty"), 9: "not_an_image"}
    table = write_table(tmp_path / "images", [*crops[:9], b"<html>", *crops[9:12]], error_codes=codes)
    summary = generate(section(), limits, table, tmp_path / "training")

    assert (summary.images, summary.skipped_images) == (7, 6)
    names = TrainingSet.open(tmp_path / "training").manifest["image_id"].unique()
    assert list(names) == [f"image/{number:04d}" for number in range(13) if number not in codes]


def test_an_image_of_one_pixel_and_a_black_one_give_samples_too(section, limits, tmp_path) -> None:
    one_pixel = np.array([[[10, 200, 30]]], dtype=np.uint8)
    line = np.full((1, 300, 3), 90, dtype=np.uint8)
    black = np.zeros((40, 40, 3), dtype=np.uint8)
    table = write_table(tmp_path / "images", [one_pixel, line, black], per_group=1)
    generate(section(), limits, table, tmp_path / "training")

    dataset = TrainingSet.open(tmp_path / "training")
    assert np.all(dataset.images[0] == one_pixel)
    assert not dataset.images[12].any()
    assert np.isfinite(dataset.manifest["brightness_std"]).all()


def test_unusable_images_are_an_error_before_any_work(crops, section, limits, tmp_path) -> None:
    output = tmp_path / "training"
    unreadable = write_table(tmp_path / "unreadable", crops[:1], error_codes={0: "truncated"})
    two_groups = write_table(tmp_path / "two", crops[:4])
    with pytest.raises(SourceError, match="no readable image"):
        generate(section(), limits, unreadable, output)
    with pytest.raises(SourceError, match=r"2 group\(s\)"):
        generate(section(), limits, two_groups, output)
    with pytest.raises(IncompleteError, match="not complete"):
        generate(section(), limits, tmp_path / "nowhere", output)
    assert not output.exists()


def test_an_image_that_does_not_decode_is_named_and_the_earlier_dataset_stays(
    made, crops, section, limits, tmp_path
) -> None:
    output = tmp_path / "training"
    shutil.copytree(made[0], output)
    table = write_table(tmp_path / "images", [*crops[:11], b"GIF89a, or so it says"])
    with pytest.raises(SourceError, match="image/0011"):
        generate(section(workers=2), limits, table, output)
    assert hashes(output) == hashes(made[0])


def test_a_stricter_limit_on_pixels_is_an_error_with_its_remedy_and_leaves_nothing(
    table, section, limits, tmp_path
) -> None:
    strict = limits.model_copy(update={"max_pixels": 100})
    with pytest.raises(SourceError, match="too_many_pixels") as caught:
        generate(section(), strict, table, tmp_path / "training")
    assert "limits" in caught.value.remedy
    assert not (tmp_path / "training").exists()
    assert not unfinished(tmp_path / "training").exists()


@contextmanager
def killing_a_worker() -> Iterator[None]:
    """Kill one worker process of this one as soon as there is one."""
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.01):
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):
                    if any("spawn_main" in part for part in child.cmdline()):
                        child.send_signal(signal.SIGKILL)
                        return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_worker_that_is_killed_is_replaced(made, table, section, limits, tmp_path) -> None:
    with killing_a_worker():
        generate(section(workers=2), limits, table, tmp_path / "training")
    assert hashes(tmp_path / "training") == hashes(made[0])


@pytest.mark.parametrize("profile", ["calibrated", "seed"])
def test_only_the_calibrated_profile_labels_images_that_are_soft_already(
    profile, photo, section, limits, tmp_path: Path, caplog
) -> None:
    large = [resize(photo[30 * n : 30 * n + 256, 20 * n : 20 * n + 256], 128) for n in range(6)]
    table = write_table(tmp_path / "images", [*large, *(resize(image, 32) for image in large)])
    with caplog.at_level(logging.WARNING):
        summary = generate(
            section(profile=profile, image_size=64, samples_per_image=3), limits, table, tmp_path / "training"
        )
    dataset = TrainingSet.open(tmp_path / "training")
    kept = dataset.manifest[::4]
    if profile == "seed":
        assert summary.soft_images == 0
        assert kept["is_clean"].all()
        assert not dataset.labels[::4].any()
        return
    assert summary.soft_images == 6
    assert "6 of 12 images are soft already, mostly because they were enlarged to 64 px" in caplog.text
    assert kept["is_clean"].tolist() == [True] * 6 + [False] * 6
    assert kept["blurriness_kind"].tolist()[6:] == ["soft_source"] * 6
    soft = dataset.manifest[dataset.manifest["image_id"] >= "image/0006"]
    at_least = SCALES["blurriness"].severity(float(soft["softness_px"].min()))
    assert at_least > 0.3
    assert dataset.labels[soft.index, 1].min() >= np.float32(at_least)


def test_the_manifest_says_how_samples_were_delivered(table, section, limits, tmp_path: Path) -> None:
    generate(section(profile="calibrated"), limits, table, tmp_path / "training")
    dataset = TrainingSet.open(tmp_path / "training")
    delivered = dataset.manifest["delivery"].map(json.loads)
    assert any(delivered[dataset.is_untouched])
    assert not any(delivered[dataset.manifest["is_clean"]])
    assert np.mean([bool(facts) for facts in delivered[1::6]]) > 0.7
    assert {"factor", "quality", "sampling", "scene"} <= {name for facts in delivered for name in facts}
