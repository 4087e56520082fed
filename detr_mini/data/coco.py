"""Any folder of images with a COCO-format annotation file, as a data set.

Where annotations and pictures may lie is told by `coco_splits` and finding.py.

What is done with the annotations follows DETR's code (its `datasets/coco.py`), since published numbers come
from there:

- Crowd boxes (`iscrowd` 1) are no training targets. The evaluation keeps them: a detection inside a crowd is
  then neither right nor wrong.
- Boxes are clamped to the image. What has no width or no height after that is no training target.
- Images without any object stay: the network must learn to say "nothing here".

How many of each there were is written to the log "detr_mini", in one line.

How picture files are opened, and when a photograph is turned, is told by pictures.py.
"""

import logging
import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detr_mini.boxes import xyxy_to_cxcywh
from detr_mini.data.annotations import Annotations, clamp_boxes, load_lists, parse_annotations
from detr_mini.data.check_turns import turns_of
from detr_mini.data.finding import (
    MISSING,
    Pictures,
    Split,
    choose_split,
    require_folder,
    split_in,
    split_of,
    walk,
)
from detr_mini.data.pictures import read_image
from detr_mini.printing import plain

log = logging.getLogger("detr_mini")

MOST_LABELS = 100_000  # a class head larger than this is a mistake

KNOWN = re.compile(r"instances_(train|val|valid|validation|test|default)(20\d\d)?|_annotations\.coco|instances", re.I)
OTHERS = re.compile(r"keypoints|captions|panoptic|stuff|image_info|deprecated", re.I)  # not what a detector learns from
LISTS = re.compile(rb'"images"\s*:\s*\[')
MORE_LISTS = re.compile(rb'"(annotations|categories)"\s*:\s*\[')
SNIFFED = 4_000_000  # bytes at the start and the end of a file, in which its lists are looked for
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "ann", "anno")


# --- where a split is


def coco_splits(folder: Path) -> list[Split]:
    """The splits of a folder whose annotations are JSON files in COCO's format, wherever those lie.

    A file belongs to the split that its name speaks of, or else that of its folder; where none speaks of one, the file
    is all there is. Raises ValueError naming two files of one split, between which only the user can choose.
    """
    folder = Path(folder)
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in json_files(folder):
        groups[split_of(path.stem) or split_in(path.parent.relative_to(folder)) or "all"].append(path)
    groups = without_whole(best_of_each(groups), folder)
    chosen = {name: only(paths, name) for name, paths in groups.items()}
    if "trainval" in chosen:
        both = chosen.pop("trainval")
        chosen.setdefault("train", both)
    return [coco_split(folder, name, path, chosen.get("train")) for name, path in chosen.items()]


def json_files(folder: Path) -> list[Path]:
    """JSON files below a folder that are, or were meant to be, in COCO's format."""
    files = [place / entry.name for place, entries in walk(folder) for entry in entries
             if entry.name.lower().endswith(".json")]
    return [path for path in files if is_coco(path)]


def is_coco(path: Path) -> bool:
    """Whether a JSON file has COCO's lists, or at least the name of such a file."""
    if KNOWN.fullmatch(path.stem):
        return True
    with path.open("rb") as file:
        text = file.read(SNIFFED)
        file.seek(max(len(text), path.stat().st_size - SNIFFED))
        text = (text + file.read()).replace(b"\0", b"")  # of UTF-16
    return bool(LISTS.search(text) and MORE_LISTS.search(text))


