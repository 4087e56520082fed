"""The one drawing of the course: from a picture to boxes, with the part a notebook is about lit.

Left to right as the data flows: image, backbone, tokens and their positions, encoder, decoder with its object
queries, predictions, and below these what training adds: matching and loss.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from detr_mini.course.plots import BLUE, COLOURS, GREEN, GREY, INK, ORANGE, PALE, SKY, VERMILLION, canvas
from detr_mini.data.scenes import draw_scene

SPAN = (100.0, 36.0)  # the drawing's own units, of which 100 are as wide as the text
MIDDLE = 23.0  # the height at which data flows
DIM = 0.25  # opacity of a part that is not lit
SCENE = (0, 7)  # seed and index of the example: balloon, car, fish, house


@dataclass(frozen=True)
class Part:
    """One part: its name and note in the drawing, and its frame (left, bottom, right, top) in the drawing's units."""

    title: str
    note: str
    frame: tuple[float, float, float, float]
    draw: Callable[[Axes, float], None]


# ---------------------------------------------------------------- the parts, each as a small picture


def draw_image(axes: Axes, alpha: float) -> None:
    """The example scene, as the camera gives it."""
    picture = draw_scene(*SCENE)[0]
    axes.imshow(picture, extent=(1, 14, MIDDLE - 6.5, MIDDLE + 6.5), alpha=alpha, interpolation="antialiased")


def draw_backbone(axes: Axes, alpha: float) -> None:
    """Three slabs, each smaller and thicker than the last: fewer places, more said about each."""
    for left, half, thick in ((18.2, 5.2, 1.0), (20.8, 3.9, 1.9), (24.3, 2.7, 3.0)):
        right, low, high, lean = left + thick, MIDDLE - half, MIDDLE + half, 0.9
        faces = (
            ([(left, low), (right, low), (right, high), (left, high)], SKY),
            ([(left, high), (right, high), (right + lean, high + lean), (left + lean, high + lean)], PALE),
            ([(right, low), (right + lean, low + lean), (right + lean, high + lean), (right, high)], BLUE),
        )
        for corners, colour in faces:
            axes.add_patch(Polygon(corners, facecolor=colour, edgecolor="white", linewidth=0.8, alpha=alpha))


def draw_tokens(axes: Axes, alpha: float) -> None:
    """The scene as 8 x 8 places, each a token."""
    picture = draw_scene(*SCENE)[0].reshape(8, 16, 8, 16, 3).mean(axis=(1, 3)) / 255
    for (row, column), _ in np.ndenumerate(picture[..., 0]):
        corner = (31.5 + 1.25 * column, MIDDLE + 5 - 1.25 * (row + 1))
        axes.add_patch(Rectangle(corner, 1.05, 1.05, facecolor=picture[row, column], alpha=alpha, linewidth=0))


def draw_positions(axes: Axes, alpha: float) -> None:
    """Waves of three lengths: the address that is added to each token."""
    along = np.linspace(0, 10, 120)
    for number, colour in enumerate((BLUE, GREEN, VERMILLION)):
        wave = np.sin(along * 2 * np.pi * 2.0**number / 10)
        axes.plot(31.5 + along, 9.6 - 2.3 * number + 0.75 * wave, color=colour, alpha=alpha, linewidth=1.4)


def draw_encoder(axes: Axes, alpha: float) -> None:
    """Tokens in a ring, every one tied to every other: self-attention."""
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False) + np.pi / 8
    points = np.stack([52.75 + 4.3 * np.cos(angles), MIDDLE + 4.3 * np.sin(angles)], axis=1)
    for first in range(8):
        for second in range(first):
            axes.plot(*points[[first, second]].T, color=GREY, alpha=0.6 * alpha, linewidth=0.7)
    for point in points:
        axes.add_patch(Rectangle(point - 0.75, 1.5, 1.5, facecolor="white", linewidth=0, zorder=3))
        axes.add_patch(Rectangle(point - 0.75, 1.5, 1.5, facecolor=BLUE, alpha=alpha, linewidth=0, zorder=3))


