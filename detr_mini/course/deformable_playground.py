"""DeformablePlayground: drag a query's reference point over a scene, and see where its heads read, and what it finds.

As in box_playground.py: pure functions from a state to a figure and to words, and a thin shell around them. Nothing
is imitated. At every move the shipped detector's own decoder runs, with one number pair changed: the reference point
of one query. What is drawn is what an AttentionTrace recorded of that run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import ipywidgets
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from detr_mini import zoo
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.checkpoints import load_weights
from detr_mini.course.attention_explorer import WHITE, outline
from detr_mini.course.explorer import Explorer
from detr_mini.course.plots import BLACK, COLOURS, GLOW, GREY, ORANGE, WIDTH, array, channels_last
from detr_mini.course.race import HELD_OUT_SEED
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.data.transforms import build_transform
from detr_mini.decoder import Decoder, Queries
from detr_mini.files import DATA
from detr_mini.positions import Grid
from detr_mini.trace import AttentionTrace, splat
from detr_mini.variants.deformable import DeformableDetr

HEIGHT = 4.05  # inches
SIDE, LOW, LEFTS = 3.72, 0.04, (0.03, WIDTH - 3.75)  # inches: side of both pictures, their lower and left edges
SCENES, QUERIES, LAYERS, HEADS = 8, 25, 3, 8
LEVELS = {"trained": 1, "untrained": 1, "untrained, four levels": 4}  # the detectors, and their feature maps
MARKS = "osD^"  # one per level


@dataclass(frozen=True)
class Dragged:
    """What the learner sets. detector: a key of LEVELS. scene: which held-out scene. query: whose point is dragged.

    x, y: the reference point of layer 1, fractions of the image. layer: 1 to 3. head: 1 to 8, 0 for all of them.
    level: 1, 2, ... from fine to coarse, 0 for all.
    """

    detector: str = "trained"
    scene: int = 0
    query: int = 15
    x: float = 0.5
    y: float = 0.32
    layer: int = 1
    head: int = 0
    level: int = 0


@dataclass(frozen=True)
class Read:
    """What the query did in the state's layer, and what it says in the end.

    locations: (heads, levels, points, 2) x and y, 0 to 1. weights: (heads, levels, points), each head's sum to 1. maps:
    per level (heads, h, w), each weight shared out among the four cells around its place. reference: (4,) the box that
    the layer started from, xyxy; without extent for a point. box, last: (4,) xyxy after this layer and after the last.
    label, score: the surest class after the last layer.
    """

    locations: Tensor
    weights: Tensor
    maps: list[Tensor]
    reference: Tensor
    box: Tensor
    last: Tensor
    label: int
    score: float


# ---------------------------------------------------------------- the detector's own answer


@cache
def detector(name: str) -> DeformableDetr:
    """One of LEVELS: the shipped weights, or an untrained detector whose random numbers are always the same."""
    if name == "trained":
        return load_weights(DATA / "weights/deformable.safetensors").eval()
    recipe = replace(zoo.recipe("deformable").model, levels=LEVELS[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return zoo.build("deformable", model=recipe).eval()


@cache
def scene(index: int) -> Tensor:
    """A held-out scene, (3, 128, 128) uint8."""
    return Scenes(SCENES, seed=HELD_OUT_SEED)[index][0]


@cache
def encoded(name: str, index: int) -> tuple[Tensor, Grid]:
    """What the decoder is given: memory (1, HW, d) of a scene, and its grid."""
    image, target = Scenes(SCENES, seed=HELD_OUT_SEED)[index]
    ready = build_transform(zoo.recipe("deformable").data, train=False)(image, target)[0][None]  # (1, 3, 128, 128)
    model = detector(name)
    with torch.no_grad():
        tokens, grid = model.tokenize(ready, torch.zeros(1, *ready.shape[-2:], dtype=torch.bool))
        return model.encoder(tokens, grid), grid


def home(name: str, query: int) -> tuple[float, float]:
    """The reference point that a query has by itself, in every image."""
    decoder = detector(name).decoder
    with torch.no_grad():
        point = decoder.init_queries(*encoded(name, 0)).reference[0, query]
    return tuple(point.tolist())


@contextmanager
def placed(decoder: Decoder, query: int, point: Tensor) -> Iterator[None]:
    """While open, one query starts from another reference point; all else of it stays.

    point: (2,) x and y, 0 to 1, for every image alike, or (B, 2).
    """
    own = decoder.init_queries

    def init_queries(memory: Tensor, grid: Grid) -> Queries:
        queries = own(memory, grid)
        reference = queries.reference.clone()  # (B, Q, 2)
        reference[:, query] = point
        return replace(queries, reference=reference)

    decoder.init_queries = init_queries
    try:
        yield
    finally:
        del decoder.init_queries  # the method of the class is visible again


@lru_cache(maxsize=64)
def run(name: str, index: int, query: int, point: tuple[float, float]) -> list[Read]:
    """The whole decoder with one query at this point: what it did and said, layer by layer."""
    (memory, grid), decoder = encoded(name, index), detector(name).decoder
    with torch.no_grad(), placed(decoder, query, torch.tensor(point)), AttentionTrace(decoder) as trace:
        output = decoder(memory, grid)
    boxes, (score, label) = cxcywh_to_xyxy(output.boxes[:, 0, query]), output.logits[-1, 0, query].sigmoid().max(-1)
    references = cxcywh_to_xyxy(trace[""].reference[:, 0, query])  # (L, 4)
    said = boxes[-1], int(label), float(score)
    return [Read(*looked(trace, layer, query, grid), references[layer], boxes[layer], *said) for layer in range(LAYERS)]


def looked(trace: AttentionTrace, layer: int, query: int, grid: Grid) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Locations, weights and maps of one query in one layer, as in Read."""
    record = trace[f"layers.{layer}.cross_attention"]
    locations, weights = (part[:, query: query + 1] for part in (record.locations, record.weights))  # (1, 1, ...)
    maps = [splat(locations[..., level, :, :], weights[..., level, :], shape)[0, :, 0].unflatten(-1, shape)
            for level, shape in enumerate(grid.shapes)]
    return locations[0, 0], weights[0, 0], maps


