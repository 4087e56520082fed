"""Exercises and quiz of 00, start here."""

from itertools import permutations

import torch
from torch import Tensor

from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, ask, judge

# ---------------------------------------------------------------- 00.largest

# left, top, width, height in pixels. Every mistake in the check below picks a box of its own.
BOXES = torch.tensor([
    [4, 90, 90, 6],  # the widest
    [20, 20, 40, 40],  # the largest
    [5, 60, 12, 12],
    [100, 5, 8, 95],  # the tallest
    [10, 4, 88, 17],  # the longest way around
    [0, 0, 39, 38],  # the largest, if width and height were right and bottom
]).float()


def check_largest(largest: object) -> None:
    """largest(boxes (M, 4) left, top, width, height) -> the index of the box with the largest area."""
    areas = BOXES[:, 2] * BOXES[:, 3]
    judge(ask(largest, BOXES), torch.tensor(1), {
        "That is the area of the largest box. Wanted is which box it is: its index, counted from 0.": areas.max(),
        "That is the largest box itself. Wanted is its index, counted from 0.": BOXES[1],
        "These are all the areas. Which one is the largest? Give its index.": areas,
        "You found the right box and counted from 1. In Python the first one has index 0.": torch.tensor(2),
        "Box 0 is the widest one, but it is flat. The area needs width and height.": torch.tensor(0),
        "Box 3 is the tallest one, but it is thin. The area needs width and height.": torch.tensor(3),
        "Box 4 has the largest width + height. The area is width times height.": torch.tensor(4),
        "You took the last two numbers for right and bottom. They are width and height already: multiply them.":
            torch.tensor(5),
    })
    judge(ask(largest, BOXES[[1, 2]]), torch.tensor(0), {
        "Right for the boxes above, wrong for two others. Is a number written into your function?": torch.tensor(1),
    })


# ---------------------------------------------------------------- 00.same

PAIR = torch.tensor([[1, 2, 30, 40], [50, 60, 7, 8]]).float()
MIXED = torch.tensor([[1, 2, 7, 8], [50, 60, 30, 40]]).float()  # the same numbers, in other boxes
TIED = torch.tensor([[4, 90, 90, 6], [4, 10, 5, 5], [4, 10, 5, 80]]).float()  # all begin at the same left edge
SUMS = torch.tensor([[2, 1, 30, 40], [50, 60, 8, 7]]).float()  # as PAIR, by the sum of each box, and by its area
NONE = torch.zeros(0, 4)
# message -> first list, second list, whether they hold the same boxes
SAME = {
    "The lists {[4, 90, ...], [20, 20, ...], [5, 60, ...]} and the same in another order hold the same boxes, and you "
    "say that they do not. Did you compare row by row?": (BOXES[:3], BOXES[[2, 0, 1]], True),
    "The boxes (4, 90, 90, 6), (4, 10, 5, 5), (4, 10, 5, 80) and the same in another order: you say that they are not "
    "the same. They tie in the left edge, and two in the top. A sort by one number leaves ties in the order in which "
    "they came: sort by all four.": (TIED, TIED[[2, 0, 1]], True),
    "Two boxes are the same in both lists, and the third one is not. You say that all are.":
        (BOXES[:3], BOXES[[3, 1, 0]], False),
    "(1, 2, 30, 40), (50, 60, 7, 8) are not (1, 2, 7, 8), (50, 60, 30, 40): the same numbers, put together to other "
    "boxes. You take them for the same. The four numbers of a box must stay together, also in sorting.":
        (PAIR, MIXED, False),
    "(1, 2, 30, 40), (50, 60, 7, 8) are not (2, 1, 30, 40), (50, 60, 8, 7), and you say that they are the same. They "
    "agree in a sum or a product. One number cannot stand for a box: compare all four, in their order.":
        (PAIR, SUMS, False),
    "The second list lacks a box, and you say that both are the same. Look both ways.":
        (BOXES[:3], BOXES[[1, 0]], False),
    "The second list has a box too many, and you say that both are the same. Look both ways.":
        (BOXES[:2], BOXES[[2, 1, 0]], False),
    "One list has a box twice, the other one has another box twice. You say that both are the same. (A `set` of "
    "Python's forgets how often.)": (BOXES[[0, 0, 1]], BOXES[[0, 1, 1]], False),
    "Two lists without any box hold the same boxes, namely none. You say that they do not.": (NONE, NONE, True),
    "The first list has no box at all and the second one has one. You say that both are the same.":
        (NONE, BOXES[:1], False),
}


def check_same(same_boxes: object) -> None:
    """same_boxes(first (M, 4), second (N, 4)) -> whether both hold the same boxes, each equally often."""
    for message, (first, second, same) in SAME.items():
        when = special(len(first), len(second))
        answer = ask(same_boxes, first, second, when=when)
        judge(answer, torch.tensor(same), {message: torch.tensor(not same)}, when=when)


def special(first: int, second: int) -> str:
    """What is special about two lists of so many boxes, for messages."""
    if 0 in (first, second):
        return "With no boxes at all in a list"
    return "" if first == second else f"With lists of {first} and {second} boxes"


# ---------------------------------------------------------------- 00.distance

