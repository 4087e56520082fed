"""VOC folders: the same items as CocoFolder, VOC's corners, layouts, XML that attacks, errors that name the fault."""

import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.data.coco import CocoFolder
from detr_mini.data.layouts import open_folder
from detr_mini.data.voc import parse_xml


def xml(objects=(), size=(20, 10), filename="a.png", head="") -> str:
    """The annotation file of one picture; objects are (name, xmin, ymin, xmax, ymax[, difficult])."""
    things = "".join(
        f"<object><name>{name}</name><difficult>{(rest or [0])[0]}</difficult>"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1, *rest in objects
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"{head}<annotation><filename>{filename}</filename>{sides}{things}</annotation>"


def voc(place: Path, pictures: dict[str, str], splits: dict[str, list[str]] | None = None) -> Path:
    """A folder in VOC's own layout: stem -> XML, a 20 x 10 PNG for each; lists where splits are given."""
    for part in ("Annotations", "JPEGImages"):
        (place / part).mkdir(parents=True, exist_ok=True)
    for stem, text in pictures.items():
        (place / "Annotations" / f"{stem}.xml").write_text(text)
        Image.new("RGB", (20, 10), (200, 100, 50)).save(place / "JPEGImages" / f"{stem}.png")
    for name, stems in (splits or {}).items():
        (place / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (place / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems) + "\n")
    return place


def pixel_boxes(target: dict) -> torch.Tensor:
    """Boxes of a target as xyxy in pixels."""
    return cxcywh_to_xyxy(target["boxes"]) * target["orig_size"].flip(0).repeat(2)


def test_corners_count_from_one_and_belong_to_the_box(tmp_path):
    data = open_folder(voc(tmp_path, {"a": xml([("dog", 1, 1, 20, 10), ("cat", 3, 2, 8.5, 5)])}))
    image, target = data[0]
    assert image.shape == (3, 10, 20) and data.classes == ["cat", "dog"]
    assert target["labels"].tolist() == [1, 0] and target["image_id"] == 1
    torch.testing.assert_close(pixel_boxes(target), torch.tensor([[0, 0, 20, 10], [2, 1, 8.5, 5]]))


def test_same_items_as_the_coco_file_of_the_same_boxes(tmp_path):
    data = open_folder(voc(tmp_path / "voc", {"a": xml([("dog", 5, 2, 14, 9)]), "b": xml(filename="b.png")}))
    truth = data.coco_ground_truth()
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "instances.json").write_text(json.dumps(truth))
    other = CocoFolder(tmp_path / "voc" / "JPEGImages", tmp_path / "coco" / "instances.json")
    assert other.coco_ground_truth() == truth and len(other) == len(data) == 2
    for (image, target), (again, twin) in zip(data, other, strict=True):
        assert torch.equal(image, again) and target.keys() == twin.keys()
        assert all(torch.equal(torch.as_tensor(target[key]), torch.as_tensor(twin[key])) for key in target)
    assert data[1][1]["boxes"].shape == (0, 4)


def test_difficult_objects_are_no_targets_but_stay_in_the_ground_truth(tmp_path):
    data = open_folder(voc(tmp_path, {"a": xml([("dog", 1, 1, 5, 5, 1), ("dog", 6, 1, 9, 5)])}))
    assert len(data[0][1]["labels"]) == 1
    assert [entry["iscrowd"] for entry in data.coco_ground_truth()["annotations"]] == [1, 0]


def test_splits_are_the_lists_and_share_their_categories(tmp_path):
    pictures = {"a": xml([("dog", 1, 1, 5, 5)]), "b": xml([("cat", 1, 1, 5, 5)], filename="b.png"),
                "c": xml(filename="c.png")}
    voc(tmp_path, pictures, {"train": ["a", "c  1"], "val": ["b -1"]})
    train, val = open_folder(tmp_path, "train"), open_folder(tmp_path, "val")
    assert [path.name for path in map(train.path, range(2))] == ["a.png", "c.png"] and len(val) == 1
    assert train.label_to_category == val.label_to_category and train.classes == ["cat", "dog"]
    with pytest.raises(FileNotFoundError, match=r"no split 'test' .*there is train, val"):
        open_folder(tmp_path, "test")


