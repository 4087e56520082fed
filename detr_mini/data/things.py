"""Ten everyday things, drawn by our own vector code: points, colours, closed outlines.

A *drawing* is a list of `Part`s. A part is a few closed outlines in one colour. The points live in a
square of about -1..1, x to the right and y downwards. `sketch` draws one thing at random, with new
proportions and colours each time. `painting.py` turns sketches into pixels and whole scenes.

To add a thing: write a function like `cup` below and add it to `THINGS`.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

Colour = tuple[int, int, int]  # red, green, blue, 0..255
Points = np.ndarray  # (N, 2) float, x then y


# ---------------------------------------------------------------- colours

PALETTE: dict[str, Colour] = {
    "red": (224, 62, 62),
    "coral": (255, 122, 98),
    "orange": (247, 146, 48),
    "amber": (250, 184, 50),
    "lemon": (252, 220, 86),
    "lime": (158, 204, 70),
    "leaf": (88, 172, 84),
    "forest": (42, 128, 84),
    "mint": (108, 208, 172),
    "teal": (26, 150, 152),
    "sky": (86, 176, 236),
    "blue": (46, 112, 208),
    "navy": (40, 62, 128),
    "violet": (126, 92, 204),
    "plum": (142, 62, 132),
    "pink": (246, 132, 176),
    "rose": (220, 66, 118),
    "cream": (250, 238, 212),
    "white": (250, 250, 250),
    "sand": (226, 190, 140),
    "tan": (208, 156, 104),
    "brick": (186, 88, 66),
    "brown": (132, 84, 56),
    "bark": (104, 70, 52),
    "grey": (140, 146, 158),
    "slate": (84, 94, 114),
    "ink": (44, 46, 60),
}
BRIGHT = (
    *("red", "coral", "orange", "amber", "lemon", "lime", "leaf", "mint"),
    *("teal", "sky", "blue", "violet", "pink", "rose"),
)
FIRS = ("leaf", "forest", "lime", "teal", "mint")
CROWNS = ("leaf", "leaf", "forest", "forest", "lime", "teal", "orange", "amber", "pink")
ROOFS = ("red", "brick", "slate", "teal", "navy", "plum", "orange", "brown", "forest")
WALLS = ("cream", "white", "sand", "coral", "sky", "mint", "lemon", "pink", "grey")
FURS = ("orange", "grey", "ink", "sand", "brown", "cream", "slate", "amber", "white")
CAPS = ("red", "red", "orange", "brown", "violet", "rose", "coral", "amber")
STALKS = ("cream", "white", "sand", "tan", "tan", "brown")
PALE = ("cream", "white", "sand", "lemon")
DARKS = ("ink", "slate", "navy")
WOODS = ("brown", "bark", "brick")
CHALK: Colour = (252, 250, 244)
GLASS: Colour = (145, 204, 243)
SILVER: Colour = (214, 218, 226)

SHADES = (0.86, 1.06)  # light and shade multiply a colour by something between these two
CONTRAST = 80  # least distance (of 255) of a silhouette's colours from the background, in one channel


def tint(colour: Colour, amount: float) -> Colour:
    """`colour` moved by `amount` (-1..1): towards white if positive, towards a cool dark if negative."""
    target = (255, 255, 250) if amount > 0 else (34, 24, 64)
    return tuple(round(c + (t - c) * abs(amount)) for c, t in zip(colour, target, strict=True))


def stands_out(colour: Colour, background: Colour) -> bool:
    """True if `colour`, in light and in shade, differs by `CONTRAST` from `background` in one channel."""
    (r, g, b), (x, y, z) = colour, background
    for k in (SHADES[0], 1.0, SHADES[1]):
        red, green, blue = abs(min(255, r * k) - x), abs(min(255, g * k) - y), abs(min(255, b * k) - z)
        if red < CONTRAST and green < CONTRAST and blue < CONTRAST:
            return False
    return True


def cleared(colour: Colour, background: Colour) -> Colour:
    """`colour`, made as little darker or lighter as it takes to stand out from `background`.

    One of the two ends always does, since they are more than twice `CONTRAST` apart.
    """
    for step in range(11):
        for sign in (-1, 1):
            candidate = tint(colour, sign * step / 10)
            if stands_out(candidate, background):
                return candidate
    raise ValueError(f"no tint of {colour} stands out from the background {background}")


class Paint:
    """Picks colours for one thing at random, clear of the scene's background."""

    def __init__(self, rng: np.random.Generator, background: Colour):
        self.rng = rng
        self.background = background

    def pick(self, names: Sequence[str], unlike: Colour | None = None) -> Colour:
        """One of the `PALETTE` colours `names`, varied a little, that stands out from the background.

        `unlike`: a neighbouring colour it should stand out from too, where that can be had.
        """
        shift = self.rng.integers(-9, 10, 3).tolist()
        second_best = None
        for i in self.rng.permutation(len(names)).tolist():
            colour = tuple(min(255, max(0, c + d)) for c, d in zip(PALETTE[names[i]], shift, strict=True))
            if stands_out(colour, self.background):
                if unlike is None or stands_out(colour, unlike):
                    return colour
                second_best = second_best or colour
        return second_best or cleared(colour, self.background)


