"""Attention: a weighted average whose weights come from asking.

Every query is scored against every key; a softmax turns the scores into weights that sum to 1; the
weights average the values. Both kinds of attention in DETR are this one module. In self-attention
queries, keys and values come from the same tokens. In cross-attention the queries are the object
queries, keys and values come from the image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini.dropout import dropout
from detr_mini.trace import Traced


def attention_weights(query: Tensor, key: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias), Vaswani et al. 2017, equation 1.

    query: (..., Q, d), key: (..., K, d), bias: broadcasts to (..., Q, K), -inf hides a key.
    Returns (..., Q, K), every row sums to 1.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (..., Q, K)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1)


def padding_bias(padding_mask: Tensor) -> Tensor:
    """A mask as a term of the scores: (B, K) True where padding -> (B, 1, 1, K) of 0 and -inf."""
    bias = torch.zeros(padding_mask.shape, device=padding_mask.device)
    return bias.masked_fill(padding_mask, float("-inf"))[:, None, None]


def add(content: Tensor, position: Tensor | None) -> Tensor:
    """Content plus position, or content alone where there is no position."""
    return content if position is None else content + position


class MultiHeadAttention(Traced):
    """Several attentions side by side, each on its own slice of the width.

    Forward: query (B, Q, d), key (B, K, d), value (B, K, d), where `query_position` and `key_position` of the same
    shapes are added to query and key and never to value; `bias` broadcasts to (B, heads, Q, K), is added to the
    scores and so can hide keys (-inf) or prefer them (the seam that SMCA uses). Returns (B, Q, d).
    Four projections that share nothing: query, key, value, output.

    While an AttentionTrace is open it records `weights` (B, heads, Q, K) and `value` (B, heads, K, d/heads) of
    the very pass that made the output; otherwise the same numbers come from PyTorch's fused kernel.
    Raises ValueError when the width cannot be split evenly among the heads.
    """

    def __init__(self, d_model: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"d_model={d_model} cannot be split among {heads} heads: choose a multiple of {heads}")
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(d_model, d_model) for _ in range(3))
        self.output = nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier, with the gain that one fused (3d, d) matrix gets in DETR's code; biases 0."""
        for projection in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(projection.weight, gain=1 / math.sqrt(2))
            nn.init.zeros_(projection.bias)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_position: Tensor | None = None,
        key_position: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        q = self.split(self.query(add(query, query_position)))  # (B, heads, Q, d/heads)
        k = self.split(self.key(add(key, key_position)))  # (B, heads, K, d/heads)
        v = self.split(self.value(value))  # (B, heads, K, d/heads)
        return self.output(self.merge(self.attend(q, k, v, bias)))

    def split(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, heads, N, d/heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """(B, heads, N, d/heads) -> (B, N, d)."""
        return x.transpose(1, 2).flatten(-2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """The average itself, (B, heads, Q, d/heads): fused when nobody watches, explicit and recorded otherwise.

        With dropout a CPU has no fused kernel, and ours is the faster way.
        """
        rate = self.dropout if self.training else 0.0
        if self.trace is None and not (rate and q.device.type == "cpu"):
            return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype), rate)
        weights = attention_weights(q, k, bias)  # (B, heads, Q, K)
        self.record(weights=weights, value=v)
        return dropout(weights, rate) @ v


def xavier(module: nn.Module) -> nn.Module:
    """Xavier for every matrix inside, as DETR's code gives its whole transformer. Returns the module."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    return module


class ContentPositionAttention(MultiHeadAttention):
    """Self-attention in which content and position have projections of their own and are added afterwards.

    Forward as in MultiHeadAttention: q = W_q c_q + W_pq p_q, k = W_k c_k + W_pk p_k, where DETR has W_q (c_q + p_q).
    Source: Conditional DETR, models/transformer.py; DAB-DETR and SAM-DETR took it over.
    """

    def __init__(self, d_model: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(d_model, heads, dropout)
        self.query_position, self.key_position = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
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
        q = self.split(self.query(query) + self.query_position(query_position))  # (B, heads, Q, d/heads)
        k = self.split(self.key(key) + self.key_position(key_position))  # (B, heads, K, d/heads)
        v = self.split(self.value(value))  # (B, heads, K, d/heads)
        return self.output(self.merge(self.attend(q, k, v, bias)))


class ConcatenatedAttention(MultiHeadAttention):
    """Cross-attention in which content meets content and position meets position.

    Inside each head content and position lie side by side, so the score is c_q c_k + p_q p_k without mixed terms
    (Meng et al. 2021, section 3.3), divided by sqrt(2 d/heads), the root of the joined width.

    Forward as in MultiHeadAttention, and `place` (B, Q, d): the code of where the query looks, which becomes p_q.
    query_position and key_position are also added to the content with `first=True` only: in layer 0, where the
    content is still empty.
    """

    def __init__(self, d_model: int, heads: int, dropout: float = 0.0, first: bool = False) -> None:
        super().__init__(d_model, heads, dropout)
        self.query_position = nn.Linear(d_model, d_model) if first else None
        self.key_position, self.place = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        xavier(self)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_position: Tensor,
        key_position: Tensor,
        place: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        q, k, v = self.query(query), self.key(key), self.value(value)  # (B, Q, d), (B, K, d), (B, K, d)
        p_q, p_k = self.place(place), self.key_position(key_position)  # (B, Q, d), (B, K, d)
        if self.query_position is not None:
            q, k = q + self.query_position(query_position), k + p_k
        q = torch.cat([self.split(q), self.split(p_q)], dim=-1)  # (B, heads, Q, 2 d/heads)
        k = torch.cat([self.split(k), self.split(p_k)], dim=-1)  # (B, heads, K, 2 d/heads)
        return self.output(self.merge(self.attend(q, k, self.split(v), bias)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """The average, (B, heads, Q, d/heads). The fused kernel wants values as wide as queries, so zeros fill them
        up: twice as fast on a CPU as the way PyTorch takes otherwise. With dropout there is no such kernel on a CPU."""
        if self.trace is not None or (self.training and self.dropout):
            return super().attend(q, k, v, bias)
        width = v.shape[-1]
        return super().attend(q, k, F.pad(v, (0, q.shape[-1] - width)), bias)[..., :width]
