"""Exercises and quiz of 02, self- and cross-attention."""

import math

import torch
from torch import Tensor

from detr_mini.attention import MultiHeadAttention, attention_weights
from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, Wrong, ask, forbids, judge, numbers

# ---------------------------------------------------------------- 02.shapes

SHAPES = [[6, 5], [6, 4], [2, 4], [3, 7], [3, 2]]
SHAPES_OF = ("W_q", "W_k", "W_v", "the weights", "the answers")
SLIPS_OF_SHAPES = {
    (0, (5, 6)): "It is stored as PyTorch does: rows are the numbers that come out, columns those that go in.",
    (1, (4, 6)): "It is stored as PyTorch does: rows are the numbers that come out, columns those that go in.",
    (2, (4, 2)): "It is stored as PyTorch does: rows are the numbers that come out, columns those that go in.",
    (0, (6, 4)): "W_q reads the tokens that ask, and those are 5 wide.",
    (1, (6, 5)): "W_k reads the tokens that are asked, and those are 4 wide.",
    (2, (2, 5)): "W_v reads the tokens that are asked: values come from the same side as keys.",
    (2, (6, 4)): "Values need not be as wide as queries and keys; here they are 2 wide.",
    (3, (7, 3)): "There is one row per query: each row adds up to 1.",
    (3, (3, 3)): "The queries do not ask each other here: one column per token that is asked.",
    (3, (7, 7)): "The tokens do not ask each other here: one row per query.",
    (4, (7, 2)): "There are as many answers as questions.",
    (4, (3, 6)): "An answer is an average of values, so it is as wide as a value.",
    (4, (3, 5)): "An answer is an average of values, so it is as wide as a value.",
    (4, (3, 4)): "An answer is an average of values, after W_v. They are 2 wide.",
}


def check_shapes(answer: object) -> None:
    """Five shapes, (5, 2), for 3 queries of width 5 that ask 7 tokens of width 4; d = 6, values 2 wide."""
    found = numbers(answer)
    if found.shape != (5, 2):
        raise Wrong(f"Five shapes of two numbers each are wanted, (5, 2), and yours is {tuple(found.shape)}.")
    for row, (mine, right) in enumerate(zip(found.tolist(), SHAPES, strict=True)):
        pair = tuple(int(number) for number in mine)
        if pair != tuple(right):
            why = SLIPS_OF_SHAPES.get((row, pair), "Write the shapes under q = a W_qᵀ, k = b W_kᵀ, v = b W_vᵀ, "
                                                   "weights = softmax(q kᵀ), answers = weights v.")
            raise Wrong(f"The shape of {SHAPES_OF[row]} is not {pair}. {why}")


# ---------------------------------------------------------------- 02.winner

NAMES = ("rock", "paper", "scissors")
HANDS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
BEATEN_BY = (1, 2, 0)
ENOUGH = 0.5


def check_winner(answer: object) -> None:
    """W_q (2, 2): rock looks at paper, paper at scissors, scissors at rock, with half of the weight or more."""
    matrix = numbers(answer)
    if matrix.shape != (2, 2):
        raise Wrong(f"The shape is {tuple(matrix.shape)} and should be (2, 2): a hand goes in, a hand comes out.")
    weights = attention_weights(HANDS @ matrix.T, HANDS)  # (3, 3)
    looks = weights.argmax(dim=-1).tolist()
    if weights.max() - weights.min() < 1e-6:
        raise Wrong("Everybody looks at all three alike. A query of zeros asks for nothing.")
    if looks == [0, 1, 2]:
        raise Wrong("Everybody looks at their own hand. W_q must turn a hand into another one.")
    if looks == [2, 0, 1]:
        raise Wrong("Everybody looks at the hand that they beat. Wanted is the one that beats them.")
    for row, wanted in enumerate(BEATEN_BY):
        if looks[row] != wanted:
            raise Wrong(f"{NAMES[row].capitalize()} looks at {NAMES[looks[row]]} and should look at {NAMES[wanted]}. "
                        f"Your W_q turns it into {[round(x, 2) for x in (matrix @ HANDS[row]).tolist()]}.")
        if weights[row, wanted] < ENOUGH:
            raise Wrong(f"{NAMES[row].capitalize()} looks at {NAMES[wanted]} most, with {weights[row, wanted]:.2f} "
                        "only. Make all numbers of W_q larger: a longer query asks more sharply.")


