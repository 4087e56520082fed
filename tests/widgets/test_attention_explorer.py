"""AttentionExplorer: what it shows is what the detector recorded, for every detector and every setting."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from speed import quickest

from detr_mini import zoo
from detr_mini.checkpoints import load_weights
from detr_mini.course import attention_explorer, plots
from detr_mini.course.attention_explorer import (
    AttentionExplorer,
    Explored,
    Exploring,
    describe_exploring,
    ellipse,
    explore,
    first_state,
    render_exploring,
    within,
)
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.data.transforms import build_transform
from detr_mini.detr import Detr
from detr_mini.files import DATA
from detr_mini.recipes import SamModel, resized
from detr_mini.trace import AttentionTrace

IMAGE, TARGET = Scenes(20, seed=1_000_003)[5]
SYSTEMS = zoo.names()


def detector(name: str) -> Detr:
    """The shipped weights, or random ones for a detector that has none yet."""
    path = DATA / "weights" / f"{name}.safetensors"
    torch.manual_seed(0)
    return load_weights(path) if path.exists() else zoo.build(name)


@pytest.fixture(scope="module")
def explored() -> dict[str, Explored]:
    """Every detector on one scene."""
    return {name: explore(detector(name), IMAGE) for name in SYSTEMS}


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


def states(one: Explored) -> list[Exploring]:
    """Every layer and head once, for the first asker; every query and every place once, in the first layers."""
    first, (rows, columns) = first_state(one), one.shape
    found = [replace(first, layer=layer, head=head) for layer in one.layers for head in range(one.heads + 1)]
    found += [replace(first, layer="decoder 1", query=query) for query in one.queries]
    places = [(row, column) for row in range(rows) for column in range(columns)]
    return found + [replace(first, layer="encoder 1", place=place) for place in places]


def sweep(one: Explored, control: str) -> list[Exploring]:
    """Every value of a control, the others as at first; every head in the encoder, too, where alone a place asks."""
    first, (rows, columns) = first_state(one), one.shape
    encoder = replace(first, layer="encoder 1")
    return {
        "layer": [replace(first, layer=layer) for layer in one.layers],
        "head": [replace(state, head=head) for state in (first, encoder) for head in range(one.heads + 1)],
        "query": [replace(first, query=query) for query in one.queries],
        "place": [replace(encoder, place=place) for place in itertools.product(range(rows), range(columns))],
    }[control]


@pytest.mark.parametrize("name", SYSTEMS)
def test_maps_are_the_recorded_ones(name: str, explored: dict[str, Explored]) -> None:
    """A second pass under an open trace gives the same maps, up to the one byte that a cell has."""
    model = detector(name)
    size = torch.tensor(IMAGE.shape[1:])
    transform = build_transform(zoo.recipe(name).data, train=False)
    with torch.no_grad(), AttentionTrace(model.eval()) as trace:
        model(transform(IMAGE, TARGET | {"orig_size": size, "image_id": 0})[0][None])
    one = explored[name]
    assert list(one.layers) == ["encoder 1", "encoder 2", "decoder 1", "decoder 2", "decoder 3"]
    for title, layer in one.layers.items():
        side, number = title.split()
        kind = "self_attention" if side == "encoder" else "cross_attention"
        maps = trace.maps(f"{side}.layers.{int(number) - 1}.{kind}")[0]  # (heads, N, h, w)
        maps = maps if side == "encoder" else maps[:, one.queries]
        shown = layer.maps / 255 * layer.tops[..., None, None]
        assert np.abs(shown[1:] - maps.numpy()).max() <= maps.max() / 500
        assert np.abs(shown[0] - maps.mean(0).numpy()).max() <= maps.max() / 500
        assert ((layer.maps.max((-2, -1)) == 255) == (layer.spread > 0)).all() and layer.spread.max() <= 64
        assert layer.spread.min() > 0 or name == "deformable"  # its samples may all lie outside the image


def test_each_detector_shows_what_steers_it(explored: dict[str, Explored]) -> None:
    """Samples, salient points, Gaussians, points and boxes: each where its detector has it, and nowhere else."""
    last = {name: one.layers["decoder 3"] for name, one in explored.items()}
    assert {name for name, layer in last.items() if layer.dots is not None} == {"deformable", "sam"}
    assert {name for name, layer in last.items() if layer.ellipses is not None} == {"smca"}
    assert {name for name, layer in last.items() if layer.references is None} == {"detr"}
    sizes = {name: np.ptp(layer.references.reshape(-1, 2, 2), axis=1).max() for name, layer in last.items()
             if layer.references is not None}
    assert {name for name, size in sizes.items() if size > 0.01} == {"deformable", "dab", "sam"}
    assert last["deformable"].dots.shape == (8, 25, 4, 3) and last["sam"].dots.shape == (8, 25, 1, 3)
    assert np.allclose(last["deformable"].dots[..., 2].sum(-1), 1, atol=1e-5)
    assert explored["deformable"].layers["encoder 1"].dots.shape == (8, 64, 4, 3)
    assert {name: one.cut for name, one in explored.items() if one.cut} == {"sam": 7}


def test_a_reference_box_that_is_cut_shows_its_grid(explored: dict[str, Explored]) -> None:
    """SAM-DETR's box: six lines each way, evenly spaced, from edge to edge. DAB-DETR's box has none."""
    states = {name: replace(first_state(explored[name]), layer="decoder 3") for name in ("sam", "dab")}
    grids = {name: [lines.get_segments() for lines in render_exploring(explored[name], state).axes[1].collections
                    if isinstance(lines, LineCollection)] for name, state in states.items()}
    assert not any(map(len, grids["dab"])) and "cut into" not in describe_exploring(explored["dab"], states["dab"])
    one, state = explored["sam"], states["sam"]
    left, top, right, bottom = one.layers["decoder 3"].references[one.asker(state)]
    lines = np.array(grids["sam"][0])  # (12, 2 ends, 2)
    assert len(lines) == 12 and np.allclose(lines[:6, 0, 0], left + (right - left) * np.arange(1, 7) / 7, atol=1e-3)
    assert np.allclose(lines[:6, :, 1], [top, bottom]) and np.allclose(lines[6:, :, 0], [left, right])
    assert "), cut into 7 x 7." in describe_exploring(one, state)


def test_an_ellipse_is_the_gaussian() -> None:
    """Centre and deviations come back from the logarithm; a flat direction is 100 maps wide."""
    x, y = torch.meshgrid(torch.arange(9.0), torch.arange(6.0), indexing="xy")  # (6, 9) each
    values = -((x - 2.25) ** 2 / 2 / 1.5**2 + (y - 7.0) ** 2 / 2 / 4.0**2)
    assert torch.allclose(ellipse(values).float(), torch.tensor([2.75 / 9, 7.5 / 6, 1.5 / 9, 4.0 / 6]), atol=1e-4)
    assert ellipse(torch.zeros(6, 9))[2:].tolist() == [100, 100]


def test_smca_ellipses_are_its_prior(explored: dict[str, Explored]) -> None:
    """Centre plus offset, and 2 / scale cells wide, since log G = -(s d)^2 / 8."""
    model = detector("smca")
    size = torch.tensor(IMAGE.shape[1:])
    with torch.no_grad(), AttentionTrace(model.eval()) as trace:
        transform = build_transform(zoo.recipe("smca").data, train=False)
        model(transform(IMAGE, TARGET | {"orig_size": size, "image_id": 0})[0][None])
    one, prior = explored["smca"], trace["decoder.layers.1.cross_attention.prior"]
    kept = one.queries
    centre = trace["decoder"].reference[1, 0, kept, None] * 8 + prior.offset[0, kept] + 0.5  # (Q, heads, 2) in cells
    drawn = torch.from_numpy(one.layers["decoder 2"].ellipses).transpose(0, 1)  # (Q, heads, 4)
    assert torch.allclose(drawn[..., :2].float() * 8, centre, atol=0.05)
    assert torch.allclose(drawn[..., 2:].float() * 8, (2 / prior.scale[0, kept].abs()).clamp(max=800), rtol=0.02)


@pytest.mark.parametrize("name", ["anchor", "dab"])
def test_several_patterns_are_told_apart(name: str, explored: dict[str, Explored]) -> None:
    """Queries stand pattern by pattern. Which one asks is said and written at its reference; of one pattern nothing."""
    one = explore(zoo.build(name, model=replace(zoo.recipe(name).model, patterns=3)), IMAGE)
    for query, which in ((0, "pattern 1 of 3"), (24, "pattern 1 of 3"), (25, "pattern 2 of 3"), (74, "pattern 3 of 3")):
        state = Exploring("decoder 1", query=query)
        assert f"), {which}." in describe_exploring(one, state)
        assert [text.get_text() for text in render_exploring(one, state).axes[1].texts] == [which]
    alone, first = explored[name], first_state(explored[name])
    assert "pattern" not in describe_exploring(alone, first) and not render_exploring(alone, first).axes[1].texts


def test_inside_counts_parts_of_cells() -> None:
    """A box over half a cell covers half of it; boxes beyond the image cover nothing there."""
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.25], [-1.0, -1.0, 2.0, 2.0], [0.25, 0.25, 0.75, 0.75]])
    covered = within(boxes, (2, 2))
    assert covered.tolist() == [[[0.5, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.25, 0.25], [0.25, 0.25]]]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_state_has_words_of_its_own(name: str, explored: dict[str, Explored]) -> None:
    """All different where something else is shown."""
    one = explored[name]
    words = {describe_exploring(one, state) for state in states(one)}
    assert len(words) >= len(set(states(one))) - 1
    assert not any("nan" in text or "{}" in text for text in words)


@pytest.mark.parametrize("control", ["layer", "head", "query", "place"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_value_of_every_control_is_drawn_and_said(
    name: str, control: str, explored: dict[str, Explored]
) -> None:
    """The words begin with layer, head and who asks; layer and head are the title, too."""
    one = explored[name]
    for state in sweep(one, control):
        figure, (row, column) = render_exploring(one, state), state.place
        if control != "place":  # 64 states, which differ in their map and one frame
            FigureCanvasAgg(figure).draw()
        who, drawn = (f"head {state.head}",) * 2 if state.head else ("mean of all 8 heads", "mean of all heads")
        asks = (f"Query {state.query} asks: " if state.layer.startswith("decoder") else
                f"The place around ({16 * column + 8}, {16 * row + 8}) asks. ")
        assert describe_exploring(one, state).startswith(f"{state.layer.capitalize()}, {who}. {asks}")
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["what it found", f"{state.layer}, {drawn}"]


def test_every_setting_of_detr_is_a_picture_of_its_own(explored: dict[str, Explored]) -> None:
    """Layers, heads, queries, places: no two of them look the same."""
    one, first = explored["detr"], first_state(explored["detr"])
    chosen = [replace(first, layer=layer, head=head) for layer in one.layers for head in (0, 8)]
    chosen += [replace(first, query=query) for query in one.queries[1:3]]
    pictures = {plots.live_png(render_exploring(one, state)) for state in chosen}
    assert len(pictures) == len(chosen)
    assert plots.live_png(render_exploring(one, first)) == plots.live_png(render_exploring(one, first))


def test_detections_are_the_detectors_own(explored: dict[str, Explored]) -> None:
    """Each query once, the surest first, with its best class; as many count as pass the threshold."""
    model, one = detector("detr"), explored["detr"]
    size, transform = torch.tensor(IMAGE.shape[1:]), build_transform(zoo.recipe("detr").data, train=False)
    with torch.no_grad():
        output = model.eval()(transform(IMAGE, TARGET | {"orig_size": size, "image_id": 0})[0][None])
    scores, labels = output.logits[-1, 0].sigmoid().max(-1)
    assert sorted(one.queries) == list(range(25)) and one.scores == sorted(one.scores, reverse=True)
    for query, name, score in zip(one.queries, one.names, one.scores, strict=True):
        assert name == CLASSES[labels[query]] and score == pytest.approx(float(scores[query]), abs=1e-4)
    assert one.found == int((scores >= 0.35).sum()) > 0


def test_looking_changes_nothing() -> None:
    """The model is in its own mode afterwards, and no trace stays open."""
    model = zoo.build("dab").train()
    explore(model, IMAGE)
    assert model.training and not any(getattr(module, "trace", None) for module in model.modules())


def test_sam_with_gaussians_and_softmax_heads() -> None:
    """The other options: SAM-DETR's Gaussian has its centre at the salient point; a softmax head has no no-object."""
    sam = zoo.build("sam", model=SamModel(**zoo.recipe("sam").model.__dict__ | {"gaussian": True}))
    layer = explore(sam, IMAGE).layers["decoder 2"]
    narrow = (layer.ellipses[..., 2:] < 2).all(-1)  # a wide one is nearly flat, and its centre is not to be seen
    assert narrow.any() and np.allclose(layer.ellipses[narrow][:, :2], layer.dots[narrow][:, 0, :2], atol=1e-3)
    softmax = zoo.build("detr", model=resized(zoo.recipe("detr"), head="softmax").model)
    assert set(explore(softmax, IMAGE).names) <= set(CLASSES)


