"""What moved between two results: calibration, power, bad input, and what the command writes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from quality_model.cli import run
from quality_model.curate.finished import open_finished
from quality_model.params import Params
from quality_model.records import FLAG_COLUMNS, HEADS
from quality_model.score.distributions import BINS, NUM_BINS, ROW_COLUMNS, Distributions
from quality_model.score.summary import DISTRIBUTIONS_NAME
from quality_model.watch.drift import compare, distributions_of, moving_images, shifts
from tests.curate.conftest import image
from tests.score.conftest import IDENTITY, runner

Rows = dict[str, np.ndarray]


def collection(random: np.random.Generator, count: int) -> Rows:
    """Scores and measures as photographs have them: heads skewed to 0, measures that depend on each other."""
    rows = {head: random.beta(0.6, 8, count) for head in HEADS}
    rows["overall"] = 1 - sum(rows.values()) / 4
    rows["width"] = random.choice([640, 1024, 4000], count)
    rows["height"] = random.choice([480, 768, 3000], count)
    rows["aspect_ratio"] = rows["width"] / rows["height"]
    rows["bits_per_pixel"] = random.lognormal(0.7, 0.6, count)
    rows["median_luminance"] = random.integers(0, 256, count) / 255
    rows["entropy"] = 8 * random.beta(9, 1.5, count)
    return rows


def counted(rows: Mapping[str, Any], errors: Mapping[str, int] | None = None) -> Distributions:
    found = Distributions()
    count = len(next(iter(rows.values())))
    flags = {name: rows[head] > 0.25 for head, name in FLAG_COLUMNS.items() if head in rows}
    found.add(pa.table({**rows, **flags, "error_code": pa.nulls(count, pa.string())}))
    codes = [code for code, number in (errors or {}).items() for _ in range(number)]
    if codes:
        empty = {name: pa.nulls(len(codes), pa.float64()) for name in rows}
        found.add(pa.table({**empty, "error_code": codes}))
    return found


def moved(before: Distributions, now: Distributions, alpha: float = 0.05) -> set[str]:
    return {column.name for column in shifts(before, now, alpha=alpha, heads=HEADS)[0] if column.has_moved}


def test_halves_of_one_collection_are_said_to_have_moved_in_at_most_one_of_twenty() -> None:
    random = np.random.default_rng(1)
    rows = collection(random, 2000)
    alarms = 0
    for _ in range(200):
        order = random.permutation(2000)
        halves = [{name: values[half] for name, values in rows.items()} for half in np.split(order, 2)]
        alarms += bool(moved(counted(halves[0], {"truncated": 7}), counted(halves[1], {"truncated": 5})))
    assert alarms <= 10


@pytest.mark.parametrize("head", HEADS)
def test_a_tenth_of_degraded_images_among_two_thousand_is_found(head: str) -> None:
    for seed in range(10):
        random = np.random.default_rng(seed)
        before, now = (collection(random, 2000) for _ in range(2))
        now[head][:200] = random.normal(0.5, 0.1, 200).clip(0, 1)
        assert moved(counted(before), counted(now), 0.025) == {head}


def test_a_new_error_code_moves_and_a_few_of_it_do_not() -> None:
    rows = collection(np.random.default_rng(0), 1000)
    assert moved(counted(rows), counted(rows, {"truncated": 30})) == {"error:truncated"}
    assert moved(counted(rows), counted(rows, {"truncated": 2})) == set()


def test_with_very_many_images_a_tiny_change_is_certain_and_is_not_reported() -> None:
    values = np.linspace(0, 0.5, 10**6)
    columns, _ = shifts(counted({"noise": values}), counted({"noise": values + 0.005}))
    (noise,) = (column for column in columns if column.name == "noise")
    assert noise.p < 1e-9 and not noise.has_moved


def test_columns_that_were_not_measured_are_named_and_the_others_compared() -> None:
    random = np.random.default_rng(0)
    full, bare = collection(random, 500), collection(random, 500)
    del bare["entropy"]
    bare["bits_per_pixel"][50:] = np.nan
    columns, skipped = shifts(counted(full), counted(bare))
    assert skipped == {"entropy": "not measured", "bits_per_pixel": "fewer than 100 values"}
    assert {column.name for column in columns} == {*BINS} - {*skipped}


def test_bins_hold_values_beyond_their_ends_and_say_what_they_hold() -> None:
    for bins in BINS.values():
        ends = bins.places([bins.low / 2 - 1, bins.low, bins.high, bins.high * 2])
        assert ends.tolist() == [0, 0, NUM_BINS - 1, NUM_BINS - 1]
        middles = [(bins.value(place) + bins.value(place + 1)) / 2 for place in range(NUM_BINS)]
        assert bins.places(middles).tolist() == [*range(NUM_BINS)]


# -- results


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """Results: ``ref``, ``noisy`` with 40 of 120 images brighter, and those that cannot be compared."""
    place = tmp_path_factory.mktemp("drift")

    def score(name: str, count: int, levels: Callable[[int], int], **changes: Any) -> None:
        folder = place / f"{name}-images"
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:03}.png").write_bytes(image(levels(number)))
        runner(params, place / name)(folder, shard_size=50, **changes)

    score("ref", 120, lambda number: number % 40)
    score("noisy", 120, lambda number: 150 + number if number < 40 else number % 40)
    score("few", 99, lambda number: number % 40)
    score("other", 120, lambda number: number % 41, model=replace(IDENTITY, sha256="f" * 64))
    score("scale", 120, lambda number: number % 42, model=replace(IDENTITY, scale_version="9"))
    score("bare", 120, lambda number: number % 43, measures=())
    return place


def test_what_is_stored_is_what_the_rows_have(place: Path) -> None:
    stored, result = place / "noisy" / DISTRIBUTIONS_NAME, open_finished(place / "noisy")
    marker = json.loads((place / "noisy" / "job.json").read_text())
    assert DISTRIBUTIONS_NAME in [entry["name"] for entry in marker["files"]]
    merged = Distributions()
    for batch in reversed([*result.batches(ROW_COLUMNS)]):
        merged.add(batch)
    kept = stored.read_text()
    assert merged.to_json() == distributions_of(result).to_json() == json.loads(kept)
    stored.write_text(kept.replace('"high": 8.0', '"high": 9.0'))  # bins of another release
    assert Distributions.read(stored) is None
    assert distributions_of(result).to_json() == json.loads(kept)
    stored.write_text(kept)


def test_the_command_names_what_moved_and_the_images_that_moved_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, page = tmp_path / "moved.txt", tmp_path / "moved.html"
    arguments = ["drift", str(place / "noisy"), "--against", str(place / "ref")]
    assert run([*arguments, "--to", str(keys), "--gallery", str(page)]) == 0
    out = capsys.readouterr().out
    assert "120 images of" in out and "Moved (p at most 0.025" in out and "Not compared" not in out
    named = keys.read_text().split()
    assert {*named[:40]} == {f"{number:03}.png" for number in range(40)}
    assert "times as frequent" in page.read_text()
    assert run([*arguments, "--fail"]) == 14
    assert "Moved since" in capsys.readouterr().err
    assert run(["gallery", str(place / "noisy"), "--only", str(keys), "--to", str(page)]) == 0


def test_a_later_look_asks_for_more(place: Path) -> None:
    first, tenth = (compare(place / "noisy", place / "ref", look=look) for look in (1, 10))
    assert (first.alpha, tenth.alpha) == pytest.approx((0.05 / 2, 0.05 / 110))
    assert [column.p for column in first.columns] == [column.p for column in tenth.columns]
    (noise,) = (column for column in first.columns if column.name == "noise")
    assert (
        noise.share is not None and noise.share.low < noise.share.now - noise.share.before < noise.share.high
    )


def test_nothing_moved_is_no_failure_and_writes_no_images(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, page = tmp_path / "moved.txt", tmp_path / "moved.html"
    places = [str(place / "bare"), "--against", str(place / "ref")]
    assert run(["drift", *places, "--fail", "--to", str(keys), "--gallery", str(page)]) == 0
    out = capsys.readouterr().out
    assert (
        "Nothing is shown to have moved" in out
        and "no image moved it" in out
        and "entropy (not measured)" in out
    )
    assert keys.read_text() == "" and not page.exists()
    assert moving_images(compare(place / "bare", place / "ref")) == []


@pytest.mark.parametrize(
    ("now", "reference", "said"),
    [
        ("ref", "nothing", "not there"),
        ("ref", "ref", "are the same result"),
        ("few", "ref", "has 99 scored images; a comparison needs 100"),
        ("ref", "few", "has 99 scored images; a comparison needs 100"),
        ("other", "ref", "scores of different models"),
        ("scale", "ref", "scores of different versions of the scale"),
        ("ref-images", "ref", "no result of `score`"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_no_verdict(
    place: Path, now: str, reference: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["drift", str(place / now), "--against", str(place / reference)]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.out == ""


def test_no_file_of_a_result_is_overwritten(place: Path) -> None:
    for name in ("ref", "noisy"):
        marker = place / name / "job.json"
        kept = marker.read_bytes()
        for flag, file in (("--to", marker), ("--gallery", place / name / "data" / "page.html")):
            words = ["drift", str(place / "noisy"), "--against", str(place / "ref"), flag, str(file)]
            assert run(words) == 2
        assert marker.read_bytes() == kept and not (place / name / "data" / "page.html").exists()


def test_without_a_reference_there_is_no_verdict(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drift", str(place / "ref")]) == 2
    assert "--against" in capsys.readouterr().err


def test_damaged_distributions_are_named(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "distributions.json"
    path.write_text('{"inputs": 3}')
    assert run(["drift", str(place / "ref"), "--against", str(tmp_path)]) == 2
    with pytest.raises(Exception, match="is damaged"):
        Distributions.read(path)
