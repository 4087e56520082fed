"""What is taken out of DAB-DETR is out; the recorded runs are whole and say what the notebook says of them."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import torch

from detr_mini import zoo
from detr_mini.course import dab_ablation
from detr_mini.course.dab_ablation import (
    BRIDGE,
    FORMS,
    PLAIN,
    QUICK,
    RUNS,
    SEEDS,
    Form,
    bridged,
    build,
    path_of,
    quick_same_sides,
    read_ablation,
    record,
    same_sides,
)
from detr_mini.course.race_table import at_step, read_runs
from detr_mini.files import DATA


def test_same_sides_leave_the_centres_alone() -> None:
    """Half of the image, for every anchor."""
    model = zoo.build("dab")
    centres = model.decoder.query_embed.weight[:, :2].clone()
    same_sides(model)
    anchors = model.decoder.query_embed.weight
    assert (anchors[:, 2:].sigmoid() == 0.5).all() and (anchors[:, :2] == centres).all() and anchors.requires_grad


def test_with_all_parts_out_it_is_conditional_detr() -> None:
    """The same weights give the same logits, boxes and gradients: nothing is left that could explain a distance."""
    conditional = zoo.build("conditional")
    recipe = replace(zoo.recipe("dab").model, **PLAIN)
    bridge = build(bridged(*BRIDGE), recipe)
    named = {name.replace("decoder.query_embed", "decoder.position_embed"): tensor
             for name, tensor in conditional.state_dict().items()}
    bridge.load_state_dict(named)
    images, results = torch.rand(2, 3, 128, 96), []
    for model in (conditional, bridge):
        output = model.eval()(images)
        (output.logits.sum() + (output.boxes * torch.arange(4)).sum()).backward()
        learned = model.decoder.point_head.layers[0].weight, model.encoder.layers[0].norm1.weight
        results.append((output, *(weight.grad for weight in learned)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("part", BRIDGE)
def test_each_part_of_the_bridge_changes_the_detector(part: str) -> None:
    """Fewer or other parameters, or another gradient of the anchors: no part is idle."""
    recipe = replace(zoo.recipe("dab").model, **PLAIN)
    told = []
    for made in ((), ("position", "point") if part == "point" else (part,)):
        torch.manual_seed(0)
        model = build(Form("", PLAIN, made=made), recipe)
        model(torch.rand(1, 3, 64, 64)).logits[-1].sum().backward()
        gradient = getattr(model.decoder, "query_embed", model.decoder.layers[0].norm1).weight.grad.norm().item()
        told.append((len(list(model.parameters())), round(gradient, 9)))
    assert told[0] != told[1]


def test_quick_anchors_start_where_they_did_and_go_farther() -> None:
    """The same anchors before the first step of Adam, QUICK times as far after it."""
    moved = []
    for start in (same_sides, quick_same_sides):
        torch.manual_seed(0)
        model = build(Form("", start=start), zoo.recipe("dab").model)
        optimizer, before = torch.optim.Adam(model.parameters(), lr=1e-4), model.decoder.query_embed.weight.clone()
        model(torch.rand(1, 3, 64, 64)).logits.sum().backward()
        optimizer.step()
        moved.append((model.decoder.query_embed.weight - before).abs().mean().item())
    assert moved[1] == pytest.approx(QUICK * moved[0], rel=0.02)


def test_parts_that_do_not_exist_are_refused() -> None:
    """By name; and a point needs the vector it is made from."""
    recipe = replace(zoo.recipe("dab").model, **PLAIN)
    with pytest.raises(ValueError, match="no part 'norm': choose one of encoder, activation"):
        build(bridged("norm"), recipe)
    with pytest.raises(ValueError, match="add 'position'"):
        build(bridged("point"), recipe)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FORMS)
def test_recorded_runs_say_where_they_come_from(name: str, seed: int) -> None:
    """Command, form and recipe; two evaluations on 400 scenes."""
    head, *rows = map(json.loads, path_of(name, seed, RUNS).read_text().splitlines())
    assert (head["form"], head["says"], head["seed"]) == (name, FORMS[name].says, seed)
    assert head["command"].startswith("python -m detr_mini.course.dab_ablation") and head["machine"]["torch"]
    wanted = replace(zoo.recipe("dab").model, **FORMS[name].settings)
    assert head["recipe"]["model"] == json.loads(json.dumps(vars(wanted))) and head["recipe"]["train"]["steps"] == 250
    assert [(row["step"], row["images"]) for row in rows] == [(125, 400), (250, 400)]


def apart(low: list[float], high: list[float]) -> bool:
    """Whether every seed of one lies above every seed of the other."""
    return max(low) < min(high)


def recorded() -> dict[str, list[float]]:
    """AP50 at step 250, three seeds of every form, of DAB-DETR and of Conditional DETR."""
    races = read_runs(DATA / "runs/scenes")
    whole = {name: [at_step(rows, 250)["ap50"] for _, rows in races[name]] for name in ("dab", "conditional")}
    return read_ablation() | whole


def test_sides_and_novelties_leave_half_of_the_distance_open() -> None:
    """Medians: the same sides bring over 0.15 of AP50 both times, the novelties less; "neither" is 0.16 behind."""
    forms = recorded()
    middle = {name: median(seeds) for name, seeds in forms.items()}
    assert middle["same sides"] - middle["dab"] > 0.15 < middle["neither"] - middle["no novelties"]
    assert 0.09 < middle["same sides"] - middle["neither"] < middle["dab"] - middle["no novelties"] < 0.12
    assert middle["conditional"] - middle["neither"] == pytest.approx(0.16, abs=0.005)
    assert apart(forms["same sides"], forms["conditional"]) and apart(forms["neither"], forms["conditional"])


def test_the_missing_part_is_where_the_point_comes_from() -> None:
    """Four of five differences change nothing that seeds can tell apart; with the fifth out it is Conditional DETR."""
    forms = recorded()
    for part in list(BRIDGE)[:-1]:
        assert not apart(forms["neither"], forms[f"up to {part}"])
    assert apart(forms["up to position"], forms["conditional"]) and apart(forms["up to position"], forms["only point"])


def test_it_is_how_far_anchors_get_and_not_where_they_start() -> None:
    """Started where Conditional's points do: no better. Twenty times as quick: Conditional DETR's AP50."""
    forms = recorded()
    assert not apart(forms["neither"], forms["started there"]) and apart(forms["neither"], forms["quick anchors"])
    assert not apart(forms["quick anchors"], forms["conditional"])
    assert not apart(forms["conditional"], forms["quick anchors"])
    assert apart(forms["dab"], forms["whole, quick"])


def test_each_novelty_helps_by_less_than_seeds_differ_by() -> None:
    """Notebook 14's last claim: at step 250, the median AP50 falls by 0.05 with any one of them taken out."""
    forms, dab = read_ablation(), read_runs(DATA / "runs/scenes")["dab"]
    seeds = [at_step(rows, 250)["ap50"] for _, rows in dab]
    for part in ("update", "temperature", "modulation"):
        assert 0.045 < median(seeds) - median(forms[f"no {part}"]) < 0.055 < max(seeds) - min(seeds)


def test_a_run_leaves_such_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps; and the command line takes names and a folder."""
    monkeypatch.setattr(dab_ablation, "evaluate", lambda *_, **__: Measured())
    path = record("neither", 1, tmp_path, steps=2, every=1)
    head, *rows = map(json.loads, path.read_text().splitlines())
    assert path.name == "neither-seed1.jsonl" and head["seed"] == 1 and head["recipe"]["model"]["modulate"] is False
    assert [row["step"] for row in rows] == [1, 2]
    with pytest.raises(ValueError, match="no form 'both': choose one of same sides, no novelties, neither"):
        record("both", 0, tmp_path)
    asked = []
    monkeypatch.setattr(dab_ablation, "record", lambda *given: asked.append(given))
    given = ["neither", "same sides", "--seeds", "1", "2", "--to", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["dab_ablation", *given])
    dab_ablation.main()  # the first run's file is there
    assert asked == [("neither", 2, tmp_path), ("same sides", 1, tmp_path), ("same sides", 2, tmp_path)]


class Measured:
    """An evaluation that was not made."""

    ap = ap50 = 0.0

    def to_dict(self) -> dict:
        """Its figures."""
        return {"ap": 0.0, "ap50": 0.0, "images": 0}
