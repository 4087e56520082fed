"""Folders in YOLO's format (Ultralytics, darknet): a text file per picture, with lines `class x y width height`.

The numbers are shares of the picture's width and height, and x, y is the centre. A line with more numbers is a polygon
`class x y x y x y ...`, and becomes the box around it. A picture without a text file, or with an empty one, has no
objects. Class names come from data.yaml (a list or a dictionary, `names:`), or from classes.txt or obj.names.

Labels are looked for as Ultralytics does: where a picture's path has a folder `images`, the label's has `labels`
there; or else beside the picture.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from detr_mini.data.annotations import size_of
from detr_mini.data.finding import (
    IMAGE_SUFFIXES,
    Pictures,
    Split,
    read_lines,
    read_text,
    read_yaml,
    split_in,
    split_of,
    tell,
    walk,
)
from detr_mini.printing import plain

NAME_LISTS = ("classes.txt", "obj.names", "class.names", "predefined_classes.txt", "labels.txt", "_darknet.labels")
LARGEST = 1_000_000  # bytes; a YAML file with more is no list of classes
SLACK = 0.02  # a number may lie so far outside 0 to 1, by rounding
ROW = re.compile(r"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*")
HOW = "class x y width height, all but the first from 0 to 1"


@dataclass
class Told:
    """What a data.yaml says: names by class number, and where each split's pictures are."""

    path: Path | None = None
    names: dict[int, str] = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    points: bool = False  # rows are boxes with key points behind them, not polygons


def yolo_splits(folder: Path) -> list[Split]:
    """The splits of a folder in YOLO's format: as data.yaml has them, else by lists of pictures, else by folders."""
    folder = Path(folder)
    pictures = Pictures(folder)
    told = told_by_yaml(folder)
    labels = label_files(folder)
    if not labels:
        return []
    told.names = told.names or named_in_list(folder) or numbered(labels.values())
    groups = stated_groups(folder, told, pictures) or listed_groups(folder, pictures) or by_folder(pictures, labels)
    return [yolo_split(folder, name, files, labels, told) for name, files in groups.items() if files]


def told_by_yaml(folder: Path) -> Told:
    """The first YAML file of a folder with `names` in it. ValueError naming one that cannot be read."""
    paths = [place / entry.name for place, entries in walk(folder) for entry in entries
             if entry.name.lower().endswith((".yaml", ".yml"))]
    for path in sorted(paths, key=lambda path: (path.stem.lower() not in ("data", "dataset"), len(path.parts))):
        text = read_text(path) if path.stat().st_size <= LARGEST else ""
        if not re.search(r"^\s*[\"']?names[\"']?\s*:", text, re.M):
            continue  # of something else
        content = read_yaml(text, path)
        if isinstance(content, dict) and content.get("names"):
            splits = {split_of(key): listed(value) for key, value in content.items()
                      if key in ("train", "val", "valid", "validation", "test") and value}
            below = content.get("path")
            splits = {name: [f"{below}/{text}" if below else text for text in texts] for name, texts in splits.items()}
            return Told(path, names_by_number(path, content["names"]), splits, "kpt_shape" in content)
    return Told()


def listed(value: object) -> list[str]:
    """One text, or some."""
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def names_by_number(path: Path, names: object) -> dict[int, str]:
    """Class names, given as a list or as a dictionary. ValueError when they are neither."""
    try:
        if isinstance(names, str):
            names = [name.strip() for name in names.strip("[]").split(",")]
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(number): str(name) for number, name in sorted((int(number), name) for number, name in pairs)}
    except (TypeError, ValueError):
        raise ValueError(f"{plain(path)} has 'names': {names!r:.60}; it must be a list of names, or numbers and "
                         "names") from None


def named_in_list(folder: Path) -> dict[int, str]:
    """Class names from a text file with one name a line."""
    paths = [place / entry.name for place, entries in walk(folder) for entry in entries
             if entry.name.lower() in NAME_LISTS or entry.name.lower().endswith(".names")]
    return dict(enumerate(read_lines(paths[0]))) if paths else {}


def numbered(paths: Iterable[Path]) -> dict[int, str]:
    """Classes that nobody named, called by their numbers."""
    found = set()
    for path in paths:
        for line in read_lines(path):
            found |= {int(float(line.split()[0]))} if ROW.fullmatch(line) else set()
    return {number: str(number) for number in range(max(found, default=-1) + 1)}


