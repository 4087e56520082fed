"""From a stored image to what the network reads: DETR's augmentation, normalisation, and batches with a mask.

The augmentation of Carion et al. 2020 (section 4, "Technical details"), as their code does it:

1. flip left-right with probability 1/2;
2. a fair coin: either resize the shorter side to a random training size, or resize to one of a few sizes,
   cut out a random rectangle, and then resize that;
3. subtract the mean colour, divide by the standard deviation.

Every step is a callable `(image, target) -> (image, target)`. Between the first step and the last, boxes are
`tv_tensors.BoundingBoxes`: corners in pixels that know the size of their image, so that torchvision's v2
functions move them along with it. All chance comes from torch's global generator: `torch.manual_seed(n)`
before a call makes it repeatable.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from detr_mini.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detr_mini.recipes import DataRecipe

Target = dict[str, Tensor | int]
Step = Callable[[Tensor, Target], tuple[Tensor, Target]]

HUGE = 1 << 20  # values of 4 bytes: NumPy asks for huge pages from 4 MB on
ALIGNED = 16  # values of 4 bytes: where PyTorch's tensors begin
ROUNDING = 1e-2  # pixels: a box thinner than this after a crop is a rounding error, not an object


def random_int(low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included, from torch's global generator."""
    return int(torch.randint(low, high + 1, ()))


def resized_size(size: tuple[int, int], shorter: int, max_size: int | None = None) -> tuple[int, int]:
    """The (H, W) an image of `size` (H, W) gets when its shorter side becomes `shorter` pixels.

    If the longer side would then pass `max_size`, the shorter side is lowered (and rounded) first. The longer
    side is cut to a whole number, not rounded: `get_size_with_aspect_ratio` in DETR's code does the same. So
    a very long image may pass `max_size` by a few pixels.
    """
    low, high = min(size), max(size)
    if max_size is not None and high / low * shorter > max_size:
        shorter = max(1, round(max_size * low / high))
    if low == shorter:
        return size
    height, width = size
    longer = int(shorter * high / low)
    return (longer, shorter) if width < height else (shorter, longer)


class Steps:
    """Several steps, one after another."""

    def __init__(self, *steps: Step):
        self.steps = steps

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """image (3, H, W) and its target, through all steps."""
        for step in self.steps:
            image, target = step(image, target)
        return image, target

    def __repr__(self) -> str:
        """The steps, as they would be written: what a recipe does is meant to be printed and read."""
        return f"Steps({', '.join(repr(step) for step in self.steps)})"


@dataclass(frozen=True)
class ToPixels:
    """Boxes from normalised cxcywh to xyxy in pixels of the image at hand."""

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """image (3, H, W); target["boxes"] (M, 4) -> BoundingBoxes (M, 4)."""
        height, width = image.shape[-2:]
        boxes = target["boxes"].reshape(-1, 4)  # none at all may be (0,)
        corners = cxcywh_to_xyxy(boxes) * torch.tensor([width, height, width, height])  # (M, 4)
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width))
        return image, {**target, "boxes": boxes}


@dataclass(frozen=True)
class RandomFlip:
    """Mirror image and boxes left-right with probability p."""

    p: float

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """image (3, H, W), boxes (M, 4) in pixels."""
        if torch.rand(()) >= self.p:
            return image, target
        return F.horizontal_flip(image), {**target, "boxes": F.horizontal_flip(target["boxes"])}


