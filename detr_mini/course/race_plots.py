"""Pictures of the race: curves with bands, when levels are reached, where runs end, and what they cost."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detr_mini.course.plots import BLUE, COLOURS, GREY, INK, ORANGE, VERMILLION, WIDTH, canvas
from detr_mini.course.race_table import reached

Runs = Mapping[str, list[tuple[dict, list[dict]]]]  # detector -> (origin, evaluations) of each seed

NAMES = {
    "detr": "DETR", "conditional": "Conditional", "deformable": "Deformable", "smca": "SMCA", "anchor": "Anchor",
    "dab": "DAB", "sam": "SAM",
}
FAINT = "#CFCFCF"  # lines to compare with
LEVEL_COLOURS = (COLOURS[4], BLUE, INK)  # of AP50 0.3, 0.5, 0.7: the later, the darker


def shown(name: str) -> str:
    """A detector's name as people write it."""
    return NAMES.get(name, name)


def together(runs: list[tuple[dict, list[dict]]], key: str) -> tuple[list[int], np.ndarray]:
    """The steps at which all seeds were measured, from 0, and a figure there: (N,), (seeds, N)."""
    steps = sorted(set.intersection(*({row["step"] for row in rows} for _, rows in runs)))
    values = [[0.0, *(row[key] for row in rows if row["step"] in steps)] for _, rows in runs]
    return [0, *steps], np.array(values)


def draw_runs(axes: Axes, runs: list[tuple[dict, list[dict]]], key: str, colour: str, label: str) -> None:
    """Lowest to highest filled, every seed a thin line, the median a thick one."""
    steps, values = together(runs, key)
    axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.22, linewidth=0)
    for line in values:
        axes.plot(steps, line, color=colour, linewidth=0.6, alpha=0.7)
    axes.plot(steps, np.median(values, axis=0), color=colour, linewidth=1.8, label=label)


