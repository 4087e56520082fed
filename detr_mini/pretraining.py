"""Pre-training the small backbone: the toy's ImageNet.

A detector's loss is a poor teacher for pixels: it says little until the boxes are right. So the papers start from
a backbone that can already tell things apart, and so do we, with a classifier of single things on 64 x 64 crops.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d
from tqdm.auto import tqdm

from detr_mini.backbone import SmallBackbone
from detr_mini.data.scenes import CLASSES, draw_crops
from detr_mini.files import atomic, require_place
from detr_mini.recipes import IMAGENET_MEAN, IMAGENET_STD


class Classifier(nn.Module):
    """The small backbone with its BatchNorm alive, global average pooling, one linear layer.

    Forward: images (B, 3, H, W) normalised -> logits (B, classes).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = SmallBackbone(norm=nn.BatchNorm2d)
        self.head = nn.Linear(self.backbone.channels[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[-1].mean((2, 3)))


def normalise(images: Tensor) -> Tensor:
    """Bytes to numbers around 0: (B, 3, H, W) uint8 -> float, with ImageNet's mean and deviation."""
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    return (images.float() / 255 - mean) / std


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, shift by up to 6 pixels and change brightness per channel: (B, 3, H, W) -> the same shape."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    dy, dx = torch.randint(-6, 7, (2,), generator=generator).tolist()
    gain = 1 + 0.3 * (torch.rand(len(images), 3, 1, 1, generator=generator) - 0.5)
    return images.roll((dy, dx), (2, 3)) * gain


def batches(images: Tensor, labels: Tensor, steps: int, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` random batches, augmented: (size, 3, H, W) and (size,)."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(images), (size,), generator=generator)
        yield jitter(normalise(images[chosen]), generator), labels[chosen]


@torch.inference_mode()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Part of the crops whose thing is named rightly, 0 to 1."""
    model.eval()
    right = [(model(normalise(x)).argmax(1) == y) for x, y in zip(images.split(250), labels.split(250), strict=True)]
    model.train()
    return torch.cat(right).float().mean().item()


def pretrain(
    path: Path | str, steps: int = 900, crops: int = 12_000, batch: int = 64, seed: int = 0, progress: bool = True
) -> float:
    """Train the classifier and write its backbone to a safetensors file; returns its accuracy on 2,000 fresh crops.

    The BatchNorm statistics are frozen into the file, as a detector's backbone wants them.
    Raises OSError before the training for a path that cannot be written to.
    """
    require_place(path)
    torch.manual_seed(seed)
    images, labels = map(torch.as_tensor, draw_crops(crops, seed=seed))
    model = Classifier(len(CLASSES)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    bar = tqdm(batches(images, labels, steps, batch, seed), total=steps, disable=not progress, desc="pre-training")
    for x, y in bar:
        loss = F.cross_entropy(model(x), y, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    held_out = accuracy(model, *map(torch.as_tensor, draw_crops(2_000, seed=seed + 1)))
    save_backbone(model.backbone, path)
    return held_out


def save_backbone(backbone: SmallBackbone, path: Path | str) -> None:
    """Write the tensors that a frozen `SmallBackbone` has, atomically."""
    wanted = SmallBackbone(backbone.stages, norm=FrozenBatchNorm2d).state_dict()
    state = {name: tensor.contiguous() for name, tensor in backbone.state_dict().items() if name in wanted}
    with atomic(path, SafetensorError) as temporary:
        save_file(state, temporary, {"format": "detr_mini small backbone"})
