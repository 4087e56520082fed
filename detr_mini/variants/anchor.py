"""Anchor DETR: a query is a point in the image, and each point may hold several objects.

Paper: Wang et al. 2022, Anchor DETR: Query Design for Transformer-Based Object Detection.
Problem: a learned query has no place of its own, so nobody can say where it will look; and one place may hold several
things. Here a query's address is made from an anchor point, as a cell's is, and each point asks in several patterns.
Seams overridden: init_queries (points x patterns, addressed by MLP(sine(point))), cross_attend and encoder_attend (row
and column decoupled, RCDA), decode_box (a centre relative to the point, in logits).
Also: GroupNorm behind the input projection; no decoder norm; focal head.
Unchanged: the queries' self-attention, feed-forward, one pair of heads, the decoder's loop; points are never updated.
Options: patterns (per point), decoupled (False: DETR's attention everywhere).
Parameters added: -4,486,057 (R50, paper's configuration).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini.backbone import normed_projection, padding_at
from detr_mini.boxes import inverse_sigmoid
from detr_mini.decoder import Decoder, DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.encoder import Encoder, EncoderLayer
from detr_mini.positions import MLP, Grid, sine
from detr_mini.recipes import AnchorModel
from detr_mini.variants.row_column_attention import RowColumnAttention


class Address(nn.Module):
    """Where something is, as a vector of width d: an MLP of its sine code. One for queries and cells, in all layers."""

    def __init__(self, recipe: AnchorModel) -> None:
        super().__init__()
        self.width = recipe.d_model
        self.points, self.lines = MLP(*[self.width] * 3), MLP(*[self.width] * 3)
        self.lines.requires_grad_(recipe.decoupled)  # otherwise unused, and there for official checkpoints only

    def point(self, place: Tensor) -> Tensor:
        """A point (x, y), (..., 2) -> (..., d). The first half of the code is for y."""
        return self.points(sine(place.flip(-1), self.width // 2))

    def line(self, place: Tensor) -> Tensor:
        """A row by its y or a column by its x, (...) -> (..., d)."""
        return self.lines(sine(place.unsqueeze(-1), self.width))


@dataclass
class AnchorGrid(Grid):
    """A grid that can address any point. position: under RCDA (B, H + W, d), of all rows, then of all columns."""

    address: Address


def centres(padding: Tensor) -> Tensor:
    """Centres of the cells along one side, 0 to 1 across the image: padding (B, N) bool -> (B, N)."""
    count = (~padding).float().cumsum(1)
    return (count - 0.5) / count[:, -1:]


class AnchorEncoder(Encoder):
    """An encoder in which every cell looks along x and along y."""

    def make_attention(self, recipe: AnchorModel) -> nn.Module:
        return RowColumnAttention(recipe.d_model, recipe.heads) if recipe.decoupled else super().make_attention(recipe)

    def encoder_attend(self, layer: EncoderLayer, memory: Tensor, grid: Grid) -> Tensor:
        """RCDA: a cell has the addresses of its column (x) and of its row (y)."""
        if not isinstance(layer.self_attention, RowColumnAttention):
            return super().encoder_attend(layer, memory, grid)
        height, width = grid.shapes[0]
        rows, columns = grid.position.split([height, width], dim=1)  # (B, H, d), (B, W, d)
        x_address = columns.repeat(1, height, 1)  # (B, HW, d)
        return layer.self_attention(memory, x_address, rows.repeat_interleave(width, dim=1), memory, grid)


class AnchorDecoder(Decoder):
    """A decoder whose queries are anchor points."""

    def __init__(self, recipe: AnchorModel) -> None:
        super().__init__(recipe)
        del self.query_embed
        self.points, self.patterns = nn.Embedding(recipe.queries, 2), nn.Embedding(recipe.patterns, recipe.d_model)
        nn.init.uniform_(self.points.weight)
        self.norm = nn.Identity()
        nn.init.zeros_(self.box_head.layers[-1].weight)
        self.box_head.layers[-1].bias.data.copy_(torch.tensor([0, 0, -2, -2]))  # sigmoid(-2) = 0.12

    def make_cross_attention(self, recipe: AnchorModel, index: int) -> nn.Module:
        if not recipe.decoupled:
            return super().make_cross_attention(recipe, index)
        return RowColumnAttention(recipe.d_model, recipe.heads)

    def init_queries(self, memory: Tensor, grid: AnchorGrid) -> Queries:
        """Every pattern at every point: all points of pattern 0 first. Points are used as they are learned."""
        points = self.points.weight.repeat(self.recipe.patterns, 1)  # (Q, 2)
        content = self.patterns.weight.repeat_interleave(self.recipe.queries, dim=0)  # (Q, d)
        everything = content, grid.address.point(points), points
        content, learned, reference = (x.expand(len(memory), -1, -1) for x in everything)  # (B, Q, d or 2)
        return Queries(content, learned, reference=reference)

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: AnchorGrid) -> Tensor:
        """RCDA: the point's x against columns, its y against rows."""
        if not self.recipe.decoupled:
            return super().cross_attend(layer, queries, memory, grid)
        x, y = queries.reference[:1].unbind(-1)  # (1, Q): the points are the same in all images
        return layer.cross_attention(queries.content, grid.address.line(x), grid.address.line(y), memory, grid)

    def decode_box(self, layer: DecoderLayer, hidden: Tensor, queries: Queries) -> Tensor:
        """The centre as an offset from the point, in logits."""
        return (self.box_head(hidden) + F.pad(inverse_sigmoid(queries.reference), (0, 2))).sigmoid()


class AnchorDetr(Detr):
    """Anchor DETR."""

    system = "anchor"
    encoder_class = AnchorEncoder
    decoder_class = AnchorDecoder

    def make_projections(self, recipe: AnchorModel) -> nn.ModuleList:
        return nn.ModuleList(normed_projection(channels, recipe.d_model) for channels in self.backbone.channels)

    def make_grid_position(self, recipe: AnchorModel) -> nn.Module:
        return Address(recipe)

    def tokenize(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Grid]:
        """As DETR, but cells are addressed by the network that addresses the queries' points."""
        features, address = self.feature_maps(images)[0], self.grid_position  # (B, d, H, W)
        hidden = padding_at(mask, features.shape[-2:])  # (B, H, W)
        y, x = centres(hidden[:, :, 0]), centres(hidden[:, 0])  # (B, H), (B, W)
        if self.recipe.decoupled:
            position = torch.cat([address.line(y), address.line(x)], dim=1)  # (B, H + W, d)
        else:
            cells = torch.stack([x[:, None].expand_as(hidden), y[..., None].expand_as(hidden)], dim=-1)
            position = address.point(cells).flatten(1, 2)  # (B, HW, d)
        grid = AnchorGrid(position, hidden.flatten(1), [tuple(hidden.shape[1:])], address)
        return features.flatten(2).transpose(1, 2), grid
