"""DabPlayground: it draws what the shipped detector computes; moved by sliders, by pointer and by its button."""

import itertools
import re
from dataclasses import replace

import pytest
import torch
from edges import words_stay_inside
from matplotlib.figure import Figure
from speed import quickest
from turning import shows, turned, turns

from detr_mini.course import plots
from detr_mini.course.box_playground import LEAST, MOST, NUMBERS, sides
from detr_mini.course.dab_playground import (
    FINE,
    HEADS,
    HEIGHT,
    LEFTS,
    LOW,
    QUERIES,
    SCENES,
    SIDE,
    SOURCES,
    TEMPERATURES,
    Boxed,
    DabPlayground,
    answer,
    at_home,
    boxed,
    describe_boxed,
    detector,
    encoded,
    fitted,
    make_controls,
    own_box,
    render_boxed,
    scene,
)
from detr_mini.course.plots import WIDTH
from detr_mini.positions import SineGrid, sine
from detr_mini.trace import AttentionTrace

STATES = [Boxed(source, fitted(box), head=head, modulated=modulated)
          for source, box, head, modulated in itertools.product(
              SOURCES, ((0.0, 1.0, LEAST, MOST), (0.5, 0.4, 0.6, 0.1), (0.5, 0.5, MOST, MOST)), (0, HEADS),
              (True, False))]


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def pointer(phase: str, x: float, y: float, picture: int = 0) -> dict:
    """What the picture reports when it is touched at (x, y) of the image, in the left or the right picture."""
    return {"phase": phase, "x": (LEFTS[picture] + SIDE * x) / WIDTH, "y": 1 - (LOW + SIDE * (1 - y)) / HEIGHT}


def drawn_and_said(state: Boxed) -> Figure:
    """The picture of a state. No words leave it; those below it have every setting that counts, its title the map."""
    figure, words, (x, y, width, height) = render_boxed(state), describe_boxed(state), state.box
    words_stay_inside(figure)
    drawn = (f"codes alone, temperature {state.temperature:,}" if state.source == SOURCES[0] else
             f"position alone, {state.source}, {f'head {state.head}' if state.head else 'mean of heads'}")
    box = f"Box: centre ({x:.2f}, {y:.2f}), width {width:.2f}, height {height:.2f}."
    assert words.startswith(f"Scene {state.scene}, {drawn}. {box}") and figure.axes[1].get_title(loc="left") == drawn
    assert ("Not modulated" in words) == (not state.modulated) and len(words) < 460
    assert (f"Query {state.query} says in the end" in words) == (state.source != SOURCES[0])
    return figure


@pytest.mark.parametrize("state", STATES, ids=str)
def test_every_setting_is_drawn_and_said(state: Boxed) -> None:
    """A map sums to 1, and without modulation there is no size to speak of."""
    found = answer(state)
    assert found.map.sum().item() == pytest.approx(1, abs=1e-4) and found.map.isfinite().all()
    assert (not state.modulated) == (found.size is None)
    drawn_and_said(state)


@pytest.mark.parametrize(("name", "value"), turns(make_controls(Boxed())))
def test_every_value_of_every_control_is_drawn_and_said(name: str, value: object) -> None:
    """One control at a time, the others as at first; in layer 1 those that do not count with the codes alone.

    No words name the scene: the picture is that scene's. A box stays in the image, whatever centre is asked for.
    """
    first = Boxed("layer 1" if name in ("scene", "query", "head") else SOURCES[0])
    state = turned(DabPlayground, first, name, value)
    now = dict(zip(NUMBERS, state.box, strict=True)) | vars(state)
    assert now[name] == value or (name in "xy" and value in (0, 1))
    assert shows(drawn_and_said(state), scene(state.scene))


@pytest.mark.parametrize(("scene", "query"), [*itertools.product(range(SCENES), (0, QUERIES - 1))])
def test_every_scene_and_query_is_drawn(scene: int, query: int) -> None:
    """The first and the last query in every scene, each at home."""
    for source in SOURCES[1:]:
        render_boxed(at_home(Boxed(source, scene=scene, query=query)))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_codes_alone_are_the_formula(temperature: int) -> None:
    """Unmodulated: code against code. A higher temperature never makes the map of this box more compact."""
    state = Boxed(modulated=False, temperature=temperature)
    cells = SineGrid(128, temperature, half_cell=True)(torch.zeros(1, FINE, FINE, dtype=torch.bool))[0]
    scores = cells @ sine(torch.tensor([0.5, 0.5]), 64, temperature) / 128**0.5
    assert torch.allclose(answer(state).map, scores.flatten().softmax(0).view(FINE, FINE), atol=1e-5)
    lower = replace(state, temperature=min(TEMPERATURES))
    assert answer(state).spread >= answer(lower).spread