def test_a_large_image_keeps_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder's maps go first, with a note; then the queries that are least sure."""
    model = detector("detr")
    for limit, queries in ((60_000, 25), (20_000, 11), (10, 1)):
        monkeypatch.setattr(attention_explorer, "MOST_BYTES", limit)
        one = explore(model, IMAGE)
        assert list(one.layers) == ["decoder 1", "decoder 2", "decoder 3"]
        assert [len(layer.maps[0]) for layer in one.layers.values()] == [queries] * 3 == [len(one.queries)] * 3
        words = describe_exploring(one, first_state(one))
        assert words.endswith("The encoder's maps of so large an image are left out.")


def test_who_only_reads_sees_the_first_state() -> None:
    """A still picture with its description, the same in every session, and small."""
    one, other = (AttentionExplorer(detector("detr"), IMAGE)._repr_mimebundle_() for _ in range(2))
    words = re.search(r'<img alt="([^"]+)"', one["text/html"])[1]
    assert words == one["text/plain"] and "Decoder 3, mean of all 8 heads. Query" in words
    assert (one["text/html"], one["text/plain"]) == (other["text/html"], other["text/plain"])
    assert set(one) - {"text/html", "text/plain"} <= {"application/vnd.jupyter.widget-view+json"}
    assert len(one["text/html"]) < 60_000


