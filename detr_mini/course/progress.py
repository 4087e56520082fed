"""What a learner has done: one small JSON file on their own machine, sent nowhere.

    progress().read()["exercises"]["01.mask"]      # {"state": "passed", "tries": 3, "hints": 1}
    progress().update(lambda data: data["quizzes"].setdefault("01", {}).update(first="b"))

The file is progress.json beside the notebooks (git ignores it), or in ~/.detr_mini when the package was installed
without them. The environment variable DETR_MINI_PROGRESS names another file, or says `off`: then everything stays in
memory and is gone with the kernel. The builds and the tests of the notebooks say `off`.

An update reads the file again under a lock, so two notebooks can be open at once. A file is written whole or not at
all. A damaged one is set aside with a message, never deleted; one from a newer version is left as it is.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from detr_mini.files import atomic

if os.name == "nt":
    import msvcrt
else:
    import fcntl

log = logging.getLogger("detr_mini")

VARIABLE = "DETR_MINI_PROGRESS"
VERSION = 1
SECTIONS = ("exercises", "predictions", "quizzes")
# version -> what turns a file of that version into one of the next. Entries that nobody knows any more are kept.
UPGRADES: dict[int, Callable[[dict], dict]] = {}


class DamagedError(ValueError):
    """A progress file that is not one."""


class NewerError(ValueError):
    """A progress file of a later version of the package."""


def empty() -> dict:
    """The progress of somebody who starts."""
    return {"version": VERSION} | {section: {} for section in SECTIONS}


def parse(text: str) -> dict:
    """A file's text as progress of this version. Raises DamagedError or NewerError."""
    try:
        data = json.loads(text)
        version = data["version"]
        if not isinstance(version, int) or version < min(UPGRADES, default=VERSION):
            raise DamagedError(f"version {version!r}")
        for step in range(version, VERSION):
            data = UPGRADES[step](data)
        entries = [entry for section in SECTIONS for entry in data.setdefault(section, {}).values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(str(error)) from error
    if version > VERSION:
        raise NewerError(f"version {version}")
    if not all(isinstance(entry, dict) for entry in entries):
        raise DamagedError("an entry is not an object")
    return data | {"version": VERSION}


class Progress:
    """A learner's progress. path: its file, or None to keep it in memory only."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.memory = path, empty()

    def read(self) -> dict:
        """Everything recorded: {"version", "exercises", "predictions", "quizzes"}, each section name -> entry."""
        try:
            if self.path is not None and self.path.exists():
                return parse(self.path.read_text(encoding="utf-8"))
        except ValueError:  # whatever is wrong is judged again, and dealt with, under the lock
            return self.update(lambda data: None)
        except OSError as error:
            self.keep_in_memory(f"it cannot be read ({error.strerror})")
        return self.memory

    def update(self, change: Callable[[dict], object]) -> dict:
        """Read, let `change` edit the data in place, write. Returns the data. A file that cannot be written costs no
        more than a message: the change is kept in memory."""
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.lock():
                    return self.rewrite(change)
            except NewerError as error:
                self.keep_in_memory(f"it was written by a newer detr_mini ({error}); upgrade, or move it away")
            except OSError as error:
                self.keep_in_memory(f"it cannot be written ({error.strerror})")
        change(self.memory)
        return self.memory

    def rewrite(self, change: Callable[[dict], object]) -> dict:
        """The part of `update` that happens under the lock."""
        try:
            data = parse(self.path.read_text(encoding="utf-8")) if self.path.exists() else empty()
        except NewerError:
            raise
        except ValueError as error:  # damaged, or not text at all
            self.set_aside(error)
            data = empty()
        change(data)
        text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False)
        with atomic(self.path) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
        return data

    def set_aside(self, error: ValueError) -> None:
        """Rename a damaged file, so that nothing in it is lost, and say so."""
        number = 1
        while (kept := self.path.with_name(f"{self.path.stem}.damaged-{number}{self.path.suffix}")).exists():
            number += 1
        os.replace(self.path, kept)
        log.warning("%s was damaged (%s). It is kept as %s, and you start with a new one.",
                    self.path.name, error, kept.name)

    def keep_in_memory(self, reason: str) -> None:
        """Say once why the file takes no part from now on."""
        log.warning("Your progress is not saved: %s: %s. Set %s to another file.", self.path, reason, VARIABLE)
        self.path = None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time. The operating system opens the lock of a process that dies."""
        with open(self.path.with_name(f".{self.path.name}.lock"), "a+b") as file:
            if os.name == "nt":
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                if os.name == "nt":
                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)


OPENED: dict[str, Progress] = {}


def progress() -> Progress:
    """The progress that DETR_MINI_PROGRESS names, by default the file beside the notebooks."""
    wanted = os.environ.get(VARIABLE) or str(default_path())
    if wanted not in OPENED:
        OPENED[wanted] = Progress(None if wanted == "off" else Path(wanted).expanduser())
    return OPENED[wanted]


def default_path() -> Path:
    """progress.json at the top of the clone; in ~/.detr_mini for a package installed without the notebooks."""
    top = Path(__file__).resolve().parents[2]
    return (top if (top / "notebooks" / "source").is_dir() else Path.home() / ".detr_mini") / "progress.json"