def test_modulation_is_the_boxs_shape() -> None:
    """Wider in x only when the box is wider; without modulation the sides count for nothing."""
    narrow, wide = (Boxed(box=(0.5, 0.5, width, 0.2)) for width in (0.2, 0.6))
    (x, y), (wide_x, wide_y) = answer(narrow).spread, answer(wide).spread
    assert wide_x > x + 0.03 and wide_y == pytest.approx(y, abs=1e-4)
    plain = [answer(replace(state, modulated=False)).map for state in (narrow, wide)]
    assert torch.equal(*plain)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_it_is_the_detectors_own_run(layer: int) -> None:
    """With its own box a query says what it says undisturbed, with another one something else; nothing is left over."""
    decoder, (memory, grid) = detector(True).decoder, encoded(2)
    with torch.no_grad(), AttentionTrace(decoder) as trace:
        output = decoder(memory, grid)
    own = tuple(trace[""].reference[layer - 1, 0, 7].tolist())
    found = answer(Boxed(f"layer {layer}", own, scene=2, query=7))
    assert found.score == pytest.approx(output.logits[-1, 0, 7].sigmoid().max().item(), abs=1e-4)
    assert found.size == pytest.approx(trace[f"layers.{layer - 1}.cross_attention"].size[0, 7].tolist(), abs=1e-4)
    assert own_box(2, 7, layer - 1) == pytest.approx(fitted(own), abs=0.006)
    with torch.no_grad(), boxed(decoder, 7, (0.9, 0.1, 0.1, 0.1), layer - 1):
        moved = decoder(memory, grid)
    assert not {"init_queries", "update_reference"} & vars(decoder).keys()
    assert (moved.boxes[-1, 0, 7] - output.boxes[-1, 0, 7]).abs().max() > 0.1
    assert layer == 1 or (moved.boxes[: layer - 1] - output.boxes[: layer - 1]).abs().max() < 1e-5


def test_dragging_moves_stretches_and_brings() -> None:
    """By the inside, by the lower right corner, in either picture; pressing beside the box brings it there."""
    widget = DabPlayground(Boxed(box=(0.4, 0.4, 0.4, 0.2)))
    for phase, picture, at in (("down", 0, (0.4, 0.4)), ("move", 0, (0.45, 0.45)), ("up", 0, (0.5, 0.5))):
        widget.picture.pointer = pointer(phase, *at, picture)
    assert widget.state.box == pytest.approx((0.5, 0.5, 0.4, 0.2)) and widget.controls["x"].value == pytest.approx(0.5)
    for phase, at in (("down", (0.7, 0.6)), ("move", (0.8, 0.9))):
        widget.picture.pointer = pointer(phase, *at, 1)
    assert sides(widget.state.box) == pytest.approx((0.3, 0.4, 0.8, 0.9))
    assert widget.controls["height"].value == pytest.approx(0.5)
    widget.picture.pointer = pointer("down", 0.2, 0.3)
    assert widget.state.box[2:] == pytest.approx((0.5, 0.5)) and widget.state.box[:2] == pytest.approx((0.25, 0.3))


def test_controls_redraw() -> None:
    """Each control changes the state, the picture and the announced words."""
    changes = {"x": 0.6, "y": 0.3, "width": 0.3, "height": 0.7, "modulated": False, "query": 3, "head": 2, "scene": 4,
               "source": SOURCES[0]}
    for name, value in changes.items():
        widget = DabPlayground(Boxed("layer 2", query=11))
        picture = widget.picture.value
        widget.controls[name].value = value
        assert describe_boxed(widget.state) in widget.picture.words and widget.picture.value != picture
        if name not in ("x", "y", "width", "height"):
            assert getattr(widget.state, name) == value
    widget = DabPlayground()
    picture = widget.picture.value
    widget.controls["temperature"].value = 10000
    assert widget.state.temperature == 10000 and widget.picture.value != picture


def test_the_button_gives_the_query_its_own_box() -> None:
    """So does choosing another query or another layer; the codes alone keep the box."""
    widget = DabPlayground(Boxed("layer 2", query=11))
    widget.button.click()
    assert widget.state.box == own_box(0, 11, 1)
    widget.controls["source"].value = "layer 3"
    assert widget.state.box == own_box(0, 11, 2)
    widget.controls["source"].value = SOURCES[0]
    assert widget.state.box == own_box(0, 11, 2)


def test_it_is_quick() -> None:
    """A tenth of a second of processor time for the decoder, the picture and the words together."""
    def answer(state: Boxed) -> None:
        plots.live_png(render_boxed(state))
        describe_boxed(state)

    for source in (SOURCES[0], "layer 2"):
        states = [Boxed(source, (0.3 + 0.1 * step, 0.5, 0.3, 0.3)) for step in range(6)]
        assert quickest(answer, states) < 0.1


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, the same in every session."""
    one, other = DabPlayground()._repr_mimebundle_(), DabPlayground()._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert words.replace("&#x27;", "'") == one["text/plain"] and "w_ref / w = 0.80 / 0.50 = 1.6 times" in words
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])


@pytest.mark.parametrize(("wrong", "message"), [
    ({"source": "layer 4"}, "no source 'layer 4': choose one of codes alone, layer 1"),
    ({"temperature": 30}, "choose one of 2, 5, 20"), ({"query": 25}, "no query 25: choose 0 to 24")])
def test_unknown_choices_are_named(wrong: dict, message: str) -> None:
    """The message has the choices there are."""
    with pytest.raises(ValueError, match=message):
        DabPlayground(replace(Boxed(), **wrong))
