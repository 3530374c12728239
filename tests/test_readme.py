"""The README and the pages agree with the code: commands, options, figures, formulas, limits."""

import re
import shlex

import click
import pytest

from quality_model.cli import cli
from quality_model.degrade.severity import SCALES
from quality_model.params import Params
from quality_model.records import HEADS, MEANINGS, OVERALL_WEIGHTS

from .readme import PAGES, README, SHELL, table
from .test_pipeline_definition import PROJECT


def test_every_command_of_the_command_line_is_in_the_documents_and_says_what_it_does() -> None:
    documents = "".join(path.read_text() for path in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")))
    for name, command in cli.commands.items():
        assert re.search(rf"(quality-model |`|quality_model ){name}\b", documents), name
        assert command.get_short_help_str()


def test_the_command_line_takes_every_command_of_the_pages_and_its_options() -> None:
    for line in SHELL:
        words = shlex.split(line)
        if words[0] != "quality-model":
            continue
        command = cli.commands[words[1]]
        options = {opt for p in command.params if isinstance(p, click.Option) for opt in p.opts}
        assert {word for word in words[2:] if word.startswith("--")} <= options, line


def test_every_make_target_of_the_pages_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    wanted = {shlex.split(line)[1] for line in SHELL if line.startswith("make ")}
    assert wanted
    assert wanted <= targets


def test_the_table_of_scores_has_their_meanings_and_the_formula_of_overall_its_weights() -> None:
    assert {name: cells[1] for name, cells in table("| score | range | direction |").items()} == MEANINGS
    terms = " + ".join(f"{OVERALL_WEIGHTS[head]:g} {head}" for head in HEADS)
    assert f"`overall` = 1 - ({terms})." in README


def test_the_table_of_severities_has_the_values_of_the_scales() -> None:
    rows = table("| score | measure | 0.25 | 0.5 | 0.75 | 1 |")
    for head in HEADS:
        expected = [SCALES[head].measure_at(severity) for severity in (0.25, 0.5, 0.75, 1.0)]
        assert [float(cell) for cell in rows[head][1:]] == pytest.approx(expected, rel=0.05)


def test_the_limits_of_the_reader_are_the_committed_ones(params: Params) -> None:
    limits = params.limits
    for text in (
        f"`limits.max_pixels` ({limits.max_pixels // 10**6} million)",
        f"`max_bytes` ({limits.max_bytes // 10**6} million)",
        f"`max_seconds` per image ({limits.max_seconds:g}),",
        f"`formats` ({', '.join(limits.formats)})",
    ):
        assert text in " ".join(PAGES.split()), text


def test_the_table_of_columns_names_every_column_of_a_result_in_its_order() -> None:
    from quality_model.score.result import SCHEMA

    rows = PAGES.split("| columns | meaning |\n|---|---|\n")[1].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in rows.splitlines())) == SCHEMA.names


def test_the_figures_of_quality_are_those_of_the_model_cards() -> None:
    from benchmarks.figures import BEGIN, END, quality
    from quality_model import pretrained

    block = README.split(BEGIN)[1].split(END)[0]
    for name, folder in pretrained.FOLDERS.items():
        r2, flagged = quality((folder / "MODEL_CARD.md").read_text())
        assert f"| `{name}` | {r2} | {flagged} |" in block


def test_the_limits_that_the_pages_name_are_those_of_the_committed_gate(params: Params) -> None:
    """Five test groups, and so many sub-folders that the default share gives five."""
    assert params.gate.min_test_groups == 5
    groups = next(n for n in range(1, 100) if int(params.generate.test_share * n + 0.5) >= 5)
    assert f"hence {groups} sub-folders" in PAGES
