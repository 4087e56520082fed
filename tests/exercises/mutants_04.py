"""What learners write for the exercises of notebook 04: wrong answers with what each is told, and right ones."""

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, pairwise_giou, pairwise_iou
from detr_mini.course.dense import nms


def scaled(boxes: Tensor, *sides: int) -> Tensor:
    """Boxes (N, 4) times four numbers."""
    return boxes * torch.tensor(sides)


def column_by_column(boxes: Tensor, height: int, width: int) -> Tensor:
    """Right: pixels first, corners then."""
    x, y, w, h = boxes.T
    x, w, y, h = x * width, w * width, y * height, h * height
    return torch.stack((x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h), dim=-1)


def reach(first: Tensor, second: Tensor) -> Tensor:
    """Sides of the shared part of all pairs, (N, M, 2); negative where there is none."""
    low = torch.max(first[:, None, :2], second[:, :2])
    return torch.min(first[:, None, 2:], second[:, 2:]) - low


def area(boxes: Tensor) -> Tensor:
    """(N, 4) -> (N,)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def over_union(shared: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The right end."""
    return shared / (area(first)[:, None] + area(second) - shared)


def with_epsilon(first: Tensor, second: Tensor) -> Tensor:
    """Right: nothing is divided by 0."""
    shared = reach(first, second).clamp(min=0).prod(-1)
    return shared / (area(first)[:, None] + area(second) - shared + 1e-6)


def two_loops(first: Tensor, second: Tensor) -> Tensor:
    """Right, though slow."""
    rows = []
    for a in first.tolist():
        row = []
        for b in second.tolist():
            w, h = max(0, min(a[2], b[2]) - max(a[0], b[0])), max(0, min(a[3], b[3]) - max(a[1], b[1]))
            row.append(w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h))
        rows.append(row)
    return torch.tensor(rows)


def by_hull(first: Tensor, second: Tensor) -> Tensor:
    """GIoU, written out."""
    low, high = torch.min(first[:, None, :2], second[:, :2]), torch.max(first[:, None, 2:], second[:, 2:])
    shared, hull = reach(first, second).relu().prod(-1), (high - low).prod(-1)
    union = area(first)[:, None] + area(second) - shared
    return shared / union - (hull - union) / hull


def greedy(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, order: Tensor | None = None) -> Tensor:
    """Right, with marks."""
    gone, kept = set(), []
    for i in (scores.argsort(descending=True) if order is None else order).tolist():
        if i in gone:
            continue
        kept.append(i)
        for j in range(len(boxes)):
            if labels[i] == labels[j] and pairwise_iou(boxes[[i]], boxes[[j]])[0, 0] > threshold:
                gone.add(j)
    return torch.tensor(kept)


