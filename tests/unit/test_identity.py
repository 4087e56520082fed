"""Class names and weights never part company: matched by name between files, and part of what makes a run the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import CASES, coco, renamed, renumbered, write
from fault_ground import tiny_weights
from safetensors.torch import load_file
from test_training import Squares, tiny_recipe

from detr_mini import zoo
from detr_mini.__main__ import main
from detr_mini.checkpoints import read_facts
from detr_mini.data.labels import labelled_as, matching_rows, validated_as
from detr_mini.data.layouts import open_folder
from detr_mini.detr import Detr
from detr_mini.evaluation import average_precision, evaluate
from detr_mini.training import TrainingError, fit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose validation file numbers the same classes the other way round."""
    renumbered(tmp_path / "data")
    return tmp_path / "data"


def command(folder: Path, to: Path, *more: str) -> list[str]:
    """Two steps of training a tiny detector."""
    weights = to.parent / "tiny.safetensors"
    weights.write_bytes(tiny_weights())
    return ["train", "--data", str(folder), "--preset", "scenes", "--size", "64", "--steps", "2", "--batch", "2",
            "--weights", str(weights), "--to", str(to), *more]


def perfect(dataset, classes: list[str]) -> dict[int, dict]:
    """The truth as predictions of a detector with these classes."""
    truth, found = dataset.coco_ground_truth(), {}
    names = {entry["id"]: entry["name"] for entry in truth["categories"]}
    for image in truth["images"]:
        things = [thing for thing in truth["annotations"] if thing["image_id"] == image["id"]]
        boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (thing["bbox"] for thing in things)])
        labels = torch.tensor([classes.index(names[thing["category_id"]]) for thing in things])
        found[image["id"]] = {"scores": torch.ones(len(things)), "labels": labels, "boxes": boxes}
    return found


def test_a_perfect_detector_is_judged_perfect_by_name(folder):
    train, val = open_folder(folder, "train"), open_folder(folder, "val")
    assert train.classes == ["red", "blue"] and val.classes == ["blue", "red"]
    answers = perfect(val, train.classes)
    assert average_precision(validated_as(val, train.classes), answers).ap == pytest.approx(1.0)
    assert average_precision(val, answers).ap < 0.5  # as it was: by number


