"""How fast deformable attention samples, beside `transformers`' pure-PyTorch core on the same values.

    python tests/benchmarks/deformable_core.py [--rounds 15] [--threads 1]

Four levels, 80 x 60 cells and each next half as long, 8 heads of 32 channels, 4 points, batch 1. Queries: 300, and all
6,380 tokens. The cores take turns, round by round, so that a busy machine slows them alike; medians of process time
(all threads together). Exits with 1 when a ratio misses its goal: forward 0.5, forward with backward 0.9.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from detr_mini.sampling import sample

SHAPES = [(60, 80), (30, 40), (15, 20), (8, 10)]
TOKENS = sum(height * width for height, width in SHAPES)
GOALS = {"forward": 0.5, "forward and backward": 0.9}
PEER = MultiScaleDeformableAttention()


def ours(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return sample(values, SHAPES, locations, weights)


def peer(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return PEER(values, torch.tensor(SHAPES), SHAPES, None, locations, weights, 64)


def inputs(queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values (1, HW, 8, 32), locations around each query's own place, a few of them outside, and weights."""
    torch.manual_seed(0)
    reference = torch.rand(1, queries, 1, 1, 1, 2)
    locations = reference + 0.05 * torch.randn(1, queries, 8, 4, 4, 2)
    weights = torch.randn(1, queries, 8, 16).softmax(-1).unflatten(-1, (4, 4))
    return torch.randn(1, TOKENS, 8, 32), locations, weights


def seconds(core: Callable[..., Tensor], tensors: tuple[Tensor, ...], backward: bool) -> float:
    """Process time of one pass."""
    tensors = tuple(t.detach().requires_grad_(backward) for t in tensors)
    started = time.process_time()
    with torch.set_grad_enabled(backward):
        out = core(*tensors)
        if backward:
            out.backward(torch.ones_like(out))
    return time.process_time() - started


def compare(queries: int, backward: bool, rounds: int) -> tuple[float, float]:
    """Median process times in milliseconds of ours and of the peer's, after two rounds to warm up."""
    tensors, times = inputs(queries), {ours: [], peer: []}
    for core in list(times) * 2:
        seconds(core, tensors, backward)
    for _ in range(rounds):
        for core, taken in times.items():
            taken.append(seconds(core, tensors, backward))
    return tuple(1000 * statistics.median(taken) for taken in times.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (default 15)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    missed = 0
    print(f"{'queries':>8} {'pass':<22} {'ours ms':>9} {'peer ms':>9} {'ratio':>6} {'goal':>5}")
    for queries in (300, TOKENS):
        values = inputs(queries)
        assert torch.allclose(ours(*values), peer(*values), atol=1e-4), "the two cores disagree"
        for what, goal in GOALS.items():
            mine, its = compare(queries, what != "forward", options.rounds)
            missed += mine / its > goal
            print(f"{queries:>8} {what:<22} {mine:9.1f} {its:9.1f} {mine / its:6.2f} {goal:5.2f}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
