"""Exercises: a check that says what is wrong, two hints one at a time, a solution, and a record of it all.

    check("01.mask", attend)     # passed, wrong (with the reason), or still open
    dm.hint("01.mask")           # the first hint; run it again for the second
    dm.solution("01.mask")       # one way to write it, taken from the notebook's own source

A new notebook adds a file nbNN.py with EXERCISES and QUIZ, its line in LESSONS_WITH_EXERCISES, and the wrong and right
answers that prove its checks in tests/exercises/mutants_NN.py.
"""

import re
from pathlib import Path

from detr_mini.course.cards import Kind, card
from detr_mini.course.exercises import (
    nb00,
    nb01,
    nb02,
    nb03,
    nb04,
    nb05,
    nb06,
    nb07,
    nb08,
    nb09,
    nb10,
    nb11,
    nb12,
    nb13,
    nb14,
    nb15,
    nb16,
    nb20,
)
from detr_mini.course.exercises.core import Exercise, Open, Question, Wrong
from detr_mini.course.progress import progress

LESSONS_WITH_EXERCISES = {
    "00": nb00, "01": nb01, "02": nb02, "03": nb03, "04": nb04, "05": nb05,
    "06": nb06, "07": nb07, "08": nb08, "09": nb09, "10": nb10, "11": nb11,
    "12": nb12, "13": nb13, "14": nb14, "15": nb15, "16": nb16, "20": nb20,
}
EXERCISES: dict[str, Exercise] = {one.name: one for file in LESSONS_WITH_EXERCISES.values() for one in file.EXERCISES}
QUIZZES: dict[str, tuple[Question, ...]] = {number: file.QUIZ for number, file in LESSONS_WITH_EXERCISES.items()}


def find(name: str) -> Exercise:
    """An exercise by its name; ValueError naming those of the same notebook."""
    if name not in EXERCISES:
        near = [known for known in EXERCISES if known.split(".")[0] == name.split(".")[0]] or list(EXERCISES)
        raise ValueError(f"no exercise {name!r}: there are {', '.join(near)}")
    return EXERCISES[name]


def check(name: str, *answer: object) -> None:
    """Check an answer, say what is right or wrong about it, and record it. Never raises for a wrong answer.

    answer: what the exercise asks for: a function (its name without brackets), or values. ValueError for an unknown
    name.
    """
    exercise = find(name)
    title = f"{exercise.title} ({name})"
    try:
        exercise.check(*answer)
    except Open:
        written = " (Written something already? Look for its `return`.)" if answer and callable(answer[0]) else ""
        card(Kind.OPEN, f"{title}: open", f"Nothing is there yet. Fill in the cell above, run it, then run this one."
             f"{written}\nStuck? Run `dm.hint(\"{name}\")` in a new cell.")
    except Wrong as wrong:
        tries = note(name, passed=False)
        more = f"\nA hint is ready: `dm.hint(\"{name}\")`." if tries > 1 else ""
        card(Kind.WRONG, f"{title}: not yet", f"{wrong}{more}")
    else:
        note(name, passed=True)
        card(Kind.PASSED, f"{title}: solved", exercise.praise)


def note(name: str, passed: bool) -> int:
    """Record a try; returns how many there were. What was passed once stays passed."""
    def change(data: dict) -> None:
        entry = data["exercises"].setdefault(name, {})
        entry["tries"] = entry.get("tries", 0) + 1
        entry["state"] = "passed" if passed or entry.get("state") == "passed" else "tried"

    return progress().update(change)["exercises"][name]["tries"]


def hint(name: str) -> None:
    """Show the first hint; at the next call the second. ValueError for an unknown name."""
    exercise = find(name)

    def change(data: dict) -> None:
        entry = data["exercises"].setdefault(name, {})
        entry["hints"] = min(entry.get("hints", 0) + 1, len(exercise.hints))

    shown = progress().update(change)["exercises"][name]["hints"]
    text = "\n".join(f"{number}. {words}" for number, words in enumerate(exercise.hints[:shown], 1))
    last = f"Still stuck? `dm.solution(\"{name}\")` shows one way."
    after = last if shown == len(exercise.hints) else "There is one more: run this again."
    card(Kind.HINT, f"{exercise.title}: hint {shown} of {len(exercise.hints)}", f"{text}\n{after}")


def solution(name: str) -> None:
    """Show one way to solve an exercise. ValueError for an unknown name, FileNotFoundError without the sources."""
    exercise = find(name)
    progress().update(lambda data: data["exercises"].setdefault(name, {}).update(solution_seen=True))
    print(f"# {exercise.title}: one way among several\n{solution_code(name)}")


def solution_code(name: str, folder: Path | None = None) -> str:
    """The solution's code: the cell tagged "solution" before the one that checks it, in the notebook's source.

    folder: with the sources, by default notebooks/source of this clone.
    """
    folder = folder or Path(__file__).resolve().parents[3] / "notebooks" / "source"
    source = next(folder.glob(f"{find(name).lesson}_*.py"), None)
    if source is None:
        raise FileNotFoundError(f"{folder} has no source of notebook {find(name).lesson}: solutions are in the "
                                "repository, in notebooks/solutions")
    cells = re.split(r"^# %%", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    before = ""
    for cell in cells:
        header, _, body = cell.partition("\n")
        if '"solution"' in header:
            before = body.strip()
        elif re.search(rf'^check\("{re.escape(name)}"', body, flags=re.MULTILINE):
            return before
    raise ValueError(f"{source.name} has no cell that checks {name}")
