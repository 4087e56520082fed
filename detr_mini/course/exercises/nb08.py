"""Exercises and quiz of 08, the set loss."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from detr_mini.boxes import cxcywh_to_xyxy, giou, iou
from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, Wrong, ask, forbids, judge, numbers
from detr_mini.losses import focal_loss

# ---------------------------------------------------------------- 08.pencil


def check_pencil(answer: object) -> None:
    """The weighted mean of five answers: objects with p = 0.5, 0.25; no object with 0.8, 0.8, 0.1."""
    each, weight = -torch.tensor([0.5, 0.25, 0.8, 0.8, 0.1]).log(), torch.tensor([1, 1, 0.1, 0.1, 0.1])
    paid = (weight * each).sum()
    judge(answer, paid / weight.sum(), {
        "You divided by the number of queries, 5. Divide by the sum of the weights, 2.3.": paid / 5,
        "You divided by the number of objects, 2. That is the focal form; here divide by the sum of the weights, 2.3.":
            paid / 2,
        "That is the weighted sum. Divide it by the sum of the weights.": paid,
        "You let no object count as much as an object. Multiply each of the three by 0.1.": each.mean(),
        "You left out the queries without an object. They answer, too, and count 0.1 each.": each[:2].mean(),
        "The weights are in the denominator alone. Multiply each -log p by its weight, too.": each.sum() / weight.sum(),
        "You took logarithms to base 10. Everybody here uses the natural one.":
            paid / weight.sum() / math.log(10),
        "The sign is missing: the loss is -log p, and positive.": -paid / weight.sum(),
        "The weights are the wrong way round: objects count 1, no object 0.1.":
            (torch.tensor([0.1, 0.1, 1, 1, 1]) * each).sum() / 3.2,
    }, tolerance=0.003)


# ---------------------------------------------------------------- 08.labels


def check_labels(right_classes: object) -> None:
    """right_classes(pairs, labels (M,), queries, classes) -> (queries,) long."""
    for pairs, labels, queries, classes in (
        ([(1, 2), (4, 0), (5, 1)], [7, 3, 0], 8, 10), ([], [], 4, 3), ([(0, 1), (2, 0)], [0, 2], 4, 3),
    ):
        when = "" if labels else "In an image without objects"
        labels = torch.tensor(labels, dtype=torch.long)
        answer = numbers(ask(right_classes, pairs, labels, queries, classes, when=when))
        judge(answer, classes_of(pairs, labels, queries, classes).double(),
              slips_of_labels(pairs, labels, queries, classes))


def classes_of(pairs: list[tuple[int, int]], labels: Tensor, queries: int, nothing: int) -> Tensor:
    """The right answer when no object is class number `nothing`, (queries,)."""
    right = torch.full((queries,), nothing)
    for query, thing in pairs:
        right[query] = labels[thing]
    return right


def slips_of_labels(pairs: list[tuple[int, int]], labels: Tensor, queries: int, classes: int) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    def padded(front: Tensor) -> Tensor:
        return torch.cat([front, torch.full((queries - len(front),), classes)])

    in_order = torch.full((queries,), classes)
    for (query, _), label in zip(pairs, labels.tolist(), strict=True):
        in_order[query] = label
    swapped = torch.full((queries,), classes)
    for query, thing in pairs:
        swapped[thing] = labels[min(query, len(labels) - 1)]
    return {
        f"No object has the number {classes - 1} in your answer, and that is the last real class. Classes are 0 to "
        f"{classes - 1}, so no object is {classes}.": classes_of(pairs, labels, queries, classes - 1),
        f"No object has the number {classes + 1} in your answer: one too many. The head has {classes} + 1 logits, "
        f"numbered 0 to {classes}.": classes_of(pairs, labels, queries, classes + 1),
        "No object has the number 0 in your answer, and that is a real class here. (Older detectors had a background "
        "class 0.)": classes_of(pairs, labels, queries, 0),
        "No object has the number -1 in your answer. Cross-entropy knows no such class: it comes after the last one.":
            classes_of(pairs, labels, queries, -1),
        "Your real classes are one too high: they count from 0 already.":
            torch.where(classes_of(pairs, labels, queries, classes) < classes,
                        classes_of(pairs, labels, queries, classes) + 1, classes),
        "The labels stand in the order of the objects, at the first queries. A pair says which query they belong to.":
            padded(labels),
        "The right queries, but the labels in the order of the list. Each pair names its object: labels[thing].":
            in_order,
        "Pairs are (query, object), and you took them the other way round.": swapped,
    }


# ---------------------------------------------------------------- 08.boxes


def check_boxes(box_losses: object) -> None:
    """box_losses(boxes (Q, 4), wanted (M, 4), pairs, count) -> two: L1, 1 - GIoU."""
    draw = torch.Generator().manual_seed(3)
    for queries, pairs, count in ((6, [(1, 2), (3, 0), (4, 1)], 7), (4, [(3, 0), (0, 1)], 5)):
        boxes, wanted = (torch.rand(n, 4, generator=draw) * 0.4 + 0.25 for n in (queries, len(pairs)))
        answer = ask(box_losses, boxes, wanted, pairs, count)
        if isinstance(answer, (tuple, list)):
            answer = torch.stack([torch.as_tensor(part) for part in answer])
        mine, theirs = boxes[[q for q, _ in pairs]], wanted[[t for _, t in pairs]]  # (pairs, 4) each
        judge(answer, both(*sums(mine, theirs)) / count, slips_of_boxes(boxes, wanted, pairs, count))
    nothing = ask(box_losses, torch.rand(3, 4), torch.zeros(0, 4), [], 4, when="In an image without objects")
    if not numbers(nothing).eq(0).all():
        raise Wrong("An image without objects has no pairs, and should give 0 and 0. Is there a mean of nothing (nan)?")


def sums(mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Summed L1 and summed 1 - GIoU of pairs, (pairs, 4) cxcywh each."""
    return (mine - theirs).abs().sum(), (1 - giou(cxcywh_to_xyxy(mine), cxcywh_to_xyxy(theirs))).sum()


