"""What every exercise is made of: what it asks, its check, two hints; and the tools that checks are written with.

A check takes what the student made and ends in one of three ways: it returns (right), raises `Wrong` with a message
that says what is wrong and where to look, or raises `Open` (not tried yet).

A good check knows the mistakes people make. It computes what each of them would give, and names the one it meets:

    judge(ask(attend, q, k, v), right, {"You left out the scaling ...": wrong, ...})
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

EXACT = 1e-4  # two answers closer than this are the same
PACKAGE = str(Path(__file__).resolve().parents[2])


class Open(Exception):  # noqa: N818 - neither an error nor a fault
    """The exercise has not been tried."""


class Wrong(Exception):  # noqa: N818 - as above
    """The answer is not right; the message says why, and where to look."""


class Tier(Enum):
    """How far an exercise goes."""

    WARM_UP = "warm-up"
    CORE = "core"
    STRETCH = "stretch"


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    name: "NN.word", the notebook's number and a word. title: as in the notebook. minutes: what most people need.
    check: called with the answer; see the top of this file. hints: two, the second one closer. praise: one sentence
    for the right answer, that adds a thought.
    """

    name: str
    title: str
    tier: Tier
    minutes: int
    check: Callable[..., None]
    hints: tuple[str, str]
    praise: str

    @property
    def lesson(self) -> str:
        """The number of its notebook."""
        return self.name.split(".")[0]


def ask(function: Callable, *arguments: object) -> object:
    """What a student's function answers. Open for a stub, Wrong for one that stops, or that changes its input.

    Tensors are handed over as copies, which are compared with the originals afterwards.
    """
    if function is None or function is ...:
        raise Open
    if not callable(function):
        raise Wrong(f"A function is wanted here, and this is {describe(function)}. Hand it over without brackets.")
    copies = [argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments]
    try:
        answer = function(*copies)
    except NotImplementedError:
        raise Open from None
    except Exception as error:  # noqa: BLE001 - whatever a student's code may raise
        raise Wrong(f"Your code stopped: {type(error).__name__}: {first_line(error)}{where(error)}") from None
    if answer is None or answer is ...:
        raise Open
    for number, (copy, argument) in enumerate(zip(copies, arguments, strict=True), 1):
        if isinstance(argument, Tensor) and not torch.equal(copy, argument):
            raise Wrong(f"Your function changes its input number {number}. Others still need it: work on a new tensor "
                        "(methods that end in _ work in place).")
    return answer


def first_line(error: Exception) -> str:
    """The first line of an error's message, cut to a readable length."""
    lines = str(error).splitlines() or ["no message"]
    return lines[0] if len(lines[0]) <= 200 else lines[0][:200] + " ..."


def where(error: Exception) -> str:
    """The line of the student's own code at which it stopped, where Python knows it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.line]
    own = [frame for frame in frames if PACKAGE not in frame.filename and "site-packages" not in frame.filename]
    return f"\nIt stopped at line {own[-1].lineno} of your cell: `{own[-1].line.strip()}`" if own else ""


def numbers(answer: object) -> Tensor:
    """An answer as a float64 tensor of its own shape. Open for nothing, Wrong for what is not numbers."""
    if answer is None or answer is ...:
        raise Open
    try:
        return torch.as_tensor(answer).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"Numbers are wanted here, and this is {describe(answer)}.") from None


def describe(thing: object) -> str:
    """A thing in a few words, for messages."""
    text = " ".join(repr(thing).split())
    return f"{type(thing).__name__} {text if len(text) <= 60 else text[:60] + ' ...'}"


def same(one: Tensor, other: Tensor, tolerance: float = EXACT) -> bool:
    """Whether two tensors have one shape and the same numbers, not-a-numbers included."""
    other = other.to(torch.float64)
    return one.shape == other.shape and torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


def judge(answer: object, right: Tensor, slips: Mapping[str, Tensor], tolerance: float = EXACT) -> None:
    """Return for the right numbers. Raise Wrong with the message of the slip that gives just this answer.

    slips: message -> what that slip would give; tried in order. When none of them fits, the message says how far off
    the answer is, and where.
    """
    found = numbers(answer)
    if same(found, right, tolerance):
        return
    for message, wrong in slips.items():
        if same(found, wrong, tolerance):
            raise Wrong(message)
    if found.shape != right.shape:
        raise Wrong(f"The shape is {tuple(found.shape)} and should be {tuple(right.shape)}. Write the shape of each "
                    "step beside its line, and see where they part.")
    if found.isnan().any():
        raise Wrong("There is a nan in your answer: something was 0 / 0, or inf - inf. Print each step to see where.")
    distance = (found - right.to(torch.float64)).abs()
    place = tuple(int(index) for index in torch.unravel_index(distance.argmax(), distance.shape)) if right.ndim else ()
    at = f" (at index {list(place)})" if place else ""
    raise Wrong(f"Not yet{at}: you have {found[place]:.4f}, and {right[place]:.4f} is right. "
                "Follow this one number through your steps with a pencil.")


# ---------------------------------------------------------------- questions with choices


@dataclass(frozen=True)
class Choice:
    """One possible answer, and what somebody who gives it should hear."""

    text: str
    reply: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question of a quiz: one of its choices is right."""

    text: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if sum(choice.right for choice in self.choices) != 1:
            raise ValueError(f"the question {self.text!r} must have one right choice")

    @property
    def answer(self) -> int:
        """The index of the right choice."""
        return next(index for index, choice in enumerate(self.choices) if choice.right)
