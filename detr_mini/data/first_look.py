"""A look at the first items of a data set before a training, which tells what would otherwise only spoil it.

Boxes in pixels train without an error, at a loss of thousands; images that are floats already are divided by 255 a
second time. Whoever writes a data set of their own finds out here, in a sentence, what is expected.
"""

import torch
from torch import Tensor
from torch.utils.data import Dataset

LOOKED_AT = 4  # items
SLACK = 1e-3  # a normalised box may leave the image by so much, by rounding
FIELDS = ("labels", "boxes", "image_id", "orig_size")


def look_at_first(dataset: Dataset, classes: int) -> None:
    """Look at the first items. ValueError says which item, what it has, and what it must have instead.

    The random numbers of the training are left as if nothing had been looked at.
    """
    before = torch.get_rng_state()
    try:
        for index in range(min(LOOKED_AT, len(dataset))):
            look_at(f"item {index} of the data set", dataset[index], classes)
    finally:
        torch.set_rng_state(before)


def look_at(where: str, item: object, classes: int) -> None:
    """Look at one item; raises as `look_at_first`."""
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[1], dict):
        raise ValueError(f"{where} is no pair: it must be (image, target), the target a dictionary with "
                         f"{', '.join(FIELDS)}")
    image, target = item
    if missing := [name for name in FIELDS if name not in target]:
        raise ValueError(f"{where} has a target without '{missing[0]}': it must have {', '.join(FIELDS)}")
    wrong = (image_fault(image) or labels_fault(target["labels"], classes) or boxes_fault(target["boxes"])
             or fault_between(target["labels"], target["boxes"]) or other_fault(target))
    if wrong:
        raise ValueError(f"{where} has {wrong}")


def image_fault(image: object) -> str | None:
    """What is wrong with an image, and what to do."""
    if not isinstance(image, Tensor):
        return f"an image that is a {type(image).__name__}: it must be a tensor (3, H, W) of uint8"
    if image.ndim == 3 and image.shape[0] == 1:
        return f"a grey image {tuple(image.shape)}: repeat it three times, image.expand(3, -1, -1)"
    if image.ndim == 3 and image.shape[0] != 3 and image.shape[-1] == 3:
        return f"an image {tuple(image.shape)}, colours last: turn it, image.permute(2, 0, 1)"
    if image.ndim != 3 or image.shape[0] != 3:
        return f"an image of shape {tuple(image.shape)}: it must be (3, H, W)"
    if image.dtype != torch.uint8:
        return (f"an image of {dtype_of(image)}: it must be uint8 from 0 to 255, since training divides by 255 itself; "
                "of values from 0 to 1 make (image * 255).round().to(torch.uint8)")
    return None


def labels_fault(labels: object, classes: int) -> str | None:
    """What is wrong with labels, and what to do."""
    if not isinstance(labels, Tensor):
        return f"labels that are a {type(labels).__name__}: make a tensor (M,) of them, torch.tensor(labels)"
    if labels.numel() == 0:
        return None
    if labels.ndim != 1:
        return f"labels of shape {tuple(labels.shape)}: they must be (M,), one number for each object"
    if labels.dtype != torch.long:
        return f"labels of {dtype_of(labels)}: they must be int64, labels.long()"
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        return (f"labels {sorted(set(labels.tolist()))}, and the detector has {classes} classes: they must be 0 to "
                f"{classes - 1}; for category ids, classes = largest id + 1")
    return None


def boxes_fault(boxes: object) -> str | None:
    """What is wrong with boxes, and what to do."""
    if not isinstance(boxes, Tensor):
        return f"boxes that are a {type(boxes).__name__}: make a tensor (M, 4) of them, torch.tensor(boxes)"
    if boxes.numel() == 0:
        return None
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        return f"boxes of shape {tuple(boxes.shape)}: they must be (M, 4)"
    if boxes.dtype != torch.float32:
        return f"boxes of {dtype_of(boxes)}: they must be float32, boxes.float()"
    if not torch.isfinite(boxes).all():
        return "a box with a number that is not finite: leave that object out, or correct it"
    if boxes.max() > 1 + SLACK or boxes.min() < -SLACK:
        return (f"a box {[round(value, 2) for value in boxes[outside(boxes)][0].tolist()]}, which looks like pixels: "
                "boxes must be normalised cxcywh (centre x, centre y, width, height, each divided by the image's width "
                "or height)")
    return None


def outside(boxes: Tensor) -> Tensor:
    """(M,) bool: boxes (M, 4) with a number that is no share of the image."""
    return ((boxes > 1 + SLACK) | (boxes < -SLACK)).any(1)


def fault_between(labels: Tensor, boxes: Tensor) -> str | None:
    """What is wrong with labels and boxes together."""
    if len(labels) != len(boxes):
        return f"{len(labels)} labels and {len(boxes)} boxes: there must be one of each for every object"
    return None


def other_fault(target: dict) -> str | None:
    """What is wrong with image_id and orig_size, and what to do."""
    if isinstance(target["image_id"], bool) or not isinstance(target["image_id"], int):
        kind = type(target["image_id"]).__name__
        return f"an image_id that is a {kind}: it must be a plain int, int(image_id)"
    size = target["orig_size"]
    if not isinstance(size, Tensor) or size.shape != (2,):
        return "an orig_size that is no tensor of two numbers: it must be torch.tensor([height, width])"
    return None


def dtype_of(tensor: Tensor) -> str:
    """A type without "torch."."""
    return str(tensor.dtype).removeprefix("torch.")
