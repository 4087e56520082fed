"""Deformable attention: a query looks at a few places that it chooses itself, not at all of them.

A query predicts where to look (offsets from its reference point, on every level of the feature pyramid) and how much
each place counts. There are no keys: nothing is compared. So the cost does not grow with the square of the tokens.
"""

import math

import torch
from torch import Tensor, nn

from detr_mini.positions import Grid
from detr_mini.sampling import sample
from detr_mini.trace import Traced


def compass(heads: int) -> Tensor:
    """One direction per head, (heads, 2) as (x, y), evenly around and scaled so that the larger part is 1."""
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return direction / direction.abs().amax(dim=-1, keepdim=True)


def token_centres(grid: Grid) -> Tensor:
    """The centre of every token as (x, y), a fraction of the image inside the padding: (B, HW, 2)."""
    centres = []
    for (height, width), ratio in zip(grid.shapes, grid.valid_ratios().unbind(1), strict=True):
        y = (torch.arange(height, device=ratio.device) + 0.5) / height  # (H,)
        x = (torch.arange(width, device=ratio.device) + 0.5) / width  # (W,)
        cells = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)  # (H, W, 2)
        centres.append(cells.flatten(0, 1) / ratio[:, None])  # (B, H*W, 2)
    return torch.cat(centres, dim=1)


class DeformableAttention(Traced):
    """Multi-scale deformable attention, MSDeformAttn (Zhu et al. 2021, equation 3).

    Forward: query (B, Q, d) with its position added, reference (B, Q, 2) as (x, y) or (B, Q, 4) as cxcywh, relative to
    the image inside the padding, memory (B, HW, d), grid -> (B, Q, d). The values of padded tokens are zero, and so
    is everything outside the map. Offsets count cells from a point, and half box sides / points from a box.

    Records `locations` (B, Q, heads, levels, points, 2), relative to the padded map, and `weights` (B, Q, heads,
    levels, points), which sum to 1 over levels and points.
    """

    def __init__(self, d_model: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"d_model={d_model} cannot be split among {heads} heads: choose a multiple of {heads}")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(d_model, heads * levels * points * 2)
        self.scores = nn.Linear(d_model, heads * levels * points)
        self.value, self.output = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """At first head m looks 1, 2, ... cells away in direction m of the compass, at all points alike."""
        nn.init.zeros_(self.offsets.weight)
        steps = torch.arange(1, self.points + 1)[:, None]  # (points, 1)
        bias = (compass(self.heads)[:, None, None] * steps).expand(-1, self.levels, -1, -1)
        self.offsets.bias.data.copy_(bias.flatten())  # (heads * levels * points * 2,)
        for parameter in (self.scores.weight, self.scores.bias, self.value.bias, self.output.bias):
            nn.init.zeros_(parameter)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, query: Tensor, reference: Tensor, memory: Tensor, grid: Grid) -> Tensor:
        value = self.value(memory).masked_fill(grid.padding_mask[..., None], 0)  # (B, HW, d)
        weights = self.scores(query).unflatten(-1, (self.heads, -1)).softmax(dim=-1)  # (B, Q, heads, levels*points)
        weights = weights.unflatten(-1, (self.levels, self.points))
        locations = self.locate(query, reference, grid)
        self.record(locations=locations, weights=weights)
        return self.output(sample(value.unflatten(-1, (self.heads, -1)), grid.shapes, locations, weights))

    def locate(self, query: Tensor, reference: Tensor, grid: Grid) -> Tensor:
        """Where to look: reference plus offset, (B, Q, heads, levels, points, 2) as (x, y), 0 to 1 across the map."""
        offsets = self.offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2))
        ratios = grid.valid_ratios()[:, None]  # (B, 1, levels, 2): from the image to the padded map
        centre = (reference[:, :, None, :2] * ratios)[:, :, None, :, None]  # (B, Q, 1, levels, 1, 2)
        if reference.shape[-1] == 2:
            size = offsets.new_tensor([(width, height) for height, width in grid.shapes])  # (levels, 2)
            return centre + offsets / size[:, None]
        half = (reference[:, :, None, 2:] * ratios / 2)[:, :, None, :, None]  # (B, Q, 1, levels, 1, 2)
        return centre + offsets * half / self.points
