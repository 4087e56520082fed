"""Generated scenes: the same every time, boxes true to the pixels, presets kept, a cache that survives accidents."""

import json
import logging
import os
import subprocess
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import detr_mini
from detr_mini.data import painting, scenes, things
from detr_mini.data.coco import CocoFolder
from detr_mini.data.painting import Scene, scene_at
from detr_mini.data.scenes import CLASSES, PRESETS, Preset, Scenes, cache_folder, draw_crops, draw_scene, export_coco

ROOT = Path(detr_mini.__file__).parents[1]
SIDE = 128


@pytest.fixture(scope="module")
def painted() -> dict[str, list[Scene]]:
    """Sixty scenes of every preset, with what went into them."""
    return {name: [scene_at(5, i, preset, SIDE) for i in range(60)] for name, preset in PRESETS.items()}


@pytest.fixture(scope="module")
def small() -> Scenes:
    """Forty small scenes, not cached."""
    return Scenes(40, seed=2, size=64, cache=False)


def equal(a: Scenes, b: Scenes, rows: slice = slice(None)) -> bool:
    """Whether two data sets hold the same things in the given rows."""
    n = len(a.images[rows])
    items = [(x[1], y[1]) for x, y in zip((a[i] for i in range(n)), (b[i] for i in range(n)), strict=True)]
    same = all(torch.equal(x["boxes"], y["boxes"]) and torch.equal(x["labels"], y["labels"]) for x, y in items)
    return same and torch.equal(a.images[rows], b.images[rows])


def shared_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of intersection of xywh boxes (M, 4) -> (M, M), 0 on the diagonal."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    sides = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)  # (M, M, 2)
    return np.maximum(sides, 0).prod(axis=2) * (1 - np.eye(len(boxes)))


def extent(mask: np.ndarray) -> list[int]:
    """The box x, y, width, height of the set pixels of a mask (H, W)."""
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [xs[0], ys[0], xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1]


def owners(scene: Scene) -> np.ndarray:
    """Which thing is seen at every pixel (H, W): its number, or -1 for the background."""
    front = np.full(scene.image.shape[1:], -1)
    for number, patch in enumerate(scene.patches):
        rows, columns = np.nonzero(patch.alpha > 0.5)
        front[rows + patch.top, columns + patch.left] = number
    return front


# ---------------------------------------------------------------- the same every time


def test_ten_distinct_classes():
    assert len(CLASSES) == len(set(CLASSES)) == 10


def test_a_scene_depends_on_its_seed_and_index_only():
    first = [draw_scene(3, i, "crowded", 64) for i in range(4)]
    for i in reversed(range(4)):
        image, labels, boxes = draw_scene(3, i, "crowded", 64)
        assert np.array_equal(image, first[i][0]) and labels == first[i][1] and np.array_equal(boxes, first[i][2])
    images = [image.tobytes() for image, _, _ in first] + [draw_scene(4, 0, "crowded", 64)[0].tobytes()]
    assert len(set(images)) == 5


def test_scene_i_is_the_same_in_any_data_set(small):
    assert equal(Scenes(7, seed=2, size=64, cache=False), small, slice(0, 7))
    image, labels, boxes = draw_scene(2, 6, size=64)
    assert np.array_equal(small.images[6].permute(1, 2, 0).numpy(), image)
    assert small[6][1]["labels"].tolist() == labels
    x, y, w, h = torch.tensor(boxes, dtype=torch.float32).T / 64
    assert torch.allclose(small[6][1]["boxes"], torch.stack([x + w / 2, y + h / 2, w, h], dim=1))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_processes_draws_the_same(small, monkeypatch, workers):
    monkeypatch.setattr(scenes, "WORTH_SPLITTING", 1)
    assert equal(Scenes(10, seed=2, size=64, cache=False, workers=workers), small, slice(0, 10))


