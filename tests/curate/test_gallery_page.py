"""The gallery's page in a real browser: by keyboard, at both widths, in both schemes, by axe's rules."""

import base64
import csv
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from quality_model.cli import run
from quality_model.curate import gallery
from quality_model.curate.gallery import GALLERY_NAME, Section, write_gallery
from quality_model.records import HEADS
from quality_model.score.thumbnails import Thumbnail
from tests.curate.gallery_result import HOSTILE, make_result

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")

PHONE, DESKTOP = (390, 844), (1280, 900)
BOX = (0.25, 0.5, 0.75, 1.0)
Open = Callable[..., Page]

NO_STORAGE = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('denied'); } })"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = make_result(tmp_path_factory.mktemp("gallery"))
    write_gallery(output)
    return output


@pytest.fixture
def opened(browser: Browser, result: Path) -> Iterator[Open]:
    """Opens a page as a file; it must write nothing to the console, ask nothing and fetch nothing."""
    contexts, faults = [], []

    def open_page(
        to: Path = result / GALLERY_NAME,
        size: tuple[int, int] = DESKTOP,
        scheme: str = "light",
        script: str = "",
    ) -> Page:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("request", lambda request: faults.append(request.url) if is_fetched(request.url) else None)
        if script:
            page.add_init_script(script)
        page.goto(to.as_uri())
        return page

    def is_fetched(url: str) -> bool:
        return not url.startswith(("data:", "blob:")) and not url.endswith(".html")

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def focused_key(page: Page) -> str:
    key: str = page.evaluate("document.activeElement.querySelector('.key')?.textContent ?? ''")
    return key


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_every_part_obeys_the_rules_of_axe_and_fits_the_width(
    opened: Open, result: Path, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    sections = [Section("The worst", HOSTILE, "a note", "noise"), Section("Others", ["000.png", "001.png"])]
    sections += [Section("Own", HOSTILE, tab=f"A tab of rule {number}", count=9) for number in range(9)]
    few = write_gallery(
        result, tmp_path / "few.html", sections, heading="kept 1", about="of this", notes={HOSTILE[0]: "why"}
    )
    page, axe = opened(few, size, scheme), Axe()

    def check(part: str) -> None:
        found = axe.run(page)
        assert found.violations_count == 0, f"{part}: {found.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], part

    for title in ("Others", "A tab of rule 8", "Blur", "Not scored", "Noise"):
        page.locator("#tabs button", has_text=title).click()
        check(title)
    page.locator("#limit").fill("0.2")
    page.locator(".card").first.focus()
    page.keyboard.press("g")
    check("dropped and labelled")
    page.keyboard.press("Enter")
    expect(page.locator("#enlarged")).to_be_visible()
    check("enlarged")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    check("help")


def test_it_is_used_by_keyboard_alone(opened: Open) -> None:
    page = opened()
    keys = page.locator("#images .key").all_text_contents()
    page.keyboard.press("ArrowRight")
    assert focused_key(page) == keys[0]
    page.keyboard.press("ArrowRight")
    assert focused_key(page) == keys[1]
    page.keyboard.press("ArrowDown")
    columns = keys.index(focused_key(page)) - 1
    assert columns > 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert focused_key(page) == keys[0]

    page.keyboard.press("Enter")
    expect(page.locator("#enlarged-key")).to_have_text(keys[0])
    page.keyboard.press("ArrowRight")
    expect(page.locator("#enlarged-key")).to_have_text(keys[1])
    page.keyboard.press("b")
    expect(page.locator("#enlarged button[aria-pressed=true]")).to_contain_text("Bad")
    page.keyboard.press("Escape")
    expect(page.locator("#enlarged")).to_be_hidden()
    expect(page.locator(".card:focus .key")).to_have_text(keys[1])

    page.keyboard.press("/")
    page.keyboard.type("003.PNG")
    expect(page.locator("#images .key")).to_have_text("003.png")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    assert focused_key(page) == "003.png"
    page.keyboard.press("2")
    expect(page.locator("#title")).to_have_text("Blur")
    expect(page.locator("#search")).to_have_value("")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()

    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"keys", "limit", "command", "copy", "order", "search", "views", "card"} <= reached


