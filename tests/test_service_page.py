"""The page of the service in a real browser: pictures, words, faults, a service that goes; keyboard and names."""
import base64
import contextlib
import os
import pathlib
import re
import shutil

import pytest

from tests.serving import Served, small_index

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DROP = """([name, type, data]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    const target = document.getElementById("drop");
    for (const kind of ["dragenter", "dragover", "drop"]) {
        target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
    }
}"""
PASTE = """([name, type, data]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    window.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: transfer }));
}"""


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright: requirements-test.txt")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory, shapes):
    return small_index(tmp_path_factory, shapes, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def served(place):
    with Served(*place[:2], "--max-upload", 200_000) as running:
        yield running


@contextlib.contextmanager
def opened(browser, served, **more):
    """The page in a browser of its own; a fault of its script fails the test."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, "locale": "en-GB", **more})
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.set_default_timeout(30_000)
    page.goto(served.url)
    page.wait_for_selector(".card")
    yield page
    context.close()
    assert not faults


def bring(page, how, path, name=None, kind="image/jpeg"):
    data = base64.b64encode(pathlib.Path(path).read_bytes()).decode()
    page.evaluate(how, [name or os.path.basename(path), kind, data])


def matches(page):
    """(distance as it is shown, bits marked as different, name) of the cards."""
    page.wait_for_selector(".apart")
    return page.eval_on_selector_all(".card", """(cards) => cards.map((card) => [
        card.querySelector(".apart").textContent, card.querySelectorAll(".bits .other").length,
        card.querySelector(".name").textContent])""")


def test_a_dropped_picture_shows_its_matches_and_a_click_searches_on(browser, served, place):
    with opened(browser, served) as page:
        assert "40 pictures" in page.text_content("#facts") and "20 bits" in page.text_content("#facts")
        assert page.is_hidden("#words-form") and page.is_hidden("#alert")
        bring(page, DROP, place[2][5])
        rows = matches(page)
        answer = served.ask("POST", "/v1/search/picture", pathlib.Path(place[2][5]).read_bytes(), k=24)[1]
        assert [name for _, _, name in rows] == [match["id"] for match in answer["matches"]]
        for (shown, marked, _), match in zip(rows, answer["matches"]):
            distance = match["distance"]
            assert marked == distance
            assert shown == (f"{distance} bit{'s' * (distance != 1)}" if distance else "same code")
        page.wait_for_function("() => [...document.querySelectorAll('.frame img')].slice(0, 3)"
                               ".every((image) => image.naturalWidth > 0)")
        assert "24 found" in page.text_content("#summary") and page.get_attribute("#results", "aria-busy") == "false"
        page.click(".card >> nth=2")
        page.wait_for_function("(name) => document.getElementById('results-title').textContent.includes(name)",
                               arg=rows[2][2])
        page.wait_for_selector(".apart")
        assert rows[2][2] not in [name for _, _, name in matches(page)]
        page.click("#back")
        page.wait_for_function("() => document.getElementById('results-title').textContent.includes('.jpg')")
        page.wait_for_function("(name) => document.querySelector('.card .name')?.textContent === name", arg=rows[0][2])


def test_a_pasted_and_a_picked_picture_and_the_terms(browser, served, place):
    with opened(browser, served) as page:
        bring(page, PASTE, place[2][1])
        assert len(matches(page)) == 24
        page.select_option("#k", "12")
        page.wait_for_function("() => document.querySelectorAll('.card').length === 12")
        page.select_option("#label", "star")
        page.wait_for_function("() => document.querySelectorAll('.card').length && [...document.querySelectorAll("
                               "'.card')].every((card) => card.textContent.includes('star'))")
        page.set_input_files("#file", place[2][2])
        page.wait_for_function("(name) => document.getElementById('results-title').textContent.includes(name)",
                               arg=os.path.basename(place[2][2]))


def test_broken_and_foreign_files_are_told_and_the_page_goes_on(browser, served, place, tmp_path):
    with opened(browser, served) as page:
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture at all")
        bring(page, DROP, tmp_path / "broken.jpg")
        page.wait_for_selector("#alert:not([hidden])")
        assert "JPEG" in page.text_content("#alert") and page.get_attribute("#alert", "role") == "alert"
        assert page.get_attribute("#results", "aria-busy") == "false" and not page.query_selector(".ghost")
        (tmp_path / "page.html").write_text("<script>alert(1)</script>")
        bring(page, DROP, tmp_path / "page.html", kind="text/html")
        assert "no picture" in page.text_content("#alert")
        (tmp_path / "large.jpg").write_bytes(bytes(300_000))
        bring(page, DROP, tmp_path / "large.jpg")
        assert "too large" in page.text_content("#alert")
        bring(page, DROP, place[2][0])
        assert matches(page) and page.is_hidden("#alert")


def test_names_that_are_html_are_shown_as_text(browser, served, place):
    name = "<img src=x onerror=window.bad=1><script>window.bad=1</script>.jpg"
    assert served.ask("POST", "/v1/items", pathlib.Path(place[2][0]).read_bytes(), id=name)[0] == 201
    try:
        with opened(browser, served) as page:
            bring(page, DROP, place[2][0], name="<b>query.jpg")
            assert name in [row[2] for row in matches(page)]
            assert "<b>query.jpg" in page.text_content("#results-title")
            page.click(".card:has-text('onerror')")
            page.wait_for_function("() => document.getElementById('results-title').textContent.includes('onerror')")
            assert page.evaluate("window.bad") is None and not page.query_selector("main script, .name b, .name img")
    finally:
        served.ask("DELETE", "/v1/items", id=name)


def test_pictures_are_added_each_with_what_became_of_it(browser, served, place, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    shutil.copy(place[2][7], tmp_path / "good.jpg")
    with opened(browser, served) as page:
        page.click("#open-add")
        page.set_input_files("#add-files", [tmp_path / "good.jpg", tmp_path / "broken.jpg"])
        page.fill("#add-folder", "/from page/")
        page.select_option("#add-label", "moon")
        page.click("#add-start")
        page.wait_for_function("() => document.querySelectorAll('#add-list li').length === 2 && "
                               "!document.getElementById('add-start').disabled")
        good, broken = page.eval_on_selector_all("#add-list li", "(rows) => rows.map((row) => row.textContent)")
        assert "added" in good and "not an image" in broken
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.getElementById('facts').textContent.includes('41 pictures')")
    row, = served.ask("GET", "/v1/items", prefix="from page/")[1]["page"]
    assert row["id"] == "from page/good.jpg" and row["labels"] == ["moon"]
    served.ask("DELETE", "/v1/items", id=row["id"])


def test_keyboard_and_screen_reader(browser, served, place):
    with opened(browser, served) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        bring(page, DROP, place[2][5])
        matches(page)
        page.focus(".card")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('back').offsetParent !== null")
        unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input:not([type=file].unseen), select")]
            .filter((element) => element.offsetParent && !element.textContent.trim() && !element.labels?.length
                                 && !element.getAttribute("aria-label")).map((element) => element.outerHTML)""")
        assert unnamed == []
        assert re.match(r"(all 20 bits are|\d+ of 20 bits differ)", page.get_attribute(".bits", "aria-label"))
        assert page.get_attribute("#summary", "aria-live") == "polite"
        wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        assert not wide


