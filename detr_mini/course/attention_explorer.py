"""AttentionExplorer: any detector of the zoo, one image, and every map of the pass that made its answer.

    explorer = AttentionExplorer(model, image)      # click a detection or a place, choose layer and head
    AttentionExplorer(model, image, about="cup")    # opens on the surest query that says cup
    explorer.state                                  # Exploring(layer="decoder 3", head=0, query=7, place=(0, 0))

What is shown was recorded while the detector ran (AttentionTrace); nothing is computed a second time. All maps travel
to the browser, one byte per cell, so that the picture answers there: in an exported page, too, without a kernel.

Two forms over one state. The live one is attention_explorer.js beside this file. The still one is a pure function,
`render_exploring(explored, state) -> Figure`, with its words, `describe_exploring`; both forms say the same words.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from PIL import Image
from torch import Tensor

from detr_mini import zoo
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course.plots import BLACK, BLUE, GLOW, ORANGE, WIDTH, array, bundle, channels_last, readable_on
from detr_mini.data.scenes import CLASSES
from detr_mini.data.transforms import build_transform
from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr
from detr_mini.drawing import name_of
from detr_mini.evaluation import evaluating
from detr_mini.trace import AttentionTrace
from detr_mini.variants.sam_aligner import CROP

HEIGHT = 3.9  # inches
MOST_BYTES = 8_000_000  # of maps: what a browser takes at once, and a page still carries
WHITE = "#FFFFFF"
# What the dots of a detector are: of one head, of all heads.
DOTS = {
    "samples": ("Dots: the {} places that it samples, larger with more weight.",) * 2,
    "salient": ("Dot: the salient point whose features ask.", "Dots: the {} salient points whose features ask."),
}


# ---------------------------------------------------------------- what is recorded


@dataclass(frozen=True)
class Exploring:
    """What the learner sets. layer: "encoder 1", ... or "decoder 1", ...; head: 1, 2, ..., or 0 for the mean of all.

    query: who asks in a decoder layer. place: (row, column) of the cell that asks in an encoder layer, from (0, 0).
    """

    layer: str
    head: int = 0
    query: int = 0
    place: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Layer:
    """The attention of one layer, for N askers: the places of the map (encoder) or the kept queries (decoder).

    maps: (heads + 1, N, h, w) uint8, 255 where a map is strongest; first the mean of all heads. tops: (heads + 1, N),
    the weight that 255 stands for. spread: (heads + 1, N), over how many places, e to the power of the entropy; 0 where
    every sample falls outside the image.
    inside: (heads + 1, N), how much of the attention falls inside the box, in percent (decoder).
    dots: (heads, N, points, 3) x, y (0 to 1 across the image), weight; None for dense and factored attention.
    ellipses: (heads, N, 4) centre and standard deviations of a Gaussian, 0 to 1; None where there is none.
    boxes: (N, 4) the boxes after this layer, xyxy in pixels (decoder). references: (N, 4) where the query looked, xyxy
    in pixels, without extent for a point; None for detectors that have none.
    """

    name: str
    maps: np.ndarray
    tops: np.ndarray
    spread: np.ndarray
    inside: np.ndarray | None = None
    dots: np.ndarray | None = None
    ellipses: np.ndarray | None = None
    boxes: np.ndarray | None = None
    references: np.ndarray | None = None

    @property
    def side(self) -> str:
        """ "encoder" or "decoder"."""
        return self.name.split()[0]


@dataclass(frozen=True)
class Explored:
    """One image and what the detector attended to. image: (3, H, W) uint8. layers: encoder's, then decoder's.

    queries: numbers of the kept queries, the surest first; names, scores: each one's best class and its score.
    found: how many of them count as detections. shape: (h, w) of the maps. kind: what dots are, a key of DOTS.
    patterns: for each query "pattern 2 of 3", its place among those that share its reference; "" for a lone one.
    cut: into how many parts a side a reference box is cut, SAM-DETR's RoIAlign; 0 for the others.
    """

    image: Tensor
    layers: dict[str, Layer]
    queries: list[int]
    names: list[str]
    scores: list[float]
    found: int
    shape: tuple[int, int]
    patterns: list[str]
    kind: str = "samples"
    cut: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def heads(self) -> int:
        """How many heads each layer has."""
        return len(next(iter(self.layers.values())).maps) - 1

    def asker(self, state: Exploring) -> int:
        """Who asks in the state's layer, as an index into its maps."""
        if self.layers[state.layer].side == "decoder":
            return self.queries.index(state.query)
        return state.place[0] * self.shape[1] + state.place[1]


