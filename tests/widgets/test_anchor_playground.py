"""AnchorPlayground: it draws what the shipped detector did; moved by sliders, by pointer and by its button."""

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
from detr_mini.course.anchor_playground import (
    HEADS,
    HEIGHT,
    LAYERS,
    MAP,
    PATTERNS,
    QUERIES,
    SCENE,
    SCENES,
    Anchored,
    AnchorPlayground,
    addressed,
    anchored,
    at_home,
    describe_anchored,
    detector,
    encoded,
    look,
    make_controls,
    maps_of,
    own_point,
    place_in_picture,
    render_anchored,
    run,
)
from detr_mini.course.plots import WIDTH
from detr_mini.course.smca_playground import Frame, scene
from detr_mini.positions import sine
from detr_mini.trace import AttentionTrace

STATES = [Anchored(layer=layer, head=head, x=x, y=y, pattern=pattern)
          for layer, head, (x, y), pattern in itertools.product(
              range(1, LAYERS + 1), (0, 1, HEADS), ((0.0, 0.0), (1.0, 0.4), (1.2, -0.2)), PATTERNS)]


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def pointer(phase: str, x: float, y: float, frame: Frame = SCENE) -> dict:
    """What the picture reports when it is touched at (x, y) of the image, in the scene or on the map."""
    across, up = frame.at(x, y)
    return {"phase": phase, "x": across / WIDTH, "y": 1 - up / HEIGHT}


def drawn_and_said(state: Anchored) -> Figure:
    """The picture of a state. Nothing leaves it; words have every setting, titles query, layer and head, too."""
    figure, words = render_anchored(state), describe_anchored(state)
    FigureCanvasAgg(figure).draw()
    for part in (*figure.axes[0].texts, *figure.axes[0].patches):
        extent = part.get_window_extent()
        assert extent.x0 >= -1 and extent.y0 >= 0 and extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1
    who = f"head {state.head}" if state.head else "mean of 8 heads"
    pattern = {"learned": "its learned pattern", "none": "no pattern"}[state.pattern]
    point = f"anchor point is at ({state.x:.2f}, {state.y:.2f}), with {pattern}"
    assert f"Scene {state.scene}. Query {state.query}'s {point}" in words
    assert f"Layer {state.layer}, {who}:" in words and 150 < len(words) < 420
    titles = {text.get_text() for text in figure.axes[0].texts}
    assert {f"query {state.query}: its point, its answer", f"where it looks: layer {state.layer}, {who}"} <= titles
    return figure


@pytest.mark.parametrize("state", STATES, ids=str)
def test_every_setting_is_drawn_and_said(state: Anchored) -> None:
    """Rows, columns and their product sum to 1."""
    rows, columns, both = maps_of(state)
    for weights in (rows, columns, both):
        assert weights.sum().item() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(both.sum(0), rows, atol=1e-5) and torch.allclose(both.sum(1), columns, atol=1e-5)
    if state.head:
        assert torch.allclose(both, columns[:, None] * rows, atol=1e-6)
    drawn_and_said(state)


@pytest.mark.parametrize(("name", "value"), turns(make_controls(Anchored())))
def test_every_value_of_every_control_is_drawn_and_said(name: str, value: object) -> None:
    """One control at a time, the others as at first. No words name the scene: the picture is that scene's."""
    state = turned(AnchorPlayground, Anchored(), name, value)
    assert getattr(state, name) == value and shows(drawn_and_said(state), scene(state.scene))


@pytest.mark.parametrize(("scene", "query"), [*itertools.product(range(SCENES), (0, QUERIES - 1))])
def test_every_scene_and_query_is_drawn(scene: int, query: int) -> None:
    """The first and the last query in every scene, each at home."""
    render_anchored(at_home(Anchored(scene=scene, query=query)))


def test_it_is_the_detectors_own_run() -> None:
    """At its own point a query does exactly what it does in the detector undisturbed; and nothing is left behind."""
    model, (memory, grid) = detector(), encoded(2)
    with torch.no_grad(), AttentionTrace(model.decoder) as trace:
        output = model.decoder(memory, grid)
    found = run(2, 13, own_point(13), "learned")
    for layer in range(LAYERS):
        record = trace[f"layers.{layer}.cross_attention"]
        assert torch.allclose(found.rows[layer], record.row_weights[0, :, 13], atol=1e-5)
        assert torch.allclose(found.columns[layer], record.column_weights[0, :, 13], atol=1e-5)
    assert found.score == pytest.approx(output.logits[-1, 0, 13].sigmoid().max().item(), abs=1e-5)
    with torch.no_grad(), anchored(model.decoder, 13, (0.9, 0.1), "none"):
        moved = model.decoder(memory, grid)
    assert (moved.boxes[-1, 0, 13] - output.boxes[-1, 0, 13]).abs().max() > 0.1
    with torch.no_grad():
        again = model.decoder(memory, grid)
    assert "init_queries" not in vars(model.decoder) and torch.allclose(again.boxes, output.boxes, atol=1e-5)


