"""What self-attention between queries is good for: a DETR that was trained without it.

    python -m detr_mini.course.without_meeting --seeds 0 1 2

In each decoder layer the queries meet, by self-attention. Here the meeting is left out and nothing else: same recipe,
same first weights, same batches in the same order as `python -m detr_mini race --detectors detr` with the same seed.
Each run leaves a file under data/runs/self_attention, written as the race's files are (provenance first, then one line
per evaluation). The first seed's weights are kept for notebook 06, which measures them anew.
"""

import argparse
import copy
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from detr_mini import zoo
from detr_mini.checkpoints import check_names, read_facts, save_weights
from detr_mini.course.race import HELD_OUT_SEED, evaluations, provenance, scenes_recipe
from detr_mini.data.scenes import Scenes
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, evaluate
from detr_mini.files import DATA, atomic
from detr_mini.recipes import Recipe
from detr_mini.training import describe, fit

NAME = "detr_without_meeting"
RUNS = DATA / "runs" / "self_attention"
WEIGHTS = DATA / "weights" / f"{NAME}.safetensors"


class NoMeeting(nn.Module):
    """Stands where the queries' self-attention stood, and finds nothing: query (B, Q, d), ... -> zeros (B, Q, d)."""

    def forward(self, query: Tensor, *others: Tensor | None) -> Tensor:
        return torch.zeros_like(query)


def without_meeting(model: Detr) -> Detr:
    """A copy of a detector whose decoder layers have no self-attention. Residual and norm stay: x -> norm1(x + 0)."""
    silent = copy.deepcopy(model)
    for layer in silent.decoder.layers:
        layer.self_attention = NoMeeting()
    return silent


def load_without_meeting(path: Path | str = WEIGHTS) -> Detr:
    """The detector of a weights file that `main` wrote, in eval mode, on the CPU.

    Raises FileNotFoundError, or CheckpointError for a file that is not one of ours or does not fit.
    """
    facts = read_facts(path)
    model = without_meeting(zoo.from_description("detr", dict(facts["recipe"])))
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    check_names(model.state_dict(), state, str(path))
    model.load_state_dict(state)
    return model.eval()


def run(recipe: Recipe, seed: int, path: Path, every: int, weights: Path | None) -> None:
    """Train once without self-attention and write the run's file; weights: where to keep them, if at all."""
    train_set, held_out = Scenes(4000, seed=0), Scenes(400, seed=HELD_OUT_SEED)
    results: list[dict] = []
    head = provenance(NAME, recipe, seed) | {"command": command()}

    def measure(detector: Detr) -> AveragePrecision:
        result = evaluate(detector, held_out, recipe.data, batch_size=50)
        results.append(result.to_dict())
        print(f"{NAME} seed {seed}: evaluation {len(results)}, AP50 {result.ap50:.3f}", flush=True)
        return result

    torch.manual_seed(seed)
    model = without_meeting(zoo.build("detr", "scenes", recipe.model))  # what is left has the race's first weights
    model.system = NAME
    done = fit(model, train_set, recipe, evaluate=measure, evaluate_every=every, seed=seed, progress=False)
    lines = [head, *evaluations(done.history, results)]
    with atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if weights:
        facts = describe(train_set, recipe) | {"steps": lines[-1]["step"], "seed": seed, "ap50": lines[-1]["ap50"]}
        save_weights(model, weights, half=True, **facts)


def command() -> str:
    """The command line of this run, for its provenance."""
    return " ".join(["python -m detr_mini.course.without_meeting", *sys.argv[1:]])


def main(arguments: list[str] | None = None) -> int:
    """Run every seed whose file is missing; the first one's weights are kept. Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run each")
    parser.add_argument("--steps", type=int, help="training steps (default: the recipe's)")
    parser.add_argument("--every", type=int, default=250, help="steps between evaluations on 400 held-out scenes")
    parser.add_argument("--to", type=Path, default=RUNS, help="folder for the runs' files")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="file for the first seed's weights")
    options = parser.parse_args(arguments)
    for seed in options.seeds:
        path = options.to / f"without-seed{seed}.jsonl"
        if not path.is_file():
            keep = options.weights if seed == options.seeds[0] else None
            run(scenes_recipe("detr", options.steps), seed, path, options.every, keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
