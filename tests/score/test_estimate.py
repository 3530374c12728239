"""What a sample says before a long job."""

import numpy as np
import pytest

from quality_model import Scorer
from quality_model.score.result import ScoringModel
from quality_model.score.stream import SAMPLE_SIZE, estimate, wilson

from .conftest import rows_of


def test_a_small_collection_is_counted_whole_and_nothing_is_written(folder, params, run, tmp_path):
    scorer = Scorer("bundled", "cpu")
    section = params.score.model_copy(update={"workers": 1})
    before = sorted(tmp_path.rglob("*"))
    found = estimate(
        section,
        params.limits,
        inputs=folder,
        output=tmp_path / "scores",
        scorer=scorer,
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert (found.kind, found.num_inputs, found.sampled) == ("images", 20, 20)
    assert found.num_bytes == sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    run(folder, scorer=scorer, model=ScoringModel.of(scorer))
    share = (rows_of(tmp_path / "scores")["is_blurry"]).mean()
    low, high = found.flagged["blurriness"]
    assert low <= share <= high
    assert 0 < found.seconds[0] <= found.seconds[1]
    assert any("20 inputs in 20 files of kind images" in line for line in found.lines())


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_the_interval_of_a_share_holds_it_in_most_samples(share):
    counts = np.random.default_rng(0).binomial(SAMPLE_SIZE, share, 2000)
    intervals = [wilson(int(count), SAMPLE_SIZE) for count in counts]
    assert np.mean([low <= share <= high for low, high in intervals]) >= 0.92
    assert wilson(0, 0) == (0.0, 1.0)
