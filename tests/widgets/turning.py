"""Each control of a widget through all that it can be set to, without drawing at every turn."""

from collections.abc import Mapping
from functools import cache

import ipywidgets
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from detr_mini.course.explorer import Explorer
from detr_mini.course.plots import channels_last


def values_of(control: ipywidgets.Widget) -> list:
    """Everything that a control can be set to; of a slider over fractions, both ends and the middle."""
    if isinstance(control, ipywidgets.FloatSlider):
        return [control.min, round((control.min + control.max) / 2, 2), control.max]
    if isinstance(control, ipywidgets.IntSlider):
        return list(range(control.min, control.max + 1))
    if isinstance(control, ipywidgets.Checkbox):
        return [False, True]
    return [option[1] if isinstance(option, tuple) else option for option in control.options]


def turns(controls: Mapping[str, ipywidgets.Widget]) -> list[tuple[str, object]]:
    """Every value of every control, after the control's name."""
    return [(name, value) for name, control in controls.items() for value in values_of(control)]


@cache
def made(kind: type[Explorer], first: object) -> Explorer:
    """A widget in its first state, made once: making it draws."""
    return kind(first)


def turned(kind: type[Explorer], first: object, name: str, value: object) -> object:
    """The state of a widget in its first state after one control was turned, the others as they were."""
    widget = made(kind, first)
    return widget.read(name, widget.settings(first) | {name: value})


def shows(figure: Figure, image: Tensor) -> bool:
    """Whether the first picture in a figure is this image (3, H, W) uint8, as it is or paler."""
    drawn = figure.axes[0].images[0].get_array()  # (H, W, 3)
    return np.corrcoef(drawn.ravel(), channels_last(image).ravel())[0, 1] > 0.999
