"""A training to watch, to stop, and to go on with: the live cell of the notebooks.

    live = train_live("deformable", steps=300, every=50)
    live.model, live.curve[-1]["ap50"], live.history[-1]["loss"]

It is the race's training: the detector's recipe for scenes, 4,000 scenes, the small backbone frozen. Its AP50, on the
first 200 of the race's 400 held-out scenes, grows beside the recorded runs. What it learned lies in a folder that git
ignores. The same cell run again goes on where it was stopped, or loads the finished run.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch

from detr_mini import zoo
from detr_mini.course.live_view import Bar, LiveCurves
from detr_mini.course.race import HELD_OUT_SEED, scenes_recipe
from detr_mini.data.scenes import Scenes
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, evaluate
from detr_mini.recipes import Recipe
from detr_mini.training import Step, TrainingError, fit

if os.name == "nt":
    import msvcrt
else:
    import fcntl

TRAIN_SCENES, HELD_OUT = 4000, 200
LEFT_BEHIND = ("last.pt", "log.jsonl", "best.safetensors", "final.safetensors")


@dataclass(frozen=True)
class Live:
    """What a live training came to.

    model: in evaluation mode. curve: one dict per evaluation with step, seconds (of training alone) and ap50.
    history: one dict per step, as from `fit`. finished: False when it was stopped. folder: where it is kept.
    """

    model: Detr
    curve: list[dict[str, float]]
    history: list[dict[str, float]]
    finished: bool
    folder: Path


def train_live(
    name: str, steps: int, every: int = 50, seed: int = 0, folder: Path | str | None = None, again: bool = False, *,
    scenes: int = TRAIN_SCENES, held_out: int = HELD_OUT,
) -> Live:
    """Train a detector of the zoo on scenes and draw its AP50 while it learns.

    every: steps between evaluations, and between savings. folder: by default one of its own for this recipe, seed and
    number of steps, under data/my_runs. again: forget what is there and start anew. scenes, held_out: how many images
    to learn from and to measure on. Interrupting it (the stop button) ends it early: it returns what there is.
    Raises ValueError for an unknown detector or a number below 1, TrainingError for a folder of another run.
    """
    run = LiveRun(name, steps, every, seed, folder, again, scenes=scenes, held_out=held_out)
    bar, view = Bar(steps), LiveCurves([name], run.lines, steps)
    bar.say(run.opening())
    try:
        run.advance(after=lambda step: follow(run, step, bar, view))
    except KeyboardInterrupt:
        pass
    view.draw()
    bar.end(run.closing())
    return Live(run.model.eval(), run.curve(), run.history(), run.finished(), run.folder)


def follow(run: "LiveRun", step: int, bar: Bar, view: LiveCurves) -> None:
    """After a step: move the bar; after an evaluation, draw the curve as well."""
    if step % run.every == 0 or step == run.steps:
        last = run.curve()[-1]
        bar.words = f"AP50 {last['ap50']:.2f} at step {last['step']:,}"
        view.draw()
    if bar.due():
        bar.move(step)


class Enough(Exception):
    """Raised by a callback to leave `fit` after a step that is saved."""


class LiveRun:
    """One detector's training in a folder from which it goes on, in one go or lap by lap. Arguments: `train_live`."""

    def __init__(
        self, name: str, steps: int, every: int = 50, seed: int = 0, folder: Path | str | None = None,
        again: bool = False, *, scenes: int = TRAIN_SCENES, held_out: int = HELD_OUT,
    ) -> None:
        for word, value in {"steps": steps, "every": every, "scenes": scenes, "held_out": held_out}.items():
            if value < 1:
                raise ValueError(f"{word}={value}: give a number of at least 1")
        self.name, self.steps, self.every, self.seed = name, steps, every, seed
        self.recipe = scenes_recipe(name, steps)
        self.train_set, self.held_out = Scenes(scenes, seed=0), Scenes(held_out, seed=HELD_OUT_SEED)
        key = {"recipe": asdict(self.recipe), "scenes": scenes, "held_out": held_out, "every": every}
        self.folder = Path(folder) if folder else runs_folder() / folder_name(name, seed, steps, key)
        self.damage = "" if again else what_is_wrong(self.folder)
        if self.damage and folder:
            raise TrainingError(f"{self.folder} holds a damaged run ({self.damage}): say again=True to start anew")
        if again or self.damage:
            forget(self.folder)
        self.model, self.before = fresh_model(name, self.recipe, seed), self.saved()

    def advance(self, until: int | None = None, after: Callable[[int], None] = lambda step: None) -> None:
        """Train to a step, a multiple of `every` (default: to the end). after: called with every step's number.

        The random numbers of the notebook stay as they are, whether there is anything left to train or not.
        """
        def watch(step: Step) -> None:
            if until is not None and step.number > until:
                raise Enough
            after(step.number)

        if until is not None and self.saved() >= until:
            return
        with alone(self.folder), torch.random.fork_rng(devices=[]):
            try:
                fit(self.model, self.train_set, self.recipe, self.folder, evaluate=self.measure,
                    evaluate_every=self.every, callbacks=(watch,), seed=self.seed, save_every=self.every,
                    progress=False)
            except Enough:
                pass

    def measure(self, model: Detr) -> AveragePrecision:
        """Average precision on the held-out scenes."""
        return evaluate(model, self.held_out, self.recipe.data, batch_size=50)

    def history(self) -> list[dict[str, float]]:
        """What `fit` said of every step so far."""
        return read_log(self.folder)

    def curve(self) -> list[dict[str, float]]:
        """One dict per evaluation: step, seconds of training until then, ap50."""
        rows, seconds = [], 0.0
        for line in self.history():
            seconds += line["seconds"]
            if "ap50" in line:
                rows.append({"step": line["step"], "seconds": round(seconds, 1), "ap50": line["ap50"]})
        return rows

    def lines(self) -> dict[str, list[dict[str, float]]]:
        """What the picture draws: the curve under the detector's name."""
        return {self.name: self.curve()}

    def saved(self) -> int:
        """The step from which it would go on."""
        path = self.folder / "last.pt"
        return torch.load(path, weights_only=True, mmap=True)["step"] if path.is_file() else 0

    def load(self) -> Detr:
        """The detector as it was saved last, in evaluation mode; as it began when nothing is saved."""
        if self.saved():
            state = torch.load(self.folder / "last.pt", weights_only=True)
            self.model.load_state_dict(state["model"])
        return self.model.eval()

    def finished(self) -> bool:
        """Whether all steps are done and kept."""
        return self.saved() == self.steps

    def opening(self) -> str:
        """What it is about to do, in words."""
        if self.damage:
            return f"What was kept of this run is damaged ({self.damage}), so it starts anew."
        if self.before == self.steps:
            return "This run was made before. It is loaded."
        if self.before:
            return f"It goes on after step {self.before:,}."
        return f"{self.name}, seed {self.seed}: {self.steps:,} steps of {self.recipe.train.batch} images."

    def closing(self) -> str:
        """What there is now, in words."""
        curve, steps = self.curve(), len(self.history())
        said = f"AP50 {curve[-1]['ap50']:.2f} at step {curve[-1]['step']:,}. " if curve else ""
        if not self.finished():
            return (f"Stopped after {steps:,} of {self.steps:,} steps. {said}Run the cell again, and it goes on "
                    f"{f'after step {self.saved():,}' if self.saved() else 'from the beginning'}.")
        if self.before == self.steps:
            return (f"This run was made before; it is loaded from {shown(self.folder)}. {said}"
                    "To train anew, say again=True.")
        return (f"{self.name}: {self.steps:,} steps, {curve[-1]['seconds']:.0f} seconds of training. {said}"
                f"Kept in {shown(self.folder)}: next time it is loaded.")


