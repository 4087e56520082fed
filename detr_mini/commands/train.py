"""python -m detr_mini train"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from detr_mini.commands.shared import (
    SCENES_HELD_OUT,
    add_data,
    add_despite,
    given,
    is_scenes,
    limited,
    open_split,
    positive,
    require_sound,
    said_of,
    scenes_of,
    splits_of,
)

LONG = 20  # steps; of shorter trainings nobody needs to know beforehand how long they take
BACKBONES = ("resnet50", "efficientnet_lite0", "small")


def add_train(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "train", help="train a detector",
        description="Train a detector. A run that was stopped goes on when the same command is given again. For a "
        "folder of your own, size, steps, learning rates and queries are fitted to what is in it, unless you give a "
        "preset; what was chosen is printed with its reason, and every option overrides it.",
    )
    command.add_argument("--detector", help="see `list` (default: detr for scenes, deformable for a folder)")
    command.add_argument(
        "--preset", help="scenes: small, for a laptop; coco: the paper's, for GPUs; or a form of it: coco-dc5 "
        "(default: scenes for scenes; a folder gets a recipe of its own)",
    )
    add_data(command, "train")
    add_validation(command)
    add_despite(command)
    command.add_argument("--to", type=Path, default=Path("runs/train"), help="folder of the run (default: %(default)s)")
    add_recipe(command)
    command.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    add_machine(command)
    command.add_argument("--tensorboard", action="store_true", help="write TensorBoard files into the run's folder")
    command.add_argument("--record", type=Path, metavar="FILE", help="write provenance and curve as JSON lines")
    command.set_defaults(run=run_train)


def add_validation(command: argparse.ArgumentParser) -> None:
    """The options that say what to evaluate on."""
    command.add_argument("--val-split", help="split to evaluate on (default: val)")
    command.add_argument("--val-fraction", type=float, metavar="F",
                         help="where there is no split to evaluate on: set this part of the pictures aside, by a fixed "
                         "draw that keeps together what was cut from one source")
    command.add_argument("--val-annotations", type=Path, metavar="FILE",
                         help="with --annotations: those to evaluate on")
    command.add_argument("--val-images", type=Path, metavar="FOLDER", help="their pictures (default: --images)")


def add_recipe(command: argparse.ArgumentParser) -> None:
    """The options that change the recipe."""
    command.add_argument("--steps", type=int, help="training steps (default: the recipe's)")
    command.add_argument("--batch", type=int, help="images per step, over all processes (default: the recipe's)")
    command.add_argument("--lr", type=float, help="learning rate (default: the recipe's)")
    command.add_argument("--backbone-lr", type=float, help="learning rate of the backbone, 0 freezes it")
    command.add_argument("--size", type=int, help="shorter side of the images in pixels, without scale jitter")
    command.add_argument("--queries", type=int, help="most objects in an image (default: the recipe's)")
    command.add_argument("--backbone", choices=BACKBONES, help="(default: the recipe's)")
    command.add_argument(
        "--backbone-weights", default="imagenet", choices=("imagenet", "none"),
        help="where resnet50 and efficientnet_lite0 start (default: %(default)s)",
    )
    command.add_argument(
        "--weights", metavar="FILE|URL",
        help="start from a detector's weights, ours or its authors': all is kept but classes of other names",
    )
    command.add_argument(
        "--evaluate-every", type=int, metavar="N",
        help="evaluate every N steps (default: at the end; ten times on a folder)",
    )


def add_machine(command: argparse.ArgumentParser) -> None:
    """The options that say how the machine is used."""
    command.add_argument("--precision", default="no", choices=("no", "bf16", "fp16"), help="mixed precision")
    command.add_argument("--accumulate", type=int, default=1, help="micro-batches per step (default: %(default)s)")
    command.add_argument("--workers", type=int, default=0, help="processes that load images (default: %(default)s)")
    command.add_argument("--processes", type=int, metavar="N", help="fail unless N processes take part (torchrun)")
    command.add_argument("--compile", action="store_true", help="through torch.compile: slower to start, then faster")
    command.add_argument(
        "--recompute", action="store_true", help="the encoder computes its activations twice: less memory, more time"
    )


def run_train(options: argparse.Namespace) -> None:
    """Train, evaluate, and say where the weights are."""
    from detr_mini.evaluation import evaluate
    from detr_mini.training import fit

    check_numbers(options)
    train_set, val_set = scenes_sets(options) if is_scenes(options) else folder_sets(options)
    source = source_of(options)
    recipe = recipe_of(options, train_set, source)
    warn_of_few_queries(train_set, recipe.model.queries)
    model = build_model(options, recipe, source, train_set.classes)
    if options.data != "scenes" and recipe.train.steps and recipe.train.steps >= LONG:
        print(how_long(model, recipe), flush=True)
    results: list[dict] = []

    def measure(detector):
        result = evaluate(detector, val_set, recipe.data)
        results.append(result.to_dict())
        return result

    run = fit(
        model, train_set, recipe, options.to, seed=options.seed, accumulate=options.accumulate,
        precision=options.precision, workers=options.workers, tensorboard=options.tensorboard,
        processes=options.processes, compiled=options.compile, recompute=options.recompute,
        evaluate=measure, evaluate_every=options.evaluate_every,
    )
    last = run.history[-1]
    print(f"{last['step']} steps, loss {last['loss']:.3f}, AP {last['ap']:.3f}, AP50 {last['ap50']:.3f}")
    print(f"weights: {options.to / 'final.safetensors'}")
    if options.record:
        record(options, recipe, run.history, results)


def scenes_sets(options: argparse.Namespace) -> tuple:
    """Generated scenes to train and to evaluate on."""
    if options.val_fraction is not None:
        raise ValueError("--val-fraction is for a folder without a validation split; scenes to validate on are drawn")
    limit = None if options.limit is None else positive(options.limit, "--limit")
    train_set = scenes_of(options.seed, limit, 4000)
    return train_set, train_set if options.val_split == options.split else scenes_of(SCENES_HELD_OUT, None, 400)


def folder_sets(options: argparse.Namespace) -> tuple:
    """The images to train and to evaluate on, of splits that agree on the classes, and without an error in them."""
    from detr_mini.data.coco import CocoFolder
    from detr_mini.data.finding import choose_split
    from detr_mini.data.labels import validated_as

    splits = splits_of(options)
    wanted = options.val_split or "val"
    if options.val_fraction is not None:
        train_set, val_set = parts_of(options, splits)
    else:
        train_split, val_split = (choose_split(splits, name, said_of(options)) for name in (options.split, wanted))
        train_set = CocoFolder.of(train_split)
        val_set = train_set if val_split is train_split else CocoFolder.of(val_split)
    whole, train_set = train_set, limited(train_set, options.limit)
    require_sound([train_set] if val_set is whole else [train_set, val_set], "a training on it", options)
    return train_set, train_set if val_set is whole else validated_as(val_set, train_set.classes)


def parts_of(options: argparse.Namespace, splits: list) -> tuple:
    """One split in two, which is printed and written into the run's folder; ValueError where that is not needed."""
    from detr_mini.data import held_out

    if options.val_split or any(split.name == "val" for split in splits):
        raise ValueError("there is a split to validate on: leave --val-fraction out, or take the split away")
    train_set, val_set, drawn = held_out.set_aside(open_split(options, options.split, splits), options.val_fraction)
    print(held_out.describe(drawn, len(train_set) + len(val_set)), flush=True)
    held_out.write(options.to, options.val_fraction, drawn)
    return train_set, val_set