def explore(
    model: Detr, image: Tensor, classes: Sequence[str | None] | None = None, transform: Callable | None = None, *,
    threshold: float = 0.35, level: int = 0,
) -> Explored:
    """Run the detector once on one image (3, H, W) uint8 and keep what it attended to.

    classes: names by label; by default those of scenes for a small detector, numbers for a large one. transform: the
    evaluation transform; by default that of the detector's recipe. threshold: the score from which something counts as
    a detection. level: which feature map is shown, for detectors with several. On large images the encoder's maps are
    left out, and queries that are less sure. Raises ValueError for an image that is not (3, H, W) uint8.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        raise ValueError(f"an image is (3, H, W) uint8, not {tuple(image.shape)} {image.dtype}")
    small = model.recipe.backbone == "small"
    if transform is None:
        transform = build_transform(zoo.recipe(model.system, "scenes" if small else "coco").data, train=False)
    size = torch.tensor(image.shape[1:])  # (H, W)
    nothing = {"labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4), "orig_size": size, "image_id": 0}
    ready = transform(image, nothing)[0][None].to(next(model.parameters()).device)  # (1, 3, h, w)
    with evaluating(model), torch.no_grad(), AttentionTrace(model) as trace:
        output = model(ready)
    scores, labels, queries = best_classes(model, output, size)
    names = [name_of(label, list(classes or (CLASSES if small else ()))) for label in labels]
    kept, notes = what_fits(trace, model, level, len(queries))
    found = sum(score >= threshold for score in scores[:kept])
    layers = dict(encoder_layers(trace, model, level)) if not notes else {}
    layers |= decoder_layers(trace, model, level, output, queries[:kept], size)
    kind = "salient" if hasattr(trace["decoder.layers.0.cross_attention"], "points") else "samples"
    patterns = patterns_of(model, queries)[:kept]
    return Explored(image, layers, queries[:kept], names[:kept], scores[:kept], found, trace[""].shapes[level],
                    patterns, kind, CROP if kind == "salient" else 0, notes)


def patterns_of(model: Detr, queries: list[int]) -> list[str]:
    """Which pattern each query has, in words. Queries stand pattern by pattern: all references of the first, then on.

    queries: the numbers of all of them, in any order. Empty words for detectors with no more than one pattern.
    """
    count = getattr(model.recipe, "patterns", 0)
    if count < 2:
        return [""] * len(queries)
    references = len(queries) // count
    return [f"pattern {query // references + 1} of {count}" for query in queries]


def best_classes(model: Detr, output: DetectorOutput, size: Tensor) -> tuple[list[float], list[int], list[int]]:
    """Every query once, the surest first: score, label and number, as the detector's own postprocessing has them."""
    answer = model.postprocess(output, size[None], top_k=output.logits[-1].numel())[0]
    best = {}
    for score, label, query in zip(*(answer[key].tolist() for key in ("scores", "labels", "queries")), strict=True):
        best.setdefault(query, (score, label))
    return [score for score, _ in best.values()], [label for _, label in best.values()], list(best)


