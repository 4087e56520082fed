"""From sketches to pixels: soft edges, shadows, backgrounds, and the layout of whole scenes.

Only numpy, Pillow and `things.py` are needed here. A worker process that paints a part of a data set
loads these two files alone, without torch, and so starts in a fifth of a second (see `scenes.py`).

Randomness comes from (seed, index) and from nothing else. So a scene is the same however many are drawn,
in whichever order, and by whichever process.
"""

import colorsys
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .things import CLASSES, SHADES, Colour, Drawing, Part, Points, Sketch, ribbon, sketch, tint

SUPERSAMPLE = 4  # a pixel is the mean of 4 x 4 finer ones
VISIBLE = 0.25  # a pixel belongs to a thing's box if the thing covers at least this much of it
SLACK = 0.015  # limits are kept with this to spare (1.9 px of 128), so that boxes measured in pixels keep them too
SHADOW = np.array((24, 20, 48), np.float32)  # the colour that a full shadow would have
TRIES = 80  # places tried for a thing before it is left out
SIZES = (32, 1024)  # smallest and largest image side in pixels


# ---------------------------------------------------------------- presets


@dataclass(frozen=True)
class Preset:
    """How a scene is filled. Lengths are fractions of the image side.

    count: fewest and most things. Where no room is left for the next one, it is left out.
    side: shortest and longest side of a box; width and height both lie between the two.
    overlap: the intersection of two boxes is less than this share of the smaller one.
    hidden: boxes in front of a box cover less than this share of it, added up.
    company: chance that a thing joins an earlier one of its class and partly covers it.
    window: all things stay inside the central square of this width.
    """

    name: str
    count: tuple[int, int]
    side: tuple[float, float]
    overlap: float = 0.25
    hidden: float = 0.4
    company: float = 0.0
    window: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError naming the field that cannot be."""
        (few, most), (short, long) = self.count, self.side
        checks = {
            "name": self.name.isidentifier(),
            "count": 1 <= few <= most,
            "side": 0 < short <= long / 2.5 and long <= self.window,
            "overlap": 0 < self.overlap <= 1,
            "hidden": 0 < self.hidden <= 1,
            "company": 0 <= self.company <= 1,
            "window": 0 < self.window <= 1,
        }
        for field, good in checks.items():
            if not good:
                hint = "; the longest side must be 2.5 times the shortest and fit the window" if field == "side" else ""
                raise ValueError(f"Preset.{field}={getattr(self, field)!r} is not possible{hint}")


FEW_LARGE = Preset("few", count=(1, 5), side=(0.18, 0.50))
MANY_SMALL = Preset("many", count=(6, 14), side=(0.09, 0.24))
CROWDED = Preset("crowded", count=(4, 8), side=(0.18, 0.46), overlap=0.9, hidden=0.8, company=0.75)
CROP = Preset("crop", count=(1, 1), side=(0.18, 0.48), window=0.53)  # cut down to its middle half by draw_crop

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (FEW_LARGE, MANY_SMALL, CROWDED)}


# ---------------------------------------------------------------- one thing in pixels


class Patch(NamedTuple):
    """A rasterised sketch and where its corner sits in the image."""

    colour: np.ndarray  # (3, h, w) float32, 0..255, already multiplied by alpha
    alpha: np.ndarray  # (h, w) float32, 0..1: how much of each pixel the thing covers
    left: int
    top: int


def rasterise(thing: Sketch, left: float, top: float, side: float, light: float) -> Patch:
    """Pixels of `thing` with its corner at (left, top) and its longer side `side` pixels long.

    `light` is -1 when the light comes from the upper left, 1 from the upper right.
    """
    x, y = int(left) - 1, int(top) - 1
    w, h = int(left - x + thing.width * side) + 3, int(top - y + thing.height * side) + 3
    shift = (np.array([left - x, top - y]) - thing.corner * side) * SUPERSAMPLE - 0.5
    canvas = _fill(thing.parts, (w * SUPERSAMPLE, h * SUPERSAMPLE), thing.turn * side * SUPERSAMPLE, shift)
    pixels = np.asarray(canvas.reduce(SUPERSAMPLE))  # (h, w, 4), colour times alpha and alpha
    pixels = pixels.transpose(2, 0, 1).astype(np.float32, order="C")  # (4, h, w)
    lit = np.linspace(0.7, 0, h)[:, None] + 0.15 * (1 + light * np.linspace(-1, 1, w))  # (h, w), 0..1
    shade = (SHADES[0] + (SHADES[1] - SHADES[0]) * lit).astype(np.float32)
    return Patch(np.minimum(pixels[:3] * shade, pixels[3]), pixels[3] / 255, x, y)


def _fill(parts: Drawing, shape: tuple[int, int], turn: np.ndarray, shift: np.ndarray) -> Image.Image:
    """Fill the parts in order on an empty canvas of `shape` (width, height); a point p is drawn at p @ turn + shift.

    The four channels are red, green, blue and coverage. Pillow is told "CMYK" because it averages those four as
    they are, where it would first multiply the colours of "RGBA" by alpha: our pixels are either full or empty.
    """
    canvas = Image.new("CMYK", shape)
    for number, part in enumerate(parts):
        if not part.clipped:
            patterns = takewhile(lambda other: other.clipped, parts[number + 1 :])
            _fill_group(canvas, part, list(patterns), turn, shift)
    return canvas


def _fill_group(canvas: Image.Image, owner: Part, patterns: Drawing, turn: np.ndarray, shift: np.ndarray) -> None:
    """Fill `owner` with its colour, and `patterns` where they lie inside it.

    All are drawn on a layer of their own; the owner's shape is the mask through which the layer is pasted.
    """
    outlines = [outline @ turn + shift for outline in owner.outlines]
    points = np.concatenate(outlines)
    start, stop = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    shape = tuple((stop - start).astype(int) + 1)
    layer, mask = Image.new("CMYK", shape, (*owner.colour, 255)), Image.new("1", shape)
    _fill_outlines(mask, [outline - start for outline in outlines], 1)
    for colour, marks, _ in patterns:
        _fill_outlines(layer, [mark @ turn + (shift - start) for mark in marks], (*colour, 255))
    canvas.paste(layer, tuple(start.astype(int)), mask)


def _fill_outlines(image: Image.Image, outlines: Sequence[Points], value: int | tuple[int, ...]) -> None:
    """Set the pixels of an image inside any of the outlines, given in its pixels."""
    pen = ImageDraw.Draw(image)
    for outline in outlines:
        pen.polygon(outline.ravel().tolist(), fill=value)


def measure(patch: Patch) -> tuple[int, int, int, int]:
    """The tight box (x, y, width, height) in image pixels around the pixels that show the thing (`VISIBLE`).

    The whole thing counts, also what something in front of it covers: the box is *amodal*. Its shadow does not.
    """
    seen = patch.alpha >= VISIBLE
    xs, ys = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    return patch.left + int(xs[0]), patch.top + int(ys[0]), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1


def cast_shadow(canvas: np.ndarray, patch: Patch, light: float) -> None:
    """Darken `canvas` softly under a patch, away from the light and a little below, as if it hung close to it."""
    size = canvas.shape[1]
    soft = max(1, round(size * 0.018))
    h, w = patch.alpha.shape
    spread = np.zeros((h + 6 * soft, w + 6 * soft), np.uint8)
    spread[3 * soft : -3 * soft, 3 * soft : -3 * soft] = patch.alpha * 255
    blurred = Image.fromarray(spread).filter(ImageFilter.GaussianBlur(soft))
    depth = np.asarray(blurred, np.float32) * np.float32(0.34 / 255)
    left = patch.left - 3 * soft - round(light * size * 0.016)
    top = patch.top - 3 * soft + round(size * 0.022)
    blend(canvas, left, top, depth * SHADOW[:, None, None], depth)


def blend(canvas: np.ndarray, left: int, top: int, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Lay premultiplied `colour` (3, h, w) of coverage `alpha` (h, w) over the canvas (3, H, W), cut at its edges."""
    (h, w), (_, height, width) = alpha.shape, canvas.shape
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + w, width), min(top + h, height)
    rows, columns = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    target = canvas[:, y0:y1, x0:x1]
    target *= 1 - alpha[rows, columns]
    target += colour[:, rows, columns]


