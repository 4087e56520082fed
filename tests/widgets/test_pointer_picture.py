"""The picture that explorers share, in a browser, without Jupyter."""

import base64
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from playwright.sync_api import Browser, Page

from detr_mini.course import explorer, plots

SOURCE = Path(explorer.__file__).with_name("pointer_picture.js").read_text()
PAGE = """
<body style="margin: 0"><div id="place"></div><script type="module">
  const source = SOURCE, picture = Uint8Array.from(atob("PICTURE"), (letter) => letter.charCodeAt(0));
  const { default: widget } = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const values = { value: new DataView(picture.buffer), words: "first words", width: 400, feels: "FEELS" };
  const told = [], heard = {};
  const model = { get: (name) => values[name], set: (name, value) => told.push(value), save_changes: () => {},
                  on: (name, react) => { heard[name] = react; } };
  const leave = widget.render({ model, el: document.getElementById("place") });
  Object.assign(window, { told, values, heard, leave, ready: true });
</script></body>
"""
POINTS = [(0.2, 0.5), (0.3, 0.4), (0.5, 0.5)]


def opened(browser: Browser, feels: str) -> tuple[Page, list[tuple[float, float]]]:
    """A page with the picture, 400 x 200, and POINTS in the page's pixels."""
    png = base64.b64encode(plots.live_png(Figure(figsize=(4, 2)))).decode()
    page = browser.new_page(viewport={"width": 900, "height": 500})
    page.set_content(PAGE.replace("SOURCE", json.dumps(SOURCE)).replace("PICTURE", png).replace("FEELS", feels))
    page.wait_for_function("window.ready && document.images[0].complete && document.images[0].naturalWidth > 0")
    frame = page.locator("img").bounding_box()
    assert (frame["width"], frame["height"]) == (400, 200)
    return page, [(frame["x"] + 400 * x, frame["y"] + 200 * y) for x, y in POINTS]


def frame_drawn(page: Page) -> None:
    """Wait until the browser has drawn: moves are told once per frame."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.mark.parametrize(("feels", "phases"), [
    ("drag", ["down", "move", "up"]), ("hover", ["hover", "down", "move", "up", "hover"]), ("", [])])
def test_what_the_pointer_does_is_told(browser: Browser, feels: str, phases: list[str]) -> None:
    """Rest, press, move, let go, move on: points as fractions, numbered; only what the picture feels."""
    page, spots = opened(browser, feels)
    page.mouse.move(*spots[0])
    frame_drawn(page)
    page.mouse.down()
    page.mouse.move(*spots[1])
    page.mouse.up()
    page.mouse.move(*spots[2])
    frame_drawn(page)
    told = page.evaluate("told")
    page.close()
    assert [one["phase"] for one in told] == phases
    assert [one["serial"] for one in told] == list(range(1, len(told) + 1))
    places = {"hover": POINTS[0], "down": POINTS[0], "move": POINTS[1], "up": POINTS[1]}
    for number, one in enumerate(told):
        expected = POINTS[2] if number == 4 else places[one["phase"]]
        assert (one["x"], one["y"]) == pytest.approx(expected, abs=0.01)


def test_words_change_in_one_element_that_stays(browser: Browser) -> None:
    """Screen readers announce a change inside a live region, not a region that is put in place of another."""
    page, _ = opened(browser, "")
    page.evaluate("window.region = document.querySelector('[aria-live=polite]')")
    assert page.locator("img").get_attribute("alt") == page.evaluate("region.textContent") == "first words"
    page.evaluate("values.words = 'other words'; heard['change:words']()")
    assert page.evaluate("region.isConnected && region.textContent") == "other words"
    assert page.locator("img").get_attribute("alt") == "other words"
    page.close()


def test_a_new_picture_takes_the_place_of_the_old_one(browser: Browser) -> None:
    """And the old one is let go, as is the last one when the widget leaves."""
    page, _ = opened(browser, "")
    before = page.locator("img").get_attribute("src")
    page.evaluate("heard['change:value']()")
    after = page.locator("img").get_attribute("src")
    gone = "async (address) => { try { await fetch(address); return false; } catch { return true; } }"
    assert after != before and page.evaluate(gone, before)
    page.evaluate("leave()")
    assert page.evaluate(gone, after)
    page.close()