def test_images_are_put_in_the_order_that_was_chosen(opened: Open) -> None:
    page = opened()
    page.keyboard.press("5")
    page.locator("#judge").select_option("Noise")
    shown = page.locator("#images .score")
    page.locator("#order").select_option("low")
    scores = [float(text) for text in shown.all_text_contents()]
    assert scores == sorted(scores)
    page.locator("#order").select_option("high")
    assert [float(text) for text in shown.all_text_contents()] == scores[::-1]
    page.locator("#order").select_option("key")
    plain = [key for key in page.locator("#images .key").all_text_contents() if re.match(r"\d+\.png", key)]
    assert plain == sorted(plain)


def test_a_tab_of_its_own_opens_with_its_head_or_the_worst_score_of_each_image(
    opened: Open, result: Path, tmp_path: Path
) -> None:
    keys = ["000.png", "001.png", "002.png"]
    sections = [
        Section("By noise", keys, tab="Noise flagged", count=56, head="noise"),
        Section("By the worst", keys, tab="Near duplicates", count=124),
    ]
    page = opened(write_gallery(result, tmp_path / "tabs.html", sections, notes={keys[1]: "near a.png"}))
    table = pq.read_table(result / "data").to_pylist()
    rows = [{row["key"]: row for row in table}[key] for key in keys]
    scores = page.locator("#images .score")
    assert page.locator("#tabs button").all_text_contents()[:2] == ["Noise flagged 56", "Near duplicates 124"]
    expect(page.locator("#judge option:checked")).to_have_text("Noise")
    assert scores.all_text_contents() == [f"{row['noise']:.3f}" for row in rows]
    page.keyboard.press("2")
    assert scores.all_text_contents() == [f"{row['worst_score']:.3f}" for row in rows]
    expect(page.locator("#images .why")).to_have_text(["near a.png"])
    page.locator(".card").first.focus()
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    expect(page.locator("#enlarged tr.current td").first).to_have_text(f"{rows[0]['worst_score']:.3f}")
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.locator("#download").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text.splitlines()[1:] == [f"000.png,{rows[0]['worst_head']},bad"]
    page.locator("#order").select_option("high")
    assert scores.all_text_contents() == sorted((f"{row['worst_score']:.3f}" for row in rows), reverse=True)


def test_a_limit_says_what_it_keeps_dims_what_it_drops_and_gives_the_command(
    opened: Open, result: Path
) -> None:
    table = pq.read_table(result / "data", columns=["watermark", "error_code"]).to_pylist()
    scores = [row["watermark"] for row in table if row["error_code"] is None]
    page = opened()
    page.keyboard.press("3")
    expect(page.locator(".dropped")).to_have_count(0)
    page.locator("#limit").focus()
    page.locator("#limit").fill("0.7")
    page.keyboard.press("ArrowRight")
    kept = sum(score <= 0.701 for score in scores)
    expect(page.locator("#effect")).to_contain_text(f"Keeps {kept} of {len(scores)} images")
    expect(page.locator("#effect")).to_contain_text(f"drops {len(scores) - kept}.")
    read = "all => all.map(one => [one.matches('.dropped'), one.querySelector('.score').textContent])"
    for is_dropped, score in page.locator(".card").evaluate_all(read):
        assert is_dropped == (float(score) > 0.701)
    page.keyboard.press("4")
    page.locator("#limit").fill("0.3")
    command = ["quality-model", "filter", str(result), "--max", "watermark=.701", "--max", "noise=.3"]
    assert shlex.split(page.locator("#command").input_value()) == command
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy").click()
    expect(page.locator("#said")).to_have_text("Copied.")
    assert shlex.split(page.evaluate("navigator.clipboard.readText()")) == command
    page.locator("#reset").click()
    assert not page.locator("#reset").is_visible()
    assert "noise=1" in page.locator("#command").input_value()


