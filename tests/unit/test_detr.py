import pytest
import torch

from detr_mini import zoo
from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr
from detr_mini.positions import Grid, LearnedGrid, SineGrid, grid_coordinates, sine
from detr_mini.recipes import ModelRecipe
from detr_mini.trace import AttentionTrace

TINY = ModelRecipe(
    backbone="small", d_model=32, heads=4, encoder_layers=2, decoder_layers=3, feed_forward=64, queries=6, classes=5,
    dropout=0.0,
)


@pytest.fixture
def model() -> Detr:
    torch.manual_seed(0)
    return Detr(TINY).eval()


@pytest.fixture
def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of 128 x 96; the second is padded from row 96 and column 64 on."""
    images, mask = torch.randn(2, 3, 128, 96), torch.zeros(2, 128, 96, dtype=torch.bool)
    mask[1, 96:], mask[1, :, 64:] = True, True
    return images.masked_fill(mask[:, None], 0), mask


def test_default_model_has_the_papers_size():
    model = Detr(ModelRecipe())
    assert zoo.count(model) == 41_524_768
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41_302_368


def test_shapes_of_all_layers(model, padded):
    output = model(*padded)
    assert output.logits.shape == (3, 2, 6, 6) and output.boxes.shape == (3, 2, 6, 4)
    assert ((output.boxes > 0) & (output.boxes < 1)).all()


def test_traced_and_plain_passes_are_equal_and_all_attention_is_recorded(model, padded):
    plain = model(*padded)
    with AttentionTrace(model) as trace:
        traced = model(*padded)
    torch.testing.assert_close(traced.logits, plain.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(traced.boxes, plain.boxes, atol=1e-5, rtol=0)
    for stack, kind, count in (("encoder", "self", 2), ("decoder", "self", 3), ("decoder", "cross", 3)):
        for layer in range(count):
            weights = trace[f"{stack}.layers.{layer}.{kind}_attention"].weights
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    maps = trace.maps("decoder.layers.2.cross_attention")
    assert maps.shape == (2, 4, 6, 8, 6)
    assert (maps[1, :, :, 6:] == 0).all() and (maps[1, :, :, :, 4:] == 0).all()


def test_what_padding_hides_changes_nothing_behind_the_backbone(model, padded):
    images, mask = padded
    tokens, grid = model.tokenize(images, mask)
    changed = tokens.masked_fill(grid.padding_mask[..., None], 7.0)
    first, second = (model.decoder(model.encoder(x, grid), grid) for x in (tokens, changed))
    torch.testing.assert_close(first.boxes, second.boxes)


def test_dilation_doubles_the_map():
    shapes = [Detr(ModelRecipe(dilation=dilation)).tokenize(torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64) > 0)
              for dilation in (False, True)]
    assert [grid.shapes for _, grid in shapes] == [[(2, 2)], [(4, 4)]]


def test_gradients_reach_every_trainable_parameter_after_two_steps(padded):
    torch.manual_seed(0)
    model = Detr(TINY)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        output = model(*padded)
        (output.logits.square().mean() + output.boxes.square().mean()).backward()
        optimizer.step()
    still = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    # The first self-attention sees only equal, empty queries: its values are all alike, so nothing tells q and k apart.
    assert all("decoder.layers.0.self_attention" in name or name.endswith("key.bias") for name in still), still


def test_the_final_norm_and_heads_are_shared_by_all_layers(model):
    names = [name for name, _ in model.decoder.named_parameters() if "head" in name or name.startswith("norm")]
    assert len(names) == 2 + 2 + 6


def test_shapes_that_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\) and \(B, H, W\)"):
        model(torch.randn(2, 3, 64, 64), torch.zeros(2, 32, 64, dtype=torch.bool))
    with pytest.raises(ValueError, match="backbone 'vgg' is unknown: choose resnet50, efficientnet_lite0 or small"):
        Detr(ModelRecipe(backbone="vgg"))
    with pytest.raises(ValueError, match="no detector 'yolo': choose one of detr"):
        zoo.build("yolo")
    with pytest.raises(ValueError, match="no preset 'tiny': choose one of scenes, coco"):
        zoo.recipe("detr", "tiny")


@pytest.mark.parametrize("head", ["softmax", "focal"])
def test_postprocess_by_hand(head):
    model = Detr(ModelRecipe(**{**TINY.__dict__, "head": head, "classes": 2}))
    logits = torch.tensor([[4.0, 0.0], [-4.0, 1.0]])
    if head == "softmax":
        logits = torch.cat([logits, torch.zeros(2, 1)], dim=1)
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.25, 0.5, 0.5]])
    output = DetectorOutput(logits[None, None], boxes[None, None])
    found = model.postprocess(output, torch.tensor([[100, 200]]))[0]
    assert found["labels"][0] == 0 and found["queries"][0] == 0
    assert found["boxes"][0].tolist() == [0, 0, 200, 100]
    second = found["queries"].tolist().index(1)
    assert found["boxes"][second].tolist() == [0, 0, 100, 50]
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    expected = logits[0].softmax(0)[0] if head == "softmax" else logits[0, 0].sigmoid()
    assert found["scores"][0] == expected


def test_sine_depends_on_the_offset_only_and_is_largest_at_zero():
    points = torch.linspace(0, 0.4, 9, dtype=torch.float64)[:, None]
    code = sine(points, 64)
    similarity = code @ code.T
    for shift in range(9):
        diagonal = similarity.diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert (similarity.argmax(1) == torch.arange(9)).all()


def test_grid_counts_only_what_is_not_padding():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 2:], mask[0, :, 3:] = True, True
    edge, centre = grid_coordinates(mask), grid_coordinates(mask, half_cell=True)
    torch.testing.assert_close(edge[0, 1, 2], torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(centre[0, 0, 0], torch.tensor([0.25, 0.5 / 3]))
    grid = Grid(torch.zeros(1, 16, 2), mask.flatten(1), [(4, 4)])
    torch.testing.assert_close(grid.valid_ratios(), torch.tensor([[[0.75, 0.5]]]))
    assert SineGrid(8)(mask).shape == (1, 4, 4, 8)


def test_learned_positions_say_when_the_map_is_too_large():
    learned = LearnedGrid(8, longest=4)
    code = learned(torch.zeros(2, 3, 4, dtype=torch.bool))
    assert code.shape == (2, 3, 4, 8) and torch.equal(code[0, 1, 2, :4], learned.columns.weight[2])
    with pytest.raises(ValueError, match="a 5 x 3 feature map does not fit the 4 learned positions"):
        learned(torch.zeros(1, 5, 3, dtype=torch.bool))
