"""SAM-DETR: a query asks with the image's own features.

Paper: Zhang et al. 2022, Accelerating DETR Convergence via Semantic-Aligned Matching.
Problem: a query and an image token are vectors of two different worlds, and their dot product means little until
training has brought the two together. Here what asks is sampled from memory, at salient points of the query's box.
Seams overridden: init_queries (boxes), query_position (sine of the centre), cross_attend (with the resampled query),
decode_box and update_reference (an offset from the box, in logits).
Also: self-attention projects content and position separately; every layer has heads of its own and no norm before
them; cells are addressed at their centres; focal head; 300 queries; SMCA's Gaussian as an option.
Unchanged: backbone, encoder, feed-forward, the decoder's loop; the residual carries the old content.
Parameters added: 16,771,178 (R50, paper's configuration).
"""

from copy import deepcopy

from torch import Tensor, nn

from detr_mini.attention import ContentPositionAttention, padding_bias
from detr_mini.boxes import inverse_sigmoid
from detr_mini.decoder import Decoder, DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.positions import Grid, SineGrid, sine
from detr_mini.recipes import ModelRecipe, SamModel
from detr_mini.variants.sam_aligner import AlignedAttention, crop, gaussian, sample


class SamDecoder(Decoder):
    """A decoder that resamples its queries from memory, inside boxes that every layer corrects."""

    def __init__(self, recipe: SamModel) -> None:
        super().__init__(recipe)
        self.query_embed = nn.Embedding(recipe.queries, 4)  # the boxes, in logits
        self.norm = nn.Identity()
        nn.init.zeros_(self.box_head.layers[-1].weight)  # at first, every box stays as it is
        nn.init.zeros_(self.box_head.layers[-1].bias)
        self.class_head = nn.ModuleList(deepcopy(self.class_head) for _ in self.layers)
        self.box_head = nn.ModuleList(deepcopy(self.box_head) for _ in self.layers)

    def make_self_attention(self, recipe: ModelRecipe) -> nn.Module:
        """Content and position projected separately."""
        return ContentPositionAttention(recipe.d_model, recipe.heads, recipe.dropout)

    def make_cross_attention(self, recipe: SamModel, index: int) -> nn.Module:
        """Full-width queries, one salient point per head."""
        return AlignedAttention(recipe)

    def init_queries(self, memory: Tensor, grid: Grid) -> Queries:
        """Learned boxes with content 0."""
        learned = self.query_embed.weight.expand(len(memory), -1, -1)  # (B, Q, 4)
        content = learned.new_zeros(*learned.shape[:2], self.recipe.d_model)  # (B, Q, d)
        return Queries(content, learned, reference=learned.sigmoid())

    def query_position(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """The code of the centre of the box."""
        return self.code(queries.reference[..., :2])

    def code(self, points: Tensor) -> Tensor:
        """Sine code of points (x, y), (..., 2) -> (..., d), y before x as in the grid; without gradient."""
        return sine(points.detach().flip(-1), self.recipe.d_model // 2)

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        """The query is resampled at salient points of its box and reweighted, then compared with memory."""
        attend, box, bias = layer.cross_attention, queries.reference, padding_bias(grid.padding_mask)
        crops = crop(box, memory, grid)  # (B, Q, d, 7, 7)
        offsets, widths = attend.salient(crops)  # (B, Q, heads, 2)
        points = box[..., None, :2] + offsets * box[..., None, 2:] / 2  # (B, Q, heads, 2)
        content_gate, position_gate = attend.gates(queries.content)  # (B, Q, heads, d)
        content, position = sample(crops, offsets) * content_gate, self.code(points) * position_gate
        attend.record(offsets=offsets, points=points)
        if self.recipe.gaussian:
            term = gaussian(points, widths, grid)  # (B, heads, Q, HW)
            bias = bias + term
            attend.record(widths=widths, gaussian=term)
        return attend(content.transpose(1, 2), memory, memory, position.transpose(1, 2), grid.position, bias)

    def classify(self, layer: DecoderLayer, hidden: Tensor) -> Tensor:
        """Class logits from the layer's own head."""
        return self.class_head[layer.index](hidden)

    def decode_box(self, layer: DecoderLayer, hidden: Tensor, queries: Queries) -> Tensor:
        """The box as an offset from the reference box, in logits."""
        return (self.box_head[layer.index](hidden) + inverse_sigmoid(queries.reference)).sigmoid()

    def update_reference(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """The box that this layer predicts, as a constant."""
        return self.decode_box(layer, queries.content, queries).detach()


class SamDetr(Detr):
    """SAM-DETR, as in the authors' code (ZhangGongjie/SAM-DETR), in its single-scale form."""

    system = "sam"
    decoder_class = SamDecoder

    def make_projections(self, recipe: SamModel) -> nn.ModuleList:
        """As DETR; with a GroupNorm behind it in schedules under 25 epochs."""
        norm = [nn.GroupNorm(32, recipe.d_model)] if recipe.norm_input else []
        return nn.ModuleList(nn.Sequential(project, *norm) for project in super().make_projections(recipe))

    def make_grid_position(self, recipe: ModelRecipe) -> nn.Module:
        """As DETR, counted to the centres of cells."""
        return SineGrid(recipe.d_model, half_cell=True)
