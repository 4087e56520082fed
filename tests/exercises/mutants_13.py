"""Wrong and right answers to the exercises of 13: what each check must refuse, with its message, and accept."""

import torch
from torch import Tensor


def tiled(points: Tensor, patterns: Tensor) -> tuple[Tensor, Tensor]:
    """Right: with broadcasting."""
    number, count = len(points), len(patterns)
    content = patterns[:, None].expand(-1, number, -1).flatten(0, 1)
    return content, points[None].expand(count, -1, -1).flatten(0, 1)


def tiled_by_loop(points: Tensor, patterns: Tensor) -> tuple[Tensor, Tensor]:
    """Right: query by query."""
    pairs = [(pattern, point) for pattern in patterns for point in points]
    return torch.stack([pattern for pattern, _ in pairs]), torch.stack([point for _, point in pairs])


# ---------------------------------------------------------------- 13.row


def row(query: Tensor, cells: Tensor, columns: Tensor) -> Tensor:
    """Right."""
    return weigh(query, torch.einsum("hwd->wd", cells) / len(cells) + columns)


def row_by_loop(query: Tensor, cells: Tensor, columns: Tensor) -> Tensor:
    """Right: key by key, and the addresses in the mean."""
    keys = [torch.stack([line[x] + columns[x] for line in cells]).mean(0) for x in range(len(columns))]
    scores = torch.stack([query @ key for key in keys], dim=1) / query.shape[1] ** 0.5
    return scores.exp() / scores.exp().sum(1, keepdim=True)


def weigh(query: Tensor, keys: Tensor, root: float | None = None, dim: int = -1) -> Tensor:
    """Plain attention weights."""
    return (query @ keys.T / (root or query.shape[-1] ** 0.5)).softmax(dim)


def per_row(query: Tensor, cells: Tensor, columns: Tensor) -> Tensor:
    """A softmax per line of the map."""
    return sum(weigh(query, line + columns) for line in cells) / len(cells)


def dense(query: Tensor, cells: Tensor, columns: Tensor) -> Tensor:
    """One softmax over all cells, added up."""
    height, width = cells.shape[:2]
    return weigh(query, (cells + columns).flatten(0, 1)).view(-1, height, width).sum(1)


def only_where_it_fits(query: Tensor, cells: Tensor, columns: Tensor) -> Tensor:
    """Guesses the axis by its length."""
    axis = 1 if cells.shape[0] == cells.shape[1] else 0
    return weigh(query, cells.mean(axis) + columns)


# ---------------------------------------------------------------- 13.collect


def two_steps(rows: Tensor, columns: Tensor, value: Tensor) -> Tensor:
    """Right: y first."""
    part = (columns @ value.flatten(1)).unflatten(-1, value.shape[1:])  # (Q, W, c)
    return (rows.unsqueeze(1) @ part).squeeze(1)


def by_map(rows: Tensor, columns: Tensor, value: Tensor) -> Tensor:
    """Right: with the whole map."""
    return (columns[:, :, None] * rows[:, None, :]).flatten(1) @ value.flatten(0, 1)


def added(rows: Tensor, columns: Tensor, value: Tensor) -> Tensor:
    """Weights added."""
    both = columns[:, :, None] + rows[:, None, :]
    return (both / both.sum((1, 2), keepdim=True)).flatten(1) @ value.flatten(0, 1)


