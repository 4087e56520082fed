"""What learners write for the exercises of notebook 11: wrong answers with what each is told, and right ones."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# ---------------------------------------------------------------- 11.read


def with_loops(cells: Tensor, x: float, y: float, half: float = 0.5) -> float:
    """Right: the four cells, one after the other."""
    height, width = cells.shape
    column, row, total = x * width - half, y * height - half, 0.0
    left, top = math.floor(column), math.floor(row)
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * cells[i, j].item()
    return total


def with_grid_sample(cells: Tensor, x: float, y: float, **options: object) -> Tensor:
    """Right: PyTorch's own."""
    grid = torch.tensor([x, y]).view(1, 1, 1, 2) * 2 - 1
    return F.grid_sample(cells[None, None], grid, **({"align_corners": False} | options))


def with_tents(cells: Tensor, x: float, y: float) -> Tensor:
    """Right: a share for every row and column."""
    height, width = cells.shape
    down = (1 - (torch.arange(height) + 0.5 - y * height).abs()).clamp(min=0)
    across = (1 - (torch.arange(width) + 0.5 - x * width).abs()).clamp(min=0)
    return down @ cells @ across


def nearest(cells: Tensor, x: float, y: float) -> Tensor:
    """The cell that holds the place."""
    height, width = cells.shape
    return cells[min(int(y * height), height - 1), min(int(x * width), width - 1)]


def wrapped(cells: Tensor, x: float, y: float) -> float:
    """Negative indices are let be."""
    height, width = cells.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = math.floor(column), math.floor(row)
    return sum((1 - abs(row - i)) * (1 - abs(column - j)) * cells[i, j].item()
               for i in (top, top + 1) for j in (left, left + 1) if i < height and j < width)


def all_or_nothing(cells: Tensor, x: float, y: float) -> float:
    """0 as soon as a cell is missing."""
    height, width = cells.shape
    left, top = math.floor(x * width - 0.5), math.floor(y * height - 0.5)
    return with_loops(cells, x, y) if 0 <= left < width - 1 and 0 <= top < height - 1 else 0.0


def normalised(cells: Tensor, x: float, y: float) -> float:
    """Shares of the cells that are left."""
    inside = with_loops(torch.ones_like(cells), x, y)
    return with_loops(cells, x, y) / inside if inside else 0.0


def four_alike(cells: Tensor, x: float, y: float) -> Tensor:
    """The plain mean."""
    left, top = math.floor(x * cells.shape[1] - 0.5), math.floor(y * cells.shape[0] - 0.5)
    return cells[top: top + 2, left: left + 2].mean()


def turned_shares(cells: Tensor, x: float, y: float) -> float:
    """The far cells count most."""
    column, row = x * cells.shape[1] - 0.5, y * cells.shape[0] - 0.5
    left, top = math.floor(column), math.floor(row)
    return sum(abs(row - i) * abs(column - j) * cells[i, j].item() for i in (top, top + 1) for j in (left, left + 1))


# ---------------------------------------------------------------- 11.compass


def rays(heads: int, points: int) -> Tensor:
    """Right."""
    angle = torch.arange(heads) * 2 * math.pi / heads
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().max(-1, keepdim=True).values
    return torch.stack([direction * k for k in range(1, points + 1)], dim=1)


def rays_with_loops(heads: int, points: int) -> list:
    """Right: as nested lists."""
    found = []
    for head in range(heads):
        x, y = math.cos(2 * math.pi * head / heads), math.sin(2 * math.pi * head / heads)
        larger = max(abs(x), abs(y))
        found.append([[k * x / larger, k * y / larger] for k in range(1, points + 1)])
    return found


def circles(heads: int, points: int) -> Tensor:
    """Not onto a square."""
    angle = torch.arange(heads) * 2 * math.pi / heads
    return torch.stack([angle.cos(), angle.sin()], -1)[:, None] * torch.arange(1, points + 1)[:, None]