# ---------------------------------------------------------------- the folder


def runs_folder() -> Path:
    """data/my_runs in a clone; in ~/.detr_mini for a package installed without the notebooks."""
    top = Path(__file__).resolve().parents[2]
    return (top / "data" if (top / "notebooks" / "source").is_dir() else Path.home() / ".detr_mini") / "my_runs"


def folder_name(name: str, seed: int, steps: int, key: dict) -> str:
    """A name that differs when the recipe, the scenes, the seed or the number of steps does."""
    digest = sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    return f"{name}-{steps}steps-seed{seed}-{digest}"


def fresh_model(name: str, recipe: Recipe, seed: int) -> Detr:
    """The detector with the weights that the race starts from; the notebook's random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return zoo.build(name, "scenes", recipe.model)


def shown(folder: Path) -> str:
    """A folder as seen from the top of the clone, or under the home folder."""
    for top, sign in ((Path(__file__).resolve().parents[2], ""), (Path.home(), "~/")):
        if folder.resolve().is_relative_to(top):
            return f"{sign}{folder.resolve().relative_to(top).as_posix()}"
    return folder.name


def what_is_wrong(folder: Path) -> str:
    """Why a folder's last.pt or log cannot be read, in a few words; "" when they can, or are not there."""
    try:
        read_log(folder)
        if (folder / "last.pt").is_file():
            torch.load(folder / "last.pt", weights_only=True, mmap=True)["step"]
    except Exception as error:  # whatever torch says of bytes that are no checkpoint
        return " ".join(str(error).split())[:80]
    return ""


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of a folder's log.jsonl; a last one that was cut short is left out. ValueError when damaged."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def forget(folder: Path) -> None:
    """Remove what a run left behind, and nothing else."""
    for name in LEFT_BEHIND:
        (folder / name).unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One training at a time in a folder; RuntimeError while there is another. A lock dies with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+b") as file:
        try:
            if os.name == "nt":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(
                "another notebook is training this very run: wait until it is done, or give another folder"
            ) from error
        yield
