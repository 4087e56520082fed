"""Why is DAB-DETR slower than Conditional DETR on scenes? Something is taken out, 250 steps, and compared.

    python -m detr_mini.course.dab_ablation "same sides" --seeds 0 1 2
    # writes data/runs/dab_ablation/same_sides-seed0.jsonl and two more

The recorded race (data/runs/scenes) has both detectors as they are: same seed, same scenes, same order. No learning
rate falls, so the first 250 steps of a longer run are a run of 250 steps. Files are written as in race.py.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from detr_mini import zoo
from detr_mini.course.race import HELD_OUT_SEED, evaluations, is_there, provenance, scenes_recipe, write_lines
from detr_mini.data.scenes import Scenes
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, evaluate
from detr_mini.files import DATA
from detr_mini.training import fit
from detr_mini.variants.dab import DabDetr

RUNS = DATA / "runs/dab_ablation"
STEPS, EVERY, SEEDS = 250, 125, (0, 1, 2)


@dataclass(frozen=True)
class Form:
    """DAB-DETR with something taken out. says: what. settings: of its recipe. start: what is done to a fresh one."""

    says: str
    settings: dict[str, float | bool] = field(default_factory=dict)
    start: Callable[[DabDetr], None] = lambda model: None


def same_sides(model: DabDetr) -> None:
    """Every anchor starts half as wide and high as the image, as Conditional DETR's boxes do. Centres stay random."""
    nn.init.zeros_(model.decoder.query_embed.weight[:, 2:].data)


PLAIN = {"modulate": False, "refine": False, "key_temperature": 10000.0}
PARTS = {"modulation": "modulate", "update": "refine", "temperature": "key_temperature"}  # the novelties, one by one
FORMS = {
    "same sides": Form("all anchors start with the same sides", start=same_sides),
    "no novelties": Form("no modulation, no update of the box, one temperature", PLAIN),
    "neither": Form("no modulation, no update, one temperature, and the same sides", PLAIN, same_sides),
} | {f"no {part}": Form(f"only {part} is taken out", {setting: PLAIN[setting]})
     for part, setting in PARTS.items()}


def path_of(name: str, seed: int, folder: Path = RUNS) -> Path:
    """The file of a form's run."""
    return folder / f"{name.replace(' ', '_')}-seed{seed}.jsonl"


def record(name: str, seed: int = 0, folder: Path = RUNS, steps: int = STEPS, every: int = EVERY) -> Path:
    """Train one of FORMS and write its file. ValueError, naming the choices, for another name."""
    if name not in FORMS:
        raise ValueError(f"no form {name!r}: choose one of {', '.join(FORMS)}")
    form, recipe, results = FORMS[name], scenes_recipe("dab", steps), []
    recipe = replace(recipe, model=replace(recipe.model, **form.settings))
    held_out = Scenes(400, seed=HELD_OUT_SEED)

    def measure(detector: Detr) -> AveragePrecision:
        result = evaluate(detector, held_out, recipe.data, batch_size=50)
        results.append(result.to_dict())
        return result

    torch.manual_seed(seed)
    model = zoo.build("dab", "scenes", recipe.model)
    form.start(model)
    done = fit(model, Scenes(4000, seed=0), recipe, evaluate=measure, evaluate_every=every, seed=seed, progress=False)
    head = provenance("dab", recipe, seed, __spec__.name) | {"form": name, "says": form.says}
    write_lines(path_of(name, seed, folder), [head, *evaluations(done.history, results)])
    return path_of(name, seed, folder)


def read_ablation(step: int = STEPS, folder: Path = RUNS) -> dict[str, list[float]]:
    """AP50 of each recorded form at a step, 125 or 250, one figure per seed."""
    found = {}
    for name in FORMS:
        runs = [path_of(name, seed, folder).read_text().splitlines()[1:] for seed in SEEDS]
        found[name] = [row["ap50"] for rows in runs for row in map(json.loads, rows) if row["step"] == step]
    return found


def main() -> None:
    """The command line: one form, or all of them; one seed, or several. A run whose file is there is not repeated."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.dab_ablation", description=__doc__.split("\n")[0])
    parser.add_argument("forms", nargs="*", default=list(FORMS), help=f"any of: {', '.join(FORMS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="(default: 0 1 2)")
    parser.add_argument("--to", type=Path, default=RUNS, help="the folder to write to")
    given = parser.parse_args()
    for name in given.forms:
        for seed in given.seeds:
            if not is_there(path_of(name, seed, given.to)):
                print(record(name, seed, given.to), flush=True)


if __name__ == "__main__":
    main()
