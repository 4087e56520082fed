"""The widgets as a learner has them: JupyterLab in a browser, a notebook that is run, and keys that change pictures.

Screenshots are left in tests/widgets/screenshots, which git ignores.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from seen import bytes_of

PICTURE = "canvas, img:not([alt=''])"  # what a widget draws; the photograph below a map has alt=""
KERNEL = "jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
CONNECTED = f"{KERNEL}?.connectionStatus === 'connected'"
RUN_ALL = "() => { jupyterapp.commands.execute('notebook:run-all-cells').finally(() => { window.ran = true; }); }"
FINISHED = f"window.ran && {KERNEL}?.status === 'idle'"
ERRORS = """() => jupyterapp.shell.currentWidget.content.model.sharedModel.cells
  .flatMap((cell) => cell.toJSON().outputs ?? []).filter((output) => output.output_type === "error")
  .map((output) => `${output.ename}: ${output.evalue}`)"""
ASK_KERNEL = """async (expression) => {
  const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
  const asked = { code: "", silent: false, store_history: false, user_expressions: { answer: expression } };
  const reply = await kernel.requestExecute(asked).done;
  return reply.content.user_expressions.answer.data["text/plain"];
}"""
SECONDS = 240  # to start, to run all cells: as long as a busy machine may need
COURSE = Path(__file__).parents[2] / "notebooks" / "03_positions.ipynb"  # runs in seconds
COURSE_WIDGET = "PositionExplorer(side"  # what the cell of its widget begins with
pytestmark = pytest.mark.timeout(3 * SECONDS)


@dataclass(frozen=True)
class Widget:
    """A widget to try. code: its cell. control: what takes the focus, and which one. key: what changes the picture."""

    code: str
    control: str = "[role=slider] >> nth=0"
    key: str = "ArrowRight"
    back: str = "ArrowLeft"


SETUP = """\
import torch
import detr_mini as dm
from detr_mini import zoo
from detr_mini.course.notebook import AttentionByHand
from detr_mini.course.attention_explorer import AttentionExplorer
from detr_mini.course.box_playground import BoxPlayground
from detr_mini.course.loss_walk import LossWalk
from detr_mini.course.matching_playground import MatchingPlayground
from detr_mini.course.meeting_explorer import MeetingExplorer, listen
from detr_mini.course.order_explorer import OrderExplorer
from detr_mini.course.position_explorer import PositionExplorer
from detr_mini.course.recorder import Recording
from detr_mini.course.replay import TrainingReplay
from detr_mini.course.anchor_playground import AnchorPlayground
from detr_mini.course.dab_playground import DabPlayground
from detr_mini.course.deformable_playground import DeformablePlayground
from detr_mini.course.sam_playground import SamPlayground
from detr_mini.course.smca_playground import SmcaPlayground
from detr_mini.course.token_explorer import TokenExplorer, Watched
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.files import DATA
dm.setup(seed=0)
scenes, recipe = Scenes(20, seed=1_000_003), zoo.recipe("detr", "scenes")
image, target = scenes[5]
maps = torch.rand(3, 1, 1, 2, 4, 8, 8)
recording = Recording(
    [0, 10, 50], image[None], [target], torch.randn(3, 1, 1, 4, 10), torch.rand(3, 1, 1, 4, 4) * 0.4 + 0.2,
    torch.full((3, 1, 1, 4), -1), maps / maps.sum((-1, -2), keepdim=True), {"loss_ce": torch.rand(3, 1)})
