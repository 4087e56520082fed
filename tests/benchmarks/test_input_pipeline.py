"""From JPEG files to a padded batch, against DETR's usual pipeline with PIL. Run with: make bench"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from compare import ratio
from torch.utils.data import ConcatDataset, Dataset

from detr_mini.data.coco import CocoFolder
from detr_mini.data.transforms import Transformed, build_transform, normalise_last
from detr_mini.recipes import DETR_COCO

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from pil_pipeline import PilPipeline, nested, write_photographs  # noqa: E402

BATCH, GENERATED, ROUNDS = 8, 96, 36


@pytest.fixture
def folders(tmp_path: Path) -> list[CocoFolder]:
    """The 292 BCCD photographs (640 x 480) where DETR_MINI_BCCD names their folder, otherwise generated ones."""
    if folder := os.environ.get("DETR_MINI_BCCD"):
        return [CocoFolder.open(folder, split) for split in ("train", "val")]
    write_photographs(tmp_path / "photographs", GENERATED)
    return [CocoFolder.open(tmp_path / "photographs")]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Per core means one thread, as in a worker of a DataLoader."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch_by_batch(items: Dataset, join: Callable[[list], object]) -> Callable[[], object]:
    """A function that makes the next batch, again from the first image after the last; draws depend on its number."""
    numbers = iter(range(10 * ROUNDS))

    def make() -> object:
        number = next(numbers)
        torch.manual_seed(number)
        return join([items[(number * BATCH + row) % len(items)] for row in range(BATCH)])

    return make


def test_training_batches(benchmark, folders, one_thread):
    """Decoding, DETR's augmentation for COCO and padding: 1.5 times the images per second of one core, same draws."""
    recipe = DETR_COCO.data
    transform, collate = normalise_last(build_transform(recipe, train=True))  # as training does
    ours = ConcatDataset([Transformed(folder, transform) for folder in folders])
    theirs = ConcatDataset([PilPipeline(folder, recipe) for folder in folders])
    result = ratio(benchmark, batch_by_batch(ours, collate), batch_by_batch(theirs, nested), ROUNDS)
    seconds = benchmark.stats.stats.median, benchmark.extra_info["theirs_seconds"]
    print("images per second: ours {:.1f}, PIL {:.1f}; {:.2f} times".format(*(BATCH / s for s in seconds), 1 / result))
    assert 1 / result >= 1.5
