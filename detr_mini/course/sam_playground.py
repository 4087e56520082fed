"""SamPlayground: drag a query's reference box over a scene; its cut, its salient points and its attention follow.

As in deformable_playground.py: nothing is imitated. At every move the shipped detector's own decoder runs, with four
numbers changed: the reference box from which one query starts. What is drawn is what an AttentionTrace recorded of
that run.
"""

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
from detr_mini.course.attention_explorer import WHITE, draw_cut, outline
from detr_mini.course.box_playground import LEAST, MOST, Box, dragged, fitted, sides
from detr_mini.course.deformable_playground import placed
from detr_mini.course.explorer import Explorer
from detr_mini.course.plots import COLOURS, GLOW, GREY, ORANGE, WIDTH, array, channels_last, readable_on
from detr_mini.course.race import HELD_OUT_SEED
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.data.transforms import build_transform
from detr_mini.files import DATA
from detr_mini.positions import Grid
from detr_mini.trace import AttentionTrace
from detr_mini.variants.sam import SamDetr
from detr_mini.variants.sam_aligner import CROP

HEIGHT = 4.05  # inches
SIDE, LOW, LEFTS = 3.72, 0.04, (0.03, WIDTH - 3.75)  # inches: side of both pictures, their lower and left edges
SCENES, QUERIES, LAYERS, HEADS = 8, 25, 3, 8
DETECTORS = ("trained", "untrained")
NUMBERS = ("x", "y", "width", "height")
NEAR = 0.05  # how near a press must be to the lower right corner to take hold of it


@dataclass(frozen=True)
class Boxed:
    """What the learner sets. detector: one of DETECTORS. scene: which held-out scene. query: whose box is dragged.

    box: the reference box of layer 1, cxcywh, fractions of the image. layer: 1 to 3. head: 1 to 8, 0 for all of them.
    """

    detector: str = "trained"
    scene: int = 0
    query: int = 22
    box: Box = (0.34, 0.7, 0.68, 0.51)
    layer: int = 1
    head: int = 0


@dataclass(frozen=True)
class Asked:
    """What the query did in one layer, and what it says in the end.

    reference: (4,) the box that was cut out, xyxy. points: (heads, 2) x and y of the salient points. maps: (heads, h,
    w), each sums to 1. box, last: (4,) xyxy after this layer and after the last. label, score: the surest class.
    """

    reference: Tensor
    points: Tensor
    maps: Tensor
    box: Tensor
    last: Tensor
    label: int
    score: float


# ---------------------------------------------------------------- the detector's own answer


@cache
def detector(name: str) -> SamDetr:
    """The shipped detector, or an untrained one whose random numbers are always the same."""
    if name == "trained":
        return load_weights(DATA / "weights/sam.safetensors").eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return zoo.build("sam").eval()


@cache
def scene(index: int) -> Tensor:
    """A held-out scene, (3, 128, 128) uint8."""
    return Scenes(SCENES, seed=HELD_OUT_SEED)[index][0]


@cache
def encoded(name: str, index: int) -> tuple[Tensor, Grid]:
    """What the decoder is given: memory (1, HW, d) of a scene, and its grid."""
    image, target = Scenes(SCENES, seed=HELD_OUT_SEED)[index]
    ready = build_transform(zoo.recipe("sam").data, train=False)(image, target)[0][None]  # (1, 3, 128, 128)
    model = detector(name)
    with torch.no_grad():
        tokens, grid = model.tokenize(ready, torch.zeros(1, *ready.shape[-2:], dtype=torch.bool))
        return model.encoder(tokens, grid), grid


def home(name: str, query: int) -> Box:
    """The reference box that a query has by itself, in every image, cxcywh."""
    with torch.no_grad():
        return tuple(detector(name).decoder.query_embed.weight[query].sigmoid().tolist())


@lru_cache(maxsize=64)
def run(name: str, index: int, query: int, box: Box) -> list[Asked]:
    """The whole decoder with one query at this box: what it did and said, layer by layer."""
    (memory, grid), decoder = encoded(name, index), detector(name).decoder
    with torch.no_grad(), placed(decoder, query, torch.tensor(box)), AttentionTrace(decoder) as trace:
        output = decoder(memory, grid)
    boxes, (score, label) = cxcywh_to_xyxy(output.boxes[:, 0, query]), output.logits[-1, 0, query].sigmoid().max(-1)
    references = cxcywh_to_xyxy(trace[""].reference[:, 0, query])  # (L, 4)
    found = []
    for layer in range(LAYERS):
        record = trace[f"layers.{layer}.cross_attention"]  # points (1, Q, heads, 2), weights (1, heads, Q, HW)
        maps = record.weights[0, :, query].unflatten(-1, grid.shapes[0])  # (heads, h, w)
        found.append(Asked(references[layer], record.points[0, query], maps, boxes[layer], boxes[-1], int(label),
                           float(score)))
    return found


