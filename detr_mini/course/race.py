"""The race: detectors on the same scenes, with the same loss and the same number of steps, over several seeds.

    python -m detr_mini race --detectors detr --seeds 0 1 2 --steps 2500 --to data/runs/scenes
    python -m detr_mini race --own --detectors detr --seeds 0 1 2 --to data/runs/scenes_own
    python -m detr_mini race --shared --detectors detr --seeds 0 1 2 --to data/runs/scenes_shared

All detectors share one recipe made for scenes, or one with what nearly all papers do alike, or each has its paper's own
(own_recipe.py). A step is 16 images in all of them; with an own recipe whose batch is larger, there are as many fewer
steps.

Every run leaves one file, DETECTOR-seedN.jsonl. Its first line says where the figures come from (command, commit,
machine, recipe); each further line is one evaluation. A run whose file is there is not repeated, and one that was
stopped goes on from its last evaluation when the same command is given again.
"""

import json
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from detr_mini import zoo
from detr_mini.checkpoints import save_weights
from detr_mini.course.own_recipe import own_recipe, shared_recipe
from detr_mini.course.race_table import BATCH
from detr_mini.data.scenes import Scenes
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, evaluate
from detr_mini.files import atomic
from detr_mini.recipes import Recipe, resized
from detr_mini.training import describe, fit

LARGE = 2_500_000  # parameters; weights beyond are kept in 8 bits, so that every file stays under 4 MB
HELD_OUT_SEED = 1_000_003  # no training seed comes near it


