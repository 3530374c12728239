"""Near duplicates: which are found, which image of each group is kept, and what the command says."""

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from quality_model.cli import cli, run
from quality_model.core.decoding import Pixels
from quality_model.core.measures import NEAR_DUPLICATE_BITS
from quality_model.curate.duplicates import (
    COLUMNS,
    MAX_DISTANCE,
    REPORT_SCHEMA,
    DuplicatesReport,
    Hashes,
    Indices,
    find_groups,
    leaders,
    report_duplicates,
)
from quality_model.errors import UsageError

DETAIL = 0x5A5A_3C3C_0FF0_A5C3
"""A hash of 32 bits, as those of photographs."""


def flipped(bits: int, of: int = DETAIL) -> int:
    """The hash with its lowest bits changed."""
    return of ^ ((1 << bits) - 1)


def table_of(*rows: dict[str, object]) -> pa.Table:
    """Rows of a result: a.jpg, b.jpg, ..., unlike each other in nothing but what is said."""
    made = []
    for number, row in enumerate(rows):
        key = f"{chr(ord('a') + number)}.jpg"
        values = {"key": key, "sha256": key, "phash": DETAIL, "worst_score": 0.3, "width": 40, "height": 30}
        values |= {"size_bytes": 1000, "jpeg_quality": 90, "error_code": None, **row}
        if values["error_code"] is not None:
            values |= dict.fromkeys(["phash", "worst_score", "width", "height"])
        if values["phash"] is not None:
            values["phash"] = int(np.uint64(values["phash"]).astype(np.int64))
        made.append(values)
    types = [
        pa.string(),
        pa.string(),
        pa.int64(),
        pa.float32(),
        pa.int32(),
        pa.int32(),
        pa.int64(),
        pa.int32(),
        pa.string(),
    ]
    return pa.Table.from_pylist(made, schema=pa.schema(list(zip(COLUMNS, types, strict=True))))


def kept_one_by_one(hashes: Hashes, max_distance: int) -> Indices:
    """`leaders`, by its definition."""
    kept: list[int] = []
    found = []
    for number, value in enumerate(hashes):
        near = np.bitwise_count(hashes[kept] ^ value) <= max_distance
        found.append(kept[int(near.argmax())] if near.any() else number)
        if not near.any():
            kept.append(number)
    return np.array(found, dtype=np.int64)


