"""SAM-DETR: what it reduces to, and what every variant must pass."""

from dataclasses import asdict, replace
from pathlib import Path

import every
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini import zoo
from detr_mini.attention import padding_bias
from detr_mini.decoder import Decoder, DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.positions import MLP, Grid
from detr_mini.recipes import ModelRecipe, SamModel
from detr_mini.trace import splat
from detr_mini.variants import sam
from detr_mini.variants.sam import SamDecoder, SamDetr
from detr_mini.variants.sam_aligner import CROP, crop, gaussian, sample

TINY = SamModel(**every.TINY)


def sam_detr(**changes: object) -> SamDetr:
    """A tiny detector with noise on every parameter."""
    return every.shaken(SamDetr(replace(TINY, **changes)))


def open_grid(height: int, width: int, batch: int = 1) -> Grid:
    """A grid without padding."""
    hidden = torch.zeros(batch, height * width, dtype=torch.bool)
    return Grid(torch.zeros(batch, height * width, 32), hidden, [(height, width)])


# -- identities ---------------------------------------------------------------------------------------------


class KeptDecoder(SamDecoder):
    """SAM-DETR's decoder without resampling: the content asks itself."""

    def cross_attend(self, layer: DecoderLayer, queries: Queries, memory: Tensor, grid: Grid) -> Tensor:
        content, position = queries.content[:, None], queries.position[:, None]  # (B, 1, Q, d): one head
        hidden = padding_bias(grid.padding_mask)
        return layer.cross_attention(content, memory, memory, position, grid.position, hidden)


def multiply_by(mlp: MLP, matrix: Tensor) -> None:
    """Make a network of two layers multiply by `matrix` what lies between -2 and 2: its ReLU is kept in the open."""
    width = len(matrix)
    mlp.layers[0].weight.copy_(torch.eye(width))
    mlp.layers[0].bias.fill_(2.0)
    mlp.layers[1].weight.copy_(matrix)
    mlp.layers[1].bias.copy_(-2 * matrix.sum(1))


@torch.no_grad()
def test_without_resampling_it_is_the_base_decoder() -> None:
    """One head, content kept, projections of positions tied to the content's: the base decoder, whose learned
    addresses are the codes of the boxes' centres."""
    one_head = replace(TINY, heads=1)
    kept = every.shaken(KeptDecoder(one_head))
    base = Decoder(ModelRecipe(**(every.TINY | {"heads": 1}))).eval()
    for layer in kept.layers:
        for part in ("query", "key"):
            matrix = getattr(layer.self_attention, part).weight
            getattr(layer.self_attention, f"{part}_position").weight.copy_(matrix)
            getattr(layer.self_attention, f"{part}_position").bias.zero_()
            cross = layer.cross_attention
            multiply_by(getattr(cross, f"{part}_position"), getattr(cross, part).weight)
    for head in kept.box_head:
        nn.init.zeros_(head.layers[-1].weight), nn.init.zeros_(head.layers[-1].bias)  # boxes stay
        kept.class_head[0].load_state_dict(kept.class_head[1].state_dict())
    kept.class_head[2].load_state_dict(kept.class_head[1].state_dict())
    ours, theirs = kept.state_dict(), base.state_dict()
    shared = {name: tensor for name, tensor in ours.items() if name in theirs and tensor.shape == theirs[name].shape}
    base.load_state_dict(theirs | shared)
    base.class_head.load_state_dict(kept.class_head[1].state_dict())
    base.norm = nn.Identity()
    base.query_embed.weight.copy_(kept.code(kept.query_embed.weight.sigmoid()[:, :2]))
    tokens, mask = torch.randn(2, 24, 32), torch.zeros(2, 24, dtype=torch.bool)
    mask[1, 20:] = True
    grid = Grid(torch.rand(2, 24, 32) * 2 - 1, mask, [(4, 6)])
    assert (kept(tokens, grid).logits - base(tokens, grid).logits).abs().max() < 1e-5
    resampled = SamDecoder(one_head).eval()
    resampled.load_state_dict(kept.state_dict())
    assert (resampled(tokens, grid).logits - base(tokens, grid).logits).abs().max() > 1e-2


