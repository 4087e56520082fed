"""How the cost of attention grows with the number of image tokens: dense, deformable, row-column.

    python tests/benchmarks/attention_growth.py --to data/runs/attention_growth

writes attention_growth.json, .md (the table) and .png (the plot).

One attention module alone (256 channels, 8 heads, batch 1), forward and backward, as in training: in the encoder, where
every token asks, and in the decoder, where 300 queries ask. Median seconds of --rounds passes, and peak memory above
what was there before, both on square maps of 256 to 16,384 tokens. A slope is the exponent: cost ~ tokens ^ slope,
fitted from 1,024 tokens on; 1 is linear, 2 is quadratic.

"dense" is PyTorch's fused kernel, which never holds all weights at once. "dense, all weights" computes the same and
keeps the whole matrix, as DETR's first code did; it stops at 8,192 tokens, where one matrix has two gigabytes.
"""

import argparse
import ctypes
import gc
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from detr_mini.attention import MultiHeadAttention
from detr_mini.course.race import commit, processor
from detr_mini.files import atomic
from detr_mini.positions import Grid
from detr_mini.trace import AttentionTrace
from detr_mini.variants.deformable_attention import DeformableAttention
from detr_mini.variants.row_column_attention import RowColumnAttention

WIDTH, HEADS, POINTS, QUERIES = 256, 8, 4, 300
SIDES = (16, 32, 48, 64, 96, 128)  # 256 to 16,384 tokens
FIT_FROM, KEEP_UP_TO = 1024, 8192
Step = Callable[[Tensor, Tensor], Tensor]


def grid_of(side: int, positions: int) -> Grid:
    """A square map without padding."""
    hidden = torch.zeros(1, side * side, dtype=torch.bool)
    return Grid(torch.randn(1, positions, WIDTH), hidden, [(side, side)])


def dense(side: int) -> tuple[nn.Module, Step]:
    """DETR's attention: every query is compared with every token."""
    module = MultiHeadAttention(WIDTH, HEADS)
    return module, lambda query, memory: module(query, memory, memory)


def dense_all_weights(side: int) -> tuple[nn.Module, Step]:
    """The same with its matrix of weights, as an open trace asks for it."""
    holder = nn.ModuleDict({"attention": MultiHeadAttention(WIDTH, HEADS)})

    def step(query: Tensor, memory: Tensor) -> Tensor:
        with AttentionTrace(holder):
            return holder["attention"](query, memory, memory)

    return holder, step


def deformable(side: int) -> tuple[nn.Module, Step]:
    """Four samples per head around a reference point."""
    module, grid = DeformableAttention(WIDTH, HEADS, 1, POINTS), grid_of(side, side * side)
    return module, lambda query, memory: module(query, torch.rand(1, query.shape[1], 2), memory, grid)


def row_column(side: int) -> tuple[nn.Module, Step]:
    """RCDA: a row weight times a column weight."""
    module, grid = RowColumnAttention(WIDTH, HEADS), grid_of(side, 2 * side)
    return module, lambda query, memory: module(query, query, query, memory, grid)


KINDS = {"dense": dense, "dense, all weights": dense_all_weights, "deformable": deformable, "row-column": row_column}


