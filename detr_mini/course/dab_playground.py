"""DabPlayground: drag and stretch a query's box over a scene, and see at once where its position looks.

As in box_playground.py: pure functions from a state to a figure and to words, and a thin shell around them. Nothing
is imitated. At every move the shipped detector's own decoder runs with one query's box put in the place of its own,
and the map is the softmax of what its attention computes for position against position. The sine codes alone, before
any learned matrix, come from the same decoder's `place`.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from detr_mini import zoo
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.checkpoints import load_weights
from detr_mini.course.attention_explorer import WHITE, outline
from detr_mini.course.box_playground import LEAST, MOST, NUMBERS, Box, dragged, fitted, sides
from detr_mini.course.explorer import Explorer
from detr_mini.course.plots import GLOW, GREY, ORANGE, WIDTH, array, channels_last
from detr_mini.course.race import HELD_OUT_SEED
from detr_mini.course.two_terms import overhear
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.data.transforms import build_transform
from detr_mini.decoder import DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.files import DATA
from detr_mini.positions import Grid, SineGrid
from detr_mini.trace import AttentionTrace
from detr_mini.variants.dab import DabDecoder

HEIGHT = 4.05  # inches
SIDE, LOW, LEFTS = 3.72, 0.04, (0.03, WIDTH - 3.75)  # inches: side of both pictures, their lower and left edges
SCENES, QUERIES, HEADS, FINE = 8, 25, 8, 32  # FINE: cells a side on which the codes alone are drawn
SOURCES = ("codes alone", "layer 1", "layer 2", "layer 3")
TEMPERATURES = (2, 5, 20, 100, 1000, 10000)


@dataclass(frozen=True)
class Boxed:
    """What the learner sets. source: one of SOURCES. box: cxcywh, fractions of the image. query: whose box it is.

    scene: which held-out scene. head: 1 to 8, 0 for their mean. modulated: whether the box's sides widen the attention.
    temperature: of the codes alone; the trained layers keep what they were trained with.
    """

    source: str = "codes alone"
    box: Box = (0.5, 0.5, 0.5, 0.2)
    scene: int = 0
    query: int = 0
    head: int = 0
    modulated: bool = True
    temperature: int = 20

    @property
    def layer(self) -> int:
        """The index of the trained layer; the codes alone are those of layer 0."""
        return max(0, SOURCES.index(self.source) - 1)


@dataclass(frozen=True)
class Answer:
    """What one state gives. map: (h, w), sum 1. size: w_ref, h_ref, None without modulation.

    Of the trained layers only, after the last one: said, a box xyxy, 0 to 1; label and score of the surest class.
    """

    map: Tensor
    size: tuple[float, float] | None = None
    said: tuple[float, ...] | None = None
    label: int = 0
    score: float = 0.0

    @property
    def spread(self) -> tuple[float, float]:
        """How wide and how high the map is: standard deviations in x and y, fractions of the image."""
        found = []
        for line in (self.map.sum(0), self.map.sum(1)):  # over x, over y
            at = (torch.arange(len(line)) + 0.5) / len(line)
            mean = (line * at).sum()
            found.append(((at - mean).square() * line).sum().sqrt().item())
        return found[0], found[1]


# ---------------------------------------------------------------- the detector's own answer


@cache
def detector(modulated: bool) -> Detr:
    """The shipped weights; without modulation, the same with the step left out that widens attention."""
    model = load_weights(DATA / "weights/dab.safetensors").eval()
    if not modulated:
        model.decoder.size_head = None
    return model


@cache
def scene(index: int) -> Tensor:
    """A held-out scene, (3, 128, 128) uint8."""
    return Scenes(SCENES, seed=HELD_OUT_SEED)[index][0]


@cache
def encoded(index: int) -> tuple[Tensor, Grid]:
    """What the decoder is given: memory (1, HW, d) of a scene, and its grid."""
    image, target = Scenes(SCENES, seed=HELD_OUT_SEED)[index]
    ready = build_transform(zoo.recipe("dab").data, train=False)(image, target)[0][None]  # (1, 3, 128, 128)
    model = detector(True)
    with torch.no_grad():
        tokens, grid = model.tokenize(ready, torch.zeros(1, *ready.shape[-2:], dtype=torch.bool))
        return model.encoder(tokens, grid), grid


@contextmanager
def boxed(decoder: DabDecoder, query: int, box: Box, layer: int) -> Iterator[None]:
    """While open, one query enters this layer (from 0) with this box; all else stays."""
    def put(queries: Queries) -> Queries:
        reference = queries.reference.clone()  # (B, Q, 4)
        reference[:, query] = torch.tensor(box)
        return replace(queries, reference=reference)

    first, update = decoder.init_queries, decoder.update_reference
    if layer == 0:
        decoder.init_queries = lambda memory, grid: put(first(memory, grid))
    else:
        def update_reference(now: DecoderLayer, queries: Queries) -> Tensor:
            moved = replace(queries, reference=update(now, queries))
            return (put(moved) if now.index == layer - 1 else moved).reference

        decoder.update_reference = update_reference
    try:
        yield
    finally:
        for name in {"init_queries", "update_reference"} & vars(decoder).keys():
            delattr(decoder, name)  # the method of the class is visible again


@lru_cache(maxsize=64)
def answer(state: Boxed) -> Answer:
    """The map of a state, and what the detector says from this box on."""
    return of_codes(state) if state.source == SOURCES[0] else of_layer(state)


def of_layer(state: Boxed) -> Answer:
    """A trained layer: softmax of its scores of position against position."""
    (memory, grid), decoder = encoded(state.scene), detector(state.modulated).decoder
    with torch.no_grad(), boxed(decoder, state.query, state.box, state.layer), overhear(decoder) as heard, \
            AttentionTrace(decoder) as trace:
        output = decoder(memory, grid)
    maps = heard[state.layer].position[0, :, state.query].softmax(-1)  # (heads, HW)
    mine = maps.mean(0) if state.head == 0 else maps[state.head - 1]
    said = tuple(cxcywh_to_xyxy(output.boxes[-1, 0, state.query]).tolist())
    score, label = output.logits[-1, 0, state.query].sigmoid().max(-1)
    size = size_of(trace, state.layer, state.query)
    return Answer(mine.unflatten(0, grid.shapes[0]), size, said, int(label), float(score))


def size_of(trace: AttentionTrace, layer: int, query: int) -> tuple[float, float] | None:
    """w_ref and h_ref of a query; None without modulation."""
    sizes = getattr(trace[f"layers.{layer}.cross_attention"], "size", None)  # (B, Q, 2)
    return None if sizes is None else tuple(sizes[0, query].tolist())


@cache
def at_temperature(temperature: int, modulated: bool) -> tuple[DabDecoder, Tensor]:
    """The decoder with another temperature of its codes, and the codes of FINE x FINE cells, (FINE * FINE, d)."""
    decoder = copy.copy(detector(modulated).decoder)
    decoder.recipe = replace(decoder.recipe, query_temperature=float(temperature))
    cells = SineGrid(decoder.recipe.d_model, temperature, half_cell=True)
    return decoder, cells(torch.zeros(1, FINE, FINE, dtype=torch.bool))[0].flatten(0, 1)


def of_codes(state: Boxed) -> Answer:
    """The box's code against the cells' codes, as layer 1 makes them, without learned projections."""
    decoder, cells = at_temperature(state.temperature, state.modulated)
    content = torch.zeros(1, 1, decoder.recipe.d_model)
    queries = Queries(content, content, reference=torch.tensor(state.box)[None, None], entering=content)
    with torch.no_grad(), AttentionTrace(decoder) as trace:
        code = decoder.place(decoder.layers[0], queries)[0, 0]  # (d,)
        weights = (cells @ code / len(code) ** 0.5).softmax(0)
        sized = size_of(trace, 0, 0) if state.modulated else None
    return Answer(weights.unflatten(0, (FINE, FINE)), sized)


@cache
def own_box(index: int, query: int, layer: int) -> Box:
    """The box with which a query enters a layer by itself, within what can be played with."""
    (memory, grid), decoder = encoded(index), detector(True).decoder
    with torch.no_grad(), AttentionTrace(decoder) as trace:
        decoder(memory, grid)
    return fitted(tuple(round(value, 2) for value in trace[""].reference[layer, 0, query].tolist()))


# ---------------------------------------------------------------- the picture


def render_boxed(state: Boxed) -> Figure:
    """The picture of one state. Left: the scene and the box. Right: where its position looks."""
    found, image = answer(state), channels_last(scene(state.scene))
    figure = Figure(figsize=(WIDTH, HEIGHT))
    left, right = (figure.add_axes((x / WIDTH, LOW / HEIGHT, SIDE / WIDTH, SIDE / HEIGHT), xlim=(0, 1), ylim=(1, 0),
                                   xticks=[], yticks=[]) for x in LEFTS)
    left.imshow(image, extent=(0, 1, 1, 0), interpolation="antialiased", aspect="auto")
    right.imshow(0.1 + 0.35 * image.mean(2, keepdims=True).repeat(3, 2), extent=(0, 1, 1, 0), aspect="auto")
    glow = array(found.map / found.map.max())
    colours = GLOW(glow)
    colours[..., 3] = 0.9 * np.sqrt(glow)
    right.imshow(colours, extent=(0, 1, 1, 0), aspect="auto")
    if found.said:
        outline(left, list(found.said), ORANGE, 2.4)
    for axes in (left, right):
        draw_box(axes, state.box)
        axes.spines[:].set(visible=True, color=GREY, linewidth=0.6)
    left.set_title("dashed: the query's box" + (", orange: its answer" if found.said else ""), fontsize=10, pad=4)
    right.set_title(name_of_map(state), fontsize=10, pad=4)
    return figure


def name_of_map(state: Boxed) -> str:
    """Which map is drawn, in a few words."""
    if state.source == SOURCES[0]:
        return f"codes alone, temperature {state.temperature:,}"
    return f"position alone, {state.source}, {f'head {state.head}' if state.head else 'mean of heads'}"


def draw_box(axes: Axes, box: Box) -> None:
    """The box that is dragged, with the corner by which it is stretched."""
    outline(axes, list(sides(box)), WHITE, 1.8, (0, (4, 2.5)))
    right, bottom = sides(box)[2:]
    axes.plot(right, bottom, "s", color=WHITE, markeredgecolor=GREY, markersize=7, zorder=6)


def describe_boxed(state: Boxed) -> str:
    """One state in words."""
    found, (x, y, width, height) = answer(state), state.box
    words = [f"Scene {state.scene}, {name_of_map(state)}.",
             f"Box: centre ({x:.2f}, {y:.2f}), width {width:.2f}, height {height:.2f}."]
    if state.source == SOURCES[0]:
        words.append("Query and head do not count here.")
    if found.size:
        w_ref, h_ref = found.size
        words.append(f"Modulated: x counts w_ref / w = {w_ref:.2f} / {width:.2f} = {w_ref / width:.1f} times, "
                     f"y counts h_ref / h = {h_ref:.2f} / {height:.2f} = {h_ref / height:.1f} times.")
    else:
        words.append("Not modulated: width and height of the box do not count here.")
    across, down = found.spread
    words.append(f"The map's spread is {across:.2f} in x and {down:.2f} in y.")
    if found.said:
        box = ", ".join(f"{value * 128:.0f}" for value in found.said)
        words.append(f"Query {state.query} says in the end: {CLASSES[found.label]}, {found.score:.2f}, box ({box}).")
    return " ".join(words)


# ---------------------------------------------------------------- dragging


def place_in_picture(across: float, down: float) -> tuple[float, float]:
    """A point of the figure (fractions from its upper left corner) as a point of the image, in the nearer picture."""
    left = LEFTS[across * WIDTH > WIDTH / 2]
    return (across * WIDTH - left) / SIDE, 1 - ((1 - down) * HEIGHT - LOW) / SIDE


def grasp(box: Box, point: tuple[float, float]) -> bool | None:
    """What a pointer takes hold of: True for the lower right corner, False for the inside, None beside the box."""
    left, top, right, bottom = sides(box)
    if abs(point[0] - right) < 0.04 and abs(point[1] - bottom) < 0.04:
        return True
    return False if left <= point[0] <= right and top <= point[1] <= bottom else None


# ---------------------------------------------------------------- the shell


class DabPlayground(Explorer):
    """A query's box over a scene, and the attention map of its position, at once.

    Drag the box by its inside or by its lower right corner, press beside it to bring it there, or use the sliders: Tab
    goes from control to control, the arrow keys move them. The button gives the query its own box back.
    Raises ValueError for a state that the detector does not have, naming the choices.
    """

    def __init__(self, state: Boxed | None = None) -> None:
        first, self.grip = state or Boxed(), None
        refuse_unknown(first)
        super().__init__(first, make_controls(first), render_boxed, describe_boxed,
                         "Left, a scene with a query's box; right, the attention map that the box's position alone "
                         "makes.", "drag", (1, 2, 2, 2, 2, 1))
        self.button = ipywidgets.Button(description="back to its own box", layout={"width": "14em"})
        self.button.on_click(lambda button: self.move_to(at_home(self.state)))
        self.box.children[5].children += (self.button,)

    def settings(self, state: Boxed) -> dict[str, object]:
        """The box number by number; the rest by name."""
        plain = ("source", "scene", "query", "head", "modulated", "temperature")
        return dict(zip(NUMBERS, state.box, strict=True)) | {name: getattr(state, name) for name in plain}

    def read(self, name: str, values: dict[str, object]) -> Boxed:
        """Another query, and another layer, start with the query's own box."""
        if name in NUMBERS:
            return replace(self.state, box=fitted(tuple(values[number] for number in NUMBERS)))
        state = replace(self.state, **{name: values[name]})
        return at_home(state) if name in ("query", "source", "scene") else state

    def point(self, phase: str, x: float, y: float) -> None:
        """Pressing takes hold of the box, or brings it there; moving and letting go carry it or its corner."""
        point = place_in_picture(x, y)
        if phase == "down":
            stretch = grasp(self.state.box, point)
            if stretch is None:
                self.move_to(replace(self.state, box=fitted((*point, *self.state.box[2:]))))
            self.grip = point, self.state.box, bool(stretch)
        elif self.grip:
            start, box, stretch = self.grip
            self.move_to(replace(self.state, box=dragged(box, (point[0] - start[0], point[1] - start[1]), stretch)))


