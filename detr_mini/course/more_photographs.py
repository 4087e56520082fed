"""What do more photographs bring? The same training on 8, 25, 75 and all 205 of BCCD's photographs.

    python -m detr_mini.data.download bccd
    python -m detr_mini.course.more_photographs --seeds 0 1 2      # an hour of one core

A run draws its photographs by its seed, so that the band between seeds has the luck of the draw in it as well. All else
is that of the recorded runs on all photographs (data/runs/bccd): the fitted recipe of the whole set, 256 pixels, 600
steps of 8. So few photographs are seen more often, not less long. Every run is measured on the same 87 others and
leaves COUNT-seedN.jsonl under data/runs/more_photographs, in the race's form; all 205 are in data/runs/bccd already.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from detr_mini import zoo
from detr_mini.course.race import evaluations, is_there, provenance, write_lines
from detr_mini.data.layouts import open_folder
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, evaluate
from detr_mini.files import DATA
from detr_mini.fitting import facts_of, fitted_recipe
from detr_mini.recipes import Recipe
from detr_mini.training import fit

RUNS, WHOLE = DATA / "runs" / "more_photographs", DATA / "runs" / "bccd"
COUNTS, ALL, SEEDS = (8, 25, 75), 205, (0, 1, 2)
STEPS, EVERY, SIZE = 600, 200, 256  # training steps, steps between evaluations, pixels of the shorter side


class Drawn(Dataset):
    """Some items of a data set, drawn by a seed; classes and categories stay those of the whole."""

    def __init__(self, dataset: Dataset, count: int, seed: int) -> None:
        """ValueError when there are fewer than `count`."""
        if not 1 <= count <= len(dataset):
            raise ValueError(f"{count} photographs are to be drawn from {len(dataset)}: choose 1 to {len(dataset)}")
        drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count]
        self.dataset, self.rows = dataset, sorted(drawn.tolist())
        self.classes, self.num_classes = dataset.classes, dataset.num_classes
        self.label_to_category = dataset.label_to_category

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        return self.dataset[self.rows[index]]


def recipe_of(train_set: Dataset, steps: int) -> Recipe:
    """The recipe of `train --detector deformable --size 256 --steps N` on the whole set, on a CPU."""
    recipe, _ = fitted_recipe("deformable", facts_of(train_set), gpu=False)
    data = replace(recipe.data, train_sizes=(SIZE,), max_size=2 * SIZE, eval_size=SIZE)
    return replace(recipe, data=data, train=replace(recipe.train, steps=steps))


def path_of(count: int, seed: int, folder: Path = RUNS) -> Path:
    """The file of a run; of all photographs, that of the recorded ones."""
    return WHOLE / f"deformable-seed{seed}.jsonl" if count == ALL else folder / f"{count}-seed{seed}.jsonl"


def record(
    photographs: Path, count: int, seed: int, steps: int = STEPS, every: int = EVERY, folder: Path = RUNS
) -> Path:
    """Train on `count` photographs and write the run's file; returns the file's path.

    photographs: a folder as `python -m detr_mini.data.download bccd` makes it.
    """
    train_set, val_set, results = open_folder(photographs, "train"), open_folder(photographs, "val"), []
    drawn, recipe = Drawn(train_set, count, seed), recipe_of(train_set, steps)

    def measure(detector: Detr) -> AveragePrecision:
        results.append((result := evaluate(detector, val_set, recipe.data)).to_dict())
        return result

    torch.manual_seed(seed)
    model = zoo.build("deformable", model=recipe.model)
    model.backbone.load_imagenet()
    done = fit(model, drawn, recipe, evaluate=measure, evaluate_every=every, seed=seed, progress=False)
    head = provenance("deformable", recipe, seed, __spec__.name) | {"photographs": count, "rows": drawn.rows}
    write_lines(path_of(count, seed, folder), [head, *evaluations(done.history, results)])
    return path_of(count, seed, folder)


def read_growth(step: int = STEPS, folder: Path = RUNS) -> dict[int, list[float]]:
    """AP50 on the 87 other photographs at a step, per number of photographs: one figure per seed."""
    found = {}
    for count in (*COUNTS, ALL):
        paths = [path_of(count, seed, folder) for seed in SEEDS]
        runs = [path.read_text().splitlines()[1:] for path in paths if path.is_file()]
        found[count] = [row["ap50"] for rows in runs for row in map(json.loads, rows) if row["step"] == step]
    return found


def main(words: list[str] | None = None) -> None:
    """The command. A run whose file is there is not repeated."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.more_photographs",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS, help="(default: 8 25 75)")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="(default: 0 1 2)")
    parser.add_argument("--data", type=Path, default=DATA / "bccd", help="the photographs (default: data/bccd)")
    parser.add_argument("--to", type=Path, default=RUNS, help="where the files go")
    chosen = parser.parse_args(words)
    for count in chosen.counts:
        for seed in chosen.seeds:
            if not is_there(path_of(count, seed, chosen.to)):
                print(record(chosen.data, count, seed, folder=chosen.to), flush=True)


if __name__ == "__main__":
    main()
