"""Dropout that keeps up on a CPU.

PyTorch draws one random number per element, one after another. On two cores that is a twelfth of a training step of
Deformable DETR. Sixteen bits are enough to decide whether an element stays, so one 64-bit number serves four.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """As F.dropout: elements become 0 with this probability, the others grow so that the mean stays.

    x: any shape; rate: 0 to 1, on a CPU in steps of 1/65536 (the others grow by what that rate asks for).
    """
    if not training or rate == 0:
        return x
    dropped = round(rate * LEVELS)
    if x.device.type != "cpu" or dropped == LEVELS:
        return F.dropout(x, rate)
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits are random
    bits = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # -32,768 to 32,767
    stays = (bits >= dropped - LEVELS // 2).to(x.dtype)
    return x * stays.mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """nn.Dropout by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)
