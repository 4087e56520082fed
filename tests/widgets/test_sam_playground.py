"""SamPlayground: it draws what the shipped detector did; moved by sliders, by pointer and by its button."""

import itertools
import re
from dataclasses import replace

import pytest
import torch
from edges import words_stay_inside
from matplotlib.figure import Figure
from speed import quickest
from turning import shows, turned, turns

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course import plots
from detr_mini.course.deformable_playground import placed
from detr_mini.course.plots import WIDTH
from detr_mini.course.sam_playground import (
    DETECTORS,
    HEADS,
    HEIGHT,
    LAYERS,
    LEFTS,
    LOW,
    NUMBERS,
    QUERIES,
    SCENES,
    SIDE,
    Boxed,
    SamPlayground,
    asked,
    at_home,
    describe_boxed,
    detector,
    encoded,
    home,
    make_controls,
    place_in_picture,
    refuse_unknown,
    render_boxed,
    run,
    scene,
)
from detr_mini.trace import AttentionTrace

BOXES = ((0.34, 0.7, 0.68, 0.51), (0.02, 0.98, 0.04, 0.04), (0.55, 0.45, 0.9, 0.9))
STATES = [Boxed(name, layer=layer, head=head, box=box)
          for name, layer, head, box in itertools.product(DETECTORS, (1, LAYERS), (0, 1, HEADS), BOXES)]


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def pointer(phase: str, x: float, y: float, picture: int = 0) -> dict:
    """What the picture reports when it is touched at (x, y) of the image, in the left or the right picture."""
    return {"phase": phase, "x": (LEFTS[picture] + SIDE * x) / WIDTH, "y": 1 - (LOW + SIDE * (1 - y)) / HEIGHT}


def drawn_and_said(state: Boxed) -> Figure:
    """The picture of a state. No words leave it; those below have every setting, the titles layer and head, too."""
    figure, words, (x, y, width, height) = render_boxed(state), describe_boxed(state), state.box
    words_stay_inside(figure)
    who, drawn = (f"head {state.head}", f"head {state.head} then looks") if state.head else (
        "all 8 heads", "all heads then look")
    box = f"Query {state.query}'s box is at ({x:.2f}, {y:.2f}), {width:.2f} wide and {height:.2f} high."
    assert words.startswith(f"{state.detector.capitalize()}, scene {state.scene}. {box} Layer {state.layer}, {who}: ")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        f"layer {state.layer}: the cut, 7 x 7, and its points", f"where {drawn}"]
    return figure


@pytest.mark.parametrize("state", STATES, ids=str)
def test_every_setting_is_drawn_and_said(state: Boxed) -> None:
    """Maps sum to 1, points lie in the box that was cut out."""
    found = asked(state)
    assert torch.allclose(found.maps.sum((-2, -1)), torch.ones(HEADS), atol=1e-5)
    low, high = found.reference[:2], found.reference[2:]
    assert ((found.points >= low - 1e-6) & (found.points <= high + 1e-6)).all()
    drawn_and_said(state)


@pytest.mark.parametrize(("name", "value"), turns(make_controls(Boxed())))
def test_every_value_of_every_control_is_drawn_and_said(name: str, value: object) -> None:
    """One control at a time, the others as at first. No words name the scene: the picture is that scene's.

    A box stays in the image, whatever centre is asked for.
    """
    state = turned(SamPlayground, Boxed(), name, value)
    now = dict(zip(NUMBERS, state.box, strict=True)) | vars(state)
    assert now[name] == value or (name in "xy" and value in (0, 1))
    assert shows(drawn_and_said(state), scene(state.scene))


@pytest.mark.parametrize(("scene", "query"), [*itertools.product(range(SCENES), (0, QUERIES - 1))])
def test_every_scene_and_query_is_drawn(scene: int, query: int) -> None:
    """The first and the last query in every scene, each at its own box."""
    render_boxed(at_home(Boxed(scene=scene, query=query)))


def test_it_is_the_detectors_own_run() -> None:
    """At its own box a query does exactly what it does in the detector undisturbed; and nothing is left behind."""
    model, (memory, grid) = detector("trained"), encoded("trained", 2)
    with torch.no_grad(), AttentionTrace(model.decoder) as trace:
        output = model.decoder(memory, grid)
    for layer in range(LAYERS):
        found, record = run("trained", 2, 7, home("trained", 7))[layer], trace[f"layers.{layer}.cross_attention"]
        assert torch.allclose(found.points, record.points[0, 7], atol=1e-5)
        assert torch.allclose(found.maps.flatten(1), record.weights[0, :, 7], atol=1e-5)
        assert torch.allclose(found.reference, cxcywh_to_xyxy(trace[""].reference[layer, 0, 7]), atol=1e-5)
    assert found.score == pytest.approx(output.logits[-1, 0, 7].sigmoid().max().item(), abs=1e-5)
    with torch.no_grad(), placed(model.decoder, 7, torch.tensor([0.8, 0.2, 0.3, 0.3])):
        moved = model.decoder(memory, grid)
    assert "init_queries" not in vars(model.decoder)
    assert (moved.boxes[-1, 0, 7] - output.boxes[-1, 0, 7]).abs().max() > 0.1


