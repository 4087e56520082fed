"""CocoFolder: ids and their mapping, what is dropped, kinds of image files, errors that name the fault."""

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.data.coco import CocoFolder, coco_splits
from detr_mini.data.pictures import read_image

REPOSITORY = Path(__file__).parents[2]
TINY = REPOSITORY / "data" / "tiny_coco"


def folder(place: Path, images=None, annotations=(), categories=None) -> Path:
    """A data folder with one 20 x 10 picture (id 7) unless said otherwise; returns `place`."""
    (place / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), (200, 100, 50)).save(place / "images" / "a.png")
    content = {
        "images": images or [{"id": 7, "file_name": "a.png", "width": 20, "height": 10}],
        "annotations": list(annotations),
        "categories": categories or [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}],
    }
    (place / "instances.json").write_text(json.dumps(content))
    return place


def box(x, y, width, height, category=4, **more) -> dict:
    """One annotation of image 7."""
    return {"id": 1, "image_id": 7, "category_id": category, "bbox": [x, y, width, height]} | more


def pixel_boxes(target: dict) -> torch.Tensor:
    """Boxes of a target as xyxy in pixels."""
    return cxcywh_to_xyxy(target["boxes"]) * target["orig_size"].flip(0).repeat(2)


# --- labels and ids

def test_labels_count_up_in_order_of_category_id():
    data = CocoFolder.open(TINY, "train")
    assert data.classes == ["stop sign", "sports ball", "kite", "apple", "clock", "toothbrush"]
    assert data.num_classes == 6
    assert data.label_to_category == {0: 13, 1: 37, 2: 38, 3: 53, 4: 85, 5: 90}


def test_kept_category_ids_are_the_labels_and_leave_gaps():
    data = CocoFolder.open(TINY, "val", keep_category_ids=True)
    assert data.num_classes == 91 and data.classes[90] == "toothbrush" and data.classes[0] is None
    assert data.label_to_category == {i: i for i in (13, 37, 38, 53, 85, 90)}
    assert data[0][1]["labels"].tolist() == [13, 53]


def test_both_ways_lead_back_to_the_same_categories():
    plain, kept = CocoFolder.open(TINY, "train"), CocoFolder.open(TINY, "train", keep_category_ids=True)
    for i in range(len(plain)):
        back = [plain.label_to_category[label] for label in plain[i][1]["labels"].tolist()]
        assert back == [kept.label_to_category[label] for label in kept[i][1]["labels"].tolist()]


def test_item_has_the_agreed_fields():
    image, target = CocoFolder.open(TINY, "train")[0]
    assert image.dtype == torch.uint8 and image.shape == (3, 120, 160) and image.is_contiguous()
    assert set(target) == {"labels", "boxes", "image_id", "orig_size"}
    assert target["labels"].dtype == torch.int64 and target["boxes"].dtype == torch.float32
    assert target["image_id"] == 139 and isinstance(target["image_id"], int)
    assert target["orig_size"].tolist() == [120, 160] and target["orig_size"].dtype == torch.int64


def test_boxes_are_those_of_the_file(tmp_path):
    data = CocoFolder.open(folder(tmp_path, annotations=[box(2, 1, 6, 4), box(0, 0, 20, 10, category=9)]))
    target = data[0][1]
    assert target["labels"].tolist() == [0, 1]
    torch.testing.assert_close(target["boxes"], torch.tensor([[0.25, 0.3, 0.3, 0.4], [0.5, 0.5, 1.0, 1.0]]))


def test_annotations_out_of_order_reach_their_images(tmp_path):
    images = [{"id": i, "file_name": "a.png", "width": 20, "height": 10} for i in (30, 10, 20)]
    owners = torch.randint(0, 3, (300,)).tolist()
    mixed = [{"image_id": (10, 20, 30)[k], "category_id": 4, "bbox": [i / 20, 0, 2, 2]}
             for i, k in enumerate(owners)]
    data = CocoFolder.open(folder(tmp_path, images, mixed))
    for index, owner in enumerate((2, 0, 1)):  # and in the order of the file
        lefts = (pixel_boxes(data[index][1])[:, 0] * 20).round().int().tolist()
        assert lefts == [i for i, k in enumerate(owners) if k == owner]


