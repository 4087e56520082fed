"""Whether the words of a picture stay inside it."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def words_stay_inside(figure: Figure) -> None:
    """AssertionError, with the words, where a text runs over the left, right or upper edge of a figure."""
    FigureCanvasAgg(figure).draw()  # puts labels where they belong
    for text in figure.findobj(lambda part: hasattr(part, "get_text") and part.get_text()):
        extent = text.get_window_extent()
        assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1 and extent.y1 <= figure.bbox.y1, text.get_text()
