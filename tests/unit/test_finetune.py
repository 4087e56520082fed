"""Training on one's own data: a recipe fitted to it, and starting from the weights of another detector."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detr_mini import zoo
from detr_mini.__main__ import main
from detr_mini.checkpoints import CheckpointError, load_weights, read_facts, save_weights, to_official
from detr_mini.data.coco import CocoFolder
from detr_mini.data.labels import matching_rows
from detr_mini.efficientnet import LITE_MEAN
from detr_mini.fitting import DataFacts, choose_interval, facts_of, fitted_recipe
from detr_mini.official import coco_classes
from detr_mini.recipes import resized
from detr_mini.transfer import read_source, start_from

TINY_COCO = Path(__file__).parents[2] / "data" / "tiny_coco"
GOLDEN = Path(__file__).parents[1] / "golden"  # holds the names in DETR's own checkpoint
FACTS = DataFacts(images=205, objects=2805, classes=3, most=28, shorter=480, small=0.09)
SMALL = {"backbone": "small", "d_model": 32, "heads": 2, "feed_forward": 32, "queries": 4}


def build(system: str = "deformable", **model):
    """A detector of a few thousand weights."""
    torch.manual_seed(sum(map(ord, repr(model))))
    return zoo.build(system, model=resized(zoo.recipe(system), **(SMALL | model)).model)


def saved(place: Path, classes: list, system: str = "deformable", **model) -> Path:
    """Its weights in a file with class names."""
    save_weights(build(system, classes=len(classes), **model), place / "old.safetensors", classes=classes)
    return place / "old.safetensors"


# --- the recipe


def test_facts_are_counted_on_the_annotations():
    facts = facts_of(CocoFolder.open(TINY_COCO, "train"))
    assert (facts.images, facts.objects, facts.classes, facts.most, facts.shorter) == (6, 11, 6, 3, 120)
    assert 0.2 < facts.small < 0.3


def test_recipe_fits_the_data():
    recipe, choices = fitted_recipe("deformable", FACTS, gpu=False)
    assert recipe.model.queries == 60 and recipe.model.classes == 3 and recipe.model.levels == 2
    assert recipe.data.eval_size == 288 and recipe.data.train_sizes == (256, 288, 320) and recipe.data.mean == LITE_MEAN
    assert recipe.train.batch == 8 and recipe.train.steps == 80 * 205 // 8 and recipe.train.backbone_lr > 0
    assert {choice.option for choice in choices} == {
        "--detector", "--backbone", "--queries", "--size", "--batch", "--steps", "--lr", "--backbone-lr"}
    assert all(len(choice.why) > 10 for choice in choices)


@pytest.mark.parametrize("change, field, wanted", [
    ({"most": 3}, "model.queries", 20), ({"most": 140}, "model.queries", 280),
    ({"small": 0.01}, "data.eval_size", 320), ({"small": 0.5}, "data.eval_size", 256),
    ({"small": 0.0}, "data.eval_size", 256), ({"images": 20}, "train.backbone_lr", 0.0),
    ({"images": 3}, "train.batch", 1), ({"images": 3}, "train.steps", 360), ({"images": 60_000}, "train.steps", 90_000),
    ({"images": 60_000}, "data.train_sizes", (288,)),
])
def test_rules_at_their_ends(change, field, wanted):
    recipe, _ = fitted_recipe("deformable", replace(FACTS, **change), gpu=False)
    part, name = field.split(".")
    assert getattr(getattr(recipe, part), name) == wanted


def test_a_gpu_gets_the_papers_model_and_larger_images():
    recipe, _ = fitted_recipe("detr", replace(FACTS, images=4000, small=0.02), gpu=True, backbone="resnet50")
    assert recipe.model.d_model == 256 and recipe.model.encoder_layers == 6 and recipe.data.eval_size == 800
    assert recipe.train.batch == 16 and recipe.train.lr == 1e-4


@pytest.mark.parametrize("name", zoo.names())
def test_every_detector_can_be_built_as_fitted(name):
    recipe, _ = fitted_recipe(name, FACTS, gpu=False)
    assert zoo.build(name, model=recipe.model).recipe.queries == 60


def test_batch_given_sets_the_steps_and_no_images_are_refused():
    recipe, _ = fitted_recipe("detr", FACTS, gpu=False, batch=4)
    assert recipe.train.batch == 4 and recipe.train.steps == 80 * 205 // 4
    with pytest.raises(ValueError, match="no images"):
        fitted_recipe("detr", replace(FACTS, images=0), gpu=False)


def test_evaluations_are_about_ten_and_never_before_every_image_was_seen():
    assert choose_interval(2000, 205, 8) == 200
    assert choose_interval(100, 4000, 8) == 100
    assert choose_interval(5, 1, 8) == 1


# --- the weights


def test_classes_are_matched_by_name():
    assert matching_rows(["cat", None, "Dog "], ["dog", "bird", "cat"]) == [(2, 0), (0, 2)]
    assert matching_rows([], ["dog"]) == []


@pytest.mark.parametrize("system", zoo.names())
def test_all_is_kept_but_classes_of_other_names(system, tmp_path):
    path = saved(tmp_path, ["cat", "dog", "bird"], system)
    old, model = load_weights(path).state_dict(), build(system, classes=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    words = start_from(model, read_source(path), ["fish", "cat"])
    for name, tensor in model.state_dict().items():
        if "class_head" not in name:
            assert torch.equal(tensor, old[name]), name
        else:
            assert torch.equal(tensor[1], old[name][0]) and torch.equal(tensor[0], before[name][0]), name
    assert "class head, taken over by name: cat" in words and "class head, starting anew: fish" in words
    assert "class head, left behind: dog, bird" in words


def test_softmax_head_keeps_no_object(tmp_path):
    path = saved(tmp_path, ["cat", "dog"], "detr", head="softmax")
    old, model = load_weights(path).state_dict(), build("detr", head="softmax", classes=3)
    start_from(model, read_source(path), ["x", "y", "z"])
    assert torch.equal(model.decoder.class_head.weight[-1], old["decoder.class_head.weight"][-1])


@pytest.mark.parametrize("queries", [3, 9])
def test_queries_that_fit_are_kept(tmp_path, queries):
    path = saved(tmp_path, ["cat"])
    model = build(queries=queries, classes=1)
    words = start_from(model, read_source(path), ["cat"])
    both, old = min(4, queries), load_weights(path).state_dict()["decoder.query_embed.weight"]
    assert torch.equal(model.decoder.query_embed.weight[:both], old[:both])
    assert words[-1] == f"queries: {both} taken over, {queries - both} starting anew"


def test_another_system_is_refused_by_name(tmp_path):
    path = saved(tmp_path, ["cat"], "dab")
    with pytest.raises(CheckpointError, match="holds weights of dab, and deformable is to be trained.*--detector dab"):
        start_from(build(classes=1), read_source(path), ["cat"])


def test_another_shape_is_refused_by_part_and_nothing_is_changed(tmp_path):
    path = saved(tmp_path, ["cat"], decoder_layers=2)
    model = build(classes=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit the model: decoder\.layers\.2.*there None"):
        start_from(model, read_source(path), ["cat"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_official_checkpoint_for_coco_is_a_source_too(tmp_path):
    model = zoo.build("detr", "coco")
    state = model.state_dict()
    names = json.loads((GOLDEN / "detr.keys.json").read_text())["keys"]
    torch.save({"model": to_official("detr", state, list(names))}, tmp_path / "detr.pth")
    source = read_source(tmp_path / "detr.pth")
    assert source.system == "detr" and source.classes[18] == "dog" and source.classes[12] is None
    fresh = zoo.build("detr", model=replace(source.recipe, classes=2))
    words = start_from(fresh, source, ["wolf", "dog"])
    assert torch.equal(fresh.decoder.class_head.weight[1], state["decoder.class_head.weight"][18])
    assert torch.equal(fresh.backbone.body.conv1.weight, state["backbone.body.conv1.weight"])
    assert "class head, taken over by name: dog" in words


def test_coco_has_eighty_names_on_ninety_one_rows():
    assert len(coco_classes()) == 91 and sum(name is not None for name in coco_classes()) == 80


@pytest.mark.parametrize("name, words", [("gone.safetensors", "no weights at"), ("gone.pth", "no weights at")])
def test_missing_file_is_named(tmp_path, name, words):
    with pytest.raises(FileNotFoundError, match=words):
        read_source(tmp_path / name)


# --- the command


def test_train_says_what_it_chose_and_keeps_what_is_given(tmp_path, capsys):
    first = ["train", "--data", str(TINY_COCO), "--val-split", "train", "--backbone", "small", "--size", "64"]
    record = tmp_path / "run.jsonl"
    assert main([*first, "--steps", "2", "--to", str(tmp_path / "a"), "--record", str(record)]) == 0
    said = capsys.readouterr().out
    assert "6 images, 11 objects in 6 classes; fitted to them:" in said
    assert "--size           64                 as you said" in said and "twice the 3 objects" in said
    facts = read_facts(tmp_path / "a" / "final.safetensors")
    assert facts["system"] == "deformable" and facts["recipe"]["queries"] == 20 and facts["data"]["eval_size"] == 64
    head, *curve = map(json.loads, record.read_text().splitlines())
    assert head["detector"] == "deformable" and head["recipe"]["train"]["steps"] == 2 and head["command"]
    assert curve[-1]["step"] == 2 and 0 <= curve[-1]["ap50"] <= 1 and set(curve[-1]["per_class"])

    weights = str(tmp_path / "a" / "final.safetensors")
    again = ["train", "--data", str(TINY_COCO), "--val-split", "train", "--size", "64", "--weights", weights]
    assert main([*again, "--steps", "1", "--to", str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert "class head, taken over by name: stop sign" in said and "the checkpoint's shape is kept" in said
    assert main([*again, "--detector", "dab", "--to", str(tmp_path / "c")]) == 1
    assert "holds weights of deformable, and dab is to be trained" in capsys.readouterr().err
