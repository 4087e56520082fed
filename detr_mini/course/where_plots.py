"""Pictures of what tokens know of their places: notebook 05's section "Where am I?"."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from detr_mini.course.plots import AMOUNT, BLUE, GREY, INK, PALE, VERMILLION, WIDTH, array, canvas

SHOWN = 25  # scenes whose single dots are drawn


def nets(said: Mapping[str, Tensor], side: int) -> Figure:
    """Where tokens believe they are. said: title -> rows and columns from 0 to 1, (scenes, side * side, 2).

    Small dots: one token in one scene, darker the further right it truly is. Net: the mean of each place over all
    scenes, joined with its neighbours'. Pale: the true places.
    """
    figure, places = canvas(len(said), width=WIDTH, height=WIDTH / len(said) + 0.35)
    for axes, (title, answers) in zip(places if len(said) > 1 else [places], said.items(), strict=True):
        column = array(answers.new_tensor(range(side)).repeat(side)) / (side - 1)  # (side * side,)
        for scene in array(answers[:SHOWN]):
            axes.scatter(scene[:, 1], scene[:, 0], c=column, cmap=AMOUNT, vmin=-0.3, s=2, linewidths=0, alpha=0.55)
        draw_net(axes, array(answers.mean(0)).reshape(side, side, 2))
        axes.set(title=title, xlim=(-0.25, 1.25), ylim=(1.25, -0.25), aspect="equal", xlabel="column, as read",
                 xticks=[0, 1], xticklabels=["first", "last"], yticks=[0, 1], yticklabels=["first", "last"])
    figure.axes[0].set_ylabel("row, as read")
    return figure


def draw_net(axes: Axes, net: Tensor) -> None:
    """A net (side, side, 2) of rows and columns, over a pale one that is as it should be."""
    side = len(net)
    for line in range(side):
        at = line / (side - 1)
        axes.plot([at, at], [0, 1], color=PALE, linewidth=0.8, zorder=0)
        axes.plot([0, 1], [at, at], color=PALE, linewidth=0.8, zorder=0)
        axes.plot(net[line, :, 1], net[line, :, 0], color=INK, linewidth=0.9)
        axes.plot(net[:, line, 1], net[:, line, 0], color=INK, linewidth=0.9)


def two_forms(memory: Sequence[Mapping], ap50: Sequence[Mapping], names: Sequence[str], level: float) -> Figure:
    """R^2 of tokens' places and AP50 against the training step, every seed a line, one colour for each form.

    memory: of each form, step -> one (row, column) per seed; drawn is their mean. ap50: step -> one number per seed.
    level: R^2 before the encoder.
    """
    figure, (left, right) = canvas(2, height=2.9)
    for looks, found, name, colour in zip(memory, ap50, names, (BLUE, VERMILLION), strict=True):
        means = [[sum(pair) / 2 for pair in seeds] for seeds in looks.values()]
        left.plot(list(looks), means, "o-", color=colour, markersize=3, linewidth=1.3, label=[name, *[None] * 2])
        right.plot(list(found), list(found.values()), "o-", color=colour, markersize=3, linewidth=1.3)
    left.axhline(level, color=GREY, linestyle="--", linewidth=1.2, label="before the encoder")
    left.set(xlabel="training step", ylabel="R², mean of row and column", ylim=(0, 1.02), title="does the memory know?")
    right.set(xlabel="training step", ylabel="AP50", ylim=(0, 0.7), title="does the detector find?")
    left.legend(loc="lower right")
    return figure