def both(l1: Tensor, far: Tensor) -> Tensor:
    """Two numbers as one tensor."""
    return torch.stack([l1, far])


def slips_of_boxes(boxes: Tensor, wanted: Tensor, pairs: list[tuple[int, int]], count: int) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    mine, theirs = boxes[[q for q, _ in pairs]], wanted[[t for _, t in pairs]]
    corners, truth = cxcywh_to_xyxy(mine), cxcywh_to_xyxy(theirs)
    l1, far = sums(mine, theirs)
    unsorted = sums(mine, wanted[: len(pairs)])
    return {
        "GIoU was given centre and size, and took them for corners. Convert both with cxcywh_to_xyxy.":
            both(l1, (1 - giou(mine, theirs)).sum()) / count,
        "L1 compares corners. DETR compares centre and size: leave these boxes as they come.":
            both((corners - truth).abs().sum(), far) / count,
        "You divided by the number of pairs of this image. Divide by `count`, the objects of the whole batch: so all "
        "objects weigh alike.": both(l1, far) / len(pairs),
        "L1 is the mean of the four differences of a box. It is their sum (F.l1_loss averages unless told not to).":
            both(l1 / 4, far) / count,
        "L1 is the mean over pairs and coordinates. Sum all differences, then divide by `count`.":
            both((mine - theirs).abs().mean(), far / count),
        "These are the sums. Divide by `count`.": both(l1, far),
        "The second number is GIoU itself, which is large for good boxes. The loss is 1 - GIoU.":
            both(l1, len(pairs) - far) / count,
        "The second number is 1 - IoU. Use GIoU: it still has a slope when boxes do not touch.":
            both(l1, (1 - iou(corners, truth)).sum()) / count,
        "The weights 5 and 2 come later. Here, leave them out.": both(5 * l1, 2 * far) / count,
        "Your boxes are compared with the objects in the order of the list. Each pair names its object.":
            both(*unsorted) / count,
        "The two numbers are swapped: L1 first, then 1 - GIoU.": both(far, l1) / count,
        "You subtracted GIoU from 1 only once, after the sum. Each pair has its own 1 - GIoU.":
            both(l1, 1 - (len(pairs) - far)) / count,
    }


# ---------------------------------------------------------------- 08.focal


def check_focal(safe_focal: object) -> None:
    """safe_focal(logits (Q, C), yes (Q, C) bool, alpha, gamma) -> the sum, finite for any logit."""
    safe_focal = forbids(safe_focal, "Write it: the logit of the right answer, its alpha, its factor, its -log p_t.",
                         sigmoid_focal_loss, focal_loss)
    draw = torch.Generator().manual_seed(6)
    for alpha, gamma in ((0.25, 2.0), (0.4, 1.0)):
        logits = torch.randn(6, 4, generator=draw) * 2
        yes = torch.rand(6, 4, generator=draw) < 0.2
        judge(ask(safe_focal, logits, yes, alpha, gamma), right_focal(logits, yes, alpha, gamma),
              slips_of_focal(logits, yes, alpha, gamma))
    nobody, when = torch.zeros(3, 2, dtype=torch.bool), "In an image without objects, where no answer is yes,"
    judge(ask(safe_focal, logits[:3, :2], nobody, 0.25, 2.0, when=when),
          right_focal(logits[:3, :2], nobody, 0.25, 2.0), {
              "In an image without objects no answer is yes. Every no counts all the same, and your sum is 0.":
                  torch.tensor(0.0)}, when=when)
    extreme = torch.tensor([[200.0, -200.0], [-200.0, 200.0]])
    yes = torch.tensor([[True, True], [False, False]])
    answer = numbers(ask(safe_focal, extreme, yes, 0.25, 2.0))
    if not answer.isfinite():
        raise Wrong(f"Right for small logits. For logits of 200 it gives {answer.item()}: a sigmoid became exactly 0 "
                    "or 1, and its logarithm is infinite. -log p_t is softplus(-x) for yes, softplus(x) for no.")
    judge(answer, right_focal(extreme, yes, 0.25, 2.0), {})


