"""What learners write for the exercises of notebook 08: wrong answers with what each is told, and right ones."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from detr_mini.boxes import cxcywh_to_xyxy, giou, iou, pairwise_giou
from detr_mini.losses import focal_loss

LOGS = [-math.log(p) for p in (0.5, 0.25, 0.8, 0.8, 0.1)]
PAID = sum(LOGS[:2]) + 0.1 * sum(LOGS[2:])


def filled(nothing_of, shift: int = 0):
    """A right_classes whose no-object number and whose labels may be off."""
    def right_classes(pairs: list, labels: Tensor, queries: int, classes: int) -> Tensor:
        right = torch.full((queries,), nothing_of(classes))
        for query, thing in pairs:
            right[query] = labels[thing] + shift
        return right
    return right_classes


def at_the_front(pairs: list, labels: Tensor, queries: int, classes: int) -> Tensor:
    """Labels first, no object after them."""
    return torch.cat([labels, torch.full((queries - len(labels),), classes)])


def in_list_order(pairs: list, labels: Tensor, queries: int, classes: int) -> Tensor:
    """right[queries] = labels."""
    right = torch.full((queries,), classes)
    right[[q for q, _ in pairs]] = labels
    return right


def by_list(pairs: list, labels: Tensor, queries: int, classes: int) -> list[int]:
    """Right, as a list."""
    owner = dict(pairs)
    return [int(labels[owner[q]]) if q in owner else classes for q in range(queries)]


def by_columns(pairs: list, labels: Tensor, queries: int, classes: int) -> Tensor:
    """Right while there is a pair: an empty list has no columns."""
    right, index = torch.full((queries,), classes), torch.tensor(pairs)
    right[index[:, 0].long()] = labels[index[:, 1].long()]
    return right


def by_index(pairs: list, labels: Tensor, queries: int, classes: int) -> Tensor:
    """Right: the way of the package."""
    right = torch.full((queries,), classes, dtype=torch.int64)
    index = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    right[index[:, 0]] = labels[index[:, 1]]
    return right


def gather(boxes: Tensor, wanted: Tensor, pairs: list) -> tuple[Tensor, Tensor]:
    """The boxes of the pairs."""
    return boxes[[q for q, _ in pairs]], wanted[[t for _, t in pairs]]


def losses(l1_of, far_of, divide=lambda pairs, count: count):
    """A box_losses of two parts, each of which may be wrong."""
    def box_losses(boxes: Tensor, wanted: Tensor, pairs: list, count: int) -> Tensor:
        mine, theirs = gather(boxes, wanted, pairs)
        return torch.stack([l1_of(mine, theirs), far_of(mine, theirs)]) / divide(pairs, count)
    return box_losses


def l1(mine: Tensor, theirs: Tensor) -> Tensor:
    """Right."""
    return (mine - theirs).abs().sum()


def far(mine: Tensor, theirs: Tensor) -> Tensor:
    """Right."""
    return (1 - giou(cxcywh_to_xyxy(mine), cxcywh_to_xyxy(theirs))).sum()


def list_order(boxes: Tensor, wanted: Tensor, pairs: list, count: int) -> Tensor:
    """The objects as they come."""
    mine = boxes[[q for q, _ in pairs]]
    return torch.stack([l1(mine, wanted), far(mine, wanted)]) / count


def one_by_one(boxes: Tensor, wanted: Tensor, pairs: list, count: int) -> tuple[float, float]:
    """Right: a loop, and two plain numbers."""
    total = [0.0, 0.0]
    for q, t in pairs:
        total[0] += sum(abs(a - b) for a, b in zip(boxes[q].tolist(), wanted[t].tolist(), strict=True))
        total[1] += 1 - giou(cxcywh_to_xyxy(boxes[q]), cxcywh_to_xyxy(wanted[t])).item()
    return total[0] / count, total[1] / count


def by_library(boxes: Tensor, wanted: Tensor, pairs: list, count: int) -> Tensor:
    """Right: torch's and torchvision's own."""
    mine, theirs = gather(boxes, wanted, pairs)
    apart = generalized_box_iou_loss(cxcywh_to_xyxy(mine), cxcywh_to_xyxy(theirs), reduction="sum", eps=0.0)
    return torch.stack([F.l1_loss(mine, theirs, reduction="sum"), apart]) / count


def diagonal(boxes: Tensor, wanted: Tensor, pairs: list, count: int) -> Tensor:
    """Right: all pairs, then the diagonal, as the authors' code does it."""
    mine, theirs = gather(boxes, wanted, pairs)
    apart = 1 - torch.diag(pairwise_giou(cxcywh_to_xyxy(mine), cxcywh_to_xyxy(theirs)))
    return torch.stack([l1(mine, theirs), apart.sum()]) / count


