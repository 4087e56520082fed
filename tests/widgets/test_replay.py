"""TrainingReplay: every moment can be drawn and told, and the sliders change both."""

import itertools

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text
from speed import quickest

from detr_mini.course import plots
from detr_mini.course.recorder import Recording, load_recording
from detr_mini.course.replay import Moment, TrainingReplay, describe_replay, place_for, render_replay, said
from detr_mini.data import scenes
from detr_mini.files import DATA

CLASSES = ("fish", "tree")


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


@pytest.fixture(scope="module")
def recording() -> Recording:
    """Three steps, two images, four queries, one layer, two heads; query 1 owns the tree of image 0."""
    torch.manual_seed(0)
    owners = torch.full((3, 1, 2, 4), -1)
    owners[:, 0, 0, 1] = 0
    target = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}
    attention = torch.rand(3, 1, 2, 2, 4, 8, 8)
    return Recording(
        [0, 10, 2500], torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8), [target, target],
        torch.randn(3, 1, 2, 4, 2), torch.rand(3, 1, 2, 4, 4) * 0.4 + 0.2, owners,
        attention / attention.sum((-1, -2), keepdim=True), {"loss_ce": torch.rand(3, 1)},
    )


@pytest.fixture(scope="module")
def shipped() -> Recording:
    """The course's recorded training of DETR: 17 steps, 8 images, 25 queries."""
    return load_recording(DATA / "runs" / "why_slow" / "detr.safetensors")


def numbers(recording: Recording, moment: Moment) -> list[Text]:
    """The numbers that are written into the picture of a moment, which is drawn."""
    figure = render_replay(recording, scenes.CLASSES, moment)
    FigureCanvasAgg(figure).draw()
    return list(figure.axes[0].texts)


def test_every_moment_can_be_drawn_and_told(recording: Recording) -> None:
    """All positions of all sliders; picture and words take under 100 ms of processor time."""
    moments = [Moment(*three) for three in itertools.product(range(3), range(2), range(4))]

    def answer(moment: Moment) -> None:
        figure, words = render_replay(recording, CLASSES, moment), describe_replay(recording, CLASSES, moment)
        plots.live_png(figure)
        assert f"Query {moment.query} says a box" in words and f"Step {recording.steps[moment.row]:,}" in words
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert f"step {recording.steps[moment.row]:,}" in titles[0] and f"query {moment.query}" in titles[1]

    assert quickest(answer, moments) < 0.1


def test_a_shipped_recording_answers_at_once(shipped: Recording) -> None:
    """25 frames, up to four owners with their numbers, 128 x 128 pixels."""
    moments = [Moment(row, row % 8, 3) for row in range(len(shipped.steps))]

    def answer(moment: Moment) -> None:
        plots.live_png(render_replay(shipped, scenes.CLASSES, moment))
        describe_replay(shipped, scenes.CLASSES, moment)

    assert quickest(answer, moments) < 0.1


def test_owners_have_their_numbers(shipped: Recording) -> None:
    """The chosen query's in an orange box, the others' in blue ones, and no number for a query that owns nothing."""
    row = shipped.at(2500)
    assert {text.get_text() for text in numbers(shipped, Moment(row, 7, 3))} == {"9", "22", "21", "4"}
    edges = {text.get_text(): to_hex(text.get_bbox_patch().get_edgecolor()).upper()
             for text in numbers(shipped, Moment(row, 7, 22))}
    assert edges == dict.fromkeys(("9", "21", "4"), plots.SKY) | {"22": plots.ORANGE}


@pytest.mark.parametrize("step", [0, 400, 2500])
def test_numbers_stand_clear(step: int, shipped: Recording) -> None:
    """On all images, whether the frames lie apart or on top of each other: inside the picture, none on another."""
    for image in range(8):
        texts = numbers(shipped, Moment(shipped.at(step), image, 3))
        grounds = [text.get_bbox_patch().get_window_extent() for text in texts]
        assert len(texts) == len(shipped.targets[image]["labels"])
        frame = texts[0].axes.get_window_extent()
        assert all(frame.containsx(x) and frame.containsy(y) for ground in grounds for x, y in ground.corners())
        assert not any(one.overlaps(other) for one, other in itertools.combinations(grounds, 2))


def test_a_number_has_a_place_whatever_the_frame() -> None:
    """Without room at the corners, within the picture; eight numbers at one frame, each elsewhere."""
    assert place_for([-20.0, -20.0, 200.0, 200.0], (128, 96), []) == pytest.approx((4, 2.8), abs=0.1)
    taken = []
    for _ in range(8):
        taken.append(place_for([30.0, 30.0, 90.0, 90.0], (128, 128), taken))
    assert len(set(taken)) == 8
    assert place_for([30.0, 30.0, 90.0, 90.0], (128, 128), taken) in taken


def test_the_words_are_the_numbers(recording: Recording) -> None:
    """Box in pixels, owner by name, and how far attention is spread: one cell is 1, uniform is all 64."""
    words = describe_replay(recording, CLASSES, Moment(1, 0, 1))
    _, _, width, height = (recording.boxes[1, -1, 0, 1] * 128).tolist()
    assert f"{width:.0f} x {height:.0f} pixels" in words and "is matched with the tree" in words
    assert "matched with nothing" in describe_replay(recording, CLASSES, Moment(1, 0, 2))
    recording.attention[2, -1, 0, :, 0] = 1 / 64
    assert said(recording, Moment(2, 0, 0)).places == pytest.approx(64, rel=1e-4)
    recording.attention[2, -1, 0, :, 3] = torch.eye(64)[20].view(8, 8)
    assert said(recording, Moment(2, 0, 3)).places == pytest.approx(1, rel=1e-4)


def test_the_words_end_with_the_owners(shipped: Recording, recording: Recording) -> None:
    """Thing by thing, two of one class both; the same whichever query is chosen; none where nothing is owned."""
    last = shipped.at(2500)
    for query in (3, 4):
        words = describe_replay(shipped, scenes.CLASSES, Moment(last, 7, query))
        assert words.endswith(" Owners: cup: query 9, tree: query 22, cat: query 21, fish: query 4.")
    words = describe_replay(shipped, scenes.CLASSES, Moment(last, 5, 3))
    assert words.endswith(" Owners: cat: query 14, car: query 24, balloon: query 1, balloon: query 6.")
    assert describe_replay(recording, CLASSES, Moment(0, 1, 0)).endswith(" Owners: none.")


def test_sliders_redraw(recording: Recording) -> None:
    """Each control changes picture and words; the words are announced."""
    replay = TrainingReplay(recording, CLASSES)
    assert replay.state == Moment(row=2)
    for name, value in (("row", 1), ("image", 1), ("query", 3)):
        before = replay.picture.value, replay.picture.words
        replay.controls[name].value = value
        assert replay.picture.value != before[0] and replay.picture.words != before[1]


def test_a_stored_notebook_keeps_a_still_picture(recording: Recording) -> None:
    """Live widget, picture with its words, and plain text, from the first moment."""
    data = TrainingReplay(recording, CLASSES, Moment(0, 0, 1))._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "<img" in data["text/html"] and "is matched with the tree" in data["text/plain"]


def test_a_first_moment_outside_is_refused(recording: Recording) -> None:
    """Told how much there is."""
    with pytest.raises(ValueError, match="it has 3 steps, 2 images, 4 queries"):
        TrainingReplay(recording, CLASSES, Moment(query=4))
