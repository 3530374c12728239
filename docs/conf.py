"""The site of these pages: `make docs` builds it into build/site, and fails at a broken link.

The pages in reference/ are made here, from the code, the command line and params.yaml; git ignores them.
"""

import inspect
import os
import re
from pathlib import Path
from typing import Any, Final, get_args

import click
import yaml
from sphinx.application import Sphinx

import quality_model
from quality_model import errors
from quality_model.cli import GROUPS, cli
from quality_model.params import Params

DOCS: Final = Path(__file__).resolve().parent
ROOT: Final = DOCS.parent
REFERENCE: Final = DOCS / "reference"
COPIED: Final = {
    REFERENCE / f"{name}.md": ROOT / file
    for name, file in {
        "model-card": "quality_model/pretrained/small/MODEL_CARD.md",
        "licences": "quality_model/pretrained/small/LICENSES.md",
        "licences-standard": "quality_model/pretrained/standard/LICENSES.md",
        "changelog": "CHANGELOG.md",
        "contributing": "CONTRIBUTING.md",
    }.items()
}
"""Pages of the reference that are files from beside the code."""

ADAPTERS: Final = ("Limits", "dataset_map.ScoreColumns", "torch_dataset.GoodOnly")
"""The adapters whose packages are installed; docs/integrations.md has all of them."""

project = "quality-model"
release = quality_model.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"  # `name` in a docstring
highlight_language = "text"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_copyright = False


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", write_reference)
    app.connect("source-read", link_copies)


def write_reference(_: Sphinx) -> None:
    """Write the pages of the reference; one whose text is the same keeps its time, and is not built again."""
    pages = {"commands": commands(), "parameters": parameters(), "python": python()}
    texts = {REFERENCE / f"{name}.md": "\n".join(lines) for name, lines in pages.items()}
    texts |= {page: file.read_text(encoding="utf-8") for page, file in COPIED.items()}
    REFERENCE.mkdir(exist_ok=True)
    for page, text in texts.items():
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def link_copies(_: Sphinx, name: str, source: list[str]) -> None:
    """Let links to a copied file lead to its page, and links in it lead to where they did from the file."""
    page = DOCS / f"{name}.md"
    pages = {file: copy for copy, file in COPIED.items()}

    def link(match: re.Match[str]) -> str:
        target = (COPIED.get(page, page).parent / match[1]).resolve()
        path = Path(os.path.relpath(pages.get(target, target), page.parent))
        return f"]({path.as_posix()}{match[2]})"

    source[0] = re.sub(r"\]\((?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?)\)", link, source[0])


def commands() -> list[str]:
    """Every command with its options, in the order of use."""
    lines = ["# Commands", "", "`quality-model COMMAND --help` prints the same.", ""]
    for title, names in GROUPS.items():
        lines += [f"## {title}", ""]
        for name in names:
            command = cli.commands[name]
            context = click.Context(command)
            usage = " ".join([f"quality-model {name}", *command.collect_usage_pieces(context)])
            text = inspect.cleandoc(command.help or "")
            lines += [f"### {name}", "", "```text", usage, "```", "", text, ""]
            records = (parameter.get_help_record(context) for parameter in command.params)
            for option, text in (record for record in records if record is not None and record[1]):
                lines += [f"`{option}`", f": {_paragraph(text)}", ""]
    return lines


def parameters() -> list[str]:
    """Every parameter of params.yaml with the committed value, and what it means."""
    committed = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    lines = ["# Parameters", "", "The values are those of the committed `params.yaml`.", ""]
    lines += ["`--set SECTION.KEY=VALUE` overrides one, and so do the flags of [commands](commands.md).", ""]
    for name, info in Params.model_fields.items():
        section: Any = info.annotation
        lines += [f"## {name}", "", inspect.getdoc(section) or "", ""]
        for key, field in section.model_fields.items():
            value = yaml.safe_dump(committed[name][key], default_flow_style=True, width=1000).splitlines()[0]
            texts = [_paragraph(section.descriptions().get(key, ""))]
            if names := [f"`{choice}`" for choice in get_args(field.annotation) if isinstance(choice, str)]:
                texts += [f"({', '.join(names)})"]
            lines += [f"`{name}.{key}: {value}`", f": {' '.join(texts)}", ""]
    return lines


def python() -> list[str]:
    """The public names of the package, its adapters and its errors, from their docstrings."""
    names = [name for name in quality_model.__all__ if not name.startswith("_")]
    found = vars(errors).items()
    classes = [name for name, one in found if inspect.isclass(one) and issubclass(one, Exception)]
    sections = {
        "quality_model": [f".. autoclass:: quality_model.{name}\n   :members:" for name in names],
        "quality_model.integrations": [
            f".. autoclass:: quality_model.integrations.{name}\n   :members:" for name in ADAPTERS
        ],
        "quality_model.errors": [
            f".. autoexception:: quality_model.errors.{name}" for name in classes if name not in names
        ],
    }
    lines = ["# Python", ""]
    for title, directives in sections.items():
        lines += [f"## {title}", "", "```{eval-rst}", "\n\n".join(directives), "```", ""]
    return lines


def _paragraph(text: str) -> str:
    """One paragraph of Markdown in which brackets and stars are themselves."""
    return re.sub(r"([\[\]<>*])", r"\\\1", " ".join(text.split()))
