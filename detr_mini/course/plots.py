"""Pictures of the course: one style, labelled axes, and a description with every one of them.

    figure = plots.matrix(weights, rows=["query 1"], columns=list("ABCD"), title="Attention weights")
    plots.show(figure, alt="A row of four weights: A has 0.66, B 0.24, C 0.09, D almost nothing.")

A function here returns a figure and shows nothing. Given `axes`, it draws into them and returns their figure, so
that pictures can stand side by side: `figure, (left, right) = plots.canvas(2)`.

Categories have Okabe and Ito's colours, which colour-blind readers can tell apart. Amounts have perceptually uniform
maps: equal steps look equal.
"""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from IPython.display import display
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PINK, BLACK = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000"
)
COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, SKY, PINK, YELLOW, BLACK)  # in the order in which they are taken
INK, GREY, PALE = "#333333", "#8A8A8A", "#E4E4E4"

# Light means little. The darkest end of the map is left out, so that numbers in black and white stay readable.
AMOUNT = LinearSegmentedColormap.from_list("amount", mpl.colormaps["magma_r"](np.linspace(0.0, 0.75, 256)))
SIGNED = mpl.colormaps["PuOr_r"]
GLOW = mpl.colormaps["inferno"]

PIXELS_PER_INCH = 96  # on the page; a picture is stored 1.5 times as fine, for sharp letters
STORED_DPI, COARSE_DPI, LIVE_DPI = 144, 120, 120  # drawings; photographs and scenes; at every move
WIDTH = 7.6  # inches: a picture as wide as the text
PALETTE = 256  # colours of a drawing, chosen by an octree: small spots of colour keep theirs
MIN_ALT = 30  # characters

STYLE = {
    "figure.dpi": PIXELS_PER_INCH, "savefig.dpi": STORED_DPI, "figure.facecolor": "white",
    "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titlepad": 8,
    "axes.edgecolor": GREY, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": False, "grid.color": PALE, "grid.linewidth": 0.8, "lines.linewidth": 2.0,
    "axes.prop_cycle": mpl.cycler(color=COLOURS), "image.interpolation": "nearest", "legend.frameon": False,
}


def style() -> None:
    """Make the course's style the style of every figure from now on."""
    mpl.rcParams.update(STYLE)


# ---------------------------------------------------------------- showing


def show(figure: Figure, alt: str) -> None:
    """Show a figure with its description, and close it.

    alt: what the picture shows, for those who do not see it; it stays in the notebook and in every export. A
    notebook's plain PNG outputs have no place for it that JupyterLab or nbconvert would read, so the picture goes
    into an HTML element that has. Raises ValueError for a description under 30 characters.
    """
    display(bundle(figure, alt), raw=True)
    pyplot.close(figure)


def bundle(figure: Figure, alt: str) -> dict[str, str]:
    """A figure for Jupyter's display: one <img> that carries picture, size and description, and the description as
    plain text. ValueError as for `show`."""
    words = " ".join(alt.split())
    if len(words) < MIN_ALT:
        raise ValueError(f"alt={alt!r} describes nothing: say what the picture shows, in {MIN_ALT} characters or more")
    (kind, data), (width, height) = packed(figure), figure.get_size_inches() * PIXELS_PER_INCH
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    picture = (f'<img alt="{html.escape(words, quote=True)}" width="{width:.0f}" height="{height:.0f}" '
               f'style="max-width: 100%; height: auto" src="{source}">')
    return {"text/html": picture, "text/plain": words}


