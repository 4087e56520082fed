"""SmcaPlayground: drag a query's centre over a scene, widen or flatten its Gaussians, and see what becomes of its look.

As in box_playground.py: pure functions from a state to a figure and to words, and a thin shell around them. Nothing
is imitated. At every move the shipped detector's own decoder runs, with the centre of one query changed and its scales
multiplied. The Gaussian and the attention are what an AttentionTrace recorded of that run; the dot product is taken
from the same run's queries, by `score_terms`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import NamedTuple

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Rectangle
from torch import Tensor, nn

from detr_mini import zoo
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.checkpoints import load_weights
from detr_mini.course.attention_explorer import WHITE, ellipse, outline
from detr_mini.course.explorer import Explorer
from detr_mini.course.looking import entropy, listen, score_terms
from detr_mini.course.plots import BLACK, GLOW, INK, ORANGE, WIDTH, array, channels_last
from detr_mini.course.race import HELD_OUT_SEED
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.data.transforms import build_transform
from detr_mini.decoder import Queries
from detr_mini.files import DATA
from detr_mini.positions import Grid
from detr_mini.trace import AttentionTrace
from detr_mini.variants.smca import SmcaDecoder, SmcaDetr

HEIGHT = 4.12  # inches
SCENES, QUERIES, LAYERS, HEADS, WIDEST = 8, 25, 3, 8, 3.0


class Frame(NamedTuple):
    """Where one square picture stands in the figure, in inches."""

    left: float
    low: float
    side: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the picture, 0 to 1 with y downwards, in inches of the figure."""
        return self.left + self.side * x, self.low + self.side * (1 - y)

    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, low, high, as imshow wants them."""
        return self.left, self.left + self.side, self.low, self.low + self.side


SCENE = Frame(0.03, 0.04, 3.8)
MAPS = {"Gaussian": Frame(4.02, 2.1, 1.72), "dot product": Frame(5.85, 2.1, 1.72), "attention": Frame(4.02, 0.04, 1.72)}
WORDS = (5.87, 1.76)  # inches: upper left corner of the lines of text


@dataclass(frozen=True)
class Centred:
    """What the learner sets. scene: which held-out scene. query: whose centre is dragged. x, y: the centre, 0 to 1.

    scale_x, scale_y: what the learned scales are multiplied by: 1 leaves them, 0 makes the Gaussian flat. layer: 1 to
    3. head: 1 to 8, 0 for the mean of all.
    """

    scene: int = 0
    query: int = 15
    x: float = 0.42
    y: float = 0.61
    scale_x: float = 1.0
    scale_y: float = 1.0
    layer: int = 1
    head: int = 0


@dataclass(frozen=True)
class Looked:
    """What the query did in the state's layer, and what it says in the end.

    maps: the Gaussian alone, the dot product alone, both; each (heads, h, w), softmax over the places. ellipses:
    (heads, 4) centre and standard deviations, 0 to 1. box: (4,) xyxy, 0 to 1, label and score after the last layer.
    """

    maps: dict[str, Tensor]
    ellipses: Tensor
    box: Tensor
    label: int
    score: float


# ---------------------------------------------------------------- the detector's own answer


@cache
def detector() -> SmcaDetr:
    """SMCA with the shipped weights."""
    return load_weights(DATA / "weights/smca.safetensors").eval()


@cache
def scene(index: int) -> Tensor:
    """A held-out scene, (3, 128, 128) uint8."""
    return Scenes(SCENES, seed=HELD_OUT_SEED)[index][0]


@cache
def encoded(index: int) -> tuple[Tensor, Grid]:
    """What the decoder is given: memory (1, HW, d) of a scene, and its grid."""
    item = Scenes(SCENES, seed=HELD_OUT_SEED)[index]
    ready = build_transform(zoo.recipe("smca").data, train=False)(*item)[0][None]  # (1, 3, 128, 128)
    with torch.no_grad():
        tokens, grid = detector().tokenize(ready, torch.zeros(1, *ready.shape[-2:], dtype=torch.bool))
        return detector().encoder(tokens, grid), grid


@cache
def home(query: int) -> tuple[float, float]:
    """The centre that a query has by itself, in every image."""
    with torch.no_grad():
        return tuple(detector().decoder.init_queries(*encoded(0)).reference[0, query].tolist())


@contextmanager
def centred(decoder: SmcaDecoder, query: int, point: Tensor, factor: Tensor) -> Iterator[None]:
    """While open, one query has another centre, and all its scales are multiplied; all else of it stays.

    point: (2,) x and y, 0 to 1. factor: (2,) for x and y. Boxes follow the centre, as they do.
    """
    own = decoder.init_queries

    def init_queries(memory: Tensor, grid: Grid) -> Queries:
        queries = own(memory, grid)
        reference, centre = queries.reference.clone(), queries.centre.clone()  # (B, Q, 2)
        reference[:, query], centre[:, query] = point, torch.logit(point, eps=1e-3)
        return replace(queries, reference=reference, centre=centre)

    def scaled(module: nn.Module, asking: tuple, scales: Tensor) -> Tensor:
        times = torch.ones_like(scales).unflatten(-1, (-1, 2))  # (B, Q, heads, 2)
        times[:, query] = factor
        return scales * times.flatten(-2)

    hooks = [layer.cross_attention.prior.scale.register_forward_hook(scaled) for layer in decoder.layers]
    decoder.init_queries = init_queries
    try:
        yield
    finally:
        del decoder.init_queries  # the method of the class is visible again
        for hook in hooks:
            hook.remove()


@lru_cache(maxsize=64)
def run(index: int, query: int, point: tuple[float, float], factor: tuple[float, float]) -> list[Looked]:
    """The whole decoder with one query's centre and scales changed: how it looked, layer by layer."""
    (memory, grid), decoder = encoded(index), detector().decoder
    with torch.no_grad(), centred(decoder, query, torch.tensor(point), torch.tensor(factor)):
        with listen(decoder) as heard, AttentionTrace(decoder) as trace:
            output = decoder(memory, grid)
        layers = []
        for layer, asked in zip(decoder.layers, heard, strict=True):
            record = trace[f"layers.{layer.index}.cross_attention"]
            product = sum(score_terms(layer.cross_attention, asked).values()).softmax(-1)  # (1, heads, Q, HW)
            drawn = (record.gaussian.softmax(-1), product, record.weights, record.gaussian)
            layers.append([part[0, :, query].unflatten(-1, grid.shapes[0]) for part in drawn])  # (heads, h, w)
    score, label = output.logits[-1, 0, query].sigmoid().max(-1)
    said = cxcywh_to_xyxy(output.boxes[-1, 0, query]), int(label), float(score)
    return [Looked(dict(zip(MAPS, maps, strict=True)), ellipse(gaussian), *said) for *maps, gaussian in layers]


