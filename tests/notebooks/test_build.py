"""The notebook build itself, tried on a four-cell course in a temporary folder."""

import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns

HERE = Path(__file__).resolve().parent
BUILD = runpy.run_path(str(HERE.parents[1] / "notebooks" / "build.py"))
main = BUILD["main"]

SOURCE = '''\
# %% [markdown]
# # Dot products
# How much do two vectors agree?

# %%
import matplotlib.pyplot as plt
from IPython.display import display
q, k = [1.0, 2.0], [3.0, -1.0]
print("q has", len(q), "numbers")
q

# %% tags=["exercise"]
def dot(q, k):
    """Sum of the products."""
    return None  # your line

# %% tags=["solution"]
def dot(q, k):
    """Sum of the products."""
    return sum(a * b for a, b in zip(q, k))

# %%
print("q.k =", dot(q, k))
'''

PICTURE = '''\
# %%
import base64
import io
import matplotlib.pyplot as plt
from IPython.display import display
figure, axes = plt.subplots(figsize=(2, 2))
axes.plot([0, 1], [0, 1])
file = io.BytesIO()
figure.savefig(file, format="png", dpi=50)
plt.close(figure)
display({"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": WORDS}, raw=True)
'''


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A course folder with one source, not built yet."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "01_dot.py").write_text(SOURCE)
    return tmp_path


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same course, built; not to be changed."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "source").mkdir()
    (folder / "source" / "01_dot.py").write_text(SOURCE)
    assert main([], folder) == 0
    return folder


@pytest.fixture
def built(built_once: Path, tmp_path: Path) -> Path:
    """A built course that a test may change."""
    return Path(shutil.copytree(built_once, tmp_path / "course"))


def rewrite(path: Path, change: Callable[[nbformat.NotebookNode], None]) -> None:
    """Change a stored notebook as a hand or a tool would."""
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


def test_two_builds_are_byte_identical(built: Path) -> None:
    """A rebuild of an unchanged source leaves no difference, in the student's notebook nor in the solved one."""
    stored = [built / "01_dot.ipynb", built / "solutions" / "01_dot.ipynb"]
    first = [path.read_bytes() for path in stored]
    assert main(["01"], built) == 0
    assert [path.read_bytes() for path in stored] == first
    assert main(["--check"], built) == 0
    assert sorted(path.name for path in built.rglob("*") if path.is_file()) == [
        "01_dot.ipynb", "01_dot.ipynb", "01_dot.py"]


def test_new_words_keep_the_outputs(built: Path, capsys: pytest.CaptureFixture) -> None:
    """--prose takes over what Markdown says and runs nothing; where code has changed, nothing is stored."""
    source, stored = built / "source" / "01_dot.py", built / "01_dot.ipynb"
    before = nbformat.read(stored, as_version=4)
    words = before.cells[0].source.splitlines()[0]
    source.write_text(source.read_text().replace(words, f"{words}, in other words"))
    assert main(["--prose", "01"], built) == 0 and main(["--check"], built) == 0
    after = nbformat.read(stored, as_version=4)
    assert "in other words" in after.cells[0].source and after.cells[0].id != before.cells[0].id
    assert [cell.outputs for cell in after.cells[1:]] == [cell.outputs for cell in before.cells[1:]]
    source.write_text(source.read_text() + "\n# %%\nprint(1)\n")
    assert main(["--prose", "01"], built) == 1
    assert "more than words has changed" in capsys.readouterr().err
    assert nbformat.read(stored, as_version=4) == after


def test_stub_and_solution_part_ways(built_once: Path) -> None:
    """The student gets the stub, the solved notebook the solution in its place; both were run."""
    stored = built_once / "01_dot.ipynb", built_once / "solutions" / "01_dot.ipynb"
    student, solved = (nbformat.read(path, as_version=4) for path in stored)
    assert len(student.cells) == len(solved.cells) == 4
    assert "your line" in student.cells[2].source and "your line" not in solved.cells[2].source
    assert student.cells[3].outputs[0].text == "q.k = None\n"
    assert solved.cells[3].outputs[0].text == "q.k = 1.0\n"
    assert [cell.id for cell in student.cells[:2]] == [cell.id for cell in solved.cells[:2]]


