"""Two ways to do the same thing, timed in one process, turn by turn."""

import statistics
import time
from collections.abc import Callable


def ratio(benchmark, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> float:
    """Median time of ours over median time of theirs; the two take turns, so a busy moment hits both.

    The benchmark report shows ours, and the ratio under `extra_info`.
    """
    seconds: list[float] = []

    def run_theirs() -> None:
        started = time.perf_counter()
        theirs()
        seconds.append(time.perf_counter() - started)

    benchmark.pedantic(ours, setup=run_theirs, rounds=rounds, warmup_rounds=1)
    result = benchmark.stats.stats.median / statistics.median(seconds[1:])
    benchmark.extra_info |= {"theirs_seconds": statistics.median(seconds[1:]), "ratio": result}
    print(f"\n{benchmark.name}: ours {benchmark.stats.stats.median:.4f} s, ratio {result:.3f}")
    return result
