"""Deformable DETR: what it reduces to, its four modes, and what every variant must pass."""

from dataclasses import replace
from pathlib import Path

import every
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detr_mini import checkpoints, zoo
from detr_mini.attention import MultiHeadAttention
from detr_mini.boxes import inverse_sigmoid
from detr_mini.detr import Detr
from detr_mini.losses import SetCriterion
from detr_mini.positions import Grid
from detr_mini.recipes import DeformableModel
from detr_mini.sampling import sample
from detr_mini.variants import deformable
from detr_mini.variants.deformable import DeformableDetr
from detr_mini.variants.deformable_attention import DeformableAttention, token_centres
from detr_mini.variants.first_stage import cell_boxes

TINY = DeformableModel(**every.TINY)
SINGLE = replace(TINY, levels=1)
REFINE = replace(TINY, refine=True)
TWO_STAGE = replace(REFINE, two_stage=True)
MODES = {"single": SINGLE, "multi": TINY, "refine": REFINE, "two-stage": TWO_STAGE}
modes = pytest.mark.parametrize("recipe", MODES.values(), ids=MODES)


def plain_grid(*shapes: tuple[int, int], batch: int = 2) -> Grid:
    """A grid without padding and without addresses."""
    tokens = sum(height * width for height, width in shapes)
    return Grid(torch.zeros(batch, tokens, 32), torch.zeros(batch, tokens, dtype=torch.bool), list(shapes))


def identity(*modules: torch.nn.Linear) -> None:
    """Make linear layers pass on what they get."""
    for module in modules:
        torch.nn.init.eye_(module.weight)
        torch.nn.init.zeros_(module.bias)


# -- identities ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_one_point_without_offset_is_bilinear_sampling_at_the_reference() -> None:
    attention, grid = DeformableAttention(32, 4, levels=1, points=1), plain_grid((5, 7))
    attention.offsets.bias.zero_()
    identity(attention.value, attention.output)
    memory, reference = torch.randn(2, 35, 32), torch.rand(2, 9, 2)
    maps = memory.transpose(1, 2).unflatten(-1, (5, 7))  # (B, d, H, W)
    wanted = F.grid_sample(maps, reference[:, None] * 2 - 1, align_corners=False)[:, :, 0].transpose(1, 2)  # (B, Q, d)
    found = attention(torch.randn(2, 9, 32), reference, memory, grid)
    assert (found - wanted).abs().max() < 1e-5 < wanted.abs().max()


@torch.no_grad()
def test_points_on_every_cell_with_dense_weights_are_dense_attention() -> None:
    dense, grid = MultiHeadAttention(32, 4), plain_grid((5, 7))
    query, memory = torch.randn(2, 9, 32), torch.randn(2, 35, 32)
    trace = every.AttentionTrace(dense)
    with trace:
        wanted = dense(query, memory, memory)
    weights, value = trace[""].weights, trace[""].value  # (B, heads, Q, HW), (B, heads, HW, d/heads)
    cells = token_centres(grid)[:, None, None, None].expand(-1, 9, 4, -1, -1, -1)  # (B, Q, heads, 1, HW, 2)
    sampled = sample(value.transpose(1, 2), grid.shapes, cells, weights.transpose(1, 2).unsqueeze(3))
    assert (dense.output(sampled) - wanted).abs().max() < 1e-5 < wanted.abs().max()


@torch.no_grad()
def test_what_lies_outside_the_map_is_zero() -> None:
    """Far away only the output's bias is left; half a cell beyond the border, half of the border cell."""
    attention, grid = DeformableAttention(32, 4, levels=1, points=1), plain_grid((4, 4))
    attention.offsets.bias.zero_()
    identity(attention.value, attention.output)
    places = torch.tensor([[3.0, 0.5], [-2.0, 0.5], [0.0, 0.625], [0.125, 0.625]]).expand(2, -1, -1)
    memory = torch.randn(2, 16, 32)
    found = attention(torch.zeros(2, 4, 32), places, memory, grid)
    assert found[:, :2].abs().max() == 0
    assert (found[:, 2] - found[:, 3] / 2).abs().max() < 1e-5 and (found[:, 3] - memory[:, 8]).abs().max() < 1e-5


