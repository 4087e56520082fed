"""BoxPlayground: move and stretch two boxes; IoU, GIoU and L1 at once, and how each of them pulls at the moved box.

As in widgets.py: pure functions from a state to a figure and to words, and a thin shell of controls around them. The
picture takes part: a box can be dragged by its inside, or by its lower right corner. Everything that dragging does the
sliders do as well.
"""

from dataclasses import dataclass, replace

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, giou, iou
from detr_mini.course.explorer import Explorer
from detr_mini.course.plots import BLUE, GREY, INK, ORANGE, PALE, SKY, VERMILLION, WIDTH

HEIGHT = 3.7  # inches
CORNER, SIDE = (0.12, 0.12), 3.2  # inches: lower left corner and side of the square image
COLUMNS, TOP, ROW = (4.75, 5.85, 6.95), 3.35, 0.36  # inches: where measures stand, and their rows
FULL = 4.0  # the pull at which a bar is as long as it gets
MEASURES = ("IoU", "GIoU", "L1")
NUMBERS = ("x", "y", "width", "height")
LEAST, MOST = 0.04, 0.9  # sides of a box
STEP = 0.02  # how far one step downhill goes, per unit of pull
FARTHEST = 0.05  # and at most, in each number

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class TwoBoxes:
    """What the learner sets: two boxes (cxcywh, fractions of the image), whose pull is drawn, which box is held."""

    moved: Box = (0.32, 0.36, 0.30, 0.26)
    target: Box = (0.58, 0.56, 0.36, 0.40)
    arrows: str = "GIoU"
    held: str = "moved"


@dataclass(frozen=True)
class Verdict:
    """One measure of a state: its value, and minus the gradient of its loss in x, y, width and height, (4,).

    The losses are 1 - IoU, 1 - GIoU, and the L1 distance itself.
    """

    value: float
    pull: Tensor


def measure(state: TwoBoxes, name: str) -> Verdict:
    """Value and pull of one measure, in double precision."""
    moved = torch.tensor(state.moved, dtype=torch.float64, requires_grad=True)  # (4,)
    target = torch.tensor(state.target, dtype=torch.float64)  # (4,)
    if name == "L1":
        value = (moved - target).abs().sum()
        loss = value
    else:
        value = (iou if name == "IoU" else giou)(cxcywh_to_xyxy(moved), cxcywh_to_xyxy(target))
        loss = 1 - value
    gradient, = torch.autograd.grad(loss, moved)
    return Verdict(value.item(), 0.0 - gradient)


def fitted(box: Box) -> Box:
    """The same box, within the image and the sizes that are played with."""
    width, height = (min(max(side, LEAST), MOST) for side in box[2:])
    x, y = (min(max(place, side / 2), 1 - side / 2) for place, side in zip(box[:2], (width, height), strict=True))
    return x, y, width, height


def downhill(state: TwoBoxes) -> TwoBoxes:
    """One step of gradient descent on the loss whose arrows are drawn."""
    way = (STEP * measure(state, state.arrows).pull).clamp(-FARTHEST, FARTHEST).tolist()
    return replace(state, moved=fitted(tuple(old + step for old, step in zip(state.moved, way, strict=True))))


# ---------------------------------------------------------------- the picture


def place(x: float, y: float) -> tuple[float, float]:
    """A point of the image as inches of the figure. y runs down in the image, and up in the figure."""
    return CORNER[0] + SIDE * x, CORNER[1] + SIDE * (1 - y)


