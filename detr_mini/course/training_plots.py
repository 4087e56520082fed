"""Pictures of a training: what all queries say, how losses fall, what is found and missed, where queries look.

As in plots.py, every function returns a figure and shows nothing; `show` does.
"""

import itertools
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course.plots import (  # noqa: F401 (show: notebooks that draw trainings take it from here)
    BLUE,
    COLOURS,
    GREY,
    INK,
    ORANGE,
    PALE,
    VERMILLION,
    WIDTH,
    array,
    attention_map,
    bare,
    bundle,
    canvas,
    channels_last,
    own_or,
    readable_on,
    scene,
    show,
)
from detr_mini.course.recorder import Recording
from detr_mini.training import Step

LETTER = (0.032, 0.078)  # width, height of a letter of a label, in panel widths, four panels in a row

# ---------------------------------------------------------------- boxes


def frame(axes: Axes, box: Sequence[float], colour: str, width: float = 2.0, dashed: bool = False) -> None:
    """One frame with a white rim; box: left, top, right, bottom in pixels."""
    left, top, right, bottom = box
    for ink, thick in (("white", width + 1.6), (colour, width)):
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=ink, linewidth=thick,
                                 linestyle=(0, (3, 2)) if dashed and ink == colour else "-"))


def name_tag(
    axes: Axes, box: Sequence[float], text: str, colour: str, taken: Sequence[tuple[float, ...]] = ()
) -> tuple[float, ...]:
    """A small label at a corner of a box, above it where it can be, inside the picture; returns where, xyxy in pixels.

    taken: where other labels are. Of eight places at the box the first that covers none of them, or covers least.
    """
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    wide, high = width * LETTER[0] * len(text), width * LETTER[1]
    places = []
    for top, side in itertools.product((box[1] - high, box[3], box[1], box[3] - high), ("left", "right")):
        top = min(max(top, 0), height - high)
        left = min(max(box[0] if side == "left" else box[2] - wide, 1), width - 1 - wide)
        places.append(((left, top, left + wide, top + high), side))
    if box[0] >= 0.5 * width:  # the right corner first
        places = [places[number ^ 1] for number in range(8)]
    (left, top, right, bottom), side = min(places, key=lambda place: sum(shared(place[0], other) for other in taken))
    axes.text(left if side == "left" else right, bottom, text, color=readable_on(colour), va="bottom", ha=side,
              fontsize=7.5, bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2})
    return left, top, right, bottom


def shared(one: Sequence[float], other: Sequence[float]) -> float:
    """The area that two boxes (xyxy) share."""
    wide, high = (min(one[end], other[end]) - max(one[end - 2], other[end - 2]) for end in (2, 3))
    return max(wide, 0.0) * max(high, 0.0)


def everything_said(
    image: Tensor, boxes: Tensor, scores: Tensor | None = None, *, title: str = "", axes: Axes | None = None
) -> Figure:
    """The boxes of all queries over one image, whatever they score.

    image: (3, H, W). boxes: (Q, 4) normalised cxcywh. scores: (Q,), 0 to 1: sure queries have strong frames, and the
    others fade; None draws all alike.
    """
    axes = own_or(axes, 3.4, 3.4)[1]
    picture = channels_last(image)
    height, width = picture.shape[:2]
    axes.imshow(0.35 + 0.65 * picture, interpolation="antialiased")
    pixels = cxcywh_to_xyxy(boxes) * torch.tensor([width, height, width, height])  # (Q, 4)
    strengths = torch.full((len(boxes),), 0.55) if scores is None else 0.2 + 0.8 * (2 * scores).clamp(max=1)
    for number, ((left, top, right, bottom), alpha) in enumerate(zip(pixels.tolist(), strengths.tolist(), strict=True)):
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, alpha=alpha, linewidth=1.6,
                                 edgecolor=COLOURS[number % (len(COLOURS) - 2)]))
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return bare(axes, title)


def filmstrip(recording: Recording, images: Sequence[int], steps: Sequence[int], layer: int = -1) -> Figure:
    """Everything said about some images (a row each) at several steps (a column each)."""
    side = WIDTH / len(steps)
    figure, axes = canvas(len(steps), len(images), WIDTH, len(images) * side + 0.3)
    for place, (image, step) in zip(axes, itertools.product(images, steps), strict=True):
        row = recording.at(step)
        scores = recording.logits[row, layer, image].sigmoid().amax(-1)  # (Q,)
        boxes = recording.boxes[row, layer, image]  # (Q, 4)
        title = f"step {step:,}" if image == images[0] else ""
        everything_said(recording.images[image], boxes, scores, title=title, axes=place)
    return figure