def closed(heads: int, points: int) -> Tensor:
    """The full turn twice."""
    angle = torch.linspace(0, 2 * math.pi, heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    return (direction / direction.abs().amax(-1, keepdim=True))[:, None] * torch.arange(1, points + 1)[:, None]


# ---------------------------------------------------------------- 11.levels


def levels(
    values: list[Tensor], reference: Tensor, offsets: Tensor, scores: Tensor, *, weights: Tensor | None = None,
    sizes: list[Tensor] | None = None, align: bool = False, upto: int | None = None,
) -> Tensor:
    """Right as it stands; its options are other people's slips."""
    weights = torch.softmax(scores.reshape(-1), 0).reshape(scores.shape) if weights is None else weights
    sizes = sizes or [torch.tensor([v.shape[-1], v.shape[-2]]) for v in values]
    total = torch.zeros(len(values[0]))
    for level, size, offset, weight in list(zip(values, sizes, offsets, weights, strict=True))[:upto]:
        places = (reference + offset / size) * 2 - 1
        total = total + F.grid_sample(level[None], places[None, None], align_corners=align)[0, :, 0] @ weight
    return total


def point_by_point(values: list[Tensor], reference: Tensor, offsets: Tensor, scores: Tensor) -> Tensor:
    """Right: no grid_sample, one point after the other."""
    weights, total = scores.exp() / scores.exp().sum(), 0.0
    for level in range(len(values)):
        channels, height, width = values[level].shape
        for point in range(scores.shape[1]):
            x, y = (reference + offsets[level, point] / torch.tensor([width, height])).tolist()
            read = torch.tensor([with_loops(values[level][c], x, y) for c in range(channels)])
            total = total + weights[level, point] * read
    return total


def uncentred(values: list[Tensor], reference: Tensor, offsets: Tensor, scores: Tensor) -> Tensor:
    """Places from 0 to 1 for grid_sample."""
    return levels(values, (reference + 1) / 2, offsets / 2, scores)


def turned(values: list[Tensor]) -> list[Tensor]:
    """Sizes as (h, w)."""
    return [torch.tensor(v.shape[-2:]) for v in values]


WRONG = {
    "11.read": [
        (lambda c, x, y: with_loops(c, x, y, half=0.0), "half cell is missing"),
        (lambda c, x, y: with_grid_sample(c, x, y, align_corners=True), "align_corners=True"),
        (nearest, "nearest cell"),
        (lambda c, x, y: with_loops(c, y, x), "x and y are swapped"),
        (turned_shares, "on the wrong cells"),
        (four_alike, "plain mean of the four"),
        (lambda c, x, y: with_loops(c, x / c.shape[1], y / c.shape[0]), "for numbers of cells"),
        (lambda c, x, y: with_grid_sample(c, x, y, padding_mode="border"), "repeat the last cell"),
        (wrapped, "index of -1"),
        (all_or_nothing, "return 0 as soon as"),
        (normalised, "share out among the cells that are left"),
    ],
    "11.compass": [
        (circles, "lie on circles"),
        (lambda h, p: rays(h, p) - rays(h, 1), "begin at 0 cells"),
        (lambda h, p: rays(h, p) * torch.tensor([1.0, -1.0]), "the other way"),
        (lambda h, p: rays(h, p).flip(-1), "x first, the cosine"),
        (closed, "the full turn is there twice"),
        (lambda h, p: rays(h, 1).expand(-1, p, -1), "in one place"),
        (lambda h, p: rays(h, p).transpose(0, 1), "the shape is (heads, points, 2)"),
        (lambda h, p: rays(8, p)[:h], "still those of 8"),
    ],
    "11.levels": [
        (lambda v, r, o, s: levels(v, r, o, s, weights=s.softmax(1)), "one softmax per level"),
        (lambda v, r, o, s: levels(v, r, o, s, weights=s.softmax(1) / 2), "mean of the levels"),
        (lambda v, r, o, s: levels(v, r, o, s, weights=s.softmax(0)), "over the levels, for each point"),
        (lambda v, r, o, s: levels(v, r, o, s, weights=s), "no weights yet"),
        (lambda v, r, o, s: levels(v, r, o, s, weights=torch.ones(2, 3) / 6), "plain mean"),
        (lambda v, r, o, s: levels(v, r, o, s, sizes=turned(v)), "divided by (h, w)"),
        (lambda v, r, o, s: levels(v, r, o, s, sizes=[torch.ones(2)] * 2), "count cells"),
        (lambda v, r, o, s: levels(v, r, o, s, sizes=[torch.tensor([8, 4])] * 2), "size of the first level"),
        (uncentred, "counts from -1 to 1"),
        (lambda v, r, o, s: levels(v, r, o, s, align=True), "told align_corners=True"),
        (lambda v, r, o, s: levels(v, r, o, s, upto=1), "first level only"),
    ],
}

RIGHT = {
    "11.read": [with_loops, with_grid_sample, with_tents],
    "11.compass": [rays, rays_with_loops],
    "11.levels": [levels, point_by_point],
}
