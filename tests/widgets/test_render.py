"""AttentionByHand: right at every setting, readable in every picture, and there for those who only read."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from speed import quickest

from detr_mini.course import plots
from detr_mini.course.widgets import (
    Asking,
    AttentionByHand,
    attend_by_hand,
    describe_attention_by_hand,
    render_attention_by_hand,
)

NAMES = ("Attic", "Bridge", "Centre", "Depot")
KEYS = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0], [-1.0, -1.0]])
RENTS = torch.tensor([7.0, 9.0, 12.0, 4.0])


def new() -> AttentionByHand:
    """The widget as notebook 01 makes it."""
    return AttentionByHand(NAMES, KEYS, RENTS, axes=("quiet", "central"), value="rent")


def values_of(name: str) -> list:
    """Everything that a control can be set to."""
    control = new().controls[name]
    if name == "scaled":
        return [False, True]
    return np.arange(control.min, control.max + control.step / 2, control.step).tolist()


ACROSS, UP, TEMPERATURE = values_of("across"), values_of("up"), values_of("temperature")
# One control at a time through its whole range, and all corners of the box of settings.
SWEEPS = [Asking(**{name: value}) for name in ("across", "up", "temperature", "scaled") for value in values_of(name)]
CORNERS = [Asking(*four) for four in itertools.product(
    (ACROSS[0], 0.0, ACROSS[-1]), (UP[0], 0.0, UP[-1]), (TEMPERATURE[0], TEMPERATURE[-1]), (False, True))]


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def test_every_setting_gives_attention() -> None:
    """All 20,000 settings, against the formula in NumPy: weights, and an average between the least and the most."""
    candidates, keys, rents = new().candidates, KEYS.double().numpy(), RENTS.double().numpy()
    assert len(ACROSS) == len(UP) == 25 and len(TEMPERATURE) == 16
    for across, up, temperature, scaled in itertools.product(ACROSS, UP, TEMPERATURE, (False, True)):
        answer = attend_by_hand(candidates, Asking(across, up, temperature, scaled))
        scores = keys @ [across, up] / temperature / (math.sqrt(2) if scaled else 1.0)
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        assert np.allclose(answer.weights, weights, atol=1e-12) and np.allclose(answer.scores, scores)
        assert math.isclose(answer.average, weights @ rents) and 4.0 <= answer.average <= 12.0


@pytest.mark.parametrize("state", SWEEPS + CORNERS, ids=str)
def test_every_picture_keeps_its_words_inside(state: Asking) -> None:
    """No text leaves the picture, and the numbers of the state are among them."""
    figure = render_attention_by_hand(new().candidates, state)
    FigureCanvasAgg(figure).draw()
    frame, texts = figure.bbox, [text for text in figure.axes[0].texts if text.get_text()]
    for text in texts:
        extent = text.get_window_extent()
        inside = extent.x0 >= 0 and extent.y0 >= 0 and extent.x1 <= frame.x1 and extent.y1 <= frame.y1
        assert inside, f"{text.get_text()!r} at {extent}"
    answer, shown = attend_by_hand(new().candidates, state), {text.get_text() for text in texts}
    assert {f"{weight:.2f}" for weight in answer.weights.tolist()} | {f"{answer.average:.2f}"} | set(NAMES) <= shown


def test_two_states_look_different_and_one_looks_the_same() -> None:
    """A picture is a function of the state alone."""
    candidates = new().candidates
    first, again, other = (plots.live_png(render_attention_by_hand(candidates, state))
                           for state in (Asking(), Asking(), Asking(up=1.25)))
    assert first == again != other


def test_an_answer_takes_less_than_a_tenth_of_a_second() -> None:
    """Picture and words, in processor time."""
    candidates = new().candidates

    def answer(state: Asking) -> None:
        plots.live_png(render_attention_by_hand(candidates, state))
        describe_attention_by_hand(candidates, state)

    assert quickest(answer, map(Asking, (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0))) < 0.1


@pytest.mark.parametrize(("name", "value"), [("across", -1.0), ("up", 3.0), ("temperature", 4.0), ("scaled", False)])
def test_moving_a_control_redraws(name: str, value: float) -> None:
    """Picture and words follow, and the words are announced to screen readers."""
    widget = new()
    picture, words = widget.picture.value, widget.picture.words
    widget.controls[name].value = value
    assert getattr(widget.state, name) == value
    assert widget.picture.value != picture and widget.picture.words != words
    assert describe_attention_by_hand(widget.candidates, widget.state) in widget.picture.words


def test_controls_are_labelled_and_answer_to_keys() -> None:
    """Sliders and a box of Jupyter's own: they take focus and arrow keys."""
    controls = new().controls
    assert [control.description for control in controls.values()] == [
        "q: quiet", "q: central", "temperature", "divide by √d"]
    assert [type(control).__name__ for control in controls.values()] == ["FloatSlider"] * 3 + ["Checkbox"]


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, and text that is the same in every session."""
    one, other = new()._repr_mimebundle_(), new()._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert "Attic 0.57, Bridge 0.28, Centre 0.14, Depot 0.00" in words and words == one["text/plain"]
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])
    assert set(one) - {"text/html", "text/plain"} <= {"application/vnd.jupyter.widget-view+json"}
    assert "0x" not in one["text/plain"]


@pytest.mark.parametrize(("names", "keys", "values"), [
    (NAMES[:3], KEYS, RENTS), (NAMES, KEYS[:, :1], RENTS), (NAMES, KEYS, RENTS[:3])])
def test_what_does_not_fit_is_named(names: tuple, keys: torch.Tensor, values: torch.Tensor) -> None:
    """The message has the shapes that are wanted and those that came."""
    with pytest.raises(ValueError, match=rf"need keys \({len(names)}, 2\) and values \({len(names)},\), not"):
        AttentionByHand(names, keys, values, axes=("a", "b"), value="c")
