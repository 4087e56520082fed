import pytest
import torch
import torchvision.ops
from hypothesis import given
from hypothesis import strategies as st

from detr_mini.boxes import cxcywh_to_xyxy, giou, inverse_sigmoid, iou, pairwise_giou, pairwise_iou, xyxy_to_cxcywh


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 4) cxcywh inside the unit square."""
    numbers = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed))
    return torch.cat([numbers[:, :2], numbers[:, 2:] * 0.5 + 0.01], dim=1)


def test_formats_agree_with_torchvision_and_undo_each_other():
    boxes = random_boxes(100)
    corners = cxcywh_to_xyxy(boxes)
    torch.testing.assert_close(corners, torchvision.ops.box_convert(boxes, "cxcywh", "xyxy"))
    torch.testing.assert_close(xyxy_to_cxcywh(corners), boxes)


def test_pairwise_overlaps_agree_with_torchvision():
    first, second = cxcywh_to_xyxy(random_boxes(40, 1)), cxcywh_to_xyxy(random_boxes(30, 2))
    torch.testing.assert_close(pairwise_iou(first, second), torchvision.ops.box_iou(first, second))
    expected = torchvision.ops.generalized_box_iou(first, second)
    torch.testing.assert_close(pairwise_giou(first, second), expected)
    torch.testing.assert_close(giou(first[:30], second), expected[:30].diagonal())


def test_values_that_can_be_checked_by_hand():
    square, shifted = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])
    assert iou(square, shifted) == pytest.approx(2 / 6)
    assert giou(square, shifted) == pytest.approx(2 / 6)  # the hull is the union: nothing to subtract
    far = torch.tensor([4.0, 0, 6, 2])
    assert iou(square, far) == 0
    assert giou(square, far) == pytest.approx(-(12 - 8) / 12)


def test_giou_grows_while_iou_stays_flat():
    square = torch.tensor([0.0, 0, 1, 1])
    approaching = [torch.tensor([x, 0, x + 1, 1]) for x in (5.0, 3.0, 1.5)]
    assert [iou(square, box).item() for box in approaching] == [0, 0, 0]
    values = [giou(square, box).item() for box in approaching]
    assert values == sorted(values) and len(set(values)) == 3


@given(st.floats(1e-4, 1 - 1e-4))
def test_inverse_sigmoid_undoes_sigmoid(x: float):
    assert inverse_sigmoid(torch.tensor(x, dtype=torch.float64)).sigmoid().item() == pytest.approx(x, abs=1e-9)


def test_inverse_sigmoid_stays_finite_at_the_ends():
    ends = inverse_sigmoid(torch.tensor([0.0, 1.0, -0.5, 1.5]))
    assert torch.isfinite(ends).all() and ends[0] < -11 and ends[1] > 11
