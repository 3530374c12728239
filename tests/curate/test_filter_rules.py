"""What rules drop: bounds, flags, shares, conditions, and the same share of each stratum."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quality_model.curate.originals import Rows
from quality_model.curate.rules import (
    Balance,
    BestOfDuplicates,
    Bound,
    Flag,
    Only,
    Rule,
    Where,
    Worst,
    flag_rules,
    judge,
)
from quality_model.errors import UsageError
from quality_model.records import HEADS, Head
from quality_model.score.result import SCHEMA

THRESHOLDS: dict[Head, float] = {"noise": 0.5}
TENTH = Fraction(1, 10)


def rows_in(folder: Path, rows: Sequence[dict[str, Any]], per_file: int = 4) -> Rows:
    """A result's rows, in several files. What is not named is null; a score not named is 0."""
    files = []
    for number, first in enumerate(range(0, len(rows), per_file)):
        full = [
            {
                **dict.fromkeys((*HEADS, "overall", "worst_score"), 0.0 if "error_code" not in row else None),
                **row,
            }
            for row in rows[first : first + per_file]
        ]
        files.append(folder / f"{number}.parquet")
        pq.write_table(pa.Table.from_pylist(full, schema=SCHEMA), files[-1])
    return Rows.of(files, THRESHOLDS)


