"""The two parts of a score where content and position lie side by side: Conditional DETR's cross-attention, and DAB's.

DETR's four parts are in looking.py. Nothing is computed beside the detector: what its attention was given is caught on
the way in, and goes through the attention's own projections.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from detr_mini.attention import ConcatenatedAttention
from detr_mini.decoder import Decoder
from detr_mini.detr import Detr


class Terms(NamedTuple):
    """A layer's scores: content with content, position with position; each (B, heads, Q, HW). Their sum is the score.

    In layer 1 the content has the position added to it on both sides, as the layer itself does.
    """

    content: Tensor
    position: Tensor


@contextmanager
def overhear(decoder: Decoder) -> Iterator[list[Terms]]:
    """While open, every layer's cross-attention leaves its Terms in the list, in the order of the layers."""
    heard: list[Terms] = []
    hooks = [layer.cross_attention.register_forward_pre_hook(lambda attention, given: heard.append(
        terms_of(attention, *given))) for layer in decoder.layers]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def terms_of(
    attention: ConcatenatedAttention, query: Tensor, key: Tensor, value: Tensor, query_position: Tensor,
    key_position: Tensor, place: Tensor, bias: Tensor | None = None,
) -> Terms:
    """The two parts of every score, from what the attention is given; padding is not hidden."""
    q, k, p_k = attention.query(query), attention.key(key), attention.key_position(key_position)
    if attention.query_position is not None:
        q, k = q + attention.query_position(query_position), k + p_k
    root = (2 * q.shape[-1] / attention.heads) ** 0.5
    pairs = ((q, k), (attention.place(place), p_k))
    return Terms(*(attention.split(a) @ attention.split(b).transpose(-2, -1) / root for a, b in pairs))


def two_terms(model: Detr, images: Tensor, mask: Tensor) -> list[Terms]:
    """The terms of every decoder layer, from one pass over images (B, 3, H, W)."""
    with torch.no_grad(), overhear(model.decoder) as heard:
        model(images, mask)
    return heard
