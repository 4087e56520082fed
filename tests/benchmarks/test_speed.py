"""Speed of DETR against `transformers`' DetrForObjectDetection of the same configuration. Run with: make bench"""

import pytest
import torch
from compare import ratio

from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr
from detr_mini.losses import SetCriterion
from detr_mini.recipes import LossRecipe, ModelRecipe

transformers = pytest.importorskip("transformers")


def their_detr():
    """DETR-R50 with the same trainable weights as ours: all but the stem and the first stage of the backbone."""
    backbone = transformers.ResNetConfig(
        embedding_size=64, hidden_sizes=[256, 512, 1024, 2048], depths=[3, 4, 6, 3], layer_type="bottleneck",
        out_features=["stage4"],
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, use_pretrained_backbone=False, backbone=None,
        num_labels=91, num_queries=100, auxiliary_loss=True,
    )
    model = transformers.DetrForObjectDetection(config).train()
    for name, parameter in model.model.backbone.named_parameters():
        parameter.requires_grad_(any(f"stages.{stage}." in name for stage in (1, 2, 3)))
    return model


def random_targets(counts: list[int]) -> tuple[list[dict], list[dict]]:
    """The same targets under our names and under theirs."""
    ours = [{"labels": torch.randint(0, 91, (n,)), "boxes": torch.rand(n, 4) * 0.4 + 0.2} for n in counts]
    return ours, [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in ours]


def test_training_step_of_detr_r50(benchmark):
    torch.manual_seed(0)
    ours, theirs, criterion = Detr(ModelRecipe()).train(), their_detr(), SetCriterion(LossRecipe(), 91, "softmax")
    trained = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
    assert trained[0] == trained[1] == 41_302_368
    images, mask = torch.randn(2, 3, 480, 640), torch.zeros(2, 480, 640, dtype=torch.bool)
    our_targets, their_targets = random_targets([7, 12])

    def our_step() -> None:
        ours.zero_grad()
        criterion.total(criterion(ours(images, mask), our_targets)).backward()

    def their_step() -> None:
        theirs.zero_grad()
        theirs(pixel_values=images, pixel_mask=(~mask).long(), labels=their_targets).loss.backward()

    assert ratio(benchmark, our_step, their_step, rounds=7) <= 0.85


def test_criterion_alone(benchmark):
    """Six layers, eight images, 300 queries, 91 classes, 5 to 40 boxes: the same values in half the time."""
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    torch.manual_seed(0)
    logits, boxes = torch.randn(6, 8, 300, 92), torch.rand(6, 8, 300, 4) * 0.4 + 0.2
    our_targets, their_targets = random_targets([5, 10, 15, 20, 25, 30, 35, 40])
    criterion = SetCriterion(LossRecipe(), 91, "softmax")
    config = transformers.DetrConfig(num_labels=91, auxiliary_loss=True)

    def our_loss() -> torch.Tensor:
        output = DetectorOutput(logits.requires_grad_(), boxes.requires_grad_())
        total = criterion.total(criterion(output, our_targets))
        total.backward()
        return total

    def their_loss() -> torch.Tensor:
        layers, places = logits.requires_grad_(), boxes.requires_grad_()
        total, _, _ = ForObjectDetectionLoss(
            layers[-1], their_targets, logits.device, places[-1], config, outputs_class=layers, outputs_coord=places
        )
        total.backward()
        return total

    assert our_loss().item() == pytest.approx(their_loss().item(), rel=1e-5)
    assert ratio(benchmark, our_loss, their_loss, rounds=15) <= 0.5
