"""DAB-DETR: what it reduces to, and what every variant must pass."""

from dataclasses import asdict, replace
from pathlib import Path

import every
import pytest
import torch
from torch import nn

from detr_mini import zoo
from detr_mini.boxes import inverse_sigmoid
from detr_mini.detr import Detr
from detr_mini.positions import grid_coordinates
from detr_mini.recipes import DabModel, ModelRecipe
from detr_mini.variants import dab
from detr_mini.variants.conditional import ConditionalDetr
from detr_mini.variants.dab import DabDetr

TINY = DabModel(**every.TINY)
PATTERN_MEETING = {"decoder.layers.0.self_attention.key_position.weight"}  # values differ by pattern, not by anchor


@pytest.fixture
def model() -> DabDetr:
    return every.shaken(DabDetr(TINY))


# -- identities ---------------------------------------------------------------------------------------------


def constant(mlp: nn.Module, value: float) -> None:
    """Make a network say one value, whatever goes in."""
    nn.init.zeros_(mlp.layers[-1].weight)
    nn.init.constant_(mlp.layers[-1].bias, value)


def as_conditional(model: DabDetr) -> ConditionalDetr:
    """Conditional DETR with the same weights, whose learned embeddings are the anchors' positions, and whose
    network for points is solved so that it gives the anchors' centres."""
    fields = asdict(ModelRecipe(**every.TINY))
    twin = ConditionalDetr(ModelRecipe(**fields)).eval()
    ours, theirs = model.state_dict(), twin.state_dict()
    shared = {name: tensor for name, tensor in ours.items() if name in theirs and tensor.shape == theirs[name].shape}
    twin.load_state_dict(theirs | shared)
    queries = model.decoder.init_queries(torch.zeros(1, 1, 32), None)
    position = model.decoder.query_position(model.decoder.layers[0], queries)[0]  # (Q, d)
    twin.decoder.query_embed.weight.copy_(position)
    hidden = twin.decoder.point_head.layers[0](position).relu()  # (Q, d)
    twin.decoder.point_head.layers[1].weight.copy_(torch.linalg.lstsq(hidden, queries.learned[0, :, :2]).solution.T)
    twin.decoder.point_head.layers[1].bias.zero_()
    return twin


@torch.no_grad()
def test_without_its_novelties_it_is_conditional_detr() -> None:
    """No modulation, no update, one temperature, ReLU, unscaled encoder positions: Conditional DETR whose point is
    the anchor's centre. Anchors of half the image add nothing to width and height."""
    recipe = replace(TINY, modulate=False, refine=False, key_temperature=10000.0)
    model = every.shaken(DabDetr(recipe))
    constant(model.encoder.position_scale, 1.0)
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            module.weight.zero_()
    model.decoder.query_embed.weight[:, 2:] = 0  # sigmoid = 0.5
    twin, batch = as_conditional(model), every.padded_batch()
    assert every.difference(model(*batch), twin(*batch)) < 1e-5
    with_novelties = every.shaken(DabDetr(TINY))
    with_novelties.load_state_dict(model.state_dict(), strict=False)
    assert every.difference(with_novelties(*batch), twin(*batch)) > 1e-2


@torch.no_grad()
def test_a_size_that_fits_the_anchor_modulates_nothing(model: DabDetr) -> None:
    """w_ref = w and h_ref = h, here both one half: the same as without modulation."""
    plain = DabDetr(replace(TINY, modulate=False)).eval()
    model.decoder.query_embed.weight[:, 2:] = 0
    constant(model.decoder.size_head, 0.0)
    constant(model.decoder.box_head, 0.0)  # anchors stay
    plain.load_state_dict(model.state_dict(), strict=False)
    batch = every.padded_batch()
    assert every.difference(model(*batch), plain(*batch)) < 1e-5
    constant(model.decoder.size_head, 1.0)
    assert every.difference(model(*batch), plain(*batch)) > 1e-3


@torch.no_grad()
def test_a_wider_anchor_looks_more_widely(model: DabDetr) -> None:
    """Only the half for x of the place shrinks when the anchor widens, by the factor of the widths (equation 6)."""
    decoder = model.decoder
    queries = decoder.init_queries(torch.zeros(1, 1, 32), None)
    queries = replace(queries, entering=queries.content)
    narrow = torch.tensor([0.4, 0.6, 0.2, 0.3]).expand(1, 9, 4)
    y, x = decoder.place(decoder.layers[0], replace(queries, reference=narrow)).chunk(2, dim=-1)
    wide = narrow * torch.tensor([1.0, 1.0, 2.5, 1.0])
    wide_y, wide_x = decoder.place(decoder.layers[0], replace(queries, reference=wide)).chunk(2, dim=-1)
    assert (wide_y - y).abs().max() < 1e-5 and (wide_x * 2.5 - x).abs().max() < 1e-5 < x.abs().max()


@torch.no_grad()
def test_patterns_that_say_nothing_repeat_the_queries(model: DabDetr) -> None:
    """Three patterns of zeros: every anchor three times, pattern by pattern, with one and the same answer."""
    three = DabDetr(replace(TINY, patterns=3)).eval()
    three.load_state_dict(model.state_dict(), strict=False)
    three.decoder.patterns.weight.zero_()
    batch = every.padded_batch()
    once, thrice = model(*batch), three(*batch)
    assert thrice.logits.shape[2] == 27
    assert (thrice.logits - once.logits.repeat(1, 1, 3, 1)).abs().max() < 1e-5
    assert (thrice.boxes - once.boxes.repeat(1, 1, 3, 1)).abs().max() < 1e-5
    three.decoder.patterns.weight.normal_()
    assert every.difference(three(*batch), thrice) > 1e-2


