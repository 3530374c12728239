"""Which images are to be labelled next."""

import numpy as np
import pyarrow as pa

from quality_model.curate.next_labels import choose_next


def rows(
    scores: list[float | None], hashes: list[int | None] | None = None, files: list[str] | None = None
) -> pa.Table:
    unlike = [int(each) for each in np.random.default_rng(0).integers(-(2**63), 2**63 - 1, len(scores))]
    return pa.table(
        {
            "key": pa.array([f"{number}.jpg" for number in range(len(scores))], pa.string()),
            "sha256": pa.array(files or map(str, range(len(scores))), pa.string()),
            "noise": pa.array(scores, pa.float32()),
            "phash": pa.array(hashes or unlike, pa.int64()),
        }
    )


def test_images_near_the_threshold_come_on_both_sides_and_the_nearest_first():
    found = choose_next(rows([number / 100 for number in range(100)]), "noise", 0.5, [], 6)
    scores = [int(key.removesuffix(".jpg")) / 100 for key in found]
    assert len(set(found)) == 6
    assert scores == sorted(scores, key=lambda score: abs(score - 0.5))
    assert all(abs(score - 0.5) <= 0.16 for score in scores)
    assert sum(score > 0.5 for score in scores) in (2, 3, 4)
    assert max(scores) - min(scores) > 0.1


def test_labelled_and_unscored_images_are_left_out():
    found = choose_next(rows([0.5, 0.49, None, 0.1]), "noise", 0.5, ["0.jpg"], 10)
    assert found == ["1.jpg", "3.jpg"]
    assert choose_next(rows([0.5]), "noise", 0.5, ["0.jpg"], 3) == []
    assert choose_next(rows([]), "noise", 0.5, [], 3) == []


def test_of_near_duplicates_one_is_chosen_and_none_of_what_is_labelled():
    first = 2**32 - 1
    copies = [first, first ^ 0b1, first ^ 0b11, -1, -2]
    assert choose_next(rows([0.5, 0.51, 0.52, 0.3, 0.1], copies), "noise", 0.5, [], 5) == ["0.jpg", "3.jpg"]
    assert choose_next(rows([0.5, 0.51, 0.52, 0.3, 0.1], copies), "noise", 0.5, ["4.jpg"], 5) == ["0.jpg"]


def test_images_without_a_hash_are_like_no_other():
    found = choose_next(rows([0.5, 0.51, 0.52], [None, None, None]), "noise", 0.5, [], 3)
    assert found == ["0.jpg", "1.jpg", "2.jpg"]


def test_plain_images_are_alike_only_if_they_are_one_file_and_an_earlier_result_has_no_hashes():
    plain = rows([0.5, 0.51, 0.52, 0.53], [0, 0, 1, 3], ["a", "b", "a", "c"])
    assert choose_next(plain, "noise", 0.5, [], 4) == ["0.jpg", "1.jpg", "3.jpg"]
    assert choose_next(plain.drop_columns(["phash"]), "noise", 0.5, [], 4) == ["0.jpg", "1.jpg", "3.jpg"]
    assert choose_next(plain, "noise", 0.5, ["0.jpg"], 4) == ["1.jpg", "3.jpg"]
