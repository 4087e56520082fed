"""A folder in Pascal VOC's format (one XML file per picture) as a data set with the interface of `CocoFolder`.

Three layouts are understood, see `find_voc`. Corners count pixels from 1 and belong to the box, as VOC defines them:
(xmin, xmax) = (1, 10) is ten pixels wide and starts at the left edge. Objects marked `difficult` are handled as VOC's
own evaluation does: they are no targets, and finding one is neither right nor wrong (COCO's crowds work the same way).
Categories are the names in all XML files of the folder, in alphabetical order, so that they agree between splits.

XML is read without document types and entities, so no file can name another or grow in memory.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

from PIL import Image

from detr_mini.data.coco import SPLIT_NAMES, Annotations, CocoFolder, find_split, parse_annotations

log = logging.getLogger("detr_mini")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LARGEST = 10_000_000  # bytes; an XML file of one picture has a few thousand
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocSplit:
    """Where a split lies. files: its XML files, in order; one may be missing. folders: where all splits' XML lies.

    whole: the folder has no splits, so this is all of it.
    """

    images: Path
    files: list[Path]
    folders: list[Path]
    whole: bool = False


class _Builder(ElementTree.TreeBuilder):
    """Builds the tree of a file without a document type."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it has a document type (<!DOCTYPE>), which is not read; remove that line")


def parse_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. FileNotFoundError, or ValueError naming the file and, for broken XML, the line."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"annotation file {path} is missing; restore it, or take the picture off the list")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, too many for the boxes of one picture")
    try:
        return ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Builder()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} cannot be read as XML: {error}") from None


def read_xml(path: Path, images: Path) -> tuple[dict, list[dict]]:
    """One picture {file_name, width, height} and its objects {name, bbox, area, iscrowd}.

    Boxes are x, y, width, height in pixels from 0. A size that is missing or 0 is taken from the picture itself.
    Raises as `parse_xml`; ValueError names file, object and field.
    """
    root = parse_xml(path)
    file_name = picture_of(path, root.findtext("filename"), images)
    sides = [root.findtext(f"size/{side}", "0").strip() for side in ("width", "height")]
    if any(not side.isdecimal() or int(side) == 0 for side in sides):
        sides = size_of(images / file_name)
    entry = {"file_name": file_name, "width": int(sides[0]), "height": int(sides[1])}
    return entry, [_object(path, number, thing) for number, thing in enumerate(root.iter("object"), start=1)]


def _object(path: Path, number: int, thing: ElementTree.Element) -> dict:
    """One object of a file; `number` counts from 1."""
    name = (thing.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{path}: object {number} has no name; give it the name of its class")
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
        raise ValueError(f"{path}: object {number} has {side} {text!r}; it must be a number of pixels")
    return value


def picture_of(path: Path, stated: str | None, images: Path) -> str:
    """The file name of an XML file's picture: the one it states if that exists, else one of the same stem."""
    stated = PureWindowsPath(stated.strip()).name if stated and stated.strip() else ""
    stems = [f"{path.stem}{suffix}" for suffix in IMAGE_SUFFIXES]
    names = [stated, *stems, *(stem.upper() for stem in stems)]
    return next((name for name in names if name and (images / name).is_file()), stated or f"{path.stem}.jpg")


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is stored; ValueError when it cannot be opened."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be opened ({error}), and its XML file does not state its size") from None


def find_voc(folder: Path, split: str) -> VocSplit | None:
    """The first layout that fits, or None.

    Annotations/ and JPEGImages/ (or annotations/ and images/), the splits as lists in ImageSets/Main/;
    SPLIT/ with pictures and XML files side by side; the folder itself with pictures and XML files, without splits.
    """
    folder = Path(folder)
    for annotations, images in (("Annotations", "JPEGImages"), ("annotations", "images")):
        if (folder / images).is_dir() and any((folder / annotations).glob("*.xml")):
            return _listed(folder, folder / annotations, folder / images, split)
    for name in SPLIT_NAMES.get(split, (split,)):
        if files := sorted((folder / name).glob("*.xml")):
            beside = sorted({path.parent for path in folder.glob("*/*.xml")})
            return VocSplit(folder / name, files, beside)
    files = sorted(folder.glob("*.xml"))
    return VocSplit(folder, files, [folder], whole=True) if files else None


