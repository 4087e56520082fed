"""Exercises and quiz of 07, bipartite matching."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, pairwise_giou, pairwise_iou
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
from detr_mini.matching import HungarianMatcher

BAR = 1e6  # the cost of a pair that may not be

# ---------------------------------------------------------------- 07.by_hand

PENCIL = torch.tensor([[1.0, 2, 9], [2, 8, 7], [6, 5, 4], [7, 9, 3]])  # (4, 3)
CHEAPEST = (1, 0, 3)  # the prediction of each object: 2 + 2 + 3


def check_by_hand(answer: object) -> None:
    """The prediction of objects 0, 1 and 2."""
    found = numbers(answer)
    if found.shape == (4,):
        raise Wrong("Four numbers: that is an object for each prediction. Give a prediction for each object: three "
                    "numbers. One prediction stays without.")
    if found.shape != (3,):
        raise Wrong(f"The shape is {tuple(found.shape)}. Wanted are three numbers: the predictions of objects 0, 1, 2.")
    chosen = tuple(found.int().tolist())
    if chosen == CHEAPEST:
        return
    if chosen == tuple(query + 1 for query in CHEAPEST):
        raise Wrong("The right predictions, counted from 1. They are numbered 0 to 3, as in the table.")
    if chosen == tuple(int(PENCIL[query, thing]) for thing, query in enumerate(CHEAPEST)):
        raise Wrong("These are the costs of the right pairs. Give the predictions: the numbers of their rows.")
    if not all(0 <= query < 4 for query in chosen):
        raise Wrong(f"You have {list(chosen)}. Predictions are numbered 0 to 3. Are these costs?")
    if len(set(chosen)) < 3:
        raise Wrong(f"Prediction {max(chosen, key=chosen.count)} has two objects. One prediction, one object.")
    paid = int(sum(PENCIL[query, thing] for thing, query in enumerate(chosen)))
    if chosen == (0, 2, 3):
        raise Wrong(f"That is greedy: 1 first, then 3, and 5 is what is left. Its total is {paid}. What if "
                    "prediction 0 steps aside?")
    raise Wrong(f"Your total is {paid}, and a smaller one exists. Which object can take its second choice cheaply?")


# ---------------------------------------------------------------- 07.cost


def check_cost(matching_cost: object) -> None:
    """matching_cost(logits (Q, C + 1), boxes (Q, 4), labels (M,), wanted (M, 4)) -> (Q, M)."""
    matching_cost = forbids(matching_cost, "Write the three terms yourself.", HungarianMatcher.costs,
                            HungarianMatcher.terms, HungarianMatcher.class_term)
    draw = torch.Generator().manual_seed(2)
    for queries, objects in ((5, 3), (4, 4)):
        logits = torch.randn(queries, 5, generator=draw) * 2
        boxes, wanted = (torch.rand(count, 4, generator=draw) * 0.4 + 0.2 for count in (queries, objects))
        labels = torch.randint(4, (objects,), generator=draw)
        case = logits, boxes, labels, wanted
        judge(ask(matching_cost, *case), cost_of(*terms(*case)), slips_of_cost(*case))
    nothing = "In an image without objects"
    none = (logits, boxes, labels[:0], wanted[:0])
    judge(ask(matching_cost, *none, when=nothing), torch.zeros(len(boxes), 0), {}, when=nothing)


def terms(logits: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probability, L1 and GIoU of every pair, (Q, M) each."""
    fit = pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))
    return logits.softmax(-1)[:, labels], torch.cdist(boxes, wanted, p=1), fit


def cost_of(chance: Tensor, l1: Tensor, fit: Tensor) -> Tensor:
    """The right cost from its parts."""
    return -chance + 5 * l1 - 2 * fit


