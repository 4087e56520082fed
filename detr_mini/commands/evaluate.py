"""python -m detr_mini evaluate"""

import argparse
import json
from pathlib import Path

from detr_mini.commands.shared import (
    SCENES_HELD_OUT,
    add_data,
    add_despite,
    add_device,
    add_weights,
    device_of,
    is_scenes,
    limited,
    open_split,
    positive,
    require_sound,
    scenes_of,
    splits_of,
)

COCO_VAL_IMAGES = 5000
BATCH = 8  # images per batch for weights that nobody published a figure of


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "evaluate", help="measure average precision as COCO does",
        description="Measure average precision as COCO does. For an official checkpoint, image size, batch and number "
        "of detections are those of its authors, and what it should give is printed beside what it gives.",
    )
    add_weights(command)
    add_data(command, None, "val; without one, the pictures that the training set aside, or all")
    command.add_argument("--val-fraction", type=float, metavar="F",
                         help="measure on the part that `train --val-fraction F` sets aside")
    add_despite(command)
    command.add_argument("--batch", type=int, help=f"images per batch (default: as published, else {BATCH})")
    command.add_argument("--workers", type=int, help="processes that load images (default: 4 with a GPU, else none)")
    add_device(command)
    command.add_argument("--json", type=Path, help="also write the figures to this file")
    command.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> None:
    """Print COCO's figures; for an official checkpoint also what it should give."""
    from detr_mini.data.labels import labelled_as
    from detr_mini.evaluation import evaluate
    from detr_mini.files import atomic, require_place
    from detr_mini.weights import open_weights

    device, batch = device_of(options.device), options.batch and positive(options.batch, "--batch")
    if options.json:
        require_place(options.json)
    found = open_weights(options.weights, options.preset)
    form, recipe = found.form, found.recipe
    scenes = is_scenes(options)
    if form and scenes:
        raise ValueError("these weights know COCO's classes, and scenes show others: add --data coco, or your folder")
    for line in found.said:
        print(line, flush=True)
    data = scenes_of(SCENES_HELD_OUT, options.limit, 400) if scenes else opened(options)
    data = labelled_as(data, found.classes)
    workers = options.workers if options.workers is not None else 4 * (device.type == "cuda")
    result = evaluate(
        found.model.to(device), data, recipe, batch or (form.batch if form else BATCH), progress=True,
        workers=workers, top_k=form.kept if form else 100,
    )
    print(result)
    if form and form.ap:
        print(compared(form.ap, result.ap, result.images, data))
    if options.json:
        published = {"published_ap": form.ap / 100, "published_in": form.source} if form and form.ap else {}
        with atomic(options.json) as temporary:
            temporary.write_text(json.dumps(result.to_dict() | published, indent=1) + "\n")


def opened(options: argparse.Namespace):
    """The images to measure on, judged. Says which they are where no split "val" says it."""
    data = chosen(options, splits_of(options))
    if not len(data.coco_ground_truth()["annotations"]):
        raise ValueError("these images have no annotations (a test split has none by nature), so nothing can be "
                         "measured: choose another with --split")
    data = limited(data, options.limit)
    require_sound([data], "what is measured", options)
    return data


def chosen(options: argparse.Namespace, splits: list):
    """The split, or the part of one, that the options or the weights' run mean."""
    from detr_mini.data import held_out

    names = [split.name for split in splits]
    if options.val_fraction is not None:
        _, part, drawn = held_out.set_aside(open_split(options, options.split or "train", splits), options.val_fraction)
        print(held_out.describe(drawn, len(part.dataset)), flush=True)
        return part
    if options.split or "val" in names:
        wanted = options.split or "val"
        part = None if wanted in names or wanted != "val" else set_aside_by_run(options, splits)
        return part or open_split(options, wanted, splits)
    if part := set_aside_by_run(options, splits):
        return part
    if names != ["all"]:
        return open_split(options, "val", splits)  # raises, and says what there is
    data = open_split(options, "all", splits)
    print(f"no splits: measured on all {len(data)} images, so not on new ones if these weights were trained on them",
          flush=True)
    return data


def set_aside_by_run(options: argparse.Namespace, splits: list):
    """The pictures that the weights' run set aside, if they are of this data."""
    from detr_mini.data import held_out

    folder = Path(options.weights).parent
    names = held_out.read(folder) if "://" not in options.weights else None
    if names is None or not {"train", "all"} & {split.name for split in splits}:
        return None
    part = held_out.part_of(open_split(options, "train", splits), names)
    if part is not None:
        print(f"measured on the {len(part)} pictures that the training set aside ({folder / held_out.FILE})",
              flush=True)
    return part


def compared(published: float, ap: float, images: int, data) -> str:
    """The figure beside the published one, which is of all images and classes of COCO val2017."""
    if images == COCO_VAL_IMAGES and len(data.label_to_category) == 80:
        return f"AP {100 * ap:.1f}, published {published:.1f}: {100 * ap - published:+.1f}"
    return f"published is {published:.1f} on COCO val2017's {COCO_VAL_IMAGES:,} images; these are others, or fewer"
