"""MatchingPlayground: right at every setting, readable in every picture, moved by keys and by dragging."""

import html
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from speed import quickest

from detr_mini.course import plots
from detr_mini.course.matching_playground import (
    HEIGHT,
    LEAST,
    MOST,
    NAMES,
    PANELS,
    SIDE,
    WIDTH,
    MatchingPlayground,
    Playground,
    Said,
    describe_matching,
    grasp,
    place_in_scene,
    play,
    render_matching,
    things,
    with_box,
    with_said,
)

START = Playground()
TERMS = [kept for count in range(4) for kept in itertools.combinations(("class", "l1", "giou"), count)]


def values_of(name: str) -> list:
    """Everything that a control can be set to."""
    control = MatchingPlayground().controls[name]
    if name in ("chosen", "word"):
        return [value for _, value in control.options]
    return np.arange(control.min, control.max + control.step / 2, control.step).clip(max=control.max).tolist()


def at(name: str, value: float) -> Playground:
    """The first state with one control moved."""
    if name == "chosen":
        return replace(START, chosen=value)
    if name == "word":
        return with_said(START, replace(START.said[0], word=value))
    box = list(START.said[0].box)
    box[("x", "y", "width", "height").index(name)] = value
    return with_box(START, box)


SWEEPS = [at(name, value) for name in ("chosen", "word", "x", "y", "width", "height") for value in values_of(name)]
CORNERS = [with_box(START, (x, y, side, side)) for x in (0.0, 1.0) for y in (0.0, 1.0) for side in (LEAST, MOST)]
STATES = [*SWEEPS, *CORNERS, *(replace(START, terms=terms) for terms in TERMS)]


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def test_every_setting_is_matched_right() -> None:
    """The optimal total is that of trying all; greedy is never cheaper; both are matchings of all three things."""
    for state in STATES:
        outcome = play(state)
        totals = [sum(outcome.costs[query, thing] for thing, query in enumerate(chosen))
                  for chosen in itertools.permutations(range(4), 3)]
        assert outcome.total(outcome.optimal) == pytest.approx(min(totals), abs=1e-9)
        assert outcome.total(outcome.greedy) >= min(totals) - 1e-9
        for pairs in (outcome.greedy, outcome.optimal):
            assert sorted(thing for _, thing in pairs) == [0, 1, 2] and len({query for query, _ in pairs}) == 3


def test_it_starts_where_greedy_fails() -> None:
    """The notebook says by how much."""
    outcome = play(START)
    assert outcome.total(outcome.greedy) - outcome.total(outcome.optimal) == pytest.approx(2.73, abs=0.005)


def test_a_prediction_on_its_thing_costs_least() -> None:
    """Right word, right box: -1 x 0.7 + 5 x 0 - 2 x 1; and each term counts by itself."""
    perfect = with_said(START, Said(tuple(things()[2][1].tolist()), 1))
    assert play(perfect).costs[0, 1] == pytest.approx(-2.7)
    for terms, cost in ((("class",), -0.7), (("l1",), 0.0), (("giou",), -2.0), ((), 0.0)):
        assert play(replace(perfect, terms=terms)).costs[0, 1] == pytest.approx(cost)


@pytest.mark.parametrize("state", STATES, ids=lambda state: re.sub(r"\W+", "-", str(state))[-60:])
def test_every_picture_keeps_its_words_inside(state: Playground) -> None:
    """No text leaves the picture, letters of predictions at the very edge aside; costs and totals are shown."""
    figure = render_matching(state)
    FigureCanvasAgg(figure).draw()
    frame, outcome = figure.bbox, play(state)
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        inside = extent.x0 >= 0 and extent.y0 >= 0 and extent.x1 <= frame.x1 and extent.y1 <= frame.y1
        assert inside or text.get_text() in NAMES, f"{text.get_text()!r} at {extent}"
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert {f"{cost:.2f}" for cost in outcome.costs.flatten()} | set(NAMES) | set(things()[1]) <= shown
    assert {f"total {outcome.total(pairs):.2f}" for pairs in (outcome.greedy, outcome.optimal)} <= shown


def test_two_states_look_different_and_one_looks_the_same() -> None:
    """A picture is a function of the state alone."""
    first, again, other = (plots.live_png(render_matching(state)) for state in (START, Playground(), at("x", 0.5)))
    assert first == again != other


def test_an_answer_takes_less_than_a_tenth_of_a_second() -> None:
    """Picture and words, in processor time."""
    def answer(state: Playground) -> None:
        plots.live_png(render_matching(state))
        describe_matching(state)

    assert quickest(answer, [at("x", x) for x in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]) < 0.1


