"""What does a trained DETR owe to its learned queries? Parts get back their values from before the training.

    python -m detr_mini.course.put_back      # three seeds of 1,000 steps: about eight minutes of one core

Each run leaves seedN.jsonl under data/runs/put_back: provenance; how far the parts of PARTS moved, |now - then| over
|then|, averaged over the layers; and AP50 on the race's 400 held-out scenes, of the detector as it is ("trained") and
with one part put back at a time. A run whose file is there is not repeated.

    addresses    the queries' learned positional encodings, `query_embed`
    questions    the matrices and biases that make queries of cross-attention from them, in all decoder layers
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import nn

from detr_mini import zoo
from detr_mini.course.race import HELD_OUT_SEED, is_there, provenance, scenes_recipe, write_lines
from detr_mini.data.scenes import Scenes
from detr_mini.detr import Detr
from detr_mini.evaluation import evaluate
from detr_mini.files import DATA
from detr_mini.training import fit

RUNS = DATA / "runs" / "put_back"
STEPS, SEEDS = 1000, (0, 1, 2)


def addresses(model: Detr) -> list[nn.Module]:
    """The table of the queries' positional encodings, (Q, d)."""
    return [model.decoder.query_embed]


def questions(model: Detr) -> list[nn.Module]:
    """W_q of cross-attention in every decoder layer, (d, d) each."""
    return [layer.cross_attention.query for layer in model.decoder.layers]


PARTS = {"addresses": addresses, "questions": questions}


def moved(part: str, model: Detr, born: Detr) -> float:
    """|now - then| / |then| of a part's matrices, the mean over them."""
    pairs = zip(PARTS[part](model), PARTS[part](born), strict=True)
    distances = [(now.weight - then.weight).norm() / then.weight.norm() for now, then in pairs]
    return torch.stack(distances).mean().item()


def put_back(part: str, model: Detr, born: Detr) -> Detr:
    """A copy of the model in which one part is as it was in `born`. KeyError for a part that is not in PARTS."""
    mixed = copy.deepcopy(model)
    for now, then in zip(PARTS[part](mixed), PARTS[part](born), strict=True):
        now.load_state_dict(then.state_dict())
    return mixed


def path_of(seed: int, folder: Path = RUNS) -> Path:
    """The file of a run."""
    return folder / f"seed{seed}.jsonl"


def record(seed: int, steps: int = STEPS, folder: Path = RUNS) -> Path:
    """Train DETR on scenes, put parts back, write the file; returns its path."""
    recipe, held_out = scenes_recipe("detr", steps), Scenes(400, seed=HELD_OUT_SEED)
    torch.manual_seed(seed)
    born = zoo.build("detr", "scenes", recipe.model)
    model = copy.deepcopy(born)
    fit(model, Scenes(4000, seed=0), recipe, seed=seed, progress=False)
    detectors = {"trained": model} | {part: put_back(part, model, born) for part in PARTS}
    found = {name: evaluate(some, held_out, recipe.data, batch_size=50).ap50 for name, some in detectors.items()}
    figures = {"moved": {part: moved(part, model, born) for part in PARTS}, "ap50": found}
    write_lines(path_of(seed, folder), [provenance("detr", recipe, seed, __spec__.name), figures])
    return path_of(seed, folder)


def read_put_back(folder: Path = RUNS) -> list[dict[str, dict[str, float]]]:
    """The figures of every seed: "moved" of each part, "ap50" of the trained detector and of each part put back."""
    return [json.loads(path_of(seed, folder).read_text(encoding="utf-8").splitlines()[1]) for seed in SEEDS]


def main(words: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.put_back", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="(default: 0 1 2)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of each (default: {STEPS})")
    parser.add_argument("--to", type=Path, default=RUNS, help="where the files go")
    chosen = parser.parse_args(words)
    for seed in chosen.seeds:
        if not is_there(path_of(seed, chosen.to)):
            print(record(seed, chosen.steps, chosen.to), flush=True)


if __name__ == "__main__":
    main()
