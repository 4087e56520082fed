"""Any folder of images with a COCO-format annotation file, as a data set.

What is done with the annotations follows DETR's code (its `datasets/coco.py`), since published numbers come
from there:

- Crowd boxes (`iscrowd` 1) are no training targets. The evaluation keeps them: a detection inside a crowd is
  then neither right nor wrong.
- Boxes are clamped to the image. What has no width or no height after that is no training target.
- Images without any object stay: the network must learn to say "nothing here".

How many of each there were is written to the log "detr_mini", in one line.

Images become RGB the way the annotations were made, which for COCO and DETR means PIL's `convert("RGB")`:
grey is repeated three times, a palette is looked up, an alpha channel is dropped (not blended). Two cases go
beyond that. 16-bit grey keeps its upper eight bits, where PIL alone would clip to white. And a photograph
turned by its EXIF tag is turned only if its width and height then agree with the annotation file and did not
before; the file says which of the two the boxes were drawn on.
"""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from detr_mini.boxes import xyxy_to_cxcywh

log = logging.getLogger("detr_mini")

# (images, annotations) inside a folder; {split} is "train", "val", "valid", ...
LAYOUTS = (
    ("{split}2017", "annotations/instances_{split}2017.json"),  # COCO 2017
    ("images", "instances_{split}.json"),  # one image folder, one file per split
    ("images", "annotations/instances_{split}.json"),
    ("{split}", "annotations/instances_{split}.json"),
    ("{split}", "{split}/_annotations.coco.json"),  # Roboflow's export
    ("images", "instances.json"),  # one's own, without splits
)
SPLIT_NAMES = {"val": ("val", "valid"), "valid": ("valid", "val")}  # Roboflow writes "valid"

GREY_16_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # how PIL names such images
MOST_LABELS = 100_000  # a class head larger than this is a mistake
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
EXIF_ORIENTATION = 0x0112


def find_split(folder: Path, split: str) -> tuple[Path, Path]:
    """The image folder and the annotation file of a split, in the first layout of `LAYOUTS` that fits.

    Raises FileNotFoundError that lists every pair tried and what of it there is.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no data folder at {folder}; give the one with images and annotations")
    names = SPLIT_NAMES.get(split, (split,))
    pairs = [tuple(part.format(split=name) for part in layout) for name in names for layout in LAYOUTS]
    for images, annotations in pairs:
        if (folder / images).is_dir() and (folder / annotations).is_file():
            return folder / images, folder / annotations
    tried = ", ".join(dict.fromkeys(f"{images}/ + {annotations}" for images, annotations in pairs))
    there = sorted({part for pair in pairs for part in pair if (folder / part).exists()})
    there = f"only {', '.join(there)} exists" if there else "none of them exists"
    raise FileNotFoundError(f"no split '{split}' in {folder}; tried {tried}; {there}")


@dataclass(frozen=True)
class Annotations:
    """A checked annotation file as arrays: I images, N annotations, C categories."""

    image_ids: list[int]  # (I,)
    file_names: list[str]  # (I,)
    sizes: np.ndarray  # (I, 2) height, width in pixels
    rows: np.ndarray  # (N,) row of its image, 0..I-1
    category_ids: np.ndarray  # (N,)
    boxes: np.ndarray  # (N, 4) x, y, width, height in pixels, as they stand in the file
    areas: np.ndarray  # (N,) square pixels
    crowd: np.ndarray  # (N,) bool
    categories: list[dict]  # (C,) id and name, by id
    unlisted: int  # annotations of images that the file does not list; they are left out


def _whole(value: object) -> int:
    """`value` as an int; TypeError if it is not a whole number of 64 bits (True and "3" are not)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or abs(value) >= 2**63:
        raise TypeError
    return int(value)


def _side(value: object) -> int:
    """A width or height: a whole number of at least one pixel."""
    if (value := _whole(value)) < 1:
        raise ValueError
    return value


