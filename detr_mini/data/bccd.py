"""BCCD, a small data set of blood cells: from its archive in Pascal VOC format to COCO format.

This file does not import torch.
"""

import json
import re
import zipfile
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from detr_mini.data.archives import DownloadError, extract
from detr_mini.files import atomic

CLASSES = ("Platelets", "RBC", "WBC")  # category ids 1, 2, 3
TRAIN_LIST = "ImageSets/Main/train.txt"


def unpack_bccd(bundle: zipfile.ZipFile, folder: Path) -> list[Path]:
    """Images to images/, annotations to instances_train.json and instances_val.json; returns all paths.

    The split is the authors' own (ImageSets/Main), so it is the same everywhere: 205 images to train on, 87
    to validate. Their third list, test.txt, is left out.
    """
    names = {member.filename for member in bundle.infolist()}
    lists = [name for name in names if name.endswith(TRAIN_LIST)]
    if len(lists) != 1:
        raise DownloadError(f"{bundle.filename} holds no BCCD data set (no single {TRAIN_LIST})")
    root = lists[0].removesuffix(TRAIN_LIST)
    written = [path for split in ("train", "val") for path in _unpack_split(bundle, root, split, folder)]
    licences = [name for name in names if PurePosixPath(name).parts[1:] == ("LICENSE",)]
    return written + [extract(bundle, bundle.getinfo(name), folder, "LICENSE") for name in licences]


def _unpack_split(bundle: zipfile.ZipFile, root: str, split: str, folder: Path) -> list[Path]:
    """The images of a split and its annotation file."""
    stems = bundle.read(f"{root}ImageSets/Main/{split}.txt").decode().split()
    content = voc_to_coco(bundle, root, stems, split)
    with atomic(folder / f"instances_{split}.json") as temporary:
        temporary.write_text(json.dumps(content))
    members = {f"images/{stem}.jpg": bundle.getinfo(f"{root}JPEGImages/{stem}.jpg") for stem in stems}
    images = [extract(bundle, member, folder, name) for name, member in members.items()]
    return [folder / f"instances_{split}.json", *images]


def voc_to_coco(bundle: zipfile.ZipFile, root: str, stems: list[str], split: str) -> dict:
    """The files ROOT/Annotations/STEM.xml as a COCO-format dict; image ids are the numbers in the names."""
    images, annotations = [], []
    for stem in stems:
        if not re.fullmatch(r"[A-Za-z]+_\d+", stem):
            raise DownloadError(f"{bundle.filename} lists an image {stem!r}; expected one like Blood_01")
        try:
            image, objects = voc_image(ElementTree.fromstring(bundle.read(f"{root}Annotations/{stem}.xml")))
        except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
            raise DownloadError(f"{bundle.filename}: {stem}.xml is no VOC annotation ({error})") from None
        image_id = int(stem.rsplit("_", 1)[1])
        images.append({"id": image_id, "file_name": f"{stem}.jpg", **image})
        annotations += [{"image_id": image_id, **thing} for thing in objects]
    return {
        "info": {"description": f"BCCD blood cells, {split} split, MIT licence, boxes as in the VOC files"},
        "images": images,
        "annotations": [{"id": number, **thing} for number, thing in enumerate(annotations, start=1)],
        "categories": [{"id": i, "name": name, "supercategory": "cell"} for i, name in enumerate(CLASSES, 1)],
    }


def voc_image(tree: ElementTree.Element) -> tuple[dict, list[dict]]:
    """Width and height of one annotated image, and its objects. Raises ValueError and kin when it is none."""
    size = {side: int(tree.find("size").findtext(side)) for side in ("width", "height")}
    return size, [voc_object(thing) for thing in tree.iter("object")]


def voc_object(thing: ElementTree.Element) -> dict:
    """Category, box and area of one object. VOC's corners count pixels from 1, both ends included."""
    name, corners = thing.findtext("name"), thing.find("bndbox")
    if name not in CLASSES:
        raise ValueError(f"an object is called {name!r}, not one of {', '.join(CLASSES)}")
    left, top, right, bottom = (int(corners.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    return {"category_id": CLASSES.index(name) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
