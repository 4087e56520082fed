"""What a training would take: images, steps, memory, hours - before anything is rented or started.

    python -m detr_mini plan --detector deformable --preset coco --gpu a100 --gpus 8

Nothing is trained and nothing is allocated: the model runs on PyTorch's `meta` device, which knows shapes only. Work is
counted operation by operation; memory is what autograd would keep for the backward pass, tensor by tensor.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from detr_mini import zoo
from detr_mini.detr import Detr
from detr_mini.recipes import Recipe
from detr_mini.training import count_steps

COCO_TRAIN_IMAGES = 118_287  # of train2017; 117,266 of them hold objects
BACKWARD = 2  # a backward pass takes about twice the work of the forward pass
ADAMW = 16  # bytes per trained parameter: itself, its gradient, two running means, each in float32
# DETR's README: one epoch takes 28 minutes on eight V100. With the work counted as below, that is this share of what
# eight V100 could do in float32. Other GPUs are taken to reach the same share of their figure.
EPOCH_OF_DETR, REACHED = 28 * 60, 0.17
GIGA = 1024**3
ROOM = 0.9  # of a GPU's memory; the rest is for what the plan does not count, such as the allocator's gaps


@dataclass(frozen=True)
class Timed:
    """A training that its authors timed. preset: of which form. hours: on eight V100, in float32."""

    detector: str
    preset: str
    hours: float
    source: str


# What the plan is held against; DETR itself is not in it, since the plan is calibrated on that.
DEFORMABLE_README = "README of fundamentalvision/Deformable-DETR: total training time in GPU hours, divided by 8"
TIMED = (
    Timed("deformable", "coco-two-stage", 42.5, DEFORMABLE_README),
    Timed("deformable", "coco", 40.6, DEFORMABLE_README),
    Timed("deformable", "coco-single", 20.0, DEFORMABLE_README),
    Timed("smca", "coco", 25.0, "README of gaopengcuhk/SMCA-DETR: 25 hours on eight V100"),
)


@dataclass(frozen=True)
class Gpu:
    """A GPU by its maker's data sheet: memory in GiB, and 10^12 operations per second without and with bf16 (fp16 on
    the V100 and T4, which have no bf16)."""

    name: str
    memory: int
    float32: float
    half: float


GPUS = {
    "t4": Gpu("T4", 16, 8.1, 65),
    "v100": Gpu("V100", 32, 15.7, 125),
    "rtx3090": Gpu("RTX 3090", 24, 35.6, 71),
    "rtx4090": Gpu("RTX 4090", 24, 82.6, 165),
    "a100": Gpu("A100", 80, 19.5, 312),
    "h100": Gpu("H100", 80, 67, 989),
}


@dataclass(frozen=True)
class Plan:
    """What was asked for and what it would take. work: operations of one image, forward. memory: bytes on one GPU."""

    name: str
    recipe: Recipe
    images: int
    gpu: Gpu
    gpus: int
    half: bool
    accumulate: int
    work: int
    parameters: int
    activations: int

    @property
    def steps(self) -> int:
        """Optimisation steps."""
        return count_steps(self.recipe.train, self.images)

    @property
    def at_once(self) -> int:
        """Images on one GPU at a time."""
        return self.recipe.train.batch // (self.gpus * self.accumulate)

    @property
    def memory(self) -> int:
        """Bytes on one GPU: weights and what AdamW keeps of them, and the activations of its images."""
        return ADAMW * self.parameters + self.at_once * self.activations

    @property
    def hours(self) -> tuple[float, float]:
        """Of the whole training, evaluation not counted: at best and at worst. In float32 both are the same. Half
        precision is at best as much faster as the data sheet says, at worst not at all."""
        work = self.steps * self.recipe.train.batch * self.work * (1 + BACKWARD)
        best, worst = (self.gpu.half if self.half else self.gpu.float32), self.gpu.float32
        return tuple(work / (REACHED * 1e12 * speed * self.gpus) / 3600 for speed in (best, worst))

    def __str__(self) -> str:
        train, data = self.recipe.train, self.recipe.data
        numbers = "half" if self.half else "float32"
        fits = "fits" if self.memory < ROOM * self.gpu.memory * GIGA else "DOES NOT FIT: raise --accumulate"
        height, width = usual_size(self.recipe)
        best, worst = self.hours
        hours = f"{best:.1f} to {worst:.1f}" if self.half else f"{best:.1f}"
        epochs = f"{train.epochs} epochs of" if train.epochs else "drawn from"
        lines = {
            "detector": f"{self.name}, {self.parameters / 1e6:.1f} M parameters",
            "images": f"{epochs} {self.images:,}; {train.batch} per step, {self.at_once} at a time on each GPU",
            "steps": f"{self.steps:,}; the learning rate {train.lr:g} falls to a tenth after {train.drop:.0%}",
            "work": f"{self.work / 1e9:.0f} GFLOP forward per image of {height} x {width} "
                    f"({self.work / 2e9:.0f} G multiply-adds)",
            "memory": f"{self.memory / GIGA:.1f} GiB of {self.gpu.memory} on each GPU, {fits} (worst case: "
                      f"{data.eval_size} x {data.max_size}; {self.activations / GIGA:.2f} GiB per image)",
            "time": f"{hours} hours on {self.gpus} {self.gpu.name} in {numbers}",
            "basis": f"{1 + BACKWARD} x the forward work; {REACHED:.0%} of the GPU's float32 figure, as in the "
                     "authors' 28 minutes per epoch for DETR on eight V100; half precision at best as much faster as "
                     "the data sheet says. For four trainings that their authors timed on eight V100, in float32, such "
                     "plans are right to 20% too long; with other GPUs nobody has compared: time 200 steps first",
        }
        return "\n".join(f"{head:<9} {text}" for head, text in lines.items())


def plan(
    name: str, recipe: Recipe, images: int, gpu: str | Gpu = "a100", gpus: int = 8, half: bool = False,
    accumulate: int = 1,
) -> Plan:
    """Count work and memory of a training. gpu: a name of GPUS, or one of your own.

    Raises ValueError for an unknown GPU and for a batch that cannot be shared evenly.
    """
    if isinstance(gpu, str) and gpu not in GPUS:
        raise ValueError(f"no GPU {gpu!r}: choose one of {', '.join(GPUS)}, the nearest to yours")
    if gpus < 1 or accumulate < 1 or recipe.train.batch % (gpus * accumulate):
        raise ValueError(f"a batch of {recipe.train.batch} cannot be shared by {gpus} GPUs in {accumulate} "
                         "micro-batches: choose numbers whose product divides it")
    with torch.device("meta"):
        model = zoo.entry(name).detector(recipe.model).train()
    work = forward_work(model, usual_size(recipe))
    largest = (recipe.data.eval_size, recipe.data.max_size)
    kept = kept_for_backward(model, largest) // (2 if half else 1)
    gpu = GPUS[gpu] if isinstance(gpu, str) else gpu
    return Plan(name, recipe, images, gpu, gpus, half, accumulate, work, zoo.count(model), kept)


def gpu_here(otherwise: str = "rtx4090") -> Gpu:
    """This machine's first GPU by its name and memory; one of GPUS where there is none. Speeds are an A100's unless it
    is one of GPUS: they matter for the hours only."""
    if not torch.cuda.is_available():
        return GPUS[otherwise]
    found = torch.cuda.get_device_properties(0)
    known = next((gpu for gpu in GPUS.values() if gpu.name.lower() in found.name.lower()), GPUS["a100"])
    return replace(known, name=found.name, memory=found.total_memory // GIGA)


def smallest_accumulate(name: str, recipe: Recipe, gpu: str | Gpu, gpus: int = 1, half: bool = False) -> int:
    """The fewest micro-batches per step with which a training fits into the GPUs' memory.

    The batch stays the recipe's: gradients of micro-batches are added up. Raises ValueError for an unknown GPU, for a
    batch that cannot be shared by so many, and when not even one image at a time fits.
    """
    asked = plan(name, recipe, COCO_TRAIN_IMAGES, gpu, gpus, half)
    share = recipe.train.batch // gpus
    for parts in range(1, share + 1):
        if share % parts == 0 and replace(asked, accumulate=parts).memory < ROOM * asked.gpu.memory * GIGA:
            return parts
    raise ValueError(f"not even one image at a time fits into the {asked.gpu.memory} GiB of a {asked.gpu.name}: take a "
                     "larger GPU, half precision, or smaller images")


def usual_size(recipe: Recipe) -> tuple[int, int]:
    """Height and width of a usual training image: the middle one of the sizes drawn, three to four."""
    side = sorted(recipe.data.train_sizes)[len(recipe.data.train_sizes) // 2]
    return side, min(recipe.data.max_size, round(side * 4 / 3))


def forward_work(model: Detr, size: tuple[int, int]) -> int:
    """Operations of one forward pass of one image; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        run(model, size)
    return counter.get_total_flops()


def kept_for_backward(model: Detr, size: tuple[int, int]) -> int:
    """Bytes that autograd keeps of one image in float32 until the backward pass, parameters not counted."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (tensor, storage.nbytes())  # the tensor keeps the address from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(model, size)
    return sum(size for _, size in kept.values())


def run(model: Detr, size: tuple[int, int]) -> object:
    """One image of this size through a model on the meta device."""
    images, mask = torch.zeros(1, 3, *size, device="meta"), torch.zeros(1, *size, dtype=torch.bool, device="meta")
    return model(images, mask)
