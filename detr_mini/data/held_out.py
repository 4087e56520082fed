"""Setting pictures aside to validate on, where a folder has no split for it: the same ones every time.

Who is drawn depends on the pictures' names alone, neither on their order nor on a seed. Pictures that were cut from
one source (copies that Roboflow made, frames of a film, tiles of a large picture) stay together, or a detector would
be asked about what it has as good as seen. With few sources, the last pictures of each are set aside instead.
"""

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detr_mini.data.subset import Part
from detr_mini.files import atomic
from detr_mini.printing import plain

FILE = "held_out.json"
ROBOFLOW = re.compile(r"(_(jpe?g|png|bmp|webp|tiff?))?\.rf\.[0-9a-f]{6,}$", re.I)
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # Label Studio writes this before each name
NUMBER = re.compile(r"(?P<before>[-_. ]*)(?P<word>frame|tile|crop|patch|slice|part|row|col|aug|(?<=[-_. ])[xyrc])?"
                    r"[-_. ]*(?P<digits>\d+)$", re.I)
PLACES = ("x", "y", "r", "c", "row", "col")  # words for where in a picture a tile was
CUT = re.compile(r"frame|tile|crop|patch|slice|aug", re.I)  # words for pictures that were cut from another
MOST = 1.5  # times the pictures wanted: where whole sources come to more, they are too large to be set aside whole


@dataclass(frozen=True)
class Draw:
    """rows: of the pictures set aside, in order. names: theirs. said: how they were drawn."""

    rows: list[int]
    names: list[str]
    said: str


def draw(names: list[str], fraction: float) -> Draw:
    """Set a part of the pictures aside; ValueError for a fraction that leaves one side empty."""
    if not 0 < fraction < 1:
        raise ValueError(f"--val-fraction is {fraction}: give a number between 0 and 1, such as 0.2")
    wanted = round(fraction * len(names))
    if not 0 < wanted < len(names):
        raise ValueError(f"--val-fraction {fraction:g} of {len(names)} pictures is {wanted}: give one that leaves some "
                         "on both sides")
    sources = by_source(names)
    chosen = whole_sources(sources, wanted)
    if len(chosen) > MOST * wanted:
        chosen = last_of_each(sources, names, fraction)
        said = f"the last ones of each of {len(sources)} sources, told by their names"
    else:
        together = sum(len(rows) > 1 for rows in sources.values())
        said = "drawn by their names" + f", {together} groups of one source kept together" * bool(together)
    rows = sorted(chosen)
    return Draw(rows, [names[row] for row in rows], said)


def by_source(names: list[str]) -> dict[str, list[int]]:
    """Source -> rows of the pictures that were cut from it."""
    sources: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        sources[without_copy(name)].append(row)
    numbered: dict[str, list[int]] = defaultdict(list)
    for source, rows in sources.items():
        numbered[without_number(source)] += rows
    several = [source for source, rows in numbered.items() if len(rows) > 1]
    cut = sum(bool(CUT.search(name)) for name in names) * 2 > len(names)
    return dict(numbered if cut or len(several) > 1 else sources)


def without_copy(name: str) -> str:
    """A name without what marks a copy: Roboflow's ending, and Label Studio's beginning."""
    path = PurePosixPath(name.replace("\\", "/"))
    return f"{path.parent}/{UPLOADED.sub('', ROBOFLOW.sub('', path.stem))}"


def without_number(source: str) -> str:
    """A name without the numbers at its end (film_0001, tile_3_4)."""
    folder, _, stem = source.rpartition("/")
    digits = 0
    while found := NUMBER.search(stem):
        place = (found["word"] or "").lower() in PLACES
        if digits and not found["word"] and not (found["before"] and len(found["digits"]) == digits):
            break  # the 1 in film1_0007 belongs to the film, the 3 in tile_3_4 to the tile
        stem, digits = stem[: found.start()], len(found["digits"])
        if found["word"] and not place:
            break
    return f"{folder}/{stem}"


def whole_sources(sources: dict[str, list[int]], wanted: int) -> list[int]:
    """Rows of sources, in the order of their names' hashes, until there are enough."""
    chosen: list[int] = []
    for source in sorted(sources, key=lambda source: hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()):
        if len(chosen) >= wanted:
            break
        chosen += sources[source]
    return chosen


def last_of_each(sources: dict[str, list[int]], names: list[str], fraction: float) -> list[int]:
    """The last part of the pictures of every source, in the order of their numbers."""
    chosen: list[int] = []
    for rows in sources.values():
        ordered = sorted(rows, key=lambda row: natural(names[row]))
        count = round(fraction * len(ordered)) or int(len(ordered) > 1 and len(sources) == 1)
        chosen += ordered[len(ordered) - count :]
    return chosen or whole_sources(sources, 1)


def natural(name: str) -> list[tuple[int, str]]:
    """For sorting, so that 9 comes before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


# --- the two sides, and where it is written down


def set_aside(dataset, fraction: float) -> tuple[Part, Part, Draw]:
    """A data set in two: what is left to train on, and what is set aside."""
    drawn = draw(dataset.file_names, fraction)
    apart = set(drawn.rows)
    return Part(dataset, [row for row in range(len(dataset)) if row not in apart]), Part(dataset, drawn.rows), drawn


def describe(drawn: Draw, total: int, shown: int = 6) -> str:
    """A draw in a line."""
    more = f" and {len(drawn.names) - shown} more" if len(drawn.names) > shown else ""
    return (f"validation: {len(drawn.names)} of {total} pictures set aside, {drawn.said}: "
            f"{', '.join(map(plain, drawn.names[:shown]))}{more}")


def write(folder: Path, fraction: float, drawn: Draw) -> None:
    """Write a draw into a run's folder; ValueError when the run there has another one."""
    path = Path(folder) / FILE
    content = {"fraction": fraction, "val": drawn.names, "how": drawn.said}
    if (old := read(folder)) is not None and old != drawn.names:
        raise ValueError(f"{plain(path)} names {len(old)} pictures to validate on, and --val-fraction {fraction:g} "
                         f"draws {len(drawn.names)}, not the same: choose another folder with --to, or delete "
                         f"{plain(folder)} to start again")
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> list[str] | None:
    """The names that a run set aside, None where it did not; ValueError for a file that cannot be read."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_bytes())["val"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{plain(path)} is damaged: put it back, or say with --split what to measure on") from None
    return names


def part_of(dataset, names: list[str]) -> Part | None:
    """The pictures of a data set with these names; None when some are not there, so it is another data set."""
    row_of = {name: row for row, name in enumerate(dataset.file_names)}
    return Part(dataset, [row_of[name] for name in names]) if all(name in row_of for name in names) else None