def what_fits(trace: AttentionTrace, model: Detr, level: int, queries: int) -> tuple[int, list[str]]:
    """How many queries' maps fit into MOST_BYTES; and, when the encoder's do not fit, a note that says so."""
    recipe, (height, width) = model.recipe, trace[""].shapes[level]
    cells, maps = height * width, recipe.heads + 1
    kept = min(queries, max(1, MOST_BYTES // (recipe.decoder_layers * maps * cells)))
    if kept * recipe.decoder_layers * maps * cells + recipe.encoder_layers * maps * cells**2 > MOST_BYTES:
        return kept, ["The encoder's maps of so large an image are left out."]
    return kept, []


def encoder_layers(trace: AttentionTrace, model: Detr, level: int) -> dict[str, Layer]:
    """The encoder's layers; the askers are the places of this level."""
    shapes = [height * width for height, width in trace[""].shapes]
    mine = torch.arange(sum(shapes[:level]), sum(shapes[: level + 1]))
    names = [f"encoder.layers.{index}.self_attention" for index in range(len(model.encoder.layers))]
    return {f"encoder {number}": make_layer(f"encoder {number}", trace, name, level, mine)
            for number, name in enumerate(names, 1)}


def decoder_layers(
    trace: AttentionTrace, model: Detr, level: int, output: DetectorOutput, queries: list[int], size: Tensor
) -> dict[str, Layer]:
    """The decoder's layers; the askers are the kept queries."""
    layers, mine, scale = {}, torch.tensor(queries), size.flip(0).repeat(2)  # (4,) width, height, width, height
    references = getattr(trace["decoder"], "reference", None)  # (L, 1, Q, 2 or 4)
    for index in range(len(model.decoder.layers)):
        name, box = f"decoder {index + 1}", cxcywh_to_xyxy(output.boxes[index, 0, mine].cpu())  # (N, 4)
        layer = make_layer(name, trace, f"decoder.layers.{index}.cross_attention", level, mine, box)
        if references is not None:
            centre = references[index, 0, mine].cpu()
            centre = torch.nn.functional.pad(centre, (0, 4 - centre.shape[-1]))  # a point is a box of no size
            layer = replace(layer, references=array(cxcywh_to_xyxy(centre) * scale))
        layers[name] = replace(layer, boxes=array(box * scale))
    return layers


def make_layer(
    title: str, trace: AttentionTrace, name: str, level: int, mine: Tensor, boxes: Tensor | None = None
) -> Layer:
    """One layer from its record. mine: (N,) which askers. boxes: (N, 4) xyxy, 0 to 1, to measure what falls inside."""
    maps = trace.maps(name, level)[0].cpu()[:, mine]  # (heads, N, h, w)
    maps = torch.cat([maps.mean(0, keepdim=True), maps]).double()  # (heads + 1, N, h, w)
    tops = maps.amax((-2, -1))  # (heads + 1, N)
    share = maps / maps.sum((-2, -1), keepdim=True).clamp(min=1e-12)
    drawn = (maps / tops[..., None, None].clamp(min=1e-12) * 255).round().byte()
    spread = torch.special.entr(share).sum((-2, -1)).exp().round().where(tops > 0, 0).int()
    inside = None if boxes is None else array((within(boxes, maps.shape[-2:]) * maps).sum((-2, -1)).mul(100).round())
    dots, ellipses = dots_of(trace[name], level, mine), None
    if hasattr(trace[name], "gaussian"):
        ellipses = array(ellipse(trace.as_map(trace[name].gaussian, level)[0].cpu()[:, mine]))
    return Layer(title, array(drawn), array(tops.float()), array(spread), inside, dots, ellipses)


def within(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """How much of every cell lies inside a box: boxes (N, 4) xyxy, 0 to 1 -> (N, h, w), 0 to 1."""
    (height, width), boxes = shape, boxes.double()

    def along(low: Tensor, high: Tensor, cells: int) -> Tensor:
        start = torch.arange(cells)
        covered = torch.minimum(high[:, None] * cells, start + 1) - torch.maximum(low[:, None] * cells, start)
        return covered.clamp(min=0)  # (N, cells)

    across, down = along(boxes[:, 0], boxes[:, 2], width), along(boxes[:, 1], boxes[:, 3], height)
    return down[:, :, None] * across[:, None]


def dots_of(record: object, level: int, mine: Tensor) -> np.ndarray | None:
    """Sampled places with their weights, or SAM-DETR's salient points, (heads, N, points, 3); None for others."""
    if hasattr(record, "locations"):
        places, weights = record.locations[0, mine, :, level], record.weights[0, mine, :, level]  # (N, heads, points..)
        return array(torch.cat([places, weights[..., None]], dim=-1).transpose(0, 1))
    if hasattr(record, "points"):
        points = record.points[0, mine].transpose(0, 1)[:, :, None]  # (heads, N, 1, 2)
        return array(torch.cat([points, torch.ones_like(points[..., :1])], dim=-1))
    return None


def ellipse(log_gaussian: Tensor) -> Tensor:
    """Centre and standard deviations of a Gaussian on the axes, read off its logarithm, which is a parabola each way.

    log_gaussian: (..., h, w). Returns (..., 4): x, y, deviation along x, along y, 0 to 1 across the map, cell i with
    its centre at (i + 0.5) / w. A direction in which it hardly bends has a deviation of 100 maps.
    """
    places, widths = [], []
    for values in (log_gaussian.double()[..., 0, :3], log_gaussian.double()[..., :3, 0]):  # first along x, then along y
        bend = values[..., 2] - 2 * values[..., 1] + values[..., 0]  # the second derivative, negative
        bend = bend.clamp(max=-1e-12)
        places.append(1.0 - (values[..., 2] - values[..., 0]) / 2 / bend)
        widths.append((-1 / bend).sqrt())
    size = torch.tensor(log_gaussian.shape[:-3:-1])  # (w, h)
    centre = (torch.stack(places, dim=-1) + 0.5) / size
    return torch.cat([centre, (torch.stack(widths, dim=-1) / size).clamp(max=100)], dim=-1)


# ---------------------------------------------------------------- the still form


def describe_exploring(explored: Explored, state: Exploring) -> str:
    """One state in words; the live form says the same."""
    layer, asker = explored.layers[state.layer], explored.asker(state)
    head = f"head {state.head}" if state.head else f"mean of all {explored.heads} heads"
    spread, cells = layer.spread[state.head, asker], explored.shape[0] * explored.shape[1]
    if layer.side == "encoder":
        who = f"The place around ({spot(explored, asker)}) asks."
        most = f"most of it around ({spot(explored, int(layer.maps[state.head, asker].argmax()))})"
    else:
        who = f"Query {state.query} asks: {explored.names[asker]}, {explored.scores[asker]:.2f}."
        most = f"{layer.inside[state.head, asker]:.0f}% of it inside its box"
    where = f"Its attention is spread over about {spread} of {cells} places, {most}."
    words = [f"{layer.name.capitalize()}, {head}.", who]
    words.append(where if spread else "All that it looks at is outside the image.")
    return " ".join([*words, *describe_marks(explored, layer, state, asker), *explored.notes])


def describe_marks(explored: Explored, layer: Layer, state: Exploring, asker: int) -> list[str]:
    """What else is drawn on the map, a sentence each."""
    words = []
    if layer.references is not None:
        left, top, right, bottom = (math.floor(round(float(value), 2) + 0.5) for value in layer.references[asker])
        where = (f"Cross: its reference point ({left}, {top})" if (left, top) == (right, bottom)
                 else f"Dashed: its reference box, ({left}, {top}) to ({right}, {bottom})")
        cut = f"cut into {explored.cut} x {explored.cut}" if explored.cut else ""
        words.append(", ".join(filter(None, [where, cut, explored.patterns[asker]])) + ".")
    if layer.dots is not None:
        one, several = DOTS[explored.kind]
        count = layer.dots.shape[2] * (1 if state.head else explored.heads)
        words.append((one if state.head else several).format(count))
    if layer.ellipses is not None:
        words.append("Ellipse: one standard deviation of its Gaussian." if state.head
                     else "Ellipses: one standard deviation of each head's Gaussian.")
    return words


def spot(explored: Explored, cell: int) -> str:
    """The middle of a cell in pixels of the image, "x, y"."""
    (height, width), (rows, columns) = explored.image.shape[1:], explored.shape
    row, column = divmod(cell, columns)
    return f"{int((column + 0.5) * width / columns)}, {int((row + 0.5) * height / rows)}"


def render_exploring(explored: Explored, state: Exploring) -> Figure:
    """The picture of one state. Left: the image with its detections, who asks in orange. Right: where it looks."""
    picture, layer = channels_last(explored.image), explored.layers[state.layer]
    height, width = picture.shape[:2]
    figure = Figure(figsize=(WIDTH, HEIGHT))
    shape = {"xlim": (0, width), "ylim": (height, 0), "xticks": [], "yticks": [], "aspect": "equal"}
    left, right = (figure.add_axes((x, 0.01, 0.485, 0.92), **shape) for x in (0.0, 0.515))
    whole, asker = (0, width, height, 0), explored.asker(state)
    left.imshow(picture, extent=whole, interpolation="antialiased")
    right.imshow(0.12 + 0.38 * picture.mean(2, keepdims=True).repeat(3, 2), extent=whole, interpolation="antialiased")
    glow = layer.maps[state.head, asker] / 255
    colours = GLOW(glow)
    colours[..., 3] = 0.9 * np.sqrt(glow)
    right.imshow(colours, extent=whole)
    draw_detections(left, explored, layer, asker)
    draw_marks(right, explored, layer, state.head, asker)
    for axes in (left, right):
        axes.spines[:].set(visible=True, linewidth=0.6)
    left.set_title("what it found", fontsize=10)
    right.set_title(f"{layer.name}, {f'head {state.head}' if state.head else 'mean of all heads'}", fontsize=10)
    return figure


def cell_box(explored: Explored, cell: int) -> list[float]:
    """A cell of the map as a box in pixels of the image, xyxy."""
    (height, width), (rows, columns) = explored.image.shape[1:], explored.shape
    row, column = divmod(cell, columns)
    return [column * width / columns, row * height / rows, (column + 1) * width / columns, (row + 1) * height / rows]


def draw_detections(axes: Axes, explored: Explored, layer: Layer, asker: int) -> None:
    """Named boxes around what was found; the query or the cell that asks in orange, on top."""
    boxes = [list(box) for box in last_boxes(explored)]
    chosen = asker if layer.side == "decoder" else None
    for index in range(explored.found):
        if index != chosen:
            outline(axes, boxes[index], BLUE, 1.8)
    for index in (*range(explored.found), chosen):
        if index is not None:
            if index == chosen:
                outline(axes, boxes[index], ORANGE, 2.6)
            tag(axes, boxes[index], f"{explored.names[index]} {explored.scores[index]:.2f}",
                ORANGE if index == chosen else BLUE)
    if chosen is None:
        outline(axes, cell_box(explored, asker), ORANGE, 2.6)


def last_boxes(explored: Explored) -> np.ndarray:
    """The detector's final boxes, (N, 4) xyxy in pixels, the surest first."""
    return list(explored.layers.values())[-1].boxes


def draw_marks(axes: Axes, explored: Explored, layer: Layer, head: int, asker: int) -> None:
    """On the map: the box after this layer, the reference, dots, ellipses; of all heads when their mean is shown."""
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    rows = slice(None) if head == 0 else slice(head - 1, head)
    outline(axes, layer.boxes[asker] if layer.side == "decoder" else cell_box(explored, asker), ORANGE, 2.2)
    if layer.references is not None:
        left, top, right, bottom = (float(value) for value in layer.references[asker])
        if (right - left) + (bottom - top) < 0.01:
            for colour, thick, size in ((BLACK, 3.6, 12), (WHITE, 1.6, 11)):
                axes.plot(left, top, marker="x", color=colour, markersize=size, markeredgewidth=thick, clip_on=True)
        else:
            draw_cut(axes, [left, top, right, bottom], explored.cut)
            outline(axes, [left, top, right, bottom], WHITE, 1.6, (0, (4, 2.5)))
        if explored.patterns[asker]:
            tag(axes, [left, min(top, height) - 0.04 * height, right], explored.patterns[asker], ORANGE)
    if layer.dots is not None:
        x, y, weight = layer.dots[rows, asker].reshape(-1, 3).T
        area = 14 + 120 * weight if explored.kind == "samples" else 40
        axes.scatter(x * width, y * height, s=area, c=WHITE, edgecolors=BLACK, linewidths=1, zorder=4)
    if layer.ellipses is not None:
        for x, y, wide, tall in layer.ellipses[rows, asker]:
            axes.add_patch(Ellipse((x * width, y * height), 2 * wide * width, 2 * tall * height, fill=False,
                                   edgecolor=WHITE, linewidth=1.8 if head else 0.9))


def outline(axes: Axes, box: Sequence[float], colour: str, thick: float, style: object = "-") -> None:
    """One frame with a black rim, which keeps it visible on any ground; box: xyxy in pixels."""
    left, top, right, bottom = (float(value) for value in box)
    x, y = [left, right, right, left, left], [top, top, bottom, bottom, top]
    axes.plot(x, y, color=BLACK, linewidth=thick + 1.4, alpha=0.75, solid_joinstyle="miter")
    axes.plot(x, y, color=colour, linewidth=thick, linestyle=style, solid_joinstyle="miter")


def draw_cut(axes: Axes, box: Sequence[float], parts: int) -> None:
    """The lines between the parts x parts cells into which a box is cut; none for 0. box: xyxy."""
    left, top, right, bottom = box
    across, down = (np.linspace(low, high, parts + 1)[1:-1] for low, high in ((left, right), (top, bottom)))
    lines = [[(x, top), (x, bottom)] for x in across] + [[(left, y), (right, y)] for y in down]
    for colour, thick in ((BLACK, 1.0), (WHITE, 0.6)):
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=thick, alpha=0.6))


def tag(axes: Axes, box: Sequence[float], text: str, colour: str) -> None:
    """A name at a box's upper left corner, inside the picture."""
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    left, side = (max(0.0, box[0]), "left") if box[0] < 0.6 * width else (min(width, box[2]), "right")
    axes.text(left, max(0.075 * height, box[1]), text, color=readable_on(colour), va="bottom", ha=side, fontsize=8,
              bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5})


