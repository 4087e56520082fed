"""BoxPlayground: right at every setting, readable in every picture, moved by sliders, by pointer and by its button."""

import itertools
import re
from dataclasses import replace

import pytest
import torch
import torchvision
from matplotlib.backends.backend_agg import FigureCanvasAgg
from speed import quickest

from detr_mini.course import plots
from detr_mini.course.box_playground import (
    CORNER,
    HEIGHT,
    LEAST,
    MEASURES,
    MOST,
    NUMBERS,
    SIDE,
    BoxPlayground,
    TwoBoxes,
    describe_two_boxes,
    downhill,
    dragged,
    fitted,
    grasp,
    measure,
    render_two_boxes,
    sides,
)
from detr_mini.course.plots import WIDTH

APART = TwoBoxes(moved=(0.2, 0.2, 0.2, 0.2), target=(0.7, 0.7, 0.3, 0.4))
SWEEPS = [fitted((x, y, w, h)) for x, y in itertools.product((0.0, 0.3, 0.55, 1.0), repeat=2)
          for w, h in ((LEAST, LEAST), (0.3, 0.2), (0.36, 0.4), (MOST, LEAST), (MOST, MOST))]


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def pointer(phase: str, x: float, y: float) -> dict:
    """What the picture reports when it is touched at (x, y) of the image."""
    return {"phase": phase, "x": (CORNER[0] + SIDE * x) / WIDTH, "y": 1 - (CORNER[1] + SIDE * (1 - y)) / HEIGHT}


@pytest.mark.parametrize("moved", SWEEPS, ids=str)
def test_every_setting_is_measured_and_drawn(moved: tuple) -> None:
    """Values are torchvision's, pulls are finite, and no words leave the picture."""
    state = TwoBoxes(moved=moved)
    boxes = [torch.tensor([sides(box)], dtype=torch.float64) for box in (state.moved, state.target)]
    assert measure(state, "IoU").value == pytest.approx(torchvision.ops.box_iou(*boxes).item())
    assert measure(state, "GIoU").value == pytest.approx(torchvision.ops.generalized_box_iou(*boxes).item())
    l1 = sum(abs(a - b) for a, b in zip(state.moved, state.target, strict=True))
    assert measure(state, "L1").value == pytest.approx(l1)
    assert all(measure(state, name).pull.isfinite().all() for name in MEASURES)
    figure = render_two_boxes(state)
    FigureCanvasAgg(figure).draw()
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        inside = extent.x0 >= 0 and extent.y0 >= 0 and extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1
        assert inside or not text.get_text(), f"{text.get_text()!r} at {extent}"


@pytest.mark.parametrize("name", MEASURES)
def test_the_pull_is_minus_the_slope(name: str) -> None:
    """Against finite differences."""
    state, small, sign = TwoBoxes(), 1e-6, 1 if name == "L1" else -1
    for number in range(4):
        up, down = (replace(state, moved=tuple(v + s * small * (i == number) for i, v in enumerate(state.moved)))
                    for s in (1, -1))
        slope = sign * (measure(up, name).value - measure(down, name).value) / (2 * small)
        assert measure(state, name).pull[number].item() == pytest.approx(-slope, abs=1e-5)


def test_apart_only_iou_says_nothing() -> None:
    """The point of the widget, in numbers and in words."""
    assert not measure(APART, "IoU").pull.any()
    assert (measure(APART, "GIoU").pull[:2] > 0).all() and (measure(APART, "L1").pull > 0).all()
    assert "IoU: nothing at all; GIoU: right, down" in describe_two_boxes(APART)


@pytest.mark.parametrize(("name", "arrives"), [("IoU", False), ("GIoU", True), ("L1", True)])
def test_downhill_arrives_unless_it_is_flat(name: str, arrives: bool) -> None:
    """Fifty presses of the button."""
    state = replace(APART, arrows=name)
    for _ in range(50):
        state = downhill(state)
    assert (measure(state, "IoU").value > 0.5) == arrives and (state.moved != APART.moved) == arrives


