"""SAM-DETR: a query speaks the language of the image.

Paper: Zhang et al. 2022, Accelerating DETR Convergence via Semantic-Aligned Matching.
Problem: a query and an image token are vectors from two different worlds, and the dot product between them means
little until training has brought the two together. Here the query that asks is made of the image's own features,
taken at salient points inside the query's box, so that alike means the same thing from the first step.
Seams overridden: init_queries (boxes), query_position (sine of the centre), cross_attend (with the resampled query),
decode_box and update_reference (an offset from the box, in logits).
Also: self-attention projects content and position separately; heads of its own for every layer, no decoder norm;
positions at the centres of cells; focal head; 300 queries; optional Gaussian of SMCA around the salient points.
Unchanged: backbone, encoder, feed-forward, the decoder's loop; the residual carries the old content.
Parameters added: 16,771,178 (R50, paper's configuration).
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from detr_mini.attention import ContentPositionAttention, MultiHeadAttention, padding_bias, xavier
from detr_mini.boxes import cxcywh_to_xyxy, inverse_sigmoid
from detr_mini.decoder import Decoder, DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.positions import MLP, Grid, SineGrid, sine
from detr_mini.recipes import ModelRecipe, SamModel

CROP = 7  # cells per side of the crop inside a box


class SalientPoints(nn.Module):
    """Where inside a box the telling places are: one point per head.

    Forward: crops (N, d, 7, 7) -> (N, heads, 2) points, -1 to 1 from edge to edge of the box, and, with `gaussian`,
    (N, heads, 2) widths for x and y, otherwise None.
    """

    def __init__(self, d_model: int, heads: int, gaussian: bool) -> None:
        super().__init__()
        self.heads, self.gaussian = heads, gaussian
        self.narrow = nn.Conv2d(d_model, d_model // 4, 1)
        per_head = 4 if gaussian else 2
        self.find = xavier(MLP(CROP * CROP * d_model // 4, d_model, 2 * d_model, 2 * d_model, heads * per_head))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        found = self.find(F.relu(self.narrow(crops)).flatten(1)).unflatten(-1, (-1, self.heads, 2))  # (N, 1 or 2, heads, 2)
        return found[:, 0].tanh(), found[:, 1] if self.gaussian else None


class AlignedAttention(MultiHeadAttention):
    """Cross-attention whose heads ask with full-width queries, one salient point each, for the same keys.

    Forward: query and query_position (B, heads, Q, d), key, key_position and value (B, K, d) -> (B, Q, d).
    Scores are divided by sqrt(d). Values are split among the heads as in MultiHeadAttention.
    """

    def __init__(self, recipe: SamModel) -> None:
        width, heads = recipe.d_model, recipe.heads
        super().__init__(width, heads, recipe.dropout)
        self.query_position, self.key_position = MLP(width, width, width), MLP(width, width, width)
        self.content_weight, self.position_weight = nn.Linear(width, heads * width), nn.Linear(width, heads * width)
        xavier(self)
        self.salient = SalientPoints(width, heads, recipe.gaussian)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, query_position: Tensor, key_position: Tensor, bias: Tensor
    ) -> Tensor:
        q = self.query(query) + self.query_position(query_position)  # (B, heads, Q, d)
        k = (self.key(key) + self.key_position(key_position))[:, None].expand(-1, self.heads, -1, -1)
        return self.output(self.merge(self.attend(q, k, self.split(self.value(value)), bias)))


class SamDecoder(Decoder):
    """A decoder that asks with features of the image itself, taken from inside each query's box."""

    def __init__(self, recipe: SamModel) -> None:
        super().__init__(recipe)
        self.query_embed = nn.Embedding(recipe.queries, 4)  # the boxes, in logits
        self.norm = nn.Identity()
        nn.init.zeros_(self.box_head.layers[-1].weight)
        nn.init.zeros_(self.box_head.layers[-1].bias)
        self.class_head = nn.ModuleList(deepcopy(self.class_head) for _ in self.layers)
        self.box_head = nn.ModuleList(deepcopy(self.box_head) for _ in self.layers)

    def make_self_attention(self, recipe: ModelRecipe) -> nn.Module:
        return ContentPositionAttention(recipe.d_model, recipe.heads, recipe.dropout)

    def make_cross_attention(self, recipe: SamModel, index: int) -> nn.Module:
        return AlignedAttention(recipe)

    def init_queries(self, memory: Tensor, grid: Grid) -> Queries:
        """Learned boxes with content 0."""
        learned = self.query_embed.weight.expand(len(memory), -1, -1)  # (B, Q, 4)
        content = learned.new_zeros(*learned.shape[:2], self.recipe.d_model)  # (B, Q, d)
        return Queries(content, learned, reference=learned.sigmoid())

    def query_position(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """The sine code of the centre of the box, (B, Q, d)."""
        return self.code(queries.reference[..., :2])

    def code(self, points: Tensor) -> Tensor:
        """The code of points (..., 2) as (x, y), (..., d), y before x as in the grid; without gradient."""
        return sine(points.detach().flip(-1), self.recipe.d_model // 2)

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        """The query is resampled from memory at salient points of its box, then compared with memory."""
        attend, box = layer.cross_attention, queries.reference
        crops = self.crop(box, memory, grid)  # (B, Q, d, 7, 7)
        offsets, widths = attend.salient(crops.flatten(0, 1))  # (B*Q, heads, 2)
        content = F.grid_sample(crops.flatten(0, 1), offsets[:, None], align_corners=False)  # (B*Q, d, 1, heads)
        content = content[:, :, 0].transpose(1, 2).unflatten(0, box.shape[:2])  # (B, Q, heads, d)
        offsets = offsets.unflatten(0, box.shape[:2])  # (B, Q, heads, 2)
        points = box[..., None, :2] + offsets * box[..., None, 2:] / 2  # (B, Q, heads, 2)
        attend.record(offsets=offsets, points=points)
        content = content * self.gate(attend.content_weight, queries)
        position = self.code(points) * self.gate(attend.position_weight, queries)  # (B, Q, heads, d)
        bias = padding_bias(grid.padding_mask)
        if widths is not None:
            bias = bias + self.gaussian(attend, points, widths.unflatten(0, box.shape[:2]), grid)
        heads_first = content.transpose(1, 2), position.transpose(1, 2)  # (B, heads, Q, d)
        return attend(heads_first[0], memory, memory, heads_first[1], grid.position, bias)

    def crop(self, box: Tensor, memory: Tensor, grid: Grid) -> Tensor:
        """RoIAlign: memory inside each box as 7 x 7 cells, (B, Q, d, 7, 7). Boxes cover the part that is image."""
        maps = memory.transpose(1, 2).unflatten(-1, grid.shapes[0])  # (B, d, H, W)
        corners = cxcywh_to_xyxy(box.detach()) * self.extent(grid).repeat(1, 2)[:, None]  # (B, Q, 4) in cells
        return roi_align(maps, list(corners), CROP, aligned=True).unflatten(0, box.shape[:2])

    def extent(self, grid: Grid) -> Tensor:
        """Width and height, in cells, of the part of the map that is image: (B, 2)."""
        return grid.valid_ratios()[:, 0] * torch.tensor(grid.shapes[0][::-1], device=grid.position.device)

    def gate(self, weight: nn.Linear, queries: Queries) -> Tensor:
        """What the old content wants of the resampled one, 0 to 1: (B, Q, heads, d). Reweighting in the paper."""
        return weight(queries.content).sigmoid().unflatten(-1, (self.recipe.heads, -1))

    def gaussian(self, attend: AlignedAttention, points: Tensor, widths: Tensor, grid: Grid) -> Tensor:
        """SMCA's term of the scores, (B, heads, Q, HW): -(s_x^2 dx^2 + s_y^2 dy^2) / 8, distances in cells."""
        height, width = grid.shapes[0]
        x, y = (points * self.extent(grid)[:, None, None]).unbind(-1)  # (B, Q, heads) in cells
        across = (torch.arange(width, device=x.device) + 0.5 - x[..., None]) * widths[..., :1]  # (B, Q, heads, W)
        down = (torch.arange(height, device=y.device) + 0.5 - y[..., None]) * widths[..., 1:]  # (B, Q, heads, H)
        term = -(down[..., :, None] ** 2 + across[..., None, :] ** 2) / 8  # (B, Q, heads, H, W)
        term = term.flatten(-2).transpose(1, 2)
        attend.record(widths=widths, gaussian=term)
        return term

    def classify(self, layer: DecoderLayer, hidden: Tensor) -> Tensor:
        return self.class_head[layer.index](hidden)

    def decode_box(self, layer: DecoderLayer, hidden: Tensor, queries: Queries) -> Tensor:
        """The box as an offset from the reference box, in logits; every layer has its own head."""
        return (self.box_head[layer.index](hidden) + inverse_sigmoid(queries.reference)).sigmoid()

    def update_reference(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """The box that this layer predicts, as a constant."""
        return self.decode_box(layer, queries.content, queries).detach()


class SamDetr(Detr):
    """SAM-DETR."""

    system = "sam"
    decoder_class = SamDecoder

    def make_projections(self, recipe: SamModel) -> nn.ModuleList:
        """As DETR, with a GroupNorm behind it for schedules under 25 epochs."""
        convolutions = super().make_projections(recipe)
        norms = [[nn.GroupNorm(32, recipe.d_model)] if recipe.norm_input else [] for _ in convolutions]
        return nn.ModuleList(nn.Sequential(c, *norm) for c, norm in zip(convolutions, norms, strict=True))

    def make_grid_position(self, recipe: ModelRecipe) -> nn.Module:
        return SineGrid(recipe.d_model, half_cell=True)
