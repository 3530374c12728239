"""The run of Great Expectations over some tables, and the report: validation.json and Data Docs.

The same tables give the same bytes: times and random ids are taken out of the results and
of the pages, so that a stage that validates has a stable output.
"""

import logging
import math
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from quality_model.core import storage
from quality_model.data.checks.expectations import Expectation, Table
from quality_model.data.checks.merging import add_batch
from quality_model.errors import ValidationError

REPORT_NAME: Final = "validation.json"
DOCS_NAME: Final = "docs"
_EXAMPLES: Final = 5
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNUSED_IMAGES: Final = (
    "glossary_scroller.gif",
    "iterative-dev-loop.png",
    "validation_failed_unexpected_values.gif",
)

logger = logging.getLogger(__name__)


def validate(subject: str, tables: Sequence[Table], report: Path) -> dict[str, Any]:
    """Hold tables to their expectations and write the report, also when they fail.

    Args:
        subject: What the tables describe, in words (``training dataset``).
        tables: With their expectations.
        report: Folder for validation.json and docs/index.html; nothing is written elsewhere.

    Returns:
        What validation.json holds: ``subject``, ``passed``, ``evaluated``, ``failed`` and
        ``expectations``, each with table, expectation, column, arguments, meaning, passed,
        observed, checked, failing and examples.

    Raises:
        ValidationError: Names each failed expectation, its column and examples.
    """
    report.mkdir(parents=True, exist_ok=True)
    storage.sweep(report)
    (report / REPORT_NAME).unlink(missing_ok=True)
    docs = report / f".partial-{uuid.uuid4().hex[:12]}"
    try:
        with _quiet():
            entries = _run(subject, tables, docs)
        _steady(docs)
        _put_in_place(docs, report / DOCS_NAME)
    finally:
        shutil.rmtree(docs, ignore_errors=True)
    failed = [entry for entry in entries if not entry["passed"]]
    result = {
        "subject": subject,
        "passed": not failed,
        "evaluated": len(entries),
        "failed": len(failed),
        "expectations": entries,
    }
    storage.write_json(report / REPORT_NAME, result)
    if failed:
        raise ValidationError(
            f"The {subject} does not meet {len(failed)} of {len(entries)} expectations:\n"
            + "\n".join(f"  - {describe(entry)}" for entry in failed),
            f"See {report / DOCS_NAME / 'index.html'}; the limits are in the section validation of"
            " params.yaml.",
        )
    logger.info("The %s meets its %d expectations.", subject, len(entries))
    return result


def describe(entry: dict[str, Any]) -> str:
    """One line for a console: what was expected of which column, and what was found."""
    place = f"{entry['table']}.{entry['column']}" if entry["column"] else entry["table"]
    limits = ", ".join(f"{name} {_short(value)}" for name, value in entry["arguments"].items())
    found = []
    if entry["failing"]:
        found.append(f"{entry['failing']} of {entry['checked']} fail")
    if entry["observed"] is not None:
        found.append(f"found {_short(entry['observed'])}")
    if entry["examples"]:
        found.append("for example " + "; ".join(_short(example) for example in entry["examples"][:3]))
    if entry["error"]:
        found.append(entry["error"])
    return f"{place}: {entry['expectation']} ({limits}): {', '.join(found) or 'not met'}. {entry['meaning']}"


def _run(subject: str, tables: Sequence[Table], docs: Path) -> list[dict[str, Any]]:
    """Validate each table in a context that lives in memory, and build its pages in ``docs``."""
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
    entries = []
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
        run = partial(
            definition.run,
            result_format={
                "result_format": "SUMMARY",
                "unexpected_index_column_names": list(table.names),
                "partial_unexpected_count": _EXAMPLES,
            },
            run_id=gx.RunIdentifier(run_name=name, run_time=_NO_TIME),
        )
        outcome, num_rows = _run_batches(run, table)
        # Each batch's result took the place of the one before, under the same name.
        store: Any = context.validation_results_store
        for key in store.list_keys():
            if key.expectation_suite_identifier.name == suite.name:
                store.set(key, outcome)
        # The results come in Great Expectations' own order: find each by what it was asked.
        found = {_key(result): result for result in (result.to_json_dict() for result in outcome.results)}
        for expected, asked in zip(table.expectations, suite.expectations, strict=True):
            entries.append(_entry(table, expected, found[asked.id], num_rows))
    place = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())}
    site: Any = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": place,
    }
    context.add_data_docs_site("report", site)
    context.build_data_docs()
    return entries


