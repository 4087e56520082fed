"""A second opinion on Conditional DETR and DAB-DETR: `transformers` with the same weights says the same."""

from dataclasses import replace

import every
import peer
import pytest
import torch

from detr_mini.recipes import DabModel, ModelRecipe
from detr_mini.variants.conditional import ConditionalDetr
from detr_mini.variants.dab import DabDetr

SIZES = {"encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_queries": 9, "num_labels": 6}

LAYER = r"(encoder|decoder)\.layers\.(\d+)\."
THEIRS = r"model.decoder.layers.\1."
MLPS = r"decoder\.{}\.layers\.(.+)"
COMMON: peer.Renames = [
    (r"input_proj\.0\.(.+)", r"model.input_projection.\1"),
    (r"decoder\.norm\.(.+)", r"model.decoder.layernorm.\1"),
    (MLPS.format("box_head"), r"bbox_predictor.layers.\1"),
    (MLPS.format("place_scale"), r"model.decoder.query_scale.layers.\1"),
]
CONDITIONAL: peer.Renames = [
    *COMMON,
    (r"decoder\.query_embed\.weight", r"model.query_position_embeddings.weight"),
    (MLPS.format("point_head"), r"model.decoder.ref_point_head.layers.\1"),
    (r"decoder\.class_head\.(.+)", r"class_labels_classifier.\1"),
    (r"encoder\.layers\.(\d+)\.self_attention\.(q|k|v|o)[a-z]+\.(.+)", r"model.encoder.layers.\1.self_attn.\2_proj.\3"),
    (r"decoder\.layers\.(\d+)\.self_attention\.(q|k)[a-z]+_position\.(.+)", THEIRS + r"self_attn.\2_pos_proj.\3"),
    (r"decoder\.layers\.(\d+)\.self_attention\.(q|k)[a-z]+\.(.+)", THEIRS + r"self_attn.\2_content_proj.\3"),
    (r"decoder\.layers\.(\d+)\.self_attention\.(v|o)[a-z]+\.(.+)", THEIRS + r"self_attn.\2_proj.\3"),
    (r"decoder\.layers\.(\d+)\.cross_attention\.(q|k)[a-z]+_position\.(.+)", THEIRS + r"encoder_attn.\2_pos_proj.\3"),
    (r"decoder\.layers\.(\d+)\.cross_attention\.place\.(.+)", THEIRS + r"encoder_attn.q_pos_sine_proj.\2"),
    (r"decoder\.layers\.(\d+)\.cross_attention\.(q|k)[a-z]+\.(.+)", THEIRS + r"encoder_attn.\2_content_proj.\3"),
    (r"decoder\.layers\.(\d+)\.cross_attention\.(v|o)[a-z]+\.(.+)", THEIRS + r"encoder_attn.\2_proj.\3"),
    (LAYER + r"norm1\.(.+)", r"model.\1.layers.\2.self_attn_layer_norm.\3"),
    (LAYER + r"norm2\.(.+)", r"model.\1.layers.\2.encoder_attn_layer_norm.\3"),
    (LAYER + r"feed_forward\.norm\.(.+)", r"model.\1.layers.\2.final_layer_norm.\3"),
    (LAYER + r"feed_forward\.linear(\d)\.(.+)", r"model.\1.layers.\2.mlp.fc\3.\4"),
]
SELF, CROSS = THEIRS + "self_attn.self_attn", THEIRS + "cross_attn.cross_attn"
DAB: peer.Renames = [
    *COMMON,
    (r"decoder\.query_embed\.weight", r"model.query_refpoint_embeddings.weight"),
    (r"decoder\.patterns\.weight", r"model.patterns.weight"),
    (r"encoder\.position_scale\.(.+)", r"model.encoder.query_scale.\1"),
    (MLPS.format("position_head"), r"model.decoder.ref_point_head.layers.\1"),
    (MLPS.format("size_head"), r"model.decoder.ref_anchor_head.layers.\1"),
    (r"decoder\.class_head\.(.+)", r"class_embed.\1"),
    (r"encoder\.layers\.(\d+)\.self_attention\.output\.(.+)", r"model.encoder.layers.\1.self_attn.out_proj.\2"),
    (r"encoder\.layers\.(\d+)\.self_attention\.(q|k|v)[a-z]+\.(.+)", r"model.encoder.layers.\1.self_attn.\2_proj.\3"),
    (r"encoder\.layers\.(\d+)\.norm1\.(.+)", r"model.encoder.layers.\1.self_attn_layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.feed_forward\.norm\.(.+)", r"model.encoder.layers.\1.final_layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.feed_forward\.linear(\d)\.(.+)", r"model.encoder.layers.\1.fc\2.\3"),
    (r"encoder\.layers\.(\d+)\.feed_forward\.activation\.(.+)", r"model.encoder.layers.\1.activation_fn.\2"),
    (r"decoder\.layers\.(\d+)\.self_attention\.(query|key)_position\.(.+)", SELF + r"_\2_pos_proj.\3"),
    (r"decoder\.layers\.(\d+)\.self_attention\.(query|key)\.(.+)", SELF + r"_\2_content_proj.\3"),
    (r"decoder\.layers\.(\d+)\.self_attention\.value\.(.+)", SELF + r"_value_proj.\2"),
    (r"decoder\.layers\.(\d+)\.self_attention\.output\.(.+)", SELF + r".output_proj.\2"),
    (r"decoder\.layers\.(\d+)\.cross_attention\.(query|key)_position\.(.+)", CROSS + r"_\2_pos_proj.\3"),
    (r"decoder\.layers\.(\d+)\.cross_attention\.place\.(.+)", CROSS + r"_query_pos_sine_proj.\2"),
    (r"decoder\.layers\.(\d+)\.cross_attention\.(query|key)\.(.+)", CROSS + r"_\2_content_proj.\3"),
    (r"decoder\.layers\.(\d+)\.cross_attention\.value\.(.+)", CROSS + r"_value_proj.\2"),
    (r"decoder\.layers\.(\d+)\.cross_attention\.output\.(.+)", CROSS + r".output_proj.\2"),
    (r"decoder\.layers\.(\d+)\.norm1\.(.+)", SELF + r"_layer_norm.\2"),
    (r"decoder\.layers\.(\d+)\.norm2\.(.+)", CROSS + r"_layer_norm.\2"),
    (r"decoder\.layers\.(\d+)\.feed_forward\.norm\.(.+)", r"model.decoder.layers.\1.mlp.final_layer_norm.\2"),
    (r"decoder\.layers\.(\d+)\.feed_forward\.linear(\d)\.(.+)", r"model.decoder.layers.\1.mlp.fc\2.\3"),
    (r"decoder\.layers\.(\d+)\.feed_forward\.activation\.(.+)", r"model.decoder.layers.\1.mlp.activation_fn.\2"),
]