def test_a_worker_needs_no_torch(tmp_path):
    code = scenes.WORKER + "\nassert 'torch' not in sys.modules and 'detr_mini' not in sys.modules"
    job = painting.job_to_json(painting.Job(0, 0, 1, PRESETS["few"], 32))
    command = [sys.executable, "-c", code, str(Path(painting.__file__).parent), job, str(tmp_path / "out.npz")]
    done = subprocess.run(command, text=True, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.npz").exists()


def test_a_job_survives_the_way_to_another_process():
    for job in (painting.Job(1, 2, 3, PRESETS["crowded"], 64), painting.Job(1, 2, 3, None, 64)):
        assert painting.job_from_json(painting.job_to_json(job)) == job


def test_a_failing_worker_is_reported_with_its_words(monkeypatch):
    monkeypatch.setattr(scenes, "WORTH_SPLITTING", 1)
    monkeypatch.setattr(scenes, "WORKER", "raise SystemExit('no more paint')")
    with pytest.raises(RuntimeError, match="no more paint.*workers=1"):
        Scenes(4, size=32, cache=False, workers=2)


def test_a_larger_size_shows_the_same_scene():
    for index in range(4):
        _, labels, boxes = draw_scene(1, index, size=96)
        _, labels_large, boxes_large = draw_scene(1, index, size=288)
        assert labels == labels_large
        assert np.abs(boxes * 3 - boxes_large).max() <= 6  # two of the small scene's pixels


# ---------------------------------------------------------------- boxes are true to the pixels


def test_boxes_are_tight_around_visible_pixels(painted):
    for scene in (s for some in painted.values() for s in some):
        for (x, y, w, h), patch in zip(scene.boxes, scene.patches, strict=True):
            full = np.zeros((SIDE, SIDE), bool)
            rows, columns = np.nonzero(patch.alpha >= painting.VISIBLE)
            full[rows + patch.top, columns + patch.left] = True
            assert extent(full) == [x, y, w, h]


def test_a_box_is_where_the_picture_changes(monkeypatch):
    """Without looking at any mask: what a lone thing changes in the picture is its box, to one pixel at each side."""
    monkeypatch.setattr(painting, "cast_shadow", lambda canvas, patch, light: None)
    lone = Preset("lone", count=(1, 1), side=(0.18, 0.5))
    for index in range(60):
        scene = scene_at(7, index, lone, SIDE)
        changed = np.abs(scene.image - scene.backdrop).max(axis=0) > 22  # an edge pixel shows a part of the thing
        x, y, w, h = extent(changed)
        left, top, width, height = scene.boxes[0]
        assert abs(x - left) <= 1 and abs(y - top) <= 1
        assert abs(x + w - left - width) <= 1 and abs(y + h - top - height) <= 1


def test_a_box_leaves_out_the_shadow(monkeypatch):
    with_shadow = scene_at(7, 0, PRESETS["few"], SIDE)
    monkeypatch.setattr(painting, "cast_shadow", lambda canvas, patch, light: None)
    without = scene_at(7, 0, PRESETS["few"], SIDE)
    assert not np.array_equal(with_shadow.image, without.image)
    assert np.array_equal(with_shadow.boxes, without.boxes)


def test_a_box_covers_hidden_pixels_too(painted):
    """Boxes are amodal: some are larger than what is left to see of their thing, none smaller."""
    larger = 0
    for scene in painted["crowded"]:
        front = owners(scene)
        for number, (x, y, w, h) in enumerate(scene.boxes):
            left, top, width, height = extent(front == number)
            assert left >= x and top >= y and left + width <= x + w and top + height <= y + h
            larger += width < w - 2 or height < h - 2
    assert larger >= 60


# ---------------------------------------------------------------- presets keep their promises


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_in_measured_pixels(painted, name):
    preset = PRESETS[name]
    for scene in painted[name]:
        boxes, area = scene.boxes, scene.boxes[:, 2:].prod(axis=1)
        assert preset.count[0] <= len(boxes) == len(scene.labels) <= preset.count[1]
        assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= SIDE).all()
        assert boxes[:, 2:].min() >= preset.side[0] * SIDE and boxes[:, 2:].max() <= preset.side[1] * SIDE
        assert (shared_areas(boxes) < preset.overlap * np.minimum(area[:, None], area)).all()


def test_presets_are_what_their_names_say(painted):
    counts = {name: [len(s.labels) for s in some] for name, some in painted.items()}
    assert set(counts["few"]) == {1, 2, 3, 4, 5} and min(counts["many"]) >= 6 and max(counts["many"]) >= 13
    assert PRESETS["few"].side == (0.18, 0.5) and PRESETS["few"].overlap == 0.25
    touching = [shared_areas(scene.boxes).max() > 0 for scene in painted["few"]]
    assert 10 <= sum(touching) <= 50  # a little occlusion


