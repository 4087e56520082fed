"""LossWalk: it walks as PyTorch's Adam does, stays readable at every setting, and is there for those who only read."""

import itertools
import re

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from detr_mini.boxes import cxcywh_to_xyxy, giou
from detr_mini.course import loss_plots, plots
from detr_mini.course.loss_walk import GOAL, STEPS, LossWalk, Walk, describe_walk, render_walk, way_of

FIELDS = ("l1", "giou", "side", "scale", "distance", "step")


def values_of(name: str) -> list:
    """Everything that a slider can be set to."""
    control = LossWalk().controls[name]
    values = np.arange(control.min, control.max + control.step / 2, control.step).round(6).tolist()
    return [int(value) for value in values] if name == "step" else values


SWEEPS = [Walk(**{name: value}) for name in FIELDS for value in values_of(name)]
CORNERS = [Walk(*five, step=STEPS) for five in itertools.product(
    (0.0, 10.0), (0.0, 4.0), (0.04, 0.4), (0.5, 3.0), (0.0, 0.48))]


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


@pytest.mark.parametrize("state", [Walk(), Walk(giou=0.0), Walk(l1=0.0), Walk(side=0.3, scale=2.0, distance=0.2)])
def test_it_walks_as_pytorch_does(state: Walk) -> None:
    """The first thirty steps, before boxes dance around their goal."""
    goal, size = (GOAL, GOAL, state.side, state.side), state.side * state.scale

    def loss(box: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        far = 1 - giou(cxcywh_to_xyxy(box), cxcywh_to_xyxy(wanted))
        return state.l1 * (box - wanted).abs().sum() + state.giou * far

    start = (GOAL - state.distance, GOAL - state.distance, size, size)
    boxes, fit = loss_plots.descend(start, goal, loss, steps=30, lr=0.01)
    mine, overlap = way_of(state)
    assert np.allclose(mine[:31], boxes, atol=2e-3) and np.allclose(overlap[:31], fit, atol=2e-2)


def test_what_the_notebook_says() -> None:
    """GIoU alone swells; both arrive first; a weight of nothing goes nowhere."""
    wide = {name: way_of(state)[0][:, 2].max() for name, state in
            {"l1": Walk(giou=0.0), "giou": Walk(l1=0.0), "both": Walk()}.items()}
    assert wide["giou"] > 3 * wide["l1"] and wide["both"] < 1.5 * wide["l1"]
    still = way_of(Walk(l1=0.0, giou=0.0))[0]
    assert np.allclose(still, still[0])


@pytest.mark.parametrize("state", SWEEPS + CORNERS, ids=str)
def test_every_picture_keeps_its_words_inside(state: Walk) -> None:
    """No text leaves the picture, and the IoU is shown."""
    boxes, fit = way_of(state)
    assert np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all() and ((fit >= 0) & (fit <= 1 + 1e-9)).all()
    figure = render_walk(state)
    FigureCanvasAgg(figure).draw()
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        inside = extent.x0 >= 0 and extent.y0 >= 0 and extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1
        assert inside, f"{text.get_text()!r} at {extent}"
    assert f"step {state.step}: IoU {fit[state.step]:.2f}" in {text.get_text() for text in figure.axes[0].texts}


@pytest.mark.parametrize(("name", "value"), list(zip(
    FIELDS, (0.0, 0.5, 0.2, 2.0, 0.12, 120), strict=True)))
def test_moving_a_slider_redraws(name: str, value: float) -> None:
    """Picture and words follow, and the words are announced."""
    widget = LossWalk()
    picture, words = widget.picture.value, widget.picture.words
    widget.controls[name].value = value
    assert widget.picture.value != picture and widget.picture.words != words
    assert widget.picture.words == describe_walk(widget.state)
    assert getattr(widget.state, name) == value


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, the same in every session."""
    one, other = LossWalk()._repr_mimebundle_(), LossWalk()._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert describe_walk(Walk()) in words and words == one["text/plain"]
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])
