"""TokenExplorer: choose a place in a scene and see where the encoder's self-attention looks from there.

As in widgets.py: a pure function from state to figure, and a thin shell of sliders around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course.explorer import Explorer, choice, slider
from detr_mini.course.plots import GLOW, INK, SKY, WIDTH, channels_last
from detr_mini.data.transforms import build_transform, collate
from detr_mini.detr import Detr
from detr_mini.recipes import DataRecipe
from detr_mini.trace import AttentionTrace

HEIGHT = 3.9  # inches
MEAN = -1  # in place of a head: the mean of them all


@dataclass(frozen=True)
class Place:
    """What the learner sets: which scene, a place (row and column of the feature map), an encoder layer, a head.

    All are indices into Watched, from 0; head MEAN is the mean of all. Words, titles and controls count layers and
    heads from 1: Place(layer=1, head=2) is shown as "layer 2, head 3".
    """

    scene: int = 0
    row: int = 0
    column: int = 0
    layer: int = 0
    head: int = MEAN


@dataclass(frozen=True)
class Watched:
    """What the encoder attended to in S scenes: images (S, 3, H, W) uint8, targets with labels and boxes (M, 4) cxcywh,
    attention (S, layers, heads, h * w, h, w), and the names of the classes."""

    images: Tensor
    targets: Sequence[dict]
    attention: Tensor
    classes: Sequence[str]


def watch(model: Detr, dataset: torch.utils.data.Dataset, scenes: Sequence[int], data: DataRecipe) -> Watched:
    """Record the encoder's self-attention on some scenes of one size."""
    items = [dataset[index] for index in scenes]
    batch = collate([build_transform(data, train=False)(*item) for item in items])
    with torch.no_grad(), AttentionTrace(model) as trace:
        model(batch.images, batch.mask)
    layers = range(len(model.encoder.layers))
    attention = torch.stack([trace.maps(f"encoder.layers.{layer}.self_attention") for layer in layers], dim=1)
    return Watched(torch.stack([image for image, _ in items]), [target for _, target in items], attention,
                   dataset.classes)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which places lie in which box, by their centres: (M, 4) cxcywh -> (M, height * width) bool."""
    down, across = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width,
                                  indexing="ij")  # (h, w) each
    left, top, right, bottom = cxcywh_to_xyxy(boxes).T[..., None]  # (M, 1) each
    x, y = across.flatten(), down.flatten()  # (hw,)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def weights_at(watched: Watched, state: Place) -> Tensor:
    """Where the chosen place looks, (h, w), adding up to 1."""
    width = watched.attention.shape[-1]
    maps = watched.attention[state.scene, state.layer, :, state.row * width + state.column]  # (heads, h, w)
    return maps.mean(0) if state.head == MEAN else maps[state.head]


def render_place(watched: Watched, state: Place) -> Figure:
    """Left: the scene, the places as a fine grid, the chosen one framed. Right: where it looks."""
    picture, weights = channels_last(watched.images[state.scene]), weights_at(watched, state)
    height, width = picture.shape[:2]
    tall, wide = height / weights.shape[0], width / weights.shape[1]
    figure = Figure(figsize=(WIDTH, HEIGHT))
    shape = {"xlim": (-0.5, width - 0.5), "ylim": (height - 0.5, -0.5), "xticks": [], "yticks": []}
    left, right = (figure.add_axes((x, 0.01, 0.485, 0.92), **shape) for x in (0.0, 0.515))
    left.imshow(picture)
    left.vlines([i * wide - 0.5 for i in range(1, weights.shape[1])], -0.5, height, color="white", lw=0.5, alpha=0.6)
    left.hlines([i * tall - 0.5 for i in range(1, weights.shape[0])], -0.5, width, color="white", lw=0.5, alpha=0.6)
    right.imshow(0.2 + 0.35 * picture.mean(2, keepdims=True).repeat(3, 2))
    strength = (weights / weights.max()).numpy()
    glow = GLOW(strength)
    glow[..., 3] = 0.9 * strength**0.5
    right.imshow(glow, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    corner = (state.column * wide - 0.5, state.row * tall - 0.5)
    for axes in (left, right):
        for ink, thick in ((INK, 4.0), (SKY, 2.2)):
            axes.add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor=ink, linewidth=thick))
    left.set_title(f"the place in row {state.row}, column {state.column}", fontsize=10)
    right.set_title(f"where it looks: layer {state.layer + 1}, {head_name(state.head)}", fontsize=10)
    return figure


def head_name(head: int) -> str:
    """A head's index as one says it: 0 is "head 1"."""
    return "mean of all heads" if head == MEAN else f"head {head + 1}"


def describe_place(watched: Watched, state: Place) -> str:
    """One state in words: what the place is on, how much it looks at that thing, and where it looks most."""
    weights, target = weights_at(watched, state), watched.targets[state.scene]
    rows, columns = weights.shape
    covers = inside(target["boxes"], rows, columns)  # (M, hw)
    best = divmod(int(weights.argmax()), columns)
    said = (f"Scene {state.scene}, row {state.row}, column {state.column}, layer {state.layer + 1}, "
            f"{head_name(state.head)}. It looks most at row {best[0]}, column {best[1]}. ")
    things = covers[:, state.row * columns + state.column].nonzero().flatten().tolist()
    if not things:
        return said + f"It is on the ground, and gives {float(weights.flatten()[covers.any(0)].sum()):.0%} to things."
    thing = min(things, key=lambda index: int(covers[index].sum()))
    given, area = float(weights.flatten()[covers[thing]].sum()), float(covers[thing].float().mean())
    name = watched.classes[int(target["labels"][thing])]
    return said + f"It is on the {name}, which covers {area:.0%} of all places and gets {given:.0%} of its attention."


class TokenExplorer(Explorer):
    """Sliders for scene, row, column, layer and head over recorded encoder attention.

    Layers and heads are numbered from 1; the head "mean" is the mean of all. first: the state shown first. Raises
    ValueError for one that was not recorded.
    """

    def __init__(self, watched: Watched, first: Place | None = None) -> None:
        first = first or Place()
        scenes, layers, heads, _, rows, columns = watched.attention.shape
        if not (0 <= first.scene < scenes and 0 <= first.row < rows and 0 <= first.column < columns
                and 0 <= first.layer < layers and MEAN <= first.head < heads):
            raise ValueError(f"{first} was not recorded: there are {scenes} scenes, {rows} rows, {columns} columns, "
                             f"{layers} layers, {heads} heads, each counted from 0")
        controls = {
            "scene": slider("scene", first.scene, scenes - 1),
            "row": slider("row", first.row, rows - 1),
            "column": slider("column", first.column, columns - 1),
            "layer": choice("layer", first.layer, [(str(index + 1), index) for index in range(layers)]),
            "head": choice("head", first.head, [("mean", MEAN), *((str(index + 1), index) for index in range(heads))]),
        }
        super().__init__(first, controls, lambda state: render_place(watched, state),
                         lambda state: describe_place(watched, state),
                         "Sliders choose a scene, a place in it, a layer and a head of the encoder.")
