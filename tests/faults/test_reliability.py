"""docs/reliability.md names tests that exist, the limits as committed, and every fault test."""

import re

import pytest

from quality_model.params import LimitsParams

from .conftest import PROJECT

PAGE = (PROJECT / "docs" / "reliability.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| `(tests/[\w/]+\.py)` \| (.+) \|$", PAGE, re.MULTILINE)


def names_in(file: str) -> set[str]:
    return set(re.findall(r"^def (test_\w+)\(", (PROJECT / file).read_text(), re.MULTILINE))


@pytest.mark.parametrize(("claim", "file", "tests"), ROWS, ids=[row[0][:40] for row in ROWS])
def test_every_promise_and_fault_names_tests_that_exist(claim: str, file: str, tests: str) -> None:
    named = re.findall(r"`(test_\w+)`", tests)
    assert named
    assert set(named) <= names_in(file)


def test_every_fault_test_stands_on_the_page() -> None:
    own = {
        f"tests/faults/{path.name}"
        for path in (PROJECT / "tests" / "faults").glob("test_*.py")
        if path.name != "test_reliability.py"
    }
    assert own <= {file for _, file, _ in ROWS}


def test_the_table_of_limits_is_that_of_the_parameters(limits: LimitsParams) -> None:
    section = PAGE.split("## Limits of the reader")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE))
    values = {name: getattr(limits, name) for name in LimitsParams.model_fields}
    assert told == {
        name: ", ".join(value) if isinstance(value, tuple) else str(value) for name, value in values.items()
    }


def test_the_table_of_error_codes_is_that_of_the_code() -> None:
    section = PAGE.split("## Error codes")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    source = "\n".join(path.read_text() for path in (PROJECT / "quality_model").rglob("*.py"))
    given = set(re.findall(r"PictureError\(\s*\"(\w+)\"", source))
    given |= set(re.findall(r"\breason ?= ?\"(\w+)\",", source))
    assert given <= documented
    assert {code for code in documented if f'"{code}"' not in source} == set()
