"""Plans of millions of inputs: memory stays the same, and the work for a part does."""

import itertools
import random
import re
import shutil
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from benchmarks.plans import measure
from quality_model.errors import UsageError
from quality_model.score import plan_table
from quality_model.score.reading import PlannedInput
from quality_model.score.repeats import hashes_of, repeated_hashes, with_suspicion

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="peak memory and reads are those of Linux")


def grown(kind, few, many, folder):
    costs = []
    for count in (few, many):
        (folder / str(count)).mkdir()
        costs.append(measure(kind, count, folder / str(count)))
        assert [cost.num_inputs for cost in costs[-1]] == [count, count]
        shutil.rmtree(folder / str(count))
    return zip(*costs, strict=True)


@linux_only
@pytest.mark.parametrize(
    ("kind", "few", "many"),
    [
        ("rows", 100_000, 1_000_000),
        ("urls", 20_000, 200_000),
        ("tar", 2_000, 20_000),
        ("files", 1_000, 10_000),
        pytest.param("urls", 1_000_000, 10_000_000, marks=pytest.mark.torture),
        pytest.param("rows", 1_000_000, 10_000_000, marks=pytest.mark.torture),
    ],
)
def test_a_plan_is_made_and_read_with_memory_that_does_not_grow_and_each_input_is_read_once(
    kind, few, many, tmp_path
):
    (planned, planned_more), (read, read_more) = grown(kind, few, many, tmp_path)
    for before, after in ((planned, planned_more), (read, read_more)):
        assert after.peak_mb - before.peak_mb < 64
        assert after.read_bytes / many < 1.5 * before.read_bytes / few  # those of a start included


@linux_only
def test_all_names_of_one_folder_are_in_memory_and_little_else(tmp_path):
    (planned, planned_more), _ = grown("one-folder", 1_000, 20_000, tmp_path)
    assert (planned_more.peak_mb - planned.peak_mb) * 2**20 < 1_000 * 19_000


def test_a_part_is_read_with_its_row_groups_alone(tmp_path):
    path = tmp_path / "plan.parquet"
    plan_table.write_inputs(path, (PlannedInput(f"{number:06d}") for number in range(150_000)))
    groups = pq.read_metadata(path)
    assert [groups.row_group(number).num_rows for number in range(3)] == [65_536, 65_536, 150_000 - 131_072]
    earlier = tmp_path / "earlier.parquet"  # with a row group for each part
    pq.write_table(pq.read_table(path), earlier, row_group_size=1000)
    for first, count in [(0, 1), (65_000, 1000), (65_536, 65_536), (1, 149_999), (149_999, 1)]:
        expected = [f"{number:06d}" for number in range(first, first + count)]
        for each in (path, earlier):
            assert plan_table.read_rows(each, "", first, count)["key"].to_pylist() == expected


def test_repeated_keys_are_found_in_runs_on_the_disk_as_in_memory():
    keys = [f"key {number}" for number in range(1_200_000)]
    again = random.Random(0).sample(keys, 1000)
    found = repeated_hashes(itertools.chain(keys, again, again[:10]))
    assert found.tolist() == sorted(hashes_of(again).tolist())
    assert not len(repeated_hashes(keys))
    some = [*keys[:3], *again[:3]]
    marked = with_suspicion(some, str, found)
    assert [is_suspect for _, is_suspect in marked] == [key in set(again) for key in some]


def test_a_hash_depends_on_the_key_alone_and_odd_names_have_one():
    assert (
        hashes_of(["a", "\udcff.jpg", "\ud83d", "ä"]).tolist()
        == hashes_of(iter(["a", "\udcff.jpg", "\ud83d", "ä"])).tolist()
    )
    assert hashes_of(["a"]).tolist() == [3405396810240292928]


@pytest.mark.parametrize("num_repeated", [1, 3000])
def test_a_key_that_occurs_twice_among_many_is_refused_and_both_files_are_named(num_repeated, tmp_path):
    rows = [PlannedInput(f"{number:05d}", file="one.tar") for number in range(10_000)]
    again = [replace(row, file="two.tar") for row in rows[-num_repeated:]]
    with pytest.raises(UsageError) as caught:
        plan_table.write_inputs(tmp_path / "plan.parquet", iter(rows + again))
    message = r"Two inputs are called '([0-9]{5})': one in one.tar, one in two.tar."
    found = re.fullmatch(message, caught.value.problem)
    assert found and int(found[1]) >= 10_000 - num_repeated