def dropped(rows: Rows, *rules: Rule, balance: Balance | None = None) -> set[str]:
    """The keys of rows with scores that are not kept."""
    kept = judge(rows, rules, balance).kept
    keys = [key for batch in rows.batches(["key"]) for key in batch.column(0).to_pylist()]
    return {
        key
        for key, is_kept, is_scored in zip(keys, kept, rows.scored, strict=True)
        if is_scored and not is_kept
    }


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Ten rows a0 to a9 with noise 0, .1, ..., .9, one without jpeg_quality, and one with an error code."""
    scored = [
        {"key": f"a{n}", "noise": n / 10, "worst_score": n / 10, "overall": 1 - n / 10, "width": 100 * n}
        | {
            "is_noisy": n > 5,
            "jpeg_quality": None if n == 3 else 10 * n,
            "format": "PNG" if n % 2 else "JPEG",
            "phash": n * 2**59 + 1,
        }
        for n in range(10)
    ]
    return rows_in(tmp_path, [*scored, {"key": "bad", "error_code": "truncated", "size_bytes": 3}])


def keys(*numbers: int) -> set[str]:
    return {f"a{number}" for number in numbers}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Bound("noise", 0.7), keys(8, 9)),  # the 32-bit .7 is below the 64-bit one: equal is kept
        (Bound("overall", 0.25, is_lowest=True), keys(8, 9)),
        (Bound("width", 100, is_lowest=True), keys(0)),
        (Bound("jpeg_quality", 35, is_lowest=True), keys(0, 1, 2)),  # a3 has none and stays
        (Bound("phash", 2**61), keys(5, 6, 7, 8, 9)),
        (Bound("size_bytes", 0), keys()),  # only the row with an error has it
        (Flag("noise"), keys(6, 7, 8, 9)),
        (Flag("noise", 0.85), keys(9)),
        (Flag("blurriness", 0.5), keys()),
        (Worst(Fraction(1, 5)), keys(8, 9)),
        (Worst(Fraction(1, 4), "overall"), keys(7, 8, 9)),  # 2.5 of ten: the nearest whole number, up
        (Worst(Fraction(1, 100), "noise"), keys()),
        (Where("noise < .3 and width >= 100 or key == 'a9'"), keys(0, 3, 4, 5, 6, 7, 8)),
        (Where("noise <= .3 or noise in (.6, .7) or .9 == noise"), keys(4, 5, 8)),  # as they are shown
        (Where(".1 < noise < .3 or noise > .8 or noise == .6"), keys(0, 1, 3, 4, 5, 7, 8)),
        (Where("noise not in [.3] and noise != .6 and noise > -.1"), keys(3, 6)),
        (Where("not is_noisy"), keys(6, 7, 8, 9)),
        (Where("jpeg_quality > 20"), keys(0, 1, 2, 3)),  # null is not true
        (Where("jpeg_quality > 20 or jpeg_quality is null"), keys(0, 1, 2)),
        (Where("format in ('JPEG', 'GIF') and width / 100 - 1 > -.5"), keys(0, 1, 3, 5, 7, 9)),
        (Where("width / 200 == 1.5 or width * 30000000 > 26999999999"), keys(0, 1, 2, 4, 5, 6, 7, 8)),
        (Where("width / 0 > 1 or width < 100"), keys()),
        (Where("jpeg_quality not in (10, 20)"), keys(1, 2, 3)),
        (Where("100 < width <= 300"), keys(0, 1, 4, 5, 6, 7, 8, 9)),
        (Where("starts_with(key, 'a') and not ends_with(key, '4') and contains(key, 'a')"), keys(4)),
    ],
)
def test_a_rule_drops_what_it_says_and_nothing_else(rows: Rows, rule: Rule, expected: set[str]) -> None:
    assert dropped(rows, rule) == expected
    assert judge(rows, [rule]).counts[0].drops == len(expected)


def test_an_image_is_kept_if_no_rule_drops_it_and_each_rule_counts_what_it_alone_drops(rows: Rows) -> None:
    verdict = judge(rows, [Bound("noise", 0.65), Where("format == 'JPEG'"), Bound("width", 900)])
    assert [(count.drops, count.alone) for count in verdict.counts] == [(3, 1), (5, 3), (0, 0)]
    assert verdict.kept.sum() == 4
    assert rows.errors == {"truncated": 1}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Bound("nois", 0.1), "Did you mean noise"),
        (Bound("format", 0.1), "holds string, no numbers"),
        (Worst(TENTH, "width"), "no score"),
        (Flag("blurriness"), "--max blurriness=SCORE"),
        (Where("nois < .3"), "Did you mean noise"),
        (Where("noise = .3"), "no condition"),
        (Where("noise <"), "no condition"),
        (Where("width"), "int32, neither true nor false"),
        (Where("width < 'x'"), "no condition"),
        (Where("1 < 2"), "names no column"),
        (Where("__import__('os').system('true')"), "no column '__import__'"),
        (Where("key.__class__ == 1"), "not allowed"),
        (Where("[key for key in key]"), "not allowed"),
        (Where("width in (height, 1)"), "numbers or texts"),
        (Where("(" * 5000 + "noise" + ")" * 5000), "no condition"),
        (Where("width < 1" + "0" * 40), "no condition"),
        (Where("key == 'a' * 9999999999"), "no condition"),
        (Where(""), "no condition"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_with_a_remedy(rows: Rows, rule: Rule, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        judge(rows, [rule])
    assert said in str(refusal.value)


@pytest.mark.parametrize("name", ["keys.txt", "nul.txt", "keys.csv", "keys.parquet"])
def test_any_tool_can_choose_the_keys_that_are_kept(rows: Rows, tmp_path: Path, name: str) -> None:
    import duckdb

    path, chosen = tmp_path / name, ("a1", "a7", "elsewhere", "bad")
    if path.suffix == ".txt":
        path.write_text(("\0" if name == "nul.txt" else "\n").join((*chosen, "")))
    else:
        duckdb.sql(f"COPY (SELECT unnest({list(chosen)}) AS key) TO '{path}'")
    assert dropped(rows, Only(path)) == keys(0, 2, 3, 4, 5, 6, 8, 9)
    assert dropped(rows, Only(path), balance=Balance("format")) == keys(0, 2, 3, 4, 5, 6, 8, 9)
    with pytest.raises(UsageError, match="cannot be read"):
        judge(rows, [Only(tmp_path / f"no{name}")])
    assert judge(rows, [Only(path)]).notes == (f"1 of 4 keys in {path} are not in the result.",)


def test_lists_of_editors_that_mark_utf8_and_labels_of_several_heads_name_keys_too(
    rows: Rows, tmp_path: Path
) -> None:
    edited, labels = tmp_path / "edited.txt", tmp_path / "labels.csv"
    edited.write_bytes("\ufeffa1\r\na7\r\n".encode())
    labels.write_text("key,head,label\na1,noise,bad\na1,blurriness,bad\na7,noise,good\n")
    assert dropped(rows, Only(edited)) == dropped(rows, Only(labels)) == keys(0, 2, 3, 4, 5, 6, 8, 9)


def test_keys_of_another_collection_are_refused_with_one_of_each(rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("\nalbum/a1\nalbum/a7\n")
    with pytest.raises(UsageError, match="has not one key of the result: album/a1 is none, a0 is one"):
        judge(rows, [Only(tmp_path / "keys.txt")])


def test_of_near_duplicates_the_best_that_other_rules_keep_stays(tmp_path: Path) -> None:
    detail = 0x5A5A_3C3C_0FF0_25C3
    made = [
        {
            "key": key,
            "sha256": key,
            "phash": phash,
            "worst_score": score,
            "width": 10,
            "height": 10,
            "size_bytes": 9,
        }
        for key, phash, score in (
            *(("best", detail, 0.0), ("copy", detail ^ 1, 0.4), ("worse copy", detail ^ 3, 0.8)),
            ("another", ~detail, 0.9),
        )
    ]
    rows = rows_in(tmp_path, [*made, {"key": "bad", "error_code": "empty"}], per_file=2)
    assert dropped(rows, BestOfDuplicates()) == {"copy", "worse copy"}
    rules = [BestOfDuplicates(), Where("key != 'best'")]
    assert dropped(rows, *rules) == {"best", "worse copy"}
    assert [(count.drops, count.alone) for count in judge(rows, rules).counts] == [(1, 1), (1, 1)]
    assert dropped(rows, BestOfDuplicates(), balance=Balance("format")) == {"copy", "worse copy"}
    assert dropped(rows, BestOfDuplicates(0)) == set()


def test_flags_are_those_of_all_heads_with_a_threshold_or_of_those_that_are_named(rows: Rows) -> None:
    assert flag_rules(rows) == [Flag("noise")]
    assert flag_rules(rows, own={"watermark": 0.2}) == [Flag("watermark", 0.2), Flag("noise")]
    assert flag_rules(rows, ["watermark"], {"watermark": 0.2}) == [Flag("watermark", 0.2)]
    with pytest.raises(UsageError, match="no thresholds"):
        flag_rules(dataclasses.replace(rows, thresholds={}))


@pytest.mark.parametrize("share", [Fraction(1, 3), TENTH, Fraction(99, 100)])
def test_of_equal_scores_an_exact_number_goes_and_the_same_ones_in_any_order(
    tmp_path: Path, share: Fraction
) -> None:
    rng = np.random.default_rng(0)
    made = [{"key": f"k{n}", "worst_score": float(n % 3 == 0)} for n in range(50)]
    found = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        order = rng.permutation(len(made))
        found.append(dropped(rows_in(folder, [made[n] for n in order], per_file=7 + number), Worst(share)))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == int(50 * share + Fraction(1, 2))


@pytest.fixture
def classes(tmp_path: Path) -> Rows:
    """Forty PNG files with much noise, twenty JPEG files with little, four files of no format, all alike."""
    made: list[dict[str, Any]] = []
    for kind, count, least in (("PNG", 40, 0.5), ("JPEG", 20, 0.0), (None, 4, 0.2)):
        for n in range(count):
            noise = least + (0.01 * n if kind else 0.0)
            made.append(
                {
                    "key": f"{kind}{n}",
                    "format": kind,
                    "noise": noise,
                    "worst_score": noise,
                    "is_noisy": noise > 0.8,
                }
            )
    return rows_in(tmp_path, made, per_file=9)


@pytest.mark.parametrize(
    "rule",
    [Worst(Fraction(1, 4)), Bound("noise", 0.7391), Flag("noise", 0.7391)],
    ids=["a share", "a bound", "a flag"],
)
def test_balanced_each_value_loses_the_same_share_its_own_worst(classes: Rows, rule: Rule) -> None:
    assert not {key for key in dropped(classes, rule) if key.startswith(("JPEG", "None"))}
    goes = dropped(classes, rule, balance=Balance("format"))
    assert {key for key in goes if key[0] != "N"} == {
        *(f"PNG{n}" for n in range(30, 40)),
        *(f"JPEG{n}" for n in range(15, 20)),
    }
    assert sum(key.startswith("None") for key in goes) == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_strata_come_from_a_file_in_any_order_and_a_key_without_one_is_in_a_stratum_of_its_own(
    classes: Rows, tmp_path: Path, suffix: str
) -> None:
    named = [(f"PNG{n}", n % 2) for n in range(39, -1, -1)] + [("elsewhere", 7)]
    table, path = (
        pa.table({"key": [key for key, _ in named], "class": [c for _, c in named]}),
        tmp_path / f"x{suffix}",
    )
    if suffix == ".csv":
        path.write_text("key,class\n" + "".join(f"{key},{number}\n" for key, number in named))
    else:
        pq.write_table(table, path)
    goes = dropped(classes, Worst(TENTH), balance=Balance("class", path))
    assert {key for key in goes if key.startswith("PNG")} == {"PNG39", "PNG38", "PNG37", "PNG36"}
    assert len(goes) == 4 + 2  # a tenth of 24


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("key,other\nPNG1,1\n", "no column 'class'"),
        ("key,class\nPNG1,1\nPNG1,2\n", "a key twice"),
        ("key,class\nx,1\n", "not one key"),
        ("", "cannot be read"),
    ],
)
def test_a_file_of_strata_that_does_not_fit_is_refused(
    classes: Rows, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "strata.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        judge(classes, [Worst(TENTH)], Balance("class", path))


def test_a_condition_cannot_be_balanced_and_a_column_must_be_there(classes: Rows) -> None:
    with pytest.raises(UsageError, match="no order"):
        judge(classes, [Where("noise < 1")], Balance("format"))
    with pytest.raises(UsageError, match="Did you mean format"):
        judge(classes, [Worst(TENTH)], Balance("formt"))


def test_where_nothing_has_scores_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    rows = rows_in(tmp_path, [{"key": "x", "error_code": "empty"}])
    verdict = judge(rows, [Worst(TENTH), Bound("noise", 0.5), Where("noise < 1"), Flag("noise")], None)
    assert not verdict.kept.any()
    assert [count.drops for count in verdict.counts] == [0, 0, 0, 0]
    assert not judge(rows, [Worst(TENTH), Bound("noise", 0.5)], Balance("format")).kept.any()
