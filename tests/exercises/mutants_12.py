"""What learners write for the exercises of notebook 12: wrong answers with what each is told, and right ones."""

import torch
from torch import Tensor

# ---------------------------------------------------------------- 12.gaussian


def squared(c: Tensor, s: Tensor, h: int, w: int) -> Tensor:
    """s² d², (h, w)."""
    x, y = s[0] * (torch.arange(w) - c[0] * w), s[1] * (torch.arange(h) - c[1] * h)
    return y.square()[:, None] + x.square()


def with_loops(c: Tensor, s: Tensor, h: int, w: int) -> Tensor:
    """Right: cell by cell."""
    made = torch.zeros(h, w)
    for row in range(h):
        for column in range(w):
            dx, dy = column - c[0] * w, row - c[1] * h
            made[row, column] = -((s[0] * dx) ** 2 + (s[1] * dy) ** 2) / 8
    return made


def with_meshgrid(c: Tensor, s: Tensor, h: int, w: int) -> Tensor:
    """Right: a grid of places, (h, w, 2)."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    distance = torch.stack([columns, rows], dim=-1) - c * torch.tensor([w, h])
    return -(distance * s).square().sum(-1) / 8


def meshed_xy(c: Tensor, s: Tensor, h: int, w: int) -> Tensor:
    """The map lies on its side."""
    columns, rows = torch.meshgrid(torch.arange(w), torch.arange(h), indexing="ij")
    return -((s[0] * (columns - c[0] * w)) ** 2 + (s[1] * (rows - c[1] * h)) ** 2) / 8


def unsquared_scale(c: Tensor, s: Tensor, h: int, w: int) -> Tensor:
    """s d²."""
    x, y = s[0] * (torch.arange(w) - c[0] * w) ** 2, s[1] * (torch.arange(h) - c[1] * h) ** 2
    return -(y[:, None] + x) / 8


def in_cells(c: Tensor, s: Tensor, h: int, w: int) -> Tensor:
    """The centre taken as it is."""
    x, y = s[0] * (torch.arange(w) - c[0]), s[1] * (torch.arange(h) - c[1])
    return -(y.square()[:, None] + x.square()) / 8


def sides_swapped(c: Tensor, s: Tensor, h: int, w: int) -> Tensor:
    """x times the height."""
    x, y = s[0] * (torch.arange(w) - c[0] * h), s[1] * (torch.arange(h) - c[1] * w)
    return -(y.square()[:, None] + x.square()) / 8


def half_cell(c: Tensor, s: Tensor, h: int, w: int) -> Tensor:
    """Cells by their middles."""
    x, y = s[0] * (torch.arange(w) + 0.5 - c[0] * w), s[1] * (torch.arange(h) + 0.5 - c[1] * h)
    return -(y.square()[:, None] + x.square()) / 8


# ---------------------------------------------------------------- 12.attend


def divided_after(a: Tensor, g: Tensor, v: Tensor) -> Tensor:
    """Right: multiplied after the softmax, and divided."""
    weights = a.softmax(-1) * g
    return weights / weights.sum(-1, keepdim=True) @ v


def with_exp(a: Tensor, g: Tensor, v: Tensor) -> Tensor:
    """Right: the softmax written out."""
    raised = (a - a.max(-1, keepdim=True).values).exp() * g
    return torch.einsum("qk,kd->qd", raised, v) / raised.sum(-1)[:, None]


# ---------------------------------------------------------------- 12.box


def with_parts(d: Tensor, c: Tensor) -> Tensor:
    """Right: two sigmoids."""
    return torch.cat([(d[:, :2] + (c / (1 - c)).log()).sigmoid(), d[:, 2:].sigmoid()], dim=-1)


def with_clone(d: Tensor, c: Tensor) -> Tensor:
    """Right: on a copy."""
    moved = d.clone()
    moved[:, :2] += torch.special.logit(c)
    return torch.sigmoid(moved)


def added_after(d: Tensor, c: Tensor) -> Tensor:
    """Sigmoid first."""
    box = d.sigmoid()
    box[:, :2] += c
    return box


def no_logit(d: Tensor, c: Tensor) -> Tensor:
    """A place added to logits."""
    return (d + torch.nn.functional.pad(c, (0, 2))).sigmoid()


def cut_off(d: Tensor, c: Tensor) -> Tensor:
    """Sigmoid first, then a clamp."""
    return added_after(d, c).clamp(0, 1)


# ---------------------------------------------------------------- 12.maps


def each_map(a: list, g: list, v: list) -> Tensor:
    """What every map gives, (maps, d)."""
    return torch.stack([(x + y).softmax(0) @ z for x, y, z in zip(a, g, v, strict=True)])


def in_a_loop(a: list, g: list, v: list, choice: Tensor) -> Tensor:
    """Right: added up map by map."""
    share, total = choice.exp() / choice.exp().sum(), 0
    for level in range(len(a)):
        weights = (a[level] + g[level]).exp()
        total = total + share[level] * (weights / weights.sum() @ v[level])
    return total


def as_one_map(a: list, g: list, v: list, choice: Tensor) -> Tensor:
    """Right: the weights of all places, which sum to 1, times all values."""
    share = choice.softmax(0)
    weights = torch.cat([share[i] * (a[i] + g[i]).softmax(0) for i in range(len(a))])
    return weights @ torch.cat(v)


def all_in_one(a: list, g: list, v: list, choice: Tensor) -> Tensor:
    """One softmax over all places."""
    return (torch.cat(a) + torch.cat(g)).softmax(0) @ torch.cat(v)


def choice_as_score(a: list, g: list, v: list, choice: Tensor) -> Tensor:
    """choice added to the scores of its map."""
    return torch.cat([x + y + c for x, y, c in zip(a, g, choice, strict=True)]).softmax(0) @ torch.cat(v)


def after_softmax(a: list, g: list, v: list, choice: Tensor) -> Tensor:
    """G multiplied after each softmax."""
    return choice.softmax(0) @ torch.stack([(x.softmax(0) * y.exp()) @ z for x, y, z in zip(a, g, v, strict=True)])


def log_after_softmax(a: list, g: list, v: list, choice: Tensor) -> Tensor:
    """log G multiplied after each softmax."""
    return choice.softmax(0) @ torch.stack([(x.softmax(0) * y) @ z for x, y, z in zip(a, g, v, strict=True)])


WRONG = {
    "12.gaussian": [
        (lambda *a: (-squared(*a) / 8).exp(), "That is G"),
        (lambda *a: squared(*a) / 8, "The sign is missing"),
        (unsquared_scale, "The scale is not squared"),
        (lambda c, s, h, w: -squared(c, 1 / s, h, w) / 8, "divided by the scale"),
        (lambda *a: -squared(*a), "left out the division by 8"),
        (lambda *a: -squared(*a) / (2 * 8), "divided by 2 · 8"),
        (half_cell, "Half a cell"),
        (in_cells, "The centre is a part of the map"),
        (sides_swapped, "sides are swapped"),
        (lambda c, s, h, w: -squared(c.flip(0), s, h, w) / 8, "swapped in the centre"),
        (lambda c, s, h, w: -squared(c, s.flip(0), h, w) / 8, "swapped in the scale"),
        (meshed_xy, "The map is turned"),
        (lambda *a: (-squared(*a) / 8).exp().log(), "Never take the exp"),
    ],
    "12.attend": [
        (lambda a, g, v: (a.softmax(-1) * g) @ v, "multiplied after the softmax"),
        (lambda a, g, v: (a + g).softmax(-1) @ v, "You added G itself"),
        (lambda a, g, v: (a * g).softmax(-1) @ v, "multiplied the scores by G"),
        (lambda a, g, v: (a - g.log()).softmax(-1) @ v, "The sign is wrong"),
        (lambda a, g, v: a.softmax(-1) @ v, "plain attention"),
        (lambda a, g, v: (g / g.sum(-1, keepdim=True)) @ v, "the Gaussian alone"),
        (lambda a, g, v: (a.softmax(-1) + g.log().softmax(-1)) / 2 @ v, "took two softmaxes"),
        (lambda a, g, v: (a.softmax(-1) + g.softmax(-1)) @ v, "The softmax of G is not G"),
        (lambda a, g, v: (a + g.log()).softmax(0) @ v, "runs over the queries"),
        (lambda a, g, v: (a + g.log()).softmax(-1), "Those are the weights"),
        (lambda a, g, v: (a + g.log()) @ v, "The softmax is missing"),
        (lambda a, g, v: (a + g.clamp(min=0.01).log()).softmax(-1) @ v, "keep G away from 0"),
    ],
    "12.box": [
        (added_after, "added the centre after the sigmoid"),
        (cut_off, "cut off at 1"),
        (lambda d, c: torch.cat([d[:, :2].sigmoid() - 0.5 + c, d[:, 2:].sigmoid()], 1), "moved the half away"),
        (lambda d, c: torch.cat([c + d[:, :2], d[:, 2:].sigmoid()], 1), "added to the place without a sigmoid"),
        (no_logit, "added the centre itself to a logit"),
        (lambda d, c: (d + torch.logit(c).repeat(1, 2)).sigmoid(), "went into the sizes, too"),
        (lambda d, c: (d + torch.nn.functional.pad(torch.logit(c), (2, 0))).sigmoid(), "into the sizes instead"),
        (lambda d, c: d.sigmoid(), "That is DETR's box"),
        (lambda d, c: d + torch.nn.functional.pad(torch.logit(c), (0, 2)), "These are logits"),
        (lambda d, c: torch.cat([with_parts(d, c)[:, :2], d[:, 2:]], 1), "The sizes have no sigmoid"),
        (lambda d, c: with_parts(d, c.flip(1)), "are swapped"),
        (lambda d, c: with_parts(d, 1 - c), "The sign is wrong"),
    ],
    "12.maps": [
        (all_in_one, "one softmax over the places of all maps"),
        (choice_as_score, "added `choice` to the scores"),
        (lambda a, g, v, c: c.softmax(0) @ each_map(a, [0 * x for x in g], v), "log-Gaussians are not in it"),
        (log_after_softmax, "multiplied by log G after"),
        (after_softmax, "multiplied by G after"),
        (lambda a, g, v, c: c @ each_map(a, g, v), "by `choice` as it is"),
        (lambda a, g, v, c: each_map(a, g, v).mean(0), "All maps count alike"),
        (lambda a, g, v, c: each_map(a, g, v).sum(0), "added up the maps"),
        (lambda a, g, v, c: each_map(a, g, v)[c.argmax()], "only the map with the largest choice"),
        (lambda a, g, v, c: each_map(a, g, v), "what each map gives"),
    ],
}

RIGHT = {
    "12.gaussian": [with_loops, with_meshgrid],
    "12.attend": [divided_after, with_exp],
    "12.box": [with_parts, with_clone],
    "12.maps": [in_a_loop, as_one_map],
}