def warn_of_few_queries(train_set, queries: int) -> None:
    """Say it when an image has more objects than the detector can ever find."""
    from detr_mini.fitting import facts_of

    if (most := facts_of(train_set).most) > queries:
        print(f"WARNING: an image has {most} objects, and {queries} queries find at most {queries}: give --queries "
              f"{most} or more", flush=True)


def check_numbers(options: argparse.Namespace) -> None:
    """Before anything is read: ValueError for a number that makes no sense, OSError for a record without a place."""
    from detr_mini.files import require_place

    for option in ("accumulate", "processes", "evaluate_every", "size"):
        if getattr(options, option) is not None:
            positive(getattr(options, option), f"--{option.replace('_', '-')}")
    if options.workers < 0:
        raise ValueError(f"--workers is {options.workers}: give 0, or how many processes load images")
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed is {options.seed}: give a whole number from 0 to {2**32 - 1}")
    if options.record:
        require_place(options.record)


def record(options: argparse.Namespace, recipe, history: list[dict], results: list[dict]) -> None:
    """Where the figures come from, then one line per evaluation; those before a stop have AP and AP50 only."""
    from detr_mini.course.race import evaluations, provenance
    from detr_mini.files import atomic

    measured = [{"ap": line["ap"], "ap50": line["ap50"]} for line in history if "ap" in line]
    results = measured[: len(measured) - len(results)] + results
    lines = [provenance(options.detector, recipe, options.seed), *evaluations(history, results)]
    with atomic(options.record) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"record: {options.record}")


