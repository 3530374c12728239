"""The generation: the same bytes whatever the workers, whole groups, and nothing half made."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import psutil
import pytest

from quality_model.core import storage
from quality_model.core.decoding import resize
from quality_model.core.storage import MARKER_NAME
from quality_model.data.training_set.generate import generate
from quality_model.data.training_set.store import TrainingSet
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.errors import IncompleteError, QualityModelError, SourceError, StorageError
from quality_model.records import HEADS, SPLITS

from .conftest import hashes, unfinished

PROJECT = Path(__file__).resolve().parents[3]
generate_module = import_module("quality_model.data.training_set.generate")

SCRIPT = """
import resource, sys
from pathlib import Path
from quality_model.errors import QualityModelError
from quality_model.params_file import load_params
from quality_model.data.training_set.generate import generate

if __name__ == "__main__":
    images, output, workers, largest_file = sys.argv[1:]
    params = load_params(Path("params.yaml"), {"generate.workers": int(workers), "generate.image_size": 224,
                                               "generate.samples_per_image": 20})
    if int(largest_file):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_file), int(largest_file)))
    try:
        generate(params.generate, params.limits, Path(images), Path(output))
    except QualityModelError as error:
        sys.exit(str(error))
"""


def start(images: Path, output: Path, *, workers: int = 1, largest_file: int = 0) -> subprocess.Popen[str]:
    """Generate in a process of its own, slowly enough to be stopped on the way."""
    command = [sys.executable, "-c", SCRIPT, images, output, str(workers), str(largest_file)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(condition, *, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_every_image_gives_itself_and_its_degraded_samples(made, crops) -> None:
    training_set = TrainingSet.open(made[0])
    manifest = training_set.manifest

    assert len(training_set) == 24 * 6
    assert manifest["sample_id"].tolist() == [
        f"image/{image:04d}#{number:02d}" for image in range(24) for number in range(6)
    ]
    for image, crop in enumerate(crops):
        assert np.array_equal(training_set.images[6 * image], resize(crop, 32))
        assert not training_set.labels[6 * image].any()
    assert set(manifest["profile"]) == {"seed"}


def test_a_row_of_the_manifest_tells_how_its_pixels_were_made(made, crops) -> None:
    training_set = TrainingSet.open(made[0])

    for index, row in training_set.manifest.iterrows():
        if index % 6 == 0:
            continue
        clean = resize(crops[index // 6], 32)
        sample = PROFILES["seed"].degrade(clean, SampleRandomness(42, row["sample_id"]))
        assert np.array_equal(training_set.images[index], sample.image)
        assert np.array_equal(training_set.labels[index], np.float32(sample.labels))
        assert row["is_clean"] == (not sample.applied)
        applied = {degradation.head: degradation for degradation in sample.applied}
        for head in HEADS:
            if head in applied:
                assert row[f"{head}_kind"] == applied[head].kind
                assert json.loads(row[f"{head}_parameters"]) == applied[head].parameters
                assert row[f"{head}_position"] == applied[head].position
                assert row[f"{head}_label"] == np.float32(applied[head].label)
            else:
                assert row[[f"{head}_kind", f"{head}_parameters", f"{head}_position"]].isna().all()
                assert row[f"{head}_label"] == 0


def test_the_statistics_of_a_row_are_those_of_its_pixels(made) -> None:
    training_set = TrainingSet.open(made[0])

    grey = training_set.images[:] @ np.array([0.299, 0.587, 0.114]) / 255
    assert np.allclose(training_set.manifest["mean_brightness"], grey.mean(axis=(1, 2)), atol=2e-3)
    assert np.allclose(training_set.manifest["brightness_std"], grey.std(axis=(1, 2)), atol=2e-3)
    recorded = training_set.manifest["pixels_sha256"]
    assert len(set(recorded)) > 0.7 * len(recorded)
    assert recorded.str.fullmatch("[0-9a-f]{64}").all()


def test_a_group_never_stands_on_two_sides_of_the_split(made) -> None:
    manifest = TrainingSet.open(made[0]).manifest

    assert manifest.groupby("group")["split"].nunique().max() == 1
    assert set(manifest["split"]) == set(SPLITS)
    assert manifest["group"].nunique() == 12


def test_the_summary_counts_what_is_in_the_files(made) -> None:
    folder, summary = made
    training_set = TrainingSet.open(folder)
    manifest = training_set.manifest

    assert summary["samples"] == len(training_set) == training_set.marker["rows"]
    assert summary["images"] == 24
    assert summary["skipped_images"] == 0
    assert summary["groups"] == {"train": 8, "validation": 2, "test": 2}
    assert summary["samples_per_split"] == {split: (manifest["split"] == split).sum() for split in SPLITS}
    assert summary["clean_share"] == pytest.approx(manifest["is_clean"].mean())
    for column, head in enumerate(HEADS):
        assert summary["label_means"][head] == pytest.approx(training_set.labels[:, column].mean(), abs=1e-6)
        assert summary["label_variances"][head] == pytest.approx(
            training_set.labels[:, column].var(), abs=1e-6
        )
        assert summary["kinds"][head] == manifest[f"{head}_kind"].value_counts().to_dict()


def test_the_marker_says_what_was_asked_and_of_which_images(made, images) -> None:
    marker = TrainingSet.open(made[0], verify=True).marker

    assert marker["params"]["seed"] == 42
    assert "workers" not in marker["params"]
    assert marker["profile"] == "seed"
    assert marker["image_size_px"] == 32
    assert marker["images_sha256"] == storage.require_sealed(images)["sha256"]
    assert marker["expected_clean_share"] == pytest.approx(1 / 6 + 5 / 6 * 0.2)


def test_the_bytes_do_not_depend_on_the_number_of_workers(made, images, section, limits, tmp_path) -> None:
    generate(section(workers=2), limits, images, tmp_path / "training")

    assert hashes(tmp_path / "training") == hashes(made[0])


def test_a_sample_does_not_depend_on_the_other_images_of_the_table(
    made, crops, write_images, section, limits, tmp_path
) -> None:
    fewer = write_images(tmp_path / "images", crops[:6])
    generate(section(), limits, fewer, tmp_path / "training")

    few, many = TrainingSet.open(tmp_path / "training"), TrainingSet.open(made[0])
    assert np.array_equal(few.images, many.images[:36])
    assert np.array_equal(few.labels, many.labels[:36])


def test_another_seed_gives_other_samples_of_the_same_clean_images(
    made, images, section, limits, tmp_path
) -> None:
    generate(section(seed=43), limits, images, tmp_path / "training")

    other, first = TrainingSet.open(tmp_path / "training"), TrainingSet.open(made[0])
    assert np.array_equal(other.images[::6], first.images[::6])
    assert not np.array_equal(other.labels, first.labels)
    assert other.data_sha256 != first.data_sha256


def test_unreadable_images_are_left_out_and_counted(crops, write_images, section, limits, tmp_path) -> None:
    table = write_images(
        tmp_path / "images", [*crops[:9], b"<html>"], reasons={2: "truncated", 9: "not_an_image"}
    )
    summary = generate(section(), limits, table, tmp_path / "training")

    assert summary["images"] == 8
    assert summary["skipped_images"] == 2
    names = TrainingSet.open(tmp_path / "training").manifest["image_id"].unique()
    assert "image/0002" not in names
    assert len(names) == 8


def test_an_image_of_one_pixel_and_an_all_black_one_give_samples_too(
    write_images, section, limits, tmp_path
) -> None:
    one_pixel = np.array([[[10, 200, 30]]], dtype=np.uint8)
    line = np.full((1, 300, 3), 90, dtype=np.uint8)
    black = np.zeros((40, 40, 3), dtype=np.uint8)
    table = write_images(tmp_path / "images", [one_pixel, line, black], per_group=1)
    generate(section(), limits, table, tmp_path / "training")

    training_set = TrainingSet.open(tmp_path / "training")
    assert np.all(training_set.images[0] == one_pixel)
    assert not training_set.images[12].any()
    assert np.isfinite(training_set.manifest["brightness_std"]).all()


def test_images_without_a_readable_one_are_a_clear_error(
    crops, write_images, section, limits, tmp_path
) -> None:
    table = write_images(tmp_path / "images", crops[:1], reasons={0: "truncated"})

    with pytest.raises(SourceError, match="no readable image"):
        generate(section(), limits, table, tmp_path / "training")
    assert not (tmp_path / "training").exists()


def test_too_few_groups_are_a_clear_error_before_any_work(
    crops, write_images, section, limits, tmp_path
) -> None:
    table = write_images(tmp_path / "images", crops[:4])

    with pytest.raises(SourceError, match=r"2 group\(s\)"):
        generate(section(), limits, table, tmp_path / "training")
    assert not (tmp_path / "training").exists()


def test_images_that_are_not_there_are_a_clear_error(section, limits, tmp_path) -> None:
    with pytest.raises(IncompleteError, match="not complete"):
        generate(section(), limits, tmp_path / "images", tmp_path / "training")


def test_an_output_that_is_a_file_is_a_clear_error(images, section, limits, tmp_path) -> None:
    (tmp_path / "training").write_text("in the way")

    with pytest.raises(StorageError, match="training"):
        generate(section(), limits, images, tmp_path / "training")
    assert (tmp_path / "training").read_text() == "in the way"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_does_not_decode_stops_the_run_by_name_and_keeps_the_earlier_set(
    workers, made, crops, write_images, section, limits, tmp_path
) -> None:
    output = tmp_path / "training"
    shutil.copytree(made[0], output)
    table = write_images(tmp_path / "images", [*crops[:11], b"GIF89a, or so it says"])

    with pytest.raises(SourceError, match="image/0011"):
        generate(section(workers=workers), limits, table, output)
    assert hashes(output) == hashes(made[0])


def test_a_stricter_limit_on_pixels_is_told_with_its_remedy(images, section, limits, tmp_path) -> None:
    strict = limits.model_copy(update={"max_pixels": 100})

    with pytest.raises(SourceError, match="too_many_pixels") as caught:
        generate(section(), strict, images, tmp_path / "training")
    assert "limits" in caught.value.remedy
    assert not (tmp_path / "training").exists()
    assert not unfinished(tmp_path / "training").exists()


def test_a_new_set_replaces_an_earlier_one_of_another_size(made, images, section, limits, tmp_path) -> None:
    output = tmp_path / "training"
    shutil.copytree(made[0], output)
    generate(section(image_size=40, samples_per_image=1), limits, images, output)

    training_set = TrainingSet.open(output, verify=True)
    assert training_set.images.shape == (48, 40, 40, 3)


def test_a_killed_run_leaves_no_marker_and_no_process_and_the_next_run_is_whole(
    made, images, section, limits, tmp_path
) -> None:
    output = tmp_path / "training"
    process = start(images, output, workers=2)
    family = psutil.Process(process.pid)

    def pixels_are_written() -> bool:
        assert process.poll() is None, process.stderr.read()
        return len(family.children()) >= 2 and any(
            path.stat().st_blocks for path in unfinished(output).glob("images.npy")
        )

    wait_for(pixels_are_written)
    children = family.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert not (output / MARKER_NAME).exists()
    with pytest.raises(IncompleteError):
        TrainingSet.open(output)
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    generate(section(), limits, images, output)
    assert hashes(output) == hashes(made[0])


def test_a_full_disk_is_told_as_such_and_leaves_nothing(images, tmp_path) -> None:
    output = tmp_path / "training"
    process = start(images, output, largest_file=1_000_000)
    _, message = process.communicate(timeout=60)

    assert process.returncode == 1
    assert message.startswith("No space is left for")
    assert "images.npy" in message
    assert "Traceback" not in message
    assert not output.exists()
    assert not unfinished(output).exists()


@contextmanager
def sent_to_workers(number: signal.Signals, most: int) -> Iterator[None]:
    """As soon as there are worker processes of this one, wherever they stand, some of them get a signal."""
    stop = threading.Event()

    def send() -> None:
        reached: set[int] = set()
        while len(reached) < most and not stop.wait(0.01):
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):
                    is_worker = any("spawn_main" in part for part in child.cmdline())
                    if is_worker and child.pid not in reached and len(reached) < most:
                        child.send_signal(number)
                        reached.add(child.pid)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


def test_a_worker_that_dies_is_noticed_and_told(images, section, limits, tmp_path) -> None:
    with (
        sent_to_workers(signal.SIGKILL, 1),
        pytest.raises(QualityModelError, match="worker processes died") as caught,
    ):
        generate(section(workers=2, samples_per_image=50), limits, images, tmp_path / "training")
    assert "generate.workers" in caught.value.remedy
    assert not (tmp_path / "training" / MARKER_NAME).exists()


def test_workers_that_hang_are_noticed_told_and_ended(images, section, limits, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(generate_module, "_START_WITHIN_S", 2.0)
    monkeypatch.setattr(generate_module, "_SAMPLE_WITHIN_S", 0.0)
    hasty = limits.model_copy(update={"max_seconds": 0.1})
    with sent_to_workers(signal.SIGSTOP, 2), pytest.raises(QualityModelError, match="silent for") as caught:
        generate(section(workers=2, samples_per_image=50), hasty, images, tmp_path / "training")
    assert "limits.max_seconds" in caught.value.remedy
    assert not (tmp_path / "training" / MARKER_NAME).exists()
    wait_for(lambda: not active_children())


def test_a_worker_that_hangs_before_it_begins_costs_nothing(
    made, images, section, limits, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(generate_module, "_END_WITHIN_S", 0.2)
    with sent_to_workers(signal.SIGSTOP, 1):
        generate(section(workers=2), limits, images, tmp_path / "training")
    assert hashes(tmp_path / "training") == hashes(made[0])
