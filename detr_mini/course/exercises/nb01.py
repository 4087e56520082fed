"""Exercises and quiz of 01, attention by hand."""

import math

import torch
from torch import Tensor

from detr_mini.attention import MultiHeadAttention, attention_weights
from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, Wrong, ask, forbids, judge, numbers

FLATS = ("Attic", "Bridge", "Centre", "Depot")
KEYS = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0], [-1.0, -1.0]])  # quiet, central
ENOUGH = 0.9  # the weight that exercise 01.query asks for


# ---------------------------------------------------------------- 01.by_hand


def check_by_hand(answer: object) -> None:
    """The weighted average for q = (2, 1, 0, 1), keys (1, 0, 3, 0) and (1, 2, 0, 0), values 10 and 20."""
    scores, values = torch.tensor([2.0, 4.0]), torch.tensor([10.0, 20.0])  # dot products, not scaled
    right = (scores / 2).softmax(0)
    judge(answer, right @ values, {
        "You left out the scaling. The vectors are 4 wide, so every score is divided by √4 = 2.":
            scores.softmax(0) @ values,
        "You divided by d = 4. It is the square root of d: √4 = 2.": (scores / 4).softmax(0) @ values,
        "You divided each score by the sum of the scores. Take the exponential of each first.":
            scores / scores.sum() @ values,
        "You did not divide by the sum of the exponentials. Weights must add up to 1.": (scores / 2).exp() @ values,
        "The two weights are swapped: the second key has the larger score.": right.flip(0) @ values,
        "That is the plain average: both keys got the same weight.": values.mean(),
        "That is the value of the best key alone. Attention takes a little of the other one, too.": torch.tensor(20.0),
        "These are the weights. One step is missing: use them to average 10 and 20.": right,
    }, tolerance=0.003)


# ---------------------------------------------------------------- 01.query


def check_query(queries: object) -> None:
    """Three queries (3, 2): all flats alike, Centre at least 0.9, Depot at least 0.9."""
    found = numbers(queries)
    if found.shape == (2, 3):
        raise Wrong("Your tensor is (2, 3): one query per column. Write one query per row: (3, 2).")
    if found.shape != (3, 2):
        raise Wrong(f"The shape is {tuple(found.shape)}. Wanted are three queries of two numbers, one per row: (3, 2).")
    weights = attention_weights(found, KEYS.double())  # (3, flats)
    spread = weights[0].max() - weights[0].min()
    if spread > 0.01:
        best = FLATS[weights[0].argmax()]
        raise Wrong(f"Query 0 should like all flats alike, but {best} gets {weights[0].max():.2f}. "
                    "Every key must have the same dot product with it, those on opposite sides too.")
    for row, wanted in ((1, 2), (2, 3)):
        check_winner(row, found[row], weights[row], wanted)


def check_winner(row: int, query: Tensor, weights: Tensor, wanted: int) -> None:
    """Wrong unless query number `row` gives flat number `wanted` enough weight."""
    name, winner = FLATS[wanted], FLATS[weights.argmax()]
    if weights.argmax() != wanted:
        raise Wrong(f"Query {row} should find {name}, but {winner} gets most, {weights.max():.2f}. "
                    f"Draw the four keys as points. In which direction does {name} lie farther out than all others?")
    if weights[wanted] < ENOUGH and (query / KEYS[wanted]).nan_to_num(1.0).allclose(torch.ones(2).double()):
        raise Wrong(f"Query {row} is {name}'s own key. It points the right way but gets {weights[wanted]:.2f} only: "
                    "weights follow the differences between scores, and these are small. Make the query longer.")
    if weights[wanted] < ENOUGH:
        raise Wrong(f"Query {row} finds {name}, with {weights[wanted]:.2f}; wanted is {ENOUGH}. "
                    "A longer query makes all differences between scores larger. Or turn it away from the runner-up.")


# ---------------------------------------------------------------- 01.mask