def test_crowded_scenes_pose_the_dilemma_of_nms(painted):
    """In a third of them or more, two things of one class overlap so much (IoU > 0.5) that NMS would drop one."""
    posed = 0
    for scene in painted["crowded"]:
        area, shared, labels = scene.boxes[:, 2:].prod(axis=1), shared_areas(scene.boxes), np.array(scene.labels)
        iou = shared / (area[:, None] + area - shared)
        posed += ((iou > 0.5) & (labels[:, None] == labels)).any()
    assert posed >= 20


@pytest.mark.parametrize(("name", "least"), [("few", 0.5), ("many", 0.5), ("crowded", 0.05)])
def test_nothing_is_hidden_altogether(painted, name, least):
    for scene in painted[name]:
        seen = np.bincount(owners(scene).ravel() + 1, minlength=len(scene.patches) + 1)[1:]
        for number, patch in enumerate(scene.patches):
            assert seen[number] >= least * (patch.alpha > 0.5).sum()


def test_what_stands_lower_is_in_front(painted):
    for scene in painted["few"] + painted["crowded"]:
        bottoms = scene.boxes[:, 1] + scene.boxes[:, 3]
        assert (np.diff(bottoms) >= -2).all()


def test_every_class_occurs_about_equally_often():
    labels = np.concatenate([scene_at(0, i, PRESETS["many"], 32).labels for i in range(100)])
    counts = np.bincount(labels, minlength=10)
    assert counts.min() > 0.6 * counts.mean() and counts.max() < 1.4 * counts.mean()


# ---------------------------------------------------------------- things are easy to see


def test_things_stand_out_from_the_background(painted):
    for scene in (s for some in painted.values() for s in some):
        for patch in scene.patches:
            colours = patch.colour[:, patch.alpha > 0.99]  # (3, P)
            distance = np.abs(colours - np.array(scene.background)[:, None]).max(axis=0)
            assert np.median(distance) >= 70 and (distance >= 70).mean() > 0.4


def test_every_outline_stands_out_from_any_background():
    rng = np.random.default_rng(0)
    for index in range(150):
        background = tuple(rng.integers(0, 256, 3).tolist())
        drawn = things.sketch(index % 10, rng, background)
        colours = [piece.colour for piece in drawn.parts if not piece.clipped]
        assert all(max(abs(c - b) for c, b in zip(colour, background, strict=True)) >= 70 for colour in colours)


def test_backgrounds_are_calm(painted):
    spread = [scene.backdrop.std(axis=(1, 2)).max() for some in painted.values() for scene in some]
    assert 1 < np.median(spread) and max(spread) < 20
    lightness = [np.mean(scene.background) for some in painted.values() for scene in some]
    assert min(lightness) < 80 and max(lightness) > 200


def test_things_face_both_ways_and_vary():
    rng = np.random.default_rng(1)
    drawn = [things.sketch(0, rng, (230, 230, 230)) for _ in range(100)]
    assert 30 < sum(np.linalg.det(fish.turn) > 0 for fish in drawn) < 70
    assert np.ptp([fish.width / fish.height for fish in drawn]) > 0.2
    assert len({fish.parts[2].colour for fish in drawn}) > 50


@pytest.mark.parametrize("label", range(10))
def test_parts_stick_out(label):
    """No thing is a mere disc or block: a part of its box is empty, and its outline is longer than the box's."""
    drawn = things.sketch(label, np.random.default_rng(label), (240, 240, 240))
    alpha = painting.rasterise(drawn, 2, 2, 100, 1.0).alpha > 0.5
    steps = np.diff(np.pad(alpha, 1).astype(int), axis=0), np.diff(np.pad(alpha, 1).astype(int), axis=1)
    x, y, w, h = extent(alpha)
    assert 0.15 < alpha.sum() / (w * h) < 0.85
    assert sum(np.abs(step).sum() for step in steps) > 2.02 * (w + h)


# ---------------------------------------------------------------- crops


