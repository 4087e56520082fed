import json
import math
from dataclasses import replace

import pytest
import torch

from detr_mini import zoo
from detr_mini.checkpoints import CheckpointError, load_weights, read_facts
from detr_mini.course import without_meeting as meetings
from detr_mini.data.scenes import Scenes
from detr_mini.files import DATA
from detr_mini.recipes import TrainRecipe


@pytest.fixture
def small(monkeypatch):
    """Four steps with a detector of toy size on 20 scenes; its weights are kept after two."""
    monkeypatch.setattr(meetings, "Scenes", lambda count, seed: Scenes(min(count, 20), seed))
    recipe = zoo.recipe("detr", "scenes")
    model = replace(recipe.model, d_model=32, heads=4, encoder_layers=1, decoder_layers=2, feed_forward=32)
    tiny = replace(recipe, model=model, train=TrainRecipe(steps=4, batch=2, backbone_lr=0.0))
    monkeypatch.setattr(meetings, "scenes_recipe", lambda name, steps: tiny)
    monkeypatch.setattr(meetings, "KEPT", 2)


def test_a_run_leaves_its_curve_and_its_weights_and_is_not_repeated(small, tmp_path):
    options = ["--to", str(tmp_path), "--weights", str(tmp_path / "w.safetensors"), "--every", "2"]
    assert meetings.main(options) == 0
    head, *lines = map(json.loads, (tmp_path / "without-seed0.jsonl").read_text().splitlines())
    assert head["command"].startswith("python -m detr_mini.course.without_meeting")
    assert [line["step"] for line in lines] == [2, 4]
    assert {"ap", "ap50", "nms", "repeats"} <= set(lines[0])
    facts = read_facts(tmp_path / "w.safetensors")
    assert facts["steps"] == 2 and facts["system"] == "detr_without_meeting"
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]
    meetings.main(options)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == before


def test_without_meetings_queries_hear_nothing_of_each_other():
    torch.manual_seed(0)
    model = zoo.build("detr").eval()
    images, silent = torch.randn(1, 3, 128, 128), meetings.without_meeting(model)
    plain, alone = model(images), silent(images)
    moved, quiet = copy_with_other_address(model), copy_with_other_address(silent)
    assert (moved(images).boxes - plain.boxes)[-1, 0, 1:].abs().max() > 1e-6
    assert torch.allclose(quiet(images).boxes[:, :, 1:], alone.boxes[:, :, 1:], atol=1e-6)
    assert "decoder.layers.0.self_attention.query.weight" in model.state_dict()


def copy_with_other_address(model):
    """The same detector, query 0 with another address."""
    other = meetings.copy.deepcopy(model)
    other.decoder.query_embed.weight.data[0] += 3.0
    return other


def test_the_shipped_detector_is_what_its_name_says():
    model = meetings.load_without_meeting()
    assert all(isinstance(layer.self_attention, meetings.NoMeeting) for layer in model.decoder.layers)
    assert read_facts(meetings.WEIGHTS)["recipe"] == read_facts(DATA / "weights" / "detr.safetensors")["recipe"]
    with pytest.raises(ValueError, match="system is 'detr_without_meeting': this version knows"):
        load_weights(meetings.WEIGHTS)
    with pytest.raises(CheckpointError, match="unexpected: decoder.layers.0.self_attention"):
        meetings.load_without_meeting(DATA / "weights" / "detr.safetensors")


TARGET = {"labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]),
          "image_id": 7}
FOUND = {
    "scores": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), "labels": torch.tensor([0, 0, 1, 0, 1]),
    "boxes": torch.tensor([[0, 0, 50, 50], [0, 0, 50, 48], [0, 0, 50, 50], [60, 0, 90, 30], [50, 50, 99, 99]]).float(),
}


def test_verdicts_by_hand():
    assert meetings.verdicts(TARGET, FOUND, (100, 100)) == ["first", "again", "off", "off", "first"]


def test_suppression_and_repeats_by_hand():
    kept = meetings.suppress({7: FOUND})[7]
    assert kept["scores"].tolist() == pytest.approx([0.9, 0.7, 0.6, 0.5])
    data = [(torch.zeros(3, 100, 100), TARGET)]
    assert meetings.repeats(data, {7: FOUND}, recall=0.5) == 0
    assert math.isclose(meetings.repeats(data, {7: FOUND}, recall=1.0), 0.5)
    assert meetings.repeats(data, {7: {name: values[:4] for name, values in FOUND.items()}}, recall=1.0) is None
