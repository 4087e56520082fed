"""Answers to the exercises of 15: wrong ones with what the check should say, and right ones written differently."""

import torch
import torch.nn.functional as F
import torchvision

from detr_mini.boxes import cxcywh_to_xyxy

# ---------------------------------------------------------------- 15.points


def doubled(offsets, box):
    return box[:2] + offsets * box[2:]


def from_corner(offsets, box):
    return box[:2] - box[2:] / 2 + offsets * box[2:]


def without_centre(offsets, box):
    return offsets * box[2:] / 2


def without_size(offsets, box):
    return box[:2] + offsets


def between_edges(offsets, box):
    corners = cxcywh_to_xyxy(box)
    return torch.lerp(corners[:2], corners[2:], (offsets + 1) / 2)


def number_by_number(offsets, box):
    return [[float(box[0] + x * box[2] / 2), float(box[1] + y * box[3] / 2)] for x, y in offsets]


# ---------------------------------------------------------------- 15.cut


def grid_of(x, y):
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def edges(features, box, n):
    part = torch.linspace(-0.5, 0.5, n)
    places = grid_of(box[0] + part * box[2], box[1] + part * box[3]) * 2 - 1
    return F.grid_sample(features[None], places[None], align_corners=False)[0]


def columns_first(features, box, n):
    part = (torch.arange(n) + 0.5) / n - 0.5
    x, y = box[0] + part * box[2], box[1] + part * box[3]
    places = torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1) * 2 - 1
    return F.grid_sample(features[None], places[None], align_corners=False)[0]


def aligned_corners(features, box, n):
    part = (torch.arange(n) + 0.5) / n - 0.5
    places = grid_of(box[0] + part * box[2], box[1] + part * box[3]) * 2 - 1
    return F.grid_sample(features[None], places[None], align_corners=True)[0]


def left_of_parts(features, box, n):
    part = torch.arange(n) / n - 0.5
    places = grid_of(box[0] + part * box[2], box[1] + part * box[3]) * 2 - 1
    return F.grid_sample(features[None], places[None], align_corners=False)[0]


def places_in(box, n, indexing="xy"):
    part = (torch.arange(n) + 0.5) / n - 0.5
    return torch.stack(torch.meshgrid(box[0] + part * box[2], box[1] + part * box[3], indexing=indexing), dim=-1)


def from_nought(features, box, n):
    return F.grid_sample(features[None], places_in(box, n)[None], align_corners=False)[0]


def y_first(features, box, n):
    return F.grid_sample(features[None], places_in(box, n)[None].flip(-1) * 2 - 1, align_corners=False)[0]


def always_four(features, box, n):
    return by_affine(features, box, 4)


def by_shares(features, box, n):
    _, height, width = features.shape
    part = (torch.arange(n) + 0.5) / n - 0.5
    x, y = (box[0] + part * box[2]) * width, (box[1] + part * box[3]) * height
    across = (1 - (x[:, None] - torch.arange(width) - 0.5).abs()).clamp(min=0)
    down = (1 - (y[:, None] - torch.arange(height) - 0.5).abs()).clamp(min=0)
    return down @ features @ across.T


def by_affine(features, box, n):
    x, y, width, height = box.tolist()
    theta = torch.tensor([[[width, 0, 2 * x - 1], [0, height, 2 * y - 1]]])
    places = F.affine_grid(theta, [1, 1, n, n], align_corners=False)
    return F.grid_sample(features[None], places, align_corners=False)[0]


# ---------------------------------------------------------------- 15.ask


def no_gate(found, content, memory, query, key, gate):
    return (found @ query.T @ (memory @ key.T).T / found.shape[-1] ** 0.5).softmax(-1)


def no_sigmoid(found, content, memory, query, key, gate):
    asks = found * (gate @ content).view_as(found)
    return (asks @ query.T @ (memory @ key.T).T / found.shape[-1] ** 0.5).softmax(-1)


def small_root(found, content, memory, query, key, gate):
    asks = found * (gate @ content).sigmoid().view_as(found)
    return (asks @ query.T @ (memory @ key.T).T / (found.shape[-1] / len(found)) ** 0.5).softmax(-1)


def old_content_asks(found, content, memory, query, key, gate):
    asks = content * (gate @ content).sigmoid().view_as(found)
    return (asks @ query.T @ (memory @ key.T).T / found.shape[-1] ** 0.5).softmax(-1)


def over_heads(found, content, memory, query, key, gate):
    asks = found * (gate @ content).sigmoid().view_as(found)
    return (asks @ query.T @ (memory @ key.T).T / found.shape[-1] ** 0.5).softmax(0)


