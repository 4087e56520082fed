"""TrainingReplay: slide through a recorded training; see what every query said, who owned what, where one looked.

As in widgets.py: a pure function from state to figure, and a thin shell of sliders around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course.explorer import Explorer, choice, slider
from detr_mini.course.plots import (
    BLACK,
    GLOW,
    GREY,
    INK,
    ORANGE,
    SKY,
    WIDTH,
    channels_last,
)
from detr_mini.course.recorder import Recording

HEIGHT = 3.9  # inches
NUMBER = (0.062, 0.044)  # width, height of the box behind a number of two digits, in longer sides of the picture


@dataclass(frozen=True)
class Moment:
    """What the learner sets: the row of a step, an image, a query."""

    row: int = 0
    image: int = 0
    query: int = 0


@dataclass(frozen=True)
class Said:
    """What one query says at a moment. box: xyxy in pixels. owner: its object's index, -1 for none.

    score, label: of its best class. map: (h, w), the mean of all heads of the last layer. places: over how many cells
    that map is spread, as e to the power of its entropy.
    """

    step: int
    box: list[float]
    owner: int
    score: float
    label: int
    map: Tensor
    places: float


def said(recording: Recording, moment: Moment) -> Said:
    """Read one query off a recording."""
    at = (moment.row, -1, moment.image)
    score, label = recording.logits[at][moment.query].sigmoid().max(0)
    weights = recording.attention[at][:, moment.query].mean(0)  # (h, w)
    places = torch.special.entr(weights).sum().exp()
    box = pixels(recording.boxes[at][moment.query], recording.images)
    return Said(recording.steps[moment.row], box.tolist(), int(recording.owners[at][moment.query]), float(score),
                int(label), weights, float(places))


def pixels(boxes: Tensor, images: Tensor) -> Tensor:
    """Normalised cxcywh (..., 4) to xyxy in pixels of the images (B, 3, H, W)."""
    height, width = images.shape[-2:]
    return cxcywh_to_xyxy(boxes) * torch.tensor([width, height, width, height])


def owners_of_things(recording: Recording, moment: Moment) -> list[tuple[int, int]]:
    """(thing, query) for each thing of the image that is owned, in the order of the things."""
    owners = recording.owners[moment.row, -1, moment.image].tolist()
    return sorted((thing, query) for query, thing in enumerate(owners) if thing >= 0)


def render_replay(recording: Recording, classes: Sequence[str], moment: Moment) -> Figure:
    """The picture of one moment. Left: the image, all boxes pale, owners blue, the chosen query orange, things dashed;
    owners with their numbers. Right: where the chosen query looks."""
    query, picture = said(recording, moment), channels_last(recording.images[moment.image])
    height, width = picture.shape[:2]
    figure = Figure(figsize=(WIDTH, HEIGHT))
    shape = {"xlim": (-0.5, width - 0.5), "ylim": (height - 0.5, -0.5), "xticks": [], "yticks": []}
    left, right = (figure.add_axes((x, 0.01, 0.485, 0.92), **shape) for x in (0.0, 0.515))
    left.imshow(0.35 + 0.65 * picture)
    draw_boxes(left, recording, moment)
    right.imshow(0.2 + 0.35 * picture.mean(2, keepdims=True).repeat(3, 2))
    weights = (query.map / query.map.max()).numpy()
    glow = GLOW(weights)
    glow[..., 3] = 0.9 * weights**0.5
    right.imshow(glow, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    outline(right, query.box, ORANGE, 2.0)
    left.set_title(f"step {query.step:,}: what the queries say", fontsize=10)
    right.set_title(f"where query {moment.query} looks", fontsize=10)
    return figure


def draw_boxes(axes: Axes, recording: Recording, moment: Moment) -> None:
    """All boxes of the final layer, and the true ones; the owners' numbers on top of them all."""
    boxes = pixels(recording.boxes[moment.row, -1, moment.image], recording.images).tolist()
    owners = [query for _, query in owners_of_things(recording, moment)]
    for query, box in enumerate(boxes):
        if query != moment.query:
            outline(axes, box, *((SKY, 1.8) if query in owners else (GREY, 0.7)))
    for box in pixels(recording.targets[moment.image]["boxes"], recording.images).tolist():
        outline(axes, box, INK, 1.2, (0, (3, 2)))
    outline(axes, boxes[moment.query], ORANGE, 2.8)
    size, taken = recording.images.shape[:1:-1], []  # (width, height)
    for query in owners:
        taken.append(place_for(boxes[query], size, taken))
        ground = {"facecolor": "white", "edgecolor": ORANGE if query == moment.query else SKY, "pad": 1.5}
        axes.text(*taken[-1], str(query), ha="center", va="center_baseline", fontsize=8, weight="bold", color=BLACK,
                  zorder=5, bbox=ground)