# ---------------------------------------------------------------- the live form


def packed(explored: Explored) -> dict[str, object]:
    """Everything that the browser draws, as traits: a few arrays as bytes, and the rest as plain numbers and words.

    Arrays stand one after the other, layer by layer, each in the order of Layer. Amounts are 32-bit floats.
    """
    layers = explored.layers.values()

    def joined(name: str, kind: type) -> bytes:
        arrays = [getattr(layer, name) for layer in layers]
        return b"".join(np.ascontiguousarray(values, kind).tobytes() for values in arrays if values is not None)

    picture = io.BytesIO()
    Image.fromarray(explored.image.cpu().permute(1, 2, 0).numpy()).save(picture, "PNG")
    glow = (GLOW(np.arange(256)) * 255).round()
    glow[:, 3] = 0.9 * 255 * np.sqrt(np.arange(256) / 255)
    return {
        "maps": joined("maps", np.uint8), "tops": joined("tops", "<f4"), "spread": joined("spread", "<f4"),
        "inside": joined("inside", "<f4"), "dots": joined("dots", "<f4"), "ellipses": joined("ellipses", "<f4"),
        "picture": picture.getvalue(), "glow": glow.astype(np.uint8).tobytes(),
        "facts": facts(explored),
    }


def facts(explored: Explored) -> dict[str, object]:
    """Names, sizes and boxes as JSON."""
    def rounded(boxes: np.ndarray | None) -> list | None:
        return None if boxes is None else [[round(float(value), 2) for value in box] for box in boxes]

    layers = [
        {"name": layer.name, "side": layer.side, "askers": layer.maps.shape[1], "boxes": rounded(layer.boxes),
         "references": rounded(layer.references), "points": 0 if layer.dots is None else layer.dots.shape[2],
         "gaussian": layer.ellipses is not None}
        for layer in explored.layers.values()
    ]
    return {
        "size": list(explored.image.shape[:0:-1]), "shape": list(explored.shape), "heads": explored.heads,
        "layers": layers, "queries": explored.queries, "names": explored.names, "found": explored.found,
        "patterns": explored.patterns, "cut": explored.cut,
        "scores": [f"{score:.2f}" for score in explored.scores], "dots": list(DOTS[explored.kind]),
        "weighted": explored.kind == "samples", "notes": explored.notes,
    }