def test_codes_and_addresses_are_the_detectors_own() -> None:
    """What its network was given is the sine code, and what it gave is the address that its queries and cells have."""
    codes, addresses = addressed(0.3, 0.8)
    x, y = torch.tensor([0.3]), torch.tensor([0.8])
    assert torch.allclose(codes["x"], sine(x, 128)) and torch.allclose(codes["y"], sine(y, 128))
    assert torch.allclose(codes["(y, x)"], torch.cat([sine(y, 64), sine(x, 64)]))
    _, grid = encoded(0)
    middle_of_column = addressed(3.5 / 8, 0.8)[1]["x"]
    assert torch.allclose(middle_of_column, grid.position[0, 8 + 3], atol=1e-5)
    with torch.no_grad():
        learned = detector().decoder.init_queries(*encoded(0)).learned[0, 5]
    assert torch.allclose(addressed(*own_point(5))[1]["(y, x)"], learned, atol=1e-5)
    assert addresses["x"].shape == addresses["(y, x)"].shape == (128,)


def test_a_query_names_what_lies_at_its_point() -> None:
    """The point of the widget: any query, put on three things, names each of them, and its box goes along."""
    for query, (name, x, y) in itertools.product((4, 15), (("mushroom", 0.58, 0.29), ("cup", 0.85, 0.29),
                                                           ("balloon", 0.42, 0.59))):
        state = Anchored(query=query, x=x, y=y)
        left, top, right, bottom = look(state).box.tolist()
        assert left < x < right and top < y < bottom and f"it says: {name}" in describe_anchored(state)


def test_dragging_moves_the_point_in_both_pictures() -> None:
    """Pressing and moving do; letting go, hovering and what lies beside do not."""
    widget = AnchorPlayground()
    for phase, frame, (x, y) in (("down", SCENE, (0.25, 0.75)), ("move", SCENE, (0.3, 0.7)), ("move", MAP, (0.8, 0.2))):
        widget.picture.pointer = pointer(phase, x, y, frame)
        assert (widget.state.x, widget.state.y) == (x, y)
        assert widget.controls["x"].value == x and f"({x:.2f}, {y:.2f})" in widget.picture.words
    widget.picture.pointer = pointer("up", 0.5, 0.5)
    assert (widget.state.x, widget.state.y) == (0.5, 0.5)
    before = widget.state
    for phase, x in (("hover", 0.4), ("down", 1.02)):
        widget.picture.pointer = pointer(phase, x, 0.5)
        assert widget.state == before
    assert place_in_picture(0.97, 0.5) is None and place_in_picture(0.1, 0.95) is None


def test_controls_redraw() -> None:
    """Each control changes the state, the picture and the announced words."""
    changes = {"x": 0.9, "y": 0.1, "scene": 3, "query": 8, "layer": 3, "head": 6, "pattern": "none"}
    for name, value in changes.items():
        widget = AnchorPlayground()
        picture, words = widget.picture.value, widget.picture.words
        widget.controls[name].value = value
        assert getattr(widget.state, name) == value
        assert describe_anchored(widget.state) in widget.picture.words != words
        assert widget.picture.value != picture


def test_another_query_starts_at_home_and_the_button_leads_there() -> None:
    """Its own point, to a hundredth, also where that lies outside the image; and its learned pattern."""
    widget = AnchorPlayground(Anchored(pattern="none"))
    widget.controls["query"].value = 7
    assert (widget.state.x, widget.state.y) == pytest.approx(own_point(7), abs=0.006) and widget.state.x > 1
    assert widget.state.pattern == "learned"
    widget.controls["x"].value = 0.01
    widget.controls["pattern"].value = "none"
    widget.button.click()
    assert widget.state == at_home(replace(Anchored(), query=7))


def test_it_is_quick() -> None:
    """A tenth of a second of processor time for the decoder, the picture and the words together."""
    def answer(state: Anchored) -> None:
        plots.live_png(render_anchored(state))
        describe_anchored(state)

    assert quickest(answer, [Anchored(x=0.3 + 0.1 * step) for step in range(6)]) < 0.1


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, the same in every session."""
    one, other = AnchorPlayground()._repr_mimebundle_(), AnchorPlayground()._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert words.replace("&#x27;", "'") == one["text/plain"] and "In the end it says: mushroom" in words
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])


@pytest.mark.parametrize(("wrong", "message"), [
    ({"query": 25}, "no query 25: choose 0 to 24"), ({"layer": 0}, "choose 1 to 3"), ({"head": 9}, "choose 0 to 8"),
    ({"x": 1.3}, "no x 1.3: choose -0.2 to 1.2"), ({"pattern": "own"}, "no pattern 'own': choose one of learned")])
def test_unknown_choices_are_named(wrong: dict, message: str) -> None:
    """The message has the choices there are."""
    with pytest.raises(ValueError, match=message):
        AnchorPlayground(replace(Anchored(), **wrong))
