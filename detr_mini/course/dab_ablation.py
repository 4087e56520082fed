"""Why is DAB-DETR slower than Conditional DETR on scenes? Something is taken out, 250 steps, and compared.

    python -m detr_mini.course.dab_ablation "same sides"        # writes data/runs/dab_ablation/same_sides.jsonl

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
from detr_mini.course.race import HELD_OUT_SEED, evaluations, provenance, scenes_recipe, write_lines
from detr_mini.data.scenes import Scenes
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, evaluate
from detr_mini.files import DATA
from detr_mini.training import fit
from detr_mini.variants.dab import DabDetr

RUNS = DATA / "runs/dab_ablation"
STEPS, EVERY, SEED = 250, 125, 0


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


def path_of(name: str, folder: Path = RUNS) -> Path:
    """The file of a form's run."""
    return folder / f"{name.replace(' ', '_')}.jsonl"


def record(name: str, folder: Path = RUNS, steps: int = STEPS, every: int = EVERY) -> Path:
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

    torch.manual_seed(SEED)
    model = zoo.build("dab", "scenes", recipe.model)
    form.start(model)
    done = fit(model, Scenes(4000, seed=0), recipe, evaluate=measure, evaluate_every=every, seed=SEED, progress=False)
    head = provenance("dab", recipe, SEED, __spec__.name) | {"form": name, "says": form.says}
    write_lines(path_of(name, folder), [head, *evaluations(done.history, results)])
    return path_of(name, folder)


def read_ablation(folder: Path = RUNS) -> dict[str, dict[int, float]]:
    """AP50 of each recorded form: name -> {step: AP50}."""
    found = {}
    for name in FORMS:
        lines = [json.loads(line) for line in path_of(name, folder).read_text().splitlines()[1:]]
        found[name] = {line["step"]: line["ap50"] for line in lines}
    return found


def main() -> None:
    """The command line: one form, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.dab_ablation", description=__doc__.split("\n")[0])
    parser.add_argument("forms", nargs="*", default=list(FORMS), help=f"any of: {', '.join(FORMS)}")
    parser.add_argument("--to", type=Path, default=RUNS, help="the folder to write to")
    given = parser.parse_args()
    for name in given.forms:
        print(record(name, given.to))


if __name__ == "__main__":
    main()
