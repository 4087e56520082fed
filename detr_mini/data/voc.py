"""Folders in Pascal VOC's format: one XML file per picture.

Corners count pixels from 1 and belong to the box, as VOC defines them: (xmin, xmax) = (1, 10) is ten pixels wide and
starts at the left edge. Objects marked `difficult` are handled as VOC's own evaluation does: they are no targets, and
finding one is neither right nor wrong (COCO's crowds work the same way). Categories are the names in all XML files of
the folder, in alphabetical order, so that they agree between splits.

XML is read in the encoding that it declares, and without document types and entities, so no file can name another or
grow in memory.
"""

import codecs
import math
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

from detr_mini.data.finding import (
    IMAGE_SUFFIXES,  # noqa: F401 - check_files.py takes it from here
    Pictures,
    Split,
    is_litter,
    one_form,
    read_lines,
    split_in,
    split_of,
    tell,
    walk,
)
from detr_mini.printing import plain

LARGEST = 10_000_000  # bytes; an XML file of one picture has a few thousand
CORNERS = ("xmin", "ymin", "xmax", "ymax")
DECLARED = re.compile(r"\s*<\?xml\b([^>]*)\?>")
ENCODING = re.compile(r"""encoding\s*=\s*["']([\w.:-]+)["']""")
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "ascii": "utf-8"}  # what programs really write
ENCODINGS = re.compile(r"utf|us-ascii|ascii|iso|latin|cp\d|windows|gb|big5|euc|shift|koi8|mac|tis", re.I)
XML_FOLDERS = ("annotations", "annotation", "labels", "xml", "xmls", "ann", "annots", "annot")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs", "image", "img", "jpg", "photos", "pictures")
SINGLE_CLASS = re.compile(r".+_(train|val|trainval|test)$", re.I)  # VOC's lists of one class


class _Builder(ElementTree.TreeBuilder):
    """Builds the tree of a file without a document type."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it has a document type (<!DOCTYPE>), which is not read; remove that line")


def parse_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. FileNotFoundError, or ValueError naming the file and, for broken XML, the line."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"annotation file {plain(path)} is missing; restore it, or take the picture off the list"
        )
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{plain(path)} has {path.stat().st_size:,} bytes, too many for the boxes of one picture")
    try:
        return ElementTree.fromstring(decoded(path.read_bytes()), ElementTree.XMLParser(target=_Builder()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{plain(path)} cannot be read as XML: {plain(error)}") from None


def decoded(raw: bytes) -> str:
    """The text of an XML file, in the encoding that its mark or its first line declares, without that line.

    Python's own parser knows few encodings; UnicodeDecodeError (a ValueError) and LookupError for a wrong one.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif raw.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    else:
        head = DECLARED.match(raw[:300].decode("latin-1"))
        declared = ENCODING.search(head[1]) if head else None
        encoding = (declared[1] if declared else "utf-8").lower()
    if not ENCODINGS.match(encoding):
        raise LookupError(f"unknown encoding {encoding}")
    text = raw.decode(WIDER.get(encoding.replace("-", "_"), WIDER.get(encoding, encoding)))
    return DECLARED.sub("", text, count=1)


def read_xml(path: Path, pictures: Pictures) -> tuple[dict, list[dict]]:
    """One picture {file_name, width, height} and its objects {name, bbox, area, iscrowd}.

    Boxes are x, y, width, height in pixels from 0. A size that is missing or 0 is left out. Raises as `parse_xml`;
    ValueError names file, object and field.
    """
    root = parse_xml(path)
    entry = {"file_name": picture_of(path, root.findtext("filename"), pictures)}
    sides = [(root.findtext(f"size/{side}") or "0").strip() for side in ("width", "height")]
    if all(side.isdecimal() and int(side) > 0 for side in sides):
        entry |= {"width": int(sides[0]), "height": int(sides[1])}
    return entry, [_object(path, number, thing) for number, thing in enumerate(root.iter("object"), start=1)]


