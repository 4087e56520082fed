"""Bipartite matching: which prediction answers for which object.

Every object gets one query, no query gets two objects, and the total cost is the smallest possible
(Carion et al. 2020, equation 1). The assignment is solved by SciPy's Hungarian algorithm.
"""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, pairwise_giou
from detr_mini.recipes import LossRecipe


@dataclass
class Matches:
    """All matched pairs of all layers, flat: entry i says that, in decoder layer `layer[i]` and image `image[i]`,
    query `query[i]` answers for the image's object `target[i]`. Four tensors of shape (L * pairs,), layer by layer.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor

    def pairs(self, layer: int, image: int) -> list[tuple[int, int]]:
        """(query, target) of one layer and one image, in order of the query."""
        chosen = (self.layer == layer) & (self.image == image)
        return list(zip(self.query[chosen].tolist(), self.target[chosen].tolist(), strict=True))


def focal_cost(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Cost of every class under a focal head: its loss as a positive minus its loss as a negative.

    logits: (..., C) -> (..., C). Source: Deformable DETR, models/matcher.py; 1e-8 keeps the logarithms finite.
    """
    p = logits.sigmoid()
    positive = alpha * (1 - p) ** gamma * -(p + 1e-8).log()
    negative = (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
    return positive - negative


def with_empties(targets: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Targets in which every image without objects has labels (0,) of whole numbers and boxes (0, 4).

    `torch.tensor([])`, which is what a list without entries becomes, is (0,) of floats for both. ValueError naming the
    image for labels or boxes of another shape.
    """
    tidy = []
    for number, target in enumerate(targets):
        labels, boxes = target["labels"], target["boxes"]
        if labels.numel() == 0 and boxes.numel() == 0:
            target = target | {"labels": labels.new_zeros(0, dtype=torch.long), "boxes": boxes.new_zeros(0, 4)}
        elif labels.ndim != 1 or boxes.shape != (len(labels), 4):
            which = f"image {number} of the batch (image_id {target.get('image_id', '?')})"
            raise ValueError(f"{which} has labels {tuple(labels.shape)} and boxes {tuple(boxes.shape)}: give labels "
                             "(M,) and boxes (M, 4), one row for each object")
        tidy.append(target)
    return tidy


def pad_targets(targets: list[dict[str, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Targets of unequal number as one tensor each: labels (B, M) and boxes (B, M, 4), filled up with label 0
    and a box of the whole image, where M is the largest number of objects."""
    most = max((len(target["labels"]) for target in targets), default=0)
    labels = torch.zeros(len(targets), most, dtype=torch.long)
    boxes = torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(len(targets), most, 1)
    for row, target in enumerate(targets):
        count = len(target["labels"])
        labels[row, :count], boxes[row, :count] = target["labels"], target["boxes"]
    return labels.to(device), boxes.to(device)


class HungarianMatcher:
    """Matches predictions to objects at the smallest total cost, every decoder layer on its own.

    Cost of a pair = class_cost * (class term) + l1_cost * L1 of cxcywh + giou_cost * -GIoU. The class term is
    minus the probability of the object's class under a softmax head, `focal_cost` under a focal head.

    An image without objects gets no pairs. Where an image has more objects than there are queries, every query is
    matched and the objects that cost most stay without one, as in the authors' code.
    """

    def __init__(self, recipe: LossRecipe, head: str) -> None:
        self.recipe, self.head = recipe, head

    def class_term(self, logits: Tensor) -> Tensor:
        """Cost of every class: (L, B, Q, C) logits -> (L, B, Q, C)."""
        if self.head == "softmax":
            return -logits.softmax(-1)
        return focal_cost(logits, self.recipe.focal_alpha, self.recipe.focal_gamma)

    def terms(self, logits: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """The three unweighted terms of the cost, each (L, B, Q, M).

        logits: (L, B, Q, C), boxes: (L, B, Q, 4) cxcywh, labels: (B, M), wanted: (B, M, 4) cxcywh.
        """
        index = labels[None, :, None].expand(*logits.shape[:3], -1)  # (L, B, Q, M)
        return {
            "class": self.class_term(logits).gather(-1, index),
            "l1": torch.cdist(boxes, wanted.expand(len(boxes), -1, -1, -1), p=1),
            "giou": -pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted)),
        }

    def costs(self, logits: Tensor, boxes: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
        """The weighted cost of every query-object pair of every layer: (L, B, Q, M)."""
        terms = self.terms(logits, boxes, labels, wanted)
        recipe = self.recipe
        return recipe.class_cost * terms["class"] + recipe.l1_cost * terms["l1"] + recipe.giou_cost * terms["giou"]

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> Matches:
        """logits: (L, B, Q, C), boxes: (L, B, Q, 4), targets: one dict per image with labels (M,), boxes (M, 4).

        Raises ValueError naming layer and image where a cost is not finite.
        """
        targets = with_empties(targets)
        labels, wanted = pad_targets(targets, boxes.device)
        costs = self.costs(logits.float(), boxes.float(), labels, wanted).cpu()  # the one copy to the host
        rows = []
        for layer, of_layer in enumerate(costs):
            for image, cost in enumerate(of_layer):
                cost = cost[:, : len(targets[image]["labels"])]  # (Q, M)
                rows.extend((layer, image, *pair) for pair in assign(cost, layer, image, targets))
        flat = torch.tensor(rows, dtype=torch.long).reshape(-1, 4).to(boxes.device)
        return Matches(*flat.unbind(1))


def assign(cost: Tensor, layer: int, image: int, targets: list[dict[str, Tensor]]) -> list[tuple[int, int]]:
    """The cheapest assignment of one image: cost (Q, M) -> min(Q, M) pairs (query, target), by query."""
    if not torch.isfinite(cost).all():
        name = targets[image].get("image_id", image)
        raise ValueError(
            f"matching cost is NaN or infinite in decoder layer {layer}, image {image} of the batch (image_id {name}): "
            "the predictions or this image's boxes are not finite; lower the learning rate or check the boxes"
        )
    query, target = linear_sum_assignment(cost.numpy())
    return list(zip(query.tolist(), target.tolist(), strict=True))
