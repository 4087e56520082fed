"""Is one detector better than another? The paired bootstrap, on COCO's average precision.

    compared = paired_bootstrap(val_set, predictions_of_one, predictions_of_other)
    print(compared)        # AP50 +0.021, 90% of draws between +0.004 and +0.040 (200 images)

Two detectors that are measured on the same images meet the same hard and easy ones, so their figures go up and down
together, and their *difference* is far steadier than either. The bootstrap (Efron 1979) draws as many images as there
are, with replacement, again and again, and asks for the difference on each draw.

Matching happens inside one image and class, so it is done once. A draw only counts each image as often as it was drawn.
"""

from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from detr_mini.evaluation import Predictions, matched_by_coco

RECALLS = np.linspace(0, 1, 101)  # where COCO reads precision off
ROUNDING = np.spacing(1)


@dataclass(frozen=True)
class Compared:
    """The difference second - first, and what it was on each draw. draws: (D,). images: how many there are."""

    first: float
    second: float
    draws: np.ndarray
    images: int
    name: str

    @property
    def difference(self) -> float:
        """On the images as they are."""
        return self.second - self.first

    def interval(self, share: float = 0.9) -> tuple[float, float]:
        """What the middle `share` of the draws lie between."""
        low, high = np.quantile(self.draws, [(1 - share) / 2, (1 + share) / 2])
        return float(low), float(high)

    @property
    def above_zero(self) -> float:
        """The share of draws on which the second is better."""
        return float((self.draws > 0).mean())

    def __str__(self) -> str:
        between = "{:+.3f} and {:+.3f}".format(*self.interval())
        return f"{self.name} {self.difference:+.3f}, 90% of draws between {between} ({self.images} images)"


@dataclass(frozen=True)
class Matched:
    """All detections of one class in all images, best first, judged at T levels of IoU.

    image: (K,) row of each detection's image. right, ignored: (T, K) bool. objects: (I,) how many there are to be found
    in each image.
    """

    image: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray

    def precision(self, times: np.ndarray) -> np.ndarray | None:
        """Average precision at every level, (T,), with image i counted times[i] times; None without an object."""
        wanted = (self.objects * times).sum()
        if not wanted:
            return None
        weight = times[self.image]  # (K,)
        hits = np.cumsum((self.right & ~self.ignored) * weight, axis=1)  # (T, K)
        slips = np.cumsum((~self.right & ~self.ignored) * weight, axis=1)
        recall, precision = hits / wanted, hits / np.maximum(hits + slips, ROUNDING)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # of this recall or a larger one
        return np.array([read_off(recall[level], best[level]) for level in range(len(recall))])


def read_off(recall: np.ndarray, precision: np.ndarray) -> float:
    """COCO's average of the precision (K,) at 101 recalls; 0 where a recall is not reached."""
    place = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(precision, 0.0)[place].mean())


def average(classes: list[Matched], times: np.ndarray, levels: slice) -> float:
    """The mean over classes and levels of IoU; nan when nothing is to be found."""
    found = [value[levels].mean() for one in classes if (value := one.precision(times)) is not None]
    return float(np.mean(found)) if found else float("nan")


def paired_bootstrap(
    dataset: Dataset, first: Predictions, second: Predictions, draws: int = 1000, seed: int = 0, ap50: bool = True
) -> Compared:
    """How sure is it that the second detector is better than the first, on these images?

    first, second: predictions as `evaluation.predict` gives them, of all images of the data set. draws: of images, with
    replacement. ap50: AP at an IoU of 0.5, else COCO's AP. Raises as `average_precision`, and ValueError for no draw.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}: give 1 or more")
    pair = [[Matched(*one) for one in matched_by_coco(dataset, predictions)] for predictions in (first, second)]
    images, levels = len(dataset), slice(0, 1) if ap50 else slice(None)
    generator, once = np.random.default_rng(seed), np.ones(len(dataset), int)
    measured = [average(classes, once, levels) for classes in pair]
    drawn = []
    for _ in range(draws):
        times = np.bincount(generator.integers(0, images, images), minlength=images)
        one, other = (average(classes, times, levels) for classes in pair)
        drawn.append(other - one)
    return Compared(*measured, np.array(drawn)[~np.isnan(drawn)], images, "AP50" if ap50 else "AP")
