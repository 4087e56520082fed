"""Does it matter that DETR adds positions to queries and keys, and not to values?

    python -m detr_mini.course.position_in_values values --seeds 0 1 2
    # writes data/runs/position_in_values/values-seed0.jsonl and two more

In every attention of DETR q = W_q(x + p) and k = W_k(x + p), but v = W_v x. Here v = W_v(x + p), too:

    values      in the encoder, in the queries' self-attention and in cross-attention (1,000 steps)
    encoder     in the encoder alone (500 steps)
    queries     in the queries' self-attention alone, where p is the query's own, learned one (500 steps)
    cross       in cross-attention alone (500 steps)

Nothing else changes: recipe, first weights and batches are those of `python -m detr_mini race --detectors detr` with
the same seed. That race (data/runs/scenes) is the comparison. Its learning rate does not fall, so its first 1,000 steps
are a run of 1,000 steps.

A run leaves one file: provenance first, then one line per evaluation. A run whose file is there is not repeated.
"""

import argparse
import json
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
EVERY, SEEDS = 500, (0, 1, 2)
STEPS = {"values": 1000, "encoder": 500, "queries": 500, "cross": 500}  # form -> training steps


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


def with_position_in_values(model: Detr, form: str = "values") -> Detr:
    """The same DETR, some of whose attentions add positions to their values. Changes the model; keeps its weights.

    form: one of STEPS.
    """
    if form in ("values", "encoder"):
        for layer in model.encoder.layers:
            layer.self_attention = PositionInValues(layer.self_attention)
    if form in ("values", "queries"):
        for layer in model.decoder.layers:
            layer.self_attention = PositionInValues(layer.self_attention)
    if form in ("values", "cross"):
        for layer in model.decoder.layers:
            layer.cross_attention = PositionInValues(layer.cross_attention)
    return model


def path_of(form: str, seed: int, folder: Path = RUNS) -> Path:
    """The file of a run."""
    return folder / f"{form}-seed{seed}.jsonl"


def record(form: str, seed: int = 0, folder: Path = RUNS, steps: int | None = None, every: int = EVERY) -> Path:
    """Train once and write the run's file; returns its path. steps: those of STEPS unless given.

    ValueError, naming the choices, for an unknown form.
    """
    if form not in STEPS:
        raise ValueError(f"no form {form!r}: choose one of {', '.join(STEPS)}")
    recipe, results = scenes_recipe("detr", steps or STEPS[form]), []
    held_out = Scenes(400, seed=HELD_OUT_SEED)

    def measure(detector: Detr) -> AveragePrecision:
        result = evaluate(detector, held_out, recipe.data, batch_size=50)
        results.append(result.to_dict())
        print(f"{form}, seed {seed}: evaluation {len(results)}, AP50 {result.ap50:.3f}", flush=True)
        return result

    torch.manual_seed(seed)
    model = with_position_in_values(zoo.build("detr", "scenes", recipe.model), form)  # with the race's first weights
    done = fit(model, Scenes(4000, seed=0), recipe, evaluate=measure, evaluate_every=every, seed=seed, progress=False)
    head = provenance("detr", recipe, seed, __spec__.name) | {"says": f"positions are added to values, too: {form}"}
    write_lines(path_of(form, seed, folder), [head, *evaluations(done.history, results)])
    return path_of(form, seed, folder)


def compared(step: int, folder: Path = RUNS) -> dict[str, list[float]]:
    """AP50 at a step, one figure per seed, of DETR ("usual", from the race) and of each form that got that far."""
    runs = {form: [read_run(path_of(form, seed, folder)) for seed in SEEDS] for form in STEPS if step <= STEPS[form]}
    runs = {"usual": [rows for _, rows in read_runs(DATA / "runs" / "scenes")["detr"]]} | runs
    return {form: [at_step(rows, step)["ap50"] for rows in seeds] for form, seeds in runs.items()}


def read_run(path: Path) -> list[dict]:
    """The evaluations in a run's file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def main() -> None:
    """The command line: one form, or all of them; one seed, or several."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.position_in_values",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("forms", nargs="*", default=list(STEPS), help=f"any of: {', '.join(STEPS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="(default: 0 1 2)")
    parser.add_argument("--to", type=Path, default=RUNS, help="the folder to write to")
    given = parser.parse_args()
    for form in given.forms:
        for seed in given.seeds:
            if not is_there(path_of(form, seed, given.to)):
                print(record(form, seed, given.to), flush=True)


if __name__ == "__main__":
    main()
