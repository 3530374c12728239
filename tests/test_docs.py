"""The site of docs/: built strictly, complete, and of this host alone."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import quality_model
from quality_model.cli import cli
from quality_model.params import Params, Section

PROJECT = Path(__file__).resolve().parents[1]
ELSEWHERE = re.compile(r"^\s*(\w+:)?//")
LOADED = {"src", "srcset", "data", "poster", "action"}
"""Attributes whose address a page loads, or sends to, by itself; href of a <link> does so too."""


class Loaded(HTMLParser):
    """The addresses that a page loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        loaded = LOADED | ({"href"} if tag == "link" else set())
        self.addresses += [value for name, value in attrs if value and name in loaded]


def build(project: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` runs, in a copy of the project."""
    (line,) = re.findall(r"^\tpython (-m sphinx .*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, *line.split()]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the site is made from, with the site in build/site."""
    copy = tmp_path_factory.mktemp("docs") / "project"
    for name in ("docs", "quality_model"):
        left_out = shutil.ignore_patterns("__pycache__", "reference")
        shutil.copytree(PROJECT / name, copy / name, ignore=left_out)
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "params.yaml"):
        shutil.copyfile(PROJECT / name, copy / name)
    done = build(copy)
    assert done.returncode == 0, done.stderr
    return copy


def text_of(project: Path, page: str) -> str:
    return re.sub(r"<[^>]+>", "", (project / "build" / "site" / f"{page}.html").read_text())


def test_every_page_is_in_the_site_and_loads_nothing_from_elsewhere(project: Path) -> None:
    site = project / "build" / "site"
    for page in project.glob("docs/**/*.md"):
        assert (site / page.relative_to(project / "docs").with_suffix(".html")).exists(), page
    loaded = [address for page in site.rglob("*.html") for address in Loaded(page.read_text()).addresses]
    assert len(loaded) > 100
    assert not [address for address in loaded if ELSEWHERE.match(address)]
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    imported = re.findall(r"""(?:url\(|@import)\s*["']?([^"')]*)""", styles)
    assert not [address for address in imported if ELSEWHERE.match(address)]


def test_the_reference_has_every_command_option_parameter_and_public_name(project: Path) -> None:
    commands = text_of(project, "reference/commands")
    for name, command in cli.commands.items():
        if not command.hidden:
            assert f"quality-model {name} " in commands, name
            assert not [o for p in command.params for o in p.opts if o.startswith("--") and o not in commands]
    parameters = text_of(project, "reference/parameters")
    for name, info in Params.model_fields.items():
        assert isinstance(info.annotation, type) and issubclass(info.annotation, Section)
        assert not [key for key in info.annotation.model_fields if f"{name}.{key}: " not in parameters]
    python = text_of(project, "reference/python")
    assert not [name for name in quality_model.__all__ if name != "__version__" and name not in python]
    assert "GateRefusedError" in python


@pytest.mark.parametrize(
    "link", ["[x](missing.md)", "[x](filter.md#no-such-heading)", "![x](sheets/missing.jpg)"]
)
def test_a_link_that_leads_nowhere_fails_the_build_and_is_named(project: Path, link: str) -> None:
    page = project / "docs" / "stack.md"
    original = page.read_text()
    page.write_text(f"{original}\n{link}\n")
    done = build(project)
    page.write_text(original)
    assert done.returncode != 0
    assert "stack.md" in done.stderr
    assert re.split("[/#]", link.rstrip(")"))[-1].removeprefix("[x](") in done.stderr
