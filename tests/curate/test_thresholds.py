"""Thresholds that flag a share, and the file that keeps thresholds."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from quality_model.curate.thresholds import (
    MadeWith,
    OwnThresholds,
    lines_to_use,
    read_own_thresholds,
    read_thresholds,
    shortest_between,
    shown,
    threshold_for_rate,
)
from quality_model.errors import UsageError
from quality_model.records import HEADS, Head

MODEL = {"name": "bundled", "version": "3", "sha256": "a" * 64, "scale_version": "1"}


def made(by_head: dict[Head, float], change: Mapping[str, str] = MappingProxyType({})) -> OwnThresholds:
    return OwnThresholds(thresholds=by_head, model=MadeWith(**{**MODEL, **change}))


def flagged(scores: np.ndarray, target: float) -> int:
    return int((scores > threshold_for_rate(scores, target)).sum())


@pytest.mark.parametrize(
    ("count", "target", "expected"),
    [
        (100, 0.05, 5),
        (100, 0.29, 29),
        (10, 0.3, 3),
        (10, 0.05, 0),
        (3, 0.5, 1),
        (7, 0.0, 0),
        (1000, 0.999, 999),
    ],
)
def test_a_threshold_flags_the_target_exactly_where_scores_differ(
    count: int, target: float, expected: int
) -> None:
    scores = np.random.default_rng(0).permutation(np.linspace(0.0, 1.0, count)).astype(np.float32)
    assert flagged(scores, target) == expected


def test_equal_scores_are_never_flagged_beyond_the_target():
    scores = np.array([0.5] * 6 + [0.1] * 4, dtype=np.float32)
    assert flagged(scores, 0.5) == 0
    assert flagged(scores, 0.6) == 6
    assert flagged(np.zeros(9), 0.9) == 0
    assert threshold_for_rate(np.ones(3), 0.5) == 1.0
    assert flagged(np.array([0.7]), 0.99) == 0


def test_random_scores_with_ties_flag_as_many_as_they_can_and_no_more():
    generator = np.random.default_rng(7)
    for target in (0.01, 0.1, 0.33, 0.5, 0.9):
        scores = generator.integers(0, 30, 200).astype(np.float32) / 29
        found = flagged(scores, target)
        assert found <= target * 200
        below = np.unique(scores)[::-1]
        assert all((scores > s).sum() <= found or (scores > s).sum() > target * 200 for s in below)


def test_a_threshold_is_the_shortest_decimal_that_flags_the_same():
    assert shortest_between(0.2, 0.4) == 0.3
    assert shortest_between(0.30000001, 0.30000002) == pytest.approx(0.300000015)
    assert shortest_between(0.5, 0.5000001) == 0.5
    assert shortest_between(1.0, 1.0) == 1.0
    assert [shown(value) for value in (0.1, 1.0, 0.0, 1e-7)] == ["0.1", "1", "0", "0.0000001"]
    assert float(shown(1.2345e-9)) == 1.2345e-9


def test_thresholds_are_read_as_they_were_written_and_heads_merge(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "thresholds.json"
    made({"noise": 0.1}).merged_into(path).write(path)
    assert read_thresholds(path) == {"noise": 0.1}
    made({"color_cast": 0.3, "noise": 0.2}).merged_into(path).write(path)
    assert list(read_thresholds(path, scale_version="1").items()) == [("color_cast", 0.3), ("noise", 0.2)]
    assert read_own_thresholds(path).model.title == "bundled version 3"
    assert json.loads(path.read_text())["model"] == MODEL
    path.write_text('{"noise": 0, "watermark": 0.25}')
    assert read_thresholds(path, scale_version="2") == {"noise": 0.0, "watermark": 0.25}


@pytest.mark.parametrize("change", [{"sha256": "b" * 64}, {"scale_version": "2"}])
def test_thresholds_of_another_model_or_scale_do_not_merge(tmp_path: Path, change: dict[str, str]) -> None:
    path = tmp_path / "thresholds.json"
    made({"noise": 0.1}).write(path)
    with pytest.raises(UsageError, match="thresholds of bundled version 3") as caught:
        made({"watermark": 0.1}, change).merged_into(path)
    assert "another file" in caught.value.remedy
    assert read_thresholds(path) == {"noise": 0.1}


def test_thresholds_are_not_used_on_scores_of_another_scale(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    made({"noise": 0.1}).write(path)
    with pytest.raises(UsageError, match="scale version 1, and the scores are of 2"):
        read_thresholds(path, scale_version="2")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"thresholds": {"nois": 0.1}, "model": MODEL}, "thresholds.nois"),
        ({"thresholds": {"noise": 1.1}, "model": MODEL}, "thresholds.noise"),
        ({"thresholds": {"noise": "0.1"}, "model": MODEL}, "thresholds.noise"),
        ({"thresholds": {"noise": True}, "model": MODEL}, "thresholds.noise"),
        ({"thresholds": {"noise": None}, "model": MODEL}, "thresholds.noise"),
        ({"thresholds": {}, "model": MODEL}, "thresholds"),
        ({"thresholds": {"noise": 0.1}}, "model"),
        ({"thresholds": {"noise": 0.1}, "model": MODEL, "more": 1}, "more"),
        ({"noise": 2}, "noise"),
        ({"nois": 0.1}, "nois"),
        ({"noise": 0.1, "more": 1}, "more"),
        ({}, "the file"),
        ([], "the file"),
        ("{", "not JSON"),
        ('{"thresholds": {"noise": NaN}, "model": {}}', "thresholds.noise"),
    ],
)
def test_a_file_that_is_not_one_of_thresholds_is_refused(tmp_path: Path, content: object, said: str) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError) as caught:
        read_thresholds(path)
    assert said in caught.value.problem and "\n" not in caught.value.problem
    assert "quality-model thresholds" in caught.value.remedy


def test_a_missing_file_of_thresholds_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError, match=str(path)):
            read_thresholds(path)


def test_thresholds_are_shown_as_they_are_used():
    flags, params, result = lines_to_use({"noise": 0.1, "watermark": 0.25}, Path("t.json"), Path("scores/a"))
    assert flags.endswith("--flag noise=0.1 --flag watermark=0.25")
    assert params.endswith("score.thresholds: {noise: 0.1, watermark: 0.25}")
    assert result.endswith(
        "quality-model filter scores/a --thresholds t.json --flagged noise --flagged watermark"
    )
    everything = lines_to_use(dict.fromkeys(HEADS, 0.1), Path("t.json"), None)
    assert everything[2].endswith("filter OUT --thresholds t.json")
    assert len(lines_to_use({"noise": 0.1}, None, None)) == 2
