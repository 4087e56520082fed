"""DETR's augmentation: its size rule, boxes on their pixels, chance that repeats, padded batches."""

import statistics
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from detr_mini.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detr_mini.data import transforms as T
from detr_mini.data.coco import CocoFolder
from detr_mini.recipes import DETR_COCO, SCENES_DATA, DataRecipe

TINY = Path(__file__).parents[2] / "data" / "tiny_coco"
SMALL = DataRecipe(
    train_sizes=(40, 56, 72), max_size=110, eval_size=64, crop_resize=(50, 60), crop_range=(24, 60))


def target_of(boxes: list, height: int, width: int, labels: list | None = None) -> T.Target:
    """A target from boxes xyxy in pixels."""
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {
        "labels": torch.tensor(range(len(boxes)) if labels is None else labels, dtype=torch.int64),
        "boxes": xyxy_to_cxcywh(corners / torch.tensor([width, height, width, height])),
        "image_id": 5,
        "orig_size": torch.tensor([height, width]),
    }


def painted(boxes: list, height: int, width: int) -> torch.Tensor:
    """A black image (3, H, W) with box k in channel k at full brightness."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for channel, (x0, y0, x1, y1) in enumerate(boxes):
        image[channel, y0:y1, x0:x1] = 255
    return image


def plain(target: T.Target) -> torch.Tensor:
    """Boxes in the middle of the steps, xyxy in pixels, as an ordinary tensor."""
    return target["boxes"].as_subclass(torch.Tensor)


def corners_of(target: T.Target) -> torch.Tensor:
    """Boxes of a transformed target as xyxy in pixels of the transformed image."""
    return cxcywh_to_xyxy(target["boxes"]) * target["size"].flip(0).repeat(2)


# --- the size rule, by hand

@pytest.mark.parametrize(("size", "shorter", "max_size", "wanted"), [
    ((480, 640), 800, 1333, (800, 1066)),  # 800 * 640 / 480 = 1066.67, cut
    ((640, 480), 800, 1333, (1066, 800)),
    ((427, 640), 800, 1333, (800, 1199)),  # 1199.06
    ((300, 640), 800, 1333, (625, 1333)),  # 1706 > 1333, so 1333 * 300 / 640 = 624.8 -> 625 -> 1333.3
    ((500, 500), 800, 1333, (800, 800)),
    ((800, 1000), 800, 1333, (800, 1000)),  # already right
    ((1333, 800), 800, 1333, (1333, 800)),
    ((480, 640), 400, None, (400, 533)),
    ((128, 128), 128, 128, (128, 128)),
    ((100, 201), 128, 128, (64, 128)),  # 128 * 100 / 201 = 63.68 -> 64; 64 * 201 / 100 = 128.64 -> 128
    ((25, 50), 5, 9, (4, 8)),  # 9 * 25 / 50 = 4.5 -> 4: Python rounds halves to even, and so does DETR's code
    ((1, 1000), 800, 1333, (1, 1000)),  # round(1.333) = 1: nothing to do
])
def test_size_rule(size, shorter, max_size, wanted):
    assert T.resized_size(size, shorter, max_size) == wanted


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 900), st.integers(1, 1400))
def test_size_rule_keeps_the_shape_and_the_limit(height, width, shorter, most):
    new_height, new_width = T.resized_size((height, width), shorter, most)
    low, high = sorted((new_height, new_width))
    aspect = max(height, width) / min(height, width)
    assert 1 <= low <= shorter
    assert abs(high - low * aspect) < 1 + 1e-6
    # rounding the shorter side up by half a pixel lengthens the longer one by half the aspect ratio
    assert high <= most + 0.5 * aspect + 1e-6 or low == 1
    assert (height <= width) == (new_height <= new_width) or new_height == new_width


# --- single steps

def test_flip_by_hand_and_twice_is_identity():
    image = torch.randint(0, 256, (3, 20, 40), dtype=torch.uint8)
    image_px, target = T.ToPixels()(image, target_of([[2, 3, 10, 8]], 20, 40))
    flipped, moved = T.RandomFlip(1.0)(image_px, target)
    torch.testing.assert_close(plain(moved), torch.tensor([[30.0, 3, 38, 8]]))
    assert torch.equal(flipped, image.flip(-1))
    again, back = T.RandomFlip(1.0)(flipped, moved)
    assert torch.equal(again, image)
    torch.testing.assert_close(plain(back), plain(target))
    assert T.RandomFlip(0.0)(image_px, target)[0] is image_px


def test_resize_scales_each_axis_by_what_it_became():
    image = torch.zeros(3, 30, 67, dtype=torch.uint8)
    image, target = T.ResizeShorter((20,))(*T.ToPixels()(image, target_of([[6.7, 3, 67, 30]], 30, 67)))
    assert image.shape == (3, 20, 44)  # 20 * 67 / 30 = 44.67
    torch.testing.assert_close(plain(target), torch.tensor([[4.4, 2, 44, 20]]))
    assert target["boxes"].canvas_size == (20, 44)


def test_image_of_the_right_size_is_not_resampled():
    image, target = T.ToPixels()(torch.zeros(3, 20, 44, dtype=torch.uint8), target_of([], 20, 44))
    assert T.ResizeShorter((20,), 44)(image, target)[0] is image


def test_crop_clips_and_drops_by_hand(monkeypatch):
    boxes = [[0, 0, 20, 20], [12, 5, 18, 9], [30, 0, 40, 10], [0, 10, 10, 20], [25, 5, 60, 30]]
    image, target = T.ToPixels()(torch.zeros(3, 40, 80, dtype=torch.uint8), target_of(boxes, 40, 80))
    monkeypatch.setattr(T.RandomSizeCrop, "draw", lambda self, length: (10, 20) if length == 80 else (5, 15))
    cropped, target = T.RandomSizeCrop(1, 99)(image, target)  # columns 10 to 30, rows 5 to 20
    assert cropped.shape == (3, 15, 20)
    assert target["labels"].tolist() == [0, 1, 4]  # 2 starts where the crop ends, 3 ends where it starts
    wanted = torch.tensor([[0.0, 0, 10, 15], [2, 0, 8, 4], [15, 0, 20, 15]])
    torch.testing.assert_close(plain(target), wanted, atol=1e-4, rtol=0)


def test_crop_draws_every_size_and_place_it_may():
    crop, seen = T.RandomSizeCrop(3, 5), set()
    for _ in range(500):
        seen.add(crop.draw(6))
    assert seen == {(start, size) for size in (3, 4, 5) for start in range(6 - size + 1)}
    assert {T.RandomSizeCrop(3, 9).draw(2) for _ in range(20)} == {(0, 2)}  # a side shorter than `low`


def test_coin_is_fair_and_sizes_are_drawn_evenly():
    coin = T.FairCoin(lambda image, target: (1, target), lambda image, target: (0, target))
    assert 420 < sum(coin(None, None)[0] for _ in range(1000)) < 580
    image, target = T.ToPixels()(torch.zeros(3, 8, 8, dtype=torch.uint8), target_of([], 8, 8))
    sizes = [T.ResizeShorter((4, 6, 8))(image, target)[0].shape[-1] for _ in range(900)]
    assert all(230 < sizes.count(size) < 370 for size in (4, 6, 8))


def test_normalise_is_the_formula_and_denormalise_undoes_it():
    image = torch.randint(0, 256, (3, 9, 7), dtype=torch.uint8)
    float_image, _ = T.build_transform(DataRecipe(eval_size=7), train=False)(image, target_of([], 9, 7))
    mean, std = torch.tensor(DETR_COCO.data.mean), torch.tensor(DETR_COCO.data.std)
    wanted = (image / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(float_image, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(T.denormalise(float_image, DETR_COCO.data), image / 255, atol=1e-6, rtol=1e-5)
    assert T.denormalise(float_image[None] * 10, DETR_COCO.data).aminmax() == (0, 1)


# --- the recipe as a whole

def test_the_recipe_reads_like_the_paper():
    assert repr(T.build_transform(SMALL, train=True)) == (
        "Steps(ToPixels(), RandomFlip(p=0.5), FairCoin("
        "heads=ResizeShorter(sizes=(40, 56, 72), max_size=110), "
        "tails=Steps(ResizeShorter(sizes=(50, 60), max_size=None), RandomSizeCrop(low=24, high=60), "
        "ResizeShorter(sizes=(40, 56, 72), max_size=110))), "
        f"Normalise(mean={SMALL.mean}, std={SMALL.std}))"
    )
    assert "Crop" not in repr(T.build_transform(SCENES_DATA, train=True))
    assert "Flip" not in repr(T.build_transform(SMALL, train=False))


def test_items_keep_what_they_came_with_and_gain_their_size():
    data = CocoFolder.open(TINY, "train")
    items = T.Transformed(data, T.build_transform(SMALL, train=False))
    assert len(items) == len(data)
    image, target = items[0]  # 120 x 160, shorter side to 64
    assert image.shape == (3, 64, 85) and image.dtype == torch.float32
    assert target["orig_size"].tolist() == [120, 160] and target["image_id"] == 139
    assert target["size"].tolist() == [64, 85] and type(target["boxes"]) is torch.Tensor
    torch.testing.assert_close(target["boxes"], data[0][1]["boxes"])  # fractions do not change by a resize


@pytest.mark.parametrize("changes", [{"train_sizes": ()}, {"train_sizes": (0,)}, {"crop_range": (9, 3)}])
def test_recipe_that_cannot_work_is_refused(changes):
    recipe = DataRecipe(**{"crop_resize": (50,), "crop_range": (24, 60)} | changes)
    with pytest.raises(ValueError, match="got"):
        T.build_transform(recipe, train=True)


def test_all_chance_comes_from_torchs_seed():
    image, target = CocoFolder.open(TINY, "train")[0]
    transform = T.build_transform(SMALL, train=True)

    def run(seed: int) -> tuple:
        torch.manual_seed(seed)
        return transform(image, target)

    for seed in range(20):
        (one, a), (two, b) = run(seed), run(seed)
        assert torch.equal(one, two) and torch.equal(a["boxes"], b["boxes"])
    assert len({run(seed)[0].shape for seed in range(40)}) > 5


def test_the_input_is_left_as_it_was():
    image, target = CocoFolder.open(TINY, "train")[0]
    before = (image.clone(), {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in target.items()})
    for seed in range(10):
        torch.manual_seed(seed)
        T.build_transform(SMALL, train=True)(image, target)
    assert torch.equal(image, before[0]) and set(target) == set(before[1])
    assert all(torch.equal(target[name], before[1][name]) for name in ("boxes", "labels", "orig_size"))


rectangles = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(8, 60), st.integers(8, 60)), max_size=3)


def clipped(places: list, height: int, width: int) -> list:
    """Rectangles x, y, w, h as xyxy inside an image; those outside are left out."""
    inside = [place for place in places if place[0] < width and place[1] < height]
    return [(x, y, min(x + w, width), min(y + h, height)) for x, y, w, h in inside]


@settings(max_examples=150, deadline=None)
@given(rectangles, st.integers(30, 130), st.integers(30, 130), st.integers(0, 2**31 - 1), st.booleans())
def test_boxes_stay_on_their_pixels(places, height, width, seed, train):
    boxes = clipped(places, height, width)
    torch.manual_seed(seed)
    transform = T.build_transform(SMALL, train)
    image, target = transform(painted(boxes, height, width), target_of(boxes, height, width))
    picture = T.denormalise(image, SMALL)
    found = dict(zip(target["labels"].tolist(), corners_of(target), strict=True))
    for label in range(len(boxes)):
        rows = (picture[label].amax(dim=1) > 0.5).nonzero()  # rows and columns at least half covered
        columns = (picture[label].amax(dim=0) > 0.5).nonzero()
        if label not in found:  # cut away: at most a sliver of its brightness is left
            assert not len(rows)
            continue
        x0, y0, x1, y1 = found[label].tolist()
        if min(x1 - x0, y1 - y0) > 1.5:  # thinner than that, no pixel need be half covered
            edges = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (edges - found[label]).abs().max() <= 1.01, (edges, found[label])


@settings(max_examples=100, deadline=None)
@given(rectangles, st.integers(30, 130), st.integers(30, 130), st.integers(0, 2**31 - 1))
def test_boxes_stay_inside_and_match_their_labels(places, height, width, seed):
    boxes = clipped(places, height, width)
    torch.manual_seed(seed)
    image, target = T.build_transform(SMALL, train=True)(
        torch.zeros(3, height, width, dtype=torch.uint8), target_of(boxes, height, width))
    corners = cxcywh_to_xyxy(target["boxes"])
    assert target["boxes"].shape == (len(target["labels"]), 4) and target["boxes"].dtype == torch.float32
    assert torch.isfinite(corners).all() and (target["boxes"][:, 2:] > 0).all()
    assert (corners > -1e-6).all() and (corners < 1 + 1e-6).all()
    assert tuple(target["size"].tolist()) == image.shape[-2:]
    assert target["orig_size"].tolist() == [height, width]


def test_scene_items_are_fast():
    """A few times as long as what has to be done to a picture at least: to floats, and normalised.

    About three times, on one thread (a second one, asleep, takes longer to wake than its share of the work). The limit
    leaves room for a busy machine, not for a needless conversion.
    """
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    target = target_of([[10, 10, 60, 60]] * 5, 128, 128)
    transform = T.build_transform(SCENES_DATA, train=True)
    torch.set_num_threads(1)
    ours, least = [], []
    for _ in range(400):
        ours.append(seconds(lambda: transform(image, target)))
        least.append(seconds(lambda: F.normalize(F.to_dtype(image, torch.float32, scale=True), [0.5] * 3, [0.2] * 3)))
    assert statistics.quantiles(ours, n=20)[0] < 6 * statistics.quantiles(least, n=20)[0]


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# --- batches

def items_of(*sizes: tuple[int, int]) -> list:
    """Items of ones of the given (H, W)."""
    return [(torch.ones(3, *s), {"image_id": i, "boxes": torch.rand(i, 4)}) for i, s in enumerate(sizes)]


def test_padding_is_right_and_bottom_zero_and_masked():
    batch = T.collate(items_of((4, 6), (5, 3), (2, 2)))
    assert batch.images.shape == (3, 3, 5, 6) and batch.mask.shape == (3, 5, 6) and len(batch) == 3
    assert batch.mask.dtype == torch.bool
    for row, (height, width) in enumerate([(4, 6), (5, 3), (2, 2)]):
        inside = torch.zeros(5, 6, dtype=torch.bool)
        inside[:height, :width] = True
        assert torch.equal(batch.mask[row], ~inside)
        assert torch.equal(batch.images[row], inside.float().expand(3, 5, 6))
    assert [target["image_id"] for target in batch.targets] == [0, 1, 2]


def test_batch_of_one_size_has_no_padding():
    assert not T.collate(items_of((4, 4), (4, 4))).mask.any()


def test_batch_moves_with_its_targets():
    batch = T.collate(items_of((4, 6), (5, 3)))
    moved = batch.to("meta")
    assert moved.images.device.type == moved.mask.device.type == "meta"
    assert moved.targets[1]["boxes"].device.type == "meta" and moved.targets[1]["image_id"] == 1
    assert batch.images.device.type == "cpu" and batch.targets[1]["boxes"].device.type == "cpu"


def test_a_loader_with_workers_gives_the_same_batches():
    items = T.Transformed(CocoFolder.open(TINY, "val"), T.build_transform(SMALL, train=False))
    here = list(torch.utils.data.DataLoader(items, 3, collate_fn=T.collate))
    there = list(torch.utils.data.DataLoader(items, 3, collate_fn=T.collate, num_workers=1))
    assert len(here) == len(there) == 2
    for one, two in zip(here, there, strict=True):
        assert torch.equal(one.images, two.images) and torch.equal(one.mask, two.mask)