def gate_by_channel(found, content, memory, query, key, gate):
    asks = found * (gate @ content).sigmoid().view(found.shape[1], len(found)).T
    return (asks @ query.T @ (memory @ key.T).T / found.shape[-1] ** 0.5).softmax(-1)


def split_width(found, content, memory, query, key, gate):
    heads = len(found)
    q = (found * (gate @ content).sigmoid().view_as(found)) @ query.T
    k = memory @ key.T
    width = q.shape[1] // heads
    maps = [q[h, h * width: (h + 1) * width] @ k[:, h * width: (h + 1) * width].T / width**0.5 for h in range(heads)]
    return torch.stack(maps).softmax(-1)


def head_by_head(found, content, memory, query, key, gate):
    heads, d = found.shape
    keys, maps = F.linear(memory, key), []
    for head in range(heads):
        opened = torch.sigmoid(F.linear(content, gate[head * d: (head + 1) * d]))
        maps.append(torch.softmax(keys @ F.linear(found[head] * opened, query) / d**0.5, dim=0))
    return torch.stack(maps)


def with_einsum(found, content, memory, query, key, gate):
    asks = found * torch.einsum("hcd,d->hc", gate.unflatten(0, (len(found), -1)), content).sigmoid()
    return (torch.einsum("hc,ec,ef,kf->hk", asks, query, key, memory) * len(content) ** -0.5).softmax(1)


# ---------------------------------------------------------------- 15.read


def mean_of_heads(found, value):
    return (found @ value[0].T + value[1]).mean(0)


def everything(found, value):
    return (found @ value[0].T + value[1]).flatten()


def first_head(found, value):
    return (found @ value[0].T + value[1])[0]


def unbiased(found, value):
    heads = len(found)
    return (found @ value[0].T).view(heads, heads, -1)[range(heads), range(heads)].flatten()


def cut_first(found, value):
    return F.linear(unprojected(found, value), *value)


def last_to_first(found, value):
    heads = len(found)
    values = F.linear(found, *value).view(heads, heads, -1)
    return torch.cat([values[head, heads - 1 - head] for head in range(heads)])


def unprojected(found, value):
    heads = len(found)
    return found.view(heads, heads, -1)[range(heads), range(heads)].flatten()


def as_attention(found, value):
    heads = len(found)
    values = F.linear(found, *value).view(heads, heads, -1).transpose(0, 1)  # (slice, place, width)
    return (torch.eye(heads)[:, None] @ values).flatten()


def slice_by_slice(found, value):
    width = found.shape[1] // len(found)
    parts = [slice(head * width, (head + 1) * width) for head in range(len(found))]
    return torch.cat([value[0][part] @ one + value[1][part] for part, one in zip(parts, found, strict=True)])


WRONG = {
    "15.points": [(doubled, "Twice too far"), (from_corner, "0 to 1 across the box"),
                  (without_centre, "Add the middle"), (without_size, "did not use the box's size")],
    "15.cut": [(edges, "from edge to edge"), (columns_first, "Rows and columns"),
               (lambda f, b, n: torchvision.ops.roi_align(f[None], torch.tensor([[0.0, 0, 0, 8, 8]]), n)[0],
                "calls `roi_align`"),
               (aligned_corners, "align_corners=True"), (left_of_parts, "half a part further"),
               (from_nought, "Your places run from 0 to 1"), (y_first, "wants x first"), (always_four, "Here n is 3"),
               (lambda *given: by_affine(*given)[None], "an axis in front")],
    "15.ask": [(no_gate, "The gate is missing"), (no_sigmoid, "no sigmoid"), (small_root, "root of d / heads"),
               (old_content_asks, "old content asking"), (over_heads, "over the heads"), (split_width, "full width"),
               (gate_by_channel, "into (d, heads)"),
               (lambda f, c, m, q, k, g: head_by_head(f, c, m, q, torch.eye(8), g), "Memory has no projection"),
               (lambda f, c, m, q, k, g: head_by_head(f, c, m, torch.eye(8), k, g), "found has no projection")],
    "15.read": [(mean_of_heads, "the mean of what the heads found"), (everything, "heads times d numbers"),
                (first_head, "All slices come from the first head"), (unbiased, "The bias is missing"),
                (unprojected, "value projection is missing"), (cut_first, "The projection comes first"),
                (last_to_first, "from the last head to the first")],
}

RIGHT = {
    "15.points": [between_edges, number_by_number],
    "15.cut": [by_shares, by_affine],
    "15.ask": [head_by_head, with_einsum],
    "15.read": [as_attention, slice_by_slice],
}
