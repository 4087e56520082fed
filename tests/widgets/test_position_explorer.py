"""PositionExplorer: right at every setting, readable in every picture, and it follows the pointer, keys and clicks."""

import itertools
import math
import re

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from speed import quickest

from detr_mini.course import plots
from detr_mini.course.position_explorer import (
    CODES,
    COUNTED,
    DETR,
    HEIGHT,
    LEARNED,
    MAP,
    TEMPERATURES,
    Address,
    Chart,
    PositionExplorer,
    cell_at,
    codes,
    describe_address,
    neighbours,
    render_address,
    similarity,
)
from detr_mini.positions import SineGrid

CHART = Chart(16, 64)
STATES = [Address(row, column, temperature, code) for (row, column), temperature, code in itertools.product(
    [(0, 0), (5, 8), (15, 15), (0, 15)], (2, 20, 10000), CODES)]


@pytest.fixture(scope="module", autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def test_codes_are_the_package_s() -> None:
    """DETR's at every temperature; counted ones turn by 1 radian per cell; learned ones leave random numbers alone."""
    empty = torch.zeros(1, 16, 16, dtype=torch.bool)
    for temperature in TEMPERATURES:
        assert torch.equal(codes(CHART, temperature, DETR), SineGrid(64, temperature)(empty)[0])
    counted = codes(CHART, 20, COUNTED)
    assert counted.shape == (16, 16, 64)
    assert torch.allclose(counted[2, 6, 0], torch.tensor(3.0).sin(), atol=1e-5)  # y first, cells count from 1
    assert torch.allclose(counted[2, 6, 32], torch.tensor(7.0).sin(), atol=1e-5)
    codes.cache_clear()
    before = torch.get_rng_state()
    assert codes(CHART, 20, LEARNED).shape == (16, 16, 64)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("temperature", "code"), list(itertools.product(TEMPERATURES, CODES)))
def test_every_cell_is_most_like_itself(temperature: int, code: str) -> None:
    """All 256 cells of all 24 codes: a similarity of 1 at home, nowhere more, and words for it."""
    for row, column in itertools.product(range(16), range(16)):
        state = Address(row, column, temperature, code)
        alike = similarity(CHART, state)
        assert math.isclose(alike[row, column], 1, abs_tol=1e-5) and alike.max() <= 1 + 1e-5 and alike.min() >= -1
        assert f"Row {row}, column {column} of 16 x 16" in describe_address(CHART, state)


def test_sine_similarity_depends_on_the_offset_only() -> None:
    """The same hill around two cells, for both sine codes."""
    for code in (DETR, COUNTED):
        one, other = similarity(CHART, Address(4, 5, 20, code)), similarity(CHART, Address(9, 7, 20, code))
        assert torch.allclose(one[:11, :14], other[5:, 2:], atol=1e-4)


def test_words_agree_with_the_numbers() -> None:
    """The neighbours' least and most, the far corner and the count are those of the map."""
    state = Address(3, 3, 20)
    alike, words = similarity(CHART, state), describe_address(CHART, state)
    near = [alike[place].item() for place in neighbours(state)]
    assert f"{min(near):.2f} to {max(near):.2f}" in words and f"farthest away: {alike[15, 15]:.2f}" in words
    assert f"itself included: {int((alike > 0.9).sum())} of 256" in words
    assert "temperature" not in describe_address(CHART, Address(code=LEARNED))


@pytest.mark.parametrize("state", STATES, ids=str)
def test_pictures_keep_their_words_inside(state: Address) -> None:
    """No text leaves the picture, which depends on the state alone."""
    figure = render_address(CHART, state)
    FigureCanvasAgg(figure).draw()  # puts labels where they belong
    for text in figure.findobj(lambda part: hasattr(part, "get_text") and part.get_text()):
        extent = text.get_window_extent()
        assert extent.x0 >= 0 and extent.y0 >= 0, text.get_text()
        assert extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1, text.get_text()
    assert plots.live_png(render_address(CHART, state)) == plots.live_png(render_address(CHART, state))


