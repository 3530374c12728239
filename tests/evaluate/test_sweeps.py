"""Severity sweeps made by other software, and the cross-talk that they show."""

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from quality_model.core.decoding import Pixels
from quality_model.evaluate import sweeps
from quality_model.evaluate.evidence import Sweep
from quality_model.evaluate.measure import TOLERANCE, Score, measure_sweep, score_sweeps, worst_movement
from quality_model.evaluate.metrics import Bootstrap, Floats
from quality_model.evaluate.sweeps import SWEEPS, SeveritySweep
from quality_model.records import HEADS, Head

SIDE_PX = 64
NAMES = [sweep.name for sweep in SWEEPS]
BOOTSTRAP = Bootstrap(samples=20, confidence=0.9, seed=1)


@pytest.fixture(scope="module")
def clean(photo: Pixels) -> Pixels:
    """uint8 (3, 64, 64, 3), three corners of a photograph."""
    return np.stack([photo[y : y + SIDE_PX, x : x + SIDE_PX] for y, x in ((0, 0), (100, 180), (300, 60))])


def painted(head: Head, levels: tuple[float, ...] = (0, 10, 20, 40), name: str = "painted") -> SeveritySweep:
    """A sweep whose level can be read from the first pixel, in the channel of its head."""

    def paint(pixels: Pixels, level: float, _seed: int) -> Pixels:
        result = np.zeros_like(pixels)
        result.reshape(-1)[3 * HEADS.index(head)] = level
        return result

    paint.__name__ = f"{name} {head}"
    return SeveritySweep(head, "level", levels, paint)


def reads_levels(pixels: Pixels) -> npt.NDArray[np.float64]:
    """What was painted, head by head, as scores."""
    return pixels[:, 0, :4, 0] / 255.0


Scores = dict[SeveritySweep, Floats]


def scored(score: Score, *chosen: SeveritySweep, num_images: int = 20) -> Scores:
    return score_sweeps(score, np.zeros((num_images, 8, 8, 3), dtype=np.uint8), seed=1, sweeps=chosen)


def groups_of(num_images: int) -> list[str]:
    return [f"g{number // 2}" for number in range(num_images)]


def measured(score: Score, chosen: SeveritySweep, num_images: int = 20) -> Sweep:
    found = scored(score, chosen, num_images=num_images)
    return measure_sweep(chosen, found[chosen], groups_of(num_images), BOOTSTRAP)


def moved(found: Scores, head: Head, by: Head) -> float | None:
    groups = groups_of(len(next(iter(found.values()))))
    return worst_movement(found, groups, BOOTSTRAP, degraded=by, moved=head).value


def talk(found: Scores, head: Head) -> dict[Head, float | None]:
    return {other: moved(found, head, other) for other in HEADS if other != head}


@pytest.mark.parametrize("sweep", SWEEPS, ids=NAMES)
def test_every_level_is_further_from_the_clean_image_and_the_seed_gives_it_again(
    sweep: SeveritySweep, clean: Pixels
) -> None:
    before = clean.copy()
    for seed, pixels in enumerate(clean):
        steps = [sweep.degrade(pixels, level, seed) for level in sweep.levels[1:]]
        assert {(step.dtype, step.shape) for step in steps} == {(np.dtype(np.uint8), pixels.shape)}
        distances = [np.sqrt(np.mean((step.astype(float) - pixels) ** 2)) for step in steps]
        assert (np.diff([0.0, *distances]) > 0).all(), distances
        assert distances[-1] > 5.0
        np.testing.assert_array_equal(sweep.degrade(pixels, sweep.levels[-1], seed), steps[-1])
    np.testing.assert_array_equal(clean, before)


def test_a_sweep_has_five_levels_above_the_clean_image_and_every_head_has_several_sweeps() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for head in HEADS:
        assert sum(sweep.head == head for sweep in SWEEPS) >= 2
    for sweep in SWEEPS:
        assert sweep.levels[0] == 0
        assert len(sweep.levels) == 6
        assert list(sweep.levels) == sorted(set(sweep.levels))


def test_the_watermark_and_the_direction_of_a_cast_do_not_change_from_level_to_level(clean: Pixels) -> None:
    for name in ("logo", "white_balance", "lab_shift"):
        sweep = next(sweep for sweep in SWEEPS if sweep.name == name)
        low, high = (
            sweep.degrade(clean[1], level, 5).astype(float) - clean[1] for level in sweep.levels[3:5]
        )
        assert np.corrcoef(low.ravel(), high.ravel())[0, 1] > 0.9, name


