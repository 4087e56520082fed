"""Draw the picture at the top of the README: python data/figures/make_overview.py

A held-out scene with what the shipped DETR finds, where three of its queries look, and the curves of the recorded runs.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from detr_mini.checkpoints import load_weights, read_facts
from detr_mini.data.scenes import Scenes
from detr_mini.data.transforms import build_transform
from detr_mini.drawing import COLOURS, draw_detections
from detr_mini.recipes import SCENES_DATA
from detr_mini.trace import AttentionTrace

HERE = Path(__file__).parent
WEIGHTS, RUNS = HERE.parent / "weights" / "detr.safetensors", HERE.parent / "runs" / "scenes"
SCENE, THRESHOLD = 13, 0.4  # of the held-out scenes; the lowest score that is drawn


def main() -> None:
    scenes, model = Scenes(20, seed=1_000_003), load_weights(WEIGHTS)
    image, target = scenes[SCENE]
    ready, _ = build_transform(SCENES_DATA, train=False)(image, dict(target))
    with torch.no_grad(), AttentionTrace(model) as trace:
        found = model.postprocess(model(ready[None]), torch.tensor([[128, 128]]))[0]
    looks = trace.maps(f"decoder.layers.{model.recipe.decoder_layers - 1}.cross_attention")[0].mean(0)  # (Q, H, W)
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.1), width_ratios=[1, 1, 1, 1, 1.35], layout="constrained")
    large = found | {"boxes": found["boxes"] * 4}
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((512, 512), Image.Resampling.LANCZOS)
    classes = read_facts(WEIGHTS)["classes"]
    axes[0].imshow(draw_detections(picture, large, classes, THRESHOLD))
    axes[0].set_title("a set of boxes, no anchors, no NMS", fontsize=11)
    best = distinct_things(found, 3)
    for axis, i in zip(axes[1:4], best, strict=True):
        draw_look(axis, picture, looks[found["queries"][i]].numpy(), classes[found["labels"][i]])
    for axis in axes[:4]:
        axis.set_axis_off()
    draw_curves(axes[4])
    figure.savefig(HERE / "overview.png", dpi=110)


def distinct_things(found: dict[str, torch.Tensor], count: int) -> list[int]:
    """The best detection of each of `count` classes."""
    seen: dict[int, int] = {}
    for i, label in enumerate(found["labels"].tolist()):
        seen.setdefault(label, i)
    return list(seen.values())[:count]


def draw_look(axis: plt.Axes, picture: Image.Image, look: np.ndarray, name: str) -> None:
    """A picture that is bright where a query looks."""
    heat = Image.fromarray((255 * look / look.max()).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    pale = np.asarray(picture.convert("L").convert("RGB"), dtype=float) * 0.35 + 150
    strength = np.asarray(heat, dtype=float)[..., None] / 255  # (H, W, 1)
    glow = np.asarray(plt.get_cmap("inferno")(0.35 + 0.6 * strength[..., 0])[..., :3]) * 255
    axis.imshow((pale * (1 - 0.85 * strength) + glow * 0.85 * strength).astype(np.uint8))
    axis.set_title(f"where the {name}'s query looks", fontsize=11)


def draw_curves(axis: plt.Axes) -> None:
    """AP50 against steps, every recorded run a line, a colour per detector."""
    names = sorted({path.name.split("-seed")[0] for path in RUNS.glob("*.jsonl")}, key=lambda name: name != "detr")
    for name, colour in zip(names, ("#000000", *COLOURS), strict=False):
        for path in sorted(RUNS.glob(f"{name}-seed*.jsonl")):
            lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
            label = name if path.name.endswith("seed0.jsonl") else None
            steps, values = ([0, *(line[key] for line in lines)] for key in ("step", "ap50"))
            axis.plot(steps, values, color=colour, lw=1.3, label=label)
    axis.set(xlabel="training steps on a laptop", ylabel="AP50 on 400 held-out scenes", ylim=(0, 1))
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
