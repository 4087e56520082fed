"""The command line: python -m detr_mini list | pretrain | check | train | plan | evaluate | detect | race."""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from detr_mini.commands.check import add_check
from detr_mini.commands.plan import add_plan
from detr_mini.commands.race import add_race
from detr_mini.commands.shared import SCENES_HELD_OUT, add_data, data_recipe, open_data, positive
from detr_mini.commands.train import add_train


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    root = argparse.ArgumentParser(
        prog="python -m detr_mini",
        description="Train and use small, readable detectors. Start with: python -m detr_mini list",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_list(commands)
    add_pretrain(commands)
    add_check(commands)
    add_train(commands)
    add_plan(commands)
    add_evaluate(commands)
    add_detect(commands)
    add_race(commands)
    return root


def add_list(commands: argparse._SubParsersAction) -> None:
    said = "show every detector: what it fixes, its paper and its size in both presets"
    command = commands.add_parser("list", help=said, description=said.capitalize() + ".")
    command.set_defaults(run=run_list)


def add_pretrain(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("pretrain", help="train the small backbone as a classifier of single things")
    command.add_argument("--to", type=Path, help="file to write (default: the weights that ship with the project)")
    command.add_argument("--steps", type=int, default=900, help="training steps (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    command.set_defaults(run=run_pretrain)


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("evaluate", help="measure average precision as COCO does")
    command.add_argument("--weights", type=Path, required=True, help="a .safetensors file that `train` wrote")
    add_data(command, "val")
    command.add_argument("--json", type=Path, help="also write the figures to this file")
    command.set_defaults(run=run_evaluate)


def add_detect(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("detect", help="find things in pictures; writes a PNG and a JSON for each")
    command.add_argument("images", nargs="+", type=Path, help="picture files")
    command.add_argument("--weights", type=Path, required=True, help="a .safetensors file that `train` wrote")
    command.add_argument("--to", type=Path, default=Path("detections"), help="folder to write to (%(default)s)")
    command.add_argument("--threshold", type=float, default=0.5, help="lowest score to draw (default: %(default)s)")
    command.set_defaults(run=run_detect)


# -- the commands ---------------------------------------------------------------------------------------------


def run_list(options: argparse.Namespace) -> None:
    """One block per detector."""
    from detr_mini import zoo

    for name in zoo.names():
        entry = zoo.entry(name)
        print(f"{name:<12} {entry.fixes}\n{'':<12} {entry.paper}\n{'':<12} {zoo.sizes(name)}\n")


def run_pretrain(options: argparse.Namespace) -> None:
    """Train the small backbone and say how good it is."""
    from detr_mini.backbone import SMALL_WEIGHTS
    from detr_mini.pretraining import pretrain

    path = options.to or SMALL_WEIGHTS
    accuracy = pretrain(path, positive(options.steps, "--steps"), seed=options.seed)
    print(f"{accuracy:.1%} of 2,000 fresh crops named rightly; weights in {path}")


def run_evaluate(options: argparse.Namespace) -> None:
    """Print COCO's figures."""
    from detr_mini.checkpoints import load_weights, read_facts
    from detr_mini.evaluation import evaluate
    from detr_mini.files import atomic

    data = open_data(options.data, options.split, SCENES_HELD_OUT, options.limit, scenes=400)
    result = evaluate(load_weights(options.weights), data, data_recipe(read_facts(options.weights)), progress=True)
    print(result)
    if options.json:
        with atomic(options.json) as temporary:
            temporary.write_text(json.dumps(result.to_dict(), indent=1) + "\n")


def run_detect(options: argparse.Namespace) -> None:
    """Draw what is found in every picture."""
    from PIL import Image

    from detr_mini.checkpoints import load_weights, read_facts
    from detr_mini.data.coco import read_image
    from detr_mini.data.transforms import build_transform
    from detr_mini.detection import detect, save_detections

    facts = read_facts(options.weights)
    model, transform = load_weights(options.weights), build_transform(data_recipe(facts), train=False)
    for path in options.images:
        image = read_image(path)
        found = detect(model, image, transform)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        kept, written = save_detections(picture, found, facts["classes"], options.threshold, options.to, path.stem)
        print(f"{path}: {kept} found -> {written}")


# -- what all commands go through -------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0, or 1 after one line on stderr when something the user can mend is wrong."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return guarded(options.run, options)


def guarded(run: Callable[[argparse.Namespace], int | None], options: argparse.Namespace) -> int:
    """Run, and turn errors that the user can mend into one line."""
    try:
        return run(options) or 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
