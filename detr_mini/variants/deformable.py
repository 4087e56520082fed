"""Deformable DETR: look at a few places near a reference point, on all scales.

Paper: Zhu et al. 2021, Deformable DETR: Deformable Transformers for End-to-End Object Detection.
Problem: a query starts by looking at all tokens alike and learns only slowly where to look, and attention between all
tokens is too dear for the fine maps that small objects need. Here each head samples a few points around a reference.
Seams overridden: init_queries (learned content, a learned point, or proposals), cross_attend and encoder_attend
(sampled points on every level), decode_box (an offset from the reference, in logits), update_reference (optional).
Also: C3 to C5 and a coarser map, each with GroupNorm and a learned level address; no decoder norm; focal head.
Unchanged: the queries' self-attention, feed-forward, the decoder's loop, sine positions (at cell centres).
Options: levels (1 = C5 alone), refine (every layer corrects the box), two_stage (the encoder proposes the boxes).
Parameters added: -1,455,103 (R50, paper's configuration); refined -675,108; two-stage -343,239; one level -7,458,175.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini.attention import xavier
from detr_mini.backbone import normed_projection
from detr_mini.boxes import inverse_sigmoid
from detr_mini.decoder import Decoder, DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.encoder import Encoder, EncoderLayer
from detr_mini.positions import Grid, SineGrid
from detr_mini.recipes import DeformableModel
from detr_mini.variants.deformable_attention import DeformableAttention, token_centres
from detr_mini.variants.first_stage import FirstStage


class DeformableEncoder(Encoder):
    """An encoder in which every token samples a few places around itself, on all levels."""

    def make_attention(self, recipe: DeformableModel) -> nn.Module:
        return DeformableAttention(recipe.d_model, recipe.heads, recipe.levels, recipe.points)

    def encoder_attend(self, layer: EncoderLayer, memory: Tensor, grid: Grid) -> Tensor:
        """A token's reference is its own centre."""
        return layer.self_attention(memory + grid.position, token_centres(grid), memory, grid)


class DeformableDecoder(Decoder):
    """A decoder whose queries sample memory around a reference: a point, or the box of the layer before.

    Raises ValueError when two-stage is asked for without refinement.
    """

    def __init__(self, recipe: DeformableModel) -> None:
        if recipe.two_stage and not recipe.refine:
            raise ValueError("two_stage=True refines the proposals: set refine=True as well")
        super().__init__(recipe)
        width, last = recipe.d_model, self.box_head.layers[-1]
        self.norm = nn.Identity()
        nn.init.zeros_(last.weight)
        last.bias.data.copy_(torch.tensor([0, 0, 0, 0] if recipe.two_stage else [0, 0, -2, -2]))  # sigmoid(-2) = 0.12
        heads = recipe.decoder_layers + recipe.two_stage if recipe.refine else 1  # shared by all layers, or one each
        self.class_head = nn.ModuleList(deepcopy(self.class_head) for _ in range(heads))
        self.box_head = nn.ModuleList(deepcopy(self.box_head) for _ in range(heads))
        for head in self.box_head[1:]:
            nn.init.zeros_(head.layers[-1].bias)
        if recipe.two_stage:
            del self.query_embed
            self.first_stage = FirstStage(width, recipe.queries)
        else:
            self.query_embed = nn.Embedding(recipe.queries, 2 * width)  # position, then content
            self.reference_head = xavier(nn.Linear(width, 2))
            nn.init.zeros_(self.reference_head.bias)

    def make_cross_attention(self, recipe: DeformableModel, index: int) -> nn.Module:
        return DeformableAttention(recipe.d_model, recipe.heads, recipe.levels, recipe.points)

    def init_queries(self, memory: Tensor, grid: Grid) -> Queries:
        """Learned position and content; the reference is a linear function of the position. Two-stage: proposals."""
        if self.recipe.two_stage:
            return self.first_stage(memory, grid, self.class_head[-1], self.box_head[-1])
        learned = self.query_embed.weight.expand(memory.shape[0], -1, -1)  # (B, Q, 2d)
        position, content = learned.chunk(2, dim=-1)
        return Queries(content, position, reference=self.reference_head(position).sigmoid())

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        """Points around the reference, on every level."""
        return layer.cross_attention(queries.content + queries.position, queries.reference, memory, grid)

    def own(self, heads: nn.ModuleList, layer: DecoderLayer) -> nn.Module:
        """The head of this layer: the only one, or its own under refinement."""
        return heads[layer.index if self.recipe.refine else 0]

    def classify(self, layer: DecoderLayer, hidden: Tensor) -> Tensor:
        return self.own(self.class_head, layer)(hidden)

    def decode_box(self, layer: DecoderLayer, hidden: Tensor, queries: Queries) -> Tensor:
        """The box as an offset from the reference, in logits; a point gives a centre only."""
        reference = inverse_sigmoid(queries.reference)  # (B, Q, 2 or 4)
        return (self.own(self.box_head, layer)(hidden) + F.pad(reference, (0, 4 - reference.shape[-1]))).sigmoid()

    @torch.no_grad()
    def update_reference(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """With refinement the box just decoded, without gradient (appendix A.4)."""
        return self.decode_box(layer, queries.content, queries) if self.recipe.refine else queries.reference


class DeformableDetr(Detr):
    """Deformable DETR."""

    system = "deformable"
    encoder_class = DeformableEncoder
    decoder_class = DeformableDecoder

    def __init__(self, recipe: DeformableModel) -> None:
        super().__init__(recipe)
        self.level_embed = nn.Parameter(torch.randn(recipe.levels, recipe.d_model))

    def make_backbone(self, recipe: DeformableModel) -> nn.Module:
        """C5 alone, or as many of C3, C4 and C5 as there are levels."""
        self.stages = tuple(range(5 - min(recipe.levels, 3), 5))
        return super().make_backbone(recipe)

    def make_projections(self, recipe: DeformableModel) -> nn.ModuleList:
        """1x1 convolutions; levels beyond the backbone's come from 3x3 convolutions with stride 2."""
        channels, width = self.backbone.channels, recipe.d_model
        sources = [channels[-1]] + [width] * recipe.levels  # the first further level is made of raw C5
        further = [normed_projection(source, width, 3) for source in sources[: recipe.levels - len(channels)]]
        return nn.ModuleList([normed_projection(channel, width) for channel in channels] + further)

    def make_grid_position(self, recipe: DeformableModel) -> nn.Module:
        return SineGrid(recipe.d_model, half_cell=True)

    def tokenize(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Grid]:
        """As DETR; a token's address also says on which level it is."""
        tokens, grid = super().tokenize(images, mask)
        levels = [address.expand(h * w, -1) for address, (h, w) in zip(self.level_embed, grid.shapes, strict=True)]
        grid.position = grid.position + torch.cat(levels)
        return tokens, grid
