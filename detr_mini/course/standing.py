"""How far a learner is: the table that 00 shows."""

from collections.abc import Sequence

from IPython.display import display

from detr_mini.course.exercises import EXERCISES, QUIZZES
from detr_mini.course.exercises.core import Exercise
from detr_mini.course.progress import progress
from detr_mini.course.syllabus import LESSONS, Lesson

HEAD = ("notebook", "minutes", "exercises", "predictions", "quiz")
MARKS = {"passed": "●", "tried": "◐", "open": "○"}


def mark(exercise: Exercise, data: dict) -> str:
    """● solved, ◐ tried, ○ open."""
    return MARKS[data["exercises"].get(exercise.name, {}).get("state", "open")]


def row(lesson: Lesson, data: dict) -> tuple[str, ...]:
    """What the table says about a notebook, one text per column of HEAD."""
    marks = [mark(one, data) for one in EXERCISES.values() if one.lesson == lesson.number]
    scored = [entry["right"] for name, entry in data["predictions"].items()
              if name.split(".")[0] == lesson.number and "right" in entry]
    answers = data["quizzes"].get(lesson.number, {}).values()
    return (
        f"{lesson.number} {lesson.title}",
        str(lesson.minutes),
        " ".join(marks) or "–",
        f"{sum(scored)} of {len(scored)} right" if scored else "–",
        f"{sum(answers)} of {len(QUIZZES[lesson.number])} right" if answers else "–",
    )


def show_progress() -> None:
    """Your progress in the notebooks that are written, one line each; the names lead to them."""
    data = progress().read()
    lessons = [lesson for lesson in LESSONS if lesson.minutes]
    rows = [row(lesson, data) for lesson in lessons]
    solved = sum(mark(one, data) == MARKS["passed"] for one in EXERCISES.values())
    summary = f"{solved} of {len(EXERCISES)} exercises solved. ● solved, ◐ tried, ○ open."
    display({"text/html": table(lessons, rows, HEAD) + f"<p>{summary}</p>",
             "text/plain": "\n".join([" | ".join(line) for line in (HEAD, *rows)] + [summary])}, raw=True)


def show_syllabus() -> None:
    """All notebooks with the question each one answers; those that are written have a link and their minutes."""
    rows = [(f"{one.number} {one.title}", one.question, f"{one.minutes} minutes" if one.minutes else "planned")
            for one in LESSONS]
    display({"text/html": table(LESSONS, rows, ("notebook", "it answers", "time")),
             "text/plain": "\n".join(" | ".join(line) for line in rows)}, raw=True)


def table(lessons: Sequence[Lesson], rows: list[tuple[str, ...]], head: tuple[str, ...]) -> str:
    """Rows as an HTML table. The first column leads to the notebook where it is written already."""
    def cells(texts: tuple[str, ...], tag: str) -> str:
        return "".join(f'<{tag} style="text-align: left">{text}</{tag}>' for text in texts)

    linked = [(f'<a href="{one.stem}.ipynb">{first}</a>' if one.minutes else first, *rest)
              for one, (first, *rest) in zip(lessons, rows, strict=True)]
    body = "".join(f"<tr>{cells(line, 'td')}</tr>" for line in linked)
    return f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"