# Left, top, width, height. Rows 0 and 1 of ONE both lie nearest to row 3 of OTHER. Whoever chooses in turn, from the
# top or the closest pair first, gives it to row 0. It is better with row 1.
ONE = torch.tensor([[10, 10, 20, 20], [14, 10, 20, 20], [60, 50, 30, 10], [62, 5, 10, 40]]).float()
OTHER = torch.tensor([[63, 50, 30, 10], [6, 10, 20, 20], [61, 5, 10, 40], [11, 10, 20, 20]]).float()


def check_distance(set_distance: object) -> None:
    """set_distance(first (M, 4), second (M, 4)) -> the smallest mean difference over all orders, a number."""
    judge(ask(set_distance, ONE, OTHER), smallest_mean(ONE, OTHER), slips_of_distance(ONE, OTHER))
    one, other = ONE[[0, 1, 3]], OTHER[[3, 0, 1]]
    judge(ask(set_distance, one, other), smallest_mean(one, other), slips_of_distance(one, other))


def in_all_orders(first: Tensor, second: Tensor) -> list[Tensor]:
    """The absolute differences in every order of the second list: M! tensors (M, 4)."""
    return [(first - second[list(order)]).abs() for order in permutations(range(len(second)))]


def smallest_mean(first: Tensor, second: Tensor) -> Tensor:
    """The right answer."""
    return torch.stack(in_all_orders(first, second)).mean((1, 2)).min()


def slips_of_distance(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    every, count = torch.stack(in_all_orders(first, second)), len(first)  # (M!, M, 4)
    pairs = (first[:, None] - second).abs().mean(-1)  # (M, M)
    turns = torch.stack([(first - second.roll(shift, 0)).abs().mean() for shift in range(count)])
    by_left = (first[first[:, 0].argsort()] - second[second[:, 0].argsort()]).abs().mean()
    best = every.mean((1, 2)).argmin()
    return {
        "That is the difference in the order in which the lists come. Try all orders of the second one.":
            every[0].mean(),
        "Each box took its nearest, and two of them took the same one. In an order, every box is used once.":
            pairs.min(1).values.mean(),
        "Box after box chose the nearest that was free. An early choice can spoil a later one: try all orders.":
            in_turn(pairs),
        "You sorted both lists and compared. Two boxes side by side may change places that way: try all orders.":
            by_left,
        "You moved the list round, which gives M orders. There are M! of them.": turns.min(),
        "You added up. Wanted is the mean over all numbers.": every.sum((1, 2)).min(),
        "You took the mean of the squares. Wanted is the mean of the absolute differences.":
            (every**2).mean((1, 2)).min(),
        "That is the mean over all orders. Wanted is the smallest.": every.mean(),
        "That is the largest over all orders. Wanted is the smallest.": every.mean((1, 2)).max(),
        "That is the best order. Wanted is how far apart the lists are in it.":
            torch.tensor(list(permutations(range(count)))[best]),
    }


def in_turn(pairs: Tensor) -> Tensor:
    """From the top, each row takes the smallest that is left: (M, M) -> the mean."""
    left, taken = pairs.clone(), []
    for row in range(len(pairs)):
        column = int(left[row].argmin())
        taken.append(pairs[row, column])
        left[:, column] = torch.inf
    return torch.stack(taken).mean()


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "00.largest", "The largest box", Tier.WARM_UP, 3, check_largest,
        ("A box is `left, top, width, height`. All widths at once are `boxes[:, 2]`.",
         "Compute all areas as one tensor of M numbers. Its method `argmax` says where the largest one is."),
        "So that is how exercises work here. Your progress below has a new mark.",
    ),
    Exercise(
        "00.same", "The same boxes?", Tier.CORE, 8, check_same,
        ("Bring both lists into one and the same order first. Which order it is does not matter.",
         "`first.tolist()` is a list of lists, and Python's `sorted` puts those in order box by box."),
        "Sorting tells whether two sets are equal. It does not help when the boxes are only nearly equal: then a box "
        "may be sorted beside another one. The next exercise is about that.",
    ),
    Exercise(
        "00.distance", "How far apart are two sets?", Tier.STRETCH, 12, check_distance,
        ("`itertools.permutations(range(M))` gives every order, as a tuple of indices.",
         "`second[list(order)]` is the second list in one order. Take the mean of the absolute differences, and the "
         "smallest of these means."),
        "You have just matched two sets. Three boxes have 6 orders, but 100 have more than 10¹⁵⁷. DETR matches 100 "
        "predictions with the objects of every picture, at every step: notebook 07 shows how, without trying.",
    ),
)

QUIZ = (
    Question("What does a detector return for one picture?", (
        Choice("One label for the whole picture", "That is a classifier. A detector also says where, and how often."),
        Choice("A set of boxes, each with a class", "Yes. A set: any number of them, in no order.", True),
        Choice("A class for every pixel", "That is segmentation. A detector is content with boxes."),
    )),
    Question("Why is a set an awkward thing to learn?", (
        Choice("Its members have no order, so nothing says which prediction answers for which object",
               "Yes. DETR's answer is called matching. It has a notebook of its own.", True),
        Choice("Sets are too large for memory", "A handful of boxes is a handful of numbers. Size is not the trouble."),
        Choice("Boxes cannot be written as numbers", "They can: four numbers each."),
    )),
    Question("A notebook asks you to predict. When do you answer?", (
        Choice("After running the next cell", "Then there is nothing left to be surprised by. Answer first."),
        Choice("Before running the next cell", "Yes. A wrong guess, made in earnest, is what you will remember.", True),
        Choice("Only when sure", "Guess anyway. Nobody sees it, and being wrong here costs nothing."),
    )),
)