def draw_decoder(axes: Axes, alpha: float) -> None:
    """Queries on the left, each looking at some places of the image on the right: cross-attention."""
    looks = {0: (6, 7), 1: (4, 5), 2: (2, 3), 3: (0, 1)}
    places = [(74.4, MIDDLE + 4.2 - 1.2 * place) for place in range(8)]
    for query, near in looks.items():
        start = (65.6, MIDDLE - 4.2 + 2.8 * query)
        for place, end in enumerate(places):
            colour, width = (COLOURS[query], 1.6) if place in near else (PALE, 0.6)
            axes.plot(*zip(start, end, strict=True), color=colour, linewidth=width, zorder=width, alpha=alpha)
        axes.add_patch(Circle(start, 1.0, facecolor=COLOURS[query], alpha=alpha, linewidth=0, zorder=3))
    for left, height in places:
        square = Rectangle((left - 0.5, height - 0.5), 1.0, 1.0, facecolor=GREY, alpha=alpha, linewidth=0, zorder=3)
        axes.add_patch(square)


def draw_queries(axes: Axes, alpha: float) -> None:
    """Object queries: as many as objects can be found, each the seed of one answer."""
    for query in range(4):
        axes.add_patch(Circle((65.5 + 3.0 * query, 7.3), 1.0, facecolor=COLOURS[query], alpha=alpha, linewidth=0))


def draw_predictions(axes: Axes, alpha: float) -> None:
    """The scene with one box per query that found something."""
    picture, _, boxes = draw_scene(*SCENE)
    axes.imshow(picture, extent=(84, 97, MIDDLE - 6.5, MIDDLE + 6.5), alpha=alpha, interpolation="antialiased")
    scale = 13 / picture.shape[0]
    for number, (left, top, width, height) in enumerate(boxes):
        corner = (84 + left * scale, MIDDLE + 6.5 - (top + height) * scale)
        axes.add_patch(Rectangle(corner, width * scale, height * scale, fill=False, edgecolor=COLOURS[number % 8],
                                 linewidth=1.8, alpha=alpha))


def draw_matching(axes: Axes, alpha: float) -> None:
    """Predictions on the left, true objects on the right, tied one to one."""
    for number, partner in enumerate((1, 0, 2)):
        start, end = (80.8, 9.4 - 2.1 * number), (85.6, 9.4 - 2.1 * partner)
        axes.plot(*zip(start, end, strict=True), color=INK, linewidth=1.1, alpha=alpha)
        axes.add_patch(Circle(start, 0.85, facecolor=COLOURS[number], alpha=alpha, linewidth=0, zorder=3))
        axes.add_patch(Rectangle((end[0] - 0.8, end[1] - 0.8), 1.6, 1.6, fill=False, edgecolor=COLOURS[number],
                                 linewidth=1.6, alpha=alpha))


def draw_loss(axes: Axes, alpha: float) -> None:
    """A loss that falls."""
    along = np.linspace(0, 1, 60)
    axes.plot(92 + 5.6 * along, 5.0 + 4.6 * np.exp(-3.2 * along), color=VERMILLION, linewidth=1.8, alpha=alpha)
    axes.plot([92, 92, 97.8], [10.2, 4.6, 4.6], color=GREY, linewidth=0.9, alpha=alpha)


PARTS = {
    "image": Part("image", "", (0.2, 15.6, 14.8, 30.4), draw_image),
    "backbone": Part("backbone", "a CNN", (16.8, 15.6, 28.8, 30.4), draw_backbone),
    "tokens": Part("tokens", "one per place", (30.2, 15.6, 42.6, 30.4), draw_tokens),
    "positions": Part("positions", "", (30.2, 3.6, 42.6, 11.2), draw_positions),
    "encoder": Part("encoder", "places talk to places", (46.2, 15.6, 59.3, 30.4), draw_encoder),
    "decoder": Part("decoder", "queries ask the image", (63.4, 15.6, 76.6, 30.4), draw_decoder),
    "queries": Part("object queries", "", (63.4, 4.6, 76.6, 10.0), draw_queries),
    "predictions": Part("a set of boxes", "", (83.2, 15.6, 97.8, 30.4), draw_predictions),
    "matching": Part("matching", "", (79.2, 3.6, 87.2, 11.2), draw_matching),
    "loss": Part("loss", "", (90.4, 3.6, 98.8, 11.2), draw_loss),
}
ARROWS = (
    ((15.2, MIDDLE), (17.4, MIDDLE)), ((28.9, MIDDLE), (31.0, MIDDLE)), ((42.9, MIDDLE), (45.8, MIDDLE)),
    ((59.8, MIDDLE), (63.0, MIDDLE)), ((77.1, MIDDLE), (82.8, MIDDLE)), ((36.4, 11.9), (36.4, 15.4)),
    ((70.0, 10.9), (70.0, 15.0)), ((85.2, 15.2), (83.6, 11.9)), ((87.7, 7.4), (89.9, 7.4)),
)

