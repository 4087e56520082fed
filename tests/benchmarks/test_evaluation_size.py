"""COCO's validation set in size: 5,000 images with 100 detections each. Run with: make bench"""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from test_judges import random_data  # noqa: E402

from detr_mini.evaluation import JUDGES, average_precision  # noqa: E402


@pytest.mark.parametrize("judge", [name for name in JUDGES if name != "pycocotools"])
def test_evaluation_at_size(judge: str) -> None:
    """From predictions to the twelve numbers in less than a fifth of pycocotools' time, and the same numbers."""
    pytest.importorskip(JUDGES[judge][0])
    data, predictions = random_data(5000, 100)
    seconds, numbers = {}, {}
    for name in (judge, "pycocotools"):
        started = time.perf_counter()
        numbers[name] = average_precision(data, predictions, judge=name).to_dict()
        seconds[name] = time.perf_counter() - started
    ratio = seconds[judge] / seconds["pycocotools"]
    print(f"\n{judge}: {seconds[judge]:.1f} s, pycocotools {seconds['pycocotools']:.1f} s, ratio {ratio:.3f}")
    assert ratio < 0.2
    for one in numbers.values():
        one.pop("per_class")
    assert numbers[judge] == pytest.approx(numbers["pycocotools"], abs=1e-6)