def test_a_state_can_be_given_and_read() -> None:
    """What is chosen first, what was chosen since, and the picture and words of it."""
    widget = AttentionExplorer(detector("detr"), IMAGE, state=Exploring("encoder 2", 3, 7, (4, 5)))
    assert widget.state == Exploring("encoder 2", 3, 7, (4, 5)) and "(88, 72) asks" in widget.describe()
    widget.layer, widget.query = "decoder 1", 11
    assert widget.state == Exploring("decoder 1", 3, 11, (4, 5)) and "Query 11 asks" in widget.describe()
    assert widget.render().axes[1].get_title(loc="left") == "decoder 1, head 3"


@pytest.mark.parametrize("name", ["detr", "deformable"])
def test_it_opens_on_a_class(name: str, explored: dict[str, Explored]) -> None:
    """On the surest query that says it: live widget, still picture, words, and the place in the middle of its box."""
    one, model = explored[name], detector(name)
    assert len(set(one.names)) > 1
    for about in dict.fromkeys(one.names):
        score, query = max((score, query) for query, said, score in zip(one.queries, one.names, one.scores, strict=True)
                           if said == about)
        widget = AttentionExplorer(model, IMAGE, about=about)
        assert widget.state == widget.first and (widget.query, widget.layer, widget.head) == (query, "decoder 3", 0)
        left, top, right, bottom = one.layers["decoder 3"].boxes[one.queries.index(query)]
        assert widget.state.place == (int((top + bottom) // 32), int((left + right) // 32))  # cells of 16 pixels
        still = widget._repr_mimebundle_()
        assert f"Query {query} asks: {about}, {score:.2f}." in still["text/plain"]
        chosen = plots.bundle(render_exploring(one, widget.state), still["text/plain"])
        assert still["text/html"] == chosen["text/html"]


def test_a_class_that_nobody_says_is_refused(explored: dict[str, Explored]) -> None:
    """The message has the classes that were found, each once, the surest first."""
    said = list(dict.fromkeys(explored["detr"].names))
    with pytest.raises(ValueError, match=f"^no query says 'zebra' here: they say {', '.join(said)}$"):
        AttentionExplorer(detector("detr"), IMAGE, about="zebra")


def test_a_class_and_a_state_have_to_agree(explored: dict[str, Explored]) -> None:
    """A state about the very query that the class finds is taken, one about another query is refused."""
    one, model = explored["detr"], detector("detr")
    first, other = one.queries[:2]
    widget = AttentionExplorer(model, IMAGE, state=Exploring("decoder 1", 3, first), about=one.names[0])
    assert widget.state == Exploring("decoder 1", 3, first)
    message = f"about='{one.names[0]}' is query {first}, the state is about query {other}: give one of them"
    with pytest.raises(ValueError, match=message):
        AttentionExplorer(model, IMAGE, state=Exploring("decoder 1", query=other), about=one.names[0])


@pytest.mark.parametrize(("changes", "message"), [
    ({"layer": "decoder 4"}, "no layer 'decoder 4' here: choose encoder 1, encoder 2, decoder 1, decoder 2, decoder 3"),
    ({"head": 9}, "no head 9 here: choose 0 (the mean of all) to 8"),
    ({"query": 25}, "no query 25 here: choose 0, 1, 2"),
    ({"place": (8, 0)}, "no place (8, 0) here: choose (0, 0) to (7, 7)"),
])
def test_what_is_not_there_is_refused(changes: dict, message: str) -> None:
    """The message has the choices."""
    state = replace(Exploring("decoder 1"), **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        AttentionExplorer(detector("detr"), IMAGE, state=state)


def test_an_image_that_is_none_is_refused() -> None:
    """Floats and channels last are the two usual ones."""
    for image in (IMAGE.float(), IMAGE.permute(1, 2, 0)):
        with pytest.raises(ValueError, match="an image is \\(3, H, W\\) uint8, not"):
            explore(detector("detr"), image)


def test_a_still_picture_is_drawn_at_once(explored: dict[str, Explored]) -> None:
    """Processor time of the still form. What answers to keys is the live form (test_browser.py)."""
    one = explored["deformable"]
    assert quickest(lambda state: plots.live_png(render_exploring(one, state)), [first_state(one)] * 6) < 0.25
