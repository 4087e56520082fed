"""Every exercise refuses what learners get wrong, each mistake in its own words, and accepts what is right."""

import math
import re
import runpy
from pathlib import Path

import pytest
import torch

from detr_mini.course.exercises import EXERCISES, LESSONS_WITH_EXERCISES, QUIZZES, check, hint, solution, solution_code
from detr_mini.course.exercises.core import Open, Wrong
from detr_mini.course.progress import progress
from detr_mini.course.syllabus import LESSONS

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "notebooks" / "source"
MUTANTS = [runpy.run_path(str(path)) for path in sorted(HERE.glob("mutants_*.py"))]
WRONG = {name: wrong for mutants in MUTANTS for name, wrong in mutants["WRONG"].items()}
RIGHT = {name: right for mutants in MUTANTS for name, right in mutants["RIGHT"].items()}
EVERY = sorted(EXERCISES)


def source_of(name: str) -> str:
    """The text source of an exercise's notebook."""
    return next(SOURCES.glob(f"{EXERCISES[name].lesson}_*.py")).read_text(encoding="utf-8")


def message_for(name: str, answer: object) -> str:
    """What the check says to a wrong answer."""
    with pytest.raises(Wrong) as caught:
        EXERCISES[name].check(answer)
    return str(caught.value)


# ---------------------------------------------------------------- the checks


@pytest.mark.parametrize(("name", "index"), [(name, i) for name in WRONG for i in range(len(WRONG[name]))])
def test_a_wrong_answer_hears_what_is_wrong(name: str, index: int) -> None:
    """Each mistake is refused with the message that names it."""
    answer, fragment = WRONG[name][index]
    assert fragment in message_for(name, answer)


@pytest.mark.parametrize(("name", "index"), [(name, i) for name in RIGHT for i in range(len(RIGHT[name]))])
def test_a_right_answer_passes(name: str, index: int) -> None:
    """However it is written."""
    EXERCISES[name].check(RIGHT[name][index])


@pytest.mark.parametrize("name", EVERY)
def test_there_are_enough_of_both(name: str) -> None:
    """Three mistakes told apart by their messages, two right answers, a hint that does not repeat the other."""
    assert name in WRONG and name in RIGHT, f"write tests/exercises/mutants_{EXERCISES[name].lesson}.py"
    assert len({fragment for _, fragment in WRONG[name]}) >= 3
    assert len({message_for(name, answer) for answer, _ in WRONG[name]}) >= 3
    assert len(RIGHT[name]) >= 2
    assert len(set(EXERCISES[name].hints)) == 2 and all(len(words) > 20 for words in EXERCISES[name].hints)


def raises_not_implemented(*arguments: object) -> None:
    """A stub of the other kind."""
    raise NotImplementedError


@pytest.mark.parametrize("stub", [None, ...])
@pytest.mark.parametrize("name", EVERY)
def test_a_stub_is_open(name: str, stub: object) -> None:
    """A cell not filled in is neither right nor wrong, whether it holds a value or a function."""
    with pytest.raises(Open):
        EXERCISES[name].check(stub)
    if callable(RIGHT.get(name, [None])[0]):
        for function in (lambda *arguments: stub, raises_not_implemented):
            with pytest.raises(Open):
                EXERCISES[name].check(function)


@pytest.mark.parametrize("name", EVERY)
def test_the_solution_solves(name: str) -> None:
    """The solution cell of the notebook's source passes its own check."""
    code = solution_code(name)
    space = {"math": math, "torch": torch}
    exec(code, space)  # noqa: S102 - our own source
    answer = re.search(rf'^check\("{re.escape(name)}", (\w+)\)', source_of(name), flags=re.MULTILINE)
    EXERCISES[name].check(space[answer[1]])


def test_a_function_that_stops_shows_its_line() -> None:
    """The student's own line is quoted, not ours."""
    message = message_for("00.largest", lambda boxes: boxes[:, 7].argmax())
    assert "IndexError" in message and "line" in message and "boxes[:, 7].argmax()" in message


def test_brackets_too_many() -> None:
    """A called function is told from a function."""
    assert "without brackets" in message_for("00.largest", 3)


# ---------------------------------------------------------------- what the student sees


def test_check_says_and_records(shown: list[str]) -> None:
    """Open is not counted as a try; wrong is; passed stays passed."""
    check("01.by_hand", None)
    assert "open" in shown[-1] and 'dm.hint("01.by_hand")' in shown[-1] and "return" not in shown[-1]
    assert progress().read()["exercises"] == {}
    check("01.by_hand", 15.0)
    assert shown[-1].startswith("✗") and "plain average" in shown[-1] and "hint" not in shown[-1]
    check("01.by_hand", 20.0)
    assert "A hint is ready" in shown[-1]
    check("01.by_hand", 17.31)
    assert shown[-1].startswith("✓")
    check("01.by_hand", 15.0)
    assert progress().read()["exercises"]["01.by_hand"] == {"tries": 4, "state": "passed"}