def test_the_second_implementation_shares_no_code_with_the_generator() -> None:
    tree = ast.parse(Path(sweeps.__file__).read_text())
    imported = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    generators = ("cv2", "quality_model.degrade", "quality_model.data")
    assert imported and not [name for name in imported if name.startswith(generators)]


@pytest.mark.parametrize("head", HEADS)
def test_a_scorer_that_knows_the_level_rises_at_every_step_on_every_image(head: Head) -> None:
    found = measured(reads_levels, painted(head))
    assert (found.head, found.levels) == (head, (0, 10, 20, 40))
    assert found.mean_scores == pytest.approx([0, 10 / 255, 20 / 255, 40 / 255])
    spearman = found.spearman
    assert [spearman.value, spearman.low, spearman.high] == pytest.approx([1.0] * 3)
    assert (found.monotone_share, found.num_images, spearman.num_groups) == (1.0, 20, 10)


def test_a_scorer_that_is_constant_or_upside_down_or_has_no_images_shows_nothing() -> None:
    constant = measured(lambda pixels: np.full((len(pixels), 4), 0.4), painted("noise"))
    assert (constant.spearman.value, constant.monotone_share) == (None, 0.0)
    upside_down = measured(lambda pixels: 1.0 - reads_levels(pixels), painted("watermark"))
    assert upside_down.spearman.value == pytest.approx(-1.0)
    assert upside_down.monotone_share == 0.0
    none = measured(reads_levels, painted("noise"), num_images=0)
    assert (none.spearman.value, none.monotone_share, none.num_images) == (None, None, 0)


def test_a_score_may_fall_by_the_tolerance_and_by_no_more() -> None:
    def falls_by(drop: float) -> Score:
        scores = {0: 0.1, 10: 0.5, 20: 0.5 - drop, 40: 0.9}
        return lambda pixels: np.array([[scores[int(one[0, 3, 0])]] * 4 for one in pixels])

    assert measured(falls_by(0.9 * TOLERANCE), painted("noise")).monotone_share == 1.0
    assert measured(falls_by(1.1 * TOLERANCE), painted("noise")).monotone_share == 0.0


ALL_PAINTED = tuple(painted(head, (0, 51, 102, 204)) for head in HEADS)


def mixes(head: Head, degraded: Head, weight: float) -> Callable[[Pixels], npt.NDArray[np.float64]]:
    def score(pixels: Pixels) -> npt.NDArray[np.float64]:
        scores = reads_levels(pixels)
        scores[:, HEADS.index(head)] += 0.5 + weight * scores[:, HEADS.index(degraded)]
        return scores

    return score


def test_heads_that_read_their_own_degradation_only_have_no_cross_talk() -> None:
    found = scored(reads_levels, *ALL_PAINTED)
    for head in HEADS:
        assert moved(found, head, head) == pytest.approx(0.8)
        assert talk(found, head) == {other: 0.0 for other in HEADS if other != head}


@pytest.mark.parametrize("weight", [0.5, -0.5])
def test_a_noise_head_that_reads_the_blur_shows_either_way(weight: float) -> None:
    found = scored(mixes("noise", "blurriness", weight), *ALL_PAINTED)
    assert talk(found, "noise") == pytest.approx({"color_cast": 0, "blurriness": 0.4, "watermark": 0})
    assert set(talk(found, "blurriness").values()) == {0.0}


def test_the_worst_sweep_counts_the_weakest_rise_and_the_largest_movement_of_another() -> None:
    strong, weak = painted("noise", (0, 204), "strongly"), painted("noise", (0, 51), "weakly")
    found = scored(mixes("blurriness", "noise", 0.5), strong, weak)
    assert moved(found, "noise", "noise") == pytest.approx(0.2)
    assert talk(found, "blurriness")["noise"] == pytest.approx(0.4)


def test_images_that_move_up_do_not_make_up_for_those_that_move_down_and_groups_give_the_interval() -> None:
    scores = np.zeros((4, 2, 4))
    scores[:, 1, HEADS.index("blurriness")] = [0.4, -0.4, 0.4, -0.4]
    found = {painted("color_cast", (0, 51)): scores}
    groups = ["a", "a", "b", "b"]
    movement = worst_movement(found, groups, BOOTSTRAP, degraded="color_cast", moved="blurriness")
    assert [movement.value, movement.low, movement.high] == pytest.approx([0.4] * 3)
    assert movement.num_groups == 2


def test_a_degradation_without_a_sweep_or_an_image_leaves_the_movement_of_the_others_unknown() -> None:
    assert talk(scored(reads_levels, painted("noise")), "noise")["watermark"] is None
    assert talk(scored(reads_levels, painted("noise"), num_images=0), "watermark")["noise"] is None
