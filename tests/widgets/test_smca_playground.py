"""SmcaPlayground: it draws what the shipped detector did; moved by sliders, by pointer and by its button."""

import itertools
import re
from dataclasses import replace

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from speed import quickest
from turning import shows, turned, turns

from detr_mini.course import plots
from detr_mini.course.plots import WIDTH
from detr_mini.course.smca_playground import (
    HEADS,
    HEIGHT,
    LAYERS,
    MAPS,
    QUERIES,
    SCENE,
    SCENES,
    WIDEST,
    Centred,
    Frame,
    SmcaPlayground,
    at_home,
    centred,
    describe_centred,
    detector,
    encoded,
    home,
    look,
    make_controls,
    place_in_picture,
    render_centred,
    run,
    scene,
)
from detr_mini.trace import AttentionTrace

STATES = [Centred(layer=layer, head=head, x=x, y=y, scale_x=wide, scale_y=tall)
          for layer, head, (x, y), (wide, tall) in itertools.product(
              (1, LAYERS), (0, 1, HEADS), ((0.0, 0.0), (1.0, 0.4)), ((1.0, 1.0), (0.0, 0.0), (WIDEST, 0.5)))]


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def pointer(phase: str, x: float, y: float, frame: Frame = SCENE) -> dict:
    """What the picture reports when it is touched at (x, y) of the image, in one of the four pictures."""
    across, up = frame.at(x, y)
    return {"phase": phase, "x": across / WIDTH, "y": 1 - up / HEIGHT}


def drawn_and_said(state: Centred) -> Figure:
    """The picture of a state. No words leave it; they have every setting, the title query, layer and head, too."""
    figure, words = render_centred(state), describe_centred(state)
    FigureCanvasAgg(figure).draw()
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        assert extent.x0 >= 0 and extent.y0 >= 0 and extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1
    who = f"head {state.head}" if state.head else "all 8 heads"
    scales = {(1, 1): "as learned", (0, 0): "0, so the Gaussian is flat"}.get(
        (state.scale_x, state.scale_y), f"times {state.scale_x:.1f} in x and {state.scale_y:.1f} in y")
    centre = f"centre is at ({state.x:.2f}, {state.y:.2f}), its scales are {scales}."
    assert f"Scene {state.scene}. Query {state.query}'s {centre}" in words
    assert f"Layer {state.layer}, {who}:" in words and 150 < len(words) < 420
    assert figure.axes[0].texts[0].get_text() == f"query {state.query}, layer {state.layer}, {who}"
    return figure


@pytest.mark.parametrize("state", STATES, ids=str)
def test_every_setting_is_drawn_and_said(state: Centred) -> None:
    """All three maps sum to 1 per head, and the attention is made of the other two."""
    gaussian, product, attention = look(state).maps.values()
    for maps in (gaussian, product, attention):
        assert torch.allclose(maps.sum((-2, -1)), torch.ones(HEADS), atol=1e-4)
    both = gaussian * product
    assert torch.allclose(both / both.sum((-2, -1), keepdim=True), attention, atol=1e-3)
    drawn_and_said(state)


@pytest.mark.parametrize(("name", "value"), turns(make_controls(Centred())))
def test_every_value_of_every_control_is_drawn_and_said(name: str, value: object) -> None:
    """One control at a time, the others as at first. No words name the scene: the picture is that scene's."""
    state = turned(SmcaPlayground, Centred(), name, value)
    assert getattr(state, name) == value and shows(drawn_and_said(state), scene(state.scene))


@pytest.mark.parametrize(("scene", "query"), [*itertools.product(range(SCENES), (0, QUERIES - 1))])
def test_every_scene_and_query_is_drawn(scene: int, query: int) -> None:
    """The first and the last query in every scene, each at home."""
    render_centred(at_home(Centred(scene=scene, query=query)))


def test_it_is_the_detectors_own_run() -> None:
    """At its own centre a query does exactly what it does in the detector undisturbed; and nothing is left behind."""
    model, (memory, grid) = detector(), encoded(2)
    with torch.no_grad(), AttentionTrace(model.decoder) as trace:
        output = model.decoder(memory, grid)
    for layer in range(LAYERS):
        found, record = run(2, 7, home(7), (1.0, 1.0))[layer], trace[f"layers.{layer}.cross_attention"]
        assert torch.allclose(found.maps["attention"].flatten(1), record.weights[0, :, 7], atol=1e-5)
        assert torch.allclose(found.maps["Gaussian"].flatten(1), record.gaussian[0, :, 7].softmax(-1), atol=1e-5)
    assert found.score == pytest.approx(output.logits[-1, 0, 7].sigmoid().max().item(), abs=1e-5)
    with torch.no_grad(), centred(model.decoder, 7, torch.tensor([0.9, 0.1]), torch.tensor([1.0, 1.0])):
        moved = model.decoder(memory, grid)
    assert (moved.boxes[-1, 0, 7] - output.boxes[-1, 0, 7]).abs().max() > 0.1
    with torch.no_grad():
        again = model.decoder(memory, grid)
    assert "init_queries" not in vars(model.decoder) and torch.allclose(again.boxes, output.boxes, atol=1e-5)


