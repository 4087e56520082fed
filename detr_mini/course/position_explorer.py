"""PositionExplorer: point at a cell of a map and see how much its address resembles all the others.

As in widgets.py: pure functions from a state to a figure and to words, and a thin shell around them. The cell follows
the pointer; a click pins it. Everything that the pointer does the sliders do as well.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.course.explorer import Explorer, choice, slider
from detr_mini.course.plots import AMOUNT, BLUE, GREY, INK, ORANGE, PALE, SIGNED, SKY, WIDTH
from detr_mini.positions import LearnedGrid, SineGrid, sine

HEIGHT = 3.5  # inches
MAP = (0.35, 0.3, 2.85)  # inches: left, bottom and side of the map
TEMPERATURES = (2, 5, 10, 20, 50, 100, 1000, 10000)
DETR, COUNTED, LEARNED = "sine, as in DETR", "sine, cells counted", "learned, before training"
CODES = (DETR, COUNTED, LEARNED)


@dataclass(frozen=True)
class Address:
    """What the learner sets: a cell (row, column from 0), the kind of code, the temperature of the sine codes.

    code: one of CODES. "as in DETR" counts in images (0 to 1 across the map), "cells counted" counts 1, 2, 3, ...
    """

    row: int = 0
    column: int = 0
    temperature: int = 10000
    code: str = DETR


@dataclass(frozen=True)
class Chart:
    """The map: `side` x `side` cells, each with a code of `width` numbers, half for y and half for x."""

    side: int = 16
    width: int = 64


@functools.lru_cache(maxsize=64)
def codes(chart: Chart, temperature: int, code: str) -> Tensor:
    """Every cell's address, (side, side, width). The learned one is drawn with a seed of its own."""
    empty = torch.zeros(1, chart.side, chart.side, dtype=torch.bool)
    if code == DETR:
        return SineGrid(chart.width, temperature)(empty)[0]
    if code == COUNTED:
        counted = torch.arange(1, chart.side + 1) / (2 * torch.pi)  # the 2 pi of DETR's code taken out again
        along = sine(counted[:, None], chart.width // 2, temperature)  # (side, width / 2)
        return torch.cat([along[:, None].expand(-1, chart.side, -1), along[None].expand(chart.side, -1, -1)], dim=-1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return LearnedGrid(chart.width, chart.side)(empty)[0]


def similarity(chart: Chart, state: Address) -> Tensor:
    """The cosine between the chosen cell's address and every other one, (side, side): 1 is the same direction."""
    every = codes(chart, state.temperature, state.code)
    mine = every[state.row, state.column]
    return torch.cosine_similarity(every, mine, dim=-1)


def render_address(chart: Chart, state: Address) -> Figure:
    """The picture of one state. Left: how alike every cell is. Right: the same along the chosen row; the codes of that
    row, a column per cell."""
    alike = similarity(chart, state).numpy()
    figure = Figure(figsize=(WIDTH, HEIGHT))
    left, low, side = MAP
    axes = figure.add_axes((left / WIDTH, low / HEIGHT, side / WIDTH, side / HEIGHT))
    draw_map(axes, alike, state)
    upper = figure.add_axes((0.53, 0.565, 0.45, 0.35))
    draw_profile(upper, alike[state.row], state)
    lower = figure.add_axes((0.53, 0.085, 0.45, 0.3))
    draw_codes(lower, codes(chart, state.temperature, state.code)[state.row].T.numpy(), chart, state)
    return figure


def draw_map(axes: Axes, alike: np.ndarray, state: Address) -> None:
    """Similarity as colour, 0 or less to 1; the chosen cell framed."""
    axes.imshow(alike, cmap=AMOUNT, vmin=0, vmax=1)
    for ink, thick in ((INK, 4.0), (SKY, 2.2)):
        axes.add_patch(Rectangle((state.column - 0.5, state.row - 0.5), 1, 1, fill=False, edgecolor=ink, lw=thick))
    axes.set(xticks=[], yticks=[], xlabel="x", ylabel="y")
    axes.set_title(f"similarity to row {state.row}, column {state.column}", fontsize=10)


def draw_profile(axes: Axes, row: np.ndarray, state: Address) -> None:
    """Similarity along the chosen row."""
    axes.axhline(0, color=PALE, linewidth=1)
    axes.axvline(state.column, color=SKY, linewidth=4, alpha=0.5)
    axes.plot(row, color=BLUE, marker="o", markersize=3.5, linewidth=1.4)
    axes.set(xlim=(-0.5, len(row) - 0.5), ylim=(-0.55, 1.1), xticks=[], yticks=[0, 0.5, 1])
    axes.tick_params(labelsize=8, colors=GREY)
    axes.set_title("the same, along its row", fontsize=10)


def draw_codes(axes: Axes, numbers: np.ndarray, chart: Chart, state: Address) -> None:
    """The codes of the chosen row's cells, (width, side): upper half for y, lower half for x."""
    axes.imshow(numbers, cmap=SIGNED, vmin=-1, vmax=1, aspect="auto")
    axes.axhline(chart.width / 2 - 0.5, color=INK, linewidth=1)
    axes.add_patch(Rectangle((state.column - 0.5, -0.5), 1, chart.width, fill=False, edgecolor=ORANGE, linewidth=2.2))
    halves = ("y", "x") if state.code != LEARNED else ("x", "y")  # the learned code has them the other way round
    axes.set(xticks=[], yticks=[chart.width / 4, 3 * chart.width / 4], yticklabels=halves)
    axes.tick_params(length=0)
    axes.set_title(f"the addresses of this row, {chart.width} numbers each", fontsize=10)


def describe_address(chart: Chart, state: Address) -> str:
    """One state in words."""
    alike, rows = similarity(chart, state), range(chart.side)
    near = [alike[row, column].item() for row, column in neighbours(state) if row in rows and column in rows]
    far = alike[-1 if state.row < chart.side / 2 else 0, -1 if state.column < chart.side / 2 else 0].item()
    heat = "" if state.code == LEARNED else f", temperature {state.temperature}"
    return (f"Row {state.row}, column {state.column} of {chart.side} x {chart.side}; {state.code}{heat}. Similarity to "
            f"the neighbours: {min(near):.2f} to {max(near):.2f}. To the corner farthest away: {far:.2f}. "
            f"Cells above 0.9, itself included: {int((alike > 0.9).sum())} of {chart.side**2}.")


def neighbours(state: Address) -> list[tuple[int, int]]:
    """The four cells around the chosen one; some may lie outside the map."""
    return [(state.row + down, state.column + across) for down, across in ((0, 1), (0, -1), (1, 0), (-1, 0))]


def cell_at(chart: Chart, across: float, down: float) -> tuple[int, int] | None:
    """The cell (row, column) under a point, in fractions of the picture from its upper left corner; None beside."""
    left, low, side = MAP
    x, y = (across * WIDTH - left) / side, ((down - 1) * HEIGHT + low) / side + 1  # 0 to 1 across the map
    inside = 0 <= x < 1 and 0 <= y < 1
    return (int(y * chart.side), int(x * chart.side)) if inside else None


# ---------------------------------------------------------------- the shell

class PositionExplorer(Explorer):
    """A map of addresses: point at a cell, or move the sliders, and see which cells have an address like it.

    The cell follows the pointer; a click pins it, another click lets it go. Tab moves between the controls, the arrow
    keys move them. side: cells a side. width: numbers of a code, a multiple of 4. first: the state shown first.
    Raises ValueError for a width that cannot be split, and for a state that this map does not have.
    """

    def __init__(self, side: int = 16, width: int = 64, first: Address | None = None) -> None:
        self.chart, first = Chart(side, width), first or Address(row=side // 3, column=side // 2)
        refuse_unknown(self.chart, first)
        controls = {
            "row": slider("row", first.row, side - 1),
            "column": slider("column", first.column, side - 1),
            "temperature": choice("temperature", first.temperature, [(f"{value:,}", value) for value in TEMPERATURES]),
            "code": choice("code", first.code, [(code, code) for code in CODES]),
        }
        self.pinned = False
        super().__init__(first, controls, lambda state: render_address(self.chart, state),
                         lambda state: describe_address(self.chart, state),
                         "A map of cells; sliders choose a cell, a temperature and a kind of code.", feels="hover")

    def point(self, phase: str, x: float, y: float) -> None:
        """Follow the pointer to a cell, unless one is pinned; a click on the map pins or lets go."""
        cell = cell_at(self.chart, x, y)
        if cell is None or phase == "up":
            return
        if (phase == "down" or not self.pinned) and cell != (self.state.row, self.state.column):
            self.move_to(replace(self.state, row=cell[0], column=cell[1]))
        if phase == "down":
            self.pinned = not self.pinned


def refuse_unknown(chart: Chart, state: Address) -> None:
    """ValueError, naming the choices, for a width or a state that cannot be shown."""
    if chart.width % 4:
        raise ValueError(f"a code of {chart.width} numbers has no pairs for both y and x: take a multiple of 4")
    if not (0 <= state.row < chart.side and 0 <= state.column < chart.side):
        raise ValueError(f"{state} is not on this map: it has {chart.side} rows and {chart.side} columns, from 0")
    if state.temperature not in TEMPERATURES or state.code not in CODES:
        raise ValueError(f"{state} is not shown: temperatures are {', '.join(map(str, TEMPERATURES))}; "
                         f"codes are {', '.join(CODES)}")
