"""DeformablePlayground: it draws what the shipped detector did; moved by sliders, by pointer and by its button."""

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
from detr_mini.course.deformable_playground import (
    HEADS,
    HEIGHT,
    LAYERS,
    LEFTS,
    LEVELS,
    LOW,
    QUERIES,
    SCENES,
    SIDE,
    DeformablePlayground,
    Dragged,
    at_home,
    describe_dragged,
    detector,
    encoded,
    home,
    make_controls,
    place_in_picture,
    placed,
    read,
    render_dragged,
    run,
    scene,
)
from detr_mini.course.plots import WIDTH
from detr_mini.trace import AttentionTrace
from detr_mini.variants.deformable_attention import compass

STATES = [Dragged(name, layer=layer, head=head, level=level, x=x, y=y)
          for name, layer, head, level, (x, y) in itertools.product(
              LEVELS, (1, LAYERS), (0, 1, HEADS), (0, 1, 4), ((0.0, 0.0), (1.0, 0.4)))
          if level <= LEVELS[name]]


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def pointer(phase: str, x: float, y: float, picture: int = 0) -> dict:
    """What the picture reports when it is touched at (x, y) of the image, in the left or the right picture."""
    return {"phase": phase, "x": (LEFTS[picture] + SIDE * x) / WIDTH, "y": 1 - (LOW + SIDE * (1 - y)) / HEIGHT}


def drawn_and_said(state: Dragged) -> Figure:
    """The picture of a state. No words leave it; those below have every setting, titles layer, head and level, too."""
    figure, words = render_dragged(state), describe_dragged(state)
    words_stay_inside(figure)
    who = f"head {state.head}" if state.head else "all 8 heads"
    level = f", level {state.level} of {LEVELS[state.detector]}" if state.level else ""
    point = f"Query {state.query}'s reference point is at ({state.x:.2f}, {state.y:.2f})."
    start = f"{state.detector.capitalize()}, scene {state.scene}. {point} Layer {state.layer}, {who}{level}: "
    assert words.startswith(start)
    assert len(words) < 420 and [axes.get_title(loc="left") for axes in figure.axes] == [
        f"layer {state.layer}, {who.replace('8 ', '')}: places",
        f"what is read on level {state.level}" if state.level else "what is read"]
    return figure


@pytest.mark.parametrize("state", STATES, ids=str)
def test_every_setting_is_drawn_and_said(state: Dragged) -> None:
    """Weights sum to 1 per head, maps have at most that mass."""
    found = read(state)
    assert torch.allclose(found.weights.sum((-2, -1)), torch.ones(HEADS), atol=1e-5)
    assert all(part.isfinite().all() for part in (*found.maps, found.locations, found.box))
    assert sum(part.sum((-2, -1)) for part in found.maps).max() < 1 + 1e-4
    drawn_and_said(state)


@pytest.mark.parametrize(("name", "value"), turns(make_controls(Dragged())))
def test_every_value_of_every_control_is_drawn_and_said(name: str, value: object) -> None:
    """One control at a time, the others as at first; levels of the detector that has four.

    No words name the scene: the picture is that scene's.
    """
    first = Dragged("untrained, four levels" if name == "level" else "trained")
    state = turned(DeformablePlayground, first, name, value)
    assert getattr(state, name) == value and shows(drawn_and_said(state), scene(state.scene))


@pytest.mark.parametrize(("scene", "query"), [*itertools.product(range(SCENES), (0, QUERIES - 1))])
def test_every_scene_and_query_is_drawn(scene: int, query: int) -> None:
    """The first and the last query in every scene, each at home."""
    render_dragged(at_home(Dragged(scene=scene, query=query)))


def test_it_is_the_detectors_own_run() -> None:
    """At its own place a query does exactly what it does in the detector undisturbed; and nothing is left behind."""
    model, (memory, grid) = detector("trained"), encoded("trained", 2)
    with torch.no_grad(), AttentionTrace(model.decoder) as trace:
        output = model.decoder(memory, grid)
    for layer in range(LAYERS):
        found, record = run("trained", 2, 7, home("trained", 7))[layer], trace[f"layers.{layer}.cross_attention"]
        assert torch.allclose(found.locations, record.locations[0, 7], atol=1e-5)
        assert torch.allclose(found.weights, record.weights[0, 7], atol=1e-5)
    assert found.score == pytest.approx(output.logits[-1, 0, 7].sigmoid().max().item(), abs=1e-5)
    with torch.no_grad(), placed(model.decoder, 7, torch.tensor([0.9, 0.1])):
        moved = model.decoder(memory, grid)
    assert "init_queries" not in vars(model.decoder)
    assert (moved.boxes[-1, 0, 7] - output.boxes[-1, 0, 7]).abs().max() > 0.1


