"""A notebook as a page: hovering, clicks and keys work in it without a kernel, without a network, from a file."""

import base64
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from playwright.sync_api import Browser, Locator, Page, expect
from seen import bytes_of

from detr_mini import zoo
from detr_mini.course import export
from detr_mini.course.attention_explorer import AttentionExplorer, describe_exploring, first_state
from detr_mini.data.scenes import Scenes

EXPLORE = """\
import torch
import detr_mini as dm
from detr_mini.course.attention_explorer import AttentionExplorer
from detr_mini.course.notebook import AttentionByHand
from detr_mini.data.scenes import Scenes
dm.setup(seed=0)
explorer = AttentionExplorer(dm.build("smca"), Scenes(20, seed=1_000_003)[5][0], threshold=0.0)
explorer"""
SLIDERS = """\
names, keys, values = list("AB"), torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([1.0, 2.0])
AttentionByHand(names, keys, values, axes=("quiet", "central"), value="rent")"""
IMAGE = Scenes(20, seed=1_000_003)[5][0]
# One after the other: what the live form says in each state, set as a kernel would set it.
SAY = """([states]) => states.map((state) => {
  for (const [name, value] of Object.entries(state)) model.set(name, value);
  return document.querySelector("[aria-live=polite]").textContent;
})"""


def offline(browser: Browser, asked: list[str]) -> Page:
    """A page with no network; addresses that it asks for nevertheless end up in `asked`."""
    context = browser.new_context(viewport={"width": 1000, "height": 1400}, offline=True)
    context.on("request", lambda request: asked.append(request.url) if request.url.startswith("http") else None)
    page = context.new_page()
    page.on("pageerror", lambda error: asked.append(str(error)))
    return page


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that the command makes of a notebook with an explorer and a widget of sliders."""
    folder = tmp_path_factory.mktemp("export")
    cells = [nbformat.v4.new_markdown_cell("# A page"), *map(nbformat.v4.new_code_cell, (EXPLORE, SLIDERS))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "small.ipynb")
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    done = subprocess.run([sys.executable, "-m", "detr_mini.course.export", "small.ipynb"], cwd=folder, text=True,
                          env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("small.html: ")
    return folder / "small.html"


@pytest.fixture(scope="module")
def page(exported: Path, browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """The page, opened as a file, and what it asked the network for."""
    asked: list[str] = []
    page = offline(browser, asked)
    page.goto(exported.as_uri())
    page.wait_for_selector(".dm-explorer")
    yield page, asked
    page.context.close()


def parts(page: Page) -> tuple[Locator, Locator, Locator]:
    """The explorer's place to ask, its map, its words."""
    root = page.locator(".dm-explorer")
    return root.locator(".asks"), root.locator("canvas"), root.locator("[aria-live=polite]")


def test_hovering_answers_without_a_kernel(
        page: tuple[Page, list[str]], keep: Callable[[Locator, str], None]) -> None:
    """What lies under the pointer is shown while it rests there; when it leaves, what was chosen is back."""
    page, _ = page
    asks, picture, words = parts(page)
    chosen, said = bytes_of(picture), words.inner_text()
    page.get_by_label("layer encoder 1").check(force=True)
    maps = set()
    for x in (20, 120, 220):
        asks.hover(position={"x": x, "y": 200})
        expect(words).to_contain_text("The place around (")
        maps.add((bytes_of(picture), words.inner_text()))
    assert len({map for map, _ in maps}) == len({said for _, said in maps}) == 3
    keep(page.locator(".dm-explorer"), "export-hover")
    page.mouse.move(2, 2)
    page.get_by_label("layer decoder 3").check(force=True)
    expect(words).to_have_text(said)
    assert bytes_of(picture) == chosen


def test_keys_and_clicks_answer_without_a_kernel(page: tuple[Page, list[str]]) -> None:
    """Arrow keys go from query to query and from head to head; a click chooses what is under it."""
    page, _ = page
    asks, picture, words = parts(page)
    before, said = bytes_of(picture), words.inner_text()
    asks.focus()
    page.keyboard.press("ArrowRight")
    expect(words).not_to_have_text(said)
    assert bytes_of(picture) != before
    page.get_by_label("head all").focus()
    page.keyboard.press("ArrowRight")
    expect(words).to_contain_text("head 1")
    asks.click(position={"x": 150, "y": 150})
    expect(words).to_contain_text("asks: ")
    expect(page.locator(".dm-explorer ellipse")).to_have_count(1)


def test_a_page_needs_nothing_from_elsewhere(page: tuple[Page, list[str]]) -> None:
    """No request left the page and no script failed. Where a kernel would be needed stands the still picture."""
    page, asked = page
    assert asked == []
    still = page.locator("img[alt^='Sliders set a query']")
    expect(still).to_be_visible()
    assert still.evaluate("(image) => image.complete && image.naturalWidth > 500")
    assert page.locator(".widget-slider").count() == 0


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in zoo.names()), ("anchor", {"patterns": 3})])
def test_both_forms_say_the_same(name: str, options: dict, browser: Browser) -> None:
    """In every layer, for every head and many askers, word for word: so both read the same numbers."""
    torch.manual_seed(0)
    explorer = AttentionExplorer(zoo.build(name, model=replace(zoo.recipe(name).model, **options)), IMAGE)
    one, first = explorer.explored, first_state(explorer.explored)
    states = [replace(first, layer=layer, head=head, query=one.queries[turn * 2 % len(one.queries)],
                      place=(turn % 8, turn * 5 % 8))
              for turn, (layer, head) in enumerate((layer, head) for layer in one.layers for head in range(9))]
    page = browser.new_page()
    page.set_content(export.live_html(as_stored(explorer), "", "live").replace(
        "await host(", "globalThis.model = await host("))
    page.wait_for_selector(".dm-explorer")
    page.wait_for_function("globalThis.model !== undefined")
    told = page.evaluate(SAY, [[{"layer": s.layer, "head": s.head, "query": s.query, "place": list(s.place)}
                                for s in states]])
    page.close()
    assert told == [describe_exploring(one, state) for state in states]


def as_stored(widget: AttentionExplorer) -> dict[str, object]:
    """A widget's state as a notebook stores it: bytes apart, in base64."""
    state = widget.get_state()
    names = [name for name, value in state.items() if isinstance(value, bytes)]
    buffers = [{"path": [name], "encoding": "base64", "data": base64.b64encode(state.pop(name)).decode()}
               for name in names]
    own = {name: value for name, value in state.items() if name not in ("layout", "tabbable", "tooltip")}
    return {"model_module": "anywidget", "state": own, "buffers": buffers}


def test_what_cannot_be_exported_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A notebook that is not there, and one that is none: one line each, and no page."""
    (tmp_path / "no.ipynb").write_text("<html>")
    for name in ("missing.ipynb", "no.ipynb"):
        assert export.main([str(tmp_path / name), "--to", str(tmp_path / "page.html")]) == 1
        assert capsys.readouterr().err.startswith(f"{tmp_path / name}: ")
    assert not (tmp_path / "page.html").exists()


def test_a_notebook_that_names_another_machines_kernel_is_run_by_this_python() -> None:
    """As one saved in a conda environment of somebody else's."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "conda-env-theirs-py", "display_name": "x"}})
    assert export.kernel_of(notebook) == "python3"
    assert export.kernel_of(nbformat.v4.new_notebook()) == "python3"
    notebook.cells.append(nbformat.v4.new_code_cell("print(6 * 7)"))
    export.run(notebook, Path.cwd())
    assert notebook.cells[0].outputs[0].text == "42\n"
