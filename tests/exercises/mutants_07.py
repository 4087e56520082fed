"""What learners write for the exercises of notebook 07: wrong answers with what each is told, and right ones."""

from itertools import permutations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, giou, pairwise_giou, pairwise_iou
from detr_mini.matching import HungarianMatcher
from detr_mini.recipes import LossRecipe


def corners(boxes: Tensor) -> Tensor:
    """Short name."""
    return cxcywh_to_xyxy(boxes)


def l1(boxes: Tensor, wanted: Tensor) -> Tensor:
    """(Q, M)."""
    return (boxes[:, None] - wanted).abs().sum(-1)


def fit(boxes: Tensor, wanted: Tensor) -> Tensor:
    """(Q, M)."""
    return pairwise_giou(corners(boxes), corners(wanted))


def rest(b: Tensor, w: Tensor) -> Tensor:
    """The two box terms, right."""
    return 5 * l1(b, w) - 2 * fit(b, w)


def by_package(logits: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """The matcher's own method."""
    matcher = HungarianMatcher(LossRecipe(), "softmax")
    return matcher.costs(logits[None, None], boxes[None, None], labels[None], wanted[None])[0, 0]


def in_loops(logits: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """Right: one pair after the other."""
    cost = torch.zeros(len(boxes), len(wanted))
    for q, box in enumerate(boxes):
        chances = torch.exp(logits[q]) / torch.exp(logits[q]).sum()
        for t, (label, thing) in enumerate(zip(labels, wanted, strict=True)):
            cost[q, t] = -chances[label] + 5 * (box - thing).abs().sum() - 2 * giou(corners(box), corners(thing))
    return cost


def greedy(cost: Tensor) -> list[tuple[int, int]]:
    """The cheapest first, by a sorted list of all pairs."""
    pairs, rows, columns = [], set(), set()
    for flat in cost.flatten().argsort().tolist():
        q, t = divmod(flat, cost.shape[1])
        if q not in rows and t not in columns:
            pairs.append((q, t))
            rows.add(q)
            columns.add(t)
    return pairs


def in_turn(cost: Tensor) -> list[tuple[int, int]]:
    """Objects choose in order."""
    pairs, free = [], set(range(cost.shape[0]))
    for t in range(min(cost.shape)):
        q = min(free, key=lambda query: cost[query, t])
        pairs.append((q, t))
        free.remove(q)
    return pairs


def first_queries_only(cost: Tensor) -> list[tuple[int, int]]:
    """permutations(range(objects)) forgets the queries beyond."""
    n = min(cost.shape)
    best = min(permutations(range(n)), key=lambda c: sum(cost[q, t].item() for t, q in enumerate(c)))
    return [(q, t) for t, q in enumerate(best)]


def first_objects_only(cost: Tensor) -> list[tuple[int, int]]:
    """Where objects are more, the last ones are forgotten."""
    return recursive(cost[:, : cost.shape[0]])


def scipy(cost: Tensor) -> list[tuple[int, int]]:
    """The tool itself."""
    return [(int(q), int(t)) for q, t in zip(*linear_sum_assignment(cost), strict=True)]


def recursive(cost: Tensor, taken: frozenset = frozenset(), thing: int = 0) -> list[tuple[int, int]]:
    """Right: for each object try all free queries and let the rest be solved in the same way."""
    if cost.shape[0] < cost.shape[1]:
        return [(q, t) for t, q in recursive(cost.T)]
    if thing == cost.shape[1]:
        return []
    free = [q for q in range(cost.shape[0]) if q not in taken]
    tries = [[(q, thing), *recursive(cost, taken | {q}, thing + 1)] for q in free]
    return min(tries, key=lambda pairs: sum(float(cost[pair]) for pair in pairs))


def owners(cost: Tensor) -> Tensor:
    """The query of each object, (M,)."""
    return torch.tensor([q for q, _ in sorted(scipy(cost), key=lambda pair: pair[1])])


def price(cost: Tensor) -> float:
    """The least total."""
    return float(sum(cost[pair] for pair in scipy(cost)))


def barred(cost: Tensor, whole: bool = False) -> Tensor:
    """New totals, (M,)."""
    totals = []
    for t, q in enumerate(owners(cost).tolist()):
        other = cost.clone()
        other[q, slice(None) if whole else t] = 1e5
        totals.append(price(other))
    return torch.tensor(totals, dtype=torch.float64)


def next_free(cost: Tensor) -> Tensor:
    """Only queries that serve nobody."""
    mine, free = owners(cost), [q for q in range(cost.shape[0]) if q not in owners(cost)]
    return cost[free].min(0).values - cost[mine, torch.arange(cost.shape[1])]


def next_best(cost: Tensor) -> Tensor:
    """The best other query of the column, free or not."""
    mine = owners(cost)
    gaps = [torch.cat([cost[:q, t], cost[q + 1:, t]]).min() - cost[q, t] for t, q in enumerate(mine.tolist())]
    return torch.stack(gaps)


def by_enumeration(cost: Tensor) -> Tensor:
    """Right: all matchings in one list; the best without a pair against the best."""
    q, m = cost.shape
    every = [(sum(cost[c, t].item() for t, c in enumerate(chosen)), chosen) for chosen in permutations(range(q), m)]
    least, best = min(every)
    return torch.tensor([min(paid for paid, c in every if c[t] != best[t]) - least for t in range(m)])


def by_numpy(cost: Tensor) -> np.ndarray:
    """Right: infinite costs, as NumPy."""
    extra = []
    for t, q in enumerate(owners(cost).tolist()):
        other = cost.numpy().copy()
        other[q, t] = np.inf
        extra.append(other[linear_sum_assignment(other)].sum() - price(cost))
    return np.array(extra)


WRONG = {
    "07.by_hand": [
        ([0, 2, 3], "That is greedy"),
        ([0, 0, 3], "Prediction 0 has two objects"),
        ([1, 0, None, 2], "Numbers are wanted here"),
        ([1, 0, -1, 2], "an object for each prediction"),
        ([5, 9, 3], "Are these costs?"),
        ([2, 1, 4], "counted from 1"),
        ([2, 2, 3], "These are the costs of the right pairs"),
        ([1, 2, 3], "a smaller one exists"),
        (7, "Wanted are three numbers"),
    ],
    "07.cost": [
        (lambda z, b, c, w: z.softmax(-1)[:, c] + rest(b, w), "The probability is added"),
        (lambda z, b, c, w: -z.softmax(-1)[:, c] + 5 * l1(b, w) + 2 * fit(b, w), "GIoU is added"),
        (lambda z, b, c, w: -z.log_softmax(-1)[:, c] + rest(b, w), "The class term is the loss"),
        (lambda z, b, c, w: 1 - z.softmax(-1)[:, c] + rest(b, w), "all 1 too high"),
        (lambda z, b, c, w: -z.softmax(-1)[:, c] + rest(b, w) + 2, "all 2 too high"),
        (lambda z, b, c, w: -z[:, c] + rest(b, w), "not probabilities yet"),
        (lambda z, b, c, w: -z.sigmoid()[:, c] + rest(b, w), "Sigmoid belongs to focal heads"),
        (lambda z, b, c, w: -z[:, :-1].softmax(-1)[:, c] + rest(b, w), "leaves out no object"),
        (lambda z, b, c, w: -z.softmax(0)[:, c] + rest(b, w), "runs over the queries"),
        (lambda z, b, c, w: -z.softmax(-1)[:, c] + 5 * l1(b, w) - 2 * pairwise_giou(b, w), "took them for corners"),
        (lambda z, b, c, w: -z.softmax(-1)[:, c] + 5 * l1(corners(b), corners(w)) - 2 * fit(b, w), "compares corners"),
        (lambda z, b, c, w: -z.softmax(-1)[:, c] + 5 * (b[:, None] - w).abs().mean(-1) - 2 * fit(b, w), "is the mean"),
        (lambda z, b, c, w: -z.softmax(-1)[:, c] + 5 * torch.cdist(b, w) - 2 * fit(b, w), "Euclidean"),
        (lambda z, b, c, w: -z.softmax(-1)[:, c] + 5 * l1(b, w) - 2 * pairwise_iou(corners(b), corners(w)),
         "That is IoU"),
        (lambda z, b, c, w: -z.softmax(-1)[:, c] + l1(b, w) - fit(b, w), "weights are missing"),
        (lambda z, b, c, w: -z.softmax(-1)[:, c] + 2 * l1(b, w) - 5 * fit(b, w), "are swapped"),
        (lambda z, b, c, w: in_loops(z, b, c, w).T, "The columns are predictions"),
        (lambda z, b, c, w: (b - w).abs().sum(-1), "Your code stopped"),
        (by_package, "calls `costs`"),
        (lambda z, b, c, w: torch.stack([in_loops(z, b, c[[t]], w[[t]])[:, 0] for t in range(len(w))], 1),
         "In an image without objects your code stopped"),
    ],
    "07.brute": [
        (greedy, "That is greedy"),
        (in_turn, "Each object in turn"),
        (lambda cost: recursive(-cost), "the dearest matching"),
        (scipy, "calls `linear_sum_assignment`"),
        (lambda cost: recursive(cost) if cost.numel() else [(int(cost[0].argmin()), 0)],
         "In an image without objects your code stopped"),
        (first_queries_only, "takes the first ones only. All of them may be"),
        (first_objects_only, "Which objects go"),
        (lambda cost: [(int(cost[:, t].argmin()), t) for t in range(cost.shape[1])], "is in two pairs"),
        (lambda cost: [(t, q) for q, t in recursive(cost)], "The query comes first"),
        (lambda cost: recursive(cost)[:-1], "are possible"),
        (lambda cost: cost.min(), "A list of pairs"),
    ],
    "07.margin": [
        (next_best, "the next best query of each object"),
        (next_free, "the best query among the free ones"),
        (lambda cost: cost.sort(0).values[1] - cost.sort(0).values[0], "the two cheapest queries"),
        (lambda cost: barred(cost, whole=True) - price(cost), "barred the whole query"),
        (barred, "These are the new totals"),
        (lambda cost: price(cost) - barred(cost), "The sign is the wrong way round"),
        (lambda cost: cost[owners(cost), torch.arange(cost.shape[1])], "the costs of the pairs themselves"),
        (lambda cost: barred(cost) - price(cost) + (cost[:, 0].unique().numel() < 3 or cost[1, 0] == 2),
         "Where two matchings cost the same: Not yet"),
        (lambda cost: torch.stack([*(barred(cost) - price(cost))]), "In an image without objects your code stopped"),
        (lambda cost: (barred(cost) - price(cost))[owners(cost).argsort()], "in the order of the queries"),
    ],
}

RIGHT = {
    "07.by_hand": [[1, 0, 3], torch.tensor([1, 0, 3]), (1.0, 0.0, 3.0)],
    "07.cost": [in_loops, lambda z, b, c, w: -z.softmax(-1)[:, c] + rest(b, w)],
    "07.brute": [recursive, lambda cost: torch.tensor(recursive(cost)).reshape(-1, 2)],
    "07.margin": [by_enumeration, by_numpy],
}
