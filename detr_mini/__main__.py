"""The command line: python -m detr_mini list | pretrain | train | plan | evaluate | detect | race."""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

SCENES_HELD_OUT = 1_000_003  # the seed of the evaluation scenes: no training seed comes near it


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    root = argparse.ArgumentParser(
        prog="python -m detr_mini",
        description="Train and use small, readable detectors. Start with: python -m detr_mini list",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_list(commands)
    add_pretrain(commands)
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


def add_data(command: argparse.ArgumentParser, split: str) -> None:
    """The options that say which images."""
    command.add_argument(
        "--data", default="scenes", metavar="scenes|PATH",
        help="generated scenes, or a folder with images and an instances JSON in COCO's format (default: scenes)",
    )
    command.add_argument("--split", default=split, help="which split of the folder to use (default: %(default)s)")
    command.add_argument("--limit", type=int, metavar="N", help="use the first N images only")


def add_train(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "train", help="train a detector",
        description="Train a detector. A run that was stopped goes on when the same command is given again.",
    )
    command.add_argument("--detector", default="detr", help="see `list` (default: %(default)s)")
    command.add_argument(
        "--preset", default="scenes",
        help="scenes: small, for a laptop; coco: the paper's, for GPUs; or a form of it: coco-dc5 (default: scenes)",
    )
    add_data(command, "train")
    command.add_argument("--val-split", default="val", help="split to evaluate on (default: %(default)s)")
    command.add_argument("--to", type=Path, default=Path("runs/train"), help="folder of the run (default: %(default)s)")
    command.add_argument("--steps", type=int, help="training steps (default: the preset's)")
    command.add_argument("--batch", type=int, help="images per step, over all processes (default: the preset's)")
    command.add_argument("--lr", type=float, help="learning rate (default: the preset's)")
    command.add_argument("--backbone-lr", type=float, help="learning rate of the backbone, 0 freezes it")
    command.add_argument("--size", type=int, help="shorter side of the images in pixels, without scale jitter")
    command.add_argument("--queries", type=int, help="most objects in an image (default: the preset's)")
    command.add_argument(
        "--backbone-weights", default="imagenet", choices=("imagenet", "none"),
        help="where a ResNet-50 starts (default: %(default)s)",
    )
    command.add_argument("--weights", type=Path, help="start from this detector's weights (of the same shape)")
    command.add_argument("--evaluate-every", type=int, metavar="N", help="evaluate every N steps (default: at the end)")
    command.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    command.add_argument("--precision", default="no", choices=("no", "bf16", "fp16"), help="mixed precision")
    command.add_argument("--accumulate", type=int, default=1, help="micro-batches per step (default: %(default)s)")
    command.add_argument("--workers", type=int, default=0, help="processes that load images (default: %(default)s)")
    command.add_argument("--processes", type=int, metavar="N", help="fail unless N processes take part (torchrun)")
    command.add_argument("--compile", action="store_true", help="through torch.compile: slower to start, then faster")
    command.add_argument(
        "--recompute", action="store_true", help="the encoder computes its activations twice: less memory, more time"
    )
    command.add_argument("--tensorboard", action="store_true", help="write TensorBoard files into the run's folder")
    command.set_defaults(run=run_train)


def add_plan(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "plan", help="what a training would take: images, steps, memory, hours; nothing is trained",
    )
    command.add_argument("--detector", default="detr", help="see `list` (default: %(default)s)")
    command.add_argument("--preset", default="coco", help="as for `train` (default: %(default)s)")
    command.add_argument("--images", type=int, metavar="N", help="images to train on (default: COCO train2017's)")
    command.add_argument("--gpu", default="a100", help="t4, v100, rtx3090, rtx4090, a100, h100 (default: %(default)s)")
    command.add_argument("--gpus", type=int, default=8, help="how many (default: %(default)s)")
    command.add_argument("--accumulate", type=int, default=1, help="micro-batches per step (default: %(default)s)")
    command.add_argument("--precision", default="no", choices=("no", "bf16", "fp16"), help="mixed precision")
    command.set_defaults(run=run_plan)


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


def add_race(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "race", help="train detectors on the same scenes with several seeds, and record their curves",
        description="Train detectors on the same 4,000 scenes and record average precision on 400 held-out ones. "
        "A run whose file is there is not repeated.",
    )
    command.add_argument("--detectors", nargs="+", default=["detr"], help="see `list` (default: detr)")
    command.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    command.add_argument("--steps", type=int, help="training steps (default: each recipe's own)")
    command.add_argument("--every", type=int, default=250, help="steps between evaluations (default: %(default)s)")
    command.add_argument("--to", type=Path, default=Path("runs/race"), help="folder for the curves (%(default)s)")
    command.add_argument("--weights", type=Path, help="folder for the final weights of the first seed, half precision")
    command.add_argument("--own", action="store_true", help="each paper's own recipe instead of one for all")
    command.add_argument(
        "--change", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the model, e.g. refine=false"
    )
    command.add_argument(
        "--costs", type=Path, metavar="FILE",
        help="train nothing to the end: write parameters, operations, time per step and memory of every detector",
    )
    command.add_argument(
        "--against", type=Path, metavar="FOLDER",
        help="train nothing: say whether the runs in --to agree with those in this folder; status 1 when they do not",
    )
    command.add_argument("--table", type=Path, metavar="FOLDER", help="train nothing: print a folder's runs as a table")
    command.set_defaults(run=run_race)


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


def run_train(options: argparse.Namespace) -> None:
    """Train, evaluate, and say where the weights are."""
    from detr_mini.evaluation import evaluate
    from detr_mini.training import fit

    train_set = open_data(options.data, options.split, options.seed, options.limit)
    val_set = train_set if options.val_split == options.split else open_data(
        options.data, options.val_split, SCENES_HELD_OUT, None, scenes=400
    )
    same_labels(train_set, val_set)
    recipe = recipe_of(options, len(train_set.classes))
    model = build_model(options, recipe)
    run = fit(
        model, train_set, recipe, options.to, seed=options.seed, accumulate=options.accumulate,
        precision=options.precision, workers=options.workers, tensorboard=options.tensorboard,
        processes=options.processes, compiled=options.compile, recompute=options.recompute,
        evaluate=lambda detector: evaluate(detector, val_set, recipe.data), evaluate_every=options.evaluate_every,
    )
    last = run.history[-1]
    print(f"{last['step']} steps, loss {last['loss']:.3f}, AP {last['ap']:.3f}, AP50 {last['ap50']:.3f}")
    print(f"weights: {options.to / 'final.safetensors'}")


def run_plan(options: argparse.Namespace) -> None:
    """Print what a training would take."""
    from detr_mini import zoo
    from detr_mini.planning import COCO_TRAIN_IMAGES, plan

    recipe = zoo.recipe(options.detector, options.preset)
    images = 4000 if options.preset == "scenes" else COCO_TRAIN_IMAGES
    images = images if options.images is None else positive(options.images, "--images")
    half = options.precision != "no"
    print(plan(options.detector, recipe, images, options.gpu, options.gpus, half, options.accumulate))


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


def run_race(options: argparse.Namespace) -> int | None:
    """Run what is missing and print one line per run; or one of the things that are done with finished runs."""
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
    if options.costs:
        return print(costs(options.detectors, options.costs, options.own))
    every = positive(options.every, "--every")
    files = race(options.detectors, options.seeds, options.steps, options.to, every, options.weights, options.own,
                 fields_of(options.change))
    for path in files:
        last = json.loads(path.read_text().splitlines()[-1])
        said = f"{last['step']} steps, {last['seconds']:.0f} s, AP {last['ap']:.3f}, AP50 {last['ap50']:.3f}"
        print(f"{path.stem}: {said}")


# -- from options to objects ------------------------------------------------------------------------------------


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


def positive(value: int, option: str) -> int:
    """The value; ValueError naming the option when it is not at least 1."""
    if value < 1:
        raise ValueError(f"{option} is {value}: give a number of at least 1")
    return value


def open_data(data: str, split: str, seed: int, limit: int | None, scenes: int = 4000):
    """Generated scenes, or a split of a COCO-format folder; the first `limit` images of it."""
    from detr_mini.data.coco import CocoFolder
    from detr_mini.data.scenes import Scenes
    from detr_mini.data.subset import First

    if limit is not None:
        positive(limit, "--limit")
    if data == "scenes":
        return Scenes(limit or scenes, seed)
    dataset = CocoFolder.open(Path(data), split)
    return First(dataset, limit) if limit else dataset


def same_labels(train_set, val_set) -> None:
    """ValueError when a label means different categories in the two splits."""
    if train_set.label_to_category != val_set.label_to_category:
        differ = dict(set(train_set.label_to_category.items()) ^ set(val_set.label_to_category.items()))
        raise ValueError(
            f"training and validation files list different categories (labels {sorted(differ)}): give both files "
            "the same list of categories, in particular those that have no object in one of them"
        )


def recipe_of(options: argparse.Namespace, classes: int):
    """The preset's recipe with what the options change."""
    from dataclasses import replace

    from detr_mini import zoo

    recipe = zoo.recipe(options.detector, options.preset)
    model = {"classes": classes, "queries": options.queries}
    train = {"steps": options.steps, "batch": options.batch, "lr": options.lr, "backbone_lr": options.backbone_lr}
    recipe = replace(recipe, model=given(recipe.model, model), train=given(recipe.train, train))
    if options.size:
        size = positive(options.size, "--size")
        sized = replace(recipe.data, train_sizes=(size,), max_size=2 * size, eval_size=size, crop_resize=())
        recipe = replace(recipe, data=sized)
    return recipe


def given(part, changes: dict[str, object]):
    """A dataclass with those fields replaced whose new value is not None; ValueError below what makes sense."""
    from dataclasses import replace

    chosen = {name: value for name, value in changes.items() if value is not None}
    for name, value in chosen.items():
        if value < 0 or (value == 0 and name != "backbone_lr"):
            raise ValueError(f"--{name.replace('_', '-')} is {value}: give a number above 0")
    return replace(part, **chosen)


def build_model(options: argparse.Namespace, recipe):
    """The detector to train, with its starting weights."""
    from detr_mini import zoo
    from detr_mini.checkpoints import check_names, load_weights

    model = zoo.build(options.detector, options.preset, recipe.model)
    if options.weights:
        state = load_weights(options.weights).state_dict()
        check_names(model.state_dict(), state, str(options.weights))
        model.load_state_dict(state)
    elif recipe.model.backbone == "resnet50" and options.backbone_weights == "imagenet":
        model.backbone.load_imagenet()
    return model


def data_recipe(facts: dict[str, object]):
    """How a weights file wants its images prepared; ValueError when it does not say."""
    from detr_mini.recipes import DataRecipe

    if "data" not in facts:
        raise ValueError("these weights do not say how images are prepared: use a file that `train` wrote")
    described = {key: tuple(value) if isinstance(value, list) else value for key, value in facts["data"].items()}
    return DataRecipe(**described)


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
