"""Thumbnails that are kept while scoring: which ones, what they show, and that images alone decide."""

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.core.views import HeadRule, ViewRecipe
from quality_model.params import Params
from quality_model.records import HEADS
from quality_model.score import sketches, thumbnails
from quality_model.score.sketches import order_of
from quality_model.score.summary import ScoreSummary
from quality_model.score.thumbnails import (
    MOST,
    NUM_NEAREST,
    NUM_RANDOM,
    NUM_WORST,
    Selections,
    read_thumbnails,
)

from .conftest import (
    IDENTITY,
    THRESHOLDS,
    Interrupted,
    MeanScorer,
    PerCoreScorer,
    bytes_of,
    encode,
    rows_of,
    runner,
)

NUM_IMAGES = 400
FILE = "report/thumbnails.parquet"
Run = Callable[..., ScoreSummary]


def expected(rows: pd.DataFrame) -> set[str]:
    """The keys of the chosen, worked out from all rows."""
    rows = rows[rows["error_code"].isna()].assign(order=rows["key"].map(order_of).astype(float))
    found = set(rows.nsmallest(NUM_RANDOM, "order")["key"])
    for head, limit in THRESHOLDS.items():
        scores = rows[head].astype(float)
        for values, count in ((-scores, NUM_WORST), ((scores - limit).abs(), NUM_NEAREST)):
            found |= set(rows.assign(value=values).sort_values(["value", "order"])["key"][:count])
    return found


def write_greys(folder: Path, count: int = NUM_IMAGES) -> Path:
    """Small images of few colours, so that many scores are equal, and two that cannot be read."""
    folder.mkdir()
    levels = np.random.default_rng(0).integers(0, 32, (count, 3)) * 8
    for number, level in enumerate(levels):
        path = folder / f"{number:03}.png"
        path.write_bytes(encode(np.full((12, 16, 3), level, np.uint8), "PNG"))
        os.utime(path, (1_000_000_000, 1_000_000_000))
    for name in ("cut.jpg", "none.jpg"):
        (folder / name).write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def greys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_greys(tmp_path_factory.mktemp("greys") / "images")


