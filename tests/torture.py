"""The results of `make torture` as a table: a pytest plugin (``-p tests.torture``) for docs/reliability.md.

A test adds a note by ``record_property("said", ...)``.
"""

from collections.abc import Iterable, Iterator
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    stats = terminalreporter.stats
    reports = [report for outcome in ("passed", "failed", "error") for report in stats.get(outcome, [])]
    terminalreporter.section("torture")
    for line in table(reports):
        terminalreporter.write_line(line)


def table(reports: Iterable[Any]) -> Iterator[str]:
    """Lines of a Markdown table, one per test function with all its cases.

    Args:
        reports: Pytest's reports of each phase (setup, call, teardown) of each case.
    """
    cases: dict[str, dict[str, list[Any]]] = {}
    for report in reports:
        test, _, case = report.nodeid.partition("[")
        cases.setdefault(test, {}).setdefault(case.removesuffix("]"), []).append(report)
    yield "| test | result | longest | all | said |"
    yield "|---|---|---|---|---|"
    for test, phases in sorted(cases.items()):
        failed = [case for case, found in phases.items() if any(report.failed for report in found)]
        elapsed_s = [sum(report.duration for report in found) for found in phases.values()]
        said = dict.fromkeys(
            str(value)
            for found in phases.values()
            for report in found
            for name, value in report.user_properties
            if name == "said"
        )
        result = f"{len(phases) - len(failed)} passed"
        if failed:
            result += f", {len(failed)} failed: {', '.join(failed)}"
        words = "; ".join(said).replace("|", "/")
        yield f"| `{test}` | {result} | {max(elapsed_s):.0f} s | {sum(elapsed_s):.0f} s | {words} |"