class AttentionExplorer(anywidget.AnyWidget):
    """Click a detection or a place; choose layer and head; see where it looks, and what steers it.

        AttentionExplorer(model, image)
        AttentionExplorer(model, image, about="cup")
        AttentionExplorer(model, image, state=Exploring("decoder 1", head=3, query=7))

    model, image, classes, transform, threshold, level: as for `explore`. state: what is shown first; by default the
    surest query in the last decoder layer, all heads. about: a class; then it is the surest query whose best class is
    this one. A click on a detection asks the decoder, a click on any other place asks the encoder. Tab moves between
    picture, layers and heads; arrow keys change them.
    Raises ValueError for a state that this detector does not have, for a class that no kept query says, with those
    that they say, and for a state about another query than `about` finds.
    """

    _esm = Path(__file__).with_suffix(".js")
    maps, tops, spread, inside, dots, ellipses, picture, glow = (traitlets.Bytes().tag(sync=True) for _ in range(8))
    facts = traitlets.Dict().tag(sync=True)
    layer, head = traitlets.Unicode().tag(sync=True), traitlets.Int().tag(sync=True)
    query, place = traitlets.Int().tag(sync=True), traitlets.List().tag(sync=True)

    def __init__(
        self, model: Detr, image: Tensor, classes: Sequence[str | None] | None = None,
        transform: Callable | None = None, *, threshold: float = 0.35, level: int = 0, state: Exploring | None = None,
        about: str | None = None,
    ) -> None:
        self.explored = explore(model, image, classes, transform, threshold=threshold, level=level)
        opening = first_state(self.explored, about)
        self.first = state or opening
        if about is not None and self.first.query != opening.query:
            raise ValueError(f"about={about!r} is query {opening.query}, the state is about query {self.first.query}: "
                             "give one of them")
        refuse_unknown(self.explored, self.first)
        chosen = {"layer": self.first.layer, "head": self.first.head, "query": self.first.query,
                  "place": list(self.first.place)}
        super().__init__(**packed(self.explored), **chosen)

    @property
    def state(self) -> Exploring:
        """What is chosen now."""
        return Exploring(self.layer, self.head, self.query, tuple(self.place))

    def render(self) -> Figure:
        """The picture of what is chosen now."""
        return render_exploring(self.explored, self.state)

    def describe(self) -> str:
        """What is chosen now, in words."""
        return describe_exploring(self.explored, self.state)

    def _repr_mimebundle_(self, **options: object) -> dict[str, object]:
        """The live widget, and beside it the still picture of the first state and its words. For Jupyter."""
        live = super()._repr_mimebundle_(**options) or {}
        live = dict(live[0] if isinstance(live, tuple) else live)
        words = "Left, an image with its detections. Right, where one of them looks. "
        words += describe_exploring(self.explored, self.first)
        return live | bundle(render_exploring(self.explored, self.first), words)