CHANGES = {
    "an edited cell": (lambda book: book.cells[1].update(source="q = 5"), "cell 2: its source"),
    "a removed cell": (lambda book: book.cells.pop(), "3 cells, but 4 in the source"),
    "a tag": (lambda book: book.cells[3].metadata.update(tags=["gpu"]), "cell 4: its metadata"),
    "an id": (lambda book: book.cells[0].update(id="other"), "cell 1: its id"),
    "a cell not run": (lambda book: book.cells[3].update(execution_count=None, outputs=[]), "execution count None"),
    "cells run twice": (lambda book: book.cells[3].update(execution_count=7), "execution count 7, not 3"),
    "an error": (lambda book: book.cells[3].update(outputs=[nbformat.v4.new_output(
        "error", ename="KeyError", evalue="q", traceback=[])]), "ends in an error, KeyError"),
    "a widget": (lambda book: book.cells[3].update(outputs=[nbformat.v4.new_output(
        "display_data", {BUILD["WIDGET_VIEW"]: {}})]), "a widget view"),
    "a picture without words": (lambda book: book.cells[3].update(outputs=[nbformat.v4.new_output(
        "display_data", {"text/html": '<img src="data:image/png;base64,AAAA">', "text/plain": "x" * 40})]),
        "an <img> without a description"),
    "a machine's path": (lambda book: book.cells[3].update(outputs=[nbformat.v4.new_output(
        "stream", text="saved to /home/ada/run.json")]), "names a place on one machine, '/home/ada/run.json'"),
    "no outputs": (lambda book: [cell.update(outputs=[]) for cell in book.cells[1:]], "no cell has an output"),
    "its weight": (lambda book: book.cells[3].outputs[0].update(text="x" * 600_001), "the limit is 600000"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_check_catches(built: Path, capsys: pytest.CaptureFixture[str], change: Callable, message: str) -> None:
    """Every way in which a stored notebook goes wrong is found without running it, and named."""
    rewrite(built / "01_dot.ipynb", change)
    assert main(["--check"], built) == 1
    error = capsys.readouterr().err
    assert error.startswith("01_dot.ipynb: ") and message in error


def test_check_names_missing_and_foreign_notebooks(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A source never built, a notebook without a source and a broken file are three different lines."""
    (course / "02_old.ipynb").write_text("{}")
    (course / "01_dot.ipynb").write_text("<html>")
    assert main(["--check"], course) == 1
    error = capsys.readouterr().err
    assert "02_old.ipynb: no source builds it" in error
    assert "01_dot.ipynb: not a notebook" in error
    assert "solutions/01_dot.ipynb: missing" in error


BAD_SOURCES = {
    '# %% tags=["exercise"]\nx = 1\n': "cell 1: an exercise is a code cell, and the next cell is its solution",
    '# %%\nx = 1\n\n# %% tags=["solution"]\nx = 2\n': "cell 2: a solution that is code comes right after its exercise",
    '# %% tags=["excercise"]\nx = 1\n': "cell 1: unknown tag 'excercise'",
    '# %% colour="red"\nx = 1\n': "cell 1: 'colour' in its marker",
    "# %% [raw]\n# x\n": "cell 1: type 'raw'",
    "# %%\n": "cell 1: empty",
}


@pytest.mark.parametrize(("text", "message"), BAD_SOURCES.items(), ids=BAD_SOURCES.values())
def test_malformed_source_is_refused(
        course: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    """The message names the file and the cell, and says what would be right."""
    (course / "source" / "01_dot.py").write_text(text)
    assert main(["--check"], course) == 1
    assert f"01_dot.py, {message}" in capsys.readouterr().err


def test_a_failing_cell_stores_nothing(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When the solved notebook fails, the student's old one stays as it was."""
    before = (built / "01_dot.ipynb").read_bytes()
    (built / "source" / "01_dot.py").write_text(SOURCE.replace("zip(q, k)", "zipp(q, k)"))
    assert main([], built) == 1
    assert "NameError: name 'zipp' is not defined" in re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().err)
    assert (built / "01_dot.ipynb").read_bytes() == before


def test_unknown_name_is_refused(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped number says which there are."""
    assert main(["07"], course) == 1
    assert "no source is called '07'; there are 01_dot" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "passes"), [
    ("Loss against step, falling by half within the first hundred.", 0), ("<Figure size 200x200 with 1 Axes>", 1),
    ("A line.", 1)])
def test_pictures_need_words(course: Path, capsys: pytest.CaptureFixture[str], words: str, passes: int) -> None:
    """A picture passes with a description as its plain text, and not with matplotlib's own."""
    (course / "source" / "01_dot.py").write_text(PICTURE.replace("WORDS", repr(words)))
    assert main([], course) == passes
    assert ("a picture without a description" in capsys.readouterr().err) == bool(passes)


def test_progress_and_split_prints_leave_their_end(course: Path) -> None:
    """A bar that redraws itself is stored as last seen; prints of one stream become one output."""
    (course / "source" / "01_dot.py").write_text(
        "# %%\nimport sys\nprint('a', flush=True)\nsys.stderr.write('\\r 10%|#| 1/10\\r100%|###| 10/10\\n')\n"
        "sys.stderr.flush()\nprint('b')\n")
    assert main([], course) == 0
    outputs = nbformat.read(course / "01_dot.ipynb", as_version=4).cells[0].outputs
    assert {output.name: output.text for output in outputs} == {"stdout": "a\nb\n", "stderr": "100%|###| 10/10\n"}
    assert len(outputs) == 2


def sanitize(text: str) -> str:
    """What nbval compares for `text`."""
    for regex, replacement in get_sanitize_patterns((HERE / "sanitize.cfg").read_text()):
        text = re.sub(regex, replacement, text)
    return text


SAME = [
    ("100%|████| 250/250 [00:31<00:00,  7.95it/s, loss=1.2]", "100%|████| 250/250 [01:02<00:00,  4.0it/s, loss=1.3]"),
    ("in 118.2 s", "in 97.0 s"), ("8.1 steps/s", "12 steps/s"), ("took 1.9 minutes", "took 2.4 minutes"),
    ("<Widget at 0x7f3a5c1b2d90>", "<Widget at 0x7fd1aa00bb10>"), ("torch 2.14.1+cpu", "torch 2.15.0"),
    ("2 cores, 24 GB", "8 cores, 16.5 GB"), ("2026-01-31 12:34", "2027-11-02 01:59:58"),
]
DIFFERENT = [
    ("AP50 = 0.312", "AP50 = 0.313"), ("loss 4.1203", "loss 4.1204"), ("step 10", "step 11"), ("(2, 256)", "(2, 92)"),
    ("tensor([0.5])", "tensor([0.6])"), ("min 0.1", "min 0.2"), ("41 parameters", "42 parameters"), ("True", "False"),
    ("image 000123 shows 2 boats", "image 000123 shows 3 boats"), ("0.1 min, 0.9 max", "0.2 min, 0.9 max"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_sanitizer_hides_what_differs_by_machine(one: str, other: str) -> None:
    """Times, rates, addresses, versions and sizes of memory compare equal."""
    assert sanitize(one) == sanitize(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_sanitizer_keeps_results(one: str, other: str) -> None:
    """Two different results still differ."""
    assert sanitize(one) != sanitize(other)
