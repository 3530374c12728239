"""The gate of throughput: a loss above a tenth fails, noise does not."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.regression import FEWEST_ROUNDS, MEMORY, SPEED, START, judge, main, tree_of
from quality_model.errors import UsageError

PROJECT = Path(__file__).resolve().parents[2]


def share_lost(factor: float, *, noise: float, rounds: int = 8, drift: float = 0.0, seed: int = 0) -> float:
    """How often 300 comparisons fail, where seconds are ``factor`` times those before."""
    random = np.random.default_rng(seed)
    lost = 0
    for _ in range(300):
        load = np.exp(drift * np.cumsum(random.normal(size=rounds)))  # of the machine, on both sides
        before, after = (load * np.exp(random.normal(0, noise, rounds)) for _ in range(2))
        lost += judge(START, before, factor * after).is_lost
    return lost / 300


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_equal_sides_do_not_fail_whatever_the_noise_and_the_load(noise, drift):
    assert share_lost(1.0, noise=noise, drift=drift) <= 0.05


def test_a_loss_of_just_a_tenth_fails_at_most_as_often_as_the_confidence_says():
    for rounds in (5, 8, 12):
        assert share_lost(1.1, noise=0.1, rounds=rounds, seed=rounds) <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    assert share_lost(1.05, noise=0.05) <= 0.01


def test_a_clear_loss_fails():
    assert share_lost(1.25, noise=0.03) == 1.0
    assert share_lost(1.25, noise=0.03, drift=0.3) == 1.0
    assert share_lost(1.5, noise=0.1, rounds=FEWEST_ROUNDS) > 0.9
    assert share_lost(1 / 1.5, noise=0.1) == 0.0


def test_one_disturbed_round_neither_fails_the_check_nor_hides_a_loss():
    before = np.full(8, 2.0)
    for factor, is_lost in ((1.0, False), (1.3, True)):
        after = before * factor * np.linspace(0.99, 1.01, 8)
        after[3] = 60.0
        assert judge(START, before, after).is_lost == is_lost
        before_disturbed = before.copy()
        before_disturbed[5] = 60.0
        assert judge(START, before_disturbed, before * factor).is_lost == is_lost


def test_more_is_better_of_images_a_second_and_worse_of_memory():
    few, many = np.linspace(79, 81, 8), np.linspace(99, 101, 8)
    assert judge(SPEED, many, few).is_lost and not judge(SPEED, few, many).is_lost
    assert judge(MEMORY, few, many).is_lost and not judge(MEMORY, many, few).is_lost
    verdict = judge(SPEED, many, few)
    assert verdict.low <= verdict.ratio <= verdict.high < 0.9
    assert verdict.line().endswith("| LOST |")


def test_too_few_rounds_are_refused_because_nothing_would_be_certain():
    assert not judge(START, [1.0] * (FEWEST_ROUNDS - 1), [9.0] * (FEWEST_ROUNDS - 1)).is_lost
    assert judge(START, [1.0] * FEWEST_ROUNDS, [9.0] * FEWEST_ROUNDS).is_lost
    done = CliRunner().invoke(main, ["--rounds", str(FEWEST_ROUNDS - 1)])
    assert done.exit_code == 2


def test_the_other_side_is_the_library_of_the_commit_and_an_unknown_one_is_one_line():
    with tree_of("HEAD", PROJECT) as tree:
        assert (tree / "quality_model" / "__init__.py").is_file()
        assert not (tree / "tests").exists()
    assert not tree.exists()
    with pytest.raises(UsageError, match="nothing to compare with"), tree_of("no-such-commit", PROJECT):
        pass
    done = CliRunner().invoke(main, ["--against", "no-such-commit"])
    assert done.exit_code == 1 and "--against" in done.output and "Traceback" not in done.output


@pytest.mark.torture
def test_a_commit_beside_itself_is_compared_and_kept():
    done = CliRunner().invoke(main, ["--against", "HEAD", "--rounds", "5", "--images", "20"])
    assert done.exit_code == 0, done.output
    assert done.output.count("| kept |") == 4
