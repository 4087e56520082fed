"""Pictures of matchings: which prediction is tied to which object, on a scene or on empty ground."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course.plots import BLUE, COLOURS, GREY, INK, array, bare, channels_last, own_or, readable_on
from detr_mini.course.training_plots import frame

TAG = np.array([0.065, 0.05])  # width, height of the tag of a number, in longer sides of the picture
GROUND = torch.full((3, 128, 128), 244, dtype=torch.uint8)  # where there is no scene: light grey


def ties(
    image: Tensor, boxes: Tensor, wanted: Tensor, pairs: Sequence[tuple[int, int]], *,
    names: Sequence[str] | Mapping[int, str] | None = None, things: Sequence[str] = (),
    colour: str | Sequence[str] | None = None, title: str = "", axes: Axes | None = None,
) -> Figure:
    """Objects dashed, matched predictions framed, each tied to its object by a line; predictions in no pair grey.

    image: (3, H, W). boxes: (Q, 4), wanted: (M, 4), both normalised cxcywh. pairs: (query, object); a query or an
    object may be in several of them, or in none. names: of the queries, by default their numbers. things: names of
    the objects, written below them. colour: of all pairs, or one per query; by default each object has its own.
    """
    axes = own_or(axes, 3.0, 3.0)[1]
    picture = channels_last(image)
    side = np.array([picture.shape[1], picture.shape[0]])  # (2,) width, height
    axes.imshow(0.35 + 0.65 * picture, interpolation="antialiased")
    scale = torch.tensor([*side, *side])
    corners, truth = cxcywh_to_xyxy(boxes) * scale, cxcywh_to_xyxy(wanted) * scale  # (Q, 4), (M, 4)
    inks = {query: colour or COLOURS[thing % len(COLOURS)] for query, thing in pairs}
    if colour is not None and not isinstance(colour, str):
        inks = {query: colour[query] for query in inks}
    for query, box in enumerate(corners.tolist()):
        if query not in inks:
            axes.add_patch(rectangle(box, edgecolor=GREY, lw=0.7))  # no white rim: there may be many
    for box in truth.tolist():
        frame(axes, box, INK, 1.3, dashed=True)
    for query, ink in inks.items():
        frame(axes, corners[query].tolist(), ink, 1.8)
    for box in truth.tolist():  # once more, for a perfect prediction hides its object
        axes.add_patch(rectangle(box, edgecolor=INK, lw=1.3, linestyle=(0, (3, 2))))
    for (left, _, _, bottom), name in zip(truth.tolist(), things, strict=False):
        axes.text(left, bottom + 1.5, name, ha="left", va="top", fontsize=9, color=INK)
    for query, thing in pairs:
        start, end = array(boxes[query, :2]) * side, array(wanted[thing, :2]) * side
        axes.plot(*zip(start, end, strict=True), color=inks[query], linewidth=2.0, marker="o", markevery=[1], zorder=4)
    spots: list[np.ndarray] = []
    for query, ink in inks.items():
        spots.append(free_spot(array(boxes[query, :2]) * side, spots, TAG * side.max()))
        tag(axes, spots[-1], str(query) if names is None else names[query], ink)
    return bare(axes, title)


def free_spot(place: np.ndarray, taken: Sequence[np.ndarray], size: np.ndarray) -> np.ndarray:
    """The spot nearest to a place, itself or some tags away, where a tag of this size (2,) covers no other."""
    ways = sorted(itertools.product(range(-4, 5), repeat=2), key=lambda way: way[0] ** 2 + way[1] ** 2)
    spots = [place + np.array(way) * size for way in ways]
    return next((spot for spot in spots if all((abs(spot - other) >= size).any() for other in taken)), place)


def rectangle(box: Sequence[float], **look: object) -> Rectangle:
    """A frame without a rim; box: left, top, right, bottom in pixels."""
    left, top, right, bottom = box
    return Rectangle((left, top), right - left, bottom - top, fill=False, **look)


def tag(axes: Axes, place: np.ndarray, text: str, ink: str = BLUE) -> None:
    """A query's name at the middle of its box."""
    axes.text(*place, text, ha="center", va="center", fontsize=8, weight="bold", color=readable_on(ink), zorder=5,
              bbox={"facecolor": ink, "edgecolor": "none", "pad": 1.5})