# ---------------------------------------------------------------- 02.heads


def check_heads(multi_head: object) -> None:
    """multi_head(q (B, Q, d), k (B, K, d), v (B, K, d), heads) -> (B, Q, d)."""
    multi_head = forbids(multi_head, "Cut the width and put it together again yourself.", MultiHeadAttention.split,
                         MultiHeadAttention.merge, MultiHeadAttention.attend)
    draw = torch.Generator().manual_seed(2)
    # As many keys as queries, so that a reshape without a transpose goes wrong without an error.
    q, k, v = (torch.randn(2, 4, 8, generator=draw) * 1.5 for _ in range(3))
    judge(ask(multi_head, q, k, v, 2), with_heads(q, k, v, 2), slips_of_heads(q, k, v, 2))
    q, k, v = (torch.randn(3, n, 12, generator=draw) for n in (2, 5, 5))
    judge(ask(multi_head, q, k, v, 3), with_heads(q, k, v, 3), {})


def cut(x: Tensor, heads: int) -> Tensor:
    """(B, N, d) -> (B, heads, N, d/heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def with_heads(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The right answer, (B, Q, d)."""
    q, k, v = (cut(x, heads) for x in (q, k, v))
    return (attention_weights(q, k) @ v).transpose(1, 2).flatten(-2)


