import copy
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from quality_model.core.decoding import Pixels
from quality_model.networks.model import (
    MultiHeadQualityAssessmentModel,
    to_model_input,
    training_loss,
    weighted_mse,
)
from quality_model.records import HEADS, OVERALL_WEIGHTS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> MultiHeadQualityAssessmentModel:
    torch.manual_seed(1)
    return MultiHeadQualityAssessmentModel().eval()


@pytest.fixture(scope="module")
def small() -> MultiHeadQualityAssessmentModel:
    torch.manual_seed(1)
    return MultiHeadQualityAssessmentModel(architecture="small").eval()


def multiply_adds(model: MultiHeadQualityAssessmentModel, side_px: int) -> int:
    """Multiplications with an addition that one image of this side takes, in convolutions and heads."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta")(torch.empty(1, 3, side_px, side_px, device="meta"))
    return int(counter.get_total_flops()) // 2  # it counts both


def design_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the original design's state dict, written out from its description."""
    shapes: dict[str, tuple[int, ...]] = {"degradation_weights": (4,)}

    def conv_and_norm(conv: str, norm: str, channels_in: int, channels_out: int) -> None:
        shapes[f"{conv}.weight"] = (channels_out, channels_in, 3, 3)
        shapes[f"{conv}.bias"] = (channels_out,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (channels_out,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    def linear(name: str, features_in: int, features_out: int) -> None:
        shapes[f"{name}.weight"] = (features_out, features_in)
        shapes[f"{name}.bias"] = (features_out,)

    channels = 3
    for level, width in enumerate((32, 64, 128, 256)):
        block, residual = f"backbone.{3 * level}", f"backbone.{3 * level + 1}"
        conv_and_norm(f"{block}.conv", f"{block}.bn", channels, width)
        conv_and_norm(f"{residual}.conv1", f"{residual}.bn1", width, width)
        conv_and_norm(f"{residual}.conv2", f"{residual}.bn2", width, width)
        channels = width
    linear("channel_attention.0", 256, 64)
    linear("channel_attention.2", 64, 256)
    for head in ("color_cast", "blurriness", "watermark", "noise"):
        linear(f"head_{head}.0", 256, 256)
        linear(f"head_{head}.3", 256, 128)
        linear(f"head_{head}.6", 128, 1)
    return shapes


def test_its_parameters_and_the_names_and_shapes_of_its_state_are_those_of_the_design(
    model: MultiHeadQualityAssessmentModel,
) -> None:
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2_387_332
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == design_shapes()


@pytest.mark.parametrize(
    ("batch", "height", "width"), [(1, 224, 224), (2, 16, 16), (2, 33, 47), (1, 57, 130)]
)
def test_images_of_any_size_get_the_six_outputs_and_from_small_a_map_of_watermarks(
    model: MultiHeadQualityAssessmentModel,
    small: MultiHeadQualityAssessmentModel,
    batch: int,
    height: int,
    width: int,
) -> None:
    for network in (model, small) if height >= 32 else (model,):
        with torch.inference_mode():
            output = network(torch.rand(batch, 3, height, width))
        assert {name: tuple(t.shape) for name, t in output.items()} == {
            **dict.fromkeys(HEADS, (batch, 1)),
            "overall": (batch, 1),
            "all_scores": (batch, 4),
            **({"watermark_map": (batch, height // 16, width // 16)} if network is small else {}),
        }
        assert all(((scores >= 0) & (scores <= 1)).all() for scores in output.values())


def test_small_takes_a_fourteenth_of_the_arithmetic_or_less(
    model: MultiHeadQualityAssessmentModel, small: MultiHeadQualityAssessmentModel
) -> None:
    assert multiply_adds(small, 224) <= min(0.3e9, multiply_adds(model, 224) / 14)
    assert sum(p.numel() for p in small.parameters()) == 1_765_605


def test_arithmetic_is_counted_as_by_hand(model: MultiHeadQualityAssessmentModel) -> None:
    widths, side_px = (3, 32, 64, 128, 256), 224
    by_hand = 0
    for before, width in pairwise(widths):
        by_hand += side_px**2 * 9 * width * (before + 2 * width)
        side_px //= 2
    by_hand += 2 * 256 * 64 + 4 * (256 * 256 + 256 * 128 + 128)
    assert multiply_adds(model, 224) == by_hand


def test_small_sees_every_pixel(small: MultiHeadQualityAssessmentModel) -> None:
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    torch.autograd.backward(small(image)["all_scores"].sum())
    assert image.grad is not None
    assert (image.grad.abs().amax(dim=(0, 1)) > 0).float().mean() > 0.9  # a pool skips some


def test_all_scores_are_the_heads_side_by_side_and_overall_is_one_less_their_weighted_sum(
    model: MultiHeadQualityAssessmentModel,
) -> None:
    with torch.inference_mode():
        output = model(torch.rand(4, 3, 32, 32))
    heads = [output[head] for head in ("color_cast", "blurriness", "watermark", "noise")]
    assert torch.equal(output["all_scores"], torch.cat(heads, dim=1))
    weighted = sum(weight * scores for weight, scores in zip((0.2, 0.3, 0.25, 0.25), heads, strict=True))
    torch.testing.assert_close(output["overall"], 1 - weighted)
    assert sum(OVERALL_WEIGHTS.values()) == pytest.approx(1.0)


def test_an_image_scores_the_same_alone_and_in_a_batch(model: MultiHeadQualityAssessmentModel) -> None:
    images = torch.rand(5, 3, 32, 32)
    with torch.inference_mode():
        together = model(images)["all_scores"]
        alone = torch.cat([model(image[None])["all_scores"] for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_dropout_acts_in_training_only(model: MultiHeadQualityAssessmentModel) -> None:
    image = torch.rand(2, 3, 32, 32)
    other = MultiHeadQualityAssessmentModel(dropout=0.9)
    other.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(other.eval()(image)["all_scores"], model(image)["all_scores"])
        other.train()
        assert not torch.equal(other(image)["all_scores"], other(image)["all_scores"])


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(1)
    model = MultiHeadQualityAssessmentModel(dropout=0.0)
    torch.autograd.backward(model(torch.rand(4, 3, 32, 32))["all_scores"].sum())
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_pixels_become_floats_between_zero_and_one_with_channels_first(photo: Pixels, tmp_path: Path) -> None:
    pixels = np.stack([photo[:40, :24], photo[100:140, 50:74]])
    np.save(tmp_path / "images.npy", pixels)
    for images in (pixels, np.load(tmp_path / "images.npy", mmap_mode="r")[np.array([0, 1])]):
        x = to_model_input(images, CPU)
        assert (x.shape, x.dtype) == ((2, 3, 40, 24), torch.float32)
        expected = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(x.numpy(), expected)


def test_the_loss_is_the_mean_over_heads_of_weight_times_mse() -> None:
    scores = torch.tensor([[0.5, 0.0, 0.0, 1.0], [0.5, 0.0, 0.4, 1.0]], requires_grad=True)
    labels = torch.tensor([[0.0, 0.0, 0.2, 1.0], [0.5, 0.0, 0.0, 0.0]])
    loss, per_head = weighted_mse(scores, labels, torch.tensor([0.0, 1.0, 1.5, 1.0]))
    assert per_head.tolist() == pytest.approx([0.125, 0.0, 0.1, 0.5])
    assert loss.item() == pytest.approx((1.5 * 0.1 + 0.5) / 4)
    torch.autograd.backward(loss)
    assert scores.grad is not None
    assert scores.grad[:, 0].tolist() == [0.0, 0.0]  # of weight zero


def test_the_cross_entropy_is_least_at_the_labels_and_minds_faint_degradations_more() -> None:
    labels, weights = torch.tensor([[0.1, 0.1, 0.1, 0.1]]), torch.tensor([1.0, 0.0, 0.0, 0.0])

    def slope(kind: Literal["mse", "bce"], score: float) -> float:
        scores = torch.full((1, 4), score, requires_grad=True)
        loss, per_head = training_loss(kind, {"all_scores": scores}, labels, weights)
        assert per_head.tolist() == pytest.approx([(score - 0.1) ** 2] * 4)
        torch.autograd.backward(loss)
        assert scores.grad is not None
        return float(scores.grad[0, 0])

    assert slope("bce", 0.1) == pytest.approx(0.0, abs=1e-6) == slope("mse", 0.1)
    assert abs(slope("bce", 0.02) / slope("bce", 0.5)) > 5 * abs(slope("mse", 0.02) / slope("mse", 0.5))


def test_a_map_of_watermarks_is_learned_where_it_is_known() -> None:
    output = {"all_scores": torch.full((1, 4), 0.5), "watermark_map": torch.full((1, 2, 2), 0.5)}
    labels, weights = torch.full((1, 4), 0.5), torch.ones(4)
    without, _ = training_loss("mse", output, labels, weights)
    known, _ = training_loss("mse", output, labels, weights, torch.zeros(1, 2, 2))
    assert without.item() == 0.0
    assert known.item() == pytest.approx(0.1 * np.log(2.0))


def test_scores_in_bfloat16_are_compared_in_float32_and_nan_shows_in_the_loss() -> None:
    scores = torch.full((1000, 4), 0.5, dtype=torch.bfloat16)
    labels = torch.full((1000, 4), 0.499)
    loss, per_head = weighted_mse(scores, labels, torch.ones(4))
    assert loss.dtype == per_head.dtype == torch.float32
    assert loss.item() == pytest.approx(1e-6, rel=1e-3)
    labels[1, 2] = float("nan")
    loss, per_head = weighted_mse(scores, labels, torch.ones(4))
    assert loss.isnan()
    assert per_head.isnan().tolist() == [False, False, True, False]