def _listed(folder: Path, annotations: Path, images: Path, split: str) -> VocSplit | None:
    """The files that the split's list names; all of them where there are no lists."""
    lists = folder / "ImageSets" / "Main"
    if not lists.is_dir():
        return VocSplit(images, sorted(annotations.glob("*.xml")), [annotations], whole=True)
    for name in SPLIT_NAMES.get(split, (split,)):
        if (lists / f"{name}.txt").is_file():
            lines = (lists / f"{name}.txt").read_text().splitlines()
            return VocSplit(images, [annotations / f"{line.split()[0]}.xml" for line in lines if line.strip()],
                            [annotations])
    return None


def class_names(folders: list[Path]) -> list[str]:
    """Names of all objects in all readable XML files of some folders, in alphabetical order."""
    names = set()
    for path in (path for folder in folders for path in folder.glob("*.xml")):
        try:
            root = parse_xml(path)
        except ValueError:
            continue  # reported when the file itself is read
        names |= {(thing.findtext("name") or "").strip() for thing in root.iter("object")}
    return sorted(names - {""})


def voc_content(found: VocSplit) -> dict[str, list]:
    """A split as the three lists of COCO's format; ids count from 1. Raises as `read_xml`."""
    names = class_names(found.folders)
    ids = {name: number for number, name in enumerate(names, start=1)}
    images, annotations = [], []
    for number, path in enumerate(found.files, start=1):
        entry, things = read_xml(path, found.images)
        images.append({"id": number} | entry)
        annotations += [
            {"id": len(annotations) + place, "image_id": number, "category_id": ids[thing.pop("name")]} | thing
            for place, thing in enumerate(things, start=1)
        ]
    return {"images": images, "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in ids.items()]}


class VocFolder(CocoFolder):
    """A split of a VOC folder. Items, labels and ground truth are as in `CocoFolder`."""

    def __init__(self, found: VocSplit, keep_category_ids: bool = False) -> None:
        """found: from `find_voc`. Raises FileNotFoundError and ValueError naming file, object and field."""
        self.found = found
        super().__init__(found.images, found.folders[0], keep_category_ids)

    @classmethod
    def open(cls, folder: Path, split: str = "train", keep_category_ids: bool = False) -> "VocFolder":
        """The data set of a split; FileNotFoundError naming the layouts when none fits."""
        found = find_voc(folder, split)
        if found is None:
            raise FileNotFoundError(
                f"no split '{split}' in VOC's format in {folder}; tried Annotations/*.xml + JPEGImages/ with "
                f"ImageSets/Main/{split}.txt, {split}/*.xml beside pictures, *.xml beside pictures"
            )
        if found.whole:
            log.warning("%s has no splits: '%s' is all of its images", folder, split)
        return cls(found, keep_category_ids)

    def read(self) -> Annotations:
        content = voc_content(self.found)
        if not content["categories"]:
            raise ValueError(f"no object in any XML file of {self.annotations}; nothing can be trained or evaluated")
        return parse_annotations(content, self.annotations)


def open_folder(folder: Path, split: str = "train", keep_category_ids: bool = False) -> CocoFolder:
    """A split of a folder in COCO's or in Pascal VOC's format, whichever is there (COCO's first).

    Raises FileNotFoundError that lists what was tried in both formats; ValueError for a fault in the files.
    """
    try:
        find_split(folder, split)
    except FileNotFoundError as error:
        if not Path(folder).is_dir():
            raise
        if find_voc(folder, split) is None:
            raise FileNotFoundError(f"{error}; and nothing in VOC's format (Annotations/*.xml + JPEGImages/, "
                                    f"{split}/*.xml, *.xml)") from None
        return VocFolder.open(folder, split, keep_category_ids)
    return CocoFolder.open(folder, split, keep_category_ids)
