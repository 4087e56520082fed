"""Average precision: by hand, against raw pycocotools, at its edges, and of a model that is run."""

import contextlib
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.data.coco import CocoFolder
from detr_mini.data.transforms import denormalise
from detr_mini.evaluation import AveragePrecision, average_precision, evaluate, evaluating, predict
from detr_mini.recipes import DataRecipe

TINY = Path(__file__).parents[2] / "data" / "tiny_coco"


class Drawn:
    """Ground truth without images: {image id: [(category id, x, y, width, height, crowd)]}."""

    def __init__(self, objects: dict, categories: tuple = (3, 8), keep: bool = False):
        self.objects, self.categories = objects, categories
        labels = categories if keep else range(len(categories))
        self.label_to_category = dict(zip(labels, categories, strict=True))
        self.num_classes = max(labels) + 1
        self.classes = [f"class {self.label_to_category.get(label)}" for label in range(self.num_classes)]

    def coco_ground_truth(self) -> dict:
        """COCO format; annotation ids start from 0 on purpose."""
        rows = [(image_id, *row) for image_id, found in self.objects.items() for row in found]
        return {
            "images": [{"id": i, "width": 400, "height": 300} for i in self.objects],
            "annotations": [
                {"id": k, "image_id": i, "category_id": c, "bbox": [x, y, w, h], "area": w * h, "iscrowd": f}
                for k, (i, c, x, y, w, h, f) in enumerate(rows)],
            "categories": [{"id": c, "name": f"class {c}"} for c in self.categories],
        }