def slips_of_cost(logits: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    chance, l1, fit = terms(logits, boxes, labels, wanted)
    corners, truth = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted)
    return {
        "The probability is added. A likely class should be cheap: take it with a minus.": cost_of(-chance, l1, fit),
        "GIoU is added. A good overlap should be cheap: take it with a minus.": cost_of(chance, l1, -fit),
        "The class term is the loss, -log p. The matcher takes -p, which stays between -1 and 0.":
            cost_of(chance.log(), l1, fit),
        "Your costs are all 1 too high: 1 - p instead of -p. The matching is the same, but keep to the formula here.":
            cost_of(chance - 1, l1, fit),
        "Your costs are all 2 too high: 1 - GIoU is in the loss. The matching is the same; here it is -GIoU.":
            cost_of(chance, l1, fit - 1),
        "The logits are not probabilities yet: softmax over the classes, no object included.":
            cost_of(logits[:, labels], l1, fit),
        "Sigmoid belongs to focal heads. This head has a no-object class: take the softmax.":
            cost_of(logits.sigmoid()[:, labels], l1, fit),
        "The softmax leaves out no object, the last logit. It takes part in the sum.":
            cost_of(logits[:, :-1].softmax(-1)[:, labels], l1, fit),
        "The softmax runs over the queries. Each query's classes must add up to 1: dim=-1.":
            cost_of(logits.softmax(0)[:, labels], l1, fit),
        "GIoU was given centre and size, and took them for corners. Convert both with cxcywh_to_xyxy.":
            cost_of(chance, l1, pairwise_giou(boxes, wanted)),
        "L1 compares corners. DETR compares centre and size: leave these boxes as they come.":
            cost_of(chance, torch.cdist(corners, truth, p=1), fit),
        "L1 is the mean of the four differences. It is their sum.": cost_of(chance, l1 / 4, fit),
        "That is the Euclidean distance. L1 adds up absolute differences.":
            cost_of(chance, torch.cdist(boxes, wanted, p=2), fit),
        "That is IoU. GIoU also falls when boxes that do not touch move apart.":
            cost_of(chance, l1, pairwise_iou(corners, truth)),
        "The weights are missing: 1 for the class, 5 for L1, 2 for GIoU.": -chance + l1 - fit,
        "The weights of L1 and GIoU are swapped: 5 for L1, 2 for GIoU.": -chance + 2 * l1 - 5 * fit,
        "The columns are predictions and the rows objects. Wanted is (Q, M): a row for each prediction.":
            cost_of(chance, l1, fit).T,
    }


# ---------------------------------------------------------------- 07.brute


def check_brute(cheapest: object) -> None:
    """cheapest(cost (Q, M)) -> min(Q, M) pairs (query, object) with the smallest total."""
    cheapest = forbids(cheapest, "Try the matchings one by one.", linear_sum_assignment, HungarianMatcher.__call__)
    draw, wrong = torch.Generator().manual_seed(4), []
    for queries, objects in ((5, 3), (3, 5), (4, 1), (3, 3), (2, 4), (3, 0)):
        for _ in range(6):
            cost = torch.rand(queries, objects, generator=draw, dtype=torch.float64)
            when = "" if objects else "In an image without objects"
            pairs = sound(pairs_of(ask(cheapest, cost, when=when)), cost)
            if paid(pairs, cost) > paid(best_pairs(cost), cost) + 1e-9:
                wrong.append((cost, sorted(pairs)))
    if not wrong:
        return
    for message, slip in SLIPS_OF_BRUTE.items():
        if all(pairs == sorted(slip(cost)) for cost, pairs in wrong):
            raise Wrong(message)
    cost, pairs = wrong[0]
    least = paid(best_pairs(cost), cost)
    raise Wrong(f"For {shape_of(cost)} your total is {paid(pairs, cost):.3f}, and {least:.3f} is possible. The costs "
                f"are {[[round(x, 2) for x in row] for row in cost.tolist()]}.")


def paid(pairs: list[tuple[int, int]], cost: Tensor) -> float:
    """The total of some pairs."""
    return float(sum(cost[pair] for pair in pairs))


def shape_of(cost: Tensor) -> str:
    """A cost matrix in words."""
    return f"a cost matrix of {cost.shape[0]} predictions and {cost.shape[1]} objects"


