"""What learners write for the exercises of notebook 16: wrong answers with what each is told, and right ones."""

import math
import statistics
from collections.abc import Callable
from itertools import combinations, permutations

import numpy as np

from detr_mini.course.race_table import reached

# ---------------------------------------------------------------- 16.level


def by_walking(steps: list, values: list, level: float) -> float:
    """Right: from point to point."""
    s0, v0 = 0, 0.0
    for s1, v1 in zip(steps, values, strict=True):
        if v1 >= level:
            return s0 + (level - v0) / (v1 - v0) * (s1 - s0)
        s0, v0 = s1, v1
    return math.inf


def by_index(steps: list, values: list, level: float) -> float:
    """Right: find the first point above, then interpolate within its piece."""
    xs, ys = np.array([0, *steps], dtype=float), np.array([0, *values])
    above = np.flatnonzero(ys >= level)
    if not len(above):
        return math.inf
    end = above[0]
    return float(np.interp(level, ys[end - 1:end + 1], xs[end - 1:end + 1]))


def by_the_package(steps: list, values: list, level: float) -> float:
    """The course's own function."""
    rows = [{"step": step, "ap50": value} for step, value in zip(steps, values, strict=True)]
    found = reached(rows, level)
    return math.inf if found is None else found


def first_above(steps: list, values: list, level: float) -> float:
    """No line."""
    return next((step for step, value in zip(steps, values, strict=True) if value >= level), math.inf)


def last_below(steps: list, values: list, level: float) -> float:
    """The evaluation before."""
    return next(([0, *steps][i] for i, value in enumerate(values) if value >= level), math.inf)


def half_way(steps: list, values: list, level: float) -> float:
    """Between the two evaluations."""
    return (first_above(steps, values, level) + last_below(steps, values, level)) / 2


def from_the_right(steps: list, values: list, level: float) -> float:
    """1 minus the part."""
    step, other = by_walking(steps, values, level), first_above(steps, values, level)
    return step if math.isinf(step) else other - (step - last_below(steps, values, level))


def last_crossing(steps: list, values: list, level: float) -> float:
    """Walks on after the first crossing."""
    found, (s0, v0) = math.inf, (0, 0.0)
    for s1, v1 in zip(steps, values, strict=True):
        if v0 < level <= v1:
            found = s0 + (level - v0) / (v1 - v0) * (s1 - s0)
        s0, v0 = s1, v1
    return found


def without_origin(steps: list, values: list, level: float) -> float:
    """Starts at the first evaluation."""
    return steps[0] if values[0] >= level else by_walking(steps, values, level)


def only_above(steps: list, values: list, level: float) -> float:
    """> instead of >=."""
    return by_walking(steps, values, level + 1e-12)


def by_interp(steps: list, values: list, level: float) -> float:
    """Steps over values, as if they only rose."""
    return math.inf if level > max(values) else float(np.interp(level, [0, *values], [0, *steps]))


def needs_a_point(steps: list, values: list, level: float) -> float:
    """Stops where nothing was measured."""
    return math.inf if values[-1] < level else by_walking(steps, values, level)


def nought_at_first(steps: list, values: list, level: float) -> float:
    """0 where nothing was measured."""
    return by_walking(steps, values, level) if steps else 0.0


def or_the_end(steps: list, values: list, level: float) -> float:
    """The last step for never."""
    return min(by_walking(steps, values, level), steps[-1])


def or_nought(steps: list, values: list, level: float) -> float:
    """0 for never."""
    step = by_walking(steps, values, level)
    return 0.0 if math.isinf(step) else step


# ---------------------------------------------------------------- 16.clock


def by_numpy(steps: list, values: list, per_step: float, seconds: float) -> float:
    """Right."""
    return np.interp(seconds / per_step, [0, *steps], [0, *values])


def by_times(steps: list, values: list, per_step: float, seconds: float) -> float:
    """Right: the curve over seconds, piece by piece."""
    t0, v0 = 0.0, 0.0
    for step, v1 in zip(steps, values, strict=True):
        t1 = step * per_step
        if seconds <= t1:
            return v0 + (v1 - v0) * (seconds - t0) / (t1 - t0)
        t0, v0 = t1, v1
    return v0


def as_evaluated(steps: list, values: list, per_step: float, seconds: float) -> float:
    """The last evaluation in time."""
    return [0.0, *values][sum(step * per_step <= seconds for step in steps)]


def prolonged(steps: list, values: list, per_step: float, seconds: float) -> float:
    """Beyond the end of the run."""
    done = seconds / per_step
    slope = (values[-1] - values[-2]) / (steps[-1] - steps[-2])
    return by_numpy(steps, values, per_step, seconds) + slope * max(0.0, done - steps[-1])


# ---------------------------------------------------------------- 16.ranks


def sign(one: list, other: list) -> int:
    """+1, -1, or 0 for an overlap."""
    return 1 if min(one) > max(other) else -1 if max(one) < min(other) else 0


def counted(one: dict, two: dict, judged: Callable = sign, pairs: Callable = combinations) -> int:
    """Right, unless something else is handed in."""
    return sum(judged(one[a], one[b]) * judged(two[a], two[b]) == -1 for a, b in pairs(one, 2))


def told_when_touching(one: list, other: list) -> int:
    """>= instead of >."""
    return 1 if min(one) >= max(other) else -1 if max(one) <= min(other) else 0


