"""Draw data/tiny_coco: ten small pictures in the folders and the format of COCO 2017.

It holds on purpose what real folders hold: category ids with gaps, crowds, a box without width, a box that
leaves its picture, a picture without objects, a grey one, one with an alpha channel, and a photograph whose
EXIF tag asks viewers to turn it. Every box is measured on the drawn pixels.

    python tests/make_tiny_coco.py [FOLDER]      (default: data/tiny_coco of this repository)
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

FINE = 4  # drawn this much larger, then scaled down: smooth edges
CATEGORIES = {13: "stop sign", 37: "sports ball", 38: "kite", 53: "apple", 85: "clock", 90: "toothbrush"}
STOP, BALL, KITE, APPLE, CLOCK, BRUSH = CATEGORIES
CROWD = [(6, 88, 16), (20, 96, 15), (33, 90, 16), (47, 97, 16), (60, 89, 15), (12, 103, 14), (40, 105, 13)]

# split -> (image id, kind of file, width, height, [(category, left, top, size)], apples of a crowd)
PICTURES = {
    "train": [
        (139, "jpg", 160, 120, [(BALL, 14, 66, 38), (KITE, 96, 8, 44), (STOP, 62, 52, 30)], []),
        (285, "jpg", 120, 160, [(CLOCK, 30, 14, 60)], [(x + 16, y + 34, size) for x, y, size in CROWD]),
        (632, "grey.jpg", 160, 120, [(CLOCK, 12, 16, 50), (BRUSH, 72, 70, 76)], []),
        (724, "png", 100, 100, [(APPLE, 12, 46, 36), (APPLE, 84, 74, 26), (BALL, 48, 12, 44)], []),
        (776, "turned.jpg", 120, 160, [(KITE, 22, 10, 62), (BALL, 58, 108, 40)], []),
        (785, "jpg", 160, 112, [], []),
    ],
    "val": [
        (802, "jpg", 160, 120, [(STOP, 16, 14, 56), (APPLE, 100, 74, 32)], []),
        (872, "jpg", 144, 120, [(BRUSH, 20, 20, 90), (CLOCK, 74, 48, 56)], []),
        (885, "jpg", 160, 120, [(KITE, 40, 6, 52), (BALL, 112, 80, 30)], CROWD),
        (1000, "jpg", 120, 120, [(BALL, 24, 28, 72)], []),
    ],
}


def background(width: int, height: int, random: np.random.Generator) -> Image.Image:
    """A sky that fades, a ground, and grain: (height, width, 3)."""
    sky, ground = random.uniform(120, 215, 3), random.uniform(60, 140, 3)
    fade = np.linspace(1.0, 0.75, height)[:, None, None]  # (H, 1, 1)
    pixels = np.broadcast_to(sky * fade, (height, width, 3)).copy()
    hills = height * (0.72 + 0.05 * np.sin(np.arange(width) / random.uniform(9, 25)))  # (W,)
    pixels[np.arange(height)[:, None] >= hills[None]] = ground
    pixels += random.normal(0, 5, (height, width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def octagon(draw: ImageDraw.ImageDraw, middle: float, radius: float, fill: str) -> None:
    """A regular octagon, flat side up."""
    angles = [2 * math.pi * (k + 0.5) / 8 for k in range(8)]
    draw.polygon([(middle + radius * math.cos(a), middle + radius * math.sin(a)) for a in angles], fill=fill)


def stop_sign(draw: ImageDraw.ImageDraw, s: float) -> None:
    """A red octagon with a white rim and a white bar."""
    octagon(draw, s / 2, s / 2, "#ffffff")
    octagon(draw, s / 2, s * 0.45, "#c1272d")
    draw.rectangle([s * 0.22, s * 0.43, s * 0.78, s * 0.57], fill="#ffffff")


def ball(draw: ImageDraw.ImageDraw, s: float) -> None:
    """An orange ball with dark seams."""
    draw.ellipse([0, 0, s - 1, s - 1], fill="#e08030", outline="#402010", width=round(s / 24))
    draw.line([s / 2, 0, s / 2, s], fill="#402010", width=round(s / 24))
    draw.line([0, s / 2, s, s / 2], fill="#402010", width=round(s / 24))
    for left, angle in ((-0.62, 0), (0.62, 180)):  # two circles beside the ball; 51 degrees of them lie in it
        circle = [s * left, 0, s * (left + 1), s]
        draw.arc(circle, angle - 51, angle + 51, fill="#402010", width=round(s / 24))


def kite(draw: ImageDraw.ImageDraw, s: float) -> None:
    """A diamond in four colours with a tail."""
    top, left, right, bottom = (s * 0.45, 0), (0, s * 0.35), (s * 0.8, s * 0.3), (s * 0.5, s * 0.8)
    rim, fills = (top, left, bottom, right, top), ("#0072b2", "#f0e442", "#d55e00", "#009e73")
    for a, b, fill in zip(rim, rim[1:], fills, strict=False):
        draw.polygon([a, b, (s * 0.45, s * 0.33)], fill=fill)
    tail = [bottom, (s * 0.6, s * 0.88), (s * 0.52, s * 0.93), (s * 0.64, s - 1)]
    draw.line(tail, fill="#303030", width=round(s / 30))


def apple(draw: ImageDraw.ImageDraw, s: float) -> None:
    """Two red bumps, a stem and a leaf."""
    draw.ellipse([0, s * 0.18, s * 0.62, s - 1], fill="#b3202a")
    draw.ellipse([s * 0.38, s * 0.18, s - 1, s - 1], fill="#c23038")
    draw.ellipse([s * 0.16, s * 0.3, s * 0.34, s * 0.52], fill="#e88a8a")
    draw.line([s * 0.5, s * 0.28, s * 0.54, 0], fill="#5b3a1e", width=round(s / 14))
    draw.ellipse([s * 0.54, s * 0.04, s * 0.84, s * 0.2], fill="#3f8f3f")


def clock(draw: ImageDraw.ImageDraw, s: float) -> None:
    """A white face with marks and two hands at ten past ten."""
    draw.ellipse([0, 0, s - 1, s - 1], fill="#f4f1e6", outline="#28323c", width=round(s / 14))
    for hour in range(12):
        a = math.pi * hour / 6
        ends = [(s / 2 + s * r * math.sin(a), s / 2 - s * r * math.cos(a)) for r in (0.34, 0.4)]
        draw.line(ends, fill="#28323c", width=round(s / 36))
    for a, length in ((-math.pi / 3, 0.22), (math.pi / 3, 0.32)):
        end = (s / 2 + s * length * math.sin(a), s / 2 - s * length * math.cos(a))
        draw.line([(s / 2, s / 2), end], fill="#28323c", width=round(s / 22))


def toothbrush(draw: ImageDraw.ImageDraw, s: float) -> None:
    """A blue handle with white bristles, lying."""
    draw.rounded_rectangle([0, s * 0.16, s - 1, s * 0.26], radius=s * 0.05, fill="#2b7bba")
    for k in range(7):
        draw.rectangle([s * (0.68 + 0.042 * k), s * 0.02, s * (0.7 + 0.042 * k), s * 0.16], fill="#f5f5f5")


DRAW = {STOP: stop_sign, BALL: ball, KITE: kite, APPLE: apple, CLOCK: clock, BRUSH: toothbrush}


def paste(picture: Image.Image, category: int, left: int, top: int, size: int) -> list[int]:
    """Draw one object; its box x, y, width, height is measured on the pixels it covers by at least half."""
    layer = Image.new("RGBA", (size * FINE, size * FINE))
    DRAW[category](ImageDraw.Draw(layer), size * FINE)
    layer = layer.resize((size, size), Image.Resampling.BOX)
    picture.paste(layer, (left, top), layer)
    x0, y0, x1, y1 = layer.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
    return [left + x0, top + y0, x1 - x0, y1 - y0]


def turned_box(box: list[int], width: int) -> list[int]:
    """Where a box is once the picture, `width` pixels wide, is turned by 90 degrees anticlockwise."""
    x, y, w, h = box
    return [y, width - x - w, h, w]


def save(picture: Image.Image, path: Path, kind: str, random: np.random.Generator) -> None:
    """Write a picture as the kind of file asked for."""
    if kind == "png":
        alpha = np.full((picture.height, picture.width), 255, np.uint8)
        alpha[:6] = random.integers(0, 255, (6, picture.width))  # see-through at the top edge
        picture.putalpha(Image.fromarray(alpha))
        return picture.save(path, optimize=True)
    exif = Image.Exif()
    if kind == "turned.jpg":
        exif[0x0112] = 6  # orientation: viewers turn the stored picture by 90 degrees clockwise
    (picture.convert("L") if kind == "grey.jpg" else picture).save(path, quality=82, exif=exif)


def make_picture(folder: Path, entry: tuple) -> tuple[dict, list[dict]]:
    """Draw and write one picture; return its entry of the images and its annotations, without ids."""
    image_id, kind, width, height, objects, crowd = entry
    random = np.random.default_rng(image_id)
    picture = background(width, height, random)
    found = [(category, paste(picture, category, *place), 0) for category, *place in objects]
    apples = np.array([paste(picture, APPLE, *place) for place in crowd]).reshape(-1, 4)
    if crowd:
        low, high = apples[:, :2].min(0), (apples[:, :2] + apples[:, 2:]).max(0)
        found.append((APPLE, [*low.tolist(), *(high - low).tolist()], 1))
    if kind == "turned.jpg":
        found = [(category, turned_box(box, width), crowd) for category, box, crowd in found]
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    name = f"{image_id:012d}.{kind.split('.')[-1]}"
    image = {"id": image_id, "file_name": name, "width": picture.width, "height": picture.height}
    save(picture, folder / name, kind, random)
    annotations = [
        {"image_id": image_id, "category_id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": flag}
        for number, box, flag in found
    ]
    return image, annotations


def make_split(folder: Path, split: str) -> None:
    """Write the pictures of a split and its annotation file."""
    (folder / f"{split}2017").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for entry in PICTURES[split]:
        image, found = make_picture(folder / f"{split}2017", entry)
        images.append(image)
        annotations += found
    if split == "train":  # a box without width, as they slip into real files
        slip = {"image_id": 139, "category_id": KITE, "bbox": [50, 40, 0, 12], "area": 0, "iscrowd": 0}
        annotations.append(slip)
    content = {
        "info": {"description": "tiny drawings in COCO format, made by tests/make_tiny_coco.py"},
        "images": images,
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
    }
    (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content, indent=1) + "\n")


def make(folder: Path) -> None:
    """Write the whole fixture; every run gives the same pixels and boxes."""
    for split in PICTURES:
        make_split(folder, split)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "data" / "tiny_coco")
