"""Pictures of losses: a box on its way downhill, and which layer hears which loss."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, iou
from detr_mini.course.plots import BLUE, INK, array, bare, own_or


def descend(
    start: Sequence[float], wanted: Sequence[float], loss: Callable[[Tensor, Tensor], Tensor], steps: int, lr: float
) -> tuple[Tensor, Tensor]:
    """A single box going downhill with Adam, in double precision: boxes (steps + 1, 4) cxcywh, IoU (steps + 1,).

    loss: of a box (4,) and the wanted one (4,), both cxcywh.
    """
    box, wanted = (torch.tensor(values, dtype=torch.float64) for values in (start, wanted))
    box.requires_grad_()
    optimizer, path = torch.optim.Adam([box], lr), [box.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss(box, wanted).backward()
        optimizer.step()
        path.append(box.detach().clone())
    boxes = torch.stack(path)
    return boxes, iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))


def way(
    boxes: Tensor, wanted: Sequence[float], every: int, *, title: str = "", axes: Axes | None = None
) -> Figure:
    """The way of a box: its frame after every so many steps, later ones stronger, and the wanted box dashed.

    boxes: (steps + 1, 4) cxcywh as fractions of the picture. every: steps between two frames.
    """
    axes = own_or(axes, 2.6, 2.6)[1]
    chosen = array(boxes)[::every]
    for number, (x, y, w, h) in enumerate(chosen):
        strength = min(1.0, 0.25 + 0.75 * number / max(1, len(chosen) - 1))
        axes.add_patch(Rectangle((x - w / 2, y - h / 2), w, h, fill=False, edgecolor=BLUE, alpha=strength,
                                 linewidth=1.0 + 1.2 * strength))
    axes.plot(array(boxes)[:, 0], array(boxes)[:, 1], color=BLUE, linewidth=0.9, alpha=0.7)
    x, y, w, h = wanted
    axes.add_patch(Rectangle((x - w / 2, y - h / 2), w, h, fill=False, edgecolor=INK, linewidth=1.6,
                             linestyle=(0, (3, 2))))
    axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
    return bare(axes, title)


def gradient_lengths(losses: Sequence[Tensor], parts: Sequence[Sequence[Tensor]]) -> np.ndarray:
    """How long the gradient of each loss is in each part of a model: (losses, parts).

    losses: scalars of one forward pass. parts: lists of parameters. What a loss does not reach counts 0.
    """
    lengths = np.zeros((len(losses), len(parts)))
    flat = [parameter for part in parts for parameter in part]
    for row, loss in enumerate(losses):
        found = iter(torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True))
        for column, part in enumerate(parts):
            lengths[row, column] = sum(float(g.square().sum()) for g in (next(found) for _ in part) if g is not None)
    return np.sqrt(lengths)