def right_focal(logits: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
    """Equation 5, summed."""
    signed = torch.where(yes, logits, -logits)
    return (torch.where(yes, alpha, 1 - alpha) * (-signed).sigmoid() ** gamma * F.softplus(-signed)).sum()


def slips_of_focal(logits: Tensor, yes: Tensor, alpha: float, gamma: float) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    signed = torch.where(yes, logits, -logits)
    plain, sure = F.softplus(-signed), signed.sigmoid()  # -log p_t, p_t
    alpha_t, hard = torch.where(yes, alpha, 1 - alpha), (1 - sure) ** gamma
    right = (alpha_t * hard * plain).sum()
    return {
        "alpha is the same for yes and no. It is alpha for yes, 1 - alpha for no.": (alpha * hard * plain).sum(),
        "alpha is the wrong way round: alpha belongs to yes, 1 - alpha to no.": ((1 - alpha_t) * hard * plain).sum(),
        "alpha is missing.": (hard * plain).sum(),
        "The factor (1 - p_t)^gamma is missing: this is weighted cross-entropy.": (alpha_t * plain).sum(),
        "You turn down the hard answers: p_t^gamma. It is (1 - p_t)^gamma.": (alpha_t * sure**gamma * plain).sum(),
        "You used (1 - p) for no as well. For no, p_t is 1 - p, so the factor is p^gamma.":
            (alpha_t * (1 - logits.sigmoid()) ** gamma * plain).sum(),
        "Only yes is counted. Every no counts, too: that is how silence is learned.":
            (alpha_t * hard * plain)[yes].sum(),
        "That is the mean over all answers. Wanted is the sum; it is divided by the number of objects later.":
            right / logits.numel(),
        "The sum is divided by the number of yes already. Leave that to the caller.": right / yes.sum(),
        "The sign is missing: -log p_t is positive.": -right,
        "Softmax makes the classes compete. Here each is a yes-no question of its own: sigmoid.":
            softmax_focal(logits, yes, alpha, gamma),
        "That is each answer's loss. Wanted is their sum.": alpha_t * hard * plain,
    }


def softmax_focal(logits: Tensor, yes: Tensor, alpha: float, gamma: float) -> Tensor:
    """The slip with a softmax instead of sigmoids."""
    p = logits.softmax(-1)
    p_t = torch.where(yes, p, 1 - p)
    return (-torch.where(yes, alpha, 1 - alpha) * (1 - p_t) ** gamma * p_t.log()).sum()


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "08.pencil", "The weighted mean", Tier.WARM_UP, 6, check_pencil,
        ("Five times -log p, each with its weight. What do the five weights add up to?",
         "(0.693 + 1.386 + 0.1 x (0.223 + 0.223 + 2.303)) / (1 + 1 + 0.1 + 0.1 + 0.1)"),
        "A weighted mean: doubling all weights would change nothing.",
    ),
    Exercise(
        "08.labels", "Everybody's right answer", Tier.CORE, 8, check_labels,
        ("Start with no object for everybody, then go through the pairs.",
         "`torch.full((queries,), classes)`, then `right[query] = labels[thing]`."),
        "Numbered wrongly by one, no object becomes a real class, and the detector learns to see umbrellas everywhere.",
    ),
    Exercise(
        "08.boxes", "The box losses", Tier.CORE, 12, check_boxes,
        ("Gather the boxes of the pairs first: `boxes[[query for query, _ in pairs]]`, and the same for the objects.",
         "L1 on centre and size, GIoU on corners. Sum over the pairs, then divide by `count`, not by len(pairs)."),
        "Two formats in three lines: the commonest place for a silent mistake in all of detection.",
    ),
    Exercise(
        "08.focal", "The focal loss, for real", Tier.STRETCH, 20, check_focal,
        ("The logit of the right answer is x for yes and -x for no. Then p_t = sigmoid of it, in both cases.",
         "1 - p_t = sigmoid(-signed), and -log p_t = softplus(-signed). Nothing here can become infinite by itself."),
        "Losses are written on logits for this reason, in every framework.",
    ),
)

QUIZ = (
    Question("A query owns nothing. What is it punished for?", (
        Choice("For its class and its box", "It has no object to compare its box with."),
        Choice("For its class only", "Yes. It should say no object; its box may lie anywhere.", True),
        Choice("For nothing", "Then it would never learn to be silent."),
    )),
    Question("A detector is trained with L1 alone. What will suffer?", (
        Choice("Large things", "L1 is loudest for them."),
        Choice("Small things", "Yes. The same relative error is a small L1 in a small box.", True),
        Choice("Nothing: L1 and GIoU want the same box", "Only at the very end. On the way, somebody is heard less."),
    )),
    Question("What do auxiliary losses do?", (
        Choice("They train every decoder layer to answer, each with its own matching",
               "Yes. So early layers get a gradient of their own, and every layer is a detector.", True),
        Choice("They add a penalty for large weights", "That is weight decay."),
        Choice("They send gradients from layer 1 into layer 3", "A loss only reaches what was computed before it."),
    )),
)
