"""Training step of three variants against `transformers`, same configuration and weights. Run with: make bench"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compare import ratio
from test_speed import random_targets
from torch import nn

from detr_mini import zoo
from detr_mini.losses import SetCriterion
from detr_mini.recipes import ModelRecipe

sys.path.insert(0, str(Path(__file__).parents[1] / "identities"))
import peer  # noqa: E402
import test_peer_conditional_dab as namings  # noqa: E402
import test_peer_deformable as deformable_naming  # noqa: E402

transformers = pytest.importorskip("transformers")

# The authors put dropout into attention and feed-forward too; the peer's defaults have it on the residuals only.
DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1}
COMMON = {"num_labels": 91, "auxiliary_loss": True, **DROPOUT}
CASES = {  # name: detector, changes of its COCO recipe, the golden file that tells the weights, largest ratio allowed
    "conditional": ("conditional", {}, "conditional_detr", 0.85),
    "dab": ("dab", {"dropout": 0.1}, "dab_detr", 0.85),
    "deformable, one map": ("deformable", {"levels": 1}, "deformable_detr-single", 0.85),
    "deformable, four maps": ("deformable", {}, "deformable_detr-multi", 0.9),
}


def resnet(stages: list[str]) -> object:
    """The peer's ResNet-50 with these stages as feature maps."""
    return transformers.ResNetConfig(depths=[3, 4, 6, 3], layer_type="bottleneck", out_features=stages)


def peer_of(name: str, recipe: ModelRecipe, stages: list[str]) -> nn.Module:
    """The peer's detector of the same configuration."""
    backbone = {"backbone_config": resnet(stages), **COMMON}
    if name == "conditional":
        return transformers.ConditionalDetrForObjectDetection(transformers.ConditionalDetrConfig(**backbone))
    if name == "dab":
        return transformers.DabDetrForObjectDetection(transformers.DabDetrConfig(**backbone))
    return transformers.DeformableDetrForObjectDetection(transformers.DeformableDetrConfig(
        **backbone, num_feature_levels=recipe.levels, disable_custom_kernels=True, tie_word_embeddings=True))


def give_weights(name: str, model: nn.Module, other: nn.Module) -> None:
    """Fill the peer with our weights."""
    if name == "conditional":
        peer.copy_weights(model, other, namings.CONDITIONAL, "model.backbone.model.")
    elif name == "dab":
        peer.copy_weights(model, other, namings.DAB, "model.backbone.conv_encoder.model.")
    else:
        deformable_naming.copy_weights(model, other)


def freeze_alike(other: nn.Module) -> None:
    """As ours: the stem and the first stage of the backbone are not trained."""
    for name, parameter in other.named_parameters():
        if "backbone" in name:
            parameter.requires_grad_(any(f"stages.{stage}." in name and "convolution" in name for stage in (1, 2, 3)))


@pytest.mark.parametrize("case", CASES)
def test_training_step(benchmark, case: str) -> None:
    """Forward, loss, backward on 2 x 3 x 480 x 640."""
    name, changes, golden, allowed = CASES[case]
    recipe = zoo.recipe(name, "coco")
    recipe = replace(recipe, model=replace(recipe.model, **changes))
    torch.manual_seed(0)
    model = peer.filled(zoo.build(name, "coco", recipe.model), golden)
    other = peer_of(name, recipe.model, [f"stage{stage}" for stage in getattr(model, "stages", [4])])
    give_weights(name, model, other)
    freeze_alike(other)
    images, mask = torch.randn(2, 3, 480, 640), torch.zeros(2, 480, 640, dtype=torch.bool)
    # Asked for the losses of all layers, the peer's Conditional DETR hands every layer the norm of what the one before
    # said: another network, of the same cost. Without, both say the same.
    other.config.auxiliary_loss = False
    assert peer.largest_difference(model, other.eval(), images, mask) < 1e-2
    other.config.auxiliary_loss = True
    counts = [sum(p.numel() for p in one.parameters() if p.requires_grad) for one in (model.train(), other.train())]
    assert counts[0] == counts[1]
    our_targets, their_targets = random_targets([7, 12])
    criterion = SetCriterion(recipe.loss, recipe.model.classes, recipe.model.head)

    def our_step() -> None:
        model.zero_grad()
        criterion.total(criterion(model(images, mask), our_targets)).backward()

    def their_step() -> None:
        other.zero_grad()
        other(pixel_values=images, pixel_mask=(~mask).long(), labels=their_targets).loss.backward()

    assert ratio(benchmark, our_step, their_step, rounds=7) <= allowed