# ---------------------------------------------------------------- outlines


_T = np.linspace(0, 1, 5)
BEZIER = np.stack([(1 - _T) ** 2, 2 * _T * (1 - _T), _T**2], axis=1)  # (5, 3): five points from three control points
_ANGLE = np.linspace(0, np.pi, 7)[1:-1]
HALF_TURN = np.stack([np.cos(_ANGLE), np.sin(_ANGLE)], axis=1)  # (5, 2)


@cache
def _circle(steps: int) -> Points:
    """Points on the unit circle. -> (steps, 2)"""
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@cache
def _spline(knots: int, steps: int) -> np.ndarray:
    """Matrix (knots * steps, knots) that takes the knots of a closed Catmull-Rom spline to its points."""
    t = np.arange(steps) / steps
    weights = 0.5 * np.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    )  # (4, steps): shares of the knot before, this one, the next, the one after
    matrix = np.zeros((knots, steps, knots))
    for knot in range(knots):
        for share in range(4):
            matrix[knot, :, (knot + share - 1) % knots] += weights[share]
    return matrix.reshape(knots * steps, knots)


def oval(x: float, y: float, rx: float, ry: float | None = None) -> Points:
    """An ellipse around (x, y); a circle if `ry` is left out. -> (36, 2)"""
    return _circle(36) * (rx, rx if ry is None else ry) + (x, y)


def blob(*knots: tuple[float, float]) -> Points:
    """A smooth closed curve through the knots. -> (8 * knots, 2)"""
    return _spline(len(knots), 8) @ np.array(knots, float)


def rounded(radius: float, *corners: tuple[float, float]) -> Points:
    """A polygon with its corners rounded off, from `radius` before each to `radius` after. -> (5 * corners, 2)

    Each corner becomes a quadratic Bezier curve with the corner as its middle control point.
    """
    corner = np.array(corners, float)
    step = np.concatenate([corner[1:], corner[:1]]) - corner  # (N, 2) to the next corner
    step *= np.minimum(0.5, radius / np.hypot(step[:, 0], step[:, 1]))[:, None]
    end, start = corner + step, corner - np.concatenate([step[-1:], step[:-1]])
    return (BEZIER @ np.stack([start, corner, end], axis=1)).reshape(-1, 2)  # (5, 3) @ (N, 3, 2)


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> Points:
    """A rectangle, with rounded corners if `radius` is not 0."""
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return rounded(radius, *corners) if radius else np.array(corners, float)


def ribbon(widths: float | Sequence[float], *knots: tuple[float, float]) -> Points:
    """A smooth stroke with round ends through the knots; `widths` are spread evenly along its length."""
    padded = np.array([knots[0], *knots, knots[-1]], float)
    spine = (_spline(len(padded), 8) @ padded)[8 : 8 * len(knots) + 1]  # (S, 2), from first knot to last
    along = np.concatenate([spine[1:2] - spine[:1], spine[2:] - spine[:-2], spine[-1:] - spine[-2:-1]])
    along /= np.hypot(along[:, 0], along[:, 1])[:, None]
    side = along[:, ::-1] * (-1, 1)
    if not isinstance(widths, float):
        widths = np.interp(_ramp(len(spine)), _ramp(len(widths)), widths)[:, None]  # (S, 1)
    left, right = spine + side * (widths / 2), spine - side * (widths / 2)
    return np.concatenate([left, _cap(left[-1], right[-1], along[-1]), right[::-1], _cap(right[0], left[0], -along[0])])


