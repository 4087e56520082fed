"""Questions with choices: predictions before a cell is run, and the quiz at a notebook's end.

    predict("01.winner", "Which flat gets the largest weight?", "Attic", "Bridge", "Centre")
    ...
    reveal("01.winner", "a", "Its score is the largest: 4.")

In a live notebook the choices are radio buttons: the pointer works, and so do Tab and the arrow keys. Where nothing
runs, the question stands there as text. `predict(..., mine="b")` answers without a widget.
"""

import html
from collections.abc import Callable

import ipywidgets
from IPython.display import display

from detr_mini.course.cards import Kind, card, frame, inline
from detr_mini.course.exercises import QUIZZES
from detr_mini.course.exercises.core import Question
from detr_mini.course.progress import progress

LETTERS = "abcdefgh"
ASKED: dict[str, tuple[str, ...]] = {}  # prediction -> its choices, in this session


class Buttons:
    """A question as a card with radio buttons, or as text where nothing runs.

    text: the question. choices: what can be answered. chosen: an index, or None. react: called with the index of
    every choice, returns what to say as (kind of card, title, text). still: HTML in place of the buttons.
    """

    def __init__(
        self, text: str, choices: tuple[str, ...], chosen: int | None, react: Callable[[int], tuple[Kind, str, str]],
        still: str,
    ) -> None:
        self.text, self.choices, self.react, self.still = text, choices, react, still
        options = [(f"{letter}) {choice}", index) for index, (letter, choice) in enumerate(lettered(choices))]
        self.radio = ipywidgets.RadioButtons(options=options, value=chosen, layout={"width": "auto"})
        self.answer = ipywidgets.HTML()
        self.box = ipywidgets.VBox([ipywidgets.HTML(frame(Kind.QUESTION, text, "")), self.radio, self.answer])
        self.radio.observe(lambda change: self.say(change["new"]), names="value")

    def say(self, index: int | None) -> None:
        """Show what there is to say about a choice; screen readers read it out."""
        if index is not None:
            kind, title, text = self.react(index)
            self.answer.value = f'<div aria-live="polite">{frame(kind, title, f"<br>{inline(text)}")}</div>'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        """The live buttons, and beside them the question as HTML and as text. For Jupyter."""
        lines = [f"{letter}) {choice}" for letter, choice in lettered(self.choices)]
        body = "".join(f"<br>{html.escape(line)}" for line in lines) + self.still
        live = self.box._repr_mimebundle_() or {}  # None where no widget can be shown
        live.pop("text/plain", None)
        return live | {"text/html": frame(Kind.QUESTION, self.text, body),
                       "text/plain": "\n".join([f"? {self.text}", *lines])}


def lettered(choices: tuple[str, ...]) -> list[tuple[str, str]]:
    """(letter, choice) pairs."""
    return list(zip(LETTERS, choices, strict=False))


def index_of(letter: str, choices: tuple[str, ...]) -> int:
    """0 for "a" and so on; ValueError naming the letters there are."""
    letters = LETTERS[: len(choices)]
    if len(letter) != 1 or letter not in letters:
        raise ValueError(f"{letter!r} is not a choice here: answer with one of {', '.join(letters)}")
    return letters.index(letter)


# ---------------------------------------------------------------- predictions


def predict(name: str, question: str, *choices: str, mine: str | None = None) -> None:
    """Ask for a prediction and remember it until `reveal`. name: "NN.word". mine: a letter, instead of a click."""
    ASKED[name] = choices
    if mine is not None:
        remember(name, index_of(mine, choices))
    letter = progress().read()["predictions"].get(name, {}).get("choice")
    chosen = LETTERS.index(letter) if letter and letter in LETTERS[: len(choices)] else None

    def react(index: int) -> tuple[Kind, str, str]:
        remember(name, index)
        return Kind.HINT, f"Noted: {LETTERS[index]}.", "Now run on and see."

    still = "<br><i>Decide before you read on.</i>"
    display(Buttons(f"Predict. {question}", choices, chosen, react, still))


def remember(name: str, index: int) -> None:
    """Record a prediction, unless one was scored already: the first one counts."""
    def change(data: dict) -> None:
        entry = data["predictions"].setdefault(name, {})
        if "right" not in entry:
            entry["choice"] = LETTERS[index]

    progress().update(change)


def reveal(name: str, answer: str, why: str = "") -> None:
    """Say what came out, and score the prediction. answer: a letter, best computed from the cell above.

    RuntimeError when the question has not been asked in this session.
    """
    if name not in ASKED:
        raise RuntimeError(f"the question {name!r} has not been asked yet: run its cell above first")
    index = index_of(answer, ASKED[name])

    def change(data: dict) -> None:
        entry = data["predictions"].get(name)
        if entry:
            entry["right"] = entry["choice"] == answer

    mine = progress().update(change)["predictions"].get(name, {}).get("choice")
    kind, verdict = (
        (Kind.QUESTION, "You made no prediction this time.") if mine is None
        else (Kind.PASSED, "You predicted it.") if mine == answer
        else (Kind.HINT, f"You predicted {mine}) {ASKED[name][index_of(mine, ASKED[name])]}. What did you miss?")
    )
    card(kind, f"It is {answer}) {ASKED[name][index]}", f"{why}\n{verdict}".lstrip("\n"))


# ---------------------------------------------------------------- quiz


def quiz(number: str) -> None:
    """The questions of a notebook, "01". ValueError naming the notebooks that have some."""
    if number not in QUIZZES:
        raise ValueError(f"notebook {number!r} has no quiz: {', '.join(QUIZZES)} have one")
    for place, question in enumerate(QUIZZES[number], 1):
        display(quiz_question(number, place, question))


def quiz_question(number: str, place: int, question: Question) -> Buttons:
    """One question of a quiz. place: 1, 2, 3, ... Every choice gets a reply; the first one is recorded."""
    def react(index: int) -> tuple[Kind, str, str]:
        choice = question.choices[index]

        def change(data: dict) -> None:
            data["quizzes"].setdefault(number, {}).setdefault(str(place), choice.right)

        progress().update(change)
        kind, title = (Kind.PASSED, "Right.") if choice.right else (Kind.WRONG, "Not this one.")
        return kind, title, choice.reply

    right = question.choices[question.answer]
    still = (f"<details><summary>Answer</summary>{LETTERS[question.answer]}) {html.escape(right.text)}. "
             f"{html.escape(right.reply)}</details>")
    choices = tuple(choice.text for choice in question.choices)
    return Buttons(f"Question {place}. {question.text}", choices, None, react, still)
