"""Folders as people bring them, one function for each: what an exporter writes, and what goes wrong on the way.

Made by code instead of stored, so that a clone stays small and a new case costs three lines. Pictures are dark, with a
bright red and a bright blue box that are annotated. `CASES` says what each command makes of every folder.
"""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 64, 48
NAMES = ("red", "blue")
COLOURS = ((220, 40, 40), (40, 60, 220))
GOES = ("fit", 0, 0)  # what check says; exit status of train and of evaluate


def boxes(seed: int) -> list[list[float]]:
    """x, y, width, height of the red and of the blue box of a picture."""
    random = np.random.default_rng(seed)
    sizes = random.integers((14, 10), (24, 18), (2, 2))
    corners = random.integers((0, 0), (WIDTH - 24, HEIGHT - 18), (2, 2))
    return [[float(value) for value in (*corner, *size)] for corner, size in zip(corners, sizes, strict=True)]


def picture(path: Path, seed: int) -> None:
    """Write a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 60, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    for (x, y, width, height), colour in zip(boxes(seed), COLOURS, strict=True):
        ImageDraw.Draw(image).rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    image.save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=90)


def lists(names: list[str], first: int = 0, ids: tuple = (1, 2)) -> dict:
    """The three lists of COCO's format; picture i was made with seed first + i."""
    images = [{"id": i + 1, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)]
    things = [{"id": 2 * i + c + 1, "image_id": i + 1, "category_id": ids[c], "bbox": box, "iscrowd": 0,
               "area": box[2] * box[3]} for i in range(len(names)) for c, box in enumerate(boxes(first + i))]
    categories = [{"id": number, "name": name} for number, name in zip(ids, NAMES, strict=True)]
    return {"images": images, "annotations": things, "categories": categories}


def write(path: Path, content: object) -> None:
    """Write JSON, text or bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def coco(place: Path, file: str, files: list[str], names: list[str] | None = None, first: int = 0,
         change: Callable[[dict], object] | None = None, ids: tuple = (1, 2)) -> None:
    """One annotation file; `files` are written, `names` is what it calls them."""
    for i, name in enumerate(files):
        picture(place / name, first + i)
    content = lists(names or [Path(name).name for name in files], first, ids)
    if change:
        change(content)
    write(place / file, content)


def two(place: Path, change: Callable[[dict], object] | None = None, files: str = "annotations/instances_{}.json",
        images: str = "images/{0}{1}.jpg", splits: tuple[str, str] = ("train", "val")) -> None:
    """A training and a validation file."""
    for split, first, count in ((splits[0], 0, 10), (splits[1], 100, 6)):
        coco(place, files.format(split), [images.format(split, i) for i in range(count)], first=first, change=change)


def stems(count: int, stem: str = "p{}") -> list[str]:
    return [stem.format(i) for i in range(count)]


def xml(stem: str, seed: int, filename: str | None = None, classes: tuple = NAMES, head: str = "") -> str:
    """One of VOC's files."""
    things = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x + 1:g}</xmin><ymin>{y + 1:g}</ymin><xmax>{x + w:g}</xmax>"
        f"<ymax>{y + h:g}</ymax></bndbox></object>" for name, (x, y, w, h) in zip(classes, boxes(seed), strict=True))
    return (f"{head}<annotation><filename>{filename or f'{stem}.jpg'}</filename><size><width>{WIDTH}</width>"
            f"<height>{HEIGHT}</height></size>{things}</annotation>")


def voc(place: Path, names: list[str], annotations: str = "Annotations", images: str = "JPEGImages",
        suffix: str = ".jpg", first: int = 0, filename: str = "{}.jpg", encoding: str = "utf-8", **more) -> None:
    """Pictures and their XML files."""
    for i, stem in enumerate(names):
        picture(place / images / f"{stem}{suffix}", first + i)
        text = xml(stem, first + i, filename.format(stem), **more)
        write(place / annotations / f"{stem}.xml", text.encode(encoding))


