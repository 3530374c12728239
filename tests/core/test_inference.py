import doctest
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import quality_model
from quality_model import MultiHeadQualityInference, QualityScores, Scorer
from quality_model.core import storage, views
from quality_model.core.decoding import Pixels
from quality_model.errors import ImageError, UsageError
from quality_model.networks.model import (
    MultiHeadQualityAssessmentModel,
    load_model,
    save_model,
    to_model_input,
)
from quality_model.params import Params
from quality_model.records import HEADS

SIZE_PX = 48


@pytest.fixture(scope="module")
def crops(photo: Pixels) -> list[Pixels]:
    """Images of different sizes and contents."""
    return [
        photo[y : y + side, x : x + 2 * side // 3]
        for y, x, side in ((0, 0, 60), (200, 90, 99), (300, 300, 150))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, crops: list[Pixels]) -> Path:
    """An untrained model whose scores differ from image to image."""
    torch.manual_seed(11)
    model = MultiHeadQualityAssessmentModel()
    images = np.stack([views.squeezed(crop, SIZE_PX) for crop in crops])
    for _ in range(20):  # batch norm learns what images are like
        model(to_model_input(images, torch.device("cpu")))
    for head in HEADS:
        getattr(model, f"head_{head}")[6].weight.data *= 50
    folder = tmp_path_factory.mktemp("inference") / "model"
    save_model(folder, model, image_size_px=SIZE_PX, facts={"best_epoch": 2})
    return folder


@pytest.fixture(scope="module")
def inference(folder: Path) -> MultiHeadQualityInference:
    return MultiHeadQualityInference(folder, device="cpu")


def numbers(scores: QualityScores) -> dict[str, float]:
    return {name: getattr(scores, name) for name in (*HEADS, "overall")}


def assert_close(one: QualityScores, other: QualityScores) -> None:
    assert numbers(one) == pytest.approx(numbers(other), abs=1e-5)


def test_a_path_bytes_a_pil_image_an_array_and_a_tensor_of_one_image_score_the_same(
    inference: MultiHeadQualityInference, crops: list[Pixels], tmp_path: Path
) -> None:
    path = tmp_path / "crop.png"
    Image.fromarray(crops[1]).save(path)
    planes = torch.tensor(crops[1]).permute(2, 0, 1)
    ways = path, str(path), path.read_bytes(), Image.open(path), crops[1], planes, planes / 255.0
    scores = [inference.predict(given) for given in ways]
    assert scores == [scores[0]] * len(ways)
    assert (inference.thresholds, scores[0].flags) == (None, ())


def test_scores_are_a_typed_record_with_the_overall_formula(
    inference: MultiHeadQualityInference, crops: list[Pixels]
) -> None:
    scores = inference.predict(crops[0])
    assert isinstance(scores, QualityScores)
    assert list(scores.to_dict()) == ["color_cast", "blurriness", "watermark", "noise", "overall", "flags"]
    assert all(0 <= value <= 1 for value in numbers(scores).values())
    assert scores.overall == pytest.approx(
        1
        - (0.2 * scores.color_cast + 0.3 * scores.blurriness + 0.25 * scores.watermark + 0.25 * scores.noise)
    )


def test_scores_are_those_of_the_model_on_the_resized_image(
    inference: MultiHeadQualityInference, folder: Path, crops: list[Pixels]
) -> None:
    model = load_model(folder, torch.device("cpu")).model
    resized = np.asarray(Image.fromarray(crops[2]).resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS))
    with torch.no_grad():
        output = model(torch.tensor(resized[None]).permute(0, 3, 1, 2) / 255)
    expected = {name: output[name].item() for name in (*HEADS, "overall")}
    assert numbers(inference.predict(crops[2])) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_batch_scores_each_image_as_alone_and_in_order(
    inference: MultiHeadQualityInference, crops: list[Pixels], batch_size: int
) -> None:
    together = inference.predict_batch(crops, batch_size=batch_size)
    assert len(together) == 3
    for scores, crop in zip(together, crops, strict=True):
        assert_close(scores, inference.predict(crop))
    assert len({tuple(round(score, 2) for score in numbers(scores).values()) for scores in together}) == 3
    assert inference.predict_batch(crop for crop in crops) == together
    assert inference.predict_batch([], batch_size=batch_size) == []


def test_heads_above_the_thresholds_of_the_model_are_flagged(
    inference: MultiHeadQualityInference, folder: Path, crops: list[Pixels], tmp_path: Path
) -> None:
    model = load_model(folder, torch.device("cpu")).model
    scores = [numbers(inference.predict(crop)) for crop in crops]
    thresholds = {head: sum(sorted(row[head] for row in scores)[:2]) / 2 for head in HEADS}
    thresholds["noise"] = 1.0
    save_model(tmp_path / "model", model, image_size_px=SIZE_PX, facts={"thresholds": thresholds})
    flagging = MultiHeadQualityInference(tmp_path / "model", device="cpu")
    assert flagging.thresholds == thresholds
    for crop, row in zip(crops, scores, strict=True):
        flags = flagging.predict(crop).flags
        assert flags == tuple(head for head in HEADS if row[head] > thresholds[head])
        assert flagging.predict(crop).to_dict()["flags"] == list(flags)
    assert [flagging.predict_batch(crops)[n].flags for n in range(3)] == [
        flagging.predict(crop).flags for crop in crops
    ]


