"""Is a larger picture slower to learn? The same things, of the same size in pixels, on more places.

    python -m detr_mini.course.more_places --detectors detr --sides 192 --steps 4000

The course's scenes are 128 pixels wide: 8 x 8 places for attention. Here they are 96 (6 x 6) or 192 pixels wide
(12 x 12), and hold as many things of as many pixels. So a thing covers another part of the picture, and nothing else
changes: detector, loss, rate, batch. `python -m detr_mini.course.why_slow` is the same training at 128.

A run leaves DETECTOR-SIDE.jsonl under data/my_runs/more_places: provenance first, then one line per look at 200
held-out scenes, with the measures of looking.py. A run whose file is there is not repeated. Notebook 10 reads it
instead of the course's own, which is in data/runs/more_places.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from detr_mini import zoo
from detr_mini.course.race import HELD_OUT_SEED, is_there, provenance, scenes_recipe, write_lines
from detr_mini.course.recorder import Recorder
from detr_mini.course.why_slow import MEASURED, STEPS, Meter
from detr_mini.data.scenes import PRESETS, Preset, Scenes
from detr_mini.files import DATA
from detr_mini.recipes import Recipe
from detr_mini.training import fit

RUNS = DATA / "runs" / "more_places"
MINE = DATA / "my_runs" / "more_places"  # where a learner's own runs go
USUAL = 128  # the scenes' side in pixels, everywhere else
LOOKS = (0, 50, 100, 200, 300, 400, 600, 800, 1000, 1300, 1600, 2000, 2500, 3000, 3500, 4000, 5000)


def same_things(side: int) -> Preset:
    """The preset "few" for a picture of this side: as many things as in one of 128 pixels, of as many pixels."""
    few = PRESETS["few"]
    short, long = (length * USUAL / side for length in few.side)
    return replace(few, name=f"few_at_{side}", side=(short, long))


def recipe_at(name: str, steps: int, side: int) -> Recipe:
    """A detector's recipe for scenes, for pictures of this side in pixels."""
    recipe = scenes_recipe(name, steps)
    return replace(recipe, data=replace(recipe.data, train_sizes=(side,), max_size=side, eval_size=side))


def record(name: str, side: int, steps: int, folder: Path, seed: int = 0) -> Path:
    """Train one detector on scenes of one side, and write its measures; returns their file.

    Raises ValueError for a side at which the usual things do not fit.
    """
    path, recipe, things = folder / f"{name}-{side}.jsonl", recipe_at(name, steps, side), same_things(side)
    if path.is_file():
        return path
    train_set = Scenes(4000, seed=0, preset=things, size=side)
    held_out = Scenes(400, seed=HELD_OUT_SEED, preset=things, size=side)
    looks = tuple(step for step in LOOKS if step < steps) + (steps,)
    meter = Meter(Recorder(held_out, range(MEASURED), recipe.data, recipe.loss, ()), looks)
    torch.manual_seed(seed)
    model = zoo.build(name, "scenes", recipe.model)
    meter.look(model, 0)
    fit(model, train_set, recipe, callbacks=(meter,), seed=seed, progress=False)
    head = provenance(name, recipe, seed, __spec__.name) | {"side": side, "scenes": MEASURED}
    write_lines(path, [head, *meter.lines])
    return path


def recorded(name: str) -> Path:
    """A run's file, "detr-192.jsonl": the learner's own where there is one, else the course's."""
    return MINE / name if (MINE / name).is_file() else RUNS / name


def main(words: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.more_places", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", choices=tuple(STEPS), default=list(STEPS), help="one run each")
    parser.add_argument("--sides", nargs="+", type=int, default=[192], help="of the pictures, in pixels")
    parser.add_argument("--steps", type=int, help="training steps (default: 2,500 for detr, 1,000 for smca)")
    parser.add_argument("--to", type=Path, default=MINE, help="where the files go")
    chosen = parser.parse_args(words)
    for side in chosen.sides:
        for name in chosen.detectors:
            if is_there(chosen.to / f"{name}-{side}.jsonl"):
                continue
            print(record(name, side, chosen.steps or STEPS[name], chosen.to), flush=True)


if __name__ == "__main__":
    main()
