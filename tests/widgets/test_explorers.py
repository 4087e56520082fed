"""TokenExplorer and MeetingExplorer: a picture and words for every setting, and a still picture for those who read."""

import itertools
import re

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from detr_mini import zoo
from detr_mini.checkpoints import load_weights
from detr_mini.course import plots
from detr_mini.course.explorer import Explorer
from detr_mini.course.meeting_explorer import (
    THRESHOLDS,
    MeetingExplorer,
    Minutes,
    Session,
    both,
    describe_session,
    listen,
    render_session,
)
from detr_mini.course.token_explorer import (
    MEAN,
    Place,
    TokenExplorer,
    Watched,
    describe_place,
    inside,
    render_place,
    watch,
    weights_at,
)
from detr_mini.course.without_meeting import without_meeting
from detr_mini.data.scenes import Scenes
from detr_mini.files import DATA

DETECTORS = ("with meetings", "meetings cancelled")


@pytest.fixture(scope="module", autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


@pytest.fixture(scope="module")
def model():
    """The shipped detector."""
    return load_weights(DATA / "weights" / "detr.safetensors")


@pytest.fixture(scope="module")
def watched(model) -> Watched:
    """Two scenes' encoder attention."""
    return watch(model, Scenes(8, seed=3), [0, 5], zoo.recipe("detr").data)


@pytest.fixture(scope="module")
def minutes(model) -> Minutes:
    """What two detectors say of two scenes."""
    detectors = dict(zip(DETECTORS, (model, without_meeting(model)), strict=True))
    return listen(detectors, Scenes(8, seed=3), [0, 5], zoo.recipe("detr").data)


def words_inside(figure) -> None:
    """No text leaves the picture."""
    FigureCanvasAgg(figure).draw()
    for text in figure.findobj(lambda part: hasattr(part, "get_text") and part.get_text()):
        extent = text.get_window_extent()
        assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1, text.get_text()


def test_every_place_has_weights_and_words(watched: Watched) -> None:
    """All 2 x 64 x 2 x 9 settings: attention adds up to 1, and the words name a percentage."""
    for setting in itertools.product(range(2), range(8), range(8), range(2), range(MEAN, 8)):
        state = Place(*setting)
        assert weights_at(watched, state).sum() == pytest.approx(1, abs=1e-4)
        assert "%" in describe_place(watched, state)


@pytest.mark.parametrize("state", [Place(), Place(1, 7, 7, 1, 7), Place(0, 0, 7, 1), Place(1, 3, 4, 0, 0)], ids=str)
def test_pictures_of_places(watched: Watched, state: Place) -> None:
    """Corners, heads and layers are drawn, and a picture depends on its state alone."""
    words_inside(render_place(watched, state))
    assert plots.live_png(render_place(watched, state)) == plots.live_png(render_place(watched, state))


def test_layers_and_heads_count_from_one(watched: Watched) -> None:
    """In words, titles and controls, as in AttentionExplorer; the state has indices. The mean is a choice apart."""
    for head, said in ((MEAN, "mean of all heads"), (0, "head 1"), (7, "head 8")):
        state = Place(layer=1, head=head)
        assert f"layer 2, {said}. " in describe_place(watched, state)
        assert render_place(watched, state).axes[1].get_title(loc="left") == f"where it looks: layer 2, {said}"
    controls = TokenExplorer(watched).controls
    assert controls["head"].options == (("mean", MEAN), *((str(head + 1), head) for head in range(8)))
    assert controls["layer"].options == (("1", 0), ("2", 1))
    assert torch.equal(weights_at(watched, Place(1, 2, 3, 1, 4)), watched.attention[1, 1, 4, 2 * 8 + 3])


def test_inside_goes_by_centres() -> None:
    """A box over the left half of the image has half of the places."""
    covers = inside(torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.1, 0.1]]), 8, 8)
    assert covers.shape == (2, 64) and covers[0].sum() == 32 and not covers[1].any()
    assert covers[0].reshape(8, 8)[:, :4].all()


def test_every_session_is_consistent(minutes: Minutes) -> None:
    """Nothing is found twice over, suppression never adds boxes, and a higher threshold never shows more."""
    for name, scene, layer in itertools.product(DETECTORS, range(2), range(3)):
        counts = []
        for threshold in THRESHOLDS:
            state = Session(name, scene, layer, threshold)
            (_, found, words), (_, kept, after) = both(minutes, state)
            assert len(words) == len(found["scores"]) >= len(after) == len(kept["scores"])
            assert words.count("first") <= len(minutes.targets[scene]["labels"])
            assert describe_session(minutes, state).count("duplicates") == 2
            counts.append(len(words))
        assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("state", [Session(name, layer=layer, threshold=least) for name, layer, least in
                                   itertools.product(DETECTORS, (0, 2), (0.1, 0.5))], ids=str)
def test_pictures_of_sessions(minutes: Minutes, state: Session) -> None:
    """With many boxes and with hardly any."""
    words_inside(render_session(minutes, state))


@pytest.fixture(params=["tokens", "meetings"])
def explorer(request, watched, minutes) -> Explorer:
    """Both of them."""
    return TokenExplorer(watched) if request.param == "tokens" else MeetingExplorer(minutes)


def test_moving_any_control_redraws(explorer: Explorer) -> None:
    """Picture and words follow every control, and the words are announced."""
    for name, control in explorer.controls.items():
        words = explorer.picture.words
        options = getattr(control, "options", None)
        control.value = options[-1 if control.value != options[-1][1] else 0][1] if options else control.max
        assert getattr(explorer.state, name) == control.value
        assert explorer.picture.words != words
        assert control.description


def test_who_only_reads_sees_the_first_state(explorer: Explorer) -> None:
    """A still picture whose description is also the plain text."""
    bundle = explorer._repr_mimebundle_()
    words = re.search(r'<img alt="([^"]+)"', bundle["text/html"])[1]
    assert explorer.describe(explorer.first) in bundle["text/plain"] and words == bundle["text/plain"]
    assert set(bundle) - {"text/html", "text/plain"} <= {"application/vnd.jupyter.widget-view+json"}


def test_a_first_state_that_is_not_there_is_refused(watched: Watched, minutes: Minutes) -> None:
    """The message says what there is."""
    with pytest.raises(ValueError, match="there are 2 scenes, 8 rows, 8 columns, 2 layers, 8 heads"):
        TokenExplorer(watched, Place(scene=2))
    with pytest.raises(ValueError, match="detectors are with meetings, meetings cancelled"):
        MeetingExplorer(minutes, Session("never met"))
