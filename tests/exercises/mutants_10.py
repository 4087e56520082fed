"""What learners write for the exercises of notebook 10: wrong answers with what each is told, and right ones."""

import math

import torch
from torch import Tensor

from detr_mini.course import looking
from detr_mini.course.looking import coverage


def nats(weights: Tensor) -> Tensor:
    """Entropy of maps, (..., h, w) -> (...)."""
    return -(weights * weights.clamp(min=1e-12).log()).sum((-2, -1))


# ---------------------------------------------------------------- 10.inside


def edges(box: Tensor) -> list[float]:
    """left, top, right, bottom."""
    x, y, width, height = box.tolist()
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def with_loops(weights: Tensor, box: Tensor) -> float:
    """Right: cell by cell."""
    (rows, columns), total = weights.shape, 0.0
    left, top, right, bottom = edges(box)
    for i in range(rows):
        for j in range(columns):
            down = max(0.0, min(bottom * rows, i + 1) - max(top * rows, i))
            across = max(0.0, min(right * columns, j + 1) - max(left * columns, j))
            total += down * across * weights[i, j].item()
    return total


def with_outer(weights: Tensor, box: Tensor) -> Tensor:
    """Right: two vectors and a product."""
    left, top, right, bottom = edges(box)
    parts = []
    for low, high, count in ((top, bottom, weights.shape[0]), (left, right, weights.shape[1])):
        cell = torch.arange(count)
        parts.append(((cell + 1).clamp(max=high * count) - cell.clamp(min=low * count)).clamp(min=0))
    return parts[0] @ weights @ parts[1]


def by_centres(weights: Tensor, box: Tensor) -> Tensor:
    """Whole cells."""
    left, top, right, bottom = edges(box)
    y, x = ((torch.arange(count) + 0.5) / count for count in weights.shape)
    return weights[(y > top) & (y < bottom)][:, (x > left) & (x < right)].sum()


def by_slices(weights: Tensor, box: Tensor) -> Tensor:
    """Every touched cell."""
    (rows, columns), (left, top, right, bottom) = weights.shape, edges(box)
    return weights[int(top * rows): math.ceil(bottom * rows), int(left * columns): math.ceil(right * columns)].sum()


def inner_only(weights: Tensor, box: Tensor) -> Tensor:
    """Cells wholly inside."""
    (rows, columns), (left, top, right, bottom) = weights.shape, edges(box)
    return weights[math.ceil(top * rows): int(bottom * rows), math.ceil(left * columns): int(right * columns)].sum()


def as_corners(weights: Tensor, box: Tensor) -> Tensor:
    """cxcywh taken for xyxy."""
    return with_outer(weights, torch.cat([(box[:2] + box[2:]) / 2, box[2:] - box[:2]]))


def no_clamp(weights: Tensor, box: Tensor) -> Tensor:
    """Negative overlaps."""
    left, top, right, bottom = edges(box)
    rows, columns = (torch.arange(count) for count in weights.shape)
    down = (rows + 1).clamp(max=bottom * len(rows)) - rows.clamp(min=top * len(rows))
    across = (columns + 1).clamp(max=right * len(columns)) - columns.clamp(min=left * len(columns))
    return down @ weights @ across


def two_ends(weights: Tensor, box: Tensor) -> Tensor:
    """Right for boxes that reach over several cells; nothing for one within a cell."""
    part = coverage(box, weights.shape)
    return (weights * part).sum() * ((part > 0).sum() > 1)


# ---------------------------------------------------------------- 10.terms


