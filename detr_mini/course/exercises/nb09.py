"""Exercises and quiz of 09, training DETR."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detr_mini.course.exercises.core import Choice, Exercise, Open, Question, Tier, Wrong, ask, describe, forbids, judge
from detr_mini.data.scenes import Scenes
from detr_mini.recipes import TrainRecipe
from detr_mini.training import lr_factor

RECALLS = np.linspace(0, 1, 101)  # where COCO reads a precision-recall curve

# ---------------------------------------------------------------- 09.rate


def check_rate(rate: object) -> None:
    """rate(step from 0, total, lr, warmup, drop) -> the learning rate at this step."""
    rate = forbids(rate, "Write the two factors, of warm-up and of drop, yourself.", lr_factor)
    steps = (0, 1, 48, 49, 50, 120, 159, 160, 161, 199)
    judge(rates(rate, steps, 200, 2.0, 50, 0.8), path(steps), slips_of_rate(steps), tolerance=1e-6)
    judge(rates(rate, (0, 5, 9), 10, 3.0, 0, 1.0), torch.full((3,), 3.0), {
        "Right with a warm-up and a drop. With warmup = 0 the rate starts at 0; it should be full at once.":
            torch.tensor([0.0, 3.0, 3.0]),
        "Right with a drop. With drop = 1.0 the schedule never drops, so the last step must still have the full rate.":
            torch.tensor([3.0, 3.0, 0.3]),
    }, tolerance=1e-6)


def rates(rate: object, steps: tuple[int, ...], *schedule: float) -> Tensor:
    """What a student's function gives at these steps, (S,); Wrong for an answer that is not one number."""
    answers = [ask(rate, step, *schedule) for step in steps]
    try:
        return torch.tensor([float(answer) for answer in answers], dtype=torch.float64)
    except (TypeError, ValueError):
        raise Wrong(f"One number is wanted for each step, and this is {describe(answers[0])}.") from None


def path(steps: tuple[int, ...], total: int = 200, lr: float = 2.0, warmup: int = 50, drop: float = 0.8) -> Tensor:
    """The right rates, (S,)."""
    recipe = TrainRecipe(warmup=warmup, drop=drop)
    return torch.tensor([lr * lr_factor(step, total, recipe) for step in steps], dtype=torch.float64)


def slips_of_rate(steps: tuple[int, ...]) -> dict[str, Tensor]:
    """What people write instead -> the rates it gives with lr 2, 200 steps, warm-up 50, drop 0.8."""
    s = torch.tensor(steps, dtype=torch.float64)
    right, late = path(steps), s >= 160
    warm, fall = ((s + 1) / 50).clamp(max=1), torch.where(late, 0.1, 1.0)  # (S,), (S,)
    return {
        "The first step has the rate 0, so it teaches nothing. Steps count from 0: use (step + 1) / warmup.":
            2 * (s / 50).clamp(max=1) * fall,
        "There is no warm-up: the first steps have the full rate.": 2 * fall,
        "There is no drop: the last steps still have the full rate.": 2 * warm,
        "The warm-up does not stop: after it the rate keeps growing. Cut the factor at 1 with `min`.":
            2 * (s + 1) / 50 * fall,
        "drop is a fraction of all steps, and you compared it with the step itself. Compare with drop * total.":
            2 * warm * torch.where(s >= 0.8, 0.1, 1.0),
        "The drop comes one step late. Steps count from 0, so the first of the last 20 % is step drop * total: use >=.":
            2 * warm * torch.where(s > 160, 0.1, 1.0),
        "After the drop the rate is 0 and nothing is learned. It is divided by 10.": 2 * warm * ~late,
        "You lowered the rate by a tenth. It falls to a tenth: multiply by 0.1.":
            2 * warm * torch.where(late, 0.9, 1.0),
        "You give the factor, without the rate itself: multiply it by lr.": right / 2,
    }


# ---------------------------------------------------------------- 09.ap

# Chosen so that every mistake below gives a number of its own.
SCORES = torch.tensor([0.89, 0.96, 0.63, 0.37, 0.82, 0.79, 0.29, 0.25, 0.65, 0.33])  # not sorted, as a detector's are
RIGHT = torch.tensor([True, False, True, True, True, True, False, False, False, False])
OBJECTS = 7