def at_home(state: Boxed) -> Boxed:
    """The same state with the query's own box; the codes alone belong to no query, and keep theirs."""
    if state.source == SOURCES[0]:
        return state
    return replace(state, box=own_box(state.scene, state.query, state.layer))


def refuse_unknown(state: Boxed) -> None:
    """ValueError, naming the choices, for what this detector does not have."""
    for name, known in {"source": SOURCES, "temperature": TEMPERATURES}.items():
        if getattr(state, name) not in known:
            raise ValueError(f"no {name} {getattr(state, name)!r}: choose one of {', '.join(map(str, known))}")
    for name, last in {"scene": SCENES - 1, "query": QUERIES - 1, "head": HEADS}.items():
        if not 0 <= getattr(state, name) <= last:
            raise ValueError(f"no {name} {getattr(state, name)}: choose 0 to {last}")


def make_controls(first: Boxed) -> dict[str, ipywidgets.Widget]:
    """The map, the box's four numbers, modulation and temperature, and of which scene, query and head."""
    look = {"style": {"description_width": "7em"}, "layout": {"width": "23em"}}
    controls: dict[str, ipywidgets.Widget] = {"source": ipywidgets.ToggleButtons(
        options=SOURCES, value=first.source, description="map of",
        style={"description_width": "7em", "button_width": "8em"})}
    for name, value in zip(NUMBERS, first.box, strict=True):
        low, high = (0.0, 1.0) if name in "xy" else (LEAST, MOST)
        controls[name] = ipywidgets.FloatSlider(value=value, min=low, max=high, step=0.01, description=name, **look)
    controls["modulated"] = ipywidgets.Checkbox(value=first.modulated, description="modulated by w, h", **look)
    controls["temperature"] = ipywidgets.SelectionSlider(options=[(f"{t:,}", t) for t in TEMPERATURES],
                                                         value=first.temperature, description="temperature", **look)
    for name, last in {"query": QUERIES - 1, "head": HEADS, "scene": SCENES - 1}.items():
        controls[name] = ipywidgets.IntSlider(value=getattr(first, name), max=last, description=name, **look)
    return controls
