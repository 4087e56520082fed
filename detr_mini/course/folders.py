"""A folder of drawings in COCO's format: what somebody's own pictures look like, made in a second.

    make_folder(Path("photos"), {"train": 64, "val": 48}, {"boat": "boat", "umbrella": "parasol"})
"""

import json
from pathlib import Path

from PIL import Image

from detr_mini.data.scenes import CLASSES, draw_scene

APART = 100_000  # between the numbers of two splits' drawings, so that none is drawn twice


def make_folder(folder: Path, splits: dict[str, int], names: dict[str, str], seed: int = 20) -> Path:
    """Draw scenes and write them as a COCO folder: images/*.png and instances_SPLIT.json. Returns the folder.

    splits: name -> number of pictures. names: kind of thing in the drawings -> what the annotations call it; other
    things are in the pictures, too, and nobody annotated them. Raises ValueError for a kind that is not drawn.
    """
    if unknown := sorted(set(names) - set(CLASSES)):
        raise ValueError(f"nothing of the kind {unknown[0]!r} is drawn: choose among {', '.join(CLASSES)}")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate(splits.items()):
        content = draw_split(folder / "images", split, count, names, seed, number * APART)
        (folder / f"instances_{split}.json").write_text(json.dumps(content) + "\n")
    return folder


def draw_split(images: Path, split: str, count: int, names: dict[str, str], seed: int, first: int) -> dict:
    """Write the pictures of one split; returns what belongs into its instances file."""
    categories = {name: number for number, name in enumerate(names.values(), start=1)}
    content = {"images": [], "annotations": [],
               "categories": [{"id": number, "name": name} for name, number in categories.items()]}
    for number in range(1, count + 1):
        picture, labels, boxes = draw_scene(seed, first + number)  # (H, W, 3); x, y, width, height in pixels
        file_name = f"{split}_{number:03}.png"
        height, width = picture.shape[:2]
        Image.fromarray(picture).save(images / file_name)
        content["images"].append({"id": number, "file_name": file_name, "width": width, "height": height})
        content["annotations"] += [
            {"id": len(content["annotations"]) + place, "image_id": number, "bbox": [round(value, 1) for value in box],
             "category_id": categories[names[CLASSES[label]]], "area": round(box[2] * box[3], 1), "iscrowd": 0}
            for place, (label, box) in enumerate(
                [pair for pair in zip(labels, boxes.tolist(), strict=True) if CLASSES[pair[0]] in names], start=1)
        ]
    return content
