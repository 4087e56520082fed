"""AnchorPlayground: drag a query's anchor point over a scene, and see its code, its address, and where it looks.

As in box_playground.py: pure functions from a state to a figure and to words, and a thin shell around them. Nothing
is imitated. At every move the shipped detector's own decoder runs with one query's point put in the place of its own.
Row and column weights are what an AttentionTrace recorded of that run. Codes and addresses are what the detector's
own address network was given and gave.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from torch import Tensor

from detr_mini import zoo
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.checkpoints import load_weights
from detr_mini.course.attention_explorer import WHITE, outline
from detr_mini.course.explorer import Explorer
from detr_mini.course.looking import entropy
from detr_mini.course.plots import BLACK, BLUE, GREY, INK, ORANGE, SIGNED, WIDTH, array, channels_last
from detr_mini.course.race import HELD_OUT_SEED
from detr_mini.course.smca_playground import Frame, corners, draw_map, picture, scene
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.data.transforms import build_transform
from detr_mini.decoder import Queries
from detr_mini.files import DATA
from detr_mini.positions import Grid
from detr_mini.trace import AttentionTrace
from detr_mini.variants.anchor import AnchorDecoder, AnchorDetr, AnchorGrid

HEIGHT = 4.88  # inches
SCENES, QUERIES, LAYERS, HEADS = 8, 25, 3, 8
SCENE, MAP = Frame(0.03, 1.38, 3.2), Frame(3.95, 1.38, 2.75)
BARS = 0.42  # inches: the longest bar of a row or column weight
STRIPS = {"x": 0.82, "y": 0.46, "(y, x)": 0.10}  # what is coded -> the height of its strips in the figure, in inches
CODE, ADDRESS, TALL = 0.68, 4.22, 0.24  # inches: left edges of both kinds of strip, and their height
WIDE = 2.72  # inches: length of a strip
PATTERNS = ("learned", "none")


@dataclass(frozen=True)
class Anchored:
    """What the learner sets. x, y: the anchor point, 0 to 1 inside the image. query: whose point it is, 0 to 24.

    scene: which held-out scene. layer: 1 to 3. head: 1 to 8, 0 for the mean of all. pattern: one of PATTERNS, the
    content with which the query starts: as learned, or 0.
    """

    x: float = 0.63
    y: float = 0.24
    scene: int = 0
    query: int = 4
    layer: int = 1
    head: int = 0
    pattern: str = PATTERNS[0]


@dataclass(frozen=True)
class Pointed:
    """What the query did in every layer, and what it says in the end.

    rows: (L, heads, w), weights along x. columns: (L, heads, h), weights along y. codes: what is coded -> (d,);
    addresses: what is coded -> (d,). box: (4,) xyxy, 0 to 1, label and score after the last layer.
    """

    rows: Tensor
    columns: Tensor
    codes: dict[str, Tensor]
    addresses: dict[str, Tensor]
    box: Tensor
    label: int
    score: float


# ---------------------------------------------------------------- the detector's own answer


@cache
def detector() -> AnchorDetr:
    """Anchor DETR with the shipped weights."""
    return load_weights(DATA / "weights/anchor.safetensors").eval()


@cache
def encoded(index: int) -> tuple[Tensor, AnchorGrid]:
    """What the decoder is given: memory (1, HW, d) of a scene, and its grid."""
    item = Scenes(SCENES, seed=HELD_OUT_SEED)[index]
    ready = build_transform(zoo.recipe("anchor").data, train=False)(*item)[0][None]  # (1, 3, 128, 128)
    with torch.no_grad():
        tokens, grid = detector().tokenize(ready, torch.zeros(1, *ready.shape[-2:], dtype=torch.bool))
        return detector().encoder(tokens, grid), grid


def own_point(query: int) -> tuple[float, float]:
    """The anchor point that a query has learned, (x, y)."""
    return tuple(detector().decoder.points.weight[query].tolist())


@contextmanager
def anchored(decoder: AnchorDecoder, query: int, point: tuple[float, float], pattern: str) -> Iterator[None]:
    """While open, one query is at another point, and starts with its learned pattern or with content 0."""
    own = decoder.init_queries

    def init_queries(memory: Tensor, grid: Grid) -> Queries:
        queries, place = own(memory, grid), torch.tensor(point)
        content, learned, reference = (part.clone() for part in (queries.content, queries.learned, queries.reference))
        reference[:, query], learned[:, query] = place, grid.address.point(place)  # (B, Q, 2), (B, Q, d)
        if pattern == "none":
            content[:, query] = 0
        return replace(queries, content=content, learned=learned, reference=reference)

    decoder.init_queries = init_queries
    try:
        yield
    finally:
        del decoder.init_queries  # the method of the class is visible again


def addressed(x: float, y: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Codes and addresses of a point's x, of its y and of both: what is coded -> (d,), twice."""
    address, codes, addresses = detector().grid_position, {}, {}
    asked = {"x": (address.lines, address.line, x), "y": (address.lines, address.line, y),
             "(y, x)": (address.points, address.point, (x, y))}
    for name, (network, ask, place) in asked.items():
        def listen(module: torch.nn.Module, given: tuple, name: str = name) -> None:
            codes[name] = given[0]

        with torch.no_grad():
            hook = network.register_forward_pre_hook(listen)
            addresses[name] = ask(torch.tensor(place))
            hook.remove()
    return codes, addresses