watched = Watched(image[None], [target], torch.rand(1, 1, 2, 64, 8, 8).softmax(-1) / 8, CLASSES)
"""
WIDGETS = {
    "order_explorer": Widget("OrderExplorer(image, torch.rand(3, 4) * 50, ['car', 'tree', 'cat'])"),
    "attention_by_hand": Widget(
        "AttentionByHand(list('AB'), torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([1.0, 2.0]),"
        " axes=('quiet', 'central'), value='rent')"),
    "training_replay": Widget("TrainingReplay(recording, CLASSES)", key="ArrowLeft", back="ArrowRight"),
    "box_playground": Widget("BoxPlayground()"),
    "matching_playground": Widget("MatchingPlayground()"),
    "anchor_playground": Widget("AnchorPlayground()"),
    "dab_playground": Widget("DabPlayground()"),
    "deformable_playground": Widget("DeformablePlayground()"),
    "smca_playground": Widget("SmcaPlayground()"),
    "sam_playground": Widget("SamPlayground()"),
    "position_explorer": Widget("PositionExplorer()"),
    "loss_walk": Widget("LossWalk()"),
    "meeting_explorer": Widget(
        "MeetingExplorer(listen({'as it is': dm.build('detr').eval()}, scenes, [5, 7], recipe.data))",
        control="[role=slider] >> nth=1"),
    "token_explorer": Widget("TokenExplorer(watched)", control="[role=slider] >> nth=1"),
    "attention_explorer": Widget(
        "explorer = AttentionExplorer(dm.load_weights(DATA / 'weights/deformable.safetensors'), image)\nexplorer",
        control=".asks"),
}


def small_notebook(path: Path) -> None:
    """A notebook with one widget per cell."""
    cells = [SETUP, *(widget.code for widget in WIDGETS.values())]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab with settings of its own, serving a folder with the small notebook and one of the course's; its
    address."""
    home, port = tmp_path_factory.mktemp("lab"), free_port()
    (home / "work").mkdir()
    small_notebook(home / "work" / "widgets.ipynb")
    shutil.copy(COURSE, home / "work")
    config = home / "jupyter_config_dir" / "labconfig"
    config.mkdir(parents=True)  # the question about news would lie over the notebook
    (config / "page_config.json").write_text(json.dumps(
        {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR",
              "JUPYTERLAB_WORKSPACES_DIR")
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment |= {name: str(home / name.lower()) for name in places} | {
        "OMP_NUM_THREADS": "1", "DETR_MINI_PROGRESS": "off"}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
               "--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={home / 'work'}",
               "--LabApp.expose_app_in_browser=True", "--ServerApp.log_level=ERROR"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api", server, home / "log")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    """Until the server answers; fails with what it said when it does not."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start: {log.read_text()[-2000:]}")


def opened(browser: Browser, address: str) -> Page:
    """A notebook, opened, run to its end without an error, in a high window."""
    page = browser.new_page(viewport={"width": 1100, "height": 5000})
    page.set_default_timeout(SECONDS * 1000)
    page.goto(address)
    page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell")
    page.wait_for_function(CONNECTED)
    page.evaluate(RUN_ALL)
    page.wait_for_function(FINISHED)
    assert page.evaluate(ERRORS) == []
    return page


@pytest.fixture(scope="module")
def notebook(lab: str, browser: Browser) -> Iterator[Page]:
    """The small notebook, all of it in the window."""
    page = opened(browser, f"{lab}/lab/tree/widgets.ipynb")
    last = page.locator(".jp-CodeCell .jp-InputPrompt").nth(len(WIDGETS))
    expect(last).to_have_text(f"[{len(WIDGETS) + 1}]:")
    yield page
    page.close()


def output_of(notebook: Page, name: str) -> Locator:
    """The output of a widget's cell in the small notebook."""
    return output_at(notebook, 1 + list(WIDGETS).index(name))


def output_at(notebook: Page, index: int) -> Locator:
    """The first output of a code cell, in sight."""
    output = notebook.locator(".jp-CodeCell").nth(index).locator(".jp-OutputArea-output").first
    output.scroll_into_view_if_needed()
    return output


@pytest.mark.parametrize("name", WIDGETS)
def test_keys_change_the_picture(name: str, notebook: Page, keep: Callable[[Locator, str], None]) -> None:
    """A control takes the focus; a key changes picture and words; the key back gives both as they were."""
    press_and_go_back(notebook, output_of(notebook, name), WIDGETS[name], keep, name)


def press_and_go_back(
    page: Page, output: Locator, widget: Widget, keep: Callable[[Locator, str], None], name: str
) -> None:
    """Move a widget's control with a key and back, and hold pictures and words against each other.

    name: of the screenshots that are kept, before and after the key.
    """
    picture, words = output.locator(PICTURE), spoken(output)
    before, said = bytes_of(picture), words.inner_text()
    keep(output, f"{name}-before")
    control = output.locator(widget.control)
    control.focus()
    words.evaluate("(region) => { window.region = region; }")
    page.keyboard.press(widget.key)
    expect(words).not_to_have_text(said)
    after = bytes_of(picture)
    keep(output, f"{name}-after")
    assert after != before and len(words.inner_text()) > 30
    assert page.evaluate("window.region.isConnected")  # readers announce what changes inside it
    expect(control).to_be_focused()
    page.keyboard.press(widget.back)
    expect(words).to_have_text(said)
    assert bytes_of(picture) == before


def spoken(output: Locator) -> Locator:
    """The words that a screen reader reads out when they change."""
    return output.locator("[aria-live=polite]").first


@pytest.mark.parametrize(("name", "places"), [
    ("matching_playground", [(0.13, 0.45), (0.17, 0.4)]), ("box_playground", [(0.14, 0.38), (0.18, 0.45)]),
    ("position_explorer", [(0.2, 0.5), (0.2, 0.5)]), ("anchor_playground", [(0.2, 0.5), (0.3, 0.3)]),
    ("dab_playground", [(0.1, 0.25), (0.2, 0.4)]), ("deformable_playground", [(0.2, 0.7), (0.35, 0.4)]),
    ("smca_playground", [(0.2, 0.7), (0.35, 0.4)]), ("sam_playground", [(0.2, 0.7), (0.35, 0.4)])])
def test_the_pointer_changes_the_picture(name: str, places: list[tuple[float, float]], notebook: Page) -> None:
    """Pressing and dragging on the picture itself; the words follow."""
    output = output_of(notebook, name)
    picture, words = output.locator(PICTURE), spoken(output)
    said, frame = words.inner_text(), picture.bounding_box()
    spots = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in places]
    notebook.mouse.move(*spots[0])
    notebook.mouse.down()
    notebook.mouse.move(*spots[1], steps=3)
    notebook.mouse.up()
    expect(words).not_to_have_text(said)


