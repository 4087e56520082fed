"""SMCA: a query first guesses where its object is, and looks there.

Paper: Gao et al. 2021, Fast Convergence of DETR with Spatially Modulated Co-Attention.
Problem: DETR's cross-attention may look anywhere in the image, and takes hundreds of epochs to learn to look near the
object. Here each query predicts a centre, and a Gaussian around it, shifted and wide per head, is added to the scores.
Seams overridden: init_queries (a centre, once, from layer 0's query), cross_attend (dot product plus log-Gaussian),
decode_box (relative to that centre, in logits).
Also: focal head, with one spare logit that is only ever a negative (as in the authors' code); 300 queries.
Unchanged: backbone, encoder, query positions, self-attention, feed-forward, norms, one pair of heads, the loop.
Options: spare_logit; levels (2 or more: encoder_attend within maps and once across them, co-attention over all maps;
ours after the paper's description, not held against an official number).
Parameters added: 235,714 (R50, paper's configuration).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini.attention import padding_bias, xavier
from detr_mini.decoder import Decoder, DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.encoder import Encoder, EncoderLayer
from detr_mini.positions import MLP, Grid
from detr_mini.recipes import SmcaModel
from detr_mini.variants.co_attention import CoAttention, MultiScaleCoAttention, sizes


@dataclass
class SmcaQueries(Queries):
    """Queries with the logits of their centre, (B, Q, 2) as (x, y); the reference is their sigmoid."""

    centre: Tensor | None = None


class SmcaEncoder(Encoder):
    """DETR's encoder; with several maps, all layers but the middle one stay within a map (their weights are shared)."""

    def encoder_attend(self, layer: EncoderLayer, memory: Tensor, grid: Grid) -> Tensor:
        """As DETR. Several maps: intra-scale attention, and multi-scale attention in the middle layer."""
        if len(grid.shapes) == 1 or layer is self.layers[len(self.layers) // 2]:
            return super().encoder_attend(layer, memory, grid)
        if layer.self_attention.trace is not None:  # the same numbers as one map over all tokens
            level = torch.repeat_interleave(torch.tensor(sizes(grid))).to(memory.device)  # (HW,)
            bias = padding_bias(grid.padding_mask).masked_fill(level != level[:, None], float("-inf"))
            return layer.self_attention(memory, memory, memory, grid.position, grid.position, bias)
        parts = zip(*(x.split(sizes(grid), dim=1) for x in (memory, grid.position, grid.padding_mask)), strict=True)
        return torch.cat([
            super(SmcaEncoder, self).encoder_attend(layer, part, Grid(position, hidden, [shape]))
            for (part, position, hidden), shape in zip(parts, grid.shapes, strict=True)
        ], dim=1)


class SmcaDecoder(Decoder):
    """A decoder whose queries expect their object around a centre."""

    def __init__(self, recipe: SmcaModel) -> None:
        super().__init__(recipe)
        self.centre_head = xavier(MLP(recipe.d_model, recipe.d_model, recipe.d_model, 2))
        if recipe.spare_logit:
            self.class_head = nn.Linear(recipe.d_model, recipe.classes + 1)
            nn.init.constant_(self.class_head.bias, -4.595)

    def make_cross_attention(self, recipe: SmcaModel, index: int) -> nn.Module:
        return MultiScaleCoAttention(recipe) if recipe.levels > 1 else CoAttention(recipe)

    def init_queries(self, memory: Tensor, grid: Grid) -> Queries:
        """As DETR; the centre is an MLP of layer 0's query and stays the same in all layers."""
        queries = super().init_queries(memory, grid)
        centre = self.centre_head(self.layers[0].cross_attention.norm(queries.content + queries.learned))  # (B, Q, 2)
        return SmcaQueries(queries.content, queries.learned, reference=centre.sigmoid(), centre=centre)

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        """Dot product plus log-Gaussian around the centre."""
        return layer.cross_attention(queries, memory, grid)

    def decode_box(self, layer: DecoderLayer, hidden: Tensor, queries: SmcaQueries) -> Tensor:
        """The box relative to the centre, in logits."""
        return (self.box_head(hidden) + F.pad(queries.centre, (0, 2))).sigmoid()


class SmcaDetr(Detr):
    """SMCA-DETR."""

    system = "smca"
    encoder_class = SmcaEncoder
    decoder_class = SmcaDecoder

    def make_backbone(self, recipe: SmcaModel) -> nn.Module:
        """C5; with more levels C4 as well, strides 16 and 32."""
        self.stages = (4,) if recipe.levels == 1 else (3, 4)
        return super().make_backbone(recipe)

    def make_projections(self, recipe: SmcaModel) -> nn.ModuleList:
        """As DETR; levels beyond the backbone's come from 3x3 convolutions with stride 2."""
        projections, width = super().make_projections(recipe), recipe.d_model
        for level in range(len(projections), recipe.levels):
            source = self.backbone.channels[-1] if level == len(self.stages) else width
            projections.append(nn.Conv2d(source, width, 3, stride=2, padding=1))
        return projections
