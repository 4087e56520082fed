"""A picture of a few pictures: what the boxes of a data set look like."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detr_mini.data.check_boxes import usable
from detr_mini.data.check_files import Seen
from detr_mini.data.coco import clamp_boxes, read_image
from detr_mini.data.raw import RawSplit
from detr_mini.drawing import COLOURS

TILE = (320, 240)  # pixels, without the line of text below
TEXT, COLUMNS = 18, 4


def contact_sheet(split: RawSplit, seen: list[Seen], count: int = 12) -> Image.Image:
    """A few pictures of a split with their boxes: the fullest ones, and others spread evenly over the list."""
    rows = choose_rows(split, seen, count)
    width, height = TILE[0], TILE[1] + TEXT
    lines = max(1, -(-len(rows) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * width, lines * height), "white")
    for place, row in enumerate(rows):
        sheet.paste(tile(split, row), (place % COLUMNS * width, place // COLUMNS * height))
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


def tile(split: RawSplit, row: int) -> Image.Image:
    """One picture, fitted into a tile, with boxes in the colours of their classes, its name and number of objects."""
    data = split.annotations
    canvas = Image.new("RGB", (TILE[0], TILE[1] + TEXT), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    mine = np.flatnonzero((data.rows == row) & usable(data))
    try:
        picture = Image.fromarray(read_image(split.path(row), tuple(data.sizes[row])).permute(1, 2, 0).numpy())
    except ValueError as error:
        draw.text((4, 4), str(error)[:50], fill="black", font=font)
        return canvas
    before = picture.width
    picture.thumbnail(TILE)
    canvas.paste(picture)
    boxes = clamp_boxes(data.boxes[mine], data.sizes[data.rows[mine]])[0] * (picture.width / before)  # (M, 4)
    names = {entry["id"]: (entry["name"], place) for place, entry in enumerate(data.categories)}
    for box, category in zip(boxes.tolist(), data.category_ids[mine].tolist(), strict=True):
        name, place = names[category]
        draw.rectangle(box, outline=COLOURS[place % len(COLOURS)], width=2)
        draw.text((box[0] + 3, box[1] + 1), name[:12], fill="white", font=font, stroke_width=2, stroke_fill="black")
    draw.text((4, TILE[1] + 3), f"{data.file_names[row][-34:]}: {len(mine)} objects", fill="black", font=font)
    return canvas