def _run_batches(run: Callable[..., Any], table: Table) -> tuple[Any, int]:
    """Hold each batch of a table to its expectations: the result of all, and how many rows they have."""
    whole, num_rows = None, 0
    for frame in table.frames:
        outcome = run(batch_parameters={"dataframe": frame})
        num_rows += len(frame)
        if whole is None:
            whole = outcome
        else:
            add_batch(whole, outcome, _EXAMPLES)
    assert whole is not None, "a table without rows is one empty batch"
    return whole, num_rows


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Great Expectations' own notes out of our log, down to warnings."""
    theirs = logging.getLogger("great_expectations")
    level = theirs.level
    theirs.setLevel(logging.WARNING)
    try:
        yield
    finally:
        theirs.setLevel(level)


def _key(result: dict[str, Any]) -> Any:
    return result["expectation_config"]["id"]


def _entry(table: Table, expected: Expectation, result: dict[str, Any], num_rows: int) -> dict[str, Any]:
    facts = result["result"]
    examples = facts.get("partial_unexpected_index_list") or facts.get("partial_unexpected_list")
    entry = {
        "table": table.name,
        "expectation": result["expectation_config"]["type"],
        "column": expected.arguments.get("column"),
        "arguments": {name: value for name, value in expected.arguments.items() if name != "column"},
        "meaning": expected.meaning,
        "passed": bool(result["success"]),
        "observed": facts.get("observed_value"),
        "checked": facts.get("element_count", num_rows),
        "failing": facts.get("unexpected_count", 0),
        "examples": (examples or facts.get("partial_missing_list") or [])[:_EXAMPLES],
        "error": _error(result.get("exception_info")),
    }
    if entry["passed"]:
        entry["examples"] = []
    plain: dict[str, Any] = _finite(entry)
    return plain


def _error(info: Any) -> str | None:
    """The message of an expectation that could not be evaluated, such as for a missing column."""
    if not isinstance(info, dict):
        return None
    nested = [info] if "raised_exception" in info else [one for one in info.values() if isinstance(one, dict)]
    for one in nested:
        if one.get("raised_exception"):
            return str(one.get("exception_message")).splitlines()[0]
    return None


def _finite(value: Any) -> Any:
    """JSON has no NaN: write it as a word."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _steady(docs: Path) -> None:
    """Take times, random ids, images from the network and unused files out of the pages."""
    for name in _UNUSED_IMAGES:
        (docs / "static" / "images" / name).unlink(missing_ok=True)
    for page in docs.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        up = "../" * (len(page.relative_to(docs).parts) - 1)
        logo = f"{up}static/images/logo-long.png"
        text = re.sub(r"https://great-expectations-web-assets\.[^\"')]*", logo, text)
        text = re.sub(r"<footer>.*?</footer>", "", text, flags=re.DOTALL)
        text = re.sub(r"1970-01-01[T ]00:00:00(?:Z| UTC|\+00:00)", "not recorded", text)
        text = re.sub(r"(?<![\d/])20\d{6}T\d{6}\.\d+Z", "not recorded", text)
        seen: dict[str, str] = {}
        text = re.sub(
            r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
            lambda match, seen=seen: seen.setdefault(match[0], f"id-{len(seen)}"),  # type: ignore[misc]
            text,
        )
        page.write_text(text, encoding="utf-8")


def _put_in_place(new: Path, place: Path) -> None:
    """Replace a folder as a whole; a name is free only for the moment between two renames."""
    old = new.with_name(new.name + "-old")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    storage.flush_folder(place.parent)