def test_crops():
    images, labels = draw_crops(120, seed=4)
    assert images.shape == (120, 3, 64, 64) and images.dtype == torch.uint8
    assert labels.shape == (120,) and labels.dtype == torch.int64 and set(labels.tolist()) == set(range(10))
    again, labels_again = draw_crops(30, seed=4)
    assert torch.equal(images[:30], again) and torch.equal(labels[:30], labels_again)
    assert not torch.equal(draw_crops(30, seed=5)[0], again)
    assert draw_crops(2, seed=4, size=96)[0].shape == (2, 3, 96, 96)


def test_a_crop_shows_nearly_all_of_its_thing():
    for index in range(30):
        scene = painting.compose(np.random.default_rng([0, index, 1]), painting.CROP, SIDE)
        x, y, w, h = scene.boxes[0]
        inside = np.clip([x + w, y + h], 32, 96) - np.clip([x, y], 32, 96)
        assert inside.prod() > 0.85 * w * h
        assert np.array_equal(painting.crop_at(0, index, 64)[0], scene.image[:, 32:96, 32:96])


def test_crops_are_the_same_from_several_processes(monkeypatch):
    alone = draw_crops(9, seed=1, size=32, workers=1)
    monkeypatch.setattr(scenes, "WORTH_SPLITTING", 1)
    together = draw_crops(9, seed=1, size=32, workers=2)
    assert torch.equal(alone[0], together[0]) and torch.equal(alone[1], together[1])


# ---------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Scenes(5, preset="lots", cache=False), "'lots'; choose from few, many, crowded"),
        (lambda: draw_scene(0, 0, "tiny"), "'tiny'; choose from few, many, crowded"),
        (lambda: Scenes(0, cache=False), "count=0 .* 1 or more"),
        (lambda: Scenes(2.5, cache=False), "count=2.5 .* whole number"),
        (lambda: Scenes("9", cache=False), "count='9' .* whole number"),
        (lambda: Scenes(True, cache=False), "count=True .* whole number"),
        (lambda: Scenes(5, size=8, cache=False), "size=8 .* from 32 to 1024"),
        (lambda: draw_scene(0, 0, size=4000), "size=4000 .* from 32 to 1024"),
        (lambda: draw_crops(3, size=1024), "size=1024 .* from 32 to 512"),
        (lambda: Scenes(5, seed=-1, cache=False), "seed=-1 .* 0 or more"),
        (lambda: draw_scene(0, -1), "index=-1 .* 0 or more"),
        (lambda: Scenes(5, workers=0, cache=False), "workers=0 .* 1 or more"),
        (lambda: Scenes(5, cache=True), "cache=True .* folder"),
        (lambda: Preset("odd", count=(3, 2), side=(0.1, 0.4)), r"count=\(3, 2\)"),
        (lambda: Preset("odd", count=(1, 2), side=(0.3, 0.4)), r"side=\(0.3, 0.4\) .* 2.5 times"),
        (lambda: Preset("odd", count=(1, 2), side=(0.1, 0.4), overlap=0), "overlap=0"),
        (lambda: Preset("a/b", count=(1, 2), side=(0.1, 0.4)), "name='a/b'"),
    ],
)
def test_impossible_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_preset_of_ones_own():
    pair = Preset("pair", count=(2, 2), side=(0.2, 0.5))
    assert [len(target["labels"]) for _, target in Scenes(3, preset=pair, size=64, cache=False)] == [2, 2, 2]


# ---------------------------------------------------------------- the cache


def cached(folder: Path, count: int = 6) -> Scenes:
    """A few scenes kept in `folder`."""
    return Scenes(count, seed=2, size=64, cache=folder)


def test_scenes_are_drawn_once(tmp_path, small, monkeypatch):
    first = cached(tmp_path)
    monkeypatch.setattr(scenes, "_paint_in_parallel", None)  # drawing again would fail
    assert equal(cached(tmp_path), first) and equal(first, small, slice(0, 6))
    assert len(list(tmp_path.iterdir())) == 1