def check_ap(average_precision: object) -> None:
    """average_precision(scores (N,), right (N,) bool, objects) -> AP at one IoU, read at 101 recalls."""
    judge(ask(average_precision, SCORES, RIGHT, OBJECTS), number(area(RIGHT[by_score()], OBJECTS)), slips_of_ap(), 2e-3)
    scores, right = torch.tensor([0.2, 0.9, 0.8]), torch.tensor([False, True, True])
    judge(ask(average_precision, scores, right, 3), number(area(torch.tensor([True, True, False]), 3)), {
        "Right for one list, wrong for another. Is a number of that list written into your function?":
            number(area(RIGHT[by_score()], OBJECTS)),
    }, 2e-3)


def by_score() -> Tensor:
    """The order of the example, best first."""
    return SCORES.argsort(descending=True)


def number(value: float) -> Tensor:
    """A tensor of one number."""
    return torch.tensor(value, dtype=torch.float64)


def area(
    right: Tensor, objects: int, envelope: Callable[[np.ndarray], np.ndarray] | None = None,
    recalls: np.ndarray = RECALLS,
) -> float:
    """AP of detections that are sorted, best first: right (N,) bool. envelope: by default the largest to the right."""
    hits = np.cumsum(right.numpy())  # (N,)
    precision = hits / np.arange(1, len(hits) + 1)  # (N,)
    best = (envelope or from_the_right)(precision)
    place = np.searchsorted(hits / objects, recalls)  # (recalls,) the first rank that reaches each
    return float(np.append(best, 0.0)[place].mean())


def from_the_right(precision: np.ndarray) -> np.ndarray:
    """The best precision at this rank or a later one, (N,)."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def slips_of_ap() -> dict[str, Tensor]:
    """What people write instead -> the AP it gives."""
    order, found = RIGHT[by_score()], int(RIGHT.sum())
    hits, ranks = order.cumsum(0), torch.arange(1, len(order) + 1)
    precision = hits / ranks  # (N,)
    values = {
        "The list must be sorted by score first, best at the top. The function gets it as the detector made it.":
            area(RIGHT, OBJECTS),
        "You sorted with the lowest score first. Turn it round: `argsort(descending=True)`.":
            area(order.flip(0), OBJECTS),
        "Your recall reaches 1 although two objects were never found: you divided by the hits. Divide by `objects`.":
            area(order, found),
        "You divided recall by the number of detections. Recall asks how many of the objects were found.":
            area(order, len(order)),
        "The curve still has its teeth: at a recall COCO takes the best precision there or further right. "
        "Take the running maximum from the end.": area(order, OBJECTS, lambda precision: precision),
        "Your running maximum starts at the left, so one good beginning hides all later mistakes. Start at the end.":
            area(order, OBJECTS, np.maximum.accumulate),
        "This averages the precision at the hits only, as search engines do. COCO reads the curve at 101 recalls.":
            float(precision[order].sum() / OBJECTS),
        "You read the curve at 11 recalls, as Pascal VOC did in 2007. COCO takes 101: linspace(0, 1, 101).":
            area(order, OBJECTS, recalls=np.linspace(0, 1, 11)),
        "That is in percent. Give a fraction, from 0 to 1.": 100 * area(order, OBJECTS),
        "That is the mean precision over all ranks. Recall is missing: how much of the curve does each rank cover?":
            float(precision.mean()),
        "That is the precision of the whole list. AP looks at every cut of the list.": float(precision[-1]),
        "That is the recall of the whole list. AP looks at every cut of the list.": found / OBJECTS,
    }
    return {message: number(value) for message, value in values.items()}


# ---------------------------------------------------------------- 09.zero


class FaultyScenes(Scenes):
    """Scenes whose loader has two faults that people really make. The ground truth that AP is measured on is fine.

    Labels are category ids, 1 to 10; the class head has a logit to spare, so that nothing complains. Boxes are corners
    (left, top, right, bottom) as fractions, where the detector expects centre and size.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__(count, seed)
        self.classes = [*self.classes, None]
        self.num_classes = len(self.classes)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        image, target = super().__getitem__(index)
        return image, target | {"labels": target["labels"] + 1, "boxes": cxcywh_to_xyxy(target["boxes"])}


def check_zero(mended: object) -> None:
    """mended(target of FaultyScenes) -> the target as it should be, with labels and boxes."""
    faulty, sound = FaultyScenes(40, seed=9), Scenes(40, seed=9)
    for index in range(len(sound)):
        wrong, right = faulty[index][1], sound[index][1]
        labels, boxes = parts(ask(mended, faulty[index][1]))
        judge(labels, right["labels"], slips_of_labels(wrong["labels"]))
        judge(boxes, right["boxes"], slips_of_boxes(wrong["boxes"]))


