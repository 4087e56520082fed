import argparse
import pickle

import pytest
import torch

from detr_mini.checkpoints import (
    CheckpointError,
    load_official,
    load_weights,
    read_facts,
    read_official,
    save_weights,
    to_official,
)
from detr_mini.detr import Detr
from detr_mini.key_maps import KEY_MAPS, expand, recognise, translate
from detr_mini.recipes import ModelRecipe

TINY = ModelRecipe(d_model=32, heads=4, encoder_layers=1, decoder_layers=2, feed_forward=64, queries=5, classes=6)


def official_names(model: Detr) -> list[str]:
    """The official names of a small DETR, spelled out for its layers."""
    parts = {"self_attn": ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")}
    parts["multihead_attn"] = parts["self_attn"]
    rest = ["linear1", "linear2", "norm1", "norm2"]
    names = []
    for stack, count, attentions, norms in (
        ("encoder", TINY.encoder_layers, ("self_attn",), rest),
        ("decoder", TINY.decoder_layers, ("self_attn", "multihead_attn"), [*rest, "norm3"]),
    ):
        for i in range(count):
            layer = f"transformer.{stack}.layers.{i}"
            names += [f"{layer}.{attention}.{part}" for attention in attentions for part in parts[attention]]
            names += [f"{layer}.{norm}.{kind}" for norm in norms for kind in ("weight", "bias")]
    heads = ["transformer.decoder.norm", "class_embed", *(f"bbox_embed.layers.{i}" for i in range(3)), "input_proj"]
    names += [f"{head}.{kind}" for head in heads for kind in ("weight", "bias")] + ["query_embed.weight"]
    return names + [f"backbone.0.body.{name}" for name in model.backbone.body.state_dict()]


@pytest.fixture(scope="module")
def model() -> Detr:
    torch.manual_seed(0)
    return Detr(TINY).eval()


@pytest.fixture(scope="module")
def official(model) -> dict[str, torch.Tensor]:
    return to_official("detr", model.state_dict(), official_names(model))


def test_our_weights_come_back_the_same(model, tmp_path):
    save_weights(model, tmp_path / "a.safetensors", classes=["cat", *[None] * 5], step=7)
    again = load_weights(tmp_path / "a.safetensors")
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images).boxes, model(images).boxes)
    facts = read_facts(tmp_path / "a.safetensors")
    assert facts["classes"][:2] == ["cat", None] and facts["step"] == 7 and facts["recipe"]["queries"] == 5


def test_half_precision_halves_the_file(model, tmp_path):
    save_weights(model, tmp_path / "a.safetensors")
    save_weights(model, tmp_path / "b.safetensors", half=True)
    sizes = [(tmp_path / name).stat().st_size for name in ("a.safetensors", "b.safetensors")]
    assert 0.45 < sizes[1] / sizes[0] < 0.55
    assert next(load_weights(tmp_path / "b.safetensors").parameters()).dtype == torch.float32


def test_a_quarter_of_the_file(model, tmp_path):
    """Matrices in 8 bits: no weight is off by more than half a step of its row; vectors are as in half precision."""
    save_weights(model, tmp_path / "a.safetensors")
    save_weights(model, tmp_path / "b.safetensors", quarter=True, steps=7)
    assert (tmp_path / "b.safetensors").stat().st_size < 0.4 * (tmp_path / "a.safetensors").stat().st_size
    again = load_weights(tmp_path / "b.safetensors")
    assert read_facts(tmp_path / "b.safetensors")["steps"] == 7
    for name, tensor in model.state_dict().items():
        step = tensor.flatten(1).abs().amax(1) / 127 if tensor.ndim > 1 else 2e-3 * tensor.abs()
        off = (again.state_dict()[name] - tensor).abs()
        assert (off.flatten(1).amax(1) <= 0.6 * step + 1e-5).all() if tensor.ndim > 1 else (off <= step + 1e-6).all()


def test_official_names_cover_every_tensor_and_lead_back(model, official):
    torch.manual_seed(1)
    other = load_official(Detr(TINY), official)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_prefixes_and_counters_of_official_files_are_understood(model, official):
    wrapped = {f"module.detr.{name}": tensor for name, tensor in official.items()}
    wrapped["module.detr.backbone.0.body.bn1.num_batches_tracked"] = torch.tensor(0)
    other = load_official(Detr(TINY), wrapped)
    assert torch.equal(other.decoder.query_embed.weight, model.decoder.query_embed.weight)


