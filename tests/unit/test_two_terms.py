"""The two parts of a score add up to what the detector attends with."""

import pytest
import torch

from detr_mini import zoo
from detr_mini.course.two_terms import overhear, two_terms
from detr_mini.trace import AttentionTrace


@pytest.mark.parametrize("name", ["conditional", "dab"])
def test_softmax_of_their_sum_is_the_attention(name: str) -> None:
    """In all layers, the first one included; and listening leaves nothing behind."""
    torch.manual_seed(0)
    model = zoo.build(name).eval()
    images, mask = torch.randn(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.bool)
    terms = two_terms(model, images, mask)
    with torch.no_grad(), AttentionTrace(model) as trace:
        model(images, mask)
    assert len(terms) == 3
    for index, (content, position) in enumerate(terms):
        weights = trace[f"decoder.layers.{index}.cross_attention"].weights
        assert ((content + position).softmax(-1) - weights).abs().max() < 1e-5
    assert not any(layer.cross_attention._forward_pre_hooks for layer in model.decoder.layers)


def test_listening_ends_with_an_error() -> None:
    """Nothing stays hooked when the pass fails."""
    model = zoo.build("dab")
    with pytest.raises(RuntimeError, match="stop"), overhear(model.decoder):
        raise RuntimeError("stop")
    assert not any(layer.cross_attention._forward_pre_hooks for layer in model.decoder.layers)
