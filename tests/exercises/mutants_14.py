"""What learners write for the exercises of notebook 14: wrong answers with what each is told, and right ones."""

import math

import torch
from torch import Tensor

from detr_mini.positions import sine

# ---------------------------------------------------------------- 14.joined


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(N, d) -> (heads, N, d/heads)."""
    return x.view(len(x), heads, -1).permute(1, 0, 2)


def two_products(c: Tensor, p: Tensor, m: Tensor, s: Tensor, heads: int) -> Tensor:
    """Right: the sum of two products."""
    c, p, m, s = (heads_of(x, heads) for x in (c, p, m, s))
    return (c @ m.mT + p @ s.mT) / math.sqrt(2 * c.shape[-1])


def head_by_head(c: Tensor, p: Tensor, m: Tensor, s: Tensor, heads: int) -> Tensor:
    """Right: a loop over heads, and a list of them joined."""
    pieces = zip(*(x.chunk(heads, dim=1) for x in (c, p, m, s)), strict=True)
    return torch.stack([torch.hstack([a, b]) @ torch.hstack([x, y]).T / (2 * a.shape[1]) ** 0.5
                        for a, b, x, y in pieces])


def joined_first(c: Tensor, p: Tensor, m: Tensor, s: Tensor, heads: int) -> Tensor:
    """Heads of content, then heads of position."""
    q, k = heads_of(torch.cat([c, p], 1), heads), heads_of(torch.cat([m, s], 1), heads)
    return q @ k.mT / q.shape[-1] ** 0.5


def cut_in_rows(c: Tensor, p: Tensor, m: Tensor, s: Tensor, heads: int) -> Tensor:
    """Viewed as (heads, N, d/heads) at once."""
    c, p, m, s = (x.reshape(heads, len(x), -1) for x in (c, p, m, s))
    return torch.cat([c, p], -1) @ torch.cat([m, s], -1).mT / (2 * c.shape[-1]) ** 0.5


def as_detr(c: Tensor, p: Tensor, m: Tensor, s: Tensor, heads: int) -> Tensor:
    """Added."""
    q, k = heads_of(c + p, heads), heads_of(m + s, heads)
    return q @ k.mT / q.shape[-1] ** 0.5


# ---------------------------------------------------------------- 14.look


def separately(boxes: Tensor, expected: Tensor, cells: Tensor) -> Tensor:
    """Right: y and x each by itself."""
    half = cells.shape[-1] // 2
    y = torch.einsum("hwd,qd->qhw", cells[..., :half], sine(boxes[:, 1:2], half))
    x = torch.einsum("hwd,qd->qhw", cells[..., half:], sine(boxes[:, :1], half))
    x, y = x * (expected[:, 0] / boxes[:, 2])[:, None, None], y * (expected[:, 1] / boxes[:, 3])[:, None, None]
    return ((x + y) / (2 * half) ** 0.5).flatten(1).softmax(1).view_as(x)


def looks(boxes: Tensor, expected: Tensor, cells: Tensor, factor: Tensor, order: tuple = (1, 0), root: float = 0.0,
          temperature: float = 10000.0) -> Tensor:
    """A map (Q, h, w) from some factor (Q, d) and the rest as it should be, or not."""
    height, width, d = cells.shape
    scores = (sine(boxes[:, order], d // 2, temperature) * factor) @ cells.flatten(0, 1).T / (root or d**0.5)
    return scores.softmax(-1).view(-1, height, width)


def factors(first: Tensor, second: Tensor, d: int = 16) -> Tensor:
    """(Q,) twice -> (Q, d)."""
    return torch.cat([first[:, None].expand(-1, d // 2), second[:, None].expand(-1, d // 2)], dim=-1)


def good(boxes: Tensor, expected: Tensor) -> Tensor:
    """h_ref / h, then w_ref / w."""
    return factors(expected[:, 1] / boxes[:, 3], expected[:, 0] / boxes[:, 2])


def row_wise(boxes: Tensor, expected: Tensor, cells: Tensor) -> Tensor:
    """A softmax per row."""
    code = sine(boxes[:, [1, 0]], 8) * good(boxes, expected)
    return torch.einsum("hwd,qd->qhw", cells, code).div(4).softmax(-1)


def scores_only(boxes: Tensor, expected: Tensor, cells: Tensor) -> Tensor:
    """No softmax."""
    return torch.einsum("hwd,qd->qhw", cells, sine(boxes[:, [1, 0]], 8) * good(boxes, expected)) / 4


# ---------------------------------------------------------------- 14.score


def whole(content, memory, boxes, expected, scale, cells, m, *, t=True, factor=good, order=(1, 0), root=32.0,
          temperature=10000.0):
    """A score from these parts."""
    place = sine(boxes[:, order], 8, temperature) * factor(boxes, expected)
    place = place * scale if t else place
    parts = (content @ m["query"].T) @ (memory @ m["key"].T).T, (place @ m["place"].T) @ (cells @ m["key_position"].T).T
    return (parts[0] + parts[1]) / root**0.5


def by_joining(content, memory, boxes, expected, scale, cells, m):
    """Right: joined vectors."""
    place = sine(boxes[:, [1, 0]], 8) * good(boxes, expected) * scale
    q = torch.cat([torch.nn.functional.linear(content, m["query"]), torch.nn.functional.linear(place, m["place"])], 1)
    k = torch.cat([memory @ m["key"].T, cells @ m["key_position"].T], 1)
    return q @ k.T / math.sqrt(q.shape[1])


def modulated_late(content, memory, boxes, expected, scale, cells, m):
    """After the projection."""
    place = (sine(boxes[:, [1, 0]], 8) * scale) @ m["place"].T * good(boxes, expected)
    return ((content @ m["query"].T) @ (memory @ m["key"].T).T + place @ (cells @ m["key_position"].T).T) / 32**0.5


def scaled_late(content, memory, boxes, expected, scale, cells, m):
    """T after the projection."""
    place = (sine(boxes[:, [1, 0]], 8) * good(boxes, expected)) @ m["place"].T * scale
    return ((content @ m["query"].T) @ (memory @ m["key"].T).T + place @ (cells @ m["key_position"].T).T) / 32**0.5


def added(content, memory, boxes, expected, scale, cells, m):
    """DETR's sum."""
    place = sine(boxes[:, [1, 0]], 8) * good(boxes, expected) * scale
    q, k = content @ m["query"].T + place @ m["place"].T, memory @ m["key"].T + cells @ m["key_position"].T
    return q @ k.T / 4


