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


def positive(value: int, option: str) -> int:
    """The value; ValueError naming the option when it is not at least 1."""
    if value < 1:
        raise ValueError(f"{option} is {value}: give a number of at least 1")
    return value


def open_data(data: str, split: str, seed: int, limit: int | None, scenes: int = 4000):
    """Generated scenes, or a split of a folder in COCO's or VOC's format; the first `limit` images of it."""
    from detr_mini.data.scenes import Scenes
    from detr_mini.data.subset import First
    from detr_mini.data.voc import open_folder

    if limit is not None:
        positive(limit, "--limit")
    if data == "scenes":
        return Scenes(limit or scenes, seed)
    dataset = open_folder(Path(data), split)
    return First(dataset, limit) if limit else dataset


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
        if value < 0 or (value == 0 and name != "backbone_lr"):
            raise ValueError(f"--{name.replace('_', '-')} is {value}: give a number above 0")
    return replace(part, **chosen)


def data_recipe(facts: dict[str, object]):
    """How a weights file wants its images prepared; ValueError when it does not say."""
    from detr_mini.recipes import DataRecipe

    if "data" not in facts:
        raise ValueError("these weights do not say how images are prepared: use a file that `train` wrote")
    described = {key: tuple(value) if isinstance(value, list) else value for key, value in facts["data"].items()}
    return DataRecipe(**described)