def the_dead_delete(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """A box that was deleted goes on deleting."""
    order = scores.argsort(descending=True)
    b, y = boxes[order], labels[order]
    rivals = ((pairwise_iou(b, b) > threshold) & (y[:, None] == y)).triu(1)
    return order[~rivals.any(0)]


def class_by_class(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, kinds: tuple = ()) -> Tensor:
    """One class after the other, and left in that order."""
    kept = [torch.zeros(0, dtype=torch.long)]
    for label in kinds or labels.unique():
        index = (labels == label).nonzero()[:, 0]
        kept.append(index[no_class(boxes[index], scores[index], labels[index], threshold).long()])
    return torch.cat(kept)


def per_class(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Right: one class after the other, then all together in order."""
    kept = class_by_class(boxes, scores, labels, threshold)
    return kept[scores[kept].argsort(descending=True)]


def no_class(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Forgets the labels."""
    return greedy(boxes, scores, torch.zeros_like(labels), threshold)


def moved_apart(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The trick that the exercise does without."""
    return greedy(boxes + 1000 * labels[:, None], scores, torch.zeros_like(labels), threshold)


def largest_first(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """An order that nobody asked for."""
    kept = greedy(boxes, scores, labels, threshold)
    return kept[area(boxes[kept]).argsort(descending=True, stable=True)].flip(0)


def not_empty(function: Callable, without: Callable) -> Callable:
    """A function that takes another way when its first argument, or a list of its second, is empty."""
    return lambda *given: (without if any(isinstance(x, Tensor) and not len(x) for x in given) else function)(*given)


def minimum(points: Tensor, objects: Tensor) -> Tensor:
    """Right while there is a thing."""
    cost = area(objects).repeat(len(points), 1).masked_fill(~held(points, objects), torch.inf)
    return torch.where(cost.amin(1) < torch.inf, cost.argmin(1), -1)


def held(points: Tensor, objects: Tensor) -> Tensor:
    """(P, M)."""
    x, y = points[:, 0:1], points[:, 1:2]
    return (x >= objects[:, 0]) & (x <= objects[:, 2]) & (y >= objects[:, 1]) & (y <= objects[:, 3])


def one_by_one(points: Tensor, objects: Tensor) -> Tensor:
    """Right, with loops."""
    answers = []
    for x, y in points.tolist():
        holders = [((x1 - x0) * (y1 - y0), number) for number, (x0, y0, x1, y1) in enumerate(objects.tolist())
                   if x0 <= x <= x1 and y0 <= y <= y1]
        answers.append(min(holders)[1] if holders else -1)
    return torch.tensor(answers)


def painter(points: Tensor, objects: Tensor) -> Tensor:
    """Right: paint from the largest to the smallest."""
    answers = torch.full((len(points),), -1)
    for i in area(objects).argsort(descending=True).tolist():
        answers[held(points, objects[[i]])[:, 0]] = i
    return answers


def argmin_alone(points: Tensor, objects: Tensor) -> Tensor:
    """Forgets the points that nobody holds."""
    return area(objects).repeat(len(points), 1).masked_fill(~held(points, objects), torch.inf).argmin(1)


def largest(points: Tensor, objects: Tensor) -> Tensor:
    """The wrong one of several."""
    inside = held(points, objects)
    return torch.where(inside.any(1), (inside * area(objects)).argmax(1), -1)


def first_found(points: Tensor, objects: Tensor) -> Tensor:
    """Any one of several."""
    inside = held(points, objects)
    return torch.where(inside.any(1), inside.int().argmax(1), -1)


def nearest(points: Tensor, objects: Tensor) -> Tensor:
    """Distance to centres."""
    return torch.cdist(points, (objects[:, :2] + objects[:, 2:]) / 2).argmin(1)


def without_edges(points: Tensor, objects: Tensor) -> Tensor:
    """Strict comparisons."""
    x, y = points[:, 0:1], points[:, 1:2]
    inside = (x > objects[:, 0]) & (x < objects[:, 2]) & (y > objects[:, 1]) & (y < objects[:, 3])
    return torch.where(inside.any(1), area(objects).repeat(len(points), 1).masked_fill(~inside, 1e9).argmin(1), -1)


WRONG = {
    "04.pixels": [
        (lambda b, h, w: cxcywh_to_xyxy(b), "right as fractions"),
        (lambda b, h, w: scaled(cxcywh_to_xyxy(b), h, w, h, w), "Height and width are swapped"),
        (lambda b, h, w: scaled(b, w, h, w, h), "still centre and size"),
        (lambda b, h, w: scaled(cxcywh_to_xyxy(b * torch.tensor([1, 1, 2, 2])), w, h, w, h), "half is needed"),
        (lambda b, h, w: scaled(torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1), w, h, w, h), "They are the centre"),
        (lambda b, h, w: scaled(torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, 2:]], 1), w, h, w, h), "COCO's format"),
        (lambda b, h, w: cxcywh_to_xyxy(b) * w, "all four numbers by the width"),
        (lambda b, h, w: cxcywh_to_xyxy(b).mul_(h), "all four numbers by the height"),
        (lambda b, h, w: b.mul_(w), "changes its input number 1"),
        (lambda b, h, w: column_by_column(b, h, w).round(), "You rounded to whole pixels"),
        (lambda b, h, w: column_by_column(b, h, w).int(), "You cut off what comes after the point"),
        (lambda b, h, w: column_by_column(b, 77, 131), "written into your function"),
        (lambda b, h, w: torch.stack([column_by_column(x[None], h, w)[0] for x in b]),
         "With no boxes at all your code stopped"),
    ],
    "04.iou": [
        (lambda a, b: over_union(reach(a, b).prod(-1), a, b), "negative width times a negative height"),
        (lambda a, b: over_union(reach(a, b).prod(-1).clamp(min=0), a, b), "You clamped the product"),
        (lambda a, b: reach(a, b).clamp(min=0).prod(-1) / (area(a)[:, None] + area(b)), "counted twice below the line"),
        (lambda a, b: reach(a, b).clamp(min=0).prod(-1) / torch.min(area(a)[:, None], area(b)), "the smaller area"),
        (lambda a, b: reach(a, b).clamp(min=0).prod(-1) / area(a)[:, None], "the first box's area"),
        (lambda a, b: two_loops(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)), "They are corners already"),
        (by_hull, "That is GIoU"),
        (pairwise_iou, "calls `pairwise_iou`, and this exercise is about doing without it"),
        (lambda a, b: torchvision.ops.box_iou(a, b).float(), "calls `box_iou`"),
        (lambda a, b: 1 - pairwise_giou(a, b), "calls `pairwise_giou`"),
        (lambda a, b: torch.stack([two_loops(a, x[None])[:, 0] for x in b], 1), "When the second list is empty"),
        (not_empty(two_loops, lambda a, b: torch.zeros(3)), "When the second list is empty"),
        (lambda a, b: reach(a, b).clamp(min=0).prod(-1), "That is the shared area"),
        (lambda a, b: two_loops(b, a), "a row for each box of the first"),
        (lambda a, b: two_loops(a, b) if len(a) != len(b) else two_loops(a, b).diag(), "in pairs, first with first"),
        (lambda a, b: torch.max(a[:, :2], b[:, :2]), "Your code stopped"),
    ],
    "04.nms": [
        (no_class, "another kind of thing"),
        (the_dead_delete, "A deleted box still deletes"),
        (lambda b, s, y, t: greedy(b, s, y, t, s.argsort()), "started with the lowest score"),
        (lambda b, s, y, t: greedy(b, s, y, t, torch.arange(len(b))), "in the order of the list"),
        (lambda b, s, y, t: greedy(b, s, y, t).sort().values, "sorted by their place"),
        (lambda b, s, y, t: greedy(b, s, y, t - 1e-5), "exactly the threshold"),
        (lambda b, s, y, t: s[greedy(b, s, y, t)], "These are the scores"),
        (lambda b, s, y, t: b[greedy(b, s, y, t)], "These are the boxes"),
        (lambda b, s, y, t: torch.zeros(len(b)).index_fill(0, greedy(b, s, y, t), 1).bool(), "That is a mask"),
        (lambda b, s, y, t: greedy(b, s, y, 0.5), "Is 0.5 written into your function"),
        (lambda b, s, y, t: s.argsort(descending=True), "Nothing was deleted"),
        (class_by_class, "one class after the other"),
        (lambda *a: class_by_class(*a, kinds=[1, 2, 0]), "in another order"),
        (largest_first, "in another order"),
        (moved_apart, "You move the classes apart"),
        (torchvision.ops.batched_nms, "calls `batched_nms`"),
        (lambda b, s, y, t: torchvision.ops.nms(b + 1e4 * y[:, None], s, t), "calls `nms`"),
        (lambda b, s, y, t: nms(b + 1e4 * y[:, None], s, t), "calls `nms`"),
        (lambda b, s, y, t: torch.stack([*greedy(b, s, y, t)]), "With no boxes at all your code stopped"),
    ],
    "04.points": [
        (argmin_alone, "that is what argmin gives"),
        (largest, "you took the largest"),
        (first_found, "the first in the list"),
        (nearest, "You took the nearest centre, whether"),
        (without_edges, "Points on an edge are inside"),
        (lambda p, o: one_by_one(p.flip(1), o), "x with top and bottom"),
        (lambda p, o: one_by_one(p, cxcywh_to_xyxy(o)), "centre and size"),
        (held, "Choose one"),
        (minimum, "In an image without objects your code stopped"),
        (not_empty(minimum, lambda p, o: torch.zeros(len(p))), "answers for object 0, which is not there"),
        (not_empty(minimum, lambda p, o: torch.zeros(0)), "In an image without objects: The shape is"),
    ],
}

RIGHT = {
    "04.pixels": [
        column_by_column,
        lambda b, h, w: torchvision.ops.box_convert(b, "cxcywh", "xyxy") * torch.tensor([w, h, w, h]),
    ],
    "04.iou": [two_loops, lambda a, b: over_union(reach(a, b).relu().prod(-1), a, b), with_epsilon],
    "04.nms": [greedy, per_class, lambda b, s, y, t: greedy(b, s, y, t).tolist()],
    "04.points": [one_by_one, painter],
}