# ---------------------------------------------------------------- backgrounds

# (chance, saturation, brightness): light, middling, dark
GROUNDS = ((0.64, (0.05, 0.24), (0.88, 0.97)), (0.2, (0.12, 0.36), (0.56, 0.74)), (0.16, (0.25, 0.5), (0.2, 0.34)))


def paint_backdrop(rng: np.random.Generator, size: int) -> tuple[np.ndarray, Colour]:
    """A soft background: a base colour, slow changes of it, up to three thin lines.

    -> the picture (3, size, size) float32 in 0..255, and the base colour.
    """
    _, saturation, brightness = GROUNDS[rng.choice(len(GROUNDS), p=[ground[0] for ground in GROUNDS])]
    hsv = rng.random(), rng.uniform(*saturation), rng.uniform(*brightness)
    base = tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(*hsv))
    drift = np.array(base) + rng.normal(0, 5, (5, 5, 1)) + rng.normal(0, 2, (5, 5, 3))
    coarse = Image.fromarray(np.clip(drift, 0, 255).astype(np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))  # (size, size, 3)
    canvas = smooth.transpose(2, 0, 1).astype(np.float32, order="C")
    for _ in range(rng.integers(4)):
        _draw_line(rng, canvas, base)
    return canvas, base


def _draw_line(rng: np.random.Generator, canvas: np.ndarray, base: Colour) -> None:
    """A thin, gently curved line from edge to edge, a little lighter or darker than the background."""
    size, fine = canvas.shape[1], 2
    across = rng.uniform(0.05, 0.95) + rng.normal(0, 0.12, 4)
    points = np.stack([[-0.05, 0.35, 0.7, 1.05], across], axis=1)  # (4, 2), left to right
    points = points[:, ::-1] if rng.random() < 0.5 else points  # or top to bottom
    mask = Image.new("L", (size * fine, size * fine))
    _fill_outlines(mask, [ribbon(rng.uniform(0.006, 0.011), *points.tolist()) * size * fine], 255)
    mask = np.asarray(mask.reduce(fine))
    rows, columns = np.nonzero(mask)
    alpha = mask[rows, columns] / np.float32(255)  # (P,) only where the line runs
    colour = np.array(tint(base, rng.choice((-1, 1)) * rng.uniform(0.1, 0.28)), np.float32)[:, None]
    canvas[:, rows, columns] += alpha * (colour - canvas[:, rows, columns])


