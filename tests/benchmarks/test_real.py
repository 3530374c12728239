"""The table of real defects, on a made folder of the sets' layout."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import real
from quality_model.pretrained import FOLDERS, NAME


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
