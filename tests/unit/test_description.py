"""A weights file from a stranger: what it says of itself is held against one schema and its own tensors."""

import json
import struct
import time
from pathlib import Path

import pytest
import torch
from fault_ground import tiny_weights
from safetensors import safe_open
from safetensors.torch import save_file

from detr_mini.__main__ import main
from detr_mini.checkpoints import CheckpointError, load_weights
from detr_mini.weights import is_pickle, is_safetensors, open_weights

PICTURE = Path(__file__).parents[2] / "data" / "tiny_coco" / "train2017" / "000000000139.jpg"
TINY_COCO = Path(__file__).parents[2] / "data" / "tiny_coco"


def changed(folder: Path, **fields: object) -> Path:
    """Good weights with other fields; a field that is None is left out, one in bytes is written as it is."""
    good, path = folder / "good.safetensors", folder / "changed.safetensors"
    good.write_bytes(tiny_weights())
    with safe_open(good, "pt") as file:
        facts = dict(file.metadata())
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, value in fields.items():
        facts.pop(name, None)
        if value is not None:
            facts[name] = value.decode() if isinstance(value, bytes) else json.dumps(value)
    save_file(state, path, facts)
    return path


def recipe(folder: Path, **fields: object) -> dict:
    """The good file's recipe with other values."""
    with safe_open(changed(folder), "pt") as file:
        return json.loads(file.metadata()["recipe"]) | fields


def data(folder: Path, **fields: object) -> dict:
    """How the good file prepares images, with other values."""
    with safe_open(changed(folder), "pt") as file:
        return json.loads(file.metadata()["data"]) | fields


