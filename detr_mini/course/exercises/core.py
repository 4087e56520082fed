"""What every exercise is made of: what it asks, its check, two hints; and the tools that checks are written with.

A check takes what the student made and ends in one of three ways: it returns (right), raises `Wrong` with a message
that says what is wrong and where to look, or raises `Open` (not tried yet).

A good check knows the mistakes people make. It computes what each of them would give, and names the one it meets:

    judge(ask(attend, q, k, v), right, {"You left out the scaling ...": wrong, ...})
"""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FrameType, MethodDescriptorType

import torch
from torch import Tensor, nn

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


def ask(function: Callable, *arguments: object, when: str = "") -> object:
    """What a student's function answers. Open for a stub, Wrong for one that stops, or that changes its input.

    Tensors are handed over as copies, which are compared with the originals afterwards. when: what is special about
    these arguments, such as "With no boxes at all"; it then opens the message of a function that stops.
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
    except Wrong:  # from `forbids`
        raise
    except Exception as error:  # noqa: BLE001 - whatever a student's code may raise
        stopped = f"{when} your code stopped" if when else "Your code stopped"
        raise Wrong(f"{stopped}: {type(error).__name__}: {first_line(error)}{where(error)}") from None
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


# ---------------------------------------------------------------- tools that an exercise forbids


def forbids(function: object, why: str, *tools: Callable) -> object:
    """The student's function, made to raise Wrong as soon as it returns if it has called one of `tools`.

        all_ious = forbids(all_ious, "Write IoU from the corners.", pairwise_iou, torchvision.ops.box_iou)
        judge(ask(all_ious, FIRST, SECOND), right, slips)

    A call counts under whatever name and however deep it happens (see `calls_of`); it is spoken of before anything
    else that may be wrong. why: what to do instead, a sentence. What is no function is handed back as it is, for
    `ask` to speak of. Raises TypeError for a tool whose calls cannot be seen.
    """
    if not callable(function):
        return function
    known = [signs_of(tool) for tool in tools]

    def watched(*arguments: object) -> object:
        with calls_of(known) as used:
            try:
                answer = function(*arguments)
            except Exception:
                if not used:
                    raise
        if used:
            raise Wrong(f"Your function calls `{used[0]}`, and this exercise is about doing without it. {why}")
        return answer

    return watched


@dataclass(frozen=True)
class Signs:
    """By what a tool's calls are known: its code if it is written in Python, else itself; torch's operators by name."""

    name: str
    code: CodeType | None = None
    builtin: object = None
    operator: str = ""

    def fit(self, event: str, code: CodeType, called: object) -> bool:
        """Whether an event of Python's profiler (`sys.setprofile`) is a call of this tool."""
        if event == "call":
            return code is self.code
        return event == "c_call" and (called is self.builtin or self.is_method(called))

    def is_method(self, called: object) -> bool:
        """Whether a C function is this operator of torch's as a method of some tensor."""
        of_tensor = isinstance(getattr(called, "__self__", None), Tensor)
        return bool(self.operator) and of_tensor and called.__name__ in (self.operator, f"{self.operator}_")


def signs_of(tool: Callable) -> Signs:
    """What `calls_of` looks for. An operator of torch's counts as a function, as a method, and as a method in place.

    TypeError for what leaves no sign, such as NumPy's ufuncs.
    """
    name = getattr(tool, "__name__", "")
    if isinstance(tool, type) and issubclass(tool, nn.Module):
        return Signs(name, code=inspect.unwrap(tool.forward).__code__)
    if isinstance(tool, MethodDescriptorType) and hasattr(Tensor, name):
        return Signs(name, builtin=getattr(torch, name, None), operator=name)
    if isinstance(tool, BuiltinFunctionType):
        return Signs(name, builtin=tool, operator=name if getattr(torch, name, None) is tool else "")
    code = getattr(inspect.unwrap(tool), "__code__", None)
    if code is None:
        raise TypeError(f"calls of {describe(tool)} cannot be seen: give a function or a module of torch's")
    return Signs(name, code=code)


@contextmanager
def calls_of(tools: list[Signs]) -> Iterator[list[str]]:
    """Inside the `with`: the names of the tools that are called, in order, in this thread.

    Seen are the functions themselves, not their names, so `from x import f as g` changes nothing, and neither does
    `partial(f)`. Not seen: a C function that another C function calls, as in `map(torch.sin, ...)`; and `@`, `*`, ...
    """
    used: list[str] = []
    before = sys.getprofile()

    def note(frame: FrameType, event: str, called: object) -> None:
        used.extend(tool.name for tool in tools if tool.fit(event, frame.f_code, called))
        if callable(before):  # a watch around this one
            before(frame, event, called)

    sys.setprofile(note)
    try:
        yield used
    finally:
        sys.setprofile(before)


# ---------------------------------------------------------------- answers


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


def judge(
    answer: object, right: Tensor, slips: Mapping[str, Tensor], tolerance: float = EXACT, when: str = "",
) -> None:
    """Return for the right numbers. Raise Wrong with the message of the slip that gives just this answer.

    slips: message -> what that slip would give; tried in order. When none of them fits, the message says how far off
    the answer is, and where. when: as in `ask`; it then opens that message.
    """
    found = numbers(answer)
    if same(found, right, tolerance):
        return
    for message, wrong in slips.items():
        if same(found, wrong, tolerance):
            raise Wrong(message)
    raise Wrong(f"{when}: {off(found, right)}" if when else off(found, right))


def off(found: Tensor, right: Tensor) -> str:
    """How far an answer is from the right one, and where: what is said when nobody knows the mistake."""
    if found.shape != right.shape:
        return (f"The shape is {tuple(found.shape)} and should be {tuple(right.shape)}. Write the shape of each "
                "step beside its line, and see where they part.")
    if found.isnan().any():
        return "There is a nan in your answer: something was 0 / 0, or inf - inf. Print each step to see where."
    distance = (found - right.to(torch.float64)).abs()
    place = tuple(int(index) for index in torch.unravel_index(distance.argmax(), distance.shape)) if right.ndim else ()
    at = f" (at index {list(place)})" if place else ""
    return (f"Not yet{at}: you have {found[place]:.4f}, and {right[place]:.4f} is right. "
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
