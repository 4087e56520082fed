"""What the golden files of one system have that those of another have not.

BUILDERS: the detector of a case, from its JSON facts. OBSERVERS: the arrays that only this system has, read off the
trace of the pass that is compared. NUMBERS: losses that this system's authors log beside those of DETR.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr
from detr_mini.matching import Matches
from detr_mini.recipes import ModelRecipe
from detr_mini.trace import AttentionTrace
from detr_mini.variants.conditional import ConditionalDetr


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


def recorded(trace: AttentionTrace, kind: str, first: int = 0) -> Tensor:
    """What the cross-attention of every layer from `first` on recorded under one name: (L, B, ...)."""
    names = [name for name in trace.records if name.endswith("cross_attention")]
    return torch.stack([getattr(trace[name], kind) for name in sorted(names)[first:]])


def conditional_arrays(seen: Pass) -> dict[str, Tensor]:
    return {
        "reference_points": seen.trace["decoder"].reference[0, :, :10],
        "query_scale_first16": recorded(seen.trace, "place_scale", first=1)[:, 0, 0, :16],
    }


BUILDERS: dict[str, Callable[[dict], Detr]] = {
    "detr": detr,
    "conditional_detr": conditional_detr,
}

OBSERVERS: dict[str, Callable[[Pass], dict[str, Tensor]]] = {
    "conditional_detr": conditional_arrays,
}

NUMBERS: dict[str, Callable[[Pass], dict[str, float]]] = {}