def asked(state: Boxed) -> Asked:
    """What the query of a state does in its layer."""
    return run(state.detector, state.scene, state.query, state.box)[state.layer - 1]


def shown(state: Boxed) -> slice:
    """The heads that are drawn."""
    return slice(None) if state.head == 0 else slice(state.head - 1, state.head)


# ---------------------------------------------------------------- the picture


def render_boxed(state: Boxed) -> Figure:
    """The picture of one state. Left: the scene, the cut and its salient points. Right: where the heads then look."""
    found, image = asked(state), channels_last(scene(state.scene))
    figure = Figure(figsize=(WIDTH, HEIGHT))
    left, right = (figure.add_axes((x / WIDTH, LOW / HEIGHT, SIDE / WIDTH, SIDE / HEIGHT), xlim=(0, 1), ylim=(1, 0),
                                   xticks=[], yticks=[]) for x in LEFTS)
    left.imshow(0.2 + 0.8 * image, extent=(0, 1, 1, 0), interpolation="antialiased", aspect="auto")
    right.imshow(0.1 + 0.35 * image.mean(2, keepdims=True).repeat(3, 2), extent=(0, 1, 1, 0), aspect="auto")
    draw_cut(left, found.reference.tolist(), CROP)
    draw_map(right, array(found.maps[shown(state)].mean(0)))
    for axes, number in ((left, True), (right, False)):
        outline(axes, found.box.tolist(), ORANGE, 2.0)
        outline(axes, found.reference.tolist(), WHITE, 1.5, (0, (4, 2.5)))
        draw_points(axes, state, array(found.points), number)
        axes.set(xlim=(0, 1), ylim=(1, 0))
        axes.spines[:].set(visible=True, color=GREY, linewidth=0.6)
    heads = f"head {state.head}" if state.head else "all heads"
    left.set_title(f"layer {state.layer}: the cut, {CROP} x {CROP}, and its points", fontsize=10, pad=4)
    right.set_title(f"where {heads} then look{'s' if state.head else ''}", fontsize=10, pad=4)
    return figure


def draw_map(axes: Axes, weights: np.ndarray) -> None:
    """The cells of one attention map (h, w), the strongest glows most."""
    glow = weights / weights.max()
    colours = GLOW(glow)
    colours[..., 3] = 0.9 * np.sqrt(glow)
    axes.imshow(colours, extent=(0, 1, 1, 0), aspect="auto", interpolation="nearest")


def draw_points(axes: Axes, state: Boxed, points: np.ndarray, numbered: bool) -> None:
    """A disc per drawn head, in its colour, with its number or small without. points: (heads, 2)."""
    for head in range(HEADS)[shown(state)]:
        x, y = points[head]
        axes.plot(x, y, "o", color=COLOURS[head], markersize=13 if numbered else 7, markeredgecolor=WHITE,
                  markeredgewidth=1.0, zorder=5)
        if numbered:
            axes.text(x, y, str(head + 1), color=readable_on(COLOURS[head]), ha="center", va="center_baseline",
                      fontsize=7.5, zorder=6)


def describe_boxed(state: Boxed) -> str:
    """One state in words."""
    found, heads = asked(state), shown(state)
    maps, points = found.maps[heads].mean(0), found.points[heads]  # (h, w), (n, 2)
    row, column = divmod(int(maps.argmax()), maps.shape[1])
    spread = torch.special.entr(maps).sum().exp()
    who = f"head {state.head}" if state.head else f"all {HEADS} heads"
    x, y, width, height = state.box
    where = f"salient point ({points[0, 0]:.2f}, {points[0, 1]:.2f})" if state.head else (
        f"salient points from ({points[:, 0].min():.2f}, {points[:, 1].min():.2f}) to ({points[:, 0].max():.2f}, "
        f"{points[:, 1].max():.2f})")
    words = [
        f"{state.detector.capitalize()}, scene {state.scene}. Query {state.query}'s box is at ({x:.2f}, {y:.2f}), "
        f"{width:.2f} wide and {height:.2f} high.",
        f"Layer {state.layer}, {who}: {where}; attention over about {spread:.0f} of {maps.numel()} places, most in row "
        f"{row}, column {column}.",
    ]
    if state.detector == "trained":
        box = ", ".join(f"{value * 128:.0f}" for value in found.last.tolist())
        words.append(f"In the end it says: {CLASSES[found.label]}, {found.score:.2f}, box ({box}).")
    return " ".join(words)


# ---------------------------------------------------------------- the shell


def place_in_picture(across: float, down: float) -> tuple[float, float] | None:
    """A point of the figure (fractions from its upper left corner) as a point of the image, in either picture.

    None between and beside them.
    """
    y = 1 - ((1 - down) * HEIGHT - LOW) / SIDE
    for left in LEFTS:
        x = (across * WIDTH - left) / SIDE
        if 0 <= x <= 1 and 0 <= y <= 1:
            return x, y
    return None


