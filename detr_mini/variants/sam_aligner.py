"""The semantics aligner of SAM-DETR: making a query out of the features inside its box.

A box is cut out of memory (RoIAlign), a small network finds one salient point per head in the cut, and the features
there become what that head asks with. Zhang et al. 2022, Accelerating DETR Convergence via Semantic-Aligned Matching.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from detr_mini.attention import MultiHeadAttention, xavier
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.positions import MLP, Grid
from detr_mini.recipes import SamModel

CROP = 7  # a box is cut out as 7 x 7 cells


class AlignedAttention(MultiHeadAttention):
    """Cross-attention in which every head asks, at full width, with the features of one salient point.

    Forward: query and query_position (B, heads, Q, d), key, key_position and value (B, K, d), bias as in
    MultiHeadAttention -> (B, Q, d). All heads share the keys; scores are divided by sqrt(d); values are split among
    the heads as usual. Source: SAM-DETR, models/transformer_decoder.py.
    """

    def __init__(self, recipe: SamModel) -> None:
        width, heads = recipe.d_model, recipe.heads
        super().__init__(width, heads, recipe.dropout)
        self.query_position, self.key_position = MLP(width, width, width), MLP(width, width, width)
        self.content_weight, self.position_weight = nn.Linear(width, heads * width), nn.Linear(width, heads * width)
        self.narrow = nn.Conv2d(width, width // 4, 1)
        found = 4 * heads if recipe.gaussian else 2 * heads  # a point (x, y) per head, and its two widths
        self.find = MLP(CROP * CROP * width // 4, width, 2 * width, 2 * width, found)
        xavier(self)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_position: Tensor,
        key_position: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        q = self.query(query) + self.query_position(query_position)  # (B, heads, Q, d)
        k = self.key(key) + self.key_position(key_position)  # (B, K, d)
        k = k.unsqueeze(1).expand(-1, self.heads, -1, -1)  # (B, heads, K, d)
        return self.output(self.merge(self.attend(q, k, self.split(self.value(value)), bias)))

    def salient(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Where the telling places are: crops (B, Q, d, 7, 7) -> offsets and widths, (B, Q, heads, 2) as (x, y).

        Offsets run from -1 to 1, edge to edge of the box. Widths are those of the Gaussian; without it they have
        no heads (B, Q, 0, 2).
        """
        weight, bias = self.narrow.weight.flatten(1), self.narrow.bias[:, None]  # (d/4, d), (d/4, 1)
        narrow = F.relu(weight @ crops.flatten(-2) + bias)  # (B, Q, d/4, 49): a 1 x 1 convolution, as a matrix product
        found = self.find(narrow.flatten(2))  # (B, Q, 2 heads or 4 heads)
        offsets, widths = found.unflatten(-1, (-1, 2)).tensor_split([self.heads], dim=2)
        return offsets.tanh(), widths

    def gates(self, content: Tensor) -> tuple[Tensor, Tensor]:
        """Reweighting: content (B, Q, d) -> how much of the resampled content and of its position it lets in.

        Two tensors (B, Q, heads, d), 0 to 1.
        """
        gates = self.content_weight(content).sigmoid(), self.position_weight(content).sigmoid()  # (B, Q, heads * d)
        return gates[0].unflatten(-1, (self.heads, -1)), gates[1].unflatten(-1, (self.heads, -1))


def extent(grid: Grid) -> Tensor:
    """Width and height, in cells, of the part of the map that is image and not padding: (B, 1, 2)."""
    return grid.valid_ratios() * torch.tensor(grid.shapes[0][::-1], device=grid.position.device)


def crop(box: Tensor, memory: Tensor, grid: Grid) -> Tensor:
    """RoIAlign: what memory (B, HW, d) holds inside each box (B, Q, 4) cxcywh -> (B, Q, d, 7, 7).

    A box carries no gradient here, so RoIAlign is a fixed weighted sum of cells. Where cells are fewer than channels it
    is cheaper to ask for the weights, and to multiply: RoIAlign's own backward pass takes long on a CPU.
    """
    corners = cxcywh_to_xyxy(box.detach()) * extent(grid).repeat(1, 1, 2)  # (B, Q, 4) in cells
    cells, width = memory.shape[1:]
    if cells > width:
        maps = memory.transpose(1, 2).unflatten(-1, grid.shapes[0])  # (B, d, H, W)
        return roi_align(maps, list(corners), CROP, aligned=True).unflatten(0, box.shape[:2])
    one_each = torch.eye(cells, dtype=memory.dtype, device=memory.device).view(1, cells, *grid.shapes[0])
    weights = roi_align(one_each, [corners.flatten(0, 1)], CROP, aligned=True)  # (B*Q, HW, 7, 7)
    weights = weights.view(*box.shape[:2], cells, -1).transpose(2, 3).flatten(1, 2)  # (B, Q * 49, HW)
    return (weights @ memory).unflatten(1, (-1, CROP, CROP)).movedim(-1, 2)


def sample(crops: Tensor, offsets: Tensor) -> Tensor:
    """Bilinear: crops (B, Q, d, 7, 7) at offsets (B, Q, heads, 2), -1 to 1 from edge to edge -> (B, Q, heads, d)."""
    found = F.grid_sample(crops.flatten(0, 1), offsets.flatten(0, 1).unsqueeze(1), align_corners=False)
    return found.squeeze(2).transpose(1, 2).unflatten(0, offsets.shape[:2])


def gaussian(points: Tensor, widths: Tensor, grid: Grid) -> Tensor:
    """A Gaussian around every point, as a term of the scores: (B, heads, Q, HW), 0 at the point and below elsewhere.

    -(s_x^2 d_x^2 + s_y^2 d_y^2) / 8 with distances in cells, from the centres of cells. points: (B, Q, heads, 2), as
    fractions of the image. widths: (B, Q, heads, 2), s_x and s_y. SMCA's term, in the form of SAM-DETR's code.
    """
    height, width = grid.shapes[0]
    x, y = (points * extent(grid).unsqueeze(1)).unbind(-1)  # (B, Q, heads) in cells
    across = (torch.arange(width, device=x.device) + 0.5 - x[..., None]) * widths[..., :1]  # (B, Q, heads, W)
    down = (torch.arange(height, device=y.device) + 0.5 - y[..., None]) * widths[..., 1:]  # (B, Q, heads, H)
    term = -(down[..., :, None] ** 2 + across[..., None, :] ** 2) / 8  # (B, Q, heads, H, W)
    return term.flatten(-2).transpose(1, 2)
