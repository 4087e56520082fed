"""SMCA's two changes apart: what each run leaves out, what its file holds, and that recorded files are whole."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detr_mini import zoo
from detr_mini.attention import MultiHeadAttention
from detr_mini.course import smca_parts
from detr_mini.course.smca_parts import PARTS, SEEDS, build, path_of
from detr_mini.course.why_slow import read_measures
from detr_mini.data.scenes import Scenes

SMALL = replace(zoo.recipe("smca").model, encoder_layers=1, decoder_layers=2)
RECIPE = replace(zoo.recipe("smca"), model=SMALL)


def answer(part: str | None) -> tuple[torch.nn.Module, object]:
    """A new detector, one of the parts or SMCA whole, and what it says of two random images."""
    torch.manual_seed(0)
    model = (build(part, RECIPE) if part else zoo.build("smca", "scenes", SMALL)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        return model, model(torch.randn(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.bool))


def test_boxes_alone_attend_as_detr() -> None:
    """With every scale at 0 the Gaussian adds nothing to the scores; boxes still lie around the centres."""
    model, output = answer("boxes")
    _, whole = answer(None)
    model.decoder.cross_attend = lambda layer, queries, memory, grid: MultiHeadAttention.forward(
        layer.cross_attention, queries.content, memory, memory, queries.position, grid.position)
    torch.manual_seed(1)
    with torch.no_grad():
        plain = model(torch.randn(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.bool))
    assert torch.allclose(plain.boxes, output.boxes, atol=1e-5)
    assert (whole.boxes - output.boxes).abs().max() > 1e-4
    assert not any(layer.cross_attention.prior.scale.bias.requires_grad for layer in model.decoder.layers)


def test_the_gaussian_alone_leaves_boxes_to_the_head() -> None:
    """The same scores as SMCA, and boxes without the centre's logits."""
    model, output = answer("gaussian")
    _, whole = answer(None)
    assert torch.allclose(output.logits, whole.logits, atol=1e-6)
    centre = model.decoder.init_queries(torch.zeros(2, 64, 128), None).centre  # (B, Q, 2)
    moved = (torch.logit(output.boxes[-1, ..., :2]) + centre).sigmoid()
    assert torch.allclose(moved, whole.boxes[-1, ..., :2], atol=1e-5)
    assert torch.allclose(output.boxes[..., 2:], whole.boxes[..., 2:], atol=1e-6)


def test_fixed_starts_as_smca_and_keeps_its_scales() -> None:
    """All scales are 1 and stay so."""
    model, output = answer("fixed")
    _, whole = answer(None)
    assert torch.equal(output.boxes, whole.boxes)
    assert not any(layer.cross_attention.prior.scale.weight.requires_grad for layer in model.decoder.layers)


def test_unknown_parts_are_named() -> None:
    """The message has the parts there are."""
    with pytest.raises(ValueError, match="no part 'both': choose one of gaussian, boxes, fixed"):
        build("both", RECIPE)


def test_a_run_leaves_one_file_and_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provenance, looks, evaluations; a second call finds the file."""
    recipe = replace(RECIPE, train=replace(RECIPE.train, steps=1, batch=2))
    monkeypatch.setattr(smca_parts, "scenes_recipe", lambda name, steps: recipe)
    monkeypatch.setattr(smca_parts, "Scenes", lambda count, seed: Scenes(4, seed=seed))
    monkeypatch.setattr(smca_parts, "MEASURED", 4)
    path = smca_parts.record("boxes", 1, tmp_path)
    head, lines = read_measures(path)
    assert head["part"] == "boxes" and head["detector"] == "smca" and head["measured"]["scenes"] == 4
    assert [line["step"] for line in lines if "iou" in line] == [0, 1]
    assert [line["step"] for line in lines if "ap50" in line] == [1]
    before = path.read_text()
    assert smca_parts.record("boxes", 1, tmp_path).read_text() == before


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("part", PARTS)
def test_recorded_parts_are_whole(part: str, seed: int) -> None:
    """Made by the command that they name, over the same steps as the race."""
    head, lines = read_measures(path_of(part, seed))
    assert head["command"].startswith("python -m detr_mini.course.smca_parts") and head["part"] == part
    assert head["seed"] == seed
    assert [line["step"] for line in lines if "ap50" in line] == [125, 250, 375, 400]
    assert max(line["step"] for line in lines if "iou" in line) == 400
