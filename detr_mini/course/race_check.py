"""Do the figures of a race come out again? New runs beside committed ones.

    python -m detr_mini race --seeds 0 1 2 --detectors deformable --steps 1500 --every 125 --to runs/again
    python -m detr_mini race --against data/runs/scenes --to runs/again

The rule. Three seeds span a band, but a fourth run falls outside it every other time (2 in n + 1 for n seeds), so the
band must be widened. Were runs normally distributed, a new one would lie within mean ± t s sqrt(1 + 1/n) in 95 of 100
cases, where s is the standard deviation of the n seeds and t Student's for n - 1 degrees of freedom; for three seeds
that is ± 5.0 s. By luck s is sometimes tiny. So no detector's s, relative to its mean, counts for less than the middle
one of all detectors. What must lie within is the median of the new runs.

One figure in twenty lies outside by this rule's own reckoning. So of a few figures all must lie within, and of many 95
in 100; each that does not is named.
"""

import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scipy.stats import t as student

from detr_mini.course.race_table import at_step, reached, read_runs

COVERED = 0.95
Runs = list[tuple[dict, list[dict]]]  # (origin, evaluations) per seed


def last(rows: list[dict], budget: int, key: str) -> float:
    """A figure at the last common evaluation."""
    return at_step(rows, budget)[key]


def crossing(rows: list[dict], budget: int, level: float) -> float | None:
    """Steps to a level of AP50; None when it is not reached within the budget."""
    return reached([row for row in rows if row["step"] <= budget], level)


MEASURES: dict[str, Callable[[list[dict], int], float | None]] = {
    f"steps to AP50 {level}": partial(crossing, level=level) for level in (0.3, 0.5, 0.7)
} | {
    "AP50 at the end": partial(last, key="ap50"),
    "AP at the end": partial(last, key="ap"),
    "AP, medium things": partial(last, key="ap_medium"),
    "AP, small things": partial(last, key="ap_small"),
}


def agreement(committed: Path, fresh: Path) -> tuple[str, bool]:
    """A line per detector and figure, and whether 95 in 100 of the new figures lie within the widened bands.

    Raises FileNotFoundError for a folder without runs, and ValueError for a new run that has no committed counterpart:
    another detector, another recipe (but for the number of steps), or fewer than two seeds to compare with.
    """
    before, now = read_runs(committed), read_runs(fresh)
    for name, runs in now.items():
        comparable(name, before.get(name, []), runs)
    lines, within = [], []
    for name, runs in now.items():
        budget = common(before[name] + runs)
        for title, measure in MEASURES.items():
            known = [measure(rows, budget) for _, rows in before[name]]
            if None in known:
                reason = f"not reached by step {budget:,} in the committed runs: not compared"
                lines.append(f"{name:<12} {title:<18} {reason}")
                continue
            low, high = widened(known, floor(before, measure))
            high = high if max(known) > 1 else min(high, 1.0)  # no precision is above 1
            new = [measure(rows, budget) for _, rows in runs]
            within.append(bool(low <= middle(new) <= high))
            lines.append(f"{name:<12} {title:<18} committed {band(known)}, allowed {band([low, high])}, "
                         f"new {said(middle(new))}: {'within' if within[-1] else 'OUTSIDE'}")
    lines.append(f"{sum(within)} of {len(within)} new figures lie within the bands.")
    return "\n".join(lines), sum(within) >= COVERED * len(within)


def comparable(name: str, before: Runs, runs: Runs) -> None:
    """ValueError when new runs of a detector cannot be compared with the committed ones."""
    if len(before) < 2:
        raise ValueError(f"{name} has {len(before)} committed runs: a band needs at least two seeds")
    if {recipe_but_steps(origin) for origin, _ in before} != {recipe_but_steps(origin) for origin, _ in runs}:
        raise ValueError(f"the new runs of {name} have another recipe than the committed ones")
    common(before + runs)


def recipe_but_steps(origin: dict) -> str:
    """What was trained, as text that can be compared."""
    recipe = origin.get("recipe") or {}
    return str(recipe | {"train": (recipe.get("train") or {}) | {"steps": None}})


def common(runs: Runs) -> int:
    """The last step at which all runs were evaluated; ValueError when there is none."""
    steps = set.intersection(*({row["step"] for row in rows} for _, rows in runs))
    if not steps:
        raise ValueError("old and new runs were never evaluated at the same step: give both the same --every")
    return max(steps)


def widened(values: list[float], least: float) -> tuple[float, float]:
    """The band that a new run falls into in 95 of 100 cases. least: the smallest spread to reckon with, as a part of
    the mean."""
    mean, seeds = statistics.fmean(values), len(values)
    deviation = max(statistics.stdev(values), least * mean)
    half = student.ppf(0.5 + COVERED / 2, seeds - 1) * deviation * math.sqrt(1 + 1 / seeds)
    return mean - half, mean + half


def floor(runs: dict[str, Runs], measure: Callable[[list[dict], int], float | None]) -> float:
    """The middle one of all detectors' relative spreads of a figure."""
    spreads = []
    for group in runs.values():
        values = [measure(rows, common(group)) for _, rows in group]
        if len(values) > 1 and None not in values and statistics.fmean(values):
            spreads.append(statistics.stdev(values) / statistics.fmean(values))
    return statistics.median(spreads) if spreads else 0.0


def middle(values: list[float | None]) -> float:
    """The median, where a level that was never reached counts as infinitely late."""
    return statistics.median(math.inf if value is None else value for value in values)


def said(value: float) -> str:
    """Steps whole, average precision with three decimals."""
    if math.isinf(value):
        return "not reached"
    return f"{value:,.0f}" if value > 2 else f"{value:.3f}"


def band(values: list[float]) -> str:
    """Lowest to highest."""
    return f"{said(min(values))} to {said(max(values))}"
