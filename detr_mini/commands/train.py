"""python -m detr_mini train"""

import argparse
from pathlib import Path

from detr_mini.commands.shared import SCENES_HELD_OUT, add_data, given, open_data, positive, same_labels


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
