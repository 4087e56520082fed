"""DETR's input pipeline as it is usually written: PIL, one image and one step at a time. To compare ours with.

Written from the description of the augmentation (Carion et al. 2020, section 4) and not from `data/transforms.py`:
whole images in every step, floats through torchvision's `to_tensor` and `normalize`, a copy into the padded batch.
Chance is drawn from torch's generator in the order in which `build_transform` draws it, so that one seed means the
same flips, sizes and crops here and there.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from detr_mini.data.coco import CocoFolder
from detr_mini.recipes import DataRecipe

Item = tuple[Image.Image, Tensor, Tensor]  # picture, boxes (M, 4) xyxy in pixels, labels (M,)


def drawn(low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, ()))


class PilPipeline:
    """`pipeline[i]` is (image float (3, H, W) normalised, {"boxes": (M, 4) cxcywh in 0 to 1, "labels": (M,)})."""

    def __init__(self, data: CocoFolder, recipe: DataRecipe) -> None:
        """data: says where the files are and what the annotation file holds; pictures are read here."""
        self.data, self.recipe, self.annotations = data, recipe, defaultdict(list)
        label_of = {category: label for label, category in data.label_to_category.items()}
        for annotation in data.coco_ground_truth()["annotations"]:
            if not annotation["iscrowd"]:
                entry = (*annotation["bbox"], label_of[annotation["category_id"]])
                self.annotations[annotation["image_id"]].append(entry)

    def load(self, index: int) -> Item:
        """One picture and its objects; boxes are cut to the picture, those without area are left out."""
        with Image.open(self.data.path(index)) as opened:
            picture = opened.convert("RGB")
        objects = torch.tensor(self.annotations[self.data.image_ids[index]]).reshape(-1, 5)  # x, y, w, h, label
        boxes, labels = objects[:, :4].clone(), objects[:, 4].long()
        boxes[:, 2:] += boxes[:, :2]
        return inside(picture, boxes, labels)

    def augment(self, picture: Image.Image, boxes: Tensor, labels: Tensor) -> Item:
        """Flip, then either resize or resize, crop and resize."""
        recipe = self.recipe
        if torch.rand(()) < recipe.flip:
            picture, width = F.hflip(picture), picture.width
            boxes = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), dim=1)
        if torch.rand(()) >= 0.5:
            picture, boxes = resize(picture, boxes, recipe.crop_resize, None)
            picture, boxes, labels = crop(picture, boxes, labels, *recipe.crop_range)
        return *resize(picture, boxes, recipe.train_sizes, recipe.max_size), labels

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        picture, boxes, labels = self.augment(*self.load(index))
        image = F.normalize(F.to_tensor(picture), self.recipe.mean, self.recipe.std)  # (3, H, W)
        sides = torch.tensor([picture.width, picture.height] * 2)
        middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        return image, {"boxes": torch.cat((middle, size), dim=1) / sides, "labels": labels}


def inside(picture: Image.Image, boxes: Tensor, labels: Tensor) -> Item:
    """Boxes cut to the picture; those left without area go, with their labels."""
    boxes = boxes.reshape(-1, 2, 2).clamp(min=0).minimum(torch.tensor(picture.size)).flatten(1)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return picture, boxes[keep], labels[keep]


def resize(picture: Image.Image, boxes: Tensor, sizes: tuple[int, ...], most: int | None) -> tuple[Image.Image, Tensor]:
    """The shorter side becomes one of `sizes`; the longer side stays below `most`."""
    shorter, (width, height) = sizes[drawn(0, len(sizes) - 1)], picture.size
    short, long = sorted((width, height))
    if most and shorter * long / short > most:
        shorter = round(most * short / long)
    if short == shorter:
        return picture, boxes
    longer = int(shorter * long / short)
    new = (longer, shorter) if height > width else (shorter, longer)
    scale = torch.tensor([new[1] / width, new[0] / height] * 2)
    return F.resize(picture, new), boxes * scale


def crop(picture: Image.Image, boxes: Tensor, labels: Tensor, low: int, high: int) -> Item:
    """A rectangle of `low` to `high` pixels a side, anywhere."""
    width = drawn(min(low, picture.width), min(high, picture.width))
    left = drawn(0, picture.width - width)
    height = drawn(min(low, picture.height), min(high, picture.height))
    top = drawn(0, picture.height - height)
    part = F.crop(picture, top, left, height, width)
    return inside(part, boxes - torch.tensor([left, top, left, top]), labels)


def nested(items: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, Tensor]:
    """Images padded with zeros to the largest height and width (B, 3, H, W), and a mask (B, H, W), True there."""
    height, width = (max(image.shape[side] for image, _ in items) for side in (1, 2))
    images, mask = torch.zeros(len(items), 3, height, width), torch.ones(len(items), height, width, dtype=torch.bool)
    for (image, _), padded, outside in zip(items, images, mask, strict=True):
        padded[:, : image.shape[1], : image.shape[2]].copy_(image)
        outside[: image.shape[1], : image.shape[2]] = False
    return images, mask


def write_photographs(folder: Path, count: int) -> None:
    """A COCO-format split "train" of JPEGs 640 x 480 and 480 x 640: soft colours, grain, objects with sharp edges."""
    (folder / "images").mkdir(parents=True)
    random, images, annotations = np.random.default_rng(0), [], []
    for number in range(count):
        width, height = (640, 480) if number % 3 else (480, 640)
        picture = Image.fromarray(random.integers(30, 220, (6, 8, 3), dtype=np.uint8)).resize((width, height), 3)
        pixels = np.asarray(picture) + random.normal(0, 8, (height, width, 3))
        for _ in range(number % 7):
            w, h = (int(side) for side in random.integers(10, 300, 2))
            x, y = int(random.integers(0, width - w)), int(random.integers(0, height - h))
            pixels[y : y + h, x : x + w] = random.integers(0, 256, 3) + random.normal(0, 8, (h, w, 1))
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": [x, y, w, h]})
        images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{number}.jpg", quality=90)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "instances_train.json").write_text(json.dumps(content))
