"""What holds for every notebook under nbval: no network, and no longer than it says.

notebooks/conftest.py takes the hooks from here. After the last cell of a notebook comes one more test, "minutes": the
time that its cells took is at most 1.5 times what its first cell states. A minute is free, for it is mostly start-up.
And once more at the very end: the students' notebooks 00 to 10 take at most twelve minutes together, 00 to 16 at most
twenty-five; all of them, the solved ones included, at most three quarters of an hour.

What is measured is the wall clock; or the kernel's processor time where that is less, so that a machine that is busy
with other things does not make a notebook too slow.
"""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

OFFLINE = Path(__file__).with_name("offline")
TOLERANCE, FREE = 1.5, 60.0  # a factor, seconds
BUDGETS = {"00 to 10": 12.0, "00 to 16": 25.0}  # minutes of the students' notebooks from one number to another
ALL = 45.0  # minutes of everything
WORDS = {word: number for number, word in enumerate(
    "a two three four five six seven eight nine ten eleven twelve".split(), 1)} | {"one": 1}
STATED = re.compile(
    r"cells(?: themselves)? run (?:in|for) (?:(?P<seconds>seconds)|(?:under |about )?(?:(?P<only>half a minute)|"
    r"(?P<number>\w+) minutes?(?P<half> and a half)?))\b"
)


def stated_minutes(first_cell: str) -> float:
    """How long a notebook says that it runs, in minutes: "the cells themselves run in seconds" is 0.

    Also "The cells run for about four minutes", "run in under a minute", "run for about half a minute", "for about a
    minute and a half". Raises ValueError, saying what to write, when the cell states nothing of the kind.
    """
    found = STATED.search(" ".join(first_cell.replace("*", "").split()))
    if found and (found["seconds"] or found["only"]):
        return 0.0 if found["seconds"] else 0.5
    number = found and (WORDS.get(found["number"]) or (found["number"].isdigit() and int(found["number"])))
    if not number:
        raise ValueError('its first cell does not say how long it runs: write "the cells themselves run in seconds", '
                         '"... in under a minute" or "The cells run for about four minutes"')
    return number + 0.5 * bool(found["half"])


def allowed_seconds(minutes: float) -> float:
    """How long a notebook may run that states so many minutes."""
    return max(FREE, TOLERANCE * 60 * minutes)


class Minutes(pytest.Item):
    """The test after a notebook's last cell. Its parent is the notebook."""

    def runtest(self) -> None:
        used = self.parent.seconds = min(self.parent.waited, processor_seconds(self.parent))
        minutes = stated_minutes(self.parent.nb.cells[0].source)
        assert used <= allowed_seconds(minutes), (
            f"its cells ran for {used / 60:.1f} minutes, and it states {minutes:g}: at most "
            f"{allowed_seconds(minutes) / 60:.1f} are allowed. Make it quicker, or say how long it takes.")

    def repr_failure(self, excinfo: pytest.ExceptionInfo) -> str:
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{self.path.name}: minutes"


class Together(pytest.Item):
    """A last test, of several notebooks: their minutes together."""

    def runtest(self) -> None:
        used = sum(getattr(notebook, "seconds", 0.0) for notebook in self.notebooks) / 60
        print(f"{self.name}: {used:.1f} of {self.allowed:g} minutes")
        assert used <= self.allowed, f"{self.name} ran for {used:.1f} minutes together; {self.allowed:g} are allowed"

    def repr_failure(self, excinfo: pytest.ExceptionInfo) -> str:
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{self.name}: minutes"


def together(session: pytest.Session, notebooks: list[pytest.File]) -> Iterator[Together]:
    """The last tests: one for every budget of which a notebook runs, and one for all."""
    groups = {f"notebooks {numbers}": (minutes, [one for one in notebooks if within(one.path, *numbers.split(" to "))])
              for numbers, minutes in BUDGETS.items()} | {"all notebooks": (ALL, notebooks)}
    for name, (allowed, some) in groups.items():
        if some:
            last = Together.from_parent(session, name=name)
            last.allowed, last.notebooks = allowed, some
            yield last


def within(path: Path, first: str, last: str) -> bool:
    """Whether a path is a student's notebook with a number in a range."""
    return path.parent.name != "solutions" and first <= path.name[:2] <= last


def processor_seconds(notebook: pytest.File) -> float:
    """What the notebook's kernel used of all cores so far, with the processes that it started."""
    kernel = psutil.Process(notebook.kernel.km.provisioner.pid)
    used = [process.cpu_times() for process in (kernel, *kernel.children(recursive=True))]
    return sum(times.user + times.system for times in used) + used[0].children_user + used[0].children_system


def pytest_configure(config: pytest.Config) -> None:
    """Kernels that are started from now on have no network, and leave the learner's progress alone."""
    os.environ["DETR_MINI_PROGRESS"] = "off"
    places = [str(OFFLINE), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(places)


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """One more test after each notebook's cells, and a few at the end."""
    notebooks = list(dict.fromkeys(item.parent for item in items if type(item).__name__ == "IPyNbCell"))
    for notebook in notebooks:
        notebook.waited = 0.0
        last = max(index for index, item in enumerate(items) if item.parent is notebook)
        items.insert(last + 1, Minutes.from_parent(notebook, name="minutes"))
    items.extend(together(session, notebooks))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Add up how long a notebook's cells take; the first one starts the kernel."""
    started = time.monotonic()
    result = yield
    if hasattr(item.parent, "waited"):
        item.parent.waited += time.monotonic() - started
    return result
