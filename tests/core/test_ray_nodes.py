"""What the executor of Ray promises of order, of back-pressure and of errors."""

import math
import operator
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from importlib.util import find_spec

import pytest

from quality_model.core.ray_cluster import executor_on
from quality_model.core.ray_nodes import RayNodes
from quality_model.errors import MissingExtraError

pytestmark = pytest.mark.servers
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: the extra `ray`")


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with executor_on("ray") as executor:
            assert executor is not None
            yield executor


@needs_ray
def test_results_come_in_the_order_of_the_tasks(nodes):
    assert [*nodes.run(math.factorial, range(50))] == [math.factorial(number) for number in range(50)]
    assert [*nodes.run(math.factorial, [])] == []


@needs_ray
def test_tasks_are_not_taken_far_ahead_of_results_that_nobody_takes(nodes):
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(10_000):
            taken.append(number)
            yield number

    with closing(nodes.run(operator.neg, tasks())) as results:
        assert next(results) == 0
        assert len(taken) < 100
        assert next(results) == -1


@needs_ray
def test_what_the_function_raises_is_raised_where_results_are_awaited(nodes):
    results = nodes.run(partial(operator.truediv, 1.0), [2.0, 0.0, 4.0])
    with closing(results), pytest.raises(ZeroDivisionError):
        list(results)


def test_without_ray_the_extra_that_brings_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"quality-model\[ray\]"), executor_on("ray"):
        pass
