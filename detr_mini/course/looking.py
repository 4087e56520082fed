"""Measures of how a detector looks: how spread out, how much of it on the object, and whether it keeps its object.

Maps are the weights of cross-attention over the cells of a feature map, (..., h, w); each sums to 1. Boxes are
normalised cxcywh. Nothing here needs a model but `listen` and `score_terms`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from detr_mini.attention import MultiHeadAttention
from detr_mini.boxes import cxcywh_to_xyxy, iou
from detr_mini.course.recorder import Look
from detr_mini.decoder import Decoder, DecoderLayer, Queries
from detr_mini.positions import Grid

TERMS = ("content x content", "content x position", "position x content", "position x position")
NAMES = dict(zip(TERMS, ("content · memory", "content · place", "position · memory", "position · place"), strict=True))


def entropy(maps: Tensor) -> Tensor:
    """How spread out maps are, in nats: (..., h, w) -> (...). 0 is one cell, log(h w) is all cells alike."""
    return torch.special.entr(maps).sum((-2, -1))


def coverage(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """The part of every cell that a box covers, 0 to 1: (..., 4) -> (..., h, w). Beyond the image it is lost."""
    def along(first: Tensor, last: Tensor, count: int) -> Tensor:
        cell = torch.arange(count, device=boxes.device)
        return (torch.minimum(last * count, cell + 1) - torch.maximum(first * count, cell)).clamp(min=0)  # (..., count)

    left, top, right, bottom = (edge.unsqueeze(-1) for edge in cxcywh_to_xyxy(boxes).unbind(-1))  # (..., 1)
    height, width = shape
    return along(top, bottom, height).unsqueeze(-1) * along(left, right, width).unsqueeze(-2)


def mass_inside(maps: Tensor, boxes: Tensor) -> Tensor:
    """The part of the attention that falls into the box, cells counting as far as covered: (..., h, w) -> (...)."""
    return (maps * coverage(boxes, maps.shape[-2:])).sum((-2, -1))


def roi_weights(boxes: Tensor, shape: tuple[int, int], samples: int = 4) -> Tensor:
    """RoIAlign to one bin, written as a map: how much of each cell it takes, (N, 4) -> (N, h, w), each summing to 1.

    RoIAlign is linear. So it is asked about h w maps that are 1 in one cell each, and its answers are the weights.
    samples: points per side of the box. Source: He et al. 2017, Mask R-CNN, section 3; torchvision's roi_align.
    """
    height, width = shape
    cells = torch.eye(height * width, device=boxes.device).reshape(1, -1, height, width)  # (1, hw, h, w)
    edges = cxcywh_to_xyxy(boxes) * boxes.new_tensor([width, height, width, height])  # in cells
    return roi_align(cells, [edges], 1, sampling_ratio=samples, aligned=True).reshape(-1, height, width)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """What two maps share: the sum over cells of the smaller weight, (..., h, w) twice -> (...). 1: the same map."""
    return torch.minimum(a, b).sum((-2, -1))


def flipped(before: Tensor, after: Tensor) -> Tensor:
    """The part of all objects whose query is another one now. owners (..., B, Q), -1 for none, twice -> (...)."""
    held = after >= 0
    return (held & (after != before)).sum((-2, -1)) / held.sum((-2, -1)).clamp(min=1)


def reads(said: Tensor, images: Tensor, shape: tuple[int, int]) -> Tensor:
    """What a number was read from: the size of its gradient in every cell, as a map (B, h, w) whose sum is 1.

    said: one number per image, (B,). images: (B, 3, H, W) with requires_grad, from which it was computed.
    """
    gradient, = torch.autograd.grad(said.sum(), images, retain_graph=True)
    sizes = F.adaptive_avg_pool2d(gradient.abs().sum(1), shape)  # (B, h, w)
    return sizes / sizes.sum((-2, -1), keepdim=True)


# ---------------------------------------------------------------- one look, measured


def measure(look: Look, targets: list[dict[str, Tensor]]) -> dict[str, list[float]]:
    """All measures of one look, one number per decoder layer. Only queries that are matched in that layer count.

    entropy: mean over heads. entropy_of_mean: of the heads' mean map. mass: inside the object's box. uniform: what
    uniform attention would have there. elsewhere: inside the same box, but of the map that the same query had in the
    next image. roi: overlap of the mean map with RoIAlign's; roi_uniform: that of uniform attention. iou: of box and
    object.
    """
    layers = [measure_layer(look, targets, layer) for layer in range(len(look.owners))]
    return {name: [round(float(values[name].mean()), 5) for values in layers] for name in layers[0]}


def measure_layer(look: Look, targets: list[dict[str, Tensor]], layer: int) -> dict[str, Tensor]:
    """The measures of one layer, an entry per matched pair."""
    image, query = (look.owners[layer] >= 0).nonzero(as_tuple=True)  # (N,)
    owner, maps = look.owners[layer][image, query], look.attention[layer]  # (N,), (B, heads, Q, h, w)
    pairs = zip(image.tolist(), owner.tolist(), strict=True)
    wanted = torch.stack([targets[index]["boxes"][thing] for index, thing in pairs])  # (N, 4)
    mine, others = maps[image, :, query], maps[(image + 1) % len(maps), :, query]  # (N, heads, h, w)
    mean, roi = mine.mean(1), roi_weights(wanted, maps.shape[-2:])  # (N, h, w)
    flat = torch.full_like(mean, 1 / mean[0].numel())
    boxes = cxcywh_to_xyxy(look.boxes[layer][image, query]), cxcywh_to_xyxy(wanted)
    return {
        "entropy": entropy(mine), "entropy_of_mean": entropy(mean),
        "mass": mass_inside(mean, wanted), "uniform": mass_inside(flat, wanted),
        "elsewhere": mass_inside(others.mean(1), wanted),
        "roi": overlap(mean, roi), "roi_uniform": overlap(flat, roi), "iou": iou(*boxes),
    }


# ---------------------------------------------------------------- the four parts of a score


@dataclass
class Asked:
    """What a decoder layer's cross-attention was given: content and position (B, Q, d), memory and place (B, HW, d)."""

    content: Tensor
    position: Tensor
    memory: Tensor
    place: Tensor


