"""From one picture to a list of things in it."""

import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from detr_mini.data.transforms import Steps
from detr_mini.detr import Detr
from detr_mini.drawing import draw_detections, name_of
from detr_mini.files import atomic


@torch.inference_mode()
def detect(model: Detr, image: Tensor, transform: Steps) -> dict[str, Tensor]:
    """What a detector finds in one picture, best first.

    image: (3, H, W) uint8. transform: the evaluation transform of the weights' data recipe.
    Returns scores (K,), labels (K,), boxes (K, 4) xyxy in pixels of the picture, queries (K,).
    Raises ValueError for an answer that is not of numbers.
    """
    size = torch.tensor(image.shape[1:])
    nothing = {"labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4), "orig_size": size, "image_id": 0}
    ready, _ = transform(image, nothing)  # (3, h, w)
    device = next(model.parameters()).device
    found = model.postprocess(model.eval()(ready[None].to(device)), size[None])[0]
    if not (torch.isfinite(found["scores"]).all() and torch.isfinite(found["boxes"]).all()):
        raise ValueError("the detector answers NaN or infinity: its weights are damaged, take another file")
    return found


def rounded(box: list[float]) -> list[float]:
    """Pixels to one decimal."""
    return [round(value, 1) for value in box]


def save_detections(
    picture: Image.Image, found: dict[str, Tensor], classes: list[str | None], threshold: float, folder: Path, stem: str
) -> tuple[int, Path]:
    """Write STEM.png with the boxes drawn and STEM.json with the numbers; returns how many, and the PNG's path.

    Raises ValueError for a threshold outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"the threshold is {threshold}: give a score from 0 to 1")
    rows = zip(*(found[key].tolist() for key in ("scores", "labels", "boxes")), strict=True)
    kept = [
        {"class": name_of(label, classes), "label": label, "score": round(score, 4), "box_xyxy": rounded(box)}
        for score, label, box in rows if score >= threshold
    ]
    with atomic(folder / f"{stem}.json") as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n")
    with atomic(folder / f"{stem}.png") as temporary:
        draw_detections(picture, found, classes, threshold).save(temporary, format="PNG")
    return len(kept), folder / f"{stem}.png"
