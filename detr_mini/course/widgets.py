"""Widgets: each is a pure `render(state)` that gives a figure, and a thin shell of sliders around it.

The shell shows the figure anew at every move. What the notebook stores is a still picture of the first state, with
its description, so that those who only read see it, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from detr_mini.course.explorer import Explorer
from detr_mini.course.plots import COLOURS, GREY, INK, PALE, WIDTH

# ---------------------------------------------------------------- attention by hand

HEIGHT = 3.9  # inches


@dataclass(frozen=True)
class Asking:
    """What the learner sets: a query of two numbers, a temperature, and whether scores are divided by √d."""

    across: float = 2.0
    up: float = 1.0
    temperature: float = 1.0
    scaled: bool = True


@dataclass(frozen=True)
class Candidates:
    """What is asked: names, keys (K, 2), and values (K,); what the two numbers of a key and a value mean."""

    names: Sequence[str]
    keys: Tensor
    values: Tensor
    axes: tuple[str, str]
    value: str


@dataclass(frozen=True)
class Answer:
    """What attention makes of it: scores (K,) as the softmax sees them, weights (K,), their average of the values."""

    scores: Tensor
    weights: Tensor
    average: float


def attend_by_hand(candidates: Candidates, state: Asking) -> Answer:
    """Scores, softmax and weighted average for one state, in double precision."""
    keys, values = candidates.keys.double(), candidates.values.double()
    scores = keys @ torch.tensor([state.across, state.up], dtype=torch.float64)  # (K,)
    scores = scores / (math.sqrt(keys.shape[1]) if state.scaled else 1.0) / state.temperature
    weights = scores.softmax(dim=0)
    return Answer(scores, weights, float(weights @ values))


def render_attention_by_hand(candidates: Candidates, state: Asking) -> Figure:
    """The picture of one state: keys and query in a plane, scores and weights as bars, the average on a scale.

    One pair of axes, in inches, and no ticks: drawn anew at every move of a slider, it has to be quick.
    """
    answer = attend_by_hand(candidates, state)
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    draw_plane(axes, candidates, state, answer)
    draw_bars(axes, candidates, answer)
    draw_average(axes, candidates, answer)
    return figure


def draw_plane(axes: Axes, candidates: Candidates, state: Asking, answer: Answer) -> None:
    """Keys as discs that grow with their weight, the query as an arrow. The plane shows -3 to 3 both ways."""
    centre, unit = torch.tensor([1.75, 2.35], dtype=torch.float64), 0.42

    def place(x: float, y: float) -> tuple[float, float]:
        return float(centre[0] + unit * x), float(centre[1] + unit * y)

    for start, end in (((-3.3, 0), (3.3, 0)), ((0, -3.3), (0, 3.3))):
        axes.plot(*zip(place(*start), place(*end), strict=True), color=PALE, linewidth=1.2)
    for number in (-3, 3):
        axes.text(*place(number, -0.28), f"{number:d}", ha="center", va="center", fontsize=8, color=GREY)
        axes.text(*place(-0.28, number), f"{number:d}", ha="center", va="center", fontsize=8, color=GREY)
    axes.text(*place(0, -3.75), f"{candidates.axes[0]} →", ha="center", va="center", fontsize=9)
    axes.text(*place(-3.55, 0), f"{candidates.axes[1]} →", ha="center", va="center", fontsize=9, rotation=90)
    tip = place(state.across, state.up)
    axes.annotate("", tip, place(0, 0), arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 2.2,
                                                    "shrinkA": 0, "shrinkB": 0, "mutation_scale": 14})
    axes.text(tip[0], tip[1] + (0.13 if state.up >= 0 else -0.13), "q", ha="center", va="center", weight="bold")
    spots = [place(*key) for key in candidates.keys.tolist()]
    draw_discs(axes, spots, answer)
    for name, spot, weight in zip(candidates.names, spots, answer.weights.tolist(), strict=True):
        axes.text(spot[0], spot[1] + 0.12 + 0.12 * math.sqrt(weight), name, ha="center", va="center", fontsize=9,
                  path_effects=[withStroke(linewidth=3, foreground="white")], zorder=4)  # readable across the arrow


def draw_discs(axes: Axes, spots: list[tuple[float, float]], answer: Answer) -> None:
    """One disc per key, its area by its weight; a key without weight keeps a dot."""
    sizes, colours = 24 + 420 * answer.weights.numpy(), COLOURS[: len(spots)]
    axes.scatter(*zip(*spots, strict=True), s=sizes, c=colours, edgecolors="white", linewidths=1, zorder=3)


def draw_bars(axes: Axes, candidates: Candidates, answer: Answer) -> None:
    """A row per key: name, score as bar and number, weight as bar and number. A bar ends at the panel's edge."""
    score_zero, weight_zero, top = 4.9, 6.2, 3.35
    heights = [top - 0.48 * row for row in range(len(candidates.names))]
    widths = (answer.scores / 6).clamp(-1, 1) * 0.55
    colours = COLOURS[: len(heights)]
    axes.barh(heights, widths, left=score_zero, height=0.28, color=colours)
    axes.barh(heights, answer.weights * 0.9, left=weight_zero, height=0.28, color=colours)
    for zero in (score_zero, weight_zero):
        axes.plot([zero, zero], [heights[-1] - 0.25, heights[0] + 0.25], color=GREY, linewidth=0.9)
    for name, height, score, weight in zip(
        candidates.names, heights, answer.scores.tolist(), answer.weights.tolist(), strict=True
    ):
        axes.text(3.55, height, name, va="center", fontsize=10)
        axes.text(score_zero + 1.08, height, f"{score:.2f}", va="center", ha="right", fontsize=9.5)
        axes.text(weight_zero + 0.08 + 0.9 * weight, height, f"{weight:.2f}", va="center", fontsize=9.5)
    axes.text(score_zero, top + 0.38, "score", ha="center", va="center", weight="bold")
    axes.text(weight_zero, top + 0.38, "weight", ha="left", va="center", weight="bold")


