"""Finding what people bring: text in whatever encoding, the split that a name speaks of, and pictures by their names.

Every format (coco.py, voc.py, yolo.py, imagefolder.py) reads its lists, tells its splits and finds its pictures here,
so all of them take the same oddities, and every command means the same.
"""

import logging
import ntpath
import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

import yaml

from detr_mini.printing import plain

log = logging.getLogger("detr_mini")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".heic", ".heif",
                  ".avif")
DEEPEST = 6  # folders below the data folder: further down nobody keeps annotations, and a mistaken "/" ends soon
IGNORED = ("__MACOSX", "node_modules")

# What people call their splits. Numbers behind (val2017) and other words around (custom_train) do not matter.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    "trainval": ("trainval",),
}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
WORD = re.compile(r"[^\W\d_]+")  # letters only


# --- text


def read_text(path: Path) -> str:
    """A text file in UTF-8 or UTF-16, with or without a byte order mark. ValueError names a file in neither."""
    raw = Path(path).read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in raw[:200]:
        encoding = "utf-16-be" if raw[:1] == b"\0" else "utf-16-le"
    else:
        encoding = "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{plain(path)} is no text in {encoding.removesuffix('-sig').upper()} ({error.reason} at byte "
                         f"{error.start}): save it as UTF-8") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold anything, without the blanks at both ends. Raises as `read_text`."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


class _Plain(yaml.SafeLoader):
    """Reads plain values, and no aliases: a few of those can stand for more than any memory holds."""

    def compose_node(self, parent: object, index: object) -> object:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name), which is not read")
        return super().compose_node(parent, index)


def read_yaml(text: str, where: Path) -> object:
    """The content of YAML; ValueError naming the file when it is broken."""
    try:
        return yaml.load(text, _Plain)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{plain(where)} cannot be read as YAML: {plain(' '.join(str(error).split()))}") from None


def is_litter(name: str) -> bool:
    """Whether a file or folder is no data: hidden, or what a Mac leaves beside each file (._name)."""
    return name.startswith(".") or name in IGNORED


def walk(folder: Path, links: bool = False) -> Iterator[tuple[Path, list[os.DirEntry]]]:
    """Each folder from `folder` down, in order of name, with its files; litter is left out. links: follow them."""
    waiting = [(Path(folder), 0)]
    while waiting:
        place, depth = waiting.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            continue  # a folder that may not be read
        entries = [entry for entry in entries if not is_litter(entry.name)]
        below = [entry for entry in entries if entry.is_dir(follow_symlinks=links)]
        if depth < DEEPEST:
            waiting += [(place / entry.name, depth + 1) for entry in reversed(below)]
        yield place, [entry for entry in entries if not entry.is_dir()]