class SamPlayground(Explorer):
    """A query's reference box over a scene: the cut, the salient points, where the heads then look, and what it finds.

    Drag the box by its inside, or by its lower right corner; press elsewhere to bring it there. Or use the sliders:
    Tab goes from control to control, the arrow keys move them. Another query starts at its own box; the button brings
    it back there. Raises ValueError for a state that these detectors do not have, naming the choices.
    """

    def __init__(self, state: Boxed | None = None) -> None:
        first, self.grip = state or Boxed(), None
        refuse_unknown(first)
        super().__init__(first, make_controls(first), render_boxed, describe_boxed,
                         "Left, a scene, a query's reference box (dashed) as a grid, and a numbered point per head in "
                         "it; right, where the heads then look. Orange: the box after this layer.", "drag",
                         (1, 2, 2, 2, 2))
        self.button = ipywidgets.Button(description="back to its own box", layout={"width": "14em"})
        self.button.on_click(lambda button: self.move_to(at_home(self.state)))
        self.box.children[0].children += (self.button,)

    def settings(self, state: Boxed) -> dict[str, object]:
        """The box's four numbers, and the other fields."""
        box = dict(zip(NUMBERS, state.box, strict=True))
        return {name: box[name] if name in box else getattr(state, name) for name in self.controls}

    def read(self, name: str, values: dict[str, object]) -> Boxed:
        """A box stays within the image; another query starts at its own box."""
        if name in NUMBERS:
            return replace(self.state, box=rounded(fitted(tuple(values[number] for number in NUMBERS))))
        state = replace(self.state, **{name: values[name]})
        return at_home(state) if name == "query" else state

    def point(self, phase: str, x: float, y: float) -> None:
        """Pressing takes hold of the box or of its corner, or brings it; moving carries it, and so does letting go."""
        place = place_in_picture(x, y)
        if phase == "down" and place:
            (left, top, right, bottom), box = sides(self.state.box), self.state.box
            stretch = max(abs(place[0] - right), abs(place[1] - bottom)) < NEAR
            if not stretch and not (left <= place[0] <= right and top <= place[1] <= bottom):
                box = rounded(fitted((*place, *box[2:])))
                self.move_to(replace(self.state, box=box))
            self.grip = place, box, stretch
        elif place and self.grip:
            (start_x, start_y), box, stretch = self.grip
            by = place[0] - start_x, place[1] - start_y
            self.move_to(replace(self.state, box=rounded(dragged(box, by, stretch))))
        if phase == "up":
            self.grip = None


def rounded(box: Box) -> Box:
    """To a hundredth, as the sliders count."""
    return tuple(round(number, 2) for number in box)


def at_home(state: Boxed) -> Boxed:
    """The same state with the query at its own reference box, cut to what can be played with."""
    return replace(state, box=fitted(rounded(home(state.detector, state.query))))


def refuse_unknown(state: Boxed) -> None:
    """ValueError, naming the choices, for what these detectors do not have."""
    if state.detector not in DETECTORS:
        raise ValueError(f"no detector {state.detector!r}: choose one of {', '.join(DETECTORS)}")
    ranges = {"scene": (0, SCENES - 1), "query": (0, QUERIES - 1), "layer": (1, LAYERS), "head": (0, HEADS)}
    for name, (low, high) in ranges.items():
        if not low <= getattr(state, name) <= high:
            raise ValueError(f"no {name} {getattr(state, name)}: choose {low} to {high}")
    if any(abs(one - other) > 1e-6 for one, other in zip(fitted(state.box), state.box, strict=True)):
        raise ValueError(f"no box {state.box}: it must lie within the image, with sides from {LEAST} to {MOST}")


def make_controls(first: Boxed) -> dict[str, ipywidgets.Widget]:
    """The detector, the box, and whose it is, in which layer and head."""
    look = {"style": {"description_width": "4.5em"}, "layout": {"width": "23em"}}
    numbers = {"scene": (0, SCENES - 1), "query": (0, QUERIES - 1), "layer": (1, LAYERS), "head": (0, HEADS)}
    sliders = {name: ipywidgets.IntSlider(value=getattr(first, name), min=low, max=high, description=name, **look)
               for name, (low, high) in numbers.items()}
    boxes = {name: ipywidgets.FloatSlider(value=value, min=0.0 if name in "xy" else LEAST,
                                          max=1.0 if name in "xy" else MOST, step=0.01, description=name, **look)
             for name, value in zip(NUMBERS, first.box, strict=True)}
    kinds = ipywidgets.ToggleButtons(options=DETECTORS, value=first.detector, description="detector",
                                     style={"description_width": "4.5em", "button_width": "8em"})
    return {"detector": kinds, **boxes, **sliders}