@contextmanager
def attending(decoder: Decoder, cross_attend: Callable[..., Tensor]) -> Iterator[None]:
    """While open, the decoder collects from the image by another function, with the seam's own arguments:
    layer, queries, memory (B, HW, d), grid -> (B, Q, d)."""
    decoder.cross_attend = cross_attend
    try:
        yield
    finally:
        del decoder.cross_attend  # the method of the class is visible again


@contextmanager
def listen(decoder: Decoder) -> Iterator[list[Asked]]:
    """While open, every layer's cross-attention leaves an Asked in the list."""
    heard, original = [], decoder.cross_attend

    def cross_attend(layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        heard.append(Asked(queries.content, queries.position, memory, grid.position))
        return original(layer, queries, memory, grid)

    with attending(decoder, cross_attend):
        yield heard


def score_terms(attention: MultiHeadAttention, asked: Asked) -> dict[str, Tensor]:
    """q k / sqrt(d) of each head as four terms (B, heads, Q, HW), by TERMS: query's part x key's part.

    The query's bias is counted with its position: both are the same in every image. The key's bias is left out: it
    adds the same to all keys, and softmax does not see that. So softmax of the terms' sum is the attention.
    """
    split, root = attention.split, (attention.query.out_features // attention.heads) ** 0.5
    content = split(asked.content @ attention.query.weight.T)  # (B, heads, Q, d/heads)
    position = split(attention.query(asked.position))
    memory, place = (split(part @ attention.key.weight.T) for part in (asked.memory, asked.place))
    pairs = ((content, memory), (content, place), (position, memory), (position, place))
    return {name: q @ k.transpose(-2, -1) / root for name, (q, k) in zip(TERMS, pairs, strict=True)}


def spread(term: Tensor) -> Tensor:
    """How much a term tells places apart: its standard deviation over the keys, (..., HW) -> (...)."""
    return term.std(-1, correction=0)
