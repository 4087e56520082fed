"""Pictures of how detectors look: measures over training, and maps with boxes in units of cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course.plots import BLUE, COLOURS, GREY, ORANGE, WIDTH, array, canvas, matrix

LINEAR = 10  # steps; beyond them the axis is logarithmic, so that step 0 has a place, too


@dataclass
class Panel:
    """One measure over training. lines: name -> (steps, values). level: (value, name) of a dashed line."""

    title: str
    ylabel: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    level: tuple[float, str] | None = None
    colours: Sequence[str] = field(default=COLOURS)


def histories(panels: Sequence[Panel], height: float = 2.9, top: float | None = None) -> Figure:
    """Measures over training side by side, the step on a logarithmic axis. top: of all value axes."""
    figure, axes = canvas(len(panels), width=WIDTH, height=height)
    for place, panel in zip(axes if isinstance(axes, list) else [axes], panels, strict=True):
        for (name, (steps, values)), colour in zip(panel.lines.items(), panel.colours, strict=False):
            place.plot(steps, values, "o-", color=colour, markersize=3.5, linewidth=1.6, label=name)
        if panel.level:
            place.axhline(panel.level[0], color=GREY, linestyle=(0, (4, 3)), linewidth=1.2, label=panel.level[1])
        place.set_xscale("symlog", linthresh=LINEAR, linscale=0.4)
        last = max(max(steps) for steps, _ in panel.lines.values())
        place.set(xlim=(-1, 1.25 * last))  # a symmetric axis would leave room for steps below 0
        place.set_xticks([0, 10, 100, 1000], ["0", "10", "100", "1,000"])
        place.minorticks_off()
        place.set(title=panel.title, xlabel="training step", ylabel=panel.ylabel)
        place.set_ylim(0, top)
        place.grid(axis="y")
        place.legend(fontsize=8, handlelength=1.6)
    return figure


def cells(weights: Tensor, box: Tensor, *, title: str = "", digits: int = 2, axes: Axes | None = None) -> Figure:
    """A map (h, w) with its numbers, and a box on it. box: (4,) normalised cxcywh."""
    figure = matrix(weights, title=title, digits=digits, axes=axes)
    place = axes or figure.axes[0]
    height, width = array(weights).shape
    left, top, right, bottom = cxcywh_to_xyxy(box).tolist()
    corner = (left * width - 0.5, top * height - 0.5)
    for colour, thick in (("white", 4.5), (BLUE, 2.5)):
        place.add_patch(Rectangle(corner, (right - left) * width, (bottom - top) * height, fill=False, edgecolor=colour,
                                  linewidth=thick))
    place.set(xticks=[], yticks=[], aspect="equal")
    return figure


def stacked(rows: Mapping[str, Mapping[str, float]], *, xlabel: str, title: str = "") -> Figure:
    """Two lying bars per row, side by side: what is measured, and what it is compared with."""
    names = list(next(iter(rows.values())))
    figure, axes = canvas(width=WIDTH, height=0.9 + 0.5 * len(rows))
    for number, (name, colour) in enumerate(zip(names, (ORANGE, GREY), strict=False)):
        places = [row + 0.36 * (number - 0.5) for row in range(len(rows))]
        values = [row[name] for row in rows.values()]
        axes.barh(places, values, height=0.34, color=colour, label=name)
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f" {value:.2f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize=8)
    axes.set(title=title, xlabel=xlabel)
    return figure