@dataclass(frozen=True)
class ResizeShorter:
    """Resize so that the shorter side has one of `sizes` pixels, drawn at random; see `resized_size`.

    An image that already has the right size is not resampled. Bilinear with anti-aliasing, as PIL does it.
    """

    sizes: Sequence[int]
    max_size: int | None = None

    def __post_init__(self):
        """Sizes must be there and positive, or nothing could be drawn."""
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes to resize to must be positive and at least one, got {self.sizes!r}")

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """image (3, H, W) uint8 -> (3, H', W') uint8; boxes scaled by (W'/W, H'/H)."""
        shorter = self.sizes[random_int(0, len(self.sizes) - 1)] if len(self.sizes) > 1 else self.sizes[0]
        before = (image.shape[-2], image.shape[-1])
        after = resized_size(before, shorter, self.max_size)
        if after == before:
            return image, target
        boxes = F.resize(target["boxes"], list(after))
        return F.resize(image, list(after), antialias=True), {**target, "boxes": boxes}


@dataclass(frozen=True)
class RandomSizeCrop:
    """Cut out a rectangle whose height and width are each drawn from `low` to `high` pixels.

    A side of the image shorter than `high` limits the draw; shorter than `low`, it is taken whole. Boxes are
    clipped to the rectangle; those with no area left are dropped together with their labels.
    """

    low: int
    high: int

    def __post_init__(self):
        """A range must run upwards."""
        if not 1 <= self.low <= self.high:
            raise ValueError(f"crop range must be 1 <= low <= high, got ({self.low}, {self.high})")

    def draw(self, length: int) -> tuple[int, int]:
        """Where along a side of `length` pixels the rectangle starts, and how long it is."""
        size = random_int(min(self.low, length), min(self.high, length))
        return random_int(0, length - size), size

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """image (3, H, W) -> (3, h, w); boxes (M, 4) -> (M', 4), labels (M,) -> (M',)."""
        left, width = self.draw(image.shape[-1])
        top, height = self.draw(image.shape[-2])
        boxes = F.crop(target["boxes"], top, left, height, width)  # moved and clipped, (M, 4)
        size = boxes[:, 2:] - boxes[:, :2]  # (M, 2)
        keep = (size > ROUNDING).all(dim=1)  # (M,)
        kept = tv_tensors.wrap(boxes[keep], like=boxes)
        image = F.crop(image, top, left, height, width)
        return image, {**target, "boxes": kept, "labels": target["labels"][keep]}


@dataclass(frozen=True)
class FairCoin:
    """One of two steps, each with probability 1/2."""

    heads: Step
    tails: Step

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Shapes are those of the step that is taken."""
        return (self.heads if torch.rand(()) < 0.5 else self.tails)(image, target)


@dataclass(frozen=True)
class Normalise:
    """Colours to mean 0 and standard deviation 1, boxes back to normalised cxcywh, the size written down."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """image (3, H, W) uint8 -> float32; boxes in pixels -> fractions; adds target["size"] = (H, W)."""
        return self.write(image, torch.empty(image.shape)), self.finish(target, *image.shape[-2:])

    def write(self, image: Tensor, place: Tensor) -> Tensor:
        """Fill `place` (3, H, W) float32 with the normalised colours of image (3, H, W) uint8; returns it."""
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]  # (3, 1, 1)
        return torch.mul(image, 1 / (255 * std), out=place).sub_(mean / std)  # (image / 255 - mean) / std

    def finish(self, target: Target, height: int, width: int) -> Target:
        """Boxes in pixels -> fractions of an image of this size; the size is added."""
        boxes = target["boxes"].as_subclass(Tensor) / torch.tensor([width, height, width, height])  # (M, 4)
        return {**target, "boxes": xyxy_to_cxcywh(boxes), "size": torch.tensor([height, width])}


def build_transform(recipe: DataRecipe, train: bool) -> Steps:
    """The steps of a recipe: `(image uint8 (3, H, W), target) -> (image float (3, H', W'), target)`.

    With `train`, DETR's augmentation; without, one resize to `recipe.eval_size`. `orig_size` and `image_id`
    pass untouched. Raises ValueError when the recipe has no size to draw or a crop range that runs down.
    """
    resize: Step = ResizeShorter(recipe.train_sizes if train else (recipe.eval_size,), recipe.max_size)
    normalise = Normalise(recipe.mean, recipe.std)
    if not train:
        return Steps(ToPixels(), resize, normalise)
    if recipe.crop_resize:
        crop = Steps(ResizeShorter(recipe.crop_resize), RandomSizeCrop(*recipe.crop_range), resize)
        resize = FairCoin(resize, crop)
    return Steps(ToPixels(), RandomFlip(recipe.flip), resize, normalise)


class Transformed(Dataset):
    """A data set whose items have been through a transform; index and length are those of `dataset`."""

    def __init__(self, dataset: Dataset, transform: Step):
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Image float (3, H, W), normalised, and its target."""
        return self.transform(*self.dataset[index])