def source_of(options: argparse.Namespace):
    """The weights to start from, or None; fills in the detector where none was given."""
    from detr_mini.transfer import read_source, shape_for

    source = read_source(options.weights) if options.weights else None
    usual = "detr" if is_scenes(options) or options.preset else "deformable"
    options.detector = options.detector or (source.system if source else usual)
    if source:
        shape_for(source, options.detector)
    return source


def recipe_of(options: argparse.Namespace, train_set, source=None):
    """The preset's recipe, or one fitted to a folder, with what the options change."""
    from detr_mini import zoo

    if is_scenes(options) or options.preset:
        recipe = zoo.recipe(options.detector, options.preset or "scenes")
        shape = source.recipe if source else recipe.model
        recipe = replace(recipe, model=replace(shape, classes=len(train_set.classes)))
    else:
        recipe = fitted(options, train_set, source)
    if options.backbone:
        recipe = replace(recipe, model=replace(recipe.model, backbone=options.backbone))
    model = {"queries": options.queries}
    train = {"steps": options.steps, "batch": options.batch, "lr": options.lr, "backbone_lr": options.backbone_lr}
    recipe = replace(recipe, model=given(recipe.model, model), train=given(recipe.train, train))
    if size := options.size:
        sized = replace(recipe.data, train_sizes=(size,), max_size=2 * size, eval_size=size, crop_resize=())
        recipe = replace(recipe, data=sized)
    return coloured(recipe)


def fitted(options: argparse.Namespace, train_set, source):
    """A recipe for a folder; prints what was chosen, and why."""
    import torch

    from detr_mini.fitting import choose_interval, facts_of, fitted_recipe

    facts, gpu = facts_of(train_set), torch.cuda.is_available()
    backbone = options.backbone or ("resnet50" if gpu else "efficientnet_lite0")
    shape = source.recipe if source else None
    recipe, choices = fitted_recipe(options.detector, facts, gpu, backbone, shape, options.batch)
    options.evaluate_every = options.evaluate_every or choose_interval(
        options.steps or recipe.train.steps, facts.images, recipe.train.batch
    )
    print(f"{facts.images} images, {facts.objects} objects in {facts.classes} classes; fitted to them:")
    for choice in choices:
        yours = getattr(options, choice.option.strip("-").replace("-", "_"))
        mine = yours is None or choice.option == "--detector"
        print(f"  {choice if mine else replace(choice, value=yours, why='as you said')}")
    return recipe


def coloured(recipe):
    """The recipe with colours as its backbone's ImageNet weights were trained on."""
    from detr_mini.efficientnet import LITE_MEAN, LITE_STD

    lite = recipe.model.backbone == "efficientnet_lite0"
    return replace(recipe, data=replace(recipe.data, mean=LITE_MEAN, std=LITE_STD)) if lite else recipe


def how_long(model, recipe) -> str:
    """What the training will take on this machine, before it starts."""
    from detr_mini.fitting import in_time, seconds_per_step

    each, steps = seconds_per_step(model, recipe), recipe.train.steps
    return (f"about {in_time(each * steps)}: {steps} steps of {each:.2g} s, measured on two random batches; loading, "
            "matching and evaluation come on top")


def build_model(options: argparse.Namespace, recipe, source, classes: list[str | None]):
    """The detector to train, with its starting weights."""
    import torch

    from detr_mini import zoo
    from detr_mini.transfer import start_from

    torch.manual_seed(options.seed)
    model = zoo.build(options.detector, model=recipe.model)
    if source:
        print(*start_from(model, source, classes), sep="\n")
    elif recipe.model.backbone != "small" and options.backbone_weights == "imagenet":
        model.backbone.load_imagenet()
    return model