def position_only(content, memory, boxes, expected, scale, cells, m):
    """Half of it."""
    return by_joining(torch.zeros_like(content), memory, boxes, expected, scale, cells, m)


def turned(*given):
    """x @ matrix."""
    return by_joining(*given[:-1], {name: matrix.T for name, matrix in given[-1].items()})


def inverse(boxes: Tensor, expected: Tensor) -> Tensor:
    """w / w_ref."""
    return 1 / good(boxes, expected)


def swapped(boxes: Tensor, expected: Tensor) -> Tensor:
    """Width for y."""
    return good(boxes, expected).roll(8, -1)


def ones(boxes: Tensor, expected: Tensor) -> Tensor:
    """No modulation."""
    return torch.ones(len(boxes), 16)


WRONG = {
    "14.joined": [
        (joined_first, "split into heads afterwards"),
        (as_detr, "That is DETR's score"),
        (lambda *g: as_detr(*g) / 2**0.5, "as DETR does: that has four terms"),
        (lambda *g: two_products(*g) * 4**0.5, "The scaling is missing"),
        (lambda *g: two_products(*g) * 2**0.5, "root of d / heads"),
        (lambda *g: two_products(*g) / g[-1] ** 0.5, "root of 2 d."),
        (lambda *g: two_products(*g) * (2 / g[-1]) ** 0.5, "root of d."),
        (lambda c, p, m, s, h: two_products(c, p, s, m, h), "joined in the other order"),
        (lambda *g: two_products(*g).softmax(-1), "softmax already"),
        (lambda *g: two_products(*g).sum(0), "heads are added up"),
        (lambda c, p, m, s, h: two_products(c, p, m, s, 4), "still has four"),
        (cut_in_rows, "as they follow one another"),
        (lambda c, p, m, s, h: two_products(c, p, m, s, 1)[0], "one map for all heads"),
        (lambda c, p, m, s, h: two_products(m, s, c, p, h), "queries and keys have changed places"),
    ],
    "14.look": [
        (lambda b, e, c: looks(b, e, c, inverse(b, e)), "turned the fraction round"),
        (lambda b, e, c: looks(b, e, c, swapped(b, e)), "changed places"),
        (lambda b, e, c: looks(b, e, c, good(b, e), (0, 1)), "coded x before y. In"),
        (lambda b, e, c: looks(b, e, c, swapped(b, e), (0, 1)), "scaled in that order, too"),
        (lambda b, e, c: looks(b, e, c, ones(b, e)), "Conditional DETR's map"),
        (lambda b, e, c: looks(b, e, c, good(b, torch.ones_like(e))), "forgot w_ref and h_ref"),
        (lambda b, e, c: looks(b, e, c, (e.prod(1) / b[:, 2:].prod(1))[:, None]), "by the area"),
        (lambda b, e, c: looks(b, e, c, good(b, e), root=1.0), "root of d is missing"),
        (lambda b, e, c: looks(b, e, c, good(b, e), root=16.0), "You divided by d."),
        (lambda b, e, c: looks(b, e, c, good(b, e), temperature=20), "two languages"),
        (row_wise, "softmax of its own"),
        (scores_only, "These are scores"),
        (lambda b, e, c: scores_only(b, e, c).softmax(0), "softmax over the boxes"),
        (lambda b, e, c: looks(b, e, c, good(b, e)).flatten(1), "lie in one row"),
    ],
    "14.score": [
        (lambda *g: whole(*g, t=False), "T is missing"),
        (lambda *g: whole(*g, factor=ones), "the box's sides are not"),
        (lambda *g: whole(*g, factor=inverse), "turned the fraction round"),
        (lambda *g: whole(*g, factor=swapped), "changed places"),
        (lambda *g: whole(*g, order=(0, 1)), "coded x before y"),
        (lambda *g: whole(*g, root=16.0), "root of d. Content and place"),
        (lambda *g: whole(*g, root=1.0), "scaling is missing"),
        (modulated_late, "projected first"),
        (added, "as DETR does"),
        (position_only, "position's part alone"),
        (turned, "wrong way round"),
        (lambda *g: whole(*g).softmax(-1), "softmax already"),
        (scaled_late, "by T after the projection"),
        (lambda *g: whole(*g[:-1], g[-1] | {"key_position": g[-1]["place"]}), "went through \"place\""),
        (lambda *g: whole(*g[:-1], g[-1] | {"key_position": torch.eye(16)}), "cells have no projection"),
        (lambda *g: whole(*g[:-1], g[-1] | {"place": torch.eye(16)}), "place has no projection"),
        (lambda *g: whole(*g, temperature=20), "two languages"),
    ],
}

RIGHT = {
    "14.joined": [two_products, head_by_head],
    "14.look": [separately, lambda b, e, c: looks(b, e, c, good(b, e))],
    "14.score": [by_joining, whole],
}
