"""The command line: detr-mini COMMAND, or python -m detr_mini COMMAND; `list` is a good first one."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from detr_mini.commands.check import add_check
from detr_mini.commands.detect import add_detect
from detr_mini.commands.evaluate import add_evaluate
from detr_mini.commands.export_onnx import add_export_onnx
from detr_mini.commands.plan import add_plan
from detr_mini.commands.race import add_race
from detr_mini.commands.shared import positive
from detr_mini.commands.train import add_train
from detr_mini.printing import plain


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    root = argparse.ArgumentParser(
        prog=called(),
        description=f"Train and use small, readable detectors. Start with: {called()} list",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_list(commands)
    add_pretrain(commands)
    add_check(commands)
    add_train(commands)
    add_plan(commands)
    add_evaluate(commands)
    add_detect(commands)
    add_export_onnx(commands)
    add_race(commands)
    return root


def called() -> str:
    """How the user called this program: the installed command, or Python with the module's name."""
    return "detr-mini" if Path(sys.argv[0]).stem == "detr-mini" else "python -m detr_mini"


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


# -- what all commands go through -------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0, or 1 after one line on stderr when something the user can mend is wrong."""
    for stream in (sys.stdout, sys.stderr):  # a console that lacks a letter shows its number, and nothing is lost
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return guarded(options.run, options)


def guarded(run: Callable[[argparse.Namespace], int | None], options: argparse.Namespace) -> int:
    """Run, and turn errors that the user can mend into one line."""
    try:
        return run(options) or 0
    except (ValueError, OSError, RuntimeError, MemoryError, ImportError) as error:
        for bar in tuple(tqdm._instances):
            bar.close()  # or the line would follow a half-drawn bar
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def in_words(error: Exception) -> str:
    """An error in one line; where memory ran out, with what helps."""
    words = plain(" ".join(str(error).split()))
    if isinstance(error, MemoryError) or "allocate memory" in words or "out of memory" in words:
        return f"there is not enough memory ({words[:200]}): lower --batch, --size or --queries"
    return words


if __name__ == "__main__":
    sys.exit(main())
