import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from detr_mini.detr import Detr
from detr_mini.planning import kept_for_backward
from detr_mini.recipes import DEFORMABLE_COCO, DETR_SCENES, Recipe, TrainRecipe
from detr_mini.training import Draws, TrainingError, count_steps, fit, lr_factor, parameter_groups
from detr_mini.variants.deformable import DeformableDetr

TINY = replace(
    DETR_SCENES.model, d_model=32, heads=4, encoder_layers=1, decoder_layers=2, feed_forward=32, queries=6, classes=2,
)


def tiny_recipe(dropout: float = 0.1, **train) -> Recipe:
    """A detector that trains in moments; the backbone learns too."""
    model = replace(TINY, dropout=dropout)
    settings = {"steps": 8, "batch": 4, "warmup": 2, "drop": 0.75, "backbone_lr": 1e-4} | train
    return replace(DETR_SCENES, model=model, train=TrainRecipe(lr=1e-3, clip=1.0, **settings))


class Squares(torch.utils.data.Dataset):
    """Ten dark images, each with one bright square; the smallest data set with the interface of all others."""

    classes, num_classes, label_to_category = ["square", "other"], 2, {0: 1, 1: 2}

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int):
        image = torch.zeros(3, 128, 128, dtype=torch.uint8)
        image[:, 10 * index : 10 * index + 30, 20:60] = 255
        box = torch.tensor([[40 / 128, (10 * index + 15) / 128, 40 / 128, 30 / 128]])
        size = torch.tensor([128, 128])
        return image, {"labels": torch.tensor([0]), "boxes": box, "image_id": index + 50, "orig_size": size}


def train(folder: Path | None, **options):
    torch.manual_seed(0)
    recipe = options.pop("recipe", None) or tiny_recipe()
    model = Detr(recipe.model)
    return model, fit(model, Squares(), recipe, folder, progress=False, **options)


