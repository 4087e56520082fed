"""The check of a data set: every fault is found, at its level, in both formats; nothing is found in vain."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detr_mini.__main__ import main
from detr_mini.data.annotations import parse_annotations
from detr_mini.data.check import check_folder
from detr_mini.data.check_files import pattern_of
from detr_mini.data.finding import Pictures
from detr_mini.data.layouts import split_names

TINY_COCO = Path(__file__).parents[2] / "data" / "tiny_coco"


def picture(seed: int, width: int = 80, height: int = 60) -> Image.Image:
    """A smooth random picture: every seed another one."""
    spots = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC)


def content(first: int, count: int = 12) -> dict:
    """A split without a fault: `count` pictures, one object of each of two classes in each."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in range(first, first + count)]
    boxes = {1: [4, 5, 30, 20], 2: [40, 20, 36, 36]}
    annotations = [{"id": 10 * image["id"] + c, "image_id": image["id"], "category_id": c, "bbox": list(box)}
                   for image in images for c, box in boxes.items()]
    return {"images": images, "annotations": annotations,
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}


@pytest.fixture
def good(tmp_path) -> Path:
    """A folder with two splits and no fault."""
    (tmp_path / "images").mkdir()
    for split, first in (("train", 1), ("val", 101)):
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(content(first)))
        for number in range(first, first + 12):
            picture(number).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def changed(folder: Path, change, split: str = "train") -> Path:
    """The folder after `change(content)` of a split's file."""
    path = folder / f"instances_{split}.json"
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))
    return folder


def kinds(folder: Path, **options) -> dict[str, tuple[str, int]]:
    """kind -> (level, count) of every finding."""
    return {one.kind: (one.level, one.count) for one in check_folder(folder, **options).findings}


def test_a_good_folder_has_no_findings(good):
    report = check_folder(good)
    assert report.findings == [] and str(report).endswith("0 errors, 0 warnings, 0 notes: fit for training")
    facts = report.splits["train"]
    assert facts["images"] == 12 and facts["objects"] == 24 and facts["images_without_objects"] == 0
    assert facts["classes"][0] == {"id": 1, "name": "cat", "objects": 12, "images": 12}
    assert facts["objects_per_image"] == {"median": 2, "mean": 2, "most": 2} and facts["overlapping_pairs"] == 0


def test_box_sizes_are_counted_as_stored_and_as_trained(good):
    sizes = check_folder(good, size=320).splits["train"]["box_sizes"]  # 60 pixels become 320
    assert sizes["stored"] == {"small": 12, "medium": 12, "large": 0}  # 30 x 20 and 36 x 36
    assert sizes["trained"] == {"small": 0, "medium": 0, "large": 24}
    assert check_folder(good, size=60).splits["train"]["box_sizes"]["trained"] == sizes["stored"]


def box(value):
    """A change: the first annotation's box becomes `value`."""
    return lambda c: c["annotations"][0].update(bbox=value)


def many(count, value):
    """A change: the first boxes become `value`."""
    return lambda c: [annotation.update(bbox=value) for annotation in c["annotations"][:count]]


def repeat(c):
    c["annotations"].append(c["annotations"][0] | {"id": 9999})


def renumbered(c, new):
    for annotation in c["annotations"]:
        annotation["category_id"] = new[annotation["category_id"]]
    for category in c["categories"]:
        category["id"] = new[category["id"]]


