"""Boxes drawn onto a picture, and letters of any script, as far as this machine has them."""

import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detr_mini.printing import plain

# Okabe and Ito's eight colours, told apart by colour-blind readers as well.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000")


def draw_detections(
    image: Image.Image, found: dict[str, Tensor], classes: list[str | None], threshold: float = 0.5
) -> Image.Image:
    """A copy of the picture with a labelled frame around everything that scores at least `threshold`.

    found: scores (K,), labels (K,), boxes (K, 4) xyxy in pixels of the picture. A class without a name is shown
    by its number.
    """
    picture = image.convert("RGB")
    canvas = ImageDraw.Draw(picture)
    size = max(10, min(picture.size) // 30)
    named = {label: name_of(label, classes) for label in set(found["labels"].tolist())}
    font = font_for(named.values(), size)
    for score, label, box in zip(*(found[key].tolist() for key in ("scores", "labels", "boxes")), strict=True):
        if score < threshold:
            continue
        colour = COLOURS[label % len(COLOURS)]
        canvas.rectangle(box, outline=colour, width=max(2, size // 6))
        text = f" {writable(named[label], font, f'class {label}')} {score:.2f} "
        left, top = max(0, box[0]), max(0, box[1] - 1.3 * size)
        canvas.rectangle(canvas.textbbox((left, top), text, font=font), fill=colour)
        canvas.text((left, top), text, fill="black" if label % len(COLOURS) in (0, 1, 3, 6) else "white", font=font)
    return picture


def name_of(label: int, classes: list[str | None]) -> str:
    """A label's name, or its number where it has none."""
    name = classes[label] if label < len(classes) else None
    return name or f"class {label}"


# ---------------------------------------------------------------- letters


def font_for(texts: Iterable[str], size: int) -> ImageFont.FreeTypeFont:
    """A font of this size that has every letter of the texts; Pillow's own, which is Latin, where none has.

    Looked for among this machine's fonts; those of matplotlib are always there and have Cyrillic and Greek.
    """
    letters = "".join(sorted({letter for text in texts for letter in plain(text) if not letter.isspace()}))
    place = place_for(letters)
    return ImageFont.load_default(size) if place is None else ImageFont.truetype(*place[:1], size, index=place[1])


@cache
def place_for(letters: str) -> tuple[str, int] | None:
    """File and number in the file of a font that has these letters; None where Pillow's own has them, or none does."""
    if letters.isascii():
        return None
    for file in font_files():
        for index in range(4):  # a collection holds several
            try:
                font = ImageFont.truetype(file, 24, index=index)
            except (OSError, ValueError):
                break
            if has(font, letters):
                return file, index
    return None


@cache
def font_files() -> tuple[str, ...]:
    """This machine's fonts, DejaVu of matplotlib first, then those whose names promise many scripts."""
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    own = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    wide = ("noto", "cjk", "unifont", "arial unicode", "droid", "wqy", "pingfang", "msyh", "simsun", "gothic", "hei")
    found = sorted(findSystemFonts(), key=lambda file: (not any(word in file.lower() for word in wide), file))
    return (str(own), *found)


def has(font: ImageFont.FreeTypeFont, letters: str) -> bool:
    """Whether a font draws each letter as something else than the sign for a letter that it does not have."""
    unknown = bytes(font.getmask("\U0010fffe"))
    return all(unicodedata.category(letter).startswith("M") or bytes(font.getmask(letter)) != unknown
               for letter in letters)


def writable(text: str, font: ImageFont.FreeTypeFont, instead: str) -> str:
    """The text where the font has its letters, else `instead`: a number says more than a row of empty boxes."""
    shown = plain(text)
    return shown if shown.isascii() or has(font, shown.replace(" ", "")) else instead
