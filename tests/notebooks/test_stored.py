"""What is stored under notebooks/ is what its sources build, run from top to bottom, and fit to be read anywhere."""

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

COURSE = Path(__file__).resolve().parents[2] / "notebooks"
BUILD = runpy.run_path(str(COURSE / "build.py"))
SOURCES = sorted(COURSE.glob("source/*.py"))


def test_the_course_has_sources() -> None:
    """An empty course would pass every other test here."""
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_stored_notebooks_are_what_the_source_builds(source: Path) -> None:
    """Same cells, all run in order, no error, no bare picture, no path of one machine, below the size limit."""
    assert BUILD["check"](source) == []


def test_every_stored_notebook_has_a_source() -> None:
    """A notebook whose source was renamed or removed must go too."""
    assert BUILD["orphans"](COURSE) == []


@pytest.mark.parametrize("path", sorted(COURSE.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_what_a_picture_shows_is_asserted_or_printed(path: Path) -> None:
    """CI compares no pictures. So each cell that shows one, or the next cell, tells some of its numbers."""
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    for cell, following in zip(cells, [*cells[1:], ""], strict=True):
        if re.search(r"^ *show\(", cell, re.MULTILINE):
            assert re.search(r"^ *(assert|print)\b", f"{cell}\n{following}", re.MULTILINE), cell


@pytest.mark.parametrize("path", sorted(COURSE.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_cells_and_notebooks_are_short(path: Path) -> None:
    """At most fifteen lines of code in a cell, 40 to 100 cells and 4,000 words in a notebook."""
    cells = nbformat.read(path, 4).cells
    code = [cell.source.splitlines() for cell in cells if cell.cell_type == "code"]
    words = sum(len(re.findall(r"\w+", cell.source)) for cell in cells if cell.cell_type == "markdown")
    assert max(len([line for line in lines if line.strip()]) for lines in code) <= 15
    assert 40 <= len(cells) <= 100 and 1200 <= words <= 4000


@pytest.mark.parametrize("path", sorted(COURSE.rglob("[0-9]*.ipynb")),
                         ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_cell_takes_an_imported_name_for_something_else(path: Path) -> None:
    """After Run All, every earlier cell can be run again."""
    imported: set[str] = set()
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            assert not imported & set(bound(tree)), cell.source
            imported |= {(name.asname or name.name).split(".")[0] for node in ast.walk(tree)
                         if isinstance(node, ast.Import | ast.ImportFrom) for name in node.names}


def bound(node: ast.AST) -> Iterator[str]:
    """The names that a cell assigns or defines, without those inside functions and comprehensions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif not isinstance(child, ast.Lambda | ast.ListComp | ast.DictComp | ast.SetComp | ast.GeneratorExp):
            yield from bound(child)
