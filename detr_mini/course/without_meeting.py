"""What self-attention between queries is good for: a DETR that is trained without it.

    python -m detr_mini.course.without_meeting --seeds 0

In each decoder layer the queries meet, by self-attention. Here the meeting is left out and nothing else: same recipe,
same first weights, same batches in the same order as `python -m detr_mini race --detectors detr` with the same seed, so
that the two can be compared.

A run leaves one file under data/runs/self_attention: provenance first, then one line per evaluation with COCO's
figures before and after suppression (`nms`), and how many duplicates there are per found thing (`repeats`). The first
seed's weights, after 2,500 steps, are kept in half precision; notebook 06 measures them anew.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import batched_nms

from detr_mini import zoo
from detr_mini.boxes import cxcywh_to_xyxy, pairwise_iou
from detr_mini.checkpoints import check_names, read_facts, save_weights
from detr_mini.course.race import HELD_OUT_SEED, evaluations, is_there, provenance, scenes_recipe, write_lines
from detr_mini.data.scenes import Scenes
from detr_mini.description import fill
from detr_mini.detr import Detr
from detr_mini.evaluation import AveragePrecision, Predictions, average_precision, predict
from detr_mini.files import DATA
from detr_mini.recipes import ModelRecipe, Recipe
from detr_mini.training import Callback, Step, describe, fit

NAME = "detr_without_meeting"
RUNS = DATA / "runs" / "self_attention"
WEIGHTS = DATA / "weights" / f"{NAME}.safetensors"
KEPT = 2500  # the step whose weights are kept: the budget of the race


# ---------------------------------------------------------------- the detector without meetings


class NoMeeting(nn.Module):
    """Stands where the queries' self-attention stood, and finds nothing: query (B, Q, d), ... -> zeros (B, Q, d)."""

    def forward(self, query: Tensor, *others: Tensor | None) -> Tensor:
        return torch.zeros_like(query)


def without_meeting(model: Detr) -> Detr:
    """A copy of a detector whose decoder layers have no self-attention. Residual and norm stay: x -> norm1(x + 0)."""
    silent = copy.deepcopy(model)
    for layer in silent.decoder.layers:
        layer.self_attention = NoMeeting()
    return silent


def load_without_meeting(path: Path | str = WEIGHTS) -> Detr:
    """The detector without meetings in a weights file of `main`, in eval mode, on the CPU.

    Raises FileNotFoundError, or CheckpointError for a file that is not one of ours or does not fit.
    """
    facts = read_facts(path)
    model = without_meeting(zoo.build_bare("detr", fill(ModelRecipe, facts["recipe"], f"{path}: recipe")))
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    check_names(model.state_dict(), state, str(path))
    model.load_state_dict(state)
    return model.eval()


# ---------------------------------------------------------------- duplicates


def suppress(predictions: Predictions, threshold: float = 0.5) -> Predictions:
    """Non-maximum suppression, class by class: of boxes that overlap by more than `threshold`, the surest stays."""
    kept = {}
    for image, found in predictions.items():
        keep = batched_nms(found["boxes"], found["scores"], found["labels"], threshold)
        kept[image] = {name: values[keep] for name, values in found.items()}
    return kept


def repeats(dataset: Scenes, predictions: Predictions, recall: float = 0.7) -> float | None:
    """Duplicates per found thing, at the score where `recall` of all things are found; None where so many never are.

    A detection is on a thing when it has its class and an IoU of at least 0.5. The surest one finds it, every further
    one is a duplicate. Scores of two detectors need not mean the same, so a fixed threshold would compare unlike cuts.
    """
    said, things = [], 0
    for index in range(len(dataset)):
        image, target = dataset[index]
        things += len(target["labels"])
        found = predictions[target["image_id"]]
        said += zip(found["scores"].tolist(), verdicts(target, found, image.shape[1:]), strict=True)
    found = again = 0
    for _, word in sorted(said, key=lambda pair: -pair[0]):
        found, again = found + (word == "first"), again + (word == "again")
        if found >= recall * things:
            return again / found
    return None


def verdicts(target: dict, found: dict[str, Tensor], size: tuple[int, int]) -> list[str]:
    """What each detection is, best first: "first" on its thing, "again" on one that was found, or "off" all of them.

    target: labels (M,), boxes (M, 4) cxcywh. found: labels (K,), boxes (K, 4) xyxy in pixels. size: (height, width).
    """
    height, width = size
    truth = cxcywh_to_xyxy(target["boxes"]) * torch.tensor([width, height, width, height])  # (M, 4)
    overlap = pairwise_iou(found["boxes"], truth) * (found["labels"][:, None] == target["labels"])  # (K, M)
    taken, words = set(), []
    for best, value in zip(overlap.argmax(1).tolist(), overlap.amax(1).tolist(), strict=True):
        words.append("off" if value < 0.5 else "again" if best in taken else "first")
        if value >= 0.5:
            taken.add(best)
    return words


# ---------------------------------------------------------------- the runs


def run(recipe: Recipe, seed: int, path: Path, every: int, weights: Path) -> None:
    """Train once without meetings and write the run's file, and the weights where there are none yet."""
    train_set, held_out = Scenes(4000, seed=0), Scenes(400, seed=HELD_OUT_SEED)
    results: list[dict] = []
    head = provenance(NAME, recipe, seed, __spec__.name)

    def measure(detector: Detr) -> AveragePrecision:
        found = predict(detector, held_out, recipe.data, batch_size=50)
        result, after = (average_precision(held_out, some) for some in (found, suppress(found)))
        results.append(result.to_dict() | {"nms": {"ap": after.ap, "ap50": after.ap50, "ap75": after.ap75},
                                           "repeats": repeats(held_out, found)})
        print(f"seed {seed}: evaluation {len(results)}, AP50 {result.ap50:.3f}, after NMS {after.ap50:.3f}, "
              f"repeats {results[-1]['repeats']}", flush=True)
        return result

    torch.manual_seed(seed)
    model = without_meeting(zoo.build("detr", "scenes", recipe.model))  # what is left has the race's first weights
    model.system = NAME
    facts = describe(train_set, recipe) | {"seed": seed}
    keep = () if weights.is_file() else (keeper(weights, facts),)
    done = fit(model, train_set, recipe, evaluate=measure, evaluate_every=every, callbacks=keep, seed=seed,
               progress=False)
    write_lines(path, [head, *evaluations(done.history, results)])


def keeper(path: Path, facts: dict) -> Callback:
    """A callback that writes the weights, in half precision, after step KEPT."""
    def keep(step: Step) -> None:
        if step.number == KEPT:
            save_weights(step.model, path, half=True, **facts, steps=step.number)

    return keep


def main(arguments: list[str] | None = None) -> int:
    """Run every seed whose file is not there yet. Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run each")
    parser.add_argument("--steps", type=int, default=2500, help="training steps")
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations on 400 held-out scenes")
    parser.add_argument("--to", type=Path, default=RUNS, help="folder for the runs' files")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="file for the first seed's weights")
    options = parser.parse_args(arguments)
    for seed in options.seeds:
        path = options.to / f"without-seed{seed}.jsonl"
        if not is_there(path):
            run(scenes_recipe("detr", options.steps), seed, path, options.every, options.weights)
    return 0


if __name__ == "__main__":
    sys.exit(main())
