"""What a live training shows: a bar with words, and curves that grow beside those of recorded runs.

In a notebook both are redrawn in place. Elsewhere the words are printed once per evaluation, and nothing is drawn.
"""

import html
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from IPython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detr_mini.course.plots import BLUE, COLOURS, GREY, INK, WIDTH, bundle, canvas
from detr_mini.course.race_table import read_runs
from detr_mini.files import DATA

RECORDED = DATA / "runs" / "scenes"
PAUSE = 0.5  # seconds between two moves of the bar

Curve = Sequence[Mapping[str, float]]


class Place:
    """An output that is replaced by the next one. Outside a notebook it shows nothing."""

    def __init__(self) -> None:
        self.handle, self.there = None, get_ipython() is not None

    def put(self, bundle: dict[str, str]) -> None:
        if self.there and self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        elif self.there:
            self.handle.update(bundle, raw=True)


class Bar:
    """A progress bar with words beside it. total: steps, or seconds, of the whole. words: what to say besides."""

    def __init__(self, total: float, unit: str = "step") -> None:
        self.total, self.unit, self.place, self.moved = total, unit, Place(), 0.0
        self.words, self.first = "", None

    def due(self) -> bool:
        """Whether the last move is some time ago."""
        return time.perf_counter() - self.moved > PAUSE

    def move(self, done: float) -> None:
        """Stand at `done` of the total, and say how long the rest will take at the pace so far."""
        self.moved = time.perf_counter()
        self.first = self.first or (done, self.moved)
        said = [f"{self.unit} {done:,.0f} of {self.total:,.0f}", self.words, self.rest(done)]
        self.show(" · ".join(part for part in said if part), done)

    def rest(self, done: float) -> str:
        """The time to go; "" before there is a pace to judge by."""
        steps, seconds = done - self.first[0], self.moved - self.first[1]
        return f"about {seconds / steps * (self.total - done):.0f} s to go" if steps > 0 and seconds > 2 else ""

    def say(self, words: str) -> None:
        """Words at the beginning, with the bar still empty."""
        self.show(words, 0)

    def end(self, words: str) -> None:
        """Words alone: what came of it."""
        self.place.put({"text/html": f"<p>{html.escape(words)}</p>", "text/plain": words})
        if not self.place.there:
            print(words, flush=True)

    def show(self, words: str, done: float) -> None:
        bar = (f'<progress value="{done:.0f}" max="{self.total:.0f}" aria-label="training" '
               f'style="width:16em"></progress> <span>{html.escape(words)}</span>')
        self.place.put({"text/html": bar, "text/plain": words})


class LiveCurves:
    """AP50 of one or more trainings, in front of what was recorded of the same detectors and of DETR.

    names: the detectors. read: gives name -> curve as it is now (dicts with step, seconds, ap50). steps: where the
    axis ends; by default it grows with the curves.
    """

    def __init__(
        self, names: Sequence[str], read: Callable[[], Mapping[str, Curve]], steps: int | None = None,
        folder: Path = RECORDED,
    ) -> None:
        self.names, self.read, self.place, self.steps = list(names), read, Place(), steps
        self.bands = recorded_bands([*self.names, "detr"], folder)

    def draw(self) -> None:
        """Draw the curves as they are, in place of the picture before."""
        if self.place.there:
            lines = self.read()
            self.place.put(bundle(self.figure(lines), self.words(lines)))

    def figure(self, lines: Mapping[str, Curve]) -> Figure:
        """AP50 against the step."""
        figure, axes = canvas(width=WIDTH, height=3.0)
        self.against_steps(axes, lines)
        axes.legend(loc="upper left", fontsize=9)
        axes.grid(axis="y")
        axes.set(title="AP50 while it trains", xlabel="training step", ylabel="AP50", ylim=(0, 1))
        return figure

    def against_steps(self, axes: Axes, lines: Mapping[str, Curve]) -> None:
        """Bands of recorded runs, and the curves in front of them."""
        furthest = max([row["step"] for curve in lines.values() for row in curve], default=0)
        edge = self.steps or max(furthest, 100)
        for number, name in enumerate(dict.fromkeys([*self.names, "detr"])):
            colour = colour_of(name, number)
            if name in self.bands:
                draw_band(axes, *self.bands[name], colour, f"{name}, recorded")
            if lines.get(name):
                draw_curve(axes, lines[name], colour, f"{name}, now")
        axes.set_xlim(0, edge)

    def words(self, lines: Mapping[str, Curve]) -> str:
        """The picture in words."""
        said = [f"{name} has AP50 {curve[-1]['ap50']:.2f} at step {curve[-1]['step']:,}"
                for name, curve in lines.items() if curve] or ["nothing is measured yet"]
        return f"AP50 against the step, beside bands of recorded runs. Now: {'; '.join(said)}."


def colour_of(name: str, number: int) -> str:
    """DETR is grey wherever it is not the only one; the others have the course's colours."""
    return GREY if name == "detr" else (BLUE, *COLOURS[1:])[number % len(COLOURS)]


def recorded_bands(names: Sequence[str], folder: Path) -> dict[str, tuple[list[int], np.ndarray]]:
    """Name -> (steps (N,), AP50 (seeds, N)) of recorded runs; a detector without any is left out."""
    try:
        runs = read_runs(folder)
    except (FileNotFoundError, ValueError):
        return {}
    bands = {}
    for name in (name for name in names if name in runs):
        steps = [row["step"] for row in runs[name][0][1]]
        values = [[row["ap50"] for row in rows if row["step"] in steps] for _, rows in runs[name]]
        bands[name] = (steps, np.array(values))
    return bands


def draw_band(axes: Axes, steps: Sequence[float], values: np.ndarray, colour: str, label: str) -> None:
    """The span from the lowest to the highest seed, and the middle one. values: (seeds, N).

    Before the first evaluation nothing is known but the start at 0: a dotted line.
    """
    middle = np.median(values, axis=0)
    axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.22, linewidth=0)
    axes.plot(steps, middle, "--", color=colour, linewidth=1.2, label=label)
    axes.plot([0, steps[0]], [0, middle[0]], ":", color=colour, linewidth=0.8)


def draw_curve(axes: Axes, curve: Curve, colour: str, label: str, over: str = "step") -> None:
    """The curve so far from 0 on, with a dot per evaluation and the last value beside it. over: step or seconds."""
    places, values = [0, *(row[over] for row in curve)], [0.0, *(row["ap50"] for row in curve)]
    axes.plot(places, values, "o-", color=colour, markersize=4, label=label)
    axes.annotate(f"{values[-1]:.2f}", (places[-1], values[-1]), xytext=(-4, 6), textcoords="offset points",
                  color=INK, fontsize=9, ha="right")
