"""What the golden files of one system have that those of another have not.

BUILDERS: the detector of a case, from its JSON facts. OBSERVERS: the arrays that only this system has, read off the
trace of the pass that is compared. NUMBERS: losses that this system's authors log beside those of DETR.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr
from detr_mini.matching import Matches
from detr_mini.recipes import DabModel, ModelRecipe, SamModel
from detr_mini.trace import AttentionTrace
from detr_mini.variants.conditional import ConditionalDetr
from detr_mini.variants.dab import DabDetr
from detr_mini.variants.sam import SamDetr


@dataclass
class Pass:
    """One forward pass with its loss: what an observer may read."""

    model: Detr
    output: DetectorOutput
    trace: AttentionTrace
    targets: list[dict[str, Tensor]]
    matches: Matches


def detr(facts: dict) -> Detr:
    return Detr(ModelRecipe(dropout=0.0))


def conditional_detr(facts: dict) -> Detr:
    return ConditionalDetr(ModelRecipe(dropout=0.0, queries=300, head="focal"))


def recorded(trace: AttentionTrace, modules: str, kind: str, first: int = 0) -> Tensor:
    """What one kind of module (a pattern for its name) recorded under one name, of every layer from `first` on."""
    names = sorted(name for name in trace.records if re.search(modules, name))
    return torch.stack([getattr(trace[name], kind) for name in names[first:]])  # (L, B, ...)


def conditional_arrays(seen: Pass) -> dict[str, Tensor]:
    return {
        "reference_points": seen.trace["decoder"].reference[0, :, :10],
        "query_scale_first16": recorded(seen.trace, "cross_attention", "place_scale", first=1)[:, 0, 0, :16],
    }


def dab_detr(facts: dict) -> Detr:
    return DabDetr(DabModel(patterns=facts["architecture"]["num_patterns"]))


def dab_arrays(seen: Pass) -> dict[str, Tensor]:
    trace = seen.trace
    return {
        "reference_boxes": trace["decoder"].reference[:, :, :10],
        "query_scale_first16": recorded(trace, "cross_attention", "place_scale", first=1)[:, 0, 0, :16],
        "ref_hw": recorded(trace, "cross_attention", "size")[:, :, :10],
        "query_pos_first16": recorded(trace, r"decoder.*self_attention", "position")[:, 0, 0, :16],
        "enc_query_scale_first16": recorded(trace, r"encoder.*self_attention", "position_scale")[:, 0, 0, :16],
    }


def side_losses(seen: Pass) -> dict[str, float]:
    """L1 of centres (loss_xy) and of sides (loss_hw) per object, for every layer; logged, not trained on."""
    matches, numbers = seen.matches, {}
    count, last = sum(len(target["labels"]) for target in seen.targets), len(seen.output.boxes) - 1
    for layer, boxes in enumerate(seen.output.boxes.detach()):
        chosen = matches.layer == layer
        pairs = zip(matches.image[chosen].tolist(), matches.query[chosen], matches.target[chosen], strict=True)
        far = torch.stack([(boxes[image, query] - seen.targets[image]["boxes"][target]).abs()
                           for image, query, target in pairs])  # (pairs, 4)
        suffix = "" if layer == last else f"_{layer}"
        numbers[f"loss_xy{suffix}"] = float(far[:, :2].sum() / count)
        numbers[f"loss_hw{suffix}"] = float(far[:, 2:].sum() / count)
    return numbers


def sam_detr(facts: dict) -> Detr:
    return SamDetr(SamModel(dropout=0.0, gaussian=facts["architecture"]["smca"]))


def sam_arrays(seen: Pass) -> dict[str, Tensor]:
    trace = seen.trace
    arrays = {
        "reference_boxes": trace["decoder"].reference[:, :, :10],
        "sampled_points": recorded(trace, "cross_attention", "offsets")[:, :, :10],
    }
    if seen.model.recipe.gaussian:
        terms = recorded(trace, "cross_attention", "gaussian")[:, :, 0, 0]  # (L, B, HW)
        arrays |= {"gaussian_first": terms[0], "gaussian_last": terms[-1]}
        arrays["scale_raw"] = recorded(trace, "cross_attention", "widths")[:, :, :10]
    return arrays


BUILDERS: dict[str, Callable[[dict], Detr]] = {
    "detr": detr,
    "conditional_detr": conditional_detr,
    "dab_detr": dab_detr,
    "sam_detr": sam_detr,
}

OBSERVERS: dict[str, Callable[[Pass], dict[str, Tensor]]] = {
    "conditional_detr": conditional_arrays,
    "dab_detr": dab_arrays,
    "sam_detr": sam_arrays,
}

NUMBERS: dict[str, Callable[[Pass], dict[str, float]]] = {
    "dab_detr": side_losses,
}
