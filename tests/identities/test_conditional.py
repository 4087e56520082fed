"""Conditional DETR: what it reduces to, and what every variant must pass."""

from dataclasses import replace
from pathlib import Path

import every
import pytest
import torch

from detr_mini import zoo
from detr_mini.attention import ConcatenatedAttention, ContentPositionAttention, MultiHeadAttention
from detr_mini.detr import Detr
from detr_mini.positions import grid_coordinates, sine
from detr_mini.recipes import ModelRecipe
from detr_mini.variants import conditional
from detr_mini.variants.conditional import ConditionalDetr

TINY = ModelRecipe(**every.TINY)


@pytest.fixture
def model() -> ConditionalDetr:
    return every.shaken(ConditionalDetr(TINY))


# -- identities ---------------------------------------------------------------------------------------------


def test_tied_projections_make_detrs_attention() -> None:
    """With W_p = W_c and no second bias, projecting content and position separately changes nothing."""
    separate, plain = ContentPositionAttention(32, 4), MultiHeadAttention(32, 4)
    separate.load_state_dict(plain.state_dict(), strict=False)
    for part in ("query", "key"):
        getattr(separate, f"{part}_position").load_state_dict(getattr(plain, part).state_dict())
        torch.nn.init.zeros_(getattr(separate, f"{part}_position").bias)
    content, position = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    arguments = (content, content, content, position, position)
    assert (separate(*arguments) - plain(*arguments)).abs().max() < 1e-5


@pytest.mark.parametrize("first", [True, False])
def test_scores_are_content_plus_place(first: bool) -> None:
    """score = (c_q c_k + p_q p_k) / sqrt(2 d_head), and without places DETR's attention at 1/sqrt(2) of its scores."""
    joined, plain = ConcatenatedAttention(32, 4, first=first), MultiHeadAttention(32, 4)
    query, memory, query_position, key_position, place = torch.randn(5, 2, 6, 32).unbind()
    plain.load_state_dict(joined.state_dict(), strict=False)
    with torch.no_grad():
        joined.place.weight.zero_(), joined.place.bias.zero_()
        plain.query.weight /= 2**0.5
        plain.query.bias /= 2**0.5
    if first:  # the same, with projected positions added to the contents
        extra = joined.query_position(query_position), joined.key_position(key_position)
        q, k = plain.query(query) + extra[0] / 2**0.5, plain.key(memory) + extra[1]
        heads = [plain.split(x) for x in (q, k, plain.value(memory))]
        expected = plain.output(plain.merge(plain.attend(*heads, None)))
    else:
        expected = plain(query, memory, memory)
    assert (joined(query, memory, memory, query_position, key_position, place) - expected).abs().max() < 1e-5


def test_place_meets_position_where_they_agree() -> None:
    """Sine codes: the product is largest at offset 0, and depends on the offset only."""
    spots = torch.rand(20, 2)
    codes, shifted = sine(spots, 16), sine(spots + torch.tensor([0.07, -0.11]), 16)
    products = codes @ codes.T
    assert (products.argmax(1) == torch.arange(20)).all()
    assert (codes @ codes.T - shifted @ shifted.T).abs().max() < 1e-4


def test_a_point_on_a_cell_has_the_cells_code(model: ConditionalDetr) -> None:
    """In layer 0 the place of a query whose point lies on a cell's corner is that cell's position."""
    cells = torch.zeros(1, 6, 8, dtype=torch.bool)
    points = grid_coordinates(cells)[0].flatten(0, 1)[None].flip(-1)  # (1, 48, 2) as (x, y)
    queries = model.decoder.init_queries(torch.randn(1, 48, 32), None)
    place = model.decoder.place(model.decoder.layers[0], replace(queries, reference=points))
    assert (place - model.grid_position(cells).flatten(1, 2)).abs().max() < 1e-5


def test_reference_is_fixed_and_boxes_start_at_it() -> None:
    model = ConditionalDetr(TINY).eval()  # fresh: the box head's last layer is 0
    trace = every.tracing_changes_nothing(model)
    reference = trace["decoder"].reference  # (L, B, Q, 2)
    assert reference.shape == (3, 2, 9, 2) and (reference == reference[0]).all()
    with torch.no_grad():
        boxes = model(*every.padded_batch()).boxes
    assert (boxes[..., :2] - reference).abs().max() < 1e-4 and (boxes[..., 2:] - 0.5).abs().max() < 1e-6


# -- what every variant must pass -----------------------------------------------------------------------------


def test_trace(model: ConditionalDetr) -> None:
    trace = every.tracing_changes_nothing(model)
    every.weights_sum_to_one(trace, [name for name in trace.records if name.endswith("attention")])
    scales = [trace[f"decoder.layers.{layer}.cross_attention"] for layer in range(3)]
    assert [hasattr(record, "place_scale") for record in scales] == [False, True, True]


def test_padding(model: ConditionalDetr) -> None:
    every.encoder_ignores_padding(model)
    every.decoder_ignores_padding(model)


def test_gradients() -> None:
    every.gradients_reach(ConditionalDetr(TINY), every.FIRST_MEETING)


def test_scenes_run() -> None:
    every.learns(ConditionalDetr(zoo.recipe("conditional").model))


def test_parameters() -> None:
    count = every.parameters(ConditionalDetr, zoo.recipe("conditional", "coco").model)
    assert count == 43_418_401
    assert every.card_says(conditional.__doc__) == count - every.parameters(Detr, zoo.recipe("detr", "coco").model)


def test_saving(model: ConditionalDetr, tmp_path: Path) -> None:
    every.survives_saving(model, tmp_path)


def test_official_names() -> None:
    recipe = replace(TINY, backbone="resnet50")
    every.official_names_are_checked(ConditionalDetr(recipe), ConditionalDetr(recipe), "conditional_detr")


def test_recipe_is_the_papers() -> None:
    assert every.coco_numbers("conditional") == {
        "head": "focal", "queries, FFN, dropout": (300, 2048, 0.1), "lr, backbone lr": (1e-4, 1e-5),
        "batch, epochs": (16, 50), "drop after epoch": 40, "loss": (2, 5, 2), "matcher": (2, 5, 2),
    }