@pytest.mark.parametrize(("name", "value"), [("word", 1), ("x", 0.9), ("y", 0.2), ("width", 0.5), ("height", 0.06),
                                             ("class", False), ("l1", False), ("giou", False), ("chosen", 2)])
def test_moving_a_control_redraws(name: str, value: object) -> None:
    """Picture and words follow, the state is what the controls say, and the words are announced."""
    widget = MatchingPlayground()
    picture, words = widget.picture.value, widget.picture.words
    widget.controls[name].value = value
    assert widget.picture.value != picture and widget.picture.words != words
    assert widget.picture.words == describe_matching(widget.state)
    assert widget.picture.words == describe_matching(widget.state)
    expected = START if name in ("class", "l1", "giou") else at(name, value)
    kept = tuple(term for term in START.terms if term != name)
    assert widget.state == replace(expected, terms=kept)


def test_choosing_a_prediction_changes_nothing_but_the_choice() -> None:
    """Its own values come into the sliders, and nobody moves."""
    widget = MatchingPlayground()
    for number in (2, 1, 3, 0):
        widget.controls["chosen"].value = number
        assert widget.state.said == START.said
        shown = [widget.controls[name].value for name in ("x", "y", "width", "height")]
        assert shown == pytest.approx(START.said[number].box)
        assert widget.controls["word"].value == START.said[number].word


def point_of(panel: int, x: float, y: float) -> dict[str, float]:
    """A point of the scene in one of the two panels, as the picture reports it."""
    left, bottom = PANELS[panel]
    return {"x": (left + SIDE * x) / WIDTH, "y": (HEIGHT - bottom - SIDE + SIDE * y) / HEIGHT}


@pytest.mark.parametrize("panel", [0, 1])
def test_dragging_carries_the_prediction(panel: int) -> None:
    """Pressed off its centre, it keeps that distance from the pointer; the sliders follow."""
    widget = MatchingPlayground()
    x, y, w, h = START.said[2].box
    widget.picture.pointer = {"phase": "down", **point_of(panel, x + 0.04, y + 0.06), "serial": 1}
    assert widget.state.chosen == 2 and widget.state.said == START.said
    widget.picture.pointer = {"phase": "move", **point_of(panel, 0.34, 0.36), "serial": 2}
    assert widget.state.said[2].box == pytest.approx((0.30, 0.30, w, h))
    assert widget.controls["x"].value == pytest.approx(0.30)
    assert [widget.state.said[number] for number in (0, 1, 3)] == [START.said[number] for number in (0, 1, 3)]


def test_pressing_beside_everything_moves_nothing() -> None:
    """Nor does a move outside the scenes."""
    widget = MatchingPlayground()
    for pointer in ({"x": 0.99, "y": 0.02}, point_of(0, 0.05, 0.05)):
        widget.picture.pointer = {"phase": "down", **pointer, "serial": id(pointer)}
        widget.picture.pointer = {"phase": "move", **point_of(0, 0.5, 0.5), "serial": id(pointer) + 1}
        assert widget.state == START


def test_points_and_grips() -> None:
    """Both panels cover the scene; of two boxes under the pointer the one with the nearer centre is taken."""
    for panel in (0, 1):
        for point in ((0.01, 0.02), (0.5, 0.5), (0.98, 0.97)):
            seen = point_of(panel, *point)
            assert place_in_scene(seen["x"], seen["y"]) == pytest.approx(point)
    assert place_in_scene(0.99, 0.5) is None and place_in_scene(0.1, 0.99) is None
    both = with_box(START, (0.70, 0.44, 0.3, 0.3))
    assert grasp(both, (0.69, 0.45)) == 0 and grasp(both, (0.73, 0.40)) == 1 and grasp(both, (0.05, 0.95)) is None


def test_controls_are_labelled() -> None:
    """Jupyter's own controls: they take focus and arrow keys."""
    controls = MatchingPlayground().controls
    assert [control.description for control in controls.values()] == [
        "prediction", "it says", "x", "y", "width", "height", "class cost", "L1 cost", "GIoU cost"]


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, and text that is the same in every session."""
    one, other = MatchingPlayground()._repr_mimebundle_(), MatchingPlayground()._repr_mimebundle_()
    words = html.unescape(re.search(r'<img alt="([^"]+)"', one["text/html"])[1])
    assert describe_matching(START) in words and words == one["text/plain"]
    assert "Greedy gives A the balloon, B the boat, C the mushroom, for a total of 5.37." in words
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])
    assert set(one) - {"text/html", "text/plain"} <= {"application/vnd.jupyter.widget-view+json"}
    assert "0x" not in one["text/plain"]


def test_four_predictions_are_wanted() -> None:
    """No more, no fewer."""
    with pytest.raises(ValueError, match="3 predictions given, and 4 are played with"):
        MatchingPlayground(Playground(said=START.said[:3]))
