"""How long a widget takes to answer."""

import io
import time
from collections.abc import Callable, Iterable

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DRAWN = 0.064  # processor seconds that `draw` takes on an idle core of the machines on which the widgets were made


def quickest(answer: Callable, states: Iterable) -> float:
    """The shortest of the answers to all states but the first, which also fills caches, in seconds of processor time.

    The shortest, because everything else on the machine only adds to it: a neighbour who shares the core or its cache,
    and Python's garbage collection, which late in a session of four thousand tests takes longer than ten answers. On a
    machine that draws more slowly than those on which the widgets were made, its seconds are counted as theirs. On one
    thread (the next test has its own number again): a second one that waits for a busy core would count as work.
    """
    torch.set_num_threads(1)
    fixed, spent = [], []
    for state in states:
        fixed.append(seconds(draw))
        spent.append(seconds(lambda: answer(state)))  # noqa: B023 - called at once
    return min(spent[1:]) / max(1.0, min(fixed[1:]) / DRAWN)


def seconds(call: Callable) -> float:
    """The processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def draw() -> None:
    """A drawing that never changes, to tell how fast this machine is now: four charts with their numbers, as PNG."""
    figure = Figure(figsize=(6, 4), dpi=100)
    FigureCanvasAgg(figure)
    for axes in figure.subplots(2, 2).flat:
        axes.plot(range(50))
    figure.savefig(io.BytesIO(), format="png")
