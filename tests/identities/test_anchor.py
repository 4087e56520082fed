"""Anchor DETR: what it reduces to, row-column attention, and what every variant must pass."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import every
import pytest
import torch
from torch import nn

from detr_mini import checkpoints, zoo
from detr_mini.attention import MultiHeadAttention
from detr_mini.boxes import inverse_sigmoid
from detr_mini.detr import Detr
from detr_mini.positions import Grid, SineGrid
from detr_mini.recipes import AnchorModel
from detr_mini.variants import anchor
from detr_mini.variants.anchor import AnchorDetr
from detr_mini.variants.row_column_attention import RowColumnAttention, collect

TINY = AnchorModel(**every.TINY | {"d_model": 64}, patterns=1)  # 64: more than one channel in each of 32 groups
PLAIN = replace(TINY, decoupled=False)
forms = pytest.mark.parametrize("recipe", [TINY, replace(TINY, patterns=3), PLAIN, replace(PLAIN, patterns=3)],
                                ids=["rcda", "rcda-3", "plain", "plain-3"])


@pytest.fixture
def model() -> AnchorDetr:
    return every.shaken(AnchorDetr(TINY))


def decoupled_inputs(height: int, width: int) -> tuple[torch.Tensor, ...]:
    """Content, addresses of x and y, memory, and a grid in which image 1 has padding."""
    content, x_address, y_address = torch.randn(3, 2, 9, 64)
    hidden = torch.zeros(2, height, width, dtype=torch.bool)
    hidden[1, height - 1:] = hidden[1, :, width - 2:] = True
    grid = Grid(torch.randn(2, height + width, 64), hidden.flatten(1), [(height, width)])
    return content, x_address, y_address, torch.randn(2, height * width, 64), grid


# -- identities ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(5, 8), (8, 5), (6, 6)])
def test_rcda_is_dense_attention_with_the_outer_product_as_its_map(height: int, width: int) -> None:
    attention, inputs = every.shaken(RowColumnAttention(64, 4)), decoupled_inputs(height, width)
    with every.AttentionTrace(attention) as trace:
        found = attention(*inputs)
    record = trace[""]
    dense = record.column_weights.unsqueeze(-1) * record.row_weights.unsqueeze(-2)  # (B, heads, Q, H, W)
    value = attention.split(attention.value(inputs[3]))  # (B, heads, HW, d/heads)
    wanted = attention.output((dense.flatten(-2) @ value).transpose(1, 2).flatten(-2))
    assert dense.std() > 1e-3 and (found - wanted).abs().max() < 1e-5 < wanted.abs().max()


@torch.no_grad()
def test_the_order_of_the_axes_does_not_matter() -> None:
    first, second, value = torch.rand(2, 4, 9, 5), torch.rand(2, 4, 9, 8), torch.randn(2, 4, 5, 8, 3)
    assert (collect(first, second, value) - collect(second, first, value.transpose(2, 3))).abs().max() < 1e-5
    wanted = torch.einsum("bhqm,bhqn,bhmnc->bhqc", first, second, value)
    assert (collect(first, second, value) - wanted).abs().max() < 1e-5


@torch.no_grad()
def test_keys_are_means_of_projected_cells() -> None:
    """Pooling before the projection, as here, is pooling after it, as in the authors' code."""
    attention, (content, x, y, memory, grid) = every.shaken(RowColumnAttention(64, 4)), decoupled_inputs(5, 8)
    with every.AttentionTrace(attention) as trace:
        attention(content, x, y, memory, grid)
    columns = grid.position[:, 5:]  # (B, W, d)
    key = attention.key_row(memory.unflatten(1, (5, 8)) + columns[:, None]).mean(1)  # (B, W, d)
    scores = attention.split(attention.query_row(content + x)) @ attention.split(key).transpose(-2, -1) / 4
    scores = scores.masked_fill(grid.masks()[0][:, None, None, 0], float("-inf"))
    assert (scores.softmax(-1) - trace[""].row_weights).abs().max() < 1e-5


@torch.no_grad()
def test_a_point_on_a_cell_has_the_cell_s_address() -> None:
    """Queries and cells are addressed by one network, which starts from DETR's sine code at the cell's centre."""
    model = every.shaken(AnchorDetr(PLAIN))
    images = torch.randn(1, 3, 96, 128)
    _, grid = model.tokenize(images, torch.zeros(1, 96, 128, dtype=torch.bool))
    points = torch.tensor([[0.5 / 8, 0.5 / 6], [3.5 / 8, 2.5 / 6], [7.5 / 8, 5.5 / 6]])
    assert (model.grid_position.point(points) - grid.position[0, [0, 19, 47]]).abs().max() < 1e-5
    sines = SineGrid(64, half_cell=True)(torch.zeros(1, 6, 8, dtype=torch.bool)).flatten(1, 2)  # (1, HW, d)
    assert (model.grid_position.points(sines) - grid.position).abs().max() < 1e-4