def resident(field: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most since the last reset (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def measure(kind: str, side: int, queries: int, rounds: int) -> dict:
    """Median seconds and peak megabytes of one forward and backward pass."""
    torch.manual_seed(0)
    module, step = KINDS[kind](side)
    seconds, peaks = [], []
    for _ in range(rounds + 1):
        memory = torch.randn(1, side * side, WIDTH, requires_grad=True)
        query = memory if queries == side * side else torch.randn(1, queries, WIDTH, requires_grad=True)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
        before, started = resident("VmRSS"), time.perf_counter()
        step(query, memory).square().mean().backward()
        seconds.append(time.perf_counter() - started)
        peaks.append(resident("VmHWM") - before)
        module.zero_grad()
    return {"seconds": statistics.median(seconds[1:]), "megabytes": statistics.median(peaks[1:]) / 2**20}


def slope(rows: list[dict], key: str) -> float:
    """The exponent of growth: least squares on logarithms, from FIT_FROM tokens on."""
    points = [(math.log(row["tokens"]), math.log(max(row[key], 1e-9))) for row in rows if row["tokens"] >= FIT_FROM]
    x, y = (statistics.mean(axis) for axis in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def run(rounds: int) -> list[dict]:
    """Every kind at every size, in encoder and decoder."""
    rows = []
    for place in ("encoder", "decoder"):
        for kind in KINDS:
            for side in SIDES:
                tokens = side * side
                if kind == "dense, all weights" and place == "encoder" and tokens > KEEP_UP_TO:
                    continue
                costs = measure(kind, side, tokens if place == "encoder" else QUERIES, rounds)
                rows.append({"place": place, "kind": kind, "tokens": tokens} | costs)
                print(f"{place} {kind:<18} {tokens:>6} tokens {costs['seconds']:9.4f} s {costs['megabytes']:9.1f} MB")
    return rows


def table(rows: list[dict]) -> str:
    """One line per place and kind: cost at the smallest and at the largest size, and both slopes."""
    head = "| where | attention | tokens | seconds | megabytes | slope of seconds | slope of megabytes |"
    lines = [head, "|---" * 7 + "|"]
    for place in ("encoder", "decoder"):
        for kind in KINDS:
            mine = [row for row in rows if (row["place"], row["kind"]) == (place, kind)]
            first, last = mine[0], mine[-1]
            sizes = f"{first['tokens']} to {last['tokens']:,}"
            seconds = f"{first['seconds']:.4f} to {last['seconds']:.3f}"
            megabytes = f"{first['megabytes']:.0f} to {last['megabytes']:,.0f}"
            slopes = (f"{slope(mine, key):.2f}" for key in ("seconds", "megabytes"))
            lines.append("| " + " | ".join([place, kind, sizes, seconds, megabytes, *slopes]) + " |")
    return "\n".join(lines)


def draw(rows: list[dict], path: Path) -> None:
    """Log-log: seconds above, memory below; encoder left, decoder right."""
    from matplotlib.figure import Figure

    from detr_mini.course.plots import COLOURS

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for (i, key, label), (j, place) in ((a, b) for a in ((0, "seconds", "seconds"), (1, "megabytes", "peak memory, MB"))
                                        for b in enumerate(("encoder", "decoder"))):
        panel = axes[i, j]
        for kind, colour, mark in zip(KINDS, COLOURS, "osD^", strict=False):
            mine = [row for row in rows if (row["place"], row["kind"]) == (place, kind)]
            panel.loglog([row["tokens"] for row in mine], [row[key] for row in mine], mark + "-", color=colour,
                         markersize=5, label=f"{kind}: slope {slope(mine, key):.2f}")
        panel.legend(frameon=False, fontsize=8)
        panel.set_xticks([256, 1024, 4096, 16384], ["256", "1,024", "4,096", "16,384"])
        panel.set_xticks([], minor=True)
        panel.set(title=place if i == 0 else "", xlabel="image tokens" if i else "", ylabel="" if j else label)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed passes of each (default 3)")
    parser.add_argument("--to", type=Path, help="write figures, table and plot here; endings are added")
    options = parser.parse_args()
    rows = run(options.rounds)
    print(table(rows))
    if options.to:
        write(rows, options.to, options.rounds)


def write(rows: list[dict], to: Path, rounds: int) -> None:
    """The figures with where they come from, the table, the plot."""
    machine = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    command = "python tests/benchmarks/attention_growth.py --to data/runs/attention_growth"
    origin = {"command": command, "commit": commit(), "rounds": rounds, "machine": machine}
    with atomic(to.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"origin": origin, "rows": rows}, indent=1) + "\n")
    with atomic(to.with_suffix(".md")) as temporary:
        temporary.write_text(f"{table(rows)}\n\nMade by: `{command}`\n")
    draw(rows, to.with_suffix(".png"))


if __name__ == "__main__":
    main()
