"""OrderExplorer: right in every order, readable in every picture, and there for those who only read."""

import itertools
import re

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.optimize import linear_sum_assignment
from speed import quickest

from detr_mini.course import plots
from detr_mini.course.order_explorer import (
    MOST_OFF,
    Listing,
    OrderExplorer,
    Truth,
    describe_listing,
    differences,
    render_listing,
    smallest,
)
from detr_mini.data.scenes import CLASSES, draw_scene

PICTURE, LABELS, BOXES = draw_scene(seed=0, index=12)  # as in notebook 00: a car, a tree, a cat
NAMES = [CLASSES[label] for label in LABELS]
STATES = [Listing(order, off) for order, off in itertools.product(range(6), range(MOST_OFF + 1))]


def new() -> OrderExplorer:
    """The widget as notebook 00 makes it."""
    return OrderExplorer(PICTURE, BOXES, NAMES)


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


@pytest.fixture(scope="module")
def truth() -> Truth:
    """What it compares."""
    return Truth(PICTURE, torch.tensor(BOXES).double(), NAMES)


def test_every_order_is_compared_right(truth: Truth) -> None:
    """All 66 settings against NumPy; the smallest against the Hungarian algorithm."""
    first = np.array(BOXES, dtype=float)
    orders = list(itertools.permutations(range(3)))
    for state in STATES:
        second = first[list(orders[state.order])] + state.off
        assert np.allclose(differences(truth, state), np.abs(first - second).mean(1))
        cost = np.abs(first[:, None] - second).mean(-1)  # (3, 3)
        assert smallest(truth, state) == pytest.approx(cost[linear_sum_assignment(cost)].mean())
        assert f"on average by {np.abs(first - second).mean():.1f}." in describe_listing(truth, state)


@pytest.mark.parametrize("state", STATES, ids=str)
def test_every_picture_keeps_its_words_inside(truth: Truth, state: Listing) -> None:
    """No text leaves the figure, and the mean stands in it."""
    figure = render_listing(truth, state)
    FigureCanvasAgg(figure).draw()
    texts = [text for axes in figure.axes for text in axes.texts]
    for text in texts:
        extent = text.get_window_extent()
        assert extent.x0 >= 0 and extent.y0 >= 0, text.get_text()
        assert extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1, text.get_text()
    mean = float(differences(truth, state).mean())
    assert f"mean difference: {mean:.1f} pixels" in [text.get_text() for text in texts]


def test_a_picture_takes_less_than_a_tenth_of_a_second(truth: Truth) -> None:
    """In processor time."""
    assert quickest(lambda state: plots.live_png(render_listing(truth, state)), STATES[:6]) < 0.1


@pytest.mark.parametrize(("name", "value"), [("order", 3), ("off", 7)])
def test_moving_a_control_redraws(name: str, value: int) -> None:
    """Picture and words follow."""
    widget = new()
    picture, words = widget.picture.value, widget.picture.words
    widget.controls[name].value = value
    assert getattr(widget.state, name) == value and widget.controls[name].description
    assert widget.picture.value != picture and widget.picture.words != words


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, the same in every session."""
    one, other = new()._repr_mimebundle_(), new()._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert words == one["text/plain"] and "Second list: car, tree, cat" in words
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])


@pytest.mark.parametrize(("boxes", "names"), [
    (BOXES, NAMES[:2]), (BOXES[:1], NAMES[:1]), (np.tile(BOXES, (2, 1)), 2 * NAMES)])
def test_what_does_not_fit_is_named(boxes: np.ndarray, names: list[str]) -> None:
    """Too few names, one box alone, too many orders."""
    with pytest.raises(ValueError, match="wanted are 2 to 4 boxes of four numbers with a name each"):
        OrderExplorer(PICTURE, boxes, names)
