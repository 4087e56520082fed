"""What several commands need: options that say which images, and objects made from options."""

import argparse
from pathlib import Path

SCENES_HELD_OUT = 1_000_003  # the seed of the evaluation scenes: no training seed comes near it


def add_data(command: argparse.ArgumentParser, split: str | None, said: str = "%(default)s") -> None:
    """The options that say which images."""
    command.add_argument(
        "--data", default="scenes", metavar="scenes|PATH",
        help="generated scenes, or a folder of pictures in COCO's, Pascal VOC's, YOLO's or Hugging Face's format "
        "(default: scenes)",
    )
    command.add_argument("--split", default=split, help=f"which split of the folder to use (default: {said})")
    command.add_argument("--limit", type=int, metavar="N", help="use the first N images only")
    add_stated(command)


def add_stated(command: argparse.ArgumentParser) -> None:
    """The options that name annotations and pictures, wherever they lie."""
    command.add_argument("--annotations", type=Path, metavar="FILE",
                         help="an annotation file in COCO's format, wherever it lies, in place of a data folder")
    command.add_argument("--images", type=Path, metavar="FOLDER",
                         help="where the pictures are (default: with the annotations); links in it are followed")


def add_despite(command: argparse.ArgumentParser) -> None:
    """The option that passes over what `check` calls an error."""
    command.add_argument("--despite-errors", action="store_true",
                         help="go on although `check` would find errors in the data; they are printed")


def add_weights(command: argparse.ArgumentParser) -> None:
    """The options that say which detector."""
    command.add_argument(
        "--weights", required=True, metavar="FILE|URL",
        help="a .safetensors file that `train` wrote, or a checkpoint (.pth) of a detector's authors; an address is "
        "fetched once and kept in the cache",
    )
    command.add_argument(
        "--preset", metavar="FORM", help="which published form an authors' checkpoint is, where that cannot be told: "
        "coco, coco-dc5, ... (a wrong one lists the choices)",
    )


def add_device(command: argparse.ArgumentParser) -> None:
    """The option that says where to compute."""
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one, else cpu)")


def device_of(name: str | None):
    """The device by name, None for the usual one; ValueError when it cannot be used here."""
    import torch

    usual = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name or usual).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: built without CUDA
        raise ValueError(f"--device {name} cannot be used on this machine: leave it out for {usual}") from error


def positive(value: int, option: str) -> int:
    """The value; ValueError naming the option when it is not at least 1."""
    if value < 1:
        raise ValueError(f"{option} is {value}: give a number of at least 1")
    return value


def is_scenes(options: argparse.Namespace) -> bool:
    """Whether generated scenes are meant; ValueError for options that say two things."""
    if options.annotations is None:
        if options.images is not None and options.data == "scenes":
            raise ValueError("--images says where pictures are, and nothing says where annotations are: add "
                             "--annotations FILE, or --data FOLDER")
        return options.data == "scenes"
    if options.data != "scenes":
        raise ValueError(f"--data {options.data} and --annotations {options.annotations} are two data sets: give one")
    return False


def splits_of(options: argparse.Namespace) -> list:
    """The splits of the data that the options name; the same for every command. Raises as `layouts.find_splits`."""
    from detr_mini.data.layouts import find_splits, stated_splits, with_images

    if options.annotations is not None:
        more = [getattr(options, name, None) for name in ("val_annotations", "val_images")]
        return stated_splits(options.annotations, options.images, *more)
    splits = find_splits(folder_of(options.data))
    return splits if options.images is None else [with_images(split, options.images) for split in splits]


def said_of(options: argparse.Namespace) -> Path:
    """What the data is called in messages."""
    return options.annotations or folder_of(options.data)


def scenes_of(seed: int, limit: int | None, usual: int):
    """Generated scenes."""
    from detr_mini.data.scenes import Scenes

    return Scenes(limit or usual, seed)


def open_split(options: argparse.Namespace, name: str, splits: list):
    """One of the splits as a data set. FileNotFoundError saying what is there instead."""
    from detr_mini.data.coco import CocoFolder
    from detr_mini.data.finding import choose_split

    return CocoFolder.of(choose_split(splits, name, said_of(options)))


def limited(dataset, limit: int | None):
    """The first `limit` images of a data set."""
    from detr_mini.data.subset import first

    return first(dataset, positive(limit, "--limit")) if limit is not None else dataset


def require_sound(datasets: list, what: str, options: argparse.Namespace) -> None:
    """ValueError for what `check` calls an error, as far as it can be told without opening pictures.

    With --despite-errors the errors are printed instead. what: what is to be done with the data.
    """
    from detr_mini.data.check import errors_of
    from detr_mini.data.raw import RawSplit

    errors = errors_of([RawSplit.of(dataset) for dataset in datasets])
    if errors and options.despite_errors:
        print(f"DESPITE {counted(errors)} in the data, as you said:")
        print("\n".join(line for one in errors for line in one.lines()), flush=True)
    elif errors:
        first, more = errors[0], f" ({len(errors) - 1} more)" * (len(errors) > 1)
        example = f", such as {first.examples[0]}" if first.examples else ""
        amount = f"{first.count} " if first.count else ""
        said = f"{first.split}: {first.kind}: {amount}{first.message}{example}{more}"
        raise ValueError(
            f"{counted(errors)} in the data, so {what} would mislead. {said}. "
            f"See all with `{check_command(options)}`, or go on with --despite-errors"
        )


def counted(errors: list) -> str:
    """1 error, 2 errors."""
    return f"{len(errors)} error{'s' * (len(errors) > 1)}"


def check_command(options: argparse.Namespace) -> str:
    """The command that shows all that is wrong with the data."""
    where = f"--annotations {options.annotations}" if options.annotations else folder_of(options.data)
    images = f" --images {options.images}" if options.images else ""
    return f"python -m detr_mini check {where}{images}"


def folder_of(data: str) -> Path:
    """The folder itself; of "coco" and "bccd" the one they are downloaded to, if none of that name is here."""
    from detr_mini.data.download import SOURCES

    names = {str(source.folder.name): source.folder for source in SOURCES.values()}
    if data not in names or Path(data).exists():
        return Path(data)
    if not names[data].is_dir():
        known = ", ".join(name for name, source in SOURCES.items() if source.folder == names[data])
        raise FileNotFoundError(
            f"no data at {names[data]}: fetch it with `python -m detr_mini.data.download NAME` ({known}), or give the "
            "folder where you have it"
        )
    return names[data]


def given(part, changes: dict[str, object]):
    """A dataclass with those fields replaced whose new value is not None; ValueError below what makes sense."""
    from dataclasses import replace

    chosen = {name: value for name, value in changes.items() if value is not None}
    for name, value in chosen.items():
        if not 0 <= value < float("inf") or (value == 0 and name != "backbone_lr"):  # neither is NaN
            raise ValueError(f"--{name.replace('_', '-')} is {value}: give a number above 0")
    return replace(part, **chosen)
