"""The dense detector of notebook 04: guesses, labels, losses, suppression, and that it learns."""

import pytest
import torch
import torchvision

from detr_mini.boxes import cxcywh_to_xyxy, giou, pairwise_iou
from detr_mini.course import dense
from detr_mini.data.scenes import Scenes
from detr_mini.recipes import DETR_SCENES


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """A few scenes."""
    return Scenes(24, seed=3)


def test_guesses_cover_the_image_evenly() -> None:
    """Row by row: the second place lies to the right of the first."""
    guesses = dense.make_anchors(4, (0.2, 0.5))
    assert guesses.shape == (32, 4)
    assert torch.allclose(guesses[0], torch.tensor([0.125, 0.125, 0.2, 0.2]))
    assert torch.allclose(guesses[3], torch.tensor([0.375, 0.125, 0.5, 0.5]))
    assert torch.allclose(guesses[-1], torch.tensor([0.875, 0.875, 0.5, 0.5]))


def test_labels_by_overlap(scenes: Scenes) -> None:
    """At least `high`: its object. Below `low`: nothing. Every object is somebody's; no objects, nobody's."""
    guesses = cxcywh_to_xyxy(dense.make_anchors())
    for index in range(len(scenes)):
        objects = cxcywh_to_xyxy(scenes[index][1]["boxes"])
        answers, overlap = dense.assign(guesses, objects), pairwise_iou(guesses, objects)
        best, owner = overlap.max(1)
        assert torch.equal(answers[best >= 0.5], owner[best >= 0.5])
        assert (answers[best < 0.4] < 0).sum() >= (best < 0.4).sum() - len(objects)
        assert set(range(len(objects))) <= set(answers.tolist())
        forced = (answers >= 0) & (best < 0.5)
        assert forced.sum() == (overlap.amax(0) < 0.5).sum()
    assert (dense.assign(guesses, torch.zeros(0, 4)) == dense.NOTHING).all()


def test_no_correction_leaves_the_guesses() -> None:
    """And a correction is measured in the guess's own size."""
    anchors = dense.make_anchors()
    assert torch.equal(dense.corrected(anchors, torch.zeros_like(anchors)), anchors)
    moved = dense.corrected(anchors[:1], torch.tensor([[1.0, 0.0, 0.0, 0.6931472]]))
    x, y, width, height = anchors[0].tolist()
    assert torch.allclose(moved, torch.tensor([[x + width, y, width, 2 * height]]))


def test_losses_against_their_definition() -> None:
    """Two images, one of them without objects; an unjudged guess costs nothing."""
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 5, 3), torch.rand(2, 5, 4) * 0.3 + 0.2
    answers = [torch.tensor([0, -1, 1, -2, 1]), torch.tensor([-1, -1, -2, -1, -1])]
    labels, objects = [torch.tensor([2, 0]), torch.zeros(0).long()], [torch.rand(2, 4) * 0.3 + 0.2, torch.zeros(0, 4)]
    found = dense.dense_losses(dense.Guesses(logits, boxes), answers, labels, objects)
    wanted, said = objects[0][[0, 1, 1]], boxes[0, [0, 2, 4]]
    assert found["loss_bbox"].item() == pytest.approx((said - wanted).abs().sum().item() / 3)
    far = 1 - giou(cxcywh_to_xyxy(said), cxcywh_to_xyxy(wanted))
    assert found["loss_giou"].item() == pytest.approx(far.mean().item(), rel=1e-5)
    truth, judged = torch.zeros(2, 5, 3), torch.stack(answers) != dense.UNJUDGED
    truth[0, [0, 2, 4], [2, 0, 0]] = 1
    each = torchvision.ops.sigmoid_focal_loss(logits, truth, DETR_SCENES.loss.focal_alpha, DETR_SCENES.loss.focal_gamma)
    assert found["loss_ce"].item() == pytest.approx(each[judged].sum().item() / 3, rel=1e-4)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_suppression_is_torchvisions(threshold: float) -> None:
    """Within classes, in the same order; an empty list stays empty."""
    torch.manual_seed(1)
    boxes = cxcywh_to_xyxy(torch.rand(60, 4) * 0.5 + 0.2) * 128
    scores, labels = torch.rand(60), torch.randint(3, (60,))
    assert torch.equal(dense.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))
    found = {7: {"scores": scores, "labels": labels, "boxes": boxes},
             8: {"scores": scores[:0], "labels": labels[:0], "boxes": boxes[:0]}}
    kept = torchvision.ops.batched_nms(boxes, scores, labels, threshold)
    cleaned = dense.suppress(found, threshold)
    assert torch.equal(cleaned[7]["boxes"], boxes[kept]) and torch.equal(cleaned[7]["labels"], labels[kept])
    assert cleaned[8]["boxes"].shape == (0, 4)


def test_it_learns_what_it_is_shown(scenes: Scenes) -> None:
    """Sixty steps on a few scenes halve the box loss; the frozen backbone stays as it was; two runs are one."""
    histories = []
    for _ in range(2):
        torch.manual_seed(0)
        model = dense.DenseDetector()
        before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
        features, heard = dense.read_features(model.backbone, scenes, batch_size=10), []
        assert features.maps.shape == (24, 128, 8, 8)
        histories.append(dense.fit_dense(model, features, steps=60, callback=heard.append))
        assert heard == histories[-1] and len(heard) == 60
        assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    assert histories[0][-1]["loss_giou"] < 0.6 * histories[0][0]["loss_giou"]
    assert histories[0][:5] == histories[1][:5]


def test_answers_are_sorted_and_in_pixels() -> None:
    """Scores fall, none is below the least, boxes are scaled by width and height of the original."""
    model = dense.DenseDetector()
    logits, boxes = torch.full((1, 192, 10), -9.0), model.anchors[None]  # of guess 9 it is too unsure
    logits[0, 5, 3], logits[0, 80, 7], logits[0, 9, 1] = 2.0, 4.0, -3.5
    result, = model.postprocess(dense.Guesses(logits, boxes), torch.tensor([[100, 200]]))
    assert result["labels"].tolist() == [7, 3]
    assert torch.allclose(result["scores"], torch.tensor([4.0, 2.0]).sigmoid())
    scale = torch.tensor([200, 100, 200, 100])
    assert torch.allclose(result["boxes"], cxcywh_to_xyxy(boxes[0, [80, 5]]) * scale)