WRONG = {
    "no system": (lambda f: {"system": None}, "it has no field 'system'"),
    "a system that is a list": (lambda f: {"system": ["detr"]}, r"system is \['detr'\]: this version knows detr, "),
    "an unknown system": (lambda f: {"system": "yolo"}, "system is 'yolo': this version knows detr, "),
    "no recipe": (lambda f: {"recipe": None}, "it has no field 'recipe'"),
    "a recipe that is a list": (lambda f: {"recipe": [1, 2]}, r"recipe is \[1, 2\]: it must be an object"),
    "a recipe that is a number": (lambda f: {"recipe": 7}, "recipe is 7: it must be an object"),
    "not JSON": (lambda f: {"recipe": b"{"}, "its field 'recipe' is not JSON"),
    "lists in lists": (lambda f: {"recipe": b"[" * 200_000}, "its field 'recipe' is not JSON"),
    "an unknown field": (lambda f: {"recipe": recipe(f, depth=3)}, "has no field 'depth'"),
    "a word for a number": (lambda f: {"recipe": recipe(f, queries="six")},
                            "recipe.queries is 'six': it must be a whole number"),
    "a number for a word": (lambda f: {"recipe": recipe(f, head=3)}, "recipe.head is 3: it must be a word"),
    "true for a number": (lambda f: {"recipe": recipe(f, heads=True)}, "recipe.heads is True: it must be a whole"),
    "NaN": (lambda f: {"recipe": recipe(f, dropout=float("nan"))}, "recipe.dropout is nan: it must be a number"),
    "a thousand million layers": (lambda f: {"recipe": recipe(f, decoder_layers=1_000_000_000)},
                                  "recipe.decoder_layers is 1000000000: it must be from 0 to 100,000"),
    "many layers": (lambda f: {"recipe": recipe(f, decoder_layers=99_999)},
                    "recipe.decoder_layers is 99999, and its tensors are of 2 layers"),
    "a wide model": (lambda f: {"recipe": recipe(f, feed_forward=100_000)},
                     "recipe.feed_forward is 100000, and no tensor of the file has a side above"),
    "a negative number": (lambda f: {"recipe": recipe(f, queries=-1)}, "recipe.queries is -1: it must be from 0"),
    "no heads": (lambda f: {"recipe": recipe(f, heads=0)}, "recipe: heads=0 is too few"),
    "heads that do not fit": (lambda f: {"recipe": recipe(f, heads=3)}, "recipe: d_model=32 cannot be split"),
    "another number of queries": (lambda f: {"recipe": recipe(f, queries=7)},
                                  r"does not fit the model: wrong shape: decoder.query_embed.weight \(6, 32\)"),
    "an unknown backbone": (lambda f: {"recipe": recipe(f, backbone="vgg")}, "backbone 'vgg' is unknown"),
    "another system": (lambda f: {"system": "dab"}, "does not fit the model: missing: "),
    "data that is a word": (lambda f: {"data": "coco"}, "data is 'coco': it must be an object"),
    "a word in data": (lambda f: {"data": data(f, eval_size="large")}, "data.eval_size is 'large': it must be a whole"),
    "text in data's list": (lambda f: {"data": data(f, mean=[0.5, "0.5", 0.5])}, r"data.mean\[1\] is '0.5': it must"),
    "two numbers for three": (lambda f: {"data": data(f, std=[0.5, 0.5])}, "data.std is .*: it must have 3 numbers"),
    "std of zero": (lambda f: {"data": data(f, std=[0, 1, 1])}, r"data.std is \[0.0, 1.0, 1.0\]: it must be above 0"),
    "a size of nothing": (lambda f: {"data": data(f, eval_size=0)}, "data.eval_size is 0: it must be from 1 to 10,000"),
    "a huge size": (lambda f: {"data": data(f, max_size=99_999)}, "data.max_size is 99999: it must be from 1 to"),
    "flip beyond 1": (lambda f: {"data": data(f, flip=2)}, "data.flip is 2.0: it must be from 0 to 1"),
    "classes of a number": (lambda f: {"classes": 5}, "classes is 5: it must be a list of names"),
    "a class that is a number": (lambda f: {"classes": [1, 2]}, r"classes is \[1, 2\]: it must be a list of names"),
    "too few classes": (lambda f: {"classes": ["cat"]}, "classes has 1 names, and the class head has"),
    "too many classes": (lambda f: {"classes": ["cat"] * 99}, "classes has 99 names, and the class head has"),
    "categories as a list": (lambda f: {"label_to_category": [1]}, r"label_to_category is \[1\]: it must be an object"),
    "a label beyond the head": (lambda f: {"label_to_category": {"999": 1}}, "has the label '999': labels are 0 to"),
    "a label that is a word": (lambda f: {"label_to_category": {"cat": 1}}, "has the label 'cat': labels are 0 to"),
    "a category that is a word": (lambda f: {"label_to_category": {"0": "cat"}}, r"\[0\] is 'cat': it must be a whole"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_description_is_one_line_that_names_file_and_field(name: str, tmp_path: Path, capsys) -> None:
    """From `load_weights`, and from the command line, in a moment: nothing is built before it is checked."""
    fields, said = WRONG[name]
    path = changed(tmp_path, **fields(tmp_path))
    begun = time.process_time()
    with pytest.raises(CheckpointError, match=said) as error:
        load_weights(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 3000
    assert time.process_time() - begun < 5
    assert main(["detect", str(PICTURE), "--weights", str(path), "--to", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err


def test_the_good_file_is_good(tmp_path: Path) -> None:
    """What the wrong ones were made from opens, with all that it says."""
    found = open_weights(changed(tmp_path))
    assert found.recipe.eval_size and len(found.classes) == found.model.recipe.classes and found.label_to_category


def padded(folder: Path, first_byte: int) -> Path:
    """Good weights whose header's length, and so whose first byte, is a chosen one: it is filled up with blanks."""
    whole = tiny_weights()
    length = int.from_bytes(whole[:8], "little")
    more = (first_byte - length) % 256
    path = folder / f"padded-{first_byte:02x}.safetensors"
    path.write_bytes(struct.pack("<Q", length + more) + whole[8 : 8 + length] + b" " * more + whole[8 + length :])
    return path


@pytest.mark.parametrize("first_byte", range(0, 256, 8))
def test_weights_open_whatever_the_length_of_their_header(first_byte: int, tmp_path: Path) -> None:
    """All 32 paddings of 8 bytes that `save_file` makes; 0x80 is a pickle's first byte, too."""
    path = padded(tmp_path, first_byte)
    assert path.read_bytes()[0] == first_byte and not is_pickle(path)
    assert open_weights(path).model.system == "detr"


@pytest.mark.parametrize("first_byte", [0x80, 0x50])
def test_every_command_opens_weights_with_a_misleading_first_byte(first_byte: int, tmp_path: Path, capsys) -> None:
    """detect, evaluate and train, as they come from `train`; 0x50 is the "P" of a zip file."""
    weights = ["--weights", str(padded(tmp_path, first_byte))]
    folder = ["--data", str(TINY_COCO)]
    assert main(["detect", str(PICTURE), *weights, "--to", str(tmp_path / "out")]) == 0
    assert main(["evaluate", *folder, *weights]) == 0
    small = ["--steps", "1", "--size", "64", "--batch", "1", "--backbone", "small", "--evaluate-every", "1"]
    assert main(["train", *folder, *weights, *small, "--to", str(tmp_path / "run")]) == 0, capsys.readouterr().err


def test_pickles_of_every_form_are_told_from_safetensors(tmp_path: Path) -> None:
    """Zip files, bare pickles of protocols 2 to 5, and torch's form before 1.6."""
    import pickle

    torch.save({"a": torch.ones(2)}, tmp_path / "zip.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for protocol in range(2, 6):
        (tmp_path / f"{protocol}.pth").write_bytes(pickle.dumps({"{": list(range(9999))}, protocol))
    for path in tmp_path.glob("*.pth"):
        assert is_pickle(path) and not is_safetensors(path.read_bytes()[:512]), path.name
