"""The map to the scale of the champion before: thresholds keep their meaning from one model to the next."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_sample_images

from quality_model import Scorer, pretrained
from quality_model.cli import cli
from quality_model.core.decoding import Pixels
from quality_model.core.model_files import Description, read_model
from quality_model.core.onnx_file import write_onnx
from quality_model.core.scale import FEWEST_IMAGES, HeadScale, ScaleMap, fit_scale
from quality_model.core.views import SQUEEZED, ViewRecipe, squeezed
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.errors import CheckpointError, UsageError
from quality_model.networks.model import load_model, save_model
from quality_model.records import HEADS, Head
from quality_model.release.flavor import PyfuncModel
from quality_model.score.result import ScoringModel

Scores = np.ndarray
THRESHOLDS = np.arange(1, 7) / 10
SIDE_PX = 64
SHIFTS: Mapping[Head, float] = {"color_cast": -1.0, "blurriness": 0.7, "watermark": 1.0, "noise": -0.8}
"""Of the biases of the heads: another training's error, and that it is no better is not the question here."""


def spread(count: int, seed: int = 0) -> Scores:
    return np.random.default_rng(seed).beta(0.5, 1.5, (count, len(HEADS))).astype(np.float32)


def rates(scores: Scores) -> Scores:
    """The share above each threshold, (6, 4)."""
    return np.array([(scores > threshold).mean(axis=0) for threshold in THRESHOLDS])


def scores_of(scorer: Scorer, images: list[Pixels]) -> Scores:
    return np.array([[getattr(one, head) for head in HEADS] for one in scorer.predict_batch(images)])


@pytest.fixture(scope="module")
def images(photo: Pixels) -> list[Pixels]:
    """800 crops of 64 px of three photographs, every second one degraded."""
    photos, rng, profile = (
        [photo, *load_sample_images().images],
        np.random.default_rng(0),
        PROFILES["calibrated"],
    )
    made = []
    for number in range(800):
        whole = photos[number % 3]
        top, left = (rng.integers(0, length - SIDE_PX) for length in whole.shape[:2])
        crop = np.ascontiguousarray(whole[top : top + SIDE_PX, left : left + SIDE_PX])
        made.append(profile.degrade(crop, SampleRandomness(1, str(number))).image if number % 4 > 1 else crop)
    return made


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with other biases, which stands for a model of another training."""
    folder = tmp_path_factory.mktemp("shifted")
    loaded = load_model(pretrained.FOLDERS["bundled"], torch.device("cpu"))
    with torch.no_grad():
        for head, shift in SHIFTS.items():
            loaded.model.get_submodule(f"head_{head}")[-1].bias.add_(shift)
    save_model(folder, loaded.model, image_size_px=224, facts=loaded.facts, views=loaded.views)
    return folder


@pytest.fixture(scope="module")
def champion_scores(images: list[Pixels]) -> Scores:
    return scores_of(Scorer("bundled", "cpu"), images).astype(np.float32)


@pytest.fixture(scope="module")
def mapped(
    shifted: Path, images: list[Pixels], champion_scores: Scores, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same model with a map to the bundled one's scale, fitted on the first half of the images."""
    folder, half = tmp_path_factory.mktemp("mapped"), len(images) // 2
    loaded = load_model(shifted, torch.device("cpu"))
    own = scores_of(Scorer(shifted, "cpu"), images[:half]).astype(np.float32)
    scale = fit_scale(own, champion_scores[:half], "f" * 64)
    views = loaded.views.with_scale(scale)
    save_model(folder, loaded.model, image_size_px=224, facts=loaded.facts, views=views)
    return folder


def test_flag_rates_move_by_less_than_a_percent_from_one_model_to_the_next_and_by_more_without_the_map(
    mapped: Path, images: list[Pixels], champion_scores: Scores
) -> None:
    half = len(images) // 2
    before = rates(champion_scores[half:])
    after = rates(scores_of(Scorer(mapped, "cpu"), images[half:]))
    without = rates(scores_of(Scorer(mapped, "cpu", raw=True), images[half:]))
    assert np.abs(after - before).max() < 0.01
    assert (np.abs(without - before).max(axis=0) > 0.03).all()


def test_the_map_changes_no_order_and_keeps_to_its_range() -> None:
    ours, theirs = spread(500), spread(500, seed=1) ** 2
    scale = fit_scale(ours, theirs, "f" * 64)
    every = np.linspace(0, 1, 5001, dtype=np.float32)[:, None].repeat(len(HEADS), axis=1)
    found = scale.of(every)
    assert (np.diff(found, axis=0) > 0).all()
    assert (found.dtype, found.min(), found.max()) == (np.float32, 0.0, 1.0)
    assert scale.of(every[7]) == pytest.approx(found[7])
    for head in HEADS:
        back = scale.heads[head].undone(scale.heads[head].of(every[:, 0]))
        np.testing.assert_allclose(back, every[:, 0], atol=1e-6)


def test_scores_of_the_champion_itself_stay_as_they_are() -> None:
    ours = spread(4000)
    np.testing.assert_allclose(fit_scale(ours, ours, "f" * 64).of(ours), ours, atol=0.01)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("of_champion", [True, False], ids=["champion", "candidate"])
def test_a_model_that_gives_every_image_one_score_gets_a_map_all_the_same(
    value: float, of_champion: bool
) -> None:
    pair = [np.full((300, len(HEADS)), value, np.float32), spread(300)]
    scale = fit_scale(*(reversed(pair) if of_champion else pair), "f" * 64)
    ends = np.array([[0.0] * 4, [1.0] * 4], np.float32)
    np.testing.assert_array_equal(scale.of(ends), ends)