def read(state: Dragged) -> Read:
    """What the query of a state does in its layer."""
    return run(state.detector, state.scene, state.query, (state.x, state.y))[state.layer - 1]


def shown(state: Dragged) -> tuple[slice, slice]:
    """The heads and the levels that are drawn."""
    heads = slice(None) if state.head == 0 else slice(state.head - 1, state.head)
    return heads, slice(None) if state.level == 0 else slice(state.level - 1, state.level)


# ---------------------------------------------------------------- the picture


def render_dragged(state: Dragged) -> Figure:
    """The picture of one state. Left: the scene with the places that are read. Right: the cells that this reads."""
    found, image = read(state), channels_last(scene(state.scene))
    figure = Figure(figsize=(WIDTH, HEIGHT))
    left, right = (figure.add_axes((x / WIDTH, LOW / HEIGHT, SIDE / WIDTH, SIDE / HEIGHT), xlim=(0, 1), ylim=(1, 0),
                                   xticks=[], yticks=[]) for x in LEFTS)
    left.imshow(0.25 + 0.75 * image, extent=(0, 1, 1, 0), interpolation="antialiased", aspect="auto")
    right.imshow(0.1 + 0.35 * image.mean(2, keepdims=True).repeat(3, 2), extent=(0, 1, 1, 0), aspect="auto")
    draw_places(left, state, found)
    draw_cells(right, state, found)
    for axes in (left, right):
        draw_frames(axes, state, found)
        axes.spines[:].set(visible=True, color=GREY, linewidth=0.6)
    heads = f"head {state.head}" if state.head else "all heads"
    left.set_title(f"layer {state.layer}, {heads}: places", fontsize=10, pad=4)
    right.set_title(f"what is read{f' on level {state.level}' if state.level else ''}", fontsize=10, pad=4)
    return figure