def _number(value: object) -> float:
    """`value` as a float; ValueError if it is infinite or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _text(value: object) -> str:
    """`value` if it is a non-empty string."""
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _box(value: object) -> list[float]:
    """Four finite numbers x, y, width, height."""
    x, y, width, height = value
    return [_number(x), _number(y), _number(width), _number(height)]


WANTED = {
    _whole: "a whole number", _side: "a whole number of pixels, at least 1", _number: "a number",
    _text: "a text", _box: "four numbers [x, y, width, height]",
}


# What an entry of each list must have; of an annotation, `area` and `iscrowd` may be left out.
FIELDS = {
    "images": {"id": _whole, "width": _side, "height": _side, "file_name": _text},
    "annotations": {"image_id": _whole, "category_id": _whole, "bbox": _box, "area": _number, "iscrowd": _whole},
    "categories": {"id": _whole, "name": _text},
}
OPTIONAL = ("area", "iscrowd")


def _column(path: Path, entries: list, part: str, name: str, convert: Callable, default=None) -> list:
    """Field `name` of every entry of `part`, checked; the first entry at fault is named in a ValueError."""
    values = []
    for index, entry in enumerate(entries):
        try:
            value = entry.get(name, default)
            values.append(convert(value))
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise ValueError(fault(path, entry, part, index, name, WANTED[convert])) from None
    return values


def fault(path: Path, entry: object, part: str, index: int, name: str, wanted: str) -> str:
    """What is wrong with one entry of an annotation file, and where."""
    where = f"{path}: {part}[{index}]"
    if not isinstance(entry, dict):
        return f"{where} is {entry!r:.60}; it must be an object with the field '{name}'"
    where += f" (id {entry['id']})" if "id" in entry else ""
    if name not in entry:
        return f"{where} has no field '{name}'; it must be {wanted}"
    return f"{where} has '{name}': {entry[name]!r:.60}; it must be {wanted}"


def load_lists(path: Path) -> dict[str, list]:
    """The three lists of a COCO-format file; ValueError names the file and, for broken JSON, the line."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file at {path}; give a COCO-format instances file")
    try:
        content = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download or export it again") from None
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(f"{path} has no list '{part}'; COCO format is images, annotations, categories")
    for part in ("images", "categories"):
        if not content[part]:
            raise ValueError(f"{path}: the list '{part}' is empty; nothing can be trained or evaluated")
    return content


def _unique_ids(path: Path, entries: list, part: str) -> list[int]:
    """The field 'id' of every entry; ValueError when two are the same."""
    ids = _column(path, entries, part, "id", _whole)
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"{path}: two {part} have the id {twice}; ids must be unique")
    return ids


def _categories(path: Path, entries: list) -> list[dict]:
    """Categories as {id, name}, in order of id."""
    names = _column(path, entries, "categories", "name", _text)
    ids = _unique_ids(path, entries, "categories")
    if min(ids) < 0:
        raise ValueError(f"{path}: category id {min(ids)} is negative; ids must be 0 or more")
    return [{"id": i, "name": name} for i, name in sorted(zip(ids, names, strict=True))]


def read_annotations(path: Path) -> Annotations:
    """Read and check a COCO-format file. ValueError and FileNotFoundError name file, entry and field."""
    return parse_annotations(load_lists(path), path)


