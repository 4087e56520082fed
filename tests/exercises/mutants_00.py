"""What learners write for the exercises of notebook 00: wrong answers with what each is told, and right ones."""

from itertools import permutations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def rows(boxes: Tensor) -> list[tuple[float, ...]]:
    """Boxes as tuples."""
    return [tuple(box) for box in boxes.tolist()]


def by_left_edge(boxes: Tensor) -> Tensor:
    """Sorted by one of the four numbers."""
    return boxes[boxes[:, 0].argsort(stable=True)]


def in_order(boxes: Tensor) -> list[Tensor]:
    """Sorted by all four."""
    return sorted(boxes, key=lambda box: box.tolist())


def by_one_number(first: Tensor, second: Tensor) -> bool:
    """Each box as one large number, in a base that no coordinate reaches; there is no base for no boxes."""
    if len(first) != len(second):
        return False
    places = (torch.cat([first, second]).max().double() + 1) ** torch.arange(4)
    return torch.equal((first.double() @ places).sort().values, (second.double() @ places).sort().values)


def in_every_order(first: Tensor, second: Tensor) -> list[Tensor]:
    """Absolute differences, one tensor per order."""
    return [(first - second[list(order)]).abs() for order in permutations(range(len(first)))]


def nearest_that_is_free(first: Tensor, second: Tensor) -> float:
    """Greedy, from the top."""
    free, total = list(range(len(second))), 0.0
    for box in first:
        best = min(free, key=lambda index: float((box - second[index]).abs().sum()))
        free.remove(best)
        total += float((box - second[best]).abs().sum())
    return total / first.numel()


def by_hungarian(first: Tensor, second: Tensor) -> float:
    """Right, and fast."""
    cost = torch.cdist(first, second, p=1) / 4
    row, column = linear_sum_assignment(cost)
    return float(cost[row, column].mean())


def crossing_out(first: Tensor, second: Tensor) -> bool:
    """Right: each box is struck from the other list."""
    left = rows(second)
    for box in rows(first):
        if box not in left:
            return False
        left.remove(box)
    return not left


WRONG = {
    "00.largest": [
        (lambda boxes: boxes[:, 2].argmax(), "the widest one"),
        (lambda boxes: boxes[:, 3].argmax(), "the tallest one"),
        (lambda boxes: (boxes[:, 2] + boxes[:, 3]).argmax(), "largest width + height"),
        (lambda boxes: ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argmax(), "right and bottom"),
        (lambda boxes: (boxes[:, 2] * boxes[:, 3]).max(), "the area of the largest box"),
        (lambda boxes: boxes[(boxes[:, 2] * boxes[:, 3]).argmax()], "the largest box itself"),
        (lambda boxes: boxes[:, 2] * boxes[:, 3], "all the areas"),
        (lambda boxes: (boxes[:, 2] * boxes[:, 3]).argmax() + 1, "counted from 1"),
        (lambda boxes: 1, "written into your function"),
        (lambda boxes: boxes[4].prod(0, 1), "Your code stopped: TypeError"),
        (lambda boxes: "box 1", "Numbers are wanted here, and this is str"),
    ],
    "00.same": [
        (torch.equal, "row by row"),
        (lambda a, b: True, "the third one is not"),
        (lambda a, b: torch.equal(a.sort(0).values, b.sort(0).values), "put together to other boxes"),
        (lambda a, b: torch.equal(a.flatten().sort().values, b.flatten().sort().values), "put together to other boxes"),
        (lambda a, b: all(box in rows(a) for box in rows(b)), "The second list lacks a box"),
        (lambda a, b: all(box in rows(b) for box in rows(a)), "a box too many"),
        (lambda a, b: set(rows(a)) == set(rows(b)), "forgets how often"),
        (lambda a, b: (a == b).all(), "row by row"),
        (lambda a, b: a.sort(0).values == b.sort(0).values, "The shape is (3, 4)"),
        (lambda a, b: torch.equal(by_left_edge(a), by_left_edge(b)), "tie in the left edge"),
        (lambda a, b: torch.equal(a.sum(1).sort().values, b.sum(1).sort().values), "in a sum or a product"),
        (lambda a, b: torch.equal(a.prod(1).sort().values, b.prod(1).sort().values), "in a sum or a product"),
        (lambda a, b: all(torch.equal(x, y) for x, y in zip(in_order(a), in_order(b), strict=False)), "no box at all"),
        (lambda a, b: bool((torch.stack(in_order(a)) == torch.stack(in_order(b))).all()),
         "With lists of 3 and 2 boxes your code stopped"),
        (by_one_number, "With no boxes at all in a list your code stopped"),
        (lambda a, b: len(a) > 0 and sorted(rows(a)) == sorted(rows(b)), "namely none"),
        (lambda a, b: len(a) == 0 or sorted(rows(a)) == sorted(rows(b)), "has no box at all and the second one has"),
    ],
    "00.distance": [
        (lambda a, b: (a - b).abs().mean(), "in the order in which the lists come"),
        (lambda a, b: (a[:, None] - b).abs().mean(-1).amin(1).mean(), "took the same one"),
        (nearest_that_is_free, "can spoil a later one"),
        (lambda a, b: (a[a[:, 0].argsort()] - b[b[:, 0].argsort()]).abs().mean(), "sorted both lists"),
        (lambda a, b: min((a - b.roll(n, 0)).abs().mean() for n in range(len(a))), "moved the list round"),
        (lambda a, b: min(far.sum() for far in in_every_order(a, b)), "You added up"),
        (lambda a, b: min((far**2).mean() for far in in_every_order(a, b)), "mean of the squares"),
        (lambda a, b: sum(far.mean() for far in in_every_order(a, b)) / len(in_every_order(a, b)), "over all orders"),
        (lambda a, b: max(far.mean() for far in in_every_order(a, b)), "the largest over all orders"),
        (lambda a, b: list(min(permutations(range(len(a))), key=lambda o: float((a - b[list(o)]).abs().sum()))),
         "That is the best order"),
    ],
}


def in_a_loop(boxes: torch.Tensor) -> int:
    """Without a tensor's methods."""
    best, place = -1.0, 0
    for index, (_, _, width, height) in enumerate(boxes.tolist()):
        if width * height > best:
            best, place = width * height, index
    return place


RIGHT = {
    "00.largest": [lambda boxes: boxes[:, 2:].prod(dim=1).argmax(), in_a_loop],
    "00.same": [crossing_out, lambda a, b: len(a) == len(b) and sorted(rows(a)) == sorted(rows(b))],
    "00.distance": [by_hungarian, lambda a, b: torch.stack(in_every_order(a, b)).mean((1, 2)).min()],
}
