"""The shell that explorers and playgrounds share: controls, a picture that feels the pointer, words that are read out.

An explorer has a state (a frozen dataclass), controls, and two pure functions of the state: `render` gives a figure,
`describe` gives words. The notebook stores a still picture of the first state beside the live widget.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import anywidget
import ipywidgets
import traitlets
from matplotlib.figure import Figure

from detr_mini.course.plots import PIXELS_PER_INCH, WIDTH, bundle, live_png

LOOK = {"style": {"description_width": "7em"}, "layout": {"width": "34em"}}


class PointerPicture(anywidget.AnyWidget):
    """A PNG with its description, which is read out when it changes.

    value: the PNG. words: the description, shown below it and as alt text. pointer: the last thing that a pointer did,
    {"phase": "hover" | "down" | "move" | "up", "x", "y", "serial"}; x and y are fractions from the upper left corner,
    "move" is with the button held. feels: "" for a picture that reports nothing, "drag" or "hover" for what it does.
    """

    _esm = Path(__file__).with_name("pointer_picture.js")
    value = traitlets.Bytes(b"").tag(sync=True)
    words = traitlets.Unicode("").tag(sync=True)
    width = traitlets.Int(round(WIDTH * PIXELS_PER_INCH)).tag(sync=True)
    feels = traitlets.Enum(["", "drag", "hover"], "").tag(sync=True)
    pointer = traitlets.Dict({}).tag(sync=True)


class Explorer:
    """Controls over a picture.

    first: the state shown first. controls: name -> widget. render: state -> Figure. describe: state -> text. intro:
    what the controls do, for those who only read. feels: whether the picture can be dragged on or hovered over. rows:
    how many controls stand side by side in each row; by default one.

    As it is, each control is named after a field of the state. A subclass with other controls says how they go
    together in `settings` and `read`; one with a picture that feels says in `point` what the pointer does.
    """

    def __init__(
        self, first: object, controls: Mapping[str, ipywidgets.Widget], render: Callable[[object], Figure],
        describe: Callable[[object], str], intro: str, feels: str = "", rows: Iterable[int] = (),
    ) -> None:
        self.state = self.first = first
        self.controls, self.render, self.describe, self.intro = dict(controls), render, describe, intro
        self.settling = False
        self.picture = PointerPicture(feels=feels)
        boxes = iter(self.controls.values())
        lines = [ipywidgets.HBox([next(boxes) for _ in range(count)]) for count in rows]
        self.box = ipywidgets.VBox([*lines, *boxes, self.picture])
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self.turn(name), names="value")
        self.picture.observe(lambda change: self.feel(**change.new), names="pointer")
        self.redraw()

    def settings(self, state: object) -> dict[str, object]:
        """What each control says in a state."""
        return {name: getattr(state, name) for name in self.controls}

    def read(self, name: str, values: dict[str, object]) -> object:
        """The state after one control was turned. values: what all of them say now."""
        return replace(self.state, **{name: values[name]})

    def point(self, phase: str, x: float, y: float) -> None:
        """What the pointer does to the state; nothing, unless a subclass says so."""

    def feel(self, phase: str, x: float, y: float, **_: object) -> None:
        """The picture reports its pointer."""
        self.point(phase, x, y)

    def turn(self, name: str) -> None:
        """A control was turned, by the learner or by `move_to`."""
        if not self.settling:
            self.move_to(self.read(name, {name: control.value for name, control in self.controls.items()}))

    def move_to(self, state: object) -> None:
        """Make this the present state: set the controls to it and draw once."""
        self.state, self.settling = state, True
        try:
            for name, value in self.settings(state).items():
                self.controls[name].value = value
        finally:
            self.settling = False
        self.redraw()

    def redraw(self) -> None:
        """Show picture and words of the present state."""
        self.picture.value = live_png(self.render(self.state))
        self.picture.words = self.describe(self.state)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        """The live widget, and beside it the still picture and its words. For Jupyter."""
        live = self.box._repr_mimebundle_() or {}
        live.pop("text/plain", None)
        return live | bundle(self.render(self.first), f"{self.intro} {self.describe(self.first)}")


def slider(text: str, value: int, last: int) -> ipywidgets.IntSlider:
    """A slider from 0 to `last`, in the explorers' common size."""
    return ipywidgets.IntSlider(value=value, min=0, max=last, description=text, **LOOK)


def choice(text: str, value: object, options: list[tuple[str, object]]) -> ipywidgets.SelectionSlider:
    """A slider over named values: arrow keys move it, as they do the others."""
    return ipywidgets.SelectionSlider(options=options, value=value, description=text, **LOOK)
