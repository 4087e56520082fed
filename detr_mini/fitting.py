"""A recipe fitted to a data set: size, steps, learning rates and queries from what is in it, each with its reason.

    recipe, choices = fitted_recipe("deformable", facts_of(train_set), gpu=False)

The rules are short on purpose, and a place to start from, not the end of a search: a validation split tells better.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from detr_mini import zoo
from detr_mini.efficientnet import LITE_MEAN, LITE_STD
from detr_mini.recipes import DataRecipe, ModelRecipe, Recipe, TrainRecipe

SMALL_SIDE = 24  # pixels that a small object should have after resizing: three cells of the map with stride 8
SMALL_SHARE = 5  # per cent of the objects are allowed to be smaller
SMALLEST, CPU_LARGEST, GPU_LARGEST = 256, 320, 800  # pixels of the shorter side
LEAST_QUERIES = 20
EPOCHS = ((100, 120), (500, 80), (2_000, 50), (10_000, 30), (50_000, 20))  # up to so many images: so many epochs
LAST_EPOCHS, LEAST_STEPS = 12, 300
CPU_BATCH, SHARE_OF_BATCH = 8, 16  # images per step; a step takes at most this part of a small data set
FEW = 50  # images; with fewer, the backbone is frozen
MANY = 5_000  # images; from here on, one size is enough augmentation on a CPU


@dataclass(frozen=True)
class DataFacts:
    """What a recipe is fitted to. most: objects in the fullest image. shorter: pixels, median of the images' shorter
    sides. small: side of a small object (see SMALL_SHARE) as a part of its image's shorter side; 0 without objects."""

    images: int
    objects: int
    classes: int
    most: int
    shorter: float
    small: float


@dataclass(frozen=True)
class Choice:
    """One number of the recipe and why it is what it is. option: of the command line."""

    option: str
    value: object
    why: str

    def __str__(self) -> str:
        return f"{self.option:<16} {self.value!s:<18} {self.why}"


def facts_of(dataset) -> DataFacts:
    """Facts of a data set with `coco_ground_truth`, counted on its annotations; no image is opened."""
    truth = dataset.coco_ground_truth()
    shorter = {image["id"]: min(image["height"], image["width"]) for image in truth["images"]}
    things = [a for a in truth["annotations"] if not a["iscrowd"] and min(a["bbox"][2:]) > 0]
    sides = [(a["bbox"][2] * a["bbox"][3]) ** 0.5 / shorter[a["image_id"]] for a in things]
    most = np.bincount(np.unique([a["image_id"] for a in things], return_inverse=True)[1]).max() if things else 0
    return DataFacts(
        images=len(dataset), objects=len(things), classes=dataset.num_classes, most=int(most),
        shorter=float(np.median(list(shorter.values()))),
        small=float(np.percentile(sides, SMALL_SHARE)) if sides else 0.0,
    )


