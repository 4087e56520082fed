"""Why DETR learns slowly: train it, look at chosen steps, and write down how it looks. Beside it, one cure.

    python -m detr_mini.course.why_slow              # DETR 2,500 steps, SMCA 1,000: ten minutes
    python -m detr_mini.course.why_slow --detectors smca --steps 500 --to /tmp/mine

Every run leaves two files under data/my_runs/why_slow, and notebook 10 reads those instead of the course's own, which
are in data/runs/why_slow. DETECTOR.jsonl: provenance first, then one line per look at 200 held-out scenes, with the
measures of looking.py for each decoder layer. DETECTOR.safetensors: what was seen in eight of these scenes, last layer,
mean of the heads, to be replayed. A run whose files are there is not repeated.

The recorder changes nothing, so these are the race's runs with the same seed. Made anew they agree closely but not to
the last digit: floating-point sums differ between machines, and a training enlarges the difference.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from detr_mini import zoo
from detr_mini.attention import MultiHeadAttention
from detr_mini.course.looking import flipped, listen, measure, score_terms, spread
from detr_mini.course.race import HELD_OUT_SEED, is_there, provenance, scenes_recipe, write_lines
from detr_mini.course.recorder import Look, Recorder
from detr_mini.data.scenes import Scenes
from detr_mini.detr import Detr
from detr_mini.evaluation import evaluating
from detr_mini.files import DATA
from detr_mini.trace import AttentionTrace
from detr_mini.training import Step, fit

RUNS = DATA / "runs" / "why_slow"
MINE = DATA / "my_runs" / "why_slow"  # where a learner's own recordings go
STEPS = {"detr": 2500, "smca": 1000}
LOOKS = (0, 10, 25, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1000, 1300, 1600, 2000, 2500)
GAP = 25  # flips are counted against the matching so many steps before
REPLAYED, MEASURED, SPLIT = 8, 200, 50  # held-out scenes that are recorded, measured, and split into four terms


class Meter:
    """A callback for `fit` that measures how a detector looks after chosen steps.

    recorder: looks at the scenes to measure; what it sees is measured and not kept. lines: one dict per look.
    """

    def __init__(self, recorder: Recorder, steps: tuple[int, ...], gap: int = GAP) -> None:
        self.recorder, self.steps, self.gap = recorder, frozenset(steps), gap
        self.owners: dict[int, Tensor] = {}
        self.lines: list[dict[str, object]] = []

    def facts(self) -> dict[str, int]:
        """What is measured, for the head of the lines' file."""
        scenes = len(self.recorder.originals)
        return {"scenes": scenes, "held_out_seed": HELD_OUT_SEED, "gap": self.gap, "split": SPLIT}

    def __call__(self, step: Step) -> None:
        if step.number in self.steps:
            self.look(step.model, step.number)
        elif step.number + self.gap in self.steps:
            self.see(step.model, step.number)

    def see(self, model: Detr, step: int) -> Look:
        """Look, remember the matching, and keep nothing else."""
        seen = self.recorder.look(model, step)
        self.recorder.looks.clear()
        self.owners[step] = seen.owners
        return seen

    def look(self, model: Detr, step: int) -> dict[str, object]:
        """Measure now; returns the line."""
        seen = self.see(model, step)
        line = {"step": step} | measure(seen, self.recorder.batch.targets)
        if step - self.gap in self.owners:
            changed = flipped(self.owners[step - self.gap], seen.owners)
            line["flips"] = [round(float(part), 5) for part in changed]
        line["terms"] = self.terms(model)
        self.lines.append(line)
        print(json.dumps(line), flush=True)
        return line

    @torch.no_grad()
    def terms(self, model: Detr) -> dict[str, list[float]]:
        """How much each term of the scores tells places apart, per layer: mean over scenes, heads and queries."""
        batch = self.recorder.batch
        with evaluating(model), listen(model.decoder) as heard, AttentionTrace(model) as trace:
            model(batch.images[:SPLIT], batch.mask[:SPLIT])
        spreads: dict[str, list[float]] = {}
        for layer, asked in zip(model.decoder.layers, heard, strict=True):
            terms = score_terms(layer.cross_attention, asked)
            record = trace[f"decoder.layers.{layer.index}.cross_attention"]
            terms |= {"gaussian": record.gaussian} if hasattr(record, "gaussian") else {}
            for name, term in terms.items():
                spreads.setdefault(name, []).append(round(float(spread(term).mean()), 5))
        return spreads


def record(name: str, steps: int, folder: Path, seed: int = 0) -> Path:
    """Train one detector on scenes with both callbacks, and write its two files; returns the measures' path.

    Raises ValueError for a detector whose cross-attention is no dot product over all places.
    """
    path, recipe = folder / f"{name}.jsonl", scenes_recipe(name, steps)
    if path.is_file():
        return path
    torch.manual_seed(seed)
    model = zoo.build(name, "scenes", recipe.model)
    if not all(isinstance(layer.cross_attention, MultiHeadAttention) for layer in model.decoder.layers):
        raise ValueError(f"{name}'s cross-attention has no map over all places to measure: choose detr or smca")
    train_set, held_out = Scenes(4000, seed=0), Scenes(400, seed=HELD_OUT_SEED)
    looks = tuple(step for step in LOOKS if step < steps) + (steps,)
    recorder = Recorder(held_out, range(REPLAYED), recipe.data, recipe.loss, looks)
    meter = Meter(Recorder(held_out, range(MEASURED), recipe.data, recipe.loss, ()), looks)
    head = provenance(name, recipe, seed, __spec__.name) | {"measured": meter.facts()}
    recorder.look(model, 0)
    meter.look(model, 0)
    fit(model, train_set, recipe, callbacks=(recorder, meter), seed=seed, progress=False)
    write_lines(path, [head, *meter.lines])
    recorder.recording().slim().save(path.with_suffix(".safetensors"), **head)
    return path


def recorded(name: str) -> Path:
    """A recording's file, "detr.jsonl": the learner's own where there is one, else the course's."""
    return MINE / name if (MINE / name).is_file() else RUNS / name


def read_measures(path: Path | str) -> tuple[dict[str, object], list[dict[str, object]]]:
    """The provenance and the lines of a file of measures."""
    head, *lines = map(json.loads, Path(path).read_text().splitlines())
    return head, lines


def main(words: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.why_slow", description=__doc__.split("\n")[0])
    parser.add_argument("--detectors", nargs="+", choices=tuple(STEPS), default=list(STEPS))
    parser.add_argument("--steps", type=int, help="training steps (default: 2,500 for detr, 1,000 for smca)")
    parser.add_argument("--to", type=Path, default=MINE, help="where the files go")
    chosen = parser.parse_args(words)
    for name in chosen.detectors:
        if not is_there(chosen.to / f"{name}.jsonl"):
            print(record(name, chosen.steps or STEPS[name], chosen.to), flush=True)


if __name__ == "__main__":
    main()