def test_negative_index_and_past_the_end():
    data = CocoFolder.open(TINY, "val")
    assert data[-1][1]["image_id"] == data.image_ids[-1]
    with pytest.raises(IndexError):
        data[len(data)]


# --- crowds, degenerate boxes, empty images

def test_crowd_is_no_target_but_stays_in_the_ground_truth():
    data = CocoFolder.open(TINY, "train")
    image_id = 285
    target = data[data.image_ids.index(image_id)][1]
    assert [data.classes[label] for label in target["labels"].tolist()] == ["clock"]
    truth = [a for a in data.coco_ground_truth()["annotations"] if a["image_id"] == image_id]
    assert [a["iscrowd"] for a in truth] == [0, 1]


def test_degenerate_boxes_are_dropped_and_others_clamped(tmp_path):
    entries = [box(-5, -5, 10, 10), box(15, 5, 50, 50), box(3, 3, 0, 4), box(3, 3, 4, -1), box(20, 2, 5, 5),
               box(3, 3, 4, 4, iscrowd=1), box(2, 2, 1, 1)]
    target = CocoFolder.open(folder(tmp_path, annotations=entries))[0][1]
    wanted = torch.tensor([[0, 0, 5, 5], [15, 5, 20, 10], [2, 2, 3, 3]]).float()
    torch.testing.assert_close(pixel_boxes(target), wanted)


def test_image_without_objects_stays():
    data = CocoFolder.open(TINY, "train")
    target = data[data.image_ids.index(785)][1]
    assert target["boxes"].shape == (0, 4) and target["boxes"].dtype == torch.float32
    assert target["labels"].shape == (0,) and target["labels"].dtype == torch.int64


def test_one_line_of_log_counts_everything_and_one_shows_the_mapping(tmp_path, caplog):
    strangers = [{"image_id": 99, "category_id": 4, "bbox": [0, 0, 1, 1]}] * 3
    entries = [box(0, 0, 30, 5), box(1, 1, 0, 1), box(1, 1, 2, 2, iscrowd=1), box(1, 1, 2, 2), *strangers]
    images = [{"id": i, "file_name": "a.png", "width": 20, "height": 10} for i in (7, 8)]
    folder(tmp_path, images, entries)
    with caplog.at_level(logging.INFO, logger="detr_mini"):
        CocoFolder(tmp_path / "images", tmp_path / "instances.json")
    assert caplog.messages == [
        "instances.json: 2 labels, as label=name (category id): 0=dog (id 4), 1=cat (id 9)",
        "instances.json: 2 images (1 without objects), 2 boxes; 1 clamped to the image; "
        "dropped: 1 crowd, 1 degenerate, 3 of images not listed",
    ]


def test_ground_truth_is_the_file_but_for_annotation_ids(tmp_path):
    entries = [box(1, 2, 3.5, 4, id=0, area=7.25), box(1, 1, 0, 1, id=0), box(0, 0, 5, 5, id=0, iscrowd=1)]
    truth = CocoFolder.open(folder(tmp_path, annotations=entries)).coco_ground_truth()
    assert [a["id"] for a in truth["annotations"]] == [1, 2, 3]
    assert [a["bbox"] for a in truth["annotations"]] == [entry["bbox"] for entry in entries]
    assert [a["area"] for a in truth["annotations"]] == [7.25, 0, 25]
    assert truth["images"] == [{"id": 7, "file_name": "a.png", "width": 20, "height": 10}]
    assert truth["categories"] == [{"id": 4, "name": "dog"}, {"id": 9, "name": "cat"}]


# --- kinds of image files