def hashes_with_groups(num: int, seed: int, alike: int = 0) -> npt.NDArray[np.uint64]:
    """Random hashes, copies of a third of them with up to 13 bits changed, and some that are all alike."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, num, dtype=np.uint64)
    near = np.concatenate([hashes[: num // 3], hashes[:1].repeat(alike)])
    for _ in range(13):
        near ^= np.uint64(1) << random.integers(0, 64, len(near), dtype=np.uint64)
        hashes = np.concatenate([hashes, near[random.random(len(near)) < 0.3]])
    random.shuffle(hashes)
    return hashes


@pytest.mark.parametrize("max_distance", range(NEAR_DUPLICATE_BITS + 1))
def test_every_hash_joins_the_first_kept_one_within_the_distance(max_distance: int) -> None:
    hashes = hashes_with_groups(1500, seed=max_distance)
    assert (leaders(hashes, max_distance) == kept_one_by_one(hashes, max_distance)).all()


@pytest.mark.parametrize("max_distance", [2, 6, 8])
def test_thousands_that_are_all_alike_are_found_as_exactly(max_distance: int) -> None:
    hashes = hashes_with_groups(1000, seed=1, alike=1500)
    assert (leaders(hashes, max_distance) == kept_one_by_one(hashes, max_distance)).all()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 255), max_size=40),
    st.integers(0, NEAR_DUPLICATE_BITS),
)
def test_any_hashes_are_found_exactly(values: list[int], max_distance: int) -> None:
    hashes = np.array(values, dtype=np.uint64)
    assert (leaders(hashes, max_distance) == kept_one_by_one(hashes, max_distance)).all()


def test_images_within_the_distance_are_a_group_and_others_are_alone() -> None:
    table = table_of(
        {"phash": flipped(64)}, {}, {"phash": flipped(6)}, {"phash": flipped(64)}, {"phash": flipped(20)}
    )
    found = find_groups(table, 6)
    assert found.group.tolist() == [0, 1, 1, 0, -1]
    assert found.is_best.tolist() == [True, True, False, False, True]
    assert found.distance.tolist() == [0, 0, 6, 0, 0]
    assert find_groups(table, 5).group.tolist() == [0, -1, -1, 0, -1]


def test_a_chain_of_small_changes_does_not_join_what_is_far_apart() -> None:
    table = table_of(*({"phash": flipped(4 * step), "width": 100 - step} for step in range(7)))
    found = find_groups(table, 6)
    assert found.group.tolist() == [0, 0, 1, 1, 2, 2, -1]
    assert found.distance.max() == 4


@pytest.mark.parametrize(
    "better",
    [
        {"worst_score": 0.2, "width": 38},  # a tenth of a score is worth more than a little size
        {"worst_score": 0.45, "width": 80, "height": 60, "size_bytes": 1},  # half the size hides noise
        {"worst_score": 0.33, "jpeg_quality": 99, "size_bytes": 1},  # so does compression
        {"worst_score": 0.33, "jpeg_quality": None},  # no JPEG file
        {"worst_score": 0.29, "size_bytes": 1},
        {"size_bytes": 1001},
        {},  # equal: the first key
    ],
    ids=["score", "size", "quality", "lossless", "alike", "bytes", "key"],
)
def test_the_best_of_a_group_has_the_lowest_score_where_size_and_compression_count_too(
    better: dict[str, object],
) -> None:
    rows = [{**better, "key": "a"}, {"key": "b", "sha256": "b"}]
    assert find_groups(table_of(*rows)).is_best.tolist() == [True, False]
    assert find_groups(table_of(*rows[::-1])).is_best.tolist() == [False, True]


def test_no_two_kept_images_are_near_and_every_dropped_one_has_a_kept_one_beside_it() -> None:
    hashes = hashes_with_groups(600, seed=4)
    scores = np.random.default_rng(5).random(len(hashes))
    rows = [{"phash": int(h), "sha256": str(n), "key": str(n)} for n, h in enumerate(hashes)]
    found = find_groups(table_of(*({**r, "worst_score": s} for r, s in zip(rows, scores, strict=True))), 8)
    kept = hashes[found.is_best]
    apart = np.bitwise_count(kept[:, None] ^ kept)
    assert np.triu(apart <= 8, 1).sum() == 0
    best = {int(group): number for number, group in enumerate(found.group) if found.is_best[number]}
    for number in np.flatnonzero(~found.is_best):
        of_group = best[int(found.group[number])]
        assert np.bitwise_count(hashes[number] ^ hashes[of_group]) == found.distance[number] <= 8
        assert scores[of_group] <= scores[number]


@pytest.mark.parametrize("plain", [0, 1 << 63, 0x8000_0000_0000_00FF], ids=["black", "grey", "stripes"])
def test_plain_images_are_duplicates_only_if_the_files_are_equal(plain: int) -> None:
    rows = [{"phash": plain, "sha256": digest} for digest in "xyxz"]
    assert find_groups(table_of(*rows), NEAR_DUPLICATE_BITS).group.tolist() == [0, -1, 0, -1]


def test_equal_files_are_duplicates_also_without_a_hash() -> None:
    table = table_of({"phash": None, "sha256": "x"}, {"phash": None, "sha256": "x"}, {"phash": None}, {})
    assert find_groups(table).group.tolist() == [0, 0, -1, -1]


def test_rows_with_errors_are_kept_and_in_no_group() -> None:
    broken = {"error_code": "truncated", "sha256": "x"}
    found = find_groups(table_of(broken, broken, {}, {}, {**broken, "sha256": None}))
    assert found.group.tolist() == [-1, -1, 0, 0, -1]
    assert found.is_best.tolist() == [True, True, True, False, True]


def test_nothing_is_in_no_group() -> None:
    assert len(find_groups(table_of()).is_best) == 0
    assert find_groups(table_of({"error_code": "truncated"})).is_best.tolist() == [True]


def test_a_result_without_hashes_and_a_distance_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="--measures"):
        find_groups(table_of({"phash": None}, {"phash": None}))
    for distance in (-1, NEAR_DUPLICATE_BITS + 1):
        with pytest.raises(UsageError, match="0 to 10"):
            find_groups(table_of({}), distance)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> Path:
    """A photograph with copies, another one, plain images, and a broken file."""
    folder = tmp_path_factory.mktemp("images")
    whole = Image.fromarray(photo)
    whole.save(folder / "photo.png")
    whole.save(folder / "saved.jpg", quality=75)
    whole.resize((256, 256)).save(folder / "small.jpg", quality=90)
    whole.crop((5, 5, 507, 507)).save(folder / "cropped.jpg", quality=90)
    ImageEnhance.Brightness(whole).enhance(0.9).save(folder / "darker.jpg", quality=90)
    whole.crop((256, 256, 512, 512)).save(folder / "other.jpg", quality=90)
    for name, color in {"red.png": "red", "blue.png": "blue"}.items():
        Image.new("RGB", (64, 64), color).save(folder / name)
    shutil.copyfile(folder / "red.png", folder / "red again.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def scored(images: Path, output: Path, *more: str) -> Path:
    arguments = ["score", str(images), "--output", str(output), "--model", "bundled", "--workers", "1"]
    assert run([*arguments, "--max-error-share", "1", *more]) == 0
    return output


@pytest.fixture(scope="module")
def result(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored(images, tmp_path_factory.mktemp("scores") / "OUT")


def duplicates(*arguments: object) -> str:
    done = CliRunner().invoke(cli, ["duplicates", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_the_command_names_the_groups_and_writes_them(result: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "new" / f"groups{suffix}"
    assert duplicates(result, "--to", file) == duplicates(result, "--to", file)
    shown = duplicates(result, "--to", file)
    assert "2 groups of near duplicates, with 7 of 10 inputs" in shown
    assert "5 images" in shown and "and 3 more" in shown and str(file) in shown
    rows = pd.read_csv(file) if suffix == ".csv" else pd.read_parquet(file)
    assert list(rows) == ["key", "group", "is_best", "distance"]
    groups = [sorted(keys) for _, keys in rows.groupby("group")["key"]]
    copies = ["cropped.jpg", "darker.jpg", "photo.png", "saved.jpg", "small.jpg"]
    assert sorted(groups) == [copies, ["red again.png", "red.png"]]
    assert rows.groupby("group")["is_best"].sum().tolist() == [1, 1]
    assert rows.groupby("group")["is_best"].first().all()
    assert rows["distance"].max() <= MAX_DISTANCE
    assert not rows.loc[rows["is_best"], "key"].isin(["small.jpg"]).any()


def test_the_bytes_are_those_of_all_but_the_best(result: Path) -> None:
    rows = pq.read_table(result / "data").to_pandas().set_index("key")
    found = report_duplicates(result)
    table = found.table.to_pandas()
    spare = rows.loc[table.loc[~table["is_best"], "key"], "size_bytes"].sum()
    assert f"{spare / 1e6:.1f} MB" in next(iter(found.lines()))


def test_a_result_without_duplicates_says_so(tmp_path: Path) -> None:
    found = DuplicatesReport(1, REPORT_SCHEMA.empty_table(), np.empty(0, np.int64))
    found.write(tmp_path / "none.csv")
    (line,) = found.lines()
    assert line.startswith("0 groups of near duplicates, with 0 of 1 ")
    assert (tmp_path / "none.csv").read_text() == '"key","group","is_best","distance"\n'


def test_the_default_distance_is_that_of_the_library() -> None:
    shown = " ".join(duplicates("--help").split())
    assert f"0 to {NEAR_DUPLICATE_BITS}. [default: {MAX_DISTANCE}]" in shown


def test_a_result_without_hashes_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--measures"):
        report_duplicates(scored(images / "photo.png", tmp_path / "none", "--measures", "none"))


def test_a_file_of_another_kind_is_refused_before_the_search(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["duplicates", str(tmp_path), "--to", "groups.json"])
    assert isinstance(done.exception, UsageError) and ".parquet" in str(done.exception)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_that_holds_something_else_is_never_overwritten(
    result: Path, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"images{suffix}"
    file.write_bytes(next((result / "data").glob("*")).read_bytes() if suffix == ".parquet" else b"key\na\n")
    before = file.read_bytes()
    done = CliRunner().invoke(cli, ["duplicates", str(result), "--to", str(file)])
    assert isinstance(done.exception, UsageError) and "holds no groups" in str(done.exception)
    assert file.read_bytes() == before