def test_train_and_evaluate_give_the_same_figure(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "run")) == 0
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert main(["evaluate", "--data", str(folder), "--weights", str(tmp_path / "run" / "final.safetensors"),
                 "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (last["ap"], last["ap50"]) == (figures["ap"], figures["ap50"])


def test_names_that_do_not_agree_are_refused_by_name(tmp_path, capsys):
    renamed(tmp_path / "data")
    assert main(command(tmp_path / "data", tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert "categories differ" in said and "azure" in said and "python -m detr_mini check" in said
    assert main(command(tmp_path / "data", tmp_path / "run", "--despite-errors")) == 1  # there is no figure to give
    assert "azure to validate on, and the training file lists red, blue" in capsys.readouterr().err


@pytest.mark.parametrize("old, new, rows", [
    (["red", "blue"], ["blue", "red"], [(1, 0), (0, 1)]),
    (["Red", "blue"], ["red ", "green"], [(0, 0)]),
    (["Red", "red"], ["red", "Red"], [(1, 0), (0, 1)]),
    (["red"], ["Red", "red"], [(0, 1)]),  # "red" is it, so "Red" is another
    ([None, "red"], ["red", None], [(1, 0)]),
    (["red", "red"], ["red"], [(0, 0)]),
])
def test_classes_are_matched_by_exact_name_before_upper_and_lower_case(old, new, rows):
    assert matching_rows(old, new) == rows


def test_a_class_that_only_validation_lists_is_harmless_without_objects(folder):
    train, val = open_folder(folder, "train"), open_folder(folder, "val")
    val.classes, val.label_to_category = [*val.classes, "green"], val.label_to_category | {2: 9}
    assert validated_as(val, train.classes).classes == ["red", "blue", "green"]
    assert labelled_as(validated_as(val, train.classes), train.classes).classes == ["red", "blue", "green"]


def test_evaluate_in_a_notebook_matches_by_name_what_fit_trained(folder):
    train, val = open_folder(folder, "train"), open_folder(folder, "val")
    recipe = tiny_recipe(steps=1)
    model = Detr(recipe.model)
    fit(model, train, recipe, progress=False)
    assert model.class_names == ["red", "blue"]
    assert evaluate(model, val, recipe.data).to_dict() == evaluate(
        model, validated_as(val, train.classes), recipe.data).to_dict()


# --- a run's identity


def exported_again(folder: Path, ids: tuple, first: int = 0) -> None:
    """The training file anew, with other ids or other pictures' boxes."""
    coco(folder, "annotations/instances_train.json", [f"images/train{i}.jpg" for i in range(10)], first=first, ids=ids)


def test_an_export_with_another_order_of_classes_is_another_run(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "run")) == 0
    final = tmp_path / "run" / "final.safetensors"
    before = final.read_bytes()
    exported_again(folder, (2, 1))
    assert main(command(folder, tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert "holds a run with other classes, or in another order (red, blue; now blue, red)" in said
    assert "Choose another folder (--to FOLDER), or delete" in said
    assert final.read_bytes() == before and read_facts(final)["classes"] == ["red", "blue"]


def test_other_boxes_are_another_run_and_other_ids_or_places_are_not(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "run")) == 0
    exported_again(folder, (5, 9))  # the same order of classes
    assert main(command(folder, tmp_path / "run")) == 0
    moved = folder.rename(tmp_path / "moved")
    assert main(command(moved, tmp_path / "run")) == 0
    exported_again(moved, (1, 2), first=50)
    assert main(command(moved, tmp_path / "run")) == 1
    assert "holds a run with other data (10 images, 20 annotations, " in capsys.readouterr().err


def test_what_differs_is_named(tmp_path):
    recipe = tiny_recipe(steps=2)
    fit(Detr(recipe.model), Squares(), recipe, tmp_path, progress=False)
    other = replace(recipe, train=replace(recipe.train, lr=0.5, steps=3))
    with pytest.raises(TrainingError, match=r"another recipe \(train\.lr 0\.001, now 0\.5, train\.steps 2, now 3\)|"
                                            r"another recipe \(train\.steps 2, now 3, train\.lr 0\.001, now 0\.5\)"):
        fit(Detr(recipe.model), Squares(), other, tmp_path, progress=False)
    with pytest.raises(TrainingError, match=r"another seed \(0, now 1\)"):
        fit(Detr(recipe.model), Squares(), recipe, tmp_path, progress=False, seed=1)


def test_a_run_of_an_older_version_is_refused_with_the_reason(tmp_path):
    recipe = tiny_recipe(steps=2)
    fit(Detr(recipe.model), Squares(), recipe, tmp_path, progress=False)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    old = {key: value for key, value in json.loads(state["identity"]).items() if key in ("recipe", "seed")}
    torch.save(state | {"identity": json.dumps(old)}, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="classes and data that were not written down, as older versions did"):
        fit(Detr(recipe.model), Squares(), recipe, tmp_path, progress=False)


# --- errors that check finds are not passed over


def spoil(folder: Path, change) -> None:
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content)
    write(path, content)



SPOILED = {
    "missing files: 1 pictures": lambda c: c["images"][3].update(file_name="gone.jpg"),
    "classes without objects": lambda c: c["annotations"].clear(),
    "never trained: 1 classes have objects in val": lambda c: c["annotations"].__delitem__(slice(0, None, 2)),
    "leakage: 1 pictures are in both splits": lambda c: c["images"][0].update(file_name="val0.jpg"),
}


@pytest.mark.parametrize("words", SPOILED)
def test_an_error_of_check_stops_train_unless_it_is_told_to_go_on(folder, tmp_path, capsys, words):
    spoil(folder, SPOILED[words])
    assert main(["check", str(folder), "--to", str(tmp_path / "report")]) == 1
    assert words.split(":")[0] in capsys.readouterr().out
    assert main(command(folder, tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert words in said and "go on with --despite-errors" in said and not (tmp_path / "run").exists()


def test_despite_errors_is_said_loudly(folder, tmp_path, capsys):
    spoil(folder, SPOILED["leakage: 1 pictures are in both splits"])
    assert main(command(folder, tmp_path / "run", "--despite-errors")) == 0
    said = capsys.readouterr().out
    assert "DESPITE 1 error in the data, as you said:" in said and "ERROR    train and val: leakage: 1 pictures" in said


def test_evaluate_stops_at_errors_too(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "run")) == 0
    path = folder / "annotations" / "instances_val.json"
    write(path, path.read_text().replace("val3.jpg", "gone.jpg"))
    evaluation = ["evaluate", "--data", str(folder), "--weights", str(tmp_path / "run" / "final.safetensors")]
    assert main(evaluation) == 1
    assert "missing files: 1 pictures" in capsys.readouterr().err
    assert main([*evaluation, "--limit", "2"]) == 0  # the one that is missing is not asked for


# --- annotations and pictures that lie anywhere


def test_annotations_and_images_are_named_on_every_command(tmp_path, capsys):
    coco(tmp_path, "x/a.json", [f"far/away/{i}.jpg" for i in range(8)])
    coco(tmp_path, "x/b.json", [f"near/{i}.jpg" for i in range(4)], first=60)
    stated = ["--annotations", str(tmp_path / "x/a.json"), "--images", str(tmp_path / "far")]
    pair = ["--val-annotations", str(tmp_path / "x/b.json"), "--val-images", str(tmp_path / "near")]
    assert main(["check", *stated, *pair, "--to", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert "train: 8 images" in said and "val: 4 images" in said
    training = [word for word in command(tmp_path, tmp_path / "run") if word not in ("--data", str(tmp_path))]
    assert main([*training, *stated]) == 1
    assert "it has no splits. --val-fraction 0.2" in capsys.readouterr().err
    assert main([*training, *stated, *pair]) == 0
    assert main(["evaluate", *stated, "--weights", str(tmp_path / "run" / "final.safetensors")]) == 0
    assert "measured on all 8 images" in capsys.readouterr().out
    assert main([*training[:-1], str(tmp_path / "other"), *stated, "--val-fraction", "0.25"]) == 0
    assert "2 of 8 pictures set aside" in capsys.readouterr().out
    assert main(["evaluate", *stated, "--weights", str(tmp_path / "other" / "final.safetensors")]) == 0
    assert "measured on the 2 pictures that the training set aside" in capsys.readouterr().out


def test_a_link_is_followed_where_images_says_where_the_pictures_are(tmp_path, capsys):
    coco(tmp_path / "data", "instances.json", [f"images/{i}.jpg" for i in range(8)])
    (tmp_path / "data" / "images").rename(tmp_path / "disk")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "disk")
    training = command(tmp_path / "data", tmp_path / "run", "--val-split", "all")
    assert main(training) == 1
    assert "lies outside the data folder" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "data"), "--to", str(tmp_path / "report")]) == 1
    assert "pictures not settled: 8 pictures" in capsys.readouterr().out
    assert main([*training, "--images", str(tmp_path / "data" / "images")]) == 0


@pytest.mark.parametrize("more, words", [
    (["--images", "x"], "nothing says where annotations are"),
    (["--data", "x", "--annotations", "y"], "are two data sets: give one"),
    (["--annotations", "gone.json"], "no annotation file at gone.json"),
    (["--val-fraction", "0.2"], "--val-fraction is for a folder without a validation split"),
])
def test_options_that_do_not_fit_together(more, words, capsys):
    assert main(["train", *more]) == 1
    assert words in capsys.readouterr().err


def test_a_folder_without_splits_may_be_validated_on_itself_when_that_is_said(tmp_path, capsys):
    CASES["03_cvat_default"].make(tmp_path / "data")
    assert main(command(tmp_path / "data", tmp_path / "run", "--val-split", "all")) == 0
    assert main(["evaluate", "--data", str(tmp_path / "data"), "--split", "all", "--weights",
                 str(tmp_path / "run" / "final.safetensors")]) == 0


def test_evaluate_draws_the_same_part_by_itself(tmp_path, capsys):
    CASES["03_cvat_default"].make(tmp_path / "data")
    assert main(command(tmp_path / "data", tmp_path / "run", "--val-fraction", "0.25")) == 0
    weights = ["--weights", str(tmp_path / "run" / "final.safetensors")]
    figures = []
    for more in ([], ["--split", "val"], ["--val-fraction", "0.25"]):
        to = tmp_path / f"figures{len(figures)}.json"
        assert main(["evaluate", "--data", str(tmp_path / "data"), *weights, *more, "--json", str(to)]) == 0
        figures.append(json.loads(to.read_text()))
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert figures[0] == figures[1] == figures[2] and figures[0]["images"] == 2 and figures[0]["ap"] == last["ap"]
    cat = tmp_path / "other"
    CASES["label_studio"].make(cat)  # other pictures: what the run set aside says nothing about them
    assert main(["evaluate", "--data", str(cat), *weights]) == 0
    assert "no splits: measured on all 8 images" in capsys.readouterr().out


def test_nothing_is_measured_on_a_split_without_annotations(tmp_path, capsys):
    CASES["41_test_without_annotations"].make(tmp_path / "data")
    assert main(command(tmp_path / "data", tmp_path / "run")) == 0
    assert main(["evaluate", "--data", str(tmp_path / "data"), "--split", "test", "--weights",
                 str(tmp_path / "run" / "final.safetensors")]) == 1
    assert "these images have no annotations (a test split has none by nature)" in capsys.readouterr().err


def test_captions_beside_pictures_are_no_labels(tmp_path, capsys):
    CASES["pictures only"].make(tmp_path)
    write(tmp_path / "a.txt", "a photo of a cat")
    assert main(["check", str(tmp_path)]) == 1
    assert "no data set that is read" in capsys.readouterr().err


def test_a_fraction_is_refused_where_there_is_a_split_to_validate_on(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "run", "--val-fraction", "0.2")) == 1
    assert "there is a split to validate on: leave --val-fraction out" in capsys.readouterr().err


def test_fewer_queries_than_objects_are_mentioned(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "run", "--queries", "1")) == 0
    assert "WARNING: an image has 2 objects, and 1 queries find at most 1: give --queries 2" in capsys.readouterr().out


