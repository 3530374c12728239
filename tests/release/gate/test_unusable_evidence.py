"""The gate passes nothing on evidence that is missing, impossible or no usable number."""

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quality_model.errors import CorruptError
from quality_model.evaluate.evidence import Evidence
from quality_model.records import HEADS
from quality_model.release.gate import decide

from .evidence import SECTION, UNDEFINED, changed, estimate, evidence, refused, tree


def paths(values: Any, *above: str) -> list[str]:
    """Every place in a tree, as keys joined by dots."""
    if not isinstance(values, dict):
        return []
    return [".".join((*above, key)) for key in values] + [
        path for key, value in values.items() for path in paths(value, *above, key)
    ]


EVERYWHERE = paths(tree(champion=True))
NUMBERS = [path for path in EVERYWHERE if path.endswith((".value", ".low", ".mse", ".num_samples", ".seed"))]
ONE_OF_SEVERAL = ("measuring.", "slices.", "severity.", "sweeps.", "baselines.")
"""Parts that the data name: without one of them the others are judged, without all of them none."""


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NUMBERS), st.sampled_from([math.nan, math.inf, -math.inf, True, [0.5], "0.5"]))
def test_evidence_with_something_else_in_place_of_a_number_cannot_be_read(path: str, value: Any) -> None:
    with pytest.raises(CorruptError, match="cannot be used"):
        Evidence.from_json(changed(tree(champion=True), {path: value}))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(EVERYWHERE))
def test_evidence_that_lacks_something_cannot_be_read_or_refuses(path: str) -> None:
    lacking = changed(tree(champion=True), {path: ...})
    parent = path[: path.rindex(".") + 1] if "." in path else ""
    try:
        verdict = decide(SECTION, Evidence.from_json(lacking))
    except CorruptError as error:
        assert "cannot be used" in error.problem
    else:
        assert parent.endswith(ONE_OF_SEVERAL) or not verdict.passed


@pytest.mark.parametrize(
    ("place", "rule"),
    [
        ("heads.noise.all.measures.mse", "max_mse"),
        ("heads.noise.all.measures.r2", "skill"),
        ("heads.noise.baselines.simple.lead", "baseline_skill"),
        ("sweeps.noise easy.spearman", "severity_sweep"),
        ("heads.noise.cross_talk.watermark", "cross_talk"),
        ("heads.noise.clean_flags.flagged_share", "clean_flags"),
    ],
)
def test_a_figure_that_is_not_defined_refuses_though_others_of_its_kind_are_good(
    place: str, rule: str
) -> None:
    verdict = decide(SECTION, evidence({place: UNDEFINED}))
    assert refused(verdict) == [("noise", rule)]
    assert "is not defined" in verdict.refusals[0]


def test_what_was_never_measured_refuses_every_head() -> None:
    changes = {"sweeps": {}}
    for head in HEADS:
        changes |= {f"heads.{head}.baselines": {}, f"heads.{head}.cross_talk": {}}
        changes |= {
            f"heads.{head}.clean_flags": {"threshold": None, "num_images": 0, "flagged_share": UNDEFINED}
        }
    verdict = decide(SECTION, evidence(changes))
    rules = ("baseline_skill", "severity_sweep", "cross_talk", "clean_flags")
    assert refused(verdict) == [(head, rule) for rule in rules for head in HEADS]
    assert sum("the model's threshold for flags is missing" in reason for reason in verdict.refusals) == 4


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("candidate.heads.noise.all.measures.mse", estimate(-0.01), "impossible"),
        ("candidate.heads.noise.all.measures.r2", estimate(1.5), "impossible"),
        ("candidate.heads.noise.cross_talk.blurriness", estimate(-0.1), "impossible"),
        ("champion.heads.noise.difference", estimate(1.5), "impossible"),
        ("champion.heads.noise.difference", estimate(0.0, 0.1, -0.1), "ends before it begins"),
        ("champion.heads.noise.difference", estimate(0.0, 0.1, None), "two ends"),
        ("champion.heads.noise", ..., "heads are color_cast, blurriness, watermark, not"),
        ("candidate.heads", {}, "heads are missing"),
        ("candidate.sweeps.noise easy.head", "hue", "candidate.sweeps.noise easy.head"),
        ("candidate.data_sha256", "", "candidate.data_sha256"),
        ("candidate.heads.noise.all.measures.mse.value", math.nan, "mse.value"),
        ("format_version", 0, "format_version"),
        ("candidate.surplus", 1, "candidate.surplus"),
    ],
)
def test_what_is_impossible_is_an_error_that_names_the_place(path: str, value: Any, reason: str) -> None:
    with pytest.raises(CorruptError, match=r"Measure the model again") as caught:
        Evidence.from_json(changed(tree(champion=True), {path: value}))
    assert reason in caught.value.problem


def test_evidence_is_read_as_it_was_written_and_the_verdict_is_json(tmp_path: Any) -> None:
    known = evidence(champion=True)
    known.write(tmp_path / "evidence.json")
    assert Evidence.read(tmp_path / "evidence.json") == known
    json.dumps({"verdict": asdict(decide(SECTION, known)), **known.to_json()}, allow_nan=False)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null"])
def test_a_file_that_holds_no_evidence_is_corrupt(tmp_path: Any, text: str) -> None:
    (tmp_path / "evidence.json").write_text(text)
    with pytest.raises(CorruptError):
        Evidence.read(tmp_path / "evidence.json")
