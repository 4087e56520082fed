"""What learners write for the exercises of notebook 05: wrong answers with what each is told, and right ones."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_mask(sizes: Tensor, height: int, width: int) -> Tensor:
    """True on padding, (B, H, W)."""
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for image, (tall, wide) in enumerate(sizes.tolist()):
        mask[image, :tall, :wide] = False
    return mask


def by_interpolation(sizes: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Right: as DETR's code does it."""
    mask = pixel_mask(sizes, height, width)[:, None].float()
    return F.interpolate(mask, size=(height // stride, width // stride))[:, 0].bool()


def any_pixel(sizes: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Pooling instead: one padded pixel hides a cell."""
    return F.max_pool2d(pixel_mask(sizes, height, width).float(), stride).bool()


def corner_only(sizes: Tensor, height: int, width: int, stride: int) -> Tensor:
    """& for |."""
    down, across = torch.arange(0, height, stride), torch.arange(0, width, stride)
    return (down[:, None] >= sizes[:, :1, None]) & (across >= sizes[:, 1:, None])


def swapped_sides(sizes: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Width first."""
    return by_interpolation(sizes.flip(1), height, width, stride)


def detr(x: Tensor, position: Tensor, attend: Callable, norm1: Callable, feed: Callable, norm2: Callable) -> Tensor:
    """Right, in small steps."""
    q = k = x + position
    update = attend(q, k, x)
    x = norm1(x + update)
    return norm2(x + feed(x))


def overwritten(x: Tensor, position: Tensor, attend: Callable, norm1: Callable, feed: Callable,
                norm2: Callable) -> Tensor:
    """The position becomes part of x."""
    x = x + position
    x = norm1(x + attend(x, x, x))
    return norm2(x + feed(x))


def pre_norm(x: Tensor, position: Tensor, attend: Callable, norm1: Callable, feed: Callable, norm2: Callable) -> Tensor:
    """As most language models have it."""
    y = norm1(x)
    x = x + attend(y + position, y + position, y)
    return x + feed(norm2(x))


def loop_share(weights: Tensor, inside: Tensor) -> float:
    """Right: head by head, place by place."""
    places = [i for i in range(len(inside)) if inside[i]]
    sums = [float(head[i, places].sum()) for head in weights for i in places]
    return sum(sums) / len(sums) / (len(places) / len(inside))


WRONG = {
    "05.tokens": [
        (lambda m: m.reshape(m.shape[0], -1, m.shape[1]), "scrambled"),
        (lambda m: m.flatten(2), "one row per channel"),
        (lambda m: m.flatten(2).permute(2, 0, 1), "the batch first"),
        (lambda m: m.permute(0, 3, 2, 1).flatten(1, 2), "down the columns"),
        (lambda m: m.permute(0, 2, 3, 1), "still two axes"),
        (lambda m: m.flatten(2).permute(1, 2, 0), "swapped the batch with the channels"),
    ],
    "05.padding": [
        (lambda *a: ~by_interpolation(*a), "upside down"),
        (any_pixel, "partly picture"),
        (corner_only, "use | instead of &"),
        (swapped_sides, "Height and width are swapped"),
        (lambda s, h, w, stride: pixel_mask(s, h, w), "mask of the pixels"),
        (lambda s, h, w, stride: by_interpolation(s, h, w, 16)[:, : h // stride, : w // stride], "Is a 16 written"),
        (lambda s, h, w, stride: s, "A mask is wanted"),
    ],
    "05.layer": [
        (lambda x, p, a, n1, f, n2: detr(x, p, lambda q, k, v: a(q, k, v + p), n1, f, n2), "in the values"),
        (overwritten, "overwrote x"),
        (pre_norm, "pre-norm"),
        (lambda x, p, a, n1, f, n2: detr(x, 0 * p, a, n1, f, n2), "position is nowhere"),
        (lambda x, p, a, n1, f, n2: detr(x, p, a, n2, f, n1), "norms are swapped"),
        (lambda x, p, a, n1, f, n2: n1(x + a(x + p, x + p, x)), "ends after the attention"),
        (lambda x, p, a, n1, f, n2: n2(f(n1(x + a(x + p, x + p, x)))), "second residual"),
        (lambda x, p, a, n1, f, n2: detr(x, p, a, lambda t: n1(t - x), f, n2), "first residual"),
        (lambda x, p, a, n1, f, n2: n2(f(n1(a(x + p, x + p, x)))), "Both residuals are missing"),
        (lambda x, p, a, n1, f, n2: n2(x + f(n1(x + a(x + p, x + p, x)))), "adds the layer's input"),
        (lambda x, p, a, n1, f, n2: detr(x, p, a, lambda t: t, f, lambda t: t), "The two norms are missing"),
        (lambda x, p, a, n1, f, n2: detr(x, p, lambda q, k, v: a(q, v, k), n1, f, n2), "Keys and values are mixed up"),
        (lambda x, p, a, n1, f, n2: detr(x, p, a, lambda t: n1(t + p), f, n2), "starts from x + position"),
    ],
    "05.share": [
        (lambda w, inside: w[:, inside][..., inside].sum(-1).mean(), "attention itself"),
        (lambda w, inside: w[:, inside][..., inside].mean() / inside.float().mean(), "sum them first"),
        (lambda w, inside: w[..., inside].sum(-1).mean() / inside.float().mean(), "from everywhere"),
        (lambda w, inside: w[:, ~inside][..., inside].sum(-1).mean() / inside.float().mean(), "places outside"),
        (lambda w, inside: 1 / loop_share(w, inside), "upside down"),
        (lambda w, inside: len(w) * loop_share(w, inside), "added up the heads"),
    ],
}

RIGHT = {
    "05.tokens": [
        lambda m: m.flatten(2).mT,
        lambda m: torch.stack([m[:, :, y, x] for y in range(m.shape[2]) for x in range(m.shape[3])], dim=1),
    ],
    "05.padding": [by_interpolation, lambda s, h, w, stride: pixel_mask(s, h, w)[:, ::stride, ::stride]],
    "05.layer": [
        detr,
        lambda x, p, a, n1, f, n2: (lambda y: n2(f(y) + y))(n1(a(x + p, x + p, x) + x)),
    ],
    "05.share": [
        loop_share,
        lambda w, inside: (w @ inside.float())[:, inside].mean() * len(inside) / inside.sum(),
    ],
}
