"""python -m detr_mini detect"""

import argparse
from pathlib import Path

from detr_mini.commands.shared import add_device, add_weights, device_of


def add_detect(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("detect", help="find things in pictures; writes a PNG and a JSON for each")
    command.add_argument("images", nargs="+", type=Path, help="picture files")
    add_weights(command)
    command.add_argument("--to", type=Path, default=Path("detections"), help="folder to write to (%(default)s)")
    command.add_argument("--threshold", type=float, default=0.5, help="lowest score to draw (default: %(default)s)")
    add_device(command)
    command.set_defaults(run=run_detect)


def run_detect(options: argparse.Namespace) -> None:
    """Draw what is found in every picture."""
    from PIL import Image

    from detr_mini.data.coco import read_image
    from detr_mini.data.transforms import build_transform
    from detr_mini.detection import detect, save_detections
    from detr_mini.weights import open_weights

    require_names(options.images)
    device = device_of(options.device)
    found = open_weights(options.weights, options.preset)
    for line in found.said[:1]:
        print(line, flush=True)
    model, transform = found.model.to(device), build_transform(found.recipe, train=False)
    for path in options.images:
        image = read_image(path)
        things = detect(model, image, transform)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        kept, written = save_detections(picture, things, found.classes, options.threshold, options.to, path.stem)
        print(f"{path}: {kept} found -> {written}")


def require_names(images: list[Path]) -> None:
    """ValueError when two pictures would be written to one file."""
    named: dict[str, Path] = {}
    for path in images:
        if path.stem in named:
            raise ValueError(f"{named[path.stem]} and {path} would both be written to {path.stem}.png: give them in "
                             "two calls, each with a --to of its own")
        named[path.stem] = path
