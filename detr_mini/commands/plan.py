"""python -m detr_mini plan"""

import argparse

from detr_mini.commands.shared import positive


def add_plan(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "plan", help="what a training would take: images, steps, memory, hours; nothing is trained",
    )
    command.add_argument("--detector", default="detr", help="see `list` (default: %(default)s)")
    command.add_argument("--preset", default="coco", help="as for `train` (default: %(default)s)")
    command.add_argument("--images", type=int, metavar="N", help="images to train on (default: COCO train2017's)")
    command.add_argument("--gpu", default="a100", help="t4, v100, rtx3090, rtx4090, a100, h100 (default: %(default)s)")
    command.add_argument("--gpus", type=int, default=8, help="how many (default: %(default)s)")
    command.add_argument("--accumulate", type=int, help="micro-batches per step (default: as few as fit into memory)")
    command.add_argument("--precision", default="no", choices=("no", "bf16", "fp16"), help="mixed precision")
    command.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> None:
    """Print what a training would take."""
    from detr_mini import zoo
    from detr_mini.planning import COCO_TRAIN_IMAGES, plan, smallest_accumulate

    recipe = zoo.recipe(options.detector, options.preset)
    images = 4000 if options.preset == "scenes" else COCO_TRAIN_IMAGES
    images = images if options.images is None else positive(options.images, "--images")
    half = options.precision != "no"
    parts = options.accumulate
    if parts is None:
        parts = smallest_accumulate(options.detector, recipe, options.gpu, options.gpus, half)
        if parts > 1:
            print(f"chosen: --accumulate {parts}, the fewest micro-batches with which a step fits into memory\n")
    print(plan(options.detector, recipe, images, options.gpu, options.gpus, half, parts))