@dataclass
class Batch:
    """Images of different sizes in one tensor. mask is True where there is padding and no image.

    images: float (B, 3, H, W). mask: bool (B, H, W). targets: one dict per image.
    """

    images: Tensor
    mask: Tensor
    targets: list[Target]

    def __len__(self) -> int:
        """Number of images, B."""
        return len(self.targets)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on another device, tensors inside the targets included."""
        def move(value: Tensor | int) -> Tensor | int:
            return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value

        targets = [{name: move(value) for name, value in target.items()} for target in self.targets]
        return Batch(move(self.images), move(self.mask), targets)

    def pin_memory(self) -> "Batch":
        """The two large tensors in page-locked memory; a DataLoader with pin_memory=True calls this."""
        return Batch(self.images.pin_memory(), self.mask.pin_memory(), self.targets)


def zeros(*shape: int) -> Tensor:
    """A new float32 tensor of zeros, quick to fill where it is large.

    PyTorch takes memory in pages of 4 kB, and the system is slow to hand out each at its first touch. NumPy asks
    Linux for pages of 2 MB instead. The tensor begins at a multiple of 64 bytes, as PyTorch's own do.
    """
    length = math.prod(shape)
    if length < HUGE:
        return torch.zeros(shape)
    memory = np.zeros(length + ALIGNED, dtype=np.float32)
    start = -memory.ctypes.data % (4 * ALIGNED) // 4
    return torch.from_numpy(memory[start : start + length]).view(shape)


def collate(items: Sequence[tuple[Tensor, Target]], normalise: Normalise | None = None) -> Batch:
    """Pad images on the right and at the bottom with zeros to the largest height and width among them.

    items: (image float (3, H_i, W_i), target) each. Zero is the mean colour, since images are normalised.
    normalise: the step that items have not been through yet; their colours then go straight into the batch.
    """
    height = max(image.shape[-2] for image, _ in items)
    width = max(image.shape[-1] for image, _ in items)
    images = zeros(len(items), 3, height, width)
    mask = torch.ones(len(items), height, width, dtype=torch.bool)
    for row, (image, _) in enumerate(items):
        place = images[row, :, : image.shape[-2], : image.shape[-1]]
        normalise.write(image, place) if normalise else place.copy_(image)
        mask[row, : image.shape[-2], : image.shape[-1]] = False
    if normalise:
        return Batch(images, mask, [normalise.finish(target, *image.shape[-2:]) for image, target in items])
    return Batch(images, mask, [target for _, target in items])


def normalise_last(transform: Steps) -> tuple[Steps, Callable[[Sequence[tuple[Tensor, Target]]], Batch]]:
    """A transform of `build_transform` without its last step, and a `collate` that does that step.

    Together they give the same batches, bit for bit, without a float copy of every image.
    """
    *steps, last = transform.steps
    return Steps(*steps), partial(collate, normalise=last)


def denormalise(images: Tensor, recipe: DataRecipe) -> Tensor:
    """Undo `Normalise` for the eye: images (..., 3, H, W) normalised -> the same shape in 0 to 1."""
    mean, std = images.new_tensor(recipe.mean), images.new_tensor(recipe.std)
    return (images * std[:, None, None] + mean[:, None, None]).clamp(0, 1)  # (..., 3, H, W)
