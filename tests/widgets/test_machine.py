"""The environment check of notebook 00: content when all is there, and exact about what is not."""

import pytest

from detr_mini.course import cards, machine


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The plain text of everything shown, in order."""
    texts: list[str] = []
    for module in (cards, machine):
        monkeypatch.setattr(module, "display", lambda data, raw: texts.append(data["text/plain"]))
    return texts


def test_this_machine_is_ready(shown: list[str]) -> None:
    """The tests run where the course runs."""
    machine.check_machine()
    assert "torch" in shown[0] and "cores" in shown[0]
    assert shown[1].startswith("✓ Your machine is ready.")


def test_what_is_missing_or_old_is_named(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that repairs it."""
    versions = {"anywidget": None, "torch": "1.13.0"}
    real = machine.installed
    monkeypatch.setattr(machine, "installed", lambda one: versions.get(one.name, real(one)))
    machine.check_machine()
    assert shown[1].startswith("✗") and "anywidget is missing." in shown[1]
    assert "torch is version 1.13.0; the course needs >=" in shown[1] and "make lab" in shown[1]


def test_what_is_needed_is_what_the_package_says() -> None:
    """The notebooks' packages are among it, the tests' are not."""
    names = {one.name for one in machine.needed()}
    assert {"torch", "jupyterlab", "ipywidgets"} <= names and "pytest" not in names


def test_a_step_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence with both figures."""
    machine.time_a_step(steps=1)
    assert capsys.readouterr().out.startswith("One training step on 16 images takes about ")
