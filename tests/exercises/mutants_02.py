"""What learners write for the exercises of notebook 02: wrong answers with what each is told, and right ones."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from detr_mini.attention import MultiHeadAttention

SHAPES = [[6, 5], [6, 4], [2, 4], [3, 7], [3, 2]]
PREY = torch.tensor([[-1.0, 1.0], [-1.0, 0.0]])  # the notebook's: turns a hand into the one that it beats


def shapes_with(row: int, pair: list[int]) -> list[list[int]]:
    """The right shapes with one of them replaced."""
    return [pair if number == row else shape for number, shape in enumerate(SHAPES)]


def cut(x: Tensor, heads: int) -> Tensor:
    """(B, N, d) -> (B, heads, N, d/heads)."""
    batch, count, width = x.shape
    return x.view(batch, count, heads, width // heads).permute(0, 2, 1, 3)


def jump(x: Tensor, heads: int) -> Tensor:
    """The shape without the meaning."""
    return x.reshape(x.shape[0], heads, x.shape[1], x.shape[2] // heads)


def back(x: Tensor) -> Tensor:
    """(B, heads, N, d/heads) -> (B, N, d)."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def weights(q: Tensor, k: Tensor, divisor: float | None = None) -> Tensor:
    """Softmax of scaled scores."""
    return (q @ k.transpose(-2, -1) / (divisor or math.sqrt(q.shape[-1]))).softmax(-1)


def mean_of_heads(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """One map for all heads."""
    return back(weights(cut(q, heads), cut(k, heads)).mean(1, keepdim=True) @ cut(v, heads))


def one_head_at_a_time(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Right: the width in slices."""
    parts = zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
    return torch.cat([weights(*pair[:2]) @ pair[2] for pair in parts], dim=-1)


def by_the_package(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Right numbers: the package's module cuts and merges."""
    package = MultiHeadAttention(q.shape[-1], heads)
    return package.merge(package.attend(package.split(q), package.split(k), package.split(v), None))


WRONG = {
    "02.shapes": [
        (shapes_with(0, [5, 6]), "rows are the numbers that come out"),
        (shapes_with(1, [6, 5]), "W_k reads the tokens that are asked"),
        (shapes_with(2, [2, 5]), "same side as keys"),
        (shapes_with(2, [6, 4]), "need not be as wide"),
        (shapes_with(3, [7, 3]), "each row adds up to 1"),
        (shapes_with(4, [7, 2]), "as many answers as questions"),
        (shapes_with(4, [3, 6]), "as wide as a value"),
        (shapes_with(3, [5, 4]), "Write the shapes under"),
        (SHAPES[:4], "Five shapes"),
    ],
    "02.winner": [
        (PREY, "the hand that they beat"),
        (torch.eye(2), "own hand"),
        (torch.zeros(2, 2), "A query of zeros"),
        ([[0.0, 1.0], [1.0, 0.0]], "should look at"),
        (0.1 * PREY @ PREY, "with 0.36 only"),
        ([1.0, 2.0], "should be (2, 2)"),
    ],
    "02.heads": [
        (lambda q, k, v, h: weights(q, k) @ v, "the width was not divided"),
        (lambda q, k, v, h: back(weights(jump(q, h), jump(k, h)) @ jump(v, h)), "mixes up tokens"),
        (lambda q, k, v, h: (weights(jump(q, h), jump(k, h)) @ jump(v, h)).reshape(q.shape), "same on the way back"),
        (lambda q, k, v, h: (weights(cut(q, h), cut(k, h)) @ cut(v, h)).reshape(q.shape), "The way in is right"),
        (lambda q, k, v, h: back(weights(cut(q, h), cut(k, h), math.sqrt(q.shape[-1])) @ cut(v, h)), "divided by √d"),
        (lambda q, k, v, h: back(weights(cut(q, h), cut(k, h), 1.0) @ cut(v, h)), "left out the scaling"),
        (mean_of_heads, "averaged the heads' weights"),
        (lambda q, k, v, h: weights(cut(q, h), cut(k, h)) @ cut(v, h), "still apart"),
        (lambda q, k, v, h: q.unflatten(-1, (h, 3)), "Your code stopped"),
        (by_the_package, "calls `split`"),
    ],
    "02.merge": [
        (lambda w_q, w_k: w_q.T @ w_k, "left out the scaling"),
        (lambda w_q, w_k: w_q.T @ w_k / w_q.shape[0], "the square root of d"),
        (lambda w_q, w_k: w_k.T @ w_q / w_q.shape[0] ** 0.5, "a stands on the left"),
        (lambda w_q, w_k: w_q @ w_k.T / w_q.shape[0] ** 0.5, "wrong matrix"),
        (lambda w_q, w_k: w_q @ w_k / w_q.shape[0] ** 0.5, "Neither is transposed"),
        (lambda w_q, w_k: w_q * w_k / w_q.shape[0] ** 0.5, "number by number"),
        (lambda w_q, w_k: w_q.T @ w_k / w_q.shape[1] ** 0.5, "not of its columns"),
        (lambda w_q, w_k: w_q.T @ w_k / 2, "whatever d is"),
    ],
}

RIGHT = {
    "02.shapes": [SHAPES, torch.tensor(SHAPES), tuple(map(tuple, SHAPES))],
    "02.winner": [PREY @ PREY, PREY.T, 5 * PREY.T],
    "02.heads": [
        one_head_at_a_time,
        lambda q, k, v, h: back(F.scaled_dot_product_attention(cut(q, h), cut(k, h), cut(v, h))),
    ],
    "02.merge": [
        lambda w_q, w_k: torch.einsum("da,db->ab", w_q, w_k) / math.sqrt(len(w_q)),
        lambda w_q, w_k: (w_k.T @ w_q).T / w_k.shape[0] ** 0.5,
    ],
}
