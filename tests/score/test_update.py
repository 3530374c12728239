"""The same command after the inputs changed: it scores what is new, drops what is gone, and loses nothing."""

import os
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest

from quality_model.core import storage
from quality_model.errors import UsageError
from quality_model.score import update
from quality_model.score.reading import PlannedInput
from quality_model.score.selection import Selection

from .conftest import Interrupted, MeanScorer, bytes_of, copy, rows_of


def change(folder: Path, crops: list[bytes]) -> None:
    """Two images are new, one is gone, one has other bytes."""
    (folder / "a-new.jpg").write_bytes(crops[30])
    (folder / "z-new.jpg").write_bytes(crops[31])
    (folder / "day/003.jpg").unlink()
    (folder / "day/005.jpg").write_bytes(crops[32])


def by_key(output: Path) -> pd.DataFrame:
    return rows_of(output).set_index("key").sort_index()


def parts_of(output: Path) -> set[str]:
    return {path.name for path in (output / "data").iterdir()}


@pytest.fixture
def scored(folder, tmp_path, undisturbed) -> Path:
    return copy(undisturbed, tmp_path / "scores")


def test_what_is_new_or_changed_is_scored_and_what_is_gone_is_dropped(folder, run, tmp_path, scored, crops):
    change(folder, crops)
    scorer = MeanScorer()
    summary = run(folder, scorer=scorer)
    assert sum(scorer.batches) == 3
    assert summary.changes == {"new": 2, "changed": 1, "removed": 1, "unchanged": 18}
    assert "Last update: 2 new, 1 changed, 1 removed, 18 unchanged." in summary.lines()
    run(folder, tmp_path / "fresh")
    pd.testing.assert_frame_equal(by_key(scored), by_key(tmp_path / "fresh"))
    assert storage.require_sealed(scored, verify=True, marker_name="job.json")["rows"] == 21
    before = bytes_of(scored)
    run(folder, scorer=Interrupted(0))
    assert bytes_of(scored) == before


def test_another_folder_does_not_replace_a_result_that_has_none_of_its_images(folder, run, scored, crops):
    before = bytes_of(scored)
    other = folder.parent / "other"
    other.mkdir()
    (other / "elsewhere.jpg").write_bytes(crops[0])
    with pytest.raises(UsageError, match="20 other inputs: none of them is in"):
        run(other, scorer=Interrupted(0))
    assert bytes_of(scored) == before
    run(other, overwrite=True)
    assert len(rows_of(scored)) == 1


def test_whole_parts_without_a_change_stay_as_they_are(folder, run, scored, crops):
    before = (scored / "data/part-00001.parquet").read_bytes(), (scored / "data/part-00000.parquet")
    (folder / "z-new.jpg").write_bytes(crops[31])
    run(folder)
    assert parts_of(scored) == {f"part-0000{number}.parquet" for number in range(4)}
    assert (scored / "data/part-00001.parquet").read_bytes() == before[0]
    (folder / "z-new.jpg").unlink()
    run(folder, scorer=Interrupted(0))
    assert parts_of(scored) == {f"part-0000{number}.parquet" for number in range(3)}


def test_parts_do_not_get_ever_smaller(folder, run, scored, crops):
    for number in range(6):
        (folder / f"z-{number}.jpg").write_bytes(crops[30 + number])
        run(folder)
    assert len(rows_of(scored)) == 26
    assert len(parts_of(scored)) <= 6  # not 3 + 6


def test_a_touched_file_is_scored_again_but_not_with_verify(folder, run, scored):
    os.utime(folder / "day/003.jpg", ns=(1, 10**18 + 5))
    summary = run(folder, scorer=Interrupted(0), verify=True)
    assert summary.changes == {"new": 0, "changed": 0, "removed": 0, "unchanged": 20}
    os.utime(folder / "day/003.jpg", ns=(1, 10**18 + 6))
    scorer = MeanScorer()
    run(folder, scorer=scorer)
    assert sum(scorer.batches) == 1


def test_verify_finds_other_bytes_under_the_same_length_and_time(folder, run, scored):
    path = folder / "day/003.jpg"
    facts = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-40] + bytes(byte ^ 1 for byte in data[-40:-38]) + data[-38:])
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert run(folder, scorer=Interrupted(0)).changes == {}
    assert run(folder, verify=True, max_error_share=1.0).changes["changed"] == 1
    assert run(folder, scorer=Interrupted(0), verify=True).changes["changed"] == 1


