"""Weights of the transformers library, as it saves them: the same outputs, and one line for what cannot be read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from detr_mini.__main__ import main
from detr_mini.transfer import read_source
from detr_mini.weights import open_weights

transformers = pytest.importorskip("transformers")
PICTURE = Path(__file__).parents[2] / "data" / "tiny_coco" / "train2017" / "000000000139.jpg"
COMMON = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
          "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_queries": 9, "id2label": {0: "N/A", 1: "person", 2: "cat"}}
FORMS = {
    "detr": ("Detr", {"d_model": 32}),
    "conditional": ("ConditionalDetr", {"d_model": 32}),
    "dab": ("DabDetr", {"hidden_size": 32}),
    "dab, three patterns": ("DabDetr", {"hidden_size": 32, "num_patterns": 3}),
    "deformable": ("DeformableDetr", {"d_model": 32, "disable_custom_kernels": True}),
    "deformable, one level": ("DeformableDetr", {
        "d_model": 32, "num_feature_levels": 1, "disable_custom_kernels": True}),
    "deformable, two-stage": ("DeformableDetr", {
        "d_model": 32, "with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 9,
        "disable_custom_kernels": True, "tie_word_embeddings": False}),
}


def saved(form: str, folder: Path) -> torch.nn.Module:
    """A random model of the library, saved into a folder as it saves; no weight is left at a constant."""
    kind, fields = FORMS[form]
    stages = ["stage4"]
    if kind == "DeformableDetr" and fields.get("num_feature_levels") != 1:
        stages = ["stage2", "stage3", "stage4"]
    resnet = transformers.ResNetConfig(depths=[3, 4, 6, 3], layer_type="bottleneck", out_features=stages)
    config = getattr(transformers, f"{kind}Config")(backbone_config=resnet, auxiliary_loss=False, **COMMON, **fields)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "backbone" not in name:
                shake = 1.0 if "query" in name and "embed" in name else 0.12 if fields.get("two_stage") else 0.25
                parameter += shake * torch.randn_like(parameter)
        if hasattr(model, "bbox_embed") and fields.get("two_stage"):  # the library ties them in its own models
            for name in ("bbox_embed", "class_embed"):
                getattr(model.model.decoder, name).load_state_dict(getattr(model, name).state_dict())
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("form", FORMS)
def test_outputs_are_those_of_the_library(form: str, tmp_path: Path) -> None:
    """Logits and boxes to 1e-4, on a batch with padding; by folder and by file."""
    theirs = saved(form, tmp_path / "model")
    images, mask = torch.randn(2, 3, 128, 160), torch.zeros(2, 128, 160, dtype=torch.bool)
    mask[1, :, 128:] = True
    found = open_weights(tmp_path / "model")
    with torch.no_grad():
        wanted = theirs(pixel_values=images, pixel_mask=(~mask).long())
        output = found.model(images, mask)
    assert output.boxes[-1].std(1).mean() > 1e-3  # the queries differ
    torch.testing.assert_close(output.logits[-1], wanted.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.boxes[-1], wanted.pred_boxes, atol=1e-4, rtol=0)
    again = open_weights(tmp_path / "model" / "model.safetensors")
    assert found.classes == again.classes == [None, "person", "cat"] and found.recipe.eval_size == 800


def test_names_of_timm_and_preparation_are_understood(tmp_path: Path) -> None:
    """The hub's first models name their backbone as timm does; preprocessor_config.json says sizes and colours."""
    saved("detr", tmp_path)
    before = open_weights(tmp_path).model.state_dict()
    state, timm = load_file(tmp_path / "model.safetensors"), {}
    from detr_mini.hub import backbone_name
    for name, tensor in state.items():
        ours = backbone_name(name)
        timm[f"model.backbone.conv_encoder.model.{ours.removeprefix('backbone.body.')}" if ours else name] = tensor
    save_file(timm, tmp_path / "model.safetensors", {"format": "pt"})
    prepared = {"size": {"shortest_edge": 480, "longest_edge": 800}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))
    found = open_weights(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.model.state_dict().items())
    assert (found.recipe.eval_size, found.recipe.max_size, found.recipe.std) == (480, 800, (0.25,) * 3)


def test_commands_take_them(tmp_path: Path, capsys) -> None:
    """`detect`, and training from them."""
    saved("detr", tmp_path / "model")
    assert main(["detect", str(PICTURE), "--weights", str(tmp_path / "model"), "--to", str(tmp_path / "out")]) == 0
    assert "of the transformers library" in capsys.readouterr().out
    source = read_source(tmp_path / "model")
    assert source.system == "detr" and source.classes == [None, "person", "cat"]


def changed(folder: Path, **fields: object) -> Path:
    """The folder with other fields in its config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


@pytest.mark.parametrize(("fields", "said"), [
    ({"model_type": "rt_detr"}, "config.json: model_type is 'rt_detr', which is not here: there are detr"),
    ({"model_type": None}, "model_type is None, which is not here"),
    ({"d_model": "wide"}, "config.json: d_model is 'wide': it must be a whole number"),
    ({"encoder_layers": 10**9}, "encoder_layers is 1000000000: it must be a whole number"),
    ({"num_queries": 12}, "does not fit its config.json: wrong shape: decoder.query_embed.weight"),
    ({"position_embedding_type": "learned"}, "position_embedding_type is 'learned', which is not here"),
    ({"backbone_config": {"depths": [3, 4, 23, 3]}}, r"its backbone is \[3, 4, 23, 3\], and only ResNet-50 is here"),
    ({"id2label": {"cat": 1}}, "id2label has 'cat': 1"),
])
def test_what_cannot_be_read_is_one_line(fields: dict, said: str, tmp_path: Path) -> None:
    """File and field are named."""
    saved("detr", tmp_path)
    with pytest.raises(ValueError, match=said):
        open_weights(changed(tmp_path, **fields))


def test_missing_parts_are_told(tmp_path: Path) -> None:
    """No weights, weights in parts, a file without its configuration, a configuration that is no JSON."""
    saved("detr", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match="model.safetensors is missing: it is in 1 parts, which are not read"):
        open_weights(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").rename(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json cannot be read as JSON"):
        open_weights(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="its config.json must lie beside it"):
        open_weights(tmp_path / "model.safetensors")