def test_untrained_it_is_the_compass() -> None:
    """Layer 1: head m's point k lies k cells in direction m, on every level; all weights are alike."""
    found = read(Dragged("untrained, four levels"))
    cells = (found.locations - torch.tensor([0.5, 0.32])) * torch.tensor([32.0, 16, 8, 4])[:, None, None]
    steps = compass(HEADS)[:, None, None] * torch.arange(1.0, 5)[:, None]  # (heads, 1, points, 2)
    assert torch.allclose(cells, steps.expand_as(cells), atol=1e-4)
    assert torch.allclose(found.weights, torch.tensor(1 / 16), atol=1e-6)


def test_the_box_follows_the_point() -> None:
    """The point of the widget: one query, put on three things, names each of them."""
    said = [describe_dragged(Dragged(x=x, y=y)) for x, y in ((0.5, 0.32), (0.77, 0.32), (0.34, 0.62))]
    assert all(name in words for name, words in zip(("mushroom", "cup", "balloon"), said, strict=True))


def test_dragging_moves_the_point_in_either_picture() -> None:
    """Pressing and moving do; letting go, hovering and what lies beside do not."""
    widget = DeformablePlayground()
    for phase, picture, (x, y) in (("down", 0, (0.25, 0.75)), ("move", 0, (0.3, 0.7)), ("move", 1, (0.8, 0.2))):
        widget.picture.pointer = pointer(phase, x, y, picture)
        assert (widget.state.x, widget.state.y) == (x, y)
        assert widget.controls["x"].value == x and f"({x:.2f}, {y:.2f})" in widget.picture.words
    widget.picture.pointer = pointer("up", 0.5, 0.5)
    assert (widget.state.x, widget.state.y) == (0.5, 0.5)
    before = widget.state
    for phase, x in (("hover", 0.4), ("down", 1.02)):
        widget.picture.pointer = pointer(phase, x, 0.5)
        assert widget.state == before
    assert place_in_picture(0.5, 0.5) is None and place_in_picture(0.1, 0.02) is None


def test_controls_redraw() -> None:
    """Each control changes the state, the picture and the announced words."""
    changes = {"detector": "untrained", "x": 0.9, "y": 0.1, "scene": 3, "query": 4, "layer": 3, "head": 6, "level": 1}
    for name, value in changes.items():
        widget = DeformablePlayground()
        picture = widget.picture.value
        widget.controls[name].value = value
        assert getattr(widget.state, name) == value
        assert describe_dragged(widget.state) in widget.picture.words
        assert widget.picture.value != picture


def test_another_query_starts_at_home_and_the_button_leads_there() -> None:
    """Its own reference point, to a hundredth."""
    widget = DeformablePlayground()
    widget.controls["query"].value = 4
    assert (widget.state.x, widget.state.y) == pytest.approx(home("trained", 4), abs=0.006)
    widget.controls["x"].value = 0.01
    widget.button.click()
    assert widget.state == at_home(replace(Dragged(), query=4))


def test_a_detector_with_one_level_shows_that_one() -> None:
    """Level 3 of the four-level detector becomes level 1; then the slider cannot leave it."""
    widget = DeformablePlayground(Dragged("untrained, four levels", level=3))
    widget.controls["detector"].value = "trained"
    assert widget.state.level == 1 == widget.controls["level"].value
    widget.controls["level"].value = 4
    assert widget.state.level == 1 == widget.controls["level"].value


def test_it_is_quick() -> None:
    """A tenth of a second of processor time for the decoder, the picture and the words together."""
    def answer(state: Dragged) -> None:
        plots.live_png(render_dragged(state))
        describe_dragged(state)

    assert quickest(answer, [Dragged(x=0.3 + 0.1 * step) for step in range(6)]) < 0.1


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, the same in every session."""
    one, other = DeformablePlayground()._repr_mimebundle_(), DeformablePlayground()._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert words.replace("&#x27;", "'") == one["text/plain"] and "In the end it says: mushroom" in words
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])


@pytest.mark.parametrize(("wrong", "message"), [
    ({"detector": "dab"}, "choose one of trained, untrained"), ({"query": 25}, "choose 0 to 24"),
    ({"level": 2}, "no level 2: choose 0 to 1"), ({"x": 1.2}, "no x 1.2: choose 0 to 1")])
def test_unknown_choices_are_named(wrong: dict, message: str) -> None:
    """The message has the choices there are."""
    with pytest.raises(ValueError, match=message):
        DeformablePlayground(replace(Dragged(), **wrong))
