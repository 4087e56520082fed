"""Looking at the picture files of a data set: which are missing or broken, and which are there twice."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from detr_mini.data.pictures import read_image
from detr_mini.data.raw import RawSplit
from detr_mini.data.voc import IMAGE_SUFFIXES
from detr_mini.printing import plain

GRID = 16  # a picture's pattern has GRID x GRID bits
ALIKE = 6  # of 256 bits may differ; JPEG compression alone changes fewer
PLAIN = 3  # grey values: a picture whose small copy varies less has no pattern to compare
MOST_PAIRS = 200_000_000  # pictures of one split times pictures of the other, compared bit by bit in a minute or two


@dataclass(frozen=True)
class Seen:
    """A picture file. problem: why it cannot be used, kind of it in one word first; the rest is of whole files only.

    content: hash of the file's bytes. pixels: hash of the decoded picture. pattern: (256,) bool, whether each place of
    a small grey copy is darker than its right neighbour; None for a plain picture.
    """

    path: Path
    problem: tuple[str, str] | None = None
    content: str = ""
    pixels: str = ""
    pattern: np.ndarray | None = None


def look(path: Path, size: tuple[int, int], quick: bool = False, upright: bool | None = None) -> Seen:
    """Open one file; size: the (H, W) that the annotations state. quick: only see whether it is there.

    upright: whether boxes were drawn on pictures as they are seen, see pictures.py.
    """
    if not path.is_file():
        return Seen(path, ("missing", f"{plain(path)} does not exist"))
    if quick:
        return Seen(path)
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        pixels = read_image(path, size, lambda: upright).permute(1, 2, 0).numpy()  # (H, W, 3)
    except (ValueError, OSError) as error:
        return Seen(path, ("size" if "its annotations say" in str(error) else "broken", str(error)), content)
    digest = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return Seen(path, None, content, digest, pattern_of(pixels))


def pattern_of(pixels: np.ndarray) -> np.ndarray | None:
    """A picture (H, W, 3) as (256,) bool, the same after a change of format, size or quality; None when it is plain."""
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((GRID + 1, GRID), Image.Resampling.BOX), dtype=int)
    return (small[:, :-1] < small[:, 1:]).ravel() if small.std() >= PLAIN else None


def look_at_all(split: RawSplit, quick: bool, progress: bool, upright: bool | None = None) -> list[Seen]:
    """Every picture that a split lists, in its order; several at a time."""
    sizes = [tuple(size) for size in split.annotations.sizes.tolist()]
    paths = [split.path(row) for row in range(len(sizes))]
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        seen = pool.map(look, paths, sizes, [quick] * len(sizes), [upright] * len(sizes))
        return list(tqdm(seen, desc=split.name, total=len(sizes), unit="picture", disable=not progress))


def unlisted(splits: Iterable[RawSplit]) -> list[Path]:
    """Picture files in the splits' folders that no split lists."""
    splits = [split for split in splits if split.annotations]
    listed = {split.path(row).resolve() for split in splits for row in range(len(split.annotations.file_names))}
    there = {path for split in splits for path in split.images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES}
    return sorted(path for path in there if path.resolve() not in listed)


def groups_of_same(seen: Iterable[Seen]) -> list[list[Path]]:
    """Files with the same decoded picture, two or more each; the same path listed twice counts too."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for one in seen:
        if one.pixels:
            groups[one.pixels].append(one.path)
    return [paths for paths in groups.values() if len(paths) > 1]


def shared(first: list[Seen], second: list[Seen]) -> list[tuple[Path, Path]]:
    """Pairs of files, one of each split, that are the same file or decode to the same picture."""
    known = {key: one.path for one in first for key in (str(one.path.resolve()), one.content, one.pixels) if key}
    keys = ((one, (str(one.path.resolve()), one.content, one.pixels)) for one in second)
    return [(known[hit], one.path) for one, names in keys if (hit := next((k for k in names if k in known), None))]


def alike(first: list[Seen], second: list[Seen]) -> list[tuple[Path, Path]] | None:
    """Pairs, one of each split, that look the same without being the same; None when there are too many to compare."""
    one, two = ([seen for seen in split if seen.pattern is not None] for split in (first, second))
    if not one or not two or len(one) * len(two) > MOST_PAIRS:
        return [] if not one or not two else None
    a, b = (np.stack([seen.pattern for seen in split]).astype(np.float32) for split in (one, two))  # (N, 256), (M, 256)
    pairs = []
    for start in range(0, len(a), 1024):
        part = a[start : start + 1024]
        differ = part.sum(1)[:, None] + b.sum(1) - 2 * part @ b.T  # (1024, M) bits
        pairs += [(one[start + i], two[j]) for i, j in zip(*np.nonzero(differ <= ALIKE), strict=True)]
    return [(x.path, y.path) for x, y in pairs if x.pixels != y.pixels]


def pairs_of(splits: dict[str, list[Seen]]) -> Iterable[tuple[str, str]]:
    """Every two splits, once."""
    return combinations(splits, 2)
