"""Our detectors beside those of `transformers`: the same weights under its names, so that outputs can be compared.

The peer is an independent opinion, and optional: tests that need it are skipped where it is not installed.
"""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detr_mini.checkpoints import load_official, to_official
from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from fill import fill  # noqa: E402

# (our name, its name) as regular expression and replacement; the first that fits is used.
Renames = list[tuple[str, str]]

RESNET: Renames = [
    (r"backbone\.body\.conv1\.", r"embedder.embedder.convolution."),
    (r"backbone\.body\.bn1\.", r"embedder.embedder.normalization."),
    (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.0\.", r"stages.\1.layers.\2.shortcut.convolution."),
    (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.1\.", r"stages.\1.layers.\2.shortcut.normalization."),
    (r"backbone\.body\.layer(\d)\.(\d+)\.conv(\d)\.", r"stages.\1.layers.\2.layer.\3.convolution."),
    (r"backbone\.body\.layer(\d)\.(\d+)\.bn(\d)\.", r"stages.\1.layers.\2.layer.\3.normalization."),
]


def resnet_name(name: str, prefix: str) -> str:
    """The peer's name of one of our backbone's tensors; it counts stages and layers from 0 where we count from 1."""
    for ours, theirs in RESNET:
        if re.match(ours, name):
            theirs = re.sub(ours, theirs, name)
            theirs = re.sub(r"stages\.(\d)", lambda found: f"encoder.stages.{int(found[1]) - 1}", theirs)
            return prefix + re.sub(r"\.layer\.(\d)", lambda found: f".layer.{int(found[1]) - 1}", theirs)
    raise KeyError(name)


def renamed(name: str, renames: Renames, backbone: str) -> str:
    """The peer's name of one of our tensors; KeyError for a tensor without a counterpart."""
    if name.startswith("backbone."):
        return resnet_name(name, backbone)
    for ours, theirs in renames:
        if re.fullmatch(ours, name):
            return re.sub(ours, theirs, name)
    raise KeyError(name)


def copy_weights(model: Detr, peer: nn.Module, renames: Renames, backbone: str) -> None:
    """Fill the peer with the model's weights; fails when a tensor of either has no counterpart."""
    state = {renamed(name, renames, backbone): tensor for name, tensor in model.state_dict().items()}
    expected = peer.state_dict()
    aliases = {name for name in expected if name.startswith("model.decoder.bbox_embed.")}  # shared with bbox_predictor
    assert set(state) == set(expected) - aliases, set(state) ^ (set(expected) - aliases)
    peer.load_state_dict(state, strict=False)


def filled(model: Detr, golden: str) -> Detr:
    """The model with the weights that the golden recipe gives to the official names of one golden file.

    No parameter is left at a constant, features do not blow up, attention is neither flat nor one-hot.
    """
    keys = json.loads((GOLDEN / f"{golden}.keys.json").read_text())
    official = to_official(model.system, model.state_dict(), list(keys["keys"]))
    shapes = {name: tuple(tensor.shape) for name, tensor in official.items()}
    return load_official(model, fill(shapes, 2026, keys["canonical_of"])).eval()


def config(kind: str, **fields: object) -> object:
    """One of the peer's configurations, with ResNet-50 and no downloads; skips the test where it is not installed."""
    transformers = pytest.importorskip("transformers")
    resnet = transformers.ResNetConfig(depths=[3, 4, 6, 3], layer_type="bottleneck", out_features=["stage4"])
    return getattr(transformers, kind)(backbone_config=resnet, **fields)


@torch.no_grad()
def largest_difference(model: Detr, peer: nn.Module, images: Tensor, mask: Tensor) -> float:
    """Between the final logits and boxes of both, on a padded batch."""
    ours: DetectorOutput = model(images, mask)
    theirs = peer(pixel_values=images, pixel_mask=(~mask).long())
    assert ours.logits[-1].std(1).mean() > 0.1 and ours.boxes[-1].std(1).mean() > 0.01  # the queries differ
    pairs = ((ours.logits[-1], theirs.logits), (ours.boxes[-1], theirs.pred_boxes))
    return max(float((a - b).abs().max()) for a, b in pairs)