def found_and_missed(
    images: Sequence[Tensor], targets: Sequence[Mapping], results: Sequence[Mapping], classes: Sequence[str], *,
    threshold: float = 0.5, columns: int = 4,
) -> Figure:
    """Pictures with what a detector is sure of in colour, and every true box dashed in black.

    images: (3, H, W) each. targets: boxes (M, 4) normalised cxcywh. results: scores, labels, boxes xyxy in pixels.
    """
    rows = -(-len(images) // columns)
    figure, axes = canvas(columns, rows, WIDTH, rows * WIDTH / columns)
    for place, image, target, result in zip(axes, images, targets, results, strict=False):
        height, width = image.shape[1:]
        place.imshow(channels_last(image), interpolation="antialiased")
        for box in (cxcywh_to_xyxy(target["boxes"]) * torch.tensor([width, height, width, height])).tolist():
            frame(place, box, INK, 1.3, dashed=True)
        sure, tags = result["scores"] >= threshold, []
        for label, score, box in zip(*(result[key][sure].tolist() for key in ("labels", "scores", "boxes")),
                                     strict=True):
            colour = COLOURS[label % len(COLOURS[:-1])]  # black is taken
            frame(place, box, colour)
            tags.append(name_tag(place, box, f"{classes[label]} {score:.2f}", colour, tags))
        place.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        bare(place, "")
    for place in axes[len(images):]:
        place.set_axis_off()
    return figure


# ---------------------------------------------------------------- curves


def smooth(values: Sequence[float], window: int = 25) -> np.ndarray:
    """The mean of each value and those before it, `window` at most: (N,) -> (N,)."""
    total = np.cumsum(np.insert(np.asarray(values, dtype=float), 0, 0.0))
    start = np.maximum(np.arange(1, len(values) + 1) - window, 0)
    return (total[1:] - total[start]) / (np.arange(1, len(values) + 1) - start)


LOSS_NAMES = {"loss_ce": "class loss", "loss_bbox": "L1 of the boxes", "loss_giou": "1 − GIoU of the boxes"}


def loss_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """The three losses of the final decoder layer against the step: every step pale, the running mean dark."""
    figure, axes = canvas(3, width=WIDTH, height=2.4)
    steps = [line["step"] for line in history]
    for place, (name, title), colour in zip(axes, LOSS_NAMES.items(), COLOURS, strict=False):
        values = [line[name] for line in history]
        place.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
        place.plot(steps, smooth(values), color=colour)
        place.set(title=title, xlabel="step", ylim=(0, 1.15 * float(np.quantile(values, 0.98))))
        place.grid(axis="y")
    return figure


def band(
    runs: Mapping[str, tuple[Sequence[int], Sequence[float]]], *, title: str, ylabel: str,
    highlight: tuple[Sequence[int], Sequence[float], str] | None = None,
) -> Figure:
    """Several seeds of one recipe: each as a thin line, the span between lowest and highest filled.

    runs: name -> (steps, values), all with the same steps. highlight: (steps, values, name) of points to mark.
    """
    figure, axes = canvas(width=WIDTH, height=3.0)
    steps = next(iter(runs.values()))[0]
    values = np.array([line for _, line in runs.values()])  # (runs, N)
    low, high = values.min(0), values.max(0)  # (N,), (N,)
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.18, linewidth=0, label="lowest to highest")
    for (name, _), line, style in zip(runs.items(), values, ("-", "--", ":", "-."), strict=False):
        axes.plot(steps, line, style, color=BLUE, linewidth=1.4, label=name)
    if highlight:
        axes.plot(highlight[0], highlight[1], "o", color=VERMILLION, label=highlight[2])
    axes.legend(loc="upper left")
    axes.grid(axis="y")
    axes.set(title=title, xlabel="training step", ylabel=ylabel, ylim=(0, 1))
    return figure


def precision_recall(recall: Sequence[float], precision: Sequence[float], best: Sequence[float]) -> Figure:
    """A precision-recall curve: a dot per rank, and the area that counts, under the best precision to the right."""
    figure, axes = canvas(width=4.6, height=3.2)
    edges, heights = [0.0, *recall], [best[0], *best]
    axes.fill_between(edges, heights, step="pre", color=BLUE, alpha=0.18, linewidth=0, label="area = AP")
    axes.step(edges, heights, where="pre", color=BLUE)
    axes.plot(recall, precision, "o-", color=ORANGE, linewidth=1.0, label="one dot per rank")
    for rank, point in enumerate(zip(recall, precision, strict=True), 1):
        axes.annotate(str(rank), point, xytext=(4, 4), textcoords="offset points", fontsize=8, color=INK)
    axes.legend(loc="lower left")
    axes.set(title="Precision against recall", xlabel="recall: part of the objects found",
             ylabel="precision: part that is right", xlim=(0, 1), ylim=(0, 1.08))
    return figure


def shares(
    names: Sequence[str], values: Sequence[float], *, title: str, xlabel: str, axes: Axes | None = None
) -> Figure:
    """Standing bars of parts of a whole, 0 to 1, with their numbers."""
    figure, axes = own_or(axes, 4.6, 2.6)
    axes.bar(range(len(values)), values, color=BLUE, width=0.62)
    for place, value in enumerate(values):
        axes.text(place, value + 0.02, f"{value:.2f}", ha="center", fontsize=9)
    axes.set_xticks(range(len(values)), names)
    axes.set(title=title, xlabel=xlabel, ylim=(0, 1.12))
    return figure


