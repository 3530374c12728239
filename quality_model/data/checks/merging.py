"""One result of Great Expectations out of those of a table's batches."""

from collections.abc import Hashable
from typing import Any, Final

_ROW_COUNT: Final = "expect_table_row_count_to_equal"


def add_batch(whole: Any, batch: Any, most_examples: int) -> None:
    """Add the results of further rows of a table to those of the rows before.

    Counts are summed, shares computed anew, and the first examples kept. That can be done for
    expectations of every single row and of the number of rows; not for a mean, nor for one that
    some rows may miss.

    Args:
        whole: `great_expectations.core.ExpectationSuiteValidationResult` of the rows before; changed.
        batch: The same suite's result of the further rows.
        most_examples: As many examples are kept.
    """
    later = {result.expectation_config.id: result for result in batch.results}
    for result in whole.results:
        _add(result, later[result.expectation_config.id], most_examples)
    whole.meta["batch_markers"].pop("pandas_data_fingerprint", None)  # of the first rows alone
    passed = sum(bool(result.success) for result in whole.results)
    whole.success = passed == len(whole.results)
    whole.statistics = {
        "evaluated_expectations": len(whole.results),
        "successful_expectations": passed,
        "unsuccessful_expectations": len(whole.results) - passed,
        "success_percent": 100.0 * passed / len(whole.results),
    }


def _add(result: Any, further: Any, most_examples: int) -> None:
    if not result.result:  # it could not be evaluated, and says why
        return
    if not further.result:
        result.success, result.result = False, further.result
        result.exception_info = further.exception_info
        return
    facts, more = result.result, further.result
    asked = result.expectation_config
    if asked.type == _ROW_COUNT:
        facts["observed_value"] += more["observed_value"]
        result.success = facts["observed_value"] == asked.kwargs["value"]
        return
    assert "element_count" in facts and asked.kwargs.get("mostly", 1.0) == 1.0, asked.type
    result.success = result.success and further.success
    for name in ("element_count", "unexpected_count", "missing_count"):
        if name in facts:
            facts[name] += more[name]
    unexpected, missing = facts["unexpected_count"], facts.get("missing_count", 0)
    present = facts["element_count"] - missing
    for name, part, of in (
        ("unexpected_percent", unexpected, present),
        ("unexpected_percent_nonmissing", unexpected, present),
        ("unexpected_percent_total", unexpected, facts["element_count"]),
        ("missing_percent", missing, facts["element_count"]),
    ):
        if name in facts:
            facts[name] = 100.0 * part / of if of else None
    for name in ("partial_unexpected_list", "partial_unexpected_index_list", "partial_missing_list"):
        if facts.get(name) or more.get(name):
            facts[name] = [*(facts.get(name) or []), *(more.get(name) or [])][:most_examples]
    if "partial_unexpected_counts" in facts:
        facts["partial_unexpected_counts"] = _frequent(
            [*facts["partial_unexpected_counts"], *more["partial_unexpected_counts"]], most_examples
        )


def _frequent(counted: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The most frequent values of two lists of ``value`` and ``count``."""
    sums: dict[Hashable, dict[str, Any]] = {}
    for entry in counted:
        sums.setdefault(str(entry["value"]), {**entry, "count": 0})["count"] += entry["count"]
    return sorted(sums.values(), key=lambda entry: -entry["count"])[:most]
