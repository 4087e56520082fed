"""What several commands need: options that say which images, and objects made from options."""

import argparse
from pathlib import Path

SCENES_HELD_OUT = 1_000_003  # the seed of the evaluation scenes: no training seed comes near it


def add_data(command: argparse.ArgumentParser, split: str) -> None:
    """The options that say which images."""
    command.add_argument(
        "--data", default="scenes", metavar="scenes|PATH",
        help="generated scenes, or a folder of pictures in COCO's or Pascal VOC's format (default: scenes)",
    )
    command.add_argument("--split", default=split, help="which split of the folder to use (default: %(default)s)")
    command.add_argument("--limit", type=int, metavar="N", help="use the first N images only")


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


def open_data(data: str, split: str, seed: int, limit: int | None, scenes: int = 4000):
    """Generated scenes, or a split of a folder in COCO's or VOC's format; the first `limit` images of it.

    "coco" and "bccd" are also found where `detr_mini.data.download` puts them. FileNotFoundError where there is none.
    """
    from detr_mini.data.scenes import Scenes
    from detr_mini.data.subset import First
    from detr_mini.data.voc import open_folder

    if limit is not None:
        positive(limit, "--limit")
    if data == "scenes":
        return Scenes(limit or scenes, seed)
    dataset = open_folder(folder_of(data), split)
    return First(dataset, limit) if limit else dataset


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


def same_labels(train_set, val_set) -> None:
    """ValueError when a label means different categories in the two splits."""
    if train_set.label_to_category != val_set.label_to_category:
        differ = dict(set(train_set.label_to_category.items()) ^ set(val_set.label_to_category.items()))
        raise ValueError(
            f"training and validation files list different categories (labels {sorted(differ)}): give both files "
            "the same list of categories, in particular those that have no object in one of them"
        )


def given(part, changes: dict[str, object]):
    """A dataclass with those fields replaced whose new value is not None; ValueError below what makes sense."""
    from dataclasses import replace

    chosen = {name: value for name, value in changes.items() if value is not None}
    for name, value in chosen.items():
        if not 0 <= value < float("inf") or (value == 0 and name != "backbone_lr"):  # neither is NaN
            raise ValueError(f"--{name.replace('_', '-')} is {value}: give a number above 0")
    return replace(part, **chosen)