def pairs_of(answer: object) -> list[tuple[int, int]]:
    """An answer as pairs of whole numbers; Wrong for what is not pairs."""
    try:
        pairs = [tuple(int(part) for part in pair) for pair in answer]  # tensors, arrays, lists, zips
        if all(len(pair) == 2 for pair in pairs):
            return pairs
    except (TypeError, ValueError):
        pass
    raise Wrong(f"A list of pairs (query, object) is wanted, and this is {describe(answer)}.")


def sound(pairs: list[tuple[int, int]], cost: Tensor) -> list[tuple[int, int]]:
    """The pairs, if they are a matching of the right size; else Wrong with what is wrong about them."""
    queries, objects = cost.shape
    if any(not (0 <= query < queries and 0 <= thing < objects) for query, thing in pairs):
        raise Wrong(f"For {shape_of(cost)} you give {pairs}: there is no such pair. The query comes first, then the "
                    "object.")
    for place, name in ((0, "prediction"), (1, "object")):
        ones = [pair[place] for pair in pairs]
        if len(set(ones)) < len(ones):
            raise Wrong(f"For {shape_of(cost)}, {name} {max(ones, key=ones.count)} is in two pairs. One to one!")
    if len(pairs) != min(cost.shape):
        raise Wrong(f"For {shape_of(cost)} you give {len(pairs)} pairs, and {min(cost.shape)} are possible.")
    return pairs


def best_pairs(cost: Tensor) -> list[tuple[int, int]]:
    """The cheapest matching."""
    return list(zip(*(part.tolist() for part in linear_sum_assignment(cost)), strict=True))


def greedy(cost: Tensor) -> list[tuple[int, int]]:
    """The cheapest pair first."""
    left, pairs = cost.clone(), []
    for _ in range(min(cost.shape)):
        query, thing = divmod(int(left.argmin()), cost.shape[1])
        pairs.append((query, thing))
        left[query], left[:, thing] = BAR, BAR
    return pairs


def in_turn(cost: Tensor) -> list[tuple[int, int]]:
    """One object after the other."""
    left, pairs = cost.clone(), []
    for thing in range(min(cost.shape)):
        query = int(left[:, thing].argmin())
        pairs.append((query, thing))
        left[query] = BAR
    return pairs


# What people write instead: message -> the pairs it gives.
SLIPS_OF_BRUTE = {
    "That is greedy: the cheapest pair first, then the cheapest of the rest. It never takes a choice back. "
    "Try all matchings.": greedy,
    "Each object in turn takes the best prediction that is free. The first ones take what later ones need more. "
    "Try all matchings.": in_turn,
    "That is the dearest matching. Look for the smallest total.": lambda cost: best_pairs(-cost),
    "Right, had there been no more objects than predictions: yours takes the first ones only. Which objects go "
    "without is part of the choice.": lambda cost: best_pairs(cost[:, : cost.shape[0]]),
    "Right, had there been no more predictions than objects: yours takes the first ones only. All of them may be "
    "chosen: permutations(range(queries), objects).": lambda cost: best_pairs(cost[: cost.shape[1], : cost.shape[0]]),
}


# ---------------------------------------------------------------- 07.margin


def check_margin(margins: object) -> None:
    """margins(cost (Q, M)) -> (M,): how much the least total grows when an object may not have its query."""
    draw = torch.Generator().manual_seed(5)
    for queries, objects in ((5, 4), (6, 3), (4, 3)):
        cost = torch.rand(queries, objects, generator=draw, dtype=torch.float64) * 10
        judge(ask(margins, cost), margins_of(cost), slips_of_margin(cost))
    tie, two = torch.tensor([[1.0, 2], [2, 3], [5, 5]], dtype=torch.float64), "Where two matchings cost the same"
    judge(ask(margins, tie, when=two), margins_of(tie), {}, when=two)
    nothing = "In an image without objects"
    judge(ask(margins, tie[:, :0], when=nothing), torch.zeros(0), {}, when=nothing)


def margins_of(cost: Tensor, whole_query: bool = False) -> Tensor:
    """The right answer, (M,). whole_query: bar the query for everybody instead of this one pair."""
    pairs = best_pairs(cost)
    extra = torch.zeros(cost.shape[1], dtype=torch.float64)
    for query, thing in pairs:
        barred = cost.clone()
        barred[query, slice(None) if whole_query else thing] = BAR
        extra[thing] = sum(barred[pair] for pair in best_pairs(barred)) - sum(cost[pair] for pair in pairs)
    return extra