def test_a_phone_in_chinese(browser, served, place):
    with opened(browser, served, viewport={"width": 360, "height": 740}, locale="zh-CN", has_touch=True) as page:
        assert page.text_content("#pick") == "选择图片" and page.get_attribute("html", "lang") == "zh-CN"
        page.set_input_files("#file", place[2][5])
        assert len(matches(page)) == 24
        assert not page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        page.tap(".card >> nth=1")
        page.wait_for_selector("#back:not([hidden])")


def test_slow_answers_are_told(browser, served, place):
    with opened(browser, served) as page:
        page.route("**/v1/search/picture*", lambda route: (page.wait_for_timeout(2500), route.continue_()))
        bring(page, DROP, place[2][5])
        page.wait_for_selector(".ghost")
        page.wait_for_function("() => document.getElementById('summary').textContent.includes('Still')")
        assert matches(page)


def test_a_service_that_goes_and_comes_back(browser, tmp_path, tmp_path_factory, shapes):
    model, uri, paths = small_index(tmp_path_factory, shapes, tmp_path)
    with Served(model, uri) as first, opened(browser, first) as page:
        first.kill()
        bring(page, DROP, paths[0])
        page.wait_for_selector("#alert:not([hidden])")
        assert "does not answer" in page.text_content("#alert")
        with Served(model, uri, "--port", first.address.split(":")[1]):
            page.wait_for_selector("#alert[hidden]", state="attached", timeout=60_000)
            assert matches(page)  # the question is asked again by itself


def test_words(browser, tmp_path, tmp_path_factory, shapes):
    model, uri, _ = small_index(tmp_path_factory, shapes, tmp_path, "djsrh")
    with Served(model, uri) as served, opened(browser, served) as page:
        page.keyboard.press("/")
        page.keyboard.type("a red heart")
        page.keyboard.press("Enter")
        assert len(matches(page)) == 24 and "a red heart" in page.text_content("#results-title")
        page.fill("#words", "zzzz")
        page.keyboard.press("Enter")
        page.wait_for_selector("#alert:not([hidden])")
        assert "none of the words" in page.text_content("#alert")


def test_a_token_is_asked_for(browser, place, tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef")
    with Served(*place[:2], "--read-only", "--token-file", tmp_path / "token") as served:
        context = browser.new_context()
        page = context.new_page()
        page.goto(served.url)
        page.fill("#token-value", "0123456789abcdef")
        page.keyboard.press("Enter")
        page.wait_for_selector(".card")
        page.wait_for_function("() => document.querySelector('.frame img')?.naturalWidth > 0")
        assert page.is_hidden("#open-add")
        context.close()
