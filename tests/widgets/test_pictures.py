"""Pictures of the course: described wherever they are shown, alike from run to run, drawn for every topic."""

import base64
import io
import re
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from nbconvert import HTMLExporter
from PIL import Image

import detr_mini as dm
from detr_mini.course import coursemap, notebook, pipeline, plots
from detr_mini.course.matching_plots import free_spot
from detr_mini.course.syllabus import LESSONS, STAGES, lesson

WORDS = 'Weights: "Attic" 0.67 & the rest < 0.33.'


class Descriptions(HTMLParser):
    """The alt texts of a page, as a browser reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs).get("alt"))


@pytest.fixture(autouse=True)
def course_style() -> None:
    """As after setup()."""
    plots.style()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Every output shown, in order."""
    outputs: list[dict[str, str]] = []
    monkeypatch.setattr(plots, "display", lambda data, raw: outputs.append(data))
    return outputs


def test_description_survives_the_export_to_html(shown: list[dict[str, str]]) -> None:
    """Through a stored notebook and nbconvert, with quotes and signs, as the alt text of the one picture."""
    plots.show(plots.bars([1.0, 2.0], ["a", "b"]), alt=WORDS)
    cell = nbformat.v4.new_code_cell("show(...)", outputs=[nbformat.v4.new_output("display_data", shown[0])])
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    reader = Descriptions()
    reader.feed(page)
    assert reader.found == [WORDS]
    assert "No description has been provided" not in page


def test_a_picture_without_words_is_refused() -> None:
    """A word or two describe nothing."""
    with pytest.raises(ValueError, match="say what the picture shows"):
        plots.show(plots.bars([1.0], ["a"]), alt="A plot.")


def test_show_closes_and_tidies(shown: list[dict[str, str]]) -> None:
    """A pyplot figure is not drawn a second time at the cell's end; line ends in descriptions become spaces."""
    figure, axes = pyplot.subplots()
    plots.show(figure, alt="A description that goes\n     over two lines of the source.")
    assert not pyplot.fignum_exists(figure.number)
    assert shown[0]["text/plain"] == "A description that goes over two lines of the source."


def test_the_same_figure_gives_the_same_bytes() -> None:
    """So that a rebuilt notebook does not differ."""
    one, other = (plots.bundle(plots.matrix(torch.eye(3)), WORDS) for _ in range(2))
    assert one == other