def voc_lists(place: Path, names: list[str], encoding: str = "utf-8", form: str = "{}", folder: str = "ImageSets/Main",
              train: int = 5) -> None:
    """VOC's lists of the two splits."""
    for split, part in (("train", names[:train]), ("val", names[train:])):
        write(place / folder / f"{split}.txt", "".join(form.format(name) + "\n" for name in part).encode(encoding))


def yolo_rows(seed: int) -> str:
    """YOLO's lines of a picture."""
    return "".join(f"{c} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} {w / WIDTH:.6f} {h / HEIGHT:.6f}\n"
                   for c, (x, y, w, h) in enumerate(boxes(seed)))


def yolo(place: Path, images: str, labels: str, splits: dict[str, int], yaml: str | None) -> None:
    """Pictures, label files and data.yaml. images, labels: folders, with {} for the split."""
    for number, (split, count) in enumerate(splits.items()):
        for i in range(count):
            picture(place / images.format(split) / f"{split}{i}.jpg", 100 * number + i)
            write(place / labels.format(split) / f"{split}{i}.txt", yolo_rows(100 * number + i))
    if yaml is not None:
        write(place / "data.yaml", yaml)


# --- COCO: where pictures and annotations lie


def cvat_default(place: Path) -> None:
    coco(place, "annotations/instances_default.json", [f"images/default/{s}.PNG" for s in stems(8, "frame_{:06}")])


def cvat_three(place: Path) -> None:
    for split, first, count in (("Train", 0, 10), ("Validation", 100, 6), ("Test", 200, 3)):
        files = [f"images/{split}/{i}.jpg" for i in range(count)]
        coco(place, f"annotations/instances_{split}.json", files, first=first)


def backslashes(place: Path) -> None:
    coco(place, "instances.json", [f"images/a{i}.jpg" for i in range(8)], [f"images\\a{i}.jpg" for i in range(8)])


def another_machine(place: Path) -> None:
    names = [f"/data/label-studio/media/upload/4/a{i}.jpg" for i in range(8)]
    coco(place, "instances.json", [f"images/a{i}.jpg" for i in range(8)], names)


def windows_drive(place: Path) -> None:
    names = [rf"C:\photos\2024\a{i}.jpg" for i in range(8)]
    coco(place, "instances.json", [f"images/a{i}.jpg" for i in range(8)], names)


def labelme2coco(place: Path) -> None:
    names = [rf"JPEGImages\a{i}.jpg" for i in range(8)]
    coco(place, "annotations.json", [name.replace("\\", "/") for name in names], names)


def label_studio(place: Path) -> None:
    files = [f"images/0000000{i}-blood film {i}.jpg" for i in range(8)]
    coco(place, "result.json", files, [quote(name) for name in files], ids=(0, 1))


def roboflow(place: Path) -> None:
    def placeholder(content: dict) -> None:
        for category in content["categories"]:
            category["supercategory"] = "shapes"
        content["categories"].insert(0, {"id": 0, "name": "shapes", "supercategory": "none"})

    for split, first, count in (("train", 0, 10), ("valid", 100, 4), ("test", 200, 2)):
        coco(place, f"{split}/_annotations.coco.json", [f"{split}/{i}_jpg.rf.0000000{i}.jpg" for i in range(count)],
             first=first, change=placeholder)


def other_case(place: Path) -> None:
    two(place, lambda c: [entry.update(file_name=entry["file_name"].upper()) for entry in c["images"]])


def other_form(place: Path) -> None:
    """A Mac's file names (NFD) and annotations in NFC, or the other way round."""
    names = [f"bl\u00fcte {i}.jpg" for i in range(8)]
    coco(place, "annotations.coco.json", [f"images/{unicodedata.normalize('NFD', name)}" for name in names], names)


def subfolders(place: Path) -> None:
    names = [f"day{i % 2}/{i}.jpg" for i in range(8)]
    coco(place, "labels.json", [f"data/{name}" for name in names], names)