# What a notebook is about -> the parts it lights, and the sentence that says so.
TOPICS: dict[str, tuple[tuple[str, ...], str]] = {
    "all": (tuple(PARTS), "the whole detector"),
    "attention": (("encoder", "decoder"), "attention, the one step inside both encoder and decoder"),
    "self_and_cross_attention": (("encoder", "decoder"), "self-attention between places, cross-attention from queries"),
    "positions": (("tokens", "positions"), "the tokens' positions"),
    "boxes": (("predictions",), "the boxes that come out"),
    "encoder": (("image", "backbone", "tokens", "encoder"), "from the image to the encoder's memory"),
    "decoder": (("queries", "decoder"), "the object queries and the decoder"),
    "matching": (("predictions", "matching"), "matching predictions to true objects"),
    "loss": (("matching", "loss"), "the loss on matched pairs"),
    "training": (("predictions", "matching", "loss"), "training: predict, match, compare, improve"),
    "cross_attention": (("queries", "decoder"), "cross-attention: where the queries look"),
}


# ---------------------------------------------------------------- the whole


def draw_pipeline(topic: str, badges: dict[str, str] | None = None) -> Figure:
    """The drawing with the parts of a topic lit. badges: part -> a few letters beside its title (notebook numbers).

    Raises ValueError, naming the choices, for a topic that is not in TOPICS.
    """
    if topic not in TOPICS:
        raise ValueError(f"no part of the drawing is called {topic!r}: choose one of {', '.join(TOPICS)}")
    lit = TOPICS[topic][0]
    low, high = (-3.5, SPAN[1] + 3.5) if badges else (0.0, SPAN[1])
    figure, axes = canvas(height=7.6 * (high - low) / SPAN[0])
    for name, part in PARTS.items():
        if name in lit and len(lit) < len(PARTS):
            glow(axes, part.frame)
        part.draw(axes, 1.0 if name in lit else DIM)
        label(axes, part, name in lit, (badges or {}).get(name, ""))
    for start, end in ARROWS:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=GREY, linewidth=1.2,
                                       shrinkA=0, shrinkB=0))
    axes.set(xlim=(0, SPAN[0]), ylim=(low, high), aspect="equal")
    axes.set_axis_off()
    return figure


def glow(axes: Axes, frame: tuple[float, float, float, float]) -> None:
    """The light behind a part."""
    left, bottom, right, top = frame
    shape = "round,pad=0.3,rounding_size=1.4"
    axes.add_patch(FancyBboxPatch((left, bottom), right - left, top - bottom, boxstyle=shape, linewidth=2,
                                  facecolor="#FFF3D6", edgecolor=ORANGE, zorder=0))


def label(axes: Axes, part: Part, lit: bool, badge: str) -> None:
    """A part's name and note, above its picture in the upper row and below it in the lower one."""
    left, bottom, right, top = part.frame
    middle, upper = (left + right) / 2, bottom > MIDDLE / 2
    colour, weight = (INK, "bold") if lit else (GREY, "normal")
    height = top + 3.6 if upper else 1.6
    axes.text(middle, height, part.title, ha="center", va="center", fontsize=9.5, color=colour, weight=weight)
    axes.text(middle, top + 1.6, part.note, ha="center", va="center", fontsize=7.5, color=colour)
    if badge:
        ground = {"boxstyle": "round,pad=0.25", "facecolor": INK, "edgecolor": "none"}
        axes.text(middle, height + (3.4 if upper else -3.2), badge, ha="center", va="center", fontsize=8,
                  color="white", weight="bold", bbox=ground)


def describe(topic: str) -> str:
    """The drawing in words."""
    return (
        "The detector as a row of parts. An image goes through a backbone and becomes tokens, one per place, to which "
        "positions are added. The encoder lets places talk to places. The decoder lets object queries ask the image. "
        f"Out comes a set of boxes; in training they are matched to the truth and a loss is taken. Lit here: "
        f"{TOPICS[topic][1]}."
    )
