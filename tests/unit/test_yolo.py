"""YOLO's lines and data.yaml: right values, and faults that name file, line and what a line is."""

from pathlib import Path

import pytest
from cases import CASES, write, yolo_ultralytics

from detr_mini.data.imagefolder import classes_of, names_in_readme, objects_of
from detr_mini.data.layouts import open_folder
from detr_mini.data.yolo import Told, label_places, names_by_number, read_row

NAMES = Told(names={0: "red", 1: "blue"})


@pytest.mark.parametrize("line, box", [
    ("0 0.5 0.5 0.25 0.5", [37.5, 15.0, 25.0, 30.0]),
    ("0.0 0.5 0.5 1 1", [0, 0, 100, 60]),
    ("1 0.1 0.1 0.5 0.1 0.3 0.4", [10, 6, 40, 18]),  # a triangle
    ("1 0.1 0.1 0.3 0.1 0.3 0.2 0.1 0.2", [10, 6, 20, 6]),  # four corners, as turned boxes have
    ("1 0.995 0.5 0.02 0.1", [98.5, 27, 2, 6]),  # over the edge by rounding
])
def test_a_line_becomes_a_box_in_pixels(line, box):
    category, found = read_row(line.split(), (100, 60), NAMES)
    assert category == int(line[0]) and found == pytest.approx(box)


def test_key_points_behind_a_box_are_left_out():
    told = Told(names={0: "person"}, points=True)
    _, box = read_row("0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.6 0.6 1".split(), (100, 100), told)
    assert box == pytest.approx([40, 40, 20, 20])


@pytest.mark.parametrize("line, words", [
    ("0 0.5 0.5 0.2", "has 4 numbers"), ("0 0.5 0.5 0.2 0.2 0.9", "has 6 numbers"), ("red 0.5 0.5 0.2 0.2", "no num"),
    ("0 50 20 10 10", "outside 0 to 1"), ("0 0.5 0.5 -0.2 0.2", "outside 0 to 1"), ("7 0.5 0.5 0.2 0.2", "of class 7"),
    ("0.5 0.5 0.5 0.2 0.2", "a class that is not whole"), ("0 nan 0.5 0.2 0.2", "not finite"),
    ("inf 0.5 0.5 0.2 0.2", "not finite"),
])
def test_a_line_at_fault_is_named_with_its_file(tmp_path, line, words):
    yolo_ultralytics(tmp_path)
    write(tmp_path / "labels/train/train2.txt", f"0 0.5 0.5 0.2 0.2\n\n{line}\n")
    with pytest.raises(ValueError) as error:
        open_folder(tmp_path, "train")
    said = str(error.value)
    assert "train2.txt, line 3: " in said and words in said and "a line is class x y width height" in said


@pytest.mark.parametrize("names", [["red", "blue"], {0: "red", 1: "blue"}, {"1": "blue", "0": "red"}, "[red, blue]"])
def test_names_come_as_a_list_or_as_a_dictionary(names):
    assert names_by_number(Path("data.yaml"), names) == {0: "red", 1: "blue"}


def test_names_that_are_neither_are_refused():
    with pytest.raises(ValueError, match=r"data\.yaml has 'names': 3; it must be a list of names"):
        names_by_number(Path("data.yaml"), 3)


def test_labels_are_where_ultralytics_looks_and_beside_the_picture():
    assert label_places("images/train/a")[0] == "labels/train/a"
    assert label_places("train/images/a")[0] == "train/labels/a"
    assert "x/a" in label_places("x/a") and label_places("a") == ["a", "labels/a", "labels/a"]


def test_classes_without_names_are_called_by_their_numbers(tmp_path):
    yolo_ultralytics(tmp_path)
    (tmp_path / "data.yaml").unlink()
    assert open_folder(tmp_path, "train").classes == ["0", "1"]


# --- Hugging Face's imagefolder


def test_numbers_get_the_names_of_the_readme(tmp_path):
    CASES["11_hf_imagefolder"].make(tmp_path)
    assert open_folder(tmp_path, "train").classes == ["0", "1"]
    names = "names:\n            '0': red\n            '1': blue"
    write(tmp_path / "README.md", f"---\ndataset_info:\n  features:\n  - name: objects\n    sequence:\n"
          f"    - name: categories\n      dtype:\n        class_label:\n          {names}\n---\n# Text\n")
    assert names_in_readme(tmp_path) == ["red", "blue"]
    assert open_folder(tmp_path, "val").classes == ["red", "blue"]


def test_objects_come_as_lists_or_one_by_one():
    assert objects_of({"objects": {"bbox": [[1, 2, 3, 4]], "category": ["red"]}}) == ([[1, 2, 3, 4]], ["red"])
    assert objects_of({"objects": [{"bbox": [1, 2, 3, 4], "label": 5}]}) == ([[1, 2, 3, 4]], [5])
    assert objects_of({"file_name": "a.jpg"}) == ([], [])
    assert classes_of([(Path(), 1, {"objects": {"bbox": [[]] * 2, "label": ["b", "a"]}})], []) == {
        "a": (0, "a"), "b": (1, "b")}


@pytest.mark.parametrize("line, words", [
    ("{", "line 2 is no JSON object"), ("[1]", "line 2 is no JSON object"),
    ('{"file_name": "0.jpg", "objects": {"bbox": [[1, 2, 3, 4]], "categories": []}}', "not lists of one length"),
    ('{"file_name": "0.jpg", "objects": 3}', "line 2 has objects that are not in the form"),
    ('{"file_name": "0.jpg", "objects": {"bbox": [[1, 2, 3]], "categories": [0]}}', "must be four numbers"),
    ('{"objects": {"bbox": [], "categories": []}}', "'file_name'"),
])
def test_a_row_at_fault_is_named(tmp_path, line, words):
    CASES["11_hf_imagefolder"].make(tmp_path)
    path = tmp_path / "train" / "metadata.jsonl"
    rows = path.read_text().splitlines()
    write(path, "\n".join([rows[0], line, *rows[2:]]))
    with pytest.raises(ValueError) as error:
        open_folder(tmp_path, "train")
    assert words in str(error.value) and "metadata.jsonl" in str(error.value)
