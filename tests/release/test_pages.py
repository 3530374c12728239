"""The pages that we write: what they say, and that they fetch nothing."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from quality_model.core import storage
from quality_model.core.figures import new_figure, save_figure
from quality_model.data.checks.expectations import Table, among, validate
from quality_model.errors import ValidationError
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS
from quality_model.release.gate import Verdict
from quality_model.release.pages import beside_champion, page, table, write_index
from tests.pages_read import addresses, foreign
from tests.release.gate.evidence import evidence, tree

NUM_SAMPLES = 20


@pytest.mark.parametrize(
    "resource",
    [
        '<img src="https://example.com/a.png">',
        '<link rel="stylesheet" href="//example.com/a.css">',
        "<style>body{background:url(http://example.com/a.png)}</style>",
        '<style>@import "https://example.com/a.css";</style>',
        '<p style="background:url(https://example.com/a.png)">',
    ],
)
def test_the_reader_of_these_tests_finds_what_a_page_would_fetch(resource: str) -> None:
    assert [address for address in foreign(page("A page", [resource])) if "//example.com/a." in address]


def test_text_in_a_page_is_never_markup() -> None:
    hostile = '<img src="https://example.com/a.png">&'
    written = page(hostile, [table([hostile], [[hostile], [0.123456], [None]], right=[hostile], bad=[0])])
    assert foreign(written) == []
    assert "0.1235" in written and ">-<" in written and 'class="bad"' in written


@pytest.fixture
def reports(tmp_path: Path) -> ProjectPaths:
    """A project in which the checks of images failed, and a model was evaluated before."""
    paths = ProjectPaths(tmp_path)
    frame = pd.DataFrame({"name": ["<b>a</b>", "b"], "colour": ["red", "blue"]})
    of_images = Table("things", frame, ("name",), [among("colour", ["blue"], "Things are blue.")])
    with pytest.raises(ValidationError):
        validate("table of images", [of_images], paths.images_report)
    storage.write_json(paths.evaluation_report / "evaluation.json", tree()["candidate"])
    save_figure(new_figure(2.0, 1.0), paths.evaluation_report / "figures" / "learning_curves.png")
    return paths


def test_the_index_says_what_was_checked_and_found_and_shows_the_figures(reports: ProjectPaths) -> None:
    written = write_index(reports.root).read_text()
    assert "Checks of the table of images: FAILED" in written
    assert "1 expectations, 1 not met" in written
    for words in ("Things are blue.", "value_set", "colour red, name &lt;b&gt;a&lt;/b&gt;"):
        assert words in written
    assert all(head in written for head in HEADS) and "learning curves" in written
    assert foreign(written) == [] and addresses(written)[-1].startswith("data:image/png;base64,")


def test_the_index_of_a_project_without_reports_or_with_those_of_another_release_is_a_page_too(
    reports: ProjectPaths, tmp_path: Path
) -> None:
    (reports.evaluation_report / "evaluation.json").write_text('{"format_version": 0}')
    assert "Evaluation" not in write_index(reports.root).read_text()
    assert write_index(tmp_path / "new").read_text().endswith("</html>\n")


def test_candidate_and_champion_are_shown_beside_each_other_where_they_err_and_differ_most() -> None:
    """Sample n has the label n / 20; the candidate errs on 7 by .3 and the champion differs on 3 by .5."""
    labels = np.arange(NUM_SAMPLES) / NUM_SAMPLES
    ours, theirs = labels.copy(), labels.copy()
    ours[7] += 0.3
    theirs[7] += 0.3
    theirs[3] += 0.5
    columns = {"row": np.arange(NUM_SAMPLES)[::-1]}
    for head in HEADS:
        columns |= {f"{head}_label": labels, f"{head}_score": ours, f"{head}_champion": theirs}
        columns |= {f"{head}_kind": np.array([None] + ["blur"] * (NUM_SAMPLES - 1), dtype=object)}
    images = np.zeros((NUM_SAMPLES, 32, 32, 3), dtype=np.uint8)
    written = beside_champion(pd.DataFrame(columns), images, evidence(champion=True), Verdict(False, (), "4"))
    assert "Candidate beside champion 4" in written
    assert foreign(written) == [] and len(addresses(written)) == len(HEADS) * 3 * 5
    errs, least, differs = re.split("<h3>", written[written.index("<h2>noise") :])[1:]
    assert re.search(r"</div>true ([\d.]+), candidate ([\d.]+), champion ([\d.]+)", errs).groups() == (
        *("0.35", "0.65", "0.65"),
    )
    assert "champion 0.65" in differs[: differs.index("</figure>")]
    shown = [float(label) for label in re.findall(r"true ([\d.]+)", least)]
    assert len(shown) == 5 and shown[0] < 0.25 and shown[-1] > 0.75  # over the severities
    assert 0.35 not in shown and "absent" not in least
