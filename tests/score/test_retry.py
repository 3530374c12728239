"""Error codes that say something of the machine, not of the image, are not final."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quality_model.core.workers import Workers
from quality_model.score import ScoreSummary, job

from .conftest import MeanScorer, bytes_of, shards_of

Run = Callable[..., ScoreSummary]
DIED, SLOW = "day/005.jpg", "night/018.jpg"


class FailingWorkers(Workers[Any, Any]):
    """Loses the inputs of some names as if they had ended two workers, or been too slow for both."""

    lost: dict[str, str] = {}  # noqa: RUF012 - set by the tests
    read: list[str] = []  # noqa: RUF012

    def __init__(self, function: Callable[[Any], Any], **options: Any) -> None:
        super().__init__(function, **options)
        self.function = function

    def map(self, items: Iterator[Any]) -> Any:
        for item in items:
            name = "/".join(Path(item).parts[-2:])
            self.read.append(name)
            yield self._given_up(self.lost[name]) if name in self.lost else self.function(item)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> type[FailingWorkers]:
    monkeypatch.setattr(job, "Workers", FailingWorkers)
    monkeypatch.setattr(FailingWorkers, "lost", {DIED: "worker_died", SLOW: "too_slow"})
    monkeypatch.setattr(FailingWorkers, "read", [])
    return FailingWorkers


def test_inputs_that_a_worker_died_on_or_that_were_too_slow_are_read_again_and_they_alone(
    folder: Path, run: Run, tmp_path: Path, undisturbed: dict[str, bytes], workers: type[FailingWorkers]
) -> None:
    first = run(folder)
    assert (first.reasons, first.retried) == ({"worker_died": 1, "too_slow": 1}, 0)
    before = bytes_of(tmp_path / "scores")
    workers.lost, workers.read = {}, []
    scorer = MeanScorer()
    again = run(folder, scorer=scorer)
    assert sorted(workers.read) == sorted([DIED, SLOW])
    assert sum(scorer.batches) == 2
    assert (again.scored, again.retried, again.shards_before) == (20, 2, 3)
    assert "Retried: 2 inputs" in "\n".join(again.lines())
    after = bytes_of(tmp_path / "scores")
    assert after == undisturbed
    changed = {name for name in after if after[name] != before[name] and name.startswith("data/")}
    assert changed == {"data/part-00000.parquet", "data/part-00002.parquet"}
    workers.read = []
    third = run(folder)
    assert (third.retried, workers.read, "Retried" in "\n".join(third.lines())) == (0, [], False)


def test_an_input_that_fails_again_changes_nothing(
    folder: Path, run: Run, tmp_path: Path, workers: type[FailingWorkers]
) -> None:
    run(folder)
    before = bytes_of(tmp_path / "scores")
    assert run(folder).retried == 2
    assert bytes_of(tmp_path / "scores") == before


def test_other_error_codes_stay_and_are_not_read_again(
    folder: Path, run: Run, tmp_path: Path, workers: type[FailingWorkers]
) -> None:
    (folder / "day" / "005.jpg").write_bytes(b"no")
    workers.lost = {SLOW: "too_slow"}
    run(folder)
    workers.lost, workers.read = {}, []
    assert run(folder).reasons == {"not_an_image": 1}
    assert workers.read == [SLOW]
    assert shards_of(tmp_path / "scores").set_index("key").loc[DIED, "error_code"] == "not_an_image"


def test_while_inputs_are_read_again_the_result_is_incomplete(
    folder: Path, run: Run, tmp_path: Path, undisturbed: dict[str, bytes], workers: type[FailingWorkers]
) -> None:
    run(folder)
    workers.lost = {}

    class Interrupted(MeanScorer):
        def score_pixels(self, pixels: Any) -> Any:
            assert not (tmp_path / "scores" / "job.json").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, scorer=Interrupted())
    assert not (tmp_path / "scores" / "job.json").exists()
    assert run(folder).retried == 2
    assert bytes_of(tmp_path / "scores") == undisturbed