def test_pictures_are_packed_tightly() -> None:
    """A picture of noise as WebP, a drawing in a fraction of its plain PNG; the description travels with it."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    drawing, plain = plots.bars([1.0, 2.0], ["a", "b"]), io.BytesIO()
    drawing.savefig(plain, format="png", dpi=plots.STORED_DPI)
    data = plots.packed(drawing)[1]
    assert len(data) < 0.6 * len(plain.getvalue())
    assert plots.packed(plots.pictures([noise] * 2))[0] == "webp"
    words = "Two bars, the second one\n   twice as long as the first."
    shown = plots.bundle(drawing, words)
    assert shown["text/plain"] == " ".join(words.split()) and f'alt="{shown["text/plain"]}"' in shown["text/html"]
    assert base64.b64decode(re.search(r"base64,([^\"]+)", shown["text/html"])[1]) == data


def test_small_spots_keep_their_colours() -> None:
    """Eight dots on a background of two hundred soft colours: in the stored palette each is what it was."""
    figure, axes = plots.canvas(width=6.0, height=2.0)
    figure.set_layout_engine("none")  # or else it moves a little from drawing to drawing
    down, across = np.mgrid[:200, :600]
    red, green = 0.7 + 0.3 * (across // 30) / 20, 0.7 + 0.3 * (down // 20) / 10
    axes.imshow(np.stack([red, green, np.full(down.shape, 0.9)], axis=-1))
    for number, colour in enumerate(plots.COLOURS):
        axes.plot(40 + 70 * number, 100, "o", color=colour, markersize=9)
    kind, stored = plots.packed(figure)
    whole = np.asarray(plots.rendered(figure, plots.STORED_DPI), dtype=int)
    kept = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"), dtype=int)
    assert kind == "png" and kept.shape == whole.shape
    for colour in plots.COLOURS:
        wanted = 255 * np.array(to_rgb(colour))
        spot = np.abs(whole - wanted).max(axis=-1) < 6  # the dot, in the picture as it was drawn
        assert spot.sum() > 100 and np.abs(kept[spot] - wanted).max() < 12


def test_matrix_shows_its_numbers() -> None:
    """Every cell has its number, readable on its colour, and the sides their names."""
    figure = plots.matrix([[0.0, 1.0], [0.25, 0.75]], ["q1", "q2"], ["k1", "k2"], row_name="query", top=1.0)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.00", "1.00", "0.25", "0.75"]
    assert [text.get_color() for text in axes.texts] == ["black", "white", "black", "white"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["k1", "k2"]
    assert axes.get_ylabel() == "query"


def test_bars_curves_scenes_and_maps_draw_what_they_get() -> None:
    """Lengths of bars, data of lines, frames in pixels, cells over the whole picture."""
    picture = torch.zeros(3, 40, 60, dtype=torch.uint8)
    bars = plots.bars(torch.tensor([2.0, -1.0]), ["a", "b"]).axes[0]
    assert [patch.get_width() for patch in bars.patches] == [2.0, -1.0]
    curves = plots.curves({"one": [1, 2, 3], "two": [3, 2, 1]}, xlabel="step", ylabel="loss").axes[0]
    assert [line.get_ydata().tolist() for line in curves.lines] == [[1, 2, 3], [3, 2, 1]]
    assert [text.get_text().strip() for text in curves.texts] == ["one", "two"]
    scene = plots.scene(picture, [[5, 6, 20, 30]], ["cup"]).axes[0]
    assert scene.patches[0].get_bbox().extents.tolist() == [5, 6, 20, 30]
    overlay = plots.attention_map(picture, torch.tensor([[1.0, 0.0]])).axes[0].images[1]
    assert list(overlay.get_extent()) == [-0.5, 59.5, 39.5, -0.5]
    assert overlay.get_array()[0, 1, 3] == 0  # no attention, no glow


@pytest.mark.parametrize("topic", pipeline.TOPICS)
def test_where_we_are_lights_every_topic(topic: str, shown: list[dict[str, str]]) -> None:
    """Lit titles are bold, the others are not, and the words say what is lit."""
    notebook.where_we_are(topic)
    lit, sentence = pipeline.TOPICS[topic]
    assert sentence in shown[0]["text/plain"]
    texts = pipeline.draw_pipeline(topic).axes[0].texts
    bold = {text.get_text() for text in texts if text.get_weight() == "bold"}
    assert bold == {pipeline.PARTS[name].title for name in lit}


def test_unknown_topic_names_the_known_ones() -> None:
    """A slip in a notebook's source is found at once."""
    with pytest.raises(ValueError, match="no part of the drawing is called 'atention': choose one of all, attention"):
        notebook.where_we_are("atention")


def test_the_map_has_every_notebook(shown: list[dict[str, str]]) -> None:
    """Stations 01 to 21 in order; badges on parts that exist; stages cover all lessons once."""
    notebook.course_map()
    assert len(shown) == 2
    numbers = [text.get_text() for text in coursemap.draw_way().axes[0].texts if text.get_text().isdigit()]
    assert numbers == [one.number for one in LESSONS[1:]]
    assert set(coursemap.BADGES) <= set(pipeline.PARTS)
    covered = [one.number for first, last in STAGES.values() for one in LESSONS if first <= one.number <= last]
    assert covered == numbers
    assert lesson("09").stem == "09_train_detr"
    with pytest.raises(ValueError, match="numbered 00 to 21"):
        lesson("99")


def test_setup_repeats_and_says_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two notebooks with one seed draw the same numbers, from PyTorch and from NumPy."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads, draws = torch.get_num_threads(), []
    for _ in range(2):
        dm.setup(seed=3)
        draws.append((torch.rand(1).item(), np.random.rand()))
    torch.set_num_threads(threads)
    assert draws[0] == draws[1]
    assert capsys.readouterr().out == "detr_mini is ready: random seed 3, 1 threads.\n" * 2


def test_canvas_gives_one_or_many() -> None:
    """One pair of axes alone, several as a list; nothing is known to pyplot, so nothing is drawn twice."""
    before = pyplot.get_fignums()
    figure, axes = plots.canvas()
    assert isinstance(figure, Figure) and axes is figure.axes[0]
    assert len(plots.canvas(3, 2)[1]) == 6
    assert pyplot.get_fignums() == before


def test_tags_of_one_place_stand_side_by_side() -> None:
    """A tag stays where its place is free, and else goes to the nearest free spot."""
    size, taken = np.array([8.0, 6.0]), []
    for place in ([10.0, 10.0], [50.0, 50.0], [11.0, 10.0], [10.0, 11.0], [10.0, 10.0]):
        taken.append(free_spot(np.array(place), taken, size))
    assert taken[0].tolist() == [10, 10] and taken[1].tolist() == [50, 50]
    for number, spot in enumerate(taken):
        assert all((abs(spot - other) >= size).any() for other in taken[:number])
        assert abs(spot - 10).max() < 9 or number == 1
