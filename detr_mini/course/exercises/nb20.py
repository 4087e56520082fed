"""Exercises and quiz of 20, your data and COCO."""

import torch
from torch import Tensor

from detr_mini.course.exercises.core import (
    Choice,
    Exercise,
    Question,
    Tier,
    Wrong,
    ask,
    describe,
    forbids,
    judge,
    numbers,
)
from detr_mini.data.labels import matching_rows

# ---------------------------------------------------------------- 20.voc

CORNERS = (11, 21, 50, 80)  # forty wide, sixty high


def check_voc(to_coco: object) -> None:
    """to_coco(xmin, ymin, xmax, ymax), corners from 1 with both ends inside -> left, top, width, height from 0."""
    xmin, ymin, xmax, ymax = CORNERS
    judge(in_a_row(ask(to_coco, *CORNERS)), torch.tensor([10.0, 20.0, 40.0, 60.0]), {
        "The sizes are one too small. From pixel 11 to pixel 50 there are 40 pixels, for both ends belong to the box.":
            torch.tensor([10.0, 20.0, 39.0, 59.0]),
        "Left and top still count from 1. VOC's first pixel is 1, COCO's is 0.":
            torch.tensor([float(xmin), float(ymin), 40.0, 60.0]),
        "You subtracted, and both conventions are still VOC's: pixels count from 1 there, and both ends belong to the "
        "box. Two times one pixel.": torch.tensor([float(xmin), float(ymin), 39.0, 59.0]),
        "Those are still corners. COCO wants width and height as third and fourth.":
            torch.tensor([float(value) for value in CORNERS]),
        "Those are still corners, now from 0. COCO wants width and height as third and fourth.":
            torch.tensor([float(value - 1) for value in CORNERS]),
        "You give the centre. That is what a target of this course holds; COCO's files hold left and top.":
            torch.tensor([30.0, 50.0, 40.0, 60.0]),
        "The order is left, top, width, height: x before y.": torch.tensor([20.0, 10.0, 60.0, 40.0]),
    })
    judge(in_a_row(ask(to_coco, 1, 1, 10, 10)), torch.tensor([0.0, 0.0, 10.0, 10.0]), {})


def in_a_row(answer: object) -> Tensor:
    """Four numbers, however they are packed."""
    if isinstance(answer, tuple | list) and answer:
        return torch.stack([numbers(part).squeeze() for part in answer])
    return numbers(answer)


# ---------------------------------------------------------------- 20.rows

OLD = ["Cat", None, "dog ", "boat", "cat", "car"]
NEW = ["car", "CAT", "parasol", None, "Dog"]
ROWS = [(5, 0), (0, 1), (2, 4)]


def check_rows(rows_of: object) -> None:
    """rows_of(old, new) -> (row there, row here) of every class with the same name, in order of `new`."""
    rows_of = forbids(rows_of, "Compare the tidied names yourself.", matching_rows)
    found = pairs(ask(rows_of, list(OLD), list(NEW)))
    if found != ROWS:
        raise Wrong(next((message for message, slip in slips_of_rows().items() if found == slip),
                         f"Your pairs are {found}. For old = {OLD} and new = {NEW} they should be {ROWS}."))
    if pairs(ask(rows_of, ["a"], ["b"])) != []:
        raise Wrong("Where no name is the same, the list is empty.")


def slips_of_rows() -> dict[str, list[tuple[int, int]]]:
    """What people write instead -> what it gives."""
    exact = [(5, 0)]
    swapped = [(here, there) for there, here in ROWS]
    return {
        "Only names that are equal letter by letter were found. 'Cat' and 'CAT', 'dog ' and 'Dog' are the same class: "
        "compare without capitals and outer blanks.": exact,
        "You found capitals, and missed 'dog ': there is a blank behind it. `strip()` takes it away.":
            [(5, 0), (0, 1)],
        "Of two rows with one name you took the last, 4 for 'cat'. The first counts: a dict that is filled in order "
        "keeps the last one.": [(5, 0), (4, 1), (2, 4)],
        "You gave both rows of 'cat'. Each class here gets one row: the first there.":
            [(5, 0), (0, 1), (4, 1), (2, 4)],
        "Each pair is the wrong way round: the row there comes first, then the row here.": swapped,
        "The pairs are in the order of the old classes. They should follow the new ones, row by row.":
            sorted(ROWS),
        "You took None for a name: two rows without one were paired. They have nothing in common but that.":
            [(5, 0), (0, 1), (1, 3), (2, 4)],
        "You went by position: row 0 for row 0. Two lists of classes have their own orders; only names tell.":
            [(row, row) for row in range(len(NEW))],
    }


