import json
from dataclasses import replace

import pytest

from detr_mini import zoo
from detr_mini.checkpoints import load_weights, read_facts
from detr_mini.course import race as races
from detr_mini.data.scenes import Scenes
from detr_mini.recipes import TrainRecipe


@pytest.fixture
def small(monkeypatch):
    """The race on 20 scenes with a detector of toy size."""
    monkeypatch.setattr(races, "Scenes", lambda count, seed: Scenes(min(count, 20), seed))
    recipe = zoo.recipe("detr", "scenes")
    model = replace(recipe.model, d_model=32, heads=4, encoder_layers=1, decoder_layers=1, feed_forward=32)
    tiny = replace(recipe, model=model, train=TrainRecipe(steps=4, batch=2, backbone_lr=0.0))
    monkeypatch.setattr(races, "scenes_recipe", lambda name, steps: tiny)


def test_a_race_leaves_curves_with_provenance_and_weights_and_goes_on(small, tmp_path):
    files = races.race(["detr"], [0, 1], None, tmp_path / "curves", every=2, weights=tmp_path / "weights")
    assert [path.name for path in files] == ["detr-seed0.jsonl", "detr-seed1.jsonl"]
    head, *lines = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert head["detector"] == "detr" and head["seed"] == 0 and head["recipe"]["train"]["steps"] == 4
    assert head["machine"]["torch"] and head["command"].startswith("python -m detr_mini")
    assert [line["step"] for line in lines] == [2, 4] and {"loss", "seconds", "ap", "ap50", "ap_small"} <= set(lines[0])
    assert load_weights(tmp_path / "weights" / "detr.safetensors").recipe.d_model == 32
    assert read_facts(tmp_path / "weights" / "detr.safetensors")["ap50"] == lines[-1]["ap50"]
    before = files[0].stat().st_mtime_ns
    races.race(["detr"], [0, 1], None, tmp_path / "curves", every=2)
    assert files[0].stat().st_mtime_ns == before


def test_an_unknown_detector_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="no detector 'yolo'"):
        races.race(["detr", "yolo"], [0], 1, tmp_path)
    assert not list(tmp_path.iterdir())
