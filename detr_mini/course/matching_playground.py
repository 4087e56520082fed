"""MatchingPlayground: move four predictions over three things; see costs, and whom greedy and Hungarian choose.

As in widgets.py: pure functions from a state to a figure and to words, and a thin shell of controls around them. The
picture itself takes part: a prediction can be dragged with a mouse, a pen or a finger. Everything that dragging does
the sliders do as well.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, pairwise_giou
from detr_mini.course.explorer import Explorer
from detr_mini.course.plots import (
    BLUE,
    GREY,
    INK,
    VERMILLION,
    WIDTH,
    readable_on,
)
from detr_mini.data.scenes import CLASSES, draw_scene

HEIGHT = 3.5  # inches
SIDE = 2.5  # inches of a scene
TABLE, CELL = (5.62, 2.66), (0.64, 0.42)  # inches: upper left corner of the costs, and one cell
PANELS = ((0.02, 0.62), (2.64, 0.62))  # inches: lower left corners of greedy's and Hungarian's scene
NAMES = "ABCD"
WEIGHTS = {"class": 1.0, "l1": 5.0, "giou": 2.0}  # DETR's
SURE = 0.7  # what a prediction gives the word it says; the other three words share the rest
SCENE = (3, 10)  # seed and index: a balloon, a boat, a mushroom
LEAST, MOST = 0.06, 0.9  # sides of a prediction
SPANS = {"x": (0.0, 1.0), "y": (0.0, 1.0), "width": (LEAST, MOST), "height": (LEAST, MOST)}  # of its sliders

Box = tuple[float, float, float, float]
Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Said:
    """One prediction: its box (cxcywh, fractions of the image), and the thing whose name it says, 3 for nothing."""

    box: Box
    word: int


@dataclass(frozen=True)
class Playground:
    """What the learner sets: four predictions, and which terms of the cost count. chosen: the one being moved."""

    said: tuple[Said, ...] = (
        Said((0.36, 0.56, 0.26, 0.36), 0), Said((0.72, 0.42, 0.30, 0.40), 0),
        Said((0.66, 0.72, 0.28, 0.26), 2), Said((0.82, 0.18, 0.24, 0.24), 3),
    )
    terms: tuple[str, ...] = ("class", "l1", "giou")
    chosen: int = 0


@dataclass(frozen=True)
class Outcome:
    """What matching makes of a state: costs (4, 3), and the pairs (prediction, thing) of both ways."""

    costs: np.ndarray
    greedy: Pairs
    optimal: Pairs

    def total(self, pairs: Pairs) -> float:
        """The summed cost of some pairs."""
        return float(sum(self.costs[pair] for pair in pairs))


@functools.cache
def things() -> tuple[np.ndarray, tuple[str, ...], Tensor]:
    """The scene that is played on: picture (128, 128, 3) from 0 to 1, dimmed; names; boxes (3, 4) cxcywh."""
    picture, labels, boxes = draw_scene(*SCENE)
    corners = torch.tensor(boxes) / 128  # (3, 4) x, y, w, h
    centred = torch.cat([corners[:, :2] + corners[:, 2:] / 2, corners[:, 2:]], dim=1)
    return 0.45 + 0.55 * picture / 255, tuple(CLASSES[label] for label in labels), centred


def greedy_pairs(costs: np.ndarray) -> Pairs:
    """The cheapest pair first, then the cheapest of what is left: costs (Q, M) -> min(Q, M) pairs, in that order."""
    left, pairs = costs.astype(float).copy(), []
    for _ in range(min(costs.shape)):
        row, column = (int(place) for place in np.unravel_index(left.argmin(), left.shape))
        pairs.append((row, column))
        left[row], left[:, column] = np.inf, np.inf
    return pairs


def optimal_pairs(costs: np.ndarray) -> Pairs:
    """The pairs with the smallest total: costs (Q, M) -> min(Q, M) pairs, by query."""
    return [(int(row), int(column)) for row, column in zip(*linear_sum_assignment(costs), strict=True)]


def play(state: Playground) -> Outcome:
    """Costs and both matchings of a state, in double precision."""
    wanted = things()[2]  # (3, 4)
    boxes = torch.tensor([said.box for said in state.said], dtype=torch.float64)  # (4, 4)
    chance = torch.full((len(state.said), len(wanted) + 1), (1 - SURE) / len(wanted), dtype=torch.float64)  # (4, 3 + 1)
    chance[range(len(state.said)), [said.word for said in state.said]] = SURE
    parts = {
        "class": -chance[:, :-1],
        "l1": torch.cdist(boxes, wanted, p=1),
        "giou": -pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted)),
    }
    costs = sum((WEIGHTS[term] * parts[term] for term in state.terms), torch.zeros_like(parts["l1"])).numpy()  # (4, 3)
    return Outcome(costs, greedy_pairs(costs), optimal_pairs(costs))


# ---------------------------------------------------------------- the picture


def render_matching(state: Playground) -> Figure:
    """The picture of one state: greedy's and Hungarian's choice on the scene, the costs, and both totals.

    One pair of axes, in inches, and no ticks: drawn anew at every move, it has to be quick.
    """
    outcome = play(state)
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.set_axis_off()
    ways = (("greedy", outcome.greedy, VERMILLION), ("Hungarian", outcome.optimal, BLUE))
    for (left, bottom), (name, pairs, colour) in zip(PANELS, ways, strict=True):
        draw_choice(axes, (left, bottom), state, pairs, colour)
        top, look = bottom + SIDE + 0.12, {"color": colour, "weight": "bold", "fontsize": 11}
        axes.text(left, top, name, **look)
        axes.text(left + SIDE, top, f"total {outcome.total(pairs):.2f}", ha="right", **look)
    draw_costs(axes, outcome)
    extra = outcome.total(outcome.greedy) - outcome.total(outcome.optimal)
    verdict = "Both pay the same." if extra < 1e-9 else f"Greedy pays {extra:.2f} more."
    axes.text(PANELS[0][0], 0.2, verdict, fontsize=11)
    return figure


def draw_choice(axes: Axes, corner: tuple[float, float], state: Playground, pairs: Pairs, colour: str) -> None:
    """Things dashed, predictions framed, and a line between the two of each pair. corner: lower left, in inches."""
    picture, _, wanted = things()
    left, top = corner[0], corner[1] + SIDE
    axes.imshow(picture, extent=(left, left + SIDE, corner[1], top), interpolation="nearest", aspect="auto")
    window = Rectangle(corner, SIDE, SIDE, transform=axes.transData)

    def inch(x: float, y: float) -> tuple[float, float]:
        return left + SIDE * x, top - SIDE * y

    for box in wanted.tolist():
        outline(axes, inch, box, INK, 1.2, linestyle=(0, (3, 2)))
    matched = {query for query, _ in pairs}
    for query, said in enumerate(state.said):
        ink, thick = colour if query in matched else GREY, 3.2 if query == state.chosen else 1.6
        outline(axes, inch, said.box, ink, thick, clip_path=window)
        axes.text(*inch(*said.box[:2]), NAMES[query], ha="center", va="center", fontsize=10, weight="bold",
                  color=readable_on(ink), bbox={"facecolor": ink, "edgecolor": "none", "pad": 2.0}, zorder=5)
    for query, thing in pairs:
        ends = zip(inch(*state.said[query].box[:2]), inch(*wanted[thing, :2].tolist()), strict=True)
        axes.plot(*ends, color=colour, linewidth=2.5, zorder=4, marker="o", markevery=[1], markeredgecolor="white")


def outline(
    axes: Axes, inch: Callable[[float, float], tuple[float, float]], box: Sequence[float], colour: str, thick: float,
    clip_path: Rectangle | None = None, **look: object,
) -> None:
    """One frame; box: cxcywh as fractions of the scene. inch: where a point of the scene lies in the picture."""
    x, y, w, h = box
    frame = Rectangle(inch(x - w / 2, y + h / 2), SIDE * w, SIDE * h, fill=False, edgecolor=colour, linewidth=thick,
                      **look)
    axes.add_patch(frame)
    if clip_path is not None:
        frame.set_clip_path(clip_path)


def draw_costs(axes: Axes, outcome: Outcome) -> None:
    """The costs as a table, cheap ones dark: a solid frame around Hungarian's choices, a dashed one around greedy's."""
    costs, (width, height) = outcome.costs, CELL
    cheap = 1 - (costs - costs.min()) / (np.ptp(costs) or 1.0)  # (4, 3) from 0 to 1

    def cell(row: int, column: int, margin: float, **look: object) -> None:
        corner = TABLE[0] + column * width + margin, TABLE[1] - (row + 1) * height + margin
        axes.add_patch(Rectangle(corner, width - 2 * margin, height - 2 * margin, **look))

    for (row, column), cost in np.ndenumerate(costs):
        cell(row, column, 0.015, facecolor=str(0.98 - 0.28 * cheap[row, column]), edgecolor="none")
        axes.text(TABLE[0] + (column + 0.5) * width, TABLE[1] - (row + 0.5) * height, f"{cost:.2f}", ha="center",
                  va="center", fontsize=9)
    for place in outcome.optimal:
        cell(*place, 0.03, fill=False, edgecolor=BLUE, linewidth=2.6)
    for place in outcome.greedy:
        cell(*place, 0.075, fill=False, edgecolor=VERMILLION, linewidth=2.0, linestyle=(0, (2, 1.2)))
    for row, name in enumerate(NAMES[: len(costs)]):
        axes.text(TABLE[0] - 0.1, TABLE[1] - (row + 0.5) * height, name, ha="right", va="center", weight="bold")
    for column, name in enumerate(things()[1]):
        axes.text(TABLE[0] + (column + 0.5) * width, TABLE[1] + 0.12, name, ha="center", va="center", fontsize=8)
    axes.text(TABLE[0] + 1.5 * width, TABLE[1] + 0.42, "cost of each pair", ha="center", va="center", weight="bold")
    axes.text(TABLE[0] + 1.5 * width, TABLE[1] - 4.55 * height, "dashed: greedy\nsolid: Hungarian", ha="center",
              va="center", fontsize=9)


def describe_matching(state: Playground) -> str:
    """One state in words."""
    outcome, names = play(state), things()[1]
    ways = []
    for name, pairs in (("Greedy", outcome.greedy), ("Hungarian", outcome.optimal)):
        owners = ", ".join(f"{NAMES[query]} the {names[thing]}" for query, thing in sorted(pairs))
        ways.append(f"{name} gives {owners}, for a total of {outcome.total(pairs):.2f}.")
    x, y, w, h = state.said[state.chosen].box
    words = (*names, "nothing")
    terms = " and ".join({"class": "class", "l1": "L1", "giou": "GIoU"}[term] for term in state.terms) or "nothing"
    return (f"Prediction {NAMES[state.chosen]} at ({x:.2f}, {y:.2f}), {w:.2f} wide and {h:.2f} high, says "
            f"{words[state.said[state.chosen].word]}. The cost counts {terms}. {' '.join(ways)}")


# ---------------------------------------------------------------- moving


def with_box(state: Playground, box: Sequence[float]) -> Playground:
    """The state with the chosen prediction's box replaced; centre kept in the image, sides between LEAST and MOST."""
    place = [min(1.0, max(0.0, value)) for value in box[:2]] + [min(MOST, max(LEAST, value)) for value in box[2:]]
    return with_said(state, replace(state.said[state.chosen], box=tuple(place)))


