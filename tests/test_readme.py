"""What the README states is what the code has: commands, options, figures, formulas, limits."""

import re
import shlex

import click
import pytest

from quality_model.cli import cli
from quality_model.degradations.severity import SCALES
from quality_model.params import Params
from quality_model.records import HEADS, MEANINGS, OVERALL_WEIGHTS

from .readme import README, SHELL, table
from .test_pipeline_definition import PROJECT


def test_every_command_of_the_command_line_is_in_the_documents_and_says_what_it_does() -> None:
    documents = "".join(path.read_text() for path in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")))
    for name, command in cli.commands.items():
        assert re.search(rf"(quality-model |`|quality_model ){name}\b", documents), name
        assert command.get_short_help_str()


def test_the_command_line_takes_every_command_of_the_readme_and_its_options() -> None:
    for line in SHELL:
        words = shlex.split(line)
        if words[0] != "quality-model":
            continue
        command = cli.commands[words[1]]
        options = {opt for p in command.params if isinstance(p, click.Option) for opt in p.opts}
        assert {word for word in words[2:] if word.startswith("--")} <= options, line


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    wanted = {shlex.split(line)[1] for line in SHELL if line.startswith("make ")}
    assert wanted
    assert wanted <= targets


def test_the_table_of_scores_has_their_meanings() -> None:
    assert {name: cells[1] for name, cells in table("| score | range | direction |").items()} == MEANINGS


def test_the_formula_of_the_overall_score_has_its_weights() -> None:
    terms = " + ".join(f"{OVERALL_WEIGHTS[head]:g} {head}" for head in HEADS)
    assert f"`overall` = 1 - ({terms})." in README


@pytest.mark.parametrize("head", HEADS)
def test_the_table_of_severities_is_that_of_the_scales(head: str) -> None:
    _, *measures = table("| score | measure | 0.25 | 0.5 | 0.75 | 1 |")[head]
    scale = SCALES[head]
    for severity, measure in zip((0.25, 0.5, 0.75, 1.0), map(float, measures), strict=True):
        assert scale.measure_at(severity) == pytest.approx(measure, rel=0.05)


def test_the_limits_of_the_reader_are_the_committed_ones(params: Params) -> None:
    limits = params.limits
    for told in (
        f"`limits.max_pixels` ({limits.max_pixels // 10**6} million)",
        f"`max_bytes` ({limits.max_bytes // 10**6} million)",
        f"`max_seconds` per picture ({limits.max_seconds:g},",
        f"`formats` ({', '.join(limits.formats)})",
    ):
        assert told in " ".join(README.split()), told
