"""A second opinion on Deformable DETR: `transformers` with the same weights says the same, in all four modes."""

import re

import every
import peer
import pytest
import torch
from torch import nn

from detr_mini.recipes import DeformableModel
from detr_mini.sampling import sample
from detr_mini.variants.deformable import DeformableDetr

# Its name, ours. Unlike the official files it has `mlp.fc1`, `self_attn_layer_norm` and separate projections.
NAMES: peer.Renames = [
    (r"model\.level_embed", r"level_embed"),
    (r"model\.input_proj\.(.+)", r"input_proj.\1"),
    (r"model\.query_position_embeddings\.(.+)", r"decoder.query_embed.\1"),
    (r"model\.reference_points\.(.+)", r"decoder.reference_head.\1"),
    (r"model\.enc_output\.(.+)", r"decoder.first_stage.proposal.\1"),
    (r"model\.enc_output_norm\.(.+)", r"decoder.first_stage.proposal_norm.\1"),
    (r"model\.pos_trans\.(.+)", r"decoder.first_stage.place.\1"),
    (r"model\.pos_trans_norm\.(.+)", r"decoder.first_stage.place_norm.\1"),
    (r"model\.encoder\.layers\.(\d+)\.self_attn\.(.+)", r"encoder.layers.\1.self_attention.\2"),
    (r"model\.decoder\.layers\.(\d+)\.self_attn\.(.+)", r"decoder.layers.\1.self_attention.\2"),
    (r"model\.decoder\.layers\.(\d+)\.encoder_attn\.(.+)", r"decoder.layers.\1.cross_attention.\2"),
    (r"model\.(encoder|decoder)\.layers\.(\d+)\.self_attn_layer_norm\.(.+)", r"\1.layers.\2.norm1.\3"),
    (r"model\.decoder\.layers\.(\d+)\.encoder_attn_layer_norm\.(.+)", r"decoder.layers.\1.norm2.\2"),
    (r"model\.(encoder|decoder)\.layers\.(\d+)\.final_layer_norm\.(.+)", r"\1.layers.\2.feed_forward.norm.\3"),
    (r"model\.(encoder|decoder)\.layers\.(\d+)\.mlp\.fc(\d)\.(.+)", r"\1.layers.\2.feed_forward.linear\3.\4"),
    (r"(?:model\.decoder\.)?class_embed\.(\d+)\.(.+)", r"decoder.class_head.\1.\2"),
    (r"(?:model\.decoder\.)?bbox_embed\.(\d+)\.(.+)", r"decoder.box_head.\1.\2"),
]
PARTS = {"sampling_offsets": "offsets", "attention_weights": "scores", "value_proj": "value", "output_proj": "output",
         "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output"}


def our_name(theirs: str, refine: bool) -> str:
    """Our name of one of the peer's tensors outside the backbone; KeyError for one without a counterpart."""
    for pattern, ours in NAMES:
        if re.fullmatch(pattern, theirs):
            ours = re.sub(pattern, ours, theirs)
            ours = re.sub(r"(?<=attention\.)\w+_(proj|offsets|weights)", lambda found: PARTS[found[0]], ours)
            return ours if refine else re.sub(r"_head\.\d+", "_head.0", ours)  # all layers share the heads
    raise KeyError(theirs)


def copy_weights(model: DeformableDetr, other: nn.Module) -> None:
    """Fill the peer with our weights, and make sure that every tensor of ours was used."""
    ours = model.state_dict()
    backbone = {peer.resnet_name(name, "model.backbone.model."): name for name in ours if name.startswith("backbone.")}
    used = {name: backbone.get(name) or our_name(name, model.recipe.refine) for name in other.state_dict()}
    assert set(used.values()) == set(ours)
    other.load_state_dict({theirs: ours[name] for theirs, name in used.items()})
    assert all(torch.equal(tensor, ours[used[name]]) for name, tensor in other.state_dict().items())


MODES = {
    "single": {"levels": 1}, "multi": {}, "refine": {"refine": True}, "two-stage": {"refine": True, "two_stage": True}
}


@pytest.mark.parametrize("mode", MODES)
def test_deformable_detr(mode: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = every.shaken(DeformableDetr(DeformableModel(**every.TINY | {"backbone": "resnet50"}, **MODES[mode])))
    with torch.no_grad():
        for head in model.decoder.box_head:
            head.layers[-1].weight *= 30  # boxes that differ
    recipe = model.recipe
    stages = [f"stage{stage}" for stage in model.stages]
    other = transformers.DeformableDetrForObjectDetection(transformers.DeformableDetrConfig(
        backbone_config=transformers.ResNetConfig(depths=[3, 4, 6, 3], layer_type="bottleneck", out_features=stages),
        d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=9, num_labels=6, num_feature_levels=recipe.levels,
        with_box_refine=recipe.refine, two_stage=recipe.two_stage, two_stage_num_proposals=9,
        disable_custom_kernels=True, tie_word_embeddings=not recipe.refine,
    )).eval()
    copy_weights(model, other)
    batch = every.padded_batch(128, 192)
    assert peer.largest_difference(model, other, *batch) < 1e-4
    with torch.no_grad():
        model.decoder.layers[1].cross_attention.offsets.bias += 0.3
    assert peer.largest_difference(model, other, *batch) > 1e-3


def test_the_sampling_core() -> None:
    """Values and gradients of our core and of the peer's, also for samples far outside the map."""
    modeling = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    shapes = [(6, 9), (3, 5), (1, 4), (1, 1)]
    values = torch.randn(2, sum(h * w for h, w in shapes), 3, 5, dtype=torch.float64, requires_grad=True)
    locations = (torch.rand(2, 11, 3, 4, 2, 2, dtype=torch.float64) * 2 - 0.5).requires_grad_()
    weights = torch.rand(2, 11, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    ours = sample(values, shapes, locations, weights)
    core = modeling.MultiScaleDeformableAttention()
    theirs = core(values, torch.tensor(shapes), shapes, None, locations, weights, 64)
    assert torch.allclose(ours, theirs, atol=1e-12) and theirs.abs().max() > 1
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad(x, (values, locations, weights), weight) for x in (ours, theirs)]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-12) and b.abs().max() > 0.1
