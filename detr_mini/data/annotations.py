"""Annotations as arrays: how the three lists of COCO's format are read, checked and completed.

All other formats are brought into these lists first (voc.py, yolo.py, imagefolder.py), so each field is judged here,
once. What is harmlessly odd is read, and noted: numbers in quotes, `iscrowd` as true or false, names that are numbers,
`area` null or missing (then it is width x height), polygons without boxes, pictures without width and height (then the
picture is asked), and Roboflow's placeholder category, which is the supercategory of the others and has no objects.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from detr_mini.data.finding import Pictures, Place, tell, ways_in_words
from detr_mini.data.pictures import SIDEWAYS, open_picture, orientation
from detr_mini.printing import plain

PARTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class Annotations:
    """A checked annotation file as arrays: I images, N annotations, C categories."""

    image_ids: list[int]  # (I,)
    file_names: list[str]  # (I,) as they stand in the file
    sizes: np.ndarray  # (I, 2) height, width in pixels
    rows: np.ndarray  # (N,) row of its image, 0..I-1
    category_ids: np.ndarray  # (N,)
    boxes: np.ndarray  # (N, 4) x, y, width, height in pixels, as they stand in the file
    areas: np.ndarray  # (N,) square pixels
    crowd: np.ndarray  # (N,) bool
    categories: list[dict]  # (C,) id and name, by id
    unlisted: int  # annotations of images that the file does not list; they are left out
    places: list[Place] = field(default_factory=list)  # (I,) where the pictures are
    notes: list[str] = field(default_factory=list)  # what was read although it is odd

    def of_images(self, rows: list[int]) -> "Annotations":
        """The same of some of the images."""
        new = np.full(len(self.image_ids), -1, dtype=np.int64)
        new[rows] = np.arange(len(rows))
        keep = new[self.rows] >= 0  # (N,)
        arrays = {name: getattr(self, name)[keep] for name in ("category_ids", "boxes", "areas", "crowd")}
        lists = {name: [getattr(self, name)[row] for row in rows] for name in ("image_ids", "file_names", "places")}
        return replace(self, sizes=self.sizes[rows], rows=new[self.rows][keep], unlisted=0, notes=[], **arrays, **lists)


# --- the fields


def _whole(value: object) -> int:
    """`value` as an int; TypeError if it is not a whole number of 64 bits. "3" is one, True is none."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,19}(\.0*)?\s*", value, re.ASCII):
        value = int(value.partition(".")[0])
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or abs(value) >= 2**63:
        raise TypeError
    return int(value)


def _flag(value: object) -> int:
    """0 or 1, which may be written false or true."""
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().lower(), value)
    return int(value) if isinstance(value, bool) else _whole(value)


def _side(value: object) -> int:
    """A width or height: a whole number of at least one pixel."""
    if (value := _whole(value)) < 1:
        raise ValueError
    return value


def _number(value: object) -> float:
    """`value` as a float; ValueError if it is infinite or not a number. "1.5" is one."""
    if isinstance(value, str) and "_" not in value:
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _text(value: object) -> str:
    """`value` if it is a text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise TypeError
    return value


def _name(value: object) -> str:
    """A class name; a whole number is one, too."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return f"{value:g}" if is_number else _text(value)


def _box(value: object) -> list[float]:
    """Four finite numbers x, y, width, height."""
    x, y, width, height = value
    return [_number(x), _number(y), _number(width), _number(height)]


WANTED = {
    _whole: "a whole number", _flag: "0 or 1", _side: "a whole number of pixels, at least 1", _number: "a number",
    _text: "a text", _name: "a text", _box: "four numbers [x, y, width, height]",
}


# What an entry of each list must have; those in OPTIONAL may be left out or null.
FIELDS = {
    "images": {"id": _whole, "width": _side, "height": _side, "file_name": _text},
    "annotations": {"image_id": _whole, "category_id": _whole, "bbox": _box, "area": _number, "iscrowd": _flag},
    "categories": {"id": _whole, "name": _name},
}
OPTIONAL = ("area", "iscrowd")