def pairs(answer: object) -> list[tuple[int, int]]:
    """A student's pairs as plain tuples; Wrong for something else."""
    try:
        return [(int(there), int(here)) for there, here in answer]
    except (TypeError, ValueError):
        raise Wrong(f"A list of pairs (row there, row here) is wanted, and this is {describe(answer)}.") from None


# ---------------------------------------------------------------- 20.leak

TRAIN = {"a.jpg": b"\x01\x02\x03\x04", "b.jpg": b"\x05\x06", "c.jpg": b"\x07\x08\x09"}
VAL = {"d.jpg": b"\x07\x08\x09", "b.jpg": b"\x0a\x0b", "e.jpg": b"\x01\x02\x03\x05", "f.jpg": b"\x0c",
       "copy.jpg": b"\x05\x06"}


def check_leak(leaked: object) -> None:
    """leaked(train, val), dicts of file name -> bytes -> sorted names in val whose content is in train."""
    found = names(ask(leaked, dict(TRAIN), dict(VAL)))
    right = ["copy.jpg", "d.jpg"]
    if found != right:
        raise Wrong(next((message for message, slip in slips_of_leak().items() if found == slip),
                         f"You found {found}. The contents of {right} are in the training split, and no others."))
    if names(ask(leaked, {}, dict(VAL))) != []:
        raise Wrong("Against an empty training split nothing leaks.")


def slips_of_leak() -> dict[str, list[str]]:
    """What people write instead -> what it gives."""
    return {
        "You compared file names. b.jpg is in both splits and shows two different things; d.jpg has a new name and an "
        "old content.": ["b.jpg"],
        "You compared names and contents, and took either. A name that is in both splits proves nothing.":
            ["b.jpg", "copy.jpg", "d.jpg"],
        "You compared lengths. Two pictures of equally many bytes are not the same picture.":
            ["b.jpg", "copy.jpg", "d.jpg", "e.jpg"],
        "You compared the beginnings only. e.jpg begins like a.jpg and ends otherwise: every JPEG begins alike.":
            ["copy.jpg", "d.jpg", "e.jpg"],
        "Those are the training split's names. Asked for are the ones to take out of the validation split.":
            ["b.jpg", "c.jpg"],
        "They are not sorted by name.": ["d.jpg", "copy.jpg"],
        "Those are the ones that do not leak. Turn the condition round.": ["b.jpg", "e.jpg", "f.jpg"],
    }


def names(answer: object) -> list[str]:
    """A student's names as a list; Wrong for something else."""
    if isinstance(answer, str) or not hasattr(answer, "__iter__"):
        raise Wrong(f"A list of names is wanted, and this is {describe(answer)}.")
    return [str(name) for name in answer]


# ---------------------------------------------------------------- 20.share

CASES = ((32, 8, 4), (32, 8, 2), (32, 8, 3), (28, 4, 3), (32, 6, 8), (16, 1, 1), (16, 2, 64))
MICRO = (1, 2, 2, 7, 0, 16, 1)


def check_share(micro_batches: object) -> None:
    """micro_batches(batch, gpus, fits) -> the fewest micro-batches with equal shares; 0 where there is none."""
    answers = [ask(micro_batches, *case) for case in CASES]
    found = torch.stack([numbers(answer).squeeze() for answer in answers])
    if found.ndim != 1:
        raise Wrong("One number is wanted for each call.")
    judge(found, torch.tensor([float(value) for value in MICRO]), slips_of_share())


