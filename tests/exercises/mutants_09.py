"""What learners write for the exercises of notebook 09: wrong answers with what each is told, and right ones."""

import numpy as np
import torch
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detr_mini.data.scenes import Scenes
from detr_mini.recipes import TrainRecipe
from detr_mini.training import lr_factor


def warm(step: int, warmup: int) -> float:
    """The right warm-up."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def rate_of(step: int, total: int, lr: float, warmup: int, drop: float) -> float:
    """The right rate."""
    return lr * warm(step, warmup) * (0.1 if step >= drop * total else 1.0)


def from_zero(step: int, total: int, lr: float, warmup: int, drop: float) -> float:
    """The first step teaches nothing."""
    return lr * min(1.0, step / max(warmup, 1)) * (0.1 if step >= drop * total else 1.0)


def written_out(step: int, total: int, lr: float, warmup: int, drop: float) -> Tensor:
    """Right, with branches, as a tensor."""
    if step < warmup:
        lr = lr * (step + 1) / warmup
    if step / total >= drop:
        lr = lr / 10
    return torch.tensor(lr)


def curve(scores: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Hits and precision, best score first: (N,), (N,)."""
    hits = right[scores.argsort(descending=True)].cumsum(0)
    return hits, hits / torch.arange(1, len(hits) + 1)


def read(recall: Tensor, best: Tensor, levels: int = 101) -> Tensor:
    """The mean of a curve at evenly spaced recalls."""
    place = torch.searchsorted(recall, torch.linspace(0, 1, levels))
    return torch.cat([best, torch.zeros(1)])[place].mean()


def falling(precision: Tensor) -> Tensor:
    """The largest here or further down."""
    return precision.flip(0).cummax(0).values.flip(0)


def ap_of(scores: Tensor, right: Tensor, objects: int) -> Tensor:
    """The right AP."""
    hits, precision = curve(scores, right)
    return read(hits / objects, falling(precision))


def unsorted(scores: Tensor, right: Tensor, objects: int) -> Tensor:
    """Takes the list as it comes."""
    return ap_of(-torch.arange(len(right)).float(), right, objects)


def by_plain_loops(scores: Tensor, right: Tensor, objects: int) -> float:
    """Right, without a tensor's methods."""
    order = sorted(range(len(scores)), key=lambda i: -float(scores[i]))
    points, hits = [], 0
    for rank, i in enumerate(order, 1):
        hits += bool(right[i])
        points.append((hits / objects, hits / rank))
    return float(np.mean([max((p for r, p in points if r >= level / 100 - 1e-9), default=0.0) for level in range(101)]))


def mended(target: dict) -> dict:
    """The right repair."""
    return {"labels": target["labels"] - 1, "boxes": xyxy_to_cxcywh(target["boxes"])}


def with_labels(labels) -> object:
    """Right boxes with other labels."""
    return lambda target: mended(target) | {"labels": labels(target["labels"])}


def with_boxes(boxes) -> object:
    """Right labels with other boxes."""
    return lambda target: mended(target) | {"boxes": boxes(target["boxes"])}


def width_for_right(boxes: Tensor) -> Tensor:
    """Takes (left, top, right, bottom) for (left, top, width, height)."""
    return torch.cat([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], dim=1)


def by_columns(target: dict) -> dict:
    """Right, column by column, labels by name."""
    left, top, right, bottom = target["boxes"].unbind(1)
    names = [Scenes(1).classes[label - 1] for label in target["labels"].tolist()]
    boxes = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=1)
    return {"labels": torch.tensor([Scenes(1).classes.index(name) for name in names]), "boxes": boxes}


WRONG = {
    "09.rate": [
        (lambda s, t, lr, w, d: lr * lr_factor(s, t, TrainRecipe(warmup=w, drop=d)), "calls `lr_factor`"),
        (from_zero, "The first step has the rate 0"),
        (lambda s, t, lr, w, d: lr * (0.1 if s >= d * t else 1.0), "There is no warm-up"),
        (lambda s, t, lr, w, d: lr * warm(s, w), "There is no drop"),
        (lambda s, t, lr, w, d: rate_of(s, t, lr, w, d) / warm(s, w) * (s + 1) / max(w, 1), "does not stop"),
        (lambda s, t, lr, w, d: lr * warm(s, w) * (0.1 if s >= d else 1.0), "compared it with the step itself"),
        (lambda s, t, lr, w, d: lr * warm(s, w) * (0.1 if s > d * t else 1.0), "one step late"),
        (lambda s, t, lr, w, d: lr * warm(s, w) * (s < d * t), "After the drop the rate is 0"),
        (lambda s, t, lr, w, d: lr * warm(s, w) * (0.9 if s >= d * t else 1.0), "lowered the rate by a tenth"),
        (lambda s, t, lr, w, d: rate_of(s, t, 1.0, w, d), "without the rate itself"),
        (lambda s, t, lr, w, d: rate_of(s, t, lr, w, d) if w else lr * min(1.0, s / 5), "it should be full at once"),
        (lambda s, t, lr, w, d: rate_of(s, t, lr, w, d if d < 1 else 0.9), "With drop = 1.0"),
        (lambda s, t, lr, w, d: [lr, lr], "One number is wanted"),
    ],
    "09.ap": [
        (unsorted, "must be sorted by score first"),
        (lambda s, r, n: ap_of(-s, r, n), "lowest score first"),
        (lambda s, r, n: ap_of(s, r, int(r.sum())), "divided by the hits"),
        (lambda s, r, n: ap_of(s, r, len(r)), "by the number of detections"),
        (lambda s, r, n: read(curve(s, r)[0] / n, curve(s, r)[1]), "still has its teeth"),
        (lambda s, r, n: read(curve(s, r)[0] / n, curve(s, r)[1].cummax(0).values), "starts at the left"),
        (lambda s, r, n: (curve(s, r)[1] * r[s.argsort(descending=True)]).sum() / n, "as search engines do"),
        (lambda s, r, n: read(curve(s, r)[0] / n, falling(curve(s, r)[1]), 11), "11 recalls"),
        (lambda s, r, n: 100 * ap_of(s, r, n), "in percent"),
        (lambda s, r, n: curve(s, r)[1].mean(), "mean precision over all ranks"),
        (lambda s, r, n: r.float().mean(), "precision of the whole list"),
        (lambda s, r, n: r.sum() / n, "recall of the whole list"),
    ],
    "09.zero": [
        (with_labels(lambda labels: labels), "still the category ids"),
        (with_labels(lambda labels: labels + 1), "the wrong way"),
        (with_labels(lambda labels: labels % 10), "folded label 10"),
        (with_labels(lambda labels: labels.clamp(max=9)), "cut label 10"),
        (with_boxes(lambda boxes: boxes), "the boxes are still corners"),
        (with_boxes(cxcywh_to_xyxy), "go the other way"),
        (with_boxes(width_for_right), "for width and height"),
        (with_boxes(lambda boxes: torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)), "kept the corner"),
        (with_boxes(lambda boxes: xyxy_to_cxcywh(boxes) * torch.tensor([1, 1, 0.5, 0.5])), "half of what it should"),
        (with_boxes(lambda boxes: xyxy_to_cxcywh(boxes) * 128), "in pixels"),
        (with_boxes(lambda boxes: xyxy_to_cxcywh(boxes) / 128), "divided by 128"),
        (lambda target: target["boxes"], "A target is wanted"),
    ],
}

RIGHT = {
    "09.rate": [rate_of, written_out],
    "09.ap": [ap_of, by_plain_loops],
    "09.zero": [mended, by_columns],
}
