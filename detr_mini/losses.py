"""The set loss: match first, then ask every query to say what its match is, or that it holds nothing.

For each decoder layer: a class loss over all queries (softmax or focal form), and for matched queries the L1
distance and GIoU of their boxes (Carion et al. 2020, equation 2, and section 3.1 of the paper).
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini.boxes import cxcywh_to_xyxy, giou
from detr_mini.decoder import DetectorOutput
from detr_mini.matching import HungarianMatcher, Matches, with_empties
from detr_mini.recipes import LossRecipe


def softmax_loss(logits: Tensor, classes: Tensor, no_object_weight: float) -> Tensor:
    """Cross-entropy over classes and no-object, as a weighted mean: divided by the sum of the weights.

    logits: (L, B, Q, C + 1) with no-object last, classes: (L, B, Q) long. Returns (L,). No-object counts
    `no_object_weight`, because nearly every query holds nothing.
    """
    weight = torch.ones(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    weight[-1] = no_object_weight
    each = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), weight, reduction="none")
    return each.view_as(classes).sum((1, 2)) / weight[classes].sum((1, 2))


def focal_loss(logits: Tensor, where: tuple[Tensor, ...], alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss, summed per layer (Lin et al. 2017, equation 5). Returns (L,).

    logits: (L, B, Q, C). where: indices (layer, image, query, class) of the positives; all others are negatives.
    Computed as if all were negatives, then corrected at the few positives: the targets are never spelled out.
    """
    p = logits.sigmoid()
    negative = (1 - alpha) * (p**gamma * F.softplus(logits)).sum((1, 2, 3))  # (L,)
    x, q = logits[where], p[where]  # (pairs,)
    change = alpha * (1 - q) ** gamma * F.softplus(-x) - (1 - alpha) * q**gamma * F.softplus(x)
    return negative.index_add(0, where[0], change)


