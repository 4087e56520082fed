"""Pictures for SAM-DETR: a box cut out of a map, one query layer by layer, and runs of several forms."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from torch import Tensor

from detr_mini.course.attention_explorer import WHITE, draw_cut, outline
from detr_mini.course.plots import (
    BLACK,
    COLOURS,
    GREY,
    ORANGE,
    WIDTH,
    array,
    canvas,
    channels_last,
    matrix,
)
from detr_mini.course.sam_playground import LAYERS, Boxed, asked, draw_points, scene
from detr_mini.variants.sam_aligner import CROP


def cut_out(cells: Tensor, corners: Sequence[float], places: Tensor, cut: Tensor) -> Figure:
    """Left a map with a box and the places where it is read, right what was read.

    cells: (h, w). corners: left, top, right, bottom in cells. places: (n, n, 2) as (x, y) in cells, (0, 0) the map's
    upper left corner. cut: (n, n).
    """
    figure, (left, right) = canvas(2, width=6.4, height=3.3)
    top = 1.5 * float(cells.max())
    matrix(cells, digits=0, title="the map, and nine places", top=top, axes=left)
    matrix(cut, digits=2, title="what is read there: the cut", top=top, axes=right)
    outline(left, [edge - 0.5 for edge in corners], ORANGE, 2.0)
    x, y = array(places).reshape(-1, 2).T - 0.5
    left.plot(x, y, "x", color=BLACK, markersize=7, markeredgewidth=2)
    for axes in (left, right):
        axes.set(xticks=[], yticks=[], aspect="equal")
    return figure


def by_layer(state: Boxed) -> Figure:
    """The cut and the salient points of one query in each layer; dashed the box cut out, orange the box after it."""
    figure, axes = canvas(LAYERS, width=WIDTH, height=WIDTH / LAYERS + 0.3)
    for number, place in enumerate(axes, start=1):
        layer = replace(state, layer=number)
        found = asked(layer)
        place.imshow(0.2 + 0.8 * channels_last(scene(state.scene)), extent=(0, 1, 1, 0), interpolation="antialiased")
        draw_cut(place, found.reference.tolist(), CROP)
        outline(place, found.box.tolist(), ORANGE, 2.0)
        outline(place, found.reference.tolist(), WHITE, 1.2, (0, (4, 2.5)))
        draw_points(place, layer, array(found.points), number == 1)
        place.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], title=f"layer {number}")
    return figure


def forms(runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> Figure:
    """AP50 against the step, per form the median of its seeds, and the span from lowest to highest.

    runs: name -> one list of evaluations per seed, dicts with step and ap50. Only steps that all seeds have are drawn.
    """
    figure, axes = canvas(width=WIDTH, height=3.2)
    for (name, seeds), colour, style in zip(runs.items(), COLOURS, ("-", "--", "-.", ":", "-"), strict=False):
        curves = [{row["step"]: row["ap50"] for row in rows} for rows in seeds]
        steps = sorted(set.intersection(*map(set, curves)))
        values = [[curve[step] for curve in curves] for step in steps]  # (steps, seeds)
        label = f"{name} ({len(seeds)} seed{'s' if len(seeds) > 1 else ''})"
        axes.plot(steps, [statistics.median(at) for at in values], style, color=colour, label=label)
        axes.fill_between(steps, [min(at) for at in values], [max(at) for at in values], color=colour, alpha=0.18,
                          linewidth=0)
    axes.legend(loc="upper left", fontsize=8.5, bbox_to_anchor=(1.0, 1.0))
    axes.grid(axis="y")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(xlabel="training step", ylabel="AP50 on 400 scenes", ylim=(-0.02, 1), title="Median and span of the seeds")
    return figure
