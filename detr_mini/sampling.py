"""Reading a feature map between its cells.

A sample at a point that is no cell centre is the weighted mean of the four cells around it (bilinear interpolation).
So a query that samples a few points and averages what it finds takes one weighted sum over rows of the table of all
tokens. PyTorch has that operation as `embedding_bag`; it is what makes deformable attention fast without own kernels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = list[tuple[int, int]]


def along(position: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two cells next to a position on one axis, and the share of each.

    position: (..., n) in cells, an integer at a cell's centre. cells: (n,), the length of the axis. Returns two
    indices, clamped into the map, and two shares that sum to 1; a cell beyond the border has share 0.
    """
    low = position.detach().floor()
    between = position - low  # 0 at the lower cell, 1 at the upper one; the share's slope comes from here
    high, zero = low + 1, cells.new_zeros(1)
    first = torch.fmax(low, zero).minimum(cells - 1)  # fmax: a NaN becomes index 0 here and stays NaN in the share
    second = torch.fmax(high, zero).minimum(cells - 1)
    return first, second, (1 - between) * (first == low), between * (second == high)


def corners(locations: Tensor, weights: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
    """The four cells around every sample: which tokens they are, and how much of the sample's weight is theirs.

    locations: (..., levels, points, 2) as (x, y), from 0 to 1 across the padded map. weights: (..., levels, points).
    shapes: (H, W) per level. Returns index (..., levels * points, 4) int32 into the tokens of all levels, and share of
    the same shape. The four shares sum to the weight inside the map, to less where corners lie beyond its border:
    what is outside counts as zero.
    """
    sizes = [(height, width, height * width) for height, width in shapes]
    height, width, area = (locations.new_tensor(side) for side in zip(*sizes, strict=True))  # (levels,)
    points, weights = locations.shape[-2], weights.flatten(-2)  # samples of all levels side by side: one long axis
    height, width, before = (x.repeat_interleave(points) for x in (height, width, area.cumsum(0) - area))
    left, right, share_left, share_right = along(locations[..., 0].flatten(-2) * width - 0.5, width)
    top, bottom, share_top, share_bottom = along(locations[..., 1].flatten(-2) * height - 0.5, height)
    top, bottom = top * width + before, bottom * width + before  # (..., levels * points) first token of the row
    index = torch.stack([top + left, top + right, bottom + left, bottom + right], dim=-1).to(torch.int32)
    upper, lower = share_top * weights, share_bottom * weights
    shares = [upper * share_left, upper * share_right, lower * share_left, lower * share_right]
    return index, torch.stack(shares, dim=-1)


def sample(values: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Per query and head the weighted sum of all its samples (Zhu et al. 2021, equation 3, the inner sums).

    values: (B, HW, heads, c), tokens of all levels. locations: (B, Q, heads, levels, points, 2). weights: (B, Q,
    heads, levels, points). Returns (B, Q, heads * c).
    """
    batch, tokens, heads, width = values.shape
    index, share = corners(locations, weights, shapes)  # (B, Q, heads, levels * points, 4)
    first = torch.arange(batch, device=index.device)[:, None] * tokens * heads
    first = first + torch.arange(heads, device=index.device)  # (B, heads): row of token 0 in the table of all values
    rows = index.mul_(heads).add_(first.to(index.dtype)[:, None, :, None, None])
    sums = F.embedding_bag(
        rows.flatten(3).flatten(0, 2), values.reshape(-1, width), mode="sum",
        per_sample_weights=share.flatten(3).flatten(0, 2).to(values.dtype),
    )  # (B * Q * heads, c)
    return sums.view(batch, -1, heads * width)


def sample_by_grid(values: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The same as `sample`, through PyTorch's `grid_sample`, level by level: what other programs know as well.

    ONNX has an operator for it, and none for `embedding_bag`. Arguments and result are those of `sample`.
    """
    batch, _, heads, width = values.shape
    parts = values.split([height * across for height, across in shapes], dim=1)
    total = 0
    for level, ((height, across), part) in enumerate(zip(shapes, parts, strict=True)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, width, height, across)  # (B heads, c, H, W)
        places = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # (B heads, Q, points, 2)
        found = F.grid_sample(maps, places, align_corners=False)  # (B heads, c, Q, points)
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]  # (B heads, 1, Q, points)
        total = total + (found * share).sum(-1)  # (B heads, c, Q)
    return total.view(batch, heads * width, -1).transpose(1, 2)  # (B, Q, heads c)