def test_grey_palette_alpha_and_cmyk_become_rgb(tmp_path):
    colour = Image.new("RGB", (8, 6), (200, 100, 50))
    colour.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    colour.convert("L").save(tmp_path / "grey.png")
    Image.new("RGBA", (8, 6), (200, 100, 50, 10)).save(tmp_path / "alpha.png")
    Image.new("1", (8, 6), 1).save(tmp_path / "bit.png")
    wanted = {"palette": [200, 100, 50], "grey": [124, 124, 124], "alpha": [200, 100, 50], "bit": [255] * 3}
    for name, rgb in wanted.items():
        image = read_image(tmp_path / f"{name}.png")
        assert image.shape == (3, 6, 8) and image.dtype == torch.uint8
        assert image[:, 2, 3].tolist() == rgb, name
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert (read_image(tmp_path / "cmyk.jpg")[:, 2, 3].int() - torch.tensor([200, 100, 50])).abs().max() <= 3


def test_palette_with_transparency_bytes_gives_its_colours_without_a_warning(tmp_path, recwarn):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / "p.png", transparency=b"\x80\x00")
    assert read_image(tmp_path / "p.png")[:, 0, 0].tolist() == [10, 20, 30]
    assert not recwarn.list


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0].tolist() == [[0, 0, 1, 128, 255]]


