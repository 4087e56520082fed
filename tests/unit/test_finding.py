"""Text in any encoding, what split a name speaks of, pictures by their names, and what must not be opened."""

import os
import unicodedata
from pathlib import Path

import pytest

from detr_mini.data.finding import AMBIGUOUS, MISSING, OUTSIDE, Pictures, read_lines, read_yaml, split_of, ways_in_words


def place(folder: Path, *names: str) -> Path:
    """A folder with empty files of these names; nothing is opened here."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_text_is_read_in_every_usual_encoding(tmp_path, encoding):
    (tmp_path / "list.txt").write_bytes(" p0 \r\n\r\nBl\u00fcte 1\n".encode(encoding))
    assert read_lines(tmp_path / "list.txt") == ["p0", "Bl\u00fcte 1"]


def test_text_in_another_encoding_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "list.txt").write_bytes("caf\u00e9 1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"list\.txt is no text in UTF-8 .*save it as UTF-8"):
        read_lines(tmp_path / "list.txt")


@pytest.mark.parametrize("name, split", {
    "train": "train", "Train": "train", "instances_Train": "train", "train2017": "train", "trainImages": "train",
    "training": "train", "valid": "val", "Validation": "val", "instances_val2017": "val", "dev": "val",
    "my-val-1": "val", "test": "test", "test-dev2017": "test", "trainval": "trainval", "train_val": "trainval",
    "train_val_test": None,
    "default": None, "strain": None, "images": None, "validity": None, "contest": None,
}.items())
def test_split_of_a_name(name, split):
    assert split_of(name) == split


def test_a_picture_is_found_by_what_is_left_of_its_name(tmp_path):
    flute = unicodedata.normalize("NFD", "fl\u00f6te.png")
    folder = place(tmp_path, "images/a.jpg", "images/day 1/b.JPG", f"images/{flute}")
    pictures = Pictures(folder, folder / "images")
    ways = {name: pictures.find(name) for name in (
        "a.jpg", "photos/a.jpg", r"photos\a.jpg", r"C:\x\a.jpg", "/mnt/x/a.jpg", "day%201/b.JPG", "day 1/b.jpg",
        "fl\u00f6te.png", "a", "http://localhost:8080/data/upload/a.jpg", "images/a.jpg", "./a.jpg")}
    assert {name: found.way for name, found in ways.items()} == {
        "a.jpg": "stated", "photos/a.jpg": "elsewhere", r"photos\a.jpg": "backslashes", r"C:\x\a.jpg": "backslashes",
        "/mnt/x/a.jpg": "elsewhere", "day%201/b.JPG": "decoded", "day 1/b.jpg": "case", "fl\u00f6te.png": "case",
        "a": "suffix", "http://localhost:8080/data/upload/a.jpg": "elsewhere", "images/a.jpg": "stated",
        "./a.jpg": "stated"}
    assert all(found.path.is_file() for found in ways.values())
    assert ways_in_words(ways.values())[0] == "3 of 12 pictures found by their name, in another folder than stated"


def test_another_suffix_will_do_only_where_that_is_said(tmp_path):
    folder = place(tmp_path, "a.jpg")
    assert Pictures(folder).find("a.png").way == MISSING
    assert Pictures(folder, stem=True).find("a.png").path == folder / "a.jpg"


def test_the_folder_of_the_split_comes_first_and_a_stated_one_before_that(tmp_path):
    folder = place(tmp_path, "train/0.jpg", "val/0.jpg")
    assert Pictures(folder, split="val").find("0.jpg").path == folder / "val/0.jpg"
    assert Pictures(folder, split="val").find("old/train/0.jpg").path == folder / "train/0.jpg"


def test_two_that_fit_are_an_error_that_names_both(tmp_path):
    found = Pictures(place(tmp_path, "day1/0.jpg", "day2/0.jpg")).find("0.jpg")
    assert found.way == AMBIGUOUS and found.lost and "day1/0.jpg and day2/0.jpg" in found.said
    assert "--images FOLDER" in found.said


def test_a_name_that_leaves_the_folder_is_not_opened(tmp_path):
    place(tmp_path, "secret.jpg", "elsewhere/b.jpg")
    folder = place(tmp_path / "data", "images/a.jpg")
    os.symlink(tmp_path / "secret.jpg", folder / "images" / "linked.jpg")
    os.symlink(tmp_path / "elsewhere", folder / "more")
    pictures = Pictures(folder, folder / "images")
    for name in ("../../secret.jpg", str(tmp_path / "secret.jpg"), "linked.jpg", "../more/b.jpg", "more/b.jpg",
                 "/nowhere/x.jpg", r"..\..\secret.jpg"):
        found = pictures.find(name)
        assert found.way == OUTSIDE and "--images FOLDER" in found.said, (name, found)
    assert pictures.find("../images/a.jpg").way == "stated"  # leads out and in again
    assert pictures.find("gone.jpg").way == MISSING
    named = Pictures(folder / "images", links=True)  # where the user has said so, links are followed
    assert named.find("linked.jpg").way == "stated" and Pictures(folder, links=True).find("more/b.jpg").way == "stated"
    assert named.find("../../secret.jpg").way == named.find(str(tmp_path / "secret.jpg")).way == OUTSIDE


def test_yaml_cannot_grow_and_cannot_call(tmp_path):
    assert read_yaml("names: {0: red}", tmp_path / "data.yaml") == {"names": {0: "red"}}
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n"
    for text, words in ((bomb, "an alias"), ("names: !!python/object/apply:os.getcwd []", "could not determine"),
                        ("names: [red", "expected")):
        with pytest.raises(ValueError, match=rf"data\.yaml cannot be read as YAML: .*{words}"):
            read_yaml(text, tmp_path / "data.yaml")


def test_litter_is_no_picture(tmp_path):
    folder = place(tmp_path, "a.jpg", "._a.jpg", "__MACOSX/a.jpg", ".cache/a.jpg")
    assert list(Pictures(folder).names) == ["a.jpg"]


def test_a_name_of_nothing_but_oddities_is_missing(tmp_path):
    pictures = Pictures(place(tmp_path, "a.jpg"))
    assert [pictures.find(name).lost for name in ("", "/", "..", "a\0.jpg", "%00", "\\", "x" * 5000)] == [True] * 7