def first_state(explored: Explored, about: str | None = None) -> Exploring:
    """The surest query in the last decoder layer, all heads; and the place in the middle of its box.

    about: a class; only queries whose best class it is. Raises ValueError, naming what they say, when none says it.
    """
    if about is not None and about not in explored.names:
        raise ValueError(f"no query says {about!r} here: they say {', '.join(dict.fromkeys(explored.names))}")
    index = 0 if about is None else explored.names.index(about)  # the surest come first
    left, top, right, bottom = last_boxes(explored)[index]
    (height, width), (rows, columns) = explored.image.shape[1:], explored.shape
    row = min(rows - 1, max(0, int((top + bottom) / 2 / height * rows)))
    column = min(columns - 1, max(0, int((left + right) / 2 / width * columns)))
    return Exploring(list(explored.layers)[-1], 0, explored.queries[index], (row, column))


def refuse_unknown(explored: Explored, state: Exploring) -> None:
    """ValueError, naming the choices, for a layer, head, query or place that was not recorded."""
    (rows, columns), (row, column) = explored.shape, state.place
    choices = {
        "layer": (state.layer in explored.layers, ", ".join(explored.layers)),
        "head": (state.head in range(explored.heads + 1), f"0 (the mean of all) to {explored.heads}"),
        "query": (state.query in explored.queries, ", ".join(map(str, sorted(explored.queries)))),
        "place": (row in range(rows) and column in range(columns), f"(0, 0) to ({rows - 1}, {columns - 1})"),
    }
    for name, (known, choice) in choices.items():
        if not known:
            raise ValueError(f"no {name} {getattr(state, name)!r} here: choose {choice}")