def look(state: Centred) -> Looked:
    """How the query of a state looks in its layer."""
    return run(state.scene, state.query, (state.x, state.y), (state.scale_x, state.scale_y))[state.layer - 1]


def chosen(state: Centred) -> slice:
    """The heads that are drawn."""
    return slice(None) if state.head == 0 else slice(state.head - 1, state.head)


# ---------------------------------------------------------------- the picture


def render_centred(state: Centred) -> Figure:
    """The picture of one state: the scene with centre, ellipses and box; beside it the three maps, and words.

    One pair of axes, in inches, and no ticks: drawn anew at every move, it has to be quick.
    """
    found, image = look(state), channels_last(scene(state.scene))
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    picture(axes, SCENE, 0.25 + 0.75 * image, f"query {state.query}, layer {state.layer}, {who(state)}")
    draw_marks(axes, state, found)
    dim = 0.1 + 0.35 * image.mean(2, keepdims=True).repeat(3, 2)
    for name, frame in MAPS.items():
        picture(axes, frame, dim, name)
        draw_map(axes, frame, found.maps[name][chosen(state)].mean(0))
        outline(axes, corners(frame, found.box), ORANGE, 1.4)
    axes.text(*WORDS, summary(state, found), va="top", fontsize=9, color=INK, linespacing=1.5)
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    return figure