def with_said(state: Playground, said: Said) -> Playground:
    """The state with the chosen prediction replaced."""
    every = [said if number == state.chosen else old for number, old in enumerate(state.said)]
    return replace(state, said=tuple(every))


def place_in_scene(across: float, down: float) -> tuple[float, float] | None:
    """A point of the picture (fractions from its upper left corner) as a point of the scene, None beside the scenes."""
    for left, bottom in PANELS:
        x = (across * WIDTH - left) / SIDE
        y = ((HEIGHT - bottom - SIDE) * -1 + down * HEIGHT) / SIDE
        if 0 <= x <= 1 and 0 <= y <= 1:
            return x, y
    return None


def grasp(state: Playground, point: tuple[float, float]) -> int | None:
    """The prediction that a pointer takes hold of: among those whose box it is in, the one with the nearest centre."""
    x, y = point
    inside = {number: (x - said.box[0]) ** 2 + (y - said.box[1]) ** 2 for number, said in enumerate(state.said)
              if 2 * abs(x - said.box[0]) <= said.box[2] and 2 * abs(y - said.box[1]) <= said.box[3]}
    return min(inside, key=inside.get) if inside else None


# ---------------------------------------------------------------- the shell


class MatchingPlayground(Explorer):
    """Four predictions over a scene of three things; costs, greedy and Hungarian matching at once.

    Drag a prediction, or choose it and move the sliders: Tab goes from control to control, the arrow keys move them.
    Raises ValueError for a first state without four predictions.
    """

    def __init__(self, state: Playground | None = None) -> None:
        first, self.grip = state or Playground(), None
        if len(first.said) != len(NAMES):
            raise ValueError(f"{len(first.said)} predictions given, and {len(NAMES)} are played with")
        intro = ("Four predictions, A to D, over a scene of three things, twice: with greedy's choice and with "
                 "Hungarian's; beside them the cost of each pair.")
        super().__init__(first, make_controls(first), render_matching, describe_matching, intro, "drag", (2, 2, 2, 3))

    def settings(self, state: Playground) -> dict[str, object]:
        """The chosen prediction's word and box, and the terms that count."""
        said = state.said[state.chosen]
        return {"chosen": state.chosen, "word": said.word, **dict(zip(SPANS, said.box, strict=True)),
                **{term: term in state.terms for term in WEIGHTS}}

    def read(self, name: str, values: dict[str, object]) -> Playground:
        """Choosing another prediction sets the other controls to it."""
        if name == "chosen":
            return replace(self.state, chosen=values["chosen"])
        terms = tuple(term for term in WEIGHTS if values[term])
        state = with_said(self.state, replace(self.state.said[self.state.chosen], word=values["word"]))
        return with_box(replace(state, terms=terms), [values[number] for number in SPANS])

    def point(self, phase: str, x: float, y: float) -> None:
        """Pressing takes hold of a prediction, moving carries it."""
        point = place_in_scene(x, y)
        if phase == "down":
            taken = grasp(self.state, point) if point else None
            self.grip = None
            if taken is not None:
                x, y = self.state.said[taken].box[:2]
                self.grip = (x - point[0], y - point[1])
                self.move_to(replace(self.state, chosen=taken))
        elif self.grip and point:
            box = self.state.said[self.state.chosen].box
            self.move_to(with_box(self.state, (point[0] + self.grip[0], point[1] + self.grip[1], *box[2:])))


def make_controls(first: Playground) -> dict[str, ipywidgets.Widget]:
    """The prediction to move, what it says, its box, and a box to tick per term of the cost."""
    said = first.said[first.chosen]
    look = {"style": {"description_width": "5.5em"}, "layout": {"width": "23em"}}
    words = [(name, number) for number, name in enumerate((*things()[1], "nothing"))]
    controls: dict[str, ipywidgets.Widget] = {
        "chosen": ipywidgets.ToggleButtons(options=[(name, number) for number, name in enumerate(NAMES)],
                                           value=first.chosen, description="prediction",
                                           style={"description_width": "5.5em", "button_width": "3em"}),
        "word": ipywidgets.Dropdown(options=words, value=said.word, description="it says", **look),
    }
    for (name, (low, high)), value in zip(SPANS.items(), said.box, strict=True):
        controls[name] = ipywidgets.FloatSlider(value=value, min=low, max=high, step=0.02, description=name, **look)
    for term, text in (("class", "class cost"), ("l1", "L1 cost"), ("giou", "GIoU cost")):
        controls[term] = ipywidgets.Checkbox(value=term in first.terms, description=text, indent=False,
                                             layout={"width": "9em"})
    return controls
