"""What learners write for the exercises of notebook 01: wrong answers with what each is told, and right ones."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from detr_mini.attention import attention_weights as ready_made

HIDE = float("-inf")


def scores_of(query: Tensor, key: Tensor) -> Tensor:
    """The scaled scores, (B, Q, K)."""
    return query @ key.mT / math.sqrt(query.shape[-1])


def finish(scores: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """The right end: hide, weigh, average."""
    return scores.masked_fill(hidden[:, None], HIDE).softmax(-1) @ value


def mask_after_softmax(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """The classic."""
    return (scores_of(query, key).softmax(-1) * ~hidden[:, None]) @ value


def zeroed_values(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """Another way to the same mistake."""
    return scores_of(query, key).softmax(-1) @ (value * ~hidden[..., None])


def in_place(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """Right numbers, but the caller's keys are overwritten."""
    key /= math.sqrt(query.shape[-1])
    return finish(query @ key.mT, value, hidden)


def one_picture_at_a_time(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """Right: hidden keys are left out of the lists altogether."""
    rows = [F.softmax(q @ k[~h].T / q.shape[-1] ** 0.5, dim=1) @ v[~h]
            for q, k, v, h in zip(query, key, value, hidden, strict=True)]
    return torch.stack(rows)


def soft(*scores: float) -> list[float]:
    """Weights of two or more scores."""
    return torch.tensor(scores, dtype=torch.float32).softmax(0).tolist()


def by_autograd(scores: Tensor, values: Tensor) -> Tensor:
    """Right numbers, and not what was asked for."""
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(scores.softmax(0) @ values, scores)[0]


def by_backward(scores: Tensor, values: Tensor) -> Tensor:
    """The same, as in a training."""
    scores = scores.clone().requires_grad_()
    (scores.softmax(0) @ values).backward()
    return scores.grad


def average(scores: Tensor, values: Tensor) -> Tensor:
    """What the slope is wanted of."""
    return scores.softmax(0) @ values


def with_the_package(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    """Right numbers, by the package's function under another name."""
    return ready_made(query, key, hidden[:, None] * -1e9) @ value


def by_jacobian(scores: Tensor, values: Tensor) -> Tensor:
    """Right: all pairs of weights at once."""
    w = scores.softmax(0)
    return (torch.diag(w) - torch.outer(w, w)) @ values


def key_by_key(scores: Tensor, values: Tensor) -> Tensor:
    """Right: one score after the other, what it wins itself and what the others lose."""
    w = scores.softmax(0)
    return torch.stack([w[i] * values[i] - sum(w[i] * w[j] * values[j] for j in range(len(w))) for i in range(len(w))])


CENTRE, DEPOT = [-3.0, 6.0], [-4.0, -4.0]

WRONG = {
    "01.by_hand": [
        (10 * soft(2, 4)[0] + 20 * soft(2, 4)[1], "left out the scaling"),
        (10 * soft(0.5, 1)[0] + 20 * soft(0.5, 1)[1], "divided by d = 4"),
        (10 / 3 + 40 / 3, "exponential of each first"),
        (10 * math.e + 20 * math.e**2, "did not divide by the sum"),
        (20 * soft(1, 2)[0] + 10 * soft(1, 2)[1], "swapped"),
        (15.0, "plain average"),
        (20, "the best key alone"),
        (soft(1, 2), "These are the weights"),
        (12.0, "Not yet: you have 12.0000"),
    ],
    "01.query": [
        ([[0, 0], [0, 2], DEPOT], "Centre's own key"),
        ([[0, 0], CENTRE, [-1, -1]], "Depot's own key"),
        ([[0, 0], [3, 3], DEPOT], "Query 1 should find Centre, but Attic gets most"),
        ([[0, 0], DEPOT, CENTRE], "Query 1 should find Centre, but Depot gets most"),
        ([[0, 0], CENTRE, [-1, -0.5]], "finds Depot, with"),
        ([[1, 1], CENTRE, DEPOT], "Query 0 should like all flats alike"),
        ([[0, -3, -4], [0, 6, -4]], "one query per column"),
        ([0, 0], "three queries of two numbers"),
        ("Centre", "Numbers are wanted here"),
    ],
    "01.mask": [
        (mask_after_softmax, "after the softmax"),
        (zeroed_values, "after the softmax"),
        (lambda q, k, v, h: (scores_of(q, k) * ~h[:, None]).softmax(-1) @ v, "got the score 0"),
        (lambda q, k, v, h: finish(scores_of(q, k), v, ~h), "upside down"),
        (lambda q, k, v, h: scores_of(q, k).softmax(-1) @ v, "no effect"),
        (lambda q, k, v, h: finish(q @ k.mT, v, h), "left out the scaling"),
        (lambda q, k, v, h: finish(q @ k.mT / q.shape[-1], v, h), "It is the square root of d"),
        (lambda q, k, v, h: finish(q @ k.mT / k.shape[-2] ** 0.5, v, h), "root of the number of keys"),
        (lambda q, k, v, h: scores_of(q, k).masked_fill(h, HIDE).softmax(-1) @ v, "needs an axis for the queries"),
        (lambda q, k, v, h: scores_of(q, k).masked_fill(h[:, None], HIDE).softmax(-2) @ v, "over the queries"),
        (lambda q, k, v, h: scores_of(q, k).masked_fill(h[:, None], HIDE).softmax(-1), "average the values"),
        (lambda q, k, v, h: finish(q @ k, v, h), "Your code stopped"),
        (in_place, "changes its input number 2"),
        (with_the_package, "calls `attention_weights`"),
        (lambda q, k, v, h: scores_of(q, k).masked_fill(h[:, None], -5).softmax(-1) @ v, "the score -5. That is low"),
        (lambda q, k, v, h: scores_of(q, k).masked_fill(h[:, None], -100).softmax(-1) @ v, "near 0 only"),
    ],
    "01.gradient": [
        (lambda s, v: s.softmax(0) * v, "the others lose"),
        (lambda s, v: s.softmax(0) * (1 - s.softmax(0)) * v, "minus the product"),
        (lambda s, v: s.softmax(0) * (s.softmax(0) @ v - v), "the wrong way round"),
        (lambda s, v: v - s.softmax(0) @ v, "weight is missing in front"),
        (lambda s, v: s.softmax(0) @ v, "the average itself"),
        (lambda s, v: s.softmax(0), "These are the weights"),
        (lambda s, v: torch.zeros(3), "The shape is (3,)"),
        (by_autograd, "calls `grad`"),
        (by_backward, "calls `backward`"),
        (lambda s, v: torch.func.grad(average)(s, v), "calls `grad`"),
        (lambda s, v: torch.autograd.functional.jacobian(lambda x: average(x, v), s), "calls `grad`"),
        (lambda s, v: torch.func.jacfwd(average)(s, v), "calls `make_dual`"),
    ],
}

RIGHT = {
    "01.by_hand": [17.31, torch.tensor(soft(1, 2)) @ torch.tensor([10.0, 20.0])],
    "01.query": [[[0, 0], CENTRE, DEPOT], torch.tensor([[0.0, 0.001], [-9.0, 9.0], [-2.0, -3.0]])],
    "01.mask": [
        one_picture_at_a_time,
        lambda q, k, v, h: F.scaled_dot_product_attention(q, k, v, ~h[:, None]),
        lambda q, k, v, h: (scores_of(q, k) - 1e9 * h[:, None].float()).softmax(-1) @ v,
    ],
    "01.gradient": [by_jacobian, key_by_key],
}
