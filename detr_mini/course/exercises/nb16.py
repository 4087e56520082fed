"""Exercises and quiz of 16, the race."""

import math
import statistics
from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, ask, forbids, judge, numbers
from detr_mini.course.race_table import reached

# ---------------------------------------------------------------- 16.level

STEPS, AP50 = [100, 200, 300, 400], [0.30, 0.55, 0.45, 0.80]  # it dips, as real curves do


def check_level(level_at: object) -> None:
    """level_at(steps, values, level) -> the step where the line from (0, 0) through all points first gets there."""
    level_at = forbids(level_at, "Walk from point to point yourself.", reached)
    judge(ask(level_at, STEPS, AP50, 0.5), torch.tensor(180.0), slips_of_level())
    judge(ask(level_at, STEPS, AP50, 0.15), torch.tensor(50.0), {
        "The level 0.15 lies before the first evaluation. A run starts at step 0 with AP50 0: the line begins there, "
        "and is at 0.15 half way to the first point.": torch.tensor(100.0),
        "You drew the line through the first two points backwards, beyond the first. The run starts at (0, 0).":
            torch.tensor(40.0),
    })
    judge(ask(level_at, STEPS, AP50, 0.9), torch.tensor(math.inf), {
        "0.9 is never reached, and you gave the last step. That would make a run look better than it was. Never is "
        "`math.inf`.": torch.tensor(400.0),
        "0.9 is never reached, and you gave 0. Never is `math.inf`: the latest of all, not the earliest.":
            torch.tensor(0.0),
        "You prolonged the line beyond the last evaluation. Nobody measured there: never is `math.inf`.":
            torch.tensor(400 + 100 * 0.1 / 0.35),
        "A nan cannot be ordered. Never is `math.inf`: later than everything.": torch.tensor(math.nan),
    })
    judge(ask(level_at, *DIPPING, 0.4), torch.tensor(475.0), {
        "np.interp wants values that only rise. This curve of twelve evaluations dips, and it then finds any crossing, "
        "here the second one. Look for the first piece that gets there.": torch.tensor(1150.0),
    }, when="For a long curve that dips")
    judge(ask(level_at, STEPS, AP50, 0.55), torch.tensor(200.0), {
        "The evaluation at step 200 is exactly 0.55, and that is there: a level is reached at it, not only above it.":
            torch.tensor(300 + 100 * 0.1 / 0.35),
    }, when="At level 0.55, which the second evaluation meets exactly")
    judge(ask(level_at, [], [], 0.5, when=NO_RUN), torch.tensor(math.inf), {
        "With no evaluations yet you gave 0. Nothing was reached: `math.inf`.": torch.tensor(0.0),
    }, when=NO_RUN)


DIPPING = ([100 * number for number in range(1, 13)], [0.1] * 4 + [0.5] + [0.2] * 6 + [0.6])
NO_RUN = "With no evaluations yet"


def slips_of_level() -> dict[str, Tensor]:
    """What people write instead, for level 0.5 -> what it gives."""
    return {
        "That is the first evaluation at or above the level. The level was crossed somewhere before it: where the "
        "straight line from the evaluation before is at 0.5.": torch.tensor(200.0),
        "That is the last evaluation below the level. It is crossed on the line from there to the next one.":
            torch.tensor(100.0),
        "You took the middle between two evaluations. How far along the line is 0.5 between 0.30 and 0.55?":
            torch.tensor(150.0),
        "You measured the part of the way from the right-hand end. It is (level - before) / (after - before), from the "
        "left.": torch.tensor(120.0),
        "You found a later crossing: after the dip the curve gets there a second time. The first one counts.":
            torch.tensor(300 + 100 * 0.05 / 0.35),
        "After the dip it stays above 0.5, and you took the evaluation there. The first crossing counts, on the line.":
            torch.tensor(400.0),
        "You drew one line from (0, 0) to the point. Each piece goes from one evaluation to the next.":
            torch.tensor(200 * 0.5 / 0.55),
    }


# ---------------------------------------------------------------- 16.band

CROSSINGS = [310.0, 250.0, 280.0, math.inf, 290.0]  # one seed never gets there


