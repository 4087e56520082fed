"""Folders that the course makes or ships: drawings as somebody's own pictures, and the photographs of blood cells."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detr_mini.checkpoints import read_facts
from detr_mini.course.folders import make_folder
from detr_mini.course.processes import tiny_losses
from detr_mini.course.race_table import reached
from detr_mini.data.check import check_folder
from detr_mini.data.scenes import CLASSES, draw_scene
from detr_mini.data.voc import open_folder
from detr_mini.files import DATA

NAMES = {"boat": "boat", "umbrella": "parasol"}
BCCD = DATA / "runs" / "bccd"


def test_drawings_are_annotated_as_drawn(tmp_path: Path) -> None:
    """Every boat and umbrella has its box and its new name; other things have none; splits share no picture."""
    folder = make_folder(tmp_path / "drawings", {"train": 6, "val": 4}, NAMES, seed=3)
    dataset = open_folder(folder, "train")
    assert len(dataset) == 6 and dataset.classes == ["boat", "parasol"]
    for number in range(6):
        picture, labels, boxes = draw_scene(3, number + 1)
        kept = [(NAMES[CLASSES[label]], box) for label, box in zip(labels, boxes, strict=True)
                if CLASSES[label] in NAMES]
        image, target = dataset[number]
        assert np.array_equal(image.permute(1, 2, 0).numpy(), picture)
        assert [dataset.classes[label] for label in target["labels"]] == [name for name, _ in kept]
        found = target["boxes"].numpy() * 128  # (M, 4) cxcywh
        for (x, y, w, h), (cx, cy, width, height) in zip([box for _, box in kept], found, strict=True):
            assert np.allclose([cx, cy, width, height], [x + w / 2, y + h / 2, w, h], atol=0.11)
    assert not [one for one in check_folder(folder).findings if one.level == "error"]


def test_a_kind_that_is_not_drawn_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'dragon'.*fish"):
        make_folder(tmp_path / "drawings", {"train": 1}, {"dragon": "dragon"})
    assert not (tmp_path / "drawings").exists()


def test_the_photographs_are_whole_and_free() -> None:
    """24 and 12 of BCCD, fit for training, with their licence."""
    report = check_folder(DATA / "blood_cells")
    assert not report.errors and [facts["images"] for facts in report.splits.values()] == [24, 12]
    assert "MIT" in (DATA / "blood_cells" / "LICENSE").read_text()
    sizes = {Image.open(path).size for path in (DATA / "blood_cells" / "images").iterdir()}
    assert sizes == {(640, 480)}


def recorded(name: str) -> tuple[dict, list[dict]]:
    """Origin and evaluations of a run on BCCD."""
    origin, *rows = map(json.loads, (BCCD / f"{name}.jsonl").read_text().splitlines())
    return origin, rows


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_fix_learns_blood_cells_in_minutes(seed: int) -> None:
    """AP50 0.5 on the 87 photographs within 30 minutes of training, and still there at the end."""
    origin, rows = recorded(f"deformable-seed{seed}")
    assert origin["seed"] == seed and origin["machine"]["threads"] <= 2
    assert "--data data/bccd" in origin["command"] and {row["images"] for row in rows} == {87}
    assert reached(rows, 0.5, "seconds") < 1800 and rows[-1]["ap50"] >= 0.5


@pytest.mark.parametrize("name", ["detr-seed0", "detr_imagenet-seed0"])
def test_plain_detr_does_not(name: str) -> None:
    """In as many steps, with and without a backbone that can see."""
    origin, rows = recorded(name)
    assert origin["detector"] == "detr" and {row["images"] for row in rows} == {87}
    assert rows[-1]["step"] == recorded("deformable-seed0")[1][-1]["step"] and rows[-1]["ap50"] < 0.25


def test_the_shipped_detector_is_that_of_seed_0() -> None:
    facts, (_, rows) = read_facts(DATA / "weights" / "blood_cells.safetensors"), recorded("deformable-seed0")
    assert facts["classes"] == ["Platelets", "RBC", "WBC"]
    assert (facts["steps"], facts["ap50"]) == (rows[-1]["step"], rows[-1]["ap50"])


def test_two_processes_from_a_notebook_take_the_steps_of_one() -> None:
    """After trainings in the same kernel, too."""
    alone = tiny_losses(processes=1)
    assert tiny_losses(processes=2) == pytest.approx(alone, abs=1e-4) and len(set(alone)) == 4


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="processes=3"):
        tiny_losses(processes=3)