def slips_of_margin(cost: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    query = torch.tensor([q for q, _ in sorted(best_pairs(cost), key=lambda pair: pair[1])])
    things = torch.arange(cost.shape[1])
    own, right = cost[query, things], margins_of(cost)  # (M,), (M,)
    without = cost.clone()
    without[query, things] = BAR
    free = cost.clone()
    free[query] = BAR
    ordered = cost.sort(dim=0).values
    least = own.sum()
    return {
        "That is the next best query of each object, whether it is free or not. Taking it may push somebody else out: "
        "match again.": without.min(dim=0).values - own,
        "That is the best query among the free ones. Others may step aside, too: match again.":
            free.min(dim=0).values - own,
        "That is the gap between the two cheapest queries of each object. Its query need not be one of them.":
            ordered[1] - ordered[0],
        "You barred the whole query, so nobody else could have it either. Bar this one pair.":
            margins_of(cost, whole_query=True),
        "These are the new totals. Take the old one off.": right + least,
        "The sign is the wrong way round: it costs more, so the number is positive.": -right,
        "These are the costs of the pairs themselves. What would it cost to lose them?": own,
        "The numbers are in the order of the queries. Wanted is one per object, in the order of the objects.":
            right[query.argsort()],
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "07.by_hand", "Match with a pencil", Tier.WARM_UP, 6, check_by_hand,
        ("Start with greedy and write down its total. Then let one prediction give up its object.",
         "Prediction 0 is cheap for two objects. Which of them has another cheap choice?"),
        "The cheapest pair of all is not in the cheapest matching. That is the whole difference to greedy.",
    ),
    Exercise(
        "07.cost", "Write the cost", Tier.CORE, 12, check_cost,
        ("Three matrices (Q, M), each with its weight. `chances[:, labels]` picks a column for every object.",
         "`boxes[:, None] - wanted[None]` is (Q, M, 4). L1 wants centre and size, `giou` wants corners."),
        "These three lines decide what every query of a DETR is taught.",
    ),
    Exercise(
        "07.brute", "Match by trying", Tier.CORE, 15, check_brute,
        ("`permutations(range(queries), objects)` gives, for each matching, the query of every object.",
         "With fewer queries than objects, turn the matrix round (`cost.T`) and the pairs, too."),
        "Slow and surely right: just what one needs to test something fast.",
    ),
    Exercise(
        "07.margin", "How firm is a pair?", Tier.STRETCH, 20, check_margin,
        ("Match once. Then, for each pair: make this pair impossibly dear, match again, and compare the totals.",
         "`barred = cost.clone(); barred[q, t] = 1e6` bars one pair. The query may still serve another object."),
        "A margin near 0 is a pair that hangs by a hair. In a fresh DETR nearly all of them do.",
    ),
)

QUIZ = (
    Question("Three predictions lie on the same cup. What are they told?", (
        Choice("All three: cup", "That is one to many. Then all three would say so, and NMS had to clear up."),
        Choice("One: cup. Two: no object", "Yes. Two of them must learn to be silent.", True),
        Choice("The best one: cup. The others hear nothing",
               "They do hear something: no object. Otherwise they would never learn to be silent."),
    )),
    Question("Why does the matcher use -p and not the loss -log p?", (
        Choice("So that the class cannot outshout the boxes", "Yes. -p stays between -1 and 0, -log p has no limit.",
               True),
        Choice("Because the Hungarian algorithm wants negative numbers", "It takes any finite ones."),
        Choice("So that a gradient can flow", "No gradient flows through the matching at all."),
    )),
    Question("All queries of a fresh DETR say nearly the same. What does the matching do?", (
        Choice("It fails, for there is no cheapest matching", "With ties there are several, and SciPy takes one."),
        Choice("It gives each object to the same query at every step", "Tiny changes of the weights turn it over."),
        Choice("It jumps: tiny differences decide, and soon decide otherwise",
               "Yes. The same query learns a cup now and a fish next.", True),
    )),
)