def test_arrow_keys_stay_in_the_explorer(notebook: Page) -> None:
    """Neither the notebook's selected cell nor the page moves, and letters are no shortcuts of Jupyter's."""
    output = output_of(notebook, "attention_explorer")
    cells = notebook.locator(".jp-Cell").count()
    output.locator(".asks").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "a", "b", "x", "Enter"):
        notebook.keyboard.press(key)
    expect(output.locator(".asks")).to_be_focused()
    assert notebook.locator(".jp-Cell").count() == cells
    expect(notebook.locator(".jp-Cell.jp-mod-selected")).to_have_count(1)
    assert notebook.locator(".jp-Cell.jp-mod-selected .asks").count() == 1


def test_what_is_chosen_reaches_the_kernel(notebook: Page) -> None:
    """A choice in the browser is what `explorer.state` says afterwards."""
    output = output_of(notebook, "attention_explorer")
    output.get_by_label("head 3").focus()
    notebook.keyboard.press("Space")
    expect(spoken(output)).to_contain_text("head 3")
    output.locator(".asks").click(position={"x": 5, "y": 5})  # a corner: no detection lies there
    expect(spoken(output)).to_contain_text("The place around (8, 8) asks")
    state = notebook.evaluate(ASK_KERNEL, "explorer.state.layer, explorer.state.head, explorer.state.place")
    assert state == "('encoder 2', 3, (0, 0))"


def test_an_answer_comes_within_a_tenth_of_a_second(notebook: Page) -> None:
    """From the key to the new picture in the explorer, in the browser: the median of all queries."""
    output = output_of(notebook, "attention_explorer")
    milliseconds = output.locator(".asks").evaluate("""(asks) => {
      const spent = [];
      for (let turn = 0; turn < 20; turn++) {
        const start = performance.now();
        asks.dispatchEvent(new KeyboardEvent("keydown", { key: turn % 2 ? "ArrowLeft" : "ArrowRight", bubbles: true }));
        spent.push(performance.now() - start);
      }
      return spent.sort((one, other) => one - other)[10];
    }""")
    assert milliseconds < 100


def test_a_notebook_of_the_course_comes_to_life(
    lab: str, browser: Browser, keep: Callable[[Locator, str], None]
) -> None:
    """A stored one, run as a learner runs it: its widget stands where the still picture was, and answers to keys."""
    cells = [cell.source for cell in nbformat.read(COURSE, 4).cells if cell.cell_type == "code"]
    index = next(index for index, source in enumerate(cells) if source.startswith(COURSE_WIDGET))
    page = opened(browser, f"{lab}/lab/workspaces/course/tree/{COURSE.name}")  # not beside the small one
    output = output_at(page, index)
    expect(page.locator(".jp-CodeCell .jp-InputPrompt").nth(index)).to_have_text(f"[{index + 1}]:")
    press_and_go_back(page, output, Widget(cells[index]), keep, "course")
    assert page.evaluate(ASK_KERNEL, "__import__('os').environ['DETR_MINI_PROGRESS']") == "'off'"
    page.close()