def parse_annotations(content: dict[str, list], path: Path) -> Annotations:
    """Check the three lists of a COCO-format file. ValueError names `path`, the entry and the field."""
    images, categories = content["images"], _categories(path, content["categories"])
    image_ids = _unique_ids(path, images, "images")
    heights, widths = (_column(path, images, "images", side, _side) for side in ("height", "width"))
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    owners = _column(path, content["annotations"], "annotations", "image_id", _whole)
    rows = np.array([row_of.get(owner, -1) for owner in owners], dtype=np.int64)  # (N,) -1: not listed
    objects = _objects(path, content["annotations"], {category["id"] for category in categories})
    return Annotations(
        image_ids=image_ids,
        file_names=_column(path, images, "images", "file_name", _text),
        sizes=np.array([heights, widths], dtype=np.int64).T,
        rows=rows[rows >= 0],
        categories=categories,
        unlisted=int((rows < 0).sum()),
        **{name: values[rows >= 0] for name, values in objects.items()},
    )


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
    crowd = np.array(_column(path, entries, part, "iscrowd", _whole, default=0), dtype=bool)
    without = np.array(["area" not in entry for entry in entries], dtype=bool)
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


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Decode an image file to RGB, uint8 (3, H, W); see the head of this file for how.

    size: the (H, W) the annotation file states. ValueError when the image has another size or cannot be
    decoded, FileNotFoundError when it is not there; both name the path.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"image file {path} is a folder: name the pictures in it")
    if not path.is_file():
        raise FileNotFoundError(f"image file {path} is missing: check its name")
    try:
        with Image.open(path) as opened:
            image = _to_rgb(_upright(opened, size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image file {path} cannot be decoded ({error}): take a whole JPEG or PNG") from None
    if size is not None and (image.height, image.width) != tuple(size):
        found, stated = f"{image.width} x {image.height}", f"{size[1]} x {size[0]}"
        raise ValueError(f"image file {path} is {found} pixels, its annotations say {stated}")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (H, W, 3) -> (3, H, W)


def _upright(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """The image as it is stored, unless only turning it by its EXIF tag gives the size (H, W) stated."""
    if size is None or (image.height, image.width) == tuple(size):
        return image
    sideways = image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
    turn = sideways and (image.width, image.height) == tuple(size)
    return ImageOps.exif_transpose(image) if turn else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any kind of PIL image as 8-bit RGB."""
    if image.mode in GREY_16_BIT:
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"grey values {grey.min()} to {grey.max()}, more than 16 bits; convert it first")
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels; convert it to 8 bits first")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


class CocoFolder(Dataset):
    """Images of a folder and their boxes from a COCO-format file.

    `dataset[i]` is (image uint8 (3, H, W), target) with labels (M,) int64, boxes (M, 4) float32 as normalised
    cxcywh, image_id int, orig_size (2,) int64 = (H, W). M may be 0.

    Category ids may have gaps. By default labels count up without gaps in the order of category ids; with
    `keep_category_ids` a label is the category id itself and unused labels have the class None, which is what
    official checkpoints expect (91 classes for COCO's 80). `label_to_category` leads back either way.
    """

    def __init__(self, images: Path, annotations: Path, keep_category_ids: bool = False):
        """images: folder the file names start from. Raises as `read_annotations`, or for a missing folder."""
        self.images, self.annotations = Path(images), Path(annotations)
        if not self.images.is_dir():
            raise FileNotFoundError(f"no image folder at {self.images}; file names are looked up in it")
        self._all = self.read()
        self._map_labels(keep_category_ids)
        self._prepare()

    @classmethod
    def open(cls, folder: Path, split: str = "train", keep_category_ids: bool = False) -> "CocoFolder":
        """The data set of a split in a folder of a known layout, see `find_split`."""
        images, annotations = find_split(folder, split)
        if annotations.name == "instances.json":
            log.warning("%s has no splits: '%s' is all of its images", annotations, split)
        return cls(images, annotations, keep_category_ids)

    def read(self) -> Annotations:
        """The checked annotations; a folder in another format reads its own."""
        return read_annotations(self.annotations)

    def _map_labels(self, keep: bool) -> None:
        """Fill classes, num_classes, label_to_category; log the mapping in one line."""
        ids = [category["id"] for category in self._all.categories]
        if keep and max(ids) > MOST_LABELS:
            raise ValueError(f"{self.annotations}: category id {max(ids)} is too large to be a label; "
                             "leave keep_category_ids off")
        labels = ids if keep else range(len(ids))
        self.label_to_category: dict[int, int] = dict(zip(labels, ids, strict=True))
        self.classes: list[str | None] = [None] * (max(labels) + 1)
        for label, category in zip(labels, self._all.categories, strict=True):
            self.classes[label] = category["name"]
        self.num_classes = len(self.classes)
        pairs = [f"{label}={self.classes[label]} (id {i})" for label, i in self.label_to_category.items()]
        log.info("%s: %d labels, as label=name (category id): %s",
                 self.annotations.name, self.num_classes, ", ".join(pairs))

    def _prepare(self) -> None:
        """Training targets of all images as flat arrays sorted by image; log what was dropped in one line."""
        found = self._all
        corners, alive, moved = clamp_boxes(found.boxes, found.sizes[found.rows])  # (N, 4), (N,), (N,)
        keep = alive & ~found.crowd  # (N,)
        order = np.flatnonzero(keep)[np.argsort(found.rows[keep], kind="stable")]  # (K,) kept ones, by image
        label_of = {category: label for label, category in self.label_to_category.items()}
        self._corners = corners[order]  # (K, 4)
        labels = [label_of[category] for category in found.category_ids[order].tolist()]
        self._labels = np.array(labels, dtype=np.int64)  # (K,)
        self._starts = np.searchsorted(found.rows[order], np.arange(len(found.image_ids) + 1))  # (I + 1,)
        log.info(
            "%s: %d images (%d without objects), %d boxes; %d clamped to the image; dropped: %d crowd, "
            "%d degenerate, %d of images not listed", self.annotations.name, len(self),
            int((np.diff(self._starts) == 0).sum()), len(order), int((moved & keep).sum()),
            int(found.crowd.sum()), int((~alive & ~found.crowd).sum()), found.unlisted,
        )

    def __len__(self) -> int:
        """Number of images, those without objects included."""
        return len(self._all.image_ids)

    @property
    def image_ids(self) -> list[int]:
        """COCO image id of every index."""
        return self._all.image_ids

    def path(self, index: int) -> Path:
        """Where the image file of an index is."""
        return self.images / self._all.file_names[index]

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor | int]]:
        """Image and target. FileNotFoundError: no such file. ValueError: corrupt, or of another size."""
        index = range(len(self))[index]  # -1 is the last one; IndexError past the end
        size = self._all.sizes[index]  # (2,) height, width
        try:
            image = read_image(self.path(index), tuple(size.tolist()))
        except (FileNotFoundError, ValueError) as error:
            advice = f"restore the file, or remove the image from {self.annotations}"
            raise type(error)(f"image id {self.image_ids[index]}: {error}; {advice}") from None
        return image, self._target(index, size)

    def _target(self, index: int, size: np.ndarray) -> dict[str, Tensor | int]:
        """Labels and normalised boxes of one image of `size` (H, W)."""
        objects = slice(self._starts[index], self._starts[index + 1])
        corners = torch.from_numpy(self._corners[objects].copy())  # (M, 4) xyxy, pixels
        scale = torch.from_numpy(size[[1, 0, 1, 0]].astype(np.float32))  # (4,) W, H, W, H
        return {
            "labels": torch.from_numpy(self._labels[objects].copy()),
            "boxes": xyxy_to_cxcywh(corners / scale),
            "image_id": self.image_ids[index],
            "orig_size": torch.from_numpy(size.copy()),
        }

    def coco_ground_truth(self) -> dict:
        """All annotations as the file has them, crowds and degenerate boxes included, for the evaluation.

        COCO format: images, annotations (absolute x, y, width, height; area; iscrowd; category_id; numbered
        from 1, since pycocotools reads the id 0 as "no match"), categories.
        """
        found = self._all
        images = [
            {"id": image_id, "file_name": name, "height": height, "width": width}
            for image_id, name, (height, width) in zip(
                found.image_ids, found.file_names, found.sizes.tolist(), strict=True)
        ]
        columns = (found.rows, found.category_ids, found.boxes, found.areas, found.crowd)
        annotations = [
            {"id": number, "image_id": found.image_ids[row], "category_id": category, "bbox": box,
             "area": area, "iscrowd": int(crowd)}
            for number, (row, category, box, area, crowd) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True), start=1)
        ]
        categories = [dict(category) for category in found.categories]
        return {"images": images, "annotations": annotations, "categories": categories}
