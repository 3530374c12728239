"""What the gate's verdict looks like, and that its documentation and committed thresholds hold."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from quality_model.params import GateParams, Params
from quality_model.params_file import load_params
from quality_model.records import HEADS
from quality_model.release.gate import RULES, decide

from .evidence import (
    ASKS_FOR_REAL,
    SECTION,
    UNDEFINED,
    a_baseline,
    a_sweep,
    all_paired,
    estimate,
    evidence,
    own_labels,
    paired,
    refused,
)

PROJECT = Path(__file__).resolve().parents[3]


def test_the_tables_have_a_row_for_every_rule_and_head_and_say_what_was_refused() -> None:
    verdict = decide(SECTION, evidence(every_mse(0.0625) | {"sweeps.a|b": a_sweep("noise", 0.99)}))
    lines, text = verdict.table().splitlines(), verdict.markdown()
    assert len(lines) == 1 + 2 + 6 * len(HEADS)
    assert sum("REFUSED" in line for line in lines) == len(HEADS)
    assert any(
        line.startswith("noise") and "mse 0.0625 in [0.0625, 0.0625] over 12 groups, is above 0.05" in line
        for line in lines
    )
    cells = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert text.startswith("## Gate: refused")
    assert cells == [7] * (2 + 2 + 6 * len(HEADS))


def test_every_rule_can_refuse_and_names_itself_in_its_rows() -> None:
    changes = {"num_counted_groups": 1, "split": "train", "sweeps": {}, **every_mse(0.9)}
    changes |= all_paired(0.1, 0.1, 0.1) | own_labels(0.8, 0.7)
    for head in HEADS:
        changes |= {f"heads.{head}.baselines": {}, f"heads.{head}.cross_talk": {}}
        changes |= {
            f"heads.{head}.{key}": UNDEFINED for key in ("all.measures.r2", "clean_flags.flagged_share")
        }
    verdict = decide(ASKS_FOR_REAL, evidence(changes, champion=True))
    assert {row.rule for row in verdict.rows if not row.passed} == {rule.__name__ for rule in RULES}


def test_the_gates_documentation_names_every_rule_and_threshold_and_its_strict_values_are_taken() -> None:
    text = (PROJECT / "docs" / "gate.md").read_text()
    assert {rule.__name__ for rule in RULES} <= set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    found = re.findall(r"--set (gate\.\w+)=('?)(.*?)\2(?: \\)?\n", text)
    values = {key: value for key, _, value in found}
    assert {key.removeprefix("gate.") for key in values} == set(GateParams.model_fields)
    strict = load_params(PROJECT / "params.yaml", {key: yaml.safe_load(v) for key, v in values.items()}).gate
    assert strict.min_r2.as_dict() == {
        "color_cast": 0.75,
        "blurriness": 0.93,
        "watermark": 0.85,
        "noise": 0.97,
    }


def test_the_committed_thresholds_refuse_a_head_that_is_worse_than_the_mean_or_a_classical_measure(
    params: Params,
) -> None:
    for head in HEADS:
        skill = {f"heads.{head}.all.measures.r2": estimate(-0.01)}
        assert refused(decide(params.gate, evidence(bundled() | skill))) == [(head, "skill")]
        lead = {f"heads.{head}.baselines": {"classical": a_baseline(0.5, -0.01)}}
        assert refused(decide(params.gate, evidence(bundled() | lead))) == [(head, "baseline_skill")]


def test_the_committed_limits_of_mse_are_below_that_of_answering_the_mean(params: Params) -> None:
    # The variance of the labels that the committed parameters generate: tests/training_set holds it.
    card = (PROJECT / "quality_model" / "pretrained" / "standard" / "MODEL_CARD.md").read_text()
    for head in HEADS:
        found = re.search(rf"\| `{head}` \| ([\d.]+) \[[^|]*\| ([\d.]+) \|", card)
        assert found
        assert getattr(params.gate.max_mse, head) < float(found[2]) / (1 - float(found[1]))


def every_mse(value: float) -> dict[str, Any]:
    return {f"heads.{head}.all.measures.mse": estimate(value) for head in HEADS}


def bundled() -> dict[str, Any]:
    """What the model card says of the bundled model, as changes of the evidence."""
    card = (PROJECT / "quality_model" / "pretrained" / "standard" / "MODEL_CARD.md").read_text()
    changes: dict[str, Any] = {"num_counted_groups": 10, "sweeps": {}}
    for head in HEADS:
        number, name = r"([\d.]+)", r"\((\w+)\)"
        cells = re.search(
            rf"\| `{head}` \| {number} \[[^|]*\| {number} \| {number} {name} \| {number} \| {number} \(", card
        )
        moved = re.search(rf"\| `{head}` \| ([\d.]+) \((\w+)\) \| ([\d.]+)% of (\d+) \| ([\d.]+) \|", card)
        assert cells and moved
        r2, mse, baseline, beside, spearman = (float(cells[number]) for number in (1, 2, 3, 5, 6))
        changes["sweeps"][f"{head} worst"] = a_sweep(head, spearman)
        changes |= {
            f"heads.{head}.all.measures.r2": estimate(r2),
            f"heads.{head}.all.measures.mse": estimate(mse),
            f"heads.{head}.baselines": {cells[4]: a_baseline(baseline, beside - baseline)},
            f"heads.{head}.cross_talk.{moved[2]}": estimate(float(moved[1])),
            f"heads.{head}.clean_flags": {
                "threshold": float(moved[5]),
                "num_images": int(moved[4]),
                "flagged_share": estimate(float(moved[3]) / 100),
            },
        }
    return changes


def test_the_bundled_model_itself_meets_the_committed_thresholds(params: Params) -> None:
    verdict = decide(params.gate, evidence(bundled()))
    assert verdict.passed, verdict.refusals


def ending(changes: dict[str, Any], promoted: str | None = None) -> str:
    verdict = decide(SECTION, evidence(changes, champion=True))
    return replace(verdict, compared_with="1").ending(promoted)


def test_the_ending_says_in_one_sentence_what_came_of_it() -> None:
    alike = all_paired(0.0, -0.001, 0.001)
    better = ending({**alike, **paired("blurriness", -0.05, -0.07, -0.03)}, "2")
    assert better == "Version 2 is now champion: better on blurriness by 0.05 (p 0.001), p at most 0.013."
    assert ending(alike) == "Version 1 stays champion: too little evidence that the new model is better."
    worse = ending({**alike, **paired("noise", 0.05, 0.02, 0.07)})
    assert worse == "Version 1 stays champion: the new model is worse on noise."
    few = ending({"num_counted_groups": 1, "excluded_groups": ["coffee"]})
    assert few.startswith(
        "Version 1 stays champion: too little evidence that the new model is better (1 of 2"
    )
    poor = ending({"heads.noise.all.measures.mse": estimate(0.5)})
    assert poor.startswith("Version 1 stays champion: the new model falls short (noise: mse 0.5 in [")


def test_a_refusal_says_what_to_do_next() -> None:
    assert "Next: train on more scenes" in decide(SECTION, evidence(every_mse(0.5))).markdown()
    assert "Next:" not in decide(SECTION, evidence()).markdown()