@pytest.fixture(scope="module")
def greys_scored(greys: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("greys-scored") / "scores"
    runner(params, output)(greys, shard_size=90, batch_size=16)
    return output


def test_the_worst_the_nearest_and_a_random_sample_are_kept_and_inputs_with_errors_are_not(greys_scored):
    found = read_thumbnails(greys_scored)
    assert set(found) == expected(rows_of(greys_scored))
    assert NUM_RANDOM < len(found) < min(MOST, NUM_IMAGES)
    assert all(key == one.key for key, one in found.items())
    assert not {"cut.jpg", "none.jpg"} & set(found)
    assert not (greys_scored / "thumbnails").exists()


@pytest.mark.parametrize(
    ("scorer", "workers", "shard_size"),
    [(MeanScorer, None, 1000), (MeanScorer, 2, 33), (PerCoreScorer, 2, 64)],
)
def test_neither_parts_nor_workers_nor_where_images_are_scored_decide(
    greys, greys_scored, run, tmp_path, scorer, workers, shard_size
):
    run(greys, scorer=scorer(), workers=workers, shard_size=shard_size)
    assert (tmp_path / "scores" / FILE).read_bytes() == (greys_scored / FILE).read_bytes()


@pytest.mark.parametrize("scorer", [MeanScorer, PerCoreScorer])
def test_the_key_of_an_image_is_hashed_once(greys, run, monkeypatch, scorer):
    hashed: Counter[str] = Counter()

    def counted(key: str) -> int:
        hashed[key] += 1
        return order_of(key)

    for module in (sketches, thumbnails):
        monkeypatch.setattr(module, "order_of", counted)
    run(greys, scorer=scorer(), workers=1, shard_size=90)
    assert len(hashed) == NUM_IMAGES + 2 and set(hashed.values()) == {1}


def test_a_job_that_is_interrupted_again_and_again_keeps_the_same(greys, greys_scored, run, tmp_path):
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(greys, shard_size=90, batch_size=16, scorer=Interrupted(8))
        assert (tmp_path / "scores" / "thumbnails").is_dir()
        assert read_thumbnails(tmp_path / "scores") == {}
    run(greys, shard_size=90, batch_size=16)
    assert bytes_of(tmp_path / "scores") == bytes_of(greys_scored)


def test_of_many_images_few_thumbnails_are_made_and_the_order_does_not_matter():
    keys = [f"{number}.jpg" for number in range(20_000)]
    scores = np.random.default_rng(1).random((len(keys), len(HEADS)), dtype=np.float32).round(3)
    found = []
    for rows in (range(len(keys)), reversed(range(len(keys)))):
        chosen, made = Selections(THRESHOLDS, [5] * 9), 0
        for row in rows:
            made += chosen.wanted(keys[row]).admits(scores[row])
            chosen.add(keys[row], "", scores[row], None)
        assert made < 9 * 5 * (1 + np.log(len(keys) / 5)) * 1.3
        found.append(chosen.chosen)
    assert found[0] == found[1]
    assert 0 < len(found[0]) <= 9 * 5


class NoiseScorer(MeanScorer):
    """Scores a view by the mean step between neighbours."""

    def score_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        steps = np.abs(np.diff(pixels.astype(np.float32), axis=2)).mean(axis=(1, 2, 3)) / 255
        return np.repeat(steps[:, None], len(HEADS), axis=1).astype(np.float32)


class NoiseEngine:
    name, is_portable = "ncnn-float32", True

    def scores(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return NoiseScorer().score_pixels(pixels)


class NoisePerCore(PerCoreScorer):
    engine = NoiseEngine()


RULES = {
    "noise": HeadRule(tiles=1.0, whole=0.0),
    "blurriness": HeadRule(tiles=0.0, whole=0.2),
    "watermark": HeadRule(tiles=0.0, highest=True),
    "color_cast": HeadRule(tiles=1.0, whole=0.5),
}
TILED = replace(
    IDENTITY, image_size_px=224, views=ViewRecipe(heads=RULES, max_tiles=6).model_dump(mode="json")
)


def corner_of_noise() -> Pixels:
    image = np.full((800, 1200, 3), 128, np.uint8)
    image[:] += np.linspace(0, 90, 1200).astype(np.uint8)[:, None]
    image[550:, 900:] = np.random.default_rng(0).integers(0, 256, (250, 300, 3))
    return image


@pytest.mark.parametrize("scorer", [NoiseScorer, NoisePerCore])
@pytest.mark.parametrize(("across", "down"), [(0, 0), (150, 60)])
def test_the_box_is_around_the_view_that_decided_in_the_whole_image(run, tmp_path, scorer, across, down):
    image = corner_of_noise()
    framed = np.zeros((800 + 2 * down, 1200 + 2 * across, 3), np.uint8)
    framed[down : down + 800, across : across + 1200] = image
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(encode(framed, "PNG"))
    run(tmp_path / "images", scorer=scorer(), model=TILED)
    thumbnail = read_thumbnails(tmp_path / "scores")["a.png"]
    height, width = framed.shape[:2]
    left, top, right, bottom = np.array(thumbnail.boxes["noise"]) * (width, height, width, height)
    assert (right, bottom) == pytest.approx(
        (across + 1200, down + 800), abs=1
    )  # to the corner, not the frame
    assert right - left == pytest.approx(bottom - top, abs=2)
    assert 200 < right - left < 300
    left, top, right, bottom = np.array(thumbnail.boxes["blurriness"]) * (width, height, width, height)
    assert right < across + 900 or bottom < down + 550  # the calmest tile
    assert thumbnail.boxes["watermark"] is None and thumbnail.boxes["color_cast"] is None
    shown = Image.open(io.BytesIO(thumbnail.jpeg))
    assert shown.format == "JPEG" and shown.size == (256, round(256 * height / width))
    small = np.asarray(shown.convert("L")).astype(float)
    assert (small[:, :8].mean() < 16) == (across > 0)  # with its borders
    assert small[-70:-30, -70:-30].std() > 3 * small[40:70, 90:110].std()


def test_a_thumbnail_is_upright_and_not_larger_than_its_image(run, tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255  # white on the left, at the top once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "images/turned.jpg", exif=exif, quality=95)
    Image.fromarray(pixels[:1]).save(tmp_path / "images/line.png")
    run(tmp_path / "images")
    found = read_thumbnails(tmp_path / "scores")
    turned = Image.open(io.BytesIO(found["turned.jpg"].jpeg))
    assert turned.size == (40, 60)
    assert np.asarray(turned)[:25].mean() > 200 and np.asarray(turned)[35:].mean() < 50
    assert Image.open(io.BytesIO(found["line.png"].jpeg)).size == (60, 1)


@pytest.fixture
def updated(params: Params, tmp_path: Path) -> Iterator[tuple[Path, Path, Run]]:
    """Images, their scores in parts of 90, and what scores them again."""
    folder, output = write_greys(tmp_path / "images", 300), tmp_path / "scores"
    run = runner(params, output)

    def score(**changes: object) -> ScoreSummary:
        return run(folder, shard_size=90, batch_size=16, **changes)

    score()
    yield folder, output, score


def test_an_update_shows_nothing_that_is_gone_or_changed_and_keeps_what_stays(updated):
    folder, output, score = updated
    before = read_thumbnails(output)
    for number in range(0, 60, 2):
        (folder / f"{number:03}.png").unlink()
        (folder / f"{number + 1:03}.png").write_bytes(encode(np.full((9, 9, 3), number, np.uint8), "PNG"))
        (folder / f"new-{number:03}.png").write_bytes(
            encode(np.full((9, 9, 3), 255 - number, np.uint8), "PNG")
        )
    with pytest.raises(KeyboardInterrupt):
        score(scorer=Interrupted(3))
    assert read_thumbnails(output) == before
    score()
    found, chosen = read_thumbnails(output), expected(rows_of(output))
    fresh = {f"{number + 1:03}.png" for number in range(0, 60, 2)} | {
        f"new-{number:03}.png" for number in range(0, 60, 2)
    }
    # Of images that are among the chosen now and were not before, there is nothing to show.
    assert set(found) == {key for key in chosen if key in before or key in fresh}
    assert {key for key in found if key not in fresh} <= set(before)
    for key, one in found.items():
        if key in fresh:
            shown = np.asarray(Image.open(io.BytesIO(one.jpeg))).mean()
            with Image.open(folder / key) as image:
                assert shown == pytest.approx(np.asarray(image).mean(), abs=2)
        else:
            assert one == before[key]
    marker = json.loads((output / "job.json").read_text())
    assert FILE in {entry["name"] for entry in marker["files"]}


def test_an_unfinished_job_whose_inputs_changed_keeps_those_of_the_rows_that_stay(run, tmp_path):
    folder, output = write_greys(tmp_path / "images", 100), tmp_path / "scores"
    with pytest.raises(KeyboardInterrupt):
        run(folder, shard_size=40, scorer=Interrupted(12))
    (folder / "000.png").unlink()
    run(folder, shard_size=40)
    run(folder, tmp_path / "fresh")
    assert len(read_thumbnails(output)) == 99
    assert (output / FILE).read_bytes() == (tmp_path / "fresh" / FILE).read_bytes()
    assert not (output / "thumbnails").exists()


def test_thumbnails_can_be_left_out_and_are_removed_where_they_are_not_to_be(updated, run, tmp_path):
    folder, output, score = updated
    assert read_thumbnails(output)
    score(thumbnails=False, scorer=Interrupted(0))
    assert read_thumbnails(output) == {} and not (output / FILE).exists()
    run(folder, tmp_path / "without", shard_size=90, batch_size=16, thumbnails=False)
    assert bytes_of(output) == bytes_of(tmp_path / "without")
    score(scorer=Interrupted(0))  # a result without them is complete
    assert read_thumbnails(output) == {}


def test_what_is_left_of_a_damaged_file_is_no_thumbnails(updated):
    _, output, _ = updated
    (output / FILE).write_bytes((output / FILE).read_bytes()[:-9])
    assert read_thumbnails(output) == {}


def test_another_job_in_the_folder_removes_the_thumbnails_of_the_earlier_one(updated):
    folder, output, score = updated
    for path in folder.glob("[0-9]*"):
        path.unlink()
    (folder / "000.png").write_bytes(encode(np.zeros((9, 9, 3), np.uint8), "PNG"))
    score(overwrite=True, model=replace(IDENTITY, version="4"))
    assert set(read_thumbnails(output)) == {"000.png"}