def test_every_missing_unexpected_and_misshapen_name_is_named(official):
    state = dict(official)
    del state["class_embed.bias"], state["transformer.decoder.layers.1.self_attn.in_proj_weight"]
    state["surprise.weight"] = torch.zeros(1)
    state["query_embed.weight"] = torch.zeros(9, 32)
    fresh = Detr(TINY)
    before = fresh.decoder.query_embed.weight.clone()
    with pytest.raises(CheckpointError) as error:
        load_official(fresh, state)
    said = str(error.value)
    for part in ("decoder.class_head.bias", "decoder.layers.1.self_attention.key.weight", "surprise.weight",
                 "decoder.query_embed.weight (9, 32) instead of (5, 32)"):
        assert part in said
    assert torch.equal(fresh.decoder.query_embed.weight, before)


def test_another_systems_checkpoint_is_refused_by_name(official):
    state = dict(official) | {"refpoint_embed.weight": torch.zeros(300, 4)}
    with pytest.raises(CheckpointError, match="this is a checkpoint of dab, and the model is detr"):
        load_official(Detr(TINY), state)
    with pytest.raises(CheckpointError, match="no checkpoint of a detector we know"):
        load_official(Detr(TINY), {"conv.weight": torch.zeros(1)})


def test_an_official_file_with_its_namespace_is_read(official, tmp_path):
    path = tmp_path / "official.pth"
    torch.save({"model": official, "args": argparse.Namespace(lr=1e-4, backbone="resnet50"), "epoch": 3}, path)
    assert torch.equal(read_official(path)["query_embed.weight"], official["query_embed.weight"])


class Evil:
    def __reduce__(self):
        return (open, ("never", "w"))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read as a checkpoint of tensors"):
            read_official(tmp_path / name)
    assert not (tmp_path / "never").exists()


def test_truncated_foreign_and_missing_files_say_what_was_expected(model, official, tmp_path):
    save_weights(model, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    for name in ("cut.safetensors", "text.safetensors"):
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            load_weights(tmp_path / name)
    torch.save(official, tmp_path / "b.pth")
    whole = (tmp_path / "b.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="expected a whole .pth file"):
        read_official(tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_official(tmp_path / "list.pth")
    for read in (load_weights, read_official):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nowhere.pth")


def test_names_are_translated_by_the_first_line_that_fits():
    ours = translate("transformer.encoder.layers.3.self_attn.in_proj_bias", KEY_MAPS["detr"])
    assert ours == [f"encoder.layers.3.self_attention.{part}.bias" for part in ("query", "key", "value")]
    assert translate("transformer.decoder.layers.0.norm3.weight", KEY_MAPS["detr"]) == [
        "decoder.layers.0.feed_forward.norm.weight"
    ]
    assert translate("nothing.we.know", KEY_MAPS["detr"]) is None
    assert expand("a.{q,k}.b") == ["a.q.b", "a.k.b"]
    assert recognise(["a.b"]) is None


@pytest.mark.parametrize("wrap", [
    lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "epoch": 3,
                   "global_step": 7, "pytorch-lightning_version": "2.5.0"},
    lambda state: {"state_dict": {f"model._orig_mod.{name}": tensor for name, tensor in state.items()}
                   | {"criterion.empty_weight": torch.ones(7)}},
    lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
], ids=["Lightning", "Lightning, compiled, with a loss", "data-parallel", "compiled"])
def test_wrapped_checkpoints_are_unwrapped(wrap, model, official, tmp_path):
    """Lightning's `state_dict`, and the prefixes of wrappers: the same tensors under the authors' names."""
    torch.save(wrap(official), tmp_path / "wrapped.ckpt")
    state = read_official(tmp_path / "wrapped.ckpt")
    assert set(state) == set(official)
    assert torch.equal(load_official(Detr(TINY), state).decoder.query_embed.weight, model.decoder.query_embed.weight)


def test_tensors_that_have_no_names_are_refused(tmp_path):
    """As a list saved as a dict has them."""
    torch.save({"model": {0: torch.ones(2), 1: torch.ones(3)}}, tmp_path / "numbers.pth")
    with pytest.raises(CheckpointError, match="numbers.pth has a tensor under 0: expected names, such as"):
        read_official(tmp_path / "numbers.pth")