@cache
def _ramp(steps: int) -> np.ndarray:
    """Even steps from 0 to 1. -> (steps,)"""
    return np.linspace(0, 1, steps)


def _cap(start: Points, end: Points, outward: Points) -> Points:
    """Half a circle from `start` to `end`, bulging along the unit vector `outward`; without its ends. -> (5, 2)"""
    radius = np.hypot(*(end - start)) / 2
    return (start + end) / 2 + HALF_TURN[:, :1] * (start - end) / 2 + HALF_TURN[:, 1:] * outward * radius


# ---------------------------------------------------------------- parts


class Part(NamedTuple):
    """Closed outlines filled with one colour. A `clipped` part shows only within the last unclipped one."""

    colour: Colour
    outlines: tuple[Points, ...]
    clipped: bool = False


Drawing = list[Part]


def part(colour: Colour, *outlines: Points) -> Part:
    """A piece of the thing's silhouette."""
    return Part(colour, outlines)


def inside(colour: Colour, *outlines: Points) -> Part:
    """Shade or pattern that shows only within the part before it."""
    return Part(colour, outlines, clipped=True)


# ---------------------------------------------------------------- the ten things


def fish(rng: np.random.Generator, paint: Paint) -> Drawing:
    """A fish in profile: forked tail, back fin, belly fin, side fin, eye; striped or spotted."""
    body, h = paint.pick(BRIGHT), rng.uniform(0.40, 0.58)
    fin = paint.pick(BRIGHT) if rng.random() < 0.6 else tint(body, -0.25)
    tail = rounded(0.12, (-0.5, 0), (-1.12, -0.5), (-0.96, 0), (-1.12, 0.5))
    back = rounded(0.12, (0.35, -h * 0.8), (0.02, -h - 0.3), (-0.42, -h - 0.22), (-0.5, -h * 0.5))
    belly = rounded(0.1, (0.2, h * 0.8), (-0.18, h + 0.24), (-0.34, h * 0.7))
    upper = ((0.95, 0), (0.72, -h * 0.6), (0.25, -h), (-0.3, -h * 0.72), (-0.74, -0.1))
    lower = ((-0.74, 0.1), (-0.3, h * 0.74), (0.25, h), (0.72, h * 0.66))
    pattern = [oval(x, 0, 0.07, h * 1.2) for x in (-0.42, -0.14, 0.14)]
    if rng.random() < 0.4:
        pattern = [oval(x, y * h, 0.09) for x, y in ((-0.4, -0.1), (-0.15, -0.5), (-0.05, 0.1), (0.15, -0.3))]
    return [
        part(fin, tail, back, belly),
        inside(tint(fin, -0.2), oval(-0.6, 0, 0.24, 0.2)),
        part(body, blob(*upper, *lower)),
        inside(tint(body, 0.42), oval(0.1, h * 1.05, 0.95, h * 0.62)),
        inside(tint(fin, 0.12), *pattern),
        inside(tint(body, -0.3), ribbon(0.05, (0.4, -h), (0.32, 0), (0.4, h))),  # gill
        inside(fin, rounded(0.1, (0.3, 0.1), (-0.12, 0.12), (0.04, 0.4))),
        inside(CHALK, oval(0.62, -h * 0.3, 0.14)),
        inside((30, 30, 44), oval(0.65, -h * 0.3, 0.08)),
        inside(tint(body, -0.45), ribbon(0.05, (0.97, h * 0.25), (0.82, h * 0.3), (0.74, h * 0.22))),  # mouth
    ]


def tree(rng: np.random.Generator, paint: Paint) -> Drawing:
    """A tree: either a fir in three tiers, or a round crown on a forked trunk."""
    wood = paint.pick(WOODS)
    return _fir(rng, paint, wood) if rng.random() < 0.4 else _round_tree(rng, paint, wood)