def _column(path: Path, entries: list, part: str, name: str, convert: Callable, default=None) -> list:
    """Field `name` of every entry of `part`, checked; the first entry at fault is named in a ValueError."""
    values = []
    for index, entry in enumerate(entries):
        try:
            value = entry.get(name)
            values.append(convert(default if value is None else value))
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise ValueError(fault(path, entry, part, index, name, WANTED[convert])) from None
    return values


def fault(path: Path, entry: object, part: str, index: int, name: str, wanted: str) -> str:
    """What is wrong with one entry of an annotation file, and where."""
    where = f"{plain(path)}: {part}[{index}]"
    if not isinstance(entry, dict):
        return f"{where} is {entry!r:.60}; it must be an object with the field '{name}'"
    where += f" (id {plain(entry['id']):.40})" if "id" in entry else ""
    if name not in entry:
        return f"{where} has no field '{name}'; it must be {wanted}"
    return f"{where} has '{name}': {entry[name]!r:.60}; it must be {wanted}"


def first_fault(path: Path, part: str, index: int, entry: object) -> str | None:
    """What is wrong with an entry, or None."""
    for name, convert in FIELDS[part].items():
        try:
            value = entry.get(name)
            if value is not None or name not in OPTIONAL:
                convert(value)
        except (AttributeError, TypeError, ValueError, OverflowError):
            return fault(path, entry, part, index, name, WANTED[convert])
    return None


# --- the lists


def load_lists(path: Path, empty: tuple[str, ...] = ()) -> dict[str, list]:
    """The three lists of a COCO-format file; ValueError names the file and, for broken JSON, the line.

    empty: lists that may be missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file at {plain(path)}; give a COCO-format instances file")
    try:
        content = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        said = f"{plain(path)} is not valid JSON ({error}); download or export it again"
        raise ValueError(said) from None
    for part in PARTS:
        if isinstance(content, dict) and part in empty:
            content[part] = content.get(part) or []
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(f"{plain(path)} has no list '{part}'; COCO format is images, annotations, categories")
    for part in ("images", "categories"):
        if not content[part] and part not in empty:
            raise ValueError(f"{plain(path)}: the list '{part}' is empty; nothing can be trained or evaluated")
    return content


def completed(
    content: dict[str, list], path: Path, pictures: Pictures | None, faults: list[str] | None
) -> tuple[dict[str, list], list[Place], list[str]]:
    """The lists with what can be known without being written there: boxes of polygons, sizes of pictures.

    Returns the lists, where each picture is, and notes in words. Entries at fault are raised, or left out and noted in
    `faults`.
    """
    notes: list[str] = []
    lists = {part: list(content[part]) for part in PARTS}
    lists["annotations"] = boxes_of_polygons(lists["annotations"], notes)
    lists["categories"] = without_placeholder(lists, notes)
    note_odd_fields(lists, notes)
    named = [isinstance(entry, dict) and isinstance(entry.get("file_name"), str) for entry in lists["images"]]
    places = [pictures.find(entry["file_name"]) if pictures and known else None
              for entry, known in zip(lists["images"], named, strict=True)]
    lists["images"] = sized(lists["images"], places, notes, faults)
    if faults is not None:
        places = dict(zip(map(id, lists["images"]), places, strict=True))
        lists = {part: sift(path, part, lists[part], faults) for part in PARTS}
        places = [places[id(entry)] for entry in lists["images"]]
    return lists, [place for place in places if place], notes


def sift(path: Path, part: str, entries: list, faults: list[str]) -> list[dict]:
    """Those entries of a list whose fields are right and whose id is new; what is wrong with the others is noted."""
    kept: list[dict] = []
    seen: Counter[int] = Counter()
    for index, entry in enumerate(entries):
        wrong = first_fault(path, part, index, entry)
        if wrong:
            faults.append(wrong)
            continue
        number = index if part == "annotations" else _whole(entry["id"])  # ids of annotations are not used
        seen[number] += 1
        if seen[number] == 1:
            kept.append(entry)
    faults += [f"{plain(path)}: {times} {part} have the id {number}; ids must be unique"
               for number, times in seen.items() if times > 1]
    return kept


def boxes_of_polygons(entries: list, notes: list[str]) -> list:
    """Annotations without a box get the one around their polygons."""
    made = [entry | {"bbox": box} if isinstance(entry, dict) and not entry.get("bbox")
            and (box := box_around(entry.get("segmentation"))) else entry for entry in entries]
    count = sum(new is not old for new, old in zip(made, entries, strict=True))
    notes += [f"{count} boxes taken from polygons"] * bool(count)
    return made


def box_around(polygons: object) -> list[float] | None:
    """x, y, width, height of what lies around polygons [[x, y, x, y, ...], ...]; None when they are none."""
    try:
        numbers = [[_number(value) for value in polygon] for polygon in polygons]
        xs, ys = ([value for polygon in numbers for value in polygon[start::2]] for start in (0, 1))
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except (TypeError, ValueError, KeyError):
        return None


def without_placeholder(lists: dict[str, list], notes: list[str]) -> list:
    """The categories without Roboflow's first, which only names the group that all others belong to."""
    entries = lists["categories"]
    if len(entries) < 2 or not all(isinstance(entry, dict) for entry in entries):
        return entries
    used = {str(entry.get("category_id")).strip() for entry in lists["annotations"] if isinstance(entry, dict)}
    rest = {id(entry): [other for other in entries if other is not entry] for entry in entries}
    placeholders = [entry for entry in entries if str(entry.get("id")) not in used and entry.get("name") and
                    entry.get("supercategory") in (None, "", "none") and
                    all(other.get("supercategory") == entry["name"] for other in rest[id(entry)])]
    notes += [f"category {plain(entry['name'])} left out: it has no object and only names the group of the others, as "
              "Roboflow's exports do" for entry in placeholders]
    return [entry for entry in entries if entry not in placeholders]


