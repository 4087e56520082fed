"""Backbones: from pixels to feature maps.

`ResNet50` is the one of the papers, with its BatchNorm frozen. `SmallBackbone` is a ResNet of 0.3 million
weights for generated scenes; its pre-trained weights ship with the project. A third one, for real pictures on a CPU, is
in efficientnet.py.
"""

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from detr_mini.files import DATA

SMALL_WEIGHTS = DATA / "weights" / "small_backbone.safetensors"


def fold(convolution: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A frozen BatchNorm is a fixed scale and shift: put both into the convolution before it.

    Returns weight (out, in, k, k) and bias (out,) for one convolution that does the work of two layers. The
    convolution's own weight stays the parameter, so gradients and checkpoints do not notice.
    """
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # (out,)
    return convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def conv_norm(x: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Convolution and BatchNorm, in one step where it is frozen: (B, in, H, W) -> (B, out, H', W')."""
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(convolution(x))
    weight, bias = fold(convolution, norm)
    return F.conv2d(x, weight, bias, convolution.stride, convolution.padding, convolution.dilation, convolution.groups)


def bottleneck(block: Bottleneck, x: Tensor) -> Tensor:
    """One residual block of ResNet-50: 1x1, 3x3, 1x1, plus what came in. (B, C, H, W) -> (B, C', H', W')."""
    shortcut = x if block.downsample is None else conv_norm(x, *block.downsample)
    out = F.relu(conv_norm(x, block.conv1, block.bn1), inplace=True)
    out = F.relu(conv_norm(out, block.conv2, block.bn2), inplace=True)
    return F.relu(conv_norm(out, block.conv3, block.bn3).add_(shortcut), inplace=True)


class ResNet50(nn.Module):
    """ResNet-50 as DETR uses it: frozen BatchNorm, stem and first stage never trained.

    Forward: images (B, 3, H, W), normalised -> one map per entry of `stages`, (B, C, H/s, W/s), where stages
    1 to 4 have C = 256, 512, 1024, 2048 and s = 4, 8, 16, 32. `dilation` takes the stride out of stage 4
    (s = 16, called DC5 in the paper). Names of weights are torchvision's, under `body`.
    """

    def __init__(self, stages: tuple[int, ...] = (4,), dilation: bool = False, trainable: bool = True) -> None:
        super().__init__()
        body = resnet50(norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, dilation])
        del body.fc, body.avgpool
        self.body, self.stages = body.to(memory_format=torch.channels_last), stages
        self.channels = [128 * 2**stage for stage in stages]
        for name, weight in self.body.named_parameters():
            weight.requires_grad_(trainable and name.startswith(("layer2", "layer3", "layer4")))

    def forward(self, images: Tensor) -> list[Tensor]:
        body = self.body
        x = images.contiguous(memory_format=torch.channels_last)
        x = body.maxpool(F.relu(conv_norm(x, body.conv1, body.bn1), inplace=True))  # (B, 64, H/4, W/4)
        maps = []
        for stage in range(1, max(self.stages) + 1):
            for block in getattr(body, f"layer{stage}"):
                x = bottleneck(block, x)
            maps.append(x)
        return [maps[stage - 1] for stage in self.stages]

    def load_imagenet(self) -> "ResNet50":
        """torchvision's ImageNet weights (version 1, as in the papers; 98 MB, downloaded once). Returns self.

        Raises RuntimeError naming the choices when the weights are neither on this machine nor to be had, and naming
        the file when it is damaged.
        """
        weights = ResNet50_Weights.IMAGENET1K_V1
        kept = Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])
        try:
            state = weights.get_state_dict(progress=True, check_hash=True)
        except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise RuntimeError(f"{kept} is damaged ({reason}): delete it and give the same command again") from error
        except OSError as error:
            raise RuntimeError(
                f"ResNet-50's ImageNet weights could not be fetched ({error}). Choices: connect to a network once; put "
                f"{kept.name} into {kept.parent}; take one whose weights pip "
                "installs (--backbone efficientnet_lite0); start from a detector's checkpoint (--weights FILE); or "
                "train from nothing (--backbone-weights none)"
            ) from error
        wanted = self.body.state_dict()
        self.body.load_state_dict({name: state[name] for name in wanted})
        return self


class ConvNorm(nn.Module):
    """A 3x3 convolution with its norm: (B, before, H, W) -> (B, after, H/stride, W/stride)."""

    def __init__(self, before: int, after: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(before, after, 3, stride, 1, bias=False), norm(after)

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(x, self.convolution, self.norm)


class SmallBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first halves the map: (B, C, H, W) -> (B, 2C, H/2, W/2)."""

    def __init__(self, before: int, after: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.second = ConvNorm(before, after, 2, norm), ConvNorm(after, after, 1, norm)
        self.shortcut = nn.Conv2d(before, after, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class SmallBackbone(nn.Module):
    """A small ResNet for scenes: 16, 32, 64 and 128 channels at strides 2, 4, 8 and 16.

    Forward: images (B, 3, H, W), normalised -> one map per entry of `stages`, (B, 8 * 2**s, H/2**s, W/2**s).
    Give `norm=nn.BatchNorm2d` to pre-train it as a classifier; as a detector's backbone its BatchNorm is frozen.
    """

    def __init__(
        self, stages: tuple[int, ...] = (4,), trainable: bool = True, norm: type[nn.Module] = FrozenBatchNorm2d
    ) -> None:
        super().__init__()
        widths = (16, 32, 64, 128)
        self.stem = ConvNorm(3, widths[0], 2, norm)
        self.blocks = nn.ModuleList(SmallBlock(a, b, norm) for a, b in zip(widths, widths[1:], strict=False))
        self.stages, self.channels = stages, [widths[stage - 1] for stage in stages]
        self.to(memory_format=torch.channels_last).requires_grad_(trainable)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [F.relu(self.stem(images.contiguous(memory_format=torch.channels_last)))]  # (B, 16, H/2, W/2)
        for block in self.blocks[: max(self.stages) - 1]:
            maps.append(block(maps[-1]))
        return [maps[stage - 1] for stage in self.stages]

    def load_pretrained(self, path: Path = SMALL_WEIGHTS) -> "SmallBackbone":
        """The shipped weights, or those of another `python -m detr_mini pretrain` run. Returns self.

        Raises FileNotFoundError saying how to make the file when it is missing, ValueError when it is damaged.
        """
        cure = f"make it with `python -m detr_mini pretrain --to {path}`"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {cure}")
        try:
            self.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} does not hold the small backbone ({reason}): {cure}") from error
        return self


def normed_projection(before: int, after: int, kernel: int = 1) -> nn.Sequential:
    """Convolution and GroupNorm in 32 groups: (B, before, H, W) -> (B, after, H, W); a 3x3 kernel halves the map.

    Deformable DETR and Anchor DETR bring the backbone's maps to the model's width with it.
    """
    convolution = nn.Conv2d(before, after, kernel, stride=1 if kernel == 1 else 2, padding=kernel // 2)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(32, after))


def padding_at(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The images' padding mask at the size of a feature map, nearest: (B, H, W) bool -> (B, h, w) bool."""
    return F.interpolate(mask[:, None].float(), size=size)[:, 0].bool()
