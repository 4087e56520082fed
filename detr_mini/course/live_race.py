"""A race to run oneself: a few detectors, a budget in minutes, curves that grow.

    race = mini_race(["deformable", "detr"], minutes=2)
    race["deformable"].curve[-1]["ap50"]

All have the race's recipe, scenes and first weights, and equal shares of the training time. They take turns, in laps of
as many steps: next is whoever has trained least. Stop it whenever you like. The same call goes on where it was; more
minutes make it longer; what is done is loaded. Everything is kept in folders that git ignores (live.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detr_mini.course.live import HELD_OUT, TRAIN_SCENES, Live, LiveRun
from detr_mini.course.live_view import Bar, Curve, LiveCurves, colour_of, draw_curve
from detr_mini.course.plots import WIDTH, canvas

STEPS = 1500  # at most: the budget of the recorded race


class Lane:
    """One detector of a race: its run, its bar, and how much of its share of the time it has used."""

    def __init__(self, run: LiveRun, share: float) -> None:
        self.run, self.share, self.bar = run, share, Bar(share, f"{run.name}: second")
        self.kept = run.saved()

    def seconds(self) -> float:
        """Training seconds of what is saved."""
        saved = self.run.saved()
        return sum(line["seconds"] for line in self.run.history()[:saved])

    def open(self) -> bool:
        """Whether there are time and steps left."""
        return self.seconds() < self.share and not self.run.finished()

    def lap(self) -> None:
        """As many steps as lie between two evaluations."""
        before, until = self.seconds(), min(self.run.saved() + self.run.every, self.run.steps)
        done = self.run.saved()

        def tick(step: int) -> None:
            if self.bar.due():
                here = [line["seconds"] for line in self.run.history() if line["step"] > done]
                self.show(before + sum(here))

        self.run.advance(until, tick)
        self.show(self.seconds())

    def show(self, seconds: float) -> None:
        """Move the bar, and say how far and how good."""
        curve = self.run.curve()
        self.bar.words = f"AP50 {curve[-1]['ap50']:.2f} at step {curve[-1]['step']:,}" if curve else ""
        self.bar.move(min(seconds, self.share))

    def close(self) -> None:
        """Replace the bar by words: how far it came, and whether that was new."""
        curve, saved = self.run.curve(), self.run.saved()
        came = f"{saved:,} steps in {self.seconds():.0f} s, AP50 {curve[-1]['ap50']:.2f}" if curve else "no lap done"
        again = " (made before, and loaded)" if saved and saved == self.kept else ""
        self.bar.end(f"{self.run.name}: {came}{again}")

    def result(self) -> Live:
        """What is saved: the weights and figures after the last whole lap."""
        run = self.run
        return Live(run.load(), run.curve(), run.history()[: run.saved()], not self.open(), run.folder)


class RaceCurves(LiveCurves):
    """AP50 of all lanes, left against the step, with what was recorded, right against the seconds of training here."""

    def figure(self, lines: Mapping[str, Curve]) -> Figure:
        figure, (left, right) = canvas(2, width=WIDTH, height=3.0)
        self.against_steps(left, lines)
        for number, name in enumerate(self.names):
            if lines.get(name):
                draw_curve(right, lines[name], colour_of(name, number), name, "seconds")
        finish(left, "equal steps", "training step")
        finish(right, "equal time", "seconds of training here")
        return figure


def finish(axes: Axes, title: str, xlabel: str) -> None:
    """Title, names, and AP50 from 0 to 1."""
    axes.set(title=title, xlabel=xlabel, ylabel="AP50", ylim=(0, 1))
    axes.grid(axis="y")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", fontsize=8)


def mini_race(
    detectors: Sequence[str], minutes: float, every: int = 50, seed: int = 0, folder: Path | str | None = None,
    again: bool = False, *, scenes: int = TRAIN_SCENES, held_out: int = HELD_OUT,
) -> dict[str, Live]:
    """Let detectors of the zoo race on this machine. Returns name -> what came of it.

    minutes: of training, all detectors together; measuring comes on top. every: steps of a lap. A lap that has begun
    is finished. again: forget and start anew. Interrupting it ends the race early, and returns what there is.
    Raises ValueError for fewer than one detector or minutes of 0 or less.
    """
    if not detectors or minutes <= 0:
        raise ValueError(f"{len(detectors)} detectors, {minutes:g} minutes: give at least one, and a time above 0")
    share = minutes * 60 / len(detectors)
    lanes = {}
    for name in dict.fromkeys(detectors):
        place = Path(folder) / name if folder else None
        run = LiveRun(name, STEPS, every, seed, place, again, scenes=scenes, held_out=held_out)
        lanes[name] = Lane(run, share)
    drive(list(lanes.values()), RaceCurves(lanes, lambda: {name: lane.run.curve() for name, lane in lanes.items()}))
    return {name: lane.result() for name, lane in lanes.items()}


def drive(lanes: list[Lane], view: RaceCurves) -> None:
    """Lap after lap, by whoever has trained least, until no lane is open or somebody stops the race."""
    stopped = False
    try:
        for lane in lanes:
            lane.show(lane.seconds())
        while waiting := [lane for lane in lanes if lane.open()]:
            min(waiting, key=Lane.seconds).lap()
            view.draw()
    except KeyboardInterrupt:
        stopped = True
    view.draw()
    for lane in lanes:
        lane.close()
    if stopped:
        print("Stopped. Run the cell again, and the race goes on after the last whole laps.")
