"""Checking the annotations of a split: classes, box sizes, crowding, degenerate and repeated boxes."""

from collections import Counter
from itertools import pairwise

import numpy as np
import torch

from detr_mini.boxes import pairwise_iou
from detr_mini.data.check_form import AREA_SHARE, LEAST, SLACK, leave, other_form, wrong_areas
from detr_mini.data.coco import Annotations, clamp_boxes
from detr_mini.data.findings import Finding, found
from detr_mini.data.raw import RawSplit
from detr_mini.data.transforms import resized_size
from detr_mini.printing import plain

SMALL, MEDIUM = 32**2, 96**2  # square pixels: COCO's limits
OVERLAP, SAME = 0.5, 0.9  # IoU of two boxes that crowd each other, and of two that are probably one object
FEW_OBJECTS = 10  # of a class: too few to learn and too few to measure
TINY = 4  # pixels in training: half a cell of the finest map that detectors here use
MANY_TINY = 0.1  # share of the objects
MANY_BAD = 0.05  # share of boxes without area that is no accident any more
JUDGED = 100  # detections per image that COCO's evaluation looks at


def usable(found: Annotations) -> np.ndarray:
    """(N,) bool: no crowd, and with an area inside its image."""
    return clamp_boxes(found.boxes, found.sizes[found.rows])[1] & ~found.crowd


def trained_scale(found: Annotations, size: int) -> np.ndarray:
    """(I,) by how much each image is resized when its shorter side becomes `size`, the longer at most twice that."""
    after = np.array([min(resized_size(tuple(sides), size, 2 * size)) for sides in found.sizes.tolist()])
    return after / found.sizes.min(axis=1)


def size_counts(areas: np.ndarray) -> dict[str, int]:
    """How many areas, in square pixels, are small, medium and large."""
    small, medium = areas < SMALL, (areas >= SMALL) & (areas < MEDIUM)
    return {"small": int(small.sum()), "medium": int(medium.sum()), "large": int((areas >= MEDIUM).sum())}


def describe_split(split: RawSplit, size: int) -> dict:
    """A split in figures, for the report; `size` is the shorter side in training, in pixels."""
    data = split.annotations
    keep = usable(data)
    rows, ids = data.rows[keep], data.category_ids[keep]
    areas = data.boxes[keep, 2] * data.boxes[keep, 3]
    per_image = np.bincount(rows, minlength=len(data.image_ids))
    shapes = Counter(f"{width} x {height}" for height, width in data.sizes.tolist()).most_common()
    shown = [f"{shape} ({count})" for shape, count in shapes[:5]]
    return {
        "images": len(data.image_ids), "objects": int(keep.sum()), "crowds": int(data.crowd.sum()),
        "images_without_objects": int((per_image == 0).sum()), "training_size": size,
        "classes": [
            {"id": entry["id"], "name": entry["name"], "objects": int((ids == entry["id"]).sum()),
             "images": len(np.unique(rows[ids == entry["id"]]))} for entry in data.categories
        ],
        "picture_sizes": shown + ([f"{len(shapes) - 5} more"] if len(shapes) > 5 else []),
        "objects_per_image": {"median": float(np.median(per_image)), "mean": round(float(per_image.mean()), 2),
                              "most": int(per_image.max())},
        "overlapping_pairs": sum(len(pairs) for pairs in overlaps(data, keep, OVERLAP).values()),
        "box_sizes": {"stored": size_counts(areas),
                      "trained": size_counts(areas * trained_scale(data, size)[rows] ** 2)},
    }


def overlaps(data: Annotations, keep: np.ndarray, least: float) -> dict[int, list[tuple[int, int]]]:
    """Row of an image -> pairs of annotations, as their numbers, whose boxes overlap by at least this IoU."""
    corners = torch.from_numpy(clamp_boxes(data.boxes, data.sizes[data.rows])[0])  # (N, 4)
    chosen = np.flatnonzero(keep)
    chosen = chosen[np.argsort(data.rows[chosen], kind="stable")]
    starts = np.flatnonzero(np.diff(data.rows[chosen], prepend=-1))
    pairs = {}
    for objects in np.split(chosen, starts[1:]) if len(chosen) else []:
        iou = pairwise_iou(corners[objects], corners[objects]).triu(1)  # (M, M)
        hits = (iou >= least).nonzero().tolist()
        if hits:
            pairs[int(data.rows[objects[0]])] = [(int(objects[a]), int(objects[b])) for a, b in hits]
    return pairs


def check_annotations(split: RawSplit, size: int) -> list[Finding]:
    """All findings on the annotations of one split."""
    return [*box_findings(split), *repeated_findings(split), *class_findings(split), *image_findings(split, size)]


def shown(split: RawSplit, number: int) -> str:
    """An annotation in words."""
    data = split.annotations
    name = next(entry["name"] for entry in data.categories if entry["id"] == data.category_ids[number])
    box = ", ".join(f"{value:g}" for value in data.boxes[number])
    return f"{plain(data.file_names[data.rows[number]])}: {plain(name)} [{box}]"


def suspects(split: RawSplit) -> list[int]:
    """Rows of pictures that show best what is wrong with the boxes, the most telling first; empty when nothing is."""
    data = split.annotations
    form = other_form(data)
    mask = form.mask if form else wrong_areas(data) & ~data.crowd
    return list(dict.fromkeys(data.rows[mask].tolist()))