def render_two_boxes(state: TwoBoxes) -> Figure:
    """The picture of one state: both boxes, what they share, the pull; beside them all measures.

    One pair of axes, in inches, and no ticks: drawn anew at every move, it has to be quick.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    verdicts = {name: measure(state, name) for name in MEASURES}
    draw_image(axes, state)
    draw_pull(axes, state, verdicts[state.arrows].pull.tolist())
    draw_table(axes, state, verdicts)
    return figure


def rectangle(axes: Axes, corners: tuple[float, float, float, float], **look: object) -> None:
    """A rectangle from left, top, right, bottom of the image."""
    left, top, right, bottom = corners
    axes.add_patch(Rectangle(place(left, bottom), SIDE * (right - left), SIDE * (bottom - top), **look))


def sides(box: Box) -> tuple[float, float, float, float]:
    """cxcywh to left, top, right, bottom."""
    x, y, width, height = box
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def draw_image(axes: Axes, state: TwoBoxes) -> None:
    """The square image, the shared part filled, the hull dotted, the two boxes."""
    moved, target = sides(state.moved), sides(state.target)
    rectangle(axes, (0, 0, 1, 1), facecolor="#FAFAFA", edgecolor=GREY, linewidth=0.8)
    low, high = map(max, moved[:2], target[:2]), map(min, moved[2:], target[2:])
    left, top, right, bottom = (*low, *high)
    if left < right and top < bottom:
        rectangle(axes, (left, top, right, bottom), facecolor=SKY, alpha=0.55, edgecolor="none")
    hull = (*map(min, moved[:2], target[:2]), *map(max, moved[2:], target[2:]))
    rectangle(axes, hull, fill=False, edgecolor=GREY, linewidth=1.1, linestyle=(0, (1, 2)))
    for name, corners, colour, style in (("target", target, INK, (0, (4, 2))), ("moved", moved, ORANGE, "-")):
        thick = 3.0 if state.held == name else 2.0
        rectangle(axes, corners, fill=False, edgecolor=colour, linewidth=thick, linestyle=style)
    axes.text(*place(moved[0] + 0.012, moved[1] + 0.03), "moved", fontsize=8, va="center", color=VERMILLION)
    axes.text(*place(target[2] - 0.012, target[3] - 0.03), "target", fontsize=8, va="center", ha="right", color=INK)
    axes.plot(*place(*state.moved[:2]), "o", color=ORANGE, markersize=4)


def draw_pull(axes: Axes, state: TwoBoxes, pull: list[float]) -> None:
    """Arrows downhill: at the centre where to go, at right and bottom side whether to stretch or to shrink."""
    across, down, wider, taller = (min(max(0.06 * part, -0.25), 0.25) for part in pull)
    (x, y), (_, _, right, bottom) = state.moved[:2], sides(state.moved)
    arrows = (((x, y), (x + across, y + down), VERMILLION), ((right, y), (right + wider, y), BLUE),
              ((x, bottom), (x, bottom + taller), BLUE))
    for start, end, colour in arrows:
        if max(abs(start[0] - end[0]), abs(start[1] - end[1])) > 0.004:
            look = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "mutation_scale": 11}
            look |= {"shrinkA": 0, "shrinkB": 0}
            axes.annotate("", place(*end), place(*start), arrowprops=look)


def draw_table(axes: Axes, state: TwoBoxes, verdicts: dict[str, Verdict]) -> None:
    """A column per measure: its name, its value, and a bar per number of the moved box."""
    for centre, (name, verdict) in zip(COLUMNS, verdicts.items(), strict=True):
        drawn = name == state.arrows
        axes.text(centre, TOP, name, ha="center", va="center", weight="bold" if drawn else "normal",
                  color=VERMILLION if drawn else INK)
        axes.text(centre, TOP - 0.36, f"{verdict.value:.2f}", ha="center", va="center", fontsize=15)
        draw_bars(axes, centre, verdict.pull.tolist())
    for row, name in enumerate(NUMBERS):
        axes.text(3.52, height_of(row), name, va="center", fontsize=9.5)
    axes.text(3.52, TOP - 0.86, "pull: how each number should change", va="center", fontsize=9, color=GREY)
    axes.text(3.52, 0.24, "dotted: the hull, the smallest box around both", va="center", fontsize=8.5, color=GREY)


def height_of(row: int) -> float:
    """Inches from the bottom to the middle of a row of bars."""
    return TOP - 1.3 - 1.32 * ROW * row


def draw_bars(axes: Axes, centre: float, pull: list[float]) -> None:
    """A signed bar per number of the box, with its value below; it is cut off at FULL."""
    heights = [height_of(row) for row in range(len(pull))]
    ends = [centre + 0.46 * min(max(part / FULL, -1.0), 1.0) for part in pull]
    axes.hlines(heights, centre - 0.46, centre + 0.46, color=PALE, linewidth=6)
    axes.hlines(heights, centre, ends, color=BLUE, linewidth=6)
    axes.vlines([centre] * len(pull), [h - 0.08 for h in heights], [h + 0.08 for h in heights], color=INK, linewidth=1)
    for height, part in zip(heights, pull, strict=True):
        axes.text(centre, height - 0.19, f"{part + 0.0:+.2f}", ha="center", va="center", fontsize=8.5)


def wishes(pull: list[float]) -> str:
    """A pull in words."""
    pairs = (("left", "right"), ("up", "down"), ("narrower", "wider"), ("lower", "taller"))
    wanted = [words[part > 0] for words, part in zip(pairs, pull, strict=True) if abs(part) > 0.005]
    return ", ".join(wanted) or "nothing at all"


def describe_two_boxes(state: TwoBoxes) -> str:
    """One state in words."""
    boxes = "; ".join(f"{name} box at ({x:.2f}, {y:.2f}), {width:.2f} wide and {height:.2f} high"
                      for name, (x, y, width, height) in (("moved", state.moved), ("target", state.target)))
    verdicts = {name: measure(state, name) for name in MEASURES}
    values = ", ".join(f"{name} {verdict.value:.2f}" for name, verdict in verdicts.items())
    pulls = "; ".join(f"{name}: {wishes(verdict.pull.tolist())}" for name, verdict in verdicts.items())
    return f"{boxes[0].upper()}{boxes[1:]}. {values}. What they ask of the moved box: {pulls}."


# ---------------------------------------------------------------- dragging


def place_in_image(across: float, down: float) -> tuple[float, float]:
    """A point of the picture (fractions from its upper left corner) as a point of the image; it may lie beside it."""
    return (across * WIDTH - CORNER[0]) / SIDE, 1 - ((1 - down) * HEIGHT - CORNER[1]) / SIDE


def grasp(state: TwoBoxes, point: tuple[float, float]) -> tuple[str, bool] | None:
    """What a pointer takes hold of: a box, and whether by its lower right corner. None beside both."""
    x, y = point
    for name in sorted(("moved", "target"), key=lambda name: name != state.held):  # the box held before comes first
        left, top, right, bottom = sides(getattr(state, name))
        if abs(x - right) < 0.04 and abs(y - bottom) < 0.04:
            return name, True
        if left <= x <= right and top <= y <= bottom:
            return name, False
    return None


def dragged(box: Box, by: tuple[float, float], stretch: bool) -> Box:
    """A box carried along, or with its lower right corner carried along while the upper left one stays."""
    x, y, width, height = box
    if not stretch:
        return fitted((x + by[0], y + by[1], width, height))
    left, top = x - width / 2, y - height / 2
    width, height = (min(max(side + way, LEAST), MOST, 1 - low)
                     for side, way, low in ((width, by[0], left), (height, by[1], top)))
    return fitted((left + width / 2, top + height / 2, width, height))


# ---------------------------------------------------------------- the shell


class BoxPlayground(Explorer):
    """Two boxes in an image; IoU, GIoU and L1, and how each pulls at the moved box, at once.

    Drag a box by its inside or by its lower right corner; or choose it and move the sliders: Tab goes from control to
    control, the arrow keys move them. The button takes one step of gradient descent on the chosen measure.
    Raises ValueError for an unknown measure or box, naming the choices.
    """

    def __init__(self, state: TwoBoxes | None = None) -> None:
        first, self.grip = state or TwoBoxes(), None
        for wanted, known in ((first.arrows, MEASURES), (first.held, ("moved", "target"))):
            if wanted not in known:
                raise ValueError(f"{wanted!r} is not played with: choose one of {', '.join(known)}")
        super().__init__(first, make_controls(first), render_two_boxes, describe_two_boxes,
                         "Two boxes in a square image, with what IoU, GIoU and L1 say of them.", "drag", (1, 2, 2, 1))
        self.button = ipywidgets.Button(description="one step downhill", layout={"width": "12em"})
        self.button.on_click(lambda button: self.move_to(downhill(self.state)))
        self.box.children[3].children += (self.button,)

    def settings(self, state: TwoBoxes) -> dict[str, object]:
        """The box that is held, its four numbers, and the measure."""
        numbers = zip(NUMBERS, getattr(state, state.held), strict=True)
        return {"held": state.held, "arrows": state.arrows, **dict(numbers)}

    def read(self, name: str, values: dict[str, object]) -> TwoBoxes:
        """Holding another box sets the sliders to it."""
        if name in ("held", "arrows"):
            return replace(self.state, held=values["held"], arrows=values["arrows"])
        return replace(self.state, **{self.state.held: fitted(tuple(values[number] for number in NUMBERS))})

    def point(self, phase: str, x: float, y: float) -> None:
        """Pressing takes hold of a box, moving carries it or its corner."""
        point = place_in_image(x, y)
        if phase == "down":
            taken = grasp(self.state, point)
            self.grip = taken and (point, getattr(self.state, taken[0]), taken[1])
            if taken:
                self.move_to(replace(self.state, held=taken[0]))
        elif self.grip:
            start, box, stretch = self.grip
            by = (point[0] - start[0], point[1] - start[1])
            self.move_to(replace(self.state, **{self.state.held: dragged(box, by, stretch)}))


def make_controls(first: TwoBoxes) -> dict[str, ipywidgets.Widget]:
    """The box to hold, its four numbers, and the measure whose arrows are drawn."""
    look = {"style": {"description_width": "5.5em"}, "layout": {"width": "23em"}}
    buttons = {"description_width": "5.5em", "button_width": "5em"}
    controls: dict[str, ipywidgets.Widget] = {
        "held": ipywidgets.ToggleButtons(options=("moved", "target"), value=first.held, description="box",
                                         style=buttons)}
    for name, value in zip(NUMBERS, getattr(first, first.held), strict=True):
        low, high = (0.0, 1.0) if name in "xy" else (LEAST, MOST)
        controls[name] = ipywidgets.FloatSlider(value=value, min=low, max=high, step=0.01, description=name, **look)
    controls["arrows"] = ipywidgets.ToggleButtons(options=MEASURES, value=first.arrows, description="arrows of",
                                                  style=buttons)
    return controls
