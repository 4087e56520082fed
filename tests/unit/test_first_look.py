"""What a data set of one's own may get wrong is told at the first items, before it spoils a training."""

import pytest
import torch
from test_training import Squares, tiny_recipe

from detr_mini.data.first_look import look_at_first
from detr_mini.detr import Detr
from detr_mini.training import fit


class Spoiled(Squares):
    """Squares with something changed in every item."""

    def __init__(self, image=lambda image: image, **fields):
        self.image, self.fields = image, fields

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return self.image(image), target | {name: change(target[name]) for name, change in self.fields.items()}


WRONG = {
    "looks like pixels: boxes must be normalised cxcywh": Spoiled(boxes=lambda b: b * 128),
    "boxes of float64: they must be float32, boxes.float()": Spoiled(boxes=lambda b: b.double()),
    "boxes that are a list": Spoiled(boxes=lambda b: b.tolist()),
    "boxes of shape (4,)": Spoiled(boxes=lambda b: b[0]),
    "a box with a number that is not finite": Spoiled(boxes=lambda b: b * float("nan")),
    "an image of float32: it must be uint8 from 0 to 255": Spoiled(lambda image: image / 255),
    "a grey image (1, 128, 128): repeat it three times": Spoiled(lambda image: image[:1]),
    "colours last: turn it": Spoiled(lambda image: image.permute(1, 2, 0)),
    "an image of shape (4, 128, 128)": Spoiled(lambda image: torch.cat([image, image[:1]])),
    "an image that is a ndarray": Spoiled(lambda image: image.numpy()),
    "an image_id that is a Tensor: it must be a plain int": Spoiled(image_id=torch.tensor),
    "labels of int32: they must be int64": Spoiled(labels=lambda labels: labels.int()),
    "labels of float32: they must be int64": Spoiled(labels=lambda labels: labels.float()),
    "labels [2], and the detector has 2 classes: they must be 0 to 1": Spoiled(labels=lambda labels: labels + 2),
    "labels [-1]": Spoiled(labels=lambda labels: labels - 1),
    "2 labels and 1 boxes": Spoiled(labels=lambda labels: labels.repeat(2)),
    "an orig_size that is no tensor of two numbers": Spoiled(orig_size=lambda size: (128, 128)),
}


@pytest.mark.parametrize("words", WRONG)
def test_the_first_item_at_fault_is_named_with_what_is_expected(words):
    with pytest.raises(ValueError) as error:
        look_at_first(WRONG[words], classes=2)
    assert str(error.value).startswith("item 0 of the data set has ") and words in str(error.value)


def test_fit_looks_before_it_begins():
    with pytest.raises(ValueError, match="looks like pixels"):
        fit(Detr(tiny_recipe().model), Spoiled(boxes=lambda b: b * 128), tiny_recipe(), progress=False)


def test_an_item_that_is_no_pair_and_a_target_without_a_field():
    with pytest.raises(ValueError, match="item 0 of the data set is no pair"):
        look_at_first([torch.zeros(3, 8, 8, dtype=torch.uint8)], 2)
    image, target = Squares()[0]
    target.pop("image_id")
    with pytest.raises(ValueError, match="a target without 'image_id'"):
        look_at_first([(image, target)], 2)


def test_items_as_they_should_be_pass_and_leave_random_numbers_alone():
    before = torch.get_rng_state()
    look_at_first(Squares(), 2)
    look_at_first(Spoiled(boxes=lambda b: torch.tensor([]), labels=lambda labels: torch.tensor([])), 2)  # no objects
    assert torch.equal(torch.get_rng_state(), before)


def test_images_without_objects_train_however_empty_is_written():
    empty = Spoiled(boxes=lambda b: torch.tensor([]), labels=lambda labels: torch.tensor([]))
    run = fit(Detr(tiny_recipe().model), empty, tiny_recipe(steps=2), progress=False)
    assert run.history[-1]["loss_bbox"] == run.history[-1]["loss_giou"] == 0 and run.history[-1]["loss_ce"] > 0
