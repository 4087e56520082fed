import json
import sys
from dataclasses import replace

import pytest

from detr_mini import zoo
from detr_mini.__main__ import main
from detr_mini.checkpoints import load_weights, read_facts
from detr_mini.commands.race import fields_of
from detr_mini.course import race as races
from detr_mini.course import race_table as races_table
from detr_mini.course.own_recipe import own_recipe, shared_recipe
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


def test_provenance_is_the_command_that_was_typed(monkeypatch):
    """Quoted where needed. A notebook's kernel was started with a file of nobody's, and only says that it was one."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/dab_ablation.py", "same sides", "--to", "runs"])
    assert races.origin("detr_mini.x")["command"] == "python -m detr_mini.x 'same sides' --to runs"
    monkeypatch.setattr(sys, "argv", ["/somewhere/ipykernel_launcher.py", "-f", "/tmp/kernel.json"])
    assert races.origin()["command"] == "python -m detr_mini (from a notebook)"


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


def write_run(folder, name, seed, curve):
    """A run file with these (step, AP50), ten seconds per hundred steps."""
    rows = [{"step": step, "seconds": step / 10, "ap50": ap50, "ap": ap50 / 2, "ap_small": ap50 / 4, "ap_medium": ap50}
            for step, ap50 in curve]
    lines = [{"detector": name, "seed": seed}, *rows]
    (folder / f"{name}-seed{seed}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_table_tells_where_levels_are_crossed(tmp_path, capsys):
    for seed, last in enumerate([0.9, 0.8]):
        write_run(tmp_path, "detr", seed, [(100, 0.2), (200, 0.6), (300, 0.7), (400, last)])
    write_run(tmp_path, "dab", 0, [(100, 0.4), (200, 0.8)])
    assert main(["race", "--table", str(tmp_path)]) == 0
    head, _, detr, dab, *_ = (line.split(" | ") for line in capsys.readouterr().out.splitlines())
    assert detr[0] == "| detr" and detr[2] == "125 (125 to 125)" and detr[5] == "375 (350 to 400)"
    assert dab[2:6] == ["75", "125", "175", "200"]
    assert detr[6] == "1.0" and dab[6] == "1.4"  # 175 steps to 0.5, divided by 125
    assert detr[7] == "38 (35 to 40)" and head[8] == "AP50 at step 200" and dab[8] == "0.80"


def test_a_second_table_has_seconds_and_sizes(tmp_path):
    """At the last common step, as the first one's AP."""
    for seed, later in enumerate([0.4, 0.52, 0.6]):
        write_run(tmp_path, "detr", seed, [(1000, 0.2), (2000, later), (3000, 0.9)])
    write_run(tmp_path, "dab", 0, [(1000, 0.4), (2000, 0.8)])
    first, second = races_table.race_table(tmp_path).split("\n\n")
    head, _, detr, dab = (line.strip("| ").split(" | ") for line in second.splitlines())
    assert head == ["detector", *(f"training seconds to AP50 {level}" for level in (0.3, 0.5, 0.7)),
                    "AP small at step 2,000", "AP medium at step 2,000"] and len(first.splitlines()) == 4
    assert detr == ["detr", "131 (125 to 150)", "194 (175 to 220)", "247 (233 to 260)", "0.13 (0.10 to 0.15)",
                    "0.52 (0.40 to 0.60)"]
    assert dab == ["dab", "75", "125", "175", "0.20", "0.80"]


def test_a_level_that_is_never_reached(tmp_path):
    write_run(tmp_path, "detr", 0, [(100, 0.2), (200, 0.45)])
    first, second = races_table.race_table(tmp_path).split("\n\n")
    assert first.count("not reached") == 4  # 0.5, 0.7, 0.8 in steps, 0.8 in seconds
    assert second.count("not reached") == 2  # 0.5, 0.7


def test_a_folder_without_runs_and_a_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recorded runs"):
        races_table.race_table(tmp_path)
    (tmp_path / "detr-seed0.jsonl").write_text('{"detector": "detr"}\n')
    with pytest.raises(ValueError, match="detr-seed0.jsonl is not a recorded run"):
        races_table.race_table(tmp_path)


@pytest.mark.parametrize("name", zoo.names())
def test_an_own_recipe_is_the_papers_but_for_size(name):
    paper, own = zoo.recipe(name, "coco"), own_recipe(name)
    assert own.loss == paper.loss
    kept = {"head", "dropout", "patterns", "refine", "modulate", "spare_logit", "points", "gaussian"}
    for field in kept & set(vars(paper.model)):
        assert getattr(own.model, field) == getattr(paper.model, field)
    assert own.train.steps * own.train.batch == 24_000 and own.train.batch == paper.train.batch
    assert (own.train.clip, own.train.slow, own.train.warmup) == (paper.train.clip, paper.train.slow, 0)
    assert own.train.backbone_lr == pytest.approx(own.train.lr / 10)
    assert own.model.queries == (25 if name == "detr" else 75)
    zoo.build(name, "scenes", own.model)


@pytest.mark.parametrize("name", zoo.names())
def test_a_shared_recipe_is_the_races_with_the_papers_schedule(name):
    """Model, loss and batch of the race; the rate falls, the backbone learns, clipping is tight, no warm-up."""
    race, shared = zoo.recipe(name, "scenes"), shared_recipe(name)
    assert (shared.model, shared.loss, shared.data) == (race.model, race.loss, race.data)
    train = shared.train
    assert (train.batch, train.steps, train.lr, train.drop) == (16, 1500, race.train.lr, 0.8)
    assert (train.clip, train.warmup) == (0.1, 0) and train.backbone_lr == pytest.approx(train.lr / 10)
    with pytest.raises(ValueError, match="less than one batch of 16"):
        shared_recipe(name, 15)


