"""Boxes: two formats, how much two boxes overlap, and a measure that still helps when they do not.

A box is four numbers. This package writes a box in one of two ways:

- `cxcywh`: centre x, centre y, width, height. Targets and predictions, as fractions of the image (0 to 1).
- `xyxy`: left, top, right, bottom. For areas, overlaps and drawing.
"""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size to corners. boxes: (..., 4), any unit; returns (..., 4) in the same unit."""
    centre, size = boxes[..., :2], boxes[..., 2:]  # (..., 2), (..., 2)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners to centre and size. boxes: (..., 4), any unit; returns (..., 4) in the same unit."""
    low, high = boxes[..., :2], boxes[..., 2:]  # (..., 2), (..., 2)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Width times height. boxes: (..., 4) xyxy; returns (...) in squared units."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)


def overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and the union itself, of boxes that broadcast against each other.

    first, second: (..., 4) xyxy. Returns IoU (...) between 0 and 1, union (...) in squared units.
    """
    low = torch.maximum(first[..., :2], second[..., :2])  # (..., 2) corner of the intersection
    high = torch.minimum(first[..., 2:], second[..., 2:])  # (..., 2)
    intersection = (high - low).clamp(min=0).prod(dim=-1)  # (...)
    union = area(first) + area(second) - intersection  # (...)
    return intersection / union, union


def iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boxes that broadcast against each other: (..., 4) xyxy twice -> (...), 0 to 1."""
    return overlap(first, second)[0]


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019, algorithm 1): IoU - (hull - union) / hull.

    The hull is the smallest box around both. Where IoU is 0 and flat, GIoU still grows as the boxes
    come closer. first, second: (..., 4) xyxy, broadcast; returns (...) between -1 and 1.
    """
    ratio, union = overlap(first, second)
    low = torch.minimum(first[..., :2], second[..., :2])  # (..., 2) corner of the hull
    high = torch.maximum(first[..., 2:], second[..., 2:])  # (..., 2)
    hull = (high - low).prod(dim=-1)  # (...)
    return ratio - (hull - union) / hull


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Every box against every box: (..., N, 4) and (..., M, 4) xyxy -> (..., N, M)."""
    return iou(first.unsqueeze(-2), second.unsqueeze(-3))


def pairwise_giou(first: Tensor, second: Tensor) -> Tensor:
    """Every box against every box: (..., N, 4) and (..., M, 4) xyxy -> (..., N, M)."""
    return giou(first.unsqueeze(-2), second.unsqueeze(-3))


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """The number whose sigmoid is x. x: (...) in [0, 1]; both ends are clamped at `eps`.

    The clamp follows Deformable DETR's code (1e-5); DAB-DETR's code uses 1e-3.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
