"""The gallery's content: what is chosen, counted and refused. Its page in a browser: test_gallery_page.py."""

import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from quality_model.cli import run
from quality_model.core.decoding import Pixels
from quality_model.curate import gallery
from quality_model.curate.gallery import GALLERY_NAME, Section, write_gallery
from quality_model.curate.overview import NUM_NEAR, NUM_SAMPLE, NUM_WORST
from quality_model.errors import UsageError
from quality_model.records import HEADS
from tests.curate.gallery_result import HOSTILE, make_result
from tests.score.conftest import THRESHOLDS


class Page(HTMLParser):
    """What a page holds: the text of its scripts, and all addresses and handlers in its elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.suspicious: list[str] = []
        self._is_script = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_script = tag == "script"
        named = {name: value or "" for name, value in attrs}
        self.suspicious += [name for name in named if name.startswith("on") or name == "src"]
        self.suspicious += [value for name, value in named.items() if name == "href" and value != "data:,"]

    def handle_data(self, text: str) -> None:
        if self._is_script:
            self.scripts.append(text)
            self._is_script = False

    @property
    def data(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.scripts[0])
        return value


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_result(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def data(result: Path) -> dict[str, Any]:
    return Page(write_gallery(result)).data


@pytest.fixture(scope="module")
def rows(result: Path) -> list[dict[str, Any]]:
    table = pq.read_table(result / "data")
    return table.filter(pc.is_null(table["error_code"])).to_pylist()


@pytest.fixture
def copy(result: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(result, tmp_path / "copy"))


def keys_of(data: dict[str, Any], title: str, head: int | None) -> list[str]:
    (section,) = [one for one in data["sections"] if (one["title"], one["head"]) == (title, head)]
    return [data["images"][place]["key"] for place in section["images"]]


def test_the_worst_and_those_around_the_threshold_are_shown_for_each_head(
    data: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    for number, head in enumerate(HEADS):
        scores = {row["key"]: row[head] for row in rows}
        worst = [scores[key] for key in keys_of(data, "The worst", number)]
        assert worst == sorted(scores.values(), reverse=True)[:NUM_WORST]
        near = [scores[key] for key in keys_of(data, "Around the threshold", number)]
        distances = sorted(abs(score - THRESHOLDS[head]) for score in scores.values())
        assert near == sorted(near, reverse=True)
        assert sorted(abs(score - THRESHOLDS[head]) for score in near) == distances[:NUM_NEAR]


def test_the_sample_is_of_the_smallest_hashes_of_keys(
    data: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    keys = sorted((row["key"] for row in rows), key=lambda key: hashlib.sha256(key.encode()).digest())
    assert keys_of(data, "A random sample", None) == keys[:NUM_SAMPLE]


def test_every_limit_keeps_what_the_fine_histogram_says(
    data: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    assert data["scored"] == len(rows)
    for head in data["heads"]:
        scores = [row[head["name"]] for row in rows]
        for step in range(1001):
            kept = sum(score <= step / 1000 for score in scores)
            assert sum(head["histogram"][: step + 1]) == kept
        assert head["flagged"] == sum(score > head["threshold"] for score in scores)


def test_error_codes_have_counts_and_examples_with_details(data: dict[str, Any]) -> None:
    assert data["inputs"] - data["scored"] == 3
    errors = {error["code"]: error for error in data["errors"]}
    assert errors["truncated"]["count"] == 2
    assert [key for key, _ in errors["truncated"]["examples"]] == ["cut-0.jpg", "cut-1.jpg"]
    ((key, detail),) = errors["not_an_image"]["examples"]
    assert key == "no-image-<b>.jpg"
    assert detail


def test_hostile_keys_stay_data(result: Path, data: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    assert {*HOSTILE, "not-utf8-\\xff.png"} <= {row["key"] for row in rows}
    to = write_gallery(result, sections=[Section("<b>Chosen</b>", [*HOSTILE, "not-utf8-\\xff.png", "gone"])])
    page = Page(to)
    assert len(page.scripts) == 2
    assert page.suspicious == []
    assert keys_of(page.data, "<b>Chosen</b>", None) == [*HOSTILE, "not-utf8-\\xff.png"]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", to.read_text(encoding="utf-8"))
    write_gallery(result)


def test_what_does_not_fit_is_left_out_from_the_ends_of_all_sections(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "_MAX_BYTES", 120_000)
    to = write_gallery(result, tmp_path / "small.html")
    assert to.stat().st_size <= 120_000
    for section in Page(to).data["sections"]:
        assert 0 < len(section["images"]) < section["of"]


def move_images(output: Path) -> None:
    facts = json.loads((output / "job.json").read_text())
    facts["inputs"]["absolute_root"] = "/no/such/folder"
    (output / "job.json").write_text(json.dumps(facts))
    (output / "report" / "thumbnails.parquet").unlink(missing_ok=True)


def test_images_that_are_neither_kept_nor_there_any_more_are_one_clear_line(copy: Path) -> None:
    move_images(copy)
    facts = json.loads((copy / "job.json").read_text())
    facts["files"] = [one for one in facts["files"] if "thumbnails" not in one["name"]]
    (copy / "job.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match="has no thumbnails, and its images are not at /no/such/folder"):
        write_gallery(copy)


@pytest.mark.parametrize("name", ["data/gallery.html", "gallery.html", "report/gallery.png", "job.json"])
def test_no_file_of_the_result_is_overwritten(copy: Path, name: str) -> None:
    with pytest.raises(UsageError):
        write_gallery(copy, copy / name)
    assert not (copy / "data" / "gallery.html").exists()


def test_a_page_that_is_no_gallery_is_not_overwritten_and_a_gallery_is(copy: Path, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("<title>Gallery of mine</title>")
    for command in (["gallery", str(copy), "--to"], ["filter", str(copy), "--to", "k.txt", "--gallery"]):
        assert run([*command, str(page)]) == 2
    assert page.read_text() == "<title>Gallery of mine</title>" and not Path("k.txt").exists()
    write_gallery(copy, tmp_path / "other.html")
    write_gallery(copy, tmp_path / "other.html")


def test_score_writes_the_gallery_and_says_where(
    photo: Pixels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(photo).save(tmp_path / "images" / "a.png")
    scored = [
        "score",
        str(tmp_path / "images"),
        "--output",
        str(tmp_path / "out"),
        "--no-project",
        "--gallery",
    ]
    assert run(scored) == 0
    page = tmp_path / "out" / GALLERY_NAME
    assert f"Gallery: {page}" in capsys.readouterr().out
    assert [image["key"] for image in Page(page).data["images"]] == ["a.png"]
    assert run(["gallery", str(tmp_path / "out"), "--to", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").read_bytes() == page.read_bytes()