def _fir(rng: np.random.Generator, paint: Paint, wood: Colour) -> Drawing:
    """Three overlapping tiers, drawn from the lowest to the top."""
    green, wide = paint.pick(FIRS), rng.uniform(0.6, 0.76)
    drawing = [
        part(wood, box(-0.13, 0.5, 0.13, 1.0, 0.04)),
        inside(tint(wood, -0.3), box(-0.2, 0.5, 0.2, 0.74)),
    ]
    for top, low, width in ((-0.15, 0.68, wide), (-0.58, 0.22, wide * 0.82), (-1.0, -0.22, wide * 0.62)):
        drawing += [
            part(green, rounded(0.1, (0, top), (width, low), (0, low + 0.08), (-width, low))),
            inside(tint(green, 0.2), rounded(0.1, (-0.02, top), (-width, low), (-0.2, low))),
            inside(tint(green, -0.22), ribbon(0.12, (-width, low), (0, low + 0.1), (width, low))),
        ]
    return drawing


def _round_tree(rng: np.random.Generator, paint: Paint, wood: Colour) -> Drawing:
    """A crown of seven ovals, with fruit in some."""
    green, wide = paint.pick(CROWNS), rng.uniform(0.9, 1.12)
    angles = rng.uniform(0, 6.28) + np.arange(6) * np.pi / 3
    leaves = [oval(0.46 * wide * np.cos(a), -0.34 + 0.34 * np.sin(a), rng.uniform(0.3, 0.4)) for a in angles]
    trunk = rounded(0.05, (-0.1, 0), (0.1, 0), (0.12, 0.8), (0.2, 1), (-0.2, 1), (-0.12, 0.8))
    boughs = [ribbon((0.13, 0.08), (0, 0.66), (x, 0.22)) for x in (-0.3, 0.3)]
    drawing = [
        part(wood, trunk, *boughs),
        inside(tint(wood, -0.3), box(-0.5, 0, 0.5, 0.5)),
        part(green, *leaves, oval(0, -0.34, 0.5 * wide, 0.42)),
        inside(tint(green, -0.2), oval(0.1, 0.12, 0.9, 0.3), oval(0.5, -0.1, 0.4)),
        inside(tint(green, 0.22), *(oval(0.3 * np.cos(a), -0.55 + 0.2 * np.sin(a), 0.22) for a in angles[:4])),
    ]
    if rng.random() < 0.4:
        fruit = paint.pick(("red", "orange", "rose", "lemon"), unlike=green)
        places = ((-0.45, -0.35), (0.0, -0.1), (0.42, -0.5), (0.05, -0.6), (0.4, -0.1))
        drawing.append(inside(fruit, *(oval(x, y, 0.09) for x, y in places)))
    return drawing


def house(rng: np.random.Generator, paint: Paint) -> Drawing:
    """A house: gable roof with eaves, chimney, door, windows."""
    wall, roof, brick = paint.pick(WALLS), paint.pick(ROOFS), paint.pick(("brick", "brown", "slate"))
    w, y, door, x = rng.uniform(0.66, 0.86), rng.uniform(-0.2, -0.04), rng.uniform(-0.4, 0.4), rng.uniform(0.34, 0.5)
    windows = (-w * 0.54, w * 0.54)
    bars = [box(c - 0.15, y + 0.315, c + 0.15, y + 0.345) for c in windows]
    bars += [box(c - 0.015, y + 0.18, c + 0.015, y + 0.48) for c in windows]
    gable = rounded(0.05, (-w, y), (0, -0.62), (w, y), (w, y + 0.16), (0, -0.46), (-w, y + 0.16))
    slopes = ((w + 0.22, y + 0.02), (w + 0.1, y + 0.14), (0, -0.66), (-w - 0.1, y + 0.14), (-w - 0.22, y + 0.02))
    return [
        part(brick, box(x - 0.12, -0.95, x + 0.12, y, 0.02)),
        inside(tint(brick, -0.3), box(x - 0.12, -0.78, x + 0.2, 0)),
        part(tint(brick, 0.15), box(x - 0.16, -1.0, x + 0.16, -0.88, 0.03)),
        part(wall, rounded(0.04, (-w, y - 0.1), (0, -0.8), (w, y - 0.1), (w, 1), (-w, 1))),
        inside(tint(wall, -0.16), gable),  # the roof's shadow
        inside(tint(wall, -0.28), box(-1, 0.9, 1, 1)),
        inside(GLASS, *(box(c - 0.15, y + 0.18, c + 0.15, y + 0.48, 0.03) for c in windows), oval(0, y - 0.14, 0.13)),
        inside(CHALK, *bars),
        inside(tint(roof, -0.2), box(door - 0.17, 0.42, door + 0.17, 1, 0.08)),
        inside(PALETTE["lemon"], oval(door + 0.09, 0.74, 0.035)),
        part(roof, rounded(0.07, (0, -0.94), *slopes)),
    ]