def require_folder(folder: Path) -> Path:
    """The folder; FileNotFoundError when it is not there."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no data folder at {plain(folder)}; give the one with images and annotations")
    return folder


# --- splits


def split_of(name: str) -> str | None:
    """The split that the name of a file or folder speaks of: "train", "val", "test", "trainval"; None for no split.

    split_of("instances_Validation.json") is "val"; train_val_test names none.
    """
    words = [word.lower() for word in WORD.findall(re.sub("(?<=[a-z])(?=[A-Z])", " ", name))]
    found = {SPLIT_OF[word] for word in words if word in SPLIT_OF}
    if "dev" in words and found == {"test", "val"}:  # COCO's test-dev
        return "test"
    if found == {"train", "val"}:
        return "trainval"
    return found.pop() if len(found) == 1 else None


def split_in(path: Path | str) -> str | None:
    """The split that a path speaks of: its last part that names one."""
    found = (split_of(part) for part in reversed(Path(path).parts))
    return next((split for split in found if split), None)


def wanted_split(name: str) -> str:
    """What a user who asks for a split means: valid and validation are val."""
    return SPLIT_OF.get(name.lower(), name)


@dataclass(frozen=True)
class Split:
    """A part of a data set, as it was found.

    name: "train", "val", "test"; a name of its own; "all" where the folder has no splits. form: "COCO", "Pascal VOC",
    "YOLO", "imagefolder". source: the annotation file, or the folder of them. pictures: where its pictures are.
    read: gives the three lists of COCO's format; what cannot be read is raised, or appended to the list it is given.
    """

    name: str
    form: str
    source: Path
    pictures: "Pictures"
    read: Callable[[list[str] | None], dict[str, list]]


def tell(faults: list[str] | None, error: Exception) -> None:
    """Raise an error, or note it where faults are collected."""
    if faults is None:
        raise error
    faults.append(str(error))


def choose_split(splits: list[Split], wanted: str, folder: Path) -> Split:
    """The split that a user asks for; a folder without splits is all there is to train on.

    Raises FileNotFoundError naming the splits that are there, and what to type.
    """
    name = wanted_split(wanted)
    by_name = {split.name: split for split in splits}
    found = by_name.get(wanted) or by_name.get(name) or (by_name.get("all") if name == "train" else None)
    if found is None:
        raise FileNotFoundError(f"no split '{plain(wanted)}' in {plain(folder)}: {what_there_is(by_name, name)}")
    if found.name not in (name, wanted):
        log.warning("%s has no splits: '%s' is all of its images", plain(folder), plain(wanted))
    return found


def what_there_is(names: Iterable[str], wanted: str) -> str:
    """The splits of a folder in words, and what to type instead of the one that is not there."""
    names = list(names)
    if names == ["all"]:
        there, first = "it has no splits", "all"
    else:
        there, first = f"there is {', '.join(map(plain, names))}", names[0]
    advice = "--val-fraction 0.2 draws a fifth of the training pictures to validate on; " if wanted == "val" else ""
    other = "--val-split" if wanted == "val" else "--split"
    return f"{there}. {advice}{other} {plain(first)} takes {'all pictures' if first == 'all' else 'that one'}"


# --- pictures

WAYS = {
    "stated": "as stated",
    "elsewhere": "by their name, in another folder than stated",
    "backslashes": "with Windows' backslashes turned",
    "decoded": "with %20 and the like decoded",
    "case": "without regard to upper and lower case or the form of accents",
    "suffix": "under another ending, or with one added",
}
MISSING, AMBIGUOUS, OUTSIDE = "missing", "ambiguous", "outside"


@dataclass(frozen=True)
class Place:
    """Where a picture is. way: one of WAYS, or why it is nowhere: "missing", "ambiguous", "outside". said: the
    reason in words."""

    path: Path
    way: str
    said: str = ""

    @property
    def lost(self) -> bool:
        """Whether there is no picture to open."""
        return self.way in (MISSING, AMBIGUOUS, OUTSIDE)


class Pictures:
    """The pictures of a data folder, found by the names that an annotation file gives them.

    folder: nothing outside it is opened. first: the folder that names start from. also: further such folders.
    split: pictures in a folder of this split come before others. links: links that lead out of the folder are followed
    (where a user has said that the pictures lie there). stem: a picture with another suffix will do.

    A name is looked up as it is stated; then without drive and leading folders, with backslashes turned, with %20
    decoded, and without regard to case and Unicode's normal form. The picture that shares most of the stated folders
    wins; where two share as much, the name is ambiguous.
    """

    def __init__(
        self, folder: Path, first: Path | None = None, split: str | None = None, links: bool = False,
        also: Iterable[Path] = (), stem: bool = False,
    ) -> None:
        self.folder, self.split, self.links, self.stem = Path(folder), split, links, stem
        self.first = Path(first) if first else self.folder
        self.roots = [posixpath.normpath(os.path.relpath(place, self.folder).replace(os.sep, "/"))
                      for place in dict.fromkeys((self.first, *also, self.folder))]

    @cached_property
    def real(self) -> str:
        """The folder without links."""
        return os.path.realpath(self.folder)

    @cached_property
    def names(self) -> dict[str, bool]:
        """Every picture, as its path from the folder -> whether it lies inside."""
        found = {}
        for place, files in walk(self.folder, self.links):
            below = place.relative_to(self.folder).as_posix()
            for entry in files:
                if entry.name.lower().endswith(IMAGE_SUFFIXES):
                    name = entry.name if below == "." else f"{below}/{entry.name}"
                    found[name] = self.links or not entry.is_symlink() or self.holds(entry.path)
        return found

    def holds(self, path: str | Path) -> bool:
        """Whether a path, links followed, lies inside the folder."""
        return Path(os.path.realpath(path)).is_relative_to(self.real)

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Last part of the path -> paths."""
        return grouped(self.names, posixpath.basename)

    @cached_property
    def by_form(self) -> dict[str, list[str]]:
        """Last part of the path, in one case and form -> paths."""
        return grouped(self.names, lambda name: one_form(posixpath.basename(name)))

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """The same without the suffix."""
        return grouped(self.names, lambda name: one_form(posixpath.splitext(posixpath.basename(name))[0]))

    def find(self, name: str) -> Place:
        """The picture of a name."""
        stated = self.first / name
        for way, text in variants(name):
            if (place := self.stated(text)) is not None:
                return place if place.lost else Place(place.path, way)
        for way, text in variants(name):
            tail = tail_of(text)
            for found, how in ((self.by_name.get(tail[-1]), "elsewhere" if way == "stated" else way),
                               (self.by_form.get(one_form(tail[-1])), "case")):
                if tail[-1] and found:
                    return self.choose(name, found, tail, how)
        if place := self.of_stem(name):
            return place
        if leaves(name):
            return Place(stated, OUTSIDE, f"{plain(name)} leaves the data folder {plain(self.folder)}, and no picture "
                         "of that name is in it: say where the pictures are with --images FOLDER")
        return Place(stated, MISSING, f"{plain(stated)} does not exist")

    def of_stem(self, name: str) -> Place | None:
        """The picture that differs in its suffix only, where that will do."""
        for _, text in variants(name):
            last = tail_of(text)[-1]
            bare, suffix = posixpath.splitext(last)
            whole = suffix.lower() not in IMAGE_SUFFIXES
            if (whole or self.stem) and (found := self.by_stem.get(one_form(last if whole else bare))):
                return self.choose(name, found, tail_of(text), "suffix")
        return None

    def stated(self, text: str) -> Place | None:
        """The picture at a stated path, from one of the folders that names may start from."""
        for root in self.roots:
            path = posixpath.normpath(posixpath.join(root, text))
            if (inside := self.names.get(path)) is not None:
                return self.place(path, "stated") if inside else self.outside(path)
        for root in self.roots:  # what has no usual suffix, lies very deep, or behind a link or "../"
            path = os.path.join(self.folder, root, text)
            if os.path.isfile(path):
                linked = self.links and Path(os.path.abspath(path)).is_relative_to(os.path.abspath(self.folder))
                return Place(Path(path), "stated") if linked or self.holds(path) else self.outside(text)
        return None

    def place(self, path: str, way: str) -> Place:
        """A path from the folder as a place."""
        return Place(self.folder / path, way)

    def outside(self, text: str) -> Place:
        """A picture that must not be opened."""
        return Place(self.folder / text, OUTSIDE, f"{plain(text)} lies outside the data folder {plain(self.folder)}: "
                     "copy it there, or say where the pictures are with --images FOLDER")

    def choose(self, name: str, found: list[str], tail: list[str], way: str) -> Place:
        """Of the pictures of one name the one that fits best."""
        ranked = sorted(found, key=lambda path: self.rank(path, tail))
        best = [path for path in ranked if self.rank(path, tail) == self.rank(ranked[0], tail)]
        if len(best) > 1:
            two = f"{plain(best[0])} and {plain(best[1])}"
            return Place(self.first / name, AMBIGUOUS, f"{plain(name)} could be {two} in {plain(self.folder)}: say "
                         "where the pictures are with --images FOLDER")
        return self.place(best[0], way) if self.names[best[0]] else self.outside(best[0])

    def rank(self, path: str, tail: list[str]) -> tuple[int, int, int]:
        """Smaller is better: stated folders shared, folder of the right split, folder that names start from."""
        parts = [one_form(part) for part in path.split("/")]
        wanted = [one_form(part) for part in tail]
        same = next((i for i, (a, b) in enumerate(zip(parts[-2::-1], wanted[-2::-1], strict=False)) if a != b),
                    min(len(parts), len(wanted)) - 1)
        other = split_in(posixpath.dirname(path))
        split = 0 if other == self.split else 1 if other is None else 2
        root = self.roots[0]
        return -same, split, int(root != "." and not path.startswith(f"{root}/"))


