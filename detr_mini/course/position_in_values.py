"""Does it matter that DETR adds positions to queries and keys, and not to values?

    python -m detr_mini.course.position_in_values --seeds 0 1 2
    # writes data/runs/position_in_values/values-seed0.jsonl and two more

In every attention of DETR q = W_q(x + p) and k = W_k(x + p), but v = W_v x. Here v = W_v(x + p), too: in the encoder,
in the queries' self-attention and in cross-attention. Nothing else changes: recipe, first weights and batches are those
of `python -m detr_mini race --detectors detr` with the same seed. That race (data/runs/scenes) is the comparison. Its
learning rate does not fall, so its first 1,000 steps are a run of 1,000 steps.

A run leaves one file: provenance first, then one line per evaluation. A run whose file is there is not repeated.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from detr_mini import zoo
from detr_mini.attention import MultiHeadAttention, add
from detr_mini.course.race import HELD_OUT_SEED, evaluations, is_there, provenance, scenes_recipe, write_lines
from detr_mini.course.race_table import at_step, read_runs
from detr_mini.data.scenes import Scenes
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, evaluate
from detr_mini.files import DATA
from detr_mini.training import fit

RUNS = DATA / "runs" / "position_in_values"
STEPS, EVERY, SEEDS = 1000, 500, (0, 1, 2)


class PositionInValues(nn.Module):
    """Around an attention: the position of the keys is added to the values as well. Forward as the attention's own."""

    def __init__(self, attention: MultiHeadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_position: Tensor | None = None,
        key_position: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        return self.attention(query, key, add(value, key_position), query_position, key_position, bias)


def with_position_in_values(model: Detr) -> Detr:
    """The same DETR, all of whose attentions add positions to their values. Changes the model; keeps its weights."""
    for layer in model.encoder.layers:
        layer.self_attention = PositionInValues(layer.self_attention)
    for layer in model.decoder.layers:
        layer.self_attention = PositionInValues(layer.self_attention)
        layer.cross_attention = PositionInValues(layer.cross_attention)
    return model


def path_of(seed: int, folder: Path = RUNS) -> Path:
    """The file of a run."""
    return folder / f"values-seed{seed}.jsonl"


def record(seed: int = 0, folder: Path = RUNS, steps: int = STEPS, every: int = EVERY) -> Path:
    """Train once and write the run's file."""
    recipe, results = scenes_recipe("detr", steps), []
    held_out = Scenes(400, seed=HELD_OUT_SEED)

    def measure(detector: Detr) -> AveragePrecision:
        result = evaluate(detector, held_out, recipe.data, batch_size=50)
        results.append(result.to_dict())
        print(f"seed {seed}: evaluation {len(results)}, AP50 {result.ap50:.3f}", flush=True)
        return result

    torch.manual_seed(seed)
    model = with_position_in_values(zoo.build("detr", "scenes", recipe.model))  # with the race's first weights
    done = fit(model, Scenes(4000, seed=0), recipe, evaluate=measure, evaluate_every=every, seed=seed, progress=False)
    head = provenance("detr", recipe, seed, __spec__.name) | {"says": "positions are added to values, too"}
    write_lines(path_of(seed, folder), [head, *evaluations(done.history, results)])
    return path_of(seed, folder)


def compared(step: int = STEPS, folder: Path = RUNS) -> dict[str, list[float]]:
    """AP50 at a step, 500 or 1000, one figure per seed: {"q and k": DETR of the race, "q, k and v": these runs}."""
    usual, also = read_runs(DATA / "runs" / "scenes")["detr"], read_runs(folder)["detr"]
    return {name: [at_step(rows, step)["ap50"] for _, rows in runs]
            for name, runs in (("q and k", usual), ("q, k and v", also))}


def main() -> None:
    """The command line: one seed, or several."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.position_in_values",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="(default: 0 1 2)")
    parser.add_argument("--to", type=Path, default=RUNS, help="the folder to write to")
    given = parser.parse_args()
    for seed in given.seeds:
        if not is_there(path_of(seed, given.to)):
            print(record(seed, given.to), flush=True)


if __name__ == "__main__":
    main()