def race(
    detectors: list[str], seeds: list[int], steps: int | None, folder: Path, every: int = 250,
    weights: Path | None = None, recipes: str = "race", change: dict[str, object] | None = None,
    batch: int | None = None,
) -> list[Path]:
    """Run every detector with every seed; returns the files, old and new.

    steps: training steps of 16 images, None for each recipe's own. every: such steps between evaluations on 400
    held-out scenes. weights: a folder for the final weights of each detector's first seed, in half precision (in 8
    bits when large). recipes: one of RECIPES. change: fields of the model that get another value.
    batch: images per step of an own or shared recipe, which then has as many more or fewer steps.
    Raises ValueError for an unknown detector, or a field that it does not have, before training.
    """
    chosen = {name: changed(recipe_of(name, steps, recipes, batch), change or {}) for name in detectors}
    files = []
    for name in detectors:
        for seed in seeds:
            path = folder / f"{name}-seed{seed}.jsonl"
            if not path.is_file():
                keep = weights / f"{name}.safetensors" if weights and seed == seeds[0] else None
                due = every if recipes == "race" else max(1, every * BATCH // chosen[name].train.batch)
                run(name, chosen[name], seed, path, due, keep)
            files.append(path)
    return files


# race: one recipe for all, made for scenes. own: each paper's. shared: the race's, with what nearly all papers do.
RECIPES = {"race": None, "own": own_recipe, "shared": shared_recipe}


def recipe_of(name: str, steps: int | None, recipes: str = "race", batch: int | None = None) -> Recipe:
    """A detector's recipe, one of RECIPES, for so many steps of 16 images (None: its own number).

    batch: as in `race`; ValueError with the race's own recipe, whose batch is 16.
    """
    if make := RECIPES[recipes]:
        return make(name, steps * BATCH, batch) if steps else make(name, batch=batch)
    if batch:
        raise ValueError(f"--batch {batch} goes with --own or --shared: the race's batch is {BATCH}")
    return scenes_recipe(name, steps)


def changed(recipe: Recipe, fields: dict[str, object]) -> Recipe:
    """A recipe whose model has other values in some fields.

    ValueError, with the choices, for a field it does not have, and for a value of another kind.
    """
    has = vars(recipe.model)
    if unknown := sorted(set(fields) - set(has)):
        raise ValueError(f"this model has no {unknown[0]!r} to change: choose among {', '.join(has)}")
    for name, value in fields.items():
        if type(value) is not (kind := type(has[name])) and not (kind is float and type(value) is int):
            raise ValueError(f"{name} is {has[name]!r} now, and {value!r} is no {kind.__name__}: give one")
    return resized(recipe, **fields)


def scenes_recipe(name: str, steps: int | None) -> Recipe:
    """A detector's recipe for scenes, with another number of steps where one is given."""
    recipe = zoo.recipe(name, "scenes")
    return replace(recipe, train=replace(recipe.train, steps=steps)) if steps else recipe


def run(name: str, recipe: Recipe, seed: int, path: Path, every: int, weights: Path | None) -> None:
    """Train one detector once and write its file. A run that was stopped goes on from its last evaluation."""
    train_set, held_out = Scenes(4000, seed=0), Scenes(400, seed=HELD_OUT_SEED)
    unfinished = path.with_name(f"{path.stem}.unfinished")  # a folder, gone when the run is done
    results, head = measured(unfinished, every), provenance(name, recipe, seed)

    def measure(detector: Detr) -> AveragePrecision:
        result = evaluate(detector, held_out, recipe.data, batch_size=50)
        results.append(result.to_dict())
        write_lines(unfinished / "measured.jsonl", results)
        print(f"{name} seed {seed}: evaluation {len(results)}, AP50 {result.ap50:.3f}", flush=True)
        return result

    torch.manual_seed(seed)
    model = zoo.build(name, "scenes", recipe.model)
    done = fit(model, train_set, recipe, unfinished, evaluate=measure, evaluate_every=every, save_every=every,
               seed=seed, progress=False)
    lines = [head, *evaluations(done.history, results)]
    write_lines(path, lines)
    if weights:
        last = lines[-1]
        facts = describe(train_set, recipe) | {"steps": last["step"], "seed": seed, "ap50": last["ap50"]}
        large = zoo.count(model) > LARGE
        save_weights(model, weights, half=not large, quarter=large, **facts)
    shutil.rmtree(unfinished)


def measured(unfinished: Path, every: int) -> list[dict]:
    """COCO's figures of the evaluations up to the checkpoint of an unfinished run; none without one."""
    if not (unfinished / "last.pt").is_file():
        return []
    step = torch.load(unfinished / "last.pt", weights_only=True, mmap=True)["step"]
    return [json.loads(line) for line in (unfinished / "measured.jsonl").read_text().splitlines()][: -(-step // every)]


def write_lines(path: Path, lines: list[dict]) -> None:
    """Write JSON, one object per line; a file that is there is replaced in one go."""
    with atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


def is_there(path: Path) -> bool:
    """Whether a run's file is there already; then this is said, and how to make one of your own."""
    if path.is_file():
        print(f"{path} is there already and is not made again. For a run of your own: --to FOLDER", flush=True)
    return path.is_file()


def evaluations(history: list[dict], results: list[dict]) -> list[dict]:
    """One line per evaluation: step, training seconds so far, mean loss since the one before, and COCO's figures."""
    lines, losses, seconds = [], [], 0.0
    figures = iter(results)
    for line in history:
        losses.append(line["loss"])
        seconds += line["seconds"]
        if "ap" in line:
            mean = sum(losses) / len(losses)
            lines.append({"step": line["step"], "seconds": round(seconds, 1), "loss": round(mean, 4)} | next(figures))
            losses = []
    return lines


def provenance(name: str, recipe: Recipe, seed: int, module: str = "detr_mini") -> dict:
    """Where a run's figures come from. module: what `python -m` was given."""
    return {"detector": name, "seed": seed} | origin(module) | {"recipe": asdict(recipe)}


def origin(module: str = "detr_mini") -> dict:
    """Which command at which commit on which machine. A notebook's kernel has no command worth keeping."""
    words = ["(from a notebook)"] if "ipykernel" in sys.argv[0] else map(shlex.quote, sys.argv[1:])
    return {
        "command": " ".join(["python -m", module, *words]),
        "commit": commit(),
        "machine": {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__},
    }


def commit() -> str | None:
    """The commit that the code is at, with a + when files differ from it; None outside a git checkout."""
    try:
        here = Path(__file__).parent
        said = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    return said.stdout.strip() or None


def processor() -> str:
    """The processor's name, as Linux tells it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
