"""What learners write for the exercises of notebook 06: wrong answers with what each is told, and right ones."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def scores_of(content: Tensor, address: Tensor, memory: Tensor, position: Tensor) -> Tensor:
    """The scaled scores, (Q, N)."""
    return (content + address) @ (memory + position).T / content.shape[-1] ** 0.5


def loop(overlap: Tensor, demand: float) -> int:
    """Right, one detection after another."""
    taken, count = set(), 0
    for row in overlap.tolist():
        best = row.index(max(row))
        if row[best] >= demand:
            count += best in taken
            taken.add(best)
    return count


def early(overlap: Tensor, demand: float) -> int:
    """A thing counts as found by a box that hardly touches it."""
    taken, count = set(), 0
    for row in overlap:
        best = row.argmax().item()
        count += best in taken and bool(row[best] >= demand)
        taken.add(best)
    return count


def by_columns(overlap: Tensor, demand: float) -> int:
    """Right: hits per thing, less the first one of each."""
    if not overlap.numel():
        return 0
    hits = F.one_hot(overlap.argmax(1), overlap.shape[1])[overlap.amax(1) >= demand].sum(0)
    return int((hits - 1).clamp(min=0).sum())


def second_choice(overlap: Tensor, demand: float) -> int:
    """A box whose thing is taken gets its next one."""
    taken, count = set(), 0
    for row in overlap.tolist():
        good = [i for i, value in enumerate(row) if value >= demand]
        free = [i for i in good if i not in taken]
        if free:
            taken.add(max(free, key=lambda i: row[i]))
        elif good:
            count += 1
    return count


def block(groups: int, size: int) -> Tensor:
    """Right: blocks along the diagonal."""
    bias = torch.full((groups * size, groups * size), -math.inf)
    for start in range(0, groups * size, size):
        bias[start: start + size, start: start + size] = 0
    return bias


def by_product(groups: int, size: int) -> Tensor:
    """Right: the logarithm of a Kronecker product of 0 and 1."""
    return torch.kron(torch.eye(groups), torch.ones(size, size)).log()


WRONG = {
    "06.first": [
        (lambda wv, bv, wo, bo: torch.zeros(3), "Nothing comes in"),
        (lambda wv, bv, wo, bo: bv, "value of each query"),
        (lambda wv, bv, wo, bo: wo @ bv, "has a bias, too"),
        (lambda wv, bv, wo, bo: bo, "values are not zero"),
        (lambda wv, bv, wo, bo: bv @ wo + bo, "the wrong way round"),
        (lambda wv, bv, wo, bo: wo @ (wv @ bv) + bo, "nothing to work on"),
        (lambda wv, bv, wo, bo: wo @ (torch.zeros(4, 4).softmax(-1) @ bv.expand(4, 3))[0] + bo, "calls `softmax`"),
        (lambda wv, bv, wo, bo: wo @ F.scaled_dot_product_attention(*[bv.expand(4, 3)] * 3)[0] + bo,
         "calls `scaled_dot_product_attention`"),
    ],
    "06.cross": [
        (lambda c, a, m, p: scores_of(c, a, m, p).T.softmax(-1) @ c, "The image asks"),
        (lambda c, a, m, p: scores_of(c, a, m, p).softmax(0) @ m, "over the queries"),
        (lambda c, a, m, p: scores_of(c, a, m, p).softmax(-1) @ (m + p), "in the values"),
        (lambda c, a, m, p: scores_of(c, 0 * a, m, p).softmax(-1) @ m, "no address"),
        (lambda c, a, m, p: scores_of(0 * c, a, m, p).softmax(-1) @ m, "address alone"),
        (lambda c, a, m, p: scores_of(c, a, m, 0 * p).softmax(-1) @ m, "keys have no position"),
        (lambda c, a, m, p: scores_of(c, 0 * a, m, 0 * p).softmax(-1) @ m, "are nowhere"),
        (lambda c, a, m, p: (2 * scores_of(c, a, m, p)).softmax(-1) @ m, "left out the scaling"),
        (lambda c, a, m, p: scores_of(c, a, m, p).softmax(-1), "These are the weights"),
        (lambda c, a, m, p: c + scores_of(c, a, m, p).softmax(-1) @ m, "added the residual"),
    ],
    "06.repeats": [
        (lambda o, d: len(o) - o.shape[1], "beyond the number of things"),
        (lambda o, d: int((o.amax(1) >= d).sum()), "The first one on each"),
        (lambda o, d: loop(o, d + 1e-6), "is a hit: use >="),
        (second_choice, "second choice"),
        (lambda o, d: len(o) - len(set(o.argmax(1)[o.amax(1) >= d].tolist())), "loose boxes, too"),
        (lambda o, d: int((o >= d).sum() - (o >= d).any(0).sum()), "once for each thing"),
        (lambda o, d: loop(o, 0.5), "written into your function"),
        (early, "has not found it"),
        (loop, "In an image without things your code stopped: ValueError"),
        (lambda o, d: loop(o, d) if o.numel() else len(o), "all boxes are loose"),
        (lambda o, d: loop(o, d) if o.shape[1] and len(o) else int(o.argmax()) if len(o) == 0 else 0,
         "Where nothing is detected your code stopped"),
    ],
    "06.rooms": [
        (lambda g, s: (block(g, s) == 0).float(), "These are 0 and 1"),
        (lambda g, s: torch.zeros(g * s, g * s).masked_fill(block(g, s) == 0, -math.inf), "upside down"),
        (lambda g, s: block(g * s, 1), "alone in its room"),
        (lambda g, s: block(s, g), "swapped the two numbers"),
        (lambda g, s: torch.kron(torch.ones(s, s), torch.eye(g)).log(), "mixed up"),
        (lambda g, s: torch.zeros(g * s, g * s), "nothing is separated"),
        (lambda g, s: block(g, s).fill_diagonal_(-math.inf), "do not see themselves"),
        (lambda g, s: block(g, s).clamp(min=-1e9), "You hide with -1e+09"),
        (lambda g, s: block(g, s).clamp(min=-1), "You hide with -1."),
        (lambda g, s: (block(g, s) != 0).float() * -math.inf, "0 times minus infinity"),
        (lambda g, s: block(g, s) != 0, "These are 0 and 1"),
        (lambda g, s: torch.zeros(s, s), "The shape is"),
    ],
}

RIGHT = {
    "06.first": [
        lambda wv, bv, wo, bo: F.linear(bv, wo, bo),
        lambda wv, bv, wo, bo: F.linear(F.linear(torch.zeros(5, 3), wv, bv).mean(0), wo, bo),
    ],
    "06.cross": [
        lambda c, a, m, p: F.scaled_dot_product_attention(c + a, m + p, m),
        lambda c, a, m, p: torch.stack([row.softmax(0) @ m for row in scores_of(c, a, m, p)]),
    ],
    "06.repeats": [lambda o, d: loop(o, d) if o.shape[1] else 0, by_columns],
    "06.rooms": [block, by_product],
}
