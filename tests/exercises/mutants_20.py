"""What learners write for the exercises of notebook 20: wrong answers with what each is told, and right ones."""

import hashlib
import math

from detr_mini.data.labels import matching_rows

# ---------------------------------------------------------------- 20.voc


def voc_right(xmin: int, ymin: int, xmax: int, ymax: int) -> list:
    """Right: as in the solution."""
    return [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]


def voc_by_edges(xmin: int, ymin: int, xmax: int, ymax: int) -> tuple:
    """Right: first the edges, then sizes."""
    left, top, right, bottom = xmin - 1, ymin - 1, xmax, ymax
    return left, top, right - left, bottom - top


def voc_minus_one(xmin: int, ymin: int, xmax: int, ymax: int) -> list:
    """From 0, sizes as a difference."""
    return [xmin - 1, ymin - 1, xmax - xmin, ymax - ymin]


def voc_from_one(xmin: int, ymin: int, xmax: int, ymax: int) -> list:
    """Right sizes, corners from 1."""
    return [xmin, ymin, xmax - xmin + 1, ymax - ymin + 1]


def voc_differences(xmin: int, ymin: int, xmax: int, ymax: int) -> list:
    """Neither convention."""
    return [xmin, ymin, xmax - xmin, ymax - ymin]


def voc_corners(xmin: int, ymin: int, xmax: int, ymax: int) -> list:
    """No sizes."""
    return [xmin - 1, ymin - 1, xmax - 1, ymax - 1]


def voc_centre(xmin: int, ymin: int, xmax: int, ymax: int) -> list:
    """The centre."""
    left, top, width, height = voc_right(xmin, ymin, xmax, ymax)
    return [left + width / 2, top + height / 2, width, height]


# ---------------------------------------------------------------- 20.rows


def tidy(name: str | None) -> str | None:
    """Without capitals and outer blanks."""
    return None if name is None else name.strip().lower()


def rows_right(old: list, new: list) -> list:
    """Right: for each new name the first old row."""
    there = [tidy(name) for name in old]
    return [(there.index(tidy(name)), row) for row, name in enumerate(new) if name and tidy(name) in there]


def rows_by_dict(old: list, new: list) -> list:
    """Right: filled from behind, so that the first one stays."""
    place = {tidy(name): row for row, name in reversed(list(enumerate(old))) if name}
    return [(place[tidy(name)], row) for row, name in enumerate(new) if name and tidy(name) in place]


def rows_exact(old: list, new: list) -> list:
    """Letter by letter."""
    return [(old.index(name), row) for row, name in enumerate(new) if name and name in old]


def rows_last(old: list, new: list) -> list:
    """A dict keeps the last."""
    place = {tidy(name): row for row, name in enumerate(old) if name}
    return [(place[tidy(name)], row) for row, name in enumerate(new) if name and tidy(name) in place]


def rows_swapped(old: list, new: list) -> list:
    """Here first."""
    return [(here, there) for there, here in rows_right(old, new)]


def rows_none(old: list, new: list) -> list:
    """None is a name."""
    there = [tidy(name) for name in old]
    return [(there.index(tidy(name)), row) for row, name in enumerate(new) if tidy(name) in there]


def rows_by_place(old: list, new: list) -> list:
    """Row 0 for row 0."""
    return [(row, row) for row in range(min(len(old), len(new)))]


# ---------------------------------------------------------------- 20.leak


def leak_right(train: dict, val: dict) -> list:
    """Right: a set of contents."""
    return sorted(name for name, content in val.items() if content in set(train.values()))


def leak_by_hash(train: dict, val: dict) -> list:
    """Right: hashes."""
    seen = {hashlib.sha256(content).hexdigest() for content in train.values()}
    return sorted(name for name in val if hashlib.sha256(val[name]).hexdigest() in seen)


def leak_by_name(train: dict, val: dict) -> list:
    """Names."""
    return sorted(set(train) & set(val))


def leak_by_length(train: dict, val: dict) -> list:
    """Lengths."""
    return sorted(name for name, content in val.items() if len(content) in {len(one) for one in train.values()})


def leak_by_beginning(train: dict, val: dict) -> list:
    """The first bytes."""
    return sorted(name for name, content in val.items() if content[:2] in {one[:2] for one in train.values()})


def leak_unsorted(train: dict, val: dict) -> list:
    """In the order of the dict."""
    return [name for name, content in val.items() if content in train.values()]


# ---------------------------------------------------------------- 20.share


def share_right(batch: int, gpus: int, fits: int) -> int:
    """Right: try."""
    if batch % gpus:
        return 0
    share = batch // gpus
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= fits)


def share_by_size(batch: int, gpus: int, fits: int) -> int:
    """Right: the largest size that fits and divides."""
    share, rest = divmod(batch, gpus)
    if rest:
        return 0
    return share // max(size for size in range(1, min(share, fits) + 1) if share % size == 0)


def share_rounded(batch: int, gpus: int, fits: int) -> int:
    """Rounded up."""
    return 0 if batch % gpus else math.ceil(batch // gpus / fits)


def share_uneven(batch: int, gpus: int, fits: int) -> int:
    """Never impossible."""
    share = batch // gpus
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= fits)


def share_of_all(batch: int, gpus: int, fits: int) -> int:
    """The whole batch on each."""
    return 0 if batch % gpus else share_right(batch, 1, fits)


def share_ones(batch: int, gpus: int, fits: int) -> int:
    """One image at a time."""
    return 0 if batch % gpus else batch // gpus


WRONG = {
    "20.voc": [
        (voc_minus_one, "one too small"),
        (voc_from_one, "still count from 1"),
        (voc_differences, "Two times one pixel"),
        (voc_corners, "still corners, now from 0"),
        (voc_centre, "You give the centre"),
    ],
    "20.rows": [
        (matching_rows, "calls `matching_rows`"),
        (rows_exact, "letter by letter"),
        (rows_last, "you took the last"),
        (rows_swapped, "wrong way round"),
        (rows_none, "You took None for a name"),
        (rows_by_place, "You went by position"),
    ],
    "20.leak": [
        (leak_by_name, "You compared file names"),
        (leak_by_length, "You compared lengths"),
        (leak_by_beginning, "the beginnings only"),
        (leak_unsorted, "not sorted"),
    ],
    "20.share": [
        (share_rounded, "did not look whether it divides"),
        (share_uneven, "cannot be shared by 6 GPUs"),
        (share_of_all, "forgot that GPUs share the batch"),
        (share_ones, "as few as fit"),
    ],
}
RIGHT = {
    "20.voc": [voc_right, voc_by_edges],
    "20.rows": [rows_right, rows_by_dict],
    "20.leak": [leak_right, leak_by_hash],
    "20.share": [share_right, share_by_size],
}
