"""The table of real defects, on a made folder of the sets' layout."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import real
from quality_model.pretrained import FOLDERS, NAME
from tests.benchmarks.conftest import AUDITED


def test_what_is_known_is_a_row_per_image_and_head_without_what_the_audit_names(folder: Path) -> None:
    known = real.read_sets(folder)
    assert sorted(known["set"].unique()) == ["film", "grain", "hard_clean", "steps"]
    assert known["set"].value_counts()["hard_clean"] == 3 * 4
    audited = known[known["file"] == AUDITED]
    assert not audited["bad"].any() and not audited["clean"].any()
    assert known[known["set"] == "grain"][["bad", "clean"]].sum().tolist() == [4, 2]
    scenes = known.groupby("set")["scene"].nunique()
    assert scenes.to_dict() == {"film": 4, "grain": 3, "hard_clean": 3, "steps": 1}
    (folder / "audit.csv").rename(folder / "kept")
    assert real.read_sets(folder)["clean"].sum() == known["clean"].sum() + 1
    (folder / "kept").rename(folder / "audit.csv")


def test_the_lines_of_known_scores_are_what_one_counts_by_hand(folder: Path) -> None:
    known = real.read_sets(folder)
    files = known.drop_duplicates("file").set_index("file")
    scores = pd.DataFrame({"noise": files["value"] / 100 + 0.1})
    scores.loc["grain/c_bad0.png"] = 0.05  # one pair falls
    scores["is_noisy"] = files["group"] == "night"
    scored = {"by hand": scores}
    lines = {line[0]: line for line in real.set_lines(known, scored)}
    assert list(lines) == ["film", "grain", "steps"]
    grain = lines["grain"]
    assert grain[1:4] == ["noise", "by hand", "4 + 2"]
    assert [cell.split(" ")[0] for cell in grain[4:6]] == ["0.750", "0.750"]  # 3 of 4 above all clean ones
    assert grain[6:] == ["3 of 4", "+0.175", "-"]
    assert lines["steps"][4:] == ["1.000", "1.000", "-", "-", "speckle +1.00"]
    (pooled,) = real.pooled_lines(known, scored)
    assert pooled[:4] == ["noise", "by hand", "9", "8"]
    assert pooled[4].startswith("0.889 [")
    (flags,) = real.flag_lines(known, scored)
    assert flags == ["noise", "by hand", "2 of 3", "0 of 1", "2 of 2"]


def test_the_area_under_the_curve_counts_ties_half_and_its_interval_draws_whole_scenes() -> None:
    bad = np.array([True, True, False, False])
    found = real.auc(np.array([2.0, 1.0, 1.0, 0.0]), bad, np.array(["a", "b", "a", "b"], dtype=object))
    assert found.value == pytest.approx(3.5 / 4)
    assert (found.low, found.high, found.num_groups) == (pytest.approx(0.875, abs=0.13), 1.0, 2)
    alone = real.auc(np.array([2.0, 1.0]), bad[1:3], np.array(["a", "a"], dtype=object))
    assert (alone.value, alone.low) == (1.0, None)
    assert real.auc(np.array([2.0]), bad[:1], np.array(["a"], dtype=object)).value is None


def test_the_table_has_the_model_an_earlier_one_and_every_classical_measure(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    earlier = str(FOLDERS[NAME])
    assert real.main([str(folder), "--earlier", earlier, "--output", "table.md"]) == 0
    text = Path("table.md").read_text()
    assert capsys.readouterr().out == text
    for label in ("bundled, whole view", earlier):
        assert sum(line.startswith(f"| noise | {label} |") for line in text.splitlines()) == 2
        assert f"| {label} | " in text
    for name in ("grey_world", "blur_effect", "stroke_density", "estimate_sigma"):
        assert f"| {name} | " in text
    assert "| grain | noise | bundled, whole view | 4 + 2 | 1.000 " in text
    assert "| 4 of 4 | +0." in text
    assert "| grain | noise | estimate_sigma | 4 + 2 | 1.000 " in text


def test_a_folder_without_sets_or_without_an_image_ends_with_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = tmp_path / "lacking"
    (lacking / "film").mkdir(parents=True)
    (lacking / "film" / "film.csv").write_bytes((folder / "film" / "film.csv").read_bytes())
    said = {
        tmp_path / "nowhere": "is not there",
        tmp_path: "holds no set",
        lacking: "4 images of the sets are not",
    }
    for place, words in said.items():
        assert real.main([str(place)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("Error: ") and words in line
