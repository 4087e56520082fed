"""SMCA: what it reduces to, its multi-scale form, and what every variant must pass."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import every
import pytest
import torch
from torch import Tensor, nn

from detr_mini import checkpoints, zoo
from detr_mini.attention import attention_weights
from detr_mini.decoder import DetectorOutput, Queries
from detr_mini.detr import Detr
from detr_mini.positions import Grid
from detr_mini.recipes import SMCA_MULTI_COCO, ModelRecipe, SmcaModel
from detr_mini.variants import smca
from detr_mini.variants.co_attention import CoAttention, MultiScaleCoAttention, log_gaussian
from detr_mini.variants.smca import SmcaDetr

TINY = SmcaModel(**every.TINY, spare_logit=False)
MULTI = replace(TINY, levels=3, encoder_layers=3)
forms = pytest.mark.parametrize("recipe", [TINY, MULTI], ids=["single", "multi"])


@pytest.fixture
def model() -> SmcaDetr:
    return every.shaken(SmcaDetr(TINY))


def zero(module: nn.Module) -> None:
    """Make a module say 0, whatever goes in."""
    last = module.layers[-1] if hasattr(module, "layers") else module
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


# -- identities ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_with_a_flat_gaussian_it_is_detr(model: SmcaDetr) -> None:
    """Scale 0 is a Gaussian without end; with the centre in the middle, the whole detector is DETR."""
    for layer in model.decoder.layers:
        zero(layer.cross_attention.prior.scale)
    zero(model.decoder.centre_head)
    plain, ours = Detr(ModelRecipe(**every.TINY)).eval(), model.state_dict()
    plain.load_state_dict({name: ours[name] for name in plain.state_dict()})
    batch = every.padded_batch()
    assert every.difference(model(*batch), plain(*batch)) < 1e-5
    model.decoder.layers[1].cross_attention.prior.scale.bias.fill_(1)
    assert every.difference(model(*batch), plain(*batch)) > 1e-4


def test_the_gaussian() -> None:
    """log G falls by s^2 d^2 / 8, along each axis by itself; cell 0 is at 0."""
    place, scale = torch.tensor([2.0, 1.0]).view(1, 1, 1, 2), torch.tensor([1.0, -2.0]).view(1, 1, 1, 2)
    drawn = log_gaussian(place, scale, (3, 5))[0, 0, 0].view(3, 5)
    assert drawn[1].tolist() == [-4 / 8, -1 / 8, 0, -1 / 8, -4 / 8]
    assert drawn[:, 2].tolist() == [-4 / 8, 0, -4 / 8]
    assert drawn[0, 0].item() == -(4 + 4) / 8


@torch.no_grad()
def test_a_narrow_gaussian_looks_at_one_cell(model: SmcaDetr) -> None:
    """Whatever the contents say: all heads on the cell at the centre, counted in the image inside the padding."""
    for layer in model.decoder.layers:
        prior = layer.cross_attention.prior
        zero(prior.offset)
        zero(prior.scale)
        prior.scale.bias.fill_(40.0)
    zero(model.decoder.centre_head)
    model.decoder.centre_head.layers[-1].bias.copy_(torch.logit(torch.tensor([0.5, 0.25])))
    with every.AttentionTrace(model) as trace:
        model(*every.padded_batch())
    drawn = trace.maps("decoder.layers.2.cross_attention")  # (B, heads, Q, 6, 8); the second image has 4 x 6 cells
    assert torch.allclose(drawn[1, ..., 1, 3], torch.ones(()), atol=1e-5)
    assert torch.allclose(drawn[0, ..., 1:3, 4].sum(-1), torch.ones(()), atol=1e-5)


@torch.no_grad()
def test_the_offset_moves_a_head_by_cells(model: SmcaDetr) -> None:
    """Two cells to the right for all heads: the Gaussian is the one before, two cells further."""
    attention = model.decoder.layers[0].cross_attention
    seen = []
    for shift in (0.0, 2.0):
        attention.prior.offset.bias.view(4, 2)[:, 0] += shift
        with every.AttentionTrace(model) as trace:
            model(*every.padded_batch())
        seen.append(trace.as_map(trace["decoder.layers.0.cross_attention"].gaussian))  # (B, heads, Q, H, W)
    assert (seen[1][..., 2:] - seen[0][..., :-2]).abs().max() < 1e-4 < (seen[1] - seen[0]).abs().max()


@torch.no_grad()
def test_one_centre_for_all_layers_and_boxes(model: SmcaDetr) -> None:
    """The centre is made once; a box head that says nothing gives boxes around it, half the image wide."""
    trace = every.tracing_changes_nothing(model)
    reference = trace["decoder"].reference
    assert reference.shape == (3, 2, 9, 2) and (reference == reference[:1]).all() and reference.std() > 0.05
    zero(model.decoder.box_head)
    boxes = model(*every.padded_batch()).boxes
    assert (boxes[..., :2] - reference).abs().max() < 1e-5 and (boxes[..., 2:] - 0.5).abs().max() < 1e-5


def test_the_prior_is_made_before_the_queries_meet(model: SmcaDetr) -> None:
    """Gaussians depend on what a query held as it entered: here the same whether or not the queries have met."""
    attention, grid = model.decoder.layers[1].cross_attention, model.tokenize(*every.padded_batch())[1]
    (content, met, learned), memory, seen = torch.randn(3, 2, 9, 32), torch.randn(2, 48, 32), []
    for now in (content, met):
        queries = Queries(now, learned, position=learned, reference=torch.full((2, 9, 2), 0.3), entering=content)
        with every.AttentionTrace(attention) as trace:
            attention(queries, memory, grid)
        seen.append(trace[""])
    assert torch.equal(seen[0].gaussian, seen[1].gaussian) and not torch.equal(seen[0].weights, seen[1].weights)


@torch.no_grad()
def test_the_spare_logit_is_never_an_answer() -> None:
    """92 logits for 91 classes in the authors' code: it is trained as a negative and never reported."""
    model = every.shaken(SmcaDetr(replace(TINY, spare_logit=True)))
    output = model(*every.padded_batch())
    assert output.logits.shape == (3, 2, 9, 7) and model.recipe.classes == 6
    loud = DetectorOutput(output.logits.clone(), output.boxes)
    loud.logits[..., 6] = 50.0
    answers = model.postprocess(loud, torch.tensor([[96, 128], [64, 96]]), top_k=20)
    assert all(answer["labels"].max() < 6 and answer["scores"].max() < 1 for answer in answers)
    assert zoo.recipe("smca", "coco").model.spare_logit and not zoo.recipe("smca", "scenes").model.spare_logit