# ---------------------------------------------------------------- layout


class Placed(NamedTuple):
    """A sketch and its place: corner (x, y) and longer side, as fractions of the image side."""

    thing: Sketch
    x: float
    y: float
    side: float

    @property
    def width(self) -> float:
        """Width of the box as a fraction of the image side."""
        return self.thing.width * self.side

    @property
    def height(self) -> float:
        """Height of the box as a fraction of the image side."""
        return self.thing.height * self.side


def lay_out(rng: np.random.Generator, preset: Preset, background: Colour) -> list[Placed]:
    """Draw things and find each a place within the preset's limits. -> back to front: what stands lower is nearer."""
    placed: list[Placed] = []
    for _ in range(rng.integers(preset.count[0], preset.count[1] + 1)):
        joins = bool(placed) and rng.random() < preset.company
        friend = placed[rng.integers(len(placed))] if joins else None
        label = friend.thing.label if friend else int(rng.integers(len(CLASSES)))
        spot = _find_spot(rng, preset, sketch(label, rng, background), placed, friend)
        placed += [spot] if spot else []
    return sorted(placed, key=lambda item: item.y + item.height)


def _find_spot(
    rng: np.random.Generator, preset: Preset, thing: Sketch, placed: list[Placed], friend: Placed | None
) -> Placed | None:
    """Try sizes and places, smaller and smaller ones. -> None if there is no room."""
    low, high = (preset.side[0] + SLACK) / min(thing.width, thing.height), preset.side[1] - SLACK
    for attempt in range(TRIES):
        side = rng.uniform(low, max(low, high * (1 - 0.7 * attempt / TRIES)))
        if attempt == TRIES // 2:
            friend = None  # no room beside it
        if friend:
            side = min(high, max(low, friend.side * rng.uniform(0.9, 1.1)))
        spot = _propose(rng, preset.window, thing, side, friend)
        if spot and _allowed(preset, [*placed, spot]):
            return spot
    return None


def _propose(
    rng: np.random.Generator, window: float, thing: Sketch, side: float, friend: Placed | None
) -> Placed | None:
    """A random place in the window, or one that partly covers `friend`. -> None if that sticks out of the window."""
    start = (1 - window) / 2 + SLACK
    room = 1 - 2 * start - np.array([thing.width, thing.height]) * side  # (2,)
    corner = start + rng.random(2) * room
    if friend:
        step = np.array([rng.choice((-1, 1)) * rng.uniform(0.15, 0.36), rng.uniform(-0.1, 0.1)])
        corner = (friend.x, friend.y) + step * (friend.width, friend.height)  # mostly side by side
    if (corner < start).any() or (corner > start + room).any():
        return None
    return Placed(thing, *corner.tolist(), side)


