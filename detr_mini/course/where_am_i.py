"""Do tokens know where they are? A straight line reads row and column off them, before and after DETR's encoder.

    python -m detr_mini.course.where_am_i      # both forms, three seeds: about twenty minutes of one core
    python -m detr_mini.course.where_am_i --forms detr --seeds 0 --steps 100 --to /tmp/mine

detr: the race's DETR. no_code: the same, but its encoder gets no positional encoding, in training and ever after; the
decoder's keys have theirs. Each run leaves FORM-seedN.jsonl under data/runs/where_am_i: provenance first, then one line
per look. A look has R^2 of row and column, read off tokens of 200 held-out scenes by a ridge regression that was
fitted on 200 others:

    tokens     before the encoder: features of the backbone, projected
    memory     after the encoder
    silenced   after the same encoder when its positional encoding is set to 0 for this look

and, where the detector was evaluated at that step, AP50 on the race's 400 held-out scenes.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from detr_mini import zoo
from detr_mini.course.race import HELD_OUT_SEED, is_there, provenance, scenes_recipe, write_lines
from detr_mini.data.scenes import Scenes
from detr_mini.data.transforms import build_transform, collate
from detr_mini.detr import Detr
from detr_mini.encoder import Encoder, EncoderLayer
from detr_mini.evaluation import AveragePrecision, evaluate, evaluating
from detr_mini.files import DATA
from detr_mini.positions import Grid
from detr_mini.recipes import DataRecipe, Recipe
from detr_mini.training import Step, fit

RUNS = DATA / "runs" / "where_am_i"
FORMS, SEEDS = ("detr", "no_code"), (0, 1, 2)
STEPS, EVERY = 1500, 500  # training steps; steps between evaluations
LOOKS = (0, 100, 250, 500, 1000, 1500)
FITTED, JUDGED = range(200), range(200, 400)  # held-out scenes a read-out is fitted on, and judged on
RIDGE = 1e-3  # times the number of tokens; tokens have standard deviation 1


class NoCodeEncoder(Encoder):
    """An encoder that is told of no position."""

    def encoder_attend(self, layer: EncoderLayer, memory: Tensor, grid: Grid) -> Tensor:
        """As DETR, with a positional encoding of zeros."""
        return super().encoder_attend(layer, memory, replace(grid, position=torch.zeros_like(grid.position)))


class NoCodeDetr(Detr):
    """DETR whose encoder is told of no position. Its decoder is."""

    encoder_class = NoCodeEncoder


def build(form: str, recipe: Recipe) -> Detr:
    """A fresh detector of a form; ValueError, naming the forms, for an unknown one."""
    if form not in FORMS:
        raise ValueError(f"no form {form!r}: choose one of {', '.join(FORMS)}")
    if form == "detr":
        return zoo.build("detr", "scenes", recipe.model)
    model = NoCodeDetr(recipe.model)
    model.backbone.load_pretrained()
    return model


# ---------------------------------------------------------------- the read-out


def ridge(tokens: Tensor, places: Tensor, penalty: float = RIDGE) -> Tensor:
    """Weights (d + 1, n) of the straight line from tokens (N, d) to places (N, n): the least squares, with a penalty.

    Solves (X'X + penalty N I) W = X'Y; the constant, last, is not penalised.
    """
    inputs = torch.cat([tokens, torch.ones(len(tokens), 1)], dim=1).double()  # (N, d + 1)
    held = penalty * len(tokens) * torch.eye(inputs.shape[1], dtype=torch.double)
    held[-1, -1] = 0
    return torch.linalg.solve(inputs.T @ inputs + held, inputs.T @ places.double()).float()


def read(tokens: Tensor, weights: Tensor) -> Tensor:
    """What the line says of tokens (..., d): places (..., n)."""
    return tokens @ weights[:-1] + weights[-1]


def r_squared(said: Tensor, true: Tensor) -> Tensor:
    """1 - sum of squared errors / that of always saying the mean; (N, n) twice -> (n,)."""
    return 1 - ((said - true) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)


def places_of(grid: Grid) -> Tensor:
    """(row, column) of every cell of a map without padding, from 0 to 1: (HW, 2)."""
    height, width = grid.shapes[0]
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([row.flatten() / (height - 1), column.flatten() / (width - 1)], dim=-1)


def scaled(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens (N, HW, d) with every channel's mean and standard deviation in `like` taken out."""
    return (tokens - like.mean((0, 1))) / like.std((0, 1)).clamp(min=1e-6)


class Reader:
    """Holds the images, and reads row and column off a detector's tokens."""

    def __init__(self, scenes: Scenes, data: DataRecipe) -> None:
        """scenes: at least as many as FITTED and JUDGED say; data: how images are prepared."""
        transform = build_transform(data, train=False)
        self.batch = collate([transform(*scenes[index]) for index in (*FITTED, *JUDGED)])

    @torch.no_grad()
    def collect(self, model: Detr) -> tuple[dict[str, Tensor], Tensor]:
        """Tokens, memory and silenced memory of all images, (N, HW, d) each, and the places (HW, 2)."""
        with evaluating(model):
            tokens, grid = model.tokenize(self.batch.images, self.batch.mask)
            silent = replace(grid, position=torch.zeros_like(grid.position))
            seen = {"tokens": tokens, "memory": model.encoder(tokens, grid), "silenced": model.encoder(tokens, silent)}
        return seen, places_of(grid)

    def said(self, tokens: Tensor, places: Tensor) -> Tensor:
        """What a line fitted on the first scenes says of the others: (N, HW, d) -> (JUDGED, HW, 2)."""
        count = len(FITTED)
        tokens = scaled(tokens, tokens[:count])
        weights = ridge(tokens[:count].flatten(0, 1), places.repeat(count, 1))
        return read(tokens[count:], weights)

    def look(self, model: Detr) -> dict[str, list[float]]:
        """R^2 of row and column, for tokens, memory and silenced memory."""
        seen, places = self.collect(model)
        true = places.repeat(len(JUDGED), 1)
        return {name: [round(value, 4) for value in r_squared(self.said(tokens, places).flatten(0, 1), true).tolist()]
                for name, tokens in seen.items()}


# ---------------------------------------------------------------- the runs


def path_of(form: str, seed: int, folder: Path = RUNS) -> Path:
    """The file of a run."""
    return folder / f"{form}-seed{seed}.jsonl"


def record(form: str, seed: int, steps: int = STEPS, folder: Path = RUNS) -> Path:
    """Train one form on scenes and write its file; returns the file's path."""
    recipe, held_out = scenes_recipe("detr", steps), Scenes(400, seed=HELD_OUT_SEED)
    reader, lines, results = Reader(held_out, recipe.data), [], []
    torch.manual_seed(seed)
    model = build(form, recipe)

    def look(step: Step) -> None:
        if step.number in LOOKS or step.number == steps:
            lines.append({"step": step.number} | reader.look(step.model))

    def measure(detector: Detr) -> AveragePrecision:
        results.append(evaluate(detector, held_out, recipe.data, batch_size=50))
        return results[-1]

    lines.append({"step": 0} | reader.look(model))
    run = fit(model, Scenes(4000, seed=0), recipe, callbacks=(look,), seed=seed, evaluate=measure, evaluate_every=EVERY,
              progress=False)
    evaluated = [line["step"] for line in run.history if "ap50" in line]
    figures = [{"step": step, "ap": result.ap, "ap50": result.ap50}
               for step, result in zip(evaluated, results, strict=True)]
    head = provenance("detr", recipe, seed, __spec__.name) | {"form": form}
    write_lines(path_of(form, seed, folder), [head, *lines, *figures])
    return path_of(form, seed, folder)


def recorded(form: str, name: str, folder: Path = RUNS) -> dict[int, list]:
    """What the runs of a form have under a name, step -> one entry per seed: of a look, such as "memory", R^2 of row
    and column; of an evaluation, "ap" or "ap50", a number.
    """
    found: dict[int, list] = {}
    for seed in SEEDS:
        for line in map(json.loads, path_of(form, seed, folder).read_text(encoding="utf-8").splitlines()[1:]):
            if name in line:
                found.setdefault(line["step"], []).append(line[name])
    return found


def main(words: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.where_am_i", description=__doc__.split("\n")[0])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="(default: 0 1 2)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of each (default: {STEPS})")
    parser.add_argument("--to", type=Path, default=RUNS, help="where the files go")
    chosen = parser.parse_args(words)
    for form in chosen.forms:
        for seed in chosen.seeds:
            if not is_there(path_of(form, seed, chosen.to)):
                print(record(form, seed, chosen.steps, chosen.to), flush=True)


if __name__ == "__main__":
    main()