def box_findings(split: RawSplit) -> list[Finding]:
    """Boxes in another form, without area, outside their image or over its edge; areas that contradict their boxes."""
    data, name = split.annotations, split.name
    if form := other_form(data):
        return found("error", form.kind, name, _examples(split, form.mask), form.words)
    corners = data.boxes.copy()
    corners[:, 2:] += corners[:, :2]
    flat = (data.boxes[:, 2:] <= 0).any(axis=1)
    alive = clamp_boxes(data.boxes, data.sizes[data.rows])[1]
    out = leave(corners, data.sizes[data.rows][:, [1, 0, 1, 0]]) & alive
    words = "boxes have no width or no height: they are left out of training and still counted in the evaluation"
    findings = found(_level(flat), "boxes without area", name, _examples(split, flat), words)
    words = "boxes lie outside their image: they are left out of training and still counted in the evaluation"
    findings += found(_level(~alive & ~flat), "boxes outside", name, _examples(split, ~alive & ~flat), words)
    words = f"boxes stick out of their image by more than {SLACK:g} pixels: they are cut at its edge"
    findings += found("warning", "boxes over the edge", name, _examples(split, out), words)
    return findings + area_findings(split)


def area_findings(split: RawSplit) -> list[Finding]:
    """Stored areas that no box has: zero, in another unit, or larger than the box."""
    wrong = wrong_areas(split.annotations) & ~split.annotations.crowd
    level = "error" if wrong.sum() >= LEAST and wrong.mean() >= AREA_SHARE else "warning"
    words = ("boxes have an area of (almost) nothing, or above width times height, and AP by size goes by it: correct "
             "'area', or leave it out")
    return found(level, "wrong areas", split.name, _examples(split, wrong), words)


def _level(bad: np.ndarray) -> str:
    """A few boxes at fault are a warning, many are an error."""
    return "error" if bad.sum() >= FEW_OBJECTS and bad.mean() > MANY_BAD else "warning"


def _examples(split: RawSplit, mask: np.ndarray) -> list[str]:
    """The annotations of a mask (N,) in words."""
    return [shown(split, number) for number in np.flatnonzero(mask)]


def repeated_findings(split: RawSplit) -> list[Finding]:
    """The same annotation twice, and two boxes of one class on the same spot."""
    data = split.annotations
    keys = np.column_stack([data.rows, data.category_ids, data.boxes.round(2)])  # (N, 6)
    _, first, times = np.unique(keys, axis=0, return_index=True, return_counts=True)
    twice = [shown(split, number) for number in first[times > 1]]
    close = [
        pair for pairs in overlaps(data, usable(data), SAME).values() for pair in pairs
        if data.category_ids[pair[0]] == data.category_ids[pair[1]] and (keys[pair[0]] != keys[pair[1]]).any()
    ]
    words = "annotations are there more than once: the detector learns to find each of these objects twice"
    findings = found("warning", "repeated annotations", split.name, twice, words)
    words = f"pairs of one class overlap by {SAME:.0%} and more (IoU): probably one object, annotated twice"
    return findings + found("warning", "nearly the same box", split.name, [shown(split, a) for a, _ in close], words)


def class_findings(split: RawSplit) -> list[Finding]:
    """Classes without objects or with few, and gaps in the ids."""
    data = split.annotations
    counts = Counter(data.category_ids[usable(data)].tolist())
    names = {entry["id"]: entry["name"] for entry in data.categories}
    twice = [name for name, times in Counter(names.values()).items() if times > 1]
    none = [name for i, name in names.items() if not counts[i]]
    few = [f"{name}: {counts[i]}" for i, name in names.items() if 0 < counts[i] < FEW_OBJECTS]
    ids = sorted(names)
    gaps = [f"{a + 1} to {b - 1}" if b - a > 2 else str(a + 1) for a, b in pairwise(ids) if b - a > 1]
    return [
        *found("error" if len(none) == len(names) else "warning", "classes without objects", split.name, none,
               "classes have no object: take them off the list, or find pictures of them"),
        *found("warning", "two classes of one name", split.name, twice, "names stand for more than one class"),
        *found("warning", "rare classes", split.name, few,
               f"classes have fewer than {FEW_OBJECTS} objects: too few to learn, and to measure"),
        *found("note", "gaps in class ids", split.name, gaps,
               "groups of numbers between the first and the last id have no class: labels count up without them"),
    ]


def image_findings(split: RawSplit, size: int) -> list[Finding]:
    """Images without objects, too many objects in one, objects too small for the training size, lost annotations."""
    data, name, keep = split.annotations, split.name, usable(split.annotations)
    per_image = np.bincount(data.rows[keep], minlength=len(data.image_ids))
    sides = data.boxes[keep, 2:].min(axis=1) * trained_scale(data, size)[data.rows[keep]]
    tiny = (sides < TINY).sum() if len(sides) and (sides < TINY).mean() > MANY_TINY else 0
    lost = [f"{data.unlisted} annotations"] * bool(data.unlisted)
    empty = [data.file_names[row] for row in np.flatnonzero(per_image == 0)]
    full = [f"{data.file_names[row]}: {per_image[row]}" for row in np.flatnonzero(per_image > JUDGED)]
    level = "warning" if 2 * len(empty) > len(per_image) else "note"
    return [
        *found("warning", "annotations of no image", name, lost, "group: their image_id is not listed; they are lost"),
        *found(level, "images without objects", name, empty, "images have no object: right if nothing is in them"),
        *found("warning", "more objects than are judged", name, full,
               f"images hold more than the {JUDGED} objects that COCO's evaluation counts per image"),
        *found("warning", "tiny objects", name, [f"{tiny} of {len(sides)}"] * bool(tiny),
               f"group: a side of under {TINY} pixels at size {size} is too small to be seen; train on larger images"),
    ]
