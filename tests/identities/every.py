"""Checks that every detector must pass, whatever it changes. Each test file of a variant calls them."""

import json
from pathlib import Path

import torch
from torch import Tensor

from detr_mini import checkpoints, zoo
from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr
from detr_mini.losses import SetCriterion
from detr_mini.positions import Grid
from detr_mini.recipes import ModelRecipe
from detr_mini.trace import AttentionTrace

GOLDEN = Path(__file__).parents[1] / "golden"
DETR_PARAMETERS = 41_524_768
TINY = {
    "backbone": "small", "d_model": 32, "heads": 4, "encoder_layers": 2, "decoder_layers": 3, "feed_forward": 48,
    "dropout": 0.0, "queries": 9, "classes": 6, "head": "focal",
}


def shaken(model: Detr, seed: int = 1) -> Detr:
    """The model with noise on every parameter, so that nothing that starts constant hides behind its constant."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += noise * (0.3 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1)
            if name.endswith("bn3.weight"):
                parameter *= 0.2  # the residual branches of a random ResNet-50 would blow its features up
    return model.eval()


def padded_batch(height: int = 96, width: int = 128) -> tuple[Tensor, Tensor]:
    """Two random images (2, 3, H, W) and their mask; the second is padded at the bottom and on the right."""
    images, mask = torch.randn(2, 3, height, width), torch.zeros(2, height, width, dtype=torch.bool)
    mask[1, height * 2 // 3:], mask[1, :, width * 3 // 4:] = True, True
    return images.masked_fill(mask[:, None], 0), mask


def targets(classes: int = 6) -> list[dict[str, Tensor]]:
    """Three objects in the first image, one in the second."""
    boxes = [[[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.4], [0.5, 0.5, 0.9, 0.8]], [[0.4, 0.6, 0.5, 0.3]]]
    labels = [[0, classes - 1, 2], [1]]
    return [{"labels": torch.tensor(a), "boxes": torch.tensor(b)} for a, b in zip(labels, boxes, strict=True)]


def difference(first: DetectorOutput, second: DetectorOutput) -> float:
    """The largest difference of any logit or box."""
    pairs = ((first.logits, second.logits), (first.boxes, second.boxes))
    return max(float((a - b).abs().max()) for a, b in pairs)


@torch.no_grad()
def tracing_changes_nothing(model: Detr) -> AttentionTrace:
    """Outputs are the same with a trace open and without; returns the trace."""
    images, mask = padded_batch()
    fast = model(images, mask)
    with AttentionTrace(model) as trace:
        watched = model(images, mask)
    assert difference(fast, watched) < 1e-5
    assert all(module.trace is None for module in trace.modules)
    return trace


def weights_sum_to_one(trace: AttentionTrace, names: list[str]) -> None:
    """Every row of the named dense records sums to 1, gives nothing to padding, and is drawn as a map."""
    shapes, hidden = trace[""].shapes, trace[""].padding_mask
    for name in names:
        weights = trace[name].weights  # (B, heads, Q, K)
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
        if weights.shape[-1] == hidden.shape[-1]:
            assert hidden.any() and weights.transpose(1, 3)[hidden].abs().max() == 0
            assert trace.maps(name).shape == (*weights.shape[:3], *shapes[0])


def overwritten_padding(model: Detr) -> tuple[Tensor, Tensor, Grid]:
    """Tokens of a padded batch, the same with noise where padding is, and their grid."""
    images, mask = padded_batch()
    tokens, grid = model.tokenize(images, mask)  # (B, HW, d)
    return tokens, torch.where(grid.padding_mask[..., None], torch.randn_like(tokens), tokens), grid


@torch.no_grad()
def encoder_ignores_padding(model: Detr) -> None:
    """What tokens under the padding mask hold does not change the memory of the others."""
    tokens, other, grid = overwritten_padding(model)
    change = (model.encoder(tokens, grid) - model.encoder(other, grid)).abs().amax(-1)  # (B, HW)
    assert change[~grid.padding_mask].max() < 1e-5 < change[grid.padding_mask].max()


@torch.no_grad()
def decoder_ignores_padding(model: Detr) -> None:
    """What memory holds under the padding mask does not change the answer."""
    memory, other, grid = overwritten_padding(model)
    assert difference(model.decoder(memory, grid), model.decoder(other, grid)) < 1e-5


# A constant added to all keys adds the same to all scores of a query, and softmax does not see it.
KEY_BIASES = (".key.bias", ".key_position.bias", "cross_attention.key_position.layers.1.bias")
# Content 0 makes all values of the first self-attention alike: it does not matter who attends to whom.
FIRST_MEETING = {
    f"decoder.layers.0.self_attention.{part}"
    for part in ("query.weight", "query.bias", "key.weight", "value.weight", "query_position.weight",
                 "query_position.bias", "key_position.weight")
}


def without_gradient(model: Detr) -> set[str]:
    """Trainable parameters that two steps of training did not reach: gradient missing, or nothing but rounding.

    In float64, where rounding is far below any gradient that means something.
    """
    model.double().train()
    model.grid_position.register_forward_hook(lambda module, inputs, position: position.double())
    criterion, (images, mask) = SetCriterion(zoo.recipe("detr").loss, 6, "focal"), padded_batch()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        criterion.total(criterion(model(images.double(), mask), targets())).backward()
        optimiser.step()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    norms = {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in trained.items()}
    return {name for name, norm in norms.items() if norm < 1e-13 * max(norms.values())}


def gradients_reach(model: Detr, exceptions: set[str]) -> None:
    """Every trainable parameter has a gradient, except those named and the biases of keys."""
    assert {name for name in without_gradient(model) if not name.endswith(KEY_BIASES)} == exceptions


def learns(model: Detr, size: int = 128) -> None:
    """Forward and backward of a scenes detector on images as large as scenes are: finite loss, finite gradients."""
    images, mask = torch.randn(2, 3, size, size), torch.zeros(2, size, size, dtype=torch.bool)
    criterion = SetCriterion(zoo.recipe(model.system).loss, model.recipe.classes, model.recipe.head)
    total = criterion.total(criterion(model.train()(images, mask), targets()))
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert total.isfinite() and gradients and all(g.isfinite().all() for g in gradients)


def parameters(detector: type[Detr], recipe: ModelRecipe) -> int:
    """Number of parameters, without reserving memory for them."""
    with torch.device("meta"):
        return zoo.count(detector(recipe))


def coco_numbers(name: str) -> dict[str, object]:
    """The numbers of a detector's COCO recipe that the papers' tables give."""
    model, loss, train = (getattr(zoo.recipe(name, "coco"), part) for part in ("model", "loss", "train"))
    return {
        "head": model.head, "queries, FFN, dropout": (model.queries, model.feed_forward, model.dropout),
        "lr, backbone lr": (train.lr, train.backbone_lr), "batch, epochs": (train.batch, train.epochs),
        "drop after epoch": round(train.drop * train.epochs),
        "loss": (loss.class_weight, loss.l1_weight, loss.giou_weight),
        "matcher": (loss.class_cost, loss.l1_cost, loss.giou_cost),
    }


def card_says(module_doc: str) -> int:
    """The number on the card's line "Parameters added: 1,893,633 (...)"."""
    line = next(line for line in module_doc.splitlines() if line.startswith("Parameters added:"))
    return int(line.split(":")[1].split("(")[0].replace(",", ""))


