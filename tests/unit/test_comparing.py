"""The paired bootstrap: its AP is COCO's, its draws are right by hand, and its intervals cover as often as they say."""

import numpy as np
import pytest
import torch

from detr_mini import comparing
from detr_mini.comparing import Matched, average, paired_bootstrap, read_off
from detr_mini.data.scenes import Scenes
from detr_mini.evaluation import average_precision, matched_by_coco

SCENES = Scenes(24, seed=3, cache=False)


def noisy(seed: int, wobble: float, lost: float) -> dict:
    """Predictions made from the truth: boxes moved, some lost, some invented, scores by chance."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for index in range(len(SCENES)):
        _, target = SCENES[index]
        centre, size = target["boxes"][:, :2], target["boxes"][:, 2:]
        centre = centre + wobble * size * torch.randn(centre.shape, generator=generator)
        boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1) * 128
        keep = torch.rand(len(boxes), generator=generator) >= lost
        boxes = torch.cat([boxes[keep], boxes.flip(0)[:1]])
        labels = torch.cat([target["labels"][keep], torch.tensor([4])])
        found[index] = {"boxes": boxes, "labels": labels, "scores": torch.rand(len(boxes), generator=generator)}
    return found


@pytest.mark.parametrize("seed", range(4))
def test_every_image_once_is_cocos_figure(seed: int) -> None:
    """AP50 and AP, to 1e-12."""
    predictions = noisy(seed, 0.08, 0.2)
    classes = [Matched(*one) for one in matched_by_coco(SCENES, predictions)]
    coco, once = average_precision(SCENES, predictions, judge="pycocotools"), np.ones(len(SCENES), int)
    assert average(classes, once, slice(0, 1)) == pytest.approx(coco.ap50, abs=1e-12)
    assert average(classes, once, slice(None)) == pytest.approx(coco.ap, abs=1e-12)


def test_an_image_drawn_twice_counts_twice() -> None:
    """By hand: image 0 has one object, found; image 1 one, missed, with a false alarm that scores higher."""
    one = Matched(image=np.array([1, 0]), right=np.array([[False, True]]), ignored=np.zeros((1, 2), bool),
                  objects=np.array([1, 1]))
    assert one.precision(np.array([1, 0])) == pytest.approx([1.0])
    assert one.precision(np.array([0, 1])) == pytest.approx([0.0])
    # Both once: precision 1/2 up to recall 1/2, 51 of 101 points. Image 0 twice: 2/3 up to 2/3, 67 points.
    assert one.precision(np.array([1, 1])) == pytest.approx([0.5 * 51 / 101])
    assert one.precision(np.array([2, 1])) == pytest.approx([2 / 3 * 67 / 101])
    assert one.precision(np.array([0, 0])) is None
    assert read_off(np.zeros(0), np.zeros(0)) == 0


def test_a_detector_against_itself_differs_by_nothing() -> None:
    """On every draw."""
    same = noisy(0, 0.08, 0.2)
    compared = paired_bootstrap(SCENES, same, same, draws=20)
    assert (compared.draws == 0).all() and compared.difference == 0 and compared.above_zero == 0


def test_pairing_makes_the_difference_steadier() -> None:
    """Of a detector and the same with a few objects more lost: the spread of the difference is below each one's own."""
    good = noisy(1, 0.05, 0.1)
    def shorter(index: int, values: torch.Tensor) -> torch.Tensor:
        return values[:-1] if len(values) > 1 and index % 3 == 0 else values

    worse = {index: {name: shorter(index, values) for name, values in found.items()} for index, found in good.items()}
    compared = paired_bootstrap(SCENES, worse, good, draws=200)
    alone = paired_bootstrap(SCENES, {i: {n: v[:0] for n, v in f.items()} for i, f in good.items()}, good, draws=200)
    assert compared.draws.std() < 0.7 * alone.draws.std()
    assert str(compared).startswith(f"AP50 {compared.difference:+.3f}, 90% of draws between")


def test_ninety_per_cent_intervals_hold_about_nine_times_in_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 simulated validation sets of 60 images, each with one object that either detector finds or not."""
    generator, covered = np.random.default_rng(0), 0
    truth = 0.1  # 0.7 found against 0.6; AP50 with one detection per object and no false alarm is recall, nearly

    class Sixty:
        def __len__(self) -> int:
            return 60

    for trial in range(200):
        sides = []
        common = generator.random(60)  # how hard an image is, for both
        for chance in (0.6, 0.7):
            hit = common < chance
            sides.append([(np.flatnonzero(hit), np.ones((1, hit.sum()), bool), np.zeros((1, hit.sum()), bool),
                           np.ones(60, int))])
        turn = iter(sides)
        monkeypatch.setattr(comparing, "matched_by_coco", lambda *_, turn=turn: next(turn))
        low, high = paired_bootstrap(Sixty(), {}, {}, draws=200, seed=trial).interval()
        covered += low - 0.005 <= truth <= high + 0.005
    assert 0.82 < covered / 200 < 0.97


def test_predictions_of_other_data_are_refused() -> None:
    """As `average_precision` does; and no draw is no comparison."""
    with pytest.raises(ValueError, match="image id 99 is not in the data set"):
        paired_bootstrap(SCENES, {99: noisy(0, 0, 0)[0]}, {})
    with pytest.raises(ValueError, match="draws is 0: give 1 or more"):
        paired_bootstrap(SCENES, {}, {}, draws=0)