def car(rng: np.random.Generator, paint: Paint) -> Drawing:
    """A car from the side: cabin with windows, two wheels, lights, bumpers."""
    body, tyre = paint.pick((*BRIGHT, "white", "navy")), paint.pick(DARKS)
    top, back, front = rng.uniform(-0.66, -0.5), rng.uniform(-0.78, -0.5), rng.uniform(0.2, 0.4)
    r, mid = rng.uniform(0.21, 0.26), (back + front) / 2
    cabin = rounded(0.22, (back - 0.16, 0.1), (back, top), (front, top), (front + 0.36, 0.1))
    glass = ((back - 0.02, -0.06), (back + 0.1, top + 0.12), (front - 0.06, top + 0.12), (front + 0.2, -0.06))
    hull = rounded(0.2, (-1.0, -0.02), (0.55, -0.1), (1.0, 0.06), (1.02, 0.44), (-1.0, 0.44))
    bumpers = box(0.84, 0.34, 1.1, 0.46, 0.05), box(-1.08, 0.34, -0.84, 0.46, 0.05)
    wheels = [[oval(x, 0.42, r * size) for x in (-0.55, 0.56)] for size in (1, 0.52, 0.2)]
    door = box(mid - 0.015, -0.02, mid + 0.015, 0.38), box(mid + 0.08, 0.08, mid + 0.22, 0.12, 0.02)
    return [
        part(body, cabin, hull),
        inside(tint(body, -0.24), box(-1.1, 0.26, 1.1, 0.5)),
        inside(tint(body, 0.3), box(-1.1, -0.04, 1.1, 0.03)),
        inside(tint(GLASS, 0.3), rounded(0.14, *glass)),
        inside(body, box(mid - 0.045, top, mid + 0.045, -0.02)),
        inside(tint(body, -0.4), *door),
        inside((255, 240, 170), oval(0.96, 0.12, 0.1, 0.09)),
        inside(PALETTE["red"], oval(-0.97, 0.1, 0.07, 0.1)),
        part(tyre, *bumpers, *wheels[0]),
        inside(SILVER, *wheels[1]),
        inside((110, 116, 130), *wheels[2]),
    ]


def balloon(rng: np.random.Generator, paint: Paint) -> Drawing:
    """A hot-air balloon: striped envelope, ropes, basket."""
    first, basket, w = paint.pick(BRIGHT), paint.pick((*WOODS, "sand")), rng.uniform(0.66, 0.78)
    second = paint.pick((*BRIGHT, *PALE), unlike=first)
    right = ((w * 0.74, -0.78), (w, -0.3), (w * 0.7, 0.16), (0.2, 0.5))
    skin = blob((0, -1), *right, *((-x, y) for x, y in reversed(right)))
    half, inner, core = (
        blob((0, -1.04), (r, -0.3), (r * 0.4, 0.4), (0, 0.6), (-r * 0.4, 0.4), (-r, -0.3))
        for r in (0.82 * w, 0.5 * w, 0.18 * w)
    )
    ropes = [ribbon(0.045, (x, 0.46), (x * 0.75, 0.78)) for x in (-0.2, 0, 0.2)]
    return [
        part(tint(basket, -0.2), *ropes),
        part(basket, rounded(0.05, (-0.19, 0.72), (0.19, 0.72), (0.15, 1.02), (-0.15, 1.02))),
        inside(tint(basket, -0.35), box(-0.3, 0.84, 0.3, 0.88), box(-0.3, 0.95, 0.3, 0.98)),
        inside(tint(basket, 0.3), box(-0.3, 0.7, 0.3, 0.77)),
        part(first, skin),
        inside(second, half),
        inside(first, inner),
        inside(second, core),
        inside(tint(first, -0.3), box(-0.3, 0.42, 0.3, 0.6)),
    ]


