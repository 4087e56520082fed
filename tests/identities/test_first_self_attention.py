"""DETR's first self-attention sees content 0: which of its matrices can learn, with which norm and which dropout."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from detr_mini import zoo
from detr_mini.attention import MultiHeadAttention

NAMES = ("query", "key", "value", "output")


def largest_gradients(attention: MultiHeadAttention) -> dict[str, float]:
    """The largest entry of each matrix's gradient."""
    return {name: getattr(attention, name).weight.grad.abs().max().item() for name in NAMES}


def gradients_in_detr(dropout: float) -> list[dict[str, float]]:
    """Of the self-attentions of a whole DETR in training, layer by layer, for a loss on all of its boxes.

    A fresh one has no bias, and so nothing at all to say; drawn ones stand for the first steps.
    """
    torch.manual_seed(0)
    recipe = replace(zoo.recipe("detr").model, decoder_layers=2, encoder_layers=1, dropout=dropout)
    model = zoo.build("detr", "scenes", recipe).train()
    for name, parameter in model.decoder.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    boxes = model(torch.randn(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.bool)).boxes
    (boxes - torch.rand_like(boxes)).square().sum().backward()
    return [largest_gradients(layer.self_attention) for layer in model.decoder.layers]


def gradients_with_pre_norm(dropout: float) -> dict[str, float]:
    """Of a self-attention that works on norm(content), after the norm's shift has learned something."""
    torch.manual_seed(0)
    attention, norm, address = MultiHeadAttention(16, 2, dropout), nn.LayerNorm(16), torch.randn(1, 5, 16)
    nn.init.normal_(norm.bias)
    content: Tensor = norm(torch.zeros(1, 5, 16))
    (attention(content, content, content, address, address) - torch.randn(1, 5, 16)).square().sum().backward()
    return largest_gradients(attention)


def test_post_norm_without_dropout() -> None:
    """Our detector: nothing reaches queries, keys and values of the first layer. All four learn in the second."""
    first, second = gradients_in_detr(0.0)
    assert first["value"] == 0.0 and max(first["query"], first["key"]) < 1e-6 < 1e-4 < first["output"]
    assert all(gradient > 1e-5 for gradient in second.values())


def test_post_norm_with_dropout() -> None:
    """The paper's recipe: weights no longer add up to 1, so queries and keys get a gradient; values still do not."""
    first, _ = gradients_in_detr(0.1)
    assert first["value"] == 0.0 and min(first["query"], first["key"]) > 1e-5


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_pre_norm(dropout: float) -> None:
    """Values see the norm's shift and learn; queries and keys do with dropout only."""
    found = gradients_with_pre_norm(dropout)
    assert found["value"] > 1e-2 and found["output"] > 1e-2
    assert (min(found["query"], found["key"]) > 1e-3) if dropout else (max(found["query"], found["key"]) < 1e-5)
