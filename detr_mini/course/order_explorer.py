"""OrderExplorer: two lists of the same boxes, compared number by number, in any order.

As in widgets.py: a pure function from state to figure, and a thin shell of sliders around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.course.explorer import Explorer, choice, slider
from detr_mini.course.plots import BLUE, COLOURS, GREY, INK, WIDTH, readable_on, scene

HEIGHT, SIDE = 3.4, 3.15  # inches: the figure, and the picture in it
MOST_OFF = 10  # pixels
FEWEST, MOST = 2, 4  # boxes: 4 of them have 24 orders already


@dataclass(frozen=True)
class Listing:
    """What the learner sets: which of the M! orders the second list has, and by how many pixels each of its numbers is
    too large."""

    order: int = 0
    off: int = 0


@dataclass(frozen=True)
class Truth:
    """A picture, (3, H, W) or (H, W, 3), its true boxes (M, 4) as left, top, width, height in pixels, their names."""

    picture: Tensor | np.ndarray
    boxes: Tensor
    names: Sequence[str]

    @property
    def orders(self) -> list[tuple[int, ...]]:
        """All M! orders; the first one leaves the list as it is."""
        return list(permutations(range(len(self.names))))


def second_list(truth: Truth, state: Listing) -> Tensor:
    """The boxes of the second list, (M, 4)."""
    return truth.boxes[list(truth.orders[state.order])] + state.off


def differences(truth: Truth, state: Listing) -> Tensor:
    """How far each row of the second list is from the same row of the first, a mean over four numbers: (M,) pixels."""
    return (truth.boxes - second_list(truth, state)).abs().mean(dim=1)


def smallest(truth: Truth, state: Listing) -> float:
    """The smallest mean difference that any order of the second list has, in pixels."""
    return min(float(differences(truth, Listing(order, state.off)).mean()) for order in range(len(truth.orders)))


def render_listing(truth: Truth, state: Listing) -> Figure:
    """Left: the picture with the first list's boxes, and the second list's dashed. Right: both lists, row by row."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    left = figure.add_axes((0.005, 0.03, SIDE / WIDTH, SIDE / HEIGHT))
    x, y, width, height = truth.boxes.T
    scene(truth.picture, torch.stack([x, y, x + width, y + height], dim=1), truth.names, axes=left)
    for x, y, width, height in second_list(truth, state).tolist():
        left.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=INK, linewidth=1.6, linestyle="--"))
    right = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    right.set_axis_off()
    draw_rows(right, truth, state)
    draw_result(right, truth, state)
    return figure


def draw_rows(axes: Axes, truth: Truth, state: Listing) -> None:
    """A row per place in the lists: who stands there in the first list, who in the second, how far they differ."""
    for x, title in ((3.45, "first list"), (4.6, "second list"), (5.75, "difference, pixels")):
        axes.text(x, 3.1, title, va="center", fontsize=9, color=INK)
    for row, (owner, far) in enumerate(zip(truth.orders[state.order], differences(truth, state).tolist(), strict=True)):
        height = 2.68 - 0.45 * row
        for x, index in ((3.45, row), (4.6, owner)):
            colour = COLOURS[index]
            axes.text(x, height, f"{truth.names[index]}", va="center", fontsize=9.5, color=readable_on(colour),
                      bbox={"facecolor": colour, "edgecolor": "none", "pad": 2.0})
        axes.barh(height, min(far / 60, 1.0) * 1.25, left=5.75, height=0.26, color=GREY)
        axes.text(5.83 + min(far / 60, 1.0) * 1.25, height, f"{far:.1f}", va="center", fontsize=9.5)


def draw_result(axes: Axes, truth: Truth, state: Listing) -> None:
    """The mean difference of the two lists, and the smallest one over all orders."""
    mean, least = float(differences(truth, state).mean()), smallest(truth, state)
    axes.text(3.45, 0.62, f"mean difference: {mean:.1f} pixels", va="center", fontsize=12, weight="bold", color=INK)
    axes.text(3.45, 0.25, f"the smallest over all {len(truth.orders)} orders: {least:.1f}", va="center", fontsize=10,
              color=BLUE)


def describe_listing(truth: Truth, state: Listing) -> str:
    """One state in words."""
    names = ", ".join(truth.names[index] for index in truth.orders[state.order])
    rows = ", ".join(f"{far:.1f}" for far in differences(truth, state).tolist())
    boxes = f"each of its numbers {state.off} pixels too large" if state.off else "its boxes the true ones"
    mean = float(differences(truth, state).mean())
    return (f"First list: {', '.join(truth.names)}. Second list: {names}, {boxes}. Row by row they differ by {rows} "
            f"pixels, on average by {mean:.1f}. The smallest average over all {len(truth.orders)} orders is "
            f"{smallest(truth, state):.1f}.")


class OrderExplorer(Explorer):
    """Sliders for the order of a second list of boxes and for its mistakes, and what a comparison makes of it.

        OrderExplorer(picture, boxes, names)

    picture: (3, H, W) or (H, W, 3). boxes: (M, 4) left, top, width, height in pixels, M from 2 to 4. names: M short
    ones. Raises ValueError when boxes and names do not fit together, or for another number of them.
    """

    def __init__(
        self, picture: Tensor | np.ndarray, boxes: Tensor | Sequence, names: Sequence[str], first: Listing | None = None
    ) -> None:
        boxes, first = torch.as_tensor(boxes).double(), first or Listing()
        if boxes.shape != (len(names), 4) or not FEWEST <= len(names) <= MOST:
            raise ValueError(f"wanted are {FEWEST} to {MOST} boxes of four numbers with a name each, not boxes "
                             f"{tuple(boxes.shape)} and {len(names)} names")
        truth = Truth(picture, boxes, tuple(names))
        orders = [(", ".join(truth.names[index] for index in order), row) for row, order in enumerate(truth.orders)]
        controls = {"order": choice("order", first.order, orders), "off": slider("off by", first.off, MOST_OFF)}
        super().__init__(first, controls, lambda state: render_listing(truth, state),
                         lambda state: describe_listing(truth, state),
                         "Sliders choose the order of a second list of boxes, and how wrong they are.")