@lru_cache(maxsize=64)
def run(index: int, query: int, point: tuple[float, float], pattern: str) -> Pointed:
    """The whole decoder with one query at another point."""
    (memory, grid), decoder = encoded(index), detector().decoder
    with torch.no_grad(), anchored(decoder, query, point, pattern), AttentionTrace(decoder) as trace:
        output = decoder(memory, grid)
    records = [trace[f"layers.{index}.cross_attention"] for index in range(LAYERS)]
    rows = torch.stack([record.row_weights[0, :, query] for record in records])  # (L, heads, w)
    columns = torch.stack([record.column_weights[0, :, query] for record in records])  # (L, heads, h)
    score, label = output.logits[-1, 0, query].sigmoid().max(-1)
    return Pointed(rows, columns, *addressed(*point), cxcywh_to_xyxy(output.boxes[-1, 0, query]), int(label),
                   float(score))


def look(state: Anchored) -> Pointed:
    """What the query of a state does."""
    return run(state.scene, state.query, (state.x, state.y), state.pattern)


def maps_of(state: Anchored) -> tuple[Tensor, Tensor, Tensor]:
    """What is drawn: row weights (w,), column weights (h,), and their product (h, w).

    Of all heads, each is a mean; the mean of the products, not the product of the means.
    """
    found, heads = look(state), slice(None) if state.head == 0 else slice(state.head - 1, state.head)
    rows, columns = found.rows[state.layer - 1, heads], found.columns[state.layer - 1, heads]  # (heads, w), (heads, h)
    return rows.mean(0), columns.mean(0), (columns[:, :, None] * rows[:, None]).mean(0)


# ---------------------------------------------------------------- the picture


def render_anchored(state: Anchored) -> Figure:
    """The picture of one state. Above: scene and map, with row and column weights along its sides. Below: the codes.

    One pair of axes, in inches, and no ticks: drawn anew at every move, it has to be quick.
    """
    found, image, (rows, columns, both) = look(state), channels_last(scene(state.scene)), maps_of(state)
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    picture(axes, SCENE, image, f"query {state.query}: its point, its answer")
    picture(axes, MAP, 0.1 + 0.35 * image.mean(2, keepdims=True).repeat(3, 2), "")
    draw_map(axes, MAP, both)
    for frame in (SCENE, MAP):
        outline(axes, corners(frame, found.box.clamp(0, 1)), ORANGE, 2.0)
        draw_point(axes, frame, (state.x, state.y))
    draw_bars(axes, rows, columns)
    axes.text(MAP.left, HEIGHT - 0.16, f"where it looks: layer {state.layer}, {who(state)}", fontsize=10,
              color=INK, va="center")
    draw_strips(axes, found)
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    return figure


