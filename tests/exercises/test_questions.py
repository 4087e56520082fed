"""Predictions and quizzes: what is asked, what is recorded, what is said."""

import pytest

from detr_mini.course import questions
from detr_mini.course.exercises import QUIZZES
from detr_mini.course.progress import progress
from detr_mini.course.questions import Buttons, predict, quiz, quiz_question, reveal

NAME = "01.test"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Buttons]:
    """Every question shown, in order."""
    found: list[Buttons] = []
    monkeypatch.setattr(questions, "display", found.append)
    return found


def test_a_click_is_a_prediction(asked: list[Buttons], shown: list[str]) -> None:
    """The radio button records it, the card scores it."""
    predict(NAME, "Which?", "this", "that")
    asked[0].radio.value = 1
    assert "Noted: b" in asked[0].answer.value and 'aria-live="polite"' in asked[0].answer.value
    reveal(NAME, "b", "Because.")
    assert shown[-1].startswith("✓ It is b) that") and "Because." in shown[-1]
    assert progress().read()["predictions"][NAME] == {"choice": "b", "right": True}


def test_the_first_prediction_counts(asked: list[Buttons], shown: list[str]) -> None:
    """Until it is scored it may change; afterwards it stays."""
    predict(NAME, "Which?", "this", "that", mine="b")
    asked[0].radio.value = 0
    reveal(NAME, "b")
    assert "You predicted a) this." in shown[-1]
    asked[0].radio.value = 1
    reveal(NAME, "b")
    assert progress().read()["predictions"][NAME] == {"choice": "a", "right": False}


def test_a_remembered_prediction_is_shown_again(asked: list[Buttons]) -> None:
    """Running the cell again keeps the choice."""
    predict(NAME, "Which?", "this", "that", mine="b")
    predict(NAME, "Which?", "this", "that")
    assert asked[1].radio.value == 1


def test_without_a_prediction_the_answer_is_told(asked: list[Buttons], shown: list[str]) -> None:
    """That is also what the stored notebook shows; nothing is recorded."""
    predict(NAME, "Which?", "this", "that")
    reveal(NAME, "a", "Because.")
    assert shown[-1] == "? It is a) this\nBecause.\nYou made no prediction this time."
    assert progress().read()["predictions"] == {}


def test_misuse_is_named(asked: list[Buttons]) -> None:
    """A reveal before its question, and a letter that is none."""
    with pytest.raises(RuntimeError, match="run its cell above first"):
        reveal(NAME, "a")
    predict(NAME, "Which?", "this", "that")
    for letter in ("c", "A", "", "ab"):
        with pytest.raises(ValueError, match="answer with one of a, b"):
            reveal(NAME, letter)


def test_what_a_reader_without_a_kernel_sees(asked: list[Buttons]) -> None:
    """The question and its choices, as HTML and as text, twice the same; special signs are harmless."""
    predict(NAME, "Is 1 < 2?", "yes & no", "no")
    bundle = asked[0]._repr_mimebundle_()
    assert "Is 1 &lt; 2?" in bundle["text/html"] and "a) yes &amp; no" in bundle["text/html"]
    assert bundle["text/plain"] == "? Predict. Is 1 < 2?\na) yes & no\nb) no"
    predict(NAME, "Is 1 < 2?", "yes & no", "no")
    again = asked[1]._repr_mimebundle_()
    assert all(again[kind] == bundle[kind] for kind in ("text/html", "text/plain"))


def test_quiz_replies_to_every_choice_and_records_the_first() -> None:
    """Each choice has its own reply."""
    question = QUIZZES["01"][0]
    shown = quiz_question("01", 1, question)
    for index, choice in enumerate(question.choices):
        shown.radio.value = index
        assert choice.reply in shown.answer.value.replace("&#x27;", "'")
        assert ("Right." if choice.right else "Not this one.") in shown.answer.value
    assert progress().read()["quizzes"] == {"01": {"1": question.choices[0].right}}


def test_quiz_shows_three_with_folded_answers(asked: list[Buttons]) -> None:
    """Who only reads can open the answer."""
    quiz("01")
    assert len(asked) == 3
    assert all("<details><summary>Answer</summary>" in one._repr_mimebundle_()["text/html"] for one in asked)


def test_no_such_quiz() -> None:
    """A number without questions."""
    with pytest.raises(ValueError, match="notebook '99' has no quiz: 00, 01"):
        quiz("99")