def test_another_batch_means_more_or_fewer_steps(tmp_path):
    """The images stay as many; the race's own recipe has one batch."""
    assert (own_recipe("anchor").train.steps, own_recipe("anchor", batch=32).train.steps) == (3000, 750)
    assert shared_recipe("detr", batch=8).train.steps == 3000
    with pytest.raises(ValueError, match="--batch 8 goes with --own or --shared"):
        races.race(["detr"], [0], 1, tmp_path, batch=8)


def test_own_recipes_are_evaluated_after_as_many_images(monkeypatch, tmp_path):
    due = {}
    monkeypatch.setattr(races, "run", lambda name, recipe, seed, path, every, keep: due.update(
        {name: (recipe.train.steps, every)}))
    races.race(["detr", "deformable", "anchor"], [0], 300, tmp_path, every=150, recipes="own")
    assert due == {"detr": (300, 150), "deformable": (150, 75), "anchor": (600, 300)}
    with pytest.raises(ValueError, match="budget of 3 images is less than one batch"):
        own_recipe("detr", 3)


def test_a_field_of_the_model_can_be_changed(monkeypatch, tmp_path, capsys):
    seen = []
    monkeypatch.setattr(races, "run", lambda name, recipe, *others: seen.append(recipe.model))
    races.race(["deformable"], [0], 1, tmp_path, change=fields_of(["refine=false", "points=8"]))
    assert seen[0].refine is False and seen[0].points == 8
    assert main(["race", "--to", str(tmp_path), "--detectors", "detr", "--change", "refine=false"]) == 1
    assert "no 'refine' to change: choose among backbone" in capsys.readouterr().err
    assert main(["race", "--to", str(tmp_path), "--change", "refine=false"]) == 1
    assert capsys.readouterr().err.endswith(
        "error: --change refine=false needs --detectors: say whose model has this field\n")
    with pytest.raises(ValueError, match="--change refine: write FIELD=VALUE"):
        fields_of(["refine"])


@pytest.fixture
def wanted(monkeypatch):
    """Runs that are asked for: their detector, steps and seed. Nothing is trained; a file of one line is written."""
    asked = []

    def run(name, recipe, seed, path, every, weights):
        asked.append((name, recipe.train.steps, seed))
        path.write_text(json.dumps({"step": recipe.train.steps, "seconds": 1.0, "ap": 0.5, "ap50": 0.9}) + "\n")

    monkeypatch.setattr(races, "run", run)
    return asked


def test_without_detectors_all_seven_race_and_the_plan_comes_first(wanted, tmp_path, capsys):
    (tmp_path / "dab-seed1.jsonl").write_text('{"step": 2500, "seconds": 1.0, "ap": 0.5, "ap50": 0.9}\n')
    assert main(["race", "--to", str(tmp_path)]) == 0
    everything = [(name, 2500, seed) for name in zoo.names() for seed in (0, 1, 2)]
    assert len(everything) == 21 and wanted == [run for run in everything if run != ("dab", 2500, 1)]
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        f"runs in {tmp_path}: 21 in all, 1 there already, 0 begun; to train: 50,000 steps of 16 images",
        "Stop it whenever you like: given again, the same command goes on from the last evaluation."]
    assert said[2] == "detr-seed0: 2500 steps, 1 s, AP 0.500, AP50 0.900" and len(said) == 2 + 21
    assert main(["race", "--to", str(tmp_path)]) == 0 and len(wanted) == 20
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"runs in {tmp_path}: 21 in all, 21 there already, 0 begun", said[2]]


def test_the_plan_counts_images_and_runs_that_were_begun(wanted, tmp_path, capsys):
    """With own recipes a batch has 8 images (Anchor DETR) or 32 (Deformable DETR)."""
    (tmp_path / "anchor-seed0.unfinished").mkdir()
    (tmp_path / "anchor-seed0.unfinished" / "last.pt").touch()
    arguments = ["race", "--own", "--detectors", "anchor", "deformable", "--seeds", "0", "--to", str(tmp_path)]
    assert main(arguments) == 0 and wanted == [("anchor", 3000, 0), ("deformable", 750, 0)]
    assert capsys.readouterr().out.startswith(
        f"runs in {tmp_path}: 2 in all, 0 there already, 1 begun; to train: less than 3,000 steps of 16 images\n")


def test_costs_are_those_of_all_detectors_unless_named(monkeypatch, tmp_path):
    measured = []
    monkeypatch.setattr("detr_mini.course.race_costs.in_a_process_of_its_own", lambda name, own: measured.append(name))
    assert main(["race", "--costs", str(tmp_path / "costs.json")]) == 0 and measured == zoo.names()


def test_a_stopped_run_goes_on_and_ends_with_the_same_file(small, monkeypatch, tmp_path):
    (whole,) = races.race(["detr"], [0], None, tmp_path / "whole", every=2)
    ask, asked = races.evaluate, []

    def stop(*arguments, **options):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(*arguments, **options)

    monkeypatch.setattr(races, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        races.race(["detr"], [0], None, tmp_path / "part", every=2)
    (part,) = races.race(["detr"], [0], None, tmp_path / "part", every=2)
    assert len(asked) == 3  # the first evaluation was not repeated
    rows, others = ([json.loads(line) for line in path.read_text().splitlines()[1:]] for path in (whole, part))
    assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in others]
    assert [path.name for path in part.parent.iterdir()] == ["detr-seed0.jsonl"]