def slips_of_heads(q: Tensor, k: Tensor, v: Tensor, heads: int) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    batch, count, width = q.shape
    q_cut, k_cut, v_cut = (cut(x, heads) for x in (q, k, v))
    weights = attention_weights(q_cut, k_cut)  # (B, heads, Q, K)
    by_root_of_d = (q_cut @ k_cut.mT / math.sqrt(width)).softmax(-1)
    unscaled = (q_cut @ k_cut.mT).softmax(-1)
    jumped = [x.reshape(batch, heads, -1, width // heads) for x in (q, k, v)]
    woven = [x.unflatten(-1, (-1, heads)).movedim(-1, 1) for x in (q, k, v)]

    def joined(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(-2)

    mixed = ("You reshaped straight to (B, heads, N, d/heads), which mixes up tokens. First cut the width in two axes, "
             "(B, N, heads, d/heads), then swap N and heads.")
    return {
        "That is attention with one head: the width was not divided.": attention_weights(q, k) @ v,
        mixed: joined(attention_weights(*jumped[:2]) @ jumped[2]),
        mixed + " The same on the way back.": (attention_weights(*jumped[:2]) @ jumped[2]).reshape(q.shape),
        "The way in is right. On the way back you reshaped (B, heads, Q, d/heads) at once: swap heads and Q first.":
            (weights @ v_cut).reshape(batch, count, width),
        "You divided by √d. Each head's dot product adds up only d/heads numbers, so it is the root of that.":
            joined(by_root_of_d @ v_cut),
        "You left out the scaling: divide by the root of the head's width.": joined(unscaled @ v_cut),
        "You averaged the heads' weights. Then they are one head again: each must average its own part of the values.":
            joined(weights.mean(1, keepdim=True) @ v_cut),
        "Your heads take every second number (0, 2, 4, ...). PyTorch and the package give each head neighbours: "
        "(heads, d/heads), in this order.": (attention_weights(*woven[:2]) @ woven[2]).movedim(1, -1).flatten(-2),
        "The softmax runs over the queries. Each query's weights over the keys must add up to 1: use the last axis.":
            joined((q_cut @ k_cut.mT / math.sqrt(width // heads)).softmax(-2) @ v_cut),
        "The heads are still apart: your answer is (B, heads, Q, d/heads). Put them side by side again.":
            weights @ v_cut,
    }


# ---------------------------------------------------------------- 02.merge


def check_merge(merged: object) -> None:
    """merged(W_q (d, d_a), W_k (d, d_b)) -> M (d_a, d_b) with a M b^T = the scaled scores."""
    draw = torch.Generator().manual_seed(3)
    w_q, w_k = torch.randn(4, 4, generator=draw), torch.randn(4, 4, generator=draw)  # square: no shape gives it away
    root = math.sqrt(4)
    judge(ask(merged, w_q, w_k), w_q.T @ w_k / root, {
        "You left out the scaling by √d.": w_q.T @ w_k,
        "You divided by d. It is the square root of d.": w_q.T @ w_k / 4,
        "That is the transposed one: bᵀ M a. Here a stands on the left.": w_k.T @ w_q / root,
        "The transpose is on the wrong matrix. (W_q a) · (W_k b) = aᵀ W_qᵀ W_k b.": w_q @ w_k.T / root,
        "Neither is transposed. (W_q a) · (W_k b) = (W_q a)ᵀ (W_k b), and the transpose of a product turns its order.":
            w_q @ w_k / root,
        "You multiplied number by number. A product of matrices is `@`.": w_q * w_k / root,
    })
    w_q, w_k = torch.randn(3, 5, generator=draw), torch.randn(3, 2, generator=draw)
    judge(ask(merged, w_q, w_k), w_q.T @ w_k / math.sqrt(3), {
        "With another width it fails: d is the number of rows of W_q, not of its columns.":
            w_q.T @ w_k / math.sqrt(5),
        "With another width it fails: you divide by 2 whatever d is.": w_q.T @ w_k / 2,
    })


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "02.shapes", "Five shapes", Tier.WARM_UP, 5, check_shapes,
        ("Start with the answers: how many questions are there, and how wide is a value?",
         "W_q is (d, width of a), W_k is (d, width of b), W_v is (width of a value, width of b)."),
        "Say it aloud: a decides how many answers there are, b decides what they are made of.",
    ),
    Exercise(
        "02.winner", "Look at the winner", Tier.CORE, 10, check_winner,
        ("The columns of a matrix are what it makes of (1, 0) and of (0, 1). What should rock and paper become?",
         "Rock (1, 0) should become paper, (0, 1): that is the first column. Paper (0, 1) should become scissors."),
        "There are other ways. The matrix of section 2, applied twice, does it: the one that is beaten by the one you "
        "beat is the one that beats you. So does its transpose, because that swaps who looks at whom.",
    ),
    Exercise(
        "02.heads", "Heads, from memory", Tier.CORE, 15, check_heads,
        ("Three moves: (B, N, d) to (B, N, heads, d/heads) to (B, heads, N, d/heads). Attention. The moves back.",
         "`x.unflatten(-1, (heads, -1)).transpose(1, 2)` in, `.transpose(1, 2).flatten(-2)` out; divide by the root of "
         "`q.shape[-1]` after the cut."),
        "This is the core of every Transformer. The rest of the module is four Linear layers.",
    ),
    Exercise(
        "02.merge", "Two matrices or one?", Tier.STRETCH, 15, check_merge,
        ("A dot product u · w is uᵀ w. Put u = W_q a and w = W_k b, and transpose the product.",
         "(W_q a)ᵀ (W_k b) = aᵀ (W_qᵀ W_k) b. The scaling can stay with the matrix in the middle."),
        "So two matrices are one. But M has d_a times d_b numbers and a rank of at most d. In DETR a head has d = 32 "
        "and M is 256 x 256: two thin matrices are four times cheaper, and ask through 32 numbers. With W_q = W_k, "
        "M is symmetric: section 3 again.",
    ),
)

QUIZ = (
    Question("100 object queries ask 850 places of an image. Where do q, k and v come from?", (
        Choice("q and k from the queries, v from the places",
               "Then the queries would compare themselves with each other. Keys say how a place can be found."),
        Choice("q from the queries, k and v from the places",
               "Yes. Who asks is q; who is asked gives keys to be found by and values to be taken.", True),
        Choice("q from the places, k and v from the queries", "Then each place would ask, and there were 850 answers."),
    )),
    Question("Why not W_q = W_k?", (
        Choice("Scores become symmetric: one cannot look for something unlike oneself",
               "Yes. And I look at you only as much as you look at me, before the softmax.", True),
        Choice("The weights would no longer add up to 1", "The softmax sees to that, whatever the scores are."),
        Choice("It would need more memory", "It would need less. That is not what is wrong with it."),
    )),
    Question("Eight heads instead of one, with the same d. What changes?", (
        Choice("Eight times as many parameters", "The projections stay d x d: their output is cut in eight."),
        Choice("Each head compares fewer numbers, and there are eight averages instead of one",
               "Yes. Eight simpler questions, whose answers are kept apart until W_o reads them together.", True),
        Choice("Nothing: the sum of the heads is the same attention",
               "Eight softmaxes of parts are not one softmax of the whole. One average cannot tell two places apart."),
    )),
)