def check_mask(attend: object) -> None:
    """attend(query (B, Q, d), key (B, K, d), value (B, K, v), hidden (B, K) True = hidden) -> (B, Q, v)."""
    attend = forbids(attend, "Write the scores, the softmax and the average yourself.", attention_weights,
                     MultiHeadAttention)
    draw = torch.Generator().manual_seed(1)
    # As many queries as images: here a mask without an axis for the queries goes wrong without an error.
    q, k, v = (torch.randn(2, n, w, generator=draw) * 1.5 for n, w in ((2, 4), (3, 4), (3, 5)))
    hidden = torch.tensor([[False, False, True], [False, True, False]])
    judge(ask(attend, q, k, v, hidden), masked(q, k, v, hidden), slips_of_mask(q, k, v, hidden))
    q, k, v = (torch.randn(3, n, w, generator=draw) for n, w in ((5, 6), (4, 6), (4, 2)))
    judge(ask(attend, q, k, v, torch.zeros(3, 4, dtype=torch.bool)), masked(q, k, v, torch.zeros(3, 4).bool()), {})
    q, k, v = (torch.randn(2, n, w, generator=draw) * size for n, w, size in ((2, 4, 500.0), (3, 4, 1.0), (3, 5, 1.0)))
    judge(ask(attend, q, k, v, hidden), masked(q, k, v, hidden), {
        "Right for scores near 0 only. Here queries are long and scores lie in the hundreds, so that a fixed low score "
        "such as -100 may be the best of them. Take minus infinity.": covered(q, k, v, hidden, -100.0)})