def draw_places(axes: Axes, state: Dragged, found: Read) -> None:
    """A dot per sample, as large as its weight, in its head's colour, with a mark per level; a thread per head."""
    heads, levels = shown(state)
    places, weights = array(found.locations[heads, levels]), array(found.weights[heads, levels])  # (n, L, points, 2)
    colours = COLOURS[heads]
    threads = [[(state.x, state.y), *level] for head in places for level in head]
    shades = [colour for colour in colours for _ in places[0]]
    axes.add_collection(LineCollection(threads, colors=shades, linewidths=0.8, alpha=0.6))
    for mark, at, weight in zip(MARKS[levels], places.swapaxes(0, 1), weights.swapaxes(0, 1), strict=False):
        x, y = at.reshape(-1, 2).T  # (n * points,) each
        shades = [colour for colour in colours for _ in range(weight.shape[1])]
        sizes = 12 + 150 * weight.ravel()
        axes.scatter(x, y, s=sizes, c=shades, marker=mark, edgecolors=WHITE, linewidths=0.8, zorder=4)


def draw_cells(axes: Axes, state: Dragged, found: Read) -> None:
    """The map of the cells: mean over the drawn heads, sum over the drawn levels, each spread out over its area."""
    heads, levels = shown(state)
    maps = [part[heads].mean(0) for part in found.maps[levels]]  # [(h, w)]
    fine = maps[0].shape
    total = sum(F.interpolate(part[None, None], fine)[0, 0] * part.numel() / maps[0].numel() for part in maps)  # (h, w)
    glow = array(total / total.max().clamp(min=1e-9))
    colours = GLOW(glow)
    colours[..., 3] = 0.9 * np.sqrt(glow)
    axes.imshow(colours, extent=(0, 1, 1, 0), aspect="auto")


def draw_frames(axes: Axes, state: Dragged, found: Read) -> None:
    """The box after this layer, the box that the layer started from, and the point that is dragged."""
    outline(axes, found.box.tolist(), ORANGE, 2.2)
    if not is_point(found.reference):
        outline(axes, found.reference.tolist(), WHITE, 1.4, (0, (4, 2.5)))
    for colour, thick, size in ((BLACK, 4.4, 14), (WHITE, 2.0, 12)):
        axes.plot(state.x, state.y, marker="x", color=colour, markersize=size, markeredgewidth=thick, zorder=6)


def describe_dragged(state: Dragged) -> str:
    """One state in words."""
    found, (heads, levels) = read(state), shown(state)
    places = found.locations[heads, levels].flatten(0, -2)  # (n, 2)
    weights = found.weights[heads, levels].flatten()  # (n,)
    far = (places - torch.tensor([state.x, state.y])).norm(dim=-1).max() * 128
    outside = int(((places < 0) | (places > 1)).any(-1).sum())
    who = f"head {state.head}" if state.head else f"all {HEADS} heads"
    on = f", level {state.level} of {LEVELS[state.detector]}" if state.level else ""
    start = "the point" if is_point(found.reference) else "the dashed box of the layer before"
    each = ", ".join(f"{weight:.2f}" for weight in weights.tolist())
    weigh = f"weights {each}" if len(weights) <= 4 else f"weights from {weights.min():.2f} to {weights.max():.2f}"
    words = [
        f"{state.detector.capitalize()}, scene {state.scene}. Query {state.query}'s reference point is at "
        f"({state.x:.2f}, {state.y:.2f}).",
        f"Layer {state.layer}, {who}{on}: {len(weights)} places around {start}, the farthest {far:.0f} pixels from the "
        f"cross, {weigh}; {outside or 'none'} of them outside the image.",
    ]
    if state.detector == "trained":
        box = ", ".join(f"{value * 128:.0f}" for value in found.last.tolist())
        words.append(f"In the end it says: {CLASSES[found.label]}, {found.score:.2f}, box ({box}).")
    return " ".join(words)