def test_resampling_is_bilinear_sampling_of_memory() -> None:
    """A box around a map of 7 x 7 cells is cut out as the map itself; sampling the cut samples the map."""
    memory, grid = torch.randn(1, CROP * CROP, 32), open_grid(CROP, CROP)
    box = torch.tensor([[[0.5, 0.5, 1.0, 1.0]]])
    maps = memory.transpose(1, 2).unflatten(-1, (CROP, CROP))  # (1, d, 7, 7)
    crops = crop(box, memory, grid)  # (1, 1, d, 7, 7)
    assert (crops[0] - maps).abs().max() < 1e-5
    offsets = torch.rand(1, 1, 5, 2) * 2 - 1
    direct = F.grid_sample(maps, offsets, align_corners=False)  # (1, d, 1, 5)
    assert (sample(crops, offsets)[0, 0] - direct[0, :, 0].T).abs().max() < 1e-5
    cells = (torch.arange(CROP) + 0.5) / CROP * 2 - 1
    centres = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), dim=-1).reshape(1, 1, -1, 2)
    assert (sample(crops, centres)[0, 0] - memory[0]).abs().max() < 1e-5


def test_cropping_has_two_ways_and_one_result() -> None:
    """RoIAlign itself, and RoIAlign's weights times memory: the same cuts and the same gradient, boxes over the edge
    included."""
    torch.manual_seed(0)
    grid, box = open_grid(4, 6, batch=2), torch.rand(2, 7, 4)
    results = []
    for width in (23, 24):  # 24 cells: more than channels, then as many
        torch.manual_seed(1)
        memory = torch.randn(2, 24, 24)[..., :width].requires_grad_()
        cut = crop(box, memory, grid)
        (cut * torch.arange(49).view(7, 7)).sum().backward()
        results.append((cut, memory.grad))
    assert results[0][0].shape == (2, 7, 23, 7, 7)
    assert (results[0][0] - results[1][0][:, :, :23]).abs().max() < 1e-5
    assert torch.allclose(results[0][1], results[1][1][..., :23], rtol=1e-4, atol=1e-3)


def test_boxes_count_from_the_image_not_from_the_padding() -> None:
    """The same box in an image alone and in the same image with padding cuts out the same features."""
    alone, grid = torch.randn(1, 12, 32), open_grid(3, 4)
    padded = torch.zeros(1, 5, 6, 32)
    padded[:, :3, :4] = alone.view(1, 3, 4, 32)
    hidden = torch.ones(1, 5, 6, dtype=torch.bool)
    hidden[:, :3, :4] = False
    box = torch.tensor([[[0.5, 0.5, 0.4, 0.3]]])  # away from the border, where cells beyond are read
    wide = Grid(torch.zeros(1, 30, 32), hidden.flatten(1), [(5, 6)])
    assert (crop(box, alone, grid) - crop(box, padded.flatten(1, 2), wide)).abs().max() < 1e-5


def test_gaussian_term() -> None:
    """0 at the point, and -(s_x^2 d_x^2 + s_y^2 d_y^2) / 8 in cells everywhere: held against plain loops."""
    points, widths, grid = torch.rand(1, 2, 3, 2), torch.randn(1, 2, 3, 2), open_grid(4, 6)
    term = gaussian(points, widths, grid).unflatten(-1, (4, 6))  # (1, heads, Q, 4, 6)
    for query in range(2):
        for head in range(3):
            (x, y), (s_x, s_y) = points[0, query, head] * torch.tensor([6.0, 4.0]), widths[0, query, head]
            for row in range(4):
                for column in range(6):
                    expected = -((s_x * (column + 0.5 - x)) ** 2 + (s_y * (row + 0.5 - y)) ** 2) / 8
                    assert abs(term[0, head, query, row, column] - expected) < 1e-5
    on_a_cell = torch.tensor([2.5 / 6, 1.5 / 4]).expand(1, 1, 1, 2)
    peak = gaussian(on_a_cell, torch.ones(1, 1, 1, 2), grid)
    assert peak.argmax() == 1 * 6 + 2 and peak.max().abs() < 1e-5


@torch.no_grad()
def test_a_flat_gaussian_is_no_gaussian() -> None:
    """Widths 0: the same as without SMCA's term."""
    flat, plain = sam_detr(gaussian=True), SamDetr(TINY).eval()
    state = flat.state_dict()
    for name in [name for name in state if ".find.layers.3." in name]:
        state[name] = state[name][: 2 * TINY.heads]  # the points without the widths
    plain.load_state_dict(state)
    batch = every.padded_batch()
    assert every.difference(flat(*batch), plain(*batch)) > 1e-3
    for layer in flat.decoder.layers:
        last = layer.cross_attention.find.layers[-1]
        last.weight[2 * TINY.heads:], last.bias[2 * TINY.heads:] = 0, 0
    assert every.difference(flat(*batch), plain(*batch)) < 1e-5