def box_losses(boxes: Tensor, wanted: Tensor, layer: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of matched boxes, summed per layer: (pairs, 4) cxcywh twice, layer (pairs,) -> (L,), (L,)."""
    l1 = F.l1_loss(boxes, wanted, reduction="none").sum(-1)  # (pairs,)
    far = 1 - giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))  # (pairs,)
    zero = boxes.new_zeros(layers)
    return zero.index_add(0, layer, l1), zero.index_add(0, layer, far)


def count_boxes(targets: list[dict[str, Tensor]], device: torch.device) -> Tensor:
    """Objects per process, averaged over all processes, at least 1: what box losses are divided by."""
    count = torch.tensor(float(sum(len(target["labels"]) for target in targets)), device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return count.clamp(min=1)


class SetCriterion(nn.Module):
    """Matching and losses of all decoder layers at once.

    Forward: DetectorOutput and targets (per image labels (M,), boxes (M, 4) normalised cxcywh) -> dict with the
    official names: loss_ce, loss_bbox, loss_giou, class_error (percent), cardinality_error, and the same with
    _0, _1, ... for the earlier layers. `total` adds up those that are trained on. `matches` keeps the last matching.
    Proposals of a two-stage detector get the same losses, named _enc, and a matching of their own: there every object
    is of class 0, because a proposal only says whether something is there (Deformable DETR, models/deformable_detr.py).
    Raises ValueError for a label outside the class head, and (from the matcher) for costs that are not finite.
    """

    def __init__(self, recipe: LossRecipe, classes: int, head: str) -> None:
        super().__init__()
        self.recipe, self.classes, self.head = recipe, classes, head
        self.matcher = HungarianMatcher(recipe, head)
        self.matches: Matches | None = None
        self.proposal_matches: Matches | None = None

    def forward(self, output: DetectorOutput, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        targets = with_empties(targets)
        self.check(targets)
        losses, self.matches = self.of_layers(output, targets)
        if output.proposals is not None:
            blind = [target | {"labels": torch.zeros_like(target["labels"])} for target in targets]
            proposed, self.proposal_matches = self.of_layers(output.proposals, blind)
            losses |= {f"{name}_enc": value for name, value in proposed.items()}
        return losses

    def of_layers(
        self, output: DetectorOutput, targets: list[dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], Matches]:
        """Losses of every layer by their official names, and the matching that they rest on."""
        logits, boxes = output.logits.float(), output.boxes.float()  # (L, B, Q, C), (L, B, Q, 4)
        matches = self.matcher(logits, boxes, targets)
        count = count_boxes(targets, boxes.device)
        labels, wanted = self.flat_targets(targets, matches, boxes.device)  # (pairs,), (pairs, 4)
        at = (matches.layer, matches.image, matches.query)
        l1, far = box_losses(boxes[at], wanted, matches.layer, len(boxes))
        losses = {"loss_ce": self.class_loss(logits, at, labels, count)}
        losses |= {"loss_bbox": l1 / count, "loss_giou": far / count}
        losses |= self.diagnostics(logits.detach(), at, labels, targets)
        return name_layers(losses), matches

    def check(self, targets: list[dict[str, Tensor]]) -> None:
        """ValueError for a label that the class head does not have, naming the image."""
        for target in targets:
            labels = target["labels"]
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
                raise ValueError(
                    f"image_id {target.get('image_id')}: labels {sorted(set(labels.tolist()))} do not fit "
                    f"{self.classes} classes (0 to {self.classes - 1}); for category ids, classes = largest id + 1"
                )

    def flat_targets(
        self, targets: list[dict[str, Tensor]], matches: Matches, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Label (pairs,) and box (pairs, 4) of the object of every pair."""
        start = torch.tensor([0] + [len(target["labels"]) for target in targets]).cumsum(0).to(device)
        index = start[matches.image] + matches.target
        labels = torch.cat([target["labels"] for target in targets]).to(device)
        return labels[index], torch.cat([target["boxes"] for target in targets]).to(device)[index]

    def class_loss(self, logits: Tensor, at: tuple[Tensor, ...], labels: Tensor, count: Tensor) -> Tensor:
        """The class loss of every layer, (L,): a weighted mean (softmax) or a sum per object (focal)."""
        if self.head == "softmax":
            classes = torch.full(logits.shape[:3], self.classes, device=logits.device)  # (L, B, Q), all no-object
            classes[at] = labels
            return softmax_loss(logits, classes, self.recipe.no_object_weight)
        return focal_loss(logits, (*at, labels), self.recipe.focal_alpha, self.recipe.focal_gamma) / count

    def diagnostics(
        self, logits: Tensor, at: tuple[Tensor, ...], labels: Tensor, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Two figures per layer that are watched and not trained on, (L,) each.

        class_error: percent of matched queries whose best class is wrong. cardinality_error: by how many objects
        the number of queries that do not say "last class" misses the true number, mean over images.
        """
        best = logits.argmax(-1)  # (L, B, Q)
        right = logits.new_zeros(len(logits)).index_add(0, at[0], (best[at] == labels).to(logits.dtype))
        pairs = max(1, len(labels) // len(logits))
        found = (best != logits.shape[-1] - 1).sum(-1).to(logits.dtype)  # (L, B)
        true = torch.tensor([len(target["labels"]) for target in targets], device=logits.device)
        return {"class_error": 100 - 100 * right / pairs, "cardinality_error": (found - true).abs().mean(-1)}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The number that is minimised: every loss of every layer times its weight."""
        recipe = self.recipe
        weights = {"loss_ce": recipe.class_weight, "loss_bbox": recipe.l1_weight, "loss_giou": recipe.giou_weight}
        return sum(weight * losses[name] for name, weight in self.weighted(losses, weights))

    @staticmethod
    def weighted(losses: dict[str, Tensor], weights: dict[str, float]) -> list[tuple[str, float]]:
        """(name, weight) of every loss that is trained on; a suffix such as _0 keeps the weight of its kind."""
        kinds = ((name, "_".join(name.split("_")[:2])) for name in losses)
        return [(name, weights[kind]) for name, kind in kinds if kind in weights]


def name_layers(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """{"loss_ce": (L,)} -> {"loss_ce": last layer, "loss_ce_0": first layer, ...}, as official logs name them."""
    named = {name: values[-1] for name, values in losses.items()}
    for name, values in losses.items():
        named |= {f"{name}_{layer}": value for layer, value in enumerate(values[:-1])}
    return named
