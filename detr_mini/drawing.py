"""Boxes drawn onto a picture."""

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

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
    font = ImageFont.load_default(size)
    for score, label, box in zip(*(found[key].tolist() for key in ("scores", "labels", "boxes")), strict=True):
        if score < threshold:
            continue
        colour = COLOURS[label % len(COLOURS)]
        canvas.rectangle(box, outline=colour, width=max(2, size // 6))
        text = f" {name_of(label, classes)} {score:.2f} "
        left, top = max(0, box[0]), max(0, box[1] - 1.3 * size)
        canvas.rectangle(canvas.textbbox((left, top), text, font=font), fill=colour)
        canvas.text((left, top), text, fill="black" if label % len(COLOURS) in (0, 1, 3, 6) else "white", font=font)
    return picture


def name_of(label: int, classes: list[str | None]) -> str:
    """A label's name, or its number where it has none."""
    name = classes[label] if label < len(classes) else None
    return name or f"class {label}"
