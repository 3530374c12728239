"""What is expected of a table, as plain values; the run of Great Expectations; and its report.

Only this package imports great_expectations, which takes seconds, when a table is validated. The same tables
give the same bytes, so that a stage that validates has a stable output. Its own pages are not made: they need
scripts and styles from foreign hosts to be read. `release.pages` shows what is in validation.json.
"""

import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quality_model.core import storage
from quality_model.errors import ValidationError

if TYPE_CHECKING:
    import pandas as pd

REPORT_NAME: Final = "validation.json"
_EXAMPLES: Final = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation.

    ``kind`` is the name of a class in `great_expectations.expectations`, ``arguments`` are
    its arguments, and ``meaning`` says in words what the expectation guarantees.
    """

    kind: str
    arguments: dict[str, Any]
    meaning: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table and what is expected of it; ``names`` are the columns that identify a row."""

    name: str
    frame: "pd.DataFrame"
    names: tuple[str, ...]
    expectations: Sequence[Expectation]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a table met one expectation, in JSON values.

    ``checked`` values were looked at and ``failing`` of them fail, such as ``examples``. ``observed`` is
    what an expectation of the whole table found, and ``error`` why it could not be evaluated.
    """

    table: str
    expectation: str
    column: str | None
    arguments: dict[str, Any]
    meaning: str
    passed: bool
    observed: Any
    checked: int
    failing: int
    examples: list[Any]
    error: str | None

    def __str__(self) -> str:
        """One line for a console: what was expected of which column, and what was found."""
        place = f"{self.table}.{self.column}" if self.column else self.table
        limits = ", ".join(f"{name} {_short(value)}" for name, value in self.arguments.items())
        found = []
        if self.failing:
            found.append(f"{self.failing} of {self.checked} fail")
        if self.observed is not None:
            found.append(f"found {_short(self.observed)}")
        if self.examples:
            found.append("for example " + "; ".join(_short(example) for example in self.examples[:3]))
        if self.error:
            found.append(self.error)
        return f"{place}: {self.expectation} ({limits}): {', '.join(found) or 'not met'}. {self.meaning}"


def between(column: str, low: float | None, high: float | None, meaning: str, **more: Any) -> Expectation:
    """Every value is in [low, high]; nulls are ignored."""
    limits = {"min_value": low, "max_value": high}
    known = {name: limit for name, limit in limits.items() if limit is not None}
    return Expectation("ExpectColumnValuesToBeBetween", {"column": column, **known, **more}, meaning)


def mean_between(column: str, low: float, high: float, meaning: str) -> Expectation:
    """The mean of the values is in [low, high]; nulls are ignored."""
    limits = {"column": column, "min_value": low, "max_value": high}
    return Expectation("ExpectColumnMeanToBeBetween", limits, meaning)


def not_null(column: str, meaning: str) -> Expectation:
    """Every row has a value."""
    return Expectation("ExpectColumnValuesToNotBeNull", {"column": column}, meaning)


def null(column: str, meaning: str, **more: Any) -> Expectation:
    """No row has a value."""
    return Expectation("ExpectColumnValuesToBeNull", {"column": column, **more}, meaning)


def unique(column: str, meaning: str) -> Expectation:
    """No value occurs twice; nulls are ignored."""
    return Expectation("ExpectColumnValuesToBeUnique", {"column": column}, meaning)


def among(column: str, values: Iterable[Any], meaning: str) -> Expectation:
    """Every value is one of ``values``; nulls are ignored."""
    return Expectation("ExpectColumnValuesToBeInSet", {"column": column, "value_set": list(values)}, meaning)


def contains(column: str, values: Iterable[Any], meaning: str) -> Expectation:
    """Each of ``values`` occurs."""
    arguments = {"column": column, "value_set": list(values)}
    return Expectation("ExpectColumnDistinctValuesToContainSet", arguments, meaning)


def matches(column: str, regex: str, meaning: str) -> Expectation:
    """Every value begins with a match of ``regex``; nulls are ignored."""
    return Expectation("ExpectColumnValuesToMatchRegex", {"column": column, "regex": regex}, meaning)


def at_least_rows(rows: int, meaning: str) -> Expectation:
    """There are at least ``rows`` rows."""
    return Expectation("ExpectTableRowCountToBeBetween", {"min_value": rows}, meaning)


def validate(subject: str, tables: Sequence[Table], report: Path) -> list[Outcome]:
    """Check tables against their expectations and write the report, also if they fail.

    Args:
        subject: What the tables describe, in words (``training dataset``).
        tables: With their expectations.
        report: Folder for validation.json; nothing is written elsewhere.

    Returns:
        An outcome per expectation, all of them passed.

    Raises:
        ValidationError: Names each failed expectation, its column and examples.
    """
    report.mkdir(parents=True, exist_ok=True)
    storage.sweep(report)
    (report / REPORT_NAME).unlink(missing_ok=True)
    outcomes = _run(subject, tables)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    _write_outcomes(subject, outcomes, report)
    if failed:
        raise ValidationError(
            f"The {subject} does not meet {len(failed)} of {len(outcomes)} expectations:\n"
            + "\n".join(f"  - {outcome}" for outcome in failed),
            f"See {report / REPORT_NAME}; the limits are in the section validation of params.yaml.",
        )
    logger.info("The %s meets its %d expectations.", subject, len(outcomes))
    return outcomes


def accept(
    subject: str, tables: Sequence[tuple[str, dict[str, list[Any]], list[Expectation]]], report: Path
) -> bool:
    """Whether small tables meet what `between` and `among` say; then their validation.json is written.

    It has the bytes that `validate` gives it, without the seconds that great_expectations takes to import.
    Nothing is written if a table does not: only `validate` reports a failure.

    Args:
        subject: What the tables describe, in words.
        tables: Name, columns of numbers and texts (nulls are NaN), and expectations of each.
        report: Folder for validation.json.
    """
    outcomes = []
    for name, columns, expectations in tables:
        for expected in expectations:
            limits = dict(expected.arguments)
            values = columns[limits.pop("column")]
            known = [value for value in values if value == value]  # NaN is not
            low, high = limits.get("min_value", -math.inf), limits.get("max_value", math.inf)
            allowed = limits.get("value_set")
            if not all(low <= value <= high if allowed is None else value in allowed for value in known):
                return False
            kind = re.sub(r"(?<!^)(?=[A-Z])", "_", expected.kind).lower()
            facts = (name, kind, expected.arguments["column"], limits, expected.meaning)
            outcomes.append(Outcome(*facts, True, None, len(values), 0, [], None))
    _write_outcomes(subject, outcomes, report)
    return True


def _write_outcomes(subject: str, outcomes: Sequence[Outcome], report: Path) -> None:
    num_failed = sum(not outcome.passed for outcome in outcomes)
    result = {
        "subject": subject,
        "passed": not num_failed,
        "evaluated": len(outcomes),
        "failed": num_failed,
        "expectations": [asdict(outcome) for outcome in outcomes],
    }
    storage.write_json(report / REPORT_NAME, result)


def _run(subject: str, tables: Sequence[Table]) -> list[Outcome]:
    """Validate each table in a context in memory."""
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # it logs each metric
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    name = subject.replace(" ", "_")
    source = context.data_sources.add_pandas(name)
    outcomes = []
    for table in tables:
        batch = source.add_dataframe_asset(table.name).add_batch_definition_whole_dataframe("all")
        suite = gx.ExpectationSuite(
            name=f"{name}.{table.name}",
            expectations=[
                getattr(gx.expectations, expected.kind)(**expected.arguments, notes=expected.meaning)
                for expected in table.expectations
            ],
        )
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=table.name, data=batch, suite=context.suites.add(suite))
        )
        result = definition.run(
            batch_parameters={"dataframe": table.frame},
            result_format={
                "result_format": "SUMMARY",
                "unexpected_index_column_names": list(table.names),
                "partial_unexpected_count": _EXAMPLES,
            },
        )
        # The results come in Great Expectations' own order: find each by the id of its expectation.
        results: list[Any] = [one.to_json_dict() for one in result.results]
        found = {one["expectation_config"]["id"]: one for one in results}
        for expected, asked in zip(table.expectations, suite.expectations, strict=True):
            outcomes.append(_outcome(table, expected, found[asked.id]))
    return outcomes


def _outcome(table: Table, expected: Expectation, result: dict[str, Any]) -> Outcome:
    facts = result["result"]
    passed = bool(result["success"])
    examples = (
        facts.get("partial_unexpected_index_list")
        or facts.get("partial_unexpected_list")
        or facts.get("partial_missing_list")
        or []
    )
    return Outcome(
        table=table.name,
        expectation=result["expectation_config"]["type"],
        column=expected.arguments.get("column"),
        arguments=_finite({name: value for name, value in expected.arguments.items() if name != "column"}),
        meaning=expected.meaning,
        passed=passed,
        observed=_finite(facts.get("observed_value")),
        checked=facts.get("element_count", len(table.frame)),
        failing=facts.get("unexpected_count", 0),
        examples=[] if passed else _finite(examples[:_EXAMPLES]),
        error=_error(result.get("exception_info") or {}),
    )


def _error(info: dict[str, Any]) -> str | None:
    """The message of an expectation that could not be evaluated, such as for a missing column."""
    for one in (info, *info.values()):  # the facts of one exception, or of one for each metric
        if isinstance(one, dict) and one.get("raised_exception"):
            return str(one.get("exception_message")).splitlines()[0]
    return None


def _finite(value: Any) -> Any:
    """The value with NaN and infinities as text, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items())
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."