def place_for(box: Sequence[float], size: Sequence[int], taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The middle of a number at its frame: outside a corner or inside one, within the picture, where no other stands.

    box: xyxy in pixels. size: width, height of the picture. taken: the middles of the other numbers. Where everything
    is taken, the place farthest from them.
    """
    (left, top, right, bottom), (wide, high) = box, (part * max(size) for part in NUMBER)
    columns = (left + wide / 2, right - wide / 2)
    rows = (top - high / 2, bottom + high / 2, top + high / 2, bottom - high / 2)
    places = [(min(max(x, wide / 2), size[0] - 1 - wide / 2), min(max(y, high / 2), size[1] - 1 - high / 2))
              for y in rows for x in columns]

    def room(spot: tuple[float, float]) -> float:
        """How far the nearest number is, in boxes; 1 is enough, so that the first such place is taken."""
        return min([1.0, *(max(abs(spot[0] - x) / wide, abs(spot[1] - y) / high) for x, y in taken)])

    return max(places, key=room)


def outline(axes: Axes, box: Sequence[float], colour: str, thick: float, style: object = "-") -> None:
    """One frame; box: xyxy in pixels."""
    left, top, right, bottom = box
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=thick,
                             linestyle=style))


def describe_replay(recording: Recording, classes: Sequence[str], moment: Moment) -> str:
    """One moment in words; the last of them say which query owns which thing."""
    query = said(recording, moment)
    left, top, right, bottom = query.box
    label = recording.targets[moment.image]["labels"]
    owned = f"is matched with the {classes[int(label[query.owner])]}" if query.owner >= 0 else "is matched with nothing"
    owners = [f"{classes[int(label[thing])]}: query {number}" for thing, number in owners_of_things(recording, moment)]
    return (f"Step {query.step:,}, image {moment.image}. Query {moment.query} says a box of {right - left:.0f} x "
            f"{bottom - top:.0f} pixels around ({(left + right) / 2:.0f}, {(top + bottom) / 2:.0f}). Its best class is "
            f"{classes[query.label]} with {query.score:.2f}. It {owned}. Its attention is spread over about "
            f"{query.places:.0f} of {query.map.numel()} places. Owners: {', '.join(owners) or 'none'}.")


class TrainingReplay(Explorer):
    """Three sliders over a Recording: step, image, query.

    classes: names by label. first: the moment that is shown first. Tab moves between the sliders, the arrow keys move
    them. Raises ValueError for a first moment that the recording does not have.
    """

    def __init__(self, recording: Recording, classes: Sequence[str], first: Moment | None = None) -> None:
        first = first or Moment(row=len(recording.steps) - 1)
        rows, _, images, queries = recording.owners.shape
        if not (first.row < rows and first.image < images and first.query < queries):
            raise ValueError(f"{first} is not in this recording: it has {rows} steps, {images} images, "
                             f"{queries} queries")
        controls = {
            "row": choice("step", first.row, [(f"{step:,}", row) for row, step in enumerate(recording.steps)]),
            "image": slider("image", first.image, images - 1),
            "query": slider("query", first.query, queries - 1),
        }
        super().__init__(first, controls, lambda moment: render_replay(recording, classes, moment),
                         lambda moment: describe_replay(recording, classes, moment),
                         "Sliders choose step, image and query of a recorded training.")
