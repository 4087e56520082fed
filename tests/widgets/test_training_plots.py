"""Pictures of a training: what they get is what they draw, and a notebook full of them stays small."""

import itertools

import pytest
import torch

from detr_mini.course import plots, training_plots
from detr_mini.course.recorder import Recording

CLASSES = ("fish", "tree")
PICTURE = torch.zeros(3, 128, 128, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def test_the_mean_of_the_last_values() -> None:
    """A running mean that starts with what is there."""
    assert training_plots.smooth([1.0, 3.0, 5.0, 7.0], window=2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_all_boxes_are_drawn_and_the_sure_ones_strongly() -> None:
    """One frame per query, in pixels; a query without a score fades."""
    boxes = torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.25, 0.25, 0.5, 0.5]])
    frames = training_plots.everything_said(PICTURE, boxes, torch.tensor([0.9, 0.0])).axes[0].patches
    assert [frame.get_bbox().extents.tolist() for frame in frames] == [[48, 32, 80, 96], [0, 0, 64, 64]]
    assert frames[0].get_alpha() == pytest.approx(1.0) and frames[1].get_alpha() == pytest.approx(0.2)


def test_found_and_missed_draws_truth_and_sure_boxes() -> None:
    """A dashed frame per thing; a frame and a name per detection over the threshold, none below it."""
    result = {"scores": torch.tensor([0.8, 0.2]), "labels": torch.tensor([1, 0]),
              "boxes": torch.tensor([[10.0, 10, 50, 50], [0, 0, 5, 5]])}
    target = {"boxes": torch.tensor([[0.25, 0.25, 0.3, 0.3]])}
    axes = training_plots.found_and_missed([PICTURE], [target], [result], CLASSES, threshold=0.5).axes[0]
    assert [text.get_text() for text in axes.texts] == ["tree 0.80"]
    assert len(axes.patches) == 4  # each frame has a white rim


def test_a_filmstrip_has_a_row_per_image() -> None:
    """Steps above the columns; an unknown step is told."""
    recording = Recording([0, 50], PICTURE[None].repeat(2, 1, 1, 1), [], torch.zeros(2, 1, 2, 3, 2),
                          torch.full((2, 1, 2, 3, 4), 0.4), torch.full((2, 1, 2, 3), -1),
                          torch.full((2, 1, 2, 1, 3, 8, 8), 1 / 64), {})
    figure = training_plots.filmstrip(recording, images=[0, 1], steps=[0, 50])
    assert len(figure.axes) == 4
    with pytest.raises(ValueError, match="step 51 was not recorded"):
        training_plots.filmstrip(recording, images=[0, 1], steps=[0, 51])


def test_a_band_spans_its_runs() -> None:
    """From the lowest to the highest at each step, and the marked point."""
    runs = {"seed 0": ([1, 2], [0.1, 0.5]), "seed 1": ([1, 2], [0.3, 0.4])}
    axes = training_plots.band(runs, title="t", ylabel="AP50", highlight=([2], [0.45], "yours")).axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.1, 0.5], [0.3, 0.4], [0.45]]
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(0.1) and corners[:, 1].max() == pytest.approx(0.5)


def test_the_area_under_precision_and_recall() -> None:
    """Each rank a dot with its number."""
    axes = training_plots.precision_recall([0.5, 1.0], [1.0, 0.6], [1.0, 0.6]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]


def test_heads_looks_and_gaze() -> None:
    """A map per head; the image first; a panel per head with its dots."""
    maps = torch.softmax(torch.randn(8, 64), -1).view(8, 8, 8)
    assert len(training_plots.heads(PICTURE, maps, [1, 2, 30, 40]).axes) == 8
    assert len(training_plots.looks(PICTURE, maps[:2], ["a", "b"], dots=[(1, 2), (3, 4)]).axes) == 3
    for boxes, colours in (([(1, 2, 30, 40)] * 2, 1), ([(1, 2, 30, 40), (5, 5, 9, 9)], 2)):  # one box, or two
        axes = training_plots.looks(PICTURE, maps[:2], ["a", "b"], boxes=boxes).axes
        drawn = {tuple(place.patches[-1].get_edgecolor()) for place in axes[1:]}
        assert len(drawn) == colours
    panels = training_plots.gaze(torch.zeros(5, 8, 2)).axes
    assert [place.get_title(loc="left") for place in panels] == [f"head {head + 1}" for head in range(8)]
    assert len(panels[0].collections[0].get_offsets()) == 5


def test_labels_keep_out_of_each_others_way() -> None:
    """Two boxes on one thing have two readable labels, each at its box and inside the picture."""
    axes = training_plots.scene(torch.zeros(3, 128, 128)).axes[0]
    tags: list[tuple[float, ...]] = []
    for box in ([20, 30, 60, 70], [22, 31, 62, 72], [90, 0, 127, 20], [92, 1, 128, 22]):
        tags.append(training_plots.name_tag(axes, box, "cup 0.40", "black", tags))
    assert all(training_plots.shared(one, other) == 0 for one, other in itertools.combinations(tags, 2))
    assert all(0 <= left < right <= 128 and 0 <= top < bottom <= 128 for left, top, right, bottom in tags)
    assert tags[0][0] == 20 and tags[0][3] == 30  # alone: above the upper left corner
    assert training_plots.shared((0, 0, 4, 4), (3, 1, 9, 9)) == 3
    assert not training_plots.shared((0, 0, 1, 1), (2, 0, 3, 1))
