"""Photographs that their EXIF tag turns: were their boxes drawn on them as they are stored, or as they are seen?

Two things settle it for a photograph that lies on its side (tags 5 to 8). Its annotations state the width and height
of the turned picture: then all is well, and it is turned. Or they state those of the stored one, and its boxes stick
out of that and fit into the turned one: then size and boxes contradict each other, which is an error. What lying ones
prove, holds for the other turned photographs (tags 2 to 4) of the same data set.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detr_mini.data.annotations import Annotations
from detr_mini.data.findings import Finding, found, shorten
from detr_mini.data.pictures import SIDEWAYS, open_picture, orientation
from detr_mini.printing import plain

LOOKED_AT = 2000  # pictures whose tag is read where a data set has more, evenly spread
SLACK = 2.0  # pixels that a box may stick out
FEW = 0.02  # share of boxes that may stick out of the right frame by accident


@dataclass
class Turns:
    """The turned photographs of a split, as rows of its annotations.

    seen: stated as they are seen. stored: stated as they are stored, on their side. other: turned in a way that no size
    tells. boxes: how many are drawn on `stored`; out_stored, out_seen: how many of these stick out of the stored frame,
    and of the turned one.
    """

    seen: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    other: list[int] = field(default_factory=list)
    boxes: int = 0
    out_stored: int = 0
    out_seen: int = 0

    @property
    def contradictory(self) -> bool:
        """Whether boxes were drawn on upright pictures and their stated sizes are of the stored ones."""
        return self.out_stored > max(1, FEW * self.boxes) and self.out_seen <= FEW * self.boxes

    @property
    def upright(self) -> bool | None:
        """Whether boxes were drawn on pictures as they are seen; None when nothing tells, or both."""
        as_stored = bool(self.stored) and self.out_seen > max(1, FEW * self.boxes)
        if bool(self.seen) == as_stored:
            return None
        return bool(self.seen)


def turns_of(found: Annotations, most: int = LOOKED_AT) -> Turns:
    """Read the tags of a split's pictures, of `most` of them where there are more."""
    rows = range(len(found.image_ids))
    if len(rows) > most:
        rows = np.linspace(0, len(rows) - 1, most).round().astype(int).tolist()
    turns = Turns()
    for row in rows:
        place = found.places[row]
        if not place.lost:
            sort_in(turns, row, place.path, tuple(found.sizes[row].tolist()))
    count_out(turns, found)
    return turns


def sort_in(turns: Turns, row: int, path: Path, stated: tuple[int, int]) -> None:
    """Put one picture where it belongs. One that cannot be opened is left to others to tell."""
    try:
        with open_picture(path) as picture:
            tag, stored = orientation(picture), (picture.height, picture.width)
    except (ValueError, OSError):
        return
    if tag == 1:
        return
    if tag not in SIDEWAYS or stored[0] == stored[1]:
        turns.other.append(row)
    elif stated == stored[::-1]:
        turns.seen.append(row)
    elif stated == stored:
        turns.stored.append(row)


def count_out(turns: Turns, found: Annotations) -> None:
    """Count the boxes on `stored` that stick out of either frame."""
    mine = np.isin(found.rows, turns.stored)
    ends = found.boxes[mine, :2] + found.boxes[mine, 2:]  # (M, 2) x, y
    height_width = found.sizes[found.rows[mine]]  # (M, 2)
    turns.boxes = int(mine.sum())
    turns.out_stored = int((ends > height_width[:, ::-1] + SLACK).any(axis=1).sum())
    turns.out_seen = int((ends > height_width + SLACK).any(axis=1).sum())


def turn_findings(name: str, found_: Annotations, turns: Turns | None = None) -> list[Finding]:
    """What is wrong, or open, with the turned photographs of a split."""
    turns = turns_of(found_) if turns is None else turns

    def names(rows: list[int]) -> list[str]:
        return [plain(shorten(found_.places[row].path)) for row in rows]

    if turns.contradictory:
        words = (f"turned photographs state the size of the stored picture, and {turns.out_stored} of their "
                 f"{turns.boxes} boxes fit only into the turned one: swap their width and height, or turn the "
                 "pictures themselves")
        return found("error", "turned photographs", name, names(turns.stored), words)
    open_rows = [] if turns.upright is not None else turns.other
    if turns.stored and turns.upright is None:
        open_rows = [*turns.stored, *open_rows]
    words = ("photographs are turned by their EXIF tag, and nothing tells whether their boxes were drawn on them as "
             "they are stored, which is how they are read, or as they are seen: look at the contact sheet")
    findings = found("warning", "turned photographs", name, names(open_rows), words)
    if turns.seen:
        words = "photographs are turned by their EXIF tag, as their stated sizes ask for"
        findings += [Finding("note", "turned photographs", name, len(turns.seen), words)]
    return findings