def check_band(band: object) -> None:
    """band(crossings) -> lowest, median, highest; a seed that never got there is math.inf."""
    judge(in_a_row(ask(band, list(CROSSINGS))), torch.tensor([250.0, 290.0, math.inf]), slips_of_band())
    judge(in_a_row(ask(band, [30.0, 10.0, 20.0, 50.0])), torch.tensor([10.0, 25.0, 50.0]), {
        "With an even number of seeds, the median is the mean of the two in the middle.":
            torch.tensor([10.0, 30.0, 50.0]),
        "With an even number of seeds, the median is the mean of the two in the middle, not the lower of them.":
            torch.tensor([10.0, 20.0, 50.0]),
    })
    judge(in_a_row(ask(band, [40.0], when=ONE_SEED)), torch.full((3,), 40.0), {}, when=ONE_SEED)
    judge(in_a_row(ask(band, [math.inf] * 3, when=NO_SEED)), torch.full((3,), math.inf), {}, when=NO_SEED)


ONE_SEED, NO_SEED = "With a single seed", "When no seed gets there"


def slips_of_band() -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    there = [value for value in CROSSINGS if value < math.inf]
    mean, deviation = statistics.fmean(there), statistics.stdev(there)
    return {
        "You left out the seed that never got there. Then a detector that fails every other time looks as good as one "
        "that never does. Keep it: infinity is later than everything, and a median can bear it.":
            torch.tensor([min(there), statistics.median(there), max(there)]),
        "You left out the seed that never got there, and took the mean. Keep it, and take the median.":
            torch.tensor([min(there), mean, max(there)]),
        "np.quantile and np.percentile take differences, and inf - inf is nan. Sort, and take the one in the middle; "
        "`statistics.median` and `np.median` do so.": torch.tensor([250.0, 290.0, math.nan]),
        "You took the mean. One seed that never gets there makes it infinite; the median only moves by one place.":
            torch.tensor([min(there), math.inf, math.inf]),
        "That is the mean and one standard deviation to either side. Asked for is what was seen: lowest, median, "
        "highest.": torch.tensor([mean - deviation, mean, mean + deviation]),
        "The order is lowest, median, highest.": torch.tensor([290.0, 250.0, math.inf]),
        "That is the third of the list as it is given. A median needs sorting first.":
            torch.tensor([250.0, 280.0, math.inf]),
    }


def in_a_row(answer: object) -> Tensor:
    """Three numbers, however they are packed."""
    if isinstance(answer, tuple | list):
        return torch.stack([numbers(part).squeeze() for part in answer]) if answer else numbers(answer)
    return numbers(answer)


# ---------------------------------------------------------------- 16.clock

CURVES = {"light": ([100, 200, 300], [0.2, 0.4, 0.6]), "heavy": ([100, 200, 300], [0.3, 0.7, 0.9])}
SECONDS = {"light": 0.1, "heavy": 0.25}  # per step


def check_clock(after: object) -> None:
    """after(steps, values, per_step, seconds) -> AP50 after that much training time, on the straight lines."""
    for name, right in (("light", 0.5), ("heavy", 0.3)):
        judge(ask(after, *CURVES[name], SECONDS[name], 25.0), torch.tensor(right), slips_of_clock(name, 25.0))
    judge(ask(after, *CURVES["light"], 0.1, 60.0), torch.tensor(0.6), {
        "After 60 s this run is over: it ended at 30 s. What is known is its last value. Do not prolong the line.":
            torch.tensor(1.2),
        "After 60 s this run is over. It does not fall back to 0: it keeps its last value.": torch.tensor(0.0),
    })
    judge(ask(after, *CURVES["heavy"], 0.25, 12.5), torch.tensor(0.15), {
        "12.5 s are before the first evaluation. The run starts at 0: half way to the first point there is half of its "
        "value.": torch.tensor(0.3),
        "Before the first evaluation you gave 0. The line from (0, 0) to the first point is half way up.":
            torch.tensor(0.0),
    })
    judge(ask(after, *CURVES["heavy"], 0.25, 0.0, when=AT_ONCE), torch.tensor(0.0), {
        "After 0 seconds nothing is learned: 0. You gave the last value; an index of -1 counts from the end.":
            torch.tensor(0.9),
        "After 0 seconds nothing is learned: 0. You gave the first evaluation.": torch.tensor(0.3),
    }, when=AT_ONCE)


AT_ONCE = "After 0 seconds"