FAULTS = {
    "a box that is no number": (box([1, 2, float("nan"), 4]), "broken entries", "error", 1),
    "a box of three numbers": (box([1, 2, 3]), "broken entries", "error", 1),
    "an unknown class": (lambda c: c["annotations"][0].update(category_id=7), "broken entries", "error", 1),
    "two images of one id": (lambda c: c["images"][0].update(id=2), "broken entries", "error", 1),
    "an entry that is no object": (lambda c: c["images"].append("x"), "broken entries", "error", 1),
    "no width": (box([5, 5, 0, 9]), "boxes without area", "warning", 1),
    "a negative height": (box([5, 5, 9, -3]), "boxes without area", "warning", 1),
    "many without area": (many(12, [5, 5, 0, 9]), "boxes without area", "error", 12),
    "outside": (box([90, 5, 9, 9]), "boxes outside", "warning", 1),
    "over the edge": (box([60, 5, 29, 9]), "boxes over the edge", "warning", 1),
    "corners as sizes": (many(24, [50, 40, 78, 58]), "corners, not sizes", "error", 24),
    "the same annotation twice": (repeat, "repeated annotations", "warning", 1),
    "nearly the same box": (lambda c: c["annotations"].append(c["annotations"][0] | {"bbox": [4, 5, 30, 21]}),
                            "nearly the same box", "warning", 1),
    "a class without objects": (lambda c: c["categories"].append({"id": 3, "name": "cow"}),
                                "classes without objects", "warning", 1),
    "a gap in the ids": (lambda c: c["categories"].append({"id": 9, "name": "cow"}), "gaps in class ids", "note", 1),
    "one name for two classes": (lambda c: c["categories"].append({"id": 3, "name": "cat"}),
                                 "two classes of one name", "warning", 1),
    "a rare class": (lambda c: c["annotations"].__delitem__(slice(0, 6, 2)), "rare classes", "warning", 1),
    "an image without objects": (lambda c: c["annotations"].__delitem__(slice(0, 2)),
                                 "images without objects", "note", 1),
    "most images without objects": (lambda c: c["annotations"].__delitem__(slice(0, 16)),
                                    "images without objects", "warning", 8),
    "no objects at all": (lambda c: c["annotations"].clear(), "classes without objects", "error", 2),
    "an annotation of no image": (lambda c: c["annotations"][0].update(image_id=999),
                                  "annotations of no image", "warning", 1),
    "more objects than are judged": (lambda c: c["annotations"].extend(
        {"image_id": 1, "category_id": 1, "bbox": [i % 40, i // 40, 9 + i % 7, 9]} for i in range(120)),
        "more objects than are judged", "warning", 1),
    "objects that are too small": (many(8, [5, 5, 0.4, 0.4]), "tiny objects", "warning", 1),
    "a missing file": (lambda c: c["images"][0].update(file_name="gone.png"), "missing files", "error", 1),
    "another size": (lambda c: c["images"][0].update(width=81), "wrong sizes", "error", 1),
    "one file listed twice": (lambda c: c["images"][0].update(file_name="2.png"), "same picture twice", "warning", 1),
    "a file of the other split": (lambda c: c["images"][0].update(file_name="101.png"), "leakage", "error", 1),
    "a class only to validate on": (lambda c: c["annotations"].__delitem__(slice(0, None, 2)),
                                    "never trained", "error", 1),
    "other names": (lambda c: c["categories"][0].update(name="lion"), "categories differ", "error", 1),
    "other numbers": (lambda c: renumbered(c, {1: 2, 2: 1}), "other numbers", "note", 2),
    "a class in one split only": (lambda c: c["categories"].append({"id": 3, "name": "cow"}),
                                  "listed in one split", "note", 1),
    "names that differ in case only": (lambda c: c["categories"].append({"id": 3, "name": "Cat"}),
                                       "nearly the same name", "warning", 1),
    "ids in quotes": (lambda c: [a.update(image_id=str(a["image_id"])) for a in c["annotations"]],
                      "read as", "note", 0),
}


@pytest.mark.parametrize("what", FAULTS)
def test_fault_is_found_at_its_level(good, what):
    change, kind, level, count = FAULTS[what]
    assert kinds(changed(good, change))[kind] == (level, count)


def test_files_that_are_broken_unlisted_or_copied_are_found(good):
    images = good / "images"
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:200])
    picture(500).save(images / "extra.png")
    shutil.copy(images / "2.png", images / "3.png")  # the same bytes
    Image.open(images / "101.png").save(images / "4.png", optimize=True, compress_level=1)  # the same pixels
    found = kinds(good)
    assert found["broken files"] == ("error", 1) and found["unlisted files"] == ("warning", 1)
    assert found["same picture twice"] == ("warning", 1) and found["leakage"] == ("error", 1)
    assert set(kinds(good, quick=True)) == {"unlisted files"}  # decodes nothing


def test_missing_and_unlisted_that_are_the_same_pictures_are_told_once(good):
    changed(good, lambda c: [image.update(file_name=f"x{image['file_name']}") for image in c["images"]])
    found = {one.kind: one for one in check_folder(good).findings}
    assert (found["missing files"].level, found["missing files"].count) == ("error", 12)
    assert (found["unlisted files"].level, found["unlisted files"].count) == ("note", 12)
    assert "while 12 that are listed are missing: have they other names now?" in found["unlisted files"].message


def test_one_repeated_id_among_60_000_is_found_in_a_moment(tmp_path):
    content = {"images": [{"id": i, "file_name": "a.png", "width": 9, "height": 9} for i in range(60_000)],
               "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    content["images"][-1]["id"] = 59_000
    started = time.process_time()
    with pytest.raises(ValueError, match=r"a\.json: two images have the id 59000; ids must be unique"):
        parse_annotations(content, tmp_path / "a.json")
    faults: list[str] = []
    parse_annotations(content, tmp_path / "a.json", Pictures(tmp_path), faults)
    assert faults == [f"{tmp_path / 'a.json'}: 2 images have the id 59000; ids must be unique"]
    assert time.process_time() - started < 10  # counting each id anew took 42 s


def test_a_copy_of_lower_quality_looks_alike_and_other_pictures_do_not(good):
    Image.open(good / "images" / "101.png").save(good / "images" / "101.jpg", quality=40)
    changed(good, lambda c: c["images"][0].update(file_name="101.jpg"))
    assert kinds(good)["look-alikes"] == ("warning", 1)
    first, second = (np.asarray(picture(seed)) for seed in (1, 2))
    assert (pattern_of(first) != pattern_of(second)).sum() > 50
    assert pattern_of(np.full((60, 80, 3), 7, np.uint8)) is None


def test_one_split_alone_asks_for_validation(good):
    (good / "instances_val.json").unlink()
    assert kinds(good)["no validation"] == ("warning", 1)


def test_annotation_file_that_cannot_be_read_is_a_finding_not_a_crash(good):
    (good / "instances_val.json").write_text('{"images": [')
    report = check_folder(good)
    (one,) = [one for one in report.errors if one.kind == "broken entries"]
    assert "is not valid JSON" in one.examples[0] and "train" in report.splits


def test_all_faults_come_at_once(good):
    changed(good, lambda c: [many(3, [1, 2, "x", 4])(c), c["images"][5].update(file_name="gone.png"), repeat(c)])
    (good / "images" / "9.png").write_bytes(b"no picture")
    found = kinds(good)
    assert found["broken entries"] == ("error", 4)  # the repeated one is broken too
    assert found["missing files"] == found["broken files"] == ("error", 1)


# --- formats


def test_voc_folder_is_checked_like_coco(tmp_path):
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    text = ("<annotation><size><width>80</width><height>60</height></size><object><name>cat</name><bndbox>"
            "<xmin>5</xmin><ymin>6</ymin><xmax>{}</xmax><ymax>25</ymax></bndbox></object></annotation>")
    for i in range(20):
        picture(i).save(tmp_path / "JPEGImages" / f"{i}.png")
        (tmp_path / "Annotations" / f"{i}.xml").write_text(text.format({3: 4, 5: "wide"}.get(i, 34)))
    lists = {"train": range(10), "val": [9, *range(10, 20), 77], "trainval": range(20), "cat_train": range(10)}
    for name, numbers in lists.items():
        (tmp_path / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(map(str, numbers)))
    assert split_names(tmp_path) == ["train", "val"]
    report = check_folder(tmp_path)
    found = {(one.split, one.kind): (one.level, one.count) for one in report.findings}
    assert found[("train", "broken entries")] == ("error", 1)  # 5.xml
    assert found[("val", "broken entries")] == ("error", 1)  # 77.xml is missing
    assert found[("train", "boxes without area")] == ("warning", 1)
    assert found[("train and val", "leakage")] == ("error", 1)
    assert report.splits["train"]["images"] == 9 and report.splits["val"]["images"] == 11


def test_splits_of_every_layout_are_named(tmp_path, good):
    assert split_names(TINY_COCO) == ["train", "val"] and split_names(good) == ["train", "val"]
    for split in ("train", "valid", "test"):
        (tmp_path / "x" / split).mkdir(parents=True)
        (tmp_path / "x" / split / "_annotations.coco.json").write_text(json.dumps(content(1)))
    assert split_names(tmp_path / "x") == ["train", "val", "test"]
    (tmp_path / "y").mkdir()
    picture(1).save(tmp_path / "y" / "a.png")
    (tmp_path / "y" / "a.xml").write_text("<annotation/>")
    assert split_names(tmp_path / "y") == ["all"]


# --- the command


def test_command_writes_report_and_pictures_and_its_status_says_whether_to_train(good, tmp_path, capsys):
    to = tmp_path / "report"
    assert main(["check", str(good), "--to", str(to)]) == 0
    said = capsys.readouterr().out
    assert "0 errors, 0 warnings, 0 notes: fit for training" in said and "train: 12 images, 24 objects" in said
    report = json.loads((to / "report.json").read_text())
    assert report["fit_for_training"] is True and report["training_size"] == 256
    assert Image.open(to / "train.png").size == (1280, 774) and (to / "val.png").is_file()
    (good / "images" / "1.png").unlink()
    assert main(["check", str(good), "--to", str(to), "--size", "320"]) == 1
    said = capsys.readouterr().out
    assert "ERROR    train: missing files: 1 pictures" in said and "mend the errors before you train" in said
    (finding,) = json.loads((to / "report.json").read_text())["findings"]
    assert finding["level"] == "error" and finding["examples"] == [f"{good / 'images' / '1.png'} does not exist"]


def test_boxes_are_drawn_where_they_are(good):
    sheet = np.asarray(check_folder(good).sheets["train"])
    upper_edge = sheet[5, 4:34].astype(int)  # of the first cat's box, (30, 3); the rest is under its name
    assert sheet.shape == (774, 1280, 3)
    assert (np.abs(upper_edge - np.array([0xE6, 0x9F, 0x00])).max(axis=1) < 3).mean() > 0.5


def test_mistakes_get_one_line(tmp_path, capsys):
    for folder, words in ((tmp_path / "gone", "no data folder"), (tmp_path, "holds no files")):
        assert main(["check", str(folder)]) == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert said[-1].startswith("error: ") and words in said[-1]
    assert main(["check", str(TINY_COCO), "--size", "0"]) == 1
    assert "--size is 0" in capsys.readouterr().err


def test_blood_cells_are_fit_for_training():
    if not (folder := os.environ.get("DETR_MINI_BCCD")):
        pytest.skip("DETR_MINI_BCCD does not name the folder of BCCD photographs")
    report = check_folder(folder, size=288)
    assert report.errors == [] and report.splits["train"]["objects_per_image"]["most"] == 28
    assert {one.kind for one in report.findings} == {"nearly the same box"}
