"""Photographs are drawn by the seed, and the recipe is that of the recorded runs on all of them."""

import json

import pytest

from detr_mini.course.more_photographs import WHOLE, Drawn, recipe_of
from detr_mini.data.layouts import open_folder
from detr_mini.files import DATA

CELLS = open_folder(DATA / "blood_cells", "train")


def test_a_draw_is_fixed_by_its_seed_and_keeps_the_classes() -> None:
    """Another seed draws others; items are those of the whole."""
    some = Drawn(CELLS, 8, seed=1)
    assert some.rows == Drawn(CELLS, 8, seed=1).rows != Drawn(CELLS, 8, seed=2).rows
    assert len(set(some.rows)) == len(some) == 8 and some.classes == CELLS.classes
    assert some[3][1]["image_id"] == CELLS[some.rows[3]][1]["image_id"]


@pytest.mark.parametrize("count", [0, 25])
def test_more_than_there_are_cannot_be_drawn(count: int) -> None:
    """The message has the limits."""
    with pytest.raises(ValueError, match=f"{count} photographs are to be drawn from 24: choose 1 to 24"):
        Drawn(CELLS, count, seed=0)


def test_the_recipe_is_that_of_the_recorded_runs() -> None:
    """Batch and rates follow from the number of photographs, which is 205 there; size and steps are the same."""
    recorded = json.loads((WHOLE / "deformable-seed0.jsonl").read_text().splitlines()[0])["recipe"]
    ours = recipe_of(CELLS, 600)
    assert ours.train.steps == recorded["train"]["steps"] and ours.data.eval_size == recorded["data"]["eval_size"]
    assert ours.model.levels == recorded["model"]["levels"] and list(ours.data.mean) == recorded["data"]["mean"]