def boat(rng: np.random.Generator, paint: Paint) -> Drawing:
    """A sailing boat: hull with a stripe, mast with a pennant, mainsail and jib."""
    hull, mast = paint.pick((*BRIGHT, "navy", "brown")), paint.pick(WOODS + DARKS)
    sail, pennant = paint.pick((*PALE, *PALE, *BRIGHT)), paint.pick(("red", "orange", "blue", "rose"))
    jib = paint.pick(BRIGHT, unlike=hull) if rng.random() < 0.5 else tint(sail, -0.12)
    w, y = rng.uniform(0.6, 0.82), rng.uniform(0.3, 0.4)
    body = rounded(0.1, (-1.0, 0.48), (-0.3, 0.54), (0.3, 0.54), (0.94, 0.48), (0.66, 0.98), (-0.62, 0.98))
    return [
        part(mast, box(-0.1, -0.98, -0.03, 0.6, 0.02)),
        part(pennant, rounded(0.03, (-0.08, -1.0), (0.3, -0.9), (-0.08, -0.8))),
        part(sail, rounded(0.06, (-0.02, -0.86), (0.3, -0.3), (w, y), (0.02, y))),
        inside(tint(sail, -0.14), rounded(0.05, (0.02, y), (w, y), (w, y - 0.12), (0.02, y - 0.22))),
        inside(tint(hull, 0.1), box(-0.1, -0.28, 0.9, -0.16)),
        part(jib, rounded(0.06, (-0.12, -0.62), (-0.12, y), (-0.72, y))),
        inside(tint(jib, -0.18), rounded(0.05, (-0.12, y), (-0.72, y), (-0.12, y - 0.24))),
        part(hull, body),
        inside(tint(hull, 0.6), box(-1.1, 0.58, 1.1, 0.66)),
        inside(tint(hull, -0.3), box(-1.1, 0.82, 1.1, 1)),
    ]


def mushroom(rng: np.random.Generator, paint: Paint) -> Drawing:
    """A mushroom: a spotted cap, a stalk with a ring."""
    cap, stalk = paint.pick(CAPS), paint.pick(STALKS)
    w, tall, foot = rng.uniform(0.84, 1.0), rng.uniform(0.78, 1.0), rng.uniform(0.26, 0.34)
    half = ((0.36, -0.88 * tall), (w * 0.86, -0.42 * tall), (w, 0.06), (w * 0.5, 0.2))
    leg = ((0.2, 0.0), (0.22, 0.5), (foot, 0.84), (foot * 0.6, 1.0))
    spots = (
        *((-0.56, -0.22, 0.16), (0.02, -0.5, 0.19), (0.55, -0.32, 0.15)),
        *((0.16, -0.06, 0.12), (-0.26, -0.82, 0.1), (-0.2, -0.02, 0.07)),
    )
    shift = rng.uniform(-0.05, 0.05, (len(spots), 2)).tolist()
    places = [(x + dx, y + dy, r) for (x, y, r), (dx, dy) in zip(spots, shift, strict=True)]
    return [
        part(stalk, blob(*leg, *((-x, y) for x, y in reversed(leg)))),
        inside(tint(stalk, -0.22), oval(0, 0.12, 0.5, 0.22), oval(0.34, 0.7, 0.16, 0.5)),
        part(tint(stalk, -0.08), rounded(0.06, (-0.2, 0.34), (0.2, 0.34), (0.32, 0.52), (-0.32, 0.52))),
        part(cap, blob(*half, *((-x, y) for x, y in reversed(half)))),
        inside(tint(cap, -0.28), rounded(0.3, (-1.1, 0.3), (-1.1, 0.0), (0, 0.14), (1.1, 0.0), (1.1, 0.3))),
        inside(tint(cap, 0.2), oval(-0.3, -0.6 * tall, 0.4, 0.2)),
        inside(CHALK, *(oval(x * w, y * tall, r, r * 0.9) for x, y, r in places)),
    ]


