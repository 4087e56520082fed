"""What is claimed about recorded runs holds in the files, and the files say where they come from."""

import json
import statistics
from pathlib import Path

import pytest

from detr_mini import zoo
from detr_mini.checkpoints import read_facts
from detr_mini.course.own_recipe import own_recipe
from detr_mini.course.race_check import agreement
from detr_mini.course.race_table import at_step, race_table, reached, read_runs
from detr_mini.files import DATA

FOLDER = DATA / "runs" / "scenes"
RUNS = read_runs(FOLDER)
FIXES = [name for name in zoo.names() if name != "detr"]
DETR_HALFWAY = statistics.median(reached(rows, 0.5) for _, rows in RUNS["detr"])


def halfway(name: str) -> float:
    """Steps to AP50 0.5, the median of the seeds."""
    return statistics.median(reached(rows, 0.5) for _, rows in RUNS[name])


@pytest.mark.parametrize("name", zoo.names())
def test_three_seeds_with_their_origin(name: str) -> None:
    """Command, machine, and a recipe that differs from the detector's own in its number of steps only."""
    assert [origin["seed"] for origin, _ in RUNS[name]] == [0, 1, 2]
    for origin, rows in RUNS[name]:
        assert origin["command"].startswith("python -m detr_mini race ") and origin["machine"]["torch"]
        shape = zoo.recipe(name, "scenes")
        assert origin["recipe"]["model"] == json.loads(json.dumps(vars(shape.model)))
        assert origin["recipe"]["loss"] == vars(shape.loss)
        assert origin["recipe"]["train"]["lr"] == shape.train.lr and origin["recipe"]["train"]["batch"] == 16
        assert {row["images"] for row in rows} == {400}


def test_detr_learns_within_its_budget() -> None:
    """AP50 0.30 within 2,500 steps and 6 minutes, with every seed."""
    assert all(reached(rows, 0.3) <= 2500 and reached(rows, 0.3, "seconds") <= 360 for _, rows in RUNS["detr"])


@pytest.mark.parametrize("name", FIXES)
def test_a_fix_needs_half_of_detrs_steps(name: str) -> None:
    """To AP50 0.5; every seed gets to 0.80, and the median of them within 300 seconds of training."""
    assert halfway(name) <= DETR_HALFWAY / 2
    assert all(rows[-1]["ap50"] >= 0.80 for _, rows in RUNS[name])
    assert statistics.median(reached(rows, 0.8, "seconds") for _, rows in RUNS[name]) <= 300


def test_the_best_fix_needs_an_eighth() -> None:
    """Of DETR's steps."""
    assert min(map(halfway, FIXES)) <= DETR_HALFWAY / 8


@pytest.mark.parametrize("name", zoo.names())
def test_shipped_weights_are_those_of_the_first_seed(name: str) -> None:
    """Their file tells the same steps and AP50 as the run, and is small."""
    path = DATA / "weights" / f"{name}.safetensors"
    facts, (_, rows) = read_facts(path), RUNS[name][0]
    assert facts["system"] == name and facts["seed"] == 0
    assert (facts["steps"], facts["ap50"]) == (rows[-1]["step"], rows[-1]["ap50"])
    assert path.stat().st_size < 4e6


def test_detr_at_step_1500_is_an_early_detr() -> None:
    """The weights that notebooks 11 to 15 explore beside another detector's of the same step: a run of its own."""
    path = DATA / "weights" / "detr_1500.safetensors"
    facts, early = read_facts(path), [at_step(rows, 1500)["ap50"] for _, rows in RUNS["detr"]]
    assert (facts["system"], facts["seed"], facts["steps"]) == ("detr", 0, 1500) and path.stat().st_size < 4e6
    assert min(early) - 0.05 < facts["ap50"] < max(early) + 0.05


def test_the_tables_are_those_of_the_files() -> None:
    """Nobody has typed a number."""
    assert race_table(FOLDER) in Path(FOLDER, "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["scenes", "scenes_own"])
def test_costs_say_how_busy_the_machine_was(folder: str) -> None:
    """And so does the text beside them."""
    costs = json.loads((DATA / "runs" / folder / "costs.json").read_text())["detectors"]
    loads = [row["load"] for row in costs.values()]
    said = " ".join((DATA / "runs" / folder / "README.md").read_text(encoding="utf-8").split())
    assert set(costs) == set(zoo.names())
    assert f"(`load` in the file is {min(loads)} to {max(loads)}, on two cores;" in said


def test_a_second_run_lies_within_the_bands() -> None:
    """All seven detectors with a seed of their own, run later: `race --against`."""
    words, agree = agreement(FOLDER, DATA / "runs" / "scenes_again")
    assert agree and "not compared" not in words, words
    again = read_runs(DATA / "runs" / "scenes_again")
    assert set(again) == set(zoo.names())
    assert all({origin["seed"] for origin, _ in group} == ({3, 4, 5} if name == "sam" else {3})
               for name, group in again.items())


def test_own_recipes_are_those_of_the_papers_scaled() -> None:
    """Every recorded run has the recipe that own_recipe gives; every cure gains by it, and DETR loses."""
    own = read_runs(DATA / "runs" / "scenes_own")
    assert set(own) == set(zoo.names())
    assert all(len(group) >= 3 for group in own.values())
    for name, group in own.items():
        for origin, rows in group:
            assert origin["recipe"]["train"] == json.loads(json.dumps(vars(own_recipe(name).train)))
            assert origin["recipe"]["model"]["queries"] == own_recipe(name).model.queries
            shared = statistics.median(at_step(line, 1500)["ap"] for _, line in RUNS[name])
            assert (at_step(rows, 1500)["ap"] > shared) == (name != "detr")


def test_without_meetings_more_is_left_to_suppression() -> None:
    """Notebook 06: with every seed. And suppression brings back most of what is missing."""
    alone = [[json.loads(line) for line in path.read_text().splitlines()]
             for path in sorted((DATA / "runs" / "self_attention").glob("without-seed*.jsonl"))]
    assert [head["seed"] for head, *_ in alone] == [0, 1, 2]
    ends = [rows[-1] for _, *rows in alone]
    assert {row["step"] for row in ends} == {2500}
    assert max(row["ap50"] for row in ends) < min(at_step(rows, 2500)["ap50"] for _, rows in RUNS["detr"])
    assert all(row["nms"]["ap50"] > row["ap50"] + 0.1 for row in ends)


def test_what_nearly_all_papers_share_is_worth_more_than_the_rest_of_a_recipe() -> None:
    """Notebook 16, section 9: for DETR and Deformable DETR every seed of the shared recipe lies above every seed of the
    race and of the paper's own."""
    folders = ("scenes", "scenes_shared", "scenes_own")
    race, shared, own = (read_runs(DATA / "runs" / folder) for folder in folders)
    assert set(shared) == {"detr", "deformable"}
    for name, group in shared.items():
        runs = (group, race[name], own[name])
        common, raced, papers = ([at_step(rows, 1500)["ap"] for _, rows in three] for three in runs)
        assert len(common) == 3 and min(common) > max(*raced, *papers)
        assert all(origin["recipe"]["train"]["clip"] == 0.1 for origin, _ in group)