def picture(axes: Axes, frame: Frame, image: np.ndarray, title: str) -> None:
    """A picture (H, W, 3) in its frame, with its title above."""
    axes.imshow(image, extent=frame.extent(), aspect="auto", interpolation="antialiased")
    axes.text(frame.left, frame.low + frame.side + 0.06, title, fontsize=10, color=INK)


def corners(frame: Frame, box: Tensor) -> list[float]:
    """A box (4,) xyxy, 0 to 1, as left, low, right, high in inches of the figure."""
    left, top, right, bottom = box.tolist()
    return [*frame.at(left, bottom), *frame.at(right, top)]


def draw_map(axes: Axes, frame: Frame, weights: Tensor) -> None:
    """A map (h, w) that glows where its weights are large."""
    glow = array(weights / weights.max().clamp(min=1e-9))
    colours = GLOW(glow)
    colours[..., 3] = 0.9 * np.sqrt(glow)
    axes.imshow(colours, extent=frame.extent(), aspect="auto")


def draw_marks(axes: Axes, state: Centred, found: Looked) -> None:
    """On the scene: an ellipse per drawn head, the box that the query says in the end, the centre that is dragged."""
    left, right, low, high = SCENE.extent()
    inside = Rectangle((left, low), right - left, high - low, transform=axes.transData)
    for x, y, wide, tall in array(found.ellipses[chosen(state)]):
        for colour, thick in ((BLACK, 2.6), (WHITE, 1.3)):
            drawn = axes.add_patch(Ellipse(SCENE.at(x, y), 2 * wide * SCENE.side, 2 * tall * SCENE.side, fill=False,
                                           edgecolor=colour, linewidth=thick))
            drawn.set_clip_path(inside)
    outline(axes, corners(SCENE, found.box), ORANGE, 2.4)
    for colour, thick, size in ((BLACK, 4.4, 14), (WHITE, 2.0, 12)):
        axes.plot(*SCENE.at(state.x, state.y), marker="x", color=colour, markersize=size, markeredgewidth=thick,
                  zorder=6)


def who(state: Centred) -> str:
    """The heads in words."""
    return f"head {state.head}" if state.head else f"all {HEADS} heads"


def spreads(state: Centred, found: Looked) -> list[float]:
    """Over how many places each map is spread, e to the power of its entropy; the mean over the drawn heads."""
    return [float(entropy(maps[chosen(state)]).exp().mean()) for maps in found.maps.values()]


def summary(state: Centred, found: Looked) -> str:
    """A few lines for the picture's corner."""
    lines = [f"{name}: {places:.0f}" for name, places in zip(MAPS, spreads(state, found), strict=True)]
    box = f"{CLASSES[found.label]}, {found.score:.2f}"
    return "\n".join(["spread over, of 64 places", *lines, "", "in the end it says", box])


def describe_centred(state: Centred) -> str:
    """One state in words."""
    found = look(state)
    gaussian, product, attention = (f"{places:.0f}" for places in spreads(state, found))
    box = ", ".join(f"{value * 128:.0f}" for value in found.box.tolist())
    times = {(1.0, 1.0): "as learned", (0.0, 0.0): "0, so the Gaussian is flat"}
    scale = times.get((state.scale_x, state.scale_y), f"times {state.scale_x:.1f} in x and {state.scale_y:.1f} in y")
    return (f"Scene {state.scene}. Query {state.query}'s centre is at ({state.x:.2f}, {state.y:.2f}), its scales "
            f"are {scale}. Layer {state.layer}, {who(state)}: of 64 places the Gaussian is spread over {gaussian}, the "
            f"dot product over {product}, the attention over {attention}. In the end it says: {CLASSES[found.label]}, "
            f"{found.score:.2f}, box ({box}).")