def test_conditional_detr() -> None:
    settings = peer.config("ConditionalDetrConfig", d_model=32, auxiliary_loss=False, **SIZES)
    from transformers import ConditionalDetrForObjectDetection

    model = peer.filled(ConditionalDetr(replace(ModelRecipe(**every.TINY), backbone="resnet50")), "conditional_detr")
    other = ConditionalDetrForObjectDetection(settings).eval()
    peer.copy_weights(model, other, CONDITIONAL, "model.backbone.model.")
    batch = every.padded_batch(128, 192)
    assert peer.largest_difference(model, other, *batch) < 1e-4
    with torch.no_grad():
        model.decoder.place_scale.layers[-1].bias += 0.1
    assert peer.largest_difference(model, other, *batch) > 1e-3


@pytest.mark.parametrize("patterns", [0, 3])
def test_dab_detr(patterns: int) -> None:
    settings = peer.config("DabDetrConfig", hidden_size=32, num_patterns=patterns, auxiliary_loss=False, **SIZES)
    from transformers import DabDetrForObjectDetection

    recipe = replace(DabModel(**every.TINY), backbone="resnet50", patterns=patterns)
    model = peer.filled(DabDetr(recipe), "dab_detr-3pat" if patterns else "dab_detr")
    other = DabDetrForObjectDetection(settings).eval()
    peer.copy_weights(model, other, DAB, "model.backbone.conv_encoder.model.")
    batch = every.padded_batch(128, 192)
    assert peer.largest_difference(model, other, *batch) < 1e-4
    with torch.no_grad():
        model.decoder.size_head.layers[-1].bias += 0.1
    assert peer.largest_difference(model, other, *batch) > 1e-3