def survives_saving(model: Detr, folder: Path) -> None:
    """Saved and loaded again, a detector says the same, and is of the same kind and recipe."""
    checkpoints.save_weights(model, folder / "weights.safetensors")
    loaded, (images, mask) = checkpoints.load_weights(folder / "weights.safetensors"), padded_batch()
    assert type(loaded) is type(model) and loaded.recipe == model.recipe
    with torch.no_grad():
        assert difference(model.eval()(images, mask), loaded(images, mask)) == 0


def official_names(golden: str) -> list[str]:
    """All names of an official checkpoint, from a golden file."""
    return list(json.loads((GOLDEN / f"{golden}.keys.json").read_text())["keys"])


def official_names_are_checked(model: Detr, blank: Detr, golden: str) -> None:
    """An official state dict loads exactly, and one that does not fit is refused by name. `blank` is as `model`."""
    state = checkpoints.to_official(model.system, model.state_dict(), official_names(golden))
    counters = {"module.backbone.0.body.bn1.num_batches_tracked": torch.ones(1)}
    checkpoints.load_official(blank, {f"module.{name}": tensor for name, tensor in state.items()} | counters)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, blank.state_dict()[name]), name
    lost = "transformer.encoder.layers.0.norm1.weight"
    foreign = {"transformer.decoder.layers.0.multihead_attn.in_proj_bias": torch.ones(96)}
    refused(model, {name: t for name, t in state.items() if name != lost}, "missing", "encoder.layers.0.norm1.weight")
    refused(model, state | {"transformer.extra": torch.ones(1)}, "unexpected", "transformer.extra")
    refused(model, state | {lost: torch.ones(3)}, "wrong shape", "encoder.layers.0.norm1.weight (3,) instead of (32,)")
    refused(model, foreign, "a checkpoint of detr", f"the model is {model.system}")
    refused(model, {"anything": torch.ones(1)}, "no checkpoint of a detector we know")


def refused(model: Detr, state: dict[str, Tensor], *words: str) -> None:
    """Loading `state` raises a CheckpointError whose message has all the words."""
    try:
        checkpoints.load_official(model, state)
    except checkpoints.CheckpointError as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"{missing} not in: {error}"
    else:
        raise AssertionError(f"accepted a state dict that should be refused: {words}")