def project(parts: tuple[Tensor, ...], query: tuple[Tensor, Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """All four parts through their matrices, no bias."""
    content, position, memory, place = parts
    return [content @ query[0].T, position @ query[0].T, memory @ key[0].T, place @ key[0].T]


def products(c: Tensor, p: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """The four products, (4, Q, K), scaled."""
    return torch.stack([c @ m.T, c @ s.T, p @ m.T, p @ s.T]) / math.sqrt(c.shape[-1])


def bias_with_position(*given: object) -> Tensor:
    """Right."""
    c, p, m, s = project(given[:4], *given[4:])
    return products(c, p + given[4][1], m, s)


def bias_with_content(*given: object) -> list[Tensor]:
    """Right, too: another share-out, and the key's bias is kept. As a list."""
    c, p, m, s = project(given[:4], *given[4:])
    return list(products(c + given[4][1], p, m + given[5][1], s))


def bias_forgotten(*given: object) -> Tensor:
    """No bias at all."""
    return products(*project(given[:4], *given[4:]))


def bias_everywhere(*given: object) -> Tensor:
    """Each part through its whole linear layer."""
    (c, p, m, s), (_, b), (_, a) = project(given[:4], *given[4:]), *given[4:]
    return products(c + b, p + b, m + a, s + a)


def matrices_turned(*given: object) -> Tensor:
    """x @ weight."""
    (query, b), (key, a) = given[4:]
    return bias_with_position(*given[:4], (query.T, b), (key.T, a))


def unprojected(*given: object) -> Tensor:
    """Without the matrices."""
    return products(*given[:4])


WRONG = {
    "10.spread": [
        (lambda m: looking.entropy(m).mean(), "calls `entropy`, and this exercise is about doing without it"),
        (lambda m: nats(m).mean() / math.log(2), "log2"),
        (lambda m: nats(m.mean(0)), "averaged the heads' maps first"),
        (lambda m: -(m * m.log()).sum((-2, -1)).mean(), "log 0 is nan"),
        (lambda m: -nats(m).mean(), "The sign is missing"),
        (nats, "one entropy per head"),
        (lambda m: nats(m).sum(), "added up the heads"),
        (lambda m: -(m * m.clamp(min=1e-12).log()).sum(-1).mean(), "one axis only"),
        (lambda m: nats(m).exp().mean(), "number of places"),
        (lambda m: -(m * m.clamp(min=1e-12).log()).mean((-2, -1)).mean(), "mean over the places"),
        (lambda m: nats(m).mean() / math.log(10), "log10"),
        (lambda m: nats(m).max(), "Not yet"),
    ],
    "10.flips": [
        (lambda o: [looking.flipped(a[None], b[None]) for a, b in zip(o[:-1], o[1:], strict=True)], "calls `flipped`"),
        (lambda o: (o[1:] != o[:-1]).float().mean(1), "compared all queries"),
        (lambda o: (o[1:] != o[:-1]).sum(1) / 4, "counted twice"),
        (lambda o: ((o[1:] >= 0) & (o[1:] != o[:-1])).float().mean(1), "divided by the number of queries"),
        (lambda o: ((o[1:] >= 0) & (o[1:] != o[0])).sum(1) / 4, "compared with the first look"),
        (lambda o: ((o[1:] >= 0) & (o[1:] == o[:-1])).sum(1) / 4, "the part that stayed"),
        (lambda o: ((o[1:] >= 0) & (o[1:] != o[:-1])).sum(1), "how many objects moved"),
        (lambda o: ((o[1:] >= 0) & (o[1:] != o[:-1])).sum() / 12, "one number for the whole run"),
        (lambda o: ((o[1:] >= 0) & (o[:-1] >= 0) & (o[1:] != o[:-1])).sum(1) / 4, "won it from another one"),
    ],
    "10.inside": [
        (lambda w, b: looking.mass_inside(w, b), "calls `mass_inside`"),
        (by_centres, "whole when its middle is inside"),
        (by_slices, "touches whole"),
        (inner_only, "inside altogether"),
        (as_corners, "took the box for corners"),
        (lambda w, b: with_outer(w, b[[1, 0, 3, 2]]), "x and y are swapped"),
        (lambda w, b: with_outer(w, b) / coverage(b, w.shape).sum(), "how dense"),
        (lambda w, b: with_outer(w, b) / (b[2] * b[3]), "how many times uniform"),
        (lambda w, b: b[2] * b[3], "the area of the box, what uniform"),
        (lambda w, b: coverage(b, w.shape).sum(), "area of the box in cells"),
        (no_clamp, "Without a clamp"),
        (two_ends, "inside a single cell"),
    ],
    "10.terms": [
        (lambda *g: bias_with_position(*g) * math.sqrt(8), "The scaling is missing"),
        (lambda *g: bias_with_position(*g) / math.sqrt(8), "You divided by d"),
        (matrices_turned, "wrong way round"),
        (unprojected, "compared the parts as they are"),
        (lambda *g: bias_with_position(*g)[[0, 2, 1, 3]], "each other's place"),
        (lambda *g: bias_with_position(*g) * torch.tensor([1.0, 0, 0, 1])[:, None, None], "left the mixed terms"),
        (lambda *g: bias_with_position(*g).softmax(-1), "softmax of every term"),
        (lambda *g: bias_with_position(*g).sum(0), "their sum already"),
        (bias_forgotten, "bias is missing"),
        (bias_everywhere, "counted twice, with content and with"),
    ],
}

RIGHT = {
    "10.spread": [
        lambda m: torch.special.entr(m).sum((-2, -1)).mean(),
        lambda m: torch.stack([torch.distributions.Categorical(head.flatten()).entropy() for head in m]).mean(),
    ],
    "10.flips": [
        lambda o: ((o[1:] >= 0) & (o[1:] != o[:-1])).sum(1) / (o[1:] >= 0).sum(1),
        lambda o: [sum(a[k] != b[k] for k in range(4)) / 4
                   for a, b in ([{int(k): i for i, k in enumerate(row) if k >= 0} for row in pair]
                                for pair in zip(o[:-1], o[1:], strict=True))],
    ],
    "10.inside": [with_loops, with_outer],
    "10.terms": [bias_with_position, bias_with_content],
}