def test_a_run_leaves_its_files_and_its_history(tmp_path):
    model, run = train(tmp_path / "run", save_every=3)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log == run.history and [line["step"] for line in log] == list(range(1, 9))
    assert {"loss", "loss_ce", "loss_bbox", "loss_giou", "lr", "grad_norm", "seconds"} <= set(log[0])
    assert sorted(p.name for p in (tmp_path / "run").glob("[!.]*")) == ["final.safetensors", "last.pt", "log.jsonl"]
    saved = load_file(tmp_path / "run" / "final.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())


def test_training_lowers_the_loss():
    _, run = train(None, recipe=tiny_recipe(steps=40, drop=1.0))
    losses = [line["loss"] for line in run.history]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    first, second, other = train(None)[0], train(None)[0], train(None, seed=1)[0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.decoder.query_embed.weight, other.decoder.query_embed.weight)


KILLED = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_training import Squares, tiny_recipe, Detr, fit
torch.manual_seed(0)
torch.set_num_threads(1)
recipe = tiny_recipe()
fit(Detr(recipe.model), Squares(), recipe, {folder!r}, progress=False, save_every=2,
    callbacks=(lambda step: print(step.number, flush=True),))
"""


def start(folder: Path) -> subprocess.Popen:
    """The same tiny training in a process of its own."""
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ)


def test_a_killed_run_resumes_to_identical_bits(tmp_path):
    whole = start(tmp_path / "whole")
    process = start(tmp_path / "killed")
    for _ in range(5):  # wait for step 5: one step after the checkpoint of step 4
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "final.safetensors").exists()
    resumed = start(tmp_path / "killed")
    said = resumed.communicate(timeout=240)[0].split()
    whole.communicate(timeout=240)
    assert said[0] == "5" and said[-1] == "8", "it should go on after the checkpoint of step 4"
    first, second = (load_file(tmp_path / name / "final.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9)), "no step is logged twice"


def test_a_finished_run_is_not_trained_again(tmp_path):
    model, run = train(tmp_path)
    steps = []
    again, second = train(tmp_path, callbacks=(steps.append,))
    assert second.history == run.history and not steps
    assert torch.equal(again.decoder.query_embed.weight, model.decoder.query_embed.weight)


def test_two_runs_in_one_folder(tmp_path):
    """The second one is refused while the first one trains, and welcome after; what a kill left behind goes."""
    def second(step) -> None:
        with pytest.raises(TrainingError, match="another process trains in .*choose another folder"):
            train(tmp_path)
        (tmp_path / ".last.pt.abc.tmp").write_bytes(b"half")

    def stop(step) -> None:
        raise KeyboardInterrupt

    train(tmp_path, callbacks=(second,))
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(tmp_path / "other", callbacks=(stop,))
    train(tmp_path)
    train(tmp_path / "other")
    assert stopped.value.__traceback__  # what a notebook keeps of an interrupted cell does not keep the folder
    assert not list(tmp_path.glob(".*.tmp"))


def test_another_recipe_in_the_same_folder_is_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(TrainingError, match=r"another recipe \(train.steps 8, now 9\). Choose another folder"):
        train(tmp_path, recipe=tiny_recipe(steps=9))
    (tmp_path / "last.pt").write_bytes(b"half")
    with pytest.raises(TrainingError, match="last.pt is damaged"):
        train(tmp_path)


def test_a_loss_that_is_not_finite_names_the_images():
    def poison(step) -> None:
        if step.number == 2:
            step.model.decoder.class_head.bias.data.fill_(float("inf"))

    with pytest.raises((TrainingError, ValueError), match=r"image_id 5\d|on images \[5\d"):
        train(None, callbacks=(poison,))


def test_callbacks_see_matches_and_losses():
    seen = []
    train(None, recipe=tiny_recipe(steps=2), callbacks=(seen.append,))
    assert [step.number for step in seen] == [1, 2]
    assert len(seen[0].matches.pairs(1, 0)) == 1 and seen[0].losses["loss_ce"] > 0
    assert seen[0].output.boxes.shape == (2, 4, 6, 4)


def test_bf16_learns_as_float32_does_and_keeps_float32_weights(tmp_path):
    _, exact = train(None)
    model, half = train(tmp_path / "run", precision="bf16")
    for one, other in zip(exact.history, half.history, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.1) and other["loss"] != one["loss"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_accumulation_uses_the_same_images():
    _, whole = train(None, recipe=tiny_recipe(steps=1))
    _, parts = train(None, recipe=tiny_recipe(steps=1), accumulate=2)
    assert len(whole.history) == len(parts.history) == 1
    with pytest.raises(TrainingError, match="a batch of 4 cannot be shared by 1 processes in 3 micro-batches"):
        train(None, accumulate=3)


def test_recomputing_changes_memory_and_nothing_else():
    """The same losses with dropout and all; Deformable DETR's encoder at COCO's size keeps less than half."""
    (kept, first), (again, second) = train(None), train(None, recompute=True)
    for a, b in zip(first.history, second.history, strict=True):
        assert [b[name] for name in ("loss", "grad_norm")] == pytest.approx([a["loss"], a["grad_norm"]], rel=1e-4)
    assert again.encoder.recompute and not kept.encoder.recompute
    with torch.device("meta"):
        model = DeformableDetr(DEFORMABLE_COCO.model).train()
    plain = kept_for_backward(model, (480, 640))
    model.encoder.recompute = True
    assert kept_for_backward(model, (480, 640)) < 0.6 * plain


def test_the_best_weights_are_kept(tmp_path):
    class Score:
        def __init__(self, value: float):
            self.ap = self.ap50 = value

    values = iter([0.1, 0.5, 0.2, 0.3])
    _, run = train(tmp_path, evaluate=lambda model: Score(next(values)), evaluate_every=2)
    assert run.best_ap == 0.5 and (tmp_path / "best.safetensors").is_file()
    assert [line["ap"] for line in run.history if "ap" in line] == [0.1, 0.5, 0.2, 0.3]


def test_tensorboard_files_are_written_when_asked_for(tmp_path):
    pytest.importorskip("tensorboard")
    train(tmp_path, recipe=tiny_recipe(steps=1), tensorboard=True)
    assert [path.name for path in tmp_path.glob("events.out.tfevents*")]


def test_learning_rates_warm_up_and_drop():
    recipe = TrainRecipe(lr=1.0, steps=10, warmup=4, drop=0.5)
    assert [lr_factor(step, 10, recipe) for step in range(10)] == [0.25, 0.5, 0.75, 1, 1] + [0.1] * 5


def test_parameter_groups_and_frozen_backbone():
    model = Detr(TINY)
    groups = parameter_groups(model, TrainRecipe(lr=1e-3, backbone_lr=1e-5, slow=("query_embed",)))
    assert sorted(group["lr"] for group in groups) == pytest.approx([1e-5, 1e-4, 1e-3])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    parameter_groups(model, TrainRecipe(backbone_lr=0.0))
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_augmentation_depends_on_the_position_alone():
    draws = Draws(Squares(), tiny_recipe(), seed=3)
    torch.manual_seed(1)
    first = [draws[position, 4][0] for position in range(8)]
    torch.manual_seed(2)
    second = [draws[position, 4][0] for position in reversed(range(8))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({image.sum(0).argmax().item() for image in first}) == 2, "some are flipped and some are not"


def test_a_schedule_needs_steps_or_epochs():
    assert count_steps(TrainRecipe(epochs=3, batch=4), 10) == 7
    with pytest.raises(ValueError, match="neither steps nor epochs"):
        count_steps(TrainRecipe(), 10)