@torch.no_grad()
def test_rows_and_columns_are_addressed_by_one_network(model: AnchorDetr) -> None:
    """A row half-way down has the address of a column half-way across, and of a query there."""
    _, grid = model.tokenize(torch.randn(1, 3, 112, 144), torch.zeros(1, 112, 144, dtype=torch.bool))
    rows, columns = grid.position[0].split([7, 9])
    half = model.grid_position.line(torch.tensor(0.5))
    assert torch.allclose(rows[3], half, atol=1e-5) and torch.allclose(columns[4], half, atol=1e-5)


@torch.no_grad()
def test_a_padded_image_has_the_addresses_of_the_image_alone() -> None:
    """Centres count the image's own cells."""
    model, (images, mask) = every.shaken(AnchorDetr(TINY)), every.padded_batch()
    _, grid = model.tokenize(images, mask)
    _, alone = model.tokenize(images[1:, :, :64, :96], mask[1:, :64, :96])
    rows, columns = grid.position[1].split([6, 8])
    assert (rows[:4] - alone.position[0, :4]).abs().max() < 1e-5
    assert (columns[:6] - alone.position[0, 4:]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("recipe", [TINY, PLAIN], ids=["rcda", "plain"])
def test_patterns_that_are_alike_repeat_the_queries(recipe: AnchorModel) -> None:
    """Three equal patterns: every point three times, pattern by pattern, with one and the same answer."""
    once, thrice = every.shaken(AnchorDetr(recipe)), AnchorDetr(replace(recipe, patterns=3)).eval()
    state = once.state_dict()
    thrice.load_state_dict(state | {"decoder.patterns.weight": state["decoder.patterns.weight"].repeat(3, 1)})
    batch = every.padded_batch()
    one, three = once(*batch), thrice(*batch)
    assert three.logits.shape[2] == 27
    assert (three.logits - one.logits.repeat(1, 1, 3, 1)).abs().max() < 1e-5
    assert (three.boxes - one.boxes.repeat(1, 1, 3, 1)).abs().max() < 1e-5
    thrice.decoder.patterns.weight[2] += 1
    content = thrice.decoder.init_queries(torch.zeros(1, 1, 64), once.tokenize(*batch)[1]).content  # (1, 27, d)
    changed = content - once.decoder.patterns.weight
    assert changed[0, :18].abs().max() < 1e-5 and (changed[0, 18:] - 1).abs().max() < 1e-5


@torch.no_grad()
def test_boxes_are_relative_to_the_point(model: AnchorDetr) -> None:
    """A box head that says nothing gives boxes centred on the points; a point beyond the image is clamped there."""
    decoder = model.decoder
    nn.init.zeros_(decoder.box_head.layers[-1].weight)
    nn.init.zeros_(decoder.box_head.layers[-1].bias)
    decoder.points.weight[0] = torch.tensor([1.2, 0.4])
    trace = every.tracing_changes_nothing(model)
    boxes, points = model(*every.padded_batch()).boxes, decoder.points.weight
    assert torch.equal(trace["decoder"].reference, points.expand(3, 2, -1, -1))
    assert (boxes[..., :2] - inverse_sigmoid(points).sigmoid()).abs().max() < 1e-5
    assert (boxes[:, :, 1:, :2] - points[1:].clamp(0, 1)).abs().max() < 1e-4 and boxes[0, 0, 0, 0] > 0.999


def test_plain_attention_is_detr_s() -> None:
    """Without row-column attention every attention is the base's, and the network for lines is not trained."""
    plain, decoupled = AnchorDetr(PLAIN), AnchorDetr(TINY)
    for layer in (*plain.encoder.layers, *plain.decoder.layers):
        assert type(getattr(layer, "cross_attention", layer.self_attention)) is MultiHeadAttention
    assert type(decoupled.encoder.layers[0].self_attention) is RowColumnAttention
    assert not any(p.requires_grad for p in plain.grid_position.lines.parameters())
    assert all(p.requires_grad for p in decoupled.grid_position.lines.parameters())


# -- what every variant must pass -----------------------------------------------------------------------------


@forms
def test_trace(recipe: AnchorModel) -> None:
    model = every.shaken(AnchorDetr(recipe))
    trace, queries = every.tracing_changes_nothing(model), 9 * recipe.patterns
    hidden = trace[""].padding_mask  # (B, HW)
    every.weights_sum_to_one(trace, [f"decoder.layers.{layer}.self_attention" for layer in range(3)])
    for name, asking in (("encoder.layers.1.self_attention", 48), ("decoder.layers.2.cross_attention", queries)):
        drawn = trace.maps(name)
        assert drawn.shape == (2, 4, asking, 6, 8)
        assert torch.allclose(drawn.sum((-2, -1)), torch.ones(()), atol=1e-5)
        assert hidden.any() and drawn.flatten(-2).transpose(1, 3)[hidden].abs().max() == 0
        if recipe.decoupled:
            assert trace[name].row_weights.shape == (2, 4, asking, 8)
            assert trace[name].column_weights.shape == (2, 4, asking, 6)
    assert trace["decoder"].reference.shape == (3, 2, queries, 2)
    assert trace["decoder"].position.shape == (3, 2, queries, 64)


def test_padding_of_plain_attention() -> None:
    model = every.shaken(AnchorDetr(PLAIN))
    every.encoder_ignores_padding(model)
    every.decoder_ignores_padding(model)


@torch.no_grad()
def test_padding_enters_row_column_attention_by_the_means_only(model: AnchorDetr) -> None:
    """Padded cells get no weight. But the means that are compared with take them in, as in the authors' code: with
    keys that do not look at memory, nothing under the mask matters."""
    tokens, other, grid = every.overwritten_padding(model)
    attention = model.decoder.layers[0].cross_attention
    asking = torch.randn(3, 2, 9, 64)
    before = [attention(*asking, memory, grid) for memory in (tokens, other)]
    assert (before[0] - before[1])[0].abs().max() < 1e-5 < (before[0] - before[1])[1].abs().max()
    for key in (attention.key_row, attention.key_column):
        nn.init.zeros_(key.weight)
    after = [attention(*asking, memory, grid) for memory in (tokens, other)]
    assert (after[0] - after[1]).abs().max() < 1e-5


@forms
def test_gradients(recipe: AnchorModel) -> None:
    """With one pattern all queries start with the same content: then it does not matter who attends to whom at first,
    and the values' weights still learn, because that content is not 0. Biases of keys do not, as everywhere: a constant
    in all scores of a query is lost in its softmax."""
    model = AnchorDetr(recipe)
    for network in (model.grid_position.points, model.grid_position.lines):
        network.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    first = {name for name in every.FIRST_MEETING if "position" not in name and "value" not in name}
    biases = {name for name, _ in model.named_parameters() if name.endswith(("key_row.bias", "key_column.bias"))}
    every.gradients_reach(model, biases | (first if recipe.patterns == 1 else set()))


def test_scenes_run() -> None:
    every.learns(AnchorDetr(zoo.recipe("anchor").model))
    every.learns(AnchorDetr(replace(zoo.recipe("anchor").model, patterns=3, decoupled=False)))


def official_count(golden: str) -> int:
    """Parameters of an official checkpoint: shared tensors once, without what belongs to frozen BatchNorm."""
    keys = json.loads((every.GOLDEN / f"{golden}.keys.json").read_text())
    norm = re.compile(r"backbone.*(bn\d|downsample\.1)\.")
    names = [name for name in keys["keys"] if name not in keys["canonical_of"] and not norm.search(name)]
    return sum(math.prod(keys["keys"][name]) for name in names)


def test_parameters() -> None:
    recipe = zoo.recipe("anchor", "coco").model
    count, base = every.parameters(AnchorDetr, recipe), every.parameters(Detr, zoo.recipe("detr", "coco").model)
    assert count == 37_038_711 and every.card_says(anchor.__doc__) == count - base
    assert every.parameters(AnchorDetr, replace(recipe, decoupled=False)) == official_count("anchor_detr-mha")
    assert official_count("anchor_detr-rcda") == count


@forms
def test_saving(recipe: AnchorModel, tmp_path: Path) -> None:
    every.survives_saving(every.shaken(AnchorDetr(recipe)), tmp_path)


@pytest.mark.parametrize(("decoupled", "golden"), [(True, "anchor_detr-rcda"), (False, "anchor_detr-mha")])
def test_official_names(decoupled: bool, golden: str) -> None:
    """An official state dict loads exactly; one that does not fit is refused by name, also one of the other form."""
    recipe = replace(TINY, backbone="resnet50", decoupled=decoupled)
    model, blank = AnchorDetr(recipe), AnchorDetr(recipe)
    state = checkpoints.to_official("anchor", model.state_dict(), every.official_names(golden))
    assert "transformer.encoder_layers.0.self_attn.in_proj_weight" in state
    checkpoints.load_official(blank, {f"module.{name}": tensor for name, tensor in state.items()})
    assert all(torch.equal(tensor, blank.state_dict()[name]) for name, tensor in model.state_dict().items())
    lost = "transformer.encoder_layers.0.norm1.weight"
    rest = {name: tensor for name, tensor in state.items() if name != lost}
    every.refused(model, rest, "missing", "encoder.layers.0.norm1.weight")
    every.refused(model, state | {"transformer.extra": torch.ones(1)}, "unexpected", "transformer.extra")
    every.refused(model, {"transformer.decoder.layers.0.multihead_attn.in_proj_bias": torch.ones(96)},
                  "a checkpoint of detr", "the model is anchor")
    twin = AnchorDetr(replace(recipe, decoupled=not decoupled))
    every.refused(twin, state, "does not fit the model: ", "wrong shape", "encoder.layers.0.self_attention")
