"""The decoder: object queries ask the image, and talk to each other about who owns what.

`Decoder.forward` is one loop around five seams. Each of them is a method with a name; a fix for DETR's slow
convergence is a subclass that overrides the ones it changes.

    init_queries       what the queries know, and where they look, before the first layer
    query_position     the address that is added to a query
    cross_attend       how a query collects from the image
    decode_box         from a query to a box
    update_reference   where it looks next
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini.attention import MultiHeadAttention, padding_bias
from detr_mini.dropout import Dropout
from detr_mini.encoder import FeedForward
from detr_mini.positions import MLP, Grid
from detr_mini.recipes import ModelRecipe
from detr_mini.trace import Traced


@dataclass
class Queries:
    """The state of the object queries on their way through the layers.

    content: (B, Q, d) what they found so far. position: (B, Q, d) their address in this layer.
    reference: (B, Q, 2 or 4) where they look, normalised (x, y) or cxcywh; None where a detector has none.
    entering: (B, Q, d) the content with which they entered this layer.
    learned: (B, Q, d) the learned embedding they started from; (B, Q, 4) where that is a box.
    proposals: what they were chosen from, where a detector proposes boxes before it asks (two-stage).
    """

    content: Tensor
    learned: Tensor
    position: Tensor | None = None
    reference: Tensor | None = None
    entering: Tensor | None = None
    proposals: "DetectorOutput | None" = None


class DetectorOutput(NamedTuple):
    """What a detector says about a batch. Decoder layers come first: `logits[-1]` is the final answer.

    logits: (L, B, Q, C), or C + 1 with no-object last under a softmax head. boxes: (L, B, Q, 4) normalised cxcywh.
    proposals: of two-stage detectors, what every token proposed: logits (1, B, HW, C), boxes (1, B, HW, 4).
    """

    logits: Tensor
    boxes: Tensor
    proposals: "DetectorOutput | None" = None


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each with its residual and its norm."""

    def __init__(
        self, recipe: ModelRecipe, index: int, self_attention: nn.Module, cross_attention: nn.Module,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        self.index = index
        self.self_attention, self.cross_attention = self_attention, cross_attention
        self.norm1, self.norm2 = nn.LayerNorm(recipe.d_model), nn.LayerNorm(recipe.d_model)
        self.dropout = Dropout(recipe.dropout)
        self.feed_forward = FeedForward(recipe, activation)

    def meet(self, queries: Queries) -> Tensor:
        """The queries' meeting: each sees what the others hold, (B, Q, d). Here duplicates are sorted out."""
        content, position = queries.content, queries.position
        attended = self.self_attention(content, content, content, position, position)
        return self.norm1(content + self.dropout(attended))

    def take_in(self, content: Tensor, attended: Tensor) -> Tensor:
        """Add what cross-attention collected, then think it over: (B, Q, d) twice -> (B, Q, d)."""
        return self.feed_forward(self.norm2(content + self.dropout(attended)))


class Decoder(Traced):
    """DETR's decoder with its two heads.

    Forward: memory (B, HW, d), grid -> DetectorOutput of all layers. Records `content` and `position` (L, B, Q, d)
    and, where a detector has references, `reference` (L, B, Q, 2 or 4) for an open trace.
    """

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.query_embed = nn.Embedding(recipe.queries, recipe.d_model)
        self.layers = nn.ModuleList(
            DecoderLayer(recipe, index, self.make_self_attention(recipe), self.make_cross_attention(recipe, index),
                         self.make_activation())
            for index in range(recipe.decoder_layers)
        )
        self.norm = nn.LayerNorm(recipe.d_model)
        self.class_head = nn.Linear(recipe.d_model, recipe.classes + (recipe.head == "softmax"))
        self.box_head = MLP(recipe.d_model, recipe.d_model, recipe.d_model, 4)
        if recipe.head == "focal":
            nn.init.constant_(self.class_head.bias, -4.595)  # sigmoid = 0.01: at first, nothing is an object

    def make_self_attention(self, recipe: ModelRecipe) -> nn.Module:
        """The self-attention of one layer."""
        return MultiHeadAttention(recipe.d_model, recipe.heads, recipe.dropout)

    def make_cross_attention(self, recipe: ModelRecipe, index: int) -> nn.Module:
        """The cross-attention of layer `index`."""
        return MultiHeadAttention(recipe.d_model, recipe.heads, recipe.dropout)

    def make_activation(self) -> nn.Module:
        """The activation of one feed-forward part."""
        return nn.ReLU()

    def forward(self, memory: Tensor, grid: Grid) -> DetectorOutput:
        queries = self.init_queries(memory, grid)
        logits, boxes, seen = [], [], []
        for layer in self.layers:
            queries = replace(queries, entering=queries.content, position=self.query_position(layer, queries))
            queries = replace(queries, content=layer.meet(queries))
            attended = self.cross_attend(layer, queries, memory, grid)  # (B, Q, d)
            queries = replace(queries, content=layer.take_in(queries.content, attended))
            hidden = self.norm(queries.content)
            logits.append(self.classify(layer, hidden))  # (B, Q, C)
            boxes.append(self.decode_box(layer, hidden, queries))  # (B, Q, 4)
            seen.append(queries)
            queries = replace(queries, reference=self.update_reference(layer, queries))
        self.record_layers(seen)
        return DetectorOutput(torch.stack(logits), torch.stack(boxes), queries.proposals)

    def classify(self, layer: DecoderLayer, hidden: Tensor) -> Tensor:
        """Class logits (B, Q, C) from normed content (B, Q, d); DETR: one head for all layers."""
        return self.class_head(hidden)

    def record_layers(self, seen: list[Queries]) -> None:
        """Hand the queries of every layer to an open trace; where later references are boxes, a point has size 0."""
        if self.trace is not None:
            self.record(content=torch.stack([queries.content for queries in seen]))
            self.record(position=torch.stack([queries.position for queries in seen]))
            if seen[0].reference is not None:
                references = [queries.reference for queries in seen]  # [(B, Q, 2 or 4)]
                width = references[-1].shape[-1]
                self.record(reference=torch.stack([F.pad(r, (0, width - r.shape[-1])) for r in references]))

    # -- the five seams -----------------------------------------------------------------------------------

    def init_queries(self, memory: Tensor, grid: Grid) -> Queries:
        """The queries before the first layer. DETR: content 0, a learned address, no reference."""
        learned = self.query_embed.weight.expand(memory.shape[0], -1, -1)  # (B, Q, d)
        return Queries(content=torch.zeros_like(learned), learned=learned)

    def query_position(self, layer: DecoderLayer, queries: Queries) -> Tensor:
        """What is added to a query so that it is somewhere, (B, Q, d). DETR: the learned address, in every layer."""
        return queries.learned

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        """What each query collects from the image, (B, Q, d). DETR: q from the query, k and v from memory."""
        hidden = padding_bias(grid.padding_mask)
        return layer.cross_attention(queries.content, memory, memory, queries.position, grid.position, hidden)

    def decode_box(self, layer: DecoderLayer, hidden: Tensor, queries: Queries) -> Tensor:
        """From normed content (B, Q, d) to a box, normalised cxcywh (B, Q, 4). DETR: sigmoid of a small MLP."""
        return self.box_head(hidden).sigmoid()

    def update_reference(self, layer: DecoderLayer, queries: Queries) -> Tensor | None:
        """Where the next layer looks, (B, Q, 2 or 4). DETR: it has no reference."""
        return queries.reference
