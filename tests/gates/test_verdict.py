"""What the gate's verdict looks like, and that its documentation and committed thresholds hold."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

from quality_model.gates import RULES, decide
from quality_model.params import GateParams, Params, load_params
from quality_model.records import HEADS

from .evidence import SECTION, changed, evaluation, paired

PROJECT = Path(__file__).resolve().parents[2]


def test_the_verdict_as_json_holds_every_row_with_its_reason() -> None:
    verdict = decide(SECTION, changed(evaluation(), "noise", "r2", math.nan), evaluation(), paired())
    tree = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert tree["passed"] is False
    assert "noise: r2 is nan, not finite" in tree["summary"]
    assert len(tree["rows"]) == len(verdict.rows) == 1 + 7 * len(HEADS)
    assert set(tree["rows"][0]) == {"head", "rule", "value", "threshold", "passed", "reason"}


def test_the_table_is_aligned_and_says_what_was_refused() -> None:
    lines = decide(SECTION, evaluation(mse=0.0625), None).table().splitlines()
    start = lines[0].index("reason")
    assert len(lines) == 1 + 1 + 6 * len(HEADS)
    assert all(line[start - 1] == " " and line[start] != " " for line in lines)
    assert sum("REFUSED" in line for line in lines) == len(HEADS)
    assert any(line.startswith("noise") and "0.0625 is above 0.05" in line for line in lines)


def test_the_markdown_table_has_the_same_number_of_cells_in_every_line() -> None:
    text = decide(SECTION, evaluation(split="a|b"), None).markdown()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert text.startswith("## Gate: refused")
    assert {line.count("|") for line in table} == {7}
    assert len(table) == 2 + 1 + 6 * len(HEADS)


def test_every_rule_can_refuse_and_names_itself_in_its_rows() -> None:
    verdict = decide(SECTION, {}, {})
    assert {row.rule for row in verdict.rows if not row.passed} == {rule.__name__ for rule in RULES}


def test_deciding_needs_neither_torch_nor_a_data_frame() -> None:
    code = "import sys, quality_model.gates; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_gates_documentation_names_every_rule_and_threshold_and_its_strict_values_are_taken() -> None:
    text = (PROJECT / "docs" / "gate.md").read_text()
    assert {rule.__name__ for rule in RULES} <= set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    values = dict(re.findall(r"--set (gate\.\w+)='(.*?)'", text))
    assert {key.removeprefix("gate.") for key in values} == set(GateParams.model_fields)
    overrides = {
        key: json.loads(value.replace("{", '{"').replace(": ", '": ').replace(", ", ', "'))
        for key, value in values.items()
    }
    strict = load_params(PROJECT / "params.yaml", overrides).gate
    assert strict.min_r2.as_dict() == {
        "color_cast": 0.75,
        "blurriness": 0.93,
        "watermark": 0.85,
        "noise": 0.97,
    }


def test_the_committed_thresholds_let_a_weak_model_pass_that_is_no_worse_than_the_mean(
    params: Params,
) -> None:
    weak = evaluation(mse=0.04, r2=0.05)
    weak["cross_talk"] = {one: dict.fromkeys(HEADS, 0.4) for one in HEADS}
    for part in weak["ladders"].values():
        part["spearman"] = 0.1
    assert decide(params.gate, weak, None).passed