# -- several scales -----------------------------------------------------------------------------------------------


def three_maps() -> tuple[Queries, Tensor, Grid]:
    """Queries, memory and grid of three maps of one image."""
    shapes = [(4, 6), (2, 3), (1, 2)]
    tokens = sum(height * width for height, width in shapes)
    learned, content = torch.randn(1, 9, 32), torch.randn(1, 9, 32)
    queries = Queries(content, learned, position=learned, reference=torch.rand(1, 9, 2), entering=content)
    return queries, torch.randn(1, tokens, 32), Grid(torch.randn(1, tokens, 32), torch.zeros(1, tokens).bool(), shapes)


@torch.no_grad()
def test_levels_are_averaged_by_the_query_s_own_weights() -> None:
    """The output is sum_j alpha_j of single-scale co-attention on map j, before the output projection."""
    attention, (queries, memory, grid) = every.shaken(MultiScaleCoAttention(MULTI)), three_maps()
    with every.AttentionTrace(attention) as trace:
        found = attention(queries, memory, grid)
    alpha, sizes = trace[""].levels, [24, 6, 2]
    assert torch.allclose(alpha.sum(-1), torch.ones(1, 9)) and alpha.std() > 0.01
    parts = zip(*(x.split(sizes, 1) for x in (memory, grid.position, grid.padding_mask)), grid.shapes, strict=True)
    total = torch.zeros(1, 9, 32)
    for level, (tokens, position, hidden, shape) in enumerate(parts):
        single = CoAttention(TINY).eval()
        single.norm, single.query, single.prior = attention.norm, attention.query, attention.prior[level]
        single.key, single.value = attention.key[level], attention.value[level]
        nn.init.eye_(single.output.weight)
        total += alpha[..., level, None] * single(queries, tokens, Grid(position, hidden, [shape]))
    assert (attention.output(total) - found).abs().max() < 1e-5 < found.abs().max()


