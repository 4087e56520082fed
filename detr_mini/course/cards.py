"""Cards: the short framed messages of the course, as HTML and as plain text, the same words in both."""

import html
import re
from enum import Enum

from IPython.display import display

from detr_mini.course.plots import BLUE, GREEN, GREY, ORANGE, VERMILLION


class Kind(Enum):
    """What a card says at a glance: a sign and a colour, never colour alone."""

    PASSED = ("✓", GREEN)
    WRONG = ("✗", VERMILLION)
    OPEN = ("○", GREY)
    QUESTION = ("?", BLUE)
    HINT = ("→", ORANGE)

    @property
    def sign(self) -> str:
        """The sign before the title."""
        return self.value[0]

    @property
    def colour(self) -> str:
        """The colour of its left edge."""
        return self.value[1]


def frame(kind: Kind, title: str, body: str) -> str:
    """A card in HTML. title: plain text. body: HTML. Its colours suit light and dark pages alike."""
    red, green, blue = (int(kind.colour[at: at + 2], 16) for at in (1, 3, 5))
    style = (f"border-left: 6px solid {kind.colour}; background: rgba({red}, {green}, {blue}, 0.08); "
             "padding: 0.5em 0.9em; margin: 0.3em 0; max-width: 46em; line-height: 1.45")
    return f'<div style="{style}"><b>{kind.sign} {html.escape(title)}</b>{body}</div>'


def inline(text: str) -> str:
    """Plain text as HTML, with `code` in code letters and line ends kept."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text)).replace("\n", "<br>")


def card(kind: Kind, title: str, text: str = "") -> None:
    """Show a card. text: may hold `code` and line ends."""
    body = f"<br>{inline(text)}" if text else ""
    plain = f"{kind.sign} {title}" + (f"\n{text}" if text else "")
    display({"text/html": frame(kind, title, body), "text/plain": plain}, raw=True)
