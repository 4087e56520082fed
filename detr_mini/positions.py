"""Positions: how a set of tokens learns where each of them sits.

Attention sees a set: shuffle the tokens and every output is shuffled, nothing else changes. So each
token gets an address, a vector of the same width, that is added to (or joined with) queries and keys.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Grid:
    """Where the tokens sit: everything about a batch of feature maps except their content.

    position: (B, HW, d) one address per token. padding_mask: (B, HW) True where a token is padding.
    shapes: (H, W) of every feature map, in the order in which their tokens follow each other.
    """

    position: Tensor
    padding_mask: Tensor
    shapes: list[tuple[int, int]]

    def masks(self) -> list[Tensor]:
        """The padding mask as one map (B, H, W) for every feature map."""
        flat = self.padding_mask.split([height * width for height, width in self.shapes], dim=1)
        return [mask.unflatten(1, shape) for mask, shape in zip(flat, self.shapes, strict=True)]

    def valid_ratios(self) -> Tensor:
        """The part of every map that is image and not padding: (B, levels, 2) as (width, height), 0 to 1."""
        sides = [(1 - m[:, 0].float().mean(1), 1 - m[:, :, 0].float().mean(1)) for m in self.masks()]  # [(B,), (B,)]
        return torch.stack([torch.stack(side, dim=-1) for side in sides], dim=1)


def sine(coordinates: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """Numbers as waves: each coordinate becomes `width` values, sines and cosines in turn.

    coordinates: (..., n) with n numbers, usually in [0, 1]. Returns (..., n * width): the code of the first
    number, then of the second. Wavelengths grow from 1 to `temperature` (Vaswani et al. 2017, section 3.5,
    on coordinates scaled by 2 pi as in DETR's code).
    """
    index = torch.arange(width // 2, dtype=coordinates.dtype, device=coordinates.device)
    wavelength = temperature ** (2 * index / width)  # (width/2,)
    angle = coordinates.unsqueeze(-1) * (2 * math.pi) / wavelength  # (..., n, width/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)  # (..., n * width)


def grid_coordinates(padding_mask: Tensor, half_cell: bool = False) -> Tensor:
    """(y, x) of every cell as a fraction of the image inside the padding: (B, H, W) -> (B, H, W, 2).

    Counts the cells that are not padding. DETR's code takes the far edge of a cell, so the last one is at 1;
    `half_cell=True` takes its centre, as Deformable DETR and Anchor DETR do.
    """
    valid = (~padding_mask).float()
    y, x = valid.cumsum(1), valid.cumsum(2)  # (B, H, W) 1, 2, 3, ...
    shift = 0.5 if half_cell else 0.0
    return torch.stack([(y - shift) / (y[:, -1:] + 1e-6), (x - shift) / (x[:, :, -1:] + 1e-6)], dim=-1)


class SineGrid(nn.Module):
    """The fixed address of every cell: half of the vector for y, then half for x.

    Forward: padding mask (B, H, W) -> (B, H, W, d). Source: DETR, models/position_encoding.py.
    """

    def __init__(self, d_model: int, temperature: float = 10000.0, half_cell: bool = False) -> None:
        super().__init__()
        self.width, self.temperature, self.half_cell = d_model // 2, temperature, half_cell

    def forward(self, padding_mask: Tensor) -> Tensor:
        return sine(grid_coordinates(padding_mask, self.half_cell), self.width, self.temperature)


class LearnedGrid(nn.Module):
    """A learned address: one vector per column and one per row, joined (x first, as in DETR's code).

    Forward: padding mask (B, H, W) -> (B, H, W, d). Maps of up to `longest` cells a side; ValueError beyond.
    """

    def __init__(self, d_model: int, longest: int = 50) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(longest, d_model // 2), nn.Embedding(longest, d_model // 2)
        nn.init.uniform_(self.rows.weight)
        nn.init.uniform_(self.columns.weight)

    def forward(self, padding_mask: Tensor) -> Tensor:
        batch, height, width = padding_mask.shape
        if max(height, width) > self.rows.num_embeddings:
            raise ValueError(
                f"a {height} x {width} feature map does not fit the {self.rows.num_embeddings} learned positions: "
                "use smaller images, LearnedGrid(longest=...) or SineGrid"
            )
        x = self.columns.weight[:width].expand(height, width, -1)
        y = self.rows.weight[:height].unsqueeze(1).expand(height, width, -1)
        return torch.cat([x, y], dim=-1).expand(batch, -1, -1, -1)


class MLP(nn.Module):
    """Linear layers with ReLU between them: (..., widths[0]) -> (..., widths[-1]).

    DETR's box head and the small networks that turn points into positions are all of this kind.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