def draw_point(axes: Axes, frame: Frame, point: tuple[float, float]) -> None:
    """The anchor point as a cross, where it lies inside the picture."""
    if all(0 <= value <= 1 for value in point):
        for colour, thick, size in ((BLACK, 4.4, 14), (WHITE, 2.0, 12)):
            axes.plot(*frame.at(*point), marker="x", color=colour, markersize=size, markeredgewidth=thick, zorder=6)


def draw_bars(axes: Axes, rows: Tensor, columns: Tensor) -> None:
    """Row weights as bars above the map, column weights as bars to its right; a full bar is a weight of 1."""
    wide, tall = MAP.side / len(rows), MAP.side / len(columns)
    top, right = MAP.low + MAP.side + 0.04, MAP.left + MAP.side + 0.04
    lefts = [MAP.left + wide * number for number in range(len(rows))]
    lows = [MAP.low + MAP.side - tall * (number + 1) for number in range(len(columns))]
    axes.bar(lefts, array(rows) * BARS, 0.86 * wide, top, align="edge", color=BLUE)
    axes.barh(lows, array(columns) * BARS, 0.86 * tall, right, align="edge", color=BLUE)
    axes.plot([MAP.left, MAP.left + MAP.side], [top, top], color=GREY, linewidth=0.8)
    axes.plot([right, right], [MAP.low, MAP.low + MAP.side], color=GREY, linewidth=0.8)


def draw_strips(axes: Axes, found: Pointed) -> None:
    """Codes on the left, addresses on the right, a line for each thing that is coded."""
    for name, low in STRIPS.items():
        axes.text(0.03, low + TALL / 2, name, va="center", fontsize=10, color=INK)
        axes.annotate("", (ADDRESS - 0.06, low + TALL / 2), (CODE + WIDE + 0.06, low + TALL / 2),
                      arrowprops={"arrowstyle": "-|>", "color": GREY})
        axes.text((CODE + WIDE + ADDRESS) / 2, low + TALL / 2 + 0.03, "MLP", ha="center", va="bottom", fontsize=8,
                  color=INK)
        for left, values in ((CODE, found.codes[name]), (ADDRESS, found.addresses[name])):
            strip(axes, left, low, values / values.abs().max(), SIGNED)
    height = max(STRIPS.values()) + TALL + 0.05
    axes.text(CODE, height, "sine code, 128 numbers", fontsize=9, color=INK)
    axes.text(ADDRESS, height, "address, 128 numbers", fontsize=9, color=INK)


def strip(axes: Axes, left: float, low: float, values: Tensor, colours: Colormap) -> None:
    """Numbers from -1 to 1 as a coloured strip, (d,)."""
    axes.imshow(array(values)[None], cmap=colours, vmin=-1, vmax=1, extent=(left, left + WIDE, low, low + TALL),
                aspect="auto", interpolation="nearest")


def who(state: Anchored) -> str:
    """The heads in words."""
    return f"head {state.head}" if state.head else f"mean of {HEADS} heads"


def describe_anchored(state: Anchored) -> str:
    """One state in words."""
    found, (rows, columns, both) = look(state), maps_of(state)
    box = ", ".join(f"{value * 128:.0f}" for value in found.box.tolist())
    pattern = "its learned pattern" if state.pattern == "learned" else "no pattern, content 0"
    return (f"Scene {state.scene}. Query {state.query}'s anchor point is at ({state.x:.2f}, {state.y:.2f}), with "
            f"{pattern}. Layer {state.layer}, {who(state)}: along x most weight, {rows.max():.2f}, is on column "
            f"{int(rows.argmax()) + 1} of {len(rows)}; along y most, {columns.max():.2f}, is on row "
            f"{int(columns.argmax()) + 1} of {len(columns)}; together it is spread over {entropy(both).exp():.0f} of "
            f"{both.numel()} places. In the end it says: {CLASSES[found.label]}, {found.score:.2f}, box ({box}).")