def same_name_twice(place: Path) -> None:
    """Two pictures of one name, and annotations that do not say which."""
    picture(place / "day1/0.jpg", 50)
    picture(place / "day2/0.jpg", 51)
    write(place / "labels.json", lists(["0.jpg"]))


def nested_once_more(place: Path) -> None:
    """What comes out of a zip file: the data set in a folder of its own."""
    two(place / "my-dataset-1")


def custom_json(place: Path) -> None:
    two(place, files="annotations/custom_{}.json", images="{0}2017/{1}.jpg")


def train_json(place: Path) -> None:
    two(place, files="annotations/{}.json", images="images/{0}/{1}.jpg")


def two_of_one_split(place: Path) -> None:
    two(place)
    write(place / "old/instances_train.json", lists(["train0.jpg"]))


def captions_beside(place: Path) -> None:
    """As COCO's own folder: captions and key points beside the instances."""
    two(place, files="annotations/instances_{}2017.json", images="{0}2017/{1}.jpg")
    write(place / "annotations/captions_train2017.json", {"images": [], "annotations": [{"caption": "a"}]})
    write(place / "annotations/person_keypoints_train2017.json", lists(["0.jpg"]))


def train_only(place: Path) -> None:
    coco(place, "annotations/instances_train.json", [f"images/{i}.jpg" for i in range(8)])


def test_without_annotations(place: Path) -> None:
    two(place)
    write(place / "annotations/instances_test.json", {"images": lists([f"val{i}.jpg" for i in range(4)])["images"]})


# --- COCO: fields


