"""Several retrainings at once: the best that passes is champion in the end, even if one was killed."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from quality_model.params import Params
from quality_model.records import ModelRef
from quality_model.release.champion import promote_candidate
from quality_model.release.decisions import Decision, now, read_decisions
from quality_model.release.registry import Registry

from .processes import forking, start

RETRAININGS = ("3", "2", "3")
"""Their candidates; two are the same, as from a schedule that fires twice."""


def retrain(root: str, params: Params, candidate: str) -> None:
    """What a retraining does after its training; here the gate prefers the higher version."""
    registry = Registry(Path(root), params.registry)
    version = registry.find(candidate)
    model = ModelRef(version.name, version.version, version.run_id, "")
    registered = Decision("registered", now(), model, version.model_sha256, gate_sha256="g")
    promoted = False
    while not promoted:
        champion = registry.champion()
        if champion is not None and int(champion.version) > int(candidate):
            return
        sha256 = champion.model_sha256 if champion else None
        decision = replace(registered, champion_sha256=sha256)
        promoted = promote_candidate(params.registry, root=Path(root), decision=decision)


def die_holding_the_lock(root: str, params: Params, holding: Any) -> None:
    """A retraining that is killed when the alias has moved and nothing was recorded yet."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "quality_model.release.registry.moved":
            holding.set()
            time.sleep(1.0)  # the others come to the lock meanwhile
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    retrain(root, params, "1")


def test_the_best_of_four_retrainings_is_champion_though_one_was_killed_while_it_held_the_lock(
    registered: Path, params: Params
) -> None:
    holding = forking().Event()
    doomed = start(die_holding_the_lock, str(registered), params, holding)
    assert holding.wait(120)
    racers = [start(retrain, str(registered), params, version) for version in RETRAININGS]
    for process in (doomed, *racers):
        process.join(200)
    assert [process.exitcode for process in (doomed, *racers)] == [-signal.SIGKILL, 0, 0, 0]
    registry = Registry(registered, params.registry)
    champion = registry.champion()
    assert champion is not None and champion.version == "3"
    assert registry.resolve("champion").model_sha256 == champion.model_sha256
    decided = read_decisions(registered, params.registry)
    versions = [decision.model.version for decision in decided]
    assert versions in (["1", "3"], ["1", "2", "3"])
    assert "moved in MLflow" in decided[0].reason
    before = [decision.champion and decision.champion.version for decision in decided[1:]]
    assert before == versions[:-1]
