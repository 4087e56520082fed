"""A small dense detector, the old way: guess boxes everywhere, say for each guess what is there, delete duplicates.

After RetinaNet (Lin et al. 2017), made small for scenes: a frozen backbone, a few convolutions, and at each of 8 x 8
cells three guesses. Losses are those of DETR here (focal, L1, GIoU), so that only two things differ from notebook 09:
labels are one-to-many, and duplicates are deleted afterwards by non-maximum suppression.

    model = DenseDetector()
    features = read_features(model.backbone, train_set)  # the backbone is frozen: it reads every scene once
    fit_dense(model, features, steps=300)
    found = predict(model, held_out, recipe.data)      # from detr_mini.evaluation: many boxes per thing
    clean = suppress(found, threshold=0.5)             # fewer
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from detr_mini.backbone import SmallBackbone
from detr_mini.boxes import cxcywh_to_xyxy, giou, pairwise_iou
from detr_mini.data.scenes import CLASSES
from detr_mini.data.transforms import Transformed, build_transform
from detr_mini.evaluation import Predictions
from detr_mini.losses import focal_loss
from detr_mini.recipes import DETR_SCENES

CELLS = 8  # places along each side: 128 pixels at stride 16
SIDES = (0.22, 0.32, 0.44)  # of the guesses at each place, as fractions of the image
NOTHING, UNJUDGED = -1, -2  # labels of guesses that answer for no object
LEAST = 0.05  # the lowest score that counts as an answer, as in RetinaNet (section 4.1 of the paper)
BATCH, RATE = 16, 1e-3


def make_anchors(cells: int = CELLS, sides: Sequence[float] = SIDES) -> Tensor:
    """Square guesses around the middle of every cell: (cells * cells * sides, 4) cxcywh, fractions of the image.

    Row by row, left to right, and at each place from the first side to the last.
    """
    middle = (torch.arange(cells) + 0.5) / cells  # (cells,)
    y, x = torch.meshgrid(middle, middle, indexing="ij")  # (cells, cells) twice
    centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2).expand(-1, len(sides), 2)  # (places, sides, 2)
    sizes = torch.tensor(sides)[None, :, None].expand(cells * cells, -1, 2)  # (places, sides, 2)
    return torch.cat([centres, sizes], dim=-1).flatten(0, 1)


def assign(guesses: Tensor, objects: Tensor, high: float = 0.5, low: float = 0.4) -> Tensor:
    """Which object each guess answers for, by overlap alone: one object may have many guesses.

    guesses: (N, 4), objects: (M, 4), both xyxy. Returns (N,): an object's index where IoU reaches `high`; NOTHING
    (-1) where it stays below `low`; UNJUDGED (-2) between. An object that no guess reaches gets its best one.
    """
    if len(objects) == 0:
        return torch.full((len(guesses),), NOTHING)
    overlap = pairwise_iou(guesses, objects)  # (N, M)
    best, owner = overlap.max(dim=1)  # (N,), (N,)
    answers = torch.where(best >= high, owner, torch.where(best >= low, UNJUDGED, NOTHING))
    most, nearest = overlap.max(dim=0)  # (M,), (M,)
    for thing in (most < high).nonzero().flatten().tolist():
        answers[nearest[thing]] = thing
    return answers


@dataclass
class Guesses:
    """What a dense detector says: logits (B, N, C) and boxes (B, N, 4), cxcywh, one row per guess."""

    logits: Tensor
    boxes: Tensor


class DenseDetector(nn.Module):
    """A frozen backbone, convolutions, and per guess: C class logits and four corrections of its box.

    Forward: images (B, 3, 128, 128), normalised -> Guesses. The mask is not read: scenes have no padding.
    """

    def __init__(self, classes: int = len(CLASSES), sides: Sequence[float] = SIDES, layers: int = 2) -> None:
        super().__init__()
        self.backbone = SmallBackbone(trainable=False).load_pretrained()
        self.classes, width = classes, self.backbone.channels[-1]
        self.register_buffer("anchors", make_anchors(CELLS, sides))  # (N, 4)
        self.tower = nn.Sequential(*(part for _ in range(layers) for part in (
            nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(16, width), nn.ReLU())))  # (B, width, 8, 8)
        self.classify = nn.Conv2d(width, len(sides) * classes, 3, padding=1)
        self.correct = nn.Conv2d(width, len(sides) * 4, 3, padding=1)
        nn.init.constant_(self.classify.bias, -math.log(99))  # at first every score is 0.01: most guesses hold nothing
        nn.init.zeros_(self.correct.weight)
        nn.init.zeros_(self.correct.bias)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Guesses:
        return self.answer(self.backbone(images)[-1])

    def answer(self, features: Tensor) -> Guesses:
        """From the backbone's map (B, 128, 8, 8) to Guesses."""
        x = self.tower(features)  # (B, 128, 8, 8)
        logits, change = (head(x).permute(0, 2, 3, 1) for head in (self.classify, self.correct))  # (B, 8, 8, ...)
        return Guesses(logits.reshape(len(x), -1, self.classes), corrected(self.anchors, change.reshape(len(x), -1, 4)))

    @torch.no_grad()
    def postprocess(
        self, output: Guesses, orig_sizes: Tensor, top_k: int = 100, least: float = LEAST
    ) -> list[dict[str, Tensor]]:
        """The best pairs of guess and class that score `least`, best first, duplicates and all.

        orig_sizes: (B, 2) as (height, width). Returns per image scores (K,), labels (K,), boxes (K, 4) xyxy in pixels.
        """
        scores, best = output.logits.sigmoid().flatten(1).topk(top_k)  # (B, K)
        guess, labels = best // self.classes, best % self.classes  # (B, K) twice
        boxes = cxcywh_to_xyxy(output.boxes).gather(1, guess[..., None].expand(-1, -1, 4))  # (B, K, 4)
        scale = orig_sizes.to(boxes).flip(1).repeat(1, 2)[:, None]  # (B, 1, 4)
        found = []
        for row in zip(scores, labels, boxes * scale, strict=True):
            enough = row[0] >= least  # (K,)
            found.append({name: part[enough] for name, part in zip(("scores", "labels", "boxes"), row, strict=True)})
        return found


