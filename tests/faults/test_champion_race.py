"""Several retrainings at once: the best that passes ends as champion, whoever is killed on the way."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from quality_model.core.storage import write_json
from quality_model.params import Params
from quality_model.release.registry import Registry
from quality_model.release.steps import promote_candidate

from .processes import forking, start

RETRAININGS = ("3", "2", "3")
"""Their candidates; two are the same, as from a schedule that fires twice."""


def retrain(root: str, params: Params, candidate: str, report: str) -> None:
    """What a retraining does after its training; here the gate prefers the higher version."""
    registry = Registry(Path(root), params.registry)
    promoted = False
    while not promoted:
        champion = registry.champion()
        compared_with = champion.version if champion else None
        if compared_with is not None and int(compared_with) > int(candidate):
            return
        write_json(Path(report) / "verdict.json", {"passed": True, "compared_with": compared_with})
        promoted = promote_candidate(params.registry, root=Path(root), version=candidate, report=Path(report))


def die_holding_the_lock(root: str, params: Params, report: str, holding: Any) -> None:
    """A retraining that is killed when the alias has moved and nothing was recorded yet."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "quality_model.release.registry.moved":
            holding.set()
            time.sleep(1.0)  # the others come to the lock meanwhile
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    retrain(root, params, "1", report)


def test_the_best_of_four_retrainings_reigns_though_one_was_killed_while_it_held_the_lock(
    registered: Path, params: Params, tmp_path: Path
) -> None:
    holding = forking().Event()
    doomed = start(die_holding_the_lock, str(registered), params, str(tmp_path / "doomed"), holding)
    assert holding.wait(120)
    racers = [
        start(retrain, str(registered), params, version, str(tmp_path / f"report-{number}"))
        for number, version in enumerate(RETRAININGS)
    ]
    for process in (doomed, *racers):
        process.join(200)
    assert [process.exitcode for process in (doomed, *racers)] == [-signal.SIGKILL, 0, 0, 0]
    registry = Registry(registered, params.registry)
    assert registry.champion().version == "3"
    assert registry.resolve("champion").sha256 == registry.find("3").tags["model_sha256"]
    events = registry.history()
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event.from_version for event in events] == [None, *[event.to_version for event in events[:-1]]]
    assert events[0].to_version == "1"
    assert sum(event.to_version == "3" for event in events) == 1