def _object(path: Path, number: int, thing: ElementTree.Element) -> dict:
    """One object of a file; `number` counts from 1."""
    name = (thing.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{plain(path)}: object {number} has no name; give it the name of its class")
    left, top, right, bottom = (_corner(path, number, thing, side) for side in CORNERS)
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    difficult = (thing.findtext("difficult") or "").strip() == "1"
    return {"name": name, "bbox": box, "area": max(0, box[2]) * max(0, box[3]), "iscrowd": int(difficult)}


def _corner(path: Path, number: int, thing: ElementTree.Element, side: str) -> float:
    """One side of a box, finite."""
    text = thing.findtext(f"bndbox/{side}")
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{plain(path)}: object {number} has {side} {text!r}; it must be a number of pixels")
    return value


def picture_of(path: Path, stated: str | None, pictures: Pictures) -> str:
    """The name of an XML file's picture: the one it states if that exists, else one of the same stem."""
    stated = PureWindowsPath((stated or "").strip()).name
    names = [stated, path.stem] if stated else [path.stem]
    return next((name for name in names if not pictures.find(name).lost), stated or f"{path.stem}.jpg")


# --- where a split is


@dataclass(frozen=True)
class VocPart:
    """XML files of a folder, in order; one may be missing. images: where their pictures should be."""

    images: Path
    files: list[Path]


def voc_splits(folder: Path) -> list[Split]:
    """The splits of a folder with VOC's XML files, wherever those lie.

    Splits are the lists in ImageSets/Main (or beside the folder of XML files), or folders whose names speak of them.
    """
    folder = Path(folder)
    groups: dict[str, list[VocPart]] = defaultdict(list)
    tops: dict[Path, list[tuple[Path, list[Path]]]] = defaultdict(list)
    for place, files in xml_folders(folder):
        tops[base_of(folder, place)].append((place, files))
    for base, places in tops.items():
        for name, part in parts_of(folder, base, places):
            groups[name].append(part)
    everywhere = [place for places in tops.values() for place, _ in places]
    if len(groups) > 1:
        groups.pop("all", None)
    if "trainval" in groups:
        both = groups.pop("trainval")
        groups.setdefault("train", both)
    return [voc_split(folder, name, parts, everywhere) for name, parts in groups.items()]


def xml_folders(folder: Path) -> list[tuple[Path, list[Path]]]:
    """Folders with VOC's XML files, and those files."""
    found = []
    for place, entries in walk(folder):
        files = [place / entry.name for entry in entries if entry.name.lower().endswith(".xml")]
        meant = place.name.lower() in XML_FOLDERS and not any(is_voc(path, b"<annotations") for path in files[:5])
        if files and (meant or any(map(is_voc, files[:5]))):
            found.append((place, files))
    return found


def voc_files(place: Path) -> list[Path]:
    """VOC's XML files in one folder."""
    return next((files for found, files in xml_folders(place) if found == place), [])


def is_voc(path: Path, root: bytes = b"<annotation") -> bool:
    """Whether an XML file begins as VOC's do, or with another root."""
    with path.open("rb") as file:
        return bool(re.search(root + rb"[\s/>]", file.read(4096).replace(b"\0", b"")))


def base_of(folder: Path, place: Path) -> Path:
    """The folder that holds XML files and pictures: above Annotations/, if the XML files are below such a one."""
    above = [place, *place.parents[: len(place.relative_to(folder).parts) - 1]]  # up to the data folder, without it
    return next((parent.parent for parent in above if parent.name.lower() in XML_FOLDERS and parent != folder), place)


def parts_of(folder: Path, base: Path, places: list[tuple[Path, list[Path]]]) -> list[tuple[str, VocPart]]:
    """Folders of XML files with one base, by split: by their names, else by lists, else all together."""
    parts = [(split_in(place.relative_to(folder)), VocPart(images_beside(place, base), files))
             for place, files in places]
    rest = [part for split, part in parts if split is None]
    known = {one_form(path.stem): path for part in rest for path in part.files}
    lists = split_lists(base) if rest else {}
    stated = [(name, VocPart(rest[0].images, [listed_file(line, known, places[0][0]) for line in lines]))
              for name, lines in lists.items()]
    return [(split, part) for split, part in parts if split] + (stated or [("all", part) for part in rest])


def images_beside(place: Path, base: Path) -> Path:
    """The folder of pictures that belongs to a folder of XML files: images/train to annotations/train."""
    below = Path(*place.relative_to(base).parts[1:])
    found = (base / name / part for part in (below, "") for name in IMAGE_FOLDERS)
    return next((images for images in found if images.is_dir()), base)


def split_lists(base: Path) -> dict[str, list[str]]:
    """Split -> the lines of its list. Lists of single classes are no splits."""
    for place in (base / "ImageSets" / "Main", base / "ImageSets", base):
        paths = sorted(place.glob("*.txt")) if place.is_dir() else []
        named = {}
        for path in paths:
            if is_litter(path.name) or SINGLE_CLASS.match(path.stem):
                continue
            if place != base or split_of(path.stem):
                named[split_of(path.stem) or path.stem] = path
        if {"train", "val"} <= set(named):
            named.pop("trainval", None)
        if named:
            return {name: read_lines(path) for name, path in named.items()}
    return {}


def listed_file(line: str, known: dict[str, Path], place: Path) -> Path:
    """The XML file that a line of a list means: a stem, a file name or a path, perhaps with VOC's flag (-1, 0, 1)."""
    bare = re.sub(r"\s+-?[01]$", "", line)
    for text in (line, bare):
        name = text.replace("\\", "/").rsplit("/", 1)[-1]
        for stem in (name, Path(name).stem):
            if path := known.get(one_form(stem)):
                return path
    return place / f"{bare}.xml"


def voc_split(folder: Path, name: str, parts: list[VocPart], everywhere: list[Path]) -> Split:
    """Folders of XML files as a split."""
    split = None if name == "all" else name
    images = [part.images for part in parts]
    pictures = Pictures(folder, images[0], split, also=images, stem=True)
    files = [path for part in parts for path in part.files]
    source = everywhere[0] if len(everywhere) == 1 else files[0].parent if files else everywhere[0]
    return Split(name, "Pascal VOC", source, pictures, lambda faults: voc_content(files, everywhere, pictures, faults))


def class_names(folders: list[Path]) -> list[str]:
    """Names of all objects in all readable XML files of some folders, in alphabetical order."""
    names = set()
    for path in (path for folder in folders for path in folder.glob("*.[xX][mM][lL]")):
        with suppress(ValueError):  # reported when the file itself is read
            things = [] if is_litter(path.name) else parse_xml(path).iter("object")
            names |= {(thing.findtext("name") or "").strip() for thing in things}
    return sorted(names - {""})


def voc_content(
    files: list[Path], folders: list[Path], pictures: Pictures, faults: list[str] | None = None
) -> dict[str, list]:
    """XML files as the three lists of COCO's format; ids count from 1. Raises as `read_xml`, or notes it in faults."""
    names = class_names(folders)
    ids = {name: number for number, name in enumerate(names, start=1)}
    images, annotations = [], []
    for number, path in enumerate(files, start=1):
        try:
            entry, things = read_xml(path, pictures)
        except (ValueError, FileNotFoundError) as error:
            tell(faults, error)
            continue
        images.append({"id": number} | entry)
        annotations += [
            {"id": len(annotations) + place, "image_id": number, "category_id": ids[thing.pop("name")]} | thing
            for place, thing in enumerate(things, start=1)
        ]
    if not names:
        tell(faults, ValueError(f"no object in any XML file of {plain(folders[0])}; nothing can be trained or "
                                "evaluated"))
    return {"images": images, "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in ids.items()]}


def open_folder(folder: Path, split: str = "train", keep_category_ids: bool = False):
    """A split of a folder in any format; see `layouts.open_folder`, which this is."""
    from detr_mini.data import layouts

    return layouts.open_folder(folder, split, keep_category_ids)