def cup(rng: np.random.Generator, paint: Paint) -> Drawing:
    """A cup of coffee: rim, handle at the side, a saucer under some; a band, dots or a heart."""
    body = paint.pick((*BRIGHT, "white", "cream"))
    band, foot, saucer = paint.pick((*BRIGHT, *PALE), unlike=body), rng.uniform(0.46, 0.62), rng.random() < 0.6
    low = 0.72 if saucer else 0.9
    drawing = []
    if saucer:
        drawing = [part(tint(body, -0.08), oval(0, low + 0.02, 0.98, 0.2))]
        drawing += [inside(tint(body, 0.35), oval(0, low - 0.04, 0.8, 0.13))]
    handle = ribbon(0.15, (0.52, -0.36), (0.9, -0.36), (0.98, 0.02), (0.78, 0.3), (0.42, 0.36))
    wall = rounded(0.16, (-0.7, -0.6), (0.7, -0.6), (foot, low), (-foot, low))
    dots = [oval(x, y, 0.1) for x, y in ((-0.42, -0.1), (0.0, -0.02), (0.4, -0.1), (-0.2, 0.3), (0.22, 0.3))]
    heart = [oval(-0.12, -0.04, 0.14), oval(0.12, -0.04, 0.14)]
    heart.append(rounded(0.05, (-0.24, 0.03), (0.24, 0.03), (0, 0.32)))
    return drawing + [
        part(tint(body, -0.12), handle),
        part(body, wall, oval(0, -0.6, 0.7, 0.17)),
        inside(tint(body, -0.2), oval(0.62, 0.2, 0.3, 1.0)),
        inside(band, *([box(-1, -0.1, 1, 0.14)], dots, heart)[int(rng.integers(3))]),
        inside(tint(body, 0.4), oval(0, -0.6, 0.7, 0.17)),
        inside((92, 58, 40), oval(0, -0.58, 0.6, 0.12)),
        inside((140, 94, 62), oval(-0.16, -0.57, 0.22, 0.05)),
    ]


def cat(rng: np.random.Generator, paint: Paint) -> Drawing:
    """A sitting cat: pointed ears, curled tail, paws, stripes."""
    fur, w, swing = paint.pick(FURS), rng.uniform(0.42, 0.52), rng.uniform(0.75, 0.95)
    dark, light = tint(fur, -0.3), tint(fur, 0.5)
    flank = ((w * 0.7, 0.0), (w, 0.62), (w * 0.84, 0.98))
    body = blob((0, -0.3), *flank, (0, 1.0), *((-x, y) for x, y in reversed(flank)))
    tail = ribbon((0.2, 0.2, 0.16), (0.2, 0.88), (0.66, 0.86), (swing, 0.5), (0.72, 0.16), (0.86, -0.02))
    ears = [rounded(0.08, (s * 0.1, -0.72), (s * 0.44, -1.1), (s * 0.48, -0.5)) for s in (-1, 1)]
    inner = [rounded(0.05, (s * 0.22, -0.72), (s * 0.4, -0.98), (s * 0.42, -0.64)) for s in (-1, 1)]
    stripes = [oval(s * w, y, 0.16, 0.05) for s in (-1, 1) for y in (0.5, 0.66)]
    legs = [box(x - 0.02, 0.66, x + 0.02, 1.0) for x in (-w * 0.58, 0, w * 0.58)]
    return [
        part(fur, tail),
        inside(dark, oval(0.84, -0.02, 0.2, 0.16)),
        part(fur, body),
        inside(light, oval(0, 0.34, w * 0.45, 0.4)),
        inside(dark, *stripes, *legs),
        part(fur, *ears, oval(0, -0.46, 0.5, 0.42)),
        inside((244, 160, 160), *inner),
        inside(light, oval(0, -0.28, 0.24, 0.15)),
        inside(dark, *(box(x - 0.03, -0.9, x + 0.03, -0.7, 0.03) for x in (-0.12, 0, 0.12))),
        inside((250, 214, 70) if sum(fur) < 330 else (46, 60, 60), *(oval(x, -0.48, 0.09, 0.1) for x in (-0.2, 0.2))),
        inside((24, 24, 32), *(oval(x, -0.48, 0.04, 0.09) for x in (-0.2, 0.2))),
        inside((226, 110, 120), rounded(0.03, (-0.07, -0.34), (0.07, -0.34), (0, -0.26))),
    ]


