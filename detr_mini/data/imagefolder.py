"""Folders as Hugging Face's `datasets` reads them: pictures beside a metadata.jsonl, one JSON object a line.

    {"file_name": "0001.png", "objects": {"bbox": [[x, y, width, height], ...], "categories": [0, ...]}}

Classes may be numbers or names; numbers get the names that README.md's head lists for them, or are names themselves.
"""

import json
import re
from collections import defaultdict
from pathlib import Path

from detr_mini.data.finding import Pictures, Split, read_text, read_yaml, split_in, tell, walk
from detr_mini.printing import plain

METADATA = "metadata.jsonl"
CLASSES = ("categories", "category", "labels", "label", "category_id", "class", "classes", "names")
BOXES = ("bbox", "bboxes", "boxes")


def imagefolder_splits(folder: Path) -> list[Split]:
    """The splits of a folder with metadata.jsonl files: their folders, or the folders that their pictures are in."""
    folder = Path(folder)
    paths = [place / entry.name for place, entries in walk(folder) for entry in entries
             if entry.name.lower() == METADATA]
    names = names_in_readme(folder) if paths else []
    groups: dict[str, list[tuple[Path, int, dict]]] = defaultdict(list)
    broken: list[ValueError] = []
    for path in paths:
        for number, row in rows_of(path, broken):
            below = path.parent.relative_to(folder) / str(row.get("file_name") or "no name")
            groups[split_in(below.parent) or "all"].append((path, number, row))
    if paths and broken and not groups:
        raise broken[0]
    every = [row for rows in groups.values() for row in rows]
    if len(groups) > 1:
        groups.pop("all", None)
    return [imagefolder_split(folder, name, rows, classes_of(every, names), broken) for name, rows in groups.items()]


def rows_of(path: Path, broken: list[ValueError]) -> list[tuple[int, dict]]:
    """The objects of a metadata.jsonl, with their lines; what is wrong with others is noted."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            row = json.loads(line) if line.strip() else None
            if row is not None and not isinstance(row, dict):
                raise ValueError("not an object")
            rows += [(number, row)] * (row is not None)
        except (ValueError, RecursionError) as error:
            broken.append(ValueError(f"{plain(path)}, line {number} is no JSON object ({plain(error)})"))
    return rows


def names_in_readme(folder: Path) -> list[str]:
    """Class names from the head of README.md (dataset_info, class_label, names), where it has them."""
    path = folder / "README.md"
    try:
        head = re.match(r"---\n(.*?)\n---", read_text(path), re.S) if path.is_file() else None
        info = read_yaml(head[1], path) if head else None
    except ValueError:
        return []  # it is there to be read by people, in whatever encoding
    found = list(labels_below(info))
    return found[0] if found else []


def labels_below(value: object):
    """Lists of names under class_label, anywhere below."""
    if isinstance(value, dict):
        names = value.get("class_label", {})
        names = names.get("names") if isinstance(names, dict) else None
        if names:
            yield [str(name) for name in (names.values() if isinstance(names, dict) else names)]
        for below in value.values():
            yield from labels_below(below)
    elif isinstance(value, list):
        for below in value:
            yield from labels_below(below)


def objects_of(row: dict) -> tuple[list, list]:
    """Boxes and classes of one row; ValueError when they do not belong together."""
    things = row.get("objects", row)
    if isinstance(things, list):  # one object each, instead of one list per field
        things = {key: [thing.get(key) for thing in things] for key in {key for thing in things for key in thing}}
    boxes = next((things[key] for key in BOXES if key in things), [])
    classes = next((things[key] for key in CLASSES if key in things), [])
    if not isinstance(boxes, list) or not isinstance(classes, list) or len(boxes) != len(classes):
        raise ValueError("has boxes and classes that are not lists of one length")
    return boxes, classes


def classes_of(rows: list[tuple[Path, int, dict]], names: list[str]) -> dict[object, tuple[int, str]]:
    """Class as written -> (id, name), over all splits."""
    found = set()
    for _, _, row in rows:
        try:
            found |= {one for one in objects_of(row)[1] if isinstance(one, str | int)}
        except (ValueError, AttributeError, TypeError):
            continue  # reported when the row is read
    numbers = all(isinstance(one, int) for one in found)
    if numbers and names and all(0 <= one < len(names) for one in found):
        return {number: (number, name) for number, name in enumerate(names)}
    ordered = sorted(found, key=lambda one: (str(type(one)), one))
    return {one: (one if numbers else place, str(one)) for place, one in enumerate(ordered)}


def imagefolder_split(
    folder: Path, name: str, rows: list[tuple[Path, int, dict]], classes: dict, broken: list[ValueError]
) -> Split:
    """Rows as a split."""
    split, first = None if name == "all" else name, rows[0][0].parent
    pictures = Pictures(folder, first, split, also=[path.parent for path, _, _ in rows])

    def read(faults: list[str] | None) -> dict[str, list]:
        for error in broken:
            tell(faults, error)
        return content_of(rows, classes, faults)

    return Split(name, "imagefolder", rows[0][0], pictures, read)


def content_of(
    rows: list[tuple[Path, int, dict]], classes: dict, faults: list[str] | None = None
) -> dict[str, list]:
    """Rows as the three lists of COCO's format; ids count from 1. ValueError names file and line."""
    images, annotations = [], []
    for number, (path, line, row) in enumerate(rows, start=1):
        try:
            boxes, names = objects_of(row)
            found = [{"image_id": number, "category_id": classes[one][0], "bbox": box}
                     for box, one in zip(boxes, names, strict=True)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            said = error if isinstance(error, ValueError) else "has objects that are not in the form bbox, categories"
            tell(faults, ValueError(f"{plain(path)}, line {line} {said}"))
            continue
        sides = {side: row[side] for side in ("width", "height") if side in row}
        images.append({"id": number, "file_name": row.get("file_name")} | sides)
        annotations += found
    categories = [{"id": number, "name": name} for number, name in classes.values()]
    return {"images": images, "annotations": annotations, "categories": categories}