def test_a_box_stays_in_the_image() -> None:
    """Whatever is asked for, by slider or by pointer."""
    for box in (fitted((-3, 9, 0, 7)), dragged((0.5, 0.5, 0.3, 0.3), (2, -2), False),
                dragged((0.5, 0.5, 0.3, 0.3), (2, -2), True)):
        left, top, right, bottom = sides(box)
        assert left > -1e-9 and top > -1e-9 and right < 1 + 1e-9 and bottom < 1 + 1e-9 and min(box[2:]) >= LEAST - 1e-9
    assert sides(dragged((0.5, 0.5, 0.2, 0.2), (0.1, 0.2), True)) == pytest.approx((0.4, 0.4, 0.7, 0.8))


def test_grasp_takes_what_lies_under_the_pointer() -> None:
    """Inside, corner, beside; and the box held before comes first where both lie."""
    assert grasp(APART, (0.2, 0.2)) == ("moved", False) and grasp(APART, (0.31, 0.29)) == ("moved", True)
    assert grasp(APART, (0.7, 0.7)) == ("target", False) and grasp(APART, (0.5, 0.2)) is None
    both = TwoBoxes(moved=(0.5, 0.5, 0.3, 0.3), target=(0.5, 0.5, 0.4, 0.4))
    assert grasp(both, (0.5, 0.5))[0] == "moved" and grasp(replace(both, held="target"), (0.5, 0.5))[0] == "target"


def test_dragging_moves_and_stretches() -> None:
    """By the inside, then the other box by its corner; beside both nothing is held."""
    widget = BoxPlayground(APART)
    widget.picture.pointer = pointer("down", 0.2, 0.2)
    widget.picture.pointer = pointer("move", 0.35, 0.25)
    assert widget.state.moved == pytest.approx((0.35, 0.25, 0.2, 0.2))
    widget.picture.pointer = pointer("down", 0.85, 0.9)
    widget.picture.pointer = pointer("move", 0.75, 0.8)
    assert sides(widget.state.target) == pytest.approx((0.55, 0.5, 0.75, 0.8))
    assert widget.controls["held"].value == "target" and widget.controls["width"].value == pytest.approx(0.2)
    before = widget.state
    widget.picture.pointer = pointer("down", 0.02, 0.97)
    widget.picture.pointer = pointer("move", 0.5, 0.5)
    assert widget.state == before


def test_an_answer_takes_less_than_a_tenth_of_a_second() -> None:
    """Picture and words, in processor time."""
    def answer(state: TwoBoxes) -> None:
        plots.live_png(render_two_boxes(state))
        describe_two_boxes(state)

    states = [replace(APART, moved=(x, 0.3, 0.2, 0.2)) for x in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    assert quickest(answer, states) < 0.1


def test_sliders_and_buttons_redraw() -> None:
    """Each control changes the state, the picture and the announced words."""
    for name, value in [("x", 0.6), ("y", 0.3), ("width", 0.5), ("height", 0.1), ("arrows", "L1")]:
        widget = BoxPlayground()
        picture = widget.picture.value
        widget.controls[name].value = value
        at = NUMBERS.index(name) if name in NUMBERS else None
        assert (widget.state.arrows if at is None else widget.state.moved[at]) == value
        assert widget.picture.value != picture and describe_two_boxes(widget.state) in widget.picture.words
    widget = BoxPlayground()
    widget.controls["held"].value = "target"
    assert widget.controls["x"].value == widget.state.target[0]
    widget.controls["x"].value = 0.4
    assert widget.state.target[0] == 0.4 and widget.state.moved == TwoBoxes().moved
    widget.button.click()
    assert widget.state == downhill(replace(TwoBoxes(), held="target", target=widget.state.target))


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, the same in every session."""
    one, other = BoxPlayground()._repr_mimebundle_(), BoxPlayground()._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert words == one["text/plain"] and "IoU 0.04, GIoU -0.28, L1 0.66" in words
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])


def test_unknown_choices_are_named() -> None:
    """The message has the choices there are."""
    with pytest.raises(ValueError, match="'DIoU' is not played with: choose one of IoU, GIoU, L1"):
        BoxPlayground(TwoBoxes(arrows="DIoU"))
    with pytest.raises(ValueError, match="choose one of moved, target"):
        BoxPlayground(TwoBoxes(held="A"))