def slips_of_clock(name: str, seconds: float) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    steps, values = CURVES[name]
    done = seconds / SECONDS[name]
    before = [value for step, value in zip(steps, values, strict=True) if step <= done]
    return {
        "You read the curve at step 25. There are 25 seconds: divide by the seconds of a step to get steps.":
            torch.tensor(values[0] * seconds / steps[0]),
        "You multiplied seconds by seconds per step. Steps are seconds divided by seconds per step.":
            torch.tensor(values[0] * seconds * SECONDS[name] / steps[0]),
        "That is the last value of the curve, at equal steps. How many steps fit into the time?":
            torch.tensor(values[-1]),
        "That is the last evaluation within the time. Between two evaluations, read the straight line.":
            torch.tensor(before[-1]),
        "That is the number of steps that fit into the time. What is AP50 there?": torch.tensor(done),
        "You rounded the number of steps down, and a machine's 25 / 0.1 may lie just under 250. Keep the fraction: the "
        "line between two evaluations can be read anywhere.":
            torch.tensor(values[0] + (values[-1] - values[0]) * (seconds // SECONDS[name] - steps[0])
                         / (steps[-1] - steps[0])),
    }


# ---------------------------------------------------------------- 16.ranks

ONE = {"a": [0.54, 0.52, 0.57], "b": [0.51, 0.59, 0.51], "c": [0.44, 0.44, 0.47], "d": [0.53, 0.59, 0.56],
       "e": [0.43, 0.46, 0.49], "f": [0.47, 0.56, 0.46]}
TWO = {"a": [0.57, 0.48, 0.51], "b": [0.48, 0.41, 0.43], "c": [0.57, 0.51, 0.55], "d": [0.46, 0.50, 0.45],
       "e": [0.57, 0.53, 0.54], "f": [0.53, 0.50, 0.54]}


def apart(one: list[float], other: list[float]) -> int:
    """1 when the first is above the second with every seed, -1 when below with every seed, 0 when they overlap."""
    return (min(one) > max(other)) - (max(one) < min(other))


def reversed_pairs(one: dict, two: dict, judged: Callable[[list[float], list[float]], int]) -> float:
    """How many pairs are in one order in the first set and in the opposite order in the second."""
    return float(sum(judged(one[a], one[b]) * judged(two[a], two[b]) < 0 for a, b in combinations(one, 2)))


def by(summary: Callable[[list[float]], float]) -> Callable[[list[float], list[float]], int]:
    """Comparing two detectors by one number of each."""
    return lambda one, other: (summary(one) > summary(other)) - (summary(one) < summary(other))


def check_ranks(changes: object) -> None:
    """changes(one, two) -> how many pairs of detectors are told apart in both sets, in opposite orders."""
    judge(ask(changes, {k: list(v) for k, v in ONE.items()}, {k: list(v) for k, v in TWO.items()}),
          torch.tensor(reversed_pairs(ONE, TWO, apart)), slips_of_ranks())
    judge(ask(changes, *TOUCHING), torch.tensor(0.0), {
        "Where the lowest seed of one equals the highest of the other, as 0.5 and 0.5 here, not every seed lies above: "
        "such a pair is not told apart. Use > and <, not >= and <=.": torch.tensor(1.0),
    }, when="For two bands that touch")
    judge(ask(changes, *AGREED), torch.tensor(0.0), {
        "You count all pairs that are told apart in both races. Count those that stand in opposite orders.":
            torch.tensor(1.0),
    }, when="For two races that agree")
    judge(ask(changes, *OTHER_ORDER), torch.tensor(1.0), {
        "You went by the place in the dictionary. The second one names its detectors in another order: look them up by "
        "name.": torch.tensor(0.0),
    }, when="For a second race that names its detectors in another order")


TOUCHING = ({"a": [0.5, 0.6, 0.7], "b": [0.3, 0.4, 0.5]}, {"a": [0.1, 0.2, 0.1], "b": [0.6, 0.7, 0.6]})
AGREED = ({"a": [0.5, 0.6], "b": [0.3, 0.4]}, {"a": [0.8, 0.9], "b": [0.1, 0.2]})
OTHER_ORDER = ({"a": [0.5, 0.6], "b": [0.3, 0.4]}, {"b": [0.8, 0.9], "a": [0.1, 0.2]})


def slips_of_ranks() -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    right = reversed_pairs(ONE, TWO, apart)
    somewhere = sum(
        by(statistics.median)(ONE[a], ONE[b]) * by(statistics.median)(TWO[a], TWO[b]) < 0
        and (apart(ONE[a], ONE[b]) != 0 or apart(TWO[a], TWO[b]) != 0) for a, b in combinations(ONE, 2)
    )
    orders = [sorted(some, key=lambda name: statistics.median(some[name])) for some in (ONE, TWO)]
    moved = sum(a != b for a, b in zip(*orders, strict=True))
    return {
        "You count each pair twice, as (a, b) and as (b, a). `itertools.combinations` gives each once.":
            torch.tensor(2 * right),
        "You compared medians. Where the bands of two detectors overlap, their order may be luck: such a pair does not "
        "count.": torch.tensor(reversed_pairs(ONE, TWO, by(statistics.median))),
        "You compared means. Where the bands overlap, the order may be luck: such a pair does not count.":
            torch.tensor(reversed_pairs(ONE, TWO, by(statistics.fmean))),
        "You compared the best seeds. The best of three is luck with a good name: compare whole bands.":
            torch.tensor(reversed_pairs(ONE, TWO, by(max))),
        "You compared the first seeds. Each detector has three: compare whole bands.":
            torch.tensor(reversed_pairs(ONE, TWO, by(lambda values: values[0]))),
        "You ask for the bands to be apart in one of the two sets. They must be apart in both.":
            torch.tensor(float(somewhere)),
        "That is how many detectors have another place. Count pairs: one that jumps over three others makes three.":
            torch.tensor(float(moved)),
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "16.level", "When was it reached?", Tier.WARM_UP, 10, check_level,
        ("Put a point (0, 0) in front. Then walk from point to point, and stop at the first one that is at or above "
         "the level.",
         "On the piece from (s0, v0) to (s1, v1): s0 + (level - v0) / (v1 - v0) * (s1 - s0). Left the loop without a "
         "stop? `math.inf`."),
        "The recorded runs were measured every 125 steps. Without the straight line, most detectors would tie.",
    ),
    Exercise(
        "16.band", "Three seeds, one line", Tier.CORE, 8, check_band,
        ("Sorting puts infinity last, where it belongs. Nothing else has to be done about it.",
         "min, statistics.median, max. All three can bear math.inf."),
        "A table that leaves out failed seeds is a table of successes.",
    ),
    Exercise(
        "16.clock", "Equal time", Tier.CORE, 12, check_clock,
        ("Turn seconds into steps first. Then it is a question about a curve over steps.",
         "NumPy has it ready: np.interp(x, [0, *steps], [0, *values]). Beyond the last point it keeps the last value."),
        "At 25 seconds the light detector leads with 0.5 to 0.3. After equal steps it is behind from the start.",
    ),
    Exercise(
        "16.ranks", "Who really changes places?", Tier.STRETCH, 20, check_ranks,
        ("First a function for two lists: +1 when one lies above the other with all seeds, -1 when below, 0 when they "
         "overlap. Lowest of one against highest of the other.",
         "Then over itertools.combinations of the names: the product of the two signs is -1 when both are told apart "
         "and the order is opposite."),
        "Two bands of three that do not overlap are no proof, either: by luck alone it happens once in ten times.",
    ),
)

QUIZ = (
    Question("Two detectors, three seeds each. The bands of AP overlap. What do you write?", (
        Choice("The one with the better median is better", "Perhaps it is. These six runs do not tell."),
        Choice("These runs do not tell them apart",
               "Yes. More seeds would narrow the median's error, and might.", True),
        Choice("They are equally good", "That is a claim, too, and nobody showed it."),
    )),
    Question("A paper compares its detector, with 300 queries and focal loss, with DETR's 100 queries and softmax, "
             "both after 50 epochs. AP is higher. What is shown?", (
        Choice("The new attention is better", "Attention, queries and loss all changed. The table mixes them."),
        Choice("The whole recipe is better on this budget",
               "Yes. What part of it did the work, an ablation has to say, or a race with one recipe.", True),
        Choice("Nothing", "Whoever wants a detector in 50 epochs learns which one to take."),
    )),
    Question("Detector A needs half as many steps as B to AP50 0.7. Each takes three times as long. Who wins?", (
        Choice("A", "By steps, yes. On the clock it needs 0.5 x 3 = 1.5 times as long."),
        Choice("B", "On the clock, yes. By images seen, A does."),
        Choice("It depends on what you pay for: images or time",
               "Yes. Name the axis before you name the winner.", True),
    )),
)
