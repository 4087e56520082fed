"""Draw the picture at the top of the README: python data/figures/make_overview.py

A held-out scene with what the shipped Deformable DETR finds; where the query that owns one thing looks, in DETR and in
two of its successors; and the curves of all recorded runs.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy, pairwise_iou
from detr_mini.checkpoints import load_weights, read_facts
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.data.transforms import build_transform
from detr_mini.drawing import COLOURS, draw_detections
from detr_mini.recipes import SCENES_DATA
from detr_mini.trace import AttentionTrace

HERE = Path(__file__).parent
WEIGHTS, RUNS = HERE.parent / "weights", HERE.parent / "runs" / "scenes"
SCENE, THING, THRESHOLD = 33, "cat", 0.5  # of the held-out scenes; whose query is shown; the lowest score drawn
NAMES = {"detr": "DETR", "conditional": "Conditional", "deformable": "Deformable", "smca": "SMCA", "anchor": "Anchor",
         "dab": "DAB", "sam": "SAM"}
SHOWN = {"detr": "DETR: where its query looks", "smca": "SMCA: the same thing's query",
         "deformable": "Deformable: sampled points"}


def main() -> None:
    image, target = Scenes(60, seed=1_000_003)[SCENE]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((512, 512), Image.Resampling.LANCZOS)
    figure, axes = plt.subplots(1, 5, figsize=(16, 3.7), width_ratios=[1, 1, 1, 1, 1.5], layout="constrained")
    found, _ = ask("deformable", image, target)
    classes = read_facts(WEIGHTS / "deformable.safetensors")["classes"]
    axes[0].imshow(draw_detections(picture, found | {"boxes": found["boxes"] * 4}, classes, THRESHOLD))
    axes[0].set_title("one query, one thing: no NMS", fontsize=11)
    for axis, (name, title) in zip(axes[1:4], SHOWN.items(), strict=True):
        _, look = ask(name, image, target)
        draw_look(axis, picture, look.numpy(), title)
    for axis in axes[:4]:
        axis.set_axis_off()
    draw_curves(axes[4])
    figure.savefig(HERE / "overview.png", dpi=100)


@torch.no_grad()
def ask(name: str, image: Tensor, target: dict) -> tuple[dict[str, Tensor], Tensor]:
    """What a shipped detector finds, and the map (H, W) of the query whose box fits the chosen thing best."""
    model = load_weights(WEIGHTS / f"{name}.safetensors")
    ready, _ = build_transform(SCENES_DATA, train=False)(image, dict(target))
    with AttentionTrace(model) as trace:
        found = model.postprocess(model(ready[None]), torch.tensor([[128, 128]]))[0]
    maps = trace.maps(f"decoder.layers.{model.recipe.decoder_layers - 1}.cross_attention")[0].mean(0)  # (Q, H, W)
    thing = target["labels"].tolist().index(CLASSES.index(THING))
    fits = pairwise_iou(found["boxes"], cxcywh_to_xyxy(target["boxes"][thing : thing + 1]) * 128)[:, 0]  # (N,)
    right = fits * (found["labels"] == target["labels"][thing])
    return found, maps[found["queries"][right.argmax()]]


def draw_look(axis: plt.Axes, picture: Image.Image, look: np.ndarray, title: str) -> None:
    """A picture that glows where a query looks."""
    heat = Image.fromarray((255 * look / look.max()).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    pale = np.asarray(picture.convert("L").convert("RGB"), dtype=float) * 0.45 + 40
    strength = np.sqrt(np.asarray(heat, dtype=float)[..., None] / 255)  # (H, W, 1)
    glow = np.asarray(plt.get_cmap("inferno")(0.25 + 0.7 * strength[..., 0])[..., :3]) * 255
    axis.imshow((pale * (1 - 0.8 * strength) + glow * 0.8 * strength).astype(np.uint8))
    axis.set_title(title, fontsize=11)


def draw_curves(axis: plt.Axes) -> None:
    """AP50 against steps, every recorded run a line, a colour per detector."""
    for (name, title), colour in zip(NAMES.items(), ("#000000", *COLOURS), strict=False):
        for path in sorted(RUNS.glob(f"{name}-seed*.jsonl")):
            lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
            label = title if path.name.endswith("seed0.jsonl") else None
            steps, values = ([0, *(line[key] for line in lines)] for key in ("step", "ap50"))
            axis.plot(steps, values, color=colour, lw=2.2 if name == "detr" else 1.2, label=label)
    axis.set(xlabel="training steps, on a laptop's CPU", ylabel="AP50 on 400 held-out scenes", ylim=(0, 1))
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