def _allowed(preset: Preset, placed: list[Placed]) -> bool:
    """Whether the last one, the newcomer, keeps the preset's limits on overlap, and all keep those on hiding."""
    x, y, w, h = np.array([(p.x, p.y, p.width, p.height) for p in placed]).T  # (N,) each
    right, bottom, area = x + w, y + h, w * h

    def shared(i: int | slice) -> np.ndarray:  # areas of intersection with i: (N,) or (N, N)
        across = np.minimum(right[i, None], right) - np.maximum(x[i, None], x) + SLACK
        down = np.minimum(bottom[i, None], bottom) - np.maximum(y[i, None], y) + SLACK
        return np.maximum(across, 0) * np.maximum(down, 0)

    others = slice(0, -1)
    if (shared(-1)[others] >= preset.overlap * np.minimum(area[-1], area[others])).any():
        return False
    nearer = bottom[:, None] < bottom  # (N, N) the second stands lower than the first
    return bool(((shared(slice(None)) * nearer).sum(axis=1) < preset.hidden * area).all())


# ---------------------------------------------------------------- whole pictures


class Scene(NamedTuple):
    """A finished picture and all that went into it. Things are listed back to front."""

    image: np.ndarray  # (3, H, W) uint8
    labels: list[int]  # (M,) 0..9
    boxes: np.ndarray  # (M, 4) float64: x, y, width, height in pixels
    patches: list[Patch]
    backdrop: np.ndarray  # (3, H, W) float32: the picture before things and shadows
    background: Colour


def compose(rng: np.random.Generator, preset: Preset, size: int) -> Scene:
    """Paint one scene of `size` x `size` pixels. Its layout does not depend on `size`, only its sharpness does."""
    light = float(rng.choice((-1.0, 1.0)))
    backdrop, background = paint_backdrop(rng, size)
    placed, canvas, patches = lay_out(rng, preset, background), backdrop.copy(), []
    for item in placed:
        patch = rasterise(item.thing, item.x * size, item.y * size, item.side * size, light)
        cast_shadow(canvas, patch, light)
        blend(canvas, patch.left, patch.top, patch.colour, patch.alpha)
        patches.append(patch)
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    boxes = np.array([measure(patch) for patch in patches], np.float64)
    return Scene(image, [item.thing.label for item in placed], boxes, patches, backdrop, background)


def scene_at(seed: int, index: int, preset: Preset, size: int) -> Scene:
    """Scene number `index` of the endless series `seed`."""
    return compose(np.random.default_rng([seed, index]), preset, size)


def crop_at(seed: int, index: int, size: int) -> tuple[np.ndarray, int]:
    """Crop number `index` of the series `seed`: one thing near the middle. -> (3, size, size) uint8, label.

    It is the middle of a scene twice as wide, so edges, lines and shadows look as they do in scenes.
    """
    scene = compose(np.random.default_rng([seed, index, 1]), CROP, 2 * size)
    start = size // 2
    return scene.image[:, start : start + size, start : start + size], scene.labels[0]


class Job(NamedTuple):
    """A run of pictures to paint: numbers `start` to `stop` - 1. `preset` None asks for crops."""

    seed: int
    start: int
    stop: int
    preset: Preset | None
    size: int


class Pictures(NamedTuple):
    """Many painted pictures. The M things of all N pictures lie one after the other; a crop has no boxes."""

    images: np.ndarray  # (N, 3, H, W) uint8
    counts: np.ndarray  # (N,) int64, things per picture
    labels: np.ndarray  # (M,) int64
    boxes: np.ndarray  # (M, 4) float64, x, y, width, height in pixels


def paint(job: Job) -> Pictures:
    """Paint every picture of a job."""
    images = np.empty((job.stop - job.start, 3, job.size, job.size), np.uint8)
    labels: list[list[int]] = []
    boxes = [np.empty((0, 4))]
    for row, index in enumerate(range(job.start, job.stop)):
        if job.preset is None:
            image, label = crop_at(job.seed, index, job.size)
            labels.append([label])
        else:
            scene = scene_at(job.seed, index, job.preset, job.size)
            image = scene.image
            labels.append(scene.labels)
            boxes.append(scene.boxes)
        images[row] = image
    counts = np.array([len(some) for some in labels], np.int64)
    return Pictures(images, counts, np.array(sum(labels, []), np.int64), np.concatenate(boxes))


def job_to_json(job: Job) -> str:
    """A job as text, for another process."""
    return json.dumps(job._replace(preset=job.preset and asdict(job.preset))._asdict())


def job_from_json(text: str) -> Job:
    """The opposite of `job_to_json`."""
    fields = json.loads(text)
    preset = fields["preset"]
    if preset is not None:
        preset = Preset(**{key: tuple(value) if isinstance(value, list) else value for key, value in preset.items()})
    return Job(**{**fields, "preset": preset})