# ---------------------------------------------------------------- the shell


def place_in_picture(across: float, down: float) -> tuple[float, float] | None:
    """A point of the figure (fractions from its upper left corner) as a point of the image; None beside both."""
    for left, low, side in (SCENE, MAP):
        x, y = (across * WIDTH - left) / side, 1 - ((1 - down) * HEIGHT - low) / side
        if 0 <= x <= 1 and 0 <= y <= 1:
            return round(x, 2), round(y, 2)
    return None


class AnchorPlayground(Explorer):
    """A query's anchor point over a scene: its sine codes, its addresses, and the trained attention along x and y.

    Press or drag in a picture to move the point, or use the sliders: Tab goes from control to control, the arrow keys
    move them. Another query starts at its own point; the button brings it back there.
    Raises ValueError for a state that the detector does not have, naming the choices.
    """

    def __init__(self, state: Anchored | None = None) -> None:
        first = state or Anchored()
        refuse_unknown(first)
        super().__init__(first, make_controls(first), render_anchored, describe_anchored,
                         "Left, a scene with a query's anchor point and its answer; right, where it looks, with its "
                         "weights along x above and along y beside; below, the point's codes and addresses.",
                         "drag", (2, 2, 2, 1))
        self.button = ipywidgets.Button(description="back to its own point", layout={"width": "14em"})
        self.button.on_click(lambda button: self.move_to(at_home(self.state)))
        self.box.children[3].children += (self.button,)

    def read(self, name: str, values: dict[str, object]) -> Anchored:
        """Another query starts at its own point."""
        state = replace(self.state, **{name: values[name]})
        return at_home(state) if name == "query" else state

    def point(self, phase: str, x: float, y: float) -> None:
        """Pressing or moving puts the point there. So does letting go, for the last move may have been lost."""
        place = place_in_picture(x, y)
        if phase != "hover" and place:
            self.move_to(replace(self.state, x=place[0], y=place[1]))


def at_home(state: Anchored) -> Anchored:
    """The same state with the query at its own point, to a hundredth, and with its learned pattern."""
    x, y = own_point(state.query)
    return replace(state, x=round(x, 2), y=round(y, 2), pattern=PATTERNS[0])


RANGES = {"x": (-0.2, 1.2), "y": (-0.2, 1.2), "scene": (0, SCENES - 1), "query": (0, QUERIES - 1), "layer": (1, LAYERS),
          "head": (0, HEADS)}


def refuse_unknown(state: Anchored) -> None:
    """ValueError, naming the choices, for what the detector does not have."""
    for name, (low, high) in RANGES.items():
        if not low <= getattr(state, name) <= high:
            raise ValueError(f"no {name} {getattr(state, name)}: choose {low:g} to {high:g}")
    if state.pattern not in PATTERNS:
        raise ValueError(f"no pattern {state.pattern!r}: choose one of {', '.join(PATTERNS)}")


def make_controls(first: Anchored) -> dict[str, ipywidgets.Widget]:
    """Where the point is, and of which scene, query, layer and head; with its pattern or without.

    The point's sliders go a little beyond the image, because learned points do.
    """
    style, controls = {"style": {"description_width": "4.5em"}, "layout": {"width": "23em"}}, {}
    for name, (low, high) in RANGES.items():
        kind, step = (ipywidgets.FloatSlider, 0.01) if name in "xy" else (ipywidgets.IntSlider, 1)
        controls[name] = kind(value=getattr(first, name), min=low, max=high, step=step, description=name, **style)
    controls["pattern"] = ipywidgets.ToggleButtons(options=PATTERNS, value=first.pattern, description="pattern",
                                                   style={"description_width": "4.5em", "button_width": "7em"})
    return controls