def parts(x: Tensor, yes: Tensor) -> tuple[Tensor, Tensor]:
    """p_t, and -log p_t."""
    p_t = torch.where(yes, x.sigmoid(), 1 - x.sigmoid())
    return p_t, F.binary_cross_entropy_with_logits(x, yes.to(x), reduction="none")


def weigh(alpha_of, power_of, reduce=torch.sum):
    """A safe_focal of three parts, each of which may be wrong."""
    def safe_focal(x: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
        p_t, ce = parts(x, yes)
        return reduce(alpha_of(yes, alpha) * power_of(p_t, gamma) * ce)
    return safe_focal


def alpha_t(yes: Tensor, alpha: float) -> Tensor:
    """Right."""
    return alpha * yes + (1 - alpha) * ~yes


def hard(p_t: Tensor, gamma: float) -> Tensor:
    """Right."""
    return (1 - p_t) ** gamma


def with_logarithms(x: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
    """Equation 5 to the letter: infinite for large logits."""
    p_t = parts(x, yes)[0]
    return -(alpha_t(yes, alpha) * (1 - p_t) ** gamma * p_t.log()).sum()


def one_minus_p(x: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
    """p_t forgotten in the factor."""
    return (alpha_t(yes, alpha) * (1 - x.sigmoid()) ** gamma * parts(x, yes)[1]).sum()


def only_yes(x: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
    """Negatives forgotten."""
    p_t, ce = parts(x, yes)
    return (alpha * hard(p_t, gamma) * ce)[yes].sum()


def per_object(x: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
    """Divided too early."""
    return weigh(alpha_t, hard)(x, yes, alpha, gamma) / yes.sum()


def softmaxed(x: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
    """One competition instead of many questions."""
    p_t = torch.where(yes, x.softmax(1), 1 - x.softmax(1))
    return (alpha_t(yes, alpha) * hard(p_t, gamma) * -p_t.log()).sum()


def torchvisions(x: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
    """The library's."""
    return sigmoid_focal_loss(x, yes.to(x), alpha, gamma, reduction="sum")


def in_two_groups(x: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
    """Right: yes and no apart."""
    a, b = x[yes], x[~yes]
    return alpha * (torch.sigmoid(-a) ** gamma * F.softplus(-a)).sum() + (
        (1 - alpha) * (torch.sigmoid(b) ** gamma * -F.logsigmoid(-b)).sum())


WRONG = {
    "08.pencil": [
        (PAID / 5, "the number of queries, 5"),
        (PAID / 2, "the number of objects, 2"),
        (PAID, "That is the weighted sum"),
        (sum(LOGS) / 5, "as much as an object"),
        (sum(LOGS[:2]) / 2, "left out the queries without"),
        (sum(LOGS) / 2.3, "in the denominator alone"),
        (PAID / 2.3 / math.log(10), "base 10"),
        (-PAID / 2.3, "The sign is missing"),
        ((0.1 * sum(LOGS[:2]) + sum(LOGS[2:])) / 3.2, "wrong way round"),
        ("1.02", "Numbers are wanted here"),
    ],
    "08.labels": [
        (filled(lambda classes: classes - 1), "that is the last real class"),
        (filled(lambda classes: classes + 1), "one too many"),
        (filled(lambda classes: 0), "a real class here"),
        (filled(lambda classes: -1), "knows no such class"),
        (filled(lambda classes: classes, shift=1), "one too high"),
        (at_the_front, "in the order of the objects, at the first queries"),
        (in_list_order, "the labels in the order of the list"),
        (lambda pairs, labels, queries, classes: labels, "The shape is"),
        (lambda pairs, labels, queries, classes: classes[pairs], "Your code stopped"),
        (by_columns, "In an image without objects your code stopped: IndexError"),
    ],
    "08.boxes": [
        (losses(l1, lambda a, b: (1 - giou(a, b)).sum()), "took them for corners"),
        (losses(lambda a, b: l1(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)), far), "compares corners"),
        (losses(l1, far, lambda pairs, count: len(pairs)), "number of pairs of this image"),
        (losses(lambda a, b: (a - b).abs().mean(1).sum(), far), "the mean of the four differences"),
        (lambda b, w, pairs, n: torch.stack([F.l1_loss(*gather(b, w, pairs)), far(*gather(b, w, pairs)) / n]),
         "the mean over pairs and coordinates"),
        (losses(l1, far, lambda pairs, count: 1), "These are the sums"),
        (losses(l1, lambda a, b: giou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)).sum()), "GIoU itself"),
        (losses(l1, lambda a, b: (1 - iou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b))).sum()), "is 1 - IoU"),
        (losses(lambda a, b: 5 * l1(a, b), lambda a, b: 2 * far(a, b)), "The weights 5 and 2"),
        (list_order, "in the order of the list"),
        (losses(far, l1), "The two numbers are swapped"),
        (losses(l1, lambda a, b: 1 - giou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)).sum()), "only once, after the sum"),
        (lambda b, w, pairs, n: one_by_one(b, w, pairs, n) if pairs else (math.nan, math.nan), "a mean of nothing"),
        (lambda b, w, pairs, n: (b - w).abs().sum(), "Your code stopped"),
        (lambda b, w, pairs, n: diagonal(b, w[torch.tensor(pairs)[:, 1].argsort().argsort() * 0 + torch.arange(len(w))],
                                         pairs, n), "In an image without objects your code stopped"),
    ],
    "08.focal": [
        (weigh(lambda yes, alpha: alpha, hard), "the same for yes and no"),
        (weigh(lambda yes, alpha: alpha_t(~yes, alpha), hard), "alpha is the wrong way round"),
        (weigh(lambda yes, alpha: 1.0, hard), "alpha is missing"),
        (weigh(alpha_t, lambda p_t, gamma: 1.0), "weighted cross-entropy"),
        (weigh(alpha_t, lambda p_t, gamma: p_t**gamma), "You turn down the hard answers"),
        (one_minus_p, "for no as well"),
        (only_yes, "Only yes is counted"),
        (weigh(alpha_t, hard, torch.mean), "the mean over all answers"),
        (per_object, "by the number of yes already"),
        (lambda x, yes, a, g: -in_two_groups(x, yes, a, g), "The sign is missing"),
        (torchvisions, "calls `sigmoid_focal_loss`"),
        (lambda x, yes, a, g: focal_loss(x[None, None], (0 * yes.nonzero()[:, 0], 0 * yes.nonzero()[:, 0],
                                                         *yes.nonzero().T), a, g)[0], "calls `focal_loss`"),
        (lambda x, yes, a, g: in_two_groups(x, yes, a, g) * yes.any(), "Every no counts all the same"),
        (lambda x, yes, a, g: in_two_groups(x, yes, a, g) + 0 / yes.sum(), "In an image without objects"),
        (softmaxed, "Softmax makes the classes compete"),
        (weigh(alpha_t, hard, lambda each: each), "each answer's loss"),
        (with_logarithms, "Right for small logits"),
    ],
}

RIGHT = {
    "08.pencil": [PAID / 2.3, round(PAID / 2.3, 2), torch.tensor(PAID / 2.3)],
    "08.labels": [by_list, by_index],
    "08.boxes": [one_by_one, by_library, diagonal],
    "08.focal": [weigh(alpha_t, hard), in_two_groups],
}