@torch.no_grad()
def test_offsets_count_cells_from_a_point_and_half_sides_from_a_box() -> None:
    """At first head m's point k lies k cells in direction m; from a box, the last point lies on its border."""
    attention, grid = DeformableAttention(32, 8, levels=2, points=4), plain_grid((4, 8), (2, 4))
    point, box = torch.tensor([0.5, 0.25]), torch.tensor([0.5, 0.25, 0.2, 0.4])
    around = [attention.locate(torch.zeros(2, 1, 32), place.expand(2, 1, -1), grid)[0, 0] for place in (point, box)]
    cells = (around[0] - point) * torch.tensor([[8, 4], [4, 2]])[:, None]  # (heads, levels, points, 2)
    assert torch.allclose(cells[:, 0], cells[:, 1], atol=1e-5)
    assert torch.allclose(cells[:, 0, :, :].abs().amax(-1), torch.arange(1.0, 5).expand(8, -1), atol=1e-5)
    assert torch.allclose(cells[[0, 2, 4, 6], 0, 0], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), atol=1e-5)
    assert len({tuple(direction.sign().round().tolist()) for direction in cells[:, 0, 0].round(decimals=4)}) == 8
    sides = (around[1] - point) / (box[2:] / 2)
    assert torch.allclose(sides[:, 0, -1].abs().amax(-1), torch.ones(8), atol=1e-5)


@torch.no_grad()
def test_a_reference_is_a_place_in_the_image_and_not_in_the_padded_map() -> None:
    """Half of the map's width and height is padding: the image's middle is a quarter of the way across the map."""
    grid = plain_grid((4, 8))
    grid.padding_mask.view(2, 4, 8)[1, 2:] = grid.padding_mask.view(2, 4, 8)[1, :, 4:] = True
    attention = DeformableAttention(32, 4, levels=1, points=1)
    attention.offsets.bias.zero_()
    where = attention.locate(torch.zeros(2, 1, 32), torch.full((2, 1, 2), 0.5), grid)[:, 0, 0, 0, 0]
    assert torch.allclose(where, torch.tensor([[0.5, 0.5], [0.25, 0.25]]))
    assert torch.allclose(token_centres(grid)[1, 0], torch.tensor([0.125, 0.25]))


# -- modes ----------------------------------------------------------------------------------------------------


