"""The model card says what is known, and says what is not."""

import re

import pytest

from quality_model.records import HEADS, MEANINGS
from quality_model.release.card import model_card

DESCRIPTION = {
    "image_size_px": 224,
    "facts": {
        "data_sha256": "d" * 64,
        "num_train": 1200,
        "num_validation": 150,
        "best_epoch": 7,
        "epochs_run": 9,
        "thresholds": {"color_cast": 0.31, "blurriness": 0.22, "watermark": 0.4, "noise": 0.123},
        "settings": {
            "source.dataset": "sample-photos",
            "source.num_images": 400,
            "generate.profile": "calibrated",
            "train.learning_rate": 0.002,
            "train.device": "auto",
        },
    },
}
METRICS = {
    "split": "test",
    "data_sha256": "d" * 64,
    "num_samples": 300,
    "num_groups": 12,
    "measuring": {"confidence": 0.95},
    "heads": {
        head: {"r2": 0.9, "r2_beside_baselines": 0.87, "mse": 0.0123, "intervals": {"r2": [0.85, 0.94]}}
        for head in HEADS
    },
    "baselines": {
        "blurriness": {"blur_effect": {"r2": 0.41}, "laplacian": {"r2": 0.52}},
        "noise": {"estimate_sigma": {"r2": None}},
    },
    "ladders": {
        "defocus": {"head": "blurriness", "spearman": 0.99},
        "low_light": {"head": "noise", "spearman": 0.9},
        "grain": {"head": "noise", "spearman": 0.7},
        "stamp": {"head": "watermark", "spearman": None},
    },
    "cross_talk": {
        "noise": {"noise": 0.9, "blurriness": 0.2, "watermark": 0.01, "color_cast": 0.0},
        "watermark": {"noise": 0.02, "blurriness": 0.1, "watermark": 0.9, "color_cast": 0.0},
    },
    "clean_flags": {"noise": {"threshold": 0.123, "flagged_share": 0.02, "num_images": 50}},
}  # fmt: skip
VERDICT = {"passed": True, "compared_with": "3", "summary": "All 20 rules are met."}


def line(card: str, *parts: str) -> str:
    """The one line that holds all of these words."""
    (found,) = (line for line in card.splitlines() if all(part in line for part in parts))
    return found


@pytest.fixture(scope="module")
def card() -> str:
    origin = {"run_id": "a" * 32, "git_commit": "b" * 40, "git_dirty": "true", "model_sha256": "c" * 64}
    return model_card(DESCRIPTION, METRICS, VERDICT, version="4", origin=origin, image_licence="CC0")


def test_the_card_says_how_each_score_reads_and_when_it_is_flagged(card: str) -> None:
    for score, meaning in MEANINGS.items():
        assert meaning in card, score
    assert "0.310" in line(card, MEANINGS["color_cast"])


def test_each_head_stands_with_its_interval_best_baseline_and_worst_ladder(card: str) -> None:
    blur = line(card, "| `blurriness` |", "[")
    assert "0.900 [0.850, 0.940] | 0.0123 | 0.520 (laplacian) | 0.870 | 0.990 (defocus)" in blur
    assert "0.700 (grain)" in line(card, "| `noise` |", "[")


def test_a_ladder_without_a_number_is_the_worst(card: str) -> None:
    assert "not defined (stamp)" in line(card, "| `watermark` |", "[")


def test_cross_talk_is_the_largest_move_of_a_head_by_another_fault(card: str) -> None:
    assert "0.200 (noise)" in line(card, "| `blurriness` |", "missing")
    assert "| 0.020 (watermark) | 2.0% of 50 | 0.123" in card


def test_the_card_names_origin_verdict_recipe_and_licences(card: str) -> None:
    assert "Passed; compared with version 3. All 20 rules are met." in card
    assert f"`{'b' * 40}` with uncommitted changes" in card
    assert line(card, "Recipe") == "- Recipe: learning_rate 0.002."
    assert line(card, "Apache-2.0") == "Weights: Apache-2.0. Training images: CC0."
    assert "in groups it never saw" in card


def test_evidence_on_other_data_is_not_called_the_models_own() -> None:
    card = model_card(DESCRIPTION, {**METRICS, "data_sha256": "e" * 64}, None)
    assert "of another set than its own" in card


def test_what_was_not_measured_is_missing_and_no_number_is_made_up() -> None:
    card = model_card({"facts": {}}, {"heads": {}}, None)
    assert "The verdict is missing" in card
    assert "Thresholds are missing" in card
    for head in HEADS:
        assert line(card, f"| `{head}` | missing | missing | missing | missing |")
    assert "evaluation is missing" in model_card({}, None, None)
    assert not re.search(r"\b0\.\d", model_card({}, None, None).replace("2.0.", ""))
