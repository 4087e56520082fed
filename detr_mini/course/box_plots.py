"""Pictures of boxes: two on squared paper, guesses over a scene, and what becomes of duplicates.

As in plots.py, every function returns a figure and shows nothing.
"""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.course.plots import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE,
    SKY,
    VERMILLION,
    WIDTH,
    array,
    bare,
    canvas,
    channels_last,
    own_or,
)
from detr_mini.course.training_plots import LOSS_NAMES, frame, smooth

HULL = (0, (1, 1.6))  # dotted


def squared_paper(
    first: Sequence[float], second: Sequence[float], size: tuple[int, int] = (10, 8), *, names: Sequence[str] = "AB",
    hull: bool = False, title: str = "", axes: Axes | None = None,
) -> Figure:
    """Two boxes (left, top, right, bottom) on paper of (width, height) squares; the squares in both are filled."""
    figure, axes = own_or(axes, 3.7, 3.1)
    low = [max(pair) for pair in zip(first[:2], second[:2], strict=True)]
    high = [min(pair) for pair in zip(first[2:], second[2:], strict=True)]
    if low[0] < high[0] and low[1] < high[1]:
        axes.add_patch(Rectangle(low, high[0] - low[0], high[1] - low[1], facecolor=SKY, alpha=0.7))
    if hull:
        corner = [min(pair) for pair in zip(first[:2], second[:2], strict=True)]
        width, height = (max(pair) - start for pair, start in
                         zip(zip(first[2:], second[2:], strict=True), corner, strict=True))
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=INK, linewidth=2, linestyle=HULL))
    for box, name, colour in ((first, names[0], ORANGE), (second, names[1], BLUE)):
        axes.add_patch(Rectangle(box[:2], box[2] - box[0], box[3] - box[1], fill=False, edgecolor=colour, linewidth=3))
        axes.text(box[0] + 0.25, box[1] + 0.3, name, color=colour, weight="bold", va="top")
    axes.set(xlim=(-0.1, size[0] + 0.1), ylim=(size[1] + 0.1, -0.1), aspect="equal", title=title,
             xticks=range(size[0] + 1), yticks=range(size[1] + 1))
    axes.grid(color=PALE)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    return figure


def guesses_over(
    image: Tensor, boxes: Tensor, objects: Tensor | Sequence = (), *, places: Tensor | None = None,
    colours: Sequence[str] = (BLUE,), title: str = "", axes: Axes | None = None,
) -> Figure:
    """Thin frames over a pale image. boxes (N, 4) and objects (M, 4): xyxy in pixels, objects dashed in black.

    places: (P, 2) dots x, y in pixels. colours: of the frames, in turn.
    """
    figure, axes = own_or(axes, 3.4, 3.4)
    picture = channels_last(image)
    axes.imshow(0.35 + 0.65 * picture, interpolation="antialiased")
    if places is not None:
        axes.plot(*array(places).T, ".", color=INK, markersize=2.5)
    for number, (left, top, right, bottom) in enumerate(array(boxes).reshape(-1, 4).tolist()):
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, linewidth=1.3, alpha=0.85,
                                 edgecolor=colours[number % len(colours)]))
    for box in array(objects).reshape(-1, 4).tolist():
        frame(axes, box, INK, 1.6, dashed=True)
    axes.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    return bare(axes, title)


def side_by_side(
    images: Sequence[Tensor], results: Sequence[Mapping[str, Tensor]], titles: Sequence[str], threshold: float
) -> Figure:
    """Images side by side, each with its detections of at least a threshold, and how many these are.

    results: per image scores (K,), labels (K,), boxes (K, 4) xyxy in pixels.
    """
    figure, axes = canvas(len(images), width=WIDTH, height=WIDTH / len(images) + 0.3)
    for place, image, result, title in zip(axes, images, results, titles, strict=True):
        boxes = result["boxes"][result["scores"] >= threshold]  # (sure, 4)
        guesses_over(image, boxes, colours=(VERMILLION,), axes=place, title=f"{title}{len(boxes)} boxes")
    return figure


def dense_losses(history: Sequence[Mapping[str, float]]) -> Figure:
    """Three losses side by side against the step: every step pale, the running mean dark."""
    figure, axes = canvas(3, width=WIDTH, height=2.3)
    steps = [line["step"] for line in history]
    for place, (name, title) in zip(axes, LOSS_NAMES.items(), strict=True):
        values = [line[name] for line in history]
        place.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.7)
        place.plot(steps, smooth(values), color=BLUE)
        place.set(title=title, xlabel="step", ylim=(0, 1.05 * max(smooth(values))))
        place.grid(axis="y")
    return figure


def dilemma(
    thresholds: Sequence[float], duplicates: Sequence[float], misses: Sequence[float],
    precision: Mapping[str, Sequence[float]],
) -> Figure:
    """Left: things missed and duplicates left, against the threshold. Right: AP50, a line per kind of scenes.

    duplicates, misses: per 100 things.
    """
    figure, (left, right) = canvas(2, width=WIDTH, height=3.0)
    lines = (("missed", misses, VERMILLION, "-"), ("duplicate boxes", duplicates, BLUE, "--"))
    for name, values, colour, style in lines:
        left.plot(thresholds, values, style, color=colour, marker="o", markersize=4, label=name)
    left.set(title="In a crowd", ylabel="per 100 things", ylim=(0, None))
    for (name, values), colour, style in zip(precision.items(), (GREY, ORANGE), ("--", "-"), strict=False):
        right.plot(thresholds, values, style, color=colour, marker="o", markersize=4, label=name)
        best = int(torch.tensor(values).argmax())
        right.plot(thresholds[best], values[best], "o", color=colour, markersize=11, mfc="none", markeredgewidth=2)
    right.set(title="AP50; the best of each is ringed", ylim=(0, 1.02))
    for place in (left, right):
        place.grid(axis="y")
        place.legend(loc="best", fontsize=9)
        place.set_xlabel("overlap from which NMS deletes")
    return figure
