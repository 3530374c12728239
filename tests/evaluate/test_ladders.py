"""Severity ladders made by other software, and the cross-talk that they show."""

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from quality_model.core.decoding import Pixels
from quality_model.evaluate import ladder_kinds, ladders
from quality_model.evaluate.cross_talk import cross_talk, largest_movement
from quality_model.evaluate.ladders import LADDERS, TOLERANCE, Ladder, measure_ladders, score_ladders
from quality_model.records import HEADS

SIDE_PX = 64
NAMES = [ladder.name for ladder in LADDERS]


@pytest.fixture(scope="module")
def clean(photo: Pixels) -> Pixels:
    """uint8 (3, 64, 64, 3), three corners of a photograph."""
    return np.stack([photo[y : y + SIDE_PX, x : x + SIDE_PX] for y, x in ((0, 0), (100, 180), (300, 60))])


def change(pixels: Pixels, clean: Pixels) -> float:
    return float(np.sqrt(np.mean((pixels.astype(float) - clean.astype(float)) ** 2)))


def painted(head: str, levels: tuple[float, ...] = (0, 10, 20, 40), name: str = "") -> Ladder:
    """A ladder whose level can be read from the first pixel, in the channel of its head."""

    def paint(pixels: Pixels, level: float, _seed: int) -> Pixels:
        result = np.zeros_like(pixels)
        result[0, HEADS.index(head), 0] = level  # type: ignore[arg-type]
        return result

    return Ladder(f"painted {head}{name}", head, "level", levels, paint)  # type: ignore[arg-type]


def reads_levels(pixels: Pixels) -> npt.NDArray[np.float64]:
    """What was painted, head by head, as scores."""
    return pixels[:, 0, :4, 0] / 255.0


def measured(score: ladders.Score, *chosen: Ladder, num_images: int = 20) -> dict:
    images = np.zeros((num_images, 8, 8, 3), dtype=np.uint8)
    return measure_ladders(score_ladders(score, images, np.arange(num_images), seed=1, ladders=chosen))


@pytest.mark.parametrize("ladder", LADDERS, ids=NAMES)
def test_every_level_is_further_from_the_clean_image_than_the_one_before(
    ladder: Ladder, clean: Pixels
) -> None:
    for seed, pixels in enumerate(clean):
        steps = [ladder.step(pixels, level, seed) for level in ladder.levels]
        assert {(step.dtype, step.shape) for step in steps} == {(np.dtype(np.uint8), pixels.shape)}
        distances = [change(step, pixels) for step in steps]
        assert distances[0] == 0.0
        assert (np.diff(distances) > 0).all(), distances
        assert distances[-1] > 5.0


