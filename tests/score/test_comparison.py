"""Two models on one folder of images: what would change if one took the other's place."""

import csv
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from quality_model import MultiHeadQualityInference
from quality_model.cli import run
from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.errors import InputErrorsAboveLimit, UsageError
from quality_model.networks.model import MultiHeadQualityAssessmentModel, save_model
from quality_model.params import Params
from quality_model.records import HEADS
from quality_model.score.compare import Comparison, compare_models, draw_largest
from quality_model.score.result import ScoringModel
from tests.conftest import PROJECT
from tests.hostile import decoders_obey_images, hostile

Compare = Callable[..., Comparison]


def make_model(noise_bias: float) -> MultiHeadQualityAssessmentModel:
    """Random weights, the same each time; its noise score is below 0.2 for a bias of -3, above 0.8 for 3."""
    torch.manual_seed(7)
    model = MultiHeadQualityAssessmentModel(architecture="small")
    with torch.no_grad():
        model.head_noise[-1].bias.fill_(noise_bias)
    return model.eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders ``old`` and ``new`` of two models that see noise differently."""
    folder = tmp_path_factory.mktemp("two-models")
    for name, bias in (("old", -3.0), ("new", 3.0)):
        facts = {"thresholds": dict.fromkeys(HEADS, 0.5)}
        save_model(folder / name, make_model(bias), image_size_px=32, facts=facts)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> Path:
    """Five images, one of them wide, a broken one and a file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "album").mkdir()
    for number in range(5):
        crop = photo[40 * number : 40 * number + 96, : 96 if number else 200]
        Image.fromarray(crop).save(folder / ("album" if number % 2 else ".") / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not the rest")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def compare(tmp_path_factory: pytest.TempPathFactory, params: Params, images: Path, models: Path) -> Compare:
    def compare(
        output: Path, folder: Path = images, model: str = "", against: str = "",
        engine: str = "torch-float32", limits: dict[str, float] | None = None,
    ) -> Comparison:  # fmt: skip
        return compare_models(
            params.score.model_copy(update={"batch_size": 2, "workers": 1, "engine": engine}),
            params.limits.model_copy(update=limits or {}),
            params.registry,
            root=models,
            folder=folder,
            model=model or str(models / "new"),
            against=against or str(models / "old"),
            output=output,
            num_thumbnails=3,
        )

    return compare


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the comparison of the two models on the images is."""
    return tmp_path_factory.mktemp("kept") / "comparison"


@pytest.fixture(scope="module")
def compared(compare: Compare, kept: Path) -> Comparison:
    return compare(kept)


def test_a_folder_is_scored_by_both_models_and_what_changes_is_kept(compared: Comparison, kept: Path) -> None:
    told = compared.summary()
    assert (told["num_images"], told["num_scored"], told["num_changed_flags"]) == (6, 5, 5)
    noise = told["heads"]["noise"]
    assert (noise["newly_flagged"], noise["no_longer_flagged"]) == (5, 0)
    assert (noise["flagged_old"], noise["flagged_new"]) == (0, 5)
    assert noise["mean_change"] == pytest.approx(noise["mean_new"] - noise["mean_old"])
    assert noise["mean_change"] > 0.6
    assert told["heads"]["blurriness"]["mean_absolute_change"] == 0.0  # the same weights but for noise
    assert noise["largest_rate_change"] == 1.0  # none is above .2 before, all are above .6 now
    assert told["heads"]["blurriness"]["largest_rate_change"] == 0.0
    assert told["same_model"] is False and "with itself" not in compared.headline()

    storage.require_sealed(kept, verify=True)
    written = json.loads((kept / "comparison.json").read_text())
    assert [row["key"] for row in written["not_scored"]] == ["broken.jpg"]
    assert len(written["largest_changes"]) == 3
    rows = list(csv.DictReader((kept / "comparison.csv").open()))
    assert [row["key"] for row in rows] == [
        "0.png", "2.png", "4.png", "album/1.png", "album/3.png", "broken.jpg"
    ]  # fmt: skip
    assert [bool(row["error_code"]) for row in rows] == [False] * 5 + [True]
    assert {row["flags_new"].split()[-1] for row in rows[:5]} == {"noise"}
    assert "broken.jpg" in (kept / "comparison.md").read_text()
    assert Image.open(kept / "largest_changes.png").width > 800


def test_an_image_that_crashes_or_hangs_its_decoder_is_a_row_with_its_error_code(
    compare: Compare, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders_obey_images(tmp_path / "site", monkeypatch)
    folder = tmp_path / "hostile"
    folder.mkdir()
    image = (images / "0.png").read_bytes()
    (folder / "0.png").write_bytes(image)
    for behaviour in ("crash", "hang", "raise"):
        (folder / f"{behaviour}.png").write_bytes(hostile(image, behaviour))
    told = compare(tmp_path / "out", folder, limits={"max_seconds": 2.0}).summary()
    assert (told["num_images"], told["num_scored"]) == (4, 1)
    assert told["errors"] == {"broken": 1, "too_slow": 1, "worker_died": 1}


def test_the_scores_are_those_of_each_model_at_its_own_size(
    compare: Compare, images: Path, models: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "large", make_model(1.0), image_size_px=64, facts={})
    comparison = compare(tmp_path / "out", model=str(tmp_path / "large"))
    for side, reference in ((1, tmp_path / "large"), (0, models / "old")):
        alone = MultiHeadQualityInference(reference, "cpu", engine="torch-float32")
        for key, scores in zip(comparison.keys, comparison.scores[side], strict=True):
            expected = alone.predict(images / key)
            assert [float(score) for score in scores] == [getattr(expected, head) for head in HEADS]


def test_a_model_compared_with_itself_is_told_as_such(compare: Compare, models: Path, tmp_path: Path) -> None:
    comparison = compare(tmp_path / "out", against=str(models / "new"))
    assert "A model is compared with itself" in comparison.headline()
    assert comparison.summary()["num_changed_flags"] == 0
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["same_model"] is True
    assert "A model is compared with itself" in (tmp_path / "out" / "comparison.md").read_text()


def test_a_model_is_compared_with_a_bundled_one_on_the_engine_that_was_asked_for(
    compare: Compare, tmp_path: Path
) -> None:
    comparison = compare(tmp_path / "out", against="bundled-standard", engine="ncnn-float32")
    told = comparison.summary()
    assert (told["old"]["name"], told["num_scored"]) == ("bundled-standard", 5)
    assert (comparison.old.engine, comparison.new.engine) == ("ncnn-float32", "ncnn-float32")


def test_an_interrupted_comparison_resumes_and_ends_with_the_same_files(
    compare: Compare, compared: Comparison, kept: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(kept, tmp_path / "out"))
    for name in ("_complete.json", "comparison.json", "new/job.json", "new/parts/part-00000.json"):
        (output / name).unlink()
    compare(output)
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (kept, output)
    )
    assert first == second


def test_a_file_of_weights_compares_too_and_without_thresholds_changes_of_flags_are_not_known(
    compare: Compare, tmp_path: Path
) -> None:
    weights = tmp_path / "mine.safetensors"
    save_file(MultiHeadQualityAssessmentModel().state_dict(), weights)
    folder = tmp_path / "one"
    folder.mkdir()
    Image.fromarray(np.full((40, 40, 3), 90, dtype=np.uint8)).save(folder / "grey.png")
    comparison = compare(tmp_path / "out", folder, str(weights), engine="auto")
    assert comparison.old.engine == comparison.new.engine
    told = comparison.summary()
    assert (told["new"]["name"], told["new"]["version"]) == ("mine.safetensors", None)
    assert (told["num_changed_flags"], told["heads"]["noise"]["newly_flagged"]) == (None, None)
    assert "not known" in comparison.headline()


def test_tables_and_tar_shards_compare_as_their_images_do(
    compare: Compare, compared: Comparison, images: Path, tmp_path: Path
) -> None:
    files = [*sorted(images.rglob("*.png")), images / "broken.jpg"]
    tables, shards = tmp_path / "tables", tmp_path / "shards"
    tables.mkdir()
    shards.mkdir()
    names = [path.relative_to(images).as_posix() for path in files]
    pd.DataFrame({"id": names, "image": [path.read_bytes() for path in files]}).to_parquet(
        tables / "a.parquet"
    )
    with tarfile.open(shards / "a.tar", "w") as shard:
        for path, name in zip(files, names, strict=True):
            shard.add(path, name)
    for folder, prefix in ((tables, ""), (shards, "a.tar#")):
        found = compare(tmp_path / f"{folder.name} out", folder)
        order = np.argsort([key.removeprefix(prefix) for key in found.keys])
        assert [found.keys[number].removeprefix(prefix) for number in order] == sorted(compared.keys)
        np.testing.assert_array_equal(found.scores[:, order], compared.scores[:, np.argsort(compared.keys)])
        assert [code for code, _ in found.errors.values()] == [code for code, _ in compared.errors.values()]


def test_what_cannot_be_compared_is_named(compare: Compare, tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(tables / "a.parquet")
    with pytest.raises(UsageError, match="no column of images"):
        compare(tmp_path / "out", tables)


def test_a_comparison_in_which_nothing_can_be_scored_is_written(compare: Compare, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "bad" / name).write_text("<html>")
    (tmp_path / "bad" / "c.jpg").touch()
    words = r"None of the 3 inputs could be scored; .*not_an_image \(2 of 3\)(.|\n)*comparison\.csv"
    with pytest.raises(InputErrorsAboveLimit, match=words):
        compare(tmp_path / "out", tmp_path / "bad")
    storage.require_sealed(tmp_path / "out", verify=True)


@pytest.mark.parametrize("name", ["1.png", "plan.json"])
def test_a_comparison_goes_into_no_folder_with_other_files(
    compare: Compare, tmp_path: Path, name: str
) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    (output / name).write_text("mine")
    (output / ".DS_Store").write_text("x")
    with pytest.raises(UsageError, match=f"mine is not empty and holds no comparison: {name}"):
        compare(output)
    assert {path.name for path in output.iterdir()} == {name, ".DS_Store"}


def test_a_comparison_is_not_written_among_the_images(compare: Compare, images: Path) -> None:
    with pytest.raises(UsageError, match="both input and output"):
        compare(images)
    assert not (images / storage.MARKER_NAME).exists()


def test_the_command_takes_the_choice_of_inputs_that_it_advises_and_prints_its_headline_once(
    tmp_path: Path,
    images: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(PROJECT / "params.yaml", "params.yaml")
    Path("mixed").mkdir()
    for name in ("0.png", "broken.jpg"):
        shutil.copyfile(images / name, f"mixed/{name}")
    image = (images / "0.png").read_bytes()
    pd.DataFrame({"name": ["a"], "first": [image], "second": [image]}).to_parquet("mixed/a.parquet")
    named = ["compare", "mixed", "--model", str(models / "new"), "--against", str(models / "old")]
    assert run(named) == 2
    assert "Choose with --image-column" in capfd.readouterr().err
    assert run([*named, "--image-column", "second"]) == 2
    assert "--kind images or --kind parquet" in capfd.readouterr().err
    assert run([*named, "--kind", "images"]) == 0
    assert "".join(capfd.readouterr()).count("1 of 2 images could be scored") == 1
    chosen = ["--kind", "parquet", "--image-column", "second", "--key-column", "name"]
    assert run([*named, *chosen]) == 0
    assert "1 of 1 images could be scored" in capfd.readouterr().out


def model(**thresholds: float) -> ScoringModel:
    return ScoringModel("m", "1", None, "0" * 64, 32, thresholds=thresholds)


def comparison(
    noise: dict[str, tuple[float, float]], old: ScoringModel, new: ScoringModel, errors: Any = None
) -> Comparison:
    """All scores are 0.2 but those of noise, which are given by image: old, new."""
    scores = np.full((2, len(noise), len(HEADS)), 0.2, dtype=np.float32)
    scores[:, :, HEADS.index("noise")] = np.array(list(noise.values())).reshape(-1, 2).T
    return Comparison("f", old, new, list(noise), scores, errors or {})


def test_each_model_is_held_against_its_own_thresholds_either_way() -> None:
    limits = dict.fromkeys(HEADS, 0.5)
    scores = {"a": (0.6, 0.4), "b": (0.4, 0.4), "c": (0.6, 0.9), "d": (0.2, 0.35)}
    found = comparison(scores, model(**limits), model(**{**limits, "noise": 0.3}))
    noise = found.change("noise")
    assert (noise.flagged_old, noise.flagged_new) == (2, 4)
    assert (noise.newly_flagged, noise.no_longer_flagged) == (2, 0)
    assert (noise.largest_change, noise.largest_change_key) == (pytest.approx(0.3), "c")
    assert found.num_changed_flags == 2


def test_the_largest_changes_come_first_and_of_equals_the_first() -> None:
    changes = [0.1, 0.5, 0.0, 0.5, 0.5, 0.3]
    scores = {str(number): (0.0, change) for number, change in enumerate(changes)}
    assert comparison(scores, model(), model()).largest(3) == [1, 3, 4]


def test_the_figure_shows_the_largest_changes(tmp_path: Path) -> None:
    scores = {"small $.png": (0.2, 0.25), "a folder with a long name/large.png": (0.2, 0.9)}
    found = comparison(scores, model(), model())
    draw_largest(found, {1: np.zeros((2, 3, 3), dtype=np.uint8), 0: None}, tmp_path / "a.png")
    draw_largest(found, {}, tmp_path / "b.png")
    assert Image.open(tmp_path / "a.png").width > 800
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_folder_without_one_readable_image_says_so() -> None:
    found = comparison({}, model(), model(), {"a": ("empty", "no bytes")})
    assert "0 of 1 images could be scored. Nothing can be said." in found.headline()
    assert found.summary()["heads"]["noise"]["mean_change"] is None
    assert "- a: empty (no bytes)" in found.markdown()
    assert "noise" in found.table()


def test_rates_of_models_on_different_scales_are_not_compared(compared: Comparison) -> None:
    other = replace(compared, new=replace(compared.new, scale_version="2"))
    assert "scale versions 1 and 2" in other.headline() and "scale" not in compared.headline()
    assert {other.change(head).largest_rate_change for head in HEADS} == {None}