def draw_average(axes: Axes, candidates: Candidates, answer: Answer) -> None:
    """What each key offers, on a scale, and where the weighted average falls."""
    values = candidates.values.double()
    low, span = float(values.min()), float(values.max() - values.min()) or 1.0
    left, width, height = 3.75, 3.4, 0.85

    def place(value: float) -> tuple[float, float]:
        return left + width * (value - low) / span, height

    axes.plot([left - 0.2, left + width + 0.2], [height, height], color=GREY, linewidth=1.0, zorder=0)
    draw_discs(axes, [place(value) for value in values.tolist()], answer)
    for value in values.tolist():
        axes.text(place(value)[0], height - 0.24, f"{value:g}", ha="center", va="center", fontsize=9)
    middle = place(answer.average)[0]
    axes.scatter(middle, height + 0.27, marker="v", s=80, color=INK)
    axes.text(middle, height + 0.47, f"{answer.average:.2f}", ha="center", va="center", weight="bold", fontsize=12)
    axes.text(left + width / 2, 0.3, candidates.value, ha="center", va="center", fontsize=9)


def describe_attention_by_hand(candidates: Candidates, state: Asking) -> str:
    """One state in words."""
    answer = attend_by_hand(candidates, state)
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(candidates.names, answer.weights, strict=True))
    scaling = "scores divided by √d" if state.scaled else "scores not divided by √d"
    return (f"Query ({state.across:g}, {state.up:g}), temperature {state.temperature:g}, {scaling}. "
            f"Weights: {weights}. Weighted average of {candidates.value}: {answer.average:.2f}.")


class AttentionByHand(Explorer):
    """Sliders for a query in front of a few keys; scores, weights and the average answer at once.

        AttentionByHand(names, keys, values, axes=("quiet", "central"), value="rent")

    names: K short names. keys: (K, 2), within -3 to 3. values: (K,). axes, value: what the numbers mean, for labels.
    The controls are ordinary sliders: Tab moves between them, the arrow keys move them. Raises ValueError when names,
    keys and values do not fit together.
    """

    def __init__(
        self, names: Sequence[str], keys: Tensor, values: Tensor, axes: tuple[str, str], value: str,
        state: Asking | None = None,
    ) -> None:
        if keys.shape != (len(names), 2) or values.shape != (len(names),):
            raise ValueError(f"{len(names)} names need keys ({len(names)}, 2) and values ({len(names)},), not "
                             f"{tuple(keys.shape)} and {tuple(values.shape)}")
        self.candidates, first = Candidates(tuple(names), keys, values, axes, value), state or Asking()
        super().__init__(first, make_controls(first, axes),
                         lambda state: render_attention_by_hand(self.candidates, state),
                         lambda state: describe_attention_by_hand(self.candidates, state),
                         "Sliders set a query; arrows, bars and a scale show the answer.", rows=(2, 2))


def make_controls(first: Asking, axes: tuple[str, str]) -> dict[str, ipywidgets.Widget]:
    """One control per field of the state."""
    def slider(text: str, value: float, low: float, high: float, step: float) -> ipywidgets.FloatSlider:
        return ipywidgets.FloatSlider(value=value, min=low, max=high, step=step, description=text,
                                      style={"description_width": "7.5em"}, layout={"width": "23em"})

    return {
        "across": slider(f"q: {axes[0]}", first.across, -3.0, 3.0, 0.25),
        "up": slider(f"q: {axes[1]}", first.up, -3.0, 3.0, 0.25),
        "temperature": slider("temperature", first.temperature, 0.25, 4.0, 0.25),
        "scaled": ipywidgets.Checkbox(value=first.scaled, description="divide by √d", indent=True),
    }
