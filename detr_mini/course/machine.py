"""Is this machine ready for the course? What is installed, what is missing, and how fast it trains."""

import os
import platform
import time
from importlib import metadata

import torch
from IPython.display import display
from packaging.requirements import Requirement

from detr_mini import zoo
from detr_mini.course.cards import Kind, card

REPAIR = 'In a terminal, in the folder of this course: `make lab`, or `pip install -e ".[notebooks]"`.'

SHOWN = ("torch", "torchvision", "matplotlib", "jupyterlab", "ipywidgets")  # the others speak up when missing


def needed() -> list[Requirement]:
    """What the package and its notebooks ask for, as it says itself."""
    wanted = [Requirement(line) for line in metadata.requires("detr_mini") or []]
    return [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": "notebooks"})]


def installed(requirement: Requirement) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return None


def complaints() -> list[str]:
    """One line for every package that is missing or too old; an empty list when all is well."""
    found = []
    for one in needed():
        version = installed(one)
        if version is None:
            found.append(f"{one.name} is missing.")
        elif not one.specifier.contains(version, prereleases=True):
            found.append(f"{one.name} is version {version}; the course needs {one.specifier}.")
    return found


def facts() -> list[tuple[str, str]]:
    """What this machine has, as (name, value) pairs."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none, and none is needed"
    versions = [(one.name, installed(one) or "missing") for one in needed() if one.name in SHOWN]
    return [("Python", platform.python_version()), *versions, ("processor", f"{os.cpu_count()} cores"), ("GPU", gpu)]


def check_machine() -> None:
    """Show what this machine has, and say in one card whether the course will run."""
    rows = facts()
    body = "".join(f'<tr><td style="text-align: left">{name}</td><td style="text-align: left">{value}</td></tr>'
                   for name, value in rows)
    plain = "\n".join(f"{name:12} {value}" for name, value in rows)
    display({"text/html": f"<table>{body}</table>", "text/plain": plain}, raw=True)
    wrong = complaints()
    if wrong:
        card(Kind.WRONG, "Something is missing", "\n".join([*wrong, REPAIR]))
    else:
        card(Kind.PASSED, "Your machine is ready.", "Every package is here and new enough.")


def time_a_step(steps: int = 3) -> None:
    """Train the small detector for a few steps on noise, and say how long one takes: a measure of this machine."""
    detector = zoo.entry("detr").detector(zoo.recipe("detr").model)
    images, mask = torch.rand(16, 3, 128, 128), torch.zeros(16, 128, 128, dtype=torch.bool)

    def step() -> None:
        output = detector(images, mask)
        (output.logits.square().mean() + output.boxes.square().mean()).backward()

    times = []
    for _ in range(steps + 1):  # the first one also prepares memory, and other programs may slow down some
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    seconds = min(times)
    print(f"One training step on 16 images takes about {seconds:.2f} s here, a hundred steps {100 * seconds:.0f} s.")
