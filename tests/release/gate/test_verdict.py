"""What the gate's verdict looks like, and that its documentation and committed thresholds hold."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from quality_model.params import GateParams, Params
from quality_model.params_file import load_params
from quality_model.records import HEADS
from quality_model.release.gate import RULES, Verdict, decide

from .evidence import SECTION, changed, evaluation, paired, refused

PROJECT = Path(__file__).resolve().parents[3]


def test_the_verdict_as_json_holds_every_row_with_its_reason() -> None:
    verdict = decide(SECTION, changed(evaluation(), "noise", "r2", math.nan), evaluation(), paired())
    tree = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert tree["passed"] is False
    assert "noise: r2 is nan, not finite" in tree["summary"]
    assert len(tree["rows"]) == len(verdict.rows) == 3 + 7 * len(HEADS)
    assert set(tree["rows"][0]) == {"head", "rule", "value", "threshold", "passed", "reason"}


def test_the_table_is_aligned_and_says_what_was_refused() -> None:
    lines = decide(SECTION, evaluation(mse=0.0625), None).table().splitlines()
    start = lines[0].index("reason")
    assert len(lines) == 1 + 2 + 6 * len(HEADS)
    assert all(line[start - 1] == " " and line[start] != " " for line in lines)
    assert sum("REFUSED" in line for line in lines) == len(HEADS)
    assert any(line.startswith("noise") and "0.0625 is above 0.05" in line for line in lines)


def test_the_markdown_table_has_the_same_number_of_cells_in_every_line() -> None:
    text = decide(SECTION, evaluation(split="a|b"), None).markdown()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert text.startswith("## Gate: refused")
    assert {line.count("|") for line in table} == {7}
    assert len(table) == 2 + 2 + 6 * len(HEADS)


def test_every_rule_can_refuse_and_names_itself_in_its_rows() -> None:
    verdict = decide(SECTION, {}, {})
    assert {row.rule for row in verdict.rows if not row.passed} == {rule.__name__ for rule in RULES}


def test_deciding_needs_neither_torch_nor_a_data_frame() -> None:
    code = (
        "import sys, quality_model.release.gate; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


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


def committed(params: Params, head: str, **change: float) -> Verdict:
    """The verdict by the committed thresholds on the bundled model's evidence, with one figure changed."""
    candidate = bundled_evidence()
    for measure, value in change.items():
        candidate = changed(candidate, head, measure, value)
    return decide(params.gate, candidate, evaluation(), paired(-0.0001, -0.0002, -0.00005))


@pytest.mark.parametrize("head", HEADS)
def test_the_committed_thresholds_refuse_a_head_that_is_worse_than_answering_the_mean(
    params: Params, head: str
) -> None:
    assert (head, "skill") in refused(committed(params, head, r2=-0.01))


@pytest.mark.parametrize("head", HEADS)
def test_the_committed_thresholds_refuse_a_head_that_is_worse_than_a_classical_measure(
    params: Params, head: str
) -> None:
    assert (head, "baseline_skill") in refused(committed(params, head, r2=0.01))


@pytest.mark.parametrize("head", HEADS)
def test_the_committed_limits_of_mse_are_below_that_of_answering_the_mean(params: Params, head: str) -> None:
    # The variance of the labels that the committed parameters generate: tests/training_set holds it.
    card = (PROJECT / "quality_model" / "pretrained" / "standard" / "MODEL_CARD.md").read_text()
    r2, mse = re.search(rf"\| `{head}` \| ([\d.]+) \[[^|]*\| ([\d.]+) \|", card).groups()
    assert getattr(params.gate.max_mse, head) < float(mse) / (1 - float(r2))


def bundled_evidence(**changes: Any) -> dict[str, Any]:
    """What the model card says of the bundled model, as the gate reads it."""
    card = (PROJECT / "quality_model" / "pretrained" / "standard" / "MODEL_CARD.md").read_text()
    evidence = evaluation(num_counted_groups=10, **changes)
    for head in HEADS:
        number, name = r"([\d.]+)", r"\((\w+)\)"
        cells = re.search(
            rf"\| `{head}` \| {number} \[[^|]*\| {number} \| {number} {name} \| {number} \| {number} \(", card
        )
        moved = re.search(rf"\| `{head}` \| ([\d.]+) \((\w+)\) \| ([\d.]+)% of (\d+) \| ([\d.]+) \|", card)
        assert cells and moved
        evidence["heads"][head] = {
            "r2": float(cells[1]),
            "mse": float(cells[2]),
            "r2_beside_baselines": float(cells[5]),
        }
        evidence["baselines"][head] = {cells[4]: {"r2": float(cells[3])}}
        evidence["ladders"][f"{head} easy"] = {"head": head, "spearman": float(cells[6])}
        evidence["cross_talk"][moved[2]][head] = float(moved[1])
        evidence["clean_flags"][head] = {
            "flagged_share": float(moved[3]) / 100,
            "num_images": int(moved[4]),
            "threshold": float(moved[5]),
        }
    return evidence


def test_the_bundled_model_itself_meets_the_committed_thresholds(params: Params) -> None:
    verdict = decide(params.gate, bundled_evidence(), None)
    assert verdict.passed, verdict.refusals


def ending(pairs: dict[str, Any], promoted: str | None = None, **changes: Any) -> str:
    verdict = decide(SECTION, evaluation(**changes), evaluation(), pairs)
    return replace(verdict, compared_with="1").ending(promoted)


def test_the_ending_says_in_one_sentence_what_came_of_it() -> None:
    better = {**paired(0.0, -0.001, 0.001), "blurriness": paired(-0.05, -0.07, -0.03)["blurriness"]}
    assert ending(better, "2") == "Version 2 is now champion: better on blurriness by 0.03 to 0.07."
    alike = paired(0.0, -0.001, 0.001)
    assert ending(alike) == "Version 1 stays champion: too little evidence that the new model is better."
    worse = {**alike, "noise": paired(0.05, 0.02, 0.07)["noise"]}
    assert ending(worse) == "Version 1 stays champion: the new model is worse on noise."
    few = ending(paired(), num_counted_groups=1, excluded_groups=["coffee"])
    assert few.startswith(
        "Version 1 stays champion: too little evidence that the new model is better (1 of 2"
    )
    poor = ending(paired(), heads=changed(evaluation(), "noise", "mse", 0.5)["heads"])
    assert poor == "Version 1 stays champion: the new model falls short (noise: mse 0.5 is above 0.05)."


def test_a_refusal_says_what_to_do_next() -> None:
    assert "Next: train on more scenes" in decide(SECTION, evaluation(mse=0.5), None).markdown()
    assert "Next:" not in decide(SECTION, evaluation(), None).markdown()