def note_odd_fields(lists: dict[str, list], notes: list[str]) -> None:
    """Count what is read although it is written in an odd way."""
    entries = {part: [entry for entry in lists[part] if isinstance(entry, dict)] for part in PARTS}
    every = [entry for part in PARTS for entry in entries[part]]
    quoted = sum(any(isinstance(entry.get(name), str) for name in ("id", "image_id", "category_id")) for entry in every)
    counts = {
        "class names are numbers": sum(not isinstance(e.get("name"), str) for e in entries["categories"]),
        "entries have ids in quotes": quoted,
        "areas are null, and taken to be width x height": sum("area" in e and e["area"] is None
                                                              for e in entries["annotations"]),
        "annotations have 'iscrowd' true or false": sum(isinstance(e.get("iscrowd"), bool)
                                                        for e in entries["annotations"]),
    }
    notes += [f"{count} {words}" for words, count in counts.items() if count]


def sized(entries: list, places: list[Place | None], notes: list[str], faults: list[str] | None) -> list:
    """Images without width or height get those of their picture."""
    made = []
    for entry, place in zip(entries, places, strict=True):
        without = isinstance(entry, dict) and (entry.get("width") is None or entry.get("height") is None)
        if without and place and place.lost and faults is None:
            raise ValueError(f"an image without width and height has no picture to take them from: {place.said}")
        if without and place and not place.lost:
            try:
                entry = entry | dict(zip(("width", "height"), size_of(place.path), strict=True))
            except ValueError as error:
                tell(faults, error)
        made.append(entry)
    count = sum(new is not old for new, old in zip(made, entries, strict=True))
    notes += [f"{count} images without width and height: taken from the pictures"] * bool(count)
    return made


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is seen, turned by its EXIF tag; ValueError when it cannot be opened."""
    try:
        with open_picture(path) as image:
            return image.size[::-1] if orientation(image) in SIDEWAYS else image.size
    except ValueError as error:
        raise ValueError(f"{error}; and its annotations do not state its size") from None


# --- arrays


def parse_annotations(
    content: dict[str, list], path: Path, pictures: Pictures | None = None, faults: list[str] | None = None
) -> Annotations | None:
    """Check the three lists of a COCO-format file. ValueError names `path`, the entry and the field.

    pictures: finds the pictures. faults: what is wrong is noted there instead, and entries at fault are left out; None
    comes back when nothing is left.
    """
    content, places, notes = completed(content, path, pictures, faults)
    if faults is not None:
        content = without_strangers(content, path, faults)
        if not content["images"] or not content["categories"]:
            return None
    images, categories = content["images"], _categories(path, content["categories"])
    image_ids = _unique_ids(path, images, "images")
    file_names = _column(path, images, "images", "file_name", _text)
    heights, widths = (_column(path, images, "images", side, _side) for side in ("height", "width"))
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    owners = _column(path, content["annotations"], "annotations", "image_id", _whole)
    rows = np.array([row_of.get(owner, -1) for owner in owners], dtype=np.int64)  # (N,) -1: not listed
    objects = _objects(path, content["annotations"], {category["id"] for category in categories})
    return Annotations(
        image_ids=image_ids,
        file_names=file_names,
        sizes=np.array([heights, widths], dtype=np.int64).T,
        rows=rows[rows >= 0],
        categories=categories,
        unlisted=int((rows < 0).sum()),
        places=places,
        notes=notes + ways_in_words(places),
        **{name: values[rows >= 0] for name, values in objects.items()},
    )


def without_strangers(content: dict[str, list], path: Path, faults: list[str]) -> dict[str, list]:
    """The lists without annotations of categories that are not listed, which are faults."""
    known = {_whole(entry["id"]) for entry in content["categories"]}
    ids = [_whole(entry["category_id"]) for entry in content["annotations"]]
    strange = Counter(number for number in ids if number not in known)
    faults += [f"{plain(path)}: {count} annotations have the category_id {number}, which 'categories' does not list"
               for number, count in sorted(strange.items())]
    kept = [entry for entry, number in zip(content["annotations"], ids, strict=True) if number in known]
    return content | {"annotations": kept}


def _unique_ids(path: Path, entries: list, part: str) -> list[int]:
    """The field 'id' of every entry; ValueError when two are the same."""
    ids, seen = _column(path, entries, part, "id", _whole), set()
    for number in ids:
        if number in seen:
            raise ValueError(f"{plain(path)}: two {part} have the id {number}; ids must be unique")
        seen.add(number)
    return ids


def _categories(path: Path, entries: list) -> list[dict]:
    """Categories as {id, name}, in order of id."""
    names = _column(path, entries, "categories", "name", _name)
    ids = _unique_ids(path, entries, "categories")
    if min(ids) < 0:
        raise ValueError(f"{plain(path)}: category id {min(ids)} is negative; ids must be 0 or more")
    return [{"id": i, "name": name} for i, name in sorted(zip(ids, names, strict=True))]


def _objects(path: Path, entries: list[dict], known: set[int]) -> dict[str, np.ndarray]:
    """The arrays of N annotations. A missing area is width x height, a missing iscrowd is 0."""
    part = "annotations"
    category_ids = _column(path, entries, part, "category_id", _whole)
    for index, category_id in enumerate(category_ids):
        if category_id not in known:
            wanted = f"one of the file's categories {sorted(known)}"
            raise ValueError(fault(path, entries[index], part, index, "category_id", wanted))
    boxes = np.array(_column(path, entries, part, "bbox", _box), dtype=np.float64).reshape(-1, 4)
    areas = np.array(_column(path, entries, part, "area", _number, default=0), dtype=np.float64)
    crowd = np.array(_column(path, entries, part, "iscrowd", _flag, default=0), dtype=bool)
    without = np.array([entry.get("area") is None for entry in entries], dtype=bool)
    areas[without] = boxes[without, 2] * boxes[without, 3]
    ids = np.array(category_ids, dtype=np.int64)
    return {"category_ids": ids, "boxes": boxes, "areas": areas, "crowd": crowd}


def clamp_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (N, 4) x, y, width, height in images of `sizes` (N, 2) height, width -> corners inside the image.

    Returns xyxy (N, 4) float32 in pixels, whether each still has an area (N,), whether it was changed (N,).
    float32 before the comparison, as in DETR's code: there, 500.0 + 1e-6 is 500.0.
    """
    corners = boxes.astype(np.float32)
    corners[:, 2:] += corners[:, :2]
    limit = sizes[:, [1, 0, 1, 0]].astype(np.float32)  # (N, 4) width, height, width, height
    inside = np.clip(corners, 0, limit)
    alive = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    return inside, alive, (inside != corners).any(axis=1)