def small_multiples(
    runs: Runs, other: Runs | None = None, *, key: str = "ap50", edge: int = 1500, labels: Sequence[str] = ("", ""),
) -> Figure:
    """One panel per detector: its seeds and their band, in front of the median of all others in grey.

    other: a second set of runs, drawn in orange into the same panels. labels: what to call the two.
    """
    figure, axes = canvas(4, -(-(len(runs) + 1) // 4), WIDTH, 3.9)
    for place, (name, group) in zip(axes, runs.items(), strict=False):
        for one in [] if other else runs.values():
            steps, values = together(one, key)
            place.plot(steps, np.median(values, axis=0), color=FAINT, linewidth=1.0)
        draw_runs(place, group, key, BLUE, labels[0])
        if other and name in other:
            draw_runs(place, other[name], key, ORANGE, labels[1])
        place.set(title=shown(name), xlim=(0, edge), ylim=(0, 1 if key == "ap50" else 0.8))
        place.set_xticks([0, edge // 2, edge], ["0", f"{edge // 2:,}", f"{edge:,}"])
        place.grid(axis="y")
    for place in axes[len(runs):]:
        explain(place, other, labels)
    axes[0].set_ylabel("AP50" if key == "ap50" else "AP")
    axes[4].set_ylabel("AP50" if key == "ap50" else "AP")
    return figure


def explain(axes: Axes, other: Runs | None, labels: Sequence[str]) -> None:
    """The key of a set of panels, in the place of one."""
    second = (ORANGE, labels[1]) if other else (FAINT, "the others' medians")
    lines = [(BLUE, labels[0] or "median of the seeds"), second]
    for row, (colour, text) in enumerate(lines):
        axes.plot([0, 0.14], [0.8 - 0.2 * row] * 2, color=colour, linewidth=2.2)
        axes.text(0.2, 0.8 - 0.2 * row, text, va="center", fontsize=9)
    axes.text(0, 0.36, "thin: each seed\nfilled: lowest to highest\nacross: steps of 16 images", va="top", fontsize=9)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()


def levels(
    runs: Runs, wanted: Sequence[float] = (0.3, 0.5, 0.7), per_step: Mapping[str, float] | None = None
) -> Figure:
    """When AP50 reaches each level: a dot at the median, a bar from the earliest seed to the latest.

    per_step: seconds of a step; then the axis is in seconds. A level that some seed never reaches has no dot.
    """
    figure, axes = canvas(width=WIDTH, height=0.9 + 0.34 * len(runs))
    order = sorted(runs, key=lambda name: -middle_of(runs[name], 0.5, per_step and per_step[name]))
    for row, name in enumerate(order):
        for level, colour in zip(wanted, LEVEL_COLOURS, strict=False):
            found = crossings(runs[name], level, per_step and per_step[name])
            if None not in found:
                axes.plot([min(found), max(found)], [row, row], color=colour, linewidth=5, alpha=0.35)
                axes.plot(np.median(found), row, "o", color=colour, markersize=7)
    for level, colour in zip(wanted, LEVEL_COLOURS, strict=False):
        axes.plot([], [], "o", color=colour, label=f"AP50 {level}")
    axes.set_yticks(range(len(order)), [shown(name) for name in order])
    axes.legend(loc="upper right", fontsize=9)
    axes.grid(axis="x")
    axes.set(title="When a level is reached", xlim=(0, None),
             xlabel="seconds of one thread" if per_step else "training steps of 16 images")
    return figure


def crossings(runs: list[tuple[dict, list[dict]]], level: float, per_step: float | None = None) -> list[float | None]:
    """Where each seed reaches a level of AP50, in steps or, times seconds per step, in seconds."""
    found = [reached(rows, level) for _, rows in runs]
    return [step if step is None else step * (per_step or 1) for step in found]


def middle_of(runs: list[tuple[dict, list[dict]]], level: float, per_step: float | None) -> float:
    """The median of the crossings; endless when a seed has none."""
    found = crossings(runs, level, per_step)
    return float("inf") if None in found else float(np.median(found))


def endings(sets: Mapping[str, Mapping[str, Sequence[float]]], *, title: str, xlabel: str) -> Figure:
    """Where runs end: one row per detector, one colour per set, a dot per seed and a bar over them.

    sets: label -> detector -> one value per seed. Rows go by the first set's medians, the best on top.
    """
    first = next(iter(sets.values()))
    order = sorted(first, key=lambda name: np.median(first[name]))
    figure, axes = canvas(width=WIDTH, height=0.9 + 0.36 * len(order))
    shifts = np.linspace(0.16, -0.16, len(sets)) if len(sets) > 1 else [0.0]
    for (label, values), colour, shift in zip(sets.items(), (BLUE, ORANGE, VERMILLION), shifts, strict=False):
        for row, name in enumerate(order):
            if name in values:
                found, rows = sorted(values[name]), [row + shift] * len(values[name])
                axes.plot([found[0], found[-1]], [row + shift] * 2, color=colour, linewidth=5, alpha=0.3)
                axes.plot(found, rows, "o", color=colour, markersize=5)
        axes.plot([], [], "o", color=colour, label=label)
    axes.set_yticks(range(len(order)), [shown(name) for name in order])
    axes.grid(axis="x")
    if len(sets) > 1:
        axes.legend(loc="lower right", fontsize=9)
    axes.set(title=title, xlabel=xlabel)
    return figure


def cost_bars(columns: Mapping[str, Mapping[str, float]], digits: Sequence[int]) -> Figure:
    """Bars side by side: one panel per kind of cost, one row per detector.

    columns: title -> detector -> value. digits: behind the point, per column.
    """
    names = list(next(iter(columns.values())))
    figure, axes = canvas(len(columns), width=WIDTH, height=0.8 + 0.32 * len(names))
    for number, (place, (title, values)) in enumerate(zip(axes, columns.items(), strict=True)):
        place.barh(range(len(names)), [values[name] for name in names], color=BLUE, height=0.66)
        for row, name in enumerate(names):
            place.text(values[name], row, f" {values[name]:,.{digits[number]}f}", va="center", fontsize=8.5)
        place.set_yticks(range(len(names)), [shown(name) for name in names] if number == 0 else [""] * len(names))
        place.tick_params(axis="y", length=0)
        place.set(xlim=(0, 1.35 * max(values.values())), xticks=[])
        place.set_title(title, fontsize=9.5)
        place.spines["bottom"].set_visible(False)
        place.invert_yaxis()
    return figure


def slopes(columns: Mapping[str, Sequence[str]], highlight: Sequence[str] = ()) -> Figure:
    """Ranks in several orders, the best on top, a line per detector. columns: title -> names, best first.

    highlight: detectors drawn in colour; the others are grey.
    """
    figure, axes = canvas(width=WIDTH, height=0.8 + 0.34 * max(map(len, columns.values())))
    names = dict.fromkeys(name for order in columns.values() for name in order)
    colours = dict(zip(highlight, (VERMILLION, BLUE, ORANGE, COLOURS[2]), strict=False))
    for name in names:
        points = [(place, order.index(name) + 1) for place, order in enumerate(columns.values()) if name in order]
        axes.plot(*zip(*points, strict=True), "o-", color=colours.get(name, GREY), linewidth=1.6)
        for point, away, side in ((points[0], -8, "right"), (points[-1], 8, "left")):
            axes.annotate(shown(name), point, xytext=(away, 0), textcoords="offset points", va="center", ha=side,
                          color=colours.get(name, INK), fontsize=9)
    axes.set_xticks(range(len(columns)), list(columns))
    axes.tick_params(axis="both", length=0)
    axes.set(xlim=(-0.6, len(columns) - 0.4), yticks=[])
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    return figure