# ---------------------------------------------------------------- the shell


def place_in_picture(across: float, down: float) -> tuple[float, float] | None:
    """A point of the figure (fractions from its upper left corner) as a point of the image; None beside the pictures.

    All four pictures can be dragged on.
    """
    for left, low, side in (SCENE, *MAPS.values()):
        x, y = (across * WIDTH - left) / side, 1 - ((1 - down) * HEIGHT - low) / side
        if 0 <= x <= 1 and 0 <= y <= 1:
            return round(x, 2), round(y, 2)
    return None


class SmcaPlayground(Explorer):
    """A query's centre over a scene: its Gaussians, what its dot product prefers, and the attention made of both.

    Press or drag in a picture to move the centre, or use the sliders: Tab goes from control to control, the arrow keys
    move them. Another query starts at its own centre; the button brings it back there, with the scales it learned.
    Raises ValueError for a state that the detector does not have, naming the choices.
    """

    def __init__(self, state: Centred | None = None) -> None:
        first = state or Centred()
        refuse_unknown(first)
        super().__init__(first, make_controls(first), render_centred, describe_centred,
                         "Left, a scene with a query's centre, an ellipse per head and the box it ends with; right, "
                         "three maps of where it looks: Gaussian, dot product, and the attention made of both.",
                         "drag", (2, 2, 2, 2))
        self.button = ipywidgets.Button(description="back to its own centre", layout={"width": "14em"})
        self.button.on_click(lambda button: self.move_to(at_home(self.state)))
        self.box.children = (*self.box.children[:-1], self.button, self.picture)

    def read(self, name: str, values: dict[str, object]) -> Centred:
        """Another query starts at its own centre, with its own scales."""
        state = replace(self.state, **{name: values[name]})
        return at_home(state) if name == "query" else state

    def point(self, phase: str, x: float, y: float) -> None:
        """Pressing or moving puts the centre there. So does letting go, for the last move may have been lost."""
        place = place_in_picture(x, y)
        if phase != "hover" and place:
            self.move_to(replace(self.state, x=place[0], y=place[1]))


def at_home(state: Centred) -> Centred:
    """The same state with the query at its own centre, its scales as learned."""
    x, y = home(state.query)
    return replace(state, x=round(x, 2), y=round(y, 2), scale_x=1.0, scale_y=1.0)


RANGES = {"x": (0, 1), "y": (0, 1), "scale_x": (0, WIDEST), "scale_y": (0, WIDEST), "scene": (0, SCENES - 1),
          "query": (0, QUERIES - 1), "layer": (1, LAYERS), "head": (0, HEADS)}


def refuse_unknown(state: Centred) -> None:
    """ValueError, naming the choices, for what the detector does not have."""
    for name, (low, high) in RANGES.items():
        if not low <= getattr(state, name) <= high:
            raise ValueError(f"no {name} {getattr(state, name)}: choose {low} to {high:g}")


def make_controls(first: Centred) -> dict[str, ipywidgets.Widget]:
    """Where the centre is, what the scales are multiplied by, and whose, in which scene, layer and head."""
    look = {"style": {"description_width": "4.5em"}, "layout": {"width": "23em"}}
    steps = {"x": 0.01, "y": 0.01, "scale_x": 0.1, "scale_y": 0.1}
    controls = {}
    for name, (low, high) in RANGES.items():
        kind, step = (ipywidgets.FloatSlider, steps[name]) if name in steps else (ipywidgets.IntSlider, 1)
        controls[name] = kind(value=getattr(first, name), min=low, max=high, step=step,
                              description=name.replace("_", " "), **look)
    return controls
