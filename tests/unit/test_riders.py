"""Scenes with riders: two things share a place; and what is counted as a pair that is found."""

import json

import pytest
import torch

from detr_mini.course import riders
from detr_mini.course.riders import (
    ASIDE,
    FORMS,
    SEEDS,
    STEPS,
    Riders,
    found,
    path_of,
    read_riders,
    record,
    share_of_pairs,
)

SOME = Riders(40, seed=5)


def test_a_rider_sits_on_the_largest_thing() -> None:
    """Another class, smaller, with nearly the same centre, last in the list; every scene has exactly one thing more."""
    plain = riders.Scenes(40, seed=5, cache=False)
    for index, carrier in enumerate(SOME.carriers):
        _, target = SOME[index]
        boxes, labels = target["boxes"], target["labels"]
        assert len(labels) == len(plain[index][1]["labels"]) + 1
        assert carrier == int(boxes[:-1, 2:].prod(dim=1).argmax()) and labels[-1] != labels[carrier]
        assert boxes[-1, 2:].prod() < 0.6 * boxes[carrier, 2:].prod()
        away = (boxes[-1, :2] - boxes[carrier, :2]).abs()
        assert (away <= (ASIDE + 0.05) * boxes[carrier, 2:] + 1.5 / 128).all()


def test_the_same_seed_gives_the_same_scenes() -> None:
    """And fewer of them are the first of more."""
    again = Riders(8, seed=5)
    assert torch.equal(again.images, SOME.images[:8]) and again.carriers == SOME.carriers[:8]


def test_found_is_right_class_right_place_and_among_the_best() -> None:
    """Two things; the second's box is only the third best answer, so it is not found."""
    target = {"labels": torch.tensor([1, 2]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.25, 0.25]])}
    large, small = [25.0, 25, 75, 75], [37.5, 37.5, 62.5, 62.5]
    answers = {"scores": torch.tensor([0.9, 0.8, 0.7]), "labels": torch.tensor([1, 1, 2]),
               "boxes": torch.tensor([large, small, small])}
    assert found(target, answers, 100).tolist() == [True, False]
    swapped = answers | {"labels": torch.tensor([1, 2, 1])}
    assert found(target, swapped, 100).tolist() == [True, True]


def test_a_detector_that_knows_the_truth_finds_all_pairs() -> None:
    """And one that never says the rider finds none."""
    truth = {}
    for index in range(len(SOME)):
        _, target = SOME[index]
        centre, size = target["boxes"][:, :2], target["boxes"][:, 2:]
        boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1) * 128
        truth[index] = {"boxes": boxes, "labels": target["labels"], "scores": torch.ones(len(boxes))}
    assert share_of_pairs(SOME, truth) == 1
    assert share_of_pairs(SOME, {i: {n: v[:-1] for n, v in t.items()} for i, t in truth.items()}) == 0


def test_a_run_leaves_its_file(tmp_path) -> None:
    """Form, provenance, and the share of pairs; an unknown form is refused by name."""
    path = record("8 points x 3", 1, steps=1, every=1, folder=tmp_path, scenes=20)
    head, row = map(json.loads, path.read_text().splitlines())
    assert path.name == "8_points_x_3-seed1.jsonl" and head["form"] == "8 points x 3"
    assert (head["recipe"]["model"]["queries"], head["recipe"]["model"]["patterns"]) == FORMS["8 points x 3"]
    assert row["step"] == 1 and 0 <= row["pairs"] <= 1
    with pytest.raises(ValueError, match="no form '9 points': choose one of 24 points"):
        record("9 points", 0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", FORMS)
def test_recorded_runs_are_whole(form: str, seed: int) -> None:
    """Made by the command that they name; the last evaluation at the last step, on 400 scenes."""
    head, *rows = map(json.loads, path_of(form, seed).read_text().splitlines())
    assert head["command"].startswith("python -m detr_mini.course.riders")
    assert (head["form"], head["seed"]) == (form, seed)
    assert rows[-1]["step"] == STEPS and rows[-1]["images"] == 400 and 0 < rows[-1]["pairs"] < 1


def test_figures_of_all_forms() -> None:
    """One per seed."""
    assert {form: len(seeds) for form, seeds in read_riders().items()} == dict.fromkeys(FORMS, len(SEEDS))
