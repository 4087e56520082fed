"""Once its queries are re-sampled from the image, does SAM-DETR still need cross-attention?

    python -m detr_mini.course.without_cross_attention --seeds 0 1 2 --steps 1000

SAM-DETR cuts a query's box out of memory, samples one salient point per head there, and uses what it found only to ask
with: the residual stream never sees it. So cross-attention cannot simply be left out, or no image would reach a query.
Three forms answer the question.

    reads   SAM, where every head takes the features of its salient point instead of an average over all cells
    both    SAM, where every head takes both: the average, and the features of its point
    blind   DETR without cross-attention; its answer is the same for every image

`reads` is SAM whose attention maps are 1 at the salient point and 0 elsewhere; boxes, points, reweighting, value and
output projections stay as they were. Recipe, first weights and order of batches are those of `python -m detr_mini
race` with the same seed, whose SAM-DETR is the fourth form.

A run leaves one file, FORM-seedN.jsonl, under data/runs/cross_attention: provenance first, then one line per
evaluation. A run whose file is there is not repeated, and one that was stopped goes on from its last evaluation.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from detr_mini import zoo
from detr_mini.course.race import HELD_OUT_SEED, evaluations, is_there, measured, provenance, scenes_recipe, write_lines
from detr_mini.data.scenes import Scenes
from detr_mini.decoder import DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, evaluate
from detr_mini.files import DATA
from detr_mini.positions import Grid
from detr_mini.recipes import Recipe
from detr_mini.training import fit
from detr_mini.variants.sam import SamDecoder
from detr_mini.variants.sam_aligner import AlignedAttention, crop, sample

RUNS = DATA / "runs" / "cross_attention"
UNUSED = ("query", "key", "query_position", "key_position", "position_weight")  # parts that only serve to compare


# ---------------------------------------------------------------- the three forms


def read(attend: AlignedAttention, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
    """What the heads find at their salient points, each its own slice of the width: -> (B, Q, d), before `output`.

    memory: (B, HW, d). Cut, points and reweighting are SAM-DETR's; the value projection is that of its attention.
    """
    crops = crop(queries.reference, memory, grid)  # (B, Q, d, 7, 7)
    offsets, _ = attend.salient(crops)  # (B, Q, heads, 2)
    gate = attend.content_weight(queries.content).sigmoid().unflatten(-1, (attend.heads, -1))  # (B, Q, heads, d)
    value = attend.value(sample(crops, offsets) * gate).unflatten(-1, (attend.heads, -1))  # (B, Q, heads, heads, d/h)
    return value.diagonal(dim1=2, dim2=3).transpose(2, 3).flatten(2)  # head h takes slice h: (B, Q, d)


class ReadingDecoder(SamDecoder):
    """SAM-DETR's decoder without cross-attention: a head takes what is at its salient point, and nothing else."""

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        """The features of the salient points, instead of an average over memory, (B, Q, d)."""
        attend = layer.cross_attention
        return attend.output(read(attend, queries, memory, grid))


class BothDecoder(SamDecoder):
    """SAM-DETR's decoder whose heads take their average over memory and the features of their point."""

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        """The sum of the two, (B, Q, d). The output projection's bias is added once."""
        attend = layer.cross_attention
        found = nn.functional.linear(read(attend, queries, memory, grid), attend.output.weight)
        return super().cross_attend(layer, queries, memory, grid) + found


class Nothing(nn.Module):
    """Stands where cross-attention stood, and finds nothing: query (B, Q, d), ... -> zeros (B, Q, d)."""

    def forward(self, query: Tensor, *others: Tensor | None) -> Tensor:
        return torch.zeros_like(query)


def reads(model: Detr) -> Detr:
    """Turn a SAM-DETR into one that reads: the parts that only serve to compare are gone. Changes and returns it."""
    model.decoder.__class__ = ReadingDecoder
    for layer in model.decoder.layers:
        for part in UNUSED:
            delattr(layer.cross_attention, part)
    return model


def both(model: Detr) -> Detr:
    """Turn a SAM-DETR into one that attends and reads, with the same parameters. Changes and returns it."""
    model.decoder.__class__ = BothDecoder
    return model


def blind(model: Detr) -> Detr:
    """Take cross-attention from a DETR. Residual and norm stay: x -> norm2(x + 0). Changes and returns it."""
    for layer in model.decoder.layers:
        layer.cross_attention = Nothing()
    return model


FORMS: dict[str, tuple[str, Callable[[Detr], Detr]]] = {
    "reads": ("sam", reads), "both": ("sam", both), "blind": ("detr", blind),
}


def build(form: str, recipe: Recipe | None = None) -> Detr:
    """A fresh detector of one form, for scenes: "reads", "both" or "blind". KeyError for any other.

    With the same torch seed, what it shares with the detector it is made from has the same first weights.
    """
    name, change = FORMS[form]
    model = change(zoo.build(name, "scenes", recipe.model if recipe else None))
    model.system = f"{name}_{form}"
    return model


# ---------------------------------------------------------------- the runs


def run(form: str, seed: int, steps: int, path: Path, every: int) -> None:
    """Train one form once and write its file. A run that was stopped goes on from its last evaluation."""
    recipe = scenes_recipe(FORMS[form][0], steps)
    train_set, held_out = Scenes(4000, seed=0), Scenes(400, seed=HELD_OUT_SEED)
    unfinished = path.with_name(f"{path.stem}.unfinished")  # a folder, gone when the run is done
    results = measured(unfinished, every)
    torch.manual_seed(seed)
    model = build(form, recipe)
    head = provenance(model.system, recipe, seed, __spec__.name) | {"form": form, "parameters": zoo.count(model)}

    def measure(detector: Detr) -> AveragePrecision:
        result = evaluate(detector, held_out, recipe.data, batch_size=50)
        results.append(result.to_dict())
        write_lines(unfinished / "measured.jsonl", results)
        print(f"{form} seed {seed}: evaluation {len(results)}, AP50 {result.ap50:.3f}", flush=True)
        return result

    done = fit(model, train_set, recipe, unfinished, evaluate=measure, evaluate_every=every, save_every=every,
               seed=seed, progress=False)
    write_lines(path, [head, *evaluations(done.history, results)])
    shutil.rmtree(unfinished)


def main(arguments: list[str] | None = None) -> int:
    """Run every form with every seed whose file is not there yet, seed by seed. Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS), help="see above")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run each")
    parser.add_argument("--steps", type=int, default=1000, help="training steps")
    parser.add_argument("--every", type=int, default=125, help="steps between evaluations on 400 held-out scenes")
    parser.add_argument("--to", type=Path, default=RUNS, help="folder for the runs' files")
    options = parser.parse_args(arguments)
    for seed in options.seeds:
        for form in options.forms:
            path = options.to / f"{form}-seed{seed}.jsonl"
            if not is_there(path):
                run(form, seed, options.steps, path, options.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