def choose_size(facts: DataFacts, gpu: bool) -> int:
    """Pixels of the shorter side: enough for small objects, within what the machine can do; a multiple of 32."""
    wanted = SMALL_SIDE / facts.small if facts.small else SMALLEST
    largest = GPU_LARGEST if gpu else CPU_LARGEST
    return int(min(largest, max(SMALLEST, -(-wanted // 32) * 32)))


def choose_epochs(images: int) -> int:
    """How often every image is seen; few images are seen more often, and none so often that it is learned by heart."""
    return next((epochs for most, epochs in EPOCHS if images <= most), LAST_EPOCHS)


def fitted_recipe(
    name: str, facts: DataFacts, gpu: bool, backbone: str = "efficientnet_lite0", model: ModelRecipe | None = None,
    batch: int | None = None,
) -> tuple[Recipe, list[Choice]]:
    """A detector's recipe for a data set, and what was chosen with reasons.

    gpu: whether one is there. model: the shape of a checkpoint that training starts from; it keeps its shape.
    batch: images per step, None to have it chosen; the steps follow from it.
    Raises ValueError for an unknown detector and for a data set without images.
    """
    if facts.images < 1:
        raise ValueError("the data set has no images: nothing to train on")
    base = zoo.recipe(name, "coco" if gpu else "scenes")
    shape, shape_choices = _model(name, base.model, facts, gpu, backbone, model)
    data, data_choices = _data(facts, gpu, shape.backbone)
    train, train_choices = _train(base.train, facts, gpu, batch)
    return replace(base, model=shape, data=data, train=train), shape_choices + data_choices + train_choices


def _model(
    name: str, base: ModelRecipe, facts: DataFacts, gpu: bool, backbone: str, given: ModelRecipe | None
) -> tuple[ModelRecipe, list[Choice]]:
    """The shape of the detector."""
    wanted = max(LEAST_QUERIES, -(-2 * facts.most // 10) * 10)
    why = f"twice the {facts.most} objects of the fullest image, and at least {LEAST_QUERIES}"
    if given is not None:
        queries = max(given.queries, wanted)
        why = f"the checkpoint's, {why} needed" if queries == given.queries else why
        shape = replace(given, classes=facts.classes, queries=queries)
        return shape, [Choice("--detector", name, "the checkpoint's shape is kept"), Choice("--queries", queries, why)]
    shape = replace(base, backbone=backbone, classes=facts.classes, queries=wanted)
    if name == "deformable" and not gpu:
        shape = replace(shape, levels=2)  # strides 16 and 32, so that small objects have cells of their own
    size = "the paper's size, for a GPU" if gpu else f"small, for a CPU: width {shape.d_model}"
    return shape, [
        Choice("--detector", name, size), Choice("--backbone", backbone, "pre-trained on ImageNet, BatchNorm frozen"),
        Choice("--queries", wanted, why),
    ]


def _data(facts: DataFacts, gpu: bool, backbone: str) -> tuple[DataRecipe, list[Choice]]:
    """How images are prepared."""
    size = choose_size(facts, gpu)
    jitter = (size - 32, size, size + 32) if gpu or facts.images < MANY else (size,)
    colours = {"mean": LITE_MEAN, "std": LITE_STD} if backbone == "efficientnet_lite0" else {}
    data = DataRecipe(train_sizes=jitter, max_size=2 * (size + 32), eval_size=size, crop_resize=(), **colours)
    side = round(facts.small * size)
    why = (f"small objects (one in {100 // SMALL_SHARE} is smaller) are {side} pixels wide then; pictures are "
           f"{facts.shorter:.0f}")
    return data, [Choice("--size", size, why)]


def _train(base: TrainRecipe, facts: DataFacts, gpu: bool, batch: int | None) -> tuple[TrainRecipe, list[Choice]]:
    """The schedule."""
    share = max(1, facts.images // SHARE_OF_BATCH)
    batch = batch or min(base.batch if gpu else CPU_BATCH, 1 << (share.bit_length() - 1))  # a power of two
    epochs = choose_epochs(facts.images)
    steps = max(LEAST_STEPS, epochs * facts.images // batch)
    frozen = facts.images < FEW
    train = replace(
        base, batch=batch, steps=steps, epochs=None, drop=0.8, warmup=min(100, steps // 10),
        backbone_lr=0.0 if frozen else base.lr / 10,
    )
    backbone = f"frozen: {facts.images} images are too few" if frozen else "a tenth of the rest: it knows a lot already"
    return train, [
        Choice("--batch", batch, "images per step"),
        Choice("--steps", steps, f"each of the {facts.images} images about {steps * batch // facts.images} times"),
        Choice("--lr", f"{train.lr:g}", "the recipe's; a tenth of it in the last fifth"),
        Choice("--backbone-lr", f"{train.backbone_lr:g}", backbone),
    ]


def choose_interval(steps: int, images: int, batch: int) -> int:
    """Steps between evaluations: about ten in all, and none before every image was seen."""
    return max(1, min(steps, max(steps // 10, images // batch)))


def seconds_per_step(model: nn.Module, recipe: Recipe, tries: int = 2) -> float:
    """How long forward and backward of one training step take here, measured on a batch of random pixels.

    Loading, matching and evaluation are not in it. The model's weights, gradients and mode, and the random state, are
    as before afterwards.
    """
    side = recipe.data.train_sizes[len(recipe.data.train_sizes) // 2]
    mode, device = model.training, next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        images = torch.rand(recipe.train.batch, 3, side, min(recipe.data.max_size, round(side * 4 / 3)), device=device)
        spent = []
        for _ in range(tries + 1):  # the first one prepares memory
            begun = time.perf_counter()
            output = model.train()(images)
            (output.logits.sum() + output.boxes.sum()).backward()
            spent.append(time.perf_counter() - begun)
            model.zero_grad(set_to_none=True)
    model.train(mode)
    return min(spent[1:])


def in_time(seconds: float) -> str:
    """A duration in words: "40 seconds", "12 minutes", "3.5 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