def sides(rows: Tensor, columns: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Along x, along y, each summed over the other axis."""
    return rows @ value.sum(0), columns @ value.sum(1)


def swapped_where_possible(rows: Tensor, columns: Tensor, value: Tensor) -> Tensor:
    """Swaps on a square map."""
    return by_map(columns, rows, value) if value.shape[0] == value.shape[1] else by_map(rows, columns, value)


# ---------------------------------------------------------------- 13.padded


def honest(query, cells, columns, padding):
    """Right."""
    real = ~padding
    mean = (cells * real[..., None]).sum(0) / real.sum(0).clamp(min=1)[:, None]
    return hide(query, mean + columns, padding[0])


def by_columns(query, cells, columns, padding):
    """Right: column by column."""
    scores = torch.full((len(query), len(columns)), float("-inf"))
    for x in range(len(columns)):
        if not padding[0, x]:
            scores[:, x] = query @ (cells[~padding[:, x], x].mean(0) + columns[x]) / 2
    return scores.softmax(-1)


def hide(query, keys, hidden, value=float("-inf")):
    """Weights with hidden keys."""
    return (query @ keys.T / query.shape[-1] ** 0.5).masked_fill(hidden, value).softmax(-1)


def means(cells, padding):
    """Of the real cells."""
    return (cells * ~padding[..., None]).sum(0) / (~padding).sum(0).clamp(min=1)[:, None]


def nan_mean(query, cells, columns, padding):
    """0 / 0."""
    real = ~padding[..., None]
    return hide(query, (cells * real).sum(0) / real.sum(0) + columns, padding[0] & False)


WRONG = {
    "13.tile": [
        (lambda p, t: (t.repeat(len(p), 1), p.repeat_interleave(len(t), dim=0)), "all patterns of point 0"),
        (lambda p, t: (t.repeat(len(p), 1), p.repeat(len(t), 1)), "run in step"),
        (lambda p, t: (t.repeat_interleave(len(p), dim=0), p.repeat_interleave(len(t), dim=0)), "entry by entry"),
        (lambda p, t: tiled(p, t)[::-1], "the other way round"),
        (lambda p, t: (torch.zeros(6, 4), tiled(p, t)[1]), "DETR starts with content 0"),
        (lambda p, t: (t, p), "There are 2 contents and 3 points"),
        (lambda p, t: tiled(p, t)[0], "Two things are wanted"),
        (lambda p, t: (t[:, None].expand(-1, 3, -1), p[None].expand(2, -1, -1)), "two axes each"),
    ],
    "13.row": [
        (lambda q, c, a: weigh(q, c.mean(1)), "Your mean runs over x"),
        (only_where_it_fits, "On a square one your mean runs over x"),
        (lambda q, c, a: weigh(q, c.mean(0) + a, root=1.0), "The scaling is missing"),
        (lambda q, c, a: weigh(q, c.mean(0) + a, root=4.0), "You divided by d."),
        (lambda q, c, a: weigh(q, c.mean(0)), "addresses are not in it"),
        (lambda q, c, a: weigh(q, a), "addresses alone"),
        (lambda q, c, a: weigh(q, c.sum(0) + a), "You added up the cells"),
        (lambda q, c, a: weigh(q, c.max(0).values + a), "largest value"),
        (per_row, "softmax per row"),
        (dense, "That is dense attention"),
        (lambda q, c, a: q @ (c.mean(0) + a).T / 2, "These are scores"),
        (lambda q, c, a: weigh(q, c.mean(0) + a, dim=0), "runs over the queries"),
        (lambda q, c, a: row(q, c, a).T, "is turned"),
    ],
    "13.collect": [
        (added, "You added the two kinds"),
        (lambda r, c, v: sum(sides(r, c, v)), "one after the other"),
        (lambda r, c, v: (r @ v.mean(0) + c @ v.mean(1)) / 2, "and averaged"),
        (lambda r, c, v: sides(r, c, v)[0] * sides(r, c, v)[1], "not the values"),
        (lambda r, c, v: (r @ v.mean(0)) * (c @ v.mean(1)), "values of both averages"),
        (lambda r, c, v: sides(r, c, v)[0], "Only the weights along x"),
        (lambda r, c, v: r @ v.mean(0), "over y you took the plain mean"),
        (lambda r, c, v: sides(r, c, v)[1], "Only the weights along y"),
        (lambda r, c, v: c @ v.mean(1), "over x you took the plain mean"),
        (lambda r, c, v: by_map(r, c, v) / v.shape[0] / v.shape[1], "sums to 1 already"),
        (lambda r, c, v: (c[:, :, None] * r[:, None]).flatten(1).softmax(1) @ v.flatten(0, 1), "softmax of the"),
        (lambda r, c, v: c[:, :, None] * r[:, None], "That is the map"),
        (swapped_where_possible, "Rows and columns are swapped"),
    ],
    "13.padded": [
        (lambda q, c, a, p: hide(q, c.mean(0) + a, p[0]), "what the authors' code does"),
        (lambda q, c, a, p: hide(q, (c * ~p[..., None]).mean(0) + a, p[0]), "divided by all cells"),
        (lambda q, c, a, p: weigh(q, means(c, p) + a), "padded columns still get weight"),
        (lambda q, c, a, p: weigh(q, c.mean(0) + a), "neither in the means nor"),
        (lambda q, c, a, p: weigh(q, means(c, p) + a) * ~p[0], "after the softmax"),
        (nan_mean, "whose mean is 0 / 0"),
        (lambda q, c, a, p: hide(q, means(c, p) + a, p[0], 0.0), "exp(0) is 1"),
        (lambda q, c, a, p: honest(q, c, a, ~p), "turned round"),
        (lambda q, c, a, p: hide(q, means(c, p) + a, p[-1]), "look at the last row"),
    ],
}

RIGHT = {
    "13.tile": [tiled, tiled_by_loop],
    "13.row": [row, row_by_loop],
    "13.collect": [two_steps, by_map],
    "13.padded": [honest, by_columns],
}