@pytest.mark.parametrize(("query_temperature", "agree"), [(20.0, True), (10000.0, False)])
def test_temperatures(query_temperature: float, agree: bool) -> None:
    """In the paper's form an anchor on a cell has the cell's code; in the authors' code (the default) it has not."""
    assert (TINY.key_temperature, TINY.query_temperature) == (20.0, 10000.0)
    model = DabDetr(replace(TINY, modulate=False, query_temperature=query_temperature))
    cells = torch.zeros(1, 6, 8, dtype=torch.bool)
    corners = grid_coordinates(cells)[0].flatten(0, 1)[None].flip(-1)  # (1, 48, 2) as (x, y)
    queries = model.decoder.init_queries(torch.zeros(1, 1, 32), None)
    queries = replace(queries, reference=torch.cat([corners, torch.ones(1, 48, 2)], dim=-1))
    place = model.decoder.place(model.decoder.layers[0], queries)
    assert bool((place - model.grid_position(cells).flatten(1, 2)).abs().max() < 1e-5) == agree


def test_each_layer_starts_from_the_box_of_the_one_before(model: DabDetr) -> None:
    """Next anchor = sigmoid(box head of the content + logit of the anchor), with the content before the norm."""
    trace = every.tracing_changes_nothing(model)
    decoder, record = model.decoder, trace["decoder"]
    with torch.no_grad():
        output = model(*every.padded_batch())
        for layer in range(2):
            logit = inverse_sigmoid(record.reference[layer], dab.EPS)
            following = (decoder.box_head(record.content[layer]) + logit).sigmoid()
            assert (following - record.reference[layer + 1]).abs().max() < 1e-5
    assert output.boxes.shape == (3, 2, 9, 4)


def test_gradient_of_a_box_crosses_one_layer(model: DabDetr) -> None:
    """With all content cut off from the boxes, layer 1's box still teaches layer 0's, and layer 2's does not."""
    decoder = model.decoder
    queries = decoder.init_queries(torch.randn(1, 1, 32), None)
    content, references = [torch.randn(1, 9, 32, requires_grad=True) for _ in range(3)], []
    for layer, seen in zip(decoder.layers, content, strict=True):
        queries = replace(queries, content=seen)
        references.append(queries.reference)
        queries = replace(queries, reference=decoder.update_reference(layer, queries))
    reached = torch.autograd.grad(references[2].sum(), content, allow_unused=True)
    assert [gradient is not None for gradient in reached] == [False, True, False]
    first = torch.autograd.grad(references[1].sum(), [content[0], decoder.query_embed.weight], allow_unused=True)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in first)


# -- what every variant must pass -----------------------------------------------------------------------------


@pytest.mark.parametrize("patterns", [0, 3])
def test_trace(patterns: int) -> None:
    model = every.shaken(DabDetr(replace(TINY, patterns=patterns)))
    trace = every.tracing_changes_nothing(model)
    every.weights_sum_to_one(trace, [name for name in trace.records if name.endswith("attention")])
    queries = 9 * max(1, patterns)
    assert trace["decoder"].reference.shape == (3, 2, queries, 4)
    assert trace["decoder.layers.1.cross_attention"].size.shape == (2, queries, 2)
    assert trace["decoder.layers.1.cross_attention"].place_scale.shape == (2, queries, 32)
    assert trace["decoder.layers.1.self_attention"].position.shape == (2, queries, 32)
    assert trace["encoder.layers.1.self_attention"].position_scale.shape[-1] == 32


def test_padding(model: DabDetr) -> None:
    every.encoder_ignores_padding(model)
    every.decoder_ignores_padding(model)


@pytest.mark.parametrize(("patterns", "exceptions"), [(0, every.FIRST_MEETING), (3, PATTERN_MEETING)])
def test_gradients(patterns: int, exceptions: set[str]) -> None:
    every.gradients_reach(DabDetr(replace(TINY, patterns=patterns)), exceptions)


def test_scenes_run() -> None:
    every.learns(DabDetr(zoo.recipe("dab").model))


@pytest.mark.parametrize("patterns", [0, 1, 3])
def test_parameters(patterns: int) -> None:
    recipe = replace(zoo.recipe("dab", "coco").model, patterns=patterns)
    count = every.parameters(DabDetr, recipe)
    assert count == 43_671_517 + patterns * 256
    added = count - patterns * 256 - every.parameters(Detr, zoo.recipe("detr", "coco").model)
    assert every.card_says(dab.__doc__) == added


@pytest.mark.parametrize("patterns", [0, 3])
def test_saving(patterns: int, tmp_path: Path) -> None:
    every.survives_saving(every.shaken(DabDetr(replace(TINY, patterns=patterns))), tmp_path)


@pytest.mark.parametrize(("patterns", "golden"), [(0, "dab_detr"), (3, "dab_detr-3pat")])
def test_official_names(patterns: int, golden: str) -> None:
    recipe = replace(TINY, backbone="resnet50", patterns=patterns)
    every.official_names_are_checked(DabDetr(recipe), DabDetr(recipe), golden)


def test_recipe_is_the_papers() -> None:
    assert every.coco_numbers("dab") == {
        "head": "focal", "queries, FFN, dropout": (300, 2048, 0.0), "lr, backbone lr": (1e-4, 1e-5),
        "batch, epochs": (16, 50), "drop after epoch": 40, "loss": (1, 5, 2), "matcher": (2, 5, 2),
    }
    with pytest.raises(ValueError, match="patterns=-1 is no number of patterns"):
        DabModel(patterns=-1)