def test_one_file_per_request(tmp_path, monkeypatch):
    for change in ({"count": 2}, {"seed": 1}, {"size": 48}, {"preset": "many"}):
        Scenes(**{"count": 1, "size": 32, "cache": tmp_path} | change)
    Scenes(1, preset=Preset("few", (1, 2), (0.2, 0.5)), size=32, cache=tmp_path)  # a name alone is not trusted
    monkeypatch.setattr(scenes, "drawing_version", lambda: "changed")
    Scenes(2, size=32, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


def test_the_drawing_version_follows_the_drawing_code(tmp_path, monkeypatch):
    version = scenes.drawing_version()
    changed = tmp_path / "things.py"
    changed.write_bytes(Path(things.__file__).read_bytes().replace(b"0.14", b"0.15", 1))
    monkeypatch.setattr(things, "__file__", str(changed))
    assert scenes.drawing_version.__wrapped__() != version


def test_the_cache_folder_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("DETR_MINI_CACHE", str(tmp_path / "moved"))
    assert cache_folder() == tmp_path / "moved"
    Scenes(1, size=32)
    assert len(list((tmp_path / "moved").iterdir())) == 1
    monkeypatch.delenv("DETR_MINI_CACHE")
    assert cache_folder().parts[-2:] == ("detr_mini", "scenes")


def test_no_cache_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DETR_MINI_CACHE", str(tmp_path / "none"))
    Scenes(1, size=32, cache=False)
    assert not (tmp_path / "none").exists()


def cut(data: bytes) -> bytes:
    """The first two thirds of a file."""
    return data[: len(data) * 2 // 3]


def flip(data: bytes) -> bytes:
    """A file with one byte changed in the middle of its pixels."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda data: b"", lambda data: b"\x80\x04N.", lambda data: data[500:]])
def test_a_damaged_file_is_drawn_again(tmp_path, small, caplog, damage):
    cached(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING, "detr_mini"):
        assert equal(cached(tmp_path), small, slice(0, 6))
    assert str(path) in caplog.text and "drawn again" in caplog.text
    assert scenes._load_cached(path, painting.Job(2, 0, 6, PRESETS["few"], 64)) is not None  # the new file is whole


def test_a_foreign_file_is_drawn_again(tmp_path, small, caplog):
    cached(tmp_path)
    (path,) = tmp_path.iterdir()
    Scenes(6, seed=9, size=64, cache=tmp_path)  # whole, but of another seed
    (other,) = set(tmp_path.iterdir()) - {path}
    contents = [other.read_bytes()]
    np.savez(tmp_path / "foreign.npz", holiday=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", images=np.array([{"a": 1}], dtype=object), key=np.array("x"))
    contents += [(tmp_path / "foreign.npz").read_bytes(), (tmp_path / "pickle.npz").read_bytes()]
    for foreign in contents:
        path.write_bytes(foreign)
        with caplog.at_level(logging.WARNING, "detr_mini"):
            assert equal(cached(tmp_path), small, slice(0, 6))
    assert caplog.text.count("drawn again") == 3


def test_a_full_disk_leaves_no_half_file(tmp_path, small, caplog, monkeypatch):
    def fill_up(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_up)
    assert equal(cached(tmp_path), small, slice(0, 6))
    assert list(tmp_path.iterdir()) == [] and "No space left on device" in caplog.text


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, small, caplog):
    (tmp_path / "file").write_text("not a folder")
    assert equal(cached(tmp_path / "file"), small, slice(0, 6))
    assert "DETR_MINI_CACHE" in caplog.text


def test_what_a_crash_left_is_swept_up(tmp_path):
    cached(tmp_path)
    (path,) = tmp_path.iterdir()
    old, recent = tmp_path / f".{path.name}.old.tmp", tmp_path / f".{path.name}.recent.tmp"
    for left in (old, recent):
        left.write_bytes(b"half")
    os.utime(old, (0, time.time() - 2 * scenes.ABANDONED))
    path.unlink()
    cached(tmp_path)
    assert not old.exists() and recent.exists() and path.exists()  # the recent one may be somebody at work


OTHER_PROCESS = """
import sys, time, pathlib
from detr_mini.data.scenes import Scenes
folder = pathlib.Path(sys.argv[1])
(folder / "ready").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
data = Scenes(60, seed=2, size=64, cache=folder / "cache", workers=1)
print(int(data.images.long().sum()), int(data.boxes.sum()))
"""


def test_two_processes_may_start_at_once(tmp_path):
    """Another process and this one find no file and both draw; one file is left, whole, and both have the scenes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)]
    other = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)
    while not (tmp_path / "ready").exists():
        assert other.poll() is None
        time.sleep(0.01)
    (tmp_path / "go").touch()
    mine = Scenes(60, seed=2, size=64, cache=tmp_path / "cache", workers=1)
    words = other.communicate(timeout=120)[0]
    (path,) = (tmp_path / "cache").iterdir()  # one file, nothing unfinished
    kept = Scenes(60, seed=2, size=64, cache=tmp_path / "cache")
    assert other.returncode == 0 and equal(mine, kept)
    assert words.split() == [str(int(kept.images.long().sum())), str(int(kept.boxes.sum()))]


