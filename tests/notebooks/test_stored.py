"""What is stored under notebooks/ is what its sources build, run from top to bottom, and fit to be read anywhere."""

import runpy
from pathlib import Path

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
