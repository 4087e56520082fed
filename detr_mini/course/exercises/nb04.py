"""Exercises and quiz of 04, from an image to boxes."""

import math

import torch
import torchvision
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, giou, iou, overlap, pairwise_giou, pairwise_iou
from detr_mini.course.dense import nms
from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, ask, forbids, judge, numbers

# ---------------------------------------------------------------- 04.pixels

FRACTIONS = torch.tensor([[0.5, 0.4, 0.2, 0.6], [0.25, 0.75, 0.3, 0.1]])  # cxcywh
TALL, WIDE = 77, 131  # no corner falls on a whole pixel


def check_pixels(into_pixels: object) -> None:
    """into_pixels(boxes (N, 4) cxcywh in fractions, height, width) -> (N, 4) xyxy in pixels."""
    corners = cxcywh_to_xyxy(FRACTIONS)
    scale = torch.tensor([WIDE, TALL, WIDE, TALL])
    judge(ask(into_pixels, FRACTIONS, TALL, WIDE), corners * scale, slips_of_pixels(corners, scale))
    judge(ask(into_pixels, FRACTIONS, 300, 90), corners * torch.tensor([90, 300, 90, 300]), {
        "Right for one size of image and wrong for another. Are height and width written into your function?":
            corners * scale})
    judge(ask(into_pixels, torch.zeros(0, 4), TALL, WIDE, when=NO_BOXES), torch.zeros(0, 4), {}, when=NO_BOXES)


NO_BOXES = "With no boxes at all"


def slips_of_pixels(corners: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    x, y, w, h = FRACTIONS.unbind(1)
    return {
        "You rounded to whole pixels. A box may begin anywhere between two pixels, and small boxes lose much of their "
        "IoU by rounding: leave the fractions.": (corners * scale).round(),
        "You cut off what comes after the point. A box may begin anywhere between two pixels: leave the fractions.":
            (corners * scale).floor(),
        "The corners are right as fractions. Multiply them by the size of the image.": corners,
        "Height and width are swapped: x belongs to the width, y to the height. On a square image nobody would notice.":
            corners * scale.roll(1),
        "These are still centre and size, now in pixels. Turn them into corners.": FRACTIONS * scale,
        "You used the full width where half is needed: a side lies half a width from the centre.":
            torch.stack([x - w, y - h, x + w, y + h], 1) * scale,
        "You took the first two numbers for the upper left corner. They are the centre.":
            torch.stack([x, y, x + w, y + h], 1) * scale,
        "The unit is right, but that is left, top, width, height: COCO's format. The last two should be right, bottom.":
            torch.stack([x - w / 2, y - h / 2, w, h], 1) * scale,
        "The order is left, right, top, bottom. It should be left, top, right, bottom.":
            (corners * scale)[:, [0, 2, 1, 3]],
        "You multiplied all four numbers by the width.": corners * WIDE,
        "You multiplied all four numbers by the height.": corners * TALL,
    }


# ---------------------------------------------------------------- 04.iou

FIRST = torch.tensor([[1.0, 1, 6, 5], [0, 0, 3, 2], [4, 3, 9, 7]])
SECOND = torch.tensor([[4.0, 3, 9, 7], [2, 2, 4, 3], [7, 6, 9, 8], [0, 0, 10, 10], [7, 2, 9, 4]])


def check_iou(all_ious: object) -> None:
    """all_ious(first (N, 4), second (M, 4), both xyxy) -> (N, M)."""
    all_ious = forbids(all_ious, "Write IoU from the corners: shared area, divided by the area that both cover.",
                       pairwise_iou, pairwise_giou, iou, giou, overlap, torchvision.ops.box_iou,
                       torchvision.ops.generalized_box_iou)
    judge(ask(all_ious, FIRST, SECOND), pairwise_iou(FIRST, SECOND), slips_of_iou(FIRST, SECOND))
    draw = torch.Generator().manual_seed(4)
    first, second = (cxcywh_to_xyxy(torch.rand(n, 4, generator=draw)) for n in (5, 5))  # fractions, as many of both
    judge(ask(all_ious, first, second), pairwise_iou(first, second), slips_of_iou(first, second))
    nothing = "When the second list is empty, as in an image without objects,"
    judge(ask(all_ious, FIRST, torch.zeros(0, 4), when=nothing), torch.zeros(3, 0), {}, when=nothing)


def slips_of_iou(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    a, b = first[:, None], second[None]  # (N, 1, 4), (1, M, 4)
    reach = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])  # (N, M, 2), may be negative
    shared, size_a, size_b = reach.clamp(min=0).prod(-1), span(a), span(b)
    loose = reach.prod(-1)
    counted = (reach + 1).clamp(min=0).prod(-1)  # corners counted as pixels
    slips = {
        "Two boxes that are apart in both directions seem to overlap: a negative width times a negative height is "
        "positive. Clamp both at 0 before you multiply.": loose / (size_a + size_b - loose),
        "You clamped the product, but two negative sides make a positive one. Clamp width and height, then multiply.":
            loose.clamp(min=0) / (size_a + size_b - loose.clamp(min=0)),
        "The shared part is counted twice below the line: take it off once from the sum of both areas.":
            shared / (size_a + size_b),
        "You divided by the smaller area. That is how much of one box is covered; IoU divides by the union.":
            shared / torch.minimum(size_a, size_b),
        "You divided by the first box's area. IoU treats both alike: divide by the union.": shared / size_a,
        "You divided by the hull, the smallest box around both. IoU divides by what the two boxes cover.":
            shared / hull(a, b),
        "That is GIoU. It is asked for without the hull here.": pairwise_giou(first, second),
        "You read the boxes as centre and size. They are corners already.":
            pairwise_iou(cxcywh_to_xyxy(first), cxcywh_to_xyxy(second)),
        "That is the shared area. Divide it by the union.": shared,
        "You count corners as pixels (the + 1 of old code). A side is right - left.":
            counted / (span(a, 1) + span(b, 1) - counted),
        "The rows are the second list. Wanted is a row for each box of the first: (N, M).":
            pairwise_iou(second, first),
    }
    if len(first) == len(second):
        slips |= {"You compared the boxes in pairs, first with first. Wanted are all pairs, (N, M): put an axis "
                  "between with `first[:, None]`.": overlap(first, second)[0]}
    return slips