def test_few_images_are_refused_with_the_number_that_it_takes() -> None:
    few = spread(FEWEST_IMAGES - 1)
    with pytest.raises(UsageError, match=r"199 scored images are too few .* it takes 200"):
        fit_scale(few, few, "f" * 64)
    fit_scale(spread(FEWEST_IMAGES), spread(FEWEST_IMAGES), "f" * 64)


@pytest.mark.parametrize(
    ("scores", "to"),
    [
        ([0.0, 1.0], [0.0, 0.5, 1.0]),
        ([0.0, 0.5, 0.5, 1.0], [0.0, 0.2, 0.3, 1.0]),
        ([0.0, 0.5, 1.0], [0.0, 0.0, 1.0]),
        ([0.1, 1.0], [0.0, 1.0]),
        ([0.0, 1.0], [0.0, float("nan")]),
        ([], []),
    ],
)
def test_a_map_that_is_none_is_refused(scores: list[float], to: list[float]) -> None:
    with pytest.raises(ValidationError):
        HeadScale(scores=scores, to=to)


def test_a_models_files_keep_the_map_and_files_without_one_stay_as_they_were(
    mapped: Path, shifted: Path
) -> None:
    description = json.loads((mapped / "model.json").read_text())
    assert read_model(mapped).views.scale == ScaleMap.model_validate(description["views"]["scale"])
    assert read_model(mapped / "model.safetensors").views == read_model(mapped).views
    assert "scale" not in json.loads((shifted / "model.json").read_text())["views"]
    assert read_model(shifted).views.scale is None
    assert SQUEEZED.model_dump(mode="json") == ViewRecipe(squeezed=True, max_tiles=0).model_dump(mode="json")
    description["views"]["scale"]["heads"]["noise"]["to"][1] = 2.0
    with pytest.raises(CheckpointError, match=r"views\.scale\.heads\.noise\.to"):
        Description.read(description, mapped / "model.json")


def test_raw_scores_are_the_networks_own_with_thresholds_that_flag_the_same_and_another_version(
    mapped: Path, shifted: Path, images: list[Pixels]
) -> None:
    scorer, raw, own = Scorer(mapped, "cpu"), Scorer(mapped, "cpu", raw=True), Scorer(shifted, "cpu")
    few = images[:40]
    np.testing.assert_array_equal(scores_of(raw, few), scores_of(own, few))
    assert [one.flags for one in raw.predict_batch(few)] == [one.flags for one in scorer.predict_batch(few)]
    assert raw.thresholds != scorer.thresholds
    assert (scorer.scale_version, raw.scale_version) == ("1", "1-raw")
    assert Scorer(shifted, "cpu", raw=True).scale_version == "1"  # which has no map to leave out
    assert ScoringModel.of(scorer, intervals=True).intervals is not None
    with pytest.raises(UsageError, match="or for raw scores"):
        ScoringModel.of(raw, intervals=True)
    assert Scorer(mapped, "cpu", raw=True, thresholds={"noise": 0.3}).thresholds["noise"] == 0.3  # type: ignore[index]


def test_the_one_file_and_mlflow_give_scores_on_the_scale(
    mapped: Path, images: list[Pixels], tmp_path: Path
) -> None:
    scorer = Scorer(mapped, "cpu", views="whole", engine="torch-float32")
    wholes = np.stack([squeezed(pixels, 224) for pixels in images[398:404]])
    expected = scores_of(scorer, [*wholes])
    write_onnx(read_model(mapped), scorer.source, tmp_path / "quality.onnx")
    batch = wholes.transpose(0, 3, 1, 2).astype(np.float32) / 255
    (found,) = onnxruntime.InferenceSession(str(tmp_path / "quality.onnx")).run(["scores"], {"pixels": batch})
    np.testing.assert_allclose(found, expected, atol=1e-3)
    table = PyfuncModel(mapped).predict(wholes)
    np.testing.assert_array_equal(table[[*HEADS]], scores_of(Scorer(mapped, "cpu"), [*wholes]))
    assert not np.allclose(
        scores_of(Scorer(mapped, "cpu", views="whole", raw=True), [*wholes]), expected, atol=0.02
    )


def test_results_say_which_scale_they_are_on_and_never_mix_two(
    mapped: Path, images: list[Pixels], tmp_path: Path
) -> None:
    folder, output = tmp_path / "images", tmp_path / "scores"
    folder.mkdir()
    for number, pixels in enumerate(images[400:406]):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    command = ["score", str(folder), "--output", str(output), "--model", str(mapped), "--no-project"]
    for raw, version in ((False, "1"), (True, "1-raw")):
        options = ["--raw", "--overwrite"] if raw else []
        done = CliRunner().invoke(cli, [*command, *options])
        assert done.exit_code == 0, done.output
        rows = pq.read_table(output / "data")  # scored by worker processes
        expected = scores_of(Scorer(mapped, "cpu", raw=raw), images[400:406])
        np.testing.assert_allclose(np.stack([rows[head] for head in HEADS], axis=1), expected, atol=1e-6)
        assert {*rows["model_scale_version"].to_pylist()} == {version}
        model = json.loads((output / "job.json").read_text())["model"]
        assert (model["scale_version"], "scale" in model["views"]) == (version, not raw)
    refused = CliRunner().invoke(cli, command)
    assert isinstance(refused.exception, UsageError) and "scale_version" in str(refused.exception)
    shown = CliRunner().invoke(
        cli, ["predict", "--json", "--raw", "--model", str(mapped), str(folder / "0.png"), "--no-project"]
    )
    document = json.loads(shown.output)
    assert document["model"]["scale_version"] == "1-raw"
    assert document["images"][0]["noise"] == pytest.approx(float(expected[0, 3]), abs=1e-6)