def label_files(folder: Path) -> dict[str, Path]:
    """Label files by their path from the folder, without suffix. Lists of names or pictures are none."""
    found, pictures = {}, set()
    for place, entries in walk(folder):
        below = place.relative_to(folder).as_posix()
        for entry in entries:
            stem = f"{below}/{Path(entry.name).stem}".removeprefix("./")
            if entry.name.lower().endswith(".txt") and entry.name.lower() not in NAME_LISTS:
                found[stem] = place / entry.name
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                pictures.add(stem)
    wanted = {option for stem in pictures for option in label_places(stem)}
    found = {stem: path for stem, path in found.items() if stem in wanted}
    return found if looks_like_rows(found.values()) else {}


def looks_like_rows(paths: Iterable[Path]) -> bool:
    """Whether text files are labels: the first line of one of the first twenty that are not empty, or all are empty."""
    first = []
    for path in paths:
        with path.open("rb") as file:
            start = file.read(2000).replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe").split(b"\n")[0]
        if start.strip():
            words = start.decode("latin-1").split()
            first.append(len(words) >= 5 and words[0].replace(".", "").isdecimal())
        if len(first) == 20:
            break
    return any(first)


def label_places(stem: str) -> list[str]:
    """Where the labels of a picture may be, both as paths from the folder without suffix."""
    parts = stem.split("/")
    places = [at for at, part in enumerate(parts[:-1]) if part.lower() in ("images", "img", "imgs", "jpegimages")]
    apart = ["/".join([*parts[:at], word, *parts[at + 1:]]) for at in reversed(places) for word in ("labels", "Labels")]
    top = parts[:-2]
    return [*apart, stem, "/".join([*parts[:-1], "labels", parts[-1]]), "/".join([*top, "labels", parts[-1]])]


# --- which picture belongs to which split


def stated_groups(folder: Path, told: Told, pictures: Pictures) -> dict[str, list[str | ValueError]]:
    """Split -> its pictures, where data.yaml states folders or lists that are there."""
    groups = {name: [one for text in texts for one in stated_pictures(folder, told, text, pictures)]
              for name, texts in told.splits.items()}
    groups = {name: files for name, files in groups.items() if files}
    if len(groups) > 1 and len(set(map(tuple, groups.values()))) == 1:
        return {"all": next(iter(groups.values()))}  # one folder to train and to validate on
    return groups


def stated_pictures(folder: Path, told: Told, text: str, pictures: Pictures) -> list[str]:
    """The pictures that one entry of data.yaml means: a folder or a list, which may be stated for another machine."""
    place = find_stated(folder, told.path.parent, text)
    if place is None:
        return []
    if place.is_file():
        return pictures_of_list(folder, place, pictures)
    below = place.relative_to(folder).as_posix()
    return [name for name in pictures.names if below == "." or name.startswith(f"{below}/")]