# ---------------------------------------------------------------- the data-set interface


def test_items_have_the_types_every_part_of_the_project_expects(small):
    image, target = small[3]
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    assert target["labels"].dtype == torch.int64 and target["labels"].ndim == 1
    assert target["boxes"].dtype == torch.float32 and target["boxes"].shape == (len(target["labels"]), 4)
    assert (target["boxes"] > 0).all() and (target["boxes"] < 1).all()
    assert type(target["image_id"]) is int and target["image_id"] == 3
    assert target["orig_size"].dtype == torch.int64 and target["orig_size"].tolist() == [64, 64]


def test_attributes(small):
    assert small.classes == list(CLASSES) and small.num_classes == 10 and len(small) == 40
    assert small.label_to_category == {label: label + 1 for label in range(10)}


def test_indexing_ends_where_the_scenes_end(small):
    assert len(list(small)) == 40
    assert small[-1][1]["image_id"] == 39
    for index in (40, -41):
        with pytest.raises(IndexError, match="of 40"):
            small[index]


def test_items_are_copies(small):
    image, target = small[0]
    image.zero_(), target["boxes"].zero_(), target["labels"].fill_(-1)
    assert small[0][0].any() and small[0][1]["boxes"].all() and (small[0][1]["labels"] >= 0).all()


# ---------------------------------------------------------------- COCO format


def test_ground_truth_in_coco_format(small):
    truth = small.coco_ground_truth()
    assert [image["id"] for image in truth["images"]] == list(range(40))
    assert [category["name"] for category in truth["categories"]] == list(CLASSES)
    assert [category["id"] for category in truth["categories"]] == list(range(1, 11))
    numbers = [annotation["id"] for annotation in truth["annotations"]]
    assert len(set(numbers)) == len(numbers) == len(small.labels) and min(numbers) >= 1  # pycocotools loses id 0
    for annotation in truth["annotations"]:
        assert annotation["area"] == annotation["bbox"][2] * annotation["bbox"][3] and annotation["iscrowd"] == 0


def test_an_export_comes_back_as_it_was(small, tmp_path):
    path = export_coco(small, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "instances.json"]
    with redirect_stdout(StringIO()):
        coco = COCO(path)
    for index in (0, 17, 39):
        entry = coco.loadImgs(index)[0]
        pixels = np.asarray(Image.open(tmp_path / "images" / entry["file_name"]))
        assert np.array_equal(pixels, small.images[index].permute(1, 2, 0).numpy())
        found = coco.loadAnns(coco.getAnnIds(index))
        _, labels, boxes = draw_scene(2, index, size=64)
        assert [f["bbox"] for f in found] == boxes.tolist()
        assert [f["category_id"] - 1 for f in found] == labels
        assert [coco.cats[f["category_id"]]["name"] for f in found] == [CLASSES[label] for label in labels]


def test_the_projects_reader_reads_an_export(small, tmp_path):
    path = export_coco(small, tmp_path)
    read = CocoFolder(path.parent / "images", path)
    assert len(read) == len(small)
    for index in (0, 21):
        (image, target), (image_read, target_read) = small[index], read[index]
        assert torch.equal(image, image_read) and torch.allclose(target["boxes"], target_read["boxes"], atol=1e-6)
        names = [small.classes[label] for label in target["labels"]]
        assert names == [read.classes[label] for label in target_read["labels"]]


def test_the_truth_scores_perfectly_against_itself(small, tmp_path):
    truth = small.coco_ground_truth()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    keys = ("image_id", "category_id", "bbox")
    found = [{key: a[key] for key in keys} | {"score": 1.0} for a in truth["annotations"]]
    with redirect_stdout(StringIO()):
        coco = COCO(tmp_path / "truth.json")
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