def test_with_scale_0_the_dot_product_is_the_attention() -> None:
    """The identity, in the widget: a flat Gaussian leaves DETR's cross-attention."""
    for layer in range(LAYERS):
        maps = run(0, 15, (0.3, 0.7), (0.0, 0.0))[layer].maps
        assert torch.allclose(maps["Gaussian"], torch.tensor(1 / 64), atol=1e-6)
        assert torch.allclose(maps["attention"], maps["dot product"], atol=1e-5)


def test_a_query_names_what_lies_under_its_centre() -> None:
    """The point of the widget: one query, put on three things, names each of them, and its box goes along."""
    for name, x, y in (("mushroom", 0.5, 0.32), ("cup", 0.77, 0.32), ("balloon", 0.34, 0.62)):
        found = look(Centred(x=x, y=y))
        left, top, right, bottom = found.box.tolist()
        assert left < x < right and top < y < bottom and f"it says: {name}" in describe_centred(Centred(x=x, y=y))


def test_dragging_moves_the_centre_in_every_picture() -> None:
    """Pressing and moving do; letting go, hovering and what lies beside do not."""
    widget = SmcaPlayground()
    for phase, frame, (x, y) in (("down", SCENE, (0.25, 0.75)), ("move", SCENE, (0.3, 0.7)),
                                 *(("move", frame, (0.8, 0.2)) for frame in MAPS.values())):
        widget.picture.pointer = pointer(phase, x, y, frame)
        assert (widget.state.x, widget.state.y) == (x, y)
        assert widget.controls["x"].value == x and f"({x:.2f}, {y:.2f})" in widget.picture.words
    widget.picture.pointer = pointer("up", 0.5, 0.5)
    assert (widget.state.x, widget.state.y) == (0.5, 0.5)
    before = widget.state
    for phase, x in (("hover", 0.4), ("down", 1.02)):
        widget.picture.pointer = pointer(phase, x, 0.5)
        assert widget.state == before
    assert place_in_picture(0.9, 0.9) is None and place_in_picture(0.1, 0.01) is None


def test_controls_redraw() -> None:
    """Each control changes the state, the picture and the announced words."""
    changes = {"x": 0.9, "y": 0.1, "scale_x": 0.3, "scale_y": 2.0, "scene": 3, "query": 4, "layer": 3, "head": 6}
    for name, value in changes.items():
        widget = SmcaPlayground()
        picture, words = widget.picture.value, widget.picture.words
        widget.controls[name].value = value
        assert getattr(widget.state, name) == value
        assert describe_centred(widget.state) in widget.picture.words != words
        assert widget.picture.value != picture


def test_another_query_starts_at_home_and_the_button_leads_there() -> None:
    """Its own centre, to a hundredth, and the scales that it learned."""
    widget = SmcaPlayground(Centred(scale_x=0.5))
    widget.controls["query"].value = 4
    assert (widget.state.x, widget.state.y) == pytest.approx(home(4), abs=0.006) and widget.state.scale_x == 1
    widget.controls["x"].value = 0.01
    widget.controls["scale_y"].value = 2.0
    widget.button.click()
    assert widget.state == at_home(replace(Centred(), query=4))


def test_it_is_quick() -> None:
    """A tenth of a second of processor time for the decoder, the picture and the words together."""
    def answer(state: Centred) -> None:
        plots.live_png(render_centred(state))
        describe_centred(state)

    assert quickest(answer, [Centred(x=0.3 + 0.1 * step) for step in range(6)]) < 0.1


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, the same in every session."""
    one, other = SmcaPlayground()._repr_mimebundle_(), SmcaPlayground()._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert words.replace("&#x27;", "'") == one["text/plain"] and "In the end it says: balloon" in words
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])


@pytest.mark.parametrize(("wrong", "message"), [
    ({"query": 25}, "no query 25: choose 0 to 24"), ({"layer": 0}, "choose 1 to 3"), ({"head": 9}, "choose 0 to 8"),
    ({"scale_x": -1.0}, "no scale_x -1.0: choose 0 to 3"), ({"x": 1.2}, "no x 1.2: choose 0 to 1")])
def test_unknown_choices_are_named(wrong: dict, message: str) -> None:
    """The message has the choices there are."""
    with pytest.raises(ValueError, match=message):
        SmcaPlayground(replace(Centred(), **wrong))