def test_the_command_at_a_threshold_of_many_digits_drops_exactly_what_is_flagged(
    opened: Open, result: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(result, tmp_path / "scores")
    marker = json.loads((output / "job.json").read_text())
    marker["thresholds"]["noise"] = threshold = 0.16138143837451935
    (output / "job.json").write_text(json.dumps(marker))
    page = opened(write_gallery(output, tmp_path / "page.html"))
    page.keyboard.press("4")
    name, value = shlex.split(page.locator("#command").input_value())[-1].split("=")
    assert (name, float(value)) == ("noise", threshold)


@pytest.mark.parametrize("script", ["", NO_STORAGE], ids=["kept", "private"])
def test_labels_are_downloaded_as_csv_and_kept_where_the_browser_allows(
    opened: Open, result: Path, tmp_path: Path, script: str
) -> None:
    chosen = [Section("Chosen", HOSTILE, head="noise")]
    page = opened(write_gallery(result, tmp_path / "page.html", chosen), script=script)
    assert page.locator("#download").is_disabled()
    expected = [["key", "head", "label"]]
    for name, key, label in [(HOSTILE[2], "g", "good"), (HOSTILE[4], "b", "bad"), (HOSTILE[7], "g", "good")]:
        page.locator("#search").fill(name.split("\n")[0])
        page.locator(".card").first.focus()
        page.keyboard.press(key)
        expected.append([name, "noise", label])
    page.keyboard.press("g")  # removes the last label
    expect(page.locator("#labelled")).to_have_text("1 good, 1 bad")
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "labels.csv"
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert list(csv.reader(io.StringIO(text))) == expected[:-1]
    page.reload()
    expect(page.locator("#labelled")).to_have_text("" if script else "1 good, 1 bad")


def test_a_result_without_scores_shows_what_is_wrong(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_text("no image")
    inputs, output = str(tmp_path / "images"), tmp_path / "out"
    assert run(["score", inputs, "--output", str(output), "--no-project", "--gallery"]) == 4
    page = opened(output / GALLERY_NAME)
    expect(page.locator("#codes")).to_contain_text("not_an_image")
    page.keyboard.press("1")
    expect(page.locator("#effect")).to_contain_text("Keeps 0 of 0 images")


def test_hostile_keys_are_harmless_and_visible(opened: Open, result: Path, tmp_path: Path) -> None:
    keys = [*HOSTILE, "not-utf8-\\xff.png"]
    page = opened(write_gallery(result, tmp_path / "hostile.html", [Section("<img src=x>", keys)]))
    shown = page.locator("#images .key").all_text_contents()
    visible = {"\u202e": "\\u202e", "\n": "\\u000a"}
    assert shown == [re.sub("[\u202e\n]", lambda found: visible[found[0]], key) for key in keys]
    assert page.locator("#images h2").text_content() == "<img src=x>"
    assert page.evaluate("document.scripts.length") == 2
    assert page.locator("img[onerror], b").count() == page.locator("#limits b").count()


def test_the_view_that_decided_is_drawn_on_the_image(
    opened: Open, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["000.png", "001.png"]
    write_gallery(result, tmp_path / "plain.html", [Section("Two", keys)])
    images = re.findall(r'"jpeg":"([^"]+)"', (tmp_path / "plain.html").read_text())
    boxes = dict.fromkeys(HEADS) | {"noise": BOX}
    kept = {
        key: Thumbnail(key, base64.b64decode(image), boxes) for key, image in zip(keys, images, strict=True)
    }
    monkeypatch.setattr(gallery, "read_thumbnails", lambda output: kept)
    page = opened(
        write_gallery(
            result, tmp_path / "boxes.html", [Section("Two", keys, head="noise"), Section("Same", keys)]
        )
    )
    expect(page.locator(".card .box")).to_have_count(2)
    image = page.locator(".card img").first.bounding_box()
    box = page.locator(".card .box").first.bounding_box()
    assert image and box
    drawn = [(box["x"] - image["x"]) / image["width"], (box["y"] - image["y"]) / image["height"]]
    drawn += [drawn[0] + box["width"] / image["width"], drawn[1] + box["height"] / image["height"]]
    assert drawn == pytest.approx(BOX, abs=0.02)
    page.keyboard.press("v")
    assert not page.locator(".card .box").first.is_visible()
    page.keyboard.press("v")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#enlarged .box")).to_be_visible()
    expect(page.locator("#enlarged")).to_contain_text("Decided by the view in the box.")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.locator("#judge").select_option("Blur")
    expect(page.locator(".card .box")).to_have_count(0)