def parts(answer: object) -> tuple[object, object]:
    """Labels and boxes of a target; Wrong for something else."""
    if not isinstance(answer, dict) or not {"labels", "boxes"} <= answer.keys():
        raise Wrong(f"A target is wanted: a dict with `labels` and `boxes`. This is {describe(answer)}.")
    if answer["labels"] is None or answer["boxes"] is None:
        raise Open
    return answer["labels"], answer["boxes"]


def slips_of_labels(labels: Tensor) -> dict[str, Tensor]:
    """Mended labels that are not -> what they look like. labels: (M,), 1 to 10."""
    return {
        "The labels are still the category ids, 1 to 10. The class head counts from 0.": labels,
        "You moved the labels the wrong way: the first class should be 0.": labels + 1,
        "You folded label 10 back to 0 and left the others where they are. All of them are one too high.": labels % 10,
        "You cut label 10 down to 9 and left the others where they are. All of them are one too high.":
            labels.clamp(max=9),
    }


def slips_of_boxes(boxes: Tensor) -> dict[str, Tensor]:
    """Mended boxes that are not -> what they look like. boxes: (M, 4) corners."""
    size, corner = boxes[:, 2:], boxes[:, :2]
    right = xyxy_to_cxcywh(boxes)
    return {
        "The labels are right now, the boxes are still corners: left, top, right, bottom. "
        "Draw them on the image and look at the last two numbers.": boxes,
        "You turned centre and size into corners. These boxes are corners already: go the other way.":
            cxcywh_to_xyxy(boxes),
        "You took the last two numbers for width and height. They are right and bottom: "
        "the width is right minus left.": torch.cat([corner + size / 2, size], dim=1),
        "You kept the corner in front. The detector wants the centre, then the size.":
            torch.cat([corner, right[:, 2:]], dim=1),
        "The centre is right, the size is half of what it should be.":
            torch.cat([right[:, :2], right[:, 2:] / 2], dim=1),
        "These boxes are in pixels. The loss compares fractions of the image: leave the unit as it is.": right * 128,
        "You divided by 128, but the boxes are fractions of the image already.": right / 128,
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "09.rate", "The learning rate's path", Tier.WARM_UP, 8, check_rate,
        ("Two factors, multiplied with lr: one for the warm-up, one for the drop. Each is 1 where it does nothing.",
         "`min(1, (step + 1) / warmup)`, when there is a warm-up at all; and 0.1 from step `drop * total` on."),
        "The first steps are kept small, because Adam's averages rest on few gradients then. The drop comes late: "
        "DETR's long schedule has 300 epochs and drops after 200.",
    ),
    Exercise(
        "09.ap", "Average precision, the whole of it", Tier.CORE, 20, check_ap,
        ("Sort by score. Then, rank by rank: hits so far, precision = hits / rank, recall = hits / objects.",
         "Make precision fall only: a running maximum from the end. Then read it at 101 recalls, each time at the "
         "first rank that reaches this recall; 0 where none does."),
        "That is the number in every detection paper. COCO repeats it for ten demands on the overlap and for all "
        "classes, and takes the mean.",
    ),
    Exercise(
        "09.zero", "The run that stays at 0", Tier.STRETCH, 20, check_zero,
        ("Draw the targets on the image, names included. Compare with `dataset.coco_ground_truth()`.",
         "Two faults. Which label does the first class have? And what are the last two numbers of a box whose thing "
         "lies far to the right?"),
        "Targets first: a student who learned them by heart must reach AP 1. This test takes a second and finds "
        "most runs that stay at 0.",
    ),
)

QUIZ = (
    Question("After the first steps all queries say nearly the same box. What is it?", (
        Choice("The box of the largest thing in the image", "It hardly depends on the image. That is the point."),
        Choice("A typical box of the data set: the best answer one can give without looking",
               "Yes. It lowers the loss at once. Looking at the image takes attention that is still to be learned.",
               True),
        Choice("A random box, from the random weights", "It was random before the first step. Then it was learned."),
    )),
    Question("A detector finds one object twice: two perfect boxes, scores 0.9 and 0.8. What does COCO say?", (
        Choice("Two hits", "An object can be found once. Otherwise ten copies would be ten hits."),
        Choice("One hit and one mistake", "Yes. So duplicates cost precision, and DETR learns not to make them.", True),
        Choice("The average of both, 0.85", "Scores only set the order of the list."),
    )),
    Question("A run's loss falls as it should, and AP stays exactly 0. Where do you look first?", (
        Choice("At the learning rate", "With a bad rate the loss would not fall as it should."),
        Choice("At the number of queries", "Too few of them would cost some AP, not all of it."),
        Choice("At the targets: drawn on the image, and evaluated as if they were predictions",
               "Yes. The model learns what it is told. AP asks for something else.", True),
    )),
)
