"""The model card says what is known, and says what is not."""

import re
from dataclasses import replace
from typing import Any

import pytest

from quality_model.evaluate.evidence import Evaluated
from quality_model.records import HEADS, MEANINGS, ModelRef
from quality_model.release.card import model_card
from quality_model.release.decisions import Decision
from tests.release.gate.evidence import UNDEFINED, a_baseline, a_sweep, estimate, evidence

DESCRIPTION: dict[str, Any] = {
    "architecture": "standard",
    "image_size_px": 224,
    "facts": {
        "data_sha256": "5e1f",
        "num_train": 1200,
        "num_validation": 150,
        "best_epoch": 7,
        "epochs_run": 9,
        "git_dirty": "true",
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
DECISION = Decision(
    "registered",
    "2026-01-01T00:00:00.000+00:00",
    ModelRef("quality-model", "4", "a" * 32, "w"),
    "c" * 64,
    champion=ModelRef("quality-model", "3", None, "w"),
    gate_sha256="g",
    git_commit="b" * 40,
)


COVERAGE = {
    "confidence": 0.9,
    "num_images": 120,
    "covered_share": estimate(0.883, 0.81, 0.93),
    "mean_width": 0.314,
}


def measured() -> Evaluated:
    baselines = {"blur_effect": a_baseline(0.41, 0.3), "laplacian": a_baseline(0.52, 0.1)}
    changes = {
        "heads.blurriness.all.measures.r2": estimate(0.9, 0.85, 0.94),
        "heads.blurriness.baselines": baselines,
        "heads.blurriness.cross_talk.noise": estimate(0.2),
        "sweeps.defocus": a_sweep("blurriness", 0.6),
        "heads.watermark.all.measures.r2": UNDEFINED,
        "heads.watermark.baselines": {},
        "heads.noise.coverage": COVERAGE,
        "heads.noise.clean_flags": {"threshold": 0.123, "num_images": 50, "flagged_share": estimate(0.02)},
    }
    return evidence(changes).candidate


def line(card: str, *parts: str) -> str:
    """The one line that holds all of these words."""
    (found,) = (line for line in card.splitlines() if all(part in line for part in parts))
    return found


@pytest.fixture(scope="module")
def card() -> str:
    return model_card(DESCRIPTION, measured(), DECISION, image_licence="CC0")


def test_each_head_has_its_meaning_threshold_interval_baseline_sweep_and_cross_talk(card: str) -> None:
    for score, meaning in MEANINGS.items():
        assert line(card, f"| `{score}` |", meaning)
    assert "0.310" in line(card, MEANINGS["color_cast"])
    blur = line(card, "| `blurriness` |", "[")
    assert "0.900 [0.850, 0.940] | 0.0300 | 0.520 (laplacian) | 0.500 | 0.600 (defocus) |" in blur
    covered = "| 88.3% [81.0, 93.0] of 120, promised 90%; mean width 0.31 |"
    assert line(card, f"| 2.0% of 50 | 0.123 {covered}")
    assert line(card, "| `blurriness` | 0.200 (noise) |").endswith("| no intervals |")
    assert line(card, "| `watermark` | not defined | 0.0300 | missing |")
    tables = [text for text in card.splitlines() if text.startswith("| ")]
    assert {text.count("|") for text in tables} == {4, 6, 7}
    assert "\n\n\n" not in card and card.endswith("\n")


def test_the_card_says_how_thresholds_were_set_and_what_share_of_which_clean_images_is_flagged() -> None:
    changes: dict[str, Any] = {"flags_of": "images"}
    for head in HEADS:
        night = {"num_images": 25, "flagged_share": estimate(0.08, 0.01, 0.26)}
        changes[f"heads.{head}.clean_flags.slices"] = {"night": night, "look-alike: sign": night}
    facts = {"thresholds_clean_samples": 640, "thresholds_of_images": True}
    settings = {**DESCRIPTION["facts"]["settings"], "train.clean_flag_share": 0.02}
    known = {**DESCRIPTION, "facts": {**DESCRIPTION["facts"], **facts, "settings": settings}}
    card = model_card(known, evidence(changes).candidate, None)
    assert line(card, "Each threshold").endswith(
        "at most 2% of 640 clean validation images, whole ones and look-alikes with all views."
    )
    assert line(card, "Whole images of the `test` split with all views of the model")
    assert line(card, "| night | 25 |").count(" 8.0% [1.0, 26.0] |") == len(HEADS)
    assert line(card, "| look-alike: sign | 25 |") and line(card, "| all | 100 | 1.0% [1.0, 1.0] |")
    of_samples = model_card(DESCRIPTION, measured(), None)
    assert line(of_samples, "Clean samples of the dataset, each seen as one squeezed view")
    assert line(of_samples, "a share (missing) of missing clean validation images.")


def test_the_card_names_verdict_origin_recipe_and_licences(card: str) -> None:
    assert card.startswith(
        "# Model card: quality-model version 4\n\nA convolutional network, architecture `standard`"
    )
    assert "Passed; compared with version 3. The gate" in card
    assert f"`{'b' * 40}` with uncommitted changes" in card
    assert line(card, "Recipe") == "- Recipe: learning_rate 0.002."
    assert line(card, "MLflow run") == f"- MLflow run: `{'a' * 32}`."
    assert line(card, "Apache-2.0") == "Weights: Apache-2.0. Training images: CC0."
    assert "in groups it never saw: 60 samples of 12 groups. In brackets the 95% interval." in card


def test_evidence_on_other_data_is_not_called_the_models_own() -> None:
    other = {**DESCRIPTION, "facts": {**DESCRIPTION["facts"], "data_sha256": "other"}}
    assert "of another dataset than its own" in model_card(other, measured(), None)


def test_what_is_not_known_is_missing_and_no_number_is_made_up() -> None:
    card = model_card({}, None, None)
    for words in ("The verdict is missing", "Thresholds are missing", "The evaluation is missing"):
        assert words in card
    assert line(card, "Samples").startswith("- Samples: missing for training, missing for the choice")
    assert "Training images: their licence is missing." in card
    assert not re.search(r"\b0\.\d", card.replace("2.0.", ""))
    assert "Refused; " in model_card({}, None, replace(DECISION, action="refused"))
    assert all(f"| `{head}` | " in card for head in HEADS)


def test_the_card_says_whose_scale_the_scores_are_on_and_what_the_map_costs() -> None:
    facts = {"scale_r2": {"color_cast": [0.561, 0.43], "noise": [0.9, 0.9]}}
    mapped = DESCRIPTION | {
        "views": {"scale": {"champion_sha256": "d" * 64, "num_images": 390}},
        "facts": facts,
    }
    text = model_card(mapped, None, None)
    assert f"the champion before, of weights `{'d' * 12}`; the map was fitted on 390 images." in text
    assert "without and with it: color_cast 0.561 and 0.430, noise 0.900 and 0.900." in text
    assert "champion before" not in model_card(DESCRIPTION, None, None)
