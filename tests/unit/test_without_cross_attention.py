"""The three forms that ask whether SAM-DETR still needs cross-attention, and the runs they leave."""

import json
from dataclasses import replace

import pytest
import torch

from detr_mini import zoo
from detr_mini.course import without_cross_attention as forms
from detr_mini.course.race_table import at_step, read_runs
from detr_mini.data.scenes import Scenes
from detr_mini.files import DATA
from detr_mini.recipes import TrainRecipe

IMAGES = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def built(form: str):
    torch.manual_seed(0)
    return forms.build(form).eval()


@pytest.mark.parametrize("form", list(forms.FORMS))
def test_what_is_left_has_the_first_weights_of_the_race(form: str) -> None:
    torch.manual_seed(0)
    whole, left = zoo.build(forms.FORMS[form][0], "scenes").state_dict(), built(form).state_dict()
    assert set(left) <= set(whole) and all(torch.equal(tensor, whole[name]) for name, tensor in left.items())
    assert (len(left) == len(whole)) == (form == "both")


def test_a_blind_detector_gives_every_image_one_answer_and_a_reading_one_does_not() -> None:
    blind, reading = built("blind")(IMAGES), built("reads")(IMAGES)
    assert torch.equal(blind.logits[:, 0], blind.logits[:, 1]) and torch.equal(blind.boxes[:, 0], blind.boxes[:, 1])
    assert (reading.logits[:, 0] - reading.logits[:, 1]).abs().max() > 1e-3


def test_reading_is_attention_that_is_all_at_the_salient_point() -> None:
    """On a crop, with a one-hot map over its 49 cells and all gates open: the same values, head by head."""
    torch.manual_seed(0)
    layer = zoo.build("sam", "scenes").decoder.layers[0].cross_attention
    torch.nn.init.constant_(layer.content_weight.bias, 50.0)  # every gate open
    torch.nn.init.zeros_(layer.content_weight.weight)
    torch.nn.init.zeros_(layer.find.layers[-1].weight)  # every point in the middle of its box, the cell (3, 3)
    torch.nn.init.zeros_(layer.find.layers[-1].bias)
    memory = torch.randn(1, 64, 128)
    grid = forms.Grid(torch.zeros(1, 64, 128), torch.zeros(1, 64, dtype=torch.bool), [(8, 8)])
    box = torch.tensor([[[0.5625, 0.5625, 0.875, 0.875]]])  # seven cells wide and high: one cell each, middle (4, 4)
    found = forms.read(layer, forms.Queries(torch.randn(1, 1, 128), box, reference=box), memory, grid)
    weights = torch.zeros(1, layer.heads, 1, 64)
    weights[..., 4 * 8 + 4] = 1
    assert torch.allclose(found, layer.merge(weights @ layer.split(layer.value(memory))), atol=1e-5)


def test_both_is_the_sum_of_the_two() -> None:
    """In the first layer, where all three enter with the same queries."""
    torch.manual_seed(0)
    models = [zoo.build("sam", "scenes").eval(), built("reads"), built("both")]
    attended, only_read, summed = map(first_collected, models)
    bias = models[-1].decoder.layers[0].cross_attention.output.bias
    assert torch.allclose(summed, attended + only_read - bias, atol=1e-5)


def first_collected(model):
    """What the queries collect in the first layer, (B, Q, d)."""
    layer, seen = model.decoder.layers[0], []
    take_in = layer.take_in
    layer.take_in = lambda content, attended: seen.append(attended) or take_in(content, attended)
    model(IMAGES)
    return seen[0]


def test_a_run_leaves_its_curve_and_is_not_repeated(monkeypatch, tmp_path) -> None:
    """Four steps of a tiny detector, every form."""
    monkeypatch.setattr(forms, "Scenes", lambda count, seed: Scenes(min(count, 20), seed))
    monkeypatch.setattr(forms, "scenes_recipe", tiny)
    options = ["--to", str(tmp_path), "--steps", "4", "--every", "2"]
    assert forms.main(options) == 0
    for form in forms.FORMS:
        head, *lines = map(json.loads, (tmp_path / f"{form}-seed0.jsonl").read_text().splitlines())
        assert head["command"].startswith("python -m detr_mini.course.without_cross_attention")
        assert head["form"] == form and head["seed"] == 0 and head["parameters"] > 0
        assert [line["step"] for line in lines] == [2, 4] and {"ap", "ap50", "seconds", "loss"} <= set(lines[0])
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]
    forms.main(options)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == before


def test_a_run_that_was_stopped_goes_on(monkeypatch, tmp_path) -> None:
    """From its last evaluation, and ends where an undisturbed one ends."""
    monkeypatch.setattr(forms, "Scenes", lambda count, seed: Scenes(min(count, 20), seed))
    monkeypatch.setattr(forms, "scenes_recipe", tiny)
    options = ["--forms", "reads", "--steps", "4", "--every", "2", "--to"]
    forms.main([*options, str(tmp_path / "whole")])
    measure, calls = forms.evaluate, []

    def stop_at_the_second(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **named)

    monkeypatch.setattr(forms, "evaluate", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        forms.main([*options, str(tmp_path / "parts")])
    forms.main([*options, str(tmp_path / "parts")])
    whole, parts = ((tmp_path / folder / "reads-seed0.jsonl").read_text().splitlines() for folder in ("whole", "parts"))
    assert len(calls) == 3 and not list(tmp_path.glob("*/*.unfinished"))
    for one, other in zip(map(json.loads, whole[1:]), map(json.loads, parts[1:]), strict=True):
        assert one["step"] == other["step"] and one["loss"] == pytest.approx(other["loss"], abs=1e-3)


def tiny(name: str, steps: int):
    """A detector's recipe, of toy size."""
    recipe = zoo.recipe(name, "scenes")
    model = replace(recipe.model, d_model=32, heads=4, encoder_layers=1, decoder_layers=2, feed_forward=32)
    return replace(recipe, model=model, train=TrainRecipe(steps=steps, batch=2, backbone_lr=0.0))


def test_what_notebook_15_says_holds_in_the_recorded_runs() -> None:
    """Every run that reads ends ahead of the race's SAM-DETRs, a blind one finds nothing; runs say their origin."""
    recorded, race = read_runs(forms.RUNS), read_runs(DATA / "runs" / "scenes")["sam"]
    for name, group in recorded.items():
        for origin, rows in group:
            assert origin["detector"] == name and origin["command"].startswith("python -m detr_mini.course.without_")
            assert [row["step"] for row in rows] == list(range(125, 1001, 125))
            assert {key: origin["recipe"]["train"][key] for key in ("lr", "batch", "steps")} == {
                "lr": race[0][0]["recipe"]["train"]["lr"], "batch": 16, "steps": 1000}
    last = {name: [at_step(rows, 1000)["ap50"] for _, rows in group] for name, group in recorded.items()}
    assert len(last["sam_reads"]) == 3 and {origin["seed"] for origin, _ in recorded["sam_reads"]} == {0, 1, 2}
    assert min(last["sam_reads"]) > max(at_step(rows, 1000)["ap50"] for _, rows in race)
    assert max(last["detr_blind"]) < 0.02