def test_an_interrupted_update_leaves_the_earlier_result_and_resumes(folder, run, scored, undisturbed, crops):
    for number in range(20):
        (folder / f"z-{number:02}.jpg").write_bytes(crops[20 + number])
    with pytest.raises(KeyboardInterrupt):
        run(folder, scorer=Interrupted(3))
    left = bytes_of(scored)
    assert {name: left[name] for name in undisturbed} == undisturbed
    scorer = MeanScorer()
    assert run(folder, scorer=scorer).scored == 40
    assert sum(scorer.batches) == 20 - 7
    assert not (scored / "update").exists()


def test_an_update_of_inputs_that_changed_back_is_dropped(folder, run, scored, undisturbed, crops):
    (folder / "z.jpg").write_bytes(crops[30])
    with pytest.raises(KeyboardInterrupt):
        run(folder, scorer=Interrupted(0))
    (folder / "z.jpg").unlink()
    run(folder, scorer=Interrupted(0))
    assert bytes_of(scored) == undisturbed


def test_an_unfinished_job_whose_inputs_changed_keeps_what_it_has(folder, run, tmp_path, crops):
    with pytest.raises(KeyboardInterrupt):
        run(folder, scorer=Interrupted(3))
    change(folder, crops)
    scorer = MeanScorer()
    run(folder, scorer=scorer)
    assert sum(scorer.batches) < 20
    run(folder, tmp_path / "fresh")
    pd.testing.assert_frame_equal(by_key(tmp_path / "scores"), by_key(tmp_path / "fresh"))


def test_a_list_that_grew_scores_what_was_added(folder, run, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
    (folder / "list.txt").write_text("\n".join(names[:12]))
    run(Selection(["@list.txt"]))
    (folder / "list.txt").write_text("\n".join(reversed(names)))
    scorer = MeanScorer()
    summary = run(Selection(["@list.txt"]), scorer=scorer)
    assert (summary.changes["new"], summary.changes["unchanged"], sum(scorer.batches)) == (8, 12, 8)
    assert sorted(rows_of(tmp_path / "scores")["key"]) == names


def test_killed_at_any_step_an_update_leaves_the_old_or_the_new_result_and_ends_when_it_is_run_again(
    folder, run, tmp_path, undisturbed, crops
):
    """Each child is this process, forked, and killed at its n-th step of storage or removal."""
    change(folder, crops)
    fresh = tmp_path / "fresh"
    run(folder, fresh)
    outcomes = set()
    for steps in range(1, 400, 3):
        output = copy(undisturbed, tmp_path / f"scores-{steps}")
        child = os.fork()
        if child == 0:
            left = steps

            def kill(event: str, _: object) -> None:
                nonlocal left
                if event.startswith("quality_model.core.storage.") or event == "os.remove":
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(kill)
            try:
                run(folder, output)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        marker = storage.require_sealed(output, marker_name="job.json")
        outcomes.add(marker["rows"])
        rows = pd.concat([pd.read_parquet(output / part["file"]) for part in marker["parts"]])
        assert len(rows) == marker["rows"] == rows["key"].nunique()
        run(folder, output)
        pd.testing.assert_frame_equal(by_key(output), by_key(fresh))
        assert not list(output.glob("update*"))
        if os.WIFEXITED(status):
            break
    assert outcomes == {20, 21}


def test_what_decides_about_an_input_is_all_that_a_plan_says_of_it(tmp_path):
    from quality_model.score.plan_table import write_inputs

    one = PlannedInput("a", num_bytes=3, mtime_ns=4)
    others = [PlannedInput("a", num_bytes=4, mtime_ns=4), PlannedInput("a", num_bytes=3, mtime_ns=5)]
    found = []
    for number, planned in enumerate([one, one, *others]):
        write_inputs(tmp_path / f"{number}.parquet", iter([planned]))
        found.append(update._Rows.of(tmp_path / f"{number}.parquet").facts.tolist())
    assert found[0] == found[1]
    assert found[0] not in found[2:]
