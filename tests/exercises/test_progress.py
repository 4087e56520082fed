"""Progress survives: upgrades, damage, two notebooks at once, a process that dies, a folder that cannot be written."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detr_mini.course import progress as module
from detr_mini.course.progress import Progress, default_path, empty, progress


def solve(name: str, data: dict) -> None:
    """Record an exercise as passed."""
    data["exercises"][name] = {"state": "passed"}


def test_what_is_written_is_read(progress_file: Path) -> None:
    """By another object, as by another notebook; and people can read it, too."""
    progress().update(lambda data: solve("01.mask", data))
    assert Progress(progress_file).read()["exercises"] == {"01.mask": {"state": "passed"}}
    assert json.loads(progress_file.read_text())["version"] == module.VERSION
    assert sorted(path.name for path in progress_file.parent.iterdir()) == [".progress.json.lock", "progress.json"]


def test_reading_writes_nothing(progress_file: Path) -> None:
    """Who only looks leaves no file."""
    assert progress().read() == empty()
    assert not progress_file.exists()


def test_what_nobody_knows_any_more_is_kept(progress_file: Path) -> None:
    """Exercises that were renamed, and fields of the future, stay where they are."""
    old = {"version": 1, "exercises": {"77.gone": {"state": "passed", "stars": 5}}, "colour": "blue"}
    progress_file.write_text(json.dumps(old))
    progress().update(lambda data: solve("01.mask", data))
    stored = json.loads(progress_file.read_text())
    assert stored["exercises"]["77.gone"] == {"state": "passed", "stars": 5} and stored["colour"] == "blue"
    assert stored["exercises"]["01.mask"] == {"state": "passed"} and stored["quizzes"] == {}


def test_an_upgrade_carries_everything_over(progress_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version of the package reads the file of this one through its steps, in order."""
    progress().update(lambda data: solve("01.mask", data))
    monkeypatch.setattr(module, "VERSION", 3)
    monkeypatch.setattr(module, "UPGRADES", {
        1: lambda data: data | {"exercises": {name.upper(): entry for name, entry in data["exercises"].items()}},
        2: lambda data: data | {"badges": {}},
    })
    assert progress().read()["exercises"] == {"01.MASK": {"state": "passed"}}
    progress().update(lambda data: solve("02.NEW", data))
    stored = json.loads(progress_file.read_text())
    assert stored["version"] == 3 and sorted(stored["exercises"]) == ["01.MASK", "02.NEW"] and stored["badges"] == {}


def test_a_newer_file_is_left_alone(progress_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a downgrade nothing is lost: this session is kept in memory, and one message says so."""
    text = json.dumps({"version": 99, "exercises": {"01.mask": {"state": "golden"}}})
    progress_file.write_text(text)
    progress().update(lambda data: solve("01.query", data))
    assert progress().update(lambda data: None)["exercises"] == {"01.query": {"state": "passed"}}
    assert progress_file.read_text() == text
    assert caplog.text.count("newer detr_mini (version 99)") == 1


DAMAGED = [
    "", "{", "null", "[]", '{"version": 1, "exercises": []}', '{"version": 1, "exercises": {"01.mask": 3}}',
    '{"exercises": {}}', '{"version": "one"}', '{"version": 0}', '{"version": true, "quizzes": 4}',
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_set_aside(progress_file: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its bytes stay in a file of their own, a message names it, and the course goes on."""
    progress_file.write_text(text)
    with caplog.at_level(logging.WARNING, "detr_mini"):
        assert progress().read() == empty()
    assert (progress_file.parent / "progress.damaged-1.json").read_text() == text
    assert "progress.json was damaged" in caplog.text and "progress.damaged-1.json" in caplog.text
    progress().update(lambda data: solve("01.mask", data))
    assert progress().read()["exercises"] == {"01.mask": {"state": "passed"}}


def test_every_damaged_file_is_kept(progress_file: Path) -> None:
    """A second accident does not overwrite the first; bytes that are no text count as damage."""
    for content in (b"one", b"\xff\xfe\x00two"):
        progress_file.write_bytes(content)
        progress().read()
    kept = [(progress_file.parent / f"progress.damaged-{number}.json").read_bytes() for number in (1, 2)]
    assert kept == [b"one", b"\xff\xfe\x00two"]


WRITER = """
import sys
from pathlib import Path
from detr_mini.course.progress import Progress
path, who, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(count):
    Progress(path).update(lambda data: data["exercises"].update({f"{who}.{number}": {"state": "passed"}}))
"""


def test_many_processes_at_once_lose_nothing(progress_file: Path) -> None:
    """Four real processes write twenty-five entries each into one file."""
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(progress_file), who, "25"]) for who in "abcd"]
    assert [process.wait(timeout=200) for process in processes] == [0] * 4
    assert len(Progress(progress_file).read()["exercises"]) == 100


def test_a_process_that_dies_leaves_the_old_file(progress_file: Path) -> None:
    """Killed between lock and write: the file is whole, and the next one need not wait for the lock."""
    progress().update(lambda data: solve("01.mask", data))
    dying = WRITER.replace("for number", "import os\nProgress(path).update(lambda data: os._exit(7))\nfor number")
    assert subprocess.run([sys.executable, "-c", dying, str(progress_file), "a", "1"], timeout=200).returncode == 7
    progress().update(lambda data: solve("01.query", data))
    assert sorted(progress().read()["exercises"]) == ["01.mask", "01.query"]


def test_a_place_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The course goes on in memory, with one message that says what to do."""
    (tmp_path / "file").write_text("in the way")
    stuck = Progress(tmp_path / "file" / "progress.json")
    stuck.update(lambda data: solve("01.mask", data))
    assert stuck.update(lambda data: solve("01.query", data)) == stuck.read()
    assert sorted(stuck.read()["exercises"]) == ["01.mask", "01.query"]
    assert caplog.text.count("cannot be written") == 1 and "DETR_MINI_PROGRESS" in caplog.text


def test_off_means_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the builds and the tests of notebooks say: nothing is read, nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETR_MINI_PROGRESS", "off")
    progress().update(lambda data: solve("01.mask", data))
    assert progress().read()["exercises"] == {"01.mask": {"state": "passed"}}
    assert os.listdir(tmp_path) == []


def test_the_default_file_is_ignored_by_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies at the top of the clone, where no upgrade touches it, and is never committed by accident."""
    top = Path(__file__).resolve().parents[2]
    assert default_path() == top / "progress.json"
    ignored = (top / ".gitignore").read_text().splitlines()
    assert "/progress*.json*" in ignored or "/progress*.json" in ignored
    assert "/.progress*" in ignored


def test_builds_and_notebook_tests_keep_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither may depend on a learner's own progress."""
    top = Path(__file__).resolve().parents[2]
    assert '"DETR_MINI_PROGRESS": "off"' in (top / "notebooks" / "build.py").read_text()
    assert "pytest_configure" in (top / "notebooks" / "conftest.py").read_text()
    assert 'os.environ["DETR_MINI_PROGRESS"] = "off"' in (top / "tests" / "notebooks" / "guards.py").read_text()
