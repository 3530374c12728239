"""What is expected of which table, as plain values; `report.validate` hands them to Great Expectations."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation.

    ``kind`` is the name of a class in `great_expectations.expectations`, ``arguments`` are
    its arguments, and ``meaning`` says in words what a failure would mean.
    """

    kind: str
    arguments: dict[str, Any]
    meaning: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table and what is expected of it.

    ``frames`` are its rows, in batches that are taken and let go one after the other; what is
    expected of more than one is limited (see `merging.add_batch`). ``names`` are the columns that
    tell one row from another.
    """

    name: str
    frames: "Iterable[pd.DataFrame]"
    names: tuple[str, ...]
    expectations: list[Expectation] = field(default_factory=list)


def between(column: str, low: float | None, high: float | None, meaning: str, **more: Any) -> Expectation:
    """Every value lies from ``low`` to ``high``; nulls are left out."""
    arguments = {"column": column, "min_value": low, "max_value": high, **more}
    return Expectation(
        "ExpectColumnValuesToBeBetween", {k: v for k, v in arguments.items() if v is not None}, meaning
    )


def mean_between(column: str, low: float, high: float, meaning: str) -> Expectation:
    """The mean of the values lies from ``low`` to ``high``; nulls are left out."""
    return Expectation(
        "ExpectColumnMeanToBeBetween", {"column": column, "min_value": low, "max_value": high}, meaning
    )


def not_null(column: str, meaning: str) -> Expectation:
    """Every row has a value."""
    return Expectation("ExpectColumnValuesToNotBeNull", {"column": column}, meaning)


def null(column: str, meaning: str, **more: Any) -> Expectation:
    """No row has a value."""
    return Expectation("ExpectColumnValuesToBeNull", {"column": column, **more}, meaning)


def unique(column: str, meaning: str) -> Expectation:
    """No value twice; nulls are left out."""
    return Expectation("ExpectColumnValuesToBeUnique", {"column": column}, meaning)


def among(column: str, values: Iterable[Any], meaning: str) -> Expectation:
    """Every value is one of ``values``; nulls are left out."""
    return Expectation("ExpectColumnValuesToBeInSet", {"column": column, "value_set": list(values)}, meaning)


def contains(column: str, values: Iterable[Any], meaning: str) -> Expectation:
    """Each of ``values`` occurs."""
    return Expectation(
        "ExpectColumnDistinctValuesToContainSet", {"column": column, "value_set": list(values)}, meaning
    )


def matches(column: str, regex: str, meaning: str) -> Expectation:
    """Every value begins with a match of ``regex``; nulls are left out."""
    return Expectation("ExpectColumnValuesToMatchRegex", {"column": column, "regex": regex}, meaning)


def at_least_rows(rows: int, meaning: str) -> Expectation:
    """There are so many rows or more."""
    return Expectation("ExpectTableRowCountToBeBetween", {"min_value": rows}, meaning)


def exactly_rows(rows: int, meaning: str) -> Expectation:
    """There are so many rows."""
    return Expectation("ExpectTableRowCountToEqual", {"value": rows}, meaning)
