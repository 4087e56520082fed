"""Exercises and quiz of 03, positions."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from detr_mini.course.exercises.core import (
    Choice,
    Exercise,
    Question,
    Tier,
    Wrong,
    ask,
    calls_of,
    forbids,
    judge,
    signs_of,
)
from detr_mini.positions import grid_coordinates, sine

# ---------------------------------------------------------------- 03.clock


def check_clock(answer: object) -> None:
    """The dot product of (sin, cos) at places 1 and 4, when the hand turns by 0.4 radians per place."""
    judge(answer, torch.tensor(math.cos(1.2)), {
        "That is the cosine of 1.2 degrees. The angle is in radians.": torch.tensor(math.cos(math.radians(1.2))),
        "You took the sum of the two angles. The identity has their difference: cos(a - b).":
            torch.tensor(math.cos(2.0)),
        "You took the cosine of the distance, 3. The hand turns by 0.4 per place, so the angle is 1.2.":
            torch.tensor(math.cos(3.0)),
        "That is the sine of the angle between them. Two hands that agree must give 1, so it is the cosine.":
            torch.tensor(math.sin(1.2)),
        "That is the product of the sines. The product of the cosines is missing.":
            torch.tensor(math.sin(0.4) * math.sin(1.6)),
        "That is the product of the cosines. The product of the sines is missing.":
            torch.tensor(math.cos(0.4) * math.cos(1.6)),
        "That is the angle between the two hands. One step is missing.": torch.tensor(1.2),
    }, tolerance=0.006)


# ---------------------------------------------------------------- 03.sine


def check_sine(my_sine: object) -> None:
    """my_sine(coordinates (N,), width, temperature) -> (N, width)."""
    my_sine = forbids(my_sine, "Write the angles, their sines and their cosines yourself.", sine)
    at = torch.tensor([0.0, 0.13, 0.5, 0.86])
    judge(ask(my_sine, at, 8, 100), sine(at[:, None], 8, 100), slips_of_sine(at, 8, 100))
    at = torch.linspace(0.05, 1, 7)
    judge(ask(my_sine, at, 12, 20), sine(at[:, None], 12, 20), {})


def slips_of_sine(at: Tensor, width: int, temperature: float) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    hand, angle = torch.arange(width // 2), 2 * math.pi * at[:, None]  # (width/2,), (N, 1)
    slower = temperature ** (2 * hand / width)

    def woven(angle: Tensor) -> Tensor:
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)

    right = angle / slower
    return {
        "The 2π is missing: the fastest hand should go round once from 0 to 1.": woven(at[:, None] / slower),
        "All sines come first, then all cosines. Here sine and cosine of a hand stand next to each other.":
            torch.cat([right.sin(), right.cos()], dim=-1),
        "Sine and cosine are swapped: the sine comes first.":
            torch.stack([right.cos(), right.sin()], dim=-1).flatten(-2),
        "Each next hand turns faster. Divide by temperature^(2i / width).": woven(angle * slower),
        "The exponent is i / width. It is 2i / width, so that the slowest hand gets near the temperature.":
            woven(angle / temperature ** (hand / width)),
        "All hands but the first are too slow: i runs over the hands, 0 to width/2 - 1, and the exponent is "
        "2i / width.": woven(angle / temperature ** (2.0 * hand)),
        "i starts at 1. The first hand is number 0, which divides by temperature^0 = 1.":
            woven(angle / temperature ** (2 * (hand + 1) / width)),
    }


# ---------------------------------------------------------------- 03.coordinates


def check_coordinates(centres: object) -> None:
    """centres(padding (B, H, W)) -> (B, H, W, 2), y and x of the middle of each cell. Padding itself does not count."""
    centres = forbids(centres, "Count the cells of the picture yourself.", grid_coordinates)
    padding = torch.zeros(2, 4, 4, dtype=torch.bool)
    padding[0, :, 3:], padding[1, 3:, :] = True, True
    seen = inside(padding)
    judge(seen(ask(centres, padding)), seen(grid_coordinates(padding, half_cell=True)), slips_of_centres(padding, seen))
    padding = torch.zeros(1, 3, 5, dtype=torch.bool)
    judge(ask(centres, padding), grid_coordinates(padding, half_cell=True), {})


def inside(padding: Tensor) -> Callable[[object], object]:
    """A function that writes 0 over what an answer of the right shape says about padding."""
    def seen(answer: object) -> object:
        fits = isinstance(answer, Tensor) and answer.shape == (*padding.shape, 2)
        return answer.masked_fill(padding[..., None], 0) if fits else answer

    return seen


def slips_of_centres(padding: Tensor, seen: Callable[[object], object]) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    right, edges = grid_coordinates(padding, half_cell=True), grid_coordinates(padding)
    everything = torch.zeros_like(padding)
    size = torch.tensor(padding.shape[1:])  # (2,) H, W
    counted = torch.stack([(~padding).float().cumsum(1), (~padding).float().cumsum(2)], dim=-1)  # (B, H, W, 2)
    last = torch.stack([counted[:, -1:, :, 0].expand_as(padding), counted[:, :, -1:, 1].expand_as(padding)], dim=-1)
    slips = {
        "x comes first in your answer. The order is y, x.": right.flip(-1),
        "These are the far edges of the cells, as in DETR. Subtract one half before you divide.": edges,
        "You count over the padding, too, or divide by the whole map. Count and divide by the cells of the picture.":
            grid_coordinates(everything, half_cell=True),
        "You divide by the whole map. Divide by the number of cells in the picture: the last count of each column "
        "or row.": (counted - 0.5) / size,
        "You subtract the half after dividing. It is half a cell: subtract it from the count.": edges - 0.5,
        "You count 0, 1, 2, ...: these are the near edges. cumsum starts at 1, and the middle is half a cell before.":
            (counted - 1) / last.clamp(min=1),
        "You divide by the last count less a half, so the last cell is at 1. Its middle lies before the edge.":
            (counted - 0.5) / (last - 0.5).clamp(min=0.5),
        "These are counts. Divide by how many cells there are.": counted - 0.5,
    }
    return {message: seen(wrong) for message, wrong in slips.items()}


# ---------------------------------------------------------------- 03.distance

NO_CODES = ("The offset alone is enough: sin a sin b + cos a cos b = cos(a - b), so each hand gives one cosine, of its "
            "speed times the offset.")


def check_distance(dot_of_offset: object) -> None:
    """dot_of_offset(dy, dx, width, temperature) -> the dot product of the 2-D codes of two cells that far apart."""
    dot_of_offset = without_codes(forbids(dot_of_offset, NO_CODES, sine))
    dy, dx, width, temperature = 0.25, -0.5, 16, 100
    judge(ask(dot_of_offset, dy, dx, width, temperature), dot_of(dy, dx, width, temperature),
          slips_of_distance(dy, dx, width, temperature))
    judge(ask(dot_of_offset, 0.5, 0.25, 64, 20), dot_of(0.5, 0.25, 64, 20), {
        "At this width it fails: take the number of hands from `width`.": dot_of(0.5, 0.25, 16, 20),
        "At this temperature it fails: take it from the argument.": dot_of(0.5, 0.25, 64, 100),
    })


def without_codes(function: object) -> object:
    """The student's function, made to raise Wrong if it takes sines as well as cosines: only codes need both."""
    if not callable(function):
        return function
    waves = [signs_of(wave) for wave in (torch.sin, torch.cos, math.sin, math.cos)]

    def watched(*arguments: object) -> object:
        with calls_of(waves) as used:
            answer = function(*arguments)
        if {"sin", "cos"} <= set(used):
            raise Wrong(f"Your function takes sines and cosines, so it makes the codes first. {NO_CODES}")
        return answer

    return watched


