"""Spatially modulated co-attention: cross-attention that expects to find its object near a centre."""

import math

import torch
from torch import Tensor, nn

from detr_mini.attention import MultiHeadAttention, padding_bias, xavier
from detr_mini.decoder import Queries
from detr_mini.positions import Grid
from detr_mini.recipes import SmcaModel
from detr_mini.trace import Traced

SMOOTH = 8  # what the squared distance is divided by


def log_gaussian(place: Tensor, scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """log G = -(s_x^2 (x - c_x)^2 + s_y^2 (y - c_y)^2) / 8 over the cells of one map (Gao et al. 2021).

    place: (B, Q, heads, 2) the centre (x, y) in cells, cell 0 at 0 (no half-cell shift, as in the authors' code).
    scale: (B, Q, heads, 2), an inverse width: squared, it multiplies. Returns (B, heads, Q, HW).
    """
    height, width = shape
    x = scale[..., :1] * (torch.arange(width, device=place.device) - place[..., :1])  # (B, Q, heads, W)
    y = scale[..., 1:] * (torch.arange(height, device=place.device) - place[..., 1:])  # (B, Q, heads, H)
    return (y.square().unsqueeze(-1) + x.square().unsqueeze(-2)).flatten(-2).transpose(1, 2) / -SMOOTH


class Prior(Traced):
    """Where each head expects its object on one map: log G around the centre plus an offset, with an inverse width.

    Forward: queries as they entered the layer, normed, (B, Q, d), their centre (B, Q, 2) as (x, y), 0 to 1 across the
    image inside the padding, grid, level -> (B, heads, Q, HW of the level). Records `offset`, in cells, and `scale`,
    both (B, Q, heads, 2).
    """

    def __init__(self, recipe: SmcaModel) -> None:
        super().__init__()
        self.heads = recipe.heads
        self.offset = xavier(nn.Linear(recipe.d_model, 2 * recipe.heads))
        self.scale = nn.Linear(recipe.d_model, 2 * recipe.heads)
        nn.init.zeros_(self.scale.weight)
        nn.init.ones_(self.scale.bias)

    def forward(self, asking: Tensor, centre: Tensor, grid: Grid, level: int = 0) -> Tensor:
        offset, scale = (part(asking).unflatten(-1, (self.heads, 2)) for part in (self.offset, self.scale))
        self.record(offset=offset, scale=scale)
        height, width = grid.shapes[level]
        size = grid.valid_ratios()[:, level] * offset.new_tensor([width, height])  # (B, 2): cells that are image
        place = (centre * size[:, None]).unsqueeze(2) + offset  # (B, Q, heads, 2)
        return log_gaussian(place, scale, grid.shapes[level])


class CoAttention(MultiHeadAttention):
    """softmax(q k^T / sqrt(d) + log G) v (Gao et al. 2021): DETR's cross-attention, told where to expect the object.

    Forward: queries, memory (B, HW, d), grid -> (B, Q, d). The prior is made of the queries as they entered the layer,
    before they met the others. Records `weights` and `value` as DETR, and `gaussian` (B, heads, Q, HW), which is log G.
    """

    def __init__(self, recipe: SmcaModel) -> None:
        super().__init__(recipe.d_model, recipe.heads, recipe.dropout)
        self.norm, self.prior = nn.LayerNorm(recipe.d_model), Prior(recipe)

    def forward(self, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        gaussian = self.prior(self.norm(queries.entering + queries.position), queries.reference, grid)
        self.record(gaussian=gaussian)
        bias = padding_bias(grid.padding_mask) + gaussian  # (B, heads, Q, HW)
        return super().forward(queries.content, memory, memory, queries.position, grid.position, bias)


class MultiScaleCoAttention(MultiHeadAttention):
    """Co-attention over several maps j: sum_j alpha_j softmax(q k_j^T / sqrt(d) + log G_j) v_j, alpha = softmax(FC(q)).

    After the paper's section on multi-scale features; not held against an official number. Every map has keys, values
    and a prior of its own; the centre and the query's projection are shared; each query weighs the maps by itself.
    Records `weights` (B, heads, Q, HW of all levels) with alpha in them, so that they sum to 1; `value`; `gaussian`;
    and alpha as `levels` (B, Q, levels).
    """

    def __init__(self, recipe: SmcaModel) -> None:
        super().__init__(recipe.d_model, recipe.heads, recipe.dropout)
        width, levels = recipe.d_model, range(recipe.levels)
        self.norm, self.select = nn.LayerNorm(width), xavier(nn.Linear(width, recipe.levels))
        self.key = nn.ModuleList(xavier(nn.Linear(width, width)) for _ in levels)
        self.value = nn.ModuleList(xavier(nn.Linear(width, width)) for _ in levels)
        self.prior = nn.ModuleList(Prior(recipe) for _ in levels)

    def forward(self, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        entered, asking = self.norm(queries.entering + queries.position), queries.content + queries.position
        priors = [prior(entered, queries.reference, grid, level) for level, prior in enumerate(self.prior)]
        gaussian = torch.cat(priors, dim=-1)  # (B, heads, Q, HW of all levels)
        key, value = each(self.key, memory + grid.position, grid), each(self.value, memory, grid)  # (B, HW, d)
        q, k, v = (self.split(x) for x in (self.query(asking), key, value))  # (B, heads, Q or HW, d/heads)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + padding_bias(grid.padding_mask) + gaussian
        alpha = self.select(asking).softmax(dim=-1)  # (B, Q, levels)
        parts = zip(scores.split(sizes(grid), dim=-1), alpha[:, None].split(1, dim=-1), strict=True)
        weights = torch.cat([part.softmax(dim=-1) * share for part, share in parts], dim=-1)
        self.record(weights=weights, value=v, gaussian=gaussian, levels=alpha)
        return self.output(self.merge(weights @ v))


def sizes(grid: Grid) -> list[int]:
    """How many tokens each level has."""
    return [height * width for height, width in grid.shapes]


def each(modules: nn.ModuleList, tokens: Tensor, grid: Grid) -> Tensor:
    """Every level's tokens through the level's own module: (B, HW, d) -> (B, HW, d)."""
    return torch.cat([module(part) for module, part in zip(modules, tokens.split(sizes(grid), 1), strict=True)], dim=1)