def test_a_picture_takes_less_than_a_tenth_of_a_second() -> None:
    """In processor time."""
    states = [Address(3, column) for column in range(6)]
    assert quickest(lambda state: plots.live_png(render_address(CHART, state)), states) < 0.1


# ---------------------------------------------------------------- the shell


@pytest.mark.parametrize("name", ["row", "column", "temperature", "code"])
def test_moving_any_control_redraws(name: str) -> None:
    """Picture and words follow, the words are announced, and the picture carries them as its description."""
    widget = PositionExplorer()
    picture, words = bytes(widget.picture.value), widget.picture.words
    control = widget.controls[name]
    control.value = {"row": 0, "column": 15, "temperature": 20, "code": LEARNED}[name]
    assert getattr(widget.state, name) == control.value and control.description
    assert bytes(widget.picture.value) != picture and widget.picture.words != words


def middle_of(row: int, column: int) -> tuple[float, float]:
    """A cell's middle as fractions of the picture."""
    left, low, side = MAP
    return ((left + side * (column + 0.5) / 16) / plots.WIDTH,
            1 - (low + side * (1 - (row + 0.5) / 16)) / HEIGHT)


def test_every_cell_can_be_pointed_at() -> None:
    """The middle of each cell is that cell; beside the map there is none."""
    for row, column in itertools.product(range(16), range(16)):
        assert cell_at(CHART, *middle_of(row, column)) == (row, column)
    assert cell_at(CHART, 0.01, 0.5) is None and cell_at(CHART, 0.9, 0.5) is None and cell_at(CHART, 0.2, 0.999) is None


def test_the_map_is_drawn_where_the_pointer_looks_for_it() -> None:
    """matplotlib's own place of a cell, as a fraction of the picture, is what `cell_at` takes for it."""
    figure = render_address(CHART, Address())
    FigureCanvasAgg(figure).draw()  # puts labels where they belong
    x, y = figure.axes[0].transData.transform((11, 4))  # column 11, row 4
    assert cell_at(CHART, x / figure.bbox.width, 1 - y / figure.bbox.height) == (4, 11)


def test_the_cell_follows_the_pointer_until_it_is_pinned() -> None:
    """Moving chooses, a click pins, a second click lets go; each drawing is made once."""
    widget, drawn = PositionExplorer(), []
    widget.picture.observe(lambda change: drawn.append(change.new), names="value")

    def point(row: int, column: int, phase: str) -> tuple[int, int]:
        x, y = middle_of(row, column)
        widget.picture.pointer = {"phase": phase, "x": x, "y": y, "serial": len(drawn)}
        return widget.state.row, widget.state.column

    assert point(2, 3, "hover") == (2, 3) and len(drawn) == 1
    assert point(4, 4, "down") == (4, 4) and len(drawn) == 2
    assert point(9, 9, "hover") == (4, 4) and len(drawn) == 2
    assert point(9, 9, "down") == (9, 9)
    assert point(1, 1, "hover") == (1, 1)
    widget.picture.pointer = {"phase": "hover", "x": 0.9, "y": 0.5, "serial": 99}
    assert (widget.state.row, widget.state.column) == (1, 1)


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, the same in every session."""
    one, other = PositionExplorer()._repr_mimebundle_(), PositionExplorer()._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert words == one["text/plain"] and "Row 5, column 8 of 16 x 16" in words
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])
    assert set(one) - {"text/html", "text/plain"} <= {"application/vnd.jupyter.widget-view+json"}


@pytest.mark.parametrize(("arguments", "message"), [
    ({"width": 30}, "multiple of 4"), ({"first": Address(16, 0)}, "16 rows and 16 columns"),
    ({"first": Address(temperature=7)}, "temperatures are 2, 5"), ({"first": Address(code="sin")}, "codes are sine")])
def test_what_cannot_be_shown_is_refused(arguments: dict, message: str) -> None:
    """The message names what there is."""
    with pytest.raises(ValueError, match=message):
        PositionExplorer(**arguments)