def fields(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda place: two(place, change)


def each(part: str, **new: Callable) -> Callable[[dict], None]:
    """A change of fields of every entry of a list."""
    def change(content: dict) -> None:
        for entry in content[part]:
            for name, value in new.items():
                entry[name] = value(entry)
    return change


def all_quoted(content: dict) -> None:
    """Every number as text."""
    for part in content.values():
        for entry in part:
            entry |= {name: str(value) for name, value in entry.items() if isinstance(value, int | float)}
            if "bbox" in entry:
                entry["bbox"] = [str(value) for value in entry["bbox"]]


def polygons(content: dict) -> None:
    for entry in content["annotations"]:
        x, y, w, h = entry.pop("bbox")
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def without(part: str, *names: str) -> Callable[[dict], None]:
    return lambda content: [entry.pop(name) for entry in content[part] for name in names]


# --- class identity


def renumbered(place: Path) -> None:
    coco(place, "annotations/instances_train.json", [f"images/train{i}.jpg" for i in range(10)])
    coco(place, "annotations/instances_val.json", [f"images/val{i}.jpg" for i in range(6)], first=100, ids=(2, 1))


def renamed(place: Path) -> None:
    two(place)
    path = place / "annotations/instances_val.json"
    write(path, path.read_text().replace('"blue"', '"azure"'))


def no_objects(place: Path) -> None:
    two(place, lambda content: content["annotations"].clear())


# --- VOC


def appledouble(place: Path) -> None:
    voc(place, stems(8))
    for stem in stems(8):
        write(place / f"Annotations/._{stem}.xml", b"\0\5\x16\7Mac OS X        ")
        write(place / f"JPEGImages/._{stem}.jpg", b"\0\5\x16\7Mac OS X        ")


def voc_with(count: int = 8, stem: str = "p{}", **more) -> Callable[[Path], None]:
    """VOC's own layout with lists."""
    listing = {name: more.pop(name) for name in ("list_encoding", "form", "folder") if name in more}

    def make(place: Path) -> None:
        voc(place, stems(count, stem), **more)
        voc_lists(place, stems(count, stem), listing.get("list_encoding", "utf-8"), listing.get("form", "{}"),
                  listing.get("folder", "ImageSets/Main"))
    return make


def voc_nested(place: Path) -> None:
    voc(place / "train", stems(6), "annotations", "images")
    voc(place / "val", stems(3), "annotations", "images", first=100)


def voc_split_below(place: Path) -> None:
    """annotations/train beside images/train."""
    voc(place, stems(6), "annotations/train", "images/train")
    voc(place, stems(3), "annotations/val", "images/val", first=100)


def voc_devkit(place: Path) -> None:
    voc_with()(place / "VOCdevkit/VOC2007")
    write(place / "VOCdevkit/VOC2007/ImageSets/Main/red_train.txt", "p0  1\np1 -1\n")


def voc_by_class(place: Path) -> None:
    """A folder for each class, and one list for both."""
    voc(place, stems(4), "Annotations/a", "JPEGImages/a")
    voc(place, stems(4, "q{}"), "Annotations/b", "JPEGImages/b", first=50)
    voc_lists(place, [*stems(4), *stems(4, "q{}")])


def voc_trainval(place: Path) -> None:
    """trainval and test, as VOC 2007 gives them out."""
    voc(place, stems(8))
    write(place / "ImageSets/Main/trainval.txt", "p0\np1\np2\np3\np4\n")
    write(place / "ImageSets/Main/test.txt", "p5\np6\np7\n")


def voc_beside(place: Path) -> None:
    """XML files beside the pictures, as labelImg writes them."""
    voc(place / "train", stems(6), ".", ".")
    voc(place / "valid", stems(3), ".", ".", first=100)


# --- YOLO

STATED = "train: {}\nval: {}\nnc: 2\nnames: {}\n"


def yolo_ultralytics(place: Path) -> None:
    yaml = STATED.format("images/train", "images/val", "[red, blue]")
    yolo(place, "images/{}", "labels/{}", {"train": 6, "val": 3}, yaml)


def yolo_roboflow(place: Path) -> None:
    """Roboflow writes ../train/images, which is right from one folder further down."""
    yaml = STATED.format("../train/images", "../valid/images", "{0: red, 1: blue}") + "test: ../test/images\n"
    yolo(place, "{}/images", "{}/labels", {"train": 6, "valid": 3}, yaml)


def yolo_other_machine(place: Path) -> None:
    yaml = "path: /content/drive/MyDrive/set\n" + STATED.format("images/train", "images/val", "\n  0: red\n  1: blue")
    yolo(place, "images/{}", "labels/{}", {"train": 6, "val": 3}, yaml)


def yolo_names_only(place: Path) -> None:
    yolo(place, "images/{}", "labels/{}", {"train": 6, "val": 3}, "names: [red, blue]\n")


def yolo_classes_txt(place: Path) -> None:
    """Label Studio's YOLO export: classes.txt and no splits."""
    yolo(place, "images", "labels", {"a": 8}, None)
    write(place / "classes.txt", "red\nblue\n")


def yolo_darknet(place: Path) -> None:
    """darknet: labels beside the pictures, and lists of those."""
    yolo(place, "data/obj", "data/obj", {"train": 6, "val": 3}, None)
    write(place / "data/obj.names", "red\nblue\n")
    for split, count in (("train", 6), ("val", 3)):
        write(place / f"data/{split}.txt", "".join(f"data/obj/{split}{i}.jpg\n" for i in range(count)))


def yolo_lists(place: Path) -> None:
    """data.yaml names lists of pictures, as Ultralytics' autosplit writes them."""
    yolo(place, "images", "labels", {"a": 8}, STATED.format("train.txt", "./val.txt", "[red, blue]"))
    write(place / "train.txt", "".join(f"./images/a{i}.jpg\n" for i in range(5)))
    write(place / "val.txt", "".join(f"/content/drive/set/images/a{i}.jpg\n" for i in range(5, 8)))


def yolo_labelimg(place: Path) -> None:
    """labelImg: label files and a classes.txt beside the pictures."""
    yolo(place, "{}", "{}", {"train": 6, "val": 3}, None)
    for split in ("train", "val"):
        write(place / split / "classes.txt", "red\nblue\n")


def yolo_polygons_and_empties(place: Path) -> None:
    yolo_ultralytics(place)
    (x, y, w, h), second = boxes(0)
    left, top, right, bottom = x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT
    row = f"0 {left} {top} {right} {top} {right} {bottom} {left} {bottom}\n"
    write(place / "labels/train/train0.txt", row + yolo_rows(0).splitlines()[1])
    write(place / "labels/train/train1.txt", "")
    (place / "labels/train/train2.txt").unlink()


def yolo_in_pixels(place: Path) -> None:
    yolo_ultralytics(place)
    write(place / "labels/train/train3.txt", "0 0.5 0.5 0.2 0.2\n1 30 20 12 8\n")


# --- the rest


def one_metadata(place: Path) -> None:
    """One metadata.jsonl for all splits, and an object for each thing."""
    rows = []
    for split, first, count in (("train", 0, 6), ("val", 100, 3)):
        for i in range(count):
            picture(place / split / f"{i}.jpg", first + i)
            things = [{"bbox": box, "label": name} for box, name in zip(boxes(first + i), NAMES, strict=True)]
            rows.append(json.dumps({"file_name": f"{split}/{i}.jpg", "objects": things}))
    write(place / "metadata.jsonl", "\n".join(rows))


def fiftyone(place: Path) -> None:
    """FiftyOne: labels.json beside data/."""
    for split, first, count in (("train", 0, 6), ("validation", 100, 3)):
        coco(place, f"{split}/labels.json", [f"{split}/data/{i}.jpg" for i in range(count)], first=first)


def local_files(place: Path) -> None:
    """Label Studio's names of files on its own disk."""
    names = [f"/data/local-files/?d=photos%5Cday%201%5C{i}.jpg" for i in range(8)]
    coco(place, "result.json", [f"images/{i}.jpg" for i in range(8)], names)


def utf16(place: Path) -> None:
    """What PowerShell makes of a JSON file."""
    coco(place, "export.json", [f"images/{i}.jpg" for i in range(8)])
    write(place / "export.json", (place / "export.json").read_text().encode("utf-16"))


def own_splits(place: Path) -> None:
    """Splits with names of their own."""
    two(place, splits=("monday", "tuesday"))


def imagefolder(place: Path) -> None:
    for split, first, count in (("train", 0, 6), ("validation", 100, 3)):
        rows = []
        for i in range(count):
            picture(place / split / f"{i}.jpg", first + i)
            things = {"bbox": boxes(first + i), "categories": [0, 1]}
            rows.append(json.dumps({"file_name": f"{i}.jpg", "objects": things}))
        write(place / split / "metadata.jsonl", "\n".join(rows))


def packed(place: Path) -> None:
    write(place / "my-dataset.zip", b"PK\3\4")


def labelme_files(place: Path) -> None:
    picture(place / "a.jpg", 0)
    write(place / "a.json", {"shapes": [{"label": "red"}], "imagePath": "a.jpg"})


def pictures_only(place: Path) -> None:
    picture(place / "a.jpg", 0)


def createml(place: Path) -> None:
    picture(place / "a.jpg", 0)
    write(place / "a.json", [{"image": "a.jpg", "annotations": [{"label": "red", "coordinates": {"x": 1}}]}])


def datumaro(place: Path) -> None:
    picture(place / "images/a.jpg", 0)
    write(place / "annotations/default.json", {"info": {}, "categories": {}, "items": []})


def via(place: Path) -> None:
    picture(place / "a.jpg", 0)
    write(place / "via.json", {"a.jpg1": {"filename": "a.jpg", "regions": [{"shape_attributes": {}}]}})


def table(place: Path) -> None:
    picture(place / "a.jpg", 0)
    write(place / "boxes.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n")


def cvat_xml(place: Path) -> None:
    picture(place / "images/a.jpg", 0)
    write(place / "annotations.xml", "<annotations><image/></annotations>")


@dataclass(frozen=True)
class Case:
    """A folder and what comes of it.

    check: "fit", "errors", or the start of the one line that refuses it. train, evaluate: words of the line with which
    the command refuses, or None where it goes well. images: of each split. says: what `check` says besides.
    """

    make: Callable[[Path], None]
    check: str = "fit"
    train: str | None = None
    evaluate: str | None = None
    images: dict[str, int] | None = None
    says: str = ""


NO_VAL = "--val-fraction 0.2"
TWO, PARTS = {"train": 10, "val": 6}, {"train": 6, "val": 3}
CASES = {
    "03_cvat_default": Case(cvat_default, train=NO_VAL, images={"all": 8}, says="8 of 8 pictures found by their name"),
    "CVAT's Train, Validation, Test": Case(cvat_three, images={"train": 10, "val": 6, "test": 3}),
    "05b_backslash_known_layout": Case(backslashes, train=NO_VAL, images={"all": 8}, says="backslashes turned"),
    "06b_absolute_other_machine": Case(another_machine, train=NO_VAL, images={"all": 8}, says="in another folder"),
    "another machine's drive": Case(windows_drive, train=NO_VAL, images={"all": 8}, says="backslashes turned"),
    "07_custom_train_json": Case(custom_json, images=TWO),
    "07c_annotations_train_json": Case(train_json, images=TWO),
    "08_labelme2coco": Case(labelme2coco, train=NO_VAL, images={"all": 8}, says="backslashes turned"),
    "label_studio": Case(label_studio, train=NO_VAL, images={"all": 8}, says="%20 and the like decoded"),
    "roboflow": Case(roboflow, images={"train": 10, "val": 4, "test": 2}, says="category shapes left out"),
    "names in other cases": Case(other_case, images=TWO, says="without regard to upper and lower case"),
    "names in another normal form": Case(other_form, train=NO_VAL, images={"all": 8}, says="without regard to"),
    "pictures in subfolders": Case(subfolders, train=NO_VAL, images={"all": 8}),
    "one name, two pictures": Case(same_name_twice, "errors", "no split 'val'",
        "could be day1/0.jpg"),
    "a folder in the folder": Case(nested_once_more, images=TWO),
    "two files of one split": Case(two_of_one_split, "two annotation files for the split 'train'",
        "two annotation files",
                                   "two annotation files"),
    "captions and key points beside": Case(captions_beside, images=TWO),
    "a train split only": Case(train_only, train=NO_VAL, evaluate="no split 'val'", images={"train": 8},
                               says="none to validate on"),
    "41_test_without_annotations": Case(test_without_annotations, images=TWO | {"test": 4}, says="no annotations"),
    "24_area_null": Case(fields(each("annotations", area=lambda e: None)), images=TWO, says="20 areas are null"),
    "28_no_width_height": Case(fields(without("images", "width", "height")), images=TWO,
        says="taken from the pictures"),
    "30_class_names_numbers": Case(fields(each("categories", name=lambda e: e["id"])), images=TWO,
        says="names are numbers"),
    "all numbers in quotes": Case(fields(all_quoted), images=TWO, says="ids in quotes"),
    "iscrowd false": Case(fields(each("annotations", iscrowd=lambda e: False)), images=TWO,
        says="'iscrowd' true or false"),
    "polygons without boxes": Case(fields(polygons), images=TWO, says="20 boxes taken from polygons"),
    "neither area nor iscrowd": Case(fields(without("annotations", "area", "iscrowd", "id")), images=TWO),
    "71_learnable_val_other_numbering": Case(renumbered, images=TWO, says="they are matched by name"),
    "another name in validation": Case(renamed, "errors", "categories differ: 1 classes", images=TWO, says="azure"),
    "no objects at all": Case(no_objects, "errors", "classes without objects", "have no annotations", images=TWO),
    "12b_appledouble_voc_nolists": Case(appledouble, train=NO_VAL, images={"all": 8}),
    "13_voc_no_suffix_upper_JPG": Case(voc_with(suffix=".JPG", filename="{}"), images={"train": 5, "val": 3},
                                       says="under another ending"),
    "14_voc_spaces_in_list": Case(voc_with(stem="IMG 2024 ({})"), images={"train": 5, "val": 3}),
    "15_voc_list_utf16": Case(voc_with(list_encoding="utf-16"), images={"train": 5, "val": 3}),
    "15b_voc_list_utf8_bom": Case(voc_with(list_encoding="utf-8-sig"), images={"train": 5, "val": 3}),
    "VOC: lists with suffixes": Case(voc_with(form="{}.jpg"), images={"train": 5, "val": 3}),
    "VOC: lists with paths and Windows' line ends": Case(voc_with(form="JPEGImages\\{}.jpg\r"), images={"train": 5,
        "val": 3}),
    "VOC: lists beside the folders": Case(voc_with(folder="."), images={"train": 5, "val": 3}),
    "19_voc_nested": Case(voc_nested, images=PARTS),
    "VOC: splits below the folders": Case(voc_split_below, images=PARTS),
    "VOC: the devkit's folders": Case(voc_devkit, images={"train": 5, "val": 3}),
    "VOC: files beside pictures": Case(voc_beside, images=PARTS),
    "VOC: a folder for each class": Case(voc_by_class, images={"train": 5, "val": 3}),
    "VOC: trainval and test": Case(voc_trainval, train="no split 'val'", evaluate="there is train, test",
                                   images={"train": 5, "test": 3}),
    "19b_voc_gbk": Case(voc_with(encoding="gbk", classes=("\u7ea2", "blue"),
        head='<?xml version="1.0" encoding="gb2312"?>'),
                        images={"train": 5, "val": 3}, says="\u7ea2"),
    "yolo": Case(yolo_ultralytics, images=PARTS),
    "09_yolo": Case(yolo_roboflow, images=PARTS),
    "YOLO: another machine's path": Case(yolo_other_machine, images=PARTS),
    "YOLO: names only": Case(yolo_names_only, images=PARTS),
    "YOLO: classes.txt, no splits": Case(yolo_classes_txt, train=NO_VAL, images={"all": 8}),
    "YOLO: darknet's lists": Case(yolo_darknet, images=PARTS),
    "YOLO: data.yaml with lists": Case(yolo_lists, images={"train": 5, "val": 3}),
    "YOLO: labelImg": Case(yolo_labelimg, images=PARTS),
    "YOLO: polygons, empty and missing labels": Case(yolo_polygons_and_empties, images=PARTS,
                                                     says="2 images have no object"),
    "YOLO: a line in pixels": Case(yolo_in_pixels, "errors", "train3.txt, line 2: '1 30 20 12 8' has a number",
                                   images=PARTS, says="train3.txt, line 2"),
    "FiftyOne": Case(fiftyone, images=PARTS),
    "Label Studio's local files": Case(local_files, train=NO_VAL, images={"all": 8}, says="%20 and the like decoded"),
    "JSON in UTF-16": Case(utf16, train=NO_VAL, images={"all": 8}),
    "splits with names of their own": Case(own_splits, train="there is monday, tuesday", evaluate="monday, tuesday",
                                           images={"monday": 10, "tuesday": 6}),
    "imagefolder: one file for all splits": Case(one_metadata, images=PARTS),
    "11_hf_imagefolder": Case(imagefolder, images=PARTS),
    "still packed": Case(packed, "It is still packed", "It is still packed", "It is still packed"),
    "labelme's own files": Case(labelme_files, *["labelme's files, one for each picture"] * 3),
    "pictures only": Case(pictures_only, *["annotate them first"] * 3),
    "CreateML": Case(createml, *["CreateML's format"] * 3),
    "Datumaro": Case(datumaro, *["Datumaro's format"] * 3),
    "VIA": Case(via, *["VIA's annotations"] * 3),
    "a table of boxes": Case(table, *["a table of boxes (CSV)"] * 3),
    "CVAT's own XML": Case(cvat_xml, *["CVAT's own XML"] * 3),
}
