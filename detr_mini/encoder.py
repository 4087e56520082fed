"""The encoder: every place in the image looks at every other place.

A layer is self-attention, then a small network applied to each token alone. What comes out is called
memory: tokens that know their surroundings, ready to be asked by the decoder.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detr_mini.attention import MultiHeadAttention, padding_bias
from detr_mini.dropout import Dropout
from detr_mini.positions import Grid
from detr_mini.recipes import ModelRecipe


class FeedForward(nn.Module):
    """Each token on its own: widen, activate, narrow; then add and normalise. (B, N, d) -> (B, N, d)."""

    def __init__(self, recipe: ModelRecipe, activation: nn.Module) -> None:
        super().__init__()
        self.linear1 = nn.Linear(recipe.d_model, recipe.feed_forward)
        self.linear2 = nn.Linear(recipe.feed_forward, recipe.d_model)
        self.norm, self.activation = nn.LayerNorm(recipe.d_model), activation
        self.dropout = Dropout(recipe.dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        update = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return self.norm(x + self.dropout(update))


class EncoderLayer(nn.Module):
    """Self-attention with its norm, and the feed-forward part."""

    def __init__(self, recipe: ModelRecipe, attention: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.self_attention = attention
        self.norm1 = nn.LayerNorm(recipe.d_model)
        self.dropout = Dropout(recipe.dropout)
        self.feed_forward = FeedForward(recipe, activation)

    def forward(self, memory: Tensor, attended: Tensor) -> Tensor:
        """Both residual steps: memory (B, HW, d) and what attention found (B, HW, d) -> (B, HW, d)."""
        return self.feed_forward(self.norm1(memory + self.dropout(attended)))


class Encoder(nn.Module):
    """A stack of layers around one seam, `encoder_attend`.

    Forward: tokens (B, HW, d), grid -> memory (B, HW, d). No norm after the last layer, as in DETR. recompute: in
    training, keep nothing of a layer but its input, and compute the rest again in the backward pass.
    """

    recompute = False

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(recipe, self.make_attention(recipe), self.make_activation())
            for _ in range(recipe.encoder_layers)
        )

    def make_attention(self, recipe: ModelRecipe) -> nn.Module:
        """The attention of one layer; a variant that attends differently builds its own here."""
        return MultiHeadAttention(recipe.d_model, recipe.heads, recipe.dropout)

    def make_activation(self) -> nn.Module:
        """The activation of one feed-forward part."""
        return nn.ReLU()

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        memory = tokens
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                memory = checkpoint(self.step, layer, memory, grid, use_reentrant=False)
            else:
                memory = self.step(layer, memory, grid)  # (B, HW, d)
        return memory

    def step(self, layer: EncoderLayer, memory: Tensor, grid: Grid) -> Tensor:
        """One layer: (B, HW, d) -> (B, HW, d)."""
        return layer(memory, self.encoder_attend(layer, memory, grid))

    # -- the seam ---------------------------------------------------------------------------------------

    def encoder_attend(self, layer: EncoderLayer, memory: Tensor, grid: Grid) -> Tensor:
        """What every token gathers from the others: (B, HW, d). DETR: dense dot products, positions on q and k."""
        hidden = padding_bias(grid.padding_mask)
        return layer.self_attention(memory, memory, memory, grid.position, grid.position, hidden)