def test_images_of_any_shape_and_mode_get_scores_and_the_same_bits_again(
    inference: MultiHeadQualityInference, crops: list[Pixels]
) -> None:
    grey = crops[0][:, :, 0]
    assert inference.predict(grey) == inference.predict(np.stack([grey] * 3, axis=2))
    assert inference.predict(crops[0]) == inference.predict(crops[0])
    for mode in ("RGB", "L", "RGBA", "CMYK", "P", "I;16", "1"):
        for size in ((1, 1), (1, 300), (40, 30)):
            assert 0 <= inference.predict(Image.new(mode, size)).overall <= 1


def test_what_is_no_image_is_refused(inference: MultiHeadQualityInference) -> None:
    with pytest.raises(ImageError, match="bad_array"):
        inference.predict(np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(ImageError, match="not_an_image"):
        inference.predict(b"\x89PNG")
    with pytest.raises(UsageError, match="dict"):
        inference.predict({})  # type: ignore[arg-type]
    for batch_size in (0, -1):
        with pytest.raises(UsageError, match="batch_size"):
            inference.predict_batch([], batch_size=batch_size)


def test_an_unreadable_image_in_a_batch_is_named_by_its_position(
    inference: MultiHeadQualityInference, crops: list[Pixels], tmp_path: Path
) -> None:
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    with pytest.raises(ImageError, match="image 2") as caught:
        inference.predict_batch([crops[0], crops[1], tmp_path / "page.jpg"], batch_size=1)
    assert caught.value.reason == "not_an_image"


def test_errors_are_returned_in_the_place_of_their_images(
    inference: MultiHeadQualityInference, crops: list[Pixels], tmp_path: Path
) -> None:
    missing = tmp_path / "missing.jpg"
    images = [crops[0], missing, b"no image", crops[1], torch.zeros(4, 50, 50)]
    for batch_size in (1, 2, 16):
        found = inference.predict_batch(images, batch_size=batch_size, errors="return")
        assert found[0] == inference.predict(crops[0])
        assert found[3] == inference.predict(crops[1])
        reasons = [one.reason for one in found if isinstance(one, ImageError)]
        assert reasons == ["missing", "not_an_image", "bad_array"]
    with pytest.raises(UsageError, match="'ignore'"):
        inference.predict_batch(crops, errors="ignore")  # type: ignore[call-overload]


def test_the_package_lists_its_names_and_its_example_holds() -> None:
    assert {"Scorer", "QualityScores", "ImageError"} <= {*dir(quality_model)}
    assert Scorer is MultiHeadQualityInference
    import quality_model.core.predict as module

    done = doctest.testmod(module)
    assert (done.failed, done.attempted) == (0, 7)


def test_limits_hold_for_files(folder: Path, params: Params, tmp_path: Path) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "image.png")
    strict = params.limits.model_copy(update={"max_pixels": 2499})
    with pytest.raises(ImageError, match="too_many_pixels"):
        MultiHeadQualityInference(folder, device="cpu", limits=strict).predict(tmp_path / "image.png")


def test_pixels_of_a_batch_become_an_array_of_scores(
    inference: MultiHeadQualityInference, crops: list[Pixels]
) -> None:
    pixels = np.stack([views.squeezed(crop, SIZE_PX) for crop in crops])
    scores = inference.score_pixels(pixels)
    assert scores.shape == (3, 4)
    assert scores.dtype == np.float32
    assert scores[1].tolist() == pytest.approx(
        [inference.predict(crops[1]).to_dict()[head] for head in HEADS], abs=1e-5
    )
    assert inference.score_pixels(pixels[:0]).shape == (0, 4)
    for shape in ((2, SIZE_PX, SIZE_PX + 1, 3), (SIZE_PX, SIZE_PX, 3), (2, 3, SIZE_PX, SIZE_PX)):
        with pytest.raises(ImageError, match=f"{SIZE_PX}, {SIZE_PX}, 3"):
            inference.score_pixels(np.zeros(shape, np.uint8))


def test_it_says_where_its_model_came_from(inference: MultiHeadQualityInference, folder: Path) -> None:
    assert inference.image_size_px == SIZE_PX
    assert inference.facts.best_epoch == 2
    assert inference.path == folder
    assert (inference.source.version, inference.source.run_id) == (None, None)
    assert inference.source.sha256 == storage.file_sha256(folder / "model.safetensors")
