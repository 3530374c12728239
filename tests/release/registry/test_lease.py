"""One registry, several projects: their changes come one after the other, and a dead one blocks nobody."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quality_model.errors import RegistryError, StorageError
from quality_model.params import RegistryParams
from quality_model.release import lease
from quality_model.release.registry import Registry

QUICK_S = 1.0
"""After so long a lease is dead in these tests."""


@pytest.fixture
def clone(
    project: Path, section: RegistryParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Registry]:
    """The registry of a project, as a clone of a name sees it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    monkeypatch.setattr(lease, "_DEAD_AFTER_S", QUICK_S)
    monkeypatch.setattr(lease, "_RENEWED_EVERY_S", QUICK_S / 10)
    monkeypatch.setattr(lease, "_RETRY_S", (0.01, 0.1))

    def clone(name: str, timeout_s: float = 60.0) -> Registry:
        shutil.copytree(project, tmp_path / name, symlinks=True)
        return Registry(tmp_path / name, section.model_copy(update={"lock_timeout_s": timeout_s}))

    return clone


def locks(catalogue: Registry) -> list[str]:
    return [key for key in catalogue.tags() if key.startswith("changing.")]


def test_of_several_clones_one_at_a_time_changes_the_registry(clone: Callable[..., Registry]) -> None:
    inside: list[str] = []
    seen: list[list[str]] = []

    def change(name: str, catalogue: Registry) -> None:
        for _ in range(3):
            with catalogue.changing():
                inside.append(name)
                time.sleep(0.02)
                seen.append(list(inside))
                inside.remove(name)

    catalogues = {name: clone(name) for name in ("a", "b", "c")}
    threads = [threading.Thread(target=change, args=one) for one in catalogues.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(seen) == 9 and all(len(names) == 1 for names in seen)
    assert locks(catalogues["a"]) == []


def test_a_lease_that_is_renewed_is_waited_for_and_one_of_a_dead_process_is_not(
    clone: Callable[..., Registry],
) -> None:
    holder, waiter = clone("holder"), clone("waiter", 2 * QUICK_S)
    with (
        holder.changing(),
        pytest.raises(StorageError, match="Others have been changing"),
        waiter.changing(),
    ):
        pass
    holder.client.set_registered_model_tag(holder.name, "changing.of-a-process-that-was-killed", "7")
    with waiter.changing():
        assert len(locks(waiter)) == 1
    assert locks(waiter) == []


def test_a_holder_that_was_stopped_for_longer_than_its_lease_moves_no_alias(
    clone: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = clone("holder")
    monkeypatch.setattr(lease, "_RENEWED_EVERY_S", 100 * QUICK_S)  # it does not get to it
    monkeypatch.setattr(lease, "_DEAD_AFTER_S", 200 * QUICK_S)
    with pytest.raises(RegistryError, match="too slow to keep the lock"), holder.changing():
        holder.move_alias("champion", holder.find("1"))
    assert holder.champion() is None


def test_the_projects_own_database_has_no_lease(project: Path, section: RegistryParams) -> None:
    catalogue = Registry(project, section)
    with catalogue.changing():
        assert locks(catalogue) == []
