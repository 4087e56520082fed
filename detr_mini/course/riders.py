"""Are patterns worth something where two things share a place? Scenes with riders; Anchor DETR with 1 and 3 patterns.

    python -m detr_mini.course.riders            # both forms, three seeds: about a quarter of an hour of one core

In every scene the largest thing carries another one of a different class, in front of it and with nearly the same
centre: two objects for which one point is the nearest. The forms differ in how their queries come about:

    24 points        1 pattern at each of 24 points: 24 queries
    8 points x 3     3 patterns at each of 8 points: 24 queries, too

Loss and the rest are the race's. A run leaves FORM-seedN.jsonl under data/runs/riders: provenance first, then one line
per evaluation on 400 other scenes with COCO's figures and `pairs`, the share of pairs of which both are found: right
class, IoU of at least 0.5, among as many of the image's best answers as it has things.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detr_mini import zoo
from detr_mini.boxes import cxcywh_to_xyxy, pairwise_iou
from detr_mini.course.race import HELD_OUT_SEED, evaluations, is_there, provenance, scenes_recipe, write_lines
from detr_mini.data import painting
from detr_mini.data.scenes import Scenes
from detr_mini.data.things import CLASSES, sketch
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, Predictions, average_precision, predict
from detr_mini.files import DATA
from detr_mini.training import fit

RUNS = DATA / "runs" / "riders"
FORMS = {"24 points": (24, 1), "8 points x 3": (8, 3)}  # points and patterns
SEEDS, STEPS, EVERY = (0, 1, 2), 1000, 250
SMALLER = (0.55, 0.7)  # side of a rider, as a part of the side of what carries it
ASIDE = 0.06  # a rider's centre is at most this part of the carrier's width and height away from the carrier's


class Riders(Scenes):
    """Scenes as the race's, in each of which the largest thing carries another one.

    The rider is the last thing of its scene: `carriers[i]` is the number of the thing that carries it. The rest is as
    in `Scenes`; nothing is cached.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.carriers: list[int] = []
        super().__init__(count, seed, cache=False)

    def _obtain(self, job: painting.Job, cache: object, workers: int | None) -> painting.Pictures:
        """The pictures of a job, painted one after the other."""
        images, labels, boxes = [], [], []
        for index in range(job.start, job.stop):
            scene, rider = scene_with_rider(job.seed, index, job.preset, job.size)
            self.carriers.append(rider)
            images.append(scene.image)
            labels.append(scene.labels)
            boxes.append(scene.boxes)
        counts = np.array([len(some) for some in labels], np.int64)
        return painting.Pictures(np.stack(images), counts, np.array(sum(labels, []), np.int64), np.concatenate(boxes))


def scene_with_rider(seed: int, index: int, preset: painting.Preset, size: int) -> tuple[painting.Scene, int]:
    """Scene number `index` of a series, with one thing more, and the number of the thing that carries it."""
    scene = painting.scene_at(seed, index, preset, size)
    rng = np.random.default_rng([seed, index, 2])
    carrier = int(scene.boxes[:, 2:].prod(axis=1).argmax())
    x, y, width, height = scene.boxes[carrier] / size
    label = (scene.labels[carrier] + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)  # another class
    thing = sketch(label, rng, scene.background)
    side = rng.uniform(*SMALLER) * min(width / thing.width, height / thing.height)
    centre = np.array([x + width / 2, y + height / 2]) + rng.uniform(-ASIDE, ASIDE, 2) * (width, height)
    corner = (centre - np.array([thing.width, thing.height]) * side / 2) * size
    patch = painting.rasterise(thing, *corner.tolist(), side * size, float(rng.choice((-1.0, 1.0))))
    canvas = scene.image.astype(np.float32)
    painting.blend(canvas, patch.left, patch.top, patch.colour, patch.alpha)
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    boxes = np.concatenate([scene.boxes, np.array([painting.measure(patch)], np.float64)])
    return scene._replace(image=image, labels=[*scene.labels, label], boxes=boxes), carrier


def found(target: dict[str, Tensor], answers: dict[str, Tensor], size: int) -> Tensor:
    """Which things of an image are found, (M,) bool, among its M best answers: right class, IoU of at least 0.5.

    target: labels (M,), boxes (M, 4) cxcywh. answers: scores, labels (K,), boxes (K, 4) xyxy in pixels, best first.
    """
    count = len(target["labels"])
    overlap = pairwise_iou(cxcywh_to_xyxy(target["boxes"]) * size, answers["boxes"][:count])  # (M, M)
    return ((overlap >= 0.5) & (target["labels"][:, None] == answers["labels"][:count])).any(dim=1)


def share_of_pairs(riders: Riders, predictions: Predictions) -> float:
    """The share of pairs, carrier and rider, of which both are found."""
    both = 0
    for index, carrier in enumerate(riders.carriers):
        _, target = riders[index]
        hit = found(target, predictions[target["image_id"]], riders.size)
        both += bool(hit[carrier] and hit[-1])
    return both / len(riders)


def path_of(form: str, seed: int, folder: Path = RUNS) -> Path:
    """The file of a run."""
    return folder / f"{form.replace(' ', '_')}-seed{seed}.jsonl"


def record(
    form: str, seed: int, steps: int = STEPS, every: int = EVERY, folder: Path = RUNS, scenes: int = 4000
) -> Path:
    """Train one form on `scenes` scenes with riders and write its file. ValueError, naming the forms, for another."""
    if form not in FORMS:
        raise ValueError(f"no form {form!r}: choose one of {', '.join(FORMS)}")
    points, patterns = FORMS[form]
    recipe, results = scenes_recipe("anchor", steps), []
    recipe = replace(recipe, model=replace(recipe.model, queries=points, patterns=patterns))
    train_set, held_out = Riders(scenes, seed=0), Riders(max(1, scenes // 10), seed=HELD_OUT_SEED)

    def measure(detector: Detr) -> AveragePrecision:
        predictions = predict(detector, held_out, recipe.data, batch_size=50)
        result = average_precision(held_out, predictions)
        results.append(result.to_dict() | {"pairs": round(share_of_pairs(held_out, predictions), 4)})
        return result

    torch.manual_seed(seed)
    model = zoo.build("anchor", "scenes", recipe.model)
    done = fit(model, train_set, recipe, evaluate=measure, evaluate_every=every, seed=seed, progress=False)
    head = provenance("anchor", recipe, seed, __spec__.name) | {"form": form}
    write_lines(path_of(form, seed, folder), [head, *evaluations(done.history, results)])
    return path_of(form, seed, folder)


def read_riders(key: str = "pairs", step: int = STEPS, folder: Path = RUNS) -> dict[str, list[float]]:
    """A figure of each form at a step, one per seed."""
    read = {form: [path_of(form, seed, folder).read_text().splitlines()[1:] for seed in SEEDS] for form in FORMS}
    return {form: [row[key] for rows in runs for row in map(json.loads, rows) if row["step"] == step]
            for form, runs in read.items()}


def main(words: list[str] | None = None) -> None:
    """The command. A run whose file is there is not repeated."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.riders", description=__doc__.split("\n")[0])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="(default: 0 1 2)")
    parser.add_argument("--to", type=Path, default=RUNS, help="where the files go")
    chosen = parser.parse_args(words)
    for form in chosen.forms:
        for seed in chosen.seeds:
            if not is_there(path_of(form, seed, chosen.to)):
                print(record(form, seed, folder=chosen.to), flush=True)


if __name__ == "__main__":
    main()