def find_stated(folder: Path, base: Path, text: str) -> Path | None:
    """A stated folder or file: from the YAML file, or as much of its end as is there. Never outside the folder."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        if split_in(text) and not split_in("/".join(parts[start:])):
            break  # "images" is not where "valid/images" is
        for top in (base, folder):
            place = top.joinpath(*parts[start:])
            if place.exists() and place.resolve().is_relative_to(folder.resolve()):
                return place
    return None


def pictures_of_list(folder: Path, path: Path, pictures: Pictures) -> list[str | ValueError]:
    """The pictures that a list names, one a line; in place of one that is not there, the error."""
    names = []
    for number, line in enumerate(read_lines(path), start=1):
        found = pictures.find(line)
        lost = ValueError(f"{plain(path)}, line {number}: {found.said}")
        names.append(lost if found.lost else found.path.relative_to(folder).as_posix())
    return names


def listed_groups(folder: Path, pictures: Pictures) -> dict[str, list[str | ValueError]]:
    """Split -> its pictures, where there are lists train.txt, valid.txt, ... of them."""
    groups = {}
    for place, entries in walk(folder):
        for entry in entries:
            split = split_of(Path(entry.name).stem) if entry.name.lower().endswith(".txt") else None
            if split and (lines := read_lines(place / entry.name)) and lines[0].lower().endswith(IMAGE_SUFFIXES):
                groups[split] = pictures_of_list(folder, place / entry.name, pictures)
    return groups


def by_folder(pictures: Pictures, labels: dict[str, Path]) -> dict[str, list[str]]:
    """Split -> its pictures, by the folders that they are in; only folders with labels for some of them."""
    places: dict[str, list[str]] = defaultdict(list)
    for name in pictures.names:
        places[name.rpartition("/")[0]].append(name)
    groups: dict[str, list[str]] = defaultdict(list)
    for place, names in places.items():
        split = split_in(place)
        if split or any(option in labels for name in names for option in label_places(name.rpartition(".")[0])):
            groups[split or "all"] += names
    if len(groups) > 1:
        groups.pop("all", None)
    if "trainval" in groups:
        both = groups.pop("trainval")
        groups.setdefault("train", both)
    return groups


# --- what a split holds


def yolo_split(folder: Path, name: str, files: list[str | ValueError], labels: dict[str, Path], told: Told) -> Split:
    """Pictures as a split."""
    pictures = Pictures(folder, split=None if name == "all" else name)
    source = told.path or folder
    return Split(name, "YOLO", source, pictures, lambda faults: yolo_content(folder, files, labels, told, faults))


def yolo_content(
    folder: Path, files: list[str | ValueError], labels: dict[str, Path], told: Told, faults: list[str] | None = None
) -> dict[str, list]:
    """Pictures and their label files as the three lists of COCO's format; ids count from 1, classes from 0.

    Raises ValueError naming file and line, or notes it in `faults`.
    """
    if not told.names:
        tell(faults, ValueError(f"no class names for the labels in {plain(folder)}: write a data.yaml with names, or a "
                                "classes.txt"))
    images, annotations = [], []
    for number, (name, size) in enumerate(zip(files, sizes_of(folder, files), strict=True), start=1):
        if isinstance(size, ValueError):
            tell(faults, size)
            continue
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        path = next((labels[option] for option in label_places(name.rpartition(".")[0]) if option in labels), None)
        for category, box in read_labels(path, size, told, faults) if path else []:
            annotations.append({"image_id": number, "category_id": category, "bbox": box})
    return {"images": images, "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in told.names.items()]}


def sizes_of(folder: Path, files: list[str | ValueError]) -> list[tuple[int, int] | ValueError]:
    """Width and height of pictures, or why there is none."""
    def look(name: str | ValueError) -> tuple[int, int] | ValueError:
        if isinstance(name, ValueError):
            return name
        try:
            return size_of(folder / name)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(look, files))


def read_labels(
    path: Path, size: tuple[int, int], told: Told, faults: list[str] | None = None
) -> list[tuple[int, list[float]]]:
    """(class, x, y, width, height in pixels) of every line of a label file, for a picture of (width, height)."""
    rows = []
    try:
        lines = read_text(path).splitlines()
    except ValueError as error:
        tell(faults, error)
        return rows
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(read_row(line.split(), size, told))
        except ValueError as error:
            said = f"{plain(path)}, line {number}: {plain(line.strip())!r:.60} {error}; a line is {HOW}"
            tell(faults, ValueError(said))
    return rows


def read_row(words: list[str], size: tuple[int, int], told: Told) -> tuple[int, list[float]]:
    """One line; ValueError says what is wrong with it."""
    try:
        category, *numbers = map(float, words)
    except ValueError:
        raise ValueError("has something that is no number") from None
    if not all(map(math.isfinite, (category, *numbers))) or category != int(category):
        raise ValueError("has a number that is not finite, or a class that is not whole")
    if int(category) not in told.names:
        raise ValueError(f"is of class {category:g}, and there are {min(told.names)} to {max(told.names)}"
                         if told.names else "is of a class without a name")
    if len(numbers) != 4 and not told.points and (len(numbers) < 6 or len(numbers) % 2):
        raise ValueError(f"has {len(words)} numbers")
    if len(numbers) < 4:
        raise ValueError(f"has {len(words)} numbers")
    left, top, right, bottom = shares(numbers[:4] if told.points else numbers)
    width, height = size
    return int(category), [left * width, top * height, (right - left) * width, (bottom - top) * height]


def shares(numbers: list[float]) -> tuple[float, float, float, float]:
    """Corners, as shares of the picture, of centre and size, or of a polygon."""
    if any(not -SLACK <= number <= 1 + SLACK for number in numbers):
        raise ValueError("has a number outside 0 to 1, so it is in pixels or damaged")
    if len(numbers) == 4:
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    xs, ys = numbers[0::2], numbers[1::2]
    return min(xs), min(ys), max(xs), max(ys)
