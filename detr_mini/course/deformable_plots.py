"""Pictures for deformable attention: sampled places on a map, the compass it starts with, layers, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.figure import Figure
from torch import Tensor

from detr_mini.course.deformable_playground import LAYERS, Dragged, draw_frames, draw_places, read, scene
from detr_mini.course.plots import BLACK, COLOURS, GREY, PALE, WIDTH, array, canvas, channels_last, matrix


def sampled(values: Tensor, places: Tensor, weights: Tensor, reference: Sequence[float]) -> Figure:
    """The places that each head reads, on that head's own map, as large as their weights.

    values: (heads, h, w). places: (heads, points, 2) as (x, y) in cells, (0, 0) the map's upper left corner. weights:
    (heads, points). reference: x, y in cells.
    """
    heads, height, width = values.shape
    figure, axes = canvas(heads, width=WIDTH, height=0.35 + WIDTH / heads * height / width * 0.93)
    for head, place in enumerate(axes if heads > 1 else [axes]):
        matrix(values[head], digits=0, title=f"head {head + 1}: what it reads from", top=2.5 * float(values.max()),
               axes=place)
        for (x, y), weight in zip(places[head].tolist(), weights[head].tolist(), strict=True):
            place.plot([reference[0] - 0.5, x - 0.5], [reference[1] - 0.5, y - 0.5], color=COLOURS[head], linewidth=1)
            place.scatter(x - 0.5, y - 0.5, s=30 + 500 * weight, color=COLOURS[head], edgecolors="white", zorder=3)
            place.annotate(f"{weight:.2f}", (x - 0.5, y - 0.5), xytext=(0, 11), textcoords="offset points", zorder=4,
                           ha="center", fontsize=8.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})
        place.plot(reference[0] - 0.5, reference[1] - 0.5, "x", color=BLACK, markersize=11, markeredgewidth=2.5)
        place.set(aspect="equal", xticks=[], yticks=[])
    return figure


def rose(offsets: Tensor, *, title: str = "") -> Figure:
    """Offsets around a reference point, a colour and a number per head: (heads, points, 2) as (x, y) in cells."""
    figure, axes = canvas(width=3.9, height=3.9)
    reach = float(offsets.abs().max()) + 1
    axes.plot(0, 0, "x", color=BLACK, markersize=11, markeredgewidth=2.5)
    for head, points in enumerate(array(offsets)):
        x, y = points.T
        axes.plot([0, *x], [0, *y], "-", color=COLOURS[head % len(COLOURS)], linewidth=1, zorder=2)
        axes.scatter(x, y, s=42, color=COLOURS[head % len(COLOURS)], edgecolors="white", zorder=3)
        axes.annotate(str(head + 1), points[-1] * (1 + 0.55 / reach), ha="center", va="center", fontsize=9)
    axes.grid(color=PALE)
    axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal", title=title,
             xlabel="cells to the right", ylabel="cells down")
    axes.set_xticks(range(-int(reach), int(reach) + 1))
    axes.set_yticks(range(-int(reach), int(reach) + 1))
    return figure


def by_layer(state: Dragged) -> Figure:
    """The places that one query reads in each layer, the box it started from (dashed) and the box after the layer."""
    figure, axes = canvas(LAYERS, width=WIDTH, height=WIDTH / LAYERS + 0.3)
    for number, place in enumerate(axes, start=1):
        layer = replace(state, layer=number)
        place.imshow(0.25 + 0.75 * channels_last(scene(state.scene)), extent=(0, 1, 1, 0), interpolation="antialiased")
        draw_places(place, layer, read(layer))
        draw_frames(place, layer, read(layer))
        place.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], title=f"layer {number}")
        place.spines[:].set(visible=True, color=GREY, linewidth=0.6)
    return figure


def growth(lines: Mapping[str, tuple[Sequence[int], Sequence[float]]], *, title: str = "") -> Figure:
    """Seconds against tokens, both logarithmic. lines: name -> (tokens, seconds)."""
    figure, axes = canvas(width=WIDTH, height=3.0)
    for (name, (tokens, seconds)), colour in zip(lines.items(), COLOURS, strict=False):
        axes.plot(tokens, seconds, "o-", color=colour)
        axes.annotate(f"  {name}", (tokens[-1], seconds[-1]), color=colour, va="center", annotation_clip=False)
    tokens = next(iter(lines.values()))[0]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(tokens, [f"{round(count**0.5)} x {round(count**0.5)}" for count in tokens])
    axes.minorticks_off()
    axes.set_xlim(tokens[0] * 0.8, tokens[-1] * 3)
    axes.grid(axis="y")
    axes.set(title=title, xlabel="cells of the feature map", ylabel="seconds")
    return figure