# ---------------------------------------------------------------- attention


def heads(image: Tensor, maps: Tensor, box: Sequence[float] | None = None, *, titles: Sequence[str] = ()) -> Figure:
    """One attention map per head over the image, four in a row. maps: (heads, h, w). box: xyxy in pixels."""
    count = len(maps)
    columns = min(4, count)
    rows = -(-count // columns)
    figure, axes = canvas(columns, rows, WIDTH, rows * (WIDTH / columns + 0.2))
    for number, (place, weights) in enumerate(zip(axes, maps, strict=False)):
        attention_map(image, weights, title=titles[number] if titles else f"head {number + 1}", axes=place)
        if box is not None:
            frame(place, box, ORANGE, 1.6)
    return figure


def looks(
    image: Tensor, maps: Sequence[Tensor], titles: Sequence[str], boxes: Sequence = (), dots: Sequence = ()
) -> Figure:
    """Attention maps side by side, each with its box (xyxy in pixels) or its dot (x, y in pixels), the image first.

    A box has the colour that it has in the image; one and the same box in all maps has one.
    """
    figure, axes = canvas(len(maps) + 1, width=WIDTH, height=WIDTH / (len(maps) + 1) + 0.25)
    one = len({tuple(array(box).tolist()) for box in boxes}) == 1
    scene(image, boxes[:1] if one else boxes, title="image", axes=axes[0])
    for number, (place, weights) in enumerate(zip(axes[1:], maps, strict=True)):
        attention_map(image, weights, title=titles[number], axes=place)
        if len(boxes):
            frame(place, array(boxes[number]), COLOURS[0 if one else number % len(COLOURS)], 1.6)
        if len(dots):
            for target in (axes[0], place):
                target.plot(*dots[number], "o", color=COLOURS[number], markeredgecolor="white", markersize=8)
    return figure


def gaze(offsets: Tensor) -> Figure:
    """Where each head looks, around a box of any size: a panel per head, a pale dot per query, a cross at the mean.

    offsets: (N, heads, 2) as (x, y) from the box's centre, in widths and heights of the box; (0.5, 0) is its right
    side.
    """
    heads = offsets.shape[1]
    rows = -(-heads // 4)
    figure, axes = canvas(4, rows, height=1.8 * rows)
    for head, place in enumerate(axes[:heads]):
        frame(place, (-0.5, -0.5, 0.5, 0.5), ORANGE)
        place.scatter(*offsets[:, head].T.tolist(), s=4, color=BLUE, alpha=0.25, linewidths=0)
        place.plot(*offsets[:, head].mean(0).tolist(), "+", color=INK, markersize=11, markeredgewidth=2)
        place.set(xlim=(-1.5, 1.5), ylim=(1.5, -1.5), aspect="equal", xticks=[], yticks=[])
        place.set_title(f"head {head + 1}", fontsize=10)
    return figure


# ---------------------------------------------------------------- while it trains


class LiveView:
    """A callback for `fit` that redraws one figure while it trains: the loss, and what all queries say of one image.

    recorder: a Recorder; its last look is drawn. image: which of its images. total: steps of the run. every: steps
    between drawings. The figure is drawn after the last step in any case, so what a notebook stores is the end.
    """

    def __init__(self, recorder, image: int, total: int, every: int = 100) -> None:
        self.recorder, self.image, self.total, self.every = recorder, image, total, every
        self.steps, self.losses, self.handle, self.started = [], [], None, time.perf_counter()

    def __call__(self, step: Step) -> None:
        self.steps.append(step.number)
        self.losses.append(sum(step.losses[name] for name in LOSS_NAMES))
        if step.number % self.every == 0 or step.number in (1, self.total):
            self.show(step.number)

    def show(self, number: int) -> None:
        """Draw the present state in place of the one before."""
        alt = "While it trains: the loss falls, and the boxes of all queries move apart onto the things in the image."
        picture = bundle(self.draw(number), alt)
        if self.handle is None:
            self.handle = display(picture, raw=True, display_id=True)
        else:
            self.handle.update(picture, raw=True)

    def draw(self, number: int) -> Figure:
        """Left the loss so far, right the image with every query's box at the last look."""
        figure, (left, right) = canvas(2, width=WIDTH, height=2.9)
        left.plot(self.steps, self.losses, color=BLUE, alpha=0.25, linewidth=0.7)
        left.plot(self.steps, smooth(self.losses), color=BLUE)
        left.set(title=f"step {number:,} of {self.total:,}", xlabel="step", ylabel="loss of the last layer",
                 xlim=(0, self.total), ylim=(0, 1.1 * float(np.quantile(self.losses, 0.98))))
        left.grid(axis="y", color=PALE)
        look = self.recorder.looks[-1]
        scores = look.logits[-1, self.image].sigmoid().amax(-1)  # (Q,)
        everything_said(self.recorder.originals[self.image], look.boxes[-1, self.image], scores,
                        title=f"all queries after step {look.step:,}", axes=right)
        return figure
