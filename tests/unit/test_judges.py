"""Every judge of average precision says pycocotools' numbers."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detr_mini import evaluation
from detr_mini.evaluation import JUDGES, average_precision, find_judge

CLASSES = 7


def random_data(images: int, detections: int, seed: int = 0) -> tuple[SimpleNamespace, dict]:
    """A made-up data set with crowds, gaps in its category ids and images without objects, and detections for it."""
    rng = np.random.default_rng(seed)
    annotations, predictions = [], {}
    for image in range(1, images + 1):
        count = int(rng.integers(0, 12))
        sides = np.exp(rng.uniform(np.log(6), np.log(300), (count, 2)))
        corners = rng.uniform(0, 1, (count, 2)) * (np.array([640, 480]) - sides)
        labels = rng.integers(0, CLASSES, count)
        for (x, y), (w, h), label in zip(corners, sides, labels, strict=True):
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": 3 * int(label) + 1,
                                "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(rng.random() < 0.05)})
        near = rng.integers(0, max(count, 1), detections)
        boxes = np.concatenate([corners, corners + sides], axis=1)[near] if count else np.zeros((detections, 4))
        boxes = boxes + rng.normal(0, 6, (detections, 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        right = labels[near] if count else rng.integers(0, CLASSES, detections)
        said = np.where(rng.random(detections) < 0.6, right, rng.integers(0, CLASSES, detections))
        predictions[image] = {"scores": torch.tensor(rng.random(detections)).round(decimals=2),  # with ties
                              "labels": torch.tensor(said), "boxes": torch.tensor(boxes).float()}
    truth = {"images": [{"id": image, "width": 640, "height": 480} for image in range(1, images + 1)],
             "annotations": annotations,
             "categories": [{"id": 3 * label + 1, "name": f"thing {label}"} for label in range(CLASSES)]}
    return SimpleNamespace(
        coco_ground_truth=lambda: truth, num_classes=CLASSES, classes=[f"thing {label}" for label in range(CLASSES)],
        label_to_category={label: 3 * label + 1 for label in range(CLASSES)}), predictions


@pytest.mark.parametrize("judge", [name for name in JUDGES if name != "pycocotools"])
@pytest.mark.parametrize("seed", [0, 1])
def test_same_numbers(judge: str, seed: int) -> None:
    """All twelve, and every class, to 1e-6; on a part of the images as well."""
    pytest.importorskip(JUDGES[judge][0])
    data, predictions = random_data(60, 100, seed)
    for wanted in (None, [3, 9, 27, 28, 29]):
        said = average_precision(data, predictions, wanted, judge).to_dict()
        expected = average_precision(data, predictions, wanted, "pycocotools").to_dict()
        assert said.pop("per_class") == pytest.approx(expected.pop("per_class"), abs=1e-6)
        assert said == pytest.approx(expected, abs=1e-6) and 0.01 < said["ap"] < 0.99


def test_nothing_found_and_nothing_to_find() -> None:
    """What is -1 for one judge is nan for all."""
    data, predictions = random_data(5, 10)
    truth = data.coco_ground_truth()
    for judge in JUDGES:
        pytest.importorskip(JUDGES[judge][0])
        assert average_precision(data, {}, judge=judge).ap == 0.0
        empty = SimpleNamespace(**{**vars(data), "coco_ground_truth": lambda: truth | {"annotations": []}})
        result = average_precision(empty, predictions, judge=judge).to_dict()
        assert result["ap"] is None and result["ar_100"] is None and result["per_class"] == {}


def test_the_fastest_one_installed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """pycocotools where no other is there; a name that is missing or unknown is refused with what to do."""
    for module, _, _ in list(JUDGES.values())[:-1]:
        monkeypatch.setitem(sys.modules, module, None)  # as if it was not installed
    assert find_judge() == (evaluation.COCO, evaluation.COCOeval)
    with pytest.raises(ImportError, match="pip install hotcoco"):
        find_judge("hotcoco")
    with pytest.raises(ValueError, match="choose one of hotcoco"):
        find_judge("my eyes")