def test_the_map_follows_the_box() -> None:
    """The point of the widget: in layer 1 most of the attention goes where the box was put."""
    inside = []
    for box in ((0.75, 0.32, 0.4, 0.4), (0.35, 0.63, 0.4, 0.5)):
        weights = asked(Boxed(box=box)).maps.mean(0)
        row, column = divmod(int(weights.argmax()), 8)
        inside.append(abs((column + 0.5) / 8 - box[0]) < box[2] / 2 and abs((row + 0.5) / 8 - box[1]) < box[3] / 2)
    assert all(inside)


def test_dragging_carries_the_box_in_either_picture() -> None:
    """By its inside, from where it was taken; letting go ends where it is; hovering then does nothing."""
    widget = SamPlayground(Boxed(box=(0.4, 0.4, 0.4, 0.4)))
    for phase, picture, x, expected in (("down", 0, 0.3, 0.4), ("move", 0, 0.4, 0.5), ("move", 1, 0.45, 0.55),
                                        ("up", 1, 0.5, 0.6)):
        widget.picture.pointer = pointer(phase, x, 0.3, picture)
        assert widget.state.box == pytest.approx((expected, 0.4, 0.4, 0.4))
        assert widget.controls["x"].value == pytest.approx(expected)
    before = widget.state
    for phase, x in (("move", 0.9), ("hover", 0.4)):
        widget.picture.pointer = pointer(phase, x, 0.5)
        assert widget.state == before
    assert place_in_picture(0.5, 0.5) is None


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("query", range(QUERIES))
def test_every_query_has_a_home_within_the_image(detector: str, query: int) -> None:
    """A state that the widget reaches is one that it takes."""
    refuse_unknown(at_home(Boxed(detector, query=query)))


def test_the_corner_stretches_and_a_press_elsewhere_brings_the_box() -> None:
    """The lower right corner is carried while the upper left one stays; a brought box stays within the image."""
    widget = SamPlayground(Boxed(box=(0.4, 0.4, 0.4, 0.4)))
    widget.picture.pointer = pointer("down", 0.6, 0.6)
    widget.picture.pointer = pointer("move", 0.8, 0.7)
    assert widget.state.box == pytest.approx((0.5, 0.45, 0.6, 0.5))
    widget.picture.pointer = pointer("up", 0.8, 0.7)
    widget.picture.pointer = pointer("down", 0.95, 0.9)
    assert widget.state.box == pytest.approx((0.7, 0.75, 0.6, 0.5))


def test_controls_redraw() -> None:
    """Each control changes the state, the picture and the announced words."""
    changes = {"detector": "untrained", "x": 0.6, "y": 0.4, "width": 0.3, "height": 0.8, "scene": 3, "query": 4,
               "layer": 3, "head": 6}
    for name, value in changes.items():
        widget = SamPlayground()
        picture = widget.picture.value
        widget.controls[name].value = value
        now = dict(zip(NUMBERS, widget.state.box, strict=True)) | vars(widget.state)
        assert now[name] == pytest.approx(value) if name in NUMBERS else now[name] == value
        assert describe_boxed(widget.state) in widget.picture.words
        assert widget.picture.value != picture


def test_another_query_starts_at_home_and_the_button_leads_there() -> None:
    """Its own reference box, to a hundredth, within the image."""
    widget = SamPlayground()
    widget.controls["query"].value = 6
    assert widget.state.box == pytest.approx(home("trained", 6), abs=0.006)
    widget.controls["width"].value = 0.1
    widget.button.click()
    assert widget.state == at_home(replace(Boxed(), query=6))


def test_it_is_quick() -> None:
    """A tenth of a second of processor time for the decoder, the picture and the words together."""
    def answer(state: Boxed) -> None:
        plots.live_png(render_boxed(state))
        describe_boxed(state)

    states = [Boxed(box=(0.3 + 0.1 * step, 0.5, 0.3, 0.3)) for step in range(6)]
    assert quickest(answer, states) < 0.1


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, the same in every session."""
    one, other = SamPlayground()._repr_mimebundle_(), SamPlayground()._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert words.replace("&#x27;", "'") == one["text/plain"] and "In the end it says: balloon" in words
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])


@pytest.mark.parametrize(("wrong", "message"), [
    ({"detector": "dab"}, "choose one of trained, untrained"), ({"query": 25}, "choose 0 to 24"),
    ({"layer": 0}, "no layer 0: choose 1 to 3"), ({"box": (0.9, 0.5, 0.4, 0.4)}, "must lie within the image")])
def test_unknown_choices_are_named(wrong: dict, message: str) -> None:
    """The message has the choices there are."""
    with pytest.raises(ValueError, match=message):
        SamPlayground(replace(Boxed(), **wrong))