@torch.no_grad()
def test_one_centre_on_all_scales() -> None:
    """Each map's Gaussian peaks at the same place of the image."""
    attention, (queries, memory, grid) = MultiScaleCoAttention(MULTI), three_maps()
    for prior in attention.prior:
        zero(prior.offset)
    queries.reference.copy_(torch.tensor([0.5, 0.5]))
    with every.AttentionTrace(attention) as trace:
        attention(queries, memory, grid)
    fine, middle, _ = trace[""].gaussian[0, 0, 0].split([24, 6, 2])
    assert fine.view(4, 6).argmax() == 2 * 6 + 3 and middle.view(2, 3)[1, 1:].max() == middle.max()


@torch.no_grad()
def test_within_the_maps_and_once_across_them() -> None:
    """Only in the middle layer a token hears of other maps; the others treat every map alone, with the same weights."""
    model = every.shaken(SmcaDetr(MULTI))
    tokens, grid = model.tokenize(*every.padded_batch())
    sizes = [h * w for h, w in grid.shapes]
    other = tokens.clone()
    other[:, sizes[0]:] += 1  # the two coarser maps change
    for index, layer in enumerate(model.encoder.layers):
        first, second = (model.encoder.encoder_attend(layer, x, grid)[:, :sizes[0]] for x in (tokens, other))
        assert bool((first - second).abs().max() < 1e-5) == (index != 1)
    alone = Grid(grid.position[:, :sizes[0]], grid.padding_mask[:, :sizes[0]], grid.shapes[:1])
    layer = model.encoder.layers[0]
    wanted = layer.self_attention(*[tokens[:, :sizes[0]]] * 3, alone.position, alone.position, written_mask(alone))
    assert (model.encoder.encoder_attend(layer, tokens, grid)[:, :sizes[0]] - wanted).abs().max() < 1e-5


def written_mask(grid: Grid) -> Tensor:
    """The padding mask as -inf, written out once more."""
    return torch.where(grid.padding_mask, -math.inf, 0.0)[:, None, None]  # (B, 1, 1, HW)


def test_scales_of_the_multi_scale_form() -> None:
    """Strides 8, 16 and 32 of the small backbone (16, 32, 64 of ResNet-50), five encoder layers for COCO."""
    maps = SmcaDetr(MULTI).feature_maps(torch.randn(1, 3, 96, 128))
    assert [tuple(m.shape[-2:]) for m in maps] == [(12, 16), (6, 8), (3, 4)]
    assert SMCA_MULTI_COCO.model.levels == 3 and SMCA_MULTI_COCO.model.encoder_layers == 5
    with torch.device("meta"):
        model = SmcaDetr(SMCA_MULTI_COCO.model)
    assert model.stages == (3, 4) and model.input_proj[2].weight.shape == (256, 2048, 3, 3)


# -- what every variant must pass -----------------------------------------------------------------------------


