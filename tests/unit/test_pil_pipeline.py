"""The input pipeline against DETR's usual one with PIL: the same draws give the same pixels, boxes and objects."""

import os
from pathlib import Path

import pytest
import torch
from pil_pipeline import PilPipeline, nested, write_photographs

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.data import transforms as T
from detr_mini.data.coco import CocoFolder
from detr_mini.recipes import DETR_COCO, DataRecipe

TINY = Path(__file__).parents[2] / "data" / "tiny_coco"
SMALL = DataRecipe(train_sizes=(40, 56, 72), max_size=110, eval_size=64, crop_resize=(50, 60), crop_range=(24, 60))
BCCD = os.environ.get("DETR_MINI_BCCD", "")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Twelve generated JPEGs of 640 x 480 and 480 x 640."""
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, 12)
    return folder


def compare(data: CocoFolder, recipe: DataRecipe, draws: list[tuple[int, int]]) -> set[tuple[int, ...]]:
    """Both pipelines on (index, seed) pairs; returns the sizes (H, W) that came out."""
    transform, theirs, sizes = T.build_transform(recipe, train=True), PilPipeline(data, recipe), set()
    for index, seed in draws:
        torch.manual_seed(seed)
        image, target = transform(*data[index])
        torch.manual_seed(seed)
        wanted, objects = theirs[index]
        assert image.shape == wanted.shape and image.dtype == wanted.dtype
        levels = (T.denormalise(image, recipe) - T.denormalise(wanted, recipe)).abs() * 255
        # PIL rounds to whole levels after each axis of each resize. PyTorch does so too where the processor has AVX2,
        # and is then off by a level now and then; elsewhere it rounds once per resize, of which there are up to two.
        assert levels.max() < 2.01 and levels.mean() < 0.5, (index, seed, levels.max(), levels.mean())
        assert torch.equal(target["labels"], objects["labels"]), (index, seed)
        sides = target["size"].flip(0).repeat(2)  # width, height, width, height
        pixels = (cxcywh_to_xyxy(target["boxes"]) - cxcywh_to_xyxy(objects["boxes"])).abs() * sides
        assert (pixels < 0.01).all(), (index, seed, pixels.max())
        sizes.add(tuple(image.shape[1:]))
    return sizes


def test_photographs_with_the_coco_recipe(photographs):
    data = CocoFolder.open(photographs)
    sizes = compare(data, DETR_COCO.data, [(seed % len(data), seed) for seed in range(36)])
    assert len(sizes) > 12


def test_awkward_files_with_a_small_recipe():
    """Grey, transparent, turned by EXIF, crowds, no objects: ten draws for each file."""
    for split in ("train", "val"):
        data = CocoFolder.open(TINY, split)
        compare(data, SMALL, [(seed % len(data), seed) for seed in range(10 * len(data))])


@pytest.mark.skipif(not BCCD, reason="DETR_MINI_BCCD does not name the folder of BCCD photographs")
def test_real_photographs():
    data = CocoFolder.open(BCCD)
    compare(data, DETR_COCO.data, [(seed * 5, seed) for seed in range(40)])


def test_batches_are_padded_alike(photographs):
    data, recipe = CocoFolder.open(photographs), DETR_COCO.data
    torch.manual_seed(3)
    ours = T.collate([T.build_transform(recipe, train=True)(*data[index]) for index in range(4)])
    torch.manual_seed(3)
    images, mask = nested([PilPipeline(data, recipe)[index] for index in range(4)])
    assert torch.equal(ours.mask, mask) and mask.any()
    assert ours.images.shape == images.shape and not ours.images.movedim(1, -1)[mask].any()
    assert (ours.images - images).abs().max() < 2.01 / 255 / min(recipe.std)
    assert ours.images.is_contiguous() and ours.images.data_ptr() % 64 == 0


@pytest.mark.parametrize("recipe", [DETR_COCO.data, SMALL])
def test_normalising_into_the_batch_changes_no_bit(photographs, recipe):
    data, transform = CocoFolder.open(photographs), T.build_transform(recipe, train=True)
    steps, collate = T.normalise_last(transform)
    batches = []
    for prepare, join in ((transform, T.collate), (steps, collate)):
        torch.manual_seed(4)
        batches.append(join([prepare(*data[index]) for index in range(4)]))
    one, two = batches
    assert torch.equal(one.images, two.images) and torch.equal(one.mask, two.mask)
    for target, other in zip(one.targets, two.targets, strict=True):
        assert set(target) == set(other) and type(other["boxes"]) is torch.Tensor
        assert all(torch.equal(torch.as_tensor(target[name]), torch.as_tensor(other[name])) for name in target)


def test_a_worker_sends_the_same_large_batch(photographs):
    items = T.Transformed(CocoFolder.open(photographs), T.build_transform(DETR_COCO.data, train=False))
    loader = torch.utils.data.DataLoader(items, 2, sampler=range(2), collate_fn=T.collate, num_workers=1)
    (batch,) = loader
    assert batch.images.numel() > T.HUGE and torch.equal(batch.images, T.collate([items[0], items[1]]).images)