@pytest.mark.parametrize("ladder", LADDERS, ids=NAMES)
def test_a_seed_gives_the_same_image_again_and_leaves_the_clean_one_as_it_is(
    ladder: Ladder, clean: Pixels
) -> None:
    before = clean[0].copy()
    first, again = (ladder.step(clean[0], ladder.levels[-1], 7) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(clean[0], before)


def test_a_ladder_has_five_levels_above_the_clean_image_and_every_head_has_several_ladders() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for head in HEADS:
        assert sum(ladder.head == head for ladder in LADDERS) >= 2
    for ladder in LADDERS:
        assert ladder.levels[0] == 0
        assert len(ladder.levels) == 6
        assert list(ladder.levels) == sorted(set(ladder.levels))


def test_the_mark_and_the_direction_of_a_cast_do_not_change_from_level_to_level(clean: Pixels) -> None:
    for name in ("logo", "white_balance", "lab_shift"):
        ladder = next(ladder for ladder in LADDERS if ladder.name == name)
        low, high = (ladder.step(clean[1], level, 5).astype(float) - clean[1] for level in ladder.levels[3:5])
        assert np.corrcoef(low.ravel(), high.ravel())[0, 1] > 0.9, name


@pytest.mark.parametrize("module", [ladders, ladder_kinds], ids=["ladders", "ladder_kinds"])
def test_the_second_implementation_shares_no_code_with_the_generator(module: object) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    assert not [name for name in imported if name.split(".")[0] == "cv2"]
    assert not [name for name in imported if name.startswith(("quality_model.degrade", "quality_model.data"))]


def test_a_scorer_that_knows_the_level_climbs_every_step_on_every_image() -> None:
    for head in HEADS:
        (found,) = measured(reads_levels, painted(head)).values()
        assert found["head"] == head
        assert found["levels"] == [0, 10, 20, 40]
        assert found["mean_scores"] == pytest.approx([0, 10 / 255, 20 / 255, 40 / 255])
        assert found["spearman"] == pytest.approx(1.0)
        assert (found["monotone_share"], found["num_images"]) == (1.0, 20)


def test_a_scorer_that_always_says_the_same_shows_nothing() -> None:
    (found,) = measured(lambda pixels: np.full((len(pixels), 4), 0.4), painted("noise")).values()
    assert found["spearman"] is None
    assert found["monotone_share"] == 0.0


def test_a_score_may_fall_by_the_tolerance_and_by_no_more() -> None:
    def falls_by(drop: float) -> ladders.Score:
        scores = {0: 0.1, 10: 0.5, 20: 0.5 - drop, 40: 0.9}
        return lambda pixels: np.array([[scores[int(one[0, 3, 0])]] * 4 for one in pixels])

    (within,) = measured(falls_by(0.9 * TOLERANCE), painted("noise")).values()
    (beyond,) = measured(falls_by(1.1 * TOLERANCE), painted("noise")).values()
    assert (within["monotone_share"], beyond["monotone_share"]) == (1.0, 0.0)


def test_a_scorer_that_is_upside_down_has_a_spearman_of_minus_one() -> None:
    (found,) = measured(lambda pixels: 1.0 - reads_levels(pixels), painted("watermark")).values()
    assert found["spearman"] == pytest.approx(-1.0)
    assert found["monotone_share"] == 0.0


def test_without_an_image_nothing_is_claimed() -> None:
    found = measured(reads_levels, painted("noise"), num_images=0)["painted noise"]
    assert (found["spearman"], found["monotone_share"], found["num_images"]) == (None, None, 0)
    scored = score_ladders(
        reads_levels, np.zeros((1, 8, 8, 3), np.uint8), [], seed=0, ladders=[painted("noise")]
    )
    assert {value for row in cross_talk(scored).values() for value in row.values()} == {None}


def test_only_the_chosen_rows_are_scored_each_step_once_and_never_many_at_a_time() -> None:
    seen: list[int] = []

    def counting(pixels: Pixels) -> npt.NDArray[np.float64]:
        seen.append(len(pixels))
        return reads_levels(pixels)

    images = np.zeros((50, 8, 8, 3), dtype=np.uint8)
    images[1::2] = 99
    chosen = [painted("noise"), painted("blurriness")]
    scored = score_ladders(counting, images, np.arange(0, 50, 2), seed=0, ladders=chosen)
    assert sum(seen) == 25 * (1 + 3 + 3)  # the clean images once for both
    assert max(seen) <= 16
    assert all((one.scores[:, 0] == 0.0).all() for one in scored)


def scored(score: ladders.Score, *chosen: Ladder) -> list[ladders.ScoredLadder]:
    return score_ladders(
        score, np.zeros((4, 8, 8, 3), dtype=np.uint8), np.arange(4), seed=0, ladders=chosen or ALL_PAINTED
    )


ALL_PAINTED = tuple(painted(head, (0, 51, 102, 204)) for head in HEADS)


def test_heads_that_read_their_own_degradation_only_have_no_cross_talk() -> None:
    matrix = cross_talk(scored(reads_levels))
    for degraded in HEADS:
        for moved in HEADS:
            assert matrix[degraded][moved] == pytest.approx(0.8 if moved == degraded else 0.0)
    assert [largest_movement(matrix, head) for head in HEADS] == [0.0] * 4


def mixes(moved: str, degraded: str, weight: float) -> Callable[[Pixels], npt.NDArray[np.float64]]:
    def score(pixels: Pixels) -> npt.NDArray[np.float64]:
        scores = reads_levels(pixels)
        scores[:, HEADS.index(moved)] += 0.5 + weight * scores[:, HEADS.index(degraded)]  # type: ignore[arg-type]
        return scores

    return score


@pytest.mark.parametrize("weight", [0.5, -0.5])
def test_a_noise_head_that_reads_the_blur_shows_either_way(weight: float) -> None:
    matrix = cross_talk(scored(mixes("noise", "blurriness", weight)))
    assert matrix["blurriness"]["noise"] == pytest.approx(0.4)
    assert matrix["noise"]["blurriness"] == pytest.approx(0.0)
    assert largest_movement(matrix, "noise") == pytest.approx(0.4)
    assert largest_movement(matrix, "blurriness") == pytest.approx(0.0)


def test_the_worst_ladder_counts_the_weakest_rise_and_the_largest_movement_of_another() -> None:
    strong, weak = painted("noise", (0, 204), " strongly"), painted("noise", (0, 51), " weakly")
    matrix = cross_talk(scored(mixes("blurriness", "noise", 0.5), strong, weak))
    assert matrix["noise"]["noise"] == pytest.approx(0.2)
    assert matrix["noise"]["blurriness"] == pytest.approx(0.4)


def test_images_that_move_up_do_not_make_up_for_those_that_move_down() -> None:
    scores = np.zeros((4, 2, 4))
    scores[:, 1, HEADS.index("blurriness")] = [0.4, -0.4, 0.4, -0.4]
    matrix = cross_talk([ladders.ScoredLadder(painted("color_cast", (0, 51)), scores)])
    assert matrix["color_cast"]["blurriness"] == pytest.approx(0.4)


def test_a_degradation_without_a_ladder_leaves_the_movement_of_the_others_unknown() -> None:
    matrix = cross_talk(scored(reads_levels, painted("noise")))
    assert matrix["watermark"]["noise"] is None
    assert largest_movement(matrix, "noise") is None