def found(*rows) -> dict:
    """Predictions of one image from (score, label, x0, y0, x1, y1)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {"scores": table[:, 0], "labels": table[:, 1].long(), "boxes": table[:, 2:]}


def perfect(dataset, score: float = 1.0) -> dict:
    """The ground truth itself as predictions, crowds left out."""
    label_of = {category: label for label, category in dataset.label_to_category.items()}
    rows: dict = {}
    for a in dataset.coco_ground_truth()["annotations"]:
        x, y, w, h = a["bbox"]
        rows.setdefault(a["image_id"], [])
        if not a["iscrowd"]:
            rows[a["image_id"]].append((score, label_of[a["category_id"]], x, y, x + w, y + h))
    return {image_id: found(*row) for image_id, row in rows.items()}


ONES = pytest.approx([1.0] * 5)  # pycocotools adds 2e-16 to what it divides by
TWO = Drawn({1: [(3, 10, 10, 100, 50, 0)], 2: [(3, 200, 100, 100, 100, 0)], 5: []})


# --- by hand

def test_hand_computed_curve():
    """Right, wrong, right in order of score. Precision 1 up to recall 1/2, then 2/3 up to recall 1."""
    predictions = {
        1: found((0.9, 0, 10, 10, 110, 60)),
        2: found((0.8, 0, 0, 0, 40, 40), (0.7, 0, 200, 100, 300, 200)),
    }
    result = average_precision(TWO, predictions)
    wanted = (51 * 1 + 50 * 2 / 3) / 101  # 101 recalls 0.00, 0.01, ... 1.00; the first 51 are <= 1/2
    assert [result.ap, result.ap50, result.ap75, result.per_class["class 3"]] == pytest.approx([wanted] * 4)
    assert result.ar_100 == 1.0 and result.ar_1 == 0.5  # one detection per image misses the object of image 2


@pytest.mark.parametrize(("shift", "ap"), [(0, 1.0), (10, 0.7), (20, 0.4), (30, 0.1), (40, 0.0)])
def test_shifted_boxes_pass_the_demands_their_overlap_allows(shift, ap):
    """A box of width 100 shifted by s has IoU (100 - s) / (100 + s): 1, .818, .667, .538, .429."""
    predictions = perfect(TWO)
    for image in predictions.values():
        image["boxes"] = image["boxes"] + torch.tensor([shift, 0, shift, 0])
    result = average_precision(TWO, predictions)
    assert result.ap == pytest.approx(ap, abs=1e-9)
    assert result.ap50 == (shift <= 30) and result.ap75 == (shift <= 10)


def test_perfect_predictions_give_one_and_sizes_without_objects_nan():
    result = average_precision(TWO, perfect(TWO))
    assert [result.ap, result.ap50, result.ap75, result.ap_medium, result.ap_large] == ONES
    assert math.isnan(result.ap_small) and math.isnan(result.ar_small)
    assert result.per_class == pytest.approx({"class 3": 1.0})  # class 8 does not occur
    assert result.images == 3


def test_wrong_label_and_duplicates_are_errors():
    wrong = {i: {**p, "labels": p["labels"] + 1} for i, p in perfect(TWO).items()}
    assert average_precision(TWO, wrong).ap == 0.0
    twice = {i: {n: torch.cat([v, v]) for n, v in p.items()} for i, p in perfect(TWO).items()}
    assert average_precision(TWO, twice).ap == pytest.approx((51 * 1 + 50 * 2 / 3) / 101, abs=1e-9)


def test_annotation_id_zero_counts_like_any_other():
    """pycocotools by itself would take the match with annotation 0 for no match."""
    one = Drawn({1: [(3, 10, 10, 100, 50, 0)]})
    assert average_precision(one, perfect(one)).ap == pytest.approx(1.0)


def test_detections_in_a_crowd_are_neither_right_nor_wrong():
    crowded = Drawn({1: [(3, 10, 10, 50, 50, 0), (3, 100, 100, 200, 100, 1)]})
    rows = [(0.9, 0, 110, 110, 130, 150), (0.8, 0, 150, 110, 170, 150), (0.7, 0, 10, 10, 60, 60)]
    assert average_precision(crowded, {1: found(*rows)}).ap == pytest.approx(1.0)
    alone = Drawn({1: [(3, 10, 10, 50, 50, 0)]})
    assert average_precision(alone, {1: found(*rows)}).ap == pytest.approx(1 / 3, abs=1e-9)


# --- edges

def test_no_predictions_give_zero():
    nothing = {1: found(), 2: found()}
    for predictions in ({}, nothing):
        result = average_precision(TWO, predictions)
        assert result.ap == result.ap50 == result.ar_100 == 0.0 and result.per_class == {"class 3": 0.0}


def test_no_objects_give_nan_and_no_class():
    result = average_precision(Drawn({1: [], 2: []}), {1: found((0.5, 0, 0, 0, 9, 9))})
    assert math.isnan(result.ap) and result.per_class == {} and result.images == 2


def test_image_ids_choose_what_counts():
    predictions = {1: perfect(TWO)[1]}
    assert average_precision(TWO, predictions).ap == pytest.approx(51 / 101)
    assert average_precision(TWO, predictions, image_ids=[1]).ap == pytest.approx(1.0)
    assert average_precision(TWO, predictions, image_ids=iter([1, 1])).images == 1
    assert average_precision(TWO, predictions, image_ids=[2]).ap == 0.0


def test_labels_without_a_category_are_no_detections():
    kept = Drawn(TWO.objects, keep=True)
    predictions = perfect(kept)
    predictions[1] = {n: torch.cat([v, v]) for n, v in predictions[1].items()}
    predictions[1]["labels"][0] = 5  # a gap between the categories 3 and 8
    assert average_precision(kept, predictions).ap == pytest.approx(1.0)


@pytest.mark.parametrize(("predictions", "words"), [
    ({77: found()}, "image id 77 is not in the data set"),
    ({1: found((float("nan"), 0, 0, 0, 1, 1))}, "image 1: predictions hold a score or box that is nan"),
    ({1: found((0.5, 0, 0, 0, float("inf"), 1))}, "image 1: predictions hold a score or box that is nan"),
    ({1: found((0.5, 2, 0, 0, 1, 1))}, "image 1: predictions hold a label outside 0 to 1"),
    ({1: {**found((0.5, 0, 0, 0, 1, 1)), "labels": torch.zeros(2)}}, r"got scores \(1,\), labels \(2,\)"),
])
def test_predictions_that_do_not_fit_are_refused(predictions, words):
    with pytest.raises(ValueError, match=words):
        average_precision(TWO, predictions)


def test_two_classes_of_one_name_stay_apart():
    data = Drawn({1: [(3, 0, 0, 50, 50, 0), (8, 100, 100, 50, 50, 0)]})
    data.classes = ["cat", "cat"]
    assert average_precision(data, perfect(data)).per_class == pytest.approx({"cat": 1, "cat (id 8)": 1})


# --- against pycocotools itself

def random_case(seed: int) -> tuple[Drawn, dict]:
    """Twenty images, four classes, crowds, all sizes; noisy and false detections, at times over 100."""
    random = np.random.default_rng(seed)
    categories = (2, 5, 6, 90)
    objects = {}
    for image_id in random.choice(10_000, 20, replace=False).tolist():
        count = int(random.integers(0, 9))
        sizes = np.exp(random.uniform(1, 5.5, (count, 2)))
        places = random.uniform(0, 200, (count, 2))
        objects[image_id] = [
            (int(random.choice(categories[:3])), *place, *size, int(random.random() < 0.1))
            for place, size in zip(places.tolist(), sizes.tolist(), strict=True)]
    data = Drawn(objects, categories)
    predictions = {}
    for image_id, rows in objects.items():
        noisy = [(random.random(), random.integers(0, 4) if random.random() < 0.2 else categories.index(c),
                  *(np.array([x, y, x + w, y + h]) + random.normal(0, 0.06, 4) * [w, h, w, h]))
                 for c, x, y, w, h, _ in rows for _ in range(random.integers(0, 4))]
        places = [np.sort(random.uniform(0, 300, (2, 2)), axis=0) for _ in range(random.integers(0, 120))]
        false = [(0.5 * random.random(), random.integers(0, 4), *place.flat) for place in places]
        predictions[image_id] = found(*noisy, *false)
    return data, predictions


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pycocotools_through_its_files(tmp_path, seed):
    data, predictions = random_case(seed)
    truth = data.coco_ground_truth()
    for annotation in truth["annotations"]:
        annotation["id"] += 1
    rows = []
    for i, p in predictions.items():
        columns = (p[name].tolist() for name in ("scores", "labels", "boxes"))
        for score, label, box in zip(*columns, strict=True):
            corner, size = box[:2], [box[2] - box[0], box[3] - box[1]]
            category = data.label_to_category[label]
            rows.append({"image_id": i, "category_id": category, "score": score, "bbox": corner + size})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(rows))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(tmp_path / "truth.json")
        run = COCOeval(reference, reference.loadRes(str(tmp_path / "found.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    result = average_precision(data, predictions)
    mine = list(result.to_dict().values())[:12]
    assert 0.05 < mine[0] < 0.95
    np.testing.assert_allclose([-1 if value is None else value for value in mine], run.stats, atol=1e-12)
    assert len(result.per_class) == 3  # category 90 never occurs
    assert np.mean(list(result.per_class.values())) == pytest.approx(result.ap, abs=1e-12)


# --- the result object

def test_result_prints_as_a_table_and_turns_into_json(capsys):
    result = average_precision(TWO, perfect(TWO))
    assert capsys.readouterr() == ("", "")  # quiet
    assert str(result) == (
        "    AP    AP50    AP75   small  medium   large\n"
        " 1.000   1.000   1.000       -   1.000   1.000   (3 images)\n"
        "  class 3   1.000"
    )
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["ap_small"] is None and values["ap"] == pytest.approx(1.0)
    assert values["per_class"] == pytest.approx({"class 3": 1.0})
    assert list(values)[:6] == ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
    with pytest.raises(AttributeError):
        result.ap = 0.5
    assert isinstance(result, AveragePrecision)


# --- running a model

class Oracle(nn.Module):
    """Knows the answers of a data set by image size and first pixel; checks how it is called."""

    def __init__(self, dataset, recipe: DataRecipe):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(3).eval()
        self.answers, self.recipe, self.batches, self.index = [t for _, t in dataset], recipe, [], 0

    def forward(self, images, mask):
        """Remember the shapes."""
        assert not self.training and not self.dropout.training
        assert torch.is_inference_mode_enabled() and mask.dtype == torch.bool
        assert denormalise(images, self.recipe).max() <= 1
        self.batches.append(tuple(images.shape))
        return images

    def postprocess(self, output, orig_sizes, top_k=100):
        """The ground truth of the next images, in pixels."""
        results = []
        for size in orig_sizes:
            target = self.answers[self.index]
            self.index += 1
            assert size.tolist() == target["orig_size"].tolist()
            boxes = cxcywh_to_xyxy(target["boxes"]) * size.flip(0).repeat(2)
            results.append({"scores": torch.ones(len(boxes)), "labels": target["labels"], "boxes": boxes})
        return results


RECIPE = DataRecipe(train_sizes=(64,), eval_size=64, max_size=96)


def test_evaluate_runs_the_model_in_batches_and_restores_its_modes():
    data = CocoFolder.open(TINY, "val")
    model = Oracle(data, RECIPE).train()
    model.frozen.eval()
    result = evaluate(model, data, RECIPE, batch_size=3)
    assert result.ap == pytest.approx(1.0) and result.images == 4
    assert result.per_class == pytest.approx({name: 1.0 for name in data.classes})
    assert model.batches == [(3, 3, 64, 85), (1, 3, 64, 64)]
    assert model.training and model.dropout.training and not model.frozen.training


def test_limit_looks_at_the_first_images_only():
    data = CocoFolder.open(TINY, "val")
    model = Oracle(data, RECIPE)
    result = evaluate(model, data, RECIPE, limit=2)
    assert result.ap == pytest.approx(1.0) and result.images == 2
    assert list(result.per_class) == ["stop sign", "apple", "clock", "toothbrush"]
    assert list(predict(Oracle(data, RECIPE), data, RECIPE, limit=99)) == data.image_ids
    with pytest.raises(ValueError, match="limit must be at least one image, got 0"):
        evaluate(model, data, RECIPE, limit=0)


def test_predictions_are_by_image_id_on_the_cpu():
    data = CocoFolder.open(TINY, "val", keep_category_ids=True)
    predictions = predict(Oracle(data, RECIPE), data, RECIPE, batch_size=2, workers=1)
    assert list(predictions) == [802, 872, 885, 1000]
    assert predictions[802]["labels"].tolist() == [13, 53]
    assert average_precision(data, predictions).ap == pytest.approx(1.0)


def test_modes_come_back_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    with pytest.raises(RuntimeError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert [module.training for module in model.modules()] == [True, True, False]


def test_bccd_perfect_and_shifted():
    if not os.environ.get("DETR_MINI_BCCD"):
        pytest.skip("DETR_MINI_BCCD does not name the BCCD folder (python -m detr_mini.data.download bccd)")
    data = CocoFolder.open(os.environ["DETR_MINI_BCCD"], "val")
    predictions = perfect(data)
    result = average_precision(data, predictions)
    assert result.per_class == pytest.approx({"Platelets": 1.0, "RBC": 1.0, "WBC": 1.0})
    for image in predictions.values():
        image["boxes"] = image["boxes"] + 10
    shifted = average_precision(data, predictions)
    assert 0.2 < shifted.ap < 0.5 < shifted.ap50 < 0.8
    assert shifted.per_class["Platelets"] < shifted.per_class["RBC"] < shifted.per_class["WBC"]  # by size