def best_of_each(groups: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Of the files of each split those whose names say most clearly that they are instances."""
    def rank(path: Path) -> int:
        if KNOWN.fullmatch(path.stem):
            return 0
        return 2 if OTHERS.search(path.stem) else 1

    best = {name: min(map(rank, paths)) for name, paths in groups.items()}
    return {name: [path for path in paths if rank(path) == best[name]] for name, paths in groups.items()}


def without_whole(groups: dict[str, list[Path]], folder: Path) -> dict[str, list[Path]]:
    """Files that speak of no split: left out where others do, and told apart by their names where there are several."""
    whole = groups.pop("all", [])
    if groups or len(whole) < 2:
        return groups or ({"all": whole} if whole else {})
    stems = [path.stem.removeprefix("instances_") for path in whole]
    twice = len(set(stems)) < len(stems)
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in whole] if twice else stems
    return {name: [path] for name, path in zip(names, whole, strict=True)}


def only(paths: list[Path], name: str) -> Path:
    """The one file of a split."""
    if len(paths) > 1:
        two = f"{plain(paths[0])} and {plain(paths[1])}"
        raise ValueError(f"two annotation files for the split '{plain(name)}', {two}: move one away, or say which with "
                         "--annotations FILE --images FOLDER")
    return paths[0]


def coco_split(folder: Path, name: str, path: Path, train: Path | None = None) -> Split:
    """One annotation file as a split. train: where the categories of a test file without any are."""
    first, *also = image_folders(folder, path, None if name == "all" else name)
    pictures = Pictures(folder, first, None if name == "all" else name, also=also)

    def read(faults: list[str] | None) -> dict[str, list]:
        if name != "test":
            return load_lists(path)
        lists = load_lists(path, ("annotations", "categories"))  # a test split has no annotations by nature
        if not lists["categories"]:
            lists["categories"] = load_lists(train)["categories"] if train else []
        return lists

    return Split(name, "COCO", path, pictures, read)


def image_folders(folder: Path, path: Path, split: str | None) -> list[Path]:
    """The folders from which the names in an annotation file may start, the likeliest first."""
    apart = path.parent.name.lower() in ANNOTATION_FOLDERS and path.parent != folder
    base = path.parent.parent if apart else path.parent
    tops = [base] if base == folder else [base, folder]
    named = [place for top in tops for place in (top / "images", top)]
    of_split = [place / name for place in named if split and place.is_dir() for name in sorted(os.listdir(place))
                if split_of(name) == split and (place / name).is_dir() and name.lower() not in ANNOTATION_FOLDERS]
    if base != folder and split_in(base.relative_to(folder)) == split:
        of_split = [base / "images", base]
    return [place for place in (*of_split, *named, path.parent) if place.is_dir()]


def stated_split(annotations: Path, images: Path) -> Split:
    """An annotation file and a folder of pictures that a user names. Raises FileNotFoundError for a missing one."""
    annotations, images = Path(annotations), Path(images)
    if not images.is_dir():
        raise FileNotFoundError(f"no image folder at {plain(images)}; file names are looked up in it")
    name = split_of(annotations.stem) or "all"
    return Split(name, "COCO", annotations, Pictures(images, split=name, links=True),
                 lambda faults: load_lists(annotations))


class CocoFolder(Dataset):
    """Images of a folder and their boxes from a COCO-format file, or from any other format that is read.

    `dataset[i]` is (image uint8 (3, H, W), target) with labels (M,) int64, boxes (M, 4) float32 as normalised
    cxcywh, image_id int, orig_size (2,) int64 = (H, W). M may be 0.

    Category ids may have gaps. By default labels count up without gaps in the order of category ids; with
    `keep_category_ids` a label is the category id itself and unused labels have the class None, which is what
    official checkpoints expect (91 classes for COCO's 80). `label_to_category` leads back either way.
    """

    def __init__(self, images: Path, annotations: Path, keep_category_ids: bool = False):
        """images: folder the file names start from. Raises ValueError and FileNotFoundError naming what is wrong."""
        self._fill(stated_split(annotations, images), keep_category_ids)

    @classmethod
    def of(cls, split: Split, keep_category_ids: bool = False) -> "CocoFolder":
        """The data set of a split that was found."""
        dataset = cls.__new__(cls)
        dataset._fill(split, keep_category_ids)
        return dataset

    @classmethod
    def open(cls, folder: Path, split: str = "train", keep_category_ids: bool = False) -> "CocoFolder":
        """The data set of a split in a folder with annotations in COCO's format; see `layouts.open_folder` for all."""
        if not (splits := coco_splits(require_folder(folder))):
            raise FileNotFoundError(f"no annotations in COCO's format in {plain(folder)}")
        return cls.of(choose_split(splits, split, folder), keep_category_ids)

    def _fill(self, split: Split, keep: bool) -> None:
        """Read everything. ValueError for pictures that are ambiguous or outside the folder."""
        self.split, self.images, self.annotations = split, split.pictures.first, split.source
        self.found: Annotations = parse_annotations(split.read(None), split.source, split.pictures)
        if refused := [place.said for place in self.found.places if place.lost and place.way != MISSING]:
            raise ValueError(f"{plain(split.source)}: {refused[0]} ({len(refused)} such pictures)")
        for note in self.found.notes:
            log.info("%s: %s", plain(split.source.name), note)
        self._map_labels(keep)
        self._prepare()

    def _map_labels(self, keep: bool) -> None:
        """Fill classes, num_classes, label_to_category; log the mapping in one line."""
        ids = [category["id"] for category in self.found.categories]
        if keep and max(ids) > MOST_LABELS:
            raise ValueError(f"{self.annotations}: category id {max(ids)} is too large to be a label; "
                             "leave keep_category_ids off")
        labels = ids if keep else range(len(ids))
        self.label_to_category: dict[int, int] = dict(zip(labels, ids, strict=True))
        self.classes: list[str | None] = [None] * (max(labels) + 1)
        for label, category in zip(labels, self.found.categories, strict=True):
            self.classes[label] = category["name"]
        self.num_classes = len(self.classes)
        pairs = [f"{label}={self.classes[label]} (id {i})" for label, i in self.label_to_category.items()]
        log.info("%s: %d labels, as label=name (category id): %s",
                 plain(self.annotations.name), self.num_classes, plain(", ".join(pairs)))

    def _prepare(self) -> None:
        """Training targets of all images as flat arrays sorted by image; log what was dropped in one line."""
        found = self.found
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
            "%d degenerate, %d of images not listed", plain(self.annotations.name), len(self),
            int((np.diff(self._starts) == 0).sum()), len(order), int((moved & keep).sum()),
            int(found.crowd.sum()), int((~alive & ~found.crowd).sum()), found.unlisted,
        )

    def __len__(self) -> int:
        """Number of images, those without objects included."""
        return len(self.found.image_ids)

    @property
    def image_ids(self) -> list[int]:
        """COCO image id of every index."""
        return self.found.image_ids

    def path(self, index: int) -> Path:
        """Where the image file of an index is."""
        return self.found.places[index].path

    @property
    def file_names(self) -> list[str]:
        """The name of every image, as the annotations state it."""
        return self.found.file_names

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor | int]]:
        """Image and target. FileNotFoundError: no such file. ValueError: corrupt, or of another size."""
        index = range(len(self))[index]  # -1 is the last one; IndexError past the end
        size = self.found.sizes[index]  # (2,) height, width
        try:
            image = read_image(self.path(index), tuple(size.tolist()), self.upright)
        except (FileNotFoundError, ValueError) as error:
            advice = f"restore the file, or remove the image from {self.annotations}"
            raise type(error)(f"image id {self.image_ids[index]}: {error}; {advice}") from None
        return image, self._target(index, size)

    def upright(self) -> bool | None:
        """Whether boxes were drawn on photographs as they are seen, where a picture's own size does not tell."""
        if not hasattr(self, "_upright"):  # asked for by few data sets, and then for every such picture
            self._upright = turns_of(self.found).upright
        return self._upright

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
        found = self.found
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