def with_loops(one: dict, two: dict) -> int:
    """Right: in two directions, each pair from the side of its winner."""
    return sum(min(one[a]) > max(one[b]) and max(two[a]) < min(two[b]) for a in one for b in one)


def by(summary: Callable) -> Callable:
    """By one number per detector."""
    return lambda one, other: int(np.sign(summary(one) - summary(other)))


def in_one(one: dict, two: dict) -> int:
    """Apart in one of the two, opposite by medians."""
    middle = by(statistics.median)
    return sum(middle(one[a], one[b]) * middle(two[a], two[b]) == -1
               and bool(sign(one[a], one[b]) or sign(two[a], two[b])) for a, b in combinations(one, 2))


def places(one: dict, two: dict) -> int:
    """How many have another place."""
    first, second = (sorted(some, key=lambda name: statistics.median(some[name])) for some in (one, two))
    return sum(a != b for a, b in zip(first, second, strict=True))


def quantiles(values: list) -> tuple:
    """By np.quantile, whose nan for infinities is hushed."""
    with np.errstate(invalid="ignore"):
        return tuple(np.quantile(values, [0, 0.5, 1]))


def finite(values: list) -> list:
    """Without those that failed."""
    return [value for value in values if value < math.inf]


WRONG = {
    "16.level": [
        (by_the_package, "calls `reached`"),
        (first_above, "first evaluation at or above"),
        (last_below, "last evaluation below"),
        (half_way, "the middle between two"),
        (from_the_right, "from the right-hand end"),
        (last_crossing, "a later crossing"),
        (without_origin, "before the first evaluation"),
        (or_the_end, "you gave the last step"),
        (or_nought, "you gave 0"),
        (only_above, "not only above it"),
        (by_interp, "wants values that only rise"),
        (needs_a_point, "With no evaluations yet your code stopped: IndexError"),
        (nought_at_first, "Nothing was reached"),
    ],
    "16.band": [
        (lambda v: (min(finite(v)), statistics.median(finite(v)), max(finite(v))), "left out the seed"),
        (lambda v: (min(finite(v)), statistics.fmean(finite(v)), max(finite(v))), "and took the mean"),
        (lambda v: (min(v), statistics.fmean(v), max(v)), "You took the mean"),
        (lambda v: (statistics.median(v), min(v), max(v)), "The order is"),
        (lambda v: (min(v), v[len(v) // 2], max(v)), "needs sorting first"),
        (lambda v: (min(v), sorted(v)[len(v) // 2], max(v)), "mean of the two in the middle"),
        (lambda v: (min(v), statistics.median_low(v), max(v)), "not the lower of them"),
        (quantiles, "inf - inf is nan"),
        (lambda v: (min(v), sorted(v)[1] if len(v) == 1 else statistics.median(v), max(v)), "With a single seed"),
        (lambda v: (min(v), statistics.median(v), max(finite(v)) if not finite(v) else max(v)), "When no seed gets"),
    ],
    "16.clock": [
        (lambda s, v, p, t: np.interp(t, [0, *s], [0, *v]), "read the curve at step 25"),
        (lambda s, v, p, t: np.interp(t * p, [0, *s], [0, *v]), "multiplied seconds"),
        (lambda s, v, p, t: v[-1], "at equal steps"),
        (as_evaluated, "last evaluation within the time"),
        (lambda s, v, p, t: t / p, "number of steps that fit"),
        (prolonged, "Do not prolong"),
        (lambda s, v, p, t: np.interp(t / p, s, v), "before the first evaluation"),
        (lambda s, v, p, t: np.interp(t / p, [0, *s], [0, *v], right=0), "keeps its last value"),
        (lambda s, v, p, t: by_numpy(s, v, 1, t // p), "rounded the number of steps down"),
        (lambda s, v, p, t: by_numpy(s, v, p, t) if t else v[-1], "counts from the end"),
        (lambda s, v, p, t: by_numpy(s, v, p, t) if t else v[0], "You gave the first evaluation"),
    ],
    "16.ranks": [
        (lambda a, b: counted(a, b, pairs=permutations), "each pair twice"),
        (lambda a, b: counted(a, b, by(statistics.median)), "You compared medians"),
        (lambda a, b: counted(a, b, by(max)), "best seeds"),
        (lambda a, b: counted(a, b, by(lambda values: values[0])), "first seeds"),
        (in_one, "apart in both"),
        (places, "another place"),
        (lambda a, b: counted(a, b, told_when_touching), "Use > and <"),
        (lambda a, b: counted(a, dict(zip(a, b.values(), strict=True))), "by the place in the dictionary"),
        (lambda a, b: sum(sign(a[x], a[y]) * sign(b[x], b[y]) != 0 for x, y in combinations(a, 2)),
         "You count all pairs that are told apart in both"),
    ],
}

RIGHT = {
    "16.level": [by_walking, by_index],
    "16.band": [
        lambda v: (min(v), statistics.median(v), max(v)),
        lambda v: np.quantile(np.array(v), [0, 0.5, 1], method="midpoint") if math.inf not in v
        else [sorted(v)[0], sorted(v)[len(v) // 2], sorted(v)[-1]],
    ],
    "16.clock": [by_numpy, by_times],
    "16.ranks": [counted, with_loops],
}
