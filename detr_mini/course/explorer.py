"""The shell that explorers share: controls, one picture, words that screen readers read out, and a still picture.

An explorer has a state (a frozen dataclass), controls named as the state's fields, and two pure functions of the state:
`render` gives a figure, `describe` gives words.
"""

from collections.abc import Callable, Mapping

import ipywidgets
from matplotlib.figure import Figure

from detr_mini.course.plots import PIXELS_PER_INCH, WIDTH, live_png
from detr_mini.course.training_plots import bundle

LOOK = {"style": {"description_width": "6em"}, "layout": {"width": "34em"}}


def slider(text: str, value: int, last: int) -> ipywidgets.IntSlider:
    """A slider from 0 to `last`, in the explorers' common size."""
    return ipywidgets.IntSlider(value=value, min=0, max=last, description=text, **LOOK)


def choice(text: str, value: object, options: list[tuple[str, object]]) -> ipywidgets.SelectionSlider:
    """A slider over named values: arrow keys move it, as they do the others."""
    return ipywidgets.SelectionSlider(options=options, value=value, description=text, **LOOK)


class Explorer:
    """Controls over a picture.

    first: the state shown first; its type makes the states. controls: field -> widget, with the first state's values.
    render: state -> Figure. describe: state -> text. intro: what the controls do, for those who only read.
    """

    def __init__(
        self, first: object, controls: Mapping[str, ipywidgets.Widget], render: Callable[[object], Figure],
        describe: Callable[[object], str], intro: str,
    ) -> None:
        self.first, self.controls, self.render, self.describe, self.intro = first, controls, render, describe, intro
        layout = {"max_width": "100%", "object_fit": "contain"}
        self.picture = ipywidgets.Image(format="png", width=round(WIDTH * PIXELS_PER_INCH), layout=layout)
        self.words = ipywidgets.HTML()
        self.box = ipywidgets.VBox([*controls.values(), self.picture, self.words])
        for control in controls.values():
            control.observe(lambda change: self.redraw(), names="value")
        self.redraw()

    @property
    def state(self) -> object:
        """What the controls say."""
        return type(self.first)(**{name: control.value for name, control in self.controls.items()})

    def redraw(self) -> None:
        """Show picture and words of the present state."""
        state = self.state
        self.picture.value = live_png(self.render(state))
        self.words.value = f'<span aria-live="polite">{self.describe(state)}</span>'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        """The live widget, and beside it the still picture and its words. For Jupyter."""
        live = self.box._repr_mimebundle_() or {}
        live.pop("text/plain", None)
        return live | bundle(self.render(self.first), f"{self.intro} {self.describe(self.first)}")
