"""The size and the layers of the house: budgets (tests/house.toml), unique names, downward imports."""

import ast
import io
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
BUDGETS = tomllib.loads((PROJECT / "tests" / "house.toml").read_text())
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
LIBRARY = sorted((PROJECT / "quality_model").rglob("*.py"))
TESTS = sorted((PROJECT / "tests").rglob("*.py"))


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def code_lines_of(path: Path) -> int:
    """Lines with code on them: no blank lines, comments or docstrings."""
    source = path.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstrings |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def repeated_names(files: list[Path]) -> list[str]:
    counts = Counter(file.name for file in files if file.name not in {"__init__.py", "conftest.py"})
    return sorted(name for name, count in counts.items() if count > 1)


def test_the_library_is_within_its_budgets() -> None:
    budget = BUDGETS["library"]
    assert len(LIBRARY) <= budget["files"]
    assert sum(map(code_lines_of, LIBRARY)) <= budget["code_lines"]


def test_the_tests_are_within_their_budget() -> None:
    assert sum(map(lines_of, TESTS)) <= BUDGETS["tests"]["lines"]


@pytest.mark.parametrize(
    ("files", "budget"), [(LIBRARY, "library"), (TESTS, "tests")], ids=["library", "tests"]
)
def test_no_file_is_too_long_and_no_name_is_used_twice(files: list[Path], budget: str) -> None:
    assert [str(file) for file in files if lines_of(file) > BUDGETS[budget]["longest_file"]] == []
    assert repeated_names(files) == []


def test_imports_run_downwards_and_scoring_stands_alone() -> None:
    """The contracts of pyproject.toml."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