def span(boxes: Tensor, more: float = 0.0) -> Tensor:
    """Area of boxes (..., 4) xyxy, with `more` added to each side."""
    return (boxes[..., 2:] - boxes[..., :2] + more).prod(-1)


def hull(a: Tensor, b: Tensor) -> Tensor:
    """Area of the smallest box around both."""
    return (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)


# ---------------------------------------------------------------- 04.nms

# A chain (1, 0, 2: neighbours overlap by 0.60, and the ends by 0.33), the first place again in another class (3), a
# pair whose overlap is exactly one half (4, 5), one alone (6).
HEAPS = torch.tensor([[10.0, 0, 50, 40], [0, 0, 40, 40], [20, 0, 60, 40], [0, 0, 40, 40],
                      [100, 0, 140, 40], [100, 0, 140, 20], [200, 200, 220, 220]])
HEAP_SCORES = torch.tensor([0.8, 0.9, 0.7, 0.6, 0.3, 0.5, 0.95])
HEAP_LABELS = torch.tensor([2, 2, 2, 0, 1, 1, 2])


def check_nms(suppress: object) -> None:
    """suppress(boxes (K, 4), scores (K,), labels (K,), threshold) -> indices that stay, best first."""
    suppress = forbids(suppress, "Write the loop: from the best score to the lowest, who may stay?",
                       torchvision.ops.nms, torchvision.ops.batched_nms, nms)
    heap = (HEAPS, HEAP_SCORES, HEAP_LABELS)
    judge_kept(ask(suppress, *heap, 0.5), within_classes(*heap, 0.5), slips_of_nms(*heap, 0.5))
    judge_kept(ask(suppress, *heap, 0.3), within_classes(*heap, 0.3), {
        "Right at 0.5 and wrong at 0.3. Is 0.5 written into your function? Use `threshold`.":
            within_classes(*heap, 0.5), **slips_of_nms(*heap, 0.3)})
    judge_kept(ask(suppress, *FAR_APART, 0.5), torch.tensor([0, 1]), {
        "You move the classes apart, by too little for this image: box 1 is moved right onto box 0, and deleted. "
        "Compare labels instead; that is right however large the image.": torch.tensor([0])})
    nobody = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    judge(ask(suppress, *nobody, 0.5, when=NO_BOXES), torch.zeros(0), {}, when=NO_BOXES)


FAR_APART = (torch.tensor([[1000.0, 1000, 1040, 1040], [0, 0, 40, 40]]), torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))


def judge_kept(answer: object, right: Tensor, slips: dict[str, Tensor]) -> None:
    """As `judge`; and where the right boxes stay in an order that no slip knows, that is said."""
    found = numbers(answer)
    if sorted(found.flatten().tolist()) == sorted(right.tolist()):
        slips = slips | {"The right boxes stay, but in another order. Give the one with the best score first.": found}
    judge(found, right, slips)