def corrected(anchors: Tensor, change: Tensor) -> Tensor:
    """Guesses moved by parts of their own size, and stretched: (N, 4) cxcywh and (..., N, 4) -> (..., N, 4) cxcywh."""
    centre = anchors[:, :2] + change[..., :2] * anchors[:, 2:]  # (..., N, 2)
    size = anchors[:, 2:] * change[..., 2:].clamp(max=2).exp()  # (..., N, 2)
    return torch.cat([centre, size], dim=-1)


# ---------------------------------------------------------------- training


@dataclass
class Features:
    """What the frozen backbone says of a data set: maps (S, 128, 8, 8); labels (M,), boxes (M, 4) of each scene."""

    maps: Tensor
    labels: list[Tensor]
    boxes: list[Tensor]


@torch.inference_mode()
def read_features(backbone: nn.Module, dataset: Dataset, batch_size: int = 50) -> Features:
    """Run the backbone once over every scene. It is frozen, so nothing would change later."""
    items, maps, targets = Transformed(dataset, build_transform(DETR_SCENES.data, train=False)), [], []
    for start in range(0, len(dataset), batch_size):
        images, found = zip(*(items[i] for i in range(start, min(start + batch_size, len(dataset)))), strict=True)
        maps.append(backbone(torch.stack(images))[-1].contiguous())  # (B, 128, 8, 8)
        targets += found
    return Features(torch.cat(maps), [target["labels"] for target in targets], [target["boxes"] for target in targets])