def covered(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, score: float) -> Tensor:
    """Attention in which hidden keys get this score, (B, Q, v)."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, Q, K)
    return scores.masked_fill(hidden[:, None], score).softmax(-1) @ v


def masked(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    """The right answer, (B, Q, v)."""
    return attention_weights(q, k, torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)[:, None]) @ v


def slips_of_mask(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    dots = q @ k.mT  # (B, Q, K)
    scores, cover = dots / math.sqrt(q.shape[-1]), hidden[:, None]  # (B, Q, K), (B, 1, K)
    after = scores.softmax(-1).masked_fill(cover, 0)
    return {
        "You hid the keys after the softmax (or zeroed their values). The weights that are left add up to less than 1. "
        "Hide them in the scores, before the softmax.": after @ v,
        "Hidden keys got the score 0. Since exp(0) = 1, they still take part. Give them minus infinity.":
            scores.masked_fill(cover, 0).softmax(-1) @ v,
        **{f"Hidden keys got the score {low}. That is low, but e to the power of {low} is not 0, so they still take "
           "part. Give them minus infinity.": covered(q, k, v, hidden, low) for low in (-1, -2, -5)},
        "The mask is upside down: True means hidden, and your answer uses only the hidden keys.":
            masked(q, k, v, ~hidden),
        "The mask has no effect: hidden keys still have weight.": scores.softmax(-1) @ v,
        "You left out the scaling: divide the scores by √d, the width of queries and keys.":
            dots.masked_fill(cover, -math.inf).softmax(-1) @ v,
        "You divided by the root of the number of keys. It is the width d of queries and keys, `query.shape[-1]`.":
            (dots / math.sqrt(k.shape[1])).masked_fill(cover, -math.inf).softmax(-1) @ v,
        "You divided by d. It is the square root of d.":
            (dots / q.shape[-1]).masked_fill(cover, -math.inf).softmax(-1) @ v,
        "The mask hides for each query what it should hide for each image. It needs an axis for the queries: "
        "`hidden[:, None, :]` is (B, 1, K).": scores.masked_fill(hidden, -math.inf).softmax(-1) @ v,
        "The softmax runs over the queries. Each query's weights over the keys must add up to 1: use the last axis.":
            scores.masked_fill(cover, -math.inf).softmax(-2) @ v,
        "These are the weights, (B, Q, K). One step is missing: average the values with them.":
            scores.masked_fill(cover, -math.inf).softmax(-1),
    }


# ---------------------------------------------------------------- 01.gradient


def check_gradient(score_gradient: object) -> None:
    """score_gradient(scores (K,), values (K,)) -> (K,): how the average changes with each score."""
    score_gradient = forbids(score_gradient, "Find the slope with a pencil: how does each weight change with a score?",
                             torch.autograd.backward, torch.autograd.grad, torch.autograd.forward_ad.make_dual)
    scores, values = torch.tensor([1.0, 0.0, 2.0, -1.0]), torch.tensor([7.0, 9.0, 12.0, 4.0])
    weights = scores.softmax(0)
    average = weights @ values
    judge(ask(score_gradient, scores, values), weights * (values - average), {
        "That is how the average changes with each weight alone. But a score moves all weights: what one key wins, "
        "the others lose.": weights * values,
        "You have each weight's change through its own score, w(1 - w). The other weights change, too: each by "
        "minus the product of the two weights.": weights * (1 - weights) * values,
        "The sign is the wrong way round: a key whose value is above the average pulls it up.":
            weights * (average - values),
        "The weight is missing in front: a key that is hardly looked at hardly moves the average.": values - average,
        "That is the average itself. Wanted is one number per score.": average,
        "These are the weights. How far does the average move when a score moves?": weights,
    })
    scores, values = torch.linspace(-2, 2, 7), torch.linspace(3, -1, 7) ** 2
    judge(ask(score_gradient, scores, values), scores.softmax(0) * (values - scores.softmax(0) @ values), {})


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "01.by_hand", "With pencil and paper", Tier.WARM_UP, 5, check_by_hand,
        ("Four steps: two dot products, divide both by √d, exponentials, divide by their sum.",
         "The scaled scores are 1 and 2. So the weights are e¹ / (e¹ + e²) and e² / (e¹ + e²)."),
        "You can now do by hand what DETR does tens of thousands of times for every picture.",
    ),
    Exercise(
        "01.query", "Write the query", Tier.CORE, 10, check_query,
        ("Draw the keys as points. The dot product grows in the direction of the query.",
         "All alike: no direction at all. For Centre: go up and a little to the left, far enough."),
        "Now try Bridge. It lies halfway between Attic and Centre, so one of the two always scores at least as high: "
        "no query can make Bridge win alone. What a key can answer to depends on where the other keys are.",
    ),
    Exercise(
        "01.mask", "Hide the padding", Tier.CORE, 12, check_mask,
        ("Hidden keys must have weight 0, and the weights left must add up to 1. Which score gives the weight 0?",
         "`scores.masked_fill(mask, float('-inf'))` before the softmax, with a mask of shape (B, 1, K)."),
        "DETR needs exactly this: pictures of different sizes share a batch, and padding must not be looked at. (A "
        "score of -1e9 passes here, too, because e to that power is 0 in every floating-point format. It differs from "
        "minus infinity in one case: if all keys of a picture are hidden, minus infinity gives nan, which one notices, "
        "and -1e9 gives the plain average of what should be hidden.)",
    ),
    Exercise(
        "01.gradient", "What a score learns", Tier.STRETCH, 20, check_gradient,
        ("Raise one score a little. Its own weight grows by w(1 - w), every other weight w' shrinks by w·w'.",
         "Add up value times change over all keys: w·v - w·(sum of all w'·v'). The bracket is the average."),
        "Each score learns w · (value - average). A place with weight 1/850 gets 1/850 of the lesson. Keep that in "
        "mind: it returns when we ask why DETR is slow.",
    ),
)

QUIZ = (
    Question("You make a query twice as long. What happens to its weights?", (
        Choice("They double", "They cannot: they always add up to 1."),
        Choice("Nothing, only its direction counts", "Direction sets the order of the scores; length sets their gaps."),
        Choice("They become sharper: the best key gains",
               "Yes. All gaps between scores double, and the softmax follows the gaps.", True),
    )),
    Question("What are the scores divided by √d for?", (
        Choice("So that wide vectors do not push the softmax to all or nothing",
               "Yes. Dot products of random vectors spread like √d. Dividing takes that out.", True),
        Choice("So that the weights add up to 1", "The softmax does that, whatever the scores are."),
        Choice("So that the result has the size of the values", "A weighted average has that size by itself."),
    )),
    Question("A key must not be seen. What do you do?", (
        Choice("Set its score to 0", "exp(0) is 1, so it would still get weight."),
        Choice("Set its score to minus infinity, before the softmax",
               "Yes. Its weight is exactly 0, and the others add up to 1.", True),
        Choice("Set its weight to 0, after the softmax", "Then the remaining weights add up to less than 1."),
    )),
)