def test_an_open_function_is_reminded_of_return(shown: list[str]) -> None:
    """The commonest reason for an answer of None."""
    check("00.largest", lambda boxes: None)
    assert "return" in shown[-1]


def test_hints_come_one_at_a_time(shown: list[str]) -> None:
    """The second one only when asked again; then the way to the solution."""
    first, second = EXERCISES["01.mask"].hints
    hint("01.mask")
    assert first in shown[0] and second not in shown[0]
    hint("01.mask")
    assert first in shown[1] and second in shown[1] and "dm.solution" in shown[1]
    hint("01.mask")
    assert shown[2] == shown[1]
    assert progress().read()["exercises"]["01.mask"]["hints"] == 2


def test_the_solution_is_shown_and_noted(capsys: pytest.CaptureFixture[str]) -> None:
    """As code to read."""
    solution("01.mask")
    assert "masked_fill" in capsys.readouterr().out
    assert progress().read()["exercises"]["01.mask"]["solution_seen"] is True


def test_unknown_names_are_told_the_known_ones() -> None:
    """A mistyped name gets those of the same notebook."""
    for function in (lambda: check("01.masc", None), lambda: hint("01.masc"), lambda: solution("01.masc")):
        with pytest.raises(ValueError, match=r"no exercise '01.masc': there are 01.by_hand"):
            function()


def test_solutions_without_sources_say_where_they_are(tmp_path: Path) -> None:
    """An installed package has no notebooks."""
    with pytest.raises(FileNotFoundError, match="notebooks/solutions"):
        solution_code("01.mask", tmp_path)


# ---------------------------------------------------------------- what the notebooks say


@pytest.mark.parametrize("name", EVERY)
def test_the_notebook_introduces_its_exercise(name: str) -> None:
    """Title, name, tier and minutes stand in the text before the stub, as the exercise itself says."""
    exercise = EXERCISES[name]
    cells = re.split(r"^# %%", source_of(name), flags=re.MULTILINE)
    place = next(i for i, cell in enumerate(cells) if re.search(rf'^check\("{re.escape(name)}"', cell, re.MULTILINE))
    stub, solved = cells[place - 2: place]
    text = next(cell for cell in reversed(cells[:place]) if f"(`{name}`)" in cell)
    assert f"### {exercise.title} (`{name}`)" in text
    minutes = re.search(r"\*([\w-]+), (\d+) minutes\.\*", text)
    assert (minutes[1].lower(), int(minutes[2])) == (exercise.tier.value, exercise.minutes)
    assert '"exercise"' in stub.splitlines()[0] and '"solution"' in solved.splitlines()[0]


@pytest.mark.parametrize("source", sorted(SOURCES.glob("*.py")), ids=lambda path: path.stem)
def test_a_notebook_uses_what_there_is(source: Path) -> None:
    """Every check is of a known exercise, every prediction is asked once and revealed afterwards."""
    text, number = source.read_text(encoding="utf-8"), source.stem[:2]
    checked = re.findall(r'^check\("([\w.]+)"', text, flags=re.MULTILINE)
    assert checked == [name for name in EXERCISES if name.startswith(number)]
    asked, revealed = (re.findall(rf'^{verb}\(\s*"([\w.]+)"', text, flags=re.MULTILINE)
                       for verb in ("predict", "reveal"))
    assert asked == revealed and len(set(asked)) == len(asked)
    assert all(name.startswith(f"{number}.") for name in asked)
    assert all(text.index(f'predict("{name}"' if f'predict("{name}"' in text else f'"{name}"') <
               text.index(f'reveal("{name}"') for name in asked)


def test_three_questions_each() -> None:
    """A quiz has three questions, and something to say about every choice."""
    for questions in QUIZZES.values():
        assert len(questions) == 3
        assert all(len(choice.reply) > 10 for question in questions for choice in question.choices)


def test_tiers_of_every_lesson() -> None:
    """Every notebook has all three tiers."""
    for number in LESSONS_WITH_EXERCISES:
        tiers = {one.tier.value for one in EXERCISES.values() if one.lesson == number}
        assert tiers == {"warm-up", "core", "stretch"}, number


def test_the_syllabus_knows_what_is_written() -> None:
    """A notebook has minutes in the list exactly when it has a source, and the same name."""
    assert [one.stem for one in LESSONS if one.minutes] == sorted(path.stem for path in SOURCES.glob("*.py"))