def grouped(names: Iterable[str], key: object) -> dict[str, list[str]]:
    """Names by a key."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return dict(groups)


def one_form(text: str) -> str:
    """Text in one case and one of Unicode's normal forms, for comparison."""
    return unicodedata.normalize("NFC", text).casefold()


def variants(name: str) -> list[tuple[str, str]]:
    """(way, text) of what a stated name may mean, the likeliest first."""
    turned, decoded = name.replace("\\", "/"), unquote(name)
    texts: dict[str, str] = {}
    for way, text in (("stated", name), ("backslashes", turned), ("decoded", decoded),
                      ("decoded", unquote(turned).replace("\\", "/"))):
        texts.setdefault(text, way)
    return [(way, text) for text, way in texts.items() if "\0" not in text]


def tail_of(text: str) -> list[str]:
    """The parts of a path, without address, drive and what leads nowhere; at least one, which may be empty."""
    path = re.sub(r"^[a-z0-9]+://[^/]*/|^[A-Za-z]:", "", text)
    return [part for part in path.split("/") if part not in ("", ".", "..")] or [""]


def leaves(text: str) -> bool:
    """Whether a path is absolute, here or on Windows, or climbs out of the folder it starts from."""
    turned = text.replace("\\", "/")
    return turned.startswith("/") or bool(ntpath.splitdrive(text)[0]) or posixpath.normpath(turned).startswith("..")


def ways_in_words(places: Iterable[Place]) -> list[str]:
    """How the pictures were found, where not as stated: one sentence per way."""
    counts = Counter(place.way for place in places if not place.lost)
    total = sum(counts.values())
    return [f"{counts[way]} of {total} pictures found {words}" for way, words in WAYS.items()
            if way != "stated" and counts[way]]
