"""The map of the course: the detector with the numbers of the notebooks about its parts, and the way through."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from detr_mini.course.pipeline import draw_pipeline
from detr_mini.course.plots import BLUE, GREEN, GREY, INK, ORANGE, PINK, SKY, VERMILLION, WIDTH, canvas, readable_on
from detr_mini.course.syllabus import LESSONS, STAGES, Lesson

BADGES = {
    "backbone": "05", "positions": "03", "encoder": "01 02 05", "queries": "06", "decoder": "01 02 06",
    "predictions": "04", "matching": "07", "loss": "08",
}
STAGE_COLOURS = (BLUE, GREEN, VERMILLION, ORANGE, PINK, SKY, INK)
GAP = 1.0  # extra room between two stages, in units of the distance between two notebooks


def draw_map() -> Figure:
    """The detector with notebook numbers at its parts."""
    return draw_pipeline("all", BADGES)


def draw_way() -> Figure:
    """The notebooks as stations of one line; filled ones can be read now, empty ones are planned."""
    figure, axes = canvas(width=WIDTH, height=1.15)
    place = 0.0
    for (title, (first, last)), colour in zip(STAGES.items(), STAGE_COLOURS, strict=True):
        stage = [one for one in LESSONS if first <= one.number <= last]
        along = [place + step for step in range(len(stage))]
        axes.plot([along[0] - 0.3, along[-1] + 0.3], [0, 0], color=colour, linewidth=5, solid_capstyle="round")
        axes.text((along[0] + along[-1]) / 2, 1.0, title, ha="center", va="center", fontsize=8.5, color=INK)
        for where, one in zip(along, stage, strict=True):
            station(axes, where, one, colour)
        place = along[-1] + 1 + GAP
    axes.plot([0, place - 1 - GAP], [0, 0], color=GREY, linewidth=1.2, zorder=0)
    axes.set(xlim=(-1.0, place - GAP), ylim=(-0.8, 1.4), aspect="equal")
    axes.set_axis_off()
    return figure


def station(axes: Axes, where: float, one: Lesson, colour: str) -> None:
    """A notebook: a disc with its number."""
    ground = colour if one.minutes else "white"
    axes.add_patch(Circle((where, 0), 0.44, facecolor=ground, edgecolor=colour, linewidth=2, zorder=3))
    axes.text(where, -0.03, one.number, ha="center", va="center", fontsize=8, color=readable_on(ground), zorder=4)


def describe_map() -> str:
    """The map in words."""
    return (
        "The detector from left to right, each part with its notebooks: backbone 05, positions 03, encoder 01, 02 and "
        "05, decoder 01, 02 and 06, object queries 06, boxes 04, matching 07, loss 08."
    )


def describe_way() -> str:
    """The line of notebooks in words."""
    stages = ", ".join(f"{title} {first}" + (f" to {last}" if last > first else "")
                       for title, (first, last) in STAGES.items())
    ready = ", ".join(one.number for one in LESSONS[1:] if one.minutes)
    return f"The notebooks as one line with stations: {stages}. Filled stations can be read now: {ready}."
