"""python -m detr_mini detect"""

import argparse
from glob import glob
from pathlib import Path

from detr_mini.commands.shared import add_device, add_weights, device_of
from detr_mini.printing import plain


def add_detect(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("detect", help="find things in pictures; writes a PNG and a JSON for each")
    command.add_argument("images", nargs="+", help="picture files, folders of pictures, or patterns such as \"*.jpg\"")
    add_weights(command)
    command.add_argument("--to", type=Path, default=Path("detections"), help="folder to write to (%(default)s)")
    command.add_argument("--threshold", type=float, default=0.5, help="lowest score to draw (default: %(default)s)")
    add_device(command)
    command.set_defaults(run=run_detect)


def run_detect(options: argparse.Namespace) -> None:
    """Draw what is found in every picture."""
    from PIL import Image

    from detr_mini.data.pictures import read_image
    from detr_mini.data.transforms import build_transform
    from detr_mini.detection import detect, save_detections
    from detr_mini.weights import open_weights

    images = pictures_named(options.images)
    require_names(images)
    device = device_of(options.device)
    found = open_weights(options.weights, options.preset)
    for line in found.said[:1]:
        print(line, flush=True)
    model, transform = found.model.to(device), build_transform(found.recipe, train=False)
    for path in images:
        image = read_image(path)  # as a person sees it: turned by its EXIF tag
        things = detect(model, image, transform)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        kept, written = save_detections(picture, things, found.classes, options.threshold, options.to, path.stem)
        print(f"{plain(path)}: {kept} found -> {plain(written)}")


def pictures_named(given: list[str]) -> list[Path]:
    """The files that the words of a command name: files, all pictures of a folder, a pattern the shell left as it is.

    FileNotFoundError for a pattern that fits nothing, ValueError for a folder without pictures.
    """
    from detr_mini.data.voc import IMAGE_SUFFIXES

    images: list[Path] = []
    for word in given:
        path = Path(word)
        if path.is_dir():
            there = sorted(one for one in path.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES and one.is_file())
            if not there:
                raise ValueError(f"there are no pictures in the folder {plain(path)}: name files, or another folder")
            images += there
        elif not path.exists() and any(sign in word for sign in "*?["):
            there = sorted(Path(one) for one in glob(word, recursive=True) if Path(one).is_file())
            if not there:
                raise FileNotFoundError(f"no file fits {plain(word)}: check the pattern, or name files")
            images += there
        else:
            images.append(path)
    return list(dict.fromkeys(images))


def require_names(images: list[Path]) -> None:
    """ValueError when two pictures would be written to one file."""
    named: dict[str, Path] = {}
    for path in images:
        if path.stem in named:
            raise ValueError(f"{plain(named[path.stem])} and {plain(path)} would both be written to "
                             f"{plain(path.stem)}.png: give them in "
                             "two calls, each with a --to of its own")
        named[path.stem] = path
