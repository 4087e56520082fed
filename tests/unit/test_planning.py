"""What a training would take, against what is known."""

from dataclasses import replace

import pytest
import torch

from detr_mini import zoo
from detr_mini.__main__ import main
from detr_mini.planning import (
    ADAMW,
    COCO_TRAIN_IMAGES,
    EPOCH_OF_DETR,
    GIGA,
    GPUS,
    REACHED,
    ROOM,
    TIMED,
    Timed,
    forward_work,
    kept_for_backward,
    plan,
    smallest_accumulate,
    usual_size,
)
from detr_mini.recipes import DETR_SCENES, resized


def on_meta(name: str, preset: str) -> torch.nn.Module:
    with torch.device("meta"):
        return zoo.entry(name).detector(zoo.recipe(name, preset).model).train()


@pytest.mark.parametrize(("name", "published"), [("detr", 86), ("conditional", 90), ("deformable", 173)])
def test_work_is_near_the_published_figure(name: str, published: int) -> None:
    """The papers' GFLOPs count a multiplication with its addition as one, over images of validation size."""
    counted = forward_work(on_meta(name, "coco"), (800, 1066)) / 2e9
    assert counted == pytest.approx(published, rel=0.12)


def test_basis_is_the_authors_own_epoch() -> None:
    """28 minutes of eight V100 come out again."""
    found = plan("detr", zoo.recipe("detr", "coco"), COCO_TRAIN_IMAGES, "v100", 8)
    assert found.hours[0] == found.hours[1] and found.hours[0] * 3600 / 300 == pytest.approx(EPOCH_OF_DETR, rel=0.05)
    assert 0.1 < REACHED < 0.5


def test_steps_share_and_hours() -> None:
    """Twice the GPUs, half the hours; micro-batches and half precision need less memory."""
    recipe = zoo.recipe("deformable", "coco")
    one = plan("deformable", recipe, 1000, "a100", 4)
    other = plan("deformable", recipe, 1000, "a100", 8, half=True, accumulate=2)
    assert (one.steps, one.at_once, other.at_once) == (50 * 1000 // 32, 8, 2)
    faster = GPUS["a100"].half / GPUS["a100"].float32
    assert one.hours[0] == pytest.approx(2 * other.hours[1]) == pytest.approx(2 * faster * other.hours[0])
    assert one.activations // 2 == other.activations
    assert one.memory == ADAMW * one.parameters + 8 * one.activations
    said = str(one)
    assert "DOES NOT FIT" not in said and "nobody has compared: time 200 steps first" in said
    assert f"{one.hours[0]:.1f} hours" in said
    assert "DOES NOT FIT" in str(plan("deformable", recipe, 1000, "t4", 1))


def test_kept_tensors_are_counted_on_real_ones_alike() -> None:
    """The meta device says what a real forward pass keeps; more, since it has no fused attention."""
    torch.manual_seed(0)
    meta, real = on_meta("detr", "scenes"), zoo.build("detr").train()
    own, kept = {p.data_ptr() for p in (*real.parameters(), *real.buffers())}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = real(torch.zeros(1, 3, 128, 128), torch.zeros(1, 128, 128, dtype=torch.bool))
    assert len(output.logits) == 3
    assert 1.0 <= kept_for_backward(meta, (128, 128)) / sum(size for _, size in kept.values()) < 1.2


def test_more_queries_more_work() -> None:
    few, many = (plan("detr", resized(DETR_SCENES, queries=count), 4000, "t4", 1) for count in (25, 250))
    assert few.work < many.work and few.activations < many.activations and few.memory < GIGA
    assert usual_size(DETR_SCENES) == (128, 128)


def test_on_the_command_line(capsys: pytest.CaptureFixture) -> None:
    """The plan of a published form; what cannot be planned is said in one line."""
    assert main(["plan", "--detector", "deformable", "--preset", "coco-two-stage", "--precision", "bf16"]) == 0
    said = capsys.readouterr().out
    assert "deformable, 41.2 M parameters" in said and "50 epochs of 118,287" in said and " to " in said
    assert main(["plan", "--gpus", "3"]) == 1
    assert "cannot be shared by 3 GPUs" in capsys.readouterr().err


def test_what_cannot_be_planned() -> None:
    recipe = zoo.recipe("detr", "coco")
    with pytest.raises(ValueError, match="no GPU 'abacus': choose one of t4"):
        plan("detr", recipe, 10, "abacus")
    with pytest.raises(ValueError, match="16 cannot be shared by 3 GPUs"):
        plan("detr", recipe, 10, "a100", 3)
    with pytest.raises(ValueError, match="neither steps nor epochs"):
        str(plan("detr", replace(recipe, train=replace(recipe.train, epochs=None)), 10))


@pytest.mark.parametrize("timed", TIMED, ids=lambda timed: f"{timed.detector} {timed.preset}")
def test_plans_against_trainings_that_their_authors_timed(timed: Timed) -> None:
    """Eight V100, float32: as long as published, or up to a fifth longer."""
    planned = plan(timed.detector, zoo.recipe(timed.detector, timed.preset), COCO_TRAIN_IMAGES, "v100", 8).hours[0]
    assert 0.98 < planned / timed.hours < 1.21


def test_micro_batches_are_as_few_as_fit() -> None:
    """Two-stage Deformable DETR, batch 32, on one GPU: more memory, fewer parts; half precision, fewer; one part less
    would not fit."""
    recipe = zoo.recipe("deformable", "coco-two-stage")
    parts = {gpu: smallest_accumulate("deformable", recipe, gpu) for gpu in ("a100", "rtx4090", "t4")}
    assert parts == {"a100": 4, "rtx4090": 8, "t4": 16}
    assert smallest_accumulate("deformable", recipe, "a100", half=True) == 2
    assert plan("deformable", recipe, 1000, "a100", 1, accumulate=2).memory > ROOM * 80 * GIGA
    with pytest.raises(ValueError, match="not even one image at a time fits into the 1 GiB"):
        smallest_accumulate("deformable", recipe, replace(GPUS["t4"], memory=1))