# --- images without objects, in every loss


@pytest.mark.parametrize("system", zoo.names())
def test_empty_targets_of_any_shape_are_no_objects(system):
    torch.manual_seed(0)
    from detr_mini.losses import SetCriterion

    recipe = zoo.recipe(system)
    model = zoo.build(system, model=replace(recipe.model, encoder_layers=1, decoder_layers=2, classes=3))
    output = model(torch.rand(2, 3, 64, 64))
    criterion = SetCriterion(recipe.loss, 3, model.recipe.head)
    whole = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    usual = {"labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}
    flat = {"labels": torch.tensor([]), "boxes": torch.tensor([])}
    for other in (whole, usual):
        wanted = criterion.total(criterion(output, [usual, other]))
        found = criterion.total(criterion(output, [flat, flat if other is usual else other]))
        assert torch.isfinite(found) and torch.equal(found, wanted)
    with pytest.raises(ValueError, match=r"labels \(1,\) and boxes \(4,\): give labels \(M,\) and boxes \(M, 4\)"):
        criterion(output, [usual, {"labels": torch.tensor([1]), "boxes": torch.tensor([0.5, 0.5, 0.2, 0.2])}])


def test_the_weights_of_the_last_step_are_those_of_the_names(folder, tmp_path):
    assert main(command(folder, tmp_path / "run")) == 0
    facts = read_facts(tmp_path / "run" / "final.safetensors")
    assert facts["classes"] == ["red", "blue"] and facts["label_to_category"] == {"0": 1, "1": 2}
    assert load_file(tmp_path / "run" / "final.safetensors")