def dot_of(dy: float, dx: float, width: int, temperature: float) -> Tensor:
    """The right answer, by way of the codes themselves."""
    here, there = torch.tensor([[0.5, 0.5], [0.5 + dy, 0.5 + dx]], dtype=torch.float64)  # (2,) each: y, x
    return sine(here, width // 2, temperature) @ sine(there, width // 2, temperature)


def slips_of_distance(dy: float, dx: float, width: int, temperature: float) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    def hands(half: int, count: int) -> Tensor:
        return 2 * math.pi / temperature ** (2 * torch.arange(count, dtype=torch.float64) / half)

    half = width // 2
    right, whole = hands(half, half // 2), hands(width, half)
    y, x = (right * dy).cos().sum(), (right * dx).cos().sum()
    straight = math.hypot(dy, dx)
    return {
        "The 2π is missing: coordinates run from 0 to 1, and the fastest hand goes round once.":
            (right / 2 / math.pi * dy).cos().sum() + (right / 2 / math.pi * dx).cos().sum(),
        "You used all `width` numbers for y and again for x. Each gets half of them, so width / 4 hands.":
            (whole * dy).cos().sum() + (whole * dx).cos().sum(),
        "The number of hands is right, their speeds are not: inside each half, `width` is the half's own width.":
            (hands(width, half // 2) * dy).cos().sum() + (hands(width, half // 2) * dx).cos().sum(),
        "You counted each cosine twice: a hand is a sine *and* a cosine, and together they give one cosine.":
            2 * (y + x),
        "You took the mean. A dot product adds up.": (y + x) / half,
        "You multiplied y's part with x's. The halves stand side by side, so a dot product adds them.": y * x,
        "You used the straight distance √(dy² + dx²). The code has y and x apart: a sum of a part for each.":
            (right * straight).cos().sum() * 2,
        "The part for x is missing.": y,
        "The part for y is missing.": x,
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "03.clock", "Two places, one clock", Tier.WARM_UP, 5, check_clock,
        ("sin a sin b + cos a cos b = cos(a - b). What are the angles a and b at places 1 and 4?",
         "The angles are 0.4 and 1.6, their difference is 1.2 radians. Take its cosine."),
        "Places 11 and 14 give the same, and so do 101 and 104.",
    ),
    Exercise(
        "03.sine", "The sine code", Tier.CORE, 12, check_sine,
        ("First all angles, (N, width/2): coordinates as a column, speeds as a row.",
         "`torch.stack([angle.sin(), angle.cos()], dim=-1)` is (N, width/2, 2); flatten its last two axes."),
        "Every system in this course uses this function. They differ in what they feed it: cells, points, boxes.",
    ),
    Exercise(
        "03.coordinates", "Coordinates in a padded batch", Tier.CORE, 12, check_coordinates,
        ("`(~padding).float().cumsum(dim=1)` counts down the columns. The last count says how many there are.",
         "(y - 0.5) / (y[:, -1:] + 1e-6), the same for x along dim=2, then stack y, x on a new last axis."),
        "Now x = 0.5 is the middle of every picture. With DETR's edges it lies half a cell off.",
    ),
    Exercise(
        "03.distance", "Is it only the distance?", Tier.STRETCH, 15, check_distance,
        ("Each hand adds cos(its speed times the offset). How many hands are there for y, and how many for x?",
         "`half = width // 2` numbers each, so half / 2 hands, with speeds 2π / temperature^(2i / half)."),
        "So one function of (dy, dx) says all about how alike any two cells are. And since the parts for y and x are "
        "added, its hills are not round: look at the corners of the maps.",
    ),
)

QUIZ = (
    Question("You shuffle the tokens of an encoder without addresses. What comes out?", (
        Choice("Other vectors: the scores have changed", "Each pair of tokens still has the score it had before."),
        Choice("The same vectors, in the shuffled order",
               "Yes. Nothing in attention depends on where in the list a token stands.", True),
        Choice("The same vectors, in the old order", "Outputs follow their tokens: each row is computed by itself."),
    )),
    Question("Why do sines come in pairs with cosines?", (
        Choice("So that the dot product of two addresses depends on their distance only",
               "Yes: sin a sin b + cos a cos b = cos(a - b). And a shift becomes a turn.", True),
        Choice("Because a sine alone cannot be differentiated", "It can: its slope is the cosine."),
        Choice("To have twice as many wavelengths", "Both have the same wavelength. It is one hand of a clock."),
    )),
    Question("Five of 32 lamps are left out of the training. What do sine addresses do for them?", (
        Choice("They tell the layer the rule, so any lamps could have been left out",
               "With eight in a row left out, five of six trainings failed, though the rule would have served."),
        Choice("Their neighbours' training serves them, because neighbours have similar addresses",
               "Yes, here and for small gaps. It also takes that one turn fits all places.", True),
        Choice("They make all lamps learn faster", "Random addresses were learned faster: after 50 steps, by far."),
    )),
)
