"""Conditional DETR: what a query looks for, and where, are two questions.

Paper: Meng et al. 2021, Conditional DETR for Fast Training Convergence.
Problem: DETR adds what and where into one vector, so a query finds the ends of its object only once its content is
good. Here content meets content and place meets place, and the content itself says which way from a reference point.
Seams overridden: init_queries (also a reference point), cross_attend (content and place side by side), decode_box
(centre as an offset from the reference point).
Also: self-attention projects content and position separately; focal head; 300 queries.
Unchanged: backbone, encoder, query_position, update_reference, feed-forward, norms, heads, the decoder's loop.
Parameters added: 1,893,633 (R50, paper's configuration).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from detr_mini.attention import ConcatenatedAttention, ContentPositionAttention, padding_bias, xavier
from detr_mini.boxes import inverse_sigmoid
from detr_mini.decoder import Decoder, DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.positions import MLP, Grid, sine
from detr_mini.recipes import ModelRecipe


class ConditionalDecoder(Decoder):
    """A decoder whose queries have a fixed reference point (x, y), and look around it."""

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__(recipe)
        width = recipe.d_model
        self.point_head = xavier(MLP(width, width, 2))
        self.place_scale = xavier(MLP(width, width, width))
        nn.init.zeros_(self.box_head.layers[-1].weight)  # at first, a box of half the image around the point
        nn.init.zeros_(self.box_head.layers[-1].bias)

    def make_self_attention(self, recipe: ModelRecipe) -> nn.Module:
        """Content and position projected separately."""
        return ContentPositionAttention(recipe.d_model, recipe.heads, recipe.dropout)

    def make_cross_attention(self, recipe: ModelRecipe, index: int) -> nn.Module:
        """Content and place side by side; in layer 0 positions are also added to the content."""
        return ConcatenatedAttention(recipe.d_model, recipe.heads, recipe.dropout, first=index == 0)

    def init_queries(self, memory: Tensor, grid: Grid) -> Queries:
        """As DETR, and a reference point from the learned embedding, the same for all layers."""
        queries = super().init_queries(memory, grid)
        return replace(queries, reference=self.point_head(queries.learned).sigmoid())  # (B, Q, 2)

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        """Content is compared with content, the place with positions."""
        hidden, place = padding_bias(grid.padding_mask), self.place(layer, queries)
        attend = layer.cross_attention
        return attend(queries.content, memory, memory, queries.position, grid.position, place, hidden)

    def place(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """Where a query looks, (B, Q, d): the code of its point, scaled by what it found so far.

        p_q = T p_s with T = diag(MLP(f)), section 3.3. f is the layer's input; layer 0 has none yet, there T = 1.
        """
        code = sine(queries.reference.flip(-1), self.recipe.d_model // 2)  # (B, Q, d), y before x as in the grid
        if layer.index == 0:
            return code
        scale = self.place_scale(queries.entering)  # (B, Q, d)
        layer.cross_attention.record(place_scale=scale)
        return code * scale

    def decode_box(self, layer: DecoderLayer, hidden: Tensor, queries: Queries) -> Tensor:
        """The centre as an offset from the reference point, in logits; width and height as in DETR."""
        delta = self.box_head(hidden)  # (B, Q, 4)
        centre = delta[..., :2] + inverse_sigmoid(queries.reference)  # (B, Q, 2)
        return torch.cat([centre, delta[..., 2:]], dim=-1).sigmoid()


class ConditionalDetr(Detr):
    """Conditional DETR, as in the authors' code (Atten4Vis/ConditionalDETR)."""

    system = "conditional"
    decoder_class = ConditionalDecoder