def test_levels() -> None:
    """One level is C5; three are C3 to C5; the fourth halves C5, and a fifth the fourth."""
    images = torch.randn(1, 3, 96, 128)
    for levels, first in ((1, 16), (2, 8), (3, 4), (4, 4), (5, 4)):
        maps = DeformableDetr(replace(TINY, levels=levels)).feature_maps(images)
        strides = [first * 2**level for level in range(levels)]
        assert [tuple(m.shape) for m in maps] == [(1, 32, -(-96 // s), 128 // s) for s in strides]


@torch.no_grad()
def test_a_token_knows_its_level() -> None:
    model = every.shaken(DeformableDetr(TINY))
    tokens, grid = model.tokenize(*every.padded_batch())
    model.level_embed.zero_()
    _, without = model.tokenize(*every.padded_batch())
    added = (grid.position - without.position)[0].split([h * w for h, w in grid.shapes])
    assert len(added) == 4 and all((part - part[0]).abs().max() < 1e-5 for part in added)
    assert min((a[0] - b[0]).abs().max() for a, b in zip(added, added[1:], strict=False)) > 0.1


def test_without_refinement_nothing_moves() -> None:
    model = every.shaken(DeformableDetr(TINY))
    reference = every.tracing_changes_nothing(model)["decoder"].reference
    assert reference.shape == (3, 2, 9, 2) and (reference == reference[:1]).all()
    assert len(model.decoder.class_head) == len(model.decoder.box_head) == 1


def test_refinement_goes_on_from_the_box_before_without_gradient() -> None:
    model = every.shaken(DeformableDetr(REFINE))
    trace = every.tracing_changes_nothing(model)
    reference, content = trace["decoder"].reference, trace["decoder"].content
    assert (reference[0, ..., 2:] == 0).all()  # a point first, boxes later
    with torch.no_grad():
        logit = F.pad(inverse_sigmoid(reference[0, ..., :2]), (0, 2))
        first = (model.decoder.box_head[0](content[0]) + logit).sigmoid()
        second = (model.decoder.box_head[1](content[1]) + inverse_sigmoid(first)).sigmoid()
    assert (reference[1] - first).abs().max() < 1e-5 and (reference[2] - second).abs().max() < 1e-5
    decoder, queries = model.decoder, model.decoder.init_queries(torch.randn(1, 1, 32), plain_grid((1, 1)))
    assert queries.reference.requires_grad
    assert not decoder.update_reference(decoder.layers[0], queries).requires_grad


def test_at_first_boxes_are_small_and_refinement_keeps_them() -> None:
    for recipe, wanted in ((TINY, [0.12] * 3), (REFINE, [0.12] * 3), (TWO_STAGE, None)):
        output = DeformableDetr(recipe).eval()(*every.padded_batch())
        if wanted:
            assert torch.allclose(output.boxes[..., 2:].mean((1, 2, 3)), torch.tensor(wanted), atol=0.01)
        else:
            assert torch.allclose(output.boxes, output.boxes[:1].expand_as(output.boxes), atol=1e-5)


# -- two stages -------------------------------------------------------------------------------------------------


def test_proposals() -> None:
    """The tokens with the best class 0 become references, best first; padding cannot propose."""
    model = every.shaken(DeformableDetr(TWO_STAGE))
    with torch.no_grad(), every.AttentionTrace(model) as trace:
        proposals = model(*every.padded_batch()).proposals
    chosen, usable = trace["decoder.first_stage"].chosen, trace["decoder.first_stage"].usable
    hidden, scores = trace[""].padding_mask, proposals.logits[0, ..., 0]  # (B, HW)
    assert proposals.logits.shape == (1, *hidden.shape, 6) and proposals.boxes.shape == (1, *hidden.shape, 4)
    assert hidden.any() and not (usable & hidden).any() and (usable | hidden).all()
    assert torch.equal(scores.gather(1, chosen), scores.topk(9, dim=1).values)
    boxes = proposals.boxes[0].gather(1, chosen[..., None].expand(-1, -1, 4))
    assert (trace["decoder"].reference[0] - boxes).abs().max() < 1e-5


@torch.no_grad()
def test_a_token_proposes_a_box_around_itself() -> None:
    """Before training every proposal is the token's own: centred, 0.05 wide on level 0, twice that on each next."""
    model = DeformableDetr(TWO_STAGE).eval()
    output = model(torch.randn(1, 3, 96, 128))
    boxes, sizes = output.proposals.boxes[0, 0], [24 * 32, 12 * 16, 6 * 8, 3 * 4]
    for level, part in enumerate(boxes.split(sizes)):
        inside = (part < 1).all(-1)
        assert torch.allclose(part[inside][:, 2:], torch.tensor(0.05 * 2**level), atol=1e-5) and inside.any()
    assert torch.allclose(boxes[35], torch.tensor([3.5 / 32, 1.5 / 24, 0.05, 0.05]), atol=1e-5)


def test_cells_at_the_rim_do_not_propose() -> None:
    """On a map of 60 x 80 cells the outermost have their centres less than a hundredth from the border."""
    boxes, usable = cell_boxes(plain_grid((60, 80)))
    inside = usable[0].view(60, 80)
    assert inside[1:-1, 1:-1].all() and not (inside[0].any() or inside[:, 0].any() or inside[-1].any())
    assert boxes[usable].isfinite().all() and boxes[~usable].isinf().all()


def test_proposals_are_trained_as_class_0() -> None:
    """The proposals' losses do not know the labels, the layers' do; proposals get gradient from their own loss only."""
    model, targets = every.shaken(DeformableDetr(TWO_STAGE)), every.targets()
    criterion, batch = SetCriterion(zoo.recipe("deformable").loss, 6, "focal"), every.padded_batch()
    output = model(*batch)
    losses = criterion(output, targets)
    relabelled = criterion(output, [target | {"labels": 5 - target["labels"]} for target in targets])
    names = ("loss_ce_enc", "loss_bbox_enc", "loss_giou_enc", "cardinality_error_enc")
    assert all(losses[name] == relabelled[name] for name in names) and losses["loss_ce"] != relabelled["loss_ce"]
    assert criterion.proposal_matches.layer.unique().tolist() == [0] and len(criterion.proposal_matches.query) == 4
    from_layers = sum(value for name, value in losses.items() if name.startswith("loss") and "_enc" not in name)
    heads = [model.decoder.class_head[-1].weight, model.decoder.box_head[-1].layers[0].weight]
    assert torch.autograd.grad(from_layers, heads, retain_graph=True, allow_unused=True) == (None, None)
    weights = dict(criterion.weighted(losses, {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}))
    assert weights["loss_ce_enc"] == 2.0 and weights["loss_bbox_enc"] == 5.0
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(losses["loss_ce_enc"], heads[:1]))


def test_fewer_tokens_than_queries() -> None:
    model = DeformableDetr(replace(TWO_STAGE, levels=1, queries=49))
    with pytest.raises(ValueError, match="cannot choose 49 queries from 48 tokens: use larger images, more levels or"):
        model(*every.padded_batch())


def test_two_stages_refine() -> None:
    with pytest.raises(ValueError, match="set refine=True as well"):
        DeformableDetr(replace(TINY, two_stage=True))
    with pytest.raises(ValueError, match="cannot be split among 5 heads"):
        DeformableAttention(32, 5, 1, 1)


# -- what every variant must pass -----------------------------------------------------------------------------


def mass(trace: every.AttentionTrace, name: str) -> Tensor:
    """The mass of a record's maps over all levels, (B, heads, Q)."""
    return sum(trace.maps(name, level).sum((-2, -1)) for level in range(len(trace[""].shapes)))


@modes
def test_trace(recipe: DeformableModel) -> None:
    model = every.shaken(DeformableDetr(recipe))
    trace = every.tracing_changes_nothing(model)
    shapes, tokens = trace[""].shapes, trace[""].padding_mask.shape[1]
    for name, queries in (("encoder.layers.1.self_attention", tokens), ("decoder.layers.2.cross_attention", 9)):
        record = trace[name]
        assert record.locations.shape == (2, queries, 4, recipe.levels, 4, 2)
        assert torch.allclose(record.weights.sum((-2, -1)), torch.ones(()), atol=1e-5)
        hidden = trace[""].padding_mask.split([h * w for h, w in shapes], dim=1)
        for level, (height, width) in enumerate(shapes):
            drawn = trace.maps(name, level)
            assert drawn.shape == (2, 4, queries, height, width)
            assert drawn.flatten(-2).transpose(1, 3)[hidden[level]].abs().sum() == 0
        assert (mass(trace, name) < 1 + 1e-5).all()
    every.weights_sum_to_one(trace, [f"decoder.layers.{layer}.self_attention" for layer in range(3)])
    assert trace["decoder"].reference.shape == (3, 2, 9, 4 if recipe.refine else 2)


@torch.no_grad()
def test_the_drawn_mass_is_the_weights_mass() -> None:
    """References in the middle, offsets of a cell at most: all four maps together have mass 1."""
    model = DeformableDetr(replace(TINY, points=1)).eval()
    model.decoder.reference_head.weight.mul_(0.01)
    with every.AttentionTrace(model) as trace:
        model(torch.randn(1, 3, 256, 256))
    assert (mass(trace, "decoder.layers.1.cross_attention") - 1).abs().max() < 1e-5


@modes
def test_padding(recipe: DeformableModel) -> None:
    model = every.shaken(DeformableDetr(recipe))
    every.encoder_ignores_padding(model)
    every.decoder_ignores_padding(model)


@modes
def test_gradients(recipe: DeformableModel) -> None:
    """Width 64: with 32 channels in 32 groups, GroupNorm would take away the biases before it."""
    every.gradients_reach(DeformableDetr(replace(recipe, d_model=64)), set())


def test_scenes_run() -> None:
    every.learns(DeformableDetr(zoo.recipe("deformable").model))
    every.learns(DeformableDetr(replace(zoo.recipe("deformable").model, levels=4, two_stage=True)))


COUNTS = {"single": 34_066_593, "multi": 40_069_665, "refine": 40_849_660, "two-stage": 41_181_529}
FIELDS = {"single": {"levels": 1}, "multi": {}, "refine": {"refine": True},
          "two-stage": {"refine": True, "two_stage": True}}


@pytest.mark.parametrize("mode", COUNTS)
def test_parameters(mode: str) -> None:
    recipe = replace(zoo.recipe("deformable", "coco").model, **FIELDS[mode])
    count = every.parameters(DeformableDetr, recipe)
    assert count == COUNTS[mode]
    base = every.parameters(Detr, zoo.recipe("detr", "coco").model)
    assert f"{count - base:,}" in deformable.__doc__
    if mode == "multi":
        assert every.card_says(deformable.__doc__) == count - base


@modes
def test_saving(recipe: DeformableModel, tmp_path: Path) -> None:
    every.survives_saving(every.shaken(DeformableDetr(recipe)), tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_official_names(mode: str) -> None:
    recipe = replace(MODES[mode], backbone="resnet50")
    golden = f"deformable_detr-{mode.replace('-', '')}"
    every.official_names_are_checked(DeformableDetr(recipe), DeformableDetr(recipe), golden)


def test_a_checkpoint_of_another_mode_is_refused() -> None:
    """A refined model's layers have heads of their own: they do not fit into one head."""
    refined = every.shaken(DeformableDetr(replace(REFINE, backbone="resnet50")))
    state = checkpoints.to_official("deformable", refined.state_dict(), every.official_names("deformable_detr-refine"))
    shared = DeformableDetr(replace(TINY, backbone="resnet50"))
    every.refused(shared, state, "class_embed.1", "decoder.class_head.0", "options that the checkpoint was trained")
    single = DeformableDetr(replace(SINGLE, backbone="resnet50"))
    state = checkpoints.to_official("deformable", shared.state_dict(), every.official_names("deformable_detr-multi"))
    every.refused(single, state, "unexpected", "input_proj.1.0.weight", "level_embed (4, 32) instead of (1, 32)")