def slips_of_share() -> dict[str, Tensor]:
    """What people write instead -> what it gives for CASES."""
    def over(rule) -> Tensor:
        return torch.tensor([float(rule(*case)) for case in CASES])

    def rounded(batch: int, gpus: int, fits: int) -> int:
        return 0 if batch % gpus else -(-(batch // gpus) // fits)

    return {
        "You rounded the quotient up, and did not look whether it divides. Of 28 images each of 4 GPUs has 7; with 3 "
        "that fit you want 3 micro-batches, of 3, 3 and 1 images. Go up until the parts are equal.": over(rounded),
        "32 images cannot be shared by 6 GPUs evenly: the answer is 0 there.":
            over(lambda b, g, f: smallest(b // g, f)),
        "You forgot that GPUs share the batch: each holds batch / gpus images of a step.":
            over(lambda b, g, f: 0 if b % g else smallest(b, f)),
        "You gave images, not micro-batches: that is how many a GPU holds at a time.":
            over(lambda b, g, f: 0 if b % g else (b // g) // smallest(b // g, f)),
        "You took micro-batches of one image everywhere. It is right, and as slow as can be: take as few as fit.":
            over(lambda b, g, f: 0 if b % g else b // g),
        "You rounded down. Then a micro-batch is larger than what fits.":
            over(lambda b, g, f: 0 if b % g else max(1, (b // g) // f)),
    }


def smallest(share: int, fits: int) -> int:
    """The fewest equal parts of a share that fit."""
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= fits)


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "20.voc", "From corners to sizes", Tier.WARM_UP, 8, check_voc,
        ("Draw a box from pixel 1 to pixel 3, both inside. How wide is it? Where is its left edge, counted from 0?",
         "left = xmin - 1. width = xmax - xmin + 1, because both ends belong to the box."),
        "One pixel is little on a photograph and much on a platelet: at 20 pixels it costs 0.1 of IoU.",
    ),
    Exercise(
        "20.rows", "Whose row is whose?", Tier.CORE, 12, check_rows,
        ("First a dict from tidy name to the first row that has it. Then go through the new names in order.",
         "`name.strip().lower()` tidies, `dict.setdefault(key, row)` keeps the first. Skip None on both sides."),
        "91 rows of COCO's head have 80 names: the gaps are exactly such rows without one.",
    ),
    Exercise(
        "20.leak", "The same picture twice", Tier.CORE, 12, check_leak,
        ("Which contents are in the training split? Ask that for each picture of the other split.",
         "A set of all training contents: `set(train.values())`. Then a sorted list of the names whose content is in "
         "it."),
        "For large files one compares a hash of the bytes. A copy saved anew has other bytes: there the package "
        "compares tiny grey versions.",
    ),
    Exercise(
        "20.share", "A batch for your GPUs", Tier.STRETCH, 15, check_share,
        ("First each GPU's share of a step. It has to be a whole number. Then: into how many equal parts must that "
         "share be cut so that each part fits?",
         "Try parts = 1, 2, 3, ... and take the first one that divides the share and makes parts small enough."),
        "More micro-batches cost time and no accuracy: gradients add up to those of the whole batch.",
    ),
)

QUIZ = (
    Question("You fine-tune on 60 photographs. AP50 on 12 others rises from 0.81 to 0.83. What do you say?", (
        Choice("It got better by two points", "Twelve photographs move by more than that when you take twelve others."),
        Choice("Too few pictures to tell, so I would not even look",
               "Both figures are of the same twelve photographs, so their difference is steadier than either of them."),
        Choice("Not yet: I ask the paired bootstrap on those twelve, and for more photographs",
               "Yes. Same pictures, so the spread of the difference counts. With twelve it will often include 0.",
               True),
        Choice("It overfits", "Perhaps, but this does not show it: on these twelve it rose."),
    )),
    Question("Your classes are cat, dog and parasol; the weights know cat, dog and umbrella. What is kept?", (
        Choice("Everything but the class head", "Rows whose names agree are kept as well: cat and dog."),
        Choice("Everything but the row of parasol", "Yes. Call it umbrella in the JSON, and that row is kept too.",
               True),
        Choice("The backbone only", "Encoder, decoder and box head do not care what classes are called."),
    )),
    Question("The training loss falls as it should, AP on your validation split is fine, and on new pictures the "
             "detector is useless. Which fault fits best?", (
        Choice("Copies of training pictures in the validation split",
               "Yes. The figure measured memory. Compare contents, not names.", True),
        Choice("A broken picture file", "That stops a training, with the file's name."),
        Choice("Gaps in the class ids", "They are harmless: labels are counted anew, and counted back for COCO."),
    )),
)
