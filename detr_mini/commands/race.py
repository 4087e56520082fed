"""python -m detr_mini race"""

import argparse
import json
from pathlib import Path

from detr_mini.commands.shared import positive


def add_race(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "race", help="train detectors on the same scenes with several seeds, and record their curves",
        description="Train detectors on the same 4,000 scenes and record average precision on 400 held-out ones. "
        "A run whose file is there is not repeated; one that was stopped goes on.",
    )
    command.add_argument("--detectors", nargs="+", metavar="NAME", help="see `list` (default: all of them)")
    command.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    command.add_argument("--steps", type=int, help="training steps (default: each recipe's own)")
    command.add_argument("--every", type=int, default=250, help="steps between evaluations (default: %(default)s)")
    command.add_argument("--to", type=Path, default=Path("runs/race"), help="folder for the curves (%(default)s)")
    command.add_argument("--weights", type=Path, help="folder for the final weights of the first seed, half precision")
    command.add_argument("--own", action="store_const", const="own", dest="recipes", default="race",
                         help="each paper's own recipe instead of one for all")
    command.add_argument("--shared", action="store_const", const="shared", dest="recipes",
                         help="one recipe for all, with the schedule that nearly all papers share")
    command.add_argument("--batch", type=int, help="images per step, with --own or --shared; the images stay as many")
    command.add_argument(
        "--change", nargs="+", default=[], metavar="FIELD=VALUE",
        help="change fields of the model, e.g. refine=false (with --detectors)",
    )
    command.add_argument(
        "--costs", type=Path, metavar="FILE",
        help="train nothing to the end: write parameters, operations, time per step and memory of every detector",
    )
    command.add_argument(
        "--against", type=Path, metavar="FOLDER",
        help="train nothing: say whether the runs in --to agree with those in this folder; status 1 when they do not",
    )
    command.add_argument("--table", type=Path, metavar="FOLDER", help="train nothing: print a folder's runs as tables")
    command.set_defaults(run=run_race)


def run_race(options: argparse.Namespace) -> int | None:
    """Say what is missing, run it and print one line per run; or do one of the things that train nothing."""
    from detr_mini import zoo
    from detr_mini.course.race import race
    from detr_mini.course.race_check import agreement
    from detr_mini.course.race_costs import costs
    from detr_mini.course.race_table import race_table

    if options.table:
        return print(race_table(options.table))
    if options.against:
        words, agree = agreement(options.against, options.to)
        print(words)
        return 0 if agree else 1
    detectors = options.detectors or zoo.names()
    if options.costs:
        return print(costs(detectors, options.costs, options.recipes == "own"))
    if options.change and not options.detectors:
        raise ValueError(f"--change {options.change[0]} needs --detectors: say whose model has this field")
    every, fields = positive(options.every, "--every"), fields_of(options.change)
    batch = options.batch and positive(options.batch, "--batch")
    print(plan(detectors, options.seeds, options.steps, options.to, options.recipes, fields, batch), flush=True)
    files = race(detectors, options.seeds, options.steps, options.to, every, options.weights, options.recipes, fields,
                 batch)
    for path in files:
        last = json.loads(path.read_text().splitlines()[-1])
        said = f"{last['step']} steps, {last['seconds']:.0f} s, AP {last['ap']:.3f}, AP50 {last['ap50']:.3f}"
        print(f"{path.stem}: {said}")


def plan(
    detectors: list[str], seeds: list[int], steps: int | None, folder: Path, recipes: str, fields: dict[str, object],
    batch: int | None = None,
) -> str:
    """What is there and what is to be trained; the arguments are those of `race`, and so are its ValueErrors."""
    from detr_mini.course.race import BATCH, changed, recipe_of

    trains = {name: changed(recipe_of(name, steps, recipes, batch), fields).train for name in detectors}
    runs = {folder / f"{name}-seed{seed}.jsonl": trains[name] for name in detectors for seed in seeds}
    missing = [path for path in runs if not path.is_file()]
    begun = sum((path.with_suffix(".unfinished") / "last.pt").is_file() for path in missing)
    due = sum(runs[path].steps * runs[path].batch // BATCH for path in missing)
    said = f"runs in {folder}: {len(runs)} in all, {len(runs) - len(missing)} there already, {begun} begun"
    if not missing:
        return said
    return (f"{said}; to train: {'less than ' if begun else ''}{due:,} steps of {BATCH} images\n"
            "Stop it whenever you like: given again, the same command goes on from the last evaluation.")


def fields_of(changes: list[str]) -> dict[str, object]:
    """["refine=false", "points=8"] -> {"refine": False, "points": 8}; ValueError for one that is not of this form."""
    fields = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            fields[name] = json.loads(value)
        except ValueError as error:
            raise ValueError(f"--change {change}: write FIELD=VALUE, as in refine=false or points=8") from error
    return fields
