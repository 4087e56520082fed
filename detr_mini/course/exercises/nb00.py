"""Exercise and quiz of 00, start here."""

import torch

from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, ask, judge

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


EXERCISES = (
    Exercise(
        "00.largest", "The largest box", Tier.WARM_UP, 3, check_largest,
        ("A box is `left, top, width, height`. All widths at once are `boxes[:, 2]`.",
         "Compute all areas as one tensor of M numbers. Its method `argmax` says where the largest one is."),
        "So that is how exercises work here. Your progress below has a new mark.",
    ),
)

QUIZ = (
    Question("What does a detector return for one picture?", (
        Choice("One label for the whole picture", "That is a classifier. A detector also says where, and how often."),
        Choice("A set of boxes, each with a class and a score", "Yes. A set: any number of them, in no order.", True),
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
