"""Deterministic weights and inputs for the golden fixtures (numpy + torch only).

A tensor depends only on (key, shape, seed): a PCG64 stream seeded with the CRC-32 of "<seed>:<key>" draws it in
float64, the first matching rule of `draw` scales it, and it is rounded to float32; the order of the keys does not
matter. The gains keep attention neither flat nor one-hot and the queries distinct; no parameter is left at 0 or 1."""
import math
import re
import zlib

import numpy as np
import torch

EMBEDDING = r"(query_embed|refpoint_embed|patterns?|level_embed|label_enc|row_embed|col_embed)(\.weight)?$"
GAINS = (                                                              # first match wins, sqrt(2) otherwise
    (r"(self_attn\.(out|output)_proj|linear2)\.weight$", 0.3),         # residual branches
    (r"(cross_attn\.output_proj|sampling_offsets)\.weight$", 0.5),     # deformable sampling amplifies rounding
    (r"(self_attn\.in_proj_weight|\.sa_[qk]\w+proj\.weight)$", 1.5),   # projections before a softmax
    (r"in_proj_weight$", 1.8),
    (r"\.ca_[qk]\w+proj\.(layers\.\d\.)?weight$", 2.3),
    (r"(^|\.)class_embed(\.\d+)?\.weight$", 1.0),                      # heads
    (r"^bbox_embed\.\d+\.layers\.2\.weight$", 0.25),                   # a refined box amplifies rounding as well
    (r"bbox_embed(\.\d+)?\.layers\.2\.weight$", 0.4),
)


def draw(key, shape, rng):
    """The rule for one parameter or buffer, in float64; `n` is standard normal."""
    if key.endswith("position.weight"):                                # learned anchor points in (0, 1)
        return rng.random(shape)
    n = rng.standard_normal(shape)
    if re.search(EMBEDDING, key):
        return n
    if len(shape) >= 2:                                                # rows centred over the fan-in
        gain = next((g for pattern, g in GAINS if re.search(pattern, key)), math.sqrt(2.0))
        mean = n.mean(axis=tuple(range(1, n.ndim)), keepdims=True).astype(np.float32)
        return gain / math.sqrt(math.prod(shape[1:])) * (n - mean)
    if key.endswith("sampling_offsets.bias"):                          # a spread of a few cells
        return 2.0 * n
    if re.search(r"class_embed(\.\d+)?\.bias$", key):                  # foreground is rare
        return -3.0 + 0.1 * n
    if key.endswith(("bias", "running_mean")):
        return (0.05 if key.endswith("bias") else 0.1) * n
    if key.endswith("activation.weight"):                              # slope of a PReLU
        return 0.25 + 0.1 * n
    if key.endswith("running_var"):
        return 1.0 + 0.1 * np.abs(n)
    return (0.2 if key.endswith("bn3.weight") else 1.0) * (1.0 + 0.1 * n)   # scales of BN, LN, GN


def array(name, shape, seed, rule=lambda name, shape, rng: rng.standard_normal(shape)):
    """One float32 tensor; with the default rule a plain normal draw, e.g. array("image0", (3, 256, 320), 2026)."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
    return torch.from_numpy(np.asarray(rule(name, tuple(shape), rng)).astype(np.float32))


def fill(shapes, seed, alias=None):
    """{key: shape} -> {key: tensor}; `alias` maps a key to the canonical key of the group that shares one tensor:
    the shortest key, and of equally short ones the first in state-dict order."""
    return {key: array((alias or {}).get(key, key), shape, seed, draw) for key, shape in shapes.items()}
