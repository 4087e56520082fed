"""Are a split's boxes x, y, width, height in pixels? Other forms are told by what most boxes agree on.

Exporters write corners, centres, and parts of the image, all as four numbers. One odd box must not hide such a fault,
and a few sloppy ones must not suggest it, so all is judged by shares. Sound boxes leave their image rarely, and never
all stay inside when they are read in the wrong form.
"""

from dataclasses import dataclass

import numpy as np

from detr_mini.data.annotations import Annotations

SLACK = 2.0  # pixels that a box may stick out without a word
MOST = 0.9  # share of boxes that must agree on another form
NORMALISED = 0.5  # share of boxes with all numbers within 0 to 1
MANY_OUT, SOME_OUT = 0.2, 0.05  # share of boxes that leave their image when corners, or centres, are read as they stand
LEAST = 5  # boxes that must speak for another form
AREA_SHARE = 0.5  # share of stored areas that contradict their boxes


@dataclass(frozen=True)
class Form:
    """Another form. kind: its name. words: what it is, and the cure. mask: (N,) the boxes that speak for it."""

    kind: str
    words: str
    mask: np.ndarray


def leave(corners: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """(N,) which boxes, as x0, y0, x1, y1, stick out of their images by more than SLACK. limit: (N, 4) W, H, W, H."""
    return ((corners < -SLACK) | (corners > limit + SLACK)).any(axis=1)


def other_form(found: Annotations) -> Form | None:
    """The other form that a split's boxes are written in; None when they are x, y, width, height, as they should be."""
    boxes, limit = found.boxes, found.sizes[found.rows][:, [1, 0, 1, 0]].astype(float)
    if len(boxes) < LEAST:
        return None
    return normalised(boxes, limit) or corners(boxes, limit) or centres(boxes, limit)


def normalised(boxes: np.ndarray, limit: np.ndarray) -> Form | None:
    """Parts of the image, from 0 to 1: half of the boxes would be smaller than a pixel."""
    mask = ((boxes >= 0) & (boxes <= 1.0001)).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1) & (limit.min(axis=1) > 4)
    words = "boxes have all four numbers from 0 to 1, parts of their image: multiply them by its width and height"
    return Form("normalised boxes", words, mask) if mask.mean() >= NORMALISED and mask.sum() >= LEAST else None


def corners(boxes: np.ndarray, limit: np.ndarray) -> Form | None:
    """x0, y0, x1, y1: nearly all are in order and inside the image as corners, and many are not as they stand."""
    ordered = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1) & ~leave(boxes, limit)
    out = leave(np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]), limit)
    if ordered.mean() < MOST or out.mean() <= MANY_OUT or out.sum() < LEAST:
        return None
    words = (f"boxes leave their image, and {ordered.mean():.0%} of all fit if the last two numbers are corners: write "
             "x, y, width, height")
    return Form("corners, not sizes", words, out)


def centres(boxes: np.ndarray, limit: np.ndarray) -> Form | None:
    """Centre and size: many leave the image as they stand, and (nearly) none does around its centre."""
    half = boxes[:, 2:] / 2
    out = leave(np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]), limit)
    still = leave(np.column_stack([boxes[:, :2] - half, boxes[:, :2] + half]), limit)
    if out.mean() < SOME_OUT or out.sum() < LEAST or still.sum() > 0.1 * out.sum():
        return None
    words = ("boxes leave their image, and hardly any does if the first two numbers are its centre: write the left "
             "upper corner, then width and height")
    return Form("centres, not corners", words, out)


def wrong_areas(found: Annotations) -> np.ndarray:
    """(N,) whose stored area is none at all, or above that of the box: COCO's AP by size is computed from it."""
    area = found.boxes[:, 2:].prod(axis=1)
    whole = (found.boxes[:, 2:] >= 1).all(axis=1)
    return whole & ((found.areas < 0.01 * area) | (found.areas > 1.1 * area + 1))