@pytest.mark.parametrize("layout", ["side by side", "split folders", "small names"])
def test_other_layouts_are_found(tmp_path, layout, caplog):
    source = voc(tmp_path / "source", {"a": xml([("dog", 1, 1, 5, 5)])})
    place = {"side by side": tmp_path / "x", "split folders": tmp_path / "x" / "valid", "small names": tmp_path / "x"}
    images, files = place[layout], place[layout]
    if layout == "small names":
        images, files = images / "images", files / "annotations"
    for target in {images, files}:
        target.mkdir(parents=True)
    (source / "JPEGImages" / "a.png").rename(images / "a.png")
    (source / "Annotations" / "a.xml").rename(files / "a.xml")
    with caplog.at_level(logging.WARNING, logger="detr_mini"):
        assert len(open_folder(tmp_path / "x", "val" if layout == "split folders" else "train")[0][1]["labels"]) == 1
    assert ("has no splits" in caplog.text) == (layout != "split folders")


def test_nothing_that_is_understood_says_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no files"):
        open_folder(tmp_path)
    (tmp_path / "a.csv").write_text("filename,xmin,ymin,xmax,ymax,class\n")
    with pytest.raises(FileNotFoundError, match=r"It holds 1 \.csv files.*a table of boxes.*--annotations FILE"):
        open_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no data folder"):
        open_folder(tmp_path / "gone")


def test_picture_is_found_under_another_ending_and_size_read_from_it(tmp_path):
    data = open_folder(voc(tmp_path, {"a": xml([("dog", 1, 1, 5, 5)], None, r"C:\photos\a.jpg"),
                                         "b": xml([], (0, 0), "")}))
    assert [data.path(i).name for i in (0, 1)] == ["a.png", "b.png"]
    assert data[0][1]["orig_size"].tolist() == data[1][1]["orig_size"].tolist() == [10, 20]


BOMB = '<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)) + "]>"
OUTSIDE = '<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("head, name", [(BOMB, "&j;"), (OUTSIDE, "&a;"), ('<!DOCTYPE z SYSTEM "http://x/y">', "dog")])
def test_entities_and_document_types_are_refused(tmp_path, head, name):
    path = tmp_path / "a.xml"
    path.write_text(xml([(name, 1, 1, 5, 5)], head=head))
    with pytest.raises(ValueError, match=r"a\.xml cannot be read as XML: it has a document type"):
        parse_xml(path)


FAULTS = {
    "a.xml: object 1 has xmin 'left'; it must be a number": xml([("dog", "left", 1, 5, 5)]),
    "a.xml: object 2 has ymax 'nan'": xml([("dog", 1, 1, 5, 5), ("dog", 1, 1, 5, "nan")]),
    "a.xml: object 1 has no name": xml([("", 1, 1, 5, 5), ("dog", 1, 1, 5, 5)]),
    "a.xml cannot be read as XML: no element found": "<annotation>",
    "no object in any XML file": xml(),
    "a.xml: object 1 has xmin None": "<annotation><object><name>dog</name></object></annotation>",
}


@pytest.mark.parametrize("words", FAULTS)
def test_fault_names_file_object_and_field(tmp_path, words):
    with pytest.raises(ValueError) as error:
        open_folder(voc(tmp_path, {"a": FAULTS[words]}))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_listed_picture_without_xml_and_one_that_cannot_be_opened(tmp_path):
    voc(tmp_path, {"a": xml([("dog", 1, 1, 5, 5)])}, {"train": ["a", "gone"]})
    with pytest.raises(FileNotFoundError, match=r"gone\.xml is missing; restore it"):
        open_folder(tmp_path)
    voc(tmp_path, {"a": xml([("dog", 1, 1, 5, 5)], None)}, {"train": ["a"]})
    (tmp_path / "JPEGImages" / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded .* and its annotations do not state its size"):
        open_folder(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_bytes(b" " * 10_000_001)
    with pytest.raises(ValueError, match="10,000,001 bytes, too many"):
        open_folder(tmp_path)