def dense_losses(
    output: Guesses, answers: list[Tensor], labels: list[Tensor], boxes: list[Tensor]
) -> dict[str, Tensor]:
    """Focal loss over all judged guesses, L1 and 1 - GIoU over those that answer for an object; per such guess.

    answers: per image (N,), from `assign`. labels, boxes: per image (M,) and (M, 4) cxcywh. Names as in SetCriterion.
    """
    owner = torch.stack(answers)  # (B, N)
    image, guess = (owner >= 0).nonzero(as_tuple=True)  # (P,), (P,)
    start = torch.tensor([0, *map(len, labels)]).cumsum(0)[:-1]  # (B,) where each image's objects begin
    thing = start[image] + owner[image, guess]  # (P,)
    wanted, said = torch.cat(boxes)[thing], output.boxes[image, guess]  # (P, 4)
    logits = output.logits.masked_fill((owner == UNJUDGED)[..., None], -50.0)[None]  # a score of 0 costs nothing
    recipe, count = DETR_SCENES.loss, max(1, len(thing))
    where = (torch.zeros_like(image), image, guess, torch.cat(labels)[thing])
    focal = focal_loss(logits, where, recipe.focal_alpha, recipe.focal_gamma)[0]
    far = 1 - giou(cxcywh_to_xyxy(said), cxcywh_to_xyxy(wanted))  # (P,)
    return {"loss_ce": focal / count, "loss_bbox": (said - wanted).abs().sum() / count, "loss_giou": far.sum() / count}


def fit_dense(
    model: DenseDetector, features: Features, steps: int, seed: int = 0,
    callback: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train all but the backbone; returns the losses of every step. callback: called with each of them.

    AdamW in batches of 16; the rate rises for a tenth of the steps and then falls to 0.
    """
    draw = torch.Generator().manual_seed(seed)
    corners = cxcywh_to_xyxy(model.anchors)  # (N, 4)
    answers = [assign(corners, cxcywh_to_xyxy(boxes)) for boxes in features.boxes]  # fixed: guesses never change
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    history = []
    for step in range(1, steps + 1):
        chosen = torch.randint(len(answers), (BATCH,), generator=draw)
        targets = ([part[i] for i in chosen.tolist()] for part in (answers, features.labels, features.boxes))
        losses = dense_losses(model.answer(features.maps[chosen]), *targets)
        optimizer.zero_grad()
        weighted_sum(losses).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        history.append({"step": step} | {name: loss.item() for name, loss in losses.items()})
        if callback:
            callback(history[-1])
    return history


def weighted_sum(losses: dict[str, Tensor]) -> Tensor:
    """The number that is minimised, with DETR's weights."""
    recipe = DETR_SCENES.loss
    return (recipe.class_weight * losses["loss_ce"] + recipe.l1_weight * losses["loss_bbox"]
            + recipe.giou_weight * losses["loss_giou"])


# ---------------------------------------------------------------- non-maximum suppression


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Keep the best box, delete all that overlap it by more than `threshold`, go on with the next best.

    boxes: (K, 4) xyxy, scores: (K,). Returns the indices of the boxes kept, best first.
    """
    overlap, order = pairwise_iou(boxes, boxes), scores.argsort(descending=True, stable=True)  # (K, K), (K,)
    kept, gone = [], torch.zeros(len(boxes), dtype=torch.bool)
    for index in order.tolist():
        if not gone[index]:
            kept.append(index)
            gone |= overlap[index] > threshold
    return torch.tensor(kept, dtype=torch.long)


def suppress(found: Predictions, threshold: float) -> Predictions:
    """NMS within each class of each image: image id -> {scores (K,), labels (K,), boxes (K, 4)} -> the same, less."""
    apart = 1000.0  # pixels: boxes of different classes are moved so far apart that they never meet
    cleaned = {}
    for image_id, result in found.items():
        shift = apart * result["labels"][:, None].double()  # (K, 1); float32 would round the corners
        kept = nms(result["boxes"] + shift, result["scores"], threshold)
        cleaned[image_id] = {name: values[kept] for name, values in result.items()}
    return cleaned
