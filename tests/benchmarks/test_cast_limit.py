"""What limits the colour cast: figures of made scores, and samples that differ by the cast alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import cast_limit
from benchmarks.cast_limit import DRAWS, Casts, WithoutCast, colours_table, sweeps_table, table
from quality_model.core.decoding import Pixels
from quality_model.degrade import PROFILES, SampleRandomness


def test_scores_with_an_offset_for_each_scene_are_exact_for_the_oracle_alone() -> None:
    rng = np.random.default_rng(1)
    offset, labels = rng.uniform(0.0, 0.8, (40, 1)), rng.uniform(0.0, 0.2, (40, DRAWS))
    sweeps = offset[:, None] + np.linspace(0.0, 0.1, 6).reshape(1, 1, 6).repeat(3, axis=1)
    casts = Casts(offset[:, 0], offset + labels, offset.repeat(DRAWS, 1), labels, sweeps)
    r2 = {row[0]: float(row[1]) for row in table(casts)}
    assert r2["as it is"] < r2["less the mean error"] < r2["straight line through it"] < 0.5
    assert [value for name, value in r2.items() if "oracle" in name] == [1.0, 1.0, 1.0]
    for _, over_all, less_clean, *within in sweeps_table(casts):
        assert float(over_all) < 0.5
        assert float(less_clean) > 0.98  # equal in reals, not in float64
        assert within == ["1.00", "0.00"]
    assert sum(int(row[1]) for row in colours_table(casts)) == 40
    assert [row[4] for row in colours_table(casts)] == ["1.00"] * 3


def test_samples_without_their_cast_have_every_other_degradation(photo: Pixels) -> None:
    for number in range(20):
        with_cast, without = (
            profile.degrade(photo[:96, :96], SampleRandomness(1, str(number)))
            for profile in (PROFILES["calibrated"], WithoutCast())
        )
        kinds = {one.head: one.kind for one in with_cast.applied}
        assert {one.head: one.kind for one in without.applied} == {
            head: kind for head, kind in kinds.items() if head != "color_cast"
        }
        assert (with_cast.labels[0] > 0) == (not np.array_equal(with_cast.image, without.image))


def test_it_leaves_out_what_the_audit_says_is_not_clean(
    tmp_path: Path, photo: Pixels, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scenes").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(photo[:96, :96]).save(tmp_path / "scenes" / name)
    audit = tmp_path / "audit.csv"
    audit.write_text("file,defect,severity\ntest/a.png,colour cast,strong\ntest/b.png,noise,faint\n")
    arguments = [str(tmp_path / "scenes"), "--audit", str(audit)]
    assert cast_limit.main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"1 scenes, {DRAWS} samples; means: ")
    audit.write_text(audit.read_text().replace("faint", "clear"))
    assert cast_limit.main(arguments) == 2
