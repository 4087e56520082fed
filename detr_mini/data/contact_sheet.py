"""A picture of a few pictures: what the boxes of a data set look like."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from detr_mini.data.annotations import clamp_boxes
from detr_mini.data.check_boxes import usable
from detr_mini.data.check_files import Seen
from detr_mini.data.pictures import read_image
from detr_mini.data.raw import RawSplit
from detr_mini.drawing import COLOURS, font_for, writable

TILE = (320, 240)  # pixels, without the line of text below
TEXT, COLUMNS = 18, 4


def contact_sheet(
    split: RawSplit, seen: list[Seen], count: int = 12, first: Sequence[int] = (), upright: bool | None = None
) -> Image.Image:
    """A few pictures of a split with their boxes: the fullest ones, and others spread evenly over the list.

    first: rows of pictures that something is wrong with; a third of the sheet is theirs. upright: as in pictures.py.
    """
    rows = list(dict.fromkeys([*first[: max(1, count // 3)], *choose_rows(split, seen, count)]))[:count]
    width, height = TILE[0], TILE[1] + TEXT
    lines = max(1, -(-len(rows) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * width, lines * height), "white")
    for place, row in enumerate(rows):
        sheet.paste(tile(split, row, upright), (place % COLUMNS * width, place // COLUMNS * height))
    return sheet


def choose_rows(split: RawSplit, seen: list[Seen], count: int) -> list[int]:
    """Rows of pictures without a problem: a third are those with the most objects, the rest lie evenly apart."""
    whole = np.array([row for row, one in enumerate(seen) if one.problem is None], dtype=int)
    data = split.annotations
    per_image = np.bincount(data.rows[usable(data)], minlength=len(data.image_ids))
    full = whole[np.argsort(-per_image[whole], kind="stable")][: count // 3]
    rest = np.setdiff1d(whole, full)
    chosen = rest[np.linspace(0, len(rest) - 1, min(count - len(full), len(rest))).round().astype(int)]
    return [*full.tolist(), *sorted(set(chosen.tolist()))]


def tile(split: RawSplit, row: int, upright: bool | None = None) -> Image.Image:
    """One picture, fitted into a tile, with boxes in the colours of their classes, its name and number of objects."""
    data = split.annotations
    canvas = Image.new("RGB", (TILE[0], TILE[1] + TEXT), "white")
    names = {entry["id"]: (entry["name"], place) for place, entry in enumerate(data.categories)}
    draw = ImageDraw.Draw(canvas)
    font = font_for([name for name, _ in names.values()] + [data.file_names[row]], 11)
    mine = np.flatnonzero((data.rows == row) & usable(data))
    try:
        pixels = read_image(split.path(row), tuple(data.sizes[row]), lambda: upright)  # (3, H, W)
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    except ValueError as error:
        draw.text((4, 4), str(error)[:50], fill="black", font=font)
        return canvas
    before = picture.width
    picture.thumbnail(TILE)
    canvas.paste(picture)
    boxes = clamp_boxes(data.boxes[mine], data.sizes[data.rows[mine]])[0] * (picture.width / before)  # (M, 4)
    for box, category in zip(boxes.tolist(), data.category_ids[mine].tolist(), strict=True):
        name, place = names[category]
        draw.rectangle(box, outline=COLOURS[place % len(COLOURS)], width=2)
        tag = writable(name, font, f"class {category}")[:12]
        draw.text((box[0] + 3, box[1] + 1), tag, fill="white", font=font, stroke_width=2, stroke_fill="black")
    called = writable(data.file_names[row], font, f"picture {row}")[-34:]
    draw.text((4, TILE[1] + 3), f"{called}: {len(mine)} objects", fill="black", font=font)
    return canvas
