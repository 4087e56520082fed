"""Reading a data folder without stopping at the first fault: what is whole, and what is wrong with the rest.

Training reads strictly (coco.py, voc.py) and stops. The check (check.py) wants all faults at once.
"""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from detr_mini.data.coco import (
    FIELDS,
    LAYOUTS,
    OPTIONAL,
    WANTED,
    Annotations,
    fault,
    find_split,
    load_lists,
    parse_annotations,
)
from detr_mini.data.voc import find_voc, read_xml, voc_content

PARTS = ("images", "categories", "annotations")


@dataclass
class RawSplit:
    """One split. faults: entries that cannot be used, in words. annotations: all others, None when nothing is left."""

    name: str
    source: Path
    images: Path
    faults: list[str] = field(default_factory=list)
    annotations: Annotations | None = None

    def path(self, row: int) -> Path:
        """Where the picture of a row should be."""
        return self.images / self.annotations.file_names[row]


def split_names(folder: Path) -> list[str]:
    """The splits of a folder in COCO's or VOC's format; ["all"] where it has none.

    Raises FileNotFoundError when the folder is missing or holds neither format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no data folder at {folder}; give the one with images and annotations")
    names = _coco_names(folder) or _voc_names(folder)
    if not names:
        find_split(folder, "train")  # raises, and lists what it tried
    order = {"train": 0, "val": 1, "valid": 1}
    return sorted(names, key=lambda name: (order.get(name, 2), name))


def _coco_names(folder: Path) -> list[str]:
    """Names for which `find_split` finds an annotation file, each file once."""
    found: dict[Path, str] = {}
    for _, pattern in LAYOUTS:
        name_in = re.compile(re.escape(pattern).replace(r"\{split\}", "([^/]+)", 1).replace(r"\{split\}", r"\1"))
        for path in sorted(folder.glob(pattern.replace("{split}", "*"))):
            match = name_in.fullmatch(path.relative_to(folder).as_posix())
            if match and match.groups() and _is_split(folder, match[1], path):
                found.setdefault(path, match[1])
    if not found and (folder / "instances.json").is_file() and (folder / "images").is_dir():
        return ["all"]
    return list(found.values())


def _is_split(folder: Path, name: str, path: Path) -> bool:
    """Whether this name leads to this annotation file."""
    try:
        return find_split(folder, name)[1] == path
    except FileNotFoundError:
        return False


def _voc_names(folder: Path) -> list[str]:
    """Splits of a VOC folder: its lists (without those of single classes), its folders, or "all"."""
    lists = [path.stem for path in (folder / "ImageSets" / "Main").glob("*.txt") if "_" not in path.stem]
    names = lists or sorted({path.parent.name for path in folder.glob("*/*.xml")} - {"Annotations", "annotations"})
    if {"train", "val"} <= set(names):
        names = [name for name in names if name != "trainval"]
    return names or (["all"] if find_voc(folder, "all") else [])


def read_raw(folder: Path, name: str) -> RawSplit:
    """One split of `split_names`, with every fault in its entries."""
    try:
        images, source = find_split(folder, name)
    except FileNotFoundError:
        return _read_voc(folder, name)
    split = RawSplit(name, source, images)
    try:
        content = load_lists(source)
    except ValueError as error:
        split.faults.append(str(error))
        return split
    content = {part: _sift(split, part, content[part]) for part in PARTS}
    return _parsed(split, content)


def _read_voc(folder: Path, name: str) -> RawSplit:
    """A split of a VOC folder; an XML file at fault is left out."""
    found = find_voc(folder, name)
    split, whole = RawSplit(name, found.folders[0], found.images), []
    for path in found.files:
        try:
            read_xml(path, found.images)
            whole.append(path)
        except (ValueError, FileNotFoundError) as error:
            split.faults.append(str(error))
    return _parsed(split, voc_content(replace(found, files=whole)))


def _sift(split: RawSplit, part: str, entries: list) -> list[dict]:
    """Those entries of a list whose fields are right and whose id is new; what is wrong with the others is noted."""
    kept = []
    for index, entry in enumerate(entries):
        wrong = _first_fault(split.source, part, index, entry)
        if wrong:
            split.faults.append(wrong)
        else:
            kept.append(entry)
    if part == "annotations":  # their ids are not used
        return kept
    for i, times in Counter(entry["id"] for entry in kept).items():
        if times > 1:
            split.faults.append(f"{split.source}: {times} {part} have the id {i}; ids must be unique")
    return list({entry["id"]: entry for entry in kept}.values())


def _first_fault(source: Path, part: str, index: int, entry: object) -> str | None:
    """What is wrong with an entry, or None."""
    for name, convert in FIELDS[part].items():
        try:
            if name in OPTIONAL and name not in entry:
                continue
            convert(entry.get(name))
        except (AttributeError, TypeError, ValueError, OverflowError):
            return fault(source, entry, part, index, name, WANTED[convert])
    return None


def _parsed(split: RawSplit, content: dict[str, list]) -> RawSplit:
    """The split with its entries as arrays; objects of categories that are not listed are faults."""
    known = {entry["id"] for entry in content["categories"]}
    strange = Counter(entry["category_id"] for entry in content["annotations"] if entry["category_id"] not in known)
    split.faults += [f"{split.source}: {n} annotations have the category_id {i}, which 'categories' does not list"
                     for i, n in strange.items()]
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] in known]
    if content["images"] and content["categories"]:
        try:
            split.annotations = parse_annotations(content, split.source)
        except ValueError as error:
            split.faults.append(str(error))
    return split
