"""What nbval holds every notebook to is held: no network, and no longer than stated."""

import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

HERE = Path(__file__).resolve().parent
COURSE = HERE.parents[1] / "notebooks"
GUARDS = runpy.run_path(str(HERE / "guards.py"))
READ_SOURCE = runpy.run_path(str(COURSE / "build.py"))["read_source"]
QUICK = "# A notebook\n\n*The cells run in seconds.*"
CONFTEST = """\
import sys
sys.path.insert(0, {folder!r})
import guards
from guards import pytest_collection_modifyitems, pytest_configure, pytest_runtest_protocol
guards.FREE, guards.ALL, guards.BUDGETS["00 to 10"] = {free}, {all}, {all}
"""


@pytest.mark.parametrize("source", sorted(COURSE.glob("source/*.py")), ids=lambda path: path.stem)
def test_every_notebook_states_its_minutes(source: Path) -> None:
    """In its first cell, in words that can be measured; none of them takes more than a quarter of all the time."""
    assert 0 <= GUARDS["stated_minutes"](READ_SOURCE(source)[0].source) <= GUARDS["ALL"] / 4


@pytest.mark.parametrize(("words", "minutes"), [
    ("*About 60 minutes with the exercises; the cells themselves run in seconds, without a GPU.*", 0),
    ("the cells run in under a minute", 1), ("the cells themselves run in about a minute, on", 1),
    ("The cells run for about a minute and a half on two cores", 1.5), ("cells run for about four\nminutes on two", 4),
    ("The cells run for 12 minutes", 12), ("The cells run for about half a minute on two cores", 0.5),
])
def test_stated_minutes_are_read(words: str, minutes: float) -> None:
    """Every form that notebooks use."""
    assert GUARDS["stated_minutes"](words) == minutes


@pytest.mark.parametrize("words", ["About 20 minutes.", "The cells run for ages.", "the cells run in many minutes", ""])
def test_unstated_minutes_are_refused(words: str) -> None:
    """The message says what to write."""
    with pytest.raises(ValueError, match="write \"the cells themselves run in seconds\""):
        GUARDS["stated_minutes"](words)


def test_a_notebook_may_take_half_as_long_again() -> None:
    """1.5 times what it states, and never less than a minute."""
    assert [GUARDS["allowed_seconds"](minutes) for minutes in (0, 0.5, 1, 1.5, 4)] == [60, 60, 90, 135, 360]


def nbval(folder: Path, *cells: str, free: float = 60.0, total: float = 12.0, name: str = "small") -> tuple[int, str]:
    """Run nbval on one notebook with these code cells, under the guards; its exit code and what it said."""
    book = [nbformat.v4.new_markdown_cell(QUICK), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=book), folder / f"{name}.ipynb")
    (folder / "conftest.py").write_text(CONFTEST.format(folder=str(HERE), free=free, all=total))
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-rA",
               f"{name}.ipynb"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout


REACHING = [
    "import urllib.request\nurllib.request.urlopen('http://example.org', timeout=5)",
    "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=5)",
    "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('192.0.2.1', 80))",
    "import subprocess, sys\n"
    "program = 'import socket; socket.socket().connect((\"192.0.2.1\", 80))'\n"
    "done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)\n"
    "assert done.returncode == 0, done.stderr",
]


def test_a_notebook_that_reaches_for_the_network_fails(tmp_path: Path) -> None:
    """By name, by address, without a connection, and in a Python that it starts; each with a message that says why."""
    code, said = nbval(tmp_path, *REACHING)
    assert code == 1 and said.count("FAILED small.ipynb::Cell") == 4
    for what in ("look up example.org", "look up 192.0.2.1", "connect to 192.0.2.1"):
        assert f"notebooks have no network: {what}" in said


def test_loopback_stays_open(tmp_path: Path) -> None:
    """A server in the notebook, and a process that talks to it; and both tests of minutes pass."""
    talk = ("import socket\nwith socket.create_server(('127.0.0.1', 0)) as server, socket.socket() as client:\n"
            "    client.connect(server.getsockname())\n    assert client.getpeername() == server.getsockname()")
    code, said = nbval(tmp_path, talk)
    assert code == 0 and "3 passed" in said, said


def test_a_notebook_that_takes_longer_than_it_says_fails(tmp_path: Path) -> None:
    """With the time it took, the time it states, and what to do; all notebooks together likewise."""
    busy = "import time\nend = time.process_time() + 3\nwhile time.process_time() < end:\n    pass"
    code, said = nbval(tmp_path, busy, free=2.0, total=0.02, name="07_small")
    assert code == 1 and "2 passed" in said and "3 failed" in said  # passed: the cell, and the budget of 00 to 16
    assert "minutes, and it states 0: at most 0.0 are allowed. Make it quicker, or say how long it takes." in said
    for some in ("notebooks 00 to 10", "all notebooks"):
        assert f"{some} ran for 0.1 minutes together; 0.02 are allowed" in said


@pytest.mark.parametrize(("path", "counts"), [("notebooks/10_why.ipynb", True), ("notebooks/11_next.ipynb", False),
                                              ("notebooks/solutions/10_why.ipynb", False), ("small.ipynb", False)])
def test_a_budget_is_of_the_students_notebooks(path: str, counts: bool) -> None:
    """By their numbers; the solved ones are another reading of the same."""
    assert GUARDS["within"](Path(path), "00", "10") is counts
