"""The tools that checks are made of: above all the one that notices a forbidden call, by whatever name."""

import math
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from detr_mini import boxes
from detr_mini.boxes import pairwise_iou
from detr_mini.boxes import pairwise_iou as innocent_name
from detr_mini.course.exercises.core import Open, Wrong, ask, forbids, judge

X = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6]])


def with_gradients(use: Callable[[Tensor], object]) -> Callable[[Tensor], object]:
    """A function that differentiates a sum of squares in the way that is given."""
    return lambda x: use(x.clone().requires_grad_())


def by_backward(x: Tensor) -> Tensor:
    """As one does in training."""
    (x**2).sum().backward()
    return x.grad


CALLS = [  # a tool, a function that calls it
    (pairwise_iou, lambda x: pairwise_iou(x, x)),
    (pairwise_iou, lambda x: innocent_name(x, x)),
    (pairwise_iou, lambda x: boxes.pairwise_iou(x, x)),
    (pairwise_iou, lambda x: partial(pairwise_iou, x)(x)),
    (pairwise_iou, lambda x: [f(x, x) for f in [vars(boxes)["pairwise_iou"]]][0]),
    (pairwise_iou, lambda x: torch.stack([*map(pairwise_iou, [x], [x])])),
    (boxes.overlap, lambda x: pairwise_iou(x, x)),
    (torchvision.ops.box_iou, lambda x: torchvision.ops.boxes.box_iou(x, x)),
    (torchvision.ops.nms, lambda x: torchvision.ops.batched_nms(x, x[:, 0], x[:, 0].long(), 0.5)),
    (torch.sin, torch.sin),
    (torch.sin, lambda x: x.sin()),
    (torch.sin, lambda x: x.sin_()),
    (Tensor.sin, lambda x: torch.sin(x)),
    (Tensor.sin, lambda x: x.sin()),
    (torch.softmax, lambda x: x.softmax(0)),
    (torch.softmax, lambda x: F.softmax(x, 0)),
    (torch.softmax, lambda x: nn.Softmax(0)(x)),
    (math.sin, lambda x: math.sin(x[0, 0])),
    (F.scaled_dot_product_attention, lambda x: F.scaled_dot_product_attention(x, x, x)),
    (nn.MultiheadAttention, lambda x: nn.MultiheadAttention(4, 2)(x, x, x)[0]),
    (linear_sum_assignment, lambda x: linear_sum_assignment(x)[0]),
    (np.sort, lambda x: np.sort(x.numpy())),
    (torch.autograd.backward, with_gradients(by_backward)),
    (torch.autograd.grad, with_gradients(lambda x: torch.autograd.grad((x**2).sum(), x)[0])),
    (torch.autograd.grad, torch.func.grad(lambda x: (x**2).sum())),
]
INNOCENT = [  # a tool, a function that does not call it, however alike it looks
    (pairwise_iou, lambda x: boxes.giou(x, x)),
    (torch.sin, lambda x: x.cos()),
    (torch.sin, lambda x: torch.tensor(math.sin(x[0, 0]))),
    (torch.sort, lambda x: torch.tensor(sorted(x[:, 0].tolist()))),
    (Tensor.sort, lambda x: [numbers.sort() or numbers for numbers in x.tolist()]),
    (math.sin, lambda x: x.sin()),
    (torch.softmax, lambda x: F.softplus(x)),
    (torch.autograd.grad, lambda x: (x**2).sum()),
]


@pytest.mark.parametrize(("tool", "function"), CALLS)
def test_a_forbidden_call_is_noticed(tool: Callable, function: Callable) -> None:
    """Under another name, as a method, deep inside something else; the message has the tool's own name and the why."""
    with pytest.raises(Wrong, match=rf"calls `{tool.__name__}`.* Use a pencil\."):
        ask(forbids(function, "Use a pencil.", tool), X)


@pytest.mark.parametrize(("tool", "function"), INNOCENT)
def test_nothing_else_is(tool: Callable, function: Callable) -> None:
    """The answer is what it would be without the watch."""
    answer = ask(forbids(function, "Use a pencil.", tool), X)
    judge(answer, torch.as_tensor(function(X)), {})


def test_a_forbidden_call_is_spoken_of_before_an_error() -> None:
    """Whoever calls the tool with wrong shapes should not be helped to call it with right ones."""
    with pytest.raises(Wrong, match="calls `pairwise_iou`"):
        ask(forbids(lambda x: pairwise_iou(x[:, :3], x), "Write it.", pairwise_iou), X)


def test_an_error_without_it_is_an_error() -> None:
    """And it still quotes the student's line."""
    with pytest.raises(Wrong, match=r"(?s)Your code stopped: IndexError.*x\[7\]"):
        ask(forbids(lambda x: x[7], "Write it.", pairwise_iou), X)


def test_stubs_stay_stubs() -> None:
    """What is no function is left to `ask`."""
    for stub in (None, ..., lambda x: None):
        with pytest.raises(Open):
            ask(forbids(stub, "Write it.", pairwise_iou), X)
    with pytest.raises(Wrong, match="without brackets"):
        ask(forbids(3, "Write it.", pairwise_iou), X)


def test_the_watch_ends_with_the_function() -> None:
    """Whatever watched before (a profiler) watches again, after an error, too."""
    before, mine = sys.getprofile(), lambda frame, event, called: None
    sys.setprofile(mine)
    try:
        with pytest.raises(Wrong):
            ask(forbids(lambda x: x[7], "Write it.", pairwise_iou), X)
        after = sys.getprofile()
    finally:
        sys.setprofile(before)
    assert after is mine


def test_one_watch_inside_another() -> None:
    """Both see the call, so that a check can forbid different tools for different reasons."""
    inner = forbids(lambda x: x.sin() + pairwise_iou(x, x)[0, 0], "Inside.", torch.cos)
    for tool, why in ((torch.sin, "Outside."), (pairwise_iou, "Outside, too.")):
        with pytest.raises(Wrong, match=why):
            ask(forbids(inner, why, tool), X)


@pytest.mark.parametrize("tool", [np.sin, torch.ops.torchvision.nms, "pairwise_iou"])
def test_a_tool_that_cannot_be_seen_is_refused(tool: object) -> None:
    """Rather than never noticed."""
    with pytest.raises(TypeError, match="cannot be seen"):
        forbids(lambda x: x, "Write it.", tool)


def test_a_special_case_opens_the_message() -> None:
    """No boxes at all: an IndexError says where it happened."""
    with pytest.raises(Wrong, match="^With no boxes at all your code stopped: IndexError"):
        ask(lambda x: x[0], X[:0], when="With no boxes at all")
    with pytest.raises(Wrong, match=r"^With no boxes at all: The shape is \(1,\)"):
        judge([0.0], torch.zeros(0), {}, when="With no boxes at all")
    with pytest.raises(Wrong, match="^A slip"):
        judge([0.0], torch.zeros(0), {"A slip": torch.zeros(1)}, when="With no boxes at all")