def umbrella(rng: np.random.Generator, paint: Paint) -> Drawing:
    """An open umbrella: scalloped canopy in five panels, tip, shaft, hooked handle."""
    first, shaft, tall = paint.pick(BRIGHT), paint.pick((*DARKS, "brown")), rng.uniform(0.84, 0.98)
    second = paint.pick((*BRIGHT, *PALE), unlike=first) if rng.random() < 0.7 else tint(first, 0.3)
    arc = np.linspace(np.pi, 2 * np.pi, 28)[:, None]
    dome = np.concatenate([np.cos(arc), tall * np.sin(arc)], axis=1)
    panels = (0.8, 0.4, 0.0, -0.4, -0.8)  # middles, from right to left
    scallops = [oval(x, 0.05, 0.2, 0.13)[::-1][:18] for x in panels]
    lining = [oval(x, 0.06, 0.22, 0.09) for x in panels]
    hook = ((0, -0.2), (0, 0.6), (0.02, 0.86), (0.16, 1.0), (0.31, 0.9), (0.32, 0.76))
    return [
        part(shaft, ribbon((0.05, 0.1), (0, -tall - 0.13), (0, -tall + 0.1)), ribbon((0.09, 0.09, 0.13, 0.13), *hook)),
        part(first, np.concatenate([dome, *scallops])),
        inside(second, oval(0, 0.1, 0.6, tall + 0.1)),
        inside(first, oval(0, 0.1, 0.2, tall + 0.1)),
        inside(tint(first, -0.25), *lining[::2]),
        inside(tint(second, -0.25), *lining[1::2]),
    ]


# name: (how it is drawn, how far it may lean in degrees)
THINGS: dict[str, tuple[Callable[[np.random.Generator, Paint], Drawing], float]] = {
    "fish": (fish, 14),
    "tree": (tree, 3),
    "house": (house, 2),
    "car": (car, 4),
    "balloon": (balloon, 7),
    "boat": (boat, 7),
    "mushroom": (mushroom, 8),
    "cup": (cup, 4),
    "cat": (cat, 3),
    "umbrella": (umbrella, 22),
}
CLASSES: tuple[str, ...] = tuple(THINGS)


class Sketch(NamedTuple):
    """One drawn thing. `parts @ turn - corner` has its corner at (0, 0) and the longer side of its box is 1."""

    label: int
    parts: Drawing
    turn: np.ndarray  # (2, 2) lean, mirror and scale
    corner: np.ndarray  # (2,)
    width: float
    height: float


def sketch(label: int, rng: np.random.Generator, background: Colour) -> Sketch:
    """Draw thing number `label` (0..9) once: new proportions, colours and lean, either way round.

    Every colour of its silhouette stands out from `background`, see `stands_out`.
    """
    draw, lean = THINGS[CLASSES[label]]
    parts = draw(rng, Paint(rng, background))
    parts = [p if p.clipped else Part(cleared(p.colour, background), p.outlines) for p in parts]
    angle, facing = math.radians(rng.uniform(-lean, lean)), rng.choice((-1.0, 1.0))
    across, up = rng.uniform(0.94, 1.06) * facing, rng.uniform(0.94, 1.06)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos * across, sin * across], [-sin * up, cos * up]])
    silhouette = np.concatenate([outline for p in parts if not p.clipped for outline in p.outlines]) @ turn  # (N, 2)
    corner, extent = silhouette.min(axis=0), np.ptp(silhouette, axis=0)  # (2,), (2,)
    scale = extent.max()
    return Sketch(label, parts, turn / scale, corner / scale, *(extent / scale).tolist())
