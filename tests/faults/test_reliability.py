"""docs/reliability.md names tests that exist, and the limits as committed."""

import re

from quality_model.params import LimitsParams

from .conftest import PROJECT

PAGE = (PROJECT / "docs" / "reliability.md").read_text()
FILES = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE))


def test_the_tests_named_on_the_page_exist() -> None:
    assert FILES
    assert {file for file in FILES if not (PROJECT / file).is_file()} == set()


def test_the_table_of_limits_is_that_of_the_parameters(limits: LimitsParams) -> None:
    section = PAGE.split("## Limits of the reader")[1].split("\n## ")[0]
    shown = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE))
    values = {name: getattr(limits, name) for name in LimitsParams.model_fields}
    assert shown == {
        name: ", ".join(value) if isinstance(value, tuple) else str(value) for name, value in values.items()
    }


def test_the_table_of_error_codes_is_that_of_the_code() -> None:
    section = PAGE.split("## Error codes")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    source = "\n".join(path.read_text() for path in (PROJECT / "quality_model").rglob("*.py"))
    given = set(re.findall(r"ImageError\(\s*\"(\w+)\"", source))
    given |= set(re.findall(r"\berror_code ?= ?\"(\w+)\",", source))
    assert given <= documented
    assert {code for code in documented if f'"{code}"' not in source} == set()