def packed(figure: Figure) -> tuple[str, bytes]:
    """The smaller of two files: ("png", bytes) with a palette, sharp, for drawings; ("webp", bytes) for scenes.

    The same figure always gives the same bytes. A notebook should stay under half a megabyte.
    """
    drawing = rendered(figure, STORED_DPI).quantize(PALETTE, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    png, webp = io.BytesIO(), io.BytesIO()
    drawing.save(png, format="PNG", optimize=True)
    rendered(figure, COARSE_DPI).save(webp, format="WEBP", quality=80, method=6)
    return min(("png", png.getvalue()), ("webp", webp.getvalue()), key=lambda file: len(file[1]))


def rendered(figure: Figure, dpi: int) -> Image.Image:
    """A figure as a picture."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return Image.open(file).convert("RGB")


def live_png(figure: Figure) -> bytes:
    """A figure as PNG for a widget: coarser and packed less tightly, since it is drawn anew at every move."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=LIVE_DPI, pil_kwargs={"compress_level": 1})
    return file.getvalue()


# ---------------------------------------------------------------- drawing


def canvas(columns: int = 1, rows: int = 1, width: float = WIDTH, height: float = 2.8) -> tuple[Figure, Axes | list]:
    """An empty figure, sizes in inches, and its axes: one alone, else a list in reading order."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    return figure, axes[0] if len(axes) == 1 else axes


def array(values: Tensor | np.ndarray | Sequence) -> np.ndarray:
    """Numbers of any origin as a NumPy array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def matrix(
    values: Tensor | np.ndarray | Sequence, rows: Sequence[str] | None = None, columns: Sequence[str] | None = None, *,
    title: str = "", row_name: str = "", column_name: str = "", digits: int = 2, signed: bool = False,
    top: float | None = None, axes: Axes | None = None,
) -> Figure:
    """A matrix (R, C) with its numbers in the cells.

    rows, columns: names along the sides. signed: colours around 0 instead of from 0 up. top: the value with the
    strongest colour, by default the largest one. digits: decimals.
    """
    values = array(values)
    figure, axes = own_or(axes, min(WIDTH, 1.6 + 0.85 * values.shape[1]), 1.1 + 0.45 * values.shape[0])
    top = top or float(np.abs(values).max()) or 1.0
    cells = axes.imshow(values, cmap=SIGNED if signed else AMOUNT, vmin=-top if signed else 0, vmax=top, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center", color=readable_on(cells.to_rgba(value)))
    axes.set_xticks(np.arange(values.shape[1] - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(values.shape[0] - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.set_xticks(range(values.shape[1]), columns or range(values.shape[1]))
    axes.set_yticks(range(values.shape[0]), rows or range(values.shape[0]))
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(title=title, xlabel=column_name, ylabel=row_name)
    return figure


def bars(
    values: Tensor | np.ndarray | Sequence, names: Sequence[str], *, title: str = "", xlabel: str = "",
    digits: int = 2, limits: tuple[float, float] | None = None, colours: Sequence[str] | None = None,
    ranges: Sequence[tuple[float, float]] | None = None, axes: Axes | None = None,
) -> Figure:
    """One lying bar per value, with its name on the left and its number at the end. limits: of the value axis.

    ranges: the lowest and the highest value behind each bar, drawn as a line across the bar's end.
    """
    values = array(values)
    figure, axes = own_or(axes, WIDTH, 0.9 + 0.34 * len(values))
    axes.barh(range(len(values)), values, color=colours or BLUE, height=0.66)
    low, high = limits or (min(0.0, values.min()), max(0.0, values.max()))
    room = (high - low or 1.0) * 0.14
    for row, value in enumerate(values):
        beyond, side = (0.1 * room, "left") if value >= 0 else (-0.1 * room, "right")
        if ranges:
            axes.plot(ranges[row], [row, row], color=INK, linewidth=1.5, marker="|", markersize=7)
            beyond += ranges[row][1] - value if value >= 0 else ranges[row][0] - value
        axes.text(value + beyond, row, f"{value:.{digits}f}", va="center", ha=side)
    axes.set_xlim(low - (room if low < 0 else 0), high + room)
    axes.set_yticks(range(len(values)), names)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.invert_yaxis()
    axes.set(title=title, xlabel=xlabel)
    return figure


def curves(
    lines: Mapping[str, Tensor | np.ndarray | Sequence], x: Sequence[float] | None = None, *, xlabel: str, ylabel: str,
    title: str = "", log_x: bool = False, axes: Axes | None = None,
) -> Figure:
    """Lines over a common x, each named where it ends. x: by default 0, 1, 2, ..."""
    figure, axes = own_or(axes, WIDTH, 3.0)
    if log_x:
        axes.set_xscale("log")
    for (name, line), colour in zip(lines.items(), COLOURS * math.ceil(len(lines) / len(COLOURS)), strict=False):
        line = array(line)
        along = np.arange(len(line)) if x is None else np.asarray(x)
        axes.plot(along, line, color=colour)
        axes.annotate(f" {name}", (along[-1], line[-1]), color=colour, va="center", annotation_clip=False)
    axes.grid(axis="y")
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure


def scene(
    image: Tensor | np.ndarray, boxes: Tensor | np.ndarray | Sequence = (), labels: Sequence[str] = (), *,
    title: str = "", axes: Axes | None = None,
) -> Figure:
    """A picture with labelled boxes on it.

    image: (3, H, W) or (H, W, 3), uint8 or 0 to 1. boxes: (M, 4) left, top, right, bottom in pixels of the picture.
    labels: a text per box, or none at all.
    """
    figure, axes = own_or(axes, 3.4, 3.4)
    axes.imshow(channels_last(image), interpolation="antialiased")
    for number, box in enumerate(array(boxes).reshape(-1, 4)):
        left, top, right, bottom = (float(value) for value in box)
        colour = COLOURS[number % len(COLOURS)]
        for ink, width in (("white", 4.0), (colour, 2.2)):  # a white rim keeps a frame visible on any ground
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=ink, lw=width))
        if len(labels):
            ground = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
            axes.text(left, top, labels[number], color=readable_on(colour), va="bottom", fontsize=9, bbox=ground)
    return bare(axes, title)


def attention_map(
    image: Tensor | np.ndarray, weights: Tensor | np.ndarray, *, title: str = "", axes: Axes | None = None
) -> Figure:
    """Attention laid over a dimmed picture: what glows is looked at.

    image: as in `scene`. weights: (h, w), any size; the largest one glows most. Cells keep their edges: what is
    drawn is what was computed.
    """
    figure, axes = own_or(axes, 3.4, 3.4)
    picture, weights = channels_last(image), array(weights)
    grey = picture.mean(axis=2, keepdims=True) * np.ones(3)
    height, width = picture.shape[:2]
    axes.imshow(0.12 + 0.38 * grey, interpolation="antialiased")
    glow = GLOW(weights / (weights.max() or 1.0))
    glow[..., 3] = 0.9 * np.sqrt(weights / (weights.max() or 1.0))
    axes.imshow(glow, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    return bare(axes, title)


def pictures(
    images: Sequence[Tensor | np.ndarray], titles: Sequence[str] = (), *, columns: int = 4, width: float = WIDTH
) -> Figure:
    """Several pictures in a grid, each under its title. width: inches of the whole."""
    rows = math.ceil(len(images) / columns)
    side = width / columns
    figure, axes = canvas(columns, rows, width, rows * (side + (0.25 if len(titles) else 0.0)))
    axes = axes if isinstance(axes, list) else [axes]
    for number, place in enumerate(axes):
        if number < len(images):
            scene(images[number], title=titles[number] if len(titles) else "", axes=place)
        else:
            place.set_axis_off()
    return figure


# ---------------------------------------------------------------- small helpers


def own_or(axes: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """The axes one was given with their figure, or new ones of this size."""
    return canvas(width=width, height=height) if axes is None else (axes.figure, axes)


def readable_on(ground: str | tuple) -> str:
    """Black or white, whichever stands out more on this colour."""
    red, green, blue = to_rgb(ground)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"


def channels_last(image: Tensor | np.ndarray) -> np.ndarray:
    """(3, H, W) or (H, W, 3), uint8 or float -> (H, W, 3) float from 0 to 1."""
    picture = array(image)
    picture = picture.transpose(1, 2, 0) if picture.shape[0] == 3 else picture
    return picture / 255 if picture.dtype == np.uint8 else picture.astype(float)


def bare(axes: Axes, title: str) -> Figure:
    """A picture needs no ticks; its frame is thin."""
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.6)
    return axes.figure