def turned(place: Path, orientation: int, width: int = 20, height: int = 10) -> Path:
    """A photograph with its left half white and an EXIF orientation."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(place / "turned.png", exif=exif)
    return place / "turned.png"


def test_exif_does_not_turn_an_image_annotated_as_stored(tmp_path):
    for orientation in (1, 2, 3, 6, 8):
        image = read_image(turned(tmp_path, orientation), (10, 20))
        assert image.shape == (3, 10, 20) and image[0, :, :10].min() == 255 and image[0, :, 10:].max() == 0


def test_exif_turns_an_image_annotated_as_seen(tmp_path):
    image = read_image(turned(tmp_path, 6), (20, 10))
    assert image.shape == (3, 20, 10)
    assert image[0, :10].min() == 255 and image[0, 10:].max() == 0  # turned right


def test_fixture_photograph_with_exif_has_its_kite_where_the_box_is():
    data = CocoFolder.open(TINY, "train")
    image, target = data[data.image_ids.index(776)]
    assert Image.open(data.path(4)).getexif()[0x0112] == 6
    x0, y0, x1, y1 = pixel_boxes(target)[0].round().int().tolist()
    inside = image[:, y0:y1, x0:x1].float()
    yellow = (inside[0] > 180) & (inside[1] > 180) & (inside[2] < 120)
    assert yellow.float().mean() > 0.1  # a quarter of the kite is yellow; nothing else in the picture is
    outside = image.clone().float()
    outside[:, y0:y1, x0:x1] = 0
    assert not ((outside[0] > 180) & (outside[1] > 180) & (outside[2] < 120)).any()


def test_size_that_disagrees_with_the_annotations_is_an_error(tmp_path):
    images = [{"id": 7, "file_name": "a.png", "width": 640, "height": 480}]
    with pytest.raises(ValueError, match=r"id 7: .*a\.png is 20 x 10 pixels, its annotations say 640 x 480"):
        CocoFolder.open(folder(tmp_path, images))[0]


# --- errors

def test_missing_image_is_named_with_id_path_and_advice(tmp_path):
    data = CocoFolder.open(folder(tmp_path))
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(FileNotFoundError) as error:
        data[0]
    message = str(error.value)
    assert "image id 7" in message and str(tmp_path / "images" / "a.png") in message
    assert "restore the file, or remove the image from" in message and "\n" not in message


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"GIF" + b])
def test_corrupt_image_is_named_with_id_and_path(tmp_path, damage):
    folder(tmp_path)
    file = tmp_path / "images" / "a.png"
    Image.effect_noise((20, 10), 60).save(file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"image id 7: image file .*a\.png cannot be decoded \("):
        CocoFolder.open(tmp_path)[0]


def test_float_pixels_and_32_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "f.tiff")
    Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)).save(tmp_path / "i.tiff")
    for name, words in (("f.tiff", "floating-point"), ("i.tiff", "more than 16 bits")):
        with pytest.raises(ValueError, match=words):
            read_image(tmp_path / name)


def broken(place: Path, change) -> Path:
    """The annotation file of `folder`, with two good annotations, changed by `change(content)`."""
    folder(place, annotations=[box(1, 1, 2, 2, id=11), box(2, 2, 3, 3, id=12)])
    content = json.loads((place / "instances.json").read_text())
    change(content)
    (place / "instances.json").write_text(json.dumps(content))
    return place


FAULTS = {
    "images": lambda c: c.pop("images"),
    "list 'categories' is empty": lambda c: c.update(categories=[]),
    "images[0] (id 7) has 'width': 'wide'": lambda c: c["images"][0].update(width="wide"),
    "images[0] (id 7) has 'height': 0; it must be a whole number of pixels":
        lambda c: c["images"][0].update(height=0),
    "images[0] (id 7) has 'file_name': ''": lambda c: c["images"][0].update(file_name=""),
    "images[0] (id x) has 'id': 'x'; it must be a whole number": lambda c: c["images"][0].update(id="x"),
    "two images have the id 7": lambda c: c["images"].append(c["images"][0]),
    "annotations[1] (id 12) has no field 'bbox'": lambda c: c["annotations"][1].pop("bbox"),
    "annotations[1] (id 12) has 'bbox': [1, 2]; it must be four":
        lambda c: c["annotations"][1].update(bbox=[1, 2]),
    "annotations[0] (id 11) has 'bbox': [nan":
        lambda c: c["annotations"][0].update(bbox=[float("nan"), 1, 1, 1]),
    "annotations[0] (id 11) has 'category_id': 5; it must be one of the file's categories [4, 9]":
        lambda c: c["annotations"][0].update(category_id=5),
    "annotations[0] (id 11) has no field 'image_id'": lambda c: c["annotations"][0].pop("image_id"),
    "annotations[0] (id 11) has 'area': 'large'": lambda c: c["annotations"][0].update(area="large"),
    "annotations[0] (id 11) has 'iscrowd': 'maybe'": lambda c: c["annotations"][0].update(iscrowd="maybe"),
    "annotations[0] (id 11) has 'image_id': True": lambda c: c["annotations"][0].update(image_id=True),
    "annotations[0] (id 11) has 'image_id': '7a'": lambda c: c["annotations"][0].update(image_id="7a"),
    "annotations[1] is 'oops'": lambda c: c["annotations"].__setitem__(1, "oops"),
    "two categories have the id 9": lambda c: c["categories"][1].update(id=9),
    "categories[0] (id 9) has no field 'name'": lambda c: c["categories"][0].pop("name"),
}


@pytest.mark.parametrize("words", FAULTS)
def test_faulty_annotation_file_is_named_with_entry_and_field(tmp_path, words):
    place = broken(tmp_path, FAULTS[words])
    with pytest.raises(ValueError) as error:
        CocoFolder.open(place)
    assert words in str(error.value) and str(place / "instances.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_size_that_is_not_stated_is_the_picture_s(tmp_path):
    place = broken(tmp_path, lambda c: c["images"][0].pop("width"))
    assert CocoFolder.open(place)[0][1]["orig_size"].tolist() == [10, 20]
    (place / "images" / "a.png").unlink()
    with pytest.raises(ValueError, match=r"an image without width and height has no picture .*a\.png does not exist"):
        CocoFolder.open(place)


@pytest.mark.parametrize("text", [b"{", b"", b"[1, 2]", b"\xff\xfe{}"])
def test_file_that_is_no_coco_json_is_named(tmp_path, text):
    (folder(tmp_path) / "instances.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"instances\.json (is not valid JSON|has no list 'images')"):
        CocoFolder.open(tmp_path)


def test_huge_category_id_cannot_become_a_label(tmp_path):
    folder(tmp_path, categories=[{"id": 10**9, "name": "cat"}])
    assert CocoFolder.open(tmp_path).num_classes == 1
    with pytest.raises(ValueError, match="too large to be a label"):
        CocoFolder.open(tmp_path, keep_category_ids=True)


# --- layouts

LAYOUTS = {
    "coco": ("train2017", "annotations/instances_train2017.json", "train"),
    "one file per split": ("images", "instances_train.json", "train"),
    "capitals": ("images/Validation", "annotations/instances_Validation.json", "val"),
    "roboflow": ("valid", "valid/_annotations.coco.json", "val"),
    "own": ("images", "instances.json", "train"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_found(tmp_path, layout):
    images, annotations, split = LAYOUTS[layout]
    (tmp_path / images).mkdir(parents=True)
    (tmp_path / annotations).parent.mkdir(exist_ok=True)
    (tmp_path / annotations).write_text("{}")
    (found,) = coco_splits(tmp_path)
    assert (found.pictures.first, found.source) == (tmp_path / images, tmp_path / annotations)
    assert found.name == ("all" if layout == "own" else split)


def test_a_split_that_is_not_there_says_what_is_and_what_to_type(tmp_path):
    with pytest.raises(FileNotFoundError, match="no split 'val' .*it has no splits.*--val-fraction.*--val-split all"):
        CocoFolder.open(folder(tmp_path), "val")
    (tmp_path / "instances.json").rename(tmp_path / "instances_Train.json")
    with pytest.raises(FileNotFoundError, match="no split 'test' .*there is train.*--split train"):
        CocoFolder.open(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="no data folder at"):
        CocoFolder.open(tmp_path / "nowhere")


def test_folder_without_splits_says_so(tmp_path, caplog):
    CocoFolder.open(folder(tmp_path), "train")
    assert any("has no splits: 'train' is all of its images" in message for message in caplog.messages)


# --- the fixture and a real folder

def test_fixture_is_what_its_script_draws(tmp_path):
    sys.path.insert(0, str(REPOSITORY / "tests"))
    try:
        from make_tiny_coco import make
    finally:
        sys.path.pop(0)
    make(tmp_path)
    stored = sorted(file.relative_to(TINY) for file in TINY.rglob("*") if file.is_file())
    assert stored == sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file())
    assert sum((TINY / name).stat().st_size for name in stored) < 150_000
    for name in stored:
        if name.suffix == ".json":
            assert json.loads((TINY / name).read_text()) == json.loads((tmp_path / name).read_text())
        else:  # another version of a JPEG library may round differently
            one, two = read_image(TINY / name).int(), read_image(tmp_path / name).int()
            assert one.shape == two.shape and (one - two).abs().float().mean() < 1


@pytest.fixture
def bccd() -> Path:
    """The folder of blood-cell photographs that DETR_MINI_BCCD names."""
    if not os.environ.get("DETR_MINI_BCCD"):
        pytest.skip("DETR_MINI_BCCD does not name the BCCD folder (python -m detr_mini.data.download bccd)")
    return Path(os.environ["DETR_MINI_BCCD"])


def test_bccd_has_its_images_boxes_and_both_one_pixel_boxes(bccd):
    sizes = {"train": (205, 2805), "val": (87, 1138)}
    for split, (images, boxes) in sizes.items():
        data = CocoFolder.open(bccd, split)
        assert data.classes == ["Platelets", "RBC", "WBC"] and len(data) == images
        targets = [data[i][1] for i in range(len(data))]  # decodes every photograph
        assert sum(len(target["labels"]) for target in targets) == boxes
        found = torch.cat([pixel_boxes(target) for target in targets])
        assert ((found[:, 2:] - found[:, :2]).round() == 1).all(dim=1).sum() == 1