def within_classes(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The right answer, (kept,)."""
    return nms(boxes + 10_000.0 * labels[:, None], scores, threshold)


def slips_of_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> dict[str, Tensor]:
    """What people write instead -> the indices it gives."""
    right, apart = within_classes(boxes, scores, labels, threshold), boxes + 10_000.0 * labels[:, None]
    much = pairwise_iou(apart, apart)  # (K, K)
    better = scores[None] > scores[:, None]  # (K, K): column beats row
    alone = ~((much > threshold) & better).any(1)  # (K,)
    best = scores.argsort(descending=True)
    inclusive = nms(apart, scores, threshold - 1e-6)
    stays = torch.zeros(len(boxes)).index_fill(0, right, 1.0)  # (K,)
    by_class = torch.cat([right[labels[right] == label] for label in labels.unique()])
    return {
        "The classes delete each other: box 3 lies exactly on box 1, and is another kind of thing. Compare only boxes "
        "of the same label.": nms(boxes, scores, threshold),
        "A deleted box still deletes others: box 0 is gone, so it may not take box 2 with it. Compare with the boxes "
        "that were kept, only.": best[alone[best]],
        "You started with the lowest score. The best box decides first: sort with `descending=True`.":
            nms(apart, -scores, threshold),
        "You took the boxes in the order of the list. Sort them by score first, the best one in front.":
            nms(apart, -torch.arange(len(boxes)).float(), threshold),
        "The right boxes stay, but sorted by their place in the list. Give the best score first.": right.sort().values,
        "The right boxes stay, but one class after the other. When all classes are done, sort what stays by score, the "
        "best in front.": by_class,
        "You delete the boxes that overlap little and keep those that overlap much. Turn the comparison round.":
            kept_when_near(much, best, threshold),
        "Boxes that overlap by exactly the threshold stay: delete only what overlaps more.": inclusive,
        "These are the scores of the boxes that stay. Give their indices.": scores[right],
        "These are the boxes that stay. Give their indices.": boxes[right],
        "That is a mask, one number per box. Give indices, best first.": stays,
        "Nothing was deleted.": best,
    }


def kept_when_near(much: Tensor, best: Tensor, threshold: float) -> Tensor:
    """NMS with its comparison turned round."""
    kept: list[int] = []
    for index in best.tolist():
        if all(much[index, other] >= threshold for other in kept):
            kept.append(index)
    return torch.tensor(kept)


# ---------------------------------------------------------------- 04.points

POINTS = torch.tensor([[2.0, 2], [5, 5], [12, 4], [15, 15], [8, 1], [0, 9], [10, 5]])  # x, y
THINGS = torch.tensor([[9.0, 2, 14, 6], [0, 0, 10, 10], [4, 4, 7, 7]])  # one that overlaps the large one, one inside


def check_points(points_answer: object) -> None:
    """points_answer(points (P, 2), objects (M, 4) xyxy) -> (P,): index of an object, -1 for none."""
    judge(ask(points_answer, POINTS, THINGS), holders(POINTS, THINGS), slips_of_points(POINTS, THINGS))
    turned = THINGS.flip(0)
    judge(ask(points_answer, POINTS, turned), holders(POINTS, turned), slips_of_points(POINTS, turned))
    nothing, nobody = "In an image without objects", torch.full((len(POINTS),), -1)
    judge(ask(points_answer, POINTS, torch.zeros(0, 4), when=nothing), nobody, {
        "In an image without objects every point answers for object 0, which is not there. Give -1.": nobody + 1,
    }, when=nothing)


def inside(points: Tensor, objects: Tensor) -> Tensor:
    """(P, M): whether a point lies in a box, edges included."""
    return ((points[:, None] >= objects[:, :2]) & (points[:, None] <= objects[:, 2:])).all(-1)


def holders(points: Tensor, objects: Tensor) -> Tensor:
    """The right answer, (P,)."""
    if len(objects) == 0:
        return torch.full((len(points),), -1)
    cost = span(objects).expand(len(points), -1).masked_fill(~inside(points, objects), math.inf)  # (P, M)
    return torch.where(cost.amin(1) < math.inf, cost.argmin(1), -1)


def slips_of_points(points: Tensor, objects: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    held, area, right = inside(points, objects), span(objects), holders(points, objects)  # (P, M), (M,), (P,)
    nowhere = ~held.any(1)
    middles = (objects[:, :2] + objects[:, 2:]) / 2  # (M, 2)
    strict = ((points[:, None] > objects[:, :2]) & (points[:, None] < objects[:, 2:])).all(-1)
    half = ((points[:, None] >= objects[:, :2]) & (points[:, None] < objects[:, 2:])).all(-1)

    def smallest(mask: Tensor) -> Tensor:
        cost = area.expand(len(points), -1).masked_fill(~mask, math.inf)
        return torch.where(mask.any(1), cost.argmin(1), -1)

    either = ((points[:, None] >= objects[:, :2]) & (points[:, None] <= objects[:, 2:])).any(-1)
    return {
        "Points in no box answer for thing 0: that is what argmin gives when all are infinite. Give them -1.":
            right.clamp(min=0),
        "Where several boxes hold a point, you took the largest. Take the smallest, or small things in front of large "
        "ones get no points.": torch.where(nowhere, -1, (area * held).argmax(1)),
        "Where several boxes hold a point, you took the first in the list. Take the smallest.":
            torch.where(nowhere, -1, held.float().argmax(1)),
        "Where several boxes hold a point, you took the last in the list. Take the smallest.":
            torch.where(nowhere, -1, len(objects) - 1 - held.flip(1).float().argmax(1)),
        "You took the nearest centre, whether the point is inside or not.": torch.cdist(points, middles).argmin(1),
        "You took the nearest centre among the boxes that hold a point. Take the smallest box.":
            torch.where(nowhere, -1, torch.cdist(points, middles).masked_fill(~held, math.inf).argmin(1)),
        "Every point answers for the smallest thing of all. Leave out boxes that do not hold the point.":
            area.argmin().expand(len(points)),
        "Points on an edge are inside: use >= and <=.": smallest(strict),
        "Points on the right or lower edge are inside, too: use <=.": smallest(half),
        "You have x inside or y inside somewhere. All four comparisons must hold: `all`, not `any`.": smallest(either),
        "You compared x with top and bottom. Points are x, y; boxes are left, top, right, bottom.":
            holders(points.flip(1), objects),
        "You read the boxes as centre and size. They are corners.": holders(points, cxcywh_to_xyxy(objects)),
        "These are the boxes around each point. Choose one: the smallest, or -1.": held,
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "04.pixels", "Into pixels", Tier.WARM_UP, 6, check_pixels,
        ("First corners: centre minus and plus half of the size. Then pixels.",
         "x and width count along the width of the image, y and height along its height: multiply by "
         "`torch.tensor([width, height, width, height])`."),
        "An image that is not square finds swapped sides at once. Test with one whenever you handle boxes.",
    ),
    Exercise(
        "04.iou", "Every box against every box", Tier.CORE, 12, check_iou,
        ("`first[:, None]` is (N, 1, 4) and `second[None]` is (1, M, 4). All operations between them give (N, M, ...).",
         "Shared part: maximum of the upper left corners, minimum of the lower right ones, difference clamped at 0, "
         "product over the last axis."),
        "This table is what matching, assignment and evaluation all begin with.",
    ),
    Exercise(
        "04.nms", "Suppress within classes", Tier.CORE, 15, check_nms,
        ("Go through the boxes from the best score to the lowest. A box stays unless one that stays already has the "
         "same label and overlaps it too much.",
         "`pairwise_iou(boxes, boxes) > threshold` and `labels[:, None] == labels` give a table of rivals, (K, K). "
         "Look up the row of a box at the columns kept so far."),
        "And each box waits for the verdict on all better ones. That is why NMS is hard to do in parallel.",
    ),
    Exercise(
        "04.points", "Points instead of boxes", Tier.STRETCH, 20, check_points,
        ("Four comparisons per point and box give a table (P, M) of who holds whom.",
         "Put infinity in place of the areas of boxes that do not hold a point, then take the minimum of each row. "
         "Where it is infinite, nobody holds the point. An image without objects has no minimum: answer -1 at once."),
        "FCOS labels its points so. No sizes by hand any more, but still one-to-many: a large thing has many points, "
        "so there are still duplicates to delete.",
    ),
)

QUIZ = (
    Question("A predicted box misses its object completely. Which loss tells it where to go?", (
        Choice("1 - IoU", "It is 1 near and far, so its slope is 0."),
        Choice("1 - GIoU", "Yes. The hull shrinks when the box comes closer, so there is a slope.", True),
        Choice("Neither, boxes must touch first", "GIoU has a slope there, and L1 has one, too."),
    )),
    Question("Why does a dense detector find one thing several times?", (
        Choice("It was trained for too short a time", "Longer training makes all those boxes better, and surer."),
        Choice("Several guesses were taught to answer for it", "Yes. Each guess says what it was taught.", True),
        Choice("Several cells have the same weights", "They do, but each sees another part of the image."),
    )),
    Question("Two fish of one class cover each other by an IoU of 0.6. What should the threshold of NMS be?", (
        Choice("0.5, as usual", "Then the fish with the lower score is deleted."),
        Choice("0.7", "Both fish stay, and so do all duplicates that lie less than 0.7 on each other."),
        Choice("None is good for this picture and all others",
               "Yes. NMS sees overlaps and no image; how much overlap is too much depends on the image.", True),
    )),
)