@forms
def test_trace(recipe: SmcaModel) -> None:
    model = every.shaken(SmcaDetr(recipe))
    trace = every.tracing_changes_nothing(model)
    every.weights_sum_to_one(trace, [name for name in trace.records if name.endswith("attention")])
    record, tokens = trace["decoder.layers.1.cross_attention"], trace[""].padding_mask.shape[1]
    assert record.gaussian.shape == (2, 4, 9, tokens) and record.gaussian.max() <= 0
    assert trace.as_map(record.gaussian, recipe.levels - 1).shape == (2, 4, 9, *trace[""].shapes[-1])
    prior = "decoder.layers.1.cross_attention.prior" + (".2" if recipe.levels > 1 else "")
    assert trace[prior].offset.shape == trace[prior].scale.shape == (2, 9, 4, 2)


@torch.no_grad()
def test_weights_are_the_softmax_of_scores_plus_gaussian(model: SmcaDetr) -> None:
    """The recorded Gaussian is the one that was used: take it out of the logarithm of the weights, and DETR is left."""
    attention, grid = model.decoder.layers[0].cross_attention, model.tokenize(*every.padded_batch())[1]
    queries, _, _ = three_maps()
    queries = replace(queries, reference=queries.reference.expand(2, -1, -1))
    memory = torch.randn(2, 48, 32)
    with every.AttentionTrace(attention) as trace:
        attention(queries, memory, grid)
    q, k = attention.query(queries.content + queries.position), attention.key(memory + grid.position)
    plain = attention_weights(attention.split(q), attention.split(k), written_mask(grid))
    tilted = plain * trace[""].gaussian.exp()
    assert (tilted / tilted.sum(-1, keepdim=True) - trace[""].weights).abs().max() < 1e-5


@forms
def test_padding(recipe: SmcaModel) -> None:
    model = every.shaken(SmcaDetr(recipe))
    every.encoder_ignores_padding(model)
    every.decoder_ignores_padding(model)


# DETR's self-attention has no projections of its own for positions.
FIRST_MEETING = {name for name in every.FIRST_MEETING if "position" not in name}
# The bias of one map's keys adds a constant to this map's scores, and its softmax does not see it.
MAP_BIASES = {f"decoder.layers.{layer}.cross_attention.key.{level}.bias" for layer in range(3) for level in range(3)}


@pytest.mark.parametrize(("recipe", "exceptions"), [(TINY, set()), (MULTI, MAP_BIASES)], ids=["single", "multi"])
def test_gradients(recipe: SmcaModel, exceptions: set[str]) -> None:
    every.gradients_reach(SmcaDetr(recipe), FIRST_MEETING | exceptions)


def test_scenes_run() -> None:
    every.learns(SmcaDetr(zoo.recipe("smca").model))
    every.learns(SmcaDetr(replace(zoo.recipe("smca").model, levels=3, encoder_layers=3)))


def test_parameters() -> None:
    """92 logits as the authors; without the spare one 91."""
    recipe = zoo.recipe("smca", "coco").model
    count, base = every.parameters(SmcaDetr, recipe), every.parameters(Detr, zoo.recipe("detr", "coco").model)
    assert count == 41_760_482 and every.card_says(smca.__doc__) == count - base
    assert every.parameters(SmcaDetr, replace(recipe, spare_logit=False)) == count - 257


@forms
def test_saving(recipe: SmcaModel, tmp_path: Path) -> None:
    every.survives_saving(every.shaken(SmcaDetr(recipe)), tmp_path)


def test_official_names() -> None:
    recipe = replace(TINY, backbone="resnet50")
    every.official_names_are_checked(SmcaDetr(recipe), SmcaDetr(recipe), "smca")
    multi = SmcaDetr(replace(MULTI, backbone="resnet50", encoder_layers=2))
    single = SmcaDetr(recipe)
    state = checkpoints.to_official("smca", single.state_dict(), every.official_names("smca"))
    every.refused(multi, state, "missing", "decoder.layers.0.cross_attention.select.weight", "unexpected")
    assert asdict(single.recipe)["levels"] == 1