def test_points_stay_inside_their_box() -> None:
    trace = every.tracing_changes_nothing(sam_detr())
    reference = trace["decoder"].reference  # (L, B, Q, 4)
    for layer in range(3):
        record = trace[f"decoder.layers.{layer}.cross_attention"]
        centre, size = reference[layer][:, :, None, :2], reference[layer][:, :, None, 2:]
        assert ((record.points - centre).abs() <= size / 2).all() and record.offsets.abs().max() <= 1
        assert (record.points - centre - record.offsets * size / 2).abs().max() < 1e-6


# -- what every variant must pass -----------------------------------------------------------------------------


@pytest.mark.parametrize("with_gaussian", [False, True])
def test_trace(with_gaussian: bool) -> None:
    trace = every.tracing_changes_nothing(sam_detr(gaussian=with_gaussian))
    every.weights_sum_to_one(trace, [name for name in trace.records if name.endswith("attention")])
    record, (height, width) = trace["decoder.layers.1.cross_attention"], trace[""].shapes[0]
    assert record.points.shape == record.offsets.shape == (2, 9, 4, 2)
    ones = torch.ones(1, 9, 4, 1)
    dots = splat(record.points[:1, :, :, None], ones, (height, width))  # the first image has no padding
    inside = ((record.points[:1] * torch.tensor([width, height]) - 0.5).clamp(min=0) > 0).all(-1)
    assert dots.shape == (1, 4, 9, height * width) and (dots.sum(-1) < 1 + 1e-5).all() and inside.any()
    assert hasattr(record, "gaussian") == with_gaussian
    if with_gaussian:
        assert trace.as_map(record.gaussian).shape == (2, 4, 9, height, width) and record.gaussian.max() <= 0


def test_padding() -> None:
    """Attention ignores padding. A box that touches the border is cut out with the cell beyond it (as in the authors'
    code), so the decoder is held to it with small boxes in the middle."""
    model = sam_detr(decoder_layers=1)
    every.encoder_ignores_padding(model)
    with torch.no_grad():
        model.decoder.query_embed.weight.mul_(0.1).sub_(torch.tensor([0.0, 0.0, 2.0, 2.0]))
    every.decoder_ignores_padding(model)


@pytest.mark.parametrize("with_gaussian", [False, True])
def test_gradients(with_gaussian: bool) -> None:
    every.gradients_reach(SamDetr(replace(TINY, gaussian=with_gaussian)), every.FIRST_MEETING)


@pytest.mark.parametrize("with_gaussian", [False, True])
def test_scenes_run(with_gaussian: bool) -> None:
    every.learns(SamDetr(replace(zoo.recipe("sam").model, gaussian=with_gaussian)))


def test_parameters() -> None:
    recipe = zoo.recipe("sam", "coco").model
    count = every.parameters(SamDetr, recipe)
    assert count == 58_295_946
    assert every.card_says(sam.__doc__) == count - every.parameters(Detr, zoo.recipe("detr", "coco").model)
    assert every.parameters(SamDetr, replace(recipe, gaussian=True)) == count + 6 * 16 * 513  # 2 widths for 8 heads
    assert every.parameters(SamDetr, replace(recipe, norm_input=True)) == count + 2 * 256


@pytest.mark.parametrize("with_gaussian", [False, True])
def test_saving(with_gaussian: bool, tmp_path: Path) -> None:
    every.survives_saving(sam_detr(gaussian=with_gaussian), tmp_path)


def test_official_names() -> None:
    recipe = replace(TINY, backbone="resnet50")
    every.official_names_are_checked(SamDetr(recipe), SamDetr(recipe), "sam_detr-nopad")


def test_short_schedules_norm_the_input() -> None:
    """The GroupNorm of the authors' 12-epoch models, under their name."""
    recipe = replace(TINY, backbone="resnet50", norm_input=True)
    names = dict(zoo.entry("sam").detector(recipe).state_dict())
    assert {"input_proj.0.1.weight", "input_proj.0.1.bias"} <= set(names)
    assert asdict(recipe)["norm_input"] and not zoo.recipe("sam", "coco").model.norm_input


def test_recipe_is_the_papers() -> None:
    assert every.coco_numbers("sam") == {
        "head": "focal", "queries, FFN, dropout": (300, 2048, 0.1), "lr, backbone lr": (1e-4, 1e-5),
        "batch, epochs": (16, 50), "drop after epoch": 40, "loss": (2, 5, 2), "matcher": (2, 5, 2),
    }
