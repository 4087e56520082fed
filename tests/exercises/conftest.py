"""Exercises under test: progress in a temporary file, and cards caught instead of shown."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from detr_mini.course import cards, progress, questions


@pytest.fixture(autouse=True)
def progress_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh place for progress; nobody's own file is read or written."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("DETR_MINI_PROGRESS", str(path))
    monkeypatch.setattr(progress, "OPENED", {})
    monkeypatch.setattr(questions, "ASKED", {})
    yield path


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The plain text of every card shown, in order."""
    texts: list[str] = []
    monkeypatch.setattr(cards, "display", lambda data, raw: texts.append(data["text/plain"]))
    return texts
