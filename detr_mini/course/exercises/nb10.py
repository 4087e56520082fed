"""Exercises and quiz of 10, why DETR is slow."""

import torch
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, ask, forbids, judge, numbers
from detr_mini.course.looking import coverage, entropy, flipped, mass_inside

# ---------------------------------------------------------------- 10.spread


def check_spread(spread: object) -> None:
    """spread(maps (heads, h, w)) -> the mean over heads of the entropy, in nats; maps may have zeros."""
    spread = forbids(spread, "Sum minus p times log p over all places yourself.", entropy)
    torch.manual_seed(10)
    maps = (3 * torch.randn(4, 3, 5)).flatten(1).softmax(1).view(4, 3, 5)
    judge(ask(spread, maps), entropy(maps).mean(), slips_of_spread(maps))
    sparse = torch.zeros(2, 2, 2)
    sparse[0, 0, 1], sparse[1] = 1.0, 0.25
    judge(ask(spread, sparse), entropy(sparse).mean(), {
        "Right without zeros. A weight of 0 times log 0 is nan, and it should count as 0: that place is not looked at. "
        "`torch.special.entr` does that; so does a clamp inside the logarithm.": torch.tensor(float("nan")),
    })


def slips_of_spread(maps: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    each = entropy(maps)  # (heads,)
    return {
        "That is in bits: you took log2. Nats come from the natural logarithm, `torch.log`.":
            each.mean() / torch.log(torch.tensor(2.0)),
        "That is in decimal digits: you took log10. Nats come from the natural logarithm, `torch.log`.":
            each.mean() / torch.log(torch.tensor(10.0)),
        "You averaged the heads' maps first. Heads that look at different places make a wide mean map, though each of "
        "them is narrow. Entropy first, then the mean.": entropy(maps.mean(0)),
        "The sign is missing: the logarithm of a weight is negative. Entropy is minus the sum.": -each.mean(),
        "You added up the heads. Take their mean.": each.sum(),
        "That is one entropy per head. One number is wanted: their mean.": each,
        "You took the mean over the places, where the entropy has a sum.": each.mean() / maps[0].numel(),
        "You summed along one axis only. A map has two: sum over both, (-2, -1).":
            torch.special.entr(maps).sum(-1).mean(),
        "That is the number of places, e to the power of the entropy. Here the entropy itself is wanted.":
            each.exp().mean(),
    }


# ---------------------------------------------------------------- 10.flips

OWNERS = torch.tensor([  # (looks, queries): the object that each query owns, -1 for none
    [0, -1, 1, 2, -1, 3],
    [0, 1, -1, 2, -1, 3],  # object 1: query 2 -> 1
    [3, 1, -1, 0, -1, 2],  # objects 0, 2 and 3 go round
    [3, 1, 0, -1, -1, 2],  # object 0: query 3 -> 2
])
CHANGED = torch.tensor([0.25, 0.75, 0.25])


def check_flips(flips: object) -> None:
    """flips(owners (looks, Q)) -> (looks - 1,), the part of the objects whose query is another one than before."""
    flips = forbids(flips, "Compare the owners of two looks yourself.", flipped)
    judge(ask(flips, OWNERS), CHANGED, slips_of_flips(OWNERS))


def slips_of_flips(owners: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    differs = owners[1:] != owners[:-1]  # (looks - 1, Q)
    from_first = (owners[1:] >= 0) & (owners[1:] != owners[:1])
    both = (owners[1:] >= 0) & (owners[:-1] >= 0)
    return {
        "You compared all queries and divided by their number. An object that moves changes two queries, the old one "
        "and the new one, and free queries dilute the rest. Count objects.": differs.double().mean(1),
        "Every object that moves is counted twice: at the query that lost it, and at the one that won it. Look only at "
        "queries that own something now.": differs.sum(1) / 4,
        "You divided by the number of queries. Divide by the number of objects.": CHANGED * 4 / 6,
        "You compared with the first look. Compare each look with the one before it.": from_first.sum(1) / 4,
        "That is the part that stayed. A flip is a change.": 1 - CHANGED,
        "That is how many objects moved. Divide by how many there are.": CHANGED * 4,
        "That is one number for the whole run. Give one for each look but the first.": CHANGED.mean(),
        "You looked only at queries that owned something both times. A query that was free before and owns an object "
        "now has won it from another one: that is a flip, too.": (both & differs).sum(1) / 4,
    }


# ---------------------------------------------------------------- 10.inside

BOX = torch.tensor([0.45, 0.40, 0.40, 0.50])  # cxcywh; crosses cells of a 4 x 6 map in both directions


def check_inside(inside: object) -> None:
    """inside(weights (h, w), box (4,) normalised cxcywh) -> the part of the attention inside, cells by their share."""
    inside = forbids(inside, "Work out the share of every cell that the box covers yourself.", mass_inside)
    torch.manual_seed(10)
    weights = (2 * torch.randn(4, 6)).flatten().softmax(0).view(4, 6)
    judge(ask(inside, weights, BOX), mass_inside(weights, BOX), slips_of_inside(weights, BOX))
    small = torch.tensor([0.55, 0.60, 0.06, 0.08])  # within one cell
    flat = torch.full((4, 6), 1 / 24)
    judge(ask(inside, flat, small), mass_inside(flat, small), {
        "Right for a box over several cells. This one lies inside a single cell: their overlap ends where the first of "
        "the two ends. Use min(right, cell + 1) - max(left, cell), and nothing below 0.":
            torch.tensor(0.0),
    })


def slips_of_inside(weights: Tensor, box: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    height, width = weights.shape
    part, right = coverage(box, weights.shape), mass_inside(weights, box)
    left, top, end, bottom = cxcywh_to_xyxy(box)
    x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    centres = ((x > left) & (x < end)) & ((y > top) & (y < bottom))[:, None]
    corners = torch.cat([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])  # the box, taken for corners, as cxcywh
    return {
        "You count a cell whole when its middle is inside. A cell that is half covered counts half.":
            (weights * centres).sum(),
        "You count every cell that the box touches whole. A cell that is half covered counts half.":
            (weights * (part > 0)).sum(),
        "You count only cells that lie inside altogether. A cell that is half covered counts half.":
            (weights * (part > 1 - 1e-6)).sum(),
        "You took the box for corners. It is centre x, centre y, width, height.": mass_inside(weights, corners),
        "x and y are swapped: the first axis of a map is y, from top to bottom.":
            (weights * coverage(box[[1, 0, 3, 2]], weights.shape)).sum(),
        "You divided by the area of the box. That is how dense the attention is; the mass itself is wanted.":
            right / part.sum(),
        "You divided by the area of the box. That is how many times uniform attention it is; the mass is wanted.":
            right / (box[2] * box[3]),
        "That is the area of the box, what uniform attention would have. Multiply with the weights.": box[2] * box[3],
        "That is the area of the box in cells. Multiply with the weights before you add up.": part.sum(),
        "An overlap below 0 means: no overlap. Without a clamp, two negative ones multiply to something positive.":
            (weights * unclamped(box, weights.shape)).sum(),
    }


def unclamped(box: Tensor, shape: tuple[int, int]) -> Tensor:
    """Coverage of the cells (h, w) by somebody who forgot that an overlap cannot be negative."""
    left, top, right, bottom = cxcywh_to_xyxy(box)
    across, down = (
        torch.minimum(last * count, torch.arange(count) + 1) - torch.maximum(first * count, torch.arange(count))
        for first, last, count in ((left, right, shape[1]), (top, bottom, shape[0]))
    )
    return down[:, None] * across


# ---------------------------------------------------------------- 10.terms


def check_terms(terms: object) -> None:
    """terms(content, position, memory, place, query, key) -> (4, Q, K): scores whose sum gives the attention.

    content, position: (Q, d). memory, place: (K, d). query, key: (weight (d, d), bias (d,)) of a linear layer each.
    """
    torch.manual_seed(10)
    content, position, memory, place = torch.randn(3, 8), torch.randn(3, 8), torch.randn(5, 8), torch.randn(5, 8)
    query, key = ((torch.randn(8, 8) / 3, torch.zeros(8)) for _ in range(2))
    asked = (content, position, memory, place)
    answer = ask(terms, *asked, query, key)
    answer = torch.stack([numbers(part) for part in answer]) if isinstance(answer, (list, tuple)) else answer
    judge(answer, four(*asked, query[0], key[0]), slips_of_terms(*asked, query[0], key[0]))
    query, key = (query[0], 2 * torch.randn(8)), (key[0], 2 * torch.randn(8))
    answer = ask(terms, *asked, query, key)
    answer = torch.stack([numbers(part) for part in answer]) if isinstance(answer, (list, tuple)) else answer
    whole = scores(content + position, memory + place, query, key).softmax(-1)  # (Q, K)
    judge(numbers(answer).sum(0).softmax(-1), whole, {
        "The four terms are right when there is no bias. With one they no longer add up to the attention: the query's "
        "bias is missing. It belongs to one of the query's two parts.":
            scores(content + position, memory + place, (query[0], torch.zeros(8)), key).softmax(-1),
        "The four terms are right when there is no bias. Now the query's bias is counted twice, with content and with "
        "position. Give it to one of them.": biased_twice(*asked, query, key),
    })


def scores(q: Tensor, k: Tensor, query: tuple[Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """What attention computes before its softmax, (Q, K)."""
    projected = (q @ query[0].T + query[1]) @ (k @ key[0].T + key[1]).T
    return projected / q.shape[-1] ** 0.5


def four(content: Tensor, position: Tensor, memory: Tensor, place: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The four terms without biases, (4, Q, K)."""
    none = torch.zeros(len(query))
    pairs = ((content, memory), (content, place), (position, memory), (position, place))
    return torch.stack([scores(q, k, (query, none), (key, none)) for q, k in pairs])


def biased_twice(
    content: Tensor, position: Tensor, memory: Tensor, place: Tensor, query: tuple[Tensor, Tensor],
    key: tuple[Tensor, Tensor],
) -> Tensor:
    """The attention (Q, K) of somebody who projects all four parts with their biases and adds everything up."""
    pairs = ((content, memory), (content, place), (position, memory), (position, place))
    return sum(scores(q, k, query, key) for q, k in pairs).softmax(-1)


def slips_of_terms(*parts: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives without biases."""
    right, width = four(*parts), parts[0].shape[-1]
    content, position, memory, place, query, key = parts
    return {
        "The scaling is missing: divide by the root of d.": right * width**0.5,
        "You divided by d. Divide by its root.": right / width**0.5,
        "The matrices are the wrong way round: a linear layer computes x @ weight.T.":
            four(content, position, memory, place, query.T, key.T),
        "You compared the parts as they are. Query and key each go through their own matrix first.":
            four(content, position, memory, place, torch.eye(width), torch.eye(width)),
        "The two mixed terms are in each other's place. The order is the query's part x the image's: content x memory, "
        "content x place, position x memory, position x place.": right[[0, 2, 1, 3]],
        "Content and position are on both sides; you left the mixed terms at 0. (q1 + q2)(k1 + k2) has four products.":
            right * torch.tensor([1.0, 0.0, 0.0, 1.0])[:, None, None],
        "You took the softmax of every term. It comes last, once, over their sum: these are scores.": right.softmax(-1),
        "That is their sum already. Keep the four apart, (4, Q, K).": right.sum(0),
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "10.spread", "How wide do the heads look?", Tier.WARM_UP, 8, check_spread,
        ("Section 3 did it for one map. Here there are several, and the order of two steps matters.",
         "First one entropy per head: -(w * log w) summed over both axes, with 0 where w is 0. Then the mean."),
        "With the mean map instead, eight heads on eight sides of a box look like one head that cannot decide.",
    ),
    Exercise(
        "10.flips", "Who has changed hands?", Tier.CORE, 12, check_flips,
        ("An object moves when the query that owns it now did not own it before. So begin with the queries that own "
         "something now.",
         "held = owners[1:] >= 0, and changed = held & (owners[1:] != owners[:-1]). Each object is held by one query."),
        "DN-DETR's authors measured something close to it on COCO, from epoch to epoch.",
    ),
    Exercise(
        "10.inside", "How much of it is inside?", Tier.CORE, 15, check_inside,
        ("Do it for one axis first: which part of each column does the box cover? Then for the rows. A cell's part is "
         "the product.",
         "In cells: (min(right, i + 1) - max(left, i)).clamp(min=0) for column i, with left and right times w."),
        "For uniform attention your function gives the area of the box, whatever the box. That is worth a test.",
    ),
    Exercise(
        "10.terms", "Four terms", Tier.STRETCH, 20, check_terms,
        ("(q1 + q2) times (k1 + k2) has four products. Project each of the four parts on its own.",
         "The query's bias must be counted once: add it to one of the query's two parts. The key's bias adds the same "
         "to all keys of a query, so softmax does not see it."),
        "Conditional DETR keeps two of the four products and throws the mixed ones away. See notebook 14.",
    ),
)

QUIZ = (
    Question("Attention is uniform over 64 places. What does a query receive?", (
        Choice("Nothing: no place has won", "The weights still add up to 1. Something is always collected."),
        Choice("The mean of all values, whatever the query asked",
               "Yes. So all queries receive the same, and each place gets 1/64 of the gradient.", True),
        Choice("The value of the middle of the image", "Uniform means that no place counts more than another."),
    )),
    Question("Over training, the attention inside an object's box rises from 10% to 36%. The box covers 10% of the "
             "image. What follows?", (
        Choice("The query has learned to find this object in this image",
               "Not yet. Compare with the map that the same query has in another image: part of the rise is habit."),
        Choice("Attention has left the uniform. Whether it follows the image needs a control",
               "Yes. Here the same query's map from another image has most of that mass, too.", True),
        Choice("The detector is done when it reaches 100%",
               "Cut off what lies outside, and the boxes get worse: an edge has two sides."),
    )),
    Question("Why does a one-stage CNN detector not have to learn where to look?", (
        Choice("Its features are better", "Both kinds may have the same backbone."),
        Choice("The features that judge an anchor are taken from the anchor's own place, by construction",
               "Yes, before the first training step. A query's place has to be learned.", True),
        Choice("It has more predictions than DETR has queries",
               "That helps other things. It does not say which features belong to which prediction."),
    )),
)
