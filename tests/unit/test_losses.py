import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.decoder import DetectorOutput
from detr_mini.losses import SetCriterion, focal_loss, softmax_loss
from detr_mini.recipes import LossRecipe

LAYERS, QUERIES, CLASSES = 3, 7, 4


def case(head: str, objects: tuple[int, ...] = (2, 0, 3), seed: int = 0):
    """Random output (with gradients) and targets."""
    generator = torch.Generator().manual_seed(seed)
    shape = (LAYERS, len(objects), QUERIES)
    logits = torch.randn(*shape, CLASSES + (head == "softmax"), generator=generator).requires_grad_()
    boxes = (torch.rand(*shape, 4, generator=generator) * 0.5 + 0.2).requires_grad_()
    targets = [
        {
            "labels": torch.randint(CLASSES, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.4 + 0.2,
            "image_id": i,
        }
        for i, count in enumerate(objects)
    ]
    return DetectorOutput(logits, boxes), targets


def slow_losses(output, targets, matches, head: str) -> dict[str, float]:
    """The same losses by plain loops and PyTorch's own functions, layer by layer."""
    count, result = max(1, sum(len(t["labels"]) for t in targets)), {}
    for layer in range(LAYERS):
        classes = torch.full((len(targets), QUERIES), CLASSES)
        l1 = far = 0.0
        for image, target in enumerate(targets):
            for query, m in matches.pairs(layer, image):
                classes[image, query] = target["labels"][m]
                box, wanted = output.boxes[layer, image, query], target["boxes"][m]
                l1 += (box - wanted).abs().sum()
                far += generalized_box_iou_loss(cxcywh_to_xyxy(box), cxcywh_to_xyxy(wanted))
        logits = output.logits[layer]
        if head == "softmax":
            weight = torch.tensor([1.0] * CLASSES + [0.1])
            ce = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), weight)
        else:
            onehot = F.one_hot(classes, CLASSES + 1)[..., :-1].float()
            ce = sigmoid_focal_loss(logits, onehot, 0.25, 2.0, "sum") / count
        suffix = "" if layer == LAYERS - 1 else f"_{layer}"
        result |= {f"loss_ce{suffix}": ce, f"loss_bbox{suffix}": l1 / count, f"loss_giou{suffix}": far / count}
    return {name: float(value) for name, value in result.items()}


@pytest.mark.parametrize("head", ["softmax", "focal"])
@pytest.mark.parametrize("seed", range(5))
def test_all_layers_at_once_equal_plain_loops(head, seed):
    output, targets = case(head, seed=seed)
    criterion = SetCriterion(LossRecipe(), CLASSES, head)
    losses = criterion(output, targets)
    for name, value in slow_losses(output, targets, criterion.matches, head).items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("head", ["softmax", "focal"])
def test_no_objects_at_all(head):
    output, targets = case(head, objects=(0, 0))
    criterion = SetCriterion(LossRecipe(), CLASSES, head)
    losses = criterion(output, targets)
    assert losses["loss_bbox"] == 0 and losses["loss_giou"] == 0 and losses["loss_ce"] > 0
    criterion.total(losses).backward()
    assert torch.isfinite(output.logits.grad).all() and output.logits.grad.abs().sum() > 0


def test_softmax_loss_is_a_weighted_mean():
    logits = torch.zeros(1, 1, 2, 3)
    classes = torch.tensor([[[0, 2]]])  # one object, one no-object
    assert softmax_loss(logits, classes, 0.1).item() == pytest.approx(math.log(3))  # not log(3) * 1.1 / 2


def test_no_object_weight_counts():
    logits = torch.tensor([[[[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]]])
    classes = torch.tensor([[[0, 2]]])
    right, wrong = -logits[0, 0, 0].log_softmax(0)[[0, 2]]
    assert softmax_loss(logits, classes, 0.1).item() == pytest.approx(((right + 0.1 * wrong) / 1.1).item())


def test_focal_loss_equals_torchvision_with_gradients():
    logits = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    where = tuple(torch.tensor(index) for index in ([0, 0, 1], [1, 2, 0], [4, 0, 3], [0, 3, 3]))
    onehot = torch.zeros_like(logits)
    onehot[where] = 1.0
    ours, theirs = focal_loss(logits, where, 0.25, 2.0), sigmoid_focal_loss(logits, onehot, 0.25, 2.0).sum((1, 2, 3))
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(*(torch.autograd.grad(x.sum(), logits) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other)


def test_focal_loss_stays_finite_for_extreme_logits():
    logits = torch.tensor([[[[200.0, -200.0]]]], requires_grad=True)
    where = tuple(torch.tensor([index]) for index in (0, 0, 0, 1))
    loss = focal_loss(logits, where, 0.25, 2.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


def test_total_weighs_every_layer_and_leaves_diagnostics_out():
    output, targets = case("softmax")
    criterion = SetCriterion(LossRecipe(class_weight=1, l1_weight=5, giou_weight=2), CLASSES, "softmax")
    losses = criterion(output, targets)
    expected = sum(
        weight * losses[f"{kind}{suffix}"].item()
        for kind, weight in (("loss_ce", 1), ("loss_bbox", 5), ("loss_giou", 2))
        for suffix in ("", "_0", "_1")
    )
    assert criterion.total(losses).item() == pytest.approx(expected, rel=1e-6)
    assert {"class_error", "cardinality_error"} <= set(losses)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_the_head_does_not_have_is_refused(label):
    output, targets = case("softmax")
    targets[2]["labels"][0] = label
    with pytest.raises(ValueError, match=r"image_id 2: labels .* do not fit 4 classes \(0 to 3\)"):
        SetCriterion(LossRecipe(), CLASSES, "softmax")(output, targets)


def test_perfect_predictions_cost_nothing_in_boxes_and_class_error():
    output, targets = case("softmax", objects=(2,))
    logits, boxes = torch.full((1, 1, QUERIES, CLASSES + 1), -20.0), torch.full((1, 1, QUERIES, 4), 0.1)
    logits[..., -1] = 20.0
    for m, query in enumerate((5, 1)):
        boxes[0, 0, query] = targets[0]["boxes"][m]
        logits[0, 0, query, -1], logits[0, 0, query, targets[0]["labels"][m]] = -20.0, 20.0
    losses = SetCriterion(LossRecipe(), CLASSES, "softmax")(DetectorOutput(logits, boxes), targets)
    assert losses["loss_bbox"] < 1e-6 and losses["loss_giou"] < 1e-6 and losses["loss_ce"] < 1e-6
    assert losses["class_error"] == 0 and losses["cardinality_error"] == 0
