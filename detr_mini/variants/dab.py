"""DAB-DETR: a query is a box, and every layer corrects it.

Paper: Liu et al. 2022, DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR.
Problem: a learned query or a fixed point does not know how large the thing is that it looks for. Here a query is an
anchor box (x, y, w, h): its width and height set how far it looks, and each layer hands a better box to the next.
Seams overridden: init_queries (anchor boxes, patterns), query_position (from the box), cross_attend (as Conditional
DETR, and widened by the box's sides), decode_box and update_reference (an offset from the box, in logits),
encoder_attend (positions scaled by the content).
Also: PReLU; positions of cells at temperature 20; self-attention projects content and position separately; focal
head; 300 queries.
Unchanged: backbone, dense attention with memory, feed-forward's shape, norms, one pair of heads, the decoder's loop.
Parameters added: 2,146,749 (R50, paper's configuration).
"""

from dataclasses import replace

from torch import Tensor, nn

from detr_mini.attention import ConcatenatedAttention, ContentPositionAttention, padding_bias, xavier
from detr_mini.boxes import inverse_sigmoid
from detr_mini.decoder import Decoder, DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.encoder import Encoder, EncoderLayer
from detr_mini.positions import MLP, Grid, SineGrid, sine
from detr_mini.recipes import DabModel, ModelRecipe

EPS = 1e-3  # where the authors' code clamps the inverse sigmoid


class DabEncoder(Encoder):
    """An encoder that lets every token scale its own position."""

    def __init__(self, recipe: DabModel) -> None:
        super().__init__(recipe)
        self.position_scale = xavier(MLP(recipe.d_model, recipe.d_model, recipe.d_model))

    def make_activation(self) -> nn.Module:
        """A ReLU with one learned slope for what is negative."""
        return nn.PReLU()

    def encoder_attend(self, layer: EncoderLayer, memory: Tensor, grid: Grid) -> Tensor:
        """As DETR, with positions times an MLP of the tokens (one MLP for all layers)."""
        scale = self.position_scale(memory)  # (B, HW, d)
        layer.self_attention.record(position_scale=scale)
        return super().encoder_attend(layer, memory, replace(grid, position=grid.position * scale))


class DabDecoder(Decoder):
    """A decoder whose queries are anchor boxes, cxcywh."""

    def __init__(self, recipe: DabModel) -> None:
        super().__init__(recipe)
        width = recipe.d_model
        self.query_embed = nn.Embedding(recipe.queries, 4)  # the anchor boxes, in logits
        self.patterns = nn.Embedding(recipe.patterns, width) if recipe.patterns else None
        self.position_head = xavier(MLP(2 * width, width, width))
        self.place_scale = xavier(MLP(width, width, width))
        self.size_head = xavier(MLP(width, width, 2)) if recipe.modulate else None
        nn.init.zeros_(self.box_head.layers[-1].weight)  # at first, every box is its anchor
        nn.init.zeros_(self.box_head.layers[-1].bias)

    def make_self_attention(self, recipe: ModelRecipe) -> nn.Module:
        """Content and position projected separately."""
        return ContentPositionAttention(recipe.d_model, recipe.heads, recipe.dropout)

    def make_cross_attention(self, recipe: ModelRecipe, index: int) -> nn.Module:
        """Content and place side by side; in layer 0 positions are also added to the content."""
        return ConcatenatedAttention(recipe.d_model, recipe.heads, recipe.dropout, first=index == 0)

    def make_activation(self) -> nn.Module:
        """A ReLU with one learned slope for what is negative."""
        return nn.PReLU()

    def init_queries(self, memory: Tensor, grid: Grid) -> Queries:
        """Anchor boxes with content 0, or every pattern at every anchor: all anchors of pattern 0 first."""
        learned = self.query_embed.weight  # (N, 4)
        content = learned.new_zeros(len(learned), self.recipe.d_model)  # (Q, d)
        if self.patterns is not None:
            content = self.patterns.weight.repeat_interleave(len(learned), dim=0)
            learned = learned.repeat(len(self.patterns.weight), 1)
        content, learned = (x.expand(len(memory), -1, -1) for x in (content, learned))  # (B, Q, d), (B, Q, 4)
        return Queries(content, learned, reference=learned.sigmoid())

    def anchor(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """The box as this layer looks at it, (B, Q, 4): learned in layer 0, a constant later.

        `queries.reference` keeps its gradient: the boxes that a layer reports also teach the layer before it.
        """
        return queries.reference.detach() if layer.index else queries.reference

    def query_position(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """P_q = MLP(PE(A_q)), equations 1 and 2: position from the whole box."""
        box = self.anchor(layer, queries)[..., [1, 0, 2, 3]]  # (B, Q, 4), y before x as in the grid
        position = self.position_head(sine(box, self.recipe.d_model // 2, self.recipe.query_temperature))
        layer.self_attention.record(position=position)
        return position

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        """Content is compared with content, the place with positions."""
        hidden, place = padding_bias(grid.padding_mask), self.place(layer, queries)
        attend = layer.cross_attention
        return attend(queries.content, memory, memory, queries.position, grid.position, place, hidden)

    def place(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """Where a query looks, (B, Q, d): the code of its centre, scaled by what it found so far (equation 4).

        The half for x is also multiplied by w_ref / w, the half for y by h_ref / h, with w_ref, h_ref =
        sigmoid(MLP(content)), equations 6 and 7: a small box looks closely, a large one widely.
        """
        anchor, half = self.anchor(layer, queries), self.recipe.d_model // 2
        code = sine(anchor[..., [1, 0]], half, self.recipe.query_temperature)  # (B, Q, d)
        if layer.index > 0:
            scale = self.place_scale(queries.entering)  # (B, Q, d)
            layer.cross_attention.record(place_scale=scale)
            code = code * scale
        if self.size_head is not None:
            size = self.size_head(queries.entering).sigmoid()  # (B, Q, 2) w_ref, h_ref
            layer.cross_attention.record(size=size)
            code = code * (size / anchor[..., 2:]).flip(-1).repeat_interleave(half, dim=-1)
        return code

    def decode_box(self, layer: DecoderLayer, hidden: Tensor, queries: Queries) -> Tensor:
        """The box as an offset from the anchor, in logits."""
        return (self.box_head(hidden) + inverse_sigmoid(queries.reference, EPS)).sigmoid()

    def update_reference(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """The next anchor: the same head, on content before the norm (as in the authors' code)."""
        if not self.recipe.refine:
            return queries.reference
        return (self.box_head(queries.content) + inverse_sigmoid(self.anchor(layer, queries), EPS)).sigmoid()


class DabDetr(Detr):
    """DAB-DETR, as in the authors' code (IDEA-Research/DAB-DETR), with or without patterns."""

    system = "dab"
    encoder_class = DabEncoder
    decoder_class = DabDecoder

    def make_grid_position(self, recipe: DabModel) -> nn.Module:
        """As DETR, at a temperature that lets positions on a small grid differ more."""
        return SineGrid(recipe.d_model, recipe.key_temperature)
