"""Which format a folder is in, and which of its splits is which: decided here, for every command.

    splits = find_splits("photos")            # train, val, test, ... or "all"
    train = open_folder("photos", "train")    # one of them as a data set

COCO's format is looked for first (coco.py), then Hugging Face's imagefolder, YOLO's and Pascal VOC's. Where nothing
fits, one message says what lies in the folder, what it resembles, and what to type.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from detr_mini.data.coco import CocoFolder, coco_splits, stated_split
from detr_mini.data.finding import IMAGE_SUFFIXES, Pictures, Split, choose_split, read_text, require_folder, walk
from detr_mini.data.imagefolder import imagefolder_splits
from detr_mini.data.voc import voc_content, voc_files, voc_splits
from detr_mini.data.yolo import yolo_splits
from detr_mini.printing import plain

FORMATS = (coco_splits, imagefolder_splits, yolo_splits, voc_splits)
ORDER = ("train", "val", "test")
PACKED = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")
TYPE = "--annotations FILE --images FOLDER (a JSON file in COCO's format)"
SNIFFED = 20_000  # bytes from which the form of a file is guessed


def find_splits(folder: Path) -> list[Split]:
    """The splits of a folder, train first. A folder without splits has one, called "all".

    Raises FileNotFoundError when the folder is missing or in no format that is read, saying what was found; ValueError
    for two annotation files of one split.
    """
    folder = require_folder(folder)
    for find in FORMATS:
        if splits := find(folder):
            order = {name: place for place, name in enumerate(ORDER)}
            return sorted(splits, key=lambda split: (order.get(split.name, len(order)), split.name))
    raise FileNotFoundError(nothing_fits(folder))


def stated_splits(annotations: Path, images: Path | None, val_annotations: Path | None = None,
                  val_images: Path | None = None) -> list[Split]:
    """Splits from what a user names: an annotation file and a folder of pictures for each.

    Without `images` they are looked for from the annotation file's folder on. The file may also be a folder of VOC's
    XML files. The first is "train" where there is a second, and otherwise "all".
    """
    first = stated(annotations, images, "train" if val_annotations else "all")
    if val_annotations is None:
        return [first]
    return [first, stated(val_annotations, val_images or images, "val")]


def with_images(split: Split, images: Path) -> Split:
    """A split of a folder whose pictures lie elsewhere. FileNotFoundError when there is no such folder."""
    if not Path(images).is_dir():
        raise FileNotFoundError(f"no image folder at {plain(images)}; file names are looked up in it")
    if split.form not in ("COCO", "imagefolder"):
        raise ValueError(f"--images is for annotations in COCO's format, and these are in {split.form}'s: give the "
                         "folder that holds both")
    return replace(split, pictures=Pictures(images, split=split.pictures.split, links=True))


def stated(annotations: Path, images: Path | None, name: str) -> Split:
    """One annotation file and its pictures as a split. Raises FileNotFoundError for a missing one."""
    annotations = Path(annotations)
    if not annotations.exists():
        raise FileNotFoundError(f"no annotation file at {plain(annotations)}: check --annotations")
    images = Path(images) if images else annotations if annotations.is_dir() else annotations.parent
    if not images.is_dir():
        raise FileNotFoundError(f"no image folder at {plain(images)}; file names are looked up in it")
    return replace(stated_of_any_format(annotations, images), name=name)


def stated_of_any_format(annotations: Path, images: Path) -> Split:
    """An annotation file or folder in any format, with its pictures."""
    if annotations.suffix.lower() == ".json":
        return stated_split(annotations, images)
    if annotations.is_dir() and (files := voc_files(annotations)):
        pictures = Pictures(images, links=True, stem=True)
        return Split("all", "Pascal VOC", annotations, pictures,
                     lambda faults: voc_content(files, [annotations], pictures, faults))
    raise ValueError(f"{plain(annotations)} is neither a JSON file in COCO's format nor a folder of Pascal VOC's XML "
                     "files: for YOLO's and other formats give the folder with --data")


def split_names(folder: Path) -> list[str]:
    """The names of `find_splits`."""
    return [split.name for split in find_splits(folder)]


def open_folder(folder: Path, split: str = "train", keep_category_ids: bool = False) -> CocoFolder:
    """A split of a folder in any format that is read. "train" of a folder without splits is all of it.

    Raises FileNotFoundError saying what is there instead; ValueError for a fault in the files.
    """
    return CocoFolder.of(choose_split(find_splits(folder), split, folder), keep_category_ids)


# --- where nothing fits


def nothing_fits(folder: Path) -> str:
    """What lies in a folder, what it resembles, and what to type."""
    kinds: Counter[str] = Counter()
    places: dict[str, str] = {}
    for place, entries in walk(folder):
        for entry in entries:
            suffix = Path(entry.name).suffix.lower()
            kind = "pictures" if suffix in IMAGE_SUFFIXES else f"{suffix} files" if suffix else "files without a suffix"
            kinds[kind] += 1
            places.setdefault(kind, place.relative_to(folder).as_posix())
    if not kinds:
        return f"{plain(folder)} holds no files: give the folder with pictures and annotations"
    found = ", ".join(f"{count} {plain(kind)} (in {plain(places[kind])}/)" for kind, count in kinds.most_common(5))
    return f"no data set that is read in {plain(folder)}. It holds {found}. {resemblance(folder, kinds)}"


def resemblance(folder: Path, kinds: Counter) -> str:
    """What a folder looks like, and what to do about it."""
    packed = [f"{suffix} files" for suffix in PACKED if kinds[f"{suffix} files"]]
    if packed and not kinds["pictures"]:
        return "It is still packed: unpack it, and give the folder that comes out"
    for place, entries in walk(folder):
        for entry in entries:
            if words := kind_of_file(place / entry.name):
                return f"{plain(entry.name)} looks like {words}"
    if kinds["pictures"] and len(kinds) == 1:
        return f"There are pictures and no annotations: annotate them first, or name the file with {TYPE}"
    return f"Read are COCO, Pascal VOC, YOLO and Hugging Face's imagefolder. For another layout: {TYPE}"


def kind_of_file(path: Path) -> str | None:
    """The format of an annotation file that is not read, with the way from it to one that is; None for others."""
    suffix = path.suffix.lower()
    if suffix not in (".json", ".xml", ".csv", ".txt", ".tfrecord", ".record", ".parquet"):
        return None
    if suffix in (".tfrecord", ".record", ".parquet"):
        return f"a packed data set ({suffix}): export it in COCO's format"
    try:
        with path.open("rb") as file:
            start = file.read(SNIFFED)
        text = read_text(path) if len(start) < SNIFFED else start.decode("latin-1")
    except (OSError, ValueError):
        return None
    if suffix == ".json":
        return kind_of_json(text)
    if suffix == ".xml" and "<annotations" in text:
        return "CVAT's own XML (\"CVAT for images\"): export as \"COCO 1.0\" there"
    if suffix == ".csv" and re.search(r"xmin|x_?min|bbox|filename|image", text.partition("\n")[0], re.I):
        return f"a table of boxes (CSV): convert it to COCO's format, then {TYPE}"
    return None


def kind_of_json(text: str) -> str | None:
    """The format of a JSON file by the fields at its start."""
    signs = (
        ('"shapes"', '"imagePath"', "labelme's files, one for each picture: join them with `labelme2coco FOLDER`"),
        ('"items"', '"categories"', "Datumaro's format: `datum convert -f coco_instances` makes COCO's of it"),
        ('"_via_', "", "VIA's project: choose Annotation, Export as COCO there"),
        ('"regions"', '"shape_attributes"', "VIA's annotations: choose Annotation, Export as COCO there"),
        ('"coordinates"', '"image"', "CreateML's format: export as COCO from where it was made"),
        ('"annotations"', '"data"', "Label Studio's own JSON: export as COCO there"),
        ('"images"', "", f"COCO's format without one of its three lists (images, annotations, categories): {TYPE}"),
    )
    return next((words for first, second, words in signs if first in text and second in text), None)
