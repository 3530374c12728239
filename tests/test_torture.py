"""The table that `make torture` ends with."""

from dataclasses import dataclass, field

from tests.torture import table


@dataclass
class Report:
    """The part of a pytest report that the table reads."""

    nodeid: str
    duration: float
    failed: bool = False
    user_properties: list[tuple[str, str]] = field(default_factory=list)


def test_the_cases_of_a_test_are_counted_and_those_that_failed_are_named() -> None:
    reports = [
        Report("a.py::test_x[train-3]", 1.0),
        Report("a.py::test_x[train-3]", 2.0, failed=True),
        Report("a.py::test_x[train-4]", 5.0),
        Report("a.py::test_y", 60.0, user_properties=[("said", "flat"), ("other", "no")]),
    ]
    assert list(table(reports))[2:] == [
        "| `a.py::test_x` | 1 passed, 1 failed: train-3 | 5 s | 8 s |  |",
        "| `a.py::test_y` | 1 passed | 60 s | 60 s | flat |",
    ]