def is_point(box: Tensor) -> bool:
    """Whether a box (4,) xyxy has no extent."""
    return bool((box[2:] - box[:2]).sum() < 1e-6)


# ---------------------------------------------------------------- the shell


def place_in_picture(across: float, down: float) -> tuple[float, float] | None:
    """A point of the figure (fractions from its upper left corner) as a point of the image, in either picture.

    None between and beside them.
    """
    y = 1 - ((1 - down) * HEIGHT - LOW) / SIDE
    for left in LEFTS:
        x = (across * WIDTH - left) / SIDE
        if 0 <= x <= 1 and 0 <= y <= 1:
            return round(x, 2), round(y, 2)
    return None


class DeformablePlayground(Explorer):
    """A query's reference point over a scene: where its heads read, how much each place counts, and what it finds.

    Press or drag in the picture to move the point, or use the sliders: Tab goes from control to control, the arrow keys
    move them. Another query starts at its own place; the button brings it back there.
    Raises ValueError for a state that these detectors do not have, naming the choices.
    """

    def __init__(self, state: Dragged | None = None) -> None:
        first = state or Dragged()
        refuse_unknown(first)
        super().__init__(first, make_controls(first), render_dragged, describe_dragged,
                         "Left, a scene and the places that one query reads, a colour per head, larger with more "
                         "weight; right, the cells that this reads.", "drag", (1, 2, 2, 2, 1))
        self.button = ipywidgets.Button(description="back to its own place", layout={"width": "14em"})
        self.button.on_click(lambda button: self.move_to(at_home(self.state)))
        self.box.children[4].children += (self.button,)

    def read(self, name: str, values: dict[str, object]) -> Dragged:
        """Another query starts at its own place; a detector with one level shows that one."""
        state = replace(self.state, **{name: values[name]})
        state = replace(state, level=min(state.level, LEVELS[state.detector]))
        return at_home(state) if name == "query" else state

    def point(self, phase: str, x: float, y: float) -> None:
        """Pressing or moving puts the point there. So does letting go, for the last move may have been lost."""
        place = place_in_picture(x, y)
        if phase != "hover" and place:
            self.move_to(replace(self.state, x=place[0], y=place[1]))


def at_home(state: Dragged) -> Dragged:
    """The same state with the query at its own reference point."""
    x, y = home(state.detector, state.query)
    return replace(state, x=round(x, 2), y=round(y, 2))


def refuse_unknown(state: Dragged) -> None:
    """ValueError, naming the choices, for what these detectors do not have."""
    if state.detector not in LEVELS:
        raise ValueError(f"no detector {state.detector!r}: choose one of {', '.join(LEVELS)}")
    ranges = {"scene": (0, SCENES - 1), "query": (0, QUERIES - 1), "layer": (1, LAYERS), "head": (0, HEADS),
              "level": (0, LEVELS[state.detector]), "x": (0, 1), "y": (0, 1)}
    for name, (low, high) in ranges.items():
        if not low <= getattr(state, name) <= high:
            raise ValueError(f"no {name} {getattr(state, name)}: choose {low} to {high}")


def make_controls(first: Dragged) -> dict[str, ipywidgets.Widget]:
    """The detector, where the point is, and whose, in which layer, head and level."""
    look = {"style": {"description_width": "4.5em"}, "layout": {"width": "23em"}}
    numbers = {"scene": (0, SCENES - 1), "query": (0, QUERIES - 1), "layer": (1, LAYERS), "head": (0, HEADS),
               "level": (0, max(LEVELS.values()))}
    sliders = {name: ipywidgets.IntSlider(value=getattr(first, name), min=low, max=high, description=name, **look)
               for name, (low, high) in numbers.items()}
    points = {name: ipywidgets.FloatSlider(value=getattr(first, name), max=1, step=0.01, description=name, **look)
              for name in ("x", "y")}
    kinds = ipywidgets.ToggleButtons(options=list(LEVELS), value=first.detector, description="detector",
                                     style={"description_width": "4.5em", "button_width": "12em"})
    return {"detector": kinds, **points, **sliders}
