"""What each detector of the race costs: parameters, operations, processor time and memory.

    python -m detr_mini race --costs data/runs/scenes/costs.json
    python -m detr_mini race --own --costs data/runs/scenes_own/costs.json

Each detector is measured in a process of its own, on one thread. Processor time is what that thread worked, not what a
clock on the wall says, so other work on the machine disturbs it less (it still shares caches with others, so the file
says how busy the machine was). Memory is the most that the process ever held, and how much it held before training.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from detr_mini import zoo
from detr_mini.course.race import HELD_OUT_SEED, origin, recipe_of
from detr_mini.data.scenes import Scenes
from detr_mini.data.transforms import build_transform, collate
from detr_mini.detr import Detr
from detr_mini.files import atomic
from detr_mini.recipes import Recipe
from detr_mini.training import Step, fit

STEPS, WARM = 40, 8  # steps measured, and those before them that count for nothing
IMAGES = 32
MEASURED = {
    "parameters": "of the whole detector",
    "trained": "parameters that learn; the others are frozen",
    "mflops": "millions of floating-point operations (a multiplication and an addition are two) for one scene, "
              "forward; convolutions, matrix products, attention, sampled values; without RoIAlign's interpolation",
    "step": f"processor seconds of one training step, data and optimiser included, median of {STEPS}, one thread",
    "step_images": "images in such a step",
    "image": f"processor seconds for one image in evaluation, in batches of 8, mean of {IMAGES}, one thread",
    "before": "mebibytes that the process held before training: Python, PyTorch, 640 scenes, weights",
    "peak": "mebibytes that the process held at most, up to the end of training (ru_maxrss)",
    "load": "processes that wanted a core at the end, mean of a minute",
}


def costs(detectors: list[str], path: Path, own: bool = False) -> Path:
    """Measure detectors and write the figures, with where they come from, as JSON. Returns the path.

    Raises ValueError for an unknown detector, RuntimeError with the last line of what a measuring process said.
    """
    for name in detectors:
        zoo.entry(name)
    figures = {name: in_a_process_of_its_own(name, own) for name in detectors}
    with atomic(path) as temporary:
        said = {"origin": origin(), "measured": MEASURED, "detectors": figures}
        temporary.write_text(json.dumps(said, indent=1) + "\n")
    return path


def in_a_process_of_its_own(name: str, own: bool) -> dict[str, float]:
    """What `measure` finds in a fresh Python on one thread."""
    command = [sys.executable, "-m", "detr_mini.course.race_costs", name, *(["own"] if own else [])]
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, env=alone)
    if done.returncode:
        raise RuntimeError(f"measuring {name} failed: {(done.stderr.strip() or 'it said nothing').splitlines()[-1]}")
    print(f"{name}: {done.stdout.strip()}", flush=True)
    return json.loads(done.stdout)


def measure(name: str, own: bool = False, steps: int = STEPS) -> dict[str, float]:
    """All figures of one detector; see MEASURED."""
    recipe = recipe_of(name, None, "own" if own else "race")
    torch.manual_seed(0)
    model = zoo.build(name, "scenes", recipe.model)
    scenes, train_set = Scenes(IMAGES, seed=HELD_OUT_SEED), Scenes(640, seed=0)
    figures = {"parameters": zoo.count(model), "mflops": round(operations(model, recipe, scenes) / 1e6, 1),
               "image": round(seconds_per_image(model, recipe, scenes), 5), "before": held()}
    step = seconds_per_step(model, recipe, train_set, steps)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return figures | {"trained": trained, "step": round(step, 4), "step_images": recipe.train.batch, "peak": held(),
                      "load": round(os.getloadavg()[0], 1)}


def operations(model: Detr, recipe: Recipe, scenes: Scenes) -> int:
    """Floating-point operations of one forward pass over one scene."""
    def bag(weight: tuple, indices: tuple, *others: object, out_shape: tuple | None = None, **more: object) -> int:
        return 2 * indices[0] * weight[1]  # each row is multiplied by its share and added

    sampled = {torch.ops.aten._embedding_bag: bag, torch.ops.aten._embedding_bag_forward_only: bag}
    batch = collate([build_transform(recipe.data, train=False)(*scenes[0])])
    counter = FlopCounterMode(display=False, custom_mapping=sampled)
    with sdpa_kernel(SDPBackend.MATH), counter:  # attention as plain products, which the counter knows
        model.eval()(batch.images, batch.mask)
    return counter.get_total_flops()


def seconds_per_image(model: Detr, recipe: Recipe, scenes: Scenes) -> float:
    """Processor seconds for an image, from pixels to logits and boxes."""
    prepare = build_transform(recipe.data, train=False)
    batches = [collate([prepare(*scenes[i]) for i in range(first, first + 8)]) for first in range(0, IMAGES, 8)]
    with torch.inference_mode():
        model.eval()(batches[0].images, batches[0].mask)
        started = time.process_time()
        for batch in batches:
            model(batch.images, batch.mask)
    return (time.process_time() - started) / IMAGES


def seconds_per_step(model: Detr, recipe: Recipe, scenes: Scenes, steps: int) -> float:
    """Processor seconds of a training step, the median."""
    ticks: list[float] = []

    def tick(step: Step) -> None:
        ticks.append(time.process_time())

    short = replace(recipe, train=replace(recipe.train, steps=WARM + steps))
    fit(model, scenes, short, callbacks=(tick,), progress=False)
    return statistics.median(after - before for before, after in zip(ticks[WARM - 1 :], ticks[WARM:], strict=False))


def held() -> int:
    """The most memory that this process has held, in mebibytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 2**20 if sys.platform == "darwin" else most // 2**10  # macOS counts bytes, Linux kibibytes


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(sys.argv[1], own="own" in sys.argv[2:])))
