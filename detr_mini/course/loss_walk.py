"""LossWalk: weigh L1 and GIoU, and see the way that a box takes downhill.

As in widgets.py: a pure function from state to figure, and a thin shell of sliders around it.
"""

import functools
from dataclasses import dataclass, replace

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from detr_mini.boxes import cxcywh_to_xyxy, giou
from detr_mini.course.explorer import Explorer
from detr_mini.course.plots import BLUE, GREY, INK, ORANGE, PALE, WIDTH

HEIGHT, SIDE = 3.5, 3.0  # inches: the picture, and the image in it
STEPS, RATE = 160, 0.01  # of Adam
GAP = 1e-6  # for the slope of GIoU
EVERY = 8  # steps between two frames
GOAL = 0.62  # centre of the thing, both ways


@dataclass(frozen=True)
class Walk:
    """What the learner sets. l1, giou: weights. side: of the thing. scale: the box's side in sides of the thing at the
    start. distance: from the thing's centre, left and up. step: how far to look."""

    l1: float = 5.0
    giou: float = 2.0
    side: float = 0.08
    scale: float = 1.0
    distance: float = 0.36
    step: int = 80


def fits(boxes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """GIoU of boxes (N, 4) with one (4,), cxcywh -> (N,)."""
    one, other = (torch.from_numpy(part) for part in (boxes, wanted))
    return giou(cxcywh_to_xyxy(one), cxcywh_to_xyxy(other)).numpy()


@functools.lru_cache(maxsize=256)
def walk(l1: float, weight: float, side: float, scale: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """The way of a box under l1 x L1 + weight x (1 - GIoU): boxes (STEPS + 1, 4) cxcywh and their IoU (STEPS + 1,).

    Adam as in PyTorch, the slope of GIoU by small differences.
    """
    wanted = np.array([GOAL, GOAL, side, side])
    box = np.array([GOAL - distance, GOAL - distance, side * scale, side * scale])
    mean, square, path = np.zeros(4), np.zeros(4), [box]
    around = GAP * np.concatenate([np.eye(4), -np.eye(4)])  # (8, 4)
    for step in range(1, STEPS + 1):
        near = fits(box + around, wanted)  # (8,)
        slope = l1 * np.sign(box - wanted) - weight * (near[:4] - near[4:]) / (2 * GAP)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        box = box - RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        box[2:] = box[2:].clip(0.005)  # a box cannot turn inside out
        path.append(box)
    boxes = np.stack(path)
    return boxes, overlaps(boxes, wanted)


def overlaps(boxes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """IoU of boxes (N, 4) with one (4,), cxcywh -> (N,)."""
    low = np.maximum(boxes[:, :2] - boxes[:, 2:] / 2, wanted[:2] - wanted[2:] / 2)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:] / 2, wanted[:2] + wanted[2:] / 2)
    shared = (high - low).clip(0).prod(1)
    return shared / (boxes[:, 2:].prod(1) + wanted[2:].prod() - shared)


def way_of(state: Walk) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and IoU of a state."""
    return walk(state.l1, state.giou, state.side, state.scale, state.distance)


def render_walk(state: Walk) -> Figure:
    """The picture of one state: left the way, right IoU and width against the step."""
    boxes, fit = way_of(state)
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    axes.add_patch(Rectangle((0.05, 0.3), SIDE, SIDE, facecolor="#F7F7F7", edgecolor=GREY, linewidth=0.8))
    chosen = [*range(0, state.step, EVERY), state.step]
    for number, at in enumerate(chosen):
        strength = min(1.0, 0.2 + 0.8 * number / max(1, len(chosen) - 1))
        frame(axes, boxes[at], edgecolor=BLUE, alpha=strength, linewidth=0.8 + 1.4 * strength)
    frame(axes, [GOAL, GOAL, state.side, state.side], edgecolor=INK, linewidth=1.6, linestyle=(0, (3, 2)))
    draw_curve(axes, 2.05, "IoU", fit, state.step, ORANGE)
    draw_curve(axes, 0.4, "width", boxes[:, 2] / state.side, state.step, BLUE)
    axes.text(0.05, 0.08, f"step {state.step}: IoU {fit[state.step]:.2f}", fontsize=10)
    return figure


def frame(axes: Axes, box: np.ndarray, **look: object) -> None:
    """One frame in the image, cut at its edge; box: cxcywh."""
    x, y, w, h = (float(value) for value in box)
    patch = Rectangle((0.05 + SIDE * (x - w / 2), 0.3 + SIDE * (1 - y - h / 2)), SIDE * w, SIDE * h, fill=False, **look)
    axes.add_patch(patch)
    patch.set_clip_path(Rectangle((0.05, 0.3), SIDE, SIDE, transform=axes.transData))


def draw_curve(axes: Axes, bottom: float, name: str, values: np.ndarray, step: int, colour: str) -> None:
    """A line over all steps, its value at the chosen one marked. The lower edge is 0, the upper one at least 1."""
    left, width, height, top = 3.85, 2.9, 1.1, max(1.0, float(values.max()))
    across, up = left + width * np.arange(len(values)) / STEPS, bottom + height * values / top
    for level in (0.0, 1.0):
        axes.plot([left, left + width], [bottom + height * level / top] * 2, color=PALE, linewidth=1.0)
        axes.text(left - 0.08, bottom + height * level / top, f"{level:g}", ha="right", va="center", fontsize=8)
    axes.plot(across, up, color=colour, linewidth=2.0)
    axes.plot([across[step]], [up[step]], "o", color=colour, markeredgecolor="white", markersize=8)
    axes.text(left, bottom + height + 0.1, name if name == "IoU" else f"{name}, in widths of the thing", fontsize=9)
    look = {"color": colour, "fontsize": 10, "weight": "bold"}
    axes.text(left + width + 0.1, up[step], f"{values[step]:.2f}", va="center", **look)


def describe_walk(state: Walk) -> str:
    """One state in words."""
    boxes, fit = way_of(state)
    good = np.flatnonzero(fit > 0.5)
    arrives = f"first passes IoU one half at step {good[0]}" if len(good) else "never passes IoU one half"
    return (f"L1 counts {state.l1:g}, 1 - GIoU counts {state.giou:g}. The thing is {state.side:g} wide; the box starts "
            f"{state.scale:g} times as wide, {state.distance:g} away both ways. At step {state.step} its IoU is "
            f"{fit[state.step]:.2f} and it is {boxes[state.step, 2] / state.side:.2f} times as wide as the thing. "
            f"On its way it is at most {boxes[:, 2].max() / state.side:.1f} times as wide, and {arrives}.")


class LossWalk(Explorer):
    """Six sliders around the way of a box: weights, sizes, distance, step. Tab and the arrow keys move them."""

    def __init__(self, state: Walk | None = None) -> None:
        first = state or Walk()
        super().__init__(
            first, make_controls(first), render_walk, describe_walk,
            "Left, the frames of a box on its way to a dashed thing; right, its IoU and width against the step.",
            rows=(2, 2, 2))

    def read(self, name: str, values: dict[str, object]) -> Walk:
        """Sliders count in steps that floats do not quite hit."""
        return replace(self.state, **{name: round(values[name], 6)})


def make_controls(first: Walk) -> dict[str, ipywidgets.Widget]:
    """One slider per field of the state."""
    spans = {"l1": ("weight of L1", 0.0, 10.0, 0.5), "giou": ("weight of GIoU", 0.0, 4.0, 0.25),
             "side": ("side of thing", 0.04, 0.4, 0.04), "scale": ("box at start", 0.5, 3.0, 0.25),
             "distance": ("distance", 0.0, 0.48, 0.04)}
    look = {"style": {"description_width": "7.5em"}, "layout": {"width": "23em"}}
    controls = {name: ipywidgets.FloatSlider(value=getattr(first, name), min=low, max=high, step=step,
                                             description=text, **look)
                for name, (text, low, high, step) in spans.items()}
    return controls | {"step": ipywidgets.IntSlider(value=first.step, min=0, max=STEPS, step=4,
                                                    description="step", **look)}
