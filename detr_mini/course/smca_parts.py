"""SMCA changes two things at once: a Gaussian in the scores, and boxes relative to its centre. Take them apart.

    python -m detr_mini.course.smca_parts              # nine runs of 400 steps: about a quarter of an hour of one core
    python -m detr_mini.course.smca_parts --parts boxes --seeds 0 --steps 100 --to /tmp/mine

gaussian: the Gaussian alone; boxes are written as DETR writes them. boxes: boxes relative to the centre alone; every
scale is 0, so the Gaussian is flat. fixed: both, but every scale stays 1, so all Gaussians have one width.

Each run leaves PART-seedN.jsonl: provenance first, then a line per look at 200 held-out scenes, with the measures of
why_slow.py, and a line per evaluation on the race's 400. Scenes, seeds, loss and steps are the race's, so the runs
stand beside DETR's and SMCA's own of the same seed. A run whose file is there is not repeated.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import nn

from detr_mini import zoo
from detr_mini.course.race import HELD_OUT_SEED, is_there, provenance, scenes_recipe, write_lines
from detr_mini.course.recorder import Recorder
from detr_mini.course.why_slow import LOOKS, MEASURED, Meter
from detr_mini.data.scenes import Scenes
from detr_mini.decoder import Decoder
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, evaluate
from detr_mini.files import DATA
from detr_mini.recipes import Recipe
from detr_mini.training import fit

RUNS = DATA / "runs" / "smca_parts"
PARTS = ("gaussian", "boxes", "fixed")
STEPS, EVERY = 400, 125  # training steps; steps between evaluations, the race's
SEEDS = (0, 1, 2)


def path_of(part: str, seed: int, folder: Path = RUNS) -> Path:
    """The file of a part's run."""
    return folder / f"{part}-seed{seed}.jsonl"


def build(part: str, recipe: Recipe) -> Detr:
    """SMCA with one of its parts taken out; ValueError, naming the parts, for an unknown one."""
    if part not in PARTS:
        raise ValueError(f"no part {part!r}: choose one of {', '.join(PARTS)}")
    model = zoo.build("smca", "scenes", recipe.model)
    if part == "gaussian":
        model.decoder.decode_box = partial(Decoder.decode_box, model.decoder)  # DETR's, without the centre
        return model
    for layer in model.decoder.layers:
        scale = layer.cross_attention.prior.scale.requires_grad_(False)  # its weight is 0, so its bias is the scale
        nn.init.constant_(scale.bias, 0.0 if part == "boxes" else 1.0)
    return model


def record(part: str, steps: int, folder: Path, seed: int = 0) -> Path:
    """Train one part on scenes and write its file; returns the file's path."""
    path, recipe = path_of(part, seed, folder), scenes_recipe("smca", steps)
    if path.is_file():
        return path
    torch.manual_seed(seed)
    model = build(part, recipe)
    train_set, held_out = Scenes(4000, seed=0), Scenes(400, seed=HELD_OUT_SEED)
    looks = tuple(step for step in LOOKS if step < steps) + (steps,)
    meter, results = Meter(Recorder(held_out, range(MEASURED), recipe.data, recipe.loss, ()), looks), []
    head = provenance("smca", recipe, seed, __spec__.name) | {"part": part, "measured": meter.facts()}

    def measure(detector: Detr) -> AveragePrecision:
        results.append(evaluate(detector, held_out, recipe.data, batch_size=50))
        return results[-1]

    meter.look(model, 0)
    run = fit(model, train_set, recipe, callbacks=(meter,), seed=seed, evaluate=measure, evaluate_every=EVERY,
              progress=False)
    evaluated = [line["step"] for line in run.history if "ap50" in line]
    figures = [{"step": step, "ap": result.ap, "ap50": result.ap50}
               for step, result in zip(evaluated, results, strict=True)]
    write_lines(path, [head, *meter.lines, *figures])
    return path


def main(words: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.smca_parts",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="(default: 0 1 2)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of each (default: {STEPS})")
    parser.add_argument("--to", type=Path, default=RUNS, help="where the files go")
    chosen = parser.parse_args(words)
    for part in chosen.parts:
        for seed in chosen.seeds:
            if not is_there(path_of(part, seed, chosen.to)):
                print(record(part, chosen.steps, chosen.to, seed), flush=True)


if __name__ == "__main__":
    main()
